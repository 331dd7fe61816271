//! Files of /proc, and programs that print the machine: the command line, the processor, the kernel.
//!
//! Pure: one line in, facts out.

use super::{
    facts::{System, fill},
    log::vendor_of_model,
};
use crate::host::{CpuVendor, Virtualization};

/// Takes what a line says; true where it said something.
pub(super) fn line(system: &mut System, text: &str) -> bool {
    processor(system, text) || command_line(system, text) || uname(system, text)
}

/// /proc/cpuinfo (`vendor_id : GenuineIntel`) and lscpu (`Vendor ID:  GenuineIntel`).
fn processor(system: &mut System, text: &str) -> bool {
    let Some((key, value)) = text.split_once(':') else { return false };
    let value = value.trim();
    match key.trim_end() {
        "vendor_id" | "Vendor ID" => {
            let vendor = match value {
                "GenuineIntel" => Some(CpuVendor::Intel),
                "AuthenticAMD" | "HygonGenuine" => Some(CpuVendor::Amd),
                _ => None,
            };
            fill(&mut system.cpu_vendor, vendor);
        }
        "model name" | "Model name" | "BIOS Model name" if !value.is_empty() => {
            fill(&mut system.cpu_vendor, vendor_of_model(value));
            fill(&mut system.cpu_model, Some(value.to_owned()));
        }
        // lspci has flags too; those of a processor begin with its floating point unit.
        "flags" | "Flags" => {
            let has = |wanted: &str| value.split_whitespace().any(|flag| flag == wanted);
            if !has("fpu") {
                return false;
            }
            let kind = match (has("vmx"), has("svm")) {
                (true, _) => Virtualization::Vmx,
                (_, true) => Virtualization::Svm,
                // Cut off, it would tell nothing: the flag stands far behind.
                _ if has("hypervisor") || value.len() > 400 => Virtualization::None,
                _ => Virtualization::Unknown,
            };
            fill(&mut system.virtualization, (kind != Virtualization::Unknown).then_some(kind));
            fill(&mut system.guest, Some(has("hypervisor")));
        }
        "Virtualization" | "Virtualisation" => {
            let kind = match value {
                "VT-x" => Virtualization::Vmx,
                "AMD-V" => Virtualization::Svm,
                _ => return false,
            };
            fill(&mut system.virtualization, Some(kind));
        }
        "Hypervisor vendor" => fill(&mut system.guest, Some(true)),
        _ => return false,
    }
    true
}

/// /proc/cmdline: alone on its line, or behind a label.
fn command_line(system: &mut System, text: &str) -> bool {
    let labels = ["cmdline:", "CMDLINE:", "/proc/cmdline:", "parameters:", "Parameters:", "Cmdline:"];
    let rest = labels.iter().find_map(|label| text.strip_prefix(label)).unwrap_or(text).trim_start();
    let first = rest.split(' ').next().unwrap_or_default();
    let begins = ["BOOT_IMAGE=", "initrd=", "root=", "auto"].iter().any(|word| first.starts_with(word));
    let has = |word: &str| rest.split(' ').any(|own| own.starts_with(word));
    let rooted = begins && has("root=") && rest.contains(' ') && first.len() > "root=".len();
    let certain = first.starts_with("BOOT_IMAGE=") || rooted;
    if certain {
        fill(&mut system.cmdline, Some(rest.to_owned()));
    }
    certain
}

/// `Linux NAME 6.12.1 #1 SMP … x86_64 GNU/Linux`.
fn uname(system: &mut System, text: &str) -> bool {
    let words: Vec<&str> = text.split(' ').take(5).collect();
    match words.as_slice() {
        ["Linux", _, release, build, ..]
            if build.starts_with('#') && release.starts_with(|first: char| first.is_ascii_digit()) =>
        {
            fill(&mut system.release, Some((*release).to_owned()));
            true
        }
        _ => matches!(text, "x86_64" | "aarch64" | "riscv64" | "ppc64le" | "s390x" | "i686"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_is() {
        let mut system = System::default();
        let lines = [
            "vendor_id\t: AuthenticAMD",
            "model name\t: AMD Ryzen 7 5800X 8-Core Processor",
            "flags\t\t: fpu vme svm",
            "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro iommu=pt",
            "Linux box 6.12.1-amd64 #1 SMP PREEMPT_DYNAMIC x86_64 GNU/Linux",
        ];
        assert!(lines.iter().all(|text| line(&mut system, text)));
        assert_eq!(system.cpu_vendor, Some(CpuVendor::Amd));
        assert_eq!(system.virtualization, Some(Virtualization::Svm));
        assert_eq!(system.release.as_deref(), Some("6.12.1-amd64"));
        assert!(system.cmdline.unwrap().ends_with("iommu=pt"));
    }

    #[test]
    fn other_flags_and_sentences_say_nothing() {
        let mut system = System::default();
        for text in [
            "Flags: bus master, fast devsel",
            "Linux is fine",
            "GRUB_CMDLINE_LINUX=\"quiet\"",
            "root= what",
            "flags : fpu vme",
        ] {
            line(&mut system, text);
        }
        assert_eq!((system.cmdline, system.release, system.virtualization), (None, None, None));
    }
}
