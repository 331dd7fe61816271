//! What the texts have told so far, and how it is put into a [`Host`].
//!
//! A fact that is there is not overwritten: neither one that the host had, nor what an earlier line said. The one
//! exception is a better source of the same thing: a class code with its interface over one without, a driver
//! that lspci names over one that wrote to the kernel's log.

use super::{device::Row, words};
use crate::{
    host::{
        Config, CpuVendor, Function, Group, Host, Known, Virtualization,
        config::{Acs, Controls, Header, PortKind},
    },
    pci::{Address, Class, DeviceId, DevicePath},
};
use std::collections::{BTreeMap, BTreeSet};

/// Functions that are kept: the largest servers have 10,000.
pub(super) const MAX_FUNCTIONS: usize = 16_384;

/// How far bridges are followed upwards; a real tree has fewer than ten.
const MAX_DEPTH: usize = 64;

/// How sure a class is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClassFrom {
    /// Not told.
    Nothing,
    /// A name.
    Name,
    /// Base class and subclass as numbers.
    Number,
    /// With the interface.
    Whole,
}

/// A function, and what a [`Function`] has no place for.
#[derive(Debug, Clone)]
pub(super) struct Fact {
    pub function: Function,
    class_from: ClassFrom,
    /// The driver is from the kernel's log, where a later driver may have followed.
    driver_from_log: bool,
    /// The group is from the kernel's log, in which a function can leave one and join another.
    group_from_log: bool,
    /// The bus behind a bridge, and the last one behind it.
    pub behind: Option<(u8, u8)>,
    /// Config space from a hex dump.
    pub bytes: Vec<u8>,
    /// The model, in a source that names maker and model apart.
    pub model: Option<String>,
    /// What a text describes of config space.
    pub text: Room,
}

/// Config space as far as a text describes it.
#[derive(Debug, Clone, Default)]
pub(super) struct Room {
    /// What is told already.
    pub config: Option<Config>,
    /// The capability whose lines follow is power management.
    pub in_power: bool,
    /// A capability of the extended space was shown: what is not shown there is not there.
    pub extended: bool,
    /// Access control was shown.
    pub has_acs: bool,
    /// What access control can do.
    pub acs_can: Option<Controls>,
    /// Where virtual functions begin, and the distance between them, in routing ids.
    pub virtual_functions: Option<(u32, u32)>,
}

/// What has been told.
#[derive(Debug)]
pub(super) struct Facts {
    functions: BTreeMap<Address, Fact>,
    /// Buses that hang on nothing: domain and number.
    root_buses: BTreeSet<(u32, u8)>,
    /// Where functions hang, from paths: what is above, and the way from the root bus.
    paths: BTreeMap<Address, (Option<Address>, DevicePath)>,
    /// Which function the log says the firmware's display is.
    pub boot_vga: Option<Address>,
    /// Functions that were left out because there are too many.
    left_out: usize,
    /// Contradictions, as sentences.
    contradictions: Vec<String>,
    /// Addresses at which other devices were told of later.
    others: BTreeSet<Address>,
    pub system: System,
}

/// What is told of the machine apart from its functions. `None`: not told.
#[derive(Debug, Default)]
pub(super) struct System {
    pub cpu_vendor: Option<CpuVendor>,
    pub cpu_model: Option<String>,
    pub virtualization: Option<Virtualization>,
    pub guest: Option<bool>,
    pub iommu_on: Option<bool>,
    pub interrupt_remapping: Option<bool>,
    pub passthrough_mode: Option<bool>,
    pub dmar: Option<bool>,
    pub ivrs: Option<bool>,
    pub release: Option<String>,
    pub cmdline: Option<String>,
    pub uefi: Option<bool>,
}

/// Fills what is empty.
pub(super) fn fill<T>(place: &mut Option<T>, value: Option<T>) {
    if place.is_none() {
        *place = value;
    }
}

impl Facts {
    /// What a host has is known already.
    pub(super) fn new(host: &Host) -> Self {
        let known = |function: &Function| Fact {
            function: function.clone(),
            class_from: if function.class == Class(0) { ClassFrom::Nothing } else { ClassFrom::Whole },
            driver_from_log: false,
            group_from_log: false,
            behind: None,
            bytes: Vec::new(),
            model: None,
            text: Room::default(),
        };
        Self {
            functions: host.functions.iter().map(|function| (function.address, known(function))).collect(),
            root_buses: BTreeSet::new(),
            paths: BTreeMap::new(),
            boot_vga: None,
            left_out: 0,
            contradictions: Vec::new(),
            others: BTreeSet::new(),
            system: System::default(),
        }
    }

    /// The function at an address, made where it is new; `None` where there are too many.
    pub(super) fn at(&mut self, address: Address) -> Option<&mut Fact> {
        if self.functions.len() >= MAX_FUNCTIONS && !self.functions.contains_key(&address) {
            self.left_out += 1;
            return None;
        }
        Some(self.functions.entry(address).or_insert_with(|| Fact {
            function: Function::new(address, Class(0)),
            class_from: ClassFrom::Nothing,
            driver_from_log: false,
            group_from_log: false,
            behind: None,
            bytes: Vec::new(),
            model: None,
            text: Room::default(),
        }))
    }

    /// The function at an address that was named before.
    pub(super) fn known(&mut self, address: Address) -> Option<&mut Fact> {
        self.functions.get_mut(&address)
    }

    /// Whether something of another device at this address was told before: then the text is of two machines, or of
    /// one before and after somebody changed it, and the second is not mixed into the first.
    pub(super) fn is_another(&mut self, address: Address, id: Option<DeviceId>) -> bool {
        let known = self.functions.get(&address).and_then(|fact| fact.function.id());
        let another = known.is_some() && id.is_some() && known != id;
        if another && self.others.len() < MAX_FUNCTIONS {
            self.others.insert(address);
        }
        another
    }

    /// What a line said of a function; false where it is of another device than the one that is known.
    pub(super) fn row(&mut self, row: &Row) -> bool {
        let id = row.vendor.zip(row.device).map(|(vendor, device)| DeviceId { vendor, device });
        if self.is_another(row.address, id) {
            return false;
        }
        let Some(fact) = self.at(row.address) else { return false };
        if let Some(class) = row.class {
            fact.class(class, if row.interface { ClassFrom::Whole } else { ClassFrom::Number });
        }
        let function = &mut fact.function;
        // Both or what is missing: never the maker of one and the device of another.
        if function.vendor.is_none() || function.vendor == row.vendor {
            fill(&mut function.vendor, row.vendor);
            fill(&mut function.device, row.device);
        }
        fill(&mut function.revision, row.revision);
        fill(&mut function.name, row.name.clone());
        if let Some((vendor, code)) = row.subsystem {
            fill(&mut function.subsystem_vendor, Some(vendor));
            fill(&mut function.subsystem_device, Some(code));
        }
        fact.driver(row.driver.clone());
        true
    }

    /// A function is in a group.
    pub(super) fn group(&mut self, address: Address, group: u32) {
        let Some(fact) = self.at(address) else { return };
        match fact.function.iommu_group {
            Some(before) if before != group && !fact.group_from_log => {
                let sentence =
                    format!("{address} is in group {before} and in group {group}: the first counts");
                if self.contradictions.len() < 8 && !self.contradictions.contains(&sentence) {
                    self.contradictions.push(sentence);
                }
            }
            _ => {
                fact.function.iommu_group = Some(group);
                fact.group_from_log = false;
            }
        }
    }

    /// The log says that a function joins a group; a later line of the log counts more.
    pub(super) fn group_in_log(&mut self, address: Address, group: Option<u32>) {
        let Some(fact) = self.at(address) else { return };
        if fact.function.iommu_group.is_none() || fact.group_from_log {
            fact.function.iommu_group = group;
            fact.group_from_log = group.is_some();
        }
    }

    /// A bus that hangs on nothing.
    pub(super) fn root_bus(&mut self, domain: u32, bus: u8) {
        if self.root_buses.len() < MAX_FUNCTIONS {
            self.root_buses.insert((domain, bus));
        }
    }

    /// A function hangs there, if it is one: a path does not say what it is.
    pub(super) fn place(&mut self, address: Address, parent: Option<Address>, path: DevicePath) {
        if self.paths.len() < MAX_FUNCTIONS {
            self.paths.entry(address).or_insert((parent, path));
        }
    }

    /// Puts everything into a host.
    pub(super) fn give(mut self, host: &mut Host, notes: &mut Vec<String>) {
        for fact in self.functions.values_mut() {
            fact.finish();
        }
        self.places();
        self.virtual_functions();
        if let Some(boot) = self.boot_vga {
            for fact in self.functions.values_mut() {
                // One function is the kernel's default display; it says so of that one (drivers/pci/vgaarb.c).
                if fact.function.class.subclass() == 0x0300 || fact.function.address == boot {
                    fill(&mut fact.function.boot_vga, Some(fact.function.address == boot));
                }
            }
        }
        for fact in self.functions.values_mut() {
            let by_id = fact.function.id().and_then(crate::host::embedded::device);
            fill(&mut fact.function.name, by_id);
        }
        // `lspci -k` of one card beside a list of all says nothing of the others' drivers; a list with drivers has them
        // for most, though not for host bridges.
        let named =
            self.functions.values().filter(|fact| fact.function.driver.is_some() && !fact.driver_from_log);
        let named = named.count();
        host.drivers_told |= named > 0 && named * 4 >= self.functions.len();
        host.functions = self.functions.into_values().map(|fact| fact.function).collect();
        let mut groups: BTreeMap<u32, Group> = host.groups.drain(..).map(|group| (group.id, group)).collect();
        for function in &host.functions {
            if let Some(id) = function.iommu_group {
                groups
                    .entry(id)
                    .or_insert_with(|| Group::new(id, Vec::new()))
                    .functions
                    .push(function.address);
            }
        }
        host.groups = groups.into_values().collect();
        for group in &mut host.groups {
            group.functions.sort_unstable();
            group.functions.dedup();
        }
        self.system.give(host);
        if let Some(first) = self.others.first() {
            let more = match self.others.len() {
                1 => String::new(),
                count => format!(" and {} more addresses", count - 1),
            };
            notes.push(format!(
                "the text has different devices at {first}{more}: two machines, or one before and after a change; \
                 what came first counts"
            ));
        }
        notes.append(&mut self.contradictions);
        if self.left_out > 0 {
            notes.push(format!("{} functions more than {MAX_FUNCTIONS} were left out", self.left_out));
        }
    }

    /// Parents and paths, from the buses behind bridges.
    fn places(&mut self) {
        for (address, (parent, path)) in std::mem::take(&mut self.paths) {
            // What something hangs on is a bridge, where nothing else tells.
            if let Some(above) = parent.and_then(|parent| self.functions.get_mut(&parent)) {
                above.class(Class(0x06_0400), ClassFrom::Name);
            }
            if let Some(fact) = self.functions.get_mut(&address) {
                fill(&mut fact.function.path, Some(path));
                fill(&mut fact.function.parent, parent);
            }
        }
        for (address, fact) in &self.functions {
            let config = fact.function.config.as_ref();
            let kind = config.and_then(|config| config.express.as_ref()).map(|express| express.kind);
            let on_root = matches!(kind, Some(PortKind::RootPort | PortKind::IntegratedEndpoint));
            if on_root || fact.function.class.subclass() == 0x0600 {
                self.root_buses.insert((address.domain, address.bus));
            }
        }
        let mut bridges: BTreeMap<(u32, u8), Address> = BTreeMap::new();
        for (address, fact) in &self.functions {
            if let Some((secondary, _)) = fact.behind {
                // A bridge that was not set up has bus 0 behind it; none leads to its own bus.
                if secondary != 0 && secondary != address.bus {
                    bridges.entry((address.domain, secondary)).or_insert(*address);
                }
            }
        }
        let addresses: Vec<Address> = self.functions.keys().copied().collect();
        for address in addresses {
            let parent = bridges.get(&(address.domain, address.bus)).copied();
            let path = self.path(address, &bridges);
            if let Some(fact) = self.functions.get_mut(&address) {
                fill(&mut fact.function.parent, parent);
                fill(&mut fact.function.path, path);
            }
        }
    }

    /// Which functions are virtual ones, by the routing ids that their physical function gives them.
    fn virtual_functions(&mut self) {
        let mut owners: BTreeMap<Address, Address> = BTreeMap::new();
        for (address, fact) in &self.functions {
            let config = fact.function.config.as_ref();
            let now = config.and_then(|config| config.sr_iov).map_or(0, |sr_iov| u32::from(sr_iov.now));
            let Some((offset, stride)) = fact.text.virtual_functions else {
                continue;
            };
            let own =
                u32::from(address.bus) << 8 | u32::from(address.device) << 3 | u32::from(address.function);
            for index in 0..now.min(256) {
                let Some(id) = index.checked_mul(stride).and_then(|way| way.checked_add(own + offset)) else {
                    break;
                };
                let byte = |value: u32| u8::try_from(value & 0xff).unwrap_or_default();
                let Ok(bus) = u8::try_from(id >> 8) else { break };
                let address =
                    Address { bus, device: byte(id) >> 3, function: byte(id) & 7, domain: address.domain };
                owners.entry(address).or_insert(fact.function.address);
            }
        }
        for (address, owner) in owners.into_iter().filter(|(address, owner)| address != owner) {
            if let Some(fact) = self.functions.get_mut(&address) {
                fill(&mut fact.function.physical_function, Some(owner));
            }
        }
    }

    fn path(&self, address: Address, bridges: &BTreeMap<(u32, u8), Address>) -> Option<DevicePath> {
        let mut below = Vec::new();
        let mut at = address;
        for _ in 0..MAX_DEPTH {
            match bridges.get(&(at.domain, at.bus)) {
                Some(bridge) => {
                    below.push(at.device_function());
                    at = *bridge;
                }
                None if at.bus == 0 || self.root_buses.contains(&(at.domain, at.bus)) => {
                    below.reverse();
                    return Some(DevicePath { root: at, below });
                }
                None => return None,
            }
        }
        None
    }
}

impl Fact {
    /// A class, where the one that is known is less sure.
    pub(super) fn class(&mut self, class: Class, from: ClassFrom) {
        if from > self.class_from {
            self.function.class = class;
            self.class_from = from;
        }
    }

    /// A class by number, or by the name that lspci has for it.
    pub(super) fn class_of(&mut self, code: Option<u16>, name: Option<&str>) {
        if let Some(code) = code {
            self.class(Class(u32::from(code) << 8), ClassFrom::Number);
        } else if let Some(class) = name.and_then(words::class_by_name) {
            self.class(class, ClassFrom::Name);
        }
    }

    /// The interface of a class that is known without it.
    pub(super) fn interface(&mut self, interface: Option<u8>) {
        let open = matches!(self.class_from, ClassFrom::Name | ClassFrom::Number);
        if let (true, Some(interface)) = (open, interface) {
            self.function.class.0 = self.function.class.0 & 0xff_ff00 | u32::from(interface);
            self.class_from = ClassFrom::Whole;
        }
    }

    /// Puts what was told of config space together.
    fn finish(&mut self) {
        let text = &mut self.text;
        if let Some(config) = text.config.as_mut() {
            if config.acs == Acs::Unknown && text.extended && !text.has_acs {
                config.acs = Acs::Missing;
            }
            config.answers = true;
            config.header_type = self.function.header_type;
        }
        if self.bytes.len() >= 16 {
            if let Some(header) = Header::parse(&self.bytes).filter(|header| header.id.vendor != 0xffff) {
                self.class(header.class, ClassFrom::Whole);
            }
            let link = self.function.link;
            self.function.know_config(&self.bytes);
            fill(&mut self.function.link, link);
            let buses = self.function.config.as_ref().and_then(|config| config.buses);
            fill(&mut self.behind, buses.map(|buses| (buses.secondary, buses.subordinate)));
        } else if self.function.config.is_none() {
            self.function.config = self.text.config.take();
        }
    }

    /// A driver that is named as the one in use.
    pub(super) fn driver(&mut self, driver: Option<String>) {
        if driver.is_some() && (self.function.driver.is_none() || self.driver_from_log) {
            self.function.driver = driver;
            self.driver_from_log = false;
        }
    }

    /// A driver that wrote to the kernel's log; the last one counts.
    pub(super) fn driver_in_log(&mut self, driver: &str) {
        if self.function.driver.is_none() || self.driver_from_log {
            self.function.driver = Some(driver.to_owned());
            self.driver_from_log = true;
        }
    }
}

impl System {
    fn give(self, host: &mut Host) {
        if host.cpu.vendor == CpuVendor::Other {
            host.cpu.vendor = self.cpu_vendor.unwrap_or(CpuVendor::Other);
        }
        if host.cpu.virtualization == Virtualization::Unknown {
            host.cpu.virtualization = self.virtualization.unwrap_or(Virtualization::Unknown);
        }
        fill(&mut host.cpu.model, self.cpu_model);
        fill(&mut host.cpu.guest, self.guest);
        if host.iommu.state == Known::Unknown {
            host.iommu.state = match self.iommu_on {
                _ if !host.groups.is_empty() => Known::On,
                Some(true) => Known::On,
                Some(false) => Known::Off,
                None => Known::Unknown,
            };
        }
        fill(&mut host.iommu.interrupt_remapping, self.interrupt_remapping);
        fill(&mut host.iommu.passthrough_mode, self.passthrough_mode);
        fill(&mut host.acpi.dmar, self.dmar);
        fill(&mut host.acpi.ivrs, self.ivrs);
        fill(&mut host.kernel.release, self.release);
        fill(&mut host.kernel.cmdline, self.cmdline);
        fill(&mut host.boot.uefi, self.uefi);
    }
}
