//! Does a card share its IOMMU group?

use super::{
    Finding, Severity,
    acs::{self, Apart},
    protect::refusal,
    shared::{self, Cause, Override},
    verdict::must_go_along,
};
use crate::host::{Function, Gpu, GpuKind, Host, kernel};
use std::collections::BTreeSet;

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
    let causes = why(host, gpu);
    for cause in &causes {
        let place =
            cause.place().map_or_else(String::new, |place| format!("/sys/bus/pci/devices/{place}/config"));
        finding = finding.seen(place, cause.sentence(host));
    }
    let along = companions.iter().map(|companion| companion.address);
    let all: Vec<String> = gpu.functions.iter().copied().chain(along).map(|one| one.to_string()).collect();
    let finding = match staying.into_iter().next() {
        Some(refusal) => finding.cause(format!("the group can only go as a whole, and {}", refusal.message)),
        None => finding
            .cause("the group can only go as a whole; nothing in it has to stay with the host")
            .fix("lend them together", format!("gpuferry detach {}", all.join(" "))),
    };
    Some(advice(host, gpu, &companions, &causes).into_iter().fold(finding, Finding::advice))
}

/// Why a card's groups are shared, the card's own slot left out: that its sound is with it is right.
fn why(host: &Host, gpu: &Gpu) -> Vec<Cause> {
    let own = gpu.functions.iter().filter_map(|own| host.function(*own)).filter_map(|own| own.iommu_group);
    let groups: BTreeSet<u32> = own.collect();
    let causes = groups.into_iter().flat_map(|group| shared::causes(host, group));
    let is_own = |cause: &Cause| match cause {
        Cause::Slot { functions, .. } => functions.iter().all(|function| gpu.functions.contains(function)),
        Cause::Port { .. } | Cause::Bridges { .. } => false,
    };
    causes.filter(|cause| !is_own(cause)).collect()
}

/// What would part a card from its companions, best first; nothing where it has none.
pub fn parting(host: &Host, gpu: &Gpu) -> Vec<String> {
    let companions: Vec<&Function> = must_go_along(host, gpu).collect();
    if companions.is_empty() { Vec::new() } else { advice(host, gpu, &companions, &why(host, gpu)) }
}

/// As [`parting`].
fn advice(host: &Host, gpu: &Gpu, companions: &[&Function], causes: &[Cause]) -> Vec<String> {
    let mut advice = Vec::new();
    if gpu.kind == GpuKind::Integrated {
        return vec![
            "it is part of the processor or chipset, and so are its neighbours: nothing parts them".into(),
        ];
    }
    let slots = shared::elsewhere(host, gpu);
    for slot in slots.iter().take(3) {
        // 0 is what ports say that have no number.
        let number = slot
            .slot
            .filter(|number| *number > 0)
            .map_or_else(String::new, |number| format!(", slot {number} of the board"));
        let width = slot.width.map_or_else(String::new, |width| format!(", x{width}"));
        let now = match slot.now.first().and_then(|first| host.function(*first)) {
            Some(first) => format!("now {}", first.label()),
            None => "now empty".to_owned(),
        };
        advice.push(format!(
            "put the card behind {}{number}{width}, {now}: it would be alone there",
            slot.port
        ));
    }
    if slots.is_empty() {
        advice.push(
            "put the card into another slot: slots at the processor usually have groups of their own".into(),
        );
    }
    if causes.iter().any(may_have_a_setting) {
        advice.push("look for ACS in the firmware's setup".into());
    }
    if let Some(telling) = shared::would_tell(host, causes) {
        advice.push(telling.into());
    }
    advice.push(by_override(host, gpu, companions));
    advice
}

/// Some firmware switches the capability itself on and off.
fn may_have_a_setting(cause: &Cause) -> bool {
    match cause {
        Cause::Port { how, .. } => *how != Apart::Conventional,
        Cause::Bridges { .. } => true,
        Cause::Slot { .. } => false,
    }
}

/// What the override patch would do here, and what it gives up.
fn by_override(host: &Host, gpu: &Gpu, companions: &[&Function]) -> String {
    let words = kernel::words(host.kernel.cmdline.as_deref().unwrap_or_default());
    let told = words.iter().find(|word| word.split_once('=').is_some_and(|(name, _)| name == acs::OVERRIDE));
    let price = "the kernel then only believes that they are kept apart, and a guest with one of them could reach the \
                 others, and through them the host";
    let overriding = shared::overriding(host, gpu, companions);
    match (told, overriding.word()) {
        (Some(word), _) => format!(
            "`{word}` is on the command line, and the group is shared all the same: this kernel does not have the ACS \
             override patch, or the patch does not reach these devices"
        ),
        (None, Some(word)) => {
            format!("last: `{word}` would part them, on a kernel with the ACS override patch; {price}")
        }
        (None, None) if overriding == Override::Useless => {
            "the ACS override patch would not part them".to_owned()
        }
        (None, None) => format!(
            "last: a kernel with the ACS override patch (`pcie_acs_override=downstream`) may part them; {price}"
        ),
    }
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
