//! Memory and I/O ports of a function: base address registers, option ROM, windows of a bridge.
//!
//! From the attribute `resource` (Documentation/filesystems/sysfs-pci.rst), which is what the kernel assigned; reading it
//! is no access to the device.

use serde::{Deserialize, Serialize};

/// A region of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Line in `resource`: 0 to 5 are the base address registers, 6 is the option ROM, from 7 on come the windows of a
    /// bridge or the registers of virtual functions.
    pub index: u8,
    /// First address.
    pub start: u64,
    /// Bytes (ports).
    pub size: u64,
    /// Memory or ports.
    pub kind: RegionKind,
    /// It may lie above 4 GiB.
    #[serde(rename = "64bit")]
    pub wide: bool,
    /// Reading it has no side effect: a frame buffer, not registers.
    pub prefetch: bool,
    /// The kernel can change its size (`resourceN_resize`).
    #[serde(default)]
    pub resizable: bool,
}

/// Memory or ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegionKind {
    /// Memory.
    Memory,
    /// I/O ports.
    Ports,
}

/// The longest `resource` that is believed: a function has at most 17 regions (include/linux/pci.h,
/// `PCI_NUM_RESOURCES`).
const MOST: usize = 32;

/// What the kernel writes of a region that is not there.
const ABSENT: &[u8] = b"0x0000000000000000 0x0000000000000000 0x0000000000000000";

/// Lines of start, end and flags (include/linux/ioport.h); a region that is not there has no flags and no size.
pub(super) fn parse_resource(text: &str) -> Vec<Region> {
    let region = |(index, line): (usize, &[u8])| {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).map(hex);
        let (start, end, flags) = (words.next()??, words.next()??, words.next()??);
        let kind = match flags >> 8 & 3 {
            1 => RegionKind::Ports,
            2 => RegionKind::Memory,
            _ => return None,
        };
        Some(Region {
            index: u8::try_from(index).ok()?,
            start,
            size: end.checked_sub(start)?.checked_add(1)?,
            kind,
            wide: flags & 0x0010_0000 != 0,
            prefetch: flags & 0x2000 != 0,
            resizable: false,
        })
    };
    // Two of three lines are such.
    let lines = text.as_bytes().split(|byte| *byte == b'\n').take(MOST).enumerate();
    lines.filter(|(_, line)| *line != ABSENT).filter_map(region).collect()
}

/// `0x` and at most sixteen digits.
fn hex(word: &[u8]) -> Option<u64> {
    let digits = word.strip_prefix(b"0x").filter(|digits| (1..=16).contains(&digits.len()))?;
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    digits.iter().try_fold(0, |number, byte| Some(number << 4 | u64::from(digit(byte)?)))
}

/// `resource1_resize`: the number of the region.
pub(super) fn parse_resize(name: &str) -> Option<u8> {
    name.strip_prefix("resource")?.strip_suffix("_resize")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_with_a_large_frame_buffer() {
        let text = "0x00000000a4000000 0x00000000a4ffffff 0x0000000000040200\n\
                    0x0000004000000000 0x00000043ffffffff 0x000000000014220c\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x0000004400000000 0x0000004401ffffff 0x000000000014220c\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x0000000000003000 0x000000000000307f 0x0000000000040101\n\
                    0x00000000a5000000 0x00000000a507ffff 0x0000000000046200\n";
        let regions = parse_resource(text);
        let brief = |region: &Region| (region.index, region.size, region.kind, region.wide, region.prefetch);
        assert_eq!(
            regions.iter().map(brief).collect::<Vec<_>>(),
            [
                (0, 16 << 20, RegionKind::Memory, false, false),
                (1, 16 << 30, RegionKind::Memory, true, true),
                (3, 32 << 20, RegionKind::Memory, true, true),
                (5, 128, RegionKind::Ports, false, false),
                (6, 512 << 10, RegionKind::Memory, false, true),
            ]
        );
    }

    #[test]
    fn odd_lines_are_no_regions() {
        let odd = "0x10 0x0 0x200\n0x0 0xffffffffffffffff 0x200\n\n0x0\nnonsense 0x1 0x200\n0x+1 0x2 0x200\n0x0 0x1 0x200";
        assert_eq!(parse_resource(odd).len(), 1);
        assert_eq!((parse_resize("resource1_resize"), parse_resize("resource1_wc")), (Some(1), None));
    }
}
