//! Are interrupts remapped?

use super::{Finding, Severity};
use crate::host::{Host, Known};

/// Without interrupt remapping a guest's device could raise any interrupt; VFIO refuses it
/// (drivers/vfio/vfio_iommu_type1.c, `allow_unsafe_interrupts`).
pub(super) fn no_interrupt_remapping(host: &Host) -> Vec<Finding> {
    if host.iommu.state != Known::On || host.iommu.interrupt_remapping != Some(false) {
        return Vec::new();
    }
    vec![
        Finding::new("no-interrupt-remapping", Severity::Blocking, "Interrupts are not remapped")
            .seen("/proc/interrupts", "no chip whose name begins with IR-")
            .cause("the firmware or the processor lacks it, or a word such as intremap=off turns it off")
            .advice("look for interrupt remapping or x2APIC in the firmware's setup")
            .advice(
                "vfio_iommu_type1.allow_unsafe_interrupts=1 does without: a guest could then attack the host by \
                 forged interrupts",
            ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::desktop;

    #[test]
    fn only_a_seen_lack_counts() {
        let mut host = desktop();
        assert_eq!(no_interrupt_remapping(&host), []);
        host.iommu.interrupt_remapping = None;
        assert_eq!(no_interrupt_remapping(&host), []);
        host.iommu.interrupt_remapping = Some(false);
        assert_eq!(no_interrupt_remapping(&host)[0].id, "no-interrupt-remapping");
        host.iommu.state = Known::Off;
        assert_eq!(no_interrupt_remapping(&host), [], "the IOMMU itself is the news");
    }
}
