//! What takes too long for every run: `make soak` sets `GPUFERRY_SOAK`, and then it is run.

use std::io::Write;

/// Whether this case, or what comes next in it, is left to `make soak`, and not run now; said on standard error, past the test harness, which
/// shows nothing of a case that does not fail.
///
/// ```no_run
/// # fn case() {
/// if lab::left_to_soak() {
///     return;
/// }
/// # }
/// ```
pub fn left_to_soak() -> bool {
    let left = std::env::var_os("GPUFERRY_SOAK").is_none();
    if left {
        let case = std::thread::current().name().unwrap_or("a case").to_owned();
        let _ = writeln!(std::io::stderr(), "lab: of {case}, what is left to `make soak` was NOT run");
    }
    left
}
