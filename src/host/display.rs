//! What a card shows, and who draws: DRM cards and their connectors with monitors, frame buffers that the firmware
//! left, and who has claimed the ranges of a card's memory.
//!
//! Reads what the drivers saw last; nothing is probed and nothing is woken.

use super::{
    Framebuffer, Host,
    edid::{self, Monitor},
    look::Look,
};
use crate::pci::Address;
use serde::{Deserialize, Serialize};

/// A DRM card (/sys/class/drm/cardN): what a driver made of a function, or of the firmware's frame buffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrmCard {
    /// The kernel's name: `card0`.
    pub name: String,
    /// The function; `None` for one that draws into the firmware's frame buffer without knowing whose it is.
    pub function: Option<Address>,
    /// The platform device, for simpledrm: `simple-framebuffer.0`.
    pub platform: Option<String>,
    /// Its connectors, by name; empty: the driver has none.
    pub connectors: Vec<Connector>,
}

/// A connector of a DRM card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connector {
    /// `DP-1`, `eDP-1`.
    pub name: String,
    /// Whether something is plugged in, as the driver saw it last. `None`: it does not know.
    pub connected: Option<bool>,
    /// Whether a picture goes to it now.
    pub enabled: Option<bool>,
    /// The monitor, where it says who it is.
    pub monitor: Option<Monitor>,
}

impl Connector {
    /// Whether it leads to the panel of a laptop (Documentation/gpu/drm-kms.rst, connector types).
    pub fn is_panel(&self) -> bool {
        ["eDP-", "LVDS-", "DSI-"].iter().any(|kind| self.name.starts_with(kind))
    }

    /// `eDP-1 (B156HAN02.1)`.
    pub fn shown(&self) -> String {
        match &self.monitor {
            Some(monitor) => format!("{} ({})", self.name, monitor.shown()),
            None => self.name.clone(),
        }
    }
}

/// A frame buffer that the firmware left, as a platform device: `efi-framebuffer.0`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareFramebuffer {
    /// Its name below /sys/bus/platform/devices.
    pub device: String,
    /// The driver that has it: `efi-framebuffer`, `simple-framebuffer`, `simple-framebuffer` of simpledrm.
    pub driver: Option<String>,
    /// The function whose memory it is, where the kernel says so (its parent, since Linux 6.9).
    pub function: Option<Address>,
}

/// Somebody who has claimed a range of a function's memory (/proc/iomem).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Whose memory it is.
    pub function: Address,
    /// Who claims it: a driver, `efifb`, `BOOTFB`, `simplefb`.
    pub by: String,
    /// First address and length in bytes. `None`: only root sees addresses.
    pub range: Option<(u64, u64)>,
}

impl Claim {
    /// Whether it is the firmware's frame buffer, or a driver that draws into that (drivers/firmware/sysfb_simplefb.c,
    /// drivers/video/fbdev).
    pub fn is_firmware_framebuffer(&self) -> bool {
        matches!(
            self.by.as_str(),
            "BOOTFB"
                | "efifb"
                | "simplefb"
                | "simpledrm"
                | "simple-framebuffer"
                | "vesafb"
                | "vesadrm"
                | "efidrm"
        )
    }
}

/// DRM cards, by name. `None`: no folder of them.
pub(super) fn cards(look: &Look) -> Option<Vec<DrmCard>> {
    let names = look.list("/sys/class/drm")?;
    let is_card = |name: &&String| {
        name.strip_prefix("card")
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    let card = |name: &String| {
        let place = look.link(&format!("/sys/class/drm/{name}"))?;
        let prefix = format!("{name}-");
        let own = names.iter().filter_map(|other| Some((other, other.strip_prefix(&prefix)?)));
        // A writeback connector leads into memory.
        let own = own.filter(|(_, connector)| !connector.starts_with("Writeback-"));
        Some(DrmCard {
            name: name.clone(),
            function: super::look::last_function(&place),
            platform: place.rsplit('/').find(|part| is_firmware_device(part)).map(str::to_owned),
            connectors: own.map(|(folder, connector)| read(look, folder, connector)).collect(),
        })
    };
    Some(names.iter().filter(is_card).filter_map(card).collect())
}

/// `status` is what the driver saw last; reading it looks at nothing anew (drivers/gpu/drm/drm_sysfs.c,
/// `status_show`). `edid` is the copy that the driver made then.
fn read(look: &Look, folder: &str, name: &str) -> Connector {
    let at = |attribute: &str| look.text(&format!("/sys/class/drm/{folder}/{attribute}"));
    let connected = match at("status").as_deref() {
        Some("connected") => Some(true),
        Some("disconnected") => Some(false),
        _ => None,
    };
    let enabled = match at("enabled").as_deref() {
        Some("enabled") => Some(true),
        Some("disabled") => Some(false),
        _ => None,
    };
    let edid = || look.bytes(&format!("/sys/class/drm/{folder}/edid"));
    let monitor = if connected == Some(true) { edid().and_then(|bytes| edid::parse(&bytes)) } else { None };
    Connector { name: name.to_owned(), connected, enabled, monitor }
}

pub(super) fn is_firmware_device(name: &str) -> bool {
    ["efi-framebuffer.", "simple-framebuffer.", "vesa-framebuffer.", "platform-framebuffer."]
        .iter()
        .any(|kind| name.starts_with(kind))
}

/// Frame buffers that the firmware left.
pub(super) fn firmware(look: &Look) -> Vec<FirmwareFramebuffer> {
    let names = look.list("/sys/bus/platform/devices").unwrap_or_default();
    let own = names.into_iter().filter(|name| is_firmware_device(name));
    let read = |device: String| {
        let folder = format!("/sys/bus/platform/devices/{device}");
        FirmwareFramebuffer {
            driver: look.link_name(&format!("{folder}/driver")),
            function: look.function_of(&folder),
            device,
        }
    };
    own.map(read).collect()
}

/// Who has claimed memory of display controllers. `None`: /proc/iomem was not there.
pub(super) fn claims(look: &Look, displays: &[Address]) -> Option<Vec<Claim>> {
    look.text("/proc/iomem").map(|text| parse_iomem(&text, displays))
}

/// Lines `c0000000-cfffffff : 0000:01:00.0`, indented by two spaces below what holds them (kernel/resource.c,
/// `r_show`). Without root all addresses are 0; names and indents are there.
fn parse_iomem(text: &str, displays: &[Address]) -> Vec<Claim> {
    let mut above: Vec<(usize, Option<Address>)> = Vec::new();
    let mut found: Vec<Claim> = Vec::new();
    for line in text.lines() {
        let Some((range, name)) = line.split_once(" : ") else { continue };
        let indent = range.len() - range.trim_start().len();
        above.retain(|(outer, _)| *outer < indent);
        let own = super::look::full_address(name);
        let holder = above.iter().rev().find_map(|(_, function)| *function);
        if let (None, Some(function)) = (own, holder.filter(|holder| displays.contains(holder))) {
            let claim = Claim { function, by: name.to_owned(), range: range_in(range.trim_start()) };
            if !found.contains(&claim) {
                found.push(claim);
            }
        }
        above.push((indent, own));
    }
    found
}

fn range_in(range: &str) -> Option<(u64, u64)> {
    let (start, end) = range.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    (end > 0 && end >= start).then(|| (start, (end - start).saturating_add(1)))
}

/// Which function a frame buffer belongs to whose driver does not say so: the one whose memory is claimed by the
/// firmware's frame buffer, where that is one function only.
pub(super) fn settle(host: &mut Host) {
    let claims = host.claims.iter().flatten().filter(|claim| claim.is_firmware_framebuffer());
    let mut owners: Vec<Address> = claims.map(|claim| claim.function).collect();
    owners.sort_unstable();
    owners.dedup();
    let [owner] = owners[..] else { return };
    for framebuffer in host.framebuffers.iter_mut().filter(|framebuffer| draws_for_firmware(framebuffer)) {
        framebuffer.function.get_or_insert(owner);
    }
    for firmware in &mut host.firmware_framebuffers {
        firmware.function.get_or_insert(owner);
    }
    let simple = host.drm_cards.iter_mut().flatten().filter(|card| card.platform.is_some());
    for card in simple {
        card.function.get_or_insert(owner);
    }
}

/// Whether lending these functions ends the text console for this boot: it draws into what the firmware set up, and
/// the kernel takes that away for good when vfio-pci gets the card (since 6.0: drivers/vfio/pci/vfio_pci_core.c,
/// `vfio_pci_vga_init`). False where that is not known.
pub fn loses_console(host: &Host, functions: &[Address]) -> bool {
    let own = |function: Option<Address>| function.is_some_and(|function| functions.contains(&function));
    let drawn = host.framebuffers.iter().any(|fb| own(fb.function) && draws_for_firmware(fb));
    drawn && host.kernel.version().is_some_and(|version| version >= (6, 0))
}

/// Names of frame buffers that draw into what the firmware set up (drivers/video/fbdev: efifb.c, vesafb.c, simplefb.c;
/// what DRM's drivers for it emulate, drivers/gpu/drm/sysfb).
pub fn draws_for_firmware(framebuffer: &Framebuffer) -> bool {
    let name = framebuffer.name.as_str();
    let by_drm = ["simpledrm", "efidrm", "vesadrm", "ofdrm"];
    matches!(name, "EFI VGA" | "VESA VGA" | "simple") || by_drm.iter().any(|driver| name.starts_with(driver))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{Tree, at, desktop};

    #[test]
    fn connectors_and_simpledrm() {
        let mut tree = Tree::new();
        tree.link("/sys/class/drm/card0", "../../devices/platform/simple-framebuffer.0/drm/card0");
        let card = "../../devices/pci0000:00/0000:00:01.0/0000:01:00.0/drm/card1";
        tree.link("/sys/class/drm/card1", card);
        tree.link(
            "/sys/class/drm/renderD128",
            "../../devices/pci0000:00/0000:00:01.0/0000:01:00.0/drm/renderD128",
        );
        for (name, status, enabled) in [
            ("DP-1", "connected", "enabled"),
            ("eDP-1", "disconnected", "disabled"),
            ("HDMI-A-1", "unknown", "disabled"),
            ("Writeback-1", "unknown", "disabled"),
        ] {
            tree.file(&format!("/sys/class/drm/card1-{name}/status"), status);
            tree.file(&format!("/sys/class/drm/card1-{name}/enabled"), enabled);
            tree.file(&format!("/sys/class/drm/card1-{name}/edid"), "garbage");
        }
        let look = Look::new(&tree);
        let cards = cards(&look).unwrap();
        assert_eq!((cards[0].platform.as_deref(), cards[0].function), (Some("simple-framebuffer.0"), None));
        assert_eq!((cards[1].platform.as_deref(), cards[1].function), (None, Some(at("01:00.0"))));
        let shown: Vec<_> =
            cards[1].connectors.iter().map(|it| (it.shown(), it.connected, it.is_panel())).collect();
        assert_eq!(
            shown,
            [
                ("DP-1".into(), Some(true), false),
                ("HDMI-A-1".into(), None, false),
                ("eDP-1".into(), Some(false), true)
            ]
        );
        assert_eq!(super::cards(&Look::new(&Tree::new())), None);
    }

    const IOMEM: &str = "c0000000-febfffff : PCI Bus 0000:00\n  c0000000-d1ffffff : PCI Bus 0000:01\n    \
        c0000000-cfffffff : 0000:01:00.0\n      c0000000-c07e8fff : BOOTFB\n        c0000000-c07e8fff : simplefb\n    \
        d0000000-d1ffffff : 0000:01:00.0\n      d0000000-d1ffffff : nvidia\n  d2000000-d2003fff : 0000:03:00.0\n    \
        d2000000-d2003fff : nvme\nfec00000-fec003ff : IOAPIC 0\n";

    #[test]
    fn who_has_claimed_a_cards_memory() {
        let shown = |text: &str| {
            let found = parse_iomem(text, &[at("01:00.0")]);
            found.into_iter().map(|claim| (claim.by, claim.range)).collect::<Vec<_>>()
        };
        let boot = Some((0xc000_0000, 0x7e_9000));
        assert_eq!(
            shown(IOMEM),
            [
                ("BOOTFB".into(), boot),
                ("simplefb".into(), boot),
                ("nvidia".into(), Some((0xd000_0000, 0x200_0000)))
            ]
        );
        let zero = |line: &str| {
            let (range, name) = line.split_once(" : ").unwrap();
            let indent = range.len() - range.trim_start().len();
            format!("{}00000000-00000000 : {name}\n", " ".repeat(indent))
        };
        let zeros = IOMEM.lines().map(zero).collect::<Vec<_>>().concat();
        assert_eq!(
            shown(&zeros),
            [("BOOTFB".into(), None), ("simplefb".into(), None), ("nvidia".into(), None)]
        );
        assert!(shown("x\n : \n-:- : 0000:01:00.0\n  zz : y\n").len() <= 1);
        assert_eq!(range_in("0-ffffffffffffffff"), Some((0, u64::MAX)));
    }

    #[test]
    fn the_firmwares_frame_buffer_belongs_to_whose_memory_it_is() {
        let mut host = desktop();
        host.framebuffers = vec![
            Framebuffer { index: 0, name: "EFI VGA".into(), function: None },
            Framebuffer { index: 1, name: "udldrmfb".into(), function: None },
        ];
        host.claims = Some(parse_iomem(IOMEM, &[at("01:00.0")]));
        settle(&mut host);
        host.kernel.release = Some("6.12.57+deb13-amd64".into());
        assert!(loses_console(&host, &[at("01:00.0")]) && !loses_console(&host, &[at("02:00.0")]));
        host.kernel.release = Some("5.15.0-91-generic".into());
        assert!(!loses_console(&host, &[at("01:00.0")]));
        assert_eq!(host.framebuffers[0].function, Some(at("01:00.0")));
        assert_eq!(host.framebuffers[1].function, None);
    }
}
