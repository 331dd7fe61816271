//! What kind of machine it is, and whether a laptop's second card can drive its panel.
//!
//! The class of a card does not tell: there are cards of class 0302 with outputs and laptops whose card of class 0300
//! has none. What its driver lists as connectors does.

use super::{GpuKind, Host, look::Look};
use serde::{Deserialize, Serialize};

/// What kind of machine it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chassis {
    /// Laptop, desktop or something else.
    pub kind: ChassisKind,
    /// The chassis type as the firmware has it (SMBIOS, table 17).
    pub dmi_type: Option<u8>,
    /// Whether it has a battery of its own. `None`: not told.
    pub battery: Option<bool>,
    /// Whether it has a lid.
    pub lid: Option<bool>,
    /// Whether the kernel's switch between two cards knows a multiplexer of Apple's (drivers/platform/x86/apple-gmux.c).
    pub apple_gmux: bool,
}

/// Kinds of machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChassisKind {
    /// Something with a battery and a panel of its own.
    Laptop,
    /// A computer for a desk.
    Desktop,
    /// A server, or a blade.
    Server,
    /// Something else.
    Other,
    /// Not told, or a virtual machine.
    #[default]
    Unknown,
}

/// Whether the card of a laptop that can be lent can drive its panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mux {
    /// The card has a connector for the panel: a multiplexer can give it to the card.
    Muxed,
    /// The card has no connector at all: its pictures go through the processor's graphics.
    Muxless,
    /// The card has outputs of its own, and none for the panel: an external display shows the guest.
    OwnOutputs,
}

/// Reads what the firmware and the power supplies say.
pub(super) fn chassis(look: &Look) -> Chassis {
    let dmi_type: Option<u8> =
        look.text_quietly("/sys/class/dmi/id/chassis_type").and_then(|text| text.parse().ok());
    let supplies = look.list("/sys/class/power_supply");
    let is_own_battery = |name: &String| {
        let at = |attribute: &str| look.text_quietly(&format!("/sys/class/power_supply/{name}/{attribute}"));
        // A mouse's battery has the scope `Device` (Documentation/ABI/testing/sysfs-class-power).
        at("type").as_deref() == Some("Battery") && at("scope").as_deref() != Some("Device")
    };
    let battery = supplies.map(|names| names.iter().any(is_own_battery));
    let acpi = look.list("/sys/bus/acpi/devices");
    // Ids of ACPI devices: the lid switch, and Apple's graphics multiplexer.
    let has = |id: &str| acpi.as_ref().map(|names| names.iter().any(|name| name.starts_with(id)));
    let (lid, apple_gmux) = (has("PNP0C0D:"), has("APP000B:") == Some(true));
    Chassis { kind: kind(dmi_type, battery, lid), dmi_type, battery, lid, apple_gmux }
}

/// Chassis types of SMBIOS (DSP0134, 7.4.1). Where the firmware says nothing useful, a battery and a lid do.
fn kind(dmi_type: Option<u8>, battery: Option<bool>, lid: Option<bool>) -> ChassisKind {
    match dmi_type {
        Some(8..=11 | 14 | 30..=32) => ChassisKind::Laptop,
        Some(3..=7 | 13 | 15 | 16 | 24 | 34..=36) if battery != Some(true) || lid != Some(true) => {
            ChassisKind::Desktop
        }
        Some(17 | 23 | 25 | 28 | 29) => ChassisKind::Server,
        _ if battery == Some(true) && lid == Some(true) => ChassisKind::Laptop,
        Some(12 | 18..=22 | 26 | 27 | 33) => ChassisKind::Other,
        _ => ChassisKind::Unknown,
    }
}

/// How the card beside the processor's graphics is wired. `None`: not a machine with two such cards and a panel, or
/// not known: a driver that shows pictures has to have told the card's connectors.
pub(super) fn mux(host: &Host) -> Option<Mux> {
    let integrated = host.gpus.iter().find(|gpu| gpu.kind == GpuKind::Integrated)?;
    let card = host.gpus.iter().find(|gpu| gpu.kind == GpuKind::Discrete)?;
    let own = host.connectors(card.address);
    let panel = |address| {
        host.connectors(address).is_some_and(|all| all.iter().any(|connector| connector.is_panel()))
    };
    if !panel(integrated.address) && !panel(card.address) && host.chassis.kind != ChassisKind::Laptop {
        return None;
    }
    if host.chassis.apple_gmux || panel(card.address) {
        return Some(Mux::Muxed);
    }
    let own = own?;
    // NVIDIA's driver shows no connectors while it sets no modes (nvidia_drm.modeset=0): none listed tells nothing.
    let driver = host.function(card.address)?.driver.as_deref();
    match own.is_empty() {
        false => Some(Mux::OwnOutputs),
        true if driver == Some("nvidia") => None,
        true => Some(Mux::Muxless),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Connector, DrmCard, testing::*};

    #[test]
    fn machines_by_chassis_battery_and_lid() {
        assert_eq!(kind(Some(10), None, None), ChassisKind::Laptop);
        assert_eq!(kind(Some(3), Some(false), None), ChassisKind::Desktop);
        assert_eq!(kind(Some(3), Some(true), Some(false)), ChassisKind::Desktop, "an uninterruptible supply");
        assert_eq!(
            kind(Some(3), Some(true), Some(true)),
            ChassisKind::Laptop,
            "the firmware was not filled in"
        );
        assert_eq!(kind(Some(23), None, None), ChassisKind::Server);
        assert_eq!(kind(Some(1), None, None), ChassisKind::Unknown);
        assert_eq!(kind(None, Some(true), Some(true)), ChassisKind::Laptop);
    }

    #[test]
    fn a_mouses_battery_is_no_laptops() {
        let mut tree = Tree::new();
        tree.file("/sys/class/power_supply/hidpp_battery_0/type", "Battery\n");
        tree.file("/sys/class/power_supply/hidpp_battery_0/scope", "Device\n");
        tree.file("/sys/class/dmi/id/chassis_type", "3\n");
        let found = chassis(&Look::new(&tree));
        assert_eq!((found.kind, found.battery, found.lid), (ChassisKind::Desktop, Some(false), None));
        tree.file("/sys/class/power_supply/BAT0/type", "Battery\n");
        tree.file("/sys/bus/acpi/devices/PNP0C0D:00/path", "x\n");
        assert_eq!(chassis(&Look::new(&tree)).battery, Some(true));
        assert_eq!(chassis(&Look::new(&Tree::new())), Chassis::default());
    }

    #[test]
    fn connectors_tell_how_a_card_is_wired() {
        let card = |name: &str, function: &str, connectors: &[&str]| DrmCard {
            name: name.into(),
            function: Some(at(function)),
            platform: None,
            connectors: connectors
                .iter()
                .map(|name| Connector {
                    name: (*name).into(),
                    connected: Some(false),
                    enabled: None,
                    monitor: None,
                })
                .collect(),
        };
        let with = |driver: &str, connectors: Option<&[&str]>| {
            let mut host = desktop();
            host.functions.insert(0, driven("00:02.0", "030000", "8086:a780", "i915", 0));
            host.functions[2].class = "030200".parse().unwrap();
            host.functions[2].driver = Some(driver.into());
            let mut cards = vec![card("card0", "00:02.0", &["eDP-1", "HDMI-A-1"])];
            cards.extend(connectors.map(|connectors| card("card1", "01:00.0", connectors)));
            host.drm_cards = Some(cards);
            host.gpus = crate::host::gpu::gpus(&host);
            mux(&host)
        };
        assert_eq!(with("nouveau", Some(&[])), Some(Mux::Muxless));
        assert_eq!(with("nouveau", Some(&["eDP-2", "DP-1"])), Some(Mux::Muxed));
        assert_eq!(with("nvidia", Some(&["DP-1"])), Some(Mux::OwnOutputs));
        assert_eq!(with("nvidia", Some(&[])), None, "it may just set no modes");
        assert_eq!(with("vfio-pci", None), None, "the class alone tells nothing");
        assert_eq!(mux(&desktop()), None);
    }
}
