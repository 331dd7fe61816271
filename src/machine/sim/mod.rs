//! A simulated machine, in memory: files that a power cut takes back, and a Debian host's boot tools.
//!
//! A fault can be set for any operation: the process is killed, the power is cut, the disk says no. A tool that
//! runs while gpuferry is killed goes on to its end, as a real one does. It knows nothing of what it is used to
//! test.

mod disk;
mod tools;

use super::{FileKind, Finished, Lock, Machine, Ownership, Program, Root, Space, Stat};
use disk::{Disk, errno};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// What goes wrong at an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9` just before it.
    KilledBefore,
    /// `kill -9` just after it.
    KilledAfter,
    /// The power goes just before it.
    PowerBefore,
    /// The power goes in the middle of it: a write is torn.
    PowerDuring,
    /// The power goes just after it.
    PowerAfter,
    /// It fails with this error number, and everything goes on.
    Error(i32),
}

/// A small random number generator (xorshift64*): the same seed is the same world.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end.max(1)
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// Everything that is simulated.
#[derive(Debug, Clone)]
pub(crate) struct World {
    /// The files.
    pub(crate) disk: Disk,
    /// Operations so far.
    pub(crate) operations: u64,
    /// The fault, and the operation it happens at (the first is 1).
    pub(crate) fault: Option<(u64, Fault)>,
    /// True from a kill or a power cut until [`Sim::start`].
    pub(crate) dead: bool,
    /// Killed while a tool ran: it goes on first.
    orphan: bool,
    clock: Duration,
}

/// The simulated machine.
#[derive(Debug)]
pub(crate) struct Sim(pub(crate) RefCell<World>);

/// A file, folder or link of [`Sim::tree`].
pub(crate) type Node = (String, Vec<u8>, u32, u32);

fn killed() -> io::Error {
    io::Error::other("killed")
}

impl World {
    fn cut_power(&mut self) {
        self.dead = true;
        self.disk.cut_power();
    }
}

impl Sim {
    /// An empty machine.
    pub(crate) fn new(seed: u64) -> Self {
        Self(RefCell::new(World {
            disk: Disk::new(seed),
            operations: 0,
            fault: None,
            dead: false,
            orphan: false,
            clock: Duration::from_secs(1_700_000_000),
        }))
    }

    /// The same machine once more.
    pub(crate) fn copy(&self) -> Self {
        Self(RefCell::new(self.0.borrow().clone()))
    }

    /// Puts a file there that was there all along, with the folders above it.
    pub(crate) fn put(&self, path: &str, bytes: &[u8], mode: u32) {
        self.put_folder(Path::new(path).parent().unwrap().to_str().unwrap());
        let mut world = self.0.borrow_mut();
        world.disk.add(Path::new(path), FileKind::File, bytes, bytes, Ownership::root(mode));
    }

    /// Puts a folder there that was there all along.
    pub(crate) fn put_folder(&self, path: &str) {
        let path = Path::new(path);
        for folder in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
            let mut world = self.0.borrow_mut();
            if !world.disk.names.contains_key(folder) {
                world.disk.add(folder, FileKind::Folder, b"", b"", Ownership::root(0o755));
            }
        }
    }

    /// Brings everything to the disk: what is there now was there all along.
    pub(crate) fn settle(&self) {
        let mut world = self.0.borrow_mut();
        world.disk.settle();
        world.operations = 0;
    }

    /// Starts a killed process, or a machine whose power was cut, again; no fault is set any more.
    pub(crate) fn start(&self) {
        let mut world = self.0.borrow_mut();
        (world.dead, world.orphan, world.fault) = (false, false, None);
        world.operations = 0;
    }

    /// Everything below some folders: path, then kind, bytes, mode and owner.
    pub(crate) fn tree(&self, below: &[&str]) -> BTreeMap<PathBuf, Node> {
        let world = self.0.borrow();
        let below = |path: &Path| below.iter().any(|folder| path.starts_with(folder));
        let names = world.disk.names.iter().filter(|(path, _)| below(path));
        let node = |inode: usize| {
            let inode = &world.disk.inodes[inode];
            let owner = &inode.ownership;
            (format!("{:?}", inode.kind), inode.bytes.clone(), owner.mode, owner.uid)
        };
        names.map(|(path, inode)| (path.clone(), node(*inode))).collect()
    }

    fn alive<T>(&self, look: impl FnOnce(&World) -> io::Result<T>) -> io::Result<T> {
        let world = self.0.borrow();
        if world.dead { Err(killed()) } else { look(&world) }
    }

    /// One operation of gpuferry's: counted, and the one that may meet the fault. `act` is told whether to tear.
    fn operate(&self, act: impl FnOnce(&mut Disk, bool) -> io::Result<()>) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        if world.dead {
            return Err(killed());
        }
        world.operations += 1;
        world.clock += Duration::from_millis(3);
        let fault = world.fault.filter(|(at, _)| *at == world.operations).map(|(_, fault)| fault);
        if world.disk.read_only {
            return Err(errno(30));
        }
        match fault {
            None => return act(&mut world.disk, false),
            Some(Fault::Error(number)) => return Err(errno(number)),
            Some(Fault::KilledBefore) => world.dead = true,
            Some(Fault::KilledAfter) => {
                let _ = act(&mut world.disk, false);
                world.dead = true;
            }
            Some(Fault::PowerBefore) => world.cut_power(),
            Some(Fault::PowerDuring | Fault::PowerAfter) => {
                let _ = act(&mut world.disk, fault == Some(Fault::PowerDuring));
                world.cut_power();
            }
        }
        Err(killed())
    }

    /// One operation of a tool: a kill of gpuferry does not stop it.
    fn tool(&self, act: impl FnOnce(&mut Disk) -> io::Result<()>) -> io::Result<()> {
        {
            let mut world = self.0.borrow_mut();
            let next = world.operations + 1;
            if matches!(world.fault, Some((at, Fault::KilledBefore | Fault::KilledAfter)) if at == next) {
                world.orphan = true;
                world.fault = None;
            }
        }
        self.operate(|disk, _| act(disk))
    }
}

impl Root for Sim {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.alive(|world| match world.disk.find(path)? {
            inode if inode.kind == FileKind::File => Ok(inode.bytes.clone()),
            _ => Err(errno(21)),
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.alive(|world| {
            world.disk.find(path)?;
            let inside = world.disk.names.keys().filter(|name| name.parent() == Some(path));
            Ok(inside.filter_map(|name| Some(name.file_name()?.to_owned())).collect())
        })
    }

    fn readlink(&self, _path: &Path) -> io::Result<PathBuf> {
        Err(errno(22))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.alive(|world| {
            let inode = world.disk.find(path)?;
            let size = inode.bytes.len() as u64;
            Ok(Stat { kind: inode.kind, size, ownership: inode.ownership.clone() })
        })
    }
}

struct Held;
impl Lock for Held {}

impl Machine for Sim {
    fn write_attribute(&self, _path: &Path, _value: &str) -> io::Result<()> {
        Err(errno(2))
    }

    fn create(&self, path: &Path, bytes: &[u8], ownership: &Ownership) -> io::Result<()> {
        self.operate(|disk, torn| disk.create(path, bytes, ownership, torn))
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.operate(|disk, torn| disk.append(path, bytes, torn))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(|disk, _| disk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operate(|disk, _| disk.remove(path))
    }

    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.operate(|disk, _| {
            disk.check_parent(path)?;
            if disk.names.contains_key(path) {
                return Err(errno(17));
            }
            disk.add(path, FileKind::Folder, b"", b"", Ownership::root(mode));
            Ok(())
        })
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.operate(|disk, _| disk.remove_folder(path))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.operate(|disk, _| disk.sync_file(path))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.operate(|disk, _| disk.sync_folder(path))
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.alive(|world| {
            world.disk.find(path)?;
            Ok(Space { free: world.disk.free, read_only: world.disk.read_only, device: 1 })
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        if !self.exists(path) {
            self.operate(|disk, _| disk.append(path, b"", false))?;
        }
        self.alive(|_| Ok(Some(Box::new(Held) as Box<dyn Lock>)))
    }

    fn run(&self, program: &Program) -> io::Result<Finished> {
        let words: Vec<String> = std::iter::once(program.path.to_string_lossy().into_owned())
            .chain(program.args.iter().map(|arg| arg.to_string_lossy().into_owned()))
            .collect();
        self.operate(|_, _| Ok(()))?;
        let made = self.debian_tool(program, &words).ok_or_else(|| errno(2))?;
        let mut world = self.0.borrow_mut();
        if world.orphan {
            world.dead = true;
        }
        if world.dead {
            return Err(killed());
        }
        Ok(match made {
            Ok(stdout) => Finished { status: Some(0), stdout, stderr: Vec::new() },
            Err(error) => {
                Finished { status: Some(1), stdout: vec![], stderr: error.to_string().into_bytes() }
            }
        })
    }

    fn now(&self) -> Duration {
        self.0.borrow().clock
    }

    fn uptime(&self) -> Duration {
        self.0.borrow().clock
    }

    fn pause(&self, at_most: Duration) {
        self.0.borrow_mut().clock += at_most;
    }
}
