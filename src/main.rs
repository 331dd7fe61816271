//! The `gpuferry` command: everything is in the library.
fn main() {
    std::process::exit(gpuferry::cli::main(std::env::args_os()) as i32)
}
