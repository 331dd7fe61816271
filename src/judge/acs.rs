//! Which functions keep their neighbours apart, and which groups follow: the kernel's rules, over a [`Host`].
//!
//! Sources: drivers/pci/pci.c, `pci_acs_enabled`; drivers/pci/quirks.c, `pci_dev_acs_enabled`; drivers/iommu/iommu.c,
//! `pci_device_group`. Groups as the kernel made them are the truth; this says why they are so, and what would change
//! them.

use crate::{
    host::{
        Function, Host,
        config::{Acs, PortKind, Setting},
        kernel,
    },
    pci::Address,
};

/// The kernel command line's word for the ACS override patch.
pub(super) const OVERRIDE: &str = "pcie_acs_override";

/// Whether a function keeps its neighbours (of a port: what is behind it, and the rest) apart, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apart {
    /// By access control (ACS) that is there and on.
    ByAcs,
    /// It has no neighbours in its slot.
    Alone,
    /// Without ACS, by what the kernel knows of this hardware; or the groups show it.
    ByQuirk,
    /// By the word of the ACS override patch only: nothing is kept apart.
    ByOverride,
    /// How is not told, but the groups show it.
    ByGroups,
    /// No: it has no ACS.
    Missing,
    /// No: it has ACS, and not all that is needed of it is on.
    Off,
    /// No: it is conventional PCI, or a bridge to it.
    Conventional,
    /// Not told.
    Unknown,
}

impl Apart {
    /// Yes or no, where it is known.
    pub fn known(self) -> Option<bool> {
        match self {
            Self::ByAcs | Self::Alone | Self::ByQuirk | Self::ByOverride | Self::ByGroups => Some(true),
            Self::Missing | Self::Off | Self::Conventional => Some(false),
            Self::Unknown => None,
        }
    }
}

/// Whether a function keeps its neighbours apart.
pub fn apart(host: &Host, function: &Function) -> Apart {
    let by_registers = by_registers(host, function);
    if by_registers.known() == Some(true) || !function.is_pci_bridge() || !groups_show_it(host, function) {
        return by_registers;
    }
    let overridden = kernel::words(host.kernel.cmdline.as_deref().unwrap_or_default())
        .iter()
        .any(|word| word.split_once('=').is_some_and(|(name, _)| name == OVERRIDE));
    match by_registers {
        Apart::Missing if overridden => Apart::ByOverride,
        Apart::Unknown => Apart::ByGroups,
        _ => Apart::ByQuirk,
    }
}

fn by_registers(host: &Host, function: &Function) -> Apart {
    let Some(config) = function.config.as_ref().filter(|config| config.answers) else {
        return Apart::Unknown;
    };
    let Some(kind) = kind(function) else {
        // Whether it is PCI Express is told by a list of capabilities that was seen.
        let express =
            config.capabilities.as_ref().map(|all| all.iter().any(|one| one.name() == Some("express")));
        return if express == Some(false) { Apart::Conventional } else { Apart::Unknown };
    };
    if function.vendor == Some(0x8086) && has_intel_quirk(function.device.unwrap_or(0), kind) {
        return Apart::ByQuirk;
    }
    match kind {
        PortKind::PcieToPci | PortKind::PciToPcie | PortKind::EventCollector => return Apart::Conventional,
        PortKind::RootPort | PortKind::Downstream => {}
        _ if !is_multifunction(host, function) => return Apart::Alone,
        _ => {}
    }
    match config.acs.setting() {
        Setting::On => Apart::ByAcs,
        Setting::Off => Apart::Off,
        Setting::Missing => Apart::Missing,
        Setting::Unknown => Apart::Unknown,
    }
}

/// What it is in the PCI Express tree.
pub(super) fn kind(function: &Function) -> Option<PortKind> {
    Some(function.config.as_ref()?.express.as_ref()?.kind)
}

/// Devices inside the root complex, and root ports of chipsets from the 5 to the 9 series, of which Intel says that
/// they send nothing to one another (drivers/pci/quirks.c, `pci_quirk_rciep_acs`, `pci_quirk_intel_pch_acs_ids`).
fn has_intel_quirk(device: u16, kind: PortKind) -> bool {
    let chipset = matches!(
        device,
        0x3b42..=0x3b51
            | 0x1c10..=0x1c1f
            | 0x1e10..=0x1e1f
            | 0x8c10..=0x8c1f
            | 0x9c10..=0x9c1b
            | 0x9c90..=0x9c9b
            | 0x8d10..=0x8d1e
    );
    let chipset = chipset || matches!(device, 0x1d10..=0x1d1e | 0x8c90..=0x8c9e) && device % 2 == 0;
    kind == PortKind::IntegratedEndpoint || (kind == PortKind::RootPort && chipset)
}

fn is_multifunction(host: &Host, function: &Function) -> bool {
    let says = function.config.as_ref().and_then(|config| config.multifunction) == Some(true);
    let address = function.address;
    let other = |other: &Function| other.address != address && other.address.same_slot(address);
    says || address.function != 0 || host.functions.iter().any(other)
}

/// What is behind a port is in other groups than the port, all of it: the kernel sees it kept apart.
fn groups_show_it(host: &Host, port: &Function) -> bool {
    let children = || host.functions.iter().filter(|function| function.parent == Some(port.address));
    let own = port.iommu_group;
    own.is_some()
        && children().next().is_some()
        && children().all(|child| child.iommu_group.is_some() && child.iommu_group != own)
}

/// What decides a function's group: functions with the same key are in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// This function alone (and what is taken for it).
    One(Address),
    /// The functions of this slot that are not kept apart.
    Slot(Address),
}

/// The group that the kernel would make of a function if `kept` said of each whether it keeps its neighbours apart
/// (drivers/iommu/iommu.c, `pci_device_group`): up to the highest bridge that does not, then the slot.
pub(super) fn key(host: &Host, function: &Function, kept: &dyn Fn(&Function) -> bool) -> Key {
    let bridges = host.above(function.address).filter_map(|above| host.function(above));
    let bridges: Vec<&Function> = bridges
        .filter(|above| above.is_pci_bridge() && above.address.domain == function.address.domain)
        .collect();
    let stands_for_it = bridges.iter().rev().find(|bridge| !kept(bridge)).copied().unwrap_or(function);
    if is_multifunction(host, stands_for_it) && !kept(stands_for_it) {
        Key::Slot(stands_for_it.address.with_function(0))
    } else {
        Key::One(stands_for_it.address)
    }
}

/// Which part of the override patch reaches a function: its word is believed only of PCI Express functions that have
/// no ACS capability at all (the patch's `pcie_acs_overrides`).
pub(super) fn overridden(function: &Function, multifunction: bool) -> bool {
    let without = function.config.as_ref().is_some_and(|config| config.acs == Acs::Missing);
    match kind(function) {
        Some(PortKind::RootPort | PortKind::Downstream) => without,
        Some(
            PortKind::Endpoint | PortKind::LegacyEndpoint | PortKind::Upstream | PortKind::IntegratedEndpoint,
        ) => without && multifunction,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::*;

    #[test]
    fn ports_need_acs_and_single_devices_do_not() {
        let mut host = desktop();
        let mut port = express("00:1d.0", "060400", "8086:7ab0", PortKind::RootPort, Acs::Missing);
        assert_eq!(apart(&host, &port), Apart::Missing);
        port.config.as_mut().unwrap().acs = ON;
        assert_eq!(apart(&host, &port), Apart::ByAcs);
        let device = express("07:00.0", "020000", "10ec:8168", PortKind::Endpoint, Acs::Missing);
        assert_eq!(apart(&host, &device), Apart::Alone);
        host.functions.push(function("07:00.1", "0c0320", "10ec:8168"));
        assert_eq!(apart(&host, &device), Apart::Missing, "another function of its slot is a neighbour");
        let bridge = express("08:00.0", "060400", "1b21:1080", PortKind::PcieToPci, Acs::Missing);
        assert_eq!(apart(&host, &bridge), Apart::Conventional);
        assert_eq!(apart(&host, &function("09:00.0", "060400", "8086:244e")), Apart::Unknown);
    }

    #[test]
    fn intels_word_counts_for_its_chipsets() {
        let host = desktop();
        let port = |id| apart(&host, &express("00:1c.0", "060400", id, PortKind::RootPort, Acs::Missing));
        assert_eq!((port("8086:8c10"), port("8086:1901")), (Apart::ByQuirk, Apart::Missing));
        assert_eq!((port("8086:8c92"), port("8086:8c93")), (Apart::ByQuirk, Apart::Missing));
        let inside = express("00:1f.3", "040300", "8086:7a50", PortKind::IntegratedEndpoint, Acs::Missing);
        assert_eq!(apart(&host, &inside), Apart::ByQuirk);
    }

    #[test]
    fn groups_show_what_registers_do_not() {
        let mut host = desktop();
        let port = host.functions[0].clone();
        assert_eq!(apart(&host, &port), Apart::ByGroups);
        host.functions[0].config =
            express("00:01.0", "060400", "8086:460d", PortKind::RootPort, Acs::Missing).config;
        let port = host.functions[0].clone();
        assert_eq!(apart(&host, &port), Apart::ByQuirk);
        host.kernel.cmdline = Some("quiet pcie_acs_override=downstream".into());
        assert_eq!(apart(&host, &port), Apart::ByOverride);
    }
}
