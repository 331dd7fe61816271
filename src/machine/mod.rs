//! The only door to the outside: every read, write, program and wait goes through [`Root`] or [`Machine`].
//!
//! [`live`] is Linux. Nothing else in the program opens a file, starts a program or looks at the clock, which is
//! what lets the same code run on a captured machine and on a simulated one that loses power at any operation.
//! Paths are absolute and lie below the door's root.

pub mod apart;
pub mod live;
pub mod process;
#[cfg(test)]
pub(crate) mod sim;
pub mod tree;

use std::{
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// What kind of thing a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file (attributes of sysfs are regular files too).
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device node, socket or pipe.
    Other,
}

/// Mode, owner and extended attributes of a file: what an undo has to give back besides the bytes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ownership {
    /// Permission bits, with set-uid, set-gid and sticky (12 bits).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes by name (SELinux labels, capabilities, ACLs).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Ownership {
    /// Root's file with this mode and no extended attributes.
    pub fn root(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0, xattrs: Vec::new() }
    }
}

/// What a look at a path tells, without following a link at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// File, folder, link or something else.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Mode, owner, extended attributes.
    pub ownership: Ownership,
}

/// Reads so many bytes of a file from an offset on; nothing where the file is shorter.
pub type Parts<'r> = Box<dyn Fn(u64, usize) -> io::Result<Vec<u8>> + 'r>;

/// A folder of attributes that is found once: sysfs has one for each device, and some ten of them are read.
pub trait Folder {
    /// The names in it, sorted.
    fn names(&self) -> io::Result<Vec<OsString>>;
    /// An attribute as a whole: a text of less than a page.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// Where a link points, as it is written there.
    fn link(&self, name: &str) -> io::Result<PathBuf>;
    /// An attribute of which parts are read.
    fn parts(&self, name: &str) -> io::Result<Parts<'_>>;
}

/// A folder that is looked for again with each question.
struct ByPath<'r, R: ?Sized> {
    root: &'r R,
    path: PathBuf,
}

impl<R: Root + ?Sized> Folder for ByPath<'_, R> {
    fn names(&self) -> io::Result<Vec<OsString>> {
        self.root.list(&self.path)
    }
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.root.read(&self.path.join(name))
    }
    fn link(&self, name: &str) -> io::Result<PathBuf> {
        self.root.readlink(&self.path.join(name))
    }
    fn parts(&self, name: &str) -> io::Result<Parts<'_>> {
        let path = self.path.join(name);
        Ok(Box::new(move |offset, length| self.root.read_at(&path, offset, length)))
    }
}

/// At most `length` bytes of these from an offset on; nothing beyond their end.
pub fn part_of(bytes: &[u8], offset: u64, length: usize) -> &[u8] {
    let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
    rest.get(..length).unwrap_or(rest)
}

/// Bytes as text without trailing white space.
pub(crate) fn text_of(bytes: Vec<u8>) -> String {
    let mut text = String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    text.truncate(text.trim_end().len());
    text
}

/// Reading: all that looking at a machine needs. A capture or a saved tree has this much.
pub trait Root {
    /// The whole file, links followed below the root. Refuses what is larger than [`MAX_READ`].
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The first bytes of a file, at most `length`: for attributes whose every byte is an access to a device.
    fn read_start(&self, path: &Path, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = self.read(path)?;
        bytes.truncate(length);
        Ok(bytes)
    }
    /// At most `length` bytes from an offset on: for attributes whose every byte is an access to a device. Nothing
    /// where the file is shorter.
    fn read_at(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut bytes = self.read_start(path, offset.saturating_add(length))?;
        Ok(if offset < bytes.len() { bytes.split_off(offset) } else { Vec::new() })
    }
    /// A long file of which parts are read, wherever they are: opened once, where that is possible.
    fn parts<'r>(&'r self, path: &Path) -> io::Result<Parts<'r>> {
        let bytes = self.read(path)?;
        Ok(Box::new(move |offset, length| Ok(part_of(&bytes, offset, length).to_vec())))
    }
    /// A file, some whole lines at a time: for long lists of which little is wanted.
    fn lines(&self, path: &Path, some: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        some(&self.read(path)?);
        Ok(())
    }
    /// A file by reads of so many bytes, until what was read so far is enough: for files that the kernel makes with
    /// every read, and whose end costs more than their start.
    fn pieces(&self, path: &Path, piece: usize, enough: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<()> {
        let _ = piece;
        enough(&self.read(path)?);
        Ok(())
    }
    /// This door as one through which several may look at once, and how many of them are worth it.
    fn at_once(&self) -> Option<(&(dyn Root + Sync), usize)> {
        None
    }
    /// Whether there are attributes that hang with a driver, and have to be read by [`Root::begin_apart`].
    fn may_hang(&self) -> bool {
        false
    }
    /// Files that may be read only under a lock that a stuck driver can hold for ever; one that hangs is
    /// [`io::ErrorKind::TimedOut`]. As many results as paths.
    fn read_apart(&self, paths: &[PathBuf]) -> Vec<io::Result<Vec<u8>>> {
        paths.iter().map(|path| self.read(path)).collect()
    }
    /// As [`Root::read_apart`], begun now where that takes time, and asked for later.
    fn begin_apart(&self, paths: Vec<PathBuf>) -> Box<dyn FnOnce() -> Vec<io::Result<Vec<u8>>> + '_> {
        Box::new(move || self.read_apart(&paths))
    }
    /// The kernel's log as /dev/kmsg gives it, from the oldest record that is left to the newest
    /// (Documentation/ABI/testing/dev-kmsg). A saved tree may have it as a plain file, or as a printed one in
    /// /var/log/dmesg.
    fn kernel_log(&self) -> io::Result<Vec<u8>> {
        self.read(Path::new("/dev/kmsg")).or_else(|_| self.read(Path::new("/var/log/dmesg")))
    }
    /// A folder of which several attributes are read: found once, where that is possible.
    fn folder<'r>(&'r self, path: &Path) -> io::Result<Box<dyn Folder + 'r>> {
        Ok(Box::new(ByPath { root: self, path: path.to_owned() }))
    }
    /// The names in a folder, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>>;
    /// Where a link points, as it is written there.
    fn readlink(&self, path: &Path) -> io::Result<PathBuf>;
    /// What is at a path; a link at its end is not followed.
    fn stat(&self, path: &Path) -> io::Result<Stat>;

    /// Where each link in a folder points, by name; what is no link is left out. One look at the folder, where
    /// that is possible: /proc/PID/fd has hundreds.
    fn links(&self, path: &Path) -> io::Result<Vec<(OsString, PathBuf)>> {
        let names = self.list(path)?.into_iter();
        Ok(names.filter_map(|name| Some((name.clone(), self.readlink(&path.join(&name)).ok()?))).collect())
    }

    /// The file as text without trailing white space; bytes that are no UTF-8 are replaced.
    fn text(&self, path: &Path) -> io::Result<String> {
        Ok(text_of(self.read(path)?))
    }

    /// True where something is at the path (a dangling link counts).
    fn exists(&self, path: &Path) -> bool {
        self.stat(path).is_ok()
    }

    /// The last component of a link's target: the name of a driver, a group, a subsystem.
    fn link_name(&self, path: &Path) -> io::Result<String> {
        let target = self.readlink(path)?;
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned());
        name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a link that ends in no name"))
    }
}

// `&dyn Machine` as a `Root`: what turns one trait object into the other by itself came with Rust 1.86.
impl<R: Root + ?Sized> Root for &R {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        (**self).read(path)
    }
    fn read_start(&self, path: &Path, length: usize) -> io::Result<Vec<u8>> {
        (**self).read_start(path, length)
    }
    fn read_at(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        (**self).read_at(path, offset, length)
    }
    fn folder<'r>(&'r self, path: &Path) -> io::Result<Box<dyn Folder + 'r>> {
        (**self).folder(path)
    }
    fn parts<'r>(&'r self, path: &Path) -> io::Result<Parts<'r>> {
        (**self).parts(path)
    }
    fn lines(&self, path: &Path, some: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        (**self).lines(path, some)
    }
    fn pieces(&self, path: &Path, piece: usize, enough: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<()> {
        (**self).pieces(path, piece, enough)
    }
    fn at_once(&self) -> Option<(&(dyn Root + Sync), usize)> {
        (**self).at_once()
    }
    fn may_hang(&self) -> bool {
        (**self).may_hang()
    }
    fn read_apart(&self, paths: &[PathBuf]) -> Vec<io::Result<Vec<u8>>> {
        (**self).read_apart(paths)
    }
    fn begin_apart(&self, paths: Vec<PathBuf>) -> Box<dyn FnOnce() -> Vec<io::Result<Vec<u8>>> + '_> {
        (**self).begin_apart(paths)
    }
    fn kernel_log(&self) -> io::Result<Vec<u8>> {
        (**self).kernel_log()
    }
    fn links(&self, path: &Path) -> io::Result<Vec<(OsString, PathBuf)>> {
        (**self).links(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        (**self).list(path)
    }
    fn readlink(&self, path: &Path) -> io::Result<PathBuf> {
        (**self).readlink(path)
    }
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        (**self).stat(path)
    }
    fn exists(&self, path: &Path) -> bool {
        (**self).exists(path)
    }
}

/// The largest file that [`Root::read`] returns, in bytes: initramfs images are the largest that are read.
pub const MAX_READ: u64 = 1 << 30;

/// A program to run: by absolute path, with a clean environment, no shell, and a deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Absolute path of the binary.
    pub path: PathBuf,
    /// Arguments after the name.
    pub args: Vec<OsString>,
    /// Bytes for standard input; nothing but an end of file otherwise.
    pub stdin: Vec<u8>,
    /// How long it may take before it is killed.
    pub deadline: Duration,
}

impl Program {
    /// A program by absolute path, with a deadline.
    pub fn new(path: impl Into<PathBuf>, deadline: Duration) -> Self {
        Self { path: path.into(), args: Vec::new(), stdin: Vec::new(), deadline }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// The command as a person would type it, for messages only.
    pub fn shown(&self) -> String {
        let words = std::iter::once(self.path.as_os_str()).chain(self.args.iter().map(OsString::as_os_str));
        words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Exit status; `None` when a signal or the deadline ended it.
    pub status: Option<i32>,
    /// What it printed (the first [`MAX_OUTPUT`] bytes).
    pub stdout: Vec<u8>,
    /// What it complained about (the first [`MAX_OUTPUT`] bytes).
    pub stderr: Vec<u8>,
}

/// How much of a program's output is kept, in bytes.
pub const MAX_OUTPUT: usize = 4 << 20;

impl Finished {
    /// True for exit status 0.
    pub fn ok(&self) -> bool {
        self.status == Some(0)
    }
}

/// Space of the filesystem that holds a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that root can still write.
    pub free: u64,
    /// True where the filesystem is mounted read-only.
    pub read_only: bool,
    /// Where it is part of what: two paths on one filesystem have the same number.
    pub device: u64,
}

/// Changing: what carries steps out. One method is one operation that can fail, hang, or be the last before a
/// power cut.
pub trait Machine: Root {
    /// Writes an attribute of sysfs or procfs with a single `write(2)`; nothing is created.
    fn write_attribute(&self, path: &Path, value: &str) -> io::Result<()>;

    /// Creates a file that must not exist yet, with these bytes and this ownership, and brings it to the disk.
    fn create(&self, path: &Path, bytes: &[u8], ownership: &Ownership) -> io::Result<()>;
    /// Appends to a file (created for root alone where missing) and brings it to the disk.
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Renames a file over another or to a new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file or link.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder with this mode.
    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Brings a file's bytes to the disk (`fsync`): for files that another program wrote.
    fn sync_file(&self, path: &Path) -> io::Result<()>;
    /// Brings a folder's names to the disk: after a create, rename or remove in it.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Space below a path.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Takes a lock on a file (created where missing); `None` where somebody else holds it. It ends with the value
    /// or the process.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;

    /// Runs a program to its end or its deadline. An error means that it could not be started.
    fn run(&self, program: &Program) -> io::Result<Finished>;

    /// Starts a program that runs on, also after us; what it prints goes to a file (made for root alone, emptied).
    /// Its deadline and standard input do not count.
    fn start(&self, program: &Program, output: &Path) -> io::Result<Box<dyn process::Process>> {
        let _ = (program, output);
        Err(io::ErrorKind::Unsupported.into())
    }
    /// The process that has this number now. See [`process::find`] for one that was met before.
    fn process(&self, pid: u32) -> io::Result<Box<dyn process::Process>> {
        let _ = pid;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Watches who lists a folder, from now on.
    fn watch_folder(&self, path: &Path) -> io::Result<Box<dyn FolderWatch>> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Wall clock, since 1970. For records that people read.
    fn now(&self) -> Duration;
    /// Time since boot. For deadlines.
    fn uptime(&self) -> Duration;
    /// Waits until the kernel announces a device event, at most this long. For [`wait_until`].
    fn pause(&self, at_most: Duration);
}

/// A lock that is held until it is dropped.
pub trait Lock {}

/// Tells when somebody lists a folder.
pub trait FolderWatch {
    /// Waits until it was listed since this watch began, at most this long.
    fn listed(&mut self, at_most: Duration) -> bool;
}

/// The shortest and the longest pause between two looks at what is waited for.
const SHORTEST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(250);

/// Waits until `done` holds: looks, then waits for the next device event or a growing pause, and looks again.
///
/// Returns whether it came true before the deadline. The only way to wait for a state in this program.
pub fn wait_until(machine: &dyn Machine, deadline: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begun = machine.uptime();
    loop {
        if done() {
            return true;
        }
        let waited = machine.uptime().saturating_sub(begun);
        let left = deadline.saturating_sub(waited);
        if left.is_zero() {
            return false;
        }
        // What was waited for is seen late by an eighth of the time it took, or by the shortest pause, and a look.
        machine.pause((waited / 8).clamp(SHORTEST, LONGEST).min(left));
    }
}
