//! Graphics cards: which functions a card is made of, what kind it is, and who shares its groups.
//!
//! Pure: works on [`Host`]'s functions and groups. A **companion** is a function of another device that is in one
//! of a card's IOMMU groups, and so would have to go along. PCI bridges (header type 1) are no companions: VFIO
//! leaves them with the host (drivers/vfio/vfio_main.c, `vfio_dev_driver_allowed`).

use super::{Function, Gpu, GpuKind, Host, Isolation, Source, Verdict, embedded};
use crate::pci::Address;
use std::collections::{BTreeMap, BTreeSet};

/// Vendors (pci.ids).
const NVIDIA: u16 = 0x10de;
const INTEL: u16 = 0x8086;
const AMD_CPU: u16 = 0x1022;
const ATI: u16 = 0x1002;

/// The functions of each group.
type Groups<'h> = BTreeMap<u32, Vec<&'h Function>>;

/// The functions of a slot; only these are looked through where the machine has thousands.
fn slot(host: &Host, address: Address) -> impl Iterator<Item = &Function> {
    let all = &host.functions;
    let sorted = all.is_sorted_by_key(|function| function.address);
    let slot_of = |address: Address| (address.domain, address.bus, address.device);
    let from =
        if sorted { all.partition_point(|other| slot_of(other.address) < slot_of(address)) } else { 0 };
    let rest = all.get(from..).unwrap_or_default().iter();
    rest.take_while(move |other| !sorted || other.address.same_slot(address))
        .filter(move |other| other.address.same_slot(address))
}

/// The display controllers of a machine, without a verdict yet.
pub fn gpus(host: &Host) -> Vec<Gpu> {
    let displays: Vec<&Function> =
        host.functions.iter().filter(|function| leads_a_card(host, function)).collect();
    let mut groups: Groups = BTreeMap::new();
    for function in &host.functions {
        if let Some(group) = function.iommu_group {
            groups.entry(group).or_default().push(function);
        }
    }
    let gpu = |display: &&Function| {
        let kind = kind(host, display);
        let functions = functions(host, display, kind);
        let companions = companions(host, &groups, &functions);
        let grouped =
            functions.iter().any(|own| host.function(*own).is_some_and(|own| own.iommu_group.is_some()));
        // Virtual functions are alike by design, and there are hundreds.
        let is_card = |function: &Function| function.physical_function.is_none();
        let twins = displays.iter().filter(|other| other.address != display.address && is_card(display));
        let twins =
            twins.filter(|other| is_card(other) && display.id().is_some() && other.id() == display.id());
        Gpu {
            address: display.address,
            kind,
            boot_vga: display.boot_vga,
            identical_to: twins.map(|twin| twin.address).collect(),
            isolation: match (grouped, companions.is_empty()) {
                (false, _) => Isolation::Unknown,
                (true, true) => Isolation::Isolated,
                (true, false) => Isolation::Shared,
            },
            displays: host.connectors(display.address).map(|connectors| {
                let on = connectors.iter().filter(|connector| connector.connected == Some(true));
                on.map(|connector| connector.name.clone()).collect()
            }),
            functions,
            companions,
            verdict: Verdict::Unknown,
            reasons: Vec::new(),
        }
    };
    displays.iter().map(gpu).collect()
}

/// A display function that is a card's first: a card's second head (old ATI cards have one as function 1) belongs
/// to the first.
fn leads_a_card(host: &Host, function: &Function) -> bool {
    let first = |other: &Function| other.is_display() && other.address < function.address;
    let own_card = function.physical_function.is_some() || is_on_root_bus(function);
    function.is_display() && (own_card || !slot(host, function.address).any(first))
}

/// On the root bus are the processor's and the chipset's own devices (and, in a guest, anything).
fn is_on_root_bus(function: &Function) -> bool {
    match &function.path {
        Some(path) => path.below.is_empty(),
        None => function.address.bus == 0,
    }
}

/// What a card is made of, its display function first in order of address.
fn functions(host: &Host, display: &Function, kind: GpuKind) -> Vec<Address> {
    let in_slot =
        || slot(host, display.address).filter(|other| other.physical_function == display.physical_function);
    let whole_slot = matches!(kind, GpuKind::Discrete | GpuKind::Virtual | GpuKind::Unknown);
    if display.physical_function.is_some() {
        return vec![display.address];
    }
    if whole_slot && !is_on_root_bus(display) {
        let slot = in_slot().filter(|other| !other.is_pci_bridge());
        return slot.map(|other| other.address).collect();
    }
    if whole_slot {
        // On the root bus a slot's functions are devices of their own; a card's share its vendor or its audio.
        let belongs = |other: &&Function| {
            let audio = other.class.subclass() == 0x0403;
            other.address == display.address || other.vendor == display.vendor || audio
        };
        let slot = in_slot().filter(|other| !other.is_pci_bridge()).filter(belongs);
        return slot.map(|other| other.address).collect();
    }
    // The processor's other functions share the slot number; only the audio that the kernel linked is the card's
    // (drivers/pci/quirks.c, quirk_gpu_hda: a device link from the audio to the display function). Text has no links:
    // there it is the audio with the graphics' maker, for the sound of the board has the processor's.
    let unlinked = host.source == Source::Text && display.vendor == Some(ATI);
    let audio = |other: &&Function| {
        let linked = other.linked.contains(&display.address) || display.linked.contains(&other.address);
        let beside = unlinked && other.address.same_slot(display.address) && other.vendor == Some(ATI);
        other.class.subclass() == 0x0403 && (linked || beside)
    };
    let mut own: BTreeSet<Address> = host.functions.iter().filter(audio).map(|other| other.address).collect();
    own.insert(display.address);
    own.into_iter().collect()
}

/// Functions of other devices in the groups of these.
fn companions(host: &Host, groups: &Groups, functions: &[Address]) -> Vec<Address> {
    let own =
        functions.iter().filter_map(|own| host.function(*own).and_then(|function| function.iommu_group));
    let own: BTreeSet<u32> = own.collect();
    let inside = own.iter().filter_map(|group| groups.get(group)).flatten();
    let others = inside.filter(|other| !other.is_pci_bridge() && !functions.contains(&other.address));
    others.map(|other| other.address).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Display controllers that only hypervisors have: Bochs and QEMU, Red Hat's QXL and virtio, VMware's, VirtualBox's,
/// Hyper-V's (pci.ids).
const HYPERVISORS: [u16; 6] = [0x1234, 0x1b36, 0x1af4, 0x15ad, 0x80ee, 0x1414];

fn kind(host: &Host, display: &Function) -> GpuKind {
    let Some(vendor) = display.vendor else { return GpuKind::Unknown };
    // QEMU's own devices carry Red Hat's subsystem vendor, whatever they imitate (docs/specs/pci-ids.rst).
    if HYPERVISORS.contains(&vendor) || display.subsystem_vendor == Some(0x1af4) {
        return GpuKind::Virtual;
    }
    if is_management(vendor, display) {
        return GpuKind::Management;
    }
    let inside = is_on_root_bus(display);
    match vendor {
        // Intel's own graphics have been device 2 of the root bus since the 810.
        INTEL if inside && display.address.device == 2 => GpuKind::Integrated,
        ATI if inside && has_host_bridge_of(host, &[ATI, AMD_CPU]) => GpuKind::Integrated,
        // An APU's slot also has the processor's own functions (security processor, USB) with AMD's other id.
        ATI if shares_slot_with(host, display, AMD_CPU) || is_amd_processors(display) => GpuKind::Integrated,
        NVIDIA if inside && has_host_bridge_of(host, &[NVIDIA]) => GpuKind::Integrated,
        INTEL | ATI | NVIDIA => GpuKind::Discrete,
        _ if !inside => GpuKind::Discrete,
        _ => GpuKind::Unknown,
    }
}

/// Displays of management controllers (pci.ids): ASPEED, Matrox G200e family, XGI Z7 and Z9, HiSilicon, ATI ES1000,
/// Silicon Motion SM750, and the Radeon 7000 on remote management cards.
fn is_management(vendor: u16, display: &Function) -> bool {
    let matrox = |name: &str| name.to_uppercase().contains("G200E") || name.contains("Integrated Matrox");
    match (vendor, display.device) {
        (0x1a03, _) => true,
        (0x102b, Some(device)) => matches!(device, 0x0520..=0x053f),
        // A listing without ids has the name alone.
        (0x102b, None) => display.name.as_deref().is_some_and(matrox),
        (0x18ca, Some(device)) => matches!(device, 0x0020 | 0x0021),
        (0x19e5, Some(device)) => device == 0x1711,
        (ATI, Some(device)) => device == 0x515e,
        (ATI, None) => display.name.as_deref().is_some_and(|name| name.contains("ES1000")),
        (0x126f, Some(device)) => device == 0x0750,
        _ => false,
    }
}

/// Ids of AMD's graphics inside processors, and before them inside chipsets (pci.ids, vendor 1002: Wrestler to
/// Carrizo, RS780 to RS880, and everything below 2000 since Kaveri); no card of its own has had one. They tell where
/// a listing has the display function alone.
fn is_amd_processors(display: &Function) -> bool {
    let inside = |device: u16| matches!(device, 0x1000..=0x1fff | 0x9600..=0x97ff | 0x9800..=0x99ff);
    if let Some(device) = display.device {
        return inside(device);
    }
    let Some(name) = display.name.as_deref() else { return false };
    let same = |(_, known): &(u16, &str)| !known.is_empty() && name.ends_with(known);
    let mut known = embedded::devices(ATI).filter(same).peekable();
    known.peek().is_some() && known.all(|(device, _)| inside(device))
}

fn has_host_bridge_of(host: &Host, vendors: &[u16]) -> bool {
    let is_one = |function: &Function| {
        function.class.subclass() == 0x0600
            && function.address.bus == 0
            && function.vendor.is_some_and(|vendor| vendors.contains(&vendor))
    };
    host.functions.iter().any(is_one)
}

fn shares_slot_with(host: &Host, display: &Function, vendor: u16) -> bool {
    slot(host, display.address).any(|other| other.vendor == Some(vendor))
}
