//! What lspci prints below a function's line: `-k`, `-v` to `-vvv`, and hex dumps (`-x` to `-xxxx`).
//!
//! Pure: one line in, a fact more. Registers that the text does not show stay unknown.

use super::{
    device::driver_name,
    facts::{Fact, Room, fill},
    words::{after, hex, id, last_bracketed_id, leading_number, number},
};
use crate::host::{
    Link,
    config::{Acs, Buses, Controls, Express, PortKind, Resizable, SrIov},
};

/// Config space of PCI Express.
const CONFIG: usize = 4096;

/// Takes what a line says of a function; true where it is a line of lspci's.
pub(super) fn line(fact: &mut Fact, text: &str) -> bool {
    let Some((key, value)) = text.split_once(':') else { return loose(fact, text) };
    let value = value.trim();
    match key.trim_end() {
        "Subsystem" => subsystem(fact, value),
        "Kernel driver in use" | "Driver" | "driver" | "Kernel driver" => fact.driver(driver_name(value)),
        "Kernel modules" if fact.function.modules.is_empty() => {
            let names = value.split(',').filter_map(|name| driver_name(name.trim())).take(16);
            fact.function.modules = names.collect();
        }
        "Bus" => buses(fact, value),
        "LnkCap" => link(fact, value, true),
        "LnkSta" => link(fact, value, false),
        "Capabilities" => capability(fact, value),
        "ACSCap" => fact.text.acs_can = Some(controls(value)),
        "ACSCtl" => {
            let on = controls(value);
            let can = fact.text.acs_can.unwrap_or(on);
            fact.config().acs = Acs::Present { can, on };
        }
        "Status" if fact.text.in_power => {
            let state = value.split(' ').next().and_then(|state| state.strip_prefix('D'));
            let state = state.and_then(number).and_then(|state| u8::try_from(state).ok());
            fill(&mut fact.config().power_state, state.filter(|state| *state < 4));
        }
        "VF offset" => {
            let stride = after(value, "stride: ").and_then(leading_number).map(|(stride, _)| stride);
            if let (Some((offset, _)), Some(stride)) = (leading_number(value), stride) {
                fact.text.virtual_functions = Some((offset, stride));
            }
        }
        "Initial VFs" => virtual_functions(fact, value),
        "Rom" | "Region 0" | "Control" | "Latency" | "Interrupt" | "Flags" | "DeviceName"
        | "Physical Slot" => {}
        key if key.starts_with("BAR ") => resizable(fact, key, value),
        _ => return loose(fact, text),
    }
    true
}

/// Words that stand somewhere in a line.
fn loose(fact: &mut Fact, text: &str) -> bool {
    if let Some(flag) = after(text, "FLReset").and_then(|rest| rest.chars().next()) {
        fill(&mut fact.config().flr, Some(flag == '+'));
        return true;
    }
    false
}

/// `Subsystem: NAME [1458:403b]`, with -n `Subsystem: 1458:403b`.
fn subsystem(fact: &mut Fact, value: &str) {
    let bare = || value.get(..9).and_then(|id| id.parse().ok());
    let Some(id) = last_bracketed_id(value).map(|(id, _)| id).or_else(bare) else { return };
    fill(&mut fact.function.subsystem_vendor, Some(id.vendor));
    fill(&mut fact.function.subsystem_device, Some(id.device));
}

/// `primary=00, secondary=01, subordinate=13, sec-latency=0`; only bridges have it.
fn buses(fact: &mut Fact, value: &str) {
    let bus = |name: &str| {
        let digits = after(value, name)?.get(..2)?;
        hex(digits, 2).and_then(|bus| u8::try_from(bus).ok())
    };
    let all = (bus("primary="), bus("secondary="), bus("subordinate="));
    let (Some(primary), Some(secondary), Some(subordinate)) = all else { return };
    fill(&mut fact.behind, Some((secondary, subordinate)));
    fill(&mut fact.config().buses, Some(Buses { primary, secondary, subordinate }));
    // CardBus bridges have the same line (class 0607, header type 2).
    let header = if fact.function.class.subclass() == 0x0607 { 2 } else { 1 };
    fill(&mut fact.function.header_type, Some(header));
}

/// `Port #2, Speed 8GT/s, Width x16, …`; `Speed 2.5GT/s (downgraded), Width x4 (downgraded)`.
fn link(fact: &mut Fact, value: &str, most: bool) {
    let speed = after(value, "Speed ").and_then(|rest| {
        let number: f64 = rest.split("GT/s").next()?.trim().parse().ok()?;
        (number.is_finite() && number > 0.0 && number < 1000.0).then_some(number)
    });
    let width = after(value, "Width x").and_then(leading_number);
    let width =
        width.and_then(|(width, _)| u8::try_from(width).ok()).filter(|width| (1..=32).contains(width));
    if speed.is_none() && width.is_none() {
        return;
    }
    let nothing = Link { speed_gts: None, width: None, max_speed_gts: None, max_width: None };
    let link = fact.function.link.get_or_insert(nothing);
    if most {
        fill(&mut link.max_speed_gts, speed);
        fill(&mut link.max_width, width);
    } else {
        fill(&mut link.speed_gts, speed);
        fill(&mut link.width, width);
    }
}

/// `[a0] Express (v2) Root Port (Slot+), MSI 00`, `[148 v1] Access Control Services`.
fn capability(fact: &mut Fact, value: &str) {
    let Some((place, name)) = value.strip_prefix('[').and_then(|rest| rest.split_once("] ")) else { return };
    let place = place.split(' ').next().unwrap_or_default();
    let offset = if place.len() <= 3 { hex(place, place.len()) } else { None };
    fact.text.extended |= offset.is_some_and(|offset| offset >= 0x100);
    fact.text.in_power = name.starts_with("Power Management");
    fact.text.has_acs |= name.starts_with("Access Control Services");
    let Some(kind) = name.strip_prefix("Express ") else { return };
    let kind = kind.strip_prefix('(').and_then(|rest| rest.split_once(") ")).map_or(kind, |(_, kind)| kind);
    let known = [
        ("Endpoint", PortKind::Endpoint),
        ("Legacy Endpoint", PortKind::LegacyEndpoint),
        ("Root Port", PortKind::RootPort),
        ("Upstream Port", PortKind::Upstream),
        ("Downstream Port", PortKind::Downstream),
        ("PCI-Express to PCI", PortKind::PcieToPci),
        ("PCI/PCI-X to PCI-Express", PortKind::PciToPcie),
        ("Root Complex Integrated Endpoint", PortKind::IntegratedEndpoint),
        ("Root Complex Event Collector", PortKind::EventCollector),
    ];
    if let Some((_, kind)) = known.iter().find(|(name, _)| kind.starts_with(name)) {
        fill(&mut fact.config().express, Some(Express { kind: *kind, slot: None, link: None }));
    }
}

/// `SrcValid+ TransBlk- ReqRedir+ …`.
fn controls(value: &str) -> Controls {
    Controls::of(value.split_whitespace().filter_map(|word| word.strip_suffix('+')))
}

/// `Initial VFs: 8, Total VFs: 8, Number of VFs: 2, …`.
fn virtual_functions(fact: &mut Fact, value: &str) {
    let count = |name: &str| {
        let (count, _) = after(value, name).and_then(leading_number)?;
        u16::try_from(count).ok()
    };
    if let (Some(total), Some(now)) = (count("Total VFs: "), count("Number of VFs: ")) {
        fill(&mut fact.config().sr_iov, Some(SrIov { total, now }));
    }
}

/// `BAR 0: current size: 256MB, supported: 256MB 512MB 1GB`.
fn resizable(fact: &mut Fact, key: &str, value: &str) {
    let bar = key
        .strip_prefix("BAR ")
        .and_then(number)
        .and_then(|bar| u8::try_from(bar).ok())
        .filter(|bar| *bar < 6);
    let size = after(value, "current size: ").and_then(|rest| size(rest.split(',').next()?));
    let sizes =
        after(value, "supported: ").map(|rest| rest.split_whitespace().filter_map(self::size).collect());
    let (Some(bar), Some(size), Some(sizes)) = (bar, size, sizes) else { return };
    let known = &mut fact.config().resizable;
    if known.len() < 6 && known.iter().all(|one| one.bar != bar) {
        known.push(Resizable { bar, size, sizes });
    }
}

/// `256MB`.
fn size(text: &str) -> Option<u64> {
    let (count, unit) = leading_number(text.trim())?;
    let unit = match unit {
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1_u64 << 40,
        _ => return None,
    };
    u64::from(count).checked_mul(unit)
}

/// A row of a hex dump: `10: 04 00 00 a0 …`, sixteen bytes. False where it is none; a row that breaks off, or does
/// not follow the one before it, counts as far as it goes.
pub(super) fn hex_row(fact: &mut Fact, text: &str) -> Option<Row> {
    let (offset, bytes) = text.split_once(':')?;
    let offset =
        if (2..=3).contains(&offset.len()) { hex(offset, offset.len())? as usize } else { return None };
    if offset % 16 != 0 || !bytes.starts_with(' ') {
        return None;
    }
    let byte = |word: &str| hex(word, 2).and_then(|byte| u8::try_from(byte).ok());
    let read: Vec<u8> = bytes.split_whitespace().map_while(byte).take(16).collect();
    if read.is_empty() {
        return None;
    }
    let whole = read.len() == 16;
    // A card that was asleep or gone reads as ones; a second dump tells more.
    if offset == 0 && fact.bytes.iter().all(|byte| *byte == 0xff) {
        fact.bytes.clear();
    }
    // A dump that comes again says what is known.
    if whole && offset + 16 <= fact.bytes.len() {
        return Some(Row::Whole);
    }
    if fact.bytes.len() != offset || offset + read.len() > CONFIG {
        return Some(Row::Broken);
    }
    fact.bytes.extend(read);
    Some(if whole { Row::Whole } else { Row::Broken })
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    /// Sixteen bytes.
    Whole,
    /// Fewer, or out of order.
    Broken,
}

/// Keys of a record for machines (`-vmm`), and of a record of old (`-vm`).
const KEYS: [&str; 14] = [
    "Slot",
    "Device",
    "Class",
    "Vendor",
    "SVendor",
    "SDevice",
    "Rev",
    "ProgIf",
    "PhySlot",
    "Driver",
    "Module",
    "NUMANode",
    "DTNode",
    "IOMMUGroup",
];

/// A line of such a record.
pub(super) fn pair(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.split_once(':')?;
    let value = if value.is_empty() { value } else { value.strip_prefix(['\t', ' '])?.trim() };
    KEYS.contains(&key).then_some((key, value))
}

/// `3840`, `NAME [3840]` or `NAME`.
fn named_id(value: &str) -> (Option<u16>, Option<&str>) {
    if let Some(code) = id(value) {
        return (Some(code), None);
    }
    let inside = value.rsplit_once(" [").and_then(|(name, code)| Some((name, id(code.strip_suffix(']')?)?)));
    match inside {
        Some((name, code)) => (Some(code), Some(name)),
        None => (None, Some(value)),
    }
}

/// Takes a line of a record; `maker` keeps the vendor's name for the device's.
pub(super) fn record(fact: &mut Fact, key: &str, value: &str, maker: &mut Option<String>) -> Option<u32> {
    let function = &mut fact.function;
    match key {
        "Class" => {
            let (code, name) = named_id(value);
            fact.class_of(code, name);
        }
        "Vendor" => {
            let (code, name) = named_id(value);
            fill(&mut function.vendor, code.or_else(|| name.and_then(super::words::vendor_by_name)));
            *maker = name.map(str::to_owned);
        }
        "Device" => {
            let (code, name) = named_id(value);
            let unnamed = name.and_then(|name| name.strip_prefix("Device ")).and_then(id);
            fill(&mut function.device, code.or(unnamed));
            if let (Some(maker), Some(name)) = (maker, name.filter(|name| !name.starts_with("Device"))) {
                fill(&mut function.name, Some(format!("{maker} {name}")));
            }
        }
        "SVendor" => fill(&mut function.subsystem_vendor, named_id(value).0),
        "SDevice" => fill(&mut function.subsystem_device, named_id(value).0),
        "Rev" => fill(&mut function.revision, hex(value, 2).and_then(|code| u8::try_from(code).ok())),
        "ProgIf" => fact.interface(hex(value, 2).and_then(|code| u8::try_from(code).ok())),
        "Driver" => fact.driver(driver_name(value)),
        "Module" if function.modules.len() < 16 => {
            let name = driver_name(value).filter(|name| !function.modules.contains(name));
            function.modules.extend(name);
        }
        "IOMMUGroup" => return number(value),
        _ => {}
    }
    None
}

impl Fact {
    /// The config space that the text describes.
    fn config(&mut self) -> &mut crate::host::Config {
        self.room().config.get_or_insert_with(Default::default)
    }

    fn room(&mut self) -> &mut Room {
        &mut self.text
    }
}
