//! A door that remembers all that was asked of it and what came back: what a capture is made of.
//!
//! Changes no answer, but gives the first one again where the same is asked twice: what is seen is one moment, as
//! far as there is one. Paths are kept as the machine has them, links resolved, so that what comes out is a tree.

use crate::machine::{Root, Stat};
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashSet},
    ffi::OsString,
    io,
    path::{Component, Path, PathBuf},
};

/// Links on the way to one file, as in the kernel.
const MAX_LINKS: usize = 40;

/// The largest file that is remembered; images of kernels are larger and of no use elsewhere.
const MAX_FILE: usize = 16 << 20;

/// Parts of files are remembered in steps of so many bytes: conventional config space is one.
const STEP: usize = 256;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// A folder, and its names where they were listed.
    Folder(Option<Vec<OsString>>),
    /// A file; its start, where no more was asked for.
    File {
        /// The bytes.
        bytes: Vec<u8>,
        /// Whether these are all.
        whole: bool,
    },
    /// A link and its target.
    Link(PathBuf),
    /// The number of the error that the kernel gave.
    Closed(i32),
    /// A file that is too large to be remembered.
    TooLarge,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// By the path on the machine.
    pub held: BTreeMap<PathBuf, Held>,
    /// What looks at paths told.
    pub stats: BTreeMap<PathBuf, Stat>,
    /// Paths that are no links.
    plain: HashSet<PathBuf>,
}

/// A door with a memory.
#[allow(missing_debug_implementations, reason = "doors have no look")]
pub struct Recorder<'r> {
    root: &'r dyn Root,
    seen: RefCell<Seen>,
}

impl<'r> Recorder<'r> {
    /// A door before another.
    pub fn new(root: &'r dyn Root) -> Self {
        Self { root, seen: RefCell::default() }
    }

    /// What was seen through it.
    pub fn seen(self) -> Seen {
        self.seen.into_inner()
    }

    /// The path with its links resolved, the last one only where that is asked for.
    fn place(&self, path: &Path, follow: bool) -> PathBuf {
        let mut left: Vec<OsString> = parts(path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = left.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            at.push(part);
            if (left.is_empty() && !follow) || links >= MAX_LINKS {
                continue;
            }
            if let Some(target) = self.target(&at) {
                links += 1;
                at.pop();
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                left.extend(parts(&target));
            }
        }
        at
    }

    fn target(&self, path: &Path) -> Option<PathBuf> {
        let mut seen = self.seen.borrow_mut();
        if let Some(Held::Link(target)) = seen.held.get(path) {
            return Some(target.clone());
        }
        if seen.plain.contains(path) {
            return None;
        }
        let Ok(target) = self.root.readlink(path) else {
            seen.plain.insert(path.to_owned());
            return None;
        };
        seen.held.insert(path.to_owned(), Held::Link(target.clone()));
        Some(target)
    }

    /// Notes an error that says more than that there is nothing.
    fn closed<T>(&self, place: PathBuf, result: &io::Result<T>) {
        let Err(error) = result else { return };
        let errno = match (error.raw_os_error(), error.kind()) {
            (_, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory) => {
                return;
            }
            (Some(errno), _) => errno,
            (None, io::ErrorKind::TimedOut) => rustix::io::Errno::TIMEDOUT.raw_os_error(),
            (None, io::ErrorKind::PermissionDenied) => rustix::io::Errno::ACCESS.raw_os_error(),
            (None, _) => rustix::io::Errno::IO.raw_os_error(),
        };
        self.seen.borrow_mut().held.entry(place).or_insert(Held::Closed(errno));
    }

    fn keep(&self, place: PathBuf, bytes: &[u8], whole: bool) {
        let held =
            if bytes.len() > MAX_FILE { Held::TooLarge } else { Held::File { bytes: bytes.to_vec(), whole } };
        self.seen.borrow_mut().held.insert(place, held);
    }

    /// What a place is known to hold, if that answers a question for so many bytes.
    fn known(&self, place: &Path, length: Option<usize>) -> Option<Vec<u8>> {
        match self.seen.borrow().held.get(place) {
            Some(Held::File { bytes, whole })
                if *whole || length.is_some_and(|length| length <= bytes.len()) =>
            {
                Some(length.and_then(|length| bytes.get(..length)).unwrap_or(bytes).to_vec())
            }
            _ => None,
        }
    }
}

fn parts(path: &Path) -> Vec<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().rev().filter_map(part).collect()
}

impl Root for Recorder<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let place = self.place(path, true);
        if let Some(known) = self.known(&place, None) {
            return Ok(known);
        }
        let result = self.root.read(path);
        match &result {
            Ok(bytes) => self.keep(place, bytes, true),
            Err(_) => self.closed(place, &result),
        }
        result
    }

    fn read_start(&self, path: &Path, length: usize) -> io::Result<Vec<u8>> {
        let place = self.place(path, true);
        if let Some(known) = self.known(&place, Some(length)) {
            return Ok(known);
        }
        let result = self.root.read_start(path, length);
        match &result {
            Ok(bytes) => self.keep(place, bytes, bytes.len() < length),
            Err(_) => self.closed(place, &result),
        }
        result
    }

    /// From the start on, so that what is remembered has no holes; in steps, so that it is not read over and over.
    fn read_at(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = offset.saturating_add(length);
        let mut bytes = self.read_start(path, end.checked_next_multiple_of(STEP).unwrap_or(end))?;
        bytes.truncate(end);
        Ok(if offset < bytes.len() { bytes.split_off(offset) } else { Vec::new() })
    }

    fn may_hang(&self) -> bool {
        self.root.may_hang()
    }

    fn read_apart(&self, paths: &[PathBuf]) -> Vec<io::Result<Vec<u8>>> {
        let results = self.root.read_apart(paths);
        for (path, result) in paths.iter().zip(&results) {
            let place = self.place(path, true);
            match result {
                Ok(bytes) => self.keep(place, bytes, true),
                Err(_) => self.closed(place, result),
            }
        }
        results
    }

    fn kernel_log(&self) -> io::Result<Vec<u8>> {
        let place = PathBuf::from("/dev/kmsg");
        if let Some(known) = self.known(&place, None) {
            return Ok(known);
        }
        let result = self.root.kernel_log();
        match &result {
            Ok(bytes) => self.keep(place, bytes, true),
            Err(_) => self.closed(place, &result),
        }
        result
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let place = self.place(path, true);
        if let Some(Held::Folder(Some(names))) = self.seen.borrow().held.get(&place) {
            return Ok(names.clone());
        }
        let result = self.root.list(path);
        match &result {
            Ok(names) => {
                self.seen.borrow_mut().held.insert(place, Held::Folder(Some(names.clone())));
            }
            Err(_) => self.closed(place, &result),
        }
        result
    }

    fn readlink(&self, path: &Path) -> io::Result<PathBuf> {
        let place = self.place(path, false);
        if let Some(Held::Link(target)) = self.seen.borrow().held.get(&place) {
            return Ok(target.clone());
        }
        let result = self.root.readlink(path);
        match &result {
            Ok(target) => {
                self.seen.borrow_mut().held.insert(place, Held::Link(target.clone()));
            }
            // What is no link says so by itself.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            Err(_) => self.closed(place, &result),
        }
        result
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let place = self.place(path, false);
        if let Some(stat) = self.seen.borrow().stats.get(&place) {
            return Ok(stat.clone());
        }
        let result = self.root.stat(path);
        if let Ok(stat) = &result {
            self.seen.borrow_mut().stats.insert(place, stat.clone());
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tree::{Entry, Tree};

    #[test]
    fn what_was_asked_is_remembered_where_it_is() {
        let mut tree = Tree::default();
        let mut put = |path: &str, entry| tree.put(Path::new(path), entry).unwrap();
        put("/sys/devices/a/class", Entry::File(b"0x030000\n".to_vec()));
        put("/sys/devices/a/config", Entry::File(vec![7; 256]));
        put("/sys/devices/a/closed", Entry::Closed(13));
        put("/sys/bus/a", Entry::Link("../devices/a".into()));
        let recorder = Recorder::new(&tree);
        let at = |path: &str| PathBuf::from(path);
        assert_eq!(recorder.text(&at("/sys/bus/a/class")).unwrap(), "0x030000");
        assert_eq!(recorder.read_start(&at("/sys/bus/a/config"), 16).unwrap().len(), 16);
        assert_eq!(recorder.read_start(&at("/sys/bus/a/config"), 64).unwrap().len(), 64);
        assert_eq!(recorder.read_start(&at("/sys/bus/a/config"), 8).unwrap().len(), 8);
        assert!(recorder.read(&at("/sys/bus/a/closed")).is_err());
        assert!(recorder.read(&at("/sys/bus/a/none")).is_err());
        assert_eq!(recorder.list(&at("/sys/bus/a")).unwrap().len(), 3);
        assert!(recorder.exists(&at("/sys/bus/a")));
        let seen = recorder.seen();
        assert_eq!(seen.held[&at("/sys/bus/a")], Held::Link("../devices/a".into()));
        assert!(
            matches!(&seen.held[&at("/sys/devices/a/config")], Held::File { bytes, whole: false } if bytes.len() == 64)
        );
        assert_eq!(seen.held[&at("/sys/devices/a/closed")], Held::Closed(13));
        assert!(!seen.held.contains_key(&at("/sys/devices/a/none")));
        assert!(seen.stats.contains_key(&at("/sys/bus/a")));
    }
}
