//! udev's database, as `udevadm info --export-db` prints it, and paths below /sys/devices wherever they stand.
//!
//! Pure: one line in, facts out.

use super::{
    facts::{ClassFrom, Fact, Facts, fill},
    words::{hex, leading_address},
};
use crate::pci::{Address, Class, DeviceId, DevicePath};

/// The path of a record's first line: `P: /devices/pci0000:00/0000:00:01.0`.
pub(super) fn record(text: &str) -> Option<&str> {
    text.strip_prefix("P: /devices/")
}

/// The function that a path is about, where it is one.
pub(super) fn last_address(path: &str) -> Option<Address> {
    let (_, name) = path.rsplit_once('/')?;
    leading_address(name).filter(|(_, rest)| rest.is_empty()).map(|(address, _)| address)
}

/// A line inside a record: `E: PCI_CLASS=30000`.
pub(super) fn property(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.strip_prefix("E: ")?.split_once('=')?;
    Some((key, value.trim()))
}

/// Whether a line is of a record: a letter, a colon, a space.
pub(super) fn is_inside(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!(bytes, [letter, b':', b' ', ..] if letter.is_ascii_uppercase())
}

/// Takes a property of a function.
pub(super) fn take(fact: &mut Fact, maker: &mut Option<String>, key: &str, value: &str) {
    let function = &mut fact.function;
    let ids = || value.to_ascii_lowercase().parse::<DeviceId>().ok();
    match key {
        "PCI_CLASS" => {
            // Without leading zeros; fewer digits are a line that breaks off.
            let class = if matches!(value.len(), 5 | 6) { hex(value, value.len()) } else { None };
            if let Some(class) = class {
                fact.class(Class(class), ClassFrom::Whole);
            }
        }
        "PCI_ID" => {
            if let Some(id) = ids() {
                fill(&mut function.vendor, Some(id.vendor));
                fill(&mut function.device, Some(id.device));
            }
        }
        "PCI_SUBSYS_ID" => {
            if let Some(id) = ids() {
                fill(&mut function.subsystem_vendor, Some(id.vendor));
                fill(&mut function.subsystem_device, Some(id.device));
            }
        }
        "DRIVER" => fact.driver(super::device::driver_name(value)),
        "MODALIAS" if value.starts_with("pci:") && value.len() <= 80 => {
            fill(&mut function.modalias, Some(value.to_owned()));
        }
        "ID_VENDOR_FROM_DATABASE" => *maker = Some(value.to_owned()),
        "ID_MODEL_FROM_DATABASE" => fact.model = Some(value.to_owned()),
        _ => {}
    }
    if let (Some(maker), Some(model)) = (maker, &fact.model) {
        let name = format!("{maker} {model}");
        fill(&mut fact.function.name, Some(name));
    }
}

/// Bridges in a path.
const MAX_DEPTH: usize = 32;

/// Where functions hang, from every path in a line: `…/devices/pci0000:00/0000:00:01.0/0000:01:00.0/…`.
pub(super) fn places(facts: &mut Facts, text: &str) {
    for (at, word) in text.match_indices("devices/pci").take(4) {
        let Some(rest) = text.get(at + word.len()..) else { continue };
        let end = rest
            .find(|end: char| end.is_whitespace() || matches!(end, '"' | '\'' | ',' | '<'))
            .unwrap_or(rest.len());
        let Some(path) = rest.get(..end) else { continue };
        let mut parent: Option<Address> = None;
        let mut place: Option<DevicePath> = None;
        // The first component is the root bus, without the `pci` that was cut off.
        for component in path.split('/').take(MAX_DEPTH) {
            if let Some((address, "")) = leading_address(component) {
                let here = match &place {
                    Some(place) => place.child(address.device_function()),
                    None => DevicePath { root: address, below: Vec::new() },
                };
                facts.place(address, parent, here.clone());
                (parent, place) = (Some(address), Some(here));
            } else if component.strip_prefix("pci").unwrap_or(component).split_once(':').is_some_and(
                |(domain, bus)| {
                    (4..=8).contains(&domain.len())
                        && hex(domain, domain.len()).is_some()
                        && hex(bus, 2).is_some()
                },
            ) {
                // A root bus inside another's path is what VMD hides: its path begins anew.
                place = None;
            } else {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Host, Source};

    #[test]
    fn a_path_tells_where_everything_on_it_hangs() {
        let mut host = Host::unknown(Source::Text);
        let mut facts = Facts::new(&host);
        for address in ["00:0e.0", "10000:e0:06.0", "10000:e1:00.0"] {
            facts.at(address.parse().unwrap());
        }
        places(
            &mut facts,
            "x -> ../../devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0/nvme and more",
        );
        facts.give(&mut host, &mut Vec::new());
        let disk = host.function("10000:e1:00.0".parse().unwrap()).unwrap();
        assert_eq!(disk.path.as_ref().unwrap().to_string(), "10000:e0:06.0/00.0");
        assert_eq!(disk.parent.unwrap().to_string(), "10000:e0:06.0");
        let port = host.function("10000:e0:06.0".parse().unwrap()).unwrap();
        assert_eq!(port.parent.unwrap().to_string(), "0000:00:0e.0");
    }

    #[test]
    fn records_of_functions_and_of_others() {
        let address = |text| record(text).and_then(last_address).map(|address| address.to_string());
        assert_eq!(address("P: /devices/pci0000:00/0000:00:02.0").as_deref(), Some("0000:00:02.0"));
        assert_eq!(address("P: /devices/pci0000:00/0000:00:02.0/drm/card0"), None);
        assert_eq!(record("E: DEVPATH=/devices/x"), None);
        assert_eq!(property("E: PCI_CLASS=30000"), Some(("PCI_CLASS", "30000")));
    }
}
