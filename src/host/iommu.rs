//! The IOMMU as the kernel uses it: groups, interrupt remapping, whether the host's own devices bypass it.
//!
//! Says nothing about why it is off; that is the judge's.

use super::{Function, Group, Iommu, Known, Reserved, kernel, look::Look};
use crate::pci::Address;
use std::collections::BTreeMap;

const GROUPS: &str = "/sys/kernel/iommu_groups";

/// State of the IOMMU and its groups; fills in the groups of functions that have no link of their own.
pub(super) fn iommu(look: &Look, functions: &mut [Function], cmdline: Option<&str>) -> (Iommu, Vec<Group>) {
    let numbers = look.list(GROUPS).map(|names| {
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    });
    if functions.iter().all(|function| function.iommu_group.is_none()) {
        for &number in numbers.iter().flatten() {
            let members = look.list(&format!("{GROUPS}/{number}/devices")).unwrap_or_default();
            let members: Vec<Address> = members.iter().filter_map(|name| name.parse().ok()).collect();
            let inside = functions.iter_mut().filter(|function| members.contains(&function.address));
            inside.for_each(|function| function.iommu_group = Some(number));
        }
    }
    let mut groups = groups(functions);
    for group in &mut groups {
        let text = |name: &str| look.text_quietly(&format!("{GROUPS}/{}/{name}", group.id));
        (group.kind, group.reserved) =
            (text("type"), text("reserved_regions").as_deref().map(parse_reserved));
    }
    let state = match &numbers {
        _ if !groups.is_empty() => Known::On,
        Some(numbers) if !numbers.is_empty() => Known::On,
        Some(_) if !functions.is_empty() => Known::Off,
        // A kernel without IOMMU support has no such folder; a saved tree may lack it for any reason, unless it was
        // saved with what every kernel has beside it.
        None if !functions.is_empty() && look.exists("/sys/kernel/uevent_seqnum") && !look.exists(GROUPS) => {
            Known::Off
        }
        _ => Known::Unknown,
    };
    let on = state == Known::On;
    let interrupt_remapping = look
        .text("/proc/interrupts")
        .as_deref()
        .and_then(parse_interrupt_remapping)
        .or((!on).then_some(false));
    let types = || {
        let types = groups.iter().filter_map(|group| group.kind.as_deref());
        parse_types(&types.collect::<Vec<_>>())
    };
    let passthrough_mode = if on { cmdline.and_then(passthrough_by_words).or_else(types) } else { None };
    let interrupt_remapping = if state == Known::Unknown { None } else { interrupt_remapping };
    (Iommu { state, interrupt_remapping, passthrough_mode }, groups)
}

/// Groups made from what every function says of itself.
pub(super) fn groups(functions: &[Function]) -> Vec<Group> {
    let mut groups: BTreeMap<u32, Vec<Address>> = BTreeMap::new();
    for function in functions {
        if let Some(id) = function.iommu_group {
            groups.entry(id).or_default().push(function.address);
        }
    }
    let group = |(id, mut functions): (u32, Vec<Address>)| {
        functions.sort_unstable();
        Group::new(id, functions)
    };
    groups.into_iter().map(group).collect()
}

/// Interrupt chips that stand behind remapping are named `IR-IO-APIC` and `IR-PCI-MSI…`
/// (drivers/iommu/intel/irq_remapping.c and drivers/iommu/amd/iommu.c: prefix `IR-`;
/// arch/x86/kernel/apic/io_apic.c: `ioapic_ir_chip`). Without any chip that could be remapped, it is not told.
fn parse_interrupt_remapping(interrupts: &str) -> Option<bool> {
    let words = || interrupts.lines().flat_map(str::split_whitespace);
    let remapped = |word: &str| word.starts_with("IR-IO-APIC") || word.starts_with("IR-PCI-MSI");
    let plain = |word: &str| word.starts_with("IO-APIC") || word.starts_with("PCI-MSI");
    if words().any(remapped) {
        Some(true)
    } else if words().any(plain) {
        Some(false)
    } else {
        None
    }
}

/// `iommu=pt`, `iommu.passthrough=1` and their opposites; the last one counts
/// (Documentation/admin-guide/kernel-parameters.txt).
fn passthrough_by_words(cmdline: &str) -> Option<bool> {
    let meaning = |word: &String| match word.as_str() {
        "iommu=pt" | "iommu.passthrough=1" => Some(true),
        "iommu=nopt" | "iommu.passthrough=0" => Some(false),
        _ => None,
    };
    kernel::words(cmdline).iter().filter_map(meaning).next_back()
}

/// Types of groups (Documentation/ABI/testing/sysfs-kernel-iommu_groups): `identity` is not translated.
fn parse_types(types: &[&str]) -> Option<bool> {
    let identity = types.iter().filter(|kind| **kind == "identity").count();
    let translated = types.iter().filter(|kind| kind.starts_with("DMA")).count();
    if identity + translated == 0 { None } else { Some(identity > translated) }
}

/// Lines of `first last kind`; only what is mapped one to one is kept: the addresses of interrupts are in every group
/// (Documentation/ABI/testing/sysfs-kernel-iommu_groups; drivers/iommu/iommu.c, `iommu_group_resv_type_string`).
fn parse_reserved(text: &str) -> Vec<Reserved> {
    let hex = |word: Option<&str>| u64::from_str_radix(word?.strip_prefix("0x")?, 16).ok();
    let region = |line: &str| {
        let mut words = line.split_whitespace();
        let (start, end) = (hex(words.next())?, hex(words.next())?);
        let relaxable = match words.next()? {
            "direct" => false,
            "direct-relaxable" => true,
            _ => return None,
        };
        Some(Reserved { start, end, relaxable })
    };
    text.lines().filter_map(region).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remapped_interrupts_are_seen_in_the_names_of_their_chips() {
        let intel = " 0:  9 0 IR-IO-APIC 2-edge timer\n120: 0 0 DMAR-MSI 0-edge dmar0\n";
        assert_eq!(parse_interrupt_remapping(intel), Some(true));
        let per_device = " 28:  0  0 IR-PCI-MSIX-0000:00:01.0   0-edge      virtio0-config";
        assert_eq!(parse_interrupt_remapping(per_device), Some(true));
        let plain = " 0:  9 IO-APIC 2-edge timer\n 28: 0 PCI-MSIX-0000:00:01.0 0-edge x\n120: 0 DMAR-MSI 0-edge dmar0";
        assert_eq!(parse_interrupt_remapping(plain), Some(false));
        assert_eq!(parse_interrupt_remapping(" 1: 0 GICv3 27 Level arch_timer"), None);
        assert_eq!(parse_interrupt_remapping(""), None);
    }

    #[test]
    fn the_last_word_counts() {
        assert_eq!(passthrough_by_words("quiet iommu=pt"), Some(true));
        assert_eq!(passthrough_by_words("iommu=pt iommu.passthrough=0"), Some(false));
        assert_eq!(passthrough_by_words("iommu=ptx"), None);
    }

    #[test]
    fn regions_that_are_mapped_one_to_one() {
        let text = "0x000000004b800000 0x000000004fffffff direct\n0x00000000fee00000 0x00000000feefffff msi\n\
                    0x0000000000000000 0x0000000000ffffff direct-relaxable\n0x1 nonsense direct\n\n";
        assert_eq!(
            parse_reserved(text),
            [
                Reserved { start: 0x4b80_0000, end: 0x4fff_ffff, relaxable: false },
                Reserved { start: 0, end: 0xff_ffff, relaxable: true },
            ]
        );
    }

    #[test]
    fn most_groups_decide() {
        assert_eq!(parse_types(&["identity", "identity", "DMA-FQ"]), Some(true));
        assert_eq!(parse_types(&["DMA", "DMA-FQ", "identity"]), Some(false));
        assert_eq!(parse_types(&["blocked"]), None);
    }
}
