//! IVRS: AMD's I/O virtualisation table (AMD I/O Virtualization Technology specification, chapter "I/O Virtualization
//! ACPI Table"; include/acpi/actbl2.h; drivers/iommu/amd/init.c).

use super::{body, number};
use crate::{host::Function, pci::Address};
use serde::{Deserialize, Serialize};

/// The table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ivrs {
    /// Bits of a physical address, as far as told.
    pub address_bits: u8,
    /// The firmware asks for protection against DMA from the start.
    pub dma_guard: bool,
    /// Remapping units, one for each description of one (newer firmware describes each unit two or three times).
    pub units: Vec<IvrsUnit>,
    /// Memory with rules of its own.
    pub memory: Vec<IvrsMemory>,
}

/// A remapping unit (IVHD).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IvrsUnit {
    /// Type of the description: 16, 17 or 64.
    pub kind: u8,
    /// The unit's own PCI function.
    pub function: Address,
    /// Address of its registers.
    pub base: u64,
}

/// Memory that devices reach by rules of its own (IVMD).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IvrsMemory {
    /// The first device; `None`: all devices.
    pub first: Option<Address>,
    /// The last device.
    pub last: Option<Address>,
    /// First address.
    pub start: u64,
    /// Last address.
    pub end: u64,
    /// Devices must reach it at the same addresses.
    pub unity: bool,
    /// It is not translated at all.
    pub exclusion: bool,
}

impl IvrsMemory {
    fn is_for(&self, address: Address) -> bool {
        self.first.is_none_or(|first| first <= address) && self.last.is_none_or(|last| address <= last)
    }
}

impl Ivrs {
    /// From the bytes of the table; `None` where they are not one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let body = body(bytes, *b"IVRS")?;
        let information = number(body, 0, 4)?;
        let mut table = Self {
            address_bits: (information >> 8 & 0x7f) as u8,
            dma_guard: information & 2 != 0,
            units: Vec::new(),
            memory: Vec::new(),
        };
        let mut rest = body.get(12..).unwrap_or_default();
        while let Some((kind, block)) = next(rest) {
            match kind {
                0x10 | 0x11 | 0x40 => table.units.extend(unit(kind, block)),
                0x20..=0x22 => table.memory.extend(memory(kind, block)),
                _ => {}
            }
            rest = rest.get(block.len()..).unwrap_or_default();
        }
        Some(table)
    }

    /// Regions that a function must keep reaching at the same addresses.
    pub(super) fn reserved_for(&self, function: &Function) -> Vec<(u64, u64)> {
        let its = self.memory.iter().filter(|memory| memory.unity && memory.is_for(function.address));
        its.map(|memory| (memory.start, memory.end)).collect()
    }
}

/// The next block: type and flags of 8 bits each, a length of 16.
fn next(rest: &[u8]) -> Option<(u8, &[u8])> {
    let length = usize::try_from(number(rest, 2, 2)?).ok()?;
    if length < 4 { None } else { Some((*rest.first()?, rest.get(..length)?)) }
}

/// Bus, device and function in 16 bits.
fn address(segment: u64, id: u64) -> Option<Address> {
    let low = u8::try_from(id & 0xff).ok()?;
    Some(Address {
        domain: u32::try_from(segment).ok()?,
        bus: u8::try_from(id >> 8 & 0xff).ok()?,
        device: low >> 3,
        function: low & 7,
    })
}

fn unit(kind: u8, block: &[u8]) -> Option<IvrsUnit> {
    let function = address(number(block, 16, 2)?, number(block, 4, 2)?)?;
    Some(IvrsUnit { kind, function, base: number(block, 8, 8)? })
}

/// Type 20 is for all devices, 21 for one, 22 for a range (numbers in hex).
fn memory(kind: u8, block: &[u8]) -> Option<IvrsMemory> {
    let (first, last) = (address(0, number(block, 4, 2)?)?, address(0, number(block, 6, 2)?)?);
    let (first, last) = match kind {
        0x20 => (None, None),
        0x21 => (Some(first), Some(first)),
        _ => (Some(first), Some(last)),
    };
    let (start, size) = (number(block, 16, 8)?, number(block, 24, 8)?);
    let flags = *block.get(1)?;
    let exclusion = flags & 8 != 0;
    Some(IvrsMemory {
        first,
        last,
        start,
        end: start.checked_add(size.checked_sub(1)?)?,
        // The kernel maps an exclusion range one to one as well (drivers/iommu/amd/init.c, `init_unity_map_range`).
        unity: flags & 1 != 0 || exclusion,
        exclusion,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::function;

    fn sample() -> Vec<u8> {
        let mut bytes = b"IVRS".to_vec();
        bytes.resize(36, 0);
        bytes.extend(0x0020_3042_u32.to_le_bytes());
        bytes.resize(48, 0);
        let mut unit = vec![0x10, 0xb0, 24, 0, 0x02, 0, 0x40, 0];
        unit.extend(0xfeb8_0000_u64.to_le_bytes());
        unit.resize(24, 0);
        bytes.extend(unit);
        for (kind, flags, first, last) in
            [(0x21, 0x07, 0x0300_u16, 0), (0x22, 0x08, 0x0400, 0x04ff), (0x20, 0x06, 0, 0)]
        {
            let mut block = vec![kind, flags, 32, 0];
            block.extend(first.to_le_bytes());
            block.extend(u16::to_le_bytes(last));
            block.resize(16, 0);
            block.extend(0x9e00_0000_u64.to_le_bytes());
            block.extend(0x10_0000_u64.to_le_bytes());
            bytes.extend(block);
        }
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    #[test]
    fn units_and_memory() {
        let table = Ivrs::parse(&sample()).unwrap();
        assert_eq!((table.address_bits, table.dma_guard), (48, true));
        assert_eq!(
            (table.units[0].function.to_string().as_str(), table.units[0].base),
            ("0000:00:00.2", 0xfeb8_0000)
        );
        assert_eq!(table.memory.len(), 3);
        let reserved = |address: &str| table.reserved_for(&function(address, "010600", "1022:7901"));
        assert_eq!(reserved("03:00.0"), [(0x9e00_0000, 0x9e0f_ffff)]);
        assert_eq!(reserved("04:1f.7"), [(0x9e00_0000, 0x9e0f_ffff)]);
        assert_eq!(reserved("05:00.0"), [], "what all devices may reach and no unity is asked of");
        let text = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<Ivrs>(&text).unwrap(), table);
    }

    #[test]
    fn what_is_cut_off_ends_the_table() {
        let whole = sample();
        for length in 0..whole.len() {
            let _ = Ivrs::parse(&whole[..length]);
        }
        assert_eq!(Ivrs::parse(b"IVRS"), None);
        let mut empty = whole.clone();
        empty[48 + 24 + 24..48 + 24 + 32].fill(0);
        assert_eq!(Ivrs::parse(&empty).unwrap().memory.len(), 2, "a region without a size is none");
    }
}
