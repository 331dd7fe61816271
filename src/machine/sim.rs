//! A simulated machine, in memory: files that a power cut takes back, and a Debian host's boot tools.
//!
//! What was written is seen at once, and is on the disk only after an fsync of the file and of its folder; a power
//! cut keeps any part of the rest, chosen by a seed. A fault can be set for any operation: the process is killed,
//! the power is cut, the disk says no. A tool that runs while gpuferry is killed goes on to its end, as a real one
//! does. It knows nothing of what it is used to test.

use super::{FileKind, Finished, Lock, Machine, Ownership, Program, Root, Space, Stat};
use crate::step::image;
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

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inode {
    kind: FileKind,
    bytes: Vec<u8>,
    /// What of the bytes a power cut leaves for sure.
    on_disk: Vec<u8>,
    ownership: Ownership,
}

/// A change of names that is not on the disk yet.
#[derive(Debug, Clone)]
struct Pending {
    folder: PathBuf,
    changes: Vec<(PathBuf, Option<usize>)>,
}

/// Names and what they name, on the disk and in memory.
#[derive(Debug, Clone)]
pub(crate) struct World {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    on_disk: BTreeMap<PathBuf, usize>,
    pending: Vec<Pending>,
    /// Operations so far.
    pub(crate) operations: u64,
    /// The fault, and the operation it happens at (the first is 1).
    pub(crate) fault: Option<(u64, Fault)>,
    /// True from a kill or a power cut until [`Sim::start`].
    pub(crate) dead: bool,
    /// Killed while a tool ran: it goes on first.
    orphan: bool,
    random: Random,
    /// Bytes free on the one filesystem.
    pub(crate) free: u64,
    /// Mounted read-only.
    pub(crate) read_only: bool,
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

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

impl World {
    fn find(&self, path: &Path) -> io::Result<&Inode> {
        self.names.get(path).map(|inode| &self.inodes[*inode]).ok_or_else(|| errno(2))
    }

    fn check_parent(&self, path: &Path) -> io::Result<()> {
        match self.find(&parent(path)) {
            Ok(inode) if inode.kind == FileKind::Folder => Ok(()),
            _ => Err(errno(2)),
        }
    }

    fn rename_entries(&mut self, folder: PathBuf, changes: Vec<(PathBuf, Option<usize>)>) {
        apply(&mut self.names, &changes);
        self.pending.push(Pending { folder, changes });
    }

    fn add(&mut self, path: &Path, kind: FileKind, bytes: &[u8], on_disk: &[u8], ownership: Ownership) {
        let inode = Inode { kind, bytes: bytes.to_vec(), on_disk: on_disk.to_vec(), ownership };
        self.inodes.push(inode);
        let change = (path.to_owned(), Some(self.inodes.len() - 1));
        self.rename_entries(parent(path), vec![change]);
    }

    fn create(&mut self, path: &Path, bytes: &[u8], ownership: &Ownership, torn: bool) -> io::Result<()> {
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

    fn append(&mut self, path: &Path, bytes: &[u8], torn: bool) -> io::Result<()> {
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

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = *self.names.get(from).ok_or_else(|| errno(2))?;
        self.check_parent(to)?;
        assert_eq!(parent(from), parent(to), "only renames within a folder are simulated");
        self.rename_entries(parent(to), vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]);
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        if self.find(path)?.kind == FileKind::Folder {
            return Err(errno(21));
        }
        self.rename_entries(parent(path), vec![(path.to_owned(), None)]);
        Ok(())
    }

    fn remove_folder(&mut self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        if self.names.keys().any(|name| name.parent() == Some(path)) {
            return Err(errno(39));
        }
        self.rename_entries(parent(path), vec![(path.to_owned(), None)]);
        Ok(())
    }

    fn sync_file(&mut self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        let inode = &mut self.inodes[self.names[path]];
        inode.on_disk.clone_from(&inode.bytes);
        Ok(())
    }

    fn sync_folder(&mut self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        for pending in std::mem::take(&mut self.pending) {
            if pending.folder == path {
                apply(&mut self.on_disk, &pending.changes);
            } else {
                self.pending.push(pending);
            }
        }
        Ok(())
    }

    /// Any part of what was not on the disk is lost.
    fn cut_power(&mut self) {
        self.dead = true;
        let mut names = std::mem::take(&mut self.on_disk);
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
        self.names.clone_from(&names);
        self.on_disk = names;
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

impl Sim {
    /// An empty machine.
    pub(crate) fn new(seed: u64) -> Self {
        let folder = Inode {
            kind: FileKind::Folder,
            bytes: vec![],
            on_disk: vec![],
            ownership: Ownership::root(0o755),
        };
        let names = BTreeMap::from([(PathBuf::from("/"), 0)]);
        Self(RefCell::new(World {
            inodes: vec![folder],
            on_disk: names.clone(),
            names,
            pending: Vec::new(),
            operations: 0,
            fault: None,
            dead: false,
            orphan: false,
            random: Random::new(seed),
            free: 1 << 30,
            read_only: false,
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
        world.add(Path::new(path), FileKind::File, bytes, bytes, Ownership::root(mode));
    }

    /// Puts a folder there that was there all along.
    pub(crate) fn put_folder(&self, path: &str) {
        let path = Path::new(path);
        for folder in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
            let mut world = self.0.borrow_mut();
            if !world.names.contains_key(folder) {
                world.add(folder, FileKind::Folder, b"", b"", Ownership::root(0o755));
            }
        }
    }

    /// Brings everything to the disk: what is there now was there all along.
    pub(crate) fn settle(&self) {
        let mut world = self.0.borrow_mut();
        world.pending.clear();
        world.on_disk = world.names.clone();
        for inode in &mut world.inodes {
            inode.on_disk.clone_from(&inode.bytes);
        }
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
        let names = world.names.iter().filter(|(path, _)| below(path));
        let node = |inode: usize| {
            let inode = &world.inodes[inode];
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
    fn operate(&self, act: impl FnOnce(&mut World, bool) -> io::Result<()>) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        if world.dead {
            return Err(killed());
        }
        world.operations += 1;
        world.clock += Duration::from_millis(3);
        let fault = world.fault.filter(|(at, _)| *at == world.operations).map(|(_, fault)| fault);
        if world.read_only {
            return Err(errno(30));
        }
        match fault {
            None => return act(&mut world, false),
            Some(Fault::Error(number)) => return Err(errno(number)),
            Some(Fault::KilledBefore) => world.dead = true,
            Some(Fault::KilledAfter) => {
                let _ = act(&mut world, false);
                world.dead = true;
            }
            Some(Fault::PowerBefore) => world.cut_power(),
            Some(Fault::PowerDuring | Fault::PowerAfter) => {
                let _ = act(&mut world, fault == Some(Fault::PowerDuring));
                world.cut_power();
            }
        }
        Err(killed())
    }

    /// One operation of a tool: a kill of gpuferry does not stop it.
    fn tool(&self, act: impl FnOnce(&mut World) -> io::Result<()>) -> io::Result<()> {
        {
            let mut world = self.0.borrow_mut();
            let next = world.operations + 1;
            if matches!(world.fault, Some((at, Fault::KilledBefore | Fault::KilledAfter)) if at == next) {
                world.orphan = true;
                world.fault = None;
            }
        }
        self.operate(|world, _| act(world))
    }
}

impl Root for Sim {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.alive(|world| match world.find(path)? {
            inode if inode.kind == FileKind::File => Ok(inode.bytes.clone()),
            _ => Err(errno(21)),
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.alive(|world| {
            world.find(path)?;
            let inside = world.names.keys().filter(|name| name.parent() == Some(path));
            Ok(inside.filter_map(|name| Some(name.file_name()?.to_owned())).collect())
        })
    }

    fn readlink(&self, _path: &Path) -> io::Result<PathBuf> {
        Err(errno(22))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.alive(|world| {
            let inode = world.find(path)?;
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
        self.operate(|world, torn| world.create(path, bytes, ownership, torn))
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.operate(|world, torn| world.append(path, bytes, torn))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(|world, _| world.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operate(|world, _| world.remove(path))
    }

    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.operate(|world, _| {
            world.check_parent(path)?;
            if world.names.contains_key(path) {
                return Err(errno(17));
            }
            world.add(path, FileKind::Folder, b"", b"", Ownership::root(mode));
            Ok(())
        })
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.operate(|world, _| world.remove_folder(path))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.operate(|world, _| world.sync_file(path))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.operate(|world, _| world.sync_folder(path))
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.alive(|world| {
            world.find(path)?;
            Ok(Space { free: world.free, read_only: world.read_only, device: 1 })
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        if !self.exists(path) {
            self.operate(|world, _| world.append(path, b"", false))?;
        }
        self.alive(|_| Ok(Some(Box::new(Held) as Box<dyn Lock>)))
    }

    fn run(&self, program: &Program) -> io::Result<Finished> {
        let words: Vec<String> = std::iter::once(program.path.to_string_lossy().into_owned())
            .chain(program.args.iter().map(|arg| arg.to_string_lossy().into_owned()))
            .collect();
        self.operate(|_, _| Ok(()))?;
        let has = |name: &str| words.iter().any(|word| word == name);
        let made = if has("/usr/sbin/update-initramfs") {
            let kernel = words.last().cloned().unwrap_or_default();
            let folder = words.iter().find_map(|word| word.strip_prefix("TMPDIR=")).unwrap_or("/var/tmp");
            self.update_initramfs(&kernel, Path::new(folder)).map(|()| Vec::new())
        } else if has("/usr/sbin/grub-mkconfig") {
            self.grub_mkconfig().map(String::into_bytes)
        } else if has("/usr/bin/grub-script-check") {
            if program.stdin.is_empty() { Err(errno(22)) } else { Ok(Vec::new()) }
        } else {
            return Err(errno(2));
        };
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

/// Debian's tools, as far as the order of their writes goes (initramfs-tools 0.142, GRUB 2.06).
impl Sim {
    /// `update-initramfs -u -k KERNEL`: keeps the old image as a link, writes IMAGE.new in pieces, renames.
    pub(crate) fn update_initramfs(&self, kernel: &str, folder: &Path) -> io::Result<()> {
        let image = PathBuf::from(format!("/boot/initrd.img-{kernel}"));
        let with = |end: &str| PathBuf::from(format!("/boot/initrd.img-{kernel}{end}"));
        let (new, bak) = (with(".new"), with(".dpkg-bak"));
        let work = folder.join("mkinitramfs_x");
        let bytes = self.image(kernel)?;
        let file = Ownership::root(0o644);
        let linked = self.exists(&image);
        if linked {
            self.tool(|world| {
                let inode = world.names[&image];
                world.rename_entries(PathBuf::from("/boot"), vec![(bak.clone(), Some(inode))]);
                Ok(())
            })?;
        }
        let made = (|| {
            self.tool(|world| world.create(&work, b"modules", &file, false))?;
            if self.exists(&new) {
                self.tool(|world| world.remove(&new))?;
            }
            let (one, two) = bytes.split_at(bytes.len() / 2);
            self.tool(|world| {
                world.create(&new, one, &file, false)?;
                let inode = world.names[&new];
                world.inodes[inode].on_disk.clear();
                Ok(())
            })?;
            self.tool(|world| {
                let inode = world.names[&new];
                world.inodes[inode].bytes.extend(two);
                Ok(())
            })
        })();
        if made.is_err() {
            // Its traps clean up after an error; after a power cut nobody does.
            for path in [&new, &work].into_iter().chain(linked.then_some(&bak)) {
                if self.exists(path) {
                    self.tool(|world| world.remove(path))?;
                }
            }
            return made;
        }
        self.tool(|world| world.remove(&work))?;
        self.tool(|world| world.rename(&new, &image))?;
        self.tool(|world| {
            world.sync_file(&image)?;
            world.sync_folder(Path::new("/boot"))
        })?;
        if linked {
            self.tool(|world| world.remove(&bak))?;
        }
        Ok(())
    }

    /// What mkinitramfs would pack from the sources.
    fn image(&self, kernel: &str) -> io::Result<Vec<u8>> {
        let scripts = Path::new("/etc/initramfs-tools/scripts/init-top");
        let mut names = vec!["udev".to_owned()];
        let mut files = vec![("init".to_owned(), kernel.as_bytes().to_vec())];
        for name in self.list(scripts).unwrap_or_default() {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with('.') {
                files.push((format!("scripts/init-top/{name}"), self.read(&scripts.join(&name))?));
                names.push(name);
            }
        }
        names.sort();
        let mut order = String::new();
        for name in &names {
            order += &[
                "/scripts/init-top/",
                name,
                " \"$@\"
",
            ]
            .concat();
        }
        files.push(("scripts/init-top/ORDER".to_owned(), order.into_bytes()));
        let hook = Path::new("/etc/initramfs-tools/hooks/gpuferry");
        if self.exists(hook) && self.text(hook)?.contains("vfio-pci") {
            files.push((format!("usr/lib/modules/{kernel}/vfio-pci.ko"), b"module".to_vec()));
        }
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        Ok(image::pack(&files))
    }

    /// `grub-mkconfig`, to standard output.
    pub(crate) fn grub_mkconfig(&self) -> io::Result<String> {
        let folder = Path::new("/etc/default/grub.d");
        let mut sources = vec![PathBuf::from("/etc/default/grub")];
        let drop_ins = self.list(folder).unwrap_or_default();
        let drop_ins = drop_ins.iter().map(|name| name.to_string_lossy().into_owned());
        sources.extend(
            drop_ins
                .filter(|name| {
                    Path::new(name).extension().is_some_and(|end| end == "cfg") && !name.starts_with('.')
                })
                .map(|name| folder.join(name)),
        );
        let mut words = String::new();
        for source in sources {
            for line in self.text(&source)?.lines() {
                if let Some(value) = line.strip_prefix("GRUB_CMDLINE_LINUX_DEFAULT=") {
                    words = value.trim_matches('"').replace("$GRUB_CMDLINE_LINUX_DEFAULT", &words);
                }
            }
        }
        let mut text = String::from("# made by grub-mkconfig\n");
        for name in self.list(Path::new("/boot"))? {
            let Some(kernel) = name.to_str().and_then(|name| name.strip_prefix("vmlinuz-")) else { continue };
            for (id, words) in [("advanced", words.as_str()), ("recovery", "single")] {
                let entry = format!(
                    "menuentry 'Linux {kernel} {id}' $menuentry_id_option 'gnulinux-{kernel}-{id}-u' {{\n\
                     \tlinux /boot/vmlinuz-{kernel} root=UUID=u ro {words}\n}}\n"
                );
                text += &entry;
            }
        }
        Ok(text)
    }
}
