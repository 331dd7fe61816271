//! Names of PCI devices: the distribution's pci.ids, and an embedded copy where there is none.

use super::{Function, look::Look};
use crate::pci::DeviceId;
use std::collections::{BTreeMap, BTreeSet};

/// Where distributions keep it: Debian and Arch, Fedora and SUSE, and pciutils' own place.
const PLACES: [&str; 3] = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids", "/usr/share/pci.ids"];

/// Fills in the names of every function.
pub(super) fn fill(look: &Look, functions: &mut [Function]) {
    let wanted: BTreeSet<DeviceId> = functions.iter().filter_map(Function::id).collect();
    let text = if wanted.is_empty() { None } else { PLACES.iter().find_map(|place| look.bytes(place)) };
    let Found { devices, vendors } = text.map(|text| find(&text, &wanted)).unwrap_or_default();
    for function in functions {
        let Some(id) = function.id() else { continue };
        let maker = || vendors.get(&id.vendor).cloned().or_else(|| embedded_vendor(id.vendor));
        let name = devices.get(&id).cloned().or_else(|| embedded(id));
        function.name = name.or_else(|| Some(format!("{} device {:04x}", maker()?, id.device)));
    }
}

/// What a list knows of the wanted ids.
#[derive(Debug, Default)]
pub struct Found {
    /// Maker and name.
    pub devices: BTreeMap<DeviceId, String>,
    /// The maker alone.
    pub vendors: BTreeMap<u16, String>,
}

/// One pass: vendors are `10de  Name`, their devices follow as `<tab>2204  Name`; subsystems (two tabs) and the
/// list of classes at the end (`C 00  …`) are passed over.
pub fn find(text: &[u8], wanted: &BTreeSet<DeviceId>) -> Found {
    let makers: BTreeSet<u16> = wanted.iter().map(|id| id.vendor).collect();
    let mut found = Found::default();
    let mut vendor: Option<(u16, String)> = None;
    for line in text.split(|byte| *byte == b'\n') {
        match line {
            [] | [b'#', ..] | [b'\t', b'\t', ..] => {}
            [b'\t', entry @ ..] => {
                let Some((vendor, maker)) = &vendor else { continue };
                let Some((device, name)) = entry_of(entry) else { continue };
                let id = DeviceId { vendor: *vendor, device };
                if wanted.contains(&id) {
                    found.devices.insert(id, format!("{maker} {name}"));
                }
            }
            [b'C', b' ', ..] => break,
            _ => {
                vendor = entry_of(line).filter(|(id, _)| makers.contains(id));
                found.vendors.extend(vendor.clone());
            }
        }
    }
    found
}

/// `2204  GA102 [GeForce RTX 3090]`.
fn entry_of(line: &[u8]) -> Option<(u16, String)> {
    let (id, rest) = line.split_at_checked(4)?;
    let id = u16::from_str_radix(std::str::from_utf8(id).ok()?, 16).ok()?;
    let name = String::from_utf8_lossy(rest.strip_prefix(b"  ")?);
    Some((id, name.trim().to_owned()))
}

fn embedded(id: DeviceId) -> Option<String> {
    let device = pci_ids::Device::from_vid_pid(id.vendor, id.device)?;
    Some(format!("{} {}", device.vendor().name(), device.name()))
}

fn embedded_vendor(id: u16) -> Option<String> {
    use pci_ids::FromId;
    pci_ids::Vendor::from_id(id).map(|vendor| vendor.name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: &[u8] = b"# a comment\n\n0014  Other Vendor\n\t2204  Not This\n10de  NVIDIA Corporation\n\t2203  GA102 [GeForce RTX 3090 Ti]\n\
        \t\t1458 403b  Gaming\n\t2204  GA102 [GeForce RTX 3090]\n\xff\xff  odd\n8086  Intel Corporation\nC 10  Not A Vendor\n\t2204  Class\n";

    #[test]
    fn names_by_both_ids() {
        let id = |text: &str| text.parse::<DeviceId>().unwrap();
        let found = find(IDS, &BTreeSet::from([id("10de:2204"), id("8086:0001"), id("ffff:0000")]));
        assert_eq!(found.devices[&id("10de:2204")], "NVIDIA Corporation GA102 [GeForce RTX 3090]");
        assert_eq!(found.devices.len(), 1);
        assert_eq!(found.vendors[&0x8086], "Intel Corporation");
    }

    #[test]
    fn the_embedded_copy_knows_old_cards() {
        let name = embedded("10de:2204".parse().unwrap()).unwrap();
        assert!(name.contains("NVIDIA") && name.contains("GA102"), "{name}");
        assert_eq!(embedded("10de:0000".parse().unwrap()), None);
        assert!(embedded_vendor(0x10de).unwrap().contains("NVIDIA"));
    }
}
