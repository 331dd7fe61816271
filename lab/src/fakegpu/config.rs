//! Configuration space and option ROM of the look-alike card, as bytes. Nothing here talks to anybody.
//!
//! Sources: PCI Local Bus Specification 3.0 chapter 6 (header, ROM), PCI Power Management 1.2 (capability 01h),
//! PCI Express Base Specification (capability 10h). Ids: pci.ids. Sizes are those of a GeForce RTX 30 series card.

use super::{Card, Function};

/// Bytes of the option ROM: a BIOS image and an UEFI image of 32 KiB each.
pub(crate) const ROM_SIZE: usize = 0x1_0000;
const IMAGE_SIZE: usize = ROM_SIZE / 2;
/// The same in the unit of the ROM header, 512 bytes.
const IMAGE_BLOCKS: u8 = 64;

pub(crate) const CLASS: usize = 0x09;
pub(crate) const COMMAND: usize = 0x04;
/// Power management control and status.
pub(crate) const PMCSR: usize = 0x64;
/// Device control of the PCI Express capability; bit 15 starts a function level reset.
pub(crate) const DEVICE_CONTROL: usize = 0x80;

/// Where the two capabilities stand.
const POWER: u8 = 0x60;
const EXPRESS: u8 = 0x78;

/// NVIDIA's vendor id, GA102 (RTX 3090) and the audio function of GA102.
pub(crate) const VENDOR: u16 = 0x10de;
const GA102: u16 = 0x2204;
const GA102_AUDIO: u16 = 0x1aef;

/// A configuration space: what it holds, and which bits of it may be written.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) bytes: Vec<u8>,
    writable: Vec<u8>,
}

/// Sizes of the six base address registers, zero for one that is not there.
pub(crate) fn bars(function: Function) -> [u64; 6] {
    match function {
        Function::Gpu => [16 << 20, 256 << 20, 0, 32 << 20, 0, 128],
        Function::Audio => [16 << 10, 0, 0, 0, 0, 0],
    }
}

impl Config {
    pub(crate) fn new(function: Function, card: &Card) -> Self {
        let mut config = Self { bytes: vec![0; 4096], writable: vec![0; 4096] };
        config.header(function, card);
        config.base_addresses(function);
        config.capabilities(card);
        config
    }

    fn header(&mut self, function: Function, card: &Card) {
        let (device, class): (u16, [u8; 3]) = match function {
            Function::Gpu => (card.device.unwrap_or(GA102), [0x00, 0x00, 0x03]),
            Function::Audio => (GA102_AUDIO, [0x00, 0x03, 0x04]),
        };
        self.put(0x00, &VENDOR.to_le_bytes());
        self.put(0x02, &device.to_le_bytes());
        self.allow(COMMAND, &[0x07, 0x04]); // I/O, memory, bus master; interrupt disable
        self.put(0x06, &[0x10, 0x00]); // status: there is a capability list
        self.put(0x08, &[0xa1]); // revision
        self.put(CLASS, &class);
        self.allow(0x0c, &[0xff]); // cache line size
        self.put(0x2c, &card.subsystem.0.to_le_bytes());
        self.put(0x2e, &card.subsystem.1.to_le_bytes());
        self.put(0x34, &[POWER]);
        self.allow(0x3c, &[0xff]); // interrupt line
        self.put(0x3d, &[if function == Function::Gpu { 1 } else { 2 }]); // INTA, INTB
    }

    fn base_addresses(&mut self, function: Function) {
        for (index, size) in bars(function).into_iter().enumerate().filter(|(_, size)| *size > 0) {
            let at = 0x10 + 4 * index;
            let mask = !(size - 1);
            let (flags, wide) = match (function, index) {
                (Function::Gpu, 1 | 3) => (0x0c_u8, true), // 64 bits, prefetchable
                (Function::Gpu, 5) => (0x01, false),       // I/O ports
                _ => (0x00, false),
            };
            self.put(at, &[flags]);
            let [b0, b1, b2, b3, high @ ..] = mask.to_le_bytes();
            self.allow(at, &[b0 & 0xf0, b1, b2, b3]);
            if wide {
                self.allow(at + 4, &high);
            }
        }
        if function == Function::Gpu {
            let [b0, b1, b2, b3, ..] = (!(ROM_SIZE as u64 - 1)).to_le_bytes();
            self.allow(0x30, &[b0 | 0x01, b1, b2, b3]);
        }
    }

    fn capabilities(&mut self, card: &Card) {
        self.put(POWER.into(), &[0x01, EXPRESS, 0x03, 0x00]);
        self.allow(PMCSR, &[0x03]);
        let express = usize::from(EXPRESS);
        self.put(express, &[0x10, 0x00, 0x02, 0x00]); // version 2, endpoint, last in the list
        let flr = if card.flr { 1 << 28 } else { 0 };
        self.put(express + 4, &(0x8000_u32 | flr).to_le_bytes()); // device capabilities
        self.allow(DEVICE_CONTROL, &[0xff, 0xff]);
        self.put(express + 0x0c, &0x0004_1103_u32.to_le_bytes()); // link capabilities: 8 GT/s, 16 lanes
        self.put(express + 0x12, &[0x03, 0x11]); // link status: the same
    }

    /// A write by the guest; bits that are not writable keep their value.
    pub(crate) fn write(&mut self, at: usize, data: &[u8]) {
        for (offset, value) in data.iter().enumerate() {
            if let (Some(byte), Some(mask)) =
                (self.bytes.get_mut(at + offset), self.writable.get(at + offset))
            {
                *byte = (*byte & !mask) | (value & mask);
            }
        }
    }

    /// What a reset leaves of what was written: nothing decoded, full power.
    pub(crate) fn reset(&mut self) {
        self.put(COMMAND, &[0, 0]);
        self.put(PMCSR, &[0]);
        self.put(DEVICE_CONTROL, &[0, 0]);
    }

    /// The power state that is set: 0 to 3.
    pub(crate) fn power(&self) -> u8 {
        self.bytes[PMCSR] & 0x03
    }

    /// Whether the guest has just asked for a function level reset.
    pub(crate) fn wants_reset(&self) -> bool {
        self.bytes[DEVICE_CONTROL + 1] & 0x80 != 0
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }
}

/// An option ROM as firmware wants it: two images with right signatures, lengths and checksums.
pub(crate) fn rom(card: &Card) -> Vec<u8> {
    let device = card.device.unwrap_or(GA102);
    let mut bios = image(device, 0, false);
    bios[3] = 0xcb; // its code is one far return
    let name = b"LAB LOOK-ALIKE VBIOS 94.02.42";
    bios[0x80..0x80 + name.len()].copy_from_slice(name);
    let sum = bios.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    bios[IMAGE_SIZE - 1] = bios[IMAGE_SIZE - 1].wrapping_sub(sum);
    let mut uefi = image(device, 3, true);
    // UEFI Specification 2.10, 14.4.2: signature 0EF1h, subsystem 11 (boot service driver), machine 8664h.
    uefi[0x04..0x0e].copy_from_slice(&[0xf1, 0x0e, 0x00, 0x00, 0x0b, 0x00, 0x64, 0x86, 0x00, 0x00]);
    bios.extend_from_slice(&uefi);
    bios
}

fn image(device: u16, code_type: u8, last: bool) -> Vec<u8> {
    let mut image = vec![0; IMAGE_SIZE];
    image[0..3].copy_from_slice(&[0x55, 0xaa, IMAGE_BLOCKS]);
    image[0x18] = 0x40; // where the PCI data structure is
    image[0x40..0x44].copy_from_slice(b"PCIR");
    image[0x44..0x46].copy_from_slice(&VENDOR.to_le_bytes());
    image[0x46..0x48].copy_from_slice(&device.to_le_bytes());
    image[0x4a] = 0x18; // its length
    image[0x4f] = 0x03; // display controller
    image[0x50] = IMAGE_BLOCKS;
    image[0x54] = code_type;
    image[0x55] = if last { 0x80 } else { 0x00 };
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> Card {
        Card::new(0x4001)
    }

    #[test]
    fn sizing_a_base_address_register_tells_its_size() {
        let mut config = Config::new(Function::Gpu, &card());
        config.write(0x10, &[0xff; 4]);
        assert_eq!(config.bytes[0x10..0x14], 0xff00_0000_u32.to_le_bytes());
        config.write(0x14, &[0xff; 8]);
        assert_eq!(config.bytes[0x14..0x1c], 0xffff_ffff_f000_000c_u64.to_le_bytes());
    }

    #[test]
    fn ids_cannot_be_written() {
        let mut config = Config::new(Function::Audio, &card());
        config.write(0, &[0; 4]);
        assert_eq!(config.bytes[0..4], [0xde, 0x10, 0xef, 0x1a]);
    }

    #[test]
    fn the_bios_image_sums_to_zero_and_the_second_image_is_the_last() {
        let rom = rom(&card());
        assert_eq!(rom.len(), ROM_SIZE);
        assert_eq!(usize::from(rom[2]) * 512, IMAGE_SIZE);
        assert_eq!(rom[..IMAGE_SIZE].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        assert_eq!(rom[0x55] & 0x80, 0);
        assert_eq!(rom[IMAGE_SIZE + 0x55] & 0x80, 0x80);
        assert_eq!(rom[IMAGE_SIZE..IMAGE_SIZE + 2], [0x55, 0xaa]);
    }

    #[test]
    fn function_level_reset_is_offered_only_when_told() {
        let offers = |flr| {
            Config::new(Function::Gpu, &Card { flr, ..card() }).bytes[usize::from(EXPRESS) + 7] & 0x10 != 0
        };
        assert!(offers(true));
        assert!(!offers(false));
    }
}
