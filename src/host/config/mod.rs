//! Config space of a PCI function, from its bytes. Pure: reads nothing, and never fails whatever the bytes are.
//!
//! 64 bytes are what Linux gives to others than root, 256 are conventional PCI, 4096 are PCI Express. What lies beyond
//! the bytes is unknown, not missing. Sources: PCI Local Bus and PCI Express Base Specifications, as written down in
//! include/uapi/linux/pci_regs.h.

mod acs;
mod names;

pub use acs::{Acs, Controls, Setting};
pub use names::Capability;

use super::{Function, Link};
use crate::pci::{Class, DeviceId};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    ops::Range,
};

/// What a function's config space says. `None` is *not told*; an empty list is *none*.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Bytes that could be seen: 64, 256 or 4096, and anything else in a listing that breaks off.
    pub bytes: u16,
    /// False where every byte reads as ff: the device is off the bus.
    pub answers: bool,
    /// Header type without the multifunction bit: 0 a device, 1 a bridge, 2 a CardBus bridge.
    pub header_type: Option<u8>,
    /// Whether its slot has several functions, as the header says (functions other than 0 need not say so).
    pub multifunction: Option<bool>,
    /// Bus numbers of a bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buses: Option<Buses>,
    /// Capabilities, in the order of their list.
    pub capabilities: Option<Vec<Capability>>,
    /// Extended capabilities, in the order of their list. Empty for what is not PCI Express.
    pub extended: Option<Vec<Capability>>,
    /// The PCI Express capability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub express: Option<Express>,
    /// Whether the function can be reset on its own (function level reset), by its PCI Express capability or by its
    /// Advanced Features.
    pub flr: Option<bool>,
    /// Access Control Services.
    pub acs: Acs,
    /// Base address registers whose size can be changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resizable: Vec<Resizable>,
    /// Virtual functions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sr_iov: Option<SrIov>,
    /// Serial number, as lspci writes it: `00-11-22-ff-fe-33-44-55`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Power state by the power management register: 0 is D0, 3 is D3hot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_state: Option<u8>,
    /// Message signalled interrupts: vectors it can have, and whether they are on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msi: Option<Vectors>,
    /// MSI-X: vectors it can have, and whether they are on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msi_x: Option<Vectors>,
}

/// Bus numbers of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buses {
    /// The bus it is on.
    pub primary: u8,
    /// The bus behind it.
    pub secondary: u8,
    /// The highest bus behind it.
    pub subordinate: u8,
}

/// What the PCI Express capability says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Express {
    /// What it is in the tree.
    pub kind: PortKind,
    /// The number on the board of the slot behind this port, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u16>,
    /// Its link. Not in JSON: [`Function::link`] has it.
    #[serde(skip)]
    pub link: Option<Link>,
}

/// Kinds of PCI Express functions (PCI Express Capabilities Register, Device/Port Type).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortKind {
    /// A device.
    Endpoint,
    /// A device with the manners of old.
    LegacyEndpoint,
    /// A port of the root complex.
    RootPort,
    /// A switch's port towards the processor.
    Upstream,
    /// A switch's port towards devices.
    Downstream,
    /// A bridge from PCI Express to PCI.
    PcieToPci,
    /// A bridge from PCI to PCI Express.
    PciToPcie,
    /// A device inside the root complex: no link.
    IntegratedEndpoint,
    /// An event collector of the root complex.
    EventCollector,
    /// A number that no specification that we know has.
    Unknown,
}

impl PortKind {
    fn of(number: u16) -> Self {
        match number {
            0 => Self::Endpoint,
            1 => Self::LegacyEndpoint,
            4 => Self::RootPort,
            5 => Self::Upstream,
            6 => Self::Downstream,
            7 => Self::PcieToPci,
            8 => Self::PciToPcie,
            9 => Self::IntegratedEndpoint,
            10 => Self::EventCollector,
            _ => Self::Unknown,
        }
    }

    /// As a person would say it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Endpoint | Self::LegacyEndpoint => "device",
            Self::RootPort => "root port",
            Self::Upstream => "switch, upstream port",
            Self::Downstream => "switch, downstream port",
            Self::PcieToPci => "PCIe-to-PCI bridge",
            Self::PciToPcie => "PCI-to-PCIe bridge",
            Self::IntegratedEndpoint => "device inside the processor or chipset",
            Self::EventCollector => "event collector",
            Self::Unknown => "unknown kind",
        }
    }
}

/// A base address register whose size can be changed (Resizable BAR).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resizable {
    /// Which one, 0 to 5.
    pub bar: u8,
    /// Its size now, in bytes.
    pub size: u64,
    /// Sizes that it can have, in bytes, ascending.
    pub sizes: Vec<u64>,
}

/// Virtual functions of a physical one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SrIov {
    /// How many there can be.
    pub total: u16,
    /// How many there are.
    pub now: u16,
}

/// Interrupt messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vectors {
    /// How many it can send.
    pub count: u16,
    /// Whether they are switched on.
    pub on: bool,
}

/// The head of config space: what sysfs has in attributes of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Vendor and device; both are ffff for a virtual function, which has them from its physical one.
    pub id: DeviceId,
    /// Revision.
    pub revision: u8,
    /// Class.
    pub class: Class,
    /// Subsystem vendor and device, of a device (a bridge has none here).
    pub subsystem: Option<DeviceId>,
}

impl Header {
    /// From the first bytes of config space, at least 16; the subsystem's ids from the first 48.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let space = Space::whole(bytes);
        let header = space.byte(14)?;
        let class = u32::from(space.word(10)?) << 8 | u32::from(space.byte(9)?);
        let id = |at| Some(DeviceId { vendor: space.word(at)?, device: space.word(at + 2)? });
        Some(Self {
            id: id(0)?,
            revision: space.byte(8)?,
            class: Class(class),
            subsystem: if matches!(header, 0 | 0x80) { id(0x2c) } else { None },
        })
    }
}

impl Function {
    /// Takes in what config space says: the head where nothing better is known yet, header type, link, and the rest.
    pub fn know_config(&mut self, bytes: &[u8]) {
        let config = Config::parse(bytes);
        if let Some(header) =
            Header::parse(bytes).filter(|header| config.answers && header.id.vendor != 0xffff)
        {
            if self.class == Class(0) {
                self.class = header.class;
            }
            self.revision = self.revision.or(Some(header.revision));
            (self.vendor, self.device) =
                (self.vendor.or(Some(header.id.vendor)), self.device.or(Some(header.id.device)));
            if let Some(subsystem) = header.subsystem {
                self.subsystem_vendor = self.subsystem_vendor.or(Some(subsystem.vendor));
                self.subsystem_device = self.subsystem_device.or(Some(subsystem.device));
            }
        }
        self.set_config(config);
    }

    /// As [`Function::know_config`], with what was read already.
    pub(super) fn set_config(&mut self, mut config: Config) {
        self.header_type = config.header_type.or(self.header_type);
        if let Some(link) = config.express.as_mut().and_then(|express| express.link.take()) {
            self.link = Some(link);
        }
        self.config = Some(config);
    }
}

impl Config {
    /// From as much of config space as there is.
    pub fn parse(bytes: &[u8]) -> Self {
        parse(&Space::whole(bytes))
    }

    /// From a file of which nothing is read that is not needed: every byte is an access to the device. `fetch` is
    /// given an offset and a length, and returns fewer bytes where the file ends before; nothing where it is closed.
    pub fn read(fetch: impl Fn(usize, usize) -> Option<Vec<u8>>) -> Option<Self> {
        let space = Space::fetched(&fetch);
        let config = parse(&space);
        // Others than root are shown no more than the head: what asked for nothing beyond it has to know.
        space.byte(HEAD);
        if space.cut.get() {
            return Some(Self::parse(&fetch(0, CONVENTIONAL)?));
        }
        Some(config)
    }

    /// Whether it has a capability of the standard list, by number.
    pub fn has(&self, id: u16) -> Option<bool> {
        self.capabilities.as_ref().map(|all| all.iter().any(|one| one.id == id))
    }
}

/// Bytes without the serial number, for a capture: the value is zeroed, and reads as none.
pub fn without_serial(bytes: &mut [u8]) {
    for serial in Config::parse(bytes).extended.iter().flatten().filter(|one| one.id == names::SERIAL) {
        let offset = usize::from(serial.offset);
        if let Some(value) = bytes.get_mut(offset + 4..offset + 12) {
            value.fill(0);
        }
    }
}

/// Sizes of the head, of conventional config space, of the extended one, and of a register.
const HEAD: usize = 64;
const CONVENTIONAL: usize = 256;
const EXTENDED: usize = 4096;
const REGISTER: usize = 4;

/// The registers at the start of which each is needed: fetched at once, in bytes.
const FIRST: usize = 16;

/// Bytes of config space.
struct Space<'b> {
    /// How many there are.
    length: usize,
    bytes: RefCell<Cow<'b, [u8]>>,
    /// A bit for each register that is there.
    have: RefCell<[u64; EXTENDED / REGISTER / 64]>,
    /// Gets what is not there.
    fetch: Option<&'b dyn Fn(usize, usize) -> Option<Vec<u8>>>,
    /// Whether something could not be got.
    cut: Cell<bool>,
}

impl<'b> Space<'b> {
    fn whole(bytes: &'b [u8]) -> Self {
        let bytes = bytes.get(..EXTENDED).unwrap_or(bytes);
        Self {
            length: bytes.len(),
            bytes: RefCell::new(Cow::Borrowed(bytes)),
            have: RefCell::new([u64::MAX; EXTENDED / REGISTER / 64]),
            fetch: None,
            cut: Cell::new(false),
        }
    }

    fn fetched(fetch: &'b dyn Fn(usize, usize) -> Option<Vec<u8>>) -> Self {
        Self {
            length: EXTENDED,
            bytes: RefCell::new(Cow::Owned(Vec::new())),
            have: RefCell::default(),
            fetch: Some(fetch),
            cut: Cell::new(false),
        }
    }

    fn byte(&self, at: usize) -> Option<u8> {
        let register = at / REGISTER;
        if self.have.borrow().get(register / 64)? >> (register % 64) & 1 == 0 {
            self.fetch(if at < FIRST { 0..FIRST } else { register * REGISTER..(register + 1) * REGISTER })?;
        }
        self.bytes.borrow().get(at).copied()
    }

    /// Fetches registers at once of which each will be asked for.
    fn want(&self, range: Range<usize>) {
        if range.end <= CONVENTIONAL {
            self.fetch(range);
        }
    }

    fn fetch(&self, range: Range<usize>) -> Option<()> {
        let fetch = self.fetch.filter(|_| !self.cut.get())?;
        let bytes = fetch(range.start, range.len()).filter(|bytes| bytes.len() == range.len());
        let Some(bytes) = bytes else {
            self.cut.set(true);
            return None;
        };
        let mut all = self.bytes.borrow_mut();
        let all = all.to_mut();
        all.resize(all.len().max(range.end), 0);
        all.get_mut(range.clone())?.copy_from_slice(&bytes);
        let mut have = self.have.borrow_mut();
        for register in range.step_by(REGISTER).map(|at| at / REGISTER) {
            *have.get_mut(register / 64)? |= 1 << (register % 64);
        }
        Some(())
    }

    fn word(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte(at)?, self.byte(at + 1)?]))
    }

    fn long(&self, at: usize) -> Option<u32> {
        Some(u32::from(self.word(at)?) | u32::from(self.word(at + 2)?) << 16)
    }
}

fn parse(space: &Space) -> Config {
    let mut config = Config { bytes: u16::try_from(space.length).unwrap_or(u16::MAX), ..Config::default() };
    config.answers = (0..HEAD).map_while(|at| space.byte(at)).any(|byte| byte != 0xff);
    if !config.answers {
        return config;
    }
    let header = space.byte(14);
    config.header_type = header.map(|header| header & 0x7f);
    config.multifunction = header.map(|header| header & 0x80 != 0);
    if config.header_type == Some(1) {
        config.buses = buses(space);
    }
    config.capabilities = capabilities(space, config.header_type);
    let at = |id: u16| {
        let all = config.capabilities.as_deref().unwrap_or_default();
        all.iter().find(|one| one.id == id).map(|one| usize::from(one.offset))
    };
    let express_at = at(names::EXPRESS);
    config.express = express_at.and_then(|at| express(space, at));
    // Only PCI Express (and PCI-X 2.0, which is gone) has more than 256 bytes.
    config.extended = match (&config.capabilities, express_at) {
        (Some(_), None) => Some(Vec::new()),
        (Some(_), Some(_)) => extended(space),
        (None, _) => None,
    };
    config.power_state = at(names::POWER).and_then(|at| space.word(at + 4)).map(|word| (word & 3) as u8);
    config.msi = at(names::MSI).and_then(|at| space.word(at + 2)).map(|control| Vectors {
        // Counts above 32 are reserved.
        count: 1 << (control >> 1 & 7).min(5),
        on: control & 1 != 0,
    });
    config.msi_x = at(names::MSI_X)
        .and_then(|at| space.word(at + 2))
        .map(|control| Vectors { count: (control & 0x7ff) + 1, on: control & 0x8000 != 0 });
    config.flr = config.capabilities.is_some().then(|| {
        let by_express = express_at.and_then(|at| space.long(at + 4)).is_some_and(|word| word >> 28 & 1 != 0);
        // Both bits, "transactions pending" too: drivers/pci/pci.c, `pci_af_flr`.
        let by_features = at(names::ADVANCED_FEATURES).and_then(|at| space.byte(at + 3));
        by_express || by_features.is_some_and(|byte| byte & 3 == 3)
    });
    let beyond = |id: u16| {
        let all = config.extended.as_deref().unwrap_or_default();
        all.iter().find(|one| one.id == id).map(|one| usize::from(one.offset))
    };
    config.acs = match (&config.extended, beyond(names::ACS)) {
        (None, _) => Acs::Unknown,
        (Some(_), None) => Acs::Missing,
        (Some(_), Some(at)) => access_control(space, at, &config).unwrap_or(Acs::Unknown),
    };
    (config.resizable, config.sr_iov, config.serial) = (
        beyond(names::RESIZABLE).map_or_else(Vec::new, |at| resizable(space, at)),
        beyond(names::SR_IOV).and_then(|at| virtual_functions(space, at)),
        beyond(names::SERIAL).and_then(|at| serial(space, at)),
    );
    config
}

fn buses(space: &Space) -> Option<Buses> {
    Some(Buses { primary: space.byte(0x18)?, secondary: space.byte(0x19)?, subordinate: space.byte(0x1a)? })
}

/// The list that begins at byte 34 (hex), and at byte 14 for a CardBus bridge. As the kernel walks it
/// (drivers/pci/pci.c, `__pci_find_next_cap_ttl`): offsets are multiples of 4 from 40 on, an id of ff ends it. A list
/// that bites its tail ends there; one that breaks off within the bytes is what was seen of it.
fn capabilities(space: &Space, header_type: Option<u8>) -> Option<Vec<Capability>> {
    // Status, bit 4: there is a list.
    if space.word(6)? & 0x10 == 0 {
        return Some(Vec::new());
    }
    let start = if header_type? == 2 { 0x14 } else { 0x34 };
    let mut at = usize::from(space.byte(start)? & 0xfc);
    let mut all: Vec<Capability> = Vec::new();
    while at >= 0x40 {
        let Some(head) = space.word(at) else {
            // Nothing beyond the head of config space is shown to others than root.
            return if all.is_empty() { None } else { Some(all) };
        };
        let (id, offset) = (head & 0xff, u16::try_from(at).ok()?);
        if id == 0xff || all.iter().any(|seen| seen.offset == offset) {
            break;
        }
        all.push(Capability { id, offset });
        at = usize::from(head >> 8 & 0xfc);
    }
    Some(all)
}

/// The list that begins at byte 100 (hex; drivers/pci/pci.c, `pci_find_next_ext_capability`). `None` where the bytes
/// end before it does.
fn extended(space: &Space) -> Option<Vec<Capability>> {
    let mut all: Vec<Capability> = Vec::new();
    let mut seen = [0_u64; EXTENDED / 4 / 64];
    let mut at = CONVENTIONAL;
    while at >= CONVENTIONAL {
        let head = space.long(at)?;
        let mark = seen.get_mut(at / 256)?;
        // All zeroes: an empty list. All ones: nothing answers.
        if head == 0 || head == u32::MAX || *mark >> (at / 4 % 64) & 1 != 0 {
            break;
        }
        *mark |= 1 << (at / 4 % 64);
        all.push(Capability { id: (head & 0xffff) as u16, offset: u16::try_from(at).ok()? });
        at = (head >> 20 & 0xffc) as usize;
    }
    Some(all)
}

fn express(space: &Space, at: usize) -> Option<Express> {
    let flags = space.word(at + 2)?;
    let kind = PortKind::of(flags >> 4 & 0xf);
    let has_slot = flags & 0x100 != 0;
    let linked = !matches!(kind, PortKind::IntegratedEndpoint | PortKind::EventCollector);
    if linked {
        space.want(at + 0x0c..at + if has_slot { 0x18 } else { 0x14 });
    }
    let slot = if has_slot { space.long(at + 0x14).map(|word| (word >> 19) as u16) } else { None };
    Some(Express { kind, slot, link: if linked { link(space, at, flags & 0xf) } else { None } })
}

/// Link Capabilities, Link Status, and from version 2 on Link Capabilities 2, which lists the speeds
/// (drivers/pci/pci.c, `pcie_get_speed_cap`).
fn link(space: &Space, at: usize, version: u16) -> Option<Link> {
    let (most, now) = (space.long(at + 0x0c)?, space.word(at + 0x12)?);
    let width = |lanes: u32| u8::try_from(lanes & 0x3f).ok().filter(|lanes| (1..=32).contains(lanes));
    let speeds = if version >= 2 { space.long(at + 0x2c).unwrap_or(0) >> 1 & 0x7f } else { 0 };
    let highest = if speeds == 0 { most & 0xf } else { 32 - speeds.leading_zeros() };
    let link = Link {
        // A port whose link is down says a width of 0 and a speed of no meaning.
        speed_gts: width(u32::from(now >> 4)).and_then(|_| speed(u32::from(now & 0xf))),
        width: width(u32::from(now >> 4)),
        max_speed_gts: speed(highest),
        max_width: width(most >> 4),
    };
    let nothing = Link { speed_gts: None, width: None, max_speed_gts: None, max_width: None };
    (link != nothing).then_some(link)
}

/// GT/s of each generation.
fn speed(generation: u32) -> Option<f64> {
    match generation {
        1 => Some(2.5),
        2 => Some(5.0),
        3 => Some(8.0),
        4 => Some(16.0),
        5 => Some(32.0),
        6 => Some(64.0),
        _ => None,
    }
}

fn access_control(space: &Space, at: usize, config: &Config) -> Option<Acs> {
    let root_port = config.express.as_ref().is_some_and(|express| express.kind == PortKind::RootPort);
    let wide = root_port && space.word(0)? == 0x8086 && is_wide(space.word(2)?);
    let can = space.word(at + 4)?;
    let on = if wide { space.word(at + 8)? } else { space.word(at + 6)? };
    Some(Acs::Present { can: Controls(can & 0x7f), on: Controls(on & 0x7f) })
}

/// Root ports of Intel's 100 and 200 series chipsets (and the mobile ones of their time) have registers of 32 bits
/// there, where the specification says 16 (drivers/pci/quirks.c, `pci_quirk_intel_spt_pch_acs_match`).
fn is_wide(device: u16) -> bool {
    matches!(device, 0xa110..=0xa11f | 0xa167..=0xa16a | 0xa290..=0xa29f | 0xa2e7..=0xa2ee | 0x9d10..=0x9d1b)
}

/// The first control register says how many there are; sizes are powers of two from 1 MiB on.
fn resizable(space: &Space, at: usize) -> Vec<Resizable> {
    let count = space.long(at + 8).map_or(0, |control| control >> 5 & 7).min(6) as usize;
    let one = |index: usize| {
        let (can, control) = (space.long(at + 4 + index * 8)?, space.long(at + 8 + index * 8)?);
        // 28 sizes in the upper bits of the capability, 16 more in the upper half of the control register.
        let bits = u64::from(can >> 4) | u64::from(control >> 16) << 28;
        let size = (control >> 8 & 0x3f).min(43);
        Some(Resizable {
            bar: (control & 7) as u8,
            size: 1 << (20 + size),
            sizes: (0..44).filter(|bit| bits >> bit & 1 != 0).map(|bit| 1 << (20 + bit)).collect(),
        })
    };
    (0..count).map_while(one).collect()
}

fn virtual_functions(space: &Space, at: usize) -> Option<SrIov> {
    Some(SrIov { total: space.word(at + 0x0e)?, now: space.word(at + 0x10)? })
}

/// All zeroes is no number.
fn serial(space: &Space, at: usize) -> Option<String> {
    let bytes = (4..12).rev().map(|index| space.byte(at + index)).collect::<Option<Vec<u8>>>()?;
    let text = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join("-");
    bytes.iter().any(|byte| *byte != 0).then_some(text)
}

#[cfg(test)]
mod tests;
