//! Does a card share its IOMMU group?

use super::{Finding, Severity, protect::refusal, verdict::must_go_along};
use crate::host::{Function, Gpu, GpuKind, Host};

/// Functions of other devices in a card's groups would have to go along: a group is the smallest thing that the
/// IOMMU keeps apart (Documentation/driver-api/vfio.rst).
pub(super) fn group_shared(host: &Host) -> Vec<Finding> {
    host.gpus
        .iter()
        .filter(|gpu| gpu.kind != GpuKind::Management)
        .filter_map(|gpu| shared(host, gpu))
        .collect()
}

fn shared(host: &Host, gpu: &Gpu) -> Option<Finding> {
    let companions: Vec<&Function> = must_go_along(host, gpu).collect();
    let first = companions.first()?;
    let staying: Vec<_> =
        companions.iter().filter_map(|companion| refusal(host, companion.address)).collect();
    // The processor's own graphics share a group on many machines, and few people lend them.
    let severity = match (staying.is_empty(), gpu.kind) {
        (false, GpuKind::Integrated) => Severity::Info,
        (false, _) => Severity::Blocking,
        (true, _) => Severity::Warning,
    };
    let others = match companions.len() {
        1 => first.address.to_string(),
        count => format!("{} and {} more", first.address, count - 1),
    };
    let title = format!("{} shares its IOMMU group with {others}", gpu.address);
    let mut finding = Finding::new("group-shared", severity, title).on(gpu.address);
    for companion in &companions {
        let group = companion.iommu_group.map_or_else(String::new, |group| format!("group {group}: "));
        let text = format!("{group}{} {}", companion.address, companion.label());
        finding = finding.seen(format!("/sys/bus/pci/devices/{}/iommu_group", companion.address), text);
    }
    if let Some(refusal) = staying.into_iter().next() {
        let finding = finding
            .cause(format!("the group can only go as a whole, and {}", refusal.message))
            .advice("put the card into another slot: slots at the processor usually have groups of their own")
            .advice("look for ACS in the firmware's setup")
            .advice("a kernel with the ACS override patch pretends that the group is split: its isolation is gone");
        return Some(finding);
    }
    let along = companions.iter().map(|companion| companion.address);
    let all: Vec<String> = gpu.functions.iter().copied().chain(along).map(|one| one.to_string()).collect();
    let finding = finding
        .cause("the group can only go as a whole; nothing in it has to stay with the host")
        .fix("lend them together", format!("gpuferry detach {}", all.join(" ")))
        .advice("or put one of them into another slot");
    Some(finding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{gpu, testing::*};

    fn with(address: &str, class: &str, id: &str) -> Host {
        let mut host = desktop();
        let mut other = function(address, class, id);
        other.iommu_group = Some(15);
        host.functions.push(other);
        host.gpus = gpu::gpus(&host);
        host
    }

    #[test]
    fn companions_are_named() {
        assert_eq!(group_shared(&desktop()), []);
        let finding = &group_shared(&with("02:00.0", "0c0330", "1b21:2142"))[0];
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(finding.title, "0000:01:00.0 shares its IOMMU group with 0000:02:00.0");
        assert_eq!(
            finding.fixes[0].command.as_deref(),
            Some("gpuferry detach 0000:01:00.0 0000:01:00.1 0000:02:00.0")
        );
    }

    #[test]
    fn one_that_must_stay_blocks() {
        let finding = &group_shared(&with("00:1f.0", "060100", "8086:7a04"))[0];
        assert_eq!(finding.severity, Severity::Blocking);
        assert!(finding.cause.contains("0000:00:1f.0 is the LPC"), "{}", finding.cause);
    }

    #[test]
    fn bridges_and_idle_host_bridges_are_no_news() {
        assert_eq!(group_shared(&with("00:02.0", "060400", "8086:460e")), []);
        assert_eq!(group_shared(&with("00:01.1", "060000", "1022:1482")), []);
    }
}
