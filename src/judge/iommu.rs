//! Is the IOMMU off, and on which side is it missing?

use super::{Finding, Severity};
use crate::host::{CpuVendor, Host, Known, kernel};

/// The IOMMU is off: nothing can be lent safely, and VFIO refuses.
///
/// The firmware offers one by the ACPI table DMAR (Intel VT-d specification, chapter 8) or IVRS (AMD I/O
/// Virtualization specification, chapter 5). With a table, the kernel was told not to use it, or not told to:
/// Documentation/admin-guide/kernel-parameters.txt, `intel_iommu=`, `amd_iommu=`, `iommu=`.
pub(super) fn iommu_off(host: &Host) -> Vec<Finding> {
    if host.iommu.state != Known::Off {
        return Vec::new();
    }
    let finding = Finding::new("iommu-off", Severity::Blocking, title(host))
        .seen("/sys/kernel/iommu_groups", "no groups: the kernel uses no IOMMU");
    let finding = match offered(host) {
        Some(Table::Dmar) => by_command_line(host, finding, "DMAR", "intel_iommu=on"),
        Some(Table::Ivrs) => by_command_line(host, finding, "IVRS", "amd_iommu=on"),
        None if host.acpi.dmar.is_none() => not_told(finding),
        None => by_firmware(host, finding),
    };
    vec![finding]
}

enum Table {
    Dmar,
    Ivrs,
}

fn offered(host: &Host) -> Option<Table> {
    match (host.acpi.dmar, host.acpi.ivrs) {
        (Some(true), _) => Some(Table::Dmar),
        (_, Some(true)) => Some(Table::Ivrs),
        _ => None,
    }
}

fn title(host: &Host) -> &'static str {
    match (offered(host), host.acpi.dmar) {
        (Some(_), _) => "The IOMMU is off, though the firmware offers one",
        (None, Some(_)) => "The IOMMU is off, and the firmware offers none",
        (None, None) => "The IOMMU is off",
    }
}

/// Words that turn it off. `intel_iommu=` may be given again, and the last one counts; the others cannot be taken
/// back (drivers/iommu/intel/iommu.c, drivers/iommu/amd/init.c, arch/x86/kernel/pci-dma.c).
fn word_that_turns_it_off(cmdline: &str, table: &str) -> Option<String> {
    let words = kernel::words(cmdline);
    let lists_off = |word: &&String, name: &str| {
        let value = word.split_once('=').filter(|(have, _)| kernel::same_name(have, name));
        value.is_some_and(|(_, value)| value.split(',').any(|item| item == "off"))
    };
    let general = words.iter().find(|word| lists_off(word, "iommu"));
    let own = match table {
        "DMAR" => {
            let is_switch = |word: &&String| {
                let value = word.split_once('=').filter(|(name, _)| kernel::same_name(name, "intel_iommu"));
                value.is_some_and(|(_, value)| value.split(',').any(|item| item == "on" || item == "off"))
            };
            words.iter().rfind(is_switch).filter(|word| lists_off(word, "intel_iommu"))
        }
        _ => words.iter().find(|word| lists_off(word, "amd_iommu")),
    };
    general.or(own).cloned()
}

fn by_command_line(host: &Host, finding: Finding, table: &str, word: &str) -> Finding {
    let cmdline = host.kernel.cmdline.as_deref().unwrap_or_default();
    let finding =
        finding.seen("/sys/firmware/acpi/tables", format!("{table} is there: the firmware offers it"));
    let card = host.gpus.first().map_or_else(|| "ADDRESS".to_owned(), |gpu| gpu.address.to_string());
    let plan = format!("gpuferry plan static --gpu {card}");
    match word_that_turns_it_off(cmdline, table) {
        Some(off) => finding
            .seen("/proc/cmdline", &off)
            .cause(format!("the word `{off}` on the kernel command line turns it off"))
            .fix(format!("take `{off}` off the kernel command line and reboot"), plan),
        None if table == "DMAR" => finding
            .seen("/proc/cmdline", format!("has no {word}"))
            .cause("this kernel leaves it off unless it is told to use it")
            .fix(format!("put `{word}` on the kernel command line and reboot"), plan),
        None => finding
            .seen("/proc/cmdline", "nothing there turns it off")
            .cause("this kernel was built without AMD's IOMMU, or could not start it: its log says which")
            .fix("look for what the kernel said", "dmesg | grep -i AMD-Vi"),
    }
}

fn by_firmware(host: &Host, finding: Finding) -> Finding {
    let finding = finding
        .seen("/sys/firmware/acpi/tables", "neither DMAR (Intel) nor IVRS (AMD): the firmware offers none");
    if host.cpu.guest == Some(true) {
        return finding
            .cause("this machine is itself a guest, and its virtual machine has no IOMMU")
            .advice("give the virtual machine an IOMMU (libvirt: <iommu model='intel'/>, with Q35)");
    }
    let setting = match host.cpu.vendor {
        CpuVendor::Intel => "VT-d (\"Intel Virtualization Technology for Directed I/O\")",
        CpuVendor::Amd => {
            "AMD-Vi (\"IOMMU\", often below \"NBIO\" or \"AMD CBS\"; set it to Enabled, not Auto)"
        }
        CpuVendor::Other => "the IOMMU (VT-d or AMD-Vi)",
    };
    let finding = finding.cause("it is switched off in the firmware, or this board or processor has none");
    let advice = format!("switch on {setting} in the firmware's setup");
    match host.boot.uefi {
        Some(true) => finding.fix(advice, "systemctl reboot --firmware-setup"),
        _ => finding.advice(advice),
    }
}

fn not_told(finding: Finding) -> Finding {
    finding
        .cause("whether the firmware offers one could not be seen")
        .fix("see whether there is a DMAR or IVRS table", "ls /sys/firmware/acpi/tables")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::desktop;

    fn off() -> Host {
        let mut host = desktop();
        host.iommu.state = Known::Off;
        host
    }

    #[test]
    fn nothing_while_it_is_on_or_not_known() {
        assert_eq!(iommu_off(&desktop()), []);
        let mut host = desktop();
        host.iommu.state = Known::Unknown;
        assert_eq!(iommu_off(&host), []);
    }

    #[test]
    fn a_word_that_turns_it_off_is_quoted() {
        for (word, found) in [
            ("intel_iommu=off", true),
            ("intel_iommu=on intel_iommu=off", true),
            ("intel_iommu=off intel_iommu=on", false),
            ("iommu=pt,off", true),
            ("amd_iommu=off", false),
        ] {
            let mut host = off();
            host.kernel.cmdline = Some(format!("quiet {word}"));
            let finding = &iommu_off(&host)[0];
            assert_eq!(finding.cause.contains("turns it off"), found, "{word}: {}", finding.cause);
            assert_eq!(finding.fixes[0].text.contains("put `intel_iommu=on`"), !found, "{word}");
        }
    }

    #[test]
    fn amd_by_its_own_table_whatever_the_processor_says() {
        let mut host = off();
        (host.acpi.dmar, host.acpi.ivrs) = (Some(false), Some(true));
        host.kernel.cmdline = Some("amd_iommu=off".into());
        assert!(iommu_off(&host)[0].cause.contains("amd_iommu=off"));
    }

    #[test]
    fn without_a_table_the_firmware_is_to_blame_by_the_vendors_name() {
        let mut host = off();
        host.acpi.dmar = Some(false);
        assert!(iommu_off(&host)[0].fixes[0].text.contains("VT-d"));
        host.cpu.vendor = CpuVendor::Amd;
        host.boot.uefi = Some(true);
        let finding = &iommu_off(&host)[0];
        assert!(finding.fixes[0].text.contains("AMD-Vi"));
        assert_eq!(finding.fixes[0].command.as_deref(), Some("systemctl reboot --firmware-setup"));
        host.cpu.guest = Some(true);
        assert!(iommu_off(&host)[0].cause.contains("itself a guest"));
        (host.acpi.dmar, host.acpi.ivrs) = (None, None);
        assert!(iommu_off(&host)[0].cause.contains("could not be seen"));
    }
}
