//! Small machines for tests, in the words of the facts. Only for tests.

use super::{
    CpuVendor, DiskUse, Function, Host, Interface, Known, Purpose, Source, Virtualization,
    config::{Acs, Config, Controls, Express, PortKind},
};
use crate::{
    machine::{FileKind, Ownership, Root, Stat},
    pci::{Address, DeviceId},
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

/// A saved tree in memory. Links are kept as they are and not followed.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug)]
enum Entry {
    File(Vec<u8>),
    Folder,
    Link(PathBuf),
    Forbidden,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A file with these bytes, and the folders above it. What is below it turns it into a folder.
    pub(crate) fn file(&mut self, path: &str, bytes: impl AsRef<[u8]>) {
        self.put(path, Entry::File(bytes.as_ref().to_vec()));
    }

    /// An empty folder.
    pub(crate) fn folder(&mut self, path: &str) {
        self.put(path, Entry::Folder);
    }

    /// A link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.put(path, Entry::Link(target.into()));
    }

    /// Something that may not be read.
    pub(crate) fn forbid(&mut self, path: &str) {
        self.entries.retain(|other, _| !other.starts_with(path));
        self.put(path, Entry::Forbidden);
    }

    /// The same tree below a folder of this machine.
    pub(crate) fn plant(&self, below: &Path) {
        for (path, entry) in &self.entries {
            let path = below.join(path.strip_prefix("/").unwrap());
            match entry {
                Entry::File(bytes) => std::fs::write(path, bytes).unwrap(),
                Entry::Folder => std::fs::create_dir_all(path).unwrap(),
                Entry::Link(target) => std::os::unix::fs::symlink(target, path).unwrap(),
                Entry::Forbidden => panic!("root may read everything"),
            }
        }
    }

    fn put(&mut self, path: &str, entry: Entry) {
        for folder in Path::new(path).ancestors().skip(1) {
            self.entries.entry(folder.to_owned()).or_insert(Entry::Folder);
        }
        self.entries.insert(path.into(), entry);
    }

    fn find(&self, path: &Path) -> io::Result<&Entry> {
        match self.entries.get(path) {
            Some(Entry::Forbidden) => Err(io::ErrorKind::PermissionDenied.into()),
            found => found.ok_or_else(|| io::Error::from_raw_os_error(2)),
        }
    }
}

impl Root for Tree {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self.find(path)? {
            Entry::File(bytes) => Ok(bytes.clone()),
            _ => Err(io::Error::from_raw_os_error(21)),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.find(path)?;
        let below = self.entries.keys().filter(|other| other.parent() == Some(path));
        Ok(below.filter_map(|other| Some(other.file_name()?.to_owned())).collect())
    }

    fn readlink(&self, path: &Path) -> io::Result<PathBuf> {
        match self.find(path)? {
            Entry::Link(target) => Ok(target.clone()),
            _ => Err(io::Error::from_raw_os_error(22)),
        }
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let entry = self.entries.get(path).ok_or_else(|| io::Error::from_raw_os_error(2))?;
        let (kind, size) = match entry {
            Entry::File(bytes) => (FileKind::File, bytes.len() as u64),
            Entry::Link(_) => (FileKind::Link, 0),
            Entry::Folder | Entry::Forbidden => (FileKind::Folder, 0),
        };
        Ok(Stat { kind, size, ownership: Ownership::root(0o644) })
    }
}

/// An address, as lspci writes it.
pub(crate) fn at(address: &str) -> Address {
    address.parse().unwrap()
}

/// A function by address, class and `vendor:device`.
pub(crate) fn function(address: &str, class: &str, id: &str) -> Function {
    let id: DeviceId = id.parse().unwrap();
    let mut function = Function::new(at(address), class.parse().unwrap());
    (function.vendor, function.device) = (Some(id.vendor), Some(id.device));
    function
}

/// As [`function`], on a driver and in a group.
pub(crate) fn driven(address: &str, class: &str, id: &str, driver: &str, group: u32) -> Function {
    let mut function = function(address, class, id);
    function.driver = Some(driver.to_owned());
    function.iommu_group = Some(group);
    function
}

/// Access control with everything that isolation needs on, and with nothing on.
pub(crate) const ON: Acs = Acs::Present { can: Controls(0x1f), on: Controls(0x1d) };
pub(crate) const OFF: Acs = Acs::Present { can: Controls(0x1f), on: Controls(0) };

/// As [`function`], with config space that root has read: what it is in the PCI Express tree, and its access control.
pub(crate) fn express(address: &str, class: &str, id: &str, kind: PortKind, acs: Acs) -> Function {
    let mut function = function(address, class, id);
    let header = u8::from(class.starts_with("0604"));
    function.header_type = Some(header);
    function.config = Some(Config {
        bytes: 4096,
        answers: true,
        header_type: Some(header),
        multifunction: Some(false),
        capabilities: Some(vec!["express@60".parse().unwrap()]),
        extended: Some(Vec::new()),
        express: Some(Express { kind, slot: None, link: None }),
        flr: Some(false),
        acs,
        ..Config::default()
    });
    function
}

/// Groups, by what every function says of itself.
pub(crate) fn groups(functions: &[Function]) -> Vec<super::Group> {
    super::iommu::groups(functions)
}

/// A filesystem on a block device.
pub(crate) fn mounted(device: &str, path: &str) -> DiskUse {
    DiskUse { device: device.into(), mapped: None, purpose: Purpose::Mount { at: path.into() } }
}

/// A network interface with the address 192.0.2.7/24.
pub(crate) fn interface(name: &str, function: &str, default_route: bool) -> Interface {
    Interface {
        name: name.into(),
        function: Some(at(function)),
        addresses: vec!["192.0.2.7/24".into()],
        default_route,
        up: true,
    }
}

/// An Intel desktop with its IOMMU on: an NVIDIA card with audio behind 00:01.0 in group 15, an NVMe disk at 03:00.0,
/// network cards at 04:00.0 and 06:00.0. Nothing is mounted, nothing is routed.
pub(crate) fn desktop() -> Host {
    let mut host = Host::unknown(Source::Live);
    host.drivers_told = true;
    host.cpu.vendor = CpuVendor::Intel;
    host.cpu.virtualization = Virtualization::Vmx;
    host.iommu.state = Known::On;
    host.iommu.interrupt_remapping = Some(true);
    (host.acpi.dmar, host.acpi.ivrs) = (Some(true), Some(false));
    host.kernel.cmdline = Some("BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet".into());
    let mut card = driven("01:00.0", "030000", "10de:2204", "nvidia", 15);
    card.boot_vga = Some(true);
    let mut audio = driven("01:00.1", "040300", "10de:1aef", "snd_hda_intel", 15);
    for (function, path) in [(&mut card, "0000:00:01.0/00.0"), (&mut audio, "0000:00:01.0/00.1")] {
        function.path = Some(path.parse().unwrap());
        function.parent = Some(at("00:01.0"));
        (function.subsystem_vendor, function.subsystem_device) = (Some(0x1458), Some(0x403b));
    }
    host.functions = vec![
        driven("00:01.0", "060400", "8086:460d", "pcieport", 1),
        card,
        audio,
        driven("03:00.0", "010802", "144d:a808", "nvme", 16),
        driven("04:00.0", "020000", "8086:125c", "igc", 17),
        driven("06:00.0", "020000", "8086:1533", "igb", 18),
    ];
    host.groups = super::iommu::groups(&host.functions);
    host.storage = Some(Vec::new());
    host.network = Some(Vec::new());
    host.gpus = super::gpu::gpus(&host);
    host
}
