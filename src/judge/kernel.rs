//! Can this kernel, as it was built and as it was started, lend a card at all? And will a changed boot lock a disk?

use super::{Finding, Severity};
use crate::host::{CpuVendor, Host, Known, Lockdown, Setting};

/// Options without which nothing goes, where the configuration says that they are not there.
pub(super) fn without_vfio(host: &Host) -> Vec<Finding> {
    let iommu = match host.cpu.vendor {
        CpuVendor::Intel => Some("INTEL_IOMMU"),
        CpuVendor::Amd => Some("AMD_IOMMU"),
        CpuVendor::Other => None,
    };
    // Where there are groups, an IOMMU is at work, whatever it is called.
    let iommu = iommu.filter(|_| host.iommu.state != Known::On);
    let needed = [Some("VFIO_PCI"), Some("VFIO_IOMMU_TYPE1"), iommu, Some("KVM")];
    let missing = needed.into_iter().flatten().filter(|name| has(host, name, Setting::No));
    // VFIO has two ways into the IOMMU (drivers/vfio/Kconfig): the older one, and iommufd.
    let missing = missing.filter(|name| *name != "VFIO_IOMMU_TYPE1" || !has_some(host, "IOMMUFD"));
    let missing: Vec<&str> = missing.collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let release = host.kernel.release.as_deref().unwrap_or("of this machine");
    let finding = Finding::new(
        "kernel-without-vfio",
        Severity::Blocking,
        format!("the kernel {release} was built without {}", missing.join(", ")),
    );
    let finding = missing.iter().fold(finding, |finding, name| {
        finding.seen("kernel configuration", format!("CONFIG_{name} is not set"))
    });
    vec![
        finding
            .cause("a card is lent through these parts of the kernel")
            .advice("start the distribution's own kernel, or build one with them"),
    ]
}

fn has(host: &Host, name: &str, setting: Setting) -> bool {
    host.kernel_options.as_ref().and_then(|options| options.get(name)) == Some(&setting)
}

fn has_some(host: &Host, name: &str) -> bool {
    has(host, name, Setting::BuiltIn) || has(host, name, Setting::Module)
}

/// Disks that a TPM opens: what it measures may be what gpuferry changes.
pub(super) fn sealed_disks(host: &Host) -> Vec<Finding> {
    let disks = host.security.sealed_disks.as_deref().unwrap_or_default();
    if disks.is_empty() {
        return Vec::new();
    }
    let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
    let mut finding = Finding::new(
        "tpm-sealed-disk",
        Severity::Warning,
        format!("the TPM opens the disk {} at boot", names.join(", ")),
    );
    for disk in disks {
        let place =
            disk.line.map_or_else(|| disk.source.clone(), |line| format!("{} line {line}", disk.source));
        finding = finding.seen(place, format!("{}: tpm2-device", disk.name));
    }
    let finding = finding.cause(
        "a changed kernel command line or initramfs can change what the TPM measures: then it keeps the key, and the boot asks for the passphrase",
    );
    vec![finding.advice("have the passphrase or recovery key at hand before the boot is changed")]
}

/// A locked kernel takes signed modules only.
pub(super) fn lockdown(host: &Host) -> Vec<Finding> {
    let Some(level) = host.security.lockdown.filter(|level| *level != Lockdown::None) else {
        return Vec::new();
    };
    let word = if level == Lockdown::Integrity { "integrity" } else { "confidentiality" };
    vec![
        Finding::new("lockdown", Severity::Info, format!("the kernel is locked down ({word})"))
            .seen("/sys/kernel/security/lockdown", format!("[{word}]"))
            .cause("modules without a signature that the firmware or the owner's key trusts are refused: vendor-reset, and drivers that were built here, may be among them; vfio-pci is signed with the kernel")
            .advice("sign such a module with the machine owner's key"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{SealedDisk, testing::desktop};

    #[test]
    fn a_kernel_without_the_parts_is_named() {
        let mut host = desktop();
        host.iommu.state = Known::Off;
        assert_eq!(without_vfio(&host), [], "nothing is known");
        let set = |host: &mut Host, pairs: &[(&str, Setting)]| {
            host.kernel_options =
                Some(pairs.iter().map(|(name, setting)| ((*name).to_owned(), *setting)).collect());
        };
        set(
            &mut host,
            &[("VFIO_PCI", Setting::Module), ("INTEL_IOMMU", Setting::BuiltIn), ("AMD_IOMMU", Setting::No)],
        );
        assert_eq!(without_vfio(&host), [], "AMD's is not needed here");
        set(&mut host, &[("VFIO_PCI", Setting::No), ("INTEL_IOMMU", Setting::No), ("KVM", Setting::Module)]);
        let found = without_vfio(&host);
        assert_eq!(found[0].title, "the kernel of this machine was built without VFIO_PCI, INTEL_IOMMU");
        host.iommu.state = Known::On;
        assert_eq!(without_vfio(&host)[0].evidence.len(), 1, "there are groups");
        set(&mut host, &[("VFIO_IOMMU_TYPE1", Setting::No), ("IOMMUFD", Setting::Module)]);
        assert_eq!(without_vfio(&host), [], "iommufd does it");
        set(&mut host, &[("VFIO_IOMMU_TYPE1", Setting::No)]);
        assert_eq!(without_vfio(&host).len(), 1);
    }

    #[test]
    fn sealed_disks_and_lockdown() {
        let mut host = desktop();
        assert_eq!((sealed_disks(&host), lockdown(&host)), (vec![], vec![]));
        let disk = SealedDisk { name: "root".into(), source: "/etc/crypttab".into(), line: Some(2) };
        host.security.sealed_disks = Some(vec![disk]);
        assert_eq!(sealed_disks(&host)[0].evidence[0].source, "/etc/crypttab line 2");
        host.security.lockdown = Some(Lockdown::None);
        assert_eq!(lockdown(&host), []);
        host.security.lockdown = Some(Lockdown::Confidentiality);
        assert_eq!(lockdown(&host)[0].title, "the kernel is locked down (confidentiality)");
    }
}
