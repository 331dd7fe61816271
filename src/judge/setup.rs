//! What to look for in the firmware's setup: the settings that matter for lending a card, how each stands as far as
//! the machine tells, and where boards of its maker have it.
//!
//! Menus differ between boards and versions of one maker; the ways given here are those of most of its recent boards.

use crate::{
    host::{
        CpuVendor, GpuKind, Host, Known, RegionKind, Virtualization,
        config::{self, PortKind},
    },
    pci::Address,
};

/// A setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// What it is called.
    pub name: &'static str,
    /// How it stands, in words. `None`: the machine does not tell.
    pub now: Option<String>,
    /// How it should be, unless it is known to be so.
    pub wanted: Option<&'static str>,
    /// Where boards of this maker have it.
    pub place: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Virtualization,
    Iommu,
    Acs,
    Csm,
    Above4G,
    ResizableBar,
    FirstDisplay,
    Bifurcation,
}

/// Makers whose menus are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    Asrock,
    Asus,
    Gigabyte,
    Msi,
}

/// The settings, in the order in which they are best gone through. Empty for a guest: its firmware has none of them.
pub fn checklist(host: &Host) -> Vec<Setting> {
    if host.cpu.guest == Some(true) || host.cpu.vendor == CpuVendor::Other {
        return Vec::new();
    }
    let maker = host.board.as_ref().and_then(|board| maker(board.vendor.as_deref()?));
    let amd = host.cpu.vendor == CpuVendor::Amd;
    let setting =
        |what: What, name: &'static str, (now, good): (Option<String>, bool), wanted: &'static str| {
            let place = maker.and_then(|maker| place(what, maker, amd)).filter(|_| !good);
            Setting { name, now, wanted: (!good).then_some(wanted), place }
        };
    let mut all = vec![
        setting(What::Virtualization, if amd { "SVM Mode" } else { "VT-x" }, virtualization(host), "on"),
        setting(What::Iommu, if amd { "IOMMU" } else { "VT-d" }, iommu(host), "on"),
        setting(What::Acs, "ACS", acs(host), "on, where there is such a setting"),
        setting(What::Csm, "CSM", csm(host), "off, unless only that makes another card the first display"),
        setting(What::Above4G, "Above 4G Decoding", above_4g(host), "on"),
    ];
    if let Some(now) = resizable_bar(host) {
        all.push(setting(
            What::ResizableBar,
            "Resizable BAR",
            (Some(now), false),
            "as the guest's driver likes it",
        ));
    }
    if let Some(now) = first_display(host) {
        let wanted = "the card that the host keeps";
        all.push(setting(What::FirstDisplay, "First display", now, wanted));
    }
    if let Some(now) = lanes(host) {
        let wanted = "what the slots need, and a look at the board's manual";
        all.push(setting(What::Bifurcation, "PCIe bifurcation", (Some(now), false), wanted));
    }
    all
}

/// By the names in SMBIOS.
fn maker(vendor: &str) -> Option<Maker> {
    let vendor = vendor.to_lowercase();
    let known = [
        ("asrock", Maker::Asrock),
        ("asus", Maker::Asus),
        ("gigabyte", Maker::Gigabyte),
        ("micro-star", Maker::Msi),
        ("msi", Maker::Msi),
    ];
    known.iter().find(|(name, _)| vendor.starts_with(name)).map(|(_, maker)| *maker)
}

/// Ways through the menus of boards for AM4, AM5, LGA1200 and LGA1700, as their users give them.
fn place(what: What, maker: Maker, amd: bool) -> Option<&'static str> {
    match maker {
        Maker::Asrock => asrock(what, amd),
        Maker::Asus => asus(what, amd),
        Maker::Gigabyte => gigabyte(what, amd),
        Maker::Msi => msi(what, amd),
    }
}

fn asrock(what: What, amd: bool) -> Option<&'static str> {
    Some(match what {
        What::Virtualization => "Advanced > CPU Configuration",
        What::Iommu | What::Acs if amd => "Advanced > AMD CBS, often below NBIO Common Options",
        What::Acs => return None,
        What::Csm => "Boot > CSM (Compatibility Support Module)",
        What::FirstDisplay => "Advanced > Chipset Configuration > Primary Graphics Adapter",
        What::Iommu | What::Above4G | What::ResizableBar | What::Bifurcation => {
            "Advanced > Chipset Configuration"
        }
    })
}

fn asus(what: What, amd: bool) -> Option<&'static str> {
    Some(match what {
        What::Virtualization => "Advanced > CPU Configuration",
        What::Iommu | What::Acs if amd => "Advanced > AMD CBS, often below NBIO Common Options",
        What::Iommu => "Advanced > System Agent (SA) Configuration",
        What::Acs => return None,
        What::Csm => "Boot > CSM (Compatibility Support Module)",
        What::Above4G | What::ResizableBar => "Advanced > PCI Subsystem Settings",
        What::FirstDisplay if amd => "Advanced > NB Configuration > Primary Video Device",
        What::FirstDisplay => {
            "Advanced > System Agent (SA) Configuration > Graphics Configuration > Primary Display"
        }
        What::Bifurcation => "Advanced > Onboard Devices Configuration",
    })
}

fn gigabyte(what: What, amd: bool) -> Option<&'static str> {
    Some(match what {
        What::Virtualization => "Tweaker > Advanced CPU Settings",
        What::Iommu if amd => "Settings > Miscellaneous, or Settings > AMD CBS > NBIO Common Options",
        What::Iommu => "Settings > Miscellaneous",
        What::Acs if amd => "Settings > AMD CBS > NBIO Common Options",
        What::Acs => return None,
        What::Csm => "Boot > CSM Support",
        What::FirstDisplay => "Settings > IO Ports > Initial Display Output",
        What::Above4G | What::ResizableBar | What::Bifurcation => "Settings > IO Ports",
    })
}

fn msi(what: What, amd: bool) -> Option<&'static str> {
    Some(match what {
        What::Iommu | What::Acs if amd => "OC > CPU Features, or OC > Advanced CPU Configuration > AMD CBS",
        What::Virtualization | What::Iommu => "OC > CPU Features",
        What::Acs => return None,
        What::Csm => "Settings > Boot > Boot mode select",
        What::Above4G | What::ResizableBar | What::Bifurcation => {
            "Settings > Advanced > PCI Subsystem Settings"
        }
        What::FirstDisplay => {
            "Settings > Advanced > Integrated Graphics Configuration > Initiate Graphic Adapter"
        }
    })
}

/// How something stands, and whether that is as wanted.
type State = (Option<String>, bool);

fn on_or_off(on: Option<bool>) -> State {
    (on.map(|on| if on { "on" } else { "off" }.to_owned()), on == Some(true))
}

fn virtualization(host: &Host) -> State {
    // Before 6.7 the kernel left `svm` standing where the firmware had locked it (arch/x86/kernel/cpu/amd.c).
    let told = host.kernel.version().is_some_and(|version| version >= (6, 7));
    on_or_off(match host.cpu.virtualization {
        Virtualization::Svm if !told => None,
        Virtualization::Vmx | Virtualization::Svm => Some(true),
        Virtualization::None => Some(false),
        Virtualization::Unknown => None,
    })
}

fn iommu(host: &Host) -> State {
    let tables = match (host.acpi.dmar, host.acpi.ivrs) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    };
    on_or_off(if host.iommu.state == Known::On { Some(true) } else { tables })
}

/// Root ports that have access control, and those where it is on.
fn acs(host: &Host) -> State {
    let ports = host.functions.iter().filter_map(|function| function.config.as_ref());
    let ports =
        ports.filter(|config| config.express.as_ref().is_some_and(|it| it.kind == PortKind::RootPort));
    let settings: Vec<config::Setting> = ports.map(|config| config.acs.setting()).collect();
    let count = |wanted: config::Setting| settings.iter().filter(|setting| **setting == wanted).count();
    let (on, known) = (count(config::Setting::On), settings.len() - count(config::Setting::Unknown));
    if known == 0 {
        return (None, false);
    }
    (Some(format!("on at {on} of {known} root ports")), on == known)
}

fn csm(host: &Host) -> State {
    let uefi = host.boot.uefi;
    let used = |uefi| if uefi { "not used (started by UEFI)" } else { "used (started as a BIOS does)" };
    (uefi.map(|uefi| used(uefi).to_owned()), uefi == Some(true))
}

/// Memory of a device above 4 GiB is there only where the firmware allows it, or the kernel put it there. Firmware puts
/// what is in the processor there in any case: only what is behind a port counts.
fn above_4g(host: &Host) -> State {
    let behind = host.functions.iter().filter(|function| function.parent.is_some());
    let regions = behind.flat_map(|function| function.regions.iter().flatten());
    let above =
        regions.into_iter().any(|region| region.kind == RegionKind::Memory && region.start >= 1 << 32);
    (above.then(|| "on".to_owned()), above)
}

fn cards(host: &Host) -> impl Iterator<Item = Address> {
    host.gpus.iter().filter(|gpu| gpu.kind == GpuKind::Discrete).map(|gpu| gpu.address)
}

/// Cards that show less of their memory than they could.
fn resizable_bar(host: &Host) -> Option<String> {
    let small = cards(host).filter_map(|address| {
        let config = host.function(address)?.config.as_ref()?;
        let (size, most) = config
            .resizable
            .iter()
            .filter_map(|bar| Some((bar.size, *bar.sizes.last()?)))
            .max_by_key(|it| it.1)?;
        (size < most).then(|| format!("{address} shows {} of {} MiB", size >> 20, most >> 20))
    });
    listed(small)
}

/// The card that the firmware draws on, where there are several. Integrated graphics are what a host keeps.
fn first_display(host: &Host) -> Option<State> {
    let first = host.gpus.iter().find(|gpu| gpu.boot_vga == Some(true))?;
    (host.gpus.len() > 1).then(|| (Some(first.address.to_string()), first.kind == GpuKind::Integrated))
}

/// Cards whose slot gives them fewer lanes than they have.
fn lanes(host: &Host) -> Option<String> {
    let narrow = cards(host).filter_map(|address| {
        let link = host.function(address)?.link.as_ref()?;
        let (now, most) = (link.width?, link.max_width?);
        (now < most).then(|| format!("{address} has {now} of {most} lanes"))
    });
    listed(narrow)
}

fn listed(all: impl Iterator<Item = String>) -> Option<String> {
    let all: Vec<String> = all.collect();
    (!all.is_empty()).then(|| all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Board, Source};

    fn host(vendor: CpuVendor, maker: &str) -> Host {
        let mut host = Host::unknown(Source::Live);
        host.cpu.vendor = vendor;
        host.board = Some(Board { vendor: Some(maker.into()), ..Board::default() });
        host
    }

    fn of(host: &Host, name: &str) -> Setting {
        checklist(host).into_iter().find(|setting| setting.name == name).unwrap()
    }

    #[test]
    fn what_is_not_told_has_its_place_and_what_is_as_wanted_has_none() {
        let mut host = host(CpuVendor::Amd, "ASUSTeK COMPUTER INC.");
        host.cpu.virtualization = Virtualization::Svm;
        assert_eq!(of(&host, "SVM Mode").now, None, "older kernels leave the flag standing");
        host.kernel.release = Some("6.12.57+deb13-amd64".into());
        host.acpi.ivrs = Some(false);
        host.acpi.dmar = Some(false);
        let svm = of(&host, "SVM Mode");
        assert_eq!((svm.now.as_deref(), svm.wanted, svm.place), (Some("on"), None, None));
        let iommu = of(&host, "IOMMU");
        assert_eq!((iommu.now.as_deref(), iommu.wanted), (Some("off"), Some("on")));
        assert!(iommu.place.unwrap().contains("AMD CBS"));
        host.iommu.state = Known::On;
        assert_eq!(of(&host, "IOMMU").wanted, None, "the kernel uses one: there is one");
        assert_eq!(of(&host, "Above 4G Decoding").now, None);
        assert_eq!(of(&host, "CSM").now, None);
        host.boot.uefi = Some(false);
        assert!(of(&host, "CSM").now.unwrap().starts_with("used") && of(&host, "CSM").place.is_some());
    }

    #[test]
    fn names_are_those_of_the_processor_and_ways_those_of_the_maker() {
        for maker in
            ["Gigabyte Technology Co., Ltd.", "Micro-Star International Co., Ltd.", "ASRock", "ASUSTeK"]
        {
            for vendor in [CpuVendor::Amd, CpuVendor::Intel] {
                let all = checklist(&host(vendor, maker));
                let known = all.iter().filter(|setting| setting.place.is_some()).count();
                assert!(known >= all.len() - 1, "{maker}: {all:?}");
            }
        }
        let other = host(CpuVendor::Intel, "LENOVO");
        assert!(of(&other, "VT-d").place.is_none() && of(&other, "VT-d").wanted.is_some());
        assert_eq!(checklist(&host(CpuVendor::Other, "ASUSTeK")), []);
        let mut guest = host(CpuVendor::Amd, "ASUSTeK");
        guest.cpu.guest = Some(true);
        assert_eq!(checklist(&guest), [], "a guest's firmware has no such settings");
    }
}
