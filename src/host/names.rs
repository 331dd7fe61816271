//! Names of PCI devices: the distribution's pci.ids, and an embedded copy where there is none.

use super::{Function, embedded, look::Look};
use crate::{machine::each_line, pci::DeviceId};
use std::collections::{BTreeMap, BTreeSet};

/// Where distributions keep it: Debian and Arch, Fedora and SUSE, and pciutils' own place.
const PLACES: [&str; 3] = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids", "/usr/share/pci.ids"];

/// Fills in the names of every function.
pub(super) fn fill(look: &Look, functions: &mut [Function]) {
    let wanted: BTreeSet<DeviceId> = functions.iter().filter_map(Function::id).collect();
    let mut search = Search::new(&wanted);
    if !wanted.is_empty() {
        PLACES.iter().any(|place| look.lines(place, |line| search.line(line)));
    }
    let Found { devices, vendors } = search.found;
    for function in functions {
        let Some(id) = function.id() else { continue };
        let maker =
            || vendors.get(&id.vendor).cloned().or_else(|| embedded::vendor(id.vendor).map(str::to_owned));
        let name = devices.get(&id).cloned().or_else(|| embedded::device(id));
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

/// What a list knows of these ids.
pub fn find(text: &[u8], wanted: &BTreeSet<DeviceId>) -> Found {
    let mut search = Search::new(wanted);
    each_line(text, &mut |line| search.line(line));
    search.found
}

/// One pass: vendors are `10de  Name`, their devices follow as `<tab>2204  Name`; subsystems (two tabs) and the
/// list of classes at the end (`C 00  …`) are passed over.
struct Search<'w> {
    wanted: &'w BTreeSet<DeviceId>,
    makers: BTreeSet<u16>,
    /// The vendor whose devices follow, where some of its are wanted.
    vendor: Option<(u16, String)>,
    /// The list of classes was reached.
    ended: bool,
    found: Found,
}

impl<'w> Search<'w> {
    fn new(wanted: &'w BTreeSet<DeviceId>) -> Self {
        let makers = wanted.iter().map(|id| id.vendor).collect();
        Self { wanted, makers, vendor: None, ended: false, found: Found::default() }
    }

    fn line(&mut self, line: &[u8]) {
        match line {
            [] | [b'#', ..] | [b'\t', b'\t', ..] => {}
            [b'\t', entry @ ..] => {
                let Some((vendor, maker)) = &self.vendor else { return };
                let Some((device, name)) = entry_of(entry) else { return };
                let id = DeviceId { vendor: *vendor, device };
                if self.wanted.contains(&id) {
                    self.found.devices.insert(id, format!("{maker} {}", text_of(name)));
                }
            }
            [b'C', b' ', ..] => (self.ended, self.vendor) = (true, None),
            _ if self.ended => {}
            _ => {
                let own = entry_of(line).filter(|(id, _)| self.makers.contains(id));
                self.vendor = own.map(|(id, name)| (id, text_of(name)));
                self.found.vendors.extend(self.vendor.clone());
            }
        }
    }
}

/// `2204  GA102 [GeForce RTX 3090]`.
fn entry_of(line: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = line.split_at_checked(4)?;
    let mut id = 0;
    for digit in digits {
        id = id << 4 | char::from(*digit).to_digit(16)?;
    }
    Some((u16::try_from(id).ok()?, rest.strip_prefix(b"  ")?))
}

fn text_of(name: &[u8]) -> String {
    String::from_utf8_lossy(name).trim().to_owned()
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
}
