//! Keeps the host awake while a guest has a card: sleep, idle actions and the lid switch are inhibited.
//!
//! logind gives inhibitors to whoever asks over D-Bus; `systemd-inhibit` asks, and runs a child for as long. The
//! child is `gpuferry card awake`, which does nothing but wait for the end of the process that the inhibitor is for:
//! killed or not, with it the inhibitor goes. A host without logind sleeps as its owner has set it up.

use super::{client::own_path, record};
use crate::{
    error::{Error, Result},
    machine::{Machine, Program, process},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

const INHIBIT: &str = "/usr/bin/systemd-inhibit";

fn folder() -> PathBuf {
    Path::new(record::RUN).join("awake")
}

/// Keeps the host awake for as long as this process runs. False where there is no logind to ask.
pub fn start(machine: &dyn Machine, key: &str, why: &str) -> Result<bool> {
    // logind makes the folder when it starts.
    if !machine.exists(Path::new(INHIBIT)) || !machine.exists(Path::new("/run/systemd/inhibit")) {
        return Ok(false);
    }
    let pid = std::process::id();
    let Some(started) = process::start_time(machine, pid) else { return Ok(false) };
    record::make_folders(machine, &folder())?;
    let program = Program::new(INHIBIT, Duration::MAX)
        .args(["--what=sleep:idle:handle-lid-switch", "--who=gpuferry", "--mode=block"])
        .arg(format!("--why={why}"))
        .arg(own_path(machine)?)
        .args(["card", "awake", key, &pid.to_string(), &started.to_string()]);
    let log = folder().join(format!("{key}.log"));
    machine.start(&program, &log).map(|_| true).map_err(|error| Error::io("start", &program.path, &error))
}

/// What the child of `systemd-inhibit` does: holds a lock, by which others see it, until that process ends.
pub fn keep(machine: &dyn Machine, key: &str, pid: u32, started: u64) -> Result<()> {
    let path = folder().join(format!("{key}.lock"));
    let _lock = machine.lock(&path).map_err(|error| Error::io("lock", &path, &error))?;
    if let Some(mut process) = process::find(machine, pid, started) {
        while process.wait(Duration::from_secs(3600)).is_none() {}
    }
    Ok(())
}

/// Whether the host is kept awake for this.
pub fn is_held(machine: &(impl Machine + ?Sized), key: &str) -> bool {
    let path = folder().join(format!("{key}.lock"));
    machine.exists(&path) && matches!(machine.lock(&path), Ok(None))
}
