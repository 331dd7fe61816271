//! The IOMMU as the kernel uses it: groups, interrupt remapping, whether the host's own devices bypass it.
//!
//! Says nothing about why it is off; that is the judge's.

use super::{Function, Group, Iommu, Known, kernel, look::Look};
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
    let groups = groups(functions);
    let state = match &numbers {
        _ if !groups.is_empty() => Known::On,
        Some(numbers) if !numbers.is_empty() => Known::On,
        Some(_) if !functions.is_empty() => Known::Off,
        // A kernel without IOMMU support has no such folder; a saved tree without /sys/kernel tells nothing.
        None if !functions.is_empty() && look.exists("/sys/kernel") && !look.exists(GROUPS) => Known::Off,
        _ => Known::Unknown,
    };
    let on = state == Known::On;
    let interrupt_remapping = look
        .text("/proc/interrupts")
        .as_deref()
        .and_then(parse_interrupt_remapping)
        .or((!on).then_some(false));
    let types = || {
        let numbers = numbers.iter().flatten().take(TYPES_READ);
        let types: Vec<String> =
            numbers.filter_map(|number| look.text_quietly(&format!("{GROUPS}/{number}/type"))).collect();
        parse_types(&types)
    };
    let passthrough_mode = if on { cmdline.and_then(passthrough_by_words).or_else(types) } else { None };
    let interrupt_remapping = if state == Known::Unknown { None } else { interrupt_remapping };
    (Iommu { state, interrupt_remapping, passthrough_mode }, groups)
}

/// Groups whose type is looked at: they all get the default, but for untrusted or quirky devices.
const TYPES_READ: usize = 12;

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
        Group { id, functions }
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
fn parse_types(types: &[String]) -> Option<bool> {
    let identity = types.iter().filter(|kind| *kind == "identity").count();
    let translated = types.iter().filter(|kind| kind.starts_with("DMA")).count();
    if identity + translated == 0 { None } else { Some(identity > translated) }
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
    fn most_groups_decide() {
        let types =
            |words: &[&str]| parse_types(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(types(&["identity", "identity", "DMA-FQ"]), Some(true));
        assert_eq!(types(&["DMA", "DMA-FQ", "identity"]), Some(false));
        assert_eq!(types(&["blocked"]), None);
    }
}
