//! The last resort, by the owner's word only: a write that hangs for good ends with a reboot of the host.
//!
//! A process of its own beside the worker, which is the one that hangs; it ends with it. It writes to no device: it asks
//! the kernel to write its disks and to start again, by sysrq, since a shutdown would wait for the write as everything
//! else does (Documentation/admin-guide/sysrq.rst).
//!
//! It may be wrong only towards not rebooting. Programs have deadlines of their own and do not count. Time counts only
//! while it is seen to pass with one and the same write under way: a clock that is set, or a machine that slept,
//! makes nothing older.

use super::{
    client,
    record::{self, Event, InFlight, Recorder},
    request::Request,
    snapshot::key,
};
use crate::{
    error::{Error, Result},
    host::log,
    machine::{Machine, process, wait_until},
    pci::Address,
};
use std::{ffi::OsString, path::Path, time::Duration};

const TRIGGER: &str = "/proc/sysrq-trigger";
/// How often it looks.
const LOOK: Duration = Duration::from_millis(500);
/// How long disks may take to be written.
const SYNC: Duration = Duration::from_secs(20);

/// Starts it for this process. A write hangs for too long once it has, for `after` beyond what one may take.
pub fn start(machine: &dyn Machine, request: &Request, after: u64) -> Result<()> {
    if !machine.exists(Path::new(TRIGGER)) {
        return Err(Error::failed("this kernel cannot be told to reboot: it has no sysrq")
            .hint("go without --reboot-when-hung"));
    }
    let pid = std::process::id();
    let Some(started) = process::start_time(machine, pid) else { return Ok(()) };
    let systemd = machine.exists(Path::new("/run/systemd/system"));
    // A worker that is started again starts its own, while the first one's may not be gone yet.
    let unit = format!("gpuferry-guard-{}-{}-{pid}", key(request.address), request.op);
    let after = after + request.limit.as_secs();
    let words = [request.address.to_string(), pid.to_string(), started.to_string(), after.to_string()];
    let words: Vec<OsString> = ["guard".to_owned()].into_iter().chain(words).map(OsString::from).collect();
    client::start(machine, systemd, &unit, &words)
}

/// For how long one and the same write has been seen under way.
#[derive(Debug, Default)]
struct Patience {
    write: Option<InFlight>,
    seen: Duration,
}

impl Patience {
    /// A look, and what has passed since the last one.
    fn look(&mut self, now: Option<InFlight>, passed: Duration) -> Duration {
        let now = now.filter(|write| write.path.starts_with("/sys/"));
        self.seen = if now.is_some() && now == self.write {
            self.seen + passed.min(LOOK * 2)
        } else {
            Duration::ZERO
        };
        self.write = now;
        self.seen
    }
}

/// Watches a worker to its end, and reboots the host if one of its writes hangs for longer than `after`.
pub fn watch(machine: &dyn Machine, address: Address, pid: u32, started: u64, after: Duration) -> Result<()> {
    let Some(mut worker) = process::find(machine, pid, started) else { return Ok(()) };
    let events = record::folder(address).join("events");
    let writing = || record::in_flight(&record::lines(machine, &events));
    let (mut patience, mut last) = (Patience::default(), machine.uptime());
    while worker.wait(LOOK).is_none() {
        let now = machine.uptime();
        let seen = patience.look(writing(), now.saturating_sub(last));
        last = now;
        if let Some(write) = patience.write.clone().filter(|_| seen > after) {
            reboot(machine, address, &write, || writing().as_ref() == Some(&write))?;
        }
    }
    Ok(())
}

/// `hangs`: whether it still does. It is looked at until the last moment.
fn reboot(machine: &dyn Machine, address: Address, write: &InFlight, hangs: impl Fn() -> bool) -> Result<()> {
    let trigger = Path::new(TRIGGER);
    let ask = |letter: &str| {
        machine.write_attribute(trigger, letter).map_err(|error| Error::io("write", trigger, &error))
    };
    // fs/sync.c, `do_sync_work`, says so when it has asked every disk.
    let synced = || {
        let log = log::kernel(&machine).unwrap_or_default();
        log.lines.iter().filter(|line| line.contains("Emergency Sync complete")).count()
    };
    let before = synced();
    ask("s")?;
    let mut done = false;
    wait_until(machine, SYNC, || {
        done = synced() > before;
        done || !hangs()
    });
    // Not on a disk that hangs itself: that would hold up the reboot.
    if done && hangs() {
        let text = format!(
            "`{}` to {} hangs: the host reboots, as its owner has said",
            write.value.trim(),
            write.path
        );
        let lines = record::lines(machine, &record::folder(address).join("events"));
        let op = lines.last().map(|line| line.op.clone()).unwrap_or_default();
        let recorder = Recorder::open(machine, &record::folder(address), &op);
        let _ = recorder.and_then(|recorder| recorder.say(Event::Reboot { text }));
    }
    if hangs() { ask("b") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &str, since_ms: u64) -> InFlight {
        InFlight { path: path.into(), value: "0000:01:00.0".into(), since_ms }
    }

    #[test]
    fn only_one_write_that_is_seen_to_last_counts() {
        let unbind = || write("/sys/bus/pci/drivers/nvidia/unbind", 1);
        let mut patience = Patience::default();
        assert_eq!(patience.look(Some(unbind()), LOOK), Duration::ZERO, "it may have begun just now");
        for looks in 1..40 {
            assert_eq!(patience.look(Some(unbind()), LOOK), LOOK * looks);
        }
        // The machine slept, or the clock was set: what is not seen does not count.
        assert_eq!(patience.look(Some(unbind()), Duration::from_secs(86_400)), LOOK * 41);
        // It has ended, and another one of the same words began.
        assert_eq!(patience.look(Some(write("/sys/bus/pci/drivers/nvidia/unbind", 2)), LOOK), Duration::ZERO);
        assert_eq!(patience.look(None, LOOK), Duration::ZERO);
        // A program that stops a unit takes as long as the unit does.
        for _ in 0..400 {
            assert_eq!(patience.look(Some(write("/usr/bin/systemctl", 3)), LOOK), Duration::ZERO);
        }
    }
}
