//! What gpuferry has done to the files of a machine, written ahead, and how it is undone.
//!
//! Everything lies in `/var/lib/gpuferry`, which only root can read:
//!
//! ```text
//! lock               held while a change is made or undone
//! tools.lock         held by initramfs and boot loader tools while they run, also when we were killed
//! changes/0001/      one change
//!   plan.json        what was planned: goal, digest, steps
//!   journal          JSON lines, appended and brought to the disk one by one
//!   before/03        the file that step 3 replaced
//! ```
//!
//! A step is begun in the journal (with what was there before) before it acts, and done after. Killed or cut off
//! anywhere, the journal tells which steps may have acted; each is undone by looking at what is there now, so
//! undoing twice does no harm. A change without a journal has changed nothing.

pub mod record;
pub mod run;

use crate::{
    error::{Error, Result},
    machine::{FileKind, Machine},
};
use std::{path::Path, time::Duration};

/// The state folder.
pub const STATE: &str = "/var/lib/gpuferry";

/// SHA-256 of some bytes, in lower-case hex digits.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
        text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
        text
    })
}

/// Milliseconds, as records have them.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Makes the state folder where it is missing, and refuses one that others can write to.
pub fn make_state_folder(machine: &dyn Machine) -> Result<()> {
    let path = Path::new(STATE);
    match machine.stat(path) {
        Ok(stat) if stat.kind != FileKind::Folder => {
            Err(Error::refused(format!("{STATE} is not a folder")).hint(format!("ls -ld {STATE}")))
        }
        Ok(stat) if stat.ownership.mode & 0o022 != 0 => {
            Err(Error::refused(format!("{STATE} can be written to by others than its owner"))
                .detail("what stands there decides what is written as root")
                .hint(format!("chmod 0700 {STATE}")))
        }
        Ok(_) => Ok(()),
        Err(_) => {
            machine.make_folder(path, 0o700).map_err(|error| Error::io("create", path, &error))?;
            let parent = Path::new("/var/lib");
            machine.sync_folder(parent).map_err(|error| Error::io("write", parent, &error))
        }
    }
}

#[cfg(test)]
mod tests;
