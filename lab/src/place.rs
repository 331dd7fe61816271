//! Where one host's things lie on this machine: logs, disk, shared folder, sockets.
//!
//! The folder goes away with the host, except when the case failed or `GPUFERRY_LAB_KEEP` is set.

use crate::cache;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// What a failed case left is kept for so long.
const KEPT_FOR: Duration = Duration::from_secs(3 * 24 * 3600);

/// One host's folders.
#[derive(Debug)]
pub(crate) struct Place {
    folder: PathBuf,
    /// Sockets have a folder of their own, because their paths may only be 107 bytes long (unix(7)).
    sockets: TempDir,
    pub(crate) keep: bool,
}

impl Place {
    /// A fresh place, named after the case (the test harness names its threads so).
    pub(crate) fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let runs = cache::root()?.join("runs");
        forget_old(&runs);
        let case = std::thread::current().name().unwrap_or("case").replace("::", ".").replace('/', "_");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = runs.join(format!("{case}-{}-{count}", std::process::id()));
        // Left by a process that had the same number.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("share"))
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let sockets = tempfile::Builder::new().prefix("gpuferry-lab-").tempdir_in("/tmp")?;
        Ok(Self { folder, sockets, keep: std::env::var_os("GPUFERRY_LAB_KEEP").is_some() })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn share(&self) -> PathBuf {
        self.folder.join("share")
    }

    pub(crate) fn sockets(&self) -> &Path {
        self.sockets.path()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn forget_old(runs: &Path) {
    let Ok(entries) = fs::read_dir(runs) else { return };
    for entry in entries.flatten() {
        let age = entry.metadata().and_then(|meta| meta.modified()).ok();
        let age = age.and_then(|time| SystemTime::now().duration_since(time).ok());
        if age.is_some_and(|age| age > KEPT_FOR) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
