//! The small things that listings are made of: addresses, ids, class names, vendor names.
//!
//! Pure, and knows nothing of lines.

use crate::{
    host::embedded,
    pci::{Address, Class, DeviceId},
};
use std::{collections::HashMap, sync::OnceLock};

/// A hexadecimal number of exactly so many digits.
pub(super) fn hex(text: &str, digits: usize) -> Option<u32> {
    let good = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if good { u32::from_str_radix(text, 16).ok() } else { None }
}

/// Four hex digits.
pub(super) fn id(text: &str) -> Option<u16> {
    hex(text, 4).and_then(|id| u16::try_from(id).ok())
}

/// A decimal number, as groups and counts are written.
pub(super) fn number(text: &str) -> Option<u32> {
    let good = (1..=7).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if good { text.parse().ok() } else { None }
}

/// The number that a text begins with.
pub(super) fn leading_number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((number(digits)?, rest))
}

/// The address that a text begins with, and what follows it. The address ends at something that could not be a
/// part of it.
pub(super) fn leading_address(text: &str) -> Option<(Address, &str)> {
    let end = text
        .find(|character: char| !(character.is_ascii_hexdigit() || matches!(character, ':' | '.')))
        .unwrap_or(text.len());
    let (word, rest) = text.split_at_checked(end)?;
    if rest.starts_with(|character: char| character.is_alphanumeric() || character == '_') {
        return None;
    }
    let word_end = word.trim_end_matches([':', '.']).len();
    let (word, _) = word.split_at_checked(word_end)?;
    // `01:00.0`; times (`12:30`), version numbers and sizes have another form.
    if word.len() < 7 || word.as_bytes().get(word.len() - 2) != Some(&b'.') {
        return None;
    }
    let mut address: Address = word.parse().ok()?;
    // Domains above 16 bits are made by the VMD driver, from 10000 on (drivers/pci/controller/vmd.c); what is
    // higher are digits of something else that stood before, where a log lost some of its characters.
    if address.domain >= 0x2_0000 {
        address.domain &= 0xffff;
    }
    Some((address, text.get(word_end..)?))
}

/// Every address in a text, and where it begins and ends.
pub(super) fn addresses(text: &str) -> Vec<(Address, usize, usize)> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let in_word = |byte: u8| byte.is_ascii_hexdigit() || byte == b':' || byte == b'.';
        if !in_word(bytes[at]) {
            at += 1;
            continue;
        }
        let end =
            bytes[at..].iter().position(|byte| !in_word(*byte)).map_or(bytes.len(), |length| at + length);
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        let inside_word = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        if let Some(run) = text.get(at..end) {
            // `PCI:0000:00:02.0`: the colon before belongs to the word before.
            let skipped = run.len() - run.trim_start_matches([':', '.']).len();
            let begin = at + skipped;
            // `pci0000:00:02.0` lost its space; a short address inside a word is none.
            if !inside_word || skipped > 0 || run.find(':') == Some(4) {
                if let Some((address, rest)) = text.get(begin..).and_then(leading_address) {
                    found.push((address, begin, text.len() - rest.len()));
                }
            }
        }
        at = end;
    }
    found
}

/// The last bytes of a text, cut between characters: what stands right before something.
pub(super) fn tail(text: &str, most: usize) -> &str {
    let mut begin = text.len().saturating_sub(most);
    while !text.is_char_boundary(begin) {
        begin += 1;
    }
    text.get(begin..).unwrap_or_default()
}

/// The first bytes of a text, cut between characters.
pub(super) fn head(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// `10de:2204` between brackets; the last one in a text.
pub(super) fn last_bracketed_id(text: &str) -> Option<(DeviceId, usize)> {
    let mut found = None;
    for (at, _) in text.match_indices('[') {
        if let Some(id) = text.get(at + 1..at + 10).and_then(|id| id.parse().ok()) {
            if text.as_bytes().get(at + 10) == Some(&b']') {
                found = Some((id, at));
            }
        }
    }
    found
}

/// A class by its name as lspci writes it: base class and subclass.
pub(super) fn class_by_name(name: &str) -> Option<Class> {
    static NAMES: OnceLock<HashMap<String, u16>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        let mut names = HashMap::new();
        for (class, name) in embedded::classes() {
            names.entry(name.to_lowercase()).or_insert(class);
        }
        for (name, code) in OTHER_NAMES {
            names.entry(name.to_owned()).or_insert(code);
        }
        names
    });
    let name = name.trim();
    if name.len() > 64 {
        return None;
    }
    names.get(&name.to_lowercase()).map(|code| Class(u32::from(*code) << 8))
}

/// Names that older lists had, in lower case.
const OTHER_NAMES: [(&str, u16); 14] = [
    ("vga controller", 0x0300),
    ("vga compatible", 0x0300),
    ("firewire (ieee 1394)", 0x0c00),
    ("class 0108", 0x0108),
    ("non-volatile memory", 0x0108),
    ("nvme controller", 0x0108),
    ("ipmi smic interface", 0x0700),
    ("ipmi interface", 0x0c07),
    ("infiniband", 0x0207),
    ("co-processor", 0x0b40),
    ("pci-pci bridge", 0x0604),
    ("multimedia audio device", 0x0403),
    ("unknown mass storage controller", 0x0180),
    ("communication synchronizer", 0x1110),
];

/// The vendor whose name a device's name begins with.
pub(super) fn vendor_by_name(name: &str) -> Option<u16> {
    static NAMES: OnceLock<HashMap<&'static str, u16>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        let mut names = HashMap::new();
        for (vendor, name) in embedded::vendors() {
            // A name that two vendors have tells neither.
            names.entry(name).and_modify(|id| *id = 0xffff).or_insert(vendor);
        }
        names
    });
    let ends = name.match_indices(' ').map(|(at, _)| at).chain([name.len()]).take(12);
    let found: Vec<u16> = ends.filter_map(|end| names.get(name.get(..end)?).copied()).collect();
    found.last().copied().filter(|id| *id != 0xffff)
}

/// `…word` where a text has it, whatever the case: what follows.
pub(super) fn after<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    text.split_once(word).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_what_only_looks_like_one() {
        let found = |text: &str| {
            addresses(text).iter().map(|(address, _, _)| address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found("01:00.0 and 10000:e1:00.0:"), ["0000:01:00.0", "10000:e1:00.0"]);
        assert_eq!(found("device added: PCI:0000:00:02.0,decodes"), ["0000:00:02.0"]);
        assert_eq!(found("devices/0000:01:00.1"), ["0000:01:00.1"]);
        assert_eq!(found("at 12:30:45.1 or 1.2.3 or 00:1f or x01:00.0 01:00.0x"), Vec::<String>::new());
        assert_eq!(leading_address("01:00.0: VGA").unwrap().1, ": VGA");
        assert_eq!(leading_address("01:00.8"), None);
    }

    #[test]
    fn classes_by_name() {
        let code = |name: &str| class_by_name(name).map(Class::subclass);
        assert_eq!(code("VGA compatible controller"), Some(0x300));
        assert_eq!(code("3D controller"), Some(0x302));
        assert_eq!(code("Display controller"), Some(0x380));
        assert_eq!(code("USB Controller"), Some(0xc03));
        assert_eq!(code("Audio device"), Some(0x403));
        assert_eq!(code("PCI bridge"), Some(0x604));
        assert_eq!(code("Signal processing controller"), Some(0x1180));
        assert_eq!(code("Processing accelerators"), Some(0x1200));
        assert_eq!(code("He said"), None);
    }

    #[test]
    fn vendors_by_name() {
        assert_eq!(vendor_by_name("NVIDIA Corporation GA102 [GeForce RTX 3090]"), Some(0x10de));
        assert_eq!(vendor_by_name("Advanced Micro Devices, Inc. [AMD/ATI] Navi 21"), Some(0x1002));
        assert_eq!(vendor_by_name("Advanced Micro Devices, Inc. [AMD] Renoir"), Some(0x1022));
        assert_eq!(vendor_by_name("Nobody in particular"), None);
    }

    #[test]
    fn the_last_bracketed_id_counts() {
        let (id, _) = last_bracketed_id("NVIDIA GA102 [GeForce] [10de:2204] x").unwrap();
        assert_eq!(id.to_string(), "10de:2204");
        assert_eq!(last_bracketed_id("[0300]: x [10de:22041]"), None);
    }
}
