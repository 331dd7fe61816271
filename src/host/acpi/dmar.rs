//! DMAR: Intel's DMA remapping table (Intel Virtualization Technology for Directed I/O, chapter "BIOS Considerations";
//! include/acpi/actbl1.h).

use super::{body, number};
use crate::{
    host::Function,
    pci::{Address, DeviceFunction, DevicePath},
};
use serde::{Deserialize, Serialize};

/// The table.
#[allow(clippy::struct_excessive_bools, reason = "flags of the table, each with a meaning of its own")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dmar {
    /// Bits of an address that DMA can reach.
    pub address_bits: u8,
    /// The platform can remap interrupts.
    pub interrupt_remapping: bool,
    /// The firmware asks the system not to use x2APIC.
    pub x2apic_opt_out: bool,
    /// The firmware asks for protection against DMA from the start (Thunderbolt).
    pub dma_opt_in: bool,
    /// Remapping units.
    pub units: Vec<DmarUnit>,
    /// Reserved memory regions (RMRR).
    pub reserved: Vec<ReservedMemory>,
    /// Root ports below which devices may translate addresses themselves (ATS). Empty with `ats_everywhere`.
    pub ats_ports: Vec<Scope>,
    /// All root ports of some segment support ATS.
    pub ats_everywhere: bool,
}

/// A remapping unit (DRHD).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmarUnit {
    /// PCI segment (domain).
    pub segment: u16,
    /// Address of its registers.
    pub base: u64,
    /// It remaps every device of the segment that no other unit has.
    pub all: bool,
    /// The devices it remaps.
    pub scopes: Vec<Scope>,
}

/// Memory that devices must keep reaching (RMRR).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservedMemory {
    /// First address.
    pub start: u64,
    /// Last address.
    pub end: u64,
    /// The devices.
    pub scopes: Vec<Scope>,
}

/// A device in the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// What kind of thing.
    pub kind: ScopeKind,
    /// Its way from the root bus.
    pub path: DevicePath,
}

/// Kinds of devices in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScopeKind {
    /// One PCI function.
    Endpoint,
    /// A bridge and everything behind it.
    Bridge,
    /// An interrupt controller.
    IoApic,
    /// A timer.
    Hpet,
    /// A device that ACPI names.
    Named,
    /// A number that is not known here.
    Unknown,
}

impl Scope {
    /// Whether it means this way.
    fn means(&self, path: &DevicePath) -> bool {
        match self.kind {
            ScopeKind::Endpoint => self.path == *path,
            ScopeKind::Bridge => self.path.root == path.root && path.below.starts_with(&self.path.below),
            _ => false,
        }
    }
}

impl Dmar {
    /// From the bytes of the table; `None` where they are not one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let body = body(bytes, *b"DMAR")?;
        let (width, flags) = (*body.first()?, *body.get(1)?);
        let mut table = Self {
            address_bits: width.saturating_add(1),
            interrupt_remapping: flags & 1 != 0,
            x2apic_opt_out: flags & 2 != 0,
            dma_opt_in: flags & 4 != 0,
            units: Vec::new(),
            reserved: Vec::new(),
            ats_ports: Vec::new(),
            ats_everywhere: false,
        };
        let mut rest = body.get(12..).unwrap_or_default();
        while let Some((kind, structure)) = next(rest) {
            table.take(kind, structure);
            rest = rest.get(structure.len()..).unwrap_or_default();
        }
        Some(table)
    }

    fn take(&mut self, kind: u64, structure: &[u8]) {
        let segment = number(structure, 6, 2).and_then(|segment| u16::try_from(segment).ok()).unwrap_or(0);
        let flags = structure.get(4).copied().unwrap_or(0);
        let long = |at: usize| number(structure, at, 8).unwrap_or(0);
        match kind {
            0 => self.units.push(DmarUnit {
                segment,
                base: long(8),
                all: flags & 1 != 0,
                scopes: scopes(structure, 16, segment),
            }),
            1 => self.reserved.push(ReservedMemory {
                start: long(8),
                end: long(16),
                scopes: scopes(structure, 24, segment),
            }),
            2 => {
                self.ats_everywhere |= flags & 1 != 0;
                self.ats_ports.extend(scopes(structure, 8, segment));
            }
            _ => {}
        }
    }

    /// Regions that are reserved for a function.
    pub(super) fn reserved_for(&self, function: &Function) -> Vec<(u64, u64)> {
        let Some(path) = &function.path else { return Vec::new() };
        let its = self.reserved.iter().filter(|region| region.scopes.iter().any(|scope| scope.means(path)));
        its.map(|region| (region.start, region.end)).collect()
    }
}

/// The next structure: type and length of 16 bits each come first.
fn next(rest: &[u8]) -> Option<(u64, &[u8])> {
    let (kind, length) = (number(rest, 0, 2)?, usize::try_from(number(rest, 2, 2)?).ok()?);
    if length < 4 { None } else { Some((kind, rest.get(..length)?)) }
}

/// Device scopes from an offset to the end of a structure.
fn scopes(structure: &[u8], from: usize, segment: u16) -> Vec<Scope> {
    let mut rest = structure.get(from..).unwrap_or_default();
    let mut all = Vec::new();
    while let (Some(kind), Some(length)) = (rest.first(), rest.get(1)) {
        let length = usize::from(*length);
        // Six bytes, and at least one step of the path.
        let Some(bytes) = rest.get(..length).filter(|bytes| bytes.len() >= 8) else { break };
        let kind = match *kind {
            1 => ScopeKind::Endpoint,
            2 => ScopeKind::Bridge,
            3 => ScopeKind::IoApic,
            4 => ScopeKind::Hpet,
            5 => ScopeKind::Named,
            _ => ScopeKind::Unknown,
        };
        if let Some(path) = path(bytes, segment) {
            all.push(Scope { kind, path });
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    all
}

/// Start bus, then device and function for each step; a step that no PCI device can have makes it none.
fn path(scope: &[u8], segment: u16) -> Option<DevicePath> {
    let bus = *scope.get(5)?;
    let step = |pair: &[u8]| match pair {
        [device @ 0..=31, function @ 0..=7] => Some(DeviceFunction { device: *device, function: *function }),
        _ => None,
    };
    let mut steps = scope.get(6..)?.chunks_exact(2).map(step);
    let first = steps.next()??;
    let root = Address { domain: u32::from(segment), bus, device: first.device, function: first.function };
    Some(DevicePath { root, below: steps.collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::function;

    fn table(structures: &[&[u8]]) -> Vec<u8> {
        let inside = structures.concat();
        let length = u32::try_from(48 + inside.len()).unwrap();
        let mut bytes = b"DMAR".to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.resize(36, 0);
        bytes.extend([38, 0x05]);
        bytes.resize(48, 0);
        bytes.extend(inside);
        bytes
    }

    fn structure(kind: u8, rest: &[&[u8]]) -> Vec<u8> {
        let rest = rest.concat();
        let length = u16::try_from(rest.len() + 4).unwrap().to_le_bytes();
        [&[kind, 0, length[0], length[1]], &rest[..]].concat()
    }

    /// The graphics of the processor, 00:02.0.
    const GRAPHICS: [u8; 8] = [1, 8, 0, 0, 0, 0, 2, 0];
    /// A disk controller at 00:01.0/00.0.
    const DISK: [u8; 10] = [1, 10, 0, 0, 0, 0, 1, 0, 0, 0];

    fn sample() -> Vec<u8> {
        let (base, start, end) = (0xfed9_0000_u64, 0x4b80_0000_u64, 0x4fff_ffff_u64);
        table(&[
            &structure(0, &[&[0, 0, 0, 0], &base.to_le_bytes(), &GRAPHICS]),
            &structure(0, &[&[1, 0, 0, 0], &(base + 0x1000).to_le_bytes(), &[3, 8, 0, 0, 2, 0, 30, 7]]),
            &structure(1, &[&[0, 0, 0, 0], &start.to_le_bytes(), &end.to_le_bytes(), &GRAPHICS, &DISK]),
            &structure(2, &[&[0, 0, 0, 0], &[2, 8, 0, 0, 0, 0, 1, 0]]),
            &structure(9, &[&[1, 2, 3]]),
        ])
    }

    #[test]
    fn units_reserved_memory_and_ports() {
        let table = Dmar::parse(&sample()).unwrap();
        assert_eq!((table.address_bits, table.interrupt_remapping), (39, true));
        assert_eq!((table.x2apic_opt_out, table.dma_opt_in), (false, true));
        assert_eq!(table.units.len(), 2);
        assert_eq!((table.units[0].base, table.units[0].all), (0xfed9_0000, false));
        assert_eq!(table.units[0].scopes[0].path.to_string(), "0000:00:02.0");
        assert!(table.units[1].all && table.units[1].scopes[0].kind == ScopeKind::IoApic);
        assert_eq!((table.reserved[0].start, table.reserved[0].end), (0x4b80_0000, 0x4fff_ffff));
        assert_eq!(table.reserved[0].scopes[1].path.to_string(), "0000:00:01.0/00.0");
        assert_eq!((table.ats_ports.len(), table.ats_everywhere), (1, false));
        let text = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<Dmar>(&text).unwrap(), table);
    }

    #[test]
    fn reserved_memory_is_found_by_path() {
        let table = Dmar::parse(&sample()).unwrap();
        let mut disk = function("03:00.0", "010400", "103c:323a");
        assert_eq!(table.reserved_for(&disk), [], "its place is not known");
        disk.path = Some("0000:00:01.0/00.0".parse().unwrap());
        assert_eq!(table.reserved_for(&disk), [(0x4b80_0000, 0x4fff_ffff)]);
        disk.path = Some("0000:00:01.0/00.1".parse().unwrap());
        assert_eq!(table.reserved_for(&disk), []);
    }

    #[test]
    fn a_bridge_stands_for_everything_behind_it() {
        let scope = Scope { kind: ScopeKind::Bridge, path: "0000:00:01.0".parse().unwrap() };
        assert!(scope.means(&"0000:00:01.0/00.0/03.1".parse().unwrap()));
        assert!(!scope.means(&"0000:00:01.1/00.0".parse().unwrap()));
    }

    #[test]
    fn what_is_cut_off_ends_the_table() {
        let whole = sample();
        for length in 0..whole.len() {
            let _ = Dmar::parse(&whole[..length]);
        }
        assert_eq!(Dmar::parse(&whole[..47]).unwrap().units, []);
        assert_eq!(Dmar::parse(b"DMAR"), None);
        assert_eq!(Dmar::parse(&[0; 64]), None);
        let endless = table(&[&[0, 0, 0, 0], &[0; 64]]);
        assert_eq!(Dmar::parse(&endless).unwrap().units, []);
        let odd_scope = table(&[&structure(0, &[&[0; 12], &[1, 8, 0, 0, 0, 0, 32, 0], &[1, 0, 0, 0]])]);
        assert_eq!(Dmar::parse(&odd_scope).unwrap().units[0].scopes, []);
    }
}
