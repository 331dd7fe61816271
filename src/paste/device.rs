//! The line of a function, as lspci prints it and as group scripts print it again.
//!
//! `01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GA102 [10de:2204] (rev a1)`, without any of the
//! brackets, with numbers alone (`-n`), for machines (`-m`), and with the columns in another order. Pure: one line
//! in, what it says out. Subsystem ids are never taken for the device's.

use super::words::{
    class_by_name, hex, id, last_bracketed_id, leading_address, leading_number, vendor_by_name,
};
use crate::pci::{Address, Class};

/// What a line says of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub address: Address,
    /// A group that stands before the address: `(12) 01:00.0`.
    pub group: Option<u32>,
    pub class: Option<Class>,
    /// Whether the programming interface in `class` was there.
    pub interface: bool,
    pub vendor: Option<u16>,
    pub device: Option<u16>,
    pub revision: Option<u8>,
    /// Maker and name.
    pub name: Option<String>,
    /// `Driver: vfio-pci` at the end.
    pub driver: Option<String>,
    pub subsystem: Option<(u16, u16)>,
}

impl Row {
    pub(super) fn at(address: Address) -> Self {
        Self {
            address,
            group: None,
            class: None,
            interface: false,
            vendor: None,
            device: None,
            revision: None,
            name: None,
            driver: None,
            subsystem: None,
        }
    }

    /// Whether the line says more than an address: what tells a listing from a sentence.
    pub(super) fn is_certain(&self) -> bool {
        self.class.is_some()
    }
}

/// The function that a line is about, where an address stands at its beginning, with nothing but marks, numbers in
/// brackets and the like before it.
pub(super) fn parse(line: &str) -> Option<Row> {
    let mut rest = line;
    let mut before = None;
    let mut group = None;
    for _ in 0..8 {
        rest =
            rest.trim_start_matches([' ', '\t', '*', '-', '+', '|', '│', '├', '└', '─', '•', '·', '"', '\'']);
        if let Some((mut address, mut rest)) = leading_address(rest).or_else(|| underlined(rest)) {
            // The way from the root bus (`lspci -PP`): the last one is the function.
            while let Some((next, after)) = rest.strip_prefix('/').and_then(leading_address) {
                (address, rest) = (next, after);
            }
            if rest.starts_with('/') {
                return None;
            }
            let mut row = Row::at(address);
            row.group = group;
            fill(&mut row, before, rest);
            return Some(row);
        }
        if let Some(inside) = rest.strip_prefix('[') {
            let (word, after) = inside.split_once(']')?;
            if let Ok(id) = word.parse() {
                before = Some(id);
            } else if word.len() > 8 && leading_address(word).is_none() {
                return None;
            } else if let Some((address, "")) = leading_address(word) {
                let mut row = Row::at(address);
                row.group = group;
                fill(&mut row, before, after);
                return Some(row);
            }
            rest = after;
        } else if let Some(inside) = rest.strip_prefix('(') {
            let (word, after) = inside.split_once(')')?;
            group = Some(super::words::number(word.trim())?);
            rest = after;
        } else if let Some(after) = ["Device", "device", "PCI", "pci", "DEVICE", "BDF", "Slot"]
            .iter()
            .find_map(|word| rest.strip_prefix(word))
        {
            // `Device 01:00.0`, `PCI device: 01:00.0`, `pci@0000:01:00.0`, `Device 1: 01:00.0`
            rest = after.trim_start_matches([':', '@', ' ', '#', '=', '\t']);
            if leading_address(rest).is_none() {
                if let Some((_, after)) = leading_number(rest) {
                    rest = after.trim_start_matches([':', ' ']);
                }
            }
        } else {
            return None;
        }
    }
    None
}

/// `dom0:01_00.0`, as Qubes has it.
fn underlined(text: &str) -> Option<(Address, &str)> {
    let (bus, rest) = text.strip_prefix("dom0:")?.split_once('_')?;
    let (place, rest) = rest.split_once(' ')?;
    let address = format!("{bus}:{place}").parse().ok().filter(|_| bus.len() == 2)?;
    Some((address, rest))
}

fn fill(row: &mut Row, before: Option<crate::pci::DeviceId>, rest: &str) {
    let rest = rest.trim_start_matches(['"', '\'', ']', ')']);
    let rest = rest.trim_start_matches([' ', '\t', '|', ':', '│']);
    let rest = rest.strip_prefix("-> ").or_else(|| rest.strip_prefix("- ")).unwrap_or(rest).trim_start();
    if rest.starts_with('"') {
        machine_readable(row, rest);
        return;
    }
    let (rest, tail) = cut_tail(rest);
    row.driver = driver(tail);
    let described = class_and_rest(row, rest);
    let mut name = described.unwrap_or("");
    row.revision = revision(rest);
    if let Some(id) = before {
        (row.vendor, row.device) = (Some(id.vendor), Some(id.device));
    }
    if let Some((id, at)) = last_bracketed_id(rest) {
        (row.vendor, row.device) = (Some(id.vendor), Some(id.device));
        // `name` is a part of `rest`: cut it at the same place.
        let begin = rest.len() - name.len();
        name = name.get(..at.saturating_sub(begin)).unwrap_or(name);
    } else if let Some(id) = name.get(..9).and_then(|id| id.parse::<crate::pci::DeviceId>().ok()) {
        if before.is_none() {
            (row.vendor, row.device) = (Some(id.vendor), Some(id.device));
        }
        name = name.get(9..).unwrap_or_default();
    }
    if let Some(code) = interface(rest) {
        if let Some(class) = &mut row.class {
            class.0 = class.0 & 0xff_ff00 | u32::from(code);
            row.interface = true;
        }
    }
    let name = name.split(" (rev").next().unwrap_or_default();
    let name = name.split(" (prog-if").next().unwrap_or_default().trim();
    by_name(row, name);
}

/// What only the name says: the maker (lspci has its name from the same list), and the device's id where the list
/// does not have it (`Device 14a4`).
fn by_name(row: &mut Row, name: &str) {
    if name.is_empty() {
        return;
    }
    row.vendor = row.vendor.or_else(|| vendor_by_name(name));
    let unnamed = name.rsplit_once("Device ").and_then(|(maker, code)| Some((maker, id(code.trim())?)));
    match unnamed {
        Some((maker, code)) => {
            // With ids elsewhere on the line, they count.
            if row.device.is_none() && row.vendor.is_some() && vendor_by_name(maker.trim()).is_some() {
                row.device = Some(code);
            }
        }
        None if name == "Device" || name.ends_with(" Device") => {}
        None => row.name = Some(name.to_owned()),
    }
}

/// Class in front of the first colon; what follows is maker and name.
fn class_and_rest<'t>(row: &mut Row, text: &'t str) -> Option<&'t str> {
    // `VGA compatible controller [0300]: …`; the bracket may also be all there is.
    for (at, _) in text.match_indices('[').take(4) {
        let Some(code) = text.get(at + 1..at + 5).and_then(id) else { continue };
        let Some(after) = text.get(at + 5..).and_then(|after| after.strip_prefix(']')) else { continue };
        let front = text.get(..at)?;
        if front.contains(": ") {
            break;
        }
        row.class = Some(Class(u32::from(code) << 8));
        return Some(after.strip_prefix(':').unwrap_or(after).trim_start());
    }
    let short = text.strip_prefix("Class ").unwrap_or(text);
    if let Some(code) = short.get(..4).and_then(id) {
        if let Some(after) = short.get(4..).and_then(|after| after.strip_prefix(':')) {
            row.class = Some(Class(u32::from(code) << 8));
            return Some(after.trim_start());
        }
    }
    // Six digits, as sysfs has it.
    let bare = text.strip_prefix("0x").unwrap_or(text);
    if let Some(code) = bare.get(..6).and_then(|code| hex(code, 6)) {
        if bare.get(6..).is_some_and(|after| !after.starts_with(|next: char| next.is_alphanumeric())) {
            row.class = Some(Class(code));
            row.interface = true;
            return Some(bare.get(6..)?.trim_start_matches([':', ' ', '\t', '|']));
        }
    }
    if let Some((name, after)) = text.split_once(':') {
        if let Some(class) = class_by_name(name) {
            row.class = Some(class);
            return Some(after.trim_start());
        }
    }
    // Columns: two spaces, a tab or a bar after the class.
    let ends = ["  ", "\t", " | ", " │ ", " - "];
    if let Some((name, after)) =
        ends.iter().filter_map(|end| text.split_once(end)).min_by_key(|(name, _)| name.len())
    {
        if let Some(class) = class_by_name(name.trim()) {
            row.class = Some(class);
            return Some(after.trim_start_matches([' ', '\t', '|', '│', '-']));
        }
    }
    if let Some(class) = class_by_name(text) {
        row.class = Some(class);
        return Some("");
    }
    Some(text)
}

/// Where a line goes on about something else: its subsystem, its driver.
fn cut_tail(text: &str) -> (&str, &str) {
    let words = [
        "Subsystem:",
        "Driver:",
        "driver:",
        "Kernel driver",
        "driver in use",
        "DeviceName:",
        "Kernel modules",
    ];
    let cut = words.iter().filter_map(|word| text.find(word)).min().unwrap_or(text.len());
    text.split_at_checked(cut).unwrap_or((text, ""))
}

fn driver(tail: &str) -> Option<String> {
    let words = ["Kernel driver in use:", "driver in use:", "Kernel driver:", "Driver:", "driver:"];
    let after = words.iter().find_map(|word| super::words::after(tail, word))?;
    driver_name(after)
}

/// A driver's name at the beginning of a text.
pub(super) fn driver_name(text: &str) -> Option<String> {
    let name = text
        .trim_start()
        .split(|end: char| end.is_whitespace() || matches!(end, ',' | ')' | ']' | '|'))
        .next()?;
    let good = !name.is_empty() && name.len() <= 64;
    let named = name
        .chars()
        .all(|character| character.is_ascii_alphanumeric() || matches!(character, '_' | '-' | '.'));
    let none = ["none", "None", "N/A", "n/a", "NONE", "-", "(none)", "Kernel", "null"].contains(&name);
    (good && named && !none).then(|| name.to_owned())
}

fn revision(text: &str) -> Option<u8> {
    let (_, after) = text.rsplit_once("(rev ")?;
    let (digits, _) = after.split_once(')')?;
    hex(digits, 2).and_then(|revision| u8::try_from(revision).ok())
}

/// `(prog-if 30 [XHCI])`.
fn interface(text: &str) -> Option<u8> {
    let after = super::words::after(text, "(prog-if ")?;
    hex(after.get(..2)?, 2).and_then(|code| u8::try_from(code).ok())
}

/// `"VGA compatible controller [0300]" "NVIDIA Corporation [10de]" "GA102 [2204]" -ra1 -p00 "…" "…"` (lspci -m),
/// numbers alone with -n.
fn machine_readable(row: &mut Row, text: &str) {
    let mut fields = Vec::new();
    for (index, part) in text.split('"').enumerate().take(24) {
        if index % 2 == 1 {
            fields.push(part);
        } else {
            for word in part.split_whitespace() {
                let code =
                    word.get(2..).and_then(|code| hex(code, 2)).and_then(|code| u8::try_from(code).ok());
                match word.get(..2) {
                    Some("-r") => row.revision = code,
                    Some("-p") => row.interface = code.is_some(),
                    _ => {}
                }
            }
        }
    }
    let interface = after_dash_p(text);
    let code = |field: &&str| {
        let inside = field.rsplit_once('[').and_then(|(_, code)| code.strip_suffix(']'));
        inside.and_then(id).or_else(|| id(field))
    };
    let named = |field: &&str| {
        field
            .rsplit_once(" [")
            .map_or(*field, |(name, code)| if code.len() == 5 { name } else { *field })
            .to_owned()
    };
    let class = fields.first();
    row.class = class.and_then(code).map(|code| Class(u32::from(code) << 8));
    row.class = row.class.or_else(|| class.and_then(|name| class_by_name(name)));
    match (&mut row.class, interface) {
        (Some(class), Some(code)) => class.0 |= u32::from(code),
        _ => row.interface = false,
    }
    row.vendor = fields.get(1).and_then(code);
    row.device = fields.get(2).and_then(code);
    if let (Some(maker), Some(name)) = (fields.get(1), fields.get(2)) {
        let whole = format!("{} {}", named(maker), named(name));
        if id(maker).is_none() {
            by_name(row, whole.trim());
        }
    }
    if let (Some(vendor), Some(code)) = (fields.get(3).and_then(code), fields.get(4).and_then(code)) {
        row.subsystem = Some((vendor, code));
    }
}

fn after_dash_p(text: &str) -> Option<u8> {
    let after = super::words::after(text, "\" -p").or_else(|| super::words::after(text, " -p"))?;
    hex(after.get(..2)?, 2).and_then(|code| u8::try_from(code).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(line: &str) -> (String, String, String, Option<String>) {
        let device = parse(line).unwrap_or_else(|| panic!("{line}"));
        let hex = |id: Option<u16>| id.map_or("-".to_owned(), |id| format!("{id:04x}"));
        (
            device.address.to_string(),
            device.class.map_or("-".to_owned(), |class| class.to_string()),
            format!("{}:{}", hex(device.vendor), hex(device.device)),
            device.driver,
        )
    }

    #[test]
    fn every_form_says_the_same() {
        let forms = [
            "01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GA102 [GeForce RTX 3090] [10de:2204] (rev a1)",
            "* 0000:01:00.0 VGA compatible controller [0300]: NVIDIA Corporation Device [10de:2204] (rev a1)",
            "01:00.0 0300: 10de:2204 (rev a1)",
            "01:00.0 Class 0300: 10de:2204 (rev a1)",
            "[10de:2204] 01:00.0 VGA compatible controller: NVIDIA Corporation GA102 [GeForce RTX 3090] (rev a1)",
            "[10de:2204] [R] 01:00.0  VGA compatible controller          GA102 [GeForce RTX 3090]",
            "01:00.0 \"VGA compatible controller [0300]\" \"NVIDIA Corporation [10de]\" \"GA102 [2204]\" -ra1 \"X [1458]\" \"Device [403b]\"",
            "01:00.0 \"0300\" \"10de\" \"2204\" -ra1 \"1458\" \"403b\"",
            "01:00.0 VGA compatible controller: NVIDIA Corporation Device 2204 (rev a1)",
            "00:01.1/02:00.0/01:00.0 VGA compatible controller: NVIDIA Corporation Device 2204 (rev a1)",
            "dom0:01_00.0  VGA compatible controller: NVIDIA Corporation Device 2204 (rev a1)",
            "01:00.0 VGA compatible controller [0300]: NVIDIA GA102 [10de:2204] (rev a1) Subsystem: Gigabyte [1458:403b]",
        ];
        for form in forms {
            let (address, class, ids, driver) = facts(form);
            assert_eq!(
                (address.as_str(), class.as_str(), ids.as_str()),
                ("0000:01:00.0", "030000", "10de:2204"),
                "{form}"
            );
            assert_eq!(driver, None);
        }
    }

    #[test]
    fn a_name_alone_tells_class_and_maker() {
        let device =
            parse("01:00.0 VGA compatible controller: NVIDIA Corporation GA102 [GeForce RTX 3090] (rev a1)")
                .unwrap();
        assert_eq!((device.vendor, device.device, device.revision), (Some(0x10de), None, Some(0xa1)));
        assert_eq!(device.name.as_deref(), Some("NVIDIA Corporation GA102 [GeForce RTX 3090]"));
        let bridge =
            parse("00:01.0 PCI bridge: Unheard Of Things (rev 02) (prog-if 01 [Subtractive decode])")
                .unwrap();
        assert_eq!((bridge.class.unwrap().0, bridge.interface, bridge.vendor), (0x06_0401, true, None));
    }

    #[test]
    fn drivers_at_the_end() {
        let line =
            "08:00.0 VGA compatible controller [0300]: NVIDIA GP106 [10de:1c02] (rev a1)   Driver: vfio-pci";
        assert_eq!(facts(line).3.as_deref(), Some("vfio-pci"));
        assert_eq!(facts("08:00.0 ISA bridge [0601]: X [10de:1c02]   Driver:").3, None);
    }

    #[test]
    fn a_sentence_is_no_device() {
        for text in [
            "I moved 01:00.0 away",
            "see 12:30 and 1.2.3",
            "(rev a1) 01:00.0",
            "Bus 001 Device 002: ID 1d6b:0002",
            "00:01.1/00.0 VGA compatible controller: without its bus",
            "dom0:1_2_3 and dom0:é_",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(!parse("01:00.0 is my card: it works").unwrap().is_certain());
    }
}
