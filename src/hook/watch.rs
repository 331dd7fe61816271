//! The watcher of a guest with cards: a unit of its own, which keeps the host awake, outlives hook and daemon, and
//! brings the cards home when nobody else does. It waits for processes, by pidfd, never for a time: a guest that
//! installs its updates is not a failure.
//!
//! libvirt itself calls `release` after the guest's end, also when the daemon was killed and is back; then the
//! watcher finds nothing left to do.

use super::{
    call::request,
    hold::{self, Hold, Stage},
};
use crate::{
    error::{Error, Result, Status},
    handover::{awake, client, request::Way},
    machine::{
        Machine,
        process::{self, Process},
        wait_until,
    },
};
use std::{ffi::OsString, path::PathBuf, time::Duration};

/// How long libvirt's own `release` may take to come after the end of a guest, before the watcher acts in its place.
const RELEASE: Duration = Duration::from_secs(60);
/// How long the VFIO files may take to close after libvirt said that the guest has ended.
const CLOSES: Duration = Duration::from_secs(15);
/// How often a watcher looks whether the record has changed while it waits for a process.
const LOOK: Duration = Duration::from_secs(2);

fn lock_file(uuid: &str) -> Result<PathBuf> {
    hold::file(uuid, "watch")
}

/// Whether a domain's watcher is at work.
pub fn is_watched(machine: &(impl Machine + ?Sized), uuid: &str) -> bool {
    lock_file(uuid).is_ok_and(|path| machine.exists(&path) && matches!(machine.lock(&path), Ok(None)))
}

/// The word by which the host is kept awake for a domain.
pub fn key(uuid: &str) -> String {
    format!("guest-{uuid}")
}

/// Starts the watcher of a domain where there is none.
pub fn start(machine: &dyn Machine, hold: &Hold) -> Result<()> {
    if is_watched(machine, &hold.uuid) {
        return Ok(());
    }
    let words = ["watch", &hold.uuid].map(OsString::from);
    client::start(machine, super::has_systemd(machine), &format!("gpuferry-guest-{}", hold.uuid), &words)
}

/// What the watcher does, from its start to the day when the cards are home.
pub fn work(machine: &dyn Machine, uuid: &str) -> Result<()> {
    let path = lock_file(uuid)?;
    loop {
        let lock = machine.lock(&path).map_err(|error| Error::io("lock", &path, &error))?;
        let Some(lock) = lock else { return Ok(()) };
        let mut awake = false;
        while let Some(hold) = hold::load(machine, uuid)? {
            if !awake {
                // Without it the host sleeps when its owner says so; the cards still come home.
                let _ = awake::start(machine, &key(uuid), &why(&hold));
                awake = true;
            }
            look(machine, &hold)?;
        }
        drop(lock);
        // Who saw the lock held meanwhile has started no other watcher.
        if hold::load(machine, uuid)?.is_none() {
            return Ok(());
        }
    }
}

fn why(hold: &Hold) -> String {
    let cards: Vec<_> = hold.cards.iter().map(|card| card.address.to_string()).collect();
    format!("the guest {} has {}", hold.name, cards.join(", "))
}

/// Waits a while for whoever the cards depend on now, and brings them home where nobody is left.
fn look(machine: &dyn Machine, hold: &Hold) -> Result<()> {
    if let Some(mut process) = awaited(machine, hold) {
        if process.wait(LOOK).is_none() {
            return Ok(());
        }
    }
    // The daemon's own word comes first: it gives its devices free before it says so.
    let same = |now: Hold| (now.stage, now.since_ms) == (hold.stage, hold.since_ms);
    let news = wait_until(machine, RELEASE, || {
        !hold::load(machine, &hold.uuid).is_ok_and(|now| now.is_some_and(same))
    });
    if news || !hold.is_left(machine) { Ok(()) } else { bring_home(machine, hold) }
}

/// The process that the cards depend on: the one on record, else whoever has them.
fn awaited(machine: &dyn Machine, hold: &Hold) -> Option<Box<dyn Process>> {
    let known = match hold.stage {
        Stage::Starting => hold.daemon,
        Stage::Running => hold.qemu,
        Stage::Ended => None,
    };
    let known = known.and_then(|(pid, started)| process::find(machine, pid, started));
    known.or_else(|| machine.process(hold.inside(machine).first()?.pid).ok())
}

/// Brings home what a domain borrowed, and takes it off the record. Waits until
/// nobody has the VFIO files open, and refuses while somebody does.
pub fn bring_home(machine: &dyn Machine, hold: &Hold) -> Result<()> {
    let _homing = hold::wait_for_lock(machine, &hold::file(&hold.uuid, "home")?, 2 * RELEASE)?;
    // Somebody else may have done it while we waited.
    match hold::load(machine, &hold.uuid)? {
        Some(now) if now.since_ms == hold.since_ms => home(machine, &now),
        _ => Ok(()),
    }
}

/// [`bring_home`] by whoever has the lock already.
pub(super) fn home(machine: &dyn Machine, hold: &Hold) -> Result<()> {
    wait_until(machine, CLOSES, || hold.inside(machine).is_empty());
    let mut failure: Option<Error> = None;
    for address in &hold.borrowed {
        // The worker of a hook that was killed goes on: it ends first.
        wait_until(machine, RELEASE, || !client::at_work(machine, *address));
        let request = request(machine, hold, *address, Way::Home, None);
        if let Err(error) = client::carry_out(machine, super::has_systemd(machine), &request) {
            let stays = error.with_status(Status::NotUndone).detail(format!("{address} is not home"));
            failure = Some(match failure {
                None => stays,
                Some(first) => first.detail(stays.message),
            });
        }
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    hold.forget(machine)
}
