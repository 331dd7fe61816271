//! Whether each card can be lent, and the ids of the rules that say why not.

use super::{off_the_bus, protect::refusal, reserved};
use crate::{
    host::{Function, Gpu, Host, Known, Verdict, Virtualization},
    pci::Address,
};

/// Fills in verdict and reasons of every card.
pub fn gpus(host: &mut Host) {
    let judged: Vec<_> = host.gpus.iter().map(|gpu| judge(host, gpu)).collect();
    for (gpu, (verdict, reasons)) in host.gpus.iter_mut().zip(judged) {
        gpu.verdict = verdict;
        gpu.reasons = reasons.into_iter().map(str::to_owned).collect();
    }
}

/// Companions that have a driver or could get one: an idle host bridge in the group stops nobody, for VFIO asks only
/// that no member is on a host driver (drivers/vfio/vfio_main.c, `vfio_dev_viable`).
pub(super) fn must_go_along<'h>(host: &'h Host, gpu: &'h Gpu) -> impl Iterator<Item = &'h Function> {
    let companions = gpu.companions.iter().filter_map(|companion| host.function(*companion));
    companions.filter(|companion| companion.class.subclass() != 0x0600 || companion.driver.is_some())
}

fn judge(host: &Host, gpu: &Gpu) -> (Verdict, Vec<&'static str>) {
    let mut reasons = Vec::new();
    let mut verdict = Verdict::Ready;
    let mut because = |worse: Verdict, id: &'static str| {
        verdict = worst(verdict, worse);
        if !reasons.contains(&id) {
            reasons.push(id);
        }
    };
    let refused = |address: Address| refusal(host, address);
    for refusal in gpu.functions.iter().filter_map(|own| refused(*own)) {
        because(Verdict::Blocked, refusal.id);
    }
    if !off_the_bus::silent(host, gpu).is_empty() {
        because(Verdict::Blocked, "device-off-the-bus");
    }
    match host.iommu.state {
        Known::On => {}
        Known::Unknown => because(Verdict::Unknown, "iommu-unknown"),
        Known::Off => because(without_iommu(host), "iommu-off"),
    }
    if host.cpu.virtualization == Virtualization::None {
        because(Verdict::Blocked, "virtualization-off");
    }
    if host.iommu.state == Known::On {
        let ungrouped = |own: &Address| host.function(*own).is_some_and(|own| own.iommu_group.is_none());
        if gpu.functions.iter().any(ungrouped) {
            because(Verdict::Blocked, "no-group");
        }
        if host.iommu.interrupt_remapping == Some(false) {
            because(Verdict::Blocked, "no-interrupt-remapping");
        }
        if !reserved::in_the_way(host, gpu).is_empty() {
            because(Verdict::Blocked, "reserved-memory-mapping");
        }
        for companion in must_go_along(host, gpu) {
            let stays = refused(companion.address).is_some();
            because(if stays { Verdict::Blocked } else { Verdict::Possible }, "group-shared");
        }
    }
    (verdict, reasons)
}

/// Off though the firmware offers it: the command line can turn it on. Otherwise the firmware must.
fn without_iommu(host: &Host) -> Verdict {
    match (host.acpi.dmar, host.acpi.ivrs) {
        (Some(true), _) | (_, Some(true)) => Verdict::Possible,
        (Some(false), Some(false)) => Verdict::Blocked,
        _ => Verdict::Unknown,
    }
}

/// What is known to be in the way outweighs what is not known.
fn worst(one: Verdict, other: Verdict) -> Verdict {
    let weight = |verdict: Verdict| match verdict {
        Verdict::Ready => 0,
        Verdict::Possible => 1,
        Verdict::Unknown => 2,
        Verdict::Blocked => 3,
    };
    if weight(one) >= weight(other) { one } else { other }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::*;

    fn verdict(mut host: Host) -> (Verdict, Vec<String>) {
        host.gpus = crate::host::gpu::gpus(&host);
        gpus(&mut host);
        let gpu = host.gpu(at("01:00.0")).unwrap();
        (gpu.verdict, gpu.reasons.clone())
    }

    fn because(verdict: Verdict, reasons: &[&str]) -> (Verdict, Vec<String>) {
        (verdict, reasons.iter().map(|reason| (*reason).to_owned()).collect())
    }

    #[test]
    fn alone_in_its_group_is_ready() {
        assert_eq!(verdict(desktop()), because(Verdict::Ready, &[]));
    }

    #[test]
    fn without_an_iommu_the_tables_decide() {
        let mut host = desktop();
        host.iommu.state = Known::Off;
        host.functions.iter_mut().for_each(|function| function.iommu_group = None);
        host.acpi.dmar = Some(true);
        assert_eq!(verdict(host.clone()), because(Verdict::Possible, &["iommu-off"]));
        host.acpi.dmar = Some(false);
        assert_eq!(verdict(host.clone()), because(Verdict::Blocked, &["iommu-off"]));
        host.acpi.dmar = None;
        assert_eq!(verdict(host), because(Verdict::Unknown, &["iommu-off"]));
    }

    #[test]
    fn a_companion_that_must_stay_blocks_and_another_does_not() {
        let mut host = desktop();
        let mut lpc = function("00:1f.0", "060100", "8086:7a04");
        lpc.iommu_group = Some(15);
        host.functions.push(lpc);
        assert_eq!(verdict(host), because(Verdict::Blocked, &["group-shared"]));
        let mut host = desktop();
        let mut usb = function("02:00.0", "0c0330", "1b21:2142");
        usb.iommu_group = Some(15);
        host.functions.push(usb);
        assert_eq!(verdict(host), because(Verdict::Possible, &["group-shared"]));
    }

    #[test]
    fn an_idle_host_bridge_in_the_group_stops_nobody() {
        let mut host = desktop();
        let mut bridge = function("00:01.1", "060000", "1022:1482");
        bridge.iommu_group = Some(15);
        host.functions.push(bridge);
        assert_eq!(verdict(host), because(Verdict::Ready, &[]));
    }

    #[test]
    fn missing_virtualisation_remapping_or_group_blocks() {
        let mut host = desktop();
        host.cpu.virtualization = Virtualization::None;
        assert_eq!(verdict(host), because(Verdict::Blocked, &["virtualization-off"]));
        let mut host = desktop();
        host.iommu.interrupt_remapping = Some(false);
        assert_eq!(verdict(host), because(Verdict::Blocked, &["no-interrupt-remapping"]));
        let mut host = desktop();
        host.functions.iter_mut().for_each(|function| function.iommu_group = None);
        assert_eq!(verdict(host), because(Verdict::Blocked, &["no-group"]));
    }

    #[test]
    fn nothing_known_is_unknown() {
        let mut host = desktop();
        host.iommu.state = Known::Unknown;
        assert_eq!(verdict(host).0, Verdict::Unknown);
    }
}
