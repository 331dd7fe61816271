//! What a monitor says of itself: EDID (VESA E-EDID, release A2), as the kernel hands it out.
//!
//! Pure, and takes anything: the bytes come from a device, or from a capture that somebody sent. The serial number is
//! read over: it is nobody's business.

use serde::{Deserialize, Serialize};

/// A monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Monitor {
    /// Three letters that say who makes it (the UEFI forum's PNP ids): `DEL`.
    pub manufacturer: String,
    /// The maker's number for it, 4 hex digits.
    pub product: String,
    /// Its name, where it tells one: `DELL U2720Q`.
    pub name: Option<String>,
    /// Width and height of the picture in millimetres.
    pub size_mm: Option<(u16, u16)>,
    /// Width and height of the preferred mode in pixels.
    pub preferred: Option<(u16, u16)>,
}

impl Monitor {
    /// `DELL U2720Q`, or `DEL 41a8` where it tells no name.
    pub fn shown(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("{} {}", self.manufacturer, self.product))
    }
}

/// Bytes of a block; the first may be followed by extensions of the same size.
const BLOCK: usize = 128;

/// Extensions that are looked at; the count in the first block is a byte.
const MAX_BLOCKS: usize = 256;

/// What the bytes say; `None` where the first block is no EDID, is cut short, or its checksum is wrong.
pub fn parse(edid: &[u8]) -> Option<Monitor> {
    const HEADER: [u8; 8] = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0];
    let first = edid.get(..BLOCK)?;
    if first.get(..8)? != HEADER || !sums_up(first) {
        return None;
    }
    let manufacturer = manufacturer(u16::from_be_bytes([*first.get(8)?, *first.get(9)?]))?;
    let product = u16::from_le_bytes([*first.get(10)?, *first.get(11)?]);
    let descriptors: Vec<&[u8]> = first.get(54..126)?.chunks_exact(18).collect();
    let extensions = edid.chunks_exact(BLOCK).skip(1).take(MAX_BLOCKS).filter(|block| sums_up(block));
    let further = extensions.flat_map(descriptors_in);
    let name = descriptors.iter().copied().chain(further).find_map(|descriptor| text(descriptor, 0xfc));
    let panel = || descriptors.iter().find_map(|descriptor| text(descriptor, 0xfe));
    let timing = descriptors.first().and_then(|timing| detailed(timing));
    let centimetres =
        |at: usize| first.get(at).copied().filter(|size| *size > 0).map(|size| u16::from(size) * 10);
    Some(Monitor {
        manufacturer,
        product: format!("{product:04x}"),
        // A laptop's panel often has a text in place of a name.
        name: name.or_else(panel),
        size_mm: timing.and_then(|(_, size)| size).or_else(|| centimetres(21).zip(centimetres(22))),
        preferred: timing.map(|(pixels, _)| pixels),
    })
}

fn sums_up(block: &[u8]) -> bool {
    block.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

/// Three times five bits, 1 is `A`.
fn manufacturer(packed: u16) -> Option<String> {
    let letter = |shift: u16| {
        let number = u8::try_from(packed >> shift & 0x1f).ok()?;
        (1..=26).contains(&number).then(|| char::from(b'A' + number - 1))
    };
    [10, 5, 0].into_iter().map(letter).collect()
}

/// A display descriptor's text (section 3.10.3): up to 13 bytes, ended by a line feed, padded with spaces.
fn text(descriptor: &[u8], tag: u8) -> Option<String> {
    let body = match descriptor {
        [0, 0, 0, have, _, body @ ..] if *have == tag => body,
        _ => return None,
    };
    let end = body.iter().position(|byte| *byte == b'\n' || *byte == 0).unwrap_or(body.len());
    // Code page 437 in the standard, ASCII in the field; what comes from a device is not put on a terminal as it is.
    let printable =
        |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' };
    let text: String = body.get(..end)?.iter().map(printable).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

type Size = (u16, u16);

/// Pixels and millimetres of a detailed timing (section 3.10.2).
fn detailed(timing: &[u8]) -> Option<(Size, Option<Size>)> {
    let byte = |at: usize| timing.get(at).copied().map(u16::from);
    if byte(0)? == 0 && byte(1)? == 0 {
        return None;
    }
    let wide = byte(2)? | (byte(4)? & 0xf0) << 4;
    let high = byte(5)? | (byte(7)? & 0xf0) << 4;
    let size = (byte(12)? | (byte(14)? & 0xf0) << 4, byte(13)? | (byte(14)? & 0x0f) << 8);
    (wide > 0 && high > 0).then_some(((wide, high), (size.0 > 0 && size.1 > 0).then_some(size)))
}

/// Descriptors in a CTA-861 extension: from the offset in its third byte to before the checksum.
fn descriptors_in(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let start = match block {
        [0x02, _, offset @ 4..=126, ..] => usize::from(*offset),
        _ => BLOCK,
    };
    block.get(start..BLOCK - 1).unwrap_or_default().chunks_exact(18)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(mut block: Vec<u8>) -> Vec<u8> {
        block.resize(BLOCK - 1, 0);
        let sum = block.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        block.push(sum.wrapping_neg());
        block
    }

    fn descriptor(tag: u8, text: &str) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, tag, 0];
        bytes.extend(text.bytes());
        bytes.push(b'\n');
        bytes.resize(18, b' ');
        bytes
    }

    /// DEL, product 41a8, 60 by 34 cm, 3840 by 2160 on 597 by 336 mm, with these descriptors after the timing.
    fn first(descriptors: &[Vec<u8>]) -> Vec<u8> {
        let mut block = vec![0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x10, 0xac, 0xa8, 0x41, 1, 2, 3, 4];
        block.resize(54, 0);
        (block[21], block[22]) = (60, 34);
        block.extend([
            0x4d, 0xd0, 0x00, 0xa0, 0xf0, 0x70, 0x3e, 0x80, 0x30, 0x20, 0x35, 0x00, 0x55, 0x50, 0x21, 0, 0,
            0x1a,
        ]);
        block.extend(descriptors.concat());
        sealed(block)
    }

    #[test]
    fn a_monitor_by_its_name() {
        let serial = descriptor(0xff, "SECRET12345");
        let monitor = parse(&first(&[serial, descriptor(0xfc, "DELL U2720Q")])).unwrap();
        assert_eq!((monitor.manufacturer.as_str(), monitor.product.as_str()), ("DEL", "41a8"));
        assert_eq!(monitor.shown(), "DELL U2720Q");
        assert_eq!((monitor.preferred, monitor.size_mm), (Some((3840, 2160)), Some((597, 336))));
        assert!(!format!("{monitor:?}").contains("SECRET"));
    }

    #[test]
    fn names_in_other_places_and_none() {
        let panel = parse(&first(&[descriptor(0xfe, "B156HAN02.1")])).unwrap();
        assert_eq!(panel.shown(), "B156HAN02.1");
        assert_eq!(parse(&first(&[])).unwrap().shown(), "DEL 41a8");
        let mut both = first(&[]);
        let mut extension = vec![0x02, 3, 4, 0];
        extension.extend(descriptor(0xfc, "Ext Name"));
        both.extend(sealed(extension));
        assert_eq!(parse(&both).unwrap().shown(), "Ext Name");
        *both.last_mut().unwrap() ^= 1;
        assert_eq!(parse(&both).unwrap().name, None, "an extension with a wrong sum does not count");
    }

    #[test]
    fn hostile_bytes_are_no_monitor() {
        let good = first(&[descriptor(0xfc, "a\x1b[31mb")]);
        assert_eq!(parse(&good).unwrap().shown(), "a?[31mb");
        for length in 0..BLOCK {
            assert_eq!(parse(&good[..length]), None);
        }
        for at in 0..BLOCK {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert_eq!(parse(&bad), None, "byte {at}");
        }
        let mut zero = vec![0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0];
        assert_eq!(parse(&sealed(std::mem::take(&mut zero))), None, "no letters");
        let mut long = good.clone();
        for offset in 0..=255 {
            long.truncate(BLOCK);
            long.extend(sealed(vec![0x02, 3, offset, 0xff]));
            assert!(parse(&long).is_some());
        }
    }
}
