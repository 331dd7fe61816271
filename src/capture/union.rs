//! Several trees as one: the first that has a file has it, and a folder has the names of all.

use crate::machine::{Parts, Root, Stat};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

/// Trees, the one that counts most first.
#[allow(missing_debug_implementations, reason = "doors have no look")]
pub struct Union(pub Vec<Box<dyn Root>>);

impl Union {
    /// The first answer that is one; else the first error that is more than "not there".
    fn first<'r, T>(&'r self, ask: impl Fn(&'r dyn Root) -> io::Result<T>) -> io::Result<T> {
        let mut worst: Option<io::Error> = None;
        for root in &self.0 {
            match ask(root.as_ref()) {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    if worst.as_ref().is_none_or(|worst| worst.kind() == io::ErrorKind::NotFound) {
                        worst = Some(error);
                    }
                }
            }
        }
        Err(worst.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }
}

impl Root for Union {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.first(|root| root.read(path))
    }
    fn read_start(&self, path: &Path, length: usize) -> io::Result<Vec<u8>> {
        self.first(|root| root.read_start(path, length))
    }
    fn parts<'r>(&'r self, path: &Path) -> io::Result<Parts<'r>> {
        self.first(|root| root.parts(path))
    }
    #[allow(clippy::redundant_closure_for_method_calls, reason = "lifetimes of trait objects")]
    fn kernel_log(&self) -> io::Result<Vec<u8>> {
        self.first(|root| root.kernel_log())
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let mut names: Option<BTreeSet<OsString>> = None;
        for found in self.0.iter().filter_map(|root| root.list(path).ok()) {
            names.get_or_insert_with(BTreeSet::new).extend(found);
        }
        match names {
            Some(names) => Ok(names.into_iter().collect()),
            None => self.first(|root| root.list(path)),
        }
    }
    fn readlink(&self, path: &Path) -> io::Result<PathBuf> {
        self.first(|root| root.readlink(path))
    }
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.first(|root| root.stat(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tree::{Entry, Tree};

    fn tree(entries: &[(&str, &str)]) -> Box<dyn Root> {
        let mut tree = Tree::default();
        for (path, text) in entries {
            tree.put(Path::new(path), Entry::File((*text).into())).unwrap();
        }
        Box::new(tree)
    }

    #[test]
    fn the_first_has_it_and_folders_have_all() {
        let union = Union(vec![tree(&[("/a/x", "1"), ("/a/y", "2")]), tree(&[("/a/x", "3"), ("/a/z", "4")])]);
        let text = |path: &str| union.text(Path::new(path)).unwrap();
        assert_eq!((text("/a/x").as_str(), text("/a/z").as_str()), ("1", "4"));
        assert_eq!(union.list(Path::new("/a")).unwrap(), ["x", "y", "z"]);
        assert_eq!(union.read(Path::new("/b")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(union.kernel_log().is_err());
    }
}
