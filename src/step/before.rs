//! What was at a path before a step.

use crate::{
    error::{Error, Result},
    journal::sha256,
    machine::{FileKind, Ownership, Root},
};
use serde::{Deserialize, Serialize};
use std::{io, path::Path};

/// What was there before a step acted, as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "was")]
pub enum Before {
    /// Nothing.
    Absent,
    /// A file; its bytes are kept beside the journal.
    File {
        /// Checksum of its bytes.
        sha256: String,
        /// Mode, owner, extended attributes.
        ownership: Ownership,
    },
    /// A folder.
    Folder,
    /// Something that is made from source files, and is made again rather than put back.
    Derived,
}

/// What is at a path now, with the bytes of a file. Refuses links and special files: what they lead to may be
/// somebody else's.
pub fn look(root: &dyn Root, path: &Path) -> Result<(Before, Vec<u8>)> {
    let stat = match root.stat(path) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Before::Absent, Vec::new())),
        Err(error) => return Err(Error::io("read", path, &error)),
    };
    match stat.kind {
        FileKind::Folder => Ok((Before::Folder, Vec::new())),
        FileKind::File => {
            let bytes = root.read(path).map_err(|error| Error::io("read", path, &error))?;
            Ok((Before::File { sha256: sha256(&bytes), ownership: stat.ownership }, bytes))
        }
        FileKind::Link | FileKind::Other => {
            Err(Error::refused(format!("{} is not a plain file", path.display()))
                .detail("gpuferry writes through no link and into no device")
                .hint(format!("ls -l {}", path.display())))
        }
    }
}
