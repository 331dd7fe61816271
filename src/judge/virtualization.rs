//! Does the processor offer virtualisation?

use super::{Finding, Severity};
use crate::host::{CpuVendor, Host, Virtualization};

/// Neither `vmx` nor `svm` among the processor's flags: KVM cannot run a guest.
///
/// Source: the flags in /proc/cpuinfo; the kernel hides them where the firmware locked them
/// (arch/x86/kernel/cpu/feat_ctl.c; arch/x86/kernel/cpu/amd.c since 6.7).
pub(super) fn virtualization_off(host: &Host) -> Vec<Finding> {
    if host.cpu.virtualization != Virtualization::None {
        return Vec::new();
    }
    let finding =
        Finding::new("virtualization-off", Severity::Blocking, "The processor offers no virtualisation")
            .seen("/proc/cpuinfo", "neither vmx nor svm among the flags");
    if host.cpu.guest == Some(true) {
        let finding =
            finding.cause("this machine is itself a guest, and its host does not pass virtualisation on");
        return vec![
            finding.advice("let the outer host pass it on (libvirt: <cpu mode='host-passthrough'/>)"),
        ];
    }
    let setting = match host.cpu.vendor {
        CpuVendor::Intel => "VT-x (\"Intel Virtualization Technology\")",
        CpuVendor::Amd => "SVM (\"SVM Mode\")",
        CpuVendor::Other => "virtualisation",
    };
    let finding = finding.cause("it is switched off in the firmware, or the processor has none");
    let advice = format!("switch on {setting} in the firmware's setup");
    vec![match host.boot.uefi {
        Some(true) => finding.fix(advice, "systemctl reboot --firmware-setup"),
        _ => finding.advice(advice),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::desktop;

    #[test]
    fn a_missing_flag_is_named_with_the_vendors_setting() {
        let mut host = desktop();
        assert_eq!(virtualization_off(&host), []);
        host.cpu.virtualization = Virtualization::None;
        assert!(virtualization_off(&host)[0].fixes[0].text.contains("VT-x"));
        host.cpu.vendor = CpuVendor::Amd;
        assert!(virtualization_off(&host)[0].fixes[0].text.contains("SVM"));
        host.cpu.guest = Some(true);
        assert!(virtualization_off(&host)[0].cause.contains("itself a guest"));
        host.cpu.virtualization = Virtualization::Unknown;
        assert_eq!(virtualization_off(&host), []);
    }
}
