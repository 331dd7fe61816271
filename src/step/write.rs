//! Source files: written whole and at once, undone byte for byte, never over somebody's later edit.

use super::{Undone, before::Before, before::look};
use crate::{
    error::{Error, Result},
    machine::{Machine, Ownership, Root},
};
use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

/// Where a file is written before it is renamed into its place. Folders that tools read leave names with a leading
/// dot out: the shell's `*` does (grub-mkconfig, initramfs-tools' hooks), and mkinitramfs prunes them by name.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = OsString::from(".gpuferry-new.");
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn sync_parent(machine: &dyn Machine, path: &Path) -> Result<()> {
    machine.sync_folder(parent(path)).map_err(|error| Error::io("write", parent(path), &error))
}

/// Removes a file that may be gone already.
pub fn remove_if_there(machine: &dyn Machine, path: &Path) -> Result<bool> {
    match machine.remove(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // A read-only filesystem says so even of what is not there.
        Err(_) if !machine.exists(path) => Ok(false),
        Err(error) => Err(Error::io("remove", path, &error)),
    }
}

/// Puts bytes in the place of whatever file is at a path: at every moment the old file or the new one is there.
pub fn replace(machine: &dyn Machine, path: &Path, bytes: &[u8], ownership: &Ownership) -> Result<()> {
    let new = temporary(path);
    remove_if_there(machine, &new)?;
    machine.create(&new, bytes, ownership).map_err(|error| Error::io("write", path, &error))?;
    if let Err(error) = machine.rename(&new, path) {
        // What failed is told; a second failure would only hide it.
        let _ = machine.remove(&new);
        return Err(Error::io("write", path, &error));
    }
    sync_parent(machine, path)
}

pub(super) fn make_folder(machine: &dyn Machine, path: &Path, mode: u32) -> Result<()> {
    machine.make_folder(path, mode).map_err(|error| Error::io("create", path, &error))?;
    sync_parent(machine, path)
}

pub(super) fn write(
    machine: &dyn Machine,
    path: &Path,
    content: &str,
    mode: u32,
    before: &Before,
) -> Result<()> {
    let ownership = match before {
        Before::File { ownership, .. } => ownership.clone(),
        Before::Absent | Before::Folder | Before::Derived => Ownership::root(mode),
    };
    replace(machine, path, content.as_bytes(), &ownership)
}

pub(super) fn verify_folder(root: &dyn Root, path: &Path) -> Result<()> {
    match look(root, path)?.0 {
        Before::Folder => Ok(()),
        _ => Err(Error::failed(format!("{} is not a folder", path.display()))),
    }
}

pub(super) fn verify(root: &dyn Root, path: &Path, content: &str) -> Result<()> {
    let (_, bytes) = look(root, path)?;
    if bytes == content.as_bytes() {
        Ok(())
    } else {
        Err(Error::failed(format!("{} does not hold what was written to it", path.display())))
    }
}

/// Brings the folder that holds a path to the disk, also where nothing had to be changed in it: what we see may be
/// an undoing that was cut off before it reached the disk.
fn settle(machine: &dyn Machine, path: &Path) -> Result<()> {
    if machine.exists(parent(path)) { sync_parent(machine, path) } else { Ok(()) }
}

/// Undoes a folder that was made: removes it where nobody has put anything into it.
pub fn undo_folder(machine: &dyn Machine, path: &Path, before: &Before) -> Result<Undone> {
    if *before == Before::Absent && machine.exists(path) {
        let names = machine.list(path).map_err(|error| Error::io("read", path, &error))?;
        if !names.is_empty() {
            return Ok(Undone::FolderKept);
        }
        machine.remove_folder(path).map_err(|error| Error::io("remove", path, &error))?;
    }
    settle(machine, path)?;
    Ok(Undone::AsBefore)
}

/// Three versions of a file that somebody changed after us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    /// The file.
    pub path: PathBuf,
    /// Before gpuferry; `None` where there was none.
    pub before: Option<String>,
    /// As gpuferry wrote it.
    pub ours: String,
    /// As it is now; `None` where it is gone.
    pub now: Option<String>,
}

/// Undoes a file that was written. `kept` gives the bytes that were there before.
pub fn undo(
    machine: &dyn Machine,
    path: &Path,
    before: &Before,
    kept: impl FnOnce(&str) -> Result<Vec<u8>>,
) -> Result<Undone> {
    remove_if_there(machine, &temporary(path))?;
    match before {
        Before::File { sha256: was, ownership } => {
            if look(&machine, path)?.0 != *before {
                replace(machine, path, &kept(was)?, ownership)?;
            }
        }
        Before::Absent | Before::Folder | Before::Derived => {
            remove_if_there(machine, path)?;
        }
    }
    settle(machine, path)?;
    Ok(Undone::AsBefore)
}
