//! [`FileStep`]: one change of what is on the disk, which can say what it does, do it, undo it, and check it.
//!
//! Source files (what people write) are undone byte for byte. Derived ones (what tools make from them) are never
//! put back from a copy: they are made again and checked by reading them. Steps write through [`Machine`] alone;
//! which steps there are is decided by [`crate::plan`].

use super::{
    before::{self, Before},
    derived::Derived,
    write,
};
use crate::{
    error::Result,
    machine::{Machine, Root},
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One change of what is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum FileStep {
    /// Makes a folder that is not there.
    MakeFolder {
        /// Where.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Writes a whole file: a new one, or in the place of another.
    Write {
        /// Where.
        path: PathBuf,
        /// All of it.
        content: String,
        /// Permission bits of a new file; one that is replaced keeps its own, and its owner.
        mode: u32,
    },
    /// Has a tool make a boot file again from its sources.
    Derive(Derived),
}

/// How undoing a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// It is as it was.
    AsBefore,
    /// A folder that we made holds somebody's file by now, and stays.
    FolderKept,
}

impl FileStep {
    /// What it does, in a sentence.
    pub fn describe(&self) -> String {
        match self {
            Self::MakeFolder { path, .. } => format!("make folder {}", path.display()),
            Self::Write { path, .. } => format!("write {}", path.display()),
            Self::Derive(derived) => derived.describe(),
        }
    }

    /// The path of a source file or folder.
    pub fn source(&self) -> Option<&PathBuf> {
        match self {
            Self::MakeFolder { path, .. } | Self::Write { path, .. } => Some(path),
            Self::Derive(_) => None,
        }
    }

    /// What is there now, with the bytes that undoing needs.
    pub fn look(&self, root: &dyn Root) -> Result<(Before, Vec<u8>)> {
        match self {
            Self::MakeFolder { path, .. } | Self::Write { path, .. } => before::look(root, path),
            Self::Derive(_) => Ok((Before::Derived, Vec::new())),
        }
    }

    /// Does it, and returns when it is on the disk.
    pub fn apply(&self, machine: &dyn Machine, before: &Before) -> Result<()> {
        match self {
            Self::MakeFolder { path, mode } => write::make_folder(machine, path, *mode),
            Self::Write { path, content, mode } => write::write(machine, path, content, *mode, before),
            Self::Derive(derived) => derived.make(machine),
        }
    }

    /// Looks whether it holds.
    pub fn verify(&self, root: &dyn Root) -> Result<()> {
        match self {
            Self::MakeFolder { path, .. } => write::verify_folder(root, path),
            Self::Write { path, content, .. } => write::verify(root, path, content),
            Self::Derive(derived) => derived.verify(root),
        }
    }
}
