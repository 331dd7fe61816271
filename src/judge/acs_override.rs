//! Are groups split by the ACS override patch, and not by hardware?

use super::{
    Finding, Severity,
    acs::{self, Apart},
};
use crate::host::{Function, Host, kernel};

/// `pcie_acs_override=` on a kernel that has the patch: ports without access control are taken for ones that have it.
pub(super) fn acs_override(host: &Host) -> Vec<Finding> {
    let words = kernel::words(host.kernel.cmdline.as_deref().unwrap_or_default());
    let word = words.iter().find(|word| word.split_once('=').is_some_and(|(name, _)| name == acs::OVERRIDE));
    let pretended = |port: &&Function| acs::apart(host, port) == Apart::ByOverride;
    let ports: Vec<&Function> = host.functions.iter().filter(pretended).collect();
    let (Some(word), false) = (word, ports.is_empty()) else { return Vec::new() };
    let title = match ports.len() {
        1 => format!("the groups behind {} are kept apart in name only", ports[0].address),
        count => format!("the groups behind {count} ports are kept apart in name only"),
    };
    let mut finding = Finding::new("acs-override", Severity::Warning, title).seen("/proc/cmdline", word);
    for port in ports {
        let text = "no access control (ACS), and what is behind it has groups of its own";
        finding = finding.seen(format!("/sys/bus/pci/devices/{}/config", port.address), text);
    }
    vec![
        finding
            .cause(
                "the ACS override patch makes the kernel believe that these ports keep devices apart: what a guest has \
                 behind one of them can reach its neighbours, and the host through them, without the IOMMU",
            )
            .advice("lend such a card only to guests that you trust as you trust the host"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{
        config::{Acs, PortKind},
        testing::*,
    };

    #[test]
    fn ports_that_only_the_word_keeps_apart_are_named() {
        let mut host = desktop();
        host.kernel.cmdline = Some("quiet pcie_acs_override=downstream".into());
        assert_eq!(acs_override(&host), [], "without config space nothing is claimed");
        let port = |acs| express("00:01.0", "060400", "8086:1901", PortKind::RootPort, acs).config;
        host.functions[0].config = port(Acs::Missing);
        let found = acs_override(&host);
        assert_eq!(found[0].title, "the groups behind 0000:00:01.0 are kept apart in name only");
        host.functions[0].config = port(ON);
        assert_eq!(acs_override(&host), []);
        host.functions[0].config = port(Acs::Missing);
        host.kernel.cmdline = Some("quiet".into());
        assert_eq!(acs_override(&host), []);
    }
}
