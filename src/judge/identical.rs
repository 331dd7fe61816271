//! Are there cards that ids cannot tell apart?

use super::{Finding, Severity};
use crate::host::Host;

/// Cards with the same ids: `vfio-pci.ids=` takes all of them (drivers/vfio/pci/vfio_pci.c, `ids`). The path from
/// the root port tells them apart.
pub(super) fn identical_cards(host: &Host) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for gpu in &host.gpus {
        let named_before = gpu.identical_to.iter().any(|twin| *twin < gpu.address);
        let id = host.function(gpu.address).and_then(crate::host::Function::id);
        let (Some(id), false, false) = (id, gpu.identical_to.is_empty(), named_before) else { continue };
        let twins: Vec<String> = gpu.identical_to.iter().map(ToString::to_string).collect();
        let title = format!("{} and {} are identical ({id})", gpu.address, twins.join(", "));
        findings.push(
            Finding::new("identical-cards", Severity::Info, title)
                .on(gpu.address)
                .seen(format!("/sys/bus/pci/devices/{}", gpu.address), id.to_string())
                .cause("words that go by ids (vfio-pci.ids=) would take every one of them")
                .fix(
                    "bind one of them by its path, which the plan does",
                    format!(
                        "gpuferry plan static --gpu {}",
                        gpu.identical_to.first().unwrap_or(&gpu.address)
                    ),
                ),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{gpu, testing::*};

    #[test]
    fn twins_are_named_once() {
        let mut host = desktop();
        assert_eq!(identical_cards(&host), []);
        host.functions.push(driven("05:00.0", "030000", "10de:2204", "nvidia", 20));
        host.gpus = gpu::gpus(&host);
        let found = identical_cards(&host);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].title, "0000:01:00.0 and 0000:05:00.0 are identical (10de:2204)");
    }
}
