//! Linux: the real machine below one folder descriptor.
//!
//! Every path is resolved by the kernel with `RESOLVE_IN_ROOT` (openat2(2)), so that a link in a mounted or
//! saved root cannot lead out of it. Knows nothing of GPUs.

use super::{
    FileKind, Finished, Folder, FolderWatch, Lock, MAX_OUTPUT, MAX_READ, Machine, Ownership, Parts, Program,
    Root, Space, Stat,
    process::{Process, Watched},
};
use rustix::{
    buffer::spare_capacity,
    event::{PollFd, PollFlags, poll},
    fs::{self, AtFlags, Mode, OFlags, ResolveFlags, inotify},
    io::{Errno, retry_on_intr},
    net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netlink},
    time::{ClockId, Timespec, clock_gettime},
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    os::unix::{ffi::OsStrExt, ffi::OsStringExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

/// This machine, or the one whose root is mounted at a folder.
#[derive(Debug)]
pub struct Live {
    root: OwnedFd,
    /// Listened to from the first pause on: who only looks needs none.
    events: OnceLock<Option<OwnedFd>>,
}

impl Live {
    /// The machine whose root folder this is; `/` is the running one.
    pub fn open(root: &Path) -> io::Result<Self> {
        let root = fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root, events: OnceLock::new() })
    }

    /// True where this is the running system's own root.
    fn is_running(&self) -> bool {
        let here = fs::fstat(&self.root);
        let running = fs::stat("/");
        here.is_ok_and(|here| {
            running.is_ok_and(|there| (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino))
        })
    }

    fn at(&self, path: &Path, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
        let mode = Mode::from_raw_mode(mode);
        loop {
            match fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, mode, ResolveFlags::IN_ROOT) {
                // The tree moved under the lookup (openat2(2)): look again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return Ok(done?),
            }
        }
    }

    /// The folder that holds a path, and the name in it.
    fn parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path without a name"));
        };
        Ok((self.at(folder, OFlags::PATH | OFlags::DIRECTORY, 0)?, name))
    }
}

/// Listens to the kernel's own device events (group 1 of NETLINK_KOBJECT_UEVENT; lib/kobject_uevent.c).
fn listen() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        flags,
        Some(netlink::KOBJECT_UEVENT),
    )?;
    rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, 1))?;
    Ok(socket)
}

fn xattrs(file: &OwnedFd) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0_u8; 16 << 10];
    let Ok(length) = fs::flistxattr(file, names.as_mut_slice()) else { return Vec::new() };
    let names = names.get(..length).unwrap_or_default().split(|b| *b == 0).filter(|name| !name.is_empty());
    let with_values = names.filter_map(|name| {
        let mut value = vec![0_u8; 64 << 10];
        let length = fs::fgetxattr(file, OsStr::from_bytes(name), value.as_mut_slice()).ok()?;
        value.truncate(length);
        Some((String::from_utf8(name.to_vec()).ok()?, value))
    });
    with_values.collect()
}

/// What most files fit into, in bytes: no attribute of sysfs is larger.
const SMALL: usize = 4096;

/// How much of a long list is read at once, in bytes: it stays in the processor's cache.
const WINDOW: usize = 64 << 10;

/// Bytes of an open file. No read is larger than what was asked for (bytes have the capacity that they were given): the
/// kernel would fetch it from the device.
fn part(file: &OwnedFd, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    debug_assert_eq!(bytes.capacity(), length, "more than was asked for would be read");
    while bytes.len() < length {
        let at = offset + bytes.len() as u64;
        if retry_on_intr(|| rustix::io::pread(file, spare_capacity(&mut bytes), at))? == 0 {
            break;
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Reads what follows, as far as there is room, and says how much it was. The room is not cleared before: that took
/// longer than reading an attribute.
fn read_on(file: &OwnedFd, bytes: &mut Vec<u8>) -> io::Result<usize> {
    if bytes.len() == bytes.capacity() {
        bytes.reserve(bytes.len().max(SMALL));
    }
    Ok(retry_on_intr(|| rustix::io::read(file, spare_capacity(&mut *bytes)))?)
}

/// The names in an open folder, sorted.
fn names(folder: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    let mut space = Vec::with_capacity(SMALL);
    let mut entries = fs::RawDir::new(folder, space.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Threads that look at functions at once, at most: what they wait for is one kernel and one bus.
const AT_ONCE: usize = 4;

const READING: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// A folder that is held open: the way to it is walked once.
struct Held<'l> {
    live: &'l Live,
    path: PathBuf,
    folder: OwnedFd,
}

impl Held<'_> {
    /// A file in it. One behind a link is looked for from the root on, which no link leads out of. A name without a
    /// slash can lead nowhere else: it needs none of openat2(2)'s checks.
    fn at(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = READING | OFlags::CLOEXEC;
        let opened = if name.contains('/') || name == ".." {
            let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            fs::openat2(&self.folder, name, flags, Mode::empty(), within)
        } else {
            fs::openat(&self.folder, name, flags | OFlags::NOFOLLOW, Mode::empty())
        };
        match opened {
            Err(Errno::LOOP | Errno::XDEV | Errno::AGAIN | Errno::INTR) => {
                self.live.at(&self.path.join(name), READING, 0)
            }
            done => Ok(done?),
        }
    }
}

impl Folder for Held<'_> {
    fn names(&self) -> io::Result<Vec<OsString>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        names(&fs::openat(&self.folder, ".", flags, Mode::empty())?)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = self.at(name)?;
        let mut space = [MaybeUninit::<u8>::uninit(); SMALL];
        loop {
            match rustix::io::read(&file, &mut space) {
                // No attribute, but a file of a saved tree.
                Ok((_, [])) => return self.live.read(&self.path.join(name)),
                Ok((bytes, _)) => return Ok(bytes.to_vec()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn link(&self, name: &str) -> io::Result<PathBuf> {
        // A link on the way there could lead out of the root.
        if name.contains('/') {
            return self.live.readlink(&self.path.join(name));
        }
        let target = fs::readlinkat(&self.folder, name, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    fn parts(&self, name: &str) -> io::Result<Parts<'_>> {
        let file = self.at(name)?;
        Ok(Box::new(move |offset, length| part(&file, offset, length)))
    }
}

impl Root for Live {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        // NONBLOCK: a pipe in the place of a file must not hold us up.
        let file = self.at(path, READING, 0)?;
        let mut bytes = Vec::with_capacity(SMALL);
        while read_on(&file, &mut bytes)? > 0 {
            if bytes.len() as u64 > MAX_READ {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is larger than 1 GiB"));
            }
        }
        bytes.shrink_to_fit();
        Ok(bytes)
    }

    fn pieces(&self, path: &Path, piece: usize, enough: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<()> {
        let file = self.at(path, READING, 0)?;
        let mut bytes = Vec::new();
        loop {
            bytes.reserve_exact(piece);
            if read_on(&file, &mut bytes)? == 0 || enough(&bytes) || bytes.len() as u64 > MAX_READ {
                return Ok(());
            }
        }
    }

    fn read_start(&self, path: &Path, length: usize) -> io::Result<Vec<u8>> {
        self.read_at(path, 0, length)
    }

    fn read_at(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        part(&self.at(path, READING, 0)?, offset, length)
    }

    fn parts<'r>(&'r self, path: &Path) -> io::Result<Parts<'r>> {
        let file = self.at(path, READING, 0)?;
        Ok(Box::new(move |offset, length| part(&file, offset, length)))
    }

    fn lines(&self, path: &Path, some: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let file = self.at(path, READING, 0)?;
        let mut bytes = Vec::with_capacity(WINDOW);
        loop {
            let count = read_on(&file, &mut bytes)?;
            let whole = match (count, memchr::memrchr(b'\n', &bytes)) {
                (0, _) => bytes.len(),
                (_, Some(end)) => end + 1,
                (_, None) => 0,
            };
            some(bytes.get(..whole).unwrap_or_default());
            if count == 0 {
                return Ok(());
            }
            // What is left is a line that is not whole yet.
            bytes.drain(..whole);
            if bytes.len() as u64 > MAX_READ {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a line is larger than 1 GiB"));
            }
        }
    }

    fn at_once(&self) -> Option<(&(dyn Root + Sync), usize)> {
        let processors = rustix::thread::sched_getaffinity(None).ok()?.count() as usize;
        (processors > 1).then_some((self, processors.min(AT_ONCE)))
    }

    /// In a saved tree nothing hangs, nor in newer kernels; in another program (a test) there is no child to ask.
    fn may_hang(&self) -> bool {
        let own = std::fs::read_link("/proc/self/exe");
        let is_gpuferry = own.is_ok_and(|path| path.file_name().is_some_and(|name| name == "gpuferry"));
        is_gpuferry && self.is_running() && super::apart::is_needed(rustix::system::uname().release())
    }

    fn read_apart(&self, paths: &[PathBuf]) -> Vec<io::Result<Vec<u8>>> {
        if self.may_hang() && !paths.is_empty() {
            return super::apart::read(paths);
        }
        paths.iter().map(|path| self.read(path)).collect()
    }

    fn begin_apart(&self, paths: Vec<PathBuf>) -> Box<dyn FnOnce() -> Vec<io::Result<Vec<u8>>> + '_> {
        if self.may_hang() && !paths.is_empty() {
            // Starting the child takes longer than what it does; this waits for it, nothing else.
            let to_read = paths.clone();
            let reader = std::thread::Builder::new().spawn(move || super::apart::read(&to_read));
            if let Ok(reader) = reader {
                return Box::new(move || reader.join().unwrap_or_default());
            }
        }
        Box::new(move || self.read_apart(&paths))
    }

    fn kernel_log(&self) -> io::Result<Vec<u8>> {
        let path = Path::new("/dev/kmsg");
        let log = match self.at(path, READING, 0) {
            Ok(log) if fs::FileType::from_raw_mode(fs::fstat(&log)?.st_mode).is_char_device() => log,
            Ok(_) => return self.read(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.read(Path::new("/var/log/dmesg"));
            }
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        let mut record = vec![0; MAX_RECORD];
        while text.len() < MAX_OUTPUT * 16 {
            match rustix::io::read(&log, &mut record[..]) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(length) => text.extend_from_slice(record.get(..length).unwrap_or_default()),
                // EPIPE: this record was overwritten while we read; the next read gives the oldest that is left.
                Err(Errno::PIPE | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(text)
    }

    fn folder<'r>(&'r self, path: &Path) -> io::Result<Box<dyn Folder + 'r>> {
        let folder = self.at(path, OFlags::PATH | OFlags::DIRECTORY, 0)?;
        Ok(Box::new(Held { live: self, path: path.to_owned(), folder }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        names(&self.at(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?)
    }

    fn readlink(&self, path: &Path) -> io::Result<PathBuf> {
        let (folder, name) = self.parent(path)?;
        let target = fs::readlinkat(&folder, name, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    fn links(&self, path: &Path) -> io::Result<Vec<(OsString, PathBuf)>> {
        let folder = self.at(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?;
        let mut found = Vec::new();
        for entry in fs::Dir::read_from(&folder)? {
            let entry = entry?;
            if matches!(entry.file_type(), fs::FileType::Symlink | fs::FileType::Unknown) {
                // A descriptor that was closed meanwhile is not there any more.
                if let Ok(target) = fs::readlinkat(&folder, entry.file_name(), Vec::new()) {
                    let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
                    found.push((name, PathBuf::from(OsString::from_vec(target.into_bytes()))));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn exists(&self, path: &Path) -> bool {
        self.at(path, OFlags::PATH | OFlags::NOFOLLOW, 0).is_ok()
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let place = self.at(path, OFlags::PATH | OFlags::NOFOLLOW, 0)?;
        let stat = fs::fstat(&place)?;
        let kind = match fs::FileType::from_raw_mode(stat.st_mode) {
            fs::FileType::RegularFile => FileKind::File,
            fs::FileType::Directory => FileKind::Folder,
            fs::FileType::Symlink => FileKind::Link,
            _ => FileKind::Other,
        };
        // O_PATH descriptors have no xattr calls before Linux 6.13: open what can be opened harmlessly.
        let xattrs = match kind {
            FileKind::File | FileKind::Folder => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                self.at(path, flags, 0).map_or_else(|_| Vec::new(), |file| xattrs(&file))
            }
            FileKind::Link | FileKind::Other => Vec::new(),
        };
        let ownership = Ownership { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, xattrs };
        Ok(Stat { kind, size: u64::try_from(stat.st_size).unwrap_or(0), ownership })
    }
}

/// The largest record that /dev/kmsg gives, in bytes (PRINTK_MESSAGE_MAX in kernel/printk/internal.h, rounded up).
const MAX_RECORD: usize = 16 << 10;

/// inotify(7) on a folder: it is opened by whoever lists it.
struct Listing {
    events: OwnedFd,
    listed: bool,
}

impl FolderWatch for Listing {
    fn listed(&mut self, at_most: Duration) -> bool {
        let end = Instant::now() + at_most;
        while !self.listed {
            let left = end.saturating_duration_since(Instant::now());
            let ready = poll(&mut [PollFd::new(&self.events, PollFlags::IN)], Some(&timespec(left)));
            if ready.is_ok_and(|count| count > 0) {
                let mut space = [MaybeUninit::uninit(); 4096];
                let mut events = inotify::Reader::new(&self.events, &mut space);
                while let Ok(event) = events.next() {
                    // Of the folder itself: events of what is in it have a name.
                    self.listed |= event.file_name().is_none();
                }
            } else if left.is_zero() {
                break;
            }
        }
        self.listed
    }
}

/// A lock on an open file; the kernel lets go when the descriptor closes.
struct FileLock(#[allow(dead_code, reason = "held for its drop")] OwnedFd);
impl Lock for FileLock {}

impl Machine for Live {
    fn write_attribute(&self, path: &Path, value: &str) -> io::Result<()> {
        let file = self.at(path, OFlags::WRONLY | OFlags::NOCTTY, 0)?;
        match rustix::io::write(&file, value.as_bytes())? {
            written if written == value.len() => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::WriteZero, "the attribute took only a part")),
        }
    }

    fn create(&self, path: &Path, bytes: &[u8], ownership: &Ownership) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut file = File::from(self.at(path, flags, 0o600)?);
        let filled = (|| {
            file.write_all(bytes)?;
            let stat = fs::fstat(&file)?;
            if (stat.st_uid, stat.st_gid) != (ownership.uid, ownership.gid) {
                let (uid, gid) = (fs::Uid::from_raw(ownership.uid), fs::Gid::from_raw(ownership.gid));
                fs::fchown(&file, Some(uid), Some(gid))?;
            }
            // After the owner: chown clears set-uid bits.
            fs::fchmod(&file, Mode::from_raw_mode(ownership.mode))?;
            for (name, value) in &ownership.xattrs {
                fs::fsetxattr(&file, name.as_str(), value, fs::XattrFlags::empty())?;
            }
            file.sync_all()
        })();
        if filled.is_err() {
            // Half a file (a full disk) is worse than none; that it failed is what is reported.
            let _ = self.remove(path);
        }
        filled
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::from(self.at(path, OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND, 0o600)?);
        file.write_all(bytes)?;
        file.sync_data()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let ((from_folder, from), (to_folder, to)) = (self.parent(from)?, self.parent(to)?);
        Ok(fs::renameat(&from_folder, from, &to_folder, to)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (folder, name) = self.parent(path)?;
        Ok(fs::unlinkat(&folder, name, AtFlags::empty())?)
    }

    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<()> {
        let (folder, name) = self.parent(path)?;
        fs::mkdirat(&folder, name, Mode::from_raw_mode(0o700))?;
        // The umask is not asked: the mode is what the plan shows.
        let made = self.at(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, 0)?;
        Ok(fs::fchmod(&made, Mode::from_raw_mode(mode))?)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let (folder, name) = self.parent(path)?;
        Ok(fs::unlinkat(&folder, name, AtFlags::REMOVEDIR)?)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        Ok(fs::fsync(self.at(path, OFlags::RDONLY, 0)?)?)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        Ok(fs::fsync(self.at(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?)?)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let place = self.at(path, OFlags::PATH, 0)?;
        let (space, stat) = (fs::fstatvfs(&place)?, fs::fstat(&place)?);
        let read_only = space.f_flag.contains(fs::StatVfsMountFlags::RDONLY);
        Ok(Space { free: space.f_frsize * space.f_bfree, read_only, device: stat.st_dev })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let file = self.at(path, OFlags::RDWR | OFlags::CREATE, 0o600)?;
        match fs::flock(&file, fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Box::new(FileLock(file)))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn run(&self, program: &Program) -> io::Result<Finished> {
        let mut child = command(program).spawn()?;
        let finished = attend(&mut child, program);
        if finished.is_err() {
            // It is ours and has no reader any more; its end is all that is left to wait for.
            let _ = child.kill();
            let _ = child.wait();
        }
        finished
    }

    fn start(&self, program: &Program, output: &Path) -> io::Result<Box<dyn Process>> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let output = File::from(self.at(output, flags, 0o600)?);
        Ok(Box::new(Watched::start(program, output)?))
    }

    fn process(&self, pid: u32) -> io::Result<Box<dyn Process>> {
        Ok(Box::new(Watched::find(pid)?))
    }

    fn watch_folder(&self, path: &Path) -> io::Result<Box<dyn FolderWatch>> {
        if !self.is_running() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&events, path, inotify::WatchFlags::OPEN | inotify::WatchFlags::ONLYDIR)?;
        Ok(Box::new(Listing { events, listed: false }))
    }

    fn now(&self) -> Duration {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
    }

    fn uptime(&self) -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
    }

    fn pause(&self, at_most: Duration) {
        let timeout = timespec(at_most);
        let Some(events) = self.events.get_or_init(|| listen().ok()) else {
            let _ = poll(&mut [], Some(&timeout));
            return;
        };
        let ready = poll(&mut [PollFd::new(events, PollFlags::IN)], Some(&timeout));
        if ready.is_ok_and(|count| count > 0) {
            // What the event says does not matter: the state is read again. Empty the queue.
            let mut event = [0_u8; 8192];
            while rustix::net::recv(events, event.as_mut_slice(), RecvFlags::DONTWAIT).is_ok() {}
        }
    }
}

pub(super) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// The command of a program: its own process group, so that a deadline reaches its children too, and nothing of
/// our environment.
fn command(program: &Program) -> Command {
    let mut command = Command::new(&program.path);
    command
        .args(&program.args)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .env("HOME", "/root")
        .current_dir("/")
        .process_group(0)
        .stdin(if program.stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Feeds and reads a child until both its pipes close and it has ended, or the deadline passes.
fn attend(child: &mut Child, program: &Program) -> io::Result<Finished> {
    let end = Instant::now() + program.deadline;
    let stdin = child.stdin.take().map(|pipe| (pipe, program.stdin.clone()));
    let feeder = stdin.map(|(mut pipe, bytes)| {
        // A program that does not read its input closes the pipe: its own status tells.
        std::thread::spawn(move || drop(pipe.write_all(&bytes)))
    });
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let mut pipes = [out.map(OwnedFd::from), err.map(OwnedFd::from)];
    let mut texts = [Vec::new(), Vec::new()];
    let process = rustix::process::pidfd_open(pid(child)?, rustix::process::PidfdFlags::empty())?;
    let mut ended = false;
    while !ended || pipes.iter().any(Option::is_some) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let _ = rustix::process::kill_process_group(pid(child)?, rustix::process::Signal::KILL);
            child.wait()?;
            return Ok(finished(None, texts));
        }
        // A grandchild that keeps the pipes open (a daemon) does not hold us up once the program has ended.
        let left = if ended { left.min(Duration::from_millis(200)) } else { left };
        let mut waits = vec![PollFd::new(&process, PollFlags::IN)];
        waits.extend(pipes.iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        if ended {
            waits.remove(0);
        }
        match poll(&mut waits, Some(&timespec(left))) {
            Ok(0) if ended => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        drop(waits);
        for (pipe, text) in pipes.iter_mut().zip(&mut texts) {
            if pipe.as_ref().is_some_and(|open| !drain(open, text)) {
                *pipe = None;
            }
        }
        ended = ended || child.try_wait()?.is_some();
    }
    if let Some(feeder) = feeder {
        let _ = feeder.join();
    }
    Ok(finished(child.wait()?.code(), texts))
}

fn pid(child: &Child) -> io::Result<rustix::process::Pid> {
    let raw = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    raw.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a process without a number"))
}

/// Reads what is there; false when the pipe has closed.
fn drain(pipe: &OwnedFd, text: &mut Vec<u8>) -> bool {
    let mut wait = [PollFd::new(pipe, PollFlags::IN)];
    let mut piece = [0_u8; 16 << 10];
    while poll(&mut wait, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0) {
        match rustix::io::read(pipe.as_fd(), &mut piece) {
            Ok(0) => return false,
            Ok(count) => {
                let room = MAX_OUTPUT.saturating_sub(text.len()).min(count);
                text.extend_from_slice(&piece[..room]);
            }
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

fn finished(status: Option<i32>, [stdout, stderr]: [Vec<u8>; 2]) -> Finished {
    Finished { status, stdout, stderr }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Live {
        Live::open(Path::new("/")).unwrap()
    }

    #[test]
    fn a_link_does_not_lead_out_of_the_root() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        let root = Live::open(folder.path()).unwrap();
        assert_eq!(root.read(Path::new("/link")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(root.readlink(Path::new("/link")).unwrap(), Path::new("/etc/passwd"));
        assert!(root.read(Path::new("/../../../../etc/passwd")).is_err());
    }

    #[test]
    fn lines_come_whole_wherever_the_window_ends() {
        let folder = tempfile::tempdir().unwrap();
        let root = Live::open(folder.path()).unwrap();
        let long = "x".repeat(3 * WINDOW);
        let short = (0..20_000).map(|number| number.to_string()).collect::<Vec<_>>().join("\n") + "\n";
        for text in
            ["", "\n", "a", "a\n\nb\n", "\n\nlast", &short, &long, &format!("{short}{long}\n{short}{long}")]
        {
            std::fs::write(folder.path().join("list"), text).unwrap();
            let mut lines: Vec<String> = Vec::new();
            root.lines(Path::new("/list"), &mut |some| {
                assert!(some.is_empty() || some.ends_with(b"\n") || text.as_bytes().ends_with(some));
                lines.extend(String::from_utf8_lossy(some).lines().map(str::to_owned));
            })
            .unwrap();
            let wanted: Vec<&str> = text.lines().collect();
            assert_eq!(lines, wanted, "{} bytes", text.len());
        }
        assert!(root.lines(Path::new("/none"), &mut |_| panic!("no line")).is_err());
    }

    #[test]
    fn an_open_folder_tells_what_the_paths_tell() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = folder.path().join("device").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("class", "0x030000\n");
        put("list", "0\n1\n2\n");
        put("power/runtime_status", "active\n");
        put("large", &"x".repeat(3 * SMALL));
        put("page", &"x".repeat(SMALL));
        put("empty", "");
        for (link, to) in
            [("driver", "/drivers/a"), ("copy", "class"), ("out", "/etc/passwd"), ("away", "/proc")]
        {
            std::os::unix::fs::symlink(to, folder.path().join("device").join(link)).unwrap();
        }
        let root = Live::open(folder.path()).unwrap();
        let held = root.folder(Path::new("/device")).unwrap();
        for _ in 0..2 {
            assert_eq!(held.names().unwrap(), root.list(Path::new("/device")).unwrap());
        }
        let all = [
            "class",
            "list",
            "power/runtime_status",
            "large",
            "page",
            "empty",
            "copy",
            "out",
            "none",
            "driver",
            "away",
            "away/version",
            "..",
            ".",
            "../device/class",
        ];
        for name in all {
            let (path, kind) = (Path::new("/device").join(name), |error: io::Error| error.kind());
            assert_eq!(held.read(name).map_err(kind), root.read(&path).map_err(kind), "{name}");
            assert_eq!(held.link(name).map_err(kind), root.readlink(&path).map_err(kind), "{name}");
        }
        assert_eq!(held.read("copy").unwrap(), b"0x030000\n");
        let parts = held.parts("list").unwrap();
        assert_eq!((parts(2, 4).unwrap(), parts(1 << 40, 4).unwrap()), (b"1\n2\n".to_vec(), Vec::new()));
        assert!(root.folder(Path::new("/device/class")).is_err());
    }

    #[test]
    fn files_are_made_whole_and_not_over_others() {
        let folder = tempfile::tempdir().unwrap();
        let root = Live::open(folder.path()).unwrap();
        let owner = std::fs::metadata(folder.path()).unwrap();
        use std::os::unix::fs::MetadataExt;
        let ownership = Ownership { mode: 0o751, uid: owner.uid(), gid: owner.gid(), xattrs: vec![] };
        root.create(Path::new("/f"), b"one", &ownership).unwrap();
        assert_eq!(root.stat(Path::new("/f")).unwrap().ownership, ownership);
        let again = root.create(Path::new("/f"), b"two", &ownership).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(root.read(Path::new("/f")).unwrap(), b"one");
        root.append(Path::new("/f"), b" more").unwrap();
        root.rename(Path::new("/f"), Path::new("/g")).unwrap();
        assert_eq!(root.text(Path::new("/g")).unwrap(), "one more");
    }

    #[test]
    fn a_program_is_fed_and_read() {
        let mut cat = Program::new("/bin/cat", Duration::from_secs(20));
        cat.stdin = vec![b'x'; 300_000];
        let finished = here().run(&cat).unwrap();
        assert!(finished.ok());
        assert_eq!(finished.stdout, cat.stdin);
    }

    #[test]
    fn a_deadline_ends_a_program_and_its_children() {
        let slow = Program::new("/bin/sh", Duration::from_millis(300)).args(["-c", "sleep 100; true"]);
        let begun = Instant::now();
        assert_eq!(here().run(&slow).unwrap().status, None);
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_daemon_left_behind_does_not_hold_us() {
        let leaves = Program::new("/bin/sh", Duration::from_secs(60)).args(["-c", "sleep 3 & echo hi"]);
        let begun = Instant::now();
        let finished = here().run(&leaves).unwrap();
        assert_eq!((finished.status, finished.stdout.as_slice()), (Some(0), &b"hi\n"[..]));
        assert!(begun.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn who_lists_a_folder_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let mut watch = here().watch_folder(folder.path()).unwrap();
        std::fs::read(folder.path().join("file")).unwrap();
        assert!(!watch.listed(Duration::from_millis(50)));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(watch.listed(Duration::from_secs(20)));
    }

    #[test]
    fn a_lock_is_held_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = Live::open(folder.path()).unwrap();
        let held = root.lock(Path::new("/lock")).unwrap();
        assert!(held.is_some());
        assert!(root.lock(Path::new("/lock")).unwrap().is_none());
        drop(held);
        assert!(root.lock(Path::new("/lock")).unwrap().is_some());
    }
}
