//! Is a card on a driver of the host?

use super::{Finding, Severity};
use crate::host::{Gpu, GpuKind, Host, Verdict};

/// Drivers that only keep a device for a guest (drivers/vfio/pci, drivers/pci/pci-stub.c).
pub(super) const KEEPERS: [&str; 2] = ["vfio-pci", "pci-stub"];

/// Functions of a card that a driver of the host has: they leave it when the card is lent.
pub(super) fn driver_in_use(host: &Host) -> Vec<Finding> {
    host.gpus
        .iter()
        .filter(|gpu| gpu.kind != GpuKind::Management)
        .filter_map(|gpu| in_use(host, gpu))
        .collect()
}

fn in_use(host: &Host, gpu: &Gpu) -> Option<Finding> {
    let functions = gpu.functions.iter().filter_map(|own| host.function(*own));
    let driven = functions.filter_map(|function| Some((function.address, function.driver.as_deref()?)));
    let driven: Vec<_> = driven.filter(|(_, driver)| !KEEPERS.contains(driver)).collect();
    if driven.is_empty() {
        return None;
    }
    let mut drivers: Vec<&str> = driven.iter().map(|(_, driver)| *driver).collect();
    drivers.dedup();
    let title = format!("{} is on the host's own drivers: {}", gpu.address, drivers.join(", "));
    let mut finding = Finding::new("driver-in-use", Severity::Info, title).on(gpu.address);
    for (address, driver) in driven {
        finding = finding.seen(format!("/sys/bus/pci/devices/{address}/driver"), driver);
    }
    let finding = finding.cause("the host uses it, or would if something asked");
    if gpu.verdict != Verdict::Ready {
        return Some(finding);
    }
    let finding =
        finding.fix("lend it now, until it is taken back", format!("gpuferry detach {}", gpu.address));
    Some(
        finding.fix("keep it for guests from boot on", format!("gpuferry plan static --gpu {}", gpu.address)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::*;

    #[test]
    fn host_drivers_are_named_and_vfio_is_none() {
        let mut host = desktop();
        assert_eq!(
            driver_in_use(&host)[0].title,
            "0000:01:00.0 is on the host's own drivers: nvidia, snd_hda_intel"
        );
        assert_eq!(driver_in_use(&host)[0].fixes, [], "no advice before it is known to work");
        host.gpus[0].verdict = Verdict::Ready;
        assert_eq!(driver_in_use(&host)[0].fixes.len(), 2);
        for function in host.functions.iter_mut().filter(|function| function.address.bus == 1) {
            function.driver = Some("vfio-pci".into());
        }
        assert_eq!(driver_in_use(&host), []);
    }
}
