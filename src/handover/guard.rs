//! The last resort, by the owner's word only: a write that has hung for too long ends with a reboot of the host.
//!
//! A process of its own beside the worker, which is the one that hangs. It writes to no device; it asks the kernel to
//! write its disks and to start again, by sysrq, since a shutdown would wait for the write as everything else does
//! (Documentation/admin-guide/sysrq.rst).

use super::{
    client,
    record::{self, Event, Recorder, millis},
    request::Request,
    snapshot::key,
};
use crate::{
    error::{Error, Result},
    host::log,
    machine::{Machine, wait_until},
    pci::Address,
};
use std::{ffi::OsString, path::Path, time::Duration};

/// How long disks may take to be written.
const SYNC: Duration = Duration::from_secs(20);

/// Starts it for a request whose owner wants it. `after`: how long a write may hang.
pub fn start(machine: &dyn Machine, request: &Request, after: u64) -> Result<()> {
    let systemd = machine.exists(Path::new("/run/systemd/system"));
    let unit = format!("gpuferry-guard-{}-{}", key(request.address), request.op);
    let address = request.address.to_string();
    let words = ["guard", &address, "--op", &request.op, "--after", &after.to_string()].map(OsString::from);
    client::start(machine, systemd, &unit, &words)
}

/// Watches an operation to its end, and reboots the host if one of its writes hangs for longer than `after`.
pub fn watch(machine: &dyn Machine, address: Address, op: &str, after: Duration) -> Result<()> {
    let folder = record::folder(address);
    let mut hung = None;
    wait_until(machine, Duration::MAX, || {
        let mut lines = record::lines(machine, &folder.join("events"));
        lines.retain(|line| line.op == op);
        let ended = record::end_of(&lines, op).is_some() || !client::at_work(machine, address);
        let limit = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let since = |write: &record::InFlight| millis(machine.now()).saturating_sub(write.since_ms);
        hung = record::in_flight(&lines).filter(|write| !ended && since(write) > limit);
        ended || hung.is_some()
    });
    let Some(write) = hung else { return Ok(()) };
    let text = format!(
        "`{}` to {} has hung for {} s: the host reboots, as its owner has said",
        write.value.trim(),
        write.path,
        after.as_secs()
    );
    // On disk before the reboot; that it cannot be written does not hold the reboot up.
    let _ = Recorder::open(machine, &folder, op).and_then(|recorder| recorder.say(Event::Note { text }));
    reboot(machine)
}

fn reboot(machine: &dyn Machine) -> Result<()> {
    let trigger = Path::new("/proc/sysrq-trigger");
    let ask = |letter: &str| {
        machine.write_attribute(trigger, letter).map_err(|error| Error::io("write", trigger, &error))
    };
    // fs/sync.c, `do_sync_work`: what it says when all is written. sync(2) would wait for a disk that hangs as well.
    ask("s")?;
    let synced = || {
        let log = log::kernel(&machine).unwrap_or_default();
        log.lines.iter().any(|line| line.contains("Emergency Sync complete"))
    };
    wait_until(machine, SYNC, synced);
    ask("b")
}
