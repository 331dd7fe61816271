//! Is a card the one that the host itself shows things on?

use super::{Finding, Severity};
use crate::host::{Gpu, GpuKind, Host};

/// The firmware used this card as the display (`boot_vga`, drivers/gpu/vga/vgaarb.c): the host's console and, mostly,
/// its desktop are on it, and its ROM can only be read as the firmware left it.
pub(super) fn boot_card(host: &Host) -> Vec<Finding> {
    let cards = host.gpus.iter().filter(|gpu| applies(host, gpu));
    let finding = |gpu: &Gpu| {
        let others = host.gpus.iter().filter(|other| other.address != gpu.address);
        let another = others.map(|other| other.address).next();
        let title = format!("{} is the boot card: the host shows its console on it", gpu.address);
        let mut finding = Finding::new("boot-card", Severity::Warning, title)
            .on(gpu.address)
            .seen(format!("/sys/bus/pci/devices/{}/boot_vga", gpu.address), "1");
        let shown = host.framebuffers.iter().filter(|framebuffer| framebuffer.function == Some(gpu.address));
        for framebuffer in shown {
            finding =
                finding.seen(format!("/sys/class/graphics/fb{}/name", framebuffer.index), &framebuffer.name);
        }
        let dark = super::dark::goes_dark(host, gpu);
        let dark = if dark.is_empty() {
            "the host is blind".to_owned()
        } else {
            format!("this goes dark: {}", dark.join(", "))
        };
        let finding =
            finding.cause(format!("the firmware chose this card to start with; while it is lent, {dark}"));
        match another {
            Some(other) => {
                finding.advice(format!("choose {other} as the first display in the firmware's setup"))
            }
            None => finding
                .advice("have another way in before it is lent: ssh from another machine, or a serial line"),
        }
    };
    cards.map(finding).collect()
}

/// The processor's graphics as the display, and a card beside it to lend, is how it should be.
pub(super) fn applies(host: &Host, gpu: &Gpu) -> bool {
    let as_it_should_be = gpu.kind == GpuKind::Integrated && host.gpus.len() > 1;
    gpu.boot_vga == Some(true) && gpu.kind != GpuKind::Management && !as_it_should_be
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::*;

    #[test]
    fn the_boot_card_is_a_warning() {
        let mut host = desktop();
        let found = boot_card(&host);
        assert_eq!((found[0].severity, found[0].device), (Severity::Warning, Some(at("01:00.0"))));
        host.gpus[0].boot_vga = Some(false);
        assert_eq!(boot_card(&host), []);
        host.gpus[0].boot_vga = None;
        assert_eq!(boot_card(&host), []);
        host.gpus[0].boot_vga = Some(true);
        host.gpus[0].kind = GpuKind::Management;
        assert_eq!(boot_card(&host), []);
        host.gpus[0].kind = GpuKind::Integrated;
        assert_eq!(boot_card(&host).len(), 1, "there is no other");
        let mut other = host.gpus[0].clone();
        (other.address, other.boot_vga) = (at("05:00.0"), Some(false));
        host.gpus.push(other);
        assert_eq!(boot_card(&host), []);
    }
}
