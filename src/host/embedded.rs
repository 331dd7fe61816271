//! The embedded list of PCI names: what is known where a machine has no pci.ids, and how listings spell things.
//!
//! Plain tables, made by build.rs from the crate `pci-ids`, so that a program that does not ask pays nothing.

use crate::pci::DeviceId;

#[allow(clippy::unreadable_literal, reason = "nobody reads them")]
mod tables {
    include!(concat!(env!("OUT_DIR"), "/names.rs"));
}
use tables::{CLASSES, DEVICES, NAMES, VENDORS};

/// The name that begins here and has so many bytes.
fn name(start: u32, length: u16) -> &'static str {
    let start = start as usize;
    NAMES.get(start..start + usize::from(length)).unwrap_or_default()
}

/// A vendor's name.
pub(crate) fn vendor(id: u16) -> Option<&'static str> {
    let at = VENDORS.binary_search_by_key(&id, |(vendor, ..)| *vendor).ok()?;
    VENDORS.get(at).map(|(_, start, length, _)| name(*start, *length))
}

/// Every vendor and its name, by number.
pub(crate) fn vendors() -> impl Iterator<Item = (u16, &'static str)> {
    VENDORS.iter().map(|(vendor, start, length, _)| (*vendor, name(*start, *length)))
}

/// A device's name, after that of its vendor.
pub(crate) fn device(id: DeviceId) -> Option<String> {
    Some(format!("{} {}", vendor(id.vendor)?, device_alone(id)?))
}

/// A device's name without that of its vendor.
pub(super) fn device_alone(id: DeviceId) -> Option<&'static str> {
    let wanted = (id.vendor, id.device);
    let at = DEVICES.binary_search_by_key(&wanted, |(id, ..)| *id).ok()?;
    DEVICES.get(at).map(|(_, start, length, _)| name(*start, *length))
}

/// The next vendor's number.
pub(super) fn vendor_behind(id: u32) -> Option<u32> {
    let at = VENDORS.partition_point(|(vendor, ..)| u32::from(*vendor) <= id);
    VENDORS.get(at).map(|(vendor, ..)| (*vendor).into())
}

/// The devices of a vendor and their names, by number.
pub(crate) fn devices(vendor: u16) -> impl Iterator<Item = (u16, &'static str)> {
    let from = DEVICES.partition_point(|((other, _), ..)| *other < vendor);
    let own = DEVICES.get(from..).unwrap_or_default().iter();
    own.take_while(move |((other, _), ..)| *other == vendor)
        .map(|((_, device), start, length, _)| (*device, name(*start, *length)))
}

/// About where a vendor's line, or that of the next one, is in a list like this one: in bytes.
pub(super) fn place_of_vendor(id: u32) -> i64 {
    let at = VENDORS.partition_point(|(vendor, ..)| u32::from(*vendor) < id);
    let behind = || VENDORS.last().map_or(0, |(.., place)| *place);
    VENDORS.get(at).map_or_else(behind, |(.., place)| *place).into()
}

/// The same for a device's line; behind all devices of a vendor, where the next vendor's begin.
pub(super) fn place_of_device(vendor: u32, device: u32) -> i64 {
    let at =
        DEVICES.partition_point(|((other, own), ..)| (u32::from(*other), u32::from(*own)) < (vendor, device));
    let behind = || DEVICES.last().map_or(0, |(.., place)| *place);
    DEVICES.get(at).map_or_else(behind, |(.., place)| *place).into()
}

/// Every class with its subclass (two bytes), and its name; a base class's own name stands at its subclass 80.
pub(crate) fn classes() -> impl Iterator<Item = (u16, &'static str)> {
    CLASSES.iter().map(|(class, start, length)| (*class, name(*start, *length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted_and_whole() {
        assert!(VENDORS.is_sorted_by_key(|(vendor, ..)| *vendor));
        assert!(DEVICES.is_sorted_by_key(|(id, ..)| *id));
        assert!(VENDORS.len() > 2000 && DEVICES.len() > 15_000, "{} {}", VENDORS.len(), DEVICES.len());
        assert!(vendors().all(|(_, name)| !name.is_empty()));
    }

    #[test]
    fn names_by_number() {
        let name = device("10de:2204".parse().unwrap()).unwrap();
        assert!(name.starts_with("NVIDIA Corporation ") && name.contains("GA102"), "{name}");
        assert_eq!(device("10de:0000".parse().unwrap()), None);
        assert_eq!((vendor(0x8086), vendor(0xfff0)), (Some("Intel Corporation"), None));
        assert!(devices(0x1002).any(|(device, name)| device == 0x73bf && name.contains("Navi 21")));
        assert_eq!(devices(0xfff0).count(), 0);
        assert!(classes().any(|class| class == (0x0300, "VGA compatible controller")));
        assert!(classes().any(|class| class == (0x0380, "Display controller")));
    }
}
