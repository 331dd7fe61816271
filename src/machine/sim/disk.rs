//! Files, and what of them a power cut takes back.
//!
//! What was written is seen at once, and is on the disk only after an fsync of the file and of its folder; a power
//! cut keeps any part of the rest, chosen by a seed. What is below /run lies in memory: a power cut takes all of it.

use super::Random;
use crate::machine::{FileKind, Ownership};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) kind: FileKind,
    pub(super) bytes: Vec<u8>,
    /// What of the bytes a power cut leaves for sure.
    pub(super) on_disk: Vec<u8>,
    pub(super) ownership: Ownership,
}

/// A change of names that is not on the disk yet.
#[derive(Debug, Clone)]
struct Pending {
    folder: PathBuf,
    changes: Vec<(PathBuf, Option<usize>)>,
}

/// Names and what they name, on the disk and in memory.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(super) inodes: Vec<Inode>,
    pub(super) names: BTreeMap<PathBuf, usize>,
    kept: BTreeMap<PathBuf, usize>,
    pending: Vec<Pending>,
    random: Random,
    /// Bytes free on the one filesystem.
    pub(crate) free: u64,
    /// Mounted read-only.
    pub(crate) read_only: bool,
}

pub(super) fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

pub(super) fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

impl Disk {
    pub(super) fn new(seed: u64) -> Self {
        let root = Inode {
            kind: FileKind::Folder,
            bytes: vec![],
            on_disk: vec![],
            ownership: Ownership::root(0o755),
        };
        let names = BTreeMap::from([(PathBuf::from("/"), 0)]);
        Self {
            inodes: vec![root],
            kept: names.clone(),
            names,
            pending: Vec::new(),
            random: Random::new(seed),
            free: 1 << 30,
            read_only: false,
        }
    }

    /// Brings everything to the disk: what is there now was there all along.
    pub(super) fn settle(&mut self) {
        self.pending.clear();
        self.kept = self.names.clone();
        for inode in &mut self.inodes {
            inode.on_disk.clone_from(&inode.bytes);
        }
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<&Inode> {
        self.names.get(path).map(|inode| &self.inodes[*inode]).ok_or_else(|| errno(2))
    }

    /// What is below /run is on no disk.
    pub(super) fn check_writable(&self, path: &Path) -> io::Result<()> {
        if self.read_only && !path.starts_with("/run") { Err(errno(30)) } else { Ok(()) }
    }

    pub(super) fn check_parent(&self, path: &Path) -> io::Result<()> {
        match self.find(&parent(path)) {
            Ok(inode) if inode.kind == FileKind::Folder => Ok(()),
            _ => Err(errno(2)),
        }
    }

    pub(super) fn rename_entries(&mut self, folder: PathBuf, changes: Vec<(PathBuf, Option<usize>)>) {
        apply(&mut self.names, &changes);
        self.pending.push(Pending { folder, changes });
    }

    pub(super) fn add(
        &mut self,
        path: &Path,
        kind: FileKind,
        bytes: &[u8],
        on_disk: &[u8],
        ownership: Ownership,
    ) {
        let inode = Inode { kind, bytes: bytes.to_vec(), on_disk: on_disk.to_vec(), ownership };
        self.inodes.push(inode);
        let change = (path.to_owned(), Some(self.inodes.len() - 1));
        self.rename_entries(parent(path), vec![change]);
    }

    pub(super) fn create(
        &mut self,
        path: &Path,
        bytes: &[u8],
        ownership: &Ownership,
        torn: bool,
    ) -> io::Result<()> {
        self.check_writable(path)?;
        self.check_parent(path)?;
        if self.names.contains_key(path) {
            return Err(errno(17));
        }
        if (bytes.len() as u64) > self.free {
            return Err(errno(28));
        }
        let kept = if torn { self.random.below(bytes.len() as u64 + 1) } else { bytes.len() as u64 };
        let kept = bytes.get(..usize::try_from(kept).unwrap_or(0)).unwrap_or(bytes);
        self.add(path, FileKind::File, bytes, kept, ownership.clone());
        Ok(())
    }

    pub(super) fn append(&mut self, path: &Path, bytes: &[u8], torn: bool) -> io::Result<()> {
        self.check_writable(path)?;
        if !self.names.contains_key(path) {
            self.create(path, b"", &Ownership::root(0o600), false)?;
        }
        let kept = if torn { self.random.below(bytes.len() as u64 + 1) } else { bytes.len() as u64 };
        let kept = bytes.get(..usize::try_from(kept).unwrap_or(0)).unwrap_or(bytes);
        let inode = &mut self.inodes[self.names[path]];
        inode.on_disk.clone_from(&inode.bytes);
        inode.on_disk.extend(kept);
        inode.bytes.extend(bytes);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.check_writable(to)?;
        let inode = *self.names.get(from).ok_or_else(|| errno(2))?;
        self.check_parent(to)?;
        assert_eq!(parent(from), parent(to), "only renames within a folder are simulated");
        self.rename_entries(parent(to), vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]);
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let folder = self.find(path)?.kind == FileKind::Folder;
        self.check_writable(path)?;
        if folder {
            return Err(errno(21));
        }
        self.rename_entries(parent(path), vec![(path.to_owned(), None)]);
        Ok(())
    }

    pub(super) fn remove_folder(&mut self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        if self.names.keys().any(|name| name.parent() == Some(path)) {
            return Err(errno(39));
        }
        self.rename_entries(parent(path), vec![(path.to_owned(), None)]);
        Ok(())
    }

    pub(super) fn sync_file(&mut self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        let inode = &mut self.inodes[self.names[path]];
        inode.on_disk.clone_from(&inode.bytes);
        Ok(())
    }

    pub(super) fn sync_folder(&mut self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        for pending in std::mem::take(&mut self.pending) {
            if pending.folder == path {
                apply(&mut self.kept, &pending.changes);
            } else {
                self.pending.push(pending);
            }
        }
        Ok(())
    }

    /// Any part of what was not on the disk is lost.
    pub(super) fn cut_power(&mut self) {
        let mut names = std::mem::take(&mut self.kept);
        for pending in std::mem::take(&mut self.pending) {
            if self.random.coin() {
                apply(&mut names, &pending.changes);
            }
        }
        // What hangs in no folder any more is gone.
        let all = names.clone();
        names.retain(|path, _| path.ancestors().skip(1).all(|folder| all.contains_key(folder)));
        for inode in &mut self.inodes {
            if inode.bytes != inode.on_disk {
                let length = usize::try_from(self.random.below(inode.bytes.len() as u64 + 1)).unwrap_or(0);
                inode.bytes = match self.random.below(3) {
                    0 => inode.on_disk.clone(),
                    1 if inode.bytes.starts_with(&inode.on_disk) => {
                        inode.bytes[..length.max(inode.on_disk.len())].to_vec()
                    }
                    1 => inode.bytes[..length].to_vec(),
                    _ => inode.bytes.clone(),
                };
                inode.on_disk.clone_from(&inode.bytes);
            }
        }
        names.retain(|path, _| !path.starts_with("/run") || path.as_os_str() == "/run");
        self.names.clone_from(&names);
        self.kept = names;
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, changes: &[(PathBuf, Option<usize>)]) {
    for (path, inode) in changes {
        match inode {
            Some(inode) => names.insert(path.clone(), *inode),
            None => names.remove(path),
        };
    }
}
