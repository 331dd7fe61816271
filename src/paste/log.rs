//! The kernel's log: functions as they are found, buses, groups, the firmware's display, the IOMMU.
//!
//! Looks for the messages wherever they stand in a line, because prefixes differ (times, levels, syslog, other
//! tools), spaces and first letters get lost, and two messages may have become one line. Pure.

use super::{
    facts::{ClassFrom, Facts, System, fill},
    words::{addresses, after, head, hex, leading_address, leading_number, tail},
};
use crate::{
    host::CpuVendor,
    pci::{Address, Class, DeviceId},
};

/// How far from its address a message is looked for.
const NEAR: usize = 48;

/// Takes what a line of the log says; true where it said something.
pub(super) fn line(facts: &mut Facts, text: &str) -> bool {
    let groups = groups(facts, text);
    let function = function(facts, text);
    groups || function || display(facts, text) || bridge(facts, text) || system(&mut facts.system, text)
}

/// `pci 0000:01:00.0: Adding to iommu group 16`; before 5.3 `iommu: Adding device 0000:01:00.0 to group 16`
/// (drivers/iommu/iommu.c).
fn groups(facts: &mut Facts, text: &str) -> bool {
    let mut understood = false;
    let words = [
        ("Adding to iommu group ", true),
        ("Addingtoiommugroup", true),
        ("Removing from iommu group ", false),
    ];
    for (word, joins) in words {
        for (at, word) in text.match_indices(word) {
            let front = tail(text.get(..at).unwrap_or_default(), NEAR);
            // The address stands right before the message, which may be the second one in its line.
            let before = addresses(front);
            let address =
                before.last().filter(|(_, _, end)| front.len() - end <= 4).map(|(address, _, _)| *address);
            let group = text.get(at + word.len()..).and_then(leading_number).map(|(group, _)| group);
            if let (Some(address), Some(group)) = (address, group) {
                facts.group_in_log(address, joins.then_some(group));
            }
            understood = true;
        }
    }
    for (at, word) in text.match_indices("Adding device ") {
        let Some((address, rest)) = text.get(at + word.len()..).and_then(leading_address) else { continue };
        if let Some((group, _)) = rest.strip_prefix(" to group ").and_then(leading_number) {
            facts.group_in_log(address, Some(group));
            understood = true;
        }
    }
    understood
}

/// Whether a message about groups breaks off before the group.
pub(super) fn breaks_off(text: &str) -> bool {
    let ends = ["Adding", "Adding to", "Adding to iommu", "Adding to iommu group", "to group"];
    ends.iter().any(|end| text.ends_with(end)) && !addresses(text).is_empty()
}

/// `pci 0000:00:02.0: [8086:46a6] type 00 class 0x030000 PCIe Root Complex Integrated Endpoint`
/// (drivers/pci/probe.c, `pci_setup_device`). A part of it counts too: serial consoles lose the rest.
fn function(facts: &mut Facts, text: &str) -> bool {
    let mut understood = false;
    for (address, _, end) in addresses(text) {
        let Some(rest) = text.get(end..).and_then(|rest| rest.strip_prefix(": [")) else { continue };
        let (id, rest) = rest.split_at_checked(9).unwrap_or_default();
        let Ok(id) = id.parse::<DeviceId>() else { continue };
        let Some(rest) = rest.strip_prefix(']').map(|rest| head(rest, 2 * NEAR)) else { continue };
        let header = after(rest, "type ").and_then(|header| hex(header.get(..2)?, 2));
        let class = after(rest, "class 0x").and_then(|class| hex(class.get(..6)?, 6));
        if header.is_none() && class.is_none() && !rest.starts_with(" typ") {
            continue;
        }
        if facts.is_another(address, Some(id)) {
            understood = true;
            continue;
        }
        let Some(fact) = facts.at(address) else { return true };
        if fact.function.vendor.is_none() || fact.function.vendor == Some(id.vendor) {
            fill(&mut fact.function.vendor, Some(id.vendor));
            fill(&mut fact.function.device, Some(id.device));
        }
        fill(&mut fact.function.header_type, header.and_then(|header| u8::try_from(header).ok()));
        if let Some(class) = class {
            fact.class(Class(class), ClassFrom::Whole);
        }
        if rest.contains("PCIe Root Port") || rest.contains("Root Complex") {
            facts.root_bus(address.domain, address.bus);
        }
        understood = true;
    }
    understood
}

/// The kernel's default display (drivers/pci/vgaarb.c); `overriding previous` follows where it was wrong at first.
fn display(facts: &mut Facts, text: &str) -> bool {
    let Some(at) = text.find("vgaarb: setting as boot ") else { return false };
    let found = addresses(text);
    let before = found.iter().rfind(|(_, _, end)| *end <= at);
    // `vgaarb: setting as boot device: PCI:0000:00:02.0` before 4.15.
    if let Some((address, _, _)) = before.or_else(|| found.iter().find(|(_, begin, _)| *begin > at)) {
        facts.boot_vga = Some(*address);
    }
    true
}

/// `pci 0000:00:01.0: PCI bridge to [bus 01-03]`, `PCI host bridge to bus 0000:00`.
fn bridge(facts: &mut Facts, text: &str) -> bool {
    if let Some(bus) = after(text, "host bridge to bus ") {
        if let Some((domain, bus)) = domain_and_bus(bus) {
            facts.root_bus(domain, bus);
            return true;
        }
    }
    let Some((front, buses)) = text.split_once(": PCI bridge to [bus ") else { return false };
    let Some((address, _, _)) = addresses(front).last().copied() else { return true };
    let byte = |digits: Option<&str>| {
        digits.and_then(|digits| hex(digits, 2)).and_then(|bus| u8::try_from(bus).ok())
    };
    let Some(secondary) = byte(buses.get(..2)) else { return true };
    let subordinate = byte(buses.get(3..5)).filter(|_| buses.get(2..3) == Some("-")).unwrap_or(secondary);
    if let Some(fact) = facts.at(address) {
        // A bus that is found full or is numbered again comes later in the log.
        fact.behind = Some((secondary, subordinate));
        fact.class(Class(0x06_0400), ClassFrom::Name);
    }
    true
}

/// `0000:00`.
fn domain_and_bus(text: &str) -> Option<(u32, u8)> {
    let (domain, rest) = text.split_once(':')?;
    let domain = (4..=8).contains(&domain.len()).then(|| hex(domain, domain.len())).flatten()?;
    Some((domain, hex(rest.get(..2)?, 2).and_then(|bus| u8::try_from(bus).ok())?))
}

/// The message of a line, without what stands before it.
fn message(text: &str) -> &str {
    let text = text.rsplit_once("kernel: ").map_or(text, |(_, message)| message);
    match text.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((time, rest)) if time.trim().parse::<f64>().is_ok() => rest,
        _ => text,
    }
}

fn system(system: &mut System, text: &str) -> bool {
    let text = message(text);
    let value = |word: &str| after(text, word).map(str::trim).filter(|value| !value.is_empty());
    if let Some(words) = value("ommand line: ") {
        // A time or a name may be missing before it, nothing else.
        fill(&mut system.cmdline, Some(words.to_owned()));
    } else if let Some(version) = value("Linux version ") {
        fill(&mut system.release, version.split(' ').next().map(str::to_owned));
    } else if let Some(model) = value("smpboot: CPU0: ") {
        let model = model.split(" (family").next().unwrap_or(model);
        fill(&mut system.cpu_model, Some(model.to_owned()));
        fill(&mut system.cpu_vendor, vendor_of_model(model));
    } else if let Some(kind) = value("iommu: Default domain type: ") {
        fill(&mut system.passthrough_mode, Some(kind.starts_with("Passthrough")));
    } else if text.contains("ACPI: DMAR 0x") {
        system.dmar = Some(true);
    } else if text.contains("ACPI: IVRS 0x") {
        system.ivrs = Some(true);
    } else if text.contains("DMAR-IR: Enabled IRQ remapping")
        || text.contains("AMD-Vi: Interrupt remapping enabled")
    {
        system.interrupt_remapping = Some(true);
    } else if text.contains("DMAR: Intel(R) Virtualization Technology for Directed I/O") {
        system.iommu_on = Some(true);
    } else if let Some(hypervisor) = value("Hypervisor detected: ") {
        // Xen's first domain has the hardware.
        fill(&mut system.guest, (!hypervisor.starts_with("Xen")).then_some(true));
    } else if text.contains("efi: EFI v") {
        system.uefi = Some(true);
    } else {
        return false;
    }
    true
}

/// The maker, from a model's name.
pub(super) fn vendor_of_model(model: &str) -> Option<CpuVendor> {
    if model.contains("Intel(R)") || model.starts_with("Intel ") || model.starts_with("Genuine Intel") {
        Some(CpuVendor::Intel)
    } else if model.starts_with("AMD ") || model.starts_with("Hygon ") {
        Some(CpuVendor::Amd)
    } else {
        None
    }
}

/// `amdgpu 0000:03:00.0: …`: messages of a bound device begin with its driver's name, of an unbound one with the
/// bus's (drivers/base/core.c, `dev_driver_string`).
pub(super) fn driver(facts: &mut Facts, text: &str) -> bool {
    let text = message(text);
    let Some((name, rest)) = text.split_once(' ') else { return false };
    let Some((address, rest)) = leading_address(rest) else { return false };
    let named = name.len() <= 32
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-'));
    if !rest.starts_with(": ") || !named || !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        return false;
    }
    if !matches!(name, "pci" | "ci" | "iommu" | "platform" | "device") {
        set_driver(facts, address, name);
    }
    true
}

/// Only of a function that is known otherwise: a log names functions long before it says what they are.
fn set_driver(facts: &mut Facts, address: Address, name: &str) {
    if let Some(fact) = facts.known(address) {
        fact.driver_in_log(name);
    }
}
