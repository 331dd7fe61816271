//! The processor, from /proc/cpuinfo.

use super::{Cpu, CpuVendor, Virtualization, look::Look};

/// Maker, model and virtualisation flag of the first processor.
pub(super) fn cpu(look: &Look) -> Cpu {
    parse(&look.text("/proc/cpuinfo").unwrap_or_default())
}

/// The kernel clears `vmx` and `svm` where the firmware locked them (arch/x86/kernel/cpu/feat_ctl.c, and
/// init_amd since 6.7), so a missing flag is either.
fn parse(cpuinfo: &str) -> Cpu {
    let value = |name: &str| {
        let lines = cpuinfo.lines().take_while(|line| !line.is_empty());
        let mut pairs = lines.filter_map(|line| line.split_once(':'));
        pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
    };
    let vendor = match value("vendor_id").as_deref() {
        Some("GenuineIntel") => CpuVendor::Intel,
        Some("AuthenticAMD" | "HygonGenuine") => CpuVendor::Amd,
        _ => CpuVendor::Other,
    };
    let has = |flags: &str, wanted: &str| flags.split_whitespace().any(|flag| flag == wanted);
    let flags = value("flags");
    let guest = flags.as_deref().map(|flags| has(flags, "hypervisor"));
    let virtualization = match flags {
        Some(flags) if has(&flags, "vmx") => Virtualization::Vmx,
        Some(flags) if has(&flags, "svm") => Virtualization::Svm,
        Some(_) => Virtualization::None,
        None => Virtualization::Unknown,
    };
    Cpu { vendor, virtualization, model: value("model name").filter(|model| !model.is_empty()), guest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_whole_words() {
        let intel = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Some CPU @ 3 GHz\nflags\t\t: fpu vmx sse\n\nprocessor\t: 1\n";
        let cpu = parse(intel);
        assert_eq!((cpu.vendor, cpu.virtualization), (CpuVendor::Intel, Virtualization::Vmx));
        assert_eq!(cpu.model.as_deref(), Some("Some CPU @ 3 GHz"));
        assert_eq!(cpu.guest, Some(false));
        let amd = parse("vendor_id : AuthenticAMD\nflags : fpu svm_lock hypervisor\n");
        assert_eq!(amd.guest, Some(true));
        assert_eq!((amd.vendor, amd.virtualization), (CpuVendor::Amd, Virtualization::None));
        assert_eq!(parse("flags : svm\n").virtualization, Virtualization::Svm);
        assert_eq!(parse("Features : fp asimd\n").virtualization, Virtualization::Unknown);
    }
}
