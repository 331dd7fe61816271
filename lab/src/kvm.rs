//! Whether this machine's KVM can be used. `/dev/kvm` may be there and yet run no stock kernel (nested in some
//! clouds), so the question is answered by booting the small host with it.

use crate::arguments::Accelerator;
use crate::boot::small_host;
use crate::cache;
use crate::machine::Machine;
use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

/// A small host with KVM is up in two seconds.
const LIMIT: Duration = Duration::from_secs(10);

/// What hosts are booted with. `GPUFERRY_LAB_ACCEL` (`kvm` or `tcg`) overrides the trial.
///
/// The answer is kept until this machine reboots.
pub fn accelerator() -> Accelerator {
    static ANSWER: OnceLock<Accelerator> = OnceLock::new();
    *ANSWER.get_or_init(|| match std::env::var("GPUFERRY_LAB_ACCEL").as_deref() {
        Ok("kvm") => Accelerator::Kvm,
        Ok("tcg") => Accelerator::Tcg,
        _ => known_or_tried(),
    })
}

fn known_or_tried() -> Accelerator {
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Accelerator::Tcg;
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let answer = cache::entry("kvm-works", boot, |path| {
        let works = small_host(Machine::bare()).accelerator(Accelerator::Kvm, LIMIT).try_boot().is_ok();
        Ok(fs::write(path, if works { "yes" } else { "no" })?)
    });
    match answer.and_then(|path| Ok(fs::read_to_string(path)?)).as_deref() {
        Ok("yes") => Accelerator::Kvm,
        _ => Accelerator::Tcg,
    }
}
