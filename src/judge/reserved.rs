//! Does the firmware keep memory for itself in a card's group, so that the kernel will not lend it?

use super::{Finding, Severity};
use crate::host::{Function, Gpu, GpuKind, Host, Reserved};

/// Regions in the groups of a card that the kernel would have to give up for a guest, and does not.
///
/// A device with a region that must stay mapped one to one is refused to guests, graphics and USB excepted: of those,
/// Intel's driver gives the region up (drivers/iommu/intel/iommu.c, `device_rmrr_is_relaxable`;
/// drivers/iommu/iommu.c, `require_direct`: "Firmware has requested this device have a 1:1 IOMMU mapping").
pub(super) fn in_the_way(host: &Host, gpu: &Gpu) -> Vec<(u32, Reserved)> {
    if host.acpi.ivrs == Some(true) && before_the_check(host) {
        return Vec::new();
    }
    let own = gpu.functions.iter().filter_map(|own| host.function(*own));
    let mut ids: Vec<u32> = own.filter_map(|own| own.iommu_group).collect();
    ids.sort_unstable();
    ids.dedup();
    let regions = |id: u32| {
        let group = host.group(id);
        let told = group.and_then(|group| group.reserved.clone());
        let told = told.unwrap_or_else(|| by_tables(host, group.map_or(&[], |group| &group.functions)));
        told.into_iter().filter(|region| !region.relaxable).map(move |region| (id, region))
    };
    ids.into_iter().flat_map(regions).collect()
}

/// AMD's driver refused nothing before Linux 6.6, which checks for all drivers.
fn before_the_check(host: &Host) -> bool {
    host.kernel.version().is_some_and(|version| version < (6, 6))
}

/// Where the kernel's own list was not told, the firmware's.
fn by_tables(host: &Host, members: &[crate::pci::Address]) -> Vec<Reserved> {
    let members = members.iter().filter_map(|member| host.function(*member));
    let region = |member: &Function| {
        let relaxable =
            (member.is_display() || member.class.subclass() == 0x0c03) && host.acpi.dmar == Some(true);
        let regions = host.acpi.reserved_for(member).unwrap_or_default();
        regions.into_iter().map(move |(start, end)| Reserved { start, end, relaxable })
    };
    members.flat_map(region).collect()
}

/// Cards that the kernel will not lend for that.
pub(super) fn reserved_memory(host: &Host) -> Vec<Finding> {
    let cards = host.gpus.iter().filter(|gpu| gpu.kind != GpuKind::Management);
    cards.filter_map(|gpu| blocked(host, gpu)).collect()
}

fn blocked(host: &Host, gpu: &Gpu) -> Option<Finding> {
    let regions = in_the_way(host, gpu);
    if regions.is_empty() {
        return None;
    }
    let title = format!("the firmware keeps memory for itself in the group of {}", gpu.address);
    let mut finding = Finding::new("reserved-memory-mapping", Severity::Blocking, title).on(gpu.address);
    for (id, region) in &regions {
        let text = format!("{:#x} to {:#x}, direct", region.start, region.end);
        finding = finding.seen(format!("/sys/kernel/iommu_groups/{id}/reserved_regions"), text);
    }
    let finding = finding.cause(
        "the kernel refuses a guest a device that must keep reaching memory of the firmware at the same addresses",
    );
    let finding = finding.advice(
        "look in the firmware's setup for what shares devices with it (remote management, RAID, pre-boot DMA \
         protection), and switch it off; a newer firmware may do without",
    );
    Some(if gpu.companions.is_empty() {
        finding
    } else {
        finding.advice("put the card into a slot whose group it does not share")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::*;

    fn with(regions: Option<Vec<Reserved>>) -> Host {
        let mut host = desktop();
        host.groups.iter_mut().find(|group| group.id == 15).unwrap().reserved = regions;
        host
    }

    #[test]
    fn a_region_that_is_not_given_up_blocks() {
        assert_eq!(reserved_memory(&desktop()), []);
        let region = Reserved { start: 0x9e00_0000, end: 0x9e0f_ffff, relaxable: false };
        let finding = &reserved_memory(&with(Some(vec![region])))[0];
        assert_eq!((finding.id.as_str(), finding.severity), ("reserved-memory-mapping", Severity::Blocking));
        assert_eq!(finding.evidence[0].text, "0x9e000000 to 0x9e0fffff, direct");
        assert_eq!(reserved_memory(&with(Some(vec![Reserved { relaxable: true, ..region }]))), []);
        assert_eq!(reserved_memory(&with(Some(vec![]))), []);
    }

    #[test]
    fn amd_refuses_from_linux_6_6_on() {
        let mut host = with(Some(vec![Reserved { start: 0, end: 1, relaxable: false }]));
        (host.acpi.dmar, host.acpi.ivrs) = (Some(false), Some(true));
        for (release, found) in
            [("6.1.0-38-amd64", 0), ("6.5.13", 0), ("6.6.0", 1), ("6.12.3-arch1-1", 1), ("7.0-rc1", 1)]
        {
            host.kernel.release = Some(release.into());
            assert_eq!(reserved_memory(&host).len(), found, "{release}");
        }
    }

    #[test]
    fn without_the_kernels_list_the_table_tells() {
        use crate::host::acpi::{Dmar, ReservedMemory, Scope, ScopeKind};
        let mut host = with(None);
        let scope = |path: &str| Scope { kind: ScopeKind::Endpoint, path: path.parse().unwrap() };
        let region = |path: &str| ReservedMemory { start: 0x1000, end: 0x1fff, scopes: vec![scope(path)] };
        host.acpi.dmar_table = Some(Dmar {
            address_bits: 39,
            interrupt_remapping: true,
            x2apic_opt_out: false,
            dma_opt_in: false,
            units: Vec::new(),
            reserved: vec![region("0000:00:01.0/00.0")],
            ats_ports: Vec::new(),
            ats_everywhere: false,
        });
        assert_eq!(reserved_memory(&host), [], "graphics are given up");
        host.acpi.dmar_table.as_mut().unwrap().reserved.push(region("0000:00:01.0/00.1"));
        assert_eq!(reserved_memory(&host).len(), 1, "the card's sound is not");
    }
}
