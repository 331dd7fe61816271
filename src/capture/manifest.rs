//! What a capture says of itself, and what has no place among files: names of what was not read, errors, sizes.

use crate::{
    error::{Error, Result},
    machine::{
        FileKind, Ownership, Root, Stat,
        tree::{Entry, Tree},
    },
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Its place in the archive.
pub const NAME: &str = "gpuferry-capture.json";

/// The version of its form; fields are only ever added within one.
pub const SCHEMA: u32 = 1;

/// Names that all folders together may have: a server of 10,000 functions has a third of it.
const MAX_NAMES: usize = 1_500_000;

/// What went in, what was left out, and the rest of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this form.
    pub schema: u32,
    /// The program that made it.
    pub gpuferry: String,
    /// Whether personal data was left in, because that was asked for.
    pub personal_data: bool,
    /// What went in, by the first two folders of its path.
    pub went_in: Vec<Part>,
    /// What was replaced or taken out, and how often.
    pub left_out: Vec<LeftOut>,
    /// Fields of `inspect --json` that are not as on the machine because of that.
    pub fields: Vec<String>,
    /// Lists of names, each kept once.
    #[serde(default)]
    pub name_lists: Vec<Vec<String>>,
    /// Folders whose names are known, with the place of their list.
    #[serde(default)]
    pub folders: BTreeMap<String, usize>,
    /// Links that an archive cannot hold safely, with their targets.
    #[serde(default)]
    pub links: BTreeMap<String, String>,
    /// What could not be looked into, with the kernel's error number.
    #[serde(default)]
    pub errors: BTreeMap<String, i32>,
    /// What a look at paths told.
    #[serde(default)]
    pub stats: BTreeMap<String, Told>,
}

/// Files below one folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The folder.
    pub path: String,
    /// How many files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Something that did not go in as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// What.
    pub what: String,
    /// How often.
    pub count: usize,
    /// Whether something of the same form stands in its place.
    pub replaced: bool,
}

/// What a look at a path told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// `f`, `d`, `l`, or `o` for something else.
    pub kind: char,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Told {
    /// What goes into the manifest.
    pub fn of(stat: &Stat) -> Self {
        let kind = match stat.kind {
            FileKind::File => 'f',
            FileKind::Folder => 'd',
            FileKind::Link => 'l',
            FileKind::Other => 'o',
        };
        let Ownership { mode, uid, gid, .. } = stat.ownership;
        Self { kind, size: stat.size, mode, uid, gid }
    }

    fn stat(self) -> Stat {
        let kind = match self.kind {
            'f' => FileKind::File,
            'd' => FileKind::Folder,
            'l' => FileKind::Link,
            _ => FileKind::Other,
        };
        let ownership =
            Ownership { mode: self.mode & 0o7777, uid: self.uid, gid: self.gid, xattrs: Vec::new() };
        Stat { kind, size: self.size, ownership }
    }
}

/// Completes a tree that is a capture by what its manifest tells; leaves others alone.
pub fn complete(name: &str, tree: &mut Tree) -> Result<Option<Manifest>> {
    let Ok(bytes) = tree.read(&Path::new("/").join(NAME)) else { return Ok(None) };
    let bad = |what: String| Error::usage(format!("{name} cannot be read: its {NAME} {what}"));
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|error| bad(format!("is none: {error}")))?;
    if manifest.schema != SCHEMA {
        return Err(bad(format!("has the form {}; this gpuferry knows {SCHEMA}", manifest.schema))
            .hint("gpuferry --version   a newer one may read it"));
    }
    let names = manifest.folders.values().map(|list| manifest.name_lists.get(*list).map_or(0, Vec::len));
    let all = names.sum::<usize>() + manifest.stats.len() + manifest.errors.len() + manifest.links.len();
    if all > MAX_NAMES {
        return Err(Error::refused(format!("{name} is not read: its {NAME} names too many files"))
            .detail(format!("{all}; at most {MAX_NAMES} are read")));
    }
    manifest.plant(tree);
    Ok(Some(manifest))
}

impl Manifest {
    /// Puts into a tree what only the manifest knows. What clashes with a file is left: the file counts.
    pub fn plant(&self, tree: &mut Tree) {
        for (path, target) in &self.links {
            let _ = tree.put(Path::new(path), Entry::Link(PathBuf::from(target)));
        }
        for (path, errno) in &self.errors {
            let _ = tree.put(Path::new(path), Entry::Closed(*errno));
        }
        for (folder, list) in &self.folders {
            let folder = Path::new(folder);
            let _ = tree.put(folder, Entry::Folder);
            for name in self.name_lists.get(*list).into_iter().flatten().filter(|name| !name.contains('/')) {
                let _ = tree.put(&folder.join(name), Entry::Name);
            }
        }
        for (path, told) in &self.stats {
            let path = Path::new(path);
            let _ = tree.put(path, if told.kind == 'd' { Entry::Folder } else { Entry::Name });
            tree.put_stat(path, told.stat());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    fn with(manifest: &str) -> Result<Option<Manifest>> {
        let mut tree = Tree::default();
        tree.put(&Path::new("/").join(NAME), Entry::File(manifest.into())).unwrap();
        complete("x", &mut tree)
    }

    #[test]
    fn what_is_no_manifest_is_said() {
        assert_eq!(complete("x", &mut Tree::default()).unwrap(), None);
        assert_eq!(with("{").unwrap_err().status, Status::Usage);
        let newer = serde_json::to_string(&Manifest { schema: 2, ..Manifest::default() }).unwrap();
        assert!(with(&newer).unwrap_err().message.ends_with("has the form 2; this gpuferry knows 1"));
    }

    #[test]
    fn a_short_manifest_does_not_name_millions() {
        let mut manifest = Manifest { schema: SCHEMA, ..Manifest::default() };
        manifest.name_lists = vec![(0..2000).map(|at| at.to_string()).collect()];
        manifest.folders = (0..2000).map(|at| (format!("/{at}"), 0)).collect();
        let error = with(&serde_json::to_string(&manifest).unwrap()).unwrap_err();
        assert_eq!(error.status, Status::Refused, "{error}");
    }

    #[test]
    fn names_errors_and_looks_come_back() {
        let mut manifest = Manifest { schema: SCHEMA, ..Manifest::default() };
        manifest.name_lists = vec![vec!["a".into(), "b/../../c".into()]];
        manifest.folders.insert("/sys/d".into(), 0);
        manifest.errors.insert("/sys/closed".into(), 13);
        manifest.links.insert("/proc/1/fd/3".into(), "/dev/dri/card0".into());
        let stat = Stat { kind: FileKind::File, size: 7, ownership: Ownership::root(0o755) };
        manifest.stats.insert("/usr/bin/x".into(), Told::of(&stat));
        let mut tree = Tree::default();
        manifest.plant(&mut tree);
        assert_eq!(tree.list(Path::new("/sys/d")).unwrap(), ["a"]);
        assert_eq!(tree.list(Path::new("/sys/closed")).unwrap_err().raw_os_error(), Some(13));
        assert_eq!(tree.readlink(Path::new("/proc/1/fd/3")).unwrap(), Path::new("/dev/dri/card0"));
        assert_eq!(tree.stat(Path::new("/usr/bin/x")).unwrap(), stat);
        assert!(tree.exists(Path::new("/usr/bin")));
    }
}
