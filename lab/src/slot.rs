//! How many hosts run at once on this machine, over all processes: as many as it has processors.
//!
//! An emulated host takes a whole processor while it boots. More of them than processors do not finish sooner, they
//! make each other run into the time limits of the systems inside them, which nobody can raise from here.

use crate::cache;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

/// After that long the host is booted all the same: somebody may be looking around in theirs.
const WAIT: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Leave to run one host; given back when dropped, or when the process ends.
#[derive(Debug)]
pub(crate) struct Slot {
    _lock: File,
}

/// Waits until a slot is free; none when that takes too long or locks do not work here.
pub(crate) fn take() -> Option<Slot> {
    // A case with two hosts must be able to run on a machine with one processor.
    let count = thread::available_parallelism().map_or(2, usize::from).max(2);
    let folder = cache::root().ok()?;
    let deadline = Instant::now() + WAIT;
    loop {
        for number in 0..count {
            let file = File::create(folder.join(format!(".slot-{number}"))).ok()?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Some(Slot { _lock: file });
            }
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(LOOK_AGAIN);
    }
}
