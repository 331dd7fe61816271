//! A tree of files in memory, as a [`Root`]: what an archive holds, without a byte of it on the disk.
//!
//! Compact, because a server's /sys has hundreds of thousands of entries: names and contents that repeat are kept
//! once. Links are followed inside the tree only, and rings of them end. Sets no limits; who fills it does.

use super::{FileKind, Ownership, Parts, Root, Stat, part_of};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

/// Links that may be followed on the way to one file, as the kernel has it (include/linux/namei.h, MAXSYMLINKS).
const MAX_LINKS: usize = 40;

/// What is put at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A folder.
    Folder,
    /// A file and its bytes.
    File(Vec<u8>),
    /// A symbolic link and its target.
    Link(PathBuf),
    /// Something that is there and could not be looked into: the error number that the kernel gave.
    Closed(i32),
    /// Something of which only the name is known.
    Name,
}

/// Why an entry has no place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    /// What is there already.
    pub at: PathBuf,
    /// What it is: `a link`, `a file`, `a folder`.
    pub is: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File(u32),
    Link(u32),
    Closed(i32),
    Name,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    parent: u32,
    kind: Kind,
}

/// Byte strings, each kept once.
#[derive(Debug, Default)]
struct Pool {
    all: Vec<Arc<[u8]>>,
    index: HashMap<Arc<[u8]>, u32>,
}

impl Pool {
    fn keep(&mut self, bytes: &[u8]) -> u32 {
        if let Some(known) = self.index.get(bytes) {
            return *known;
        }
        let number = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        let bytes: Arc<[u8]> = bytes.into();
        self.all.push(Arc::clone(&bytes));
        self.index.insert(bytes, number);
        number
    }

    fn find(&self, bytes: &[u8]) -> Option<u32> {
        self.index.get(bytes).copied()
    }

    fn get(&self, number: u32) -> &[u8] {
        self.all.get(number as usize).map_or(&[], |bytes| bytes)
    }
}

/// Files, folders and links in memory.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    /// By folder and name.
    children: BTreeMap<(u32, u32), u32>,
    names: Pool,
    contents: Pool,
    /// What a look at some of them told, where it is more than what they hold tells.
    stats: BTreeMap<u32, Stat>,
    root: u32,
}

impl Default for Tree {
    fn default() -> Self {
        let top = Node { parent: 0, kind: Kind::Folder };
        Self {
            nodes: vec![top],
            children: BTreeMap::new(),
            names: Pool::default(),
            contents: Pool::default(),
            stats: BTreeMap::new(),
            root: 0,
        }
    }
}

impl Tree {
    /// Puts something at an absolute path without `..`; folders above it are made. What is there already gives way
    /// to its like, as in an archive to which a newer copy was appended.
    pub fn put(&mut self, path: &Path, entry: Entry) -> Result<(), Clash> {
        let names: Vec<&OsStr> = normal(path);
        let Some((last, above)) = names.split_last() else { return Ok(()) };
        let mut at = self.root;
        let mut walked = PathBuf::from("/");
        for name in above {
            walked.push(name);
            at = self.child(at, name, Kind::Folder);
            match self.kind(at) {
                Kind::Folder => {}
                Kind::Name => self.set(at, Kind::Folder),
                other => return Err(Clash { at: walked, is: word(other) }),
            }
        }
        let kind = match entry {
            Entry::Folder => Kind::Folder,
            Entry::File(bytes) => Kind::File(self.contents.keep(&bytes)),
            Entry::Link(target) => Kind::Link(self.contents.keep(target.as_os_str().as_bytes())),
            Entry::Closed(errno) => Kind::Closed(errno),
            Entry::Name => Kind::Name,
        };
        let node = self.child(at, last, kind);
        let have = self.kind(node);
        let alike = std::mem::discriminant(&have) == std::mem::discriminant(&kind);
        if kind == Kind::Name || (kind == Kind::Folder && have == Kind::Folder) {
            return Ok(());
        }
        if !alike && have != Kind::Name {
            walked.push(last);
            return Err(Clash { at: walked, is: word(have) });
        }
        self.set(node, kind);
        Ok(())
    }

    /// Notes what a look at a path told.
    pub fn put_stat(&mut self, path: &Path, stat: Stat) {
        if let Ok(node) = self.walk(path, false) {
            self.stats.insert(node, stat);
        }
    }

    /// The same tree with another folder of it as the root: nothing above that folder is there any more.
    pub fn rooted_at(mut self, path: &Path) -> io::Result<Self> {
        self.root = self.walk(path, true)?;
        Ok(self)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.nodes.len() - 1
    }

    /// True where nothing was put in.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn kind(&self, node: u32) -> Kind {
        self.nodes.get(node as usize).map_or(Kind::Name, |node| node.kind)
    }

    fn set(&mut self, node: u32, kind: Kind) {
        if let Some(node) = self.nodes.get_mut(node as usize) {
            node.kind = kind;
        }
    }

    /// The node of a name in a folder; made where it is not there.
    fn child(&mut self, folder: u32, name: &OsStr, kind: Kind) -> u32 {
        let name = self.names.keep(name.as_bytes());
        let next = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let node = *self.children.entry((folder, name)).or_insert(next);
        if node == next {
            self.nodes.push(Node { parent: folder, kind });
        }
        node
    }

    /// The node at a path: links on the way are followed, one at its end only where that is asked for.
    fn walk(&self, path: &Path, follow: bool) -> io::Result<u32> {
        // What is left to walk, nearest last.
        let mut left: Vec<Vec<u8>> = steps(path);
        let mut at = self.root;
        let mut links = 0;
        while let Some(step) = left.pop() {
            match self.kind(at) {
                Kind::Folder => {}
                Kind::Closed(errno) => return Err(io::Error::from_raw_os_error(errno)),
                Kind::Name => return Err(not_kept()),
                Kind::File(_) | Kind::Link(_) => return Err(io::ErrorKind::NotADirectory.into()),
            }
            if step == b".." {
                if at != self.root {
                    at = self.nodes.get(at as usize).map_or(self.root, |node| node.parent);
                }
                continue;
            }
            let name = self.names.find(&step).ok_or(io::ErrorKind::NotFound)?;
            let node = *self.children.get(&(at, name)).ok_or(io::ErrorKind::NotFound)?;
            let Kind::Link(target) = self.kind(node) else {
                at = node;
                continue;
            };
            if left.is_empty() && !follow {
                return Ok(node);
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(rustix::io::Errno::LOOP.into());
            }
            let target = Path::new(OsStr::from_bytes(self.contents.get(target)));
            if target.is_absolute() {
                at = self.root;
            }
            left.extend(steps(target));
        }
        Ok(at)
    }

    fn bytes(&self, path: &Path) -> io::Result<&[u8]> {
        match self.kind(self.walk(path, true)?) {
            Kind::File(content) => Ok(self.contents.get(content)),
            Kind::Closed(errno) => Err(io::Error::from_raw_os_error(errno)),
            Kind::Folder => Err(rustix::io::Errno::ISDIR.into()),
            Kind::Link(_) | Kind::Name => Err(not_kept()),
        }
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Folder => "a folder",
        Kind::Link(_) => "a link",
        Kind::File(_) | Kind::Closed(_) | Kind::Name => "a file",
    }
}

fn not_kept() -> io::Error {
    io::Error::other("what was saved has its name only")
}

fn normal(path: &Path) -> Vec<&OsStr> {
    let part = |component| if let Component::Normal(name) = component { Some(name) } else { None };
    path.components().filter_map(part).collect()
}

/// The steps of a path, last first.
fn steps(path: &Path) -> Vec<Vec<u8>> {
    let step = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.as_bytes().to_vec()),
        Component::ParentDir => Some(b"..".to_vec()),
        _ => None,
    };
    path.components().rev().filter_map(step).collect()
}

impl Root for Tree {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.bytes(path).map(<[u8]>::to_vec)
    }

    fn read_start(&self, path: &Path, length: usize) -> io::Result<Vec<u8>> {
        let bytes = self.bytes(path)?;
        Ok(bytes.get(..length).unwrap_or(bytes).to_vec())
    }

    fn read_at(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        Ok(part_of(self.bytes(path)?, offset, length).to_vec())
    }

    fn parts<'r>(&'r self, path: &Path) -> io::Result<Parts<'r>> {
        let bytes = self.bytes(path)?;
        Ok(Box::new(move |offset, length| Ok(part_of(bytes, offset, length).to_vec())))
    }

    fn lines(&self, path: &Path, some: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        some(self.bytes(path)?);
        Ok(())
    }

    fn kernel_log(&self) -> io::Result<Vec<u8>> {
        match self.bytes(Path::new("/dev/kmsg")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.read(Path::new("/var/log/dmesg")),
            log => log.map(<[u8]>::to_vec),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let folder = self.walk(path, true)?;
        match self.kind(folder) {
            Kind::Folder => {}
            Kind::Closed(errno) => return Err(io::Error::from_raw_os_error(errno)),
            Kind::Name => return Err(not_kept()),
            Kind::File(_) | Kind::Link(_) => return Err(io::ErrorKind::NotADirectory.into()),
        }
        let inside = self.children.range((folder, 0)..=(folder, u32::MAX));
        let mut names: Vec<OsString> =
            inside.map(|((_, name), _)| OsString::from_vec(self.names.get(*name).to_vec())).collect();
        names.sort();
        Ok(names)
    }

    fn readlink(&self, path: &Path) -> io::Result<PathBuf> {
        match self.kind(self.walk(path, false)?) {
            Kind::Link(target) => Ok(PathBuf::from(OsStr::from_bytes(self.contents.get(target)))),
            Kind::Closed(errno) => Err(io::Error::from_raw_os_error(errno)),
            Kind::Name => Err(not_kept()),
            Kind::Folder | Kind::File(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let node = self.walk(path, false)?;
        if let Some(stat) = self.stats.get(&node) {
            return Ok(stat.clone());
        }
        let (kind, size, mode) = match self.kind(node) {
            Kind::Folder => (FileKind::Folder, 0, 0o755),
            Kind::File(content) => (FileKind::File, self.contents.get(content).len(), 0o644),
            Kind::Link(target) => (FileKind::Link, self.contents.get(target).len(), 0o777),
            Kind::Closed(_) | Kind::Name => (FileKind::File, 0, 0),
        };
        Ok(Stat { kind, size: size as u64, ownership: Ownership::root(mode) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: &[(&str, Entry)]) -> Tree {
        let mut tree = Tree::default();
        for (path, entry) in entries {
            tree.put(Path::new(path), entry.clone()).unwrap();
        }
        tree
    }

    fn link(target: &str) -> Entry {
        Entry::Link(target.into())
    }

    fn file(text: &str) -> Entry {
        Entry::File(text.into())
    }

    #[test]
    fn files_links_and_folders() {
        let tree = tree(&[
            ("/sys/devices/pci0000:00/0000:00:01.0/class", file("0x030000\n")),
            ("/sys/bus/pci/devices/0000:00:01.0", link("../../../devices/pci0000:00/0000:00:01.0")),
            ("/etc/absolute", link("/sys/bus/pci")),
        ]);
        let at = |path: &str| PathBuf::from(path);
        assert_eq!(tree.text(&at("/sys/bus/pci/devices/0000:00:01.0/class")).unwrap(), "0x030000");
        assert_eq!(tree.text(&at("/etc/absolute/devices/0000:00:01.0/class")).unwrap(), "0x030000");
        assert_eq!(tree.list(&at("/sys/bus/pci/devices")).unwrap(), ["0000:00:01.0"]);
        assert_eq!(tree.readlink(&at("/etc/absolute")).unwrap(), at("/sys/bus/pci"));
        assert_eq!(tree.stat(&at("/etc/absolute")).unwrap().kind, FileKind::Link);
        assert_eq!(tree.read(&at("/etc")).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(tree.read(&at("/etc/none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(tree.read_start(&at("/sys/bus/pci/devices/0000:00:01.0/class"), 3).unwrap(), b"0x0");
        assert_eq!(tree.readlink(&at("/etc")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn nothing_is_above_the_root() {
        let tree = tree(&[("/a/secret", file("x")), ("/b/sys/l", link("../../../a/secret"))]);
        assert_eq!(tree.text(Path::new("/../../a/secret")).unwrap(), "x");
        let below = tree.rooted_at(Path::new("/b")).unwrap();
        assert_eq!(below.list(Path::new("/")).unwrap(), ["sys"]);
        assert_eq!(below.read(Path::new("/sys/l")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(below.list(Path::new("/..")).unwrap(), ["sys"]);
    }

    #[test]
    fn rings_of_links_end() {
        let tree = tree(&[("/a", link("b")), ("/b", link("a")), ("/c", link("c/c")), ("/d", link("."))]);
        for path in ["/a", "/b/x", "/c"] {
            let error = tree.read(Path::new(path)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(40), "{path}: {error}");
        }
        assert_eq!(tree.list(Path::new("/d/d/d")).unwrap(), ["a", "b", "c", "d"]);
    }

    #[test]
    fn what_has_no_place_says_why() {
        let mut tree = tree(&[("/l", link("/etc")), ("/f", file("x")), ("/d/x", file("x"))]);
        let clash = tree.put(Path::new("/l/passwd"), file("x")).unwrap_err();
        assert_eq!((clash.at.as_path(), clash.is), (Path::new("/l"), "a link"));
        assert_eq!(tree.put(Path::new("/f/x"), file("x")).unwrap_err().is, "a file");
        assert_eq!(tree.put(Path::new("/d"), file("x")).unwrap_err().is, "a folder");
        tree.put(Path::new("/f"), file("newer")).unwrap();
        assert_eq!(tree.text(Path::new("/f")).unwrap(), "newer");
    }

    #[test]
    fn what_was_closed_stays_closed() {
        let tree =
            tree(&[("/p/1/fd", Entry::Closed(13)), ("/p/n", Entry::Name), ("/dev/kmsg", Entry::Closed(1))]);
        let closed = tree.list(Path::new("/p/1/fd")).unwrap_err();
        assert_eq!(closed.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(tree.read(Path::new("/p/1/fd/3")).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(tree.list(Path::new("/p")).unwrap(), ["1", "n"]);
        assert!(tree.exists(Path::new("/p/n")) && tree.read(Path::new("/p/n")).is_err());
        assert_eq!(tree.kernel_log().unwrap_err().raw_os_error(), Some(1));
    }

    #[test]
    fn what_repeats_is_kept_once() {
        let mut tree = Tree::default();
        for at in 0..1000 {
            tree.put(&PathBuf::from(format!("/d/{at}/vendor")), file("0x10de\n")).unwrap();
        }
        assert_eq!((tree.len(), tree.contents.all.len(), tree.names.all.len()), (2001, 1, 1002));
    }
}
