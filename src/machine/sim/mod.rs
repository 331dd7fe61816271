//! A simulated machine, in memory: files that a power cut takes back, a Debian host's boot tools, and a kernel with
//! PCI functions, drivers and consoles.
//!
//! A fault can be set for any operation: the process is killed, the power is cut, the disk says no. A tool that
//! runs while gpuferry is killed goes on to its end, as a real one does. A write that waits returns when what it
//! waits for has happened in simulated time; one that waits for ever leaves its process stuck, with its locks held.
//! It knows nothing of what it is used to test.

mod disk;
pub(crate) mod fbcon;
pub(crate) mod kernel;
mod sequences;
mod sysfs;
mod tools;
mod tree;
pub(crate) mod units;

use super::{
    FileKind, Finished, Lock, Machine, Ownership, Program, Root, Space, Stat,
    process::{End, Process},
};
use disk::{Disk, errno};
use kernel::Kernel;
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    rc::Rc,
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
#[allow(clippy::struct_excessive_bools, reason = "each is a thing that has happened or not")]
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
    /// What a dead process thinks has passed since: its waits end, the world's clock does not move.
    ghost: Duration,
    /// The kernel, where one is simulated.
    pub(crate) kernel: Option<Kernel>,
    /// Locks on files, and those of a process that will never let go.
    locks: BTreeSet<PathBuf>,
    stuck_locks: BTreeSet<PathBuf>,
    /// A write that will never return has left its process stuck.
    pub(crate) stuck: bool,
    /// Somebody read what only the holder of a device lock gets an answer to.
    pub(crate) hung_reader: bool,
    /// Processes that were sent a signal.
    pub(crate) signalled: Vec<u32>,
}

/// What others do while a write hangs.
type Interlude = Rc<dyn Fn(&Sim)>;

/// The simulated machine.
pub(crate) struct Sim {
    pub(crate) world: Rc<RefCell<World>>,
    interlude: RefCell<Option<Interlude>>,
}

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.world.fmt(f)
    }
}

/// A file, folder or link of [`Sim::tree`].
pub(crate) type Node = (String, Vec<u8>, u32, u32);

fn killed() -> io::Error {
    io::Error::other("killed")
}

/// What a fault leaves to be done after its operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    Die,
    /// The power goes; torn: in the middle.
    Cut {
        torn: bool,
    },
}

impl World {
    fn cut_power(&mut self) {
        self.dead = true;
        self.stuck = false;
        self.disk.cut_power();
        (self.locks, self.stuck_locks) = (BTreeSet::new(), BTreeSet::new());
    }

    fn advance(&mut self, by: Duration) {
        if self.dead {
            self.ghost += by;
            return;
        }
        self.clock += by;
        let now = self.clock;
        if let Some(kernel) = &mut self.kernel {
            kernel.happen(now);
        }
    }

    /// An operation begins: it is counted, and may meet the fault.
    fn begin(&mut self) -> io::Result<Then> {
        if self.dead {
            return Err(killed());
        }
        self.operations += 1;
        self.advance(Duration::from_millis(3));
        match self.fault.filter(|(at, _)| *at == self.operations).map(|(_, fault)| fault) {
            None => return Ok(Then::Nothing),
            Some(Fault::Error(number)) => return Err(errno(number)),
            Some(Fault::KilledAfter) => return Ok(Then::Die),
            Some(Fault::PowerDuring) => return Ok(Then::Cut { torn: true }),
            Some(Fault::PowerAfter) => return Ok(Then::Cut { torn: false }),
            Some(Fault::KilledBefore) => self.dead = true,
            Some(Fault::PowerBefore) => self.cut_power(),
        }
        Err(killed())
    }

    /// It ends.
    fn end<T>(&mut self, then: Then, done: io::Result<T>) -> io::Result<T> {
        match then {
            Then::Nothing => return done,
            Then::Die => self.dead = true,
            Then::Cut { .. } => self.cut_power(),
        }
        Err(killed())
    }

    fn kernel(&mut self) -> io::Result<&mut Kernel> {
        self.kernel.as_mut().ok_or_else(|| errno(2))
    }
}

impl Sim {
    /// An empty machine.
    pub(crate) fn new(seed: u64) -> Self {
        let world = World {
            disk: Disk::new(seed),
            operations: 0,
            fault: None,
            dead: false,
            orphan: false,
            clock: Duration::from_secs(1_700_000_000),
            ghost: Duration::ZERO,
            kernel: None,
            locks: BTreeSet::new(),
            stuck_locks: BTreeSet::new(),
            stuck: false,
            hung_reader: false,
            signalled: Vec::new(),
        };
        Self { world: Rc::new(RefCell::new(world)), interlude: RefCell::default() }
    }

    /// The same machine once more.
    pub(crate) fn copy(&self) -> Self {
        let world = Rc::new(RefCell::new(self.world.borrow().clone()));
        Self { world, interlude: RefCell::default() }
    }

    /// What others do the next time that a write hangs.
    pub(crate) fn meanwhile(&self, act: impl Fn(&Sim) + 'static) {
        *self.interlude.borrow_mut() = Some(Rc::new(act));
    }

    /// Looks at the kernel.
    pub(crate) fn kernel<T>(&self, look: impl FnOnce(&mut Kernel) -> T) -> T {
        look(self.world.borrow_mut().kernel.as_mut().unwrap())
    }

    /// A kernel that has just booted takes the place of the one that was.
    pub(crate) fn boot(&self, mut kernel: Kernel) {
        let mut world = self.world.borrow_mut();
        kernel.boot = world.kernel.as_ref().map_or(1, |old| old.boot + 1);
        world.kernel = Some(kernel);
        (world.locks, world.stuck_locks) = (BTreeSet::new(), BTreeSet::new());
        (world.stuck, world.hung_reader) = (false, false);
    }

    /// Puts a file there that was there all along, with the folders above it.
    pub(crate) fn put(&self, path: &str, bytes: &[u8], mode: u32) {
        self.put_folder(Path::new(path).parent().unwrap().to_str().unwrap());
        let mut world = self.world.borrow_mut();
        world.disk.add(Path::new(path), FileKind::File, bytes, bytes, Ownership::root(mode));
    }

    /// Puts a folder there that was there all along.
    pub(crate) fn put_folder(&self, path: &str) {
        let path = Path::new(path);
        for folder in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
            let mut world = self.world.borrow_mut();
            if !world.disk.names.contains_key(folder) {
                world.disk.add(folder, FileKind::Folder, b"", b"", Ownership::root(0o755));
            }
        }
    }

    /// Brings everything to the disk: what is there now was there all along.
    pub(crate) fn settle(&self) {
        let mut world = self.world.borrow_mut();
        world.disk.settle();
        world.operations = 0;
    }

    /// Starts a killed process, or a machine whose power was cut, again; no fault is set any more.
    pub(crate) fn start(&self) {
        let mut world = self.world.borrow_mut();
        (world.dead, world.orphan, world.fault, world.ghost) = (false, false, None, Duration::ZERO);
        world.operations = 0;
    }

    /// Everything below some folders: path, then kind, bytes, mode and owner.
    pub(crate) fn tree(&self, below: &[&str]) -> BTreeMap<PathBuf, Node> {
        let world = self.world.borrow();
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
        let world = self.world.borrow();
        if world.dead { Err(killed()) } else { look(&world) }
    }

    /// One operation on files of gpuferry's. `act` is told whether to tear.
    fn operate(&self, act: impl FnOnce(&mut Disk, bool) -> io::Result<()>) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        let then = world.begin()?;
        let done = act(&mut world.disk, then == Then::Cut { torn: true });
        world.end(then, done)
    }

    /// One operation on the kernel, which may have to wait: it is tried again after everything that happens.
    fn enter<T>(
        &self,
        mut attempt: impl FnMut(&mut Kernel, Duration) -> Option<io::Result<T>>,
    ) -> io::Result<T> {
        let then = self.world.borrow_mut().begin()?;
        loop {
            let mut world = self.world.borrow_mut();
            let now = world.clock;
            if let Some(done) = attempt(world.kernel()?, now) {
                return world.end(then, done);
            }
            let interlude = self.interlude.borrow_mut().take();
            if let Some(interlude) = interlude {
                let (fault, operations) = (world.fault.take(), world.operations);
                drop(world);
                interlude(self);
                world = self.world.borrow_mut();
                (world.fault, world.operations, world.dead) = (fault, operations, false);
            }
            let Some(next) = world.kernel()?.next_event(now) else {
                (world.stuck, world.dead) = (true, true);
                let held = std::mem::take(&mut world.locks);
                world.stuck_locks.extend(held);
                return Err(killed());
            };
            world.advance(next.saturating_sub(now));
        }
    }

    /// What the kernel shows at a path; `None`: the path is a file's.
    fn shown<T>(&self, path: &Path, last: bool, with: impl FnOnce(tree::Seen) -> T) -> io::Result<Option<T>> {
        if !sysfs::is_shown(path) {
            return Ok(None);
        }
        self.alive(|world| {
            let Some(kernel) = &world.kernel else { return Ok(None) };
            kernel.look(path, last, with).map(Some).ok_or_else(|| errno(2))
        })
    }

    /// The function whose lock a read of this attribute takes, where somebody holds it.
    fn locked(&self, path: &Path) -> bool {
        let world = self.world.borrow();
        let Some(kernel) = world.kernel.as_ref().filter(|kernel| kernel.is_hung()) else { return false };
        let address =
            path.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
        path.ends_with("driver_override") && kernel.find(address).is_some_and(|index| kernel.is_locked(index))
    }

    /// One operation of a tool: a kill of gpuferry does not stop it.
    fn tool(&self, act: impl FnOnce(&mut Disk) -> io::Result<()>) -> io::Result<()> {
        {
            let mut world = self.world.borrow_mut();
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
        if self.locked(path) {
            let mut world = self.world.borrow_mut();
            (world.hung_reader, world.dead) = (true, true);
            return Err(killed());
        }
        if let Some(seen) = self.shown(path, true, sysfs::text)? {
            return seen.ok_or_else(|| errno(21));
        }
        self.alive(|world| match world.disk.find(path)? {
            inode if inode.kind == FileKind::File => Ok(inode.bytes.clone()),
            _ => Err(errno(21)),
        })
    }

    fn may_hang(&self) -> bool {
        true
    }

    fn read_apart(&self, paths: &[PathBuf]) -> Vec<io::Result<Vec<u8>>> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "late");
        paths.iter().map(|path| if self.locked(path) { Err(late()) } else { self.read(path) }).collect()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let names =
            |seen: tree::Seen| seen.names().map(|names| names.into_iter().map(OsString::from).collect());
        if let Some(names) = self.shown(path, true, names)? {
            return names;
        }
        self.alive(|world| {
            world.disk.find(path)?;
            let inside = world.disk.names.keys().filter(|name| name.parent() == Some(path));
            Ok(inside.filter_map(|name| Some(name.file_name()?.to_owned())).collect())
        })
    }

    fn readlink(&self, path: &Path) -> io::Result<PathBuf> {
        let target = |seen: tree::Seen| match seen.node() {
            Some(tree::Node::Link(target)) => Ok(PathBuf::from(target)),
            _ => Err(errno(22)),
        };
        self.shown(path, false, target)?.unwrap_or_else(|| Err(errno(22)))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let stat = |seen: tree::Seen| {
            let kind = match seen.node() {
                Some(tree::Node::Link(_)) => FileKind::Link,
                Some(tree::Node::File(_)) => FileKind::File,
                _ => FileKind::Folder,
            };
            Stat { kind, size: 4096, ownership: Ownership::root(0o644) }
        };
        if let Some(stat) = self.shown(path, false, stat)? {
            return Ok(stat);
        }
        self.alive(|world| {
            let inode = world.disk.find(path)?;
            let size = inode.bytes.len() as u64;
            Ok(Stat { kind: inode.kind, size, ownership: inode.ownership.clone() })
        })
    }
}

struct Held {
    world: Rc<RefCell<World>>,
    path: PathBuf,
}

impl Lock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        self.world.borrow_mut().locks.remove(&self.path);
    }
}

/// A process of the host's, by its number.
struct Known {
    world: Rc<RefCell<World>>,
    pid: u32,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}", self.pid)
    }
}

impl Process for Known {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn wait(&mut self, at_most: Duration) -> Option<End> {
        let mut world = self.world.borrow_mut();
        world.advance(at_most);
        let runs = world.kernel.as_ref().is_some_and(|kernel| kernel.processes.contains_key(&self.pid));
        if runs { None } else { Some(End::Unknown) }
    }

    fn terminate(&self) {
        let mut world = self.world.borrow_mut();
        world.signalled.push(self.pid);
        let pid = self.pid;
        if let Ok(kernel) = world.kernel() {
            if kernel.processes.get(&pid).is_some_and(|process| !process.stubborn) {
                kernel.end(pid);
            }
        }
    }

    fn kill(&self) {
        panic!("{} was killed: nobody may be", self.pid);
    }
}

impl Machine for Sim {
    fn write_attribute(&self, path: &Path, value: &str) -> io::Result<()> {
        let mut task = None;
        let path = path.to_str().unwrap();
        self.enter(|kernel, now| {
            let task = task.get_or_insert_with(|| kernel.begin(path, value));
            kernel.go_on(task, now)
        })
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
            disk.check_writable(path)?;
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
        let mut world = self.world.borrow_mut();
        if world.dead {
            return Err(killed());
        }
        if world.stuck_locks.contains(path) || !world.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(Held { world: Rc::clone(&self.world), path: path.to_owned() })))
    }

    fn run(&self, program: &Program) -> io::Result<Finished> {
        let words: Vec<String> = std::iter::once(program.path.to_string_lossy().into_owned())
            .chain(program.args.iter().map(|arg| arg.to_string_lossy().into_owned()))
            .collect();
        let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        let ended = |(status, stdout, stderr): (i32, String, String)| Finished {
            status: Some(status),
            stdout: stdout.into_bytes(),
            stderr: stderr.into_bytes(),
        };
        match words[0].as_str() {
            "/sbin/modprobe" => {
                return self.enter(|kernel, _| {
                    let (status, said) = kernel.modprobe(&args)?;
                    Some(Ok(ended((status, String::new(), said))))
                });
            }
            "/sbin/rmmod" => {
                return self.enter(|kernel, now| {
                    let (status, said) = kernel.rmmod(&args, now)?;
                    Some(Ok(ended((status, String::new(), said))))
                });
            }
            "/usr/bin/loginctl" => return self.enter(|kernel, _| Some(Ok(ended(kernel.loginctl(&args))))),
            "/usr/bin/systemctl" => return self.enter(|kernel, _| Some(Ok(ended(kernel.systemctl(&args))))),
            _ => {}
        }
        self.operate(|_, _| Ok(()))?;
        let made = self.debian_tool(program, &words).ok_or_else(|| errno(2))?;
        let mut world = self.world.borrow_mut();
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

    fn process(&self, pid: u32) -> io::Result<Box<dyn Process>> {
        let found = self.alive(|world| {
            Ok(world.kernel.as_ref().is_some_and(|kernel| kernel.processes.contains_key(&pid)))
        })?;
        if !found {
            return Err(errno(3));
        }
        Ok(Box::new(Known { world: Rc::clone(&self.world), pid }))
    }

    fn now(&self) -> Duration {
        self.uptime()
    }

    fn uptime(&self) -> Duration {
        let world = self.world.borrow();
        world.clock + world.ghost
    }

    fn pause(&self, at_most: Duration) {
        self.world.borrow_mut().advance(at_most);
    }
}
