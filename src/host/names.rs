//! Names of PCI devices: the distribution's pci.ids, and an embedded copy where there is none.

use super::{Function, embedded, look::Look};
use crate::{machine::part_of, pci::DeviceId};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// Where distributions keep it: Debian and Arch, Fedora and SUSE, and pciutils' own place.
const PLACES: [&str; 3] = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids", "/usr/share/pci.ids"];

/// What the machine's list knows of these functions.
pub(super) fn known(look: &Look, functions: &[Function]) -> Found {
    let wanted: BTreeSet<DeviceId> = functions.iter().filter_map(Function::id).collect();
    let list = if wanted.is_empty() { None } else { PLACES.iter().find_map(|place| look.parts(place)) };
    list.map_or_else(Found::default, |list| search(&list, &wanted))
}

impl Found {
    /// Fills in the names of every function.
    pub(super) fn fill(&self, functions: &mut [Function]) {
        for function in functions {
            let Some(id) = function.id() else { continue };
            let own = || self.vendors.get(&id.vendor).map(String::as_str);
            let name = self.devices.get(&id).cloned().or_else(|| embedded::device(id));
            let maker = || own().or_else(|| embedded::vendor(id.vendor));
            function.name = name.or_else(|| Some(format!("{} device {:04x}", maker()?, id.device)));
        }
    }
}

/// What a list knows of the wanted ids.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Maker and name.
    pub devices: BTreeMap<DeviceId, String>,
    /// The maker alone.
    pub vendors: BTreeMap<u16, String>,
}

/// What a list knows of these ids.
pub fn find(text: &[u8], wanted: &BTreeSet<DeviceId>) -> Found {
    search(&|offset, length| Some(part_of(text, offset, length).to_vec()), wanted)
}

/// Bytes of a list by offset and length.
type Read<'r> = dyn Fn(u64, usize) -> Option<Vec<u8>> + 'r;

/// Vendors are `10de  Name`, their devices follow as `<tab>2204  Name`, subsystems have two tabs, and a list of classes
/// is at the end (`C 00  …`). Each level is in order, so that less than half of the 1.4 MB is read; what is in the
/// wrong place is not found.
fn search(read: &Read, wanted: &BTreeSet<DeviceId>) -> Found {
    let mut found = Found::default();
    let list = List { read, known: RefCell::default(), left: Cell::new(LIMIT) };
    let vendors: BTreeSet<u16> = wanted.iter().map(|id| id.vendor).collect();
    for vendor in vendors {
        let Some(place) = list.vendor(vendor.into()) else { continue };
        let Some((_, maker)) = entry_of(&place.line) else { continue };
        let maker = text_of(maker);
        let mut from = place.at;
        let end = list.vendor_after(from.max(1)).map_or(END, |next| next.at);
        for id in wanted.iter().filter(|id| id.vendor == vendor) {
            let Some((at, line)) = list.device(from..end, id.device) else { break };
            // It may be the next one's: what begins at the start of a range is not in it.
            from = at - 1;
            if let Some((_, name)) = device_of(&line).filter(|(device, _)| *device == id.device) {
                found.devices.insert(*id, format!("{maker} {}", text_of(name)));
            }
        }
        found.vendors.insert(vendor, maker);
    }
    found
}

/// The vendor that a line is of; the classes are behind all vendors. `None` for other lines.
fn vendor_of(line: &[u8]) -> Option<u32> {
    if line.starts_with(b"C ") { Some(u32::MAX) } else { entry_of(line).map(|(id, _)| id.into()) }
}

/// The device that a line is of, and its name.
fn device_of(line: &[u8]) -> Option<(u16, &[u8])> {
    entry_of(line.strip_prefix(b"\t")?)
}

/// Lists end before this, in bytes.
const END: u64 = 16 << 20;

/// What is read in all, at most: a list that is made to be slow is given up.
const LIMIT: usize = 256 << 20;

/// What is read at once, in bytes. Of a longer line this much is seen.
const WINDOW: usize = 2048;

/// What is read at once, in bytes, where much is looked through.
const WIDEST: usize = 16 << 10;

/// What is kept of a maker's line, in bytes.
const LONGEST_NAME: usize = 256;

/// A list that is read here and there.
struct List<'r> {
    read: &'r Read<'r>,
    /// The first vendor behind an offset; `None` behind the last one.
    known: RefCell<BTreeMap<u64, Option<Vendor>>>,
    left: Cell<usize>,
}

/// Where a vendor's line is.
#[derive(Debug, Clone)]
struct Vendor {
    id: u32,
    at: u64,
    line: Vec<u8>,
}

impl Vendor {
    fn of((at, mut line): (u64, Vec<u8>)) -> Option<Self> {
        // Kept for each place that was asked about.
        line.truncate(LONGEST_NAME);
        vendor_of(&line).map(|id| Self { id, at, line })
    }
}

impl List<'_> {
    /// A vendor's line, by halving.
    fn vendor(&self, id: u32) -> Option<Vendor> {
        let (mut low, mut high) = (0, END);
        while high - low > WINDOW as u64 {
            let middle = low + (high - low) / 2;
            match self.vendor_after(middle) {
                Some(vendor) if vendor.id < id => low = vendor.at,
                _ => high = middle,
            }
        }
        let near = self.next(low..high + 1, Level::Vendors, |line| vendor_of(line) >= Some(id));
        let vendor = near.and_then(Vendor::of).or_else(|| self.vendor_after(high))?;
        (vendor.id == id).then_some(vendor)
    }

    /// The first vendor whose line begins behind an offset (at 0: or there). No long part is looked through twice: one
    /// has a quarter of the list.
    fn vendor_after(&self, offset: u64) -> Option<Vendor> {
        let before =
            |known: &BTreeMap<u64, Option<Vendor>>| Some(known.range(..=offset).next_back()?.1.clone());
        match before(&self.known.borrow()) {
            Some(Some(vendor)) if vendor.at > offset => return Some(vendor),
            Some(None) => return None,
            _ => {}
        }
        let next = self.known.borrow().range(offset..).next().map(|(from, vendor)| (*from, vendor.clone()));
        let (end, behind) = next.unwrap_or((END, None));
        let vendor = match self.next(offset..end + 1, Level::Vendors, |line| vendor_of(line).is_some()) {
            Some(found) => Vendor::of(found),
            None => behind,
        };
        self.known.borrow_mut().insert(offset, vendor.clone());
        vendor
    }

    /// The first line of a device of this number or a higher one in a vendor's part, by halving.
    fn device(&self, part: Range<u64>, id: u16) -> Option<(u64, Vec<u8>)> {
        let (mut low, mut high) = (part.start, part.end);
        let number = |line: &[u8]| device_of(line).map(|(device, _)| device);
        while high - low > WINDOW as u64 {
            let middle = low + (high - low) / 2;
            match self.next(middle..high, Level::Devices, |line| number(line).is_some()) {
                Some((at, line)) if number(&line) < Some(id) => low = at - 1,
                _ => high = middle,
            }
        }
        self.next(low..part.end, Level::Devices, |line| number(line) >= Some(id))
    }

    /// The first line that is wanted, of those that begin in a range, but not at its start (at 0: or there).
    fn next(
        &self,
        range: Range<u64>,
        level: Level,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Option<(u64, Vec<u8>)> {
        let (mut at, mut within) = (range.start, range.start > 0);
        let mut window = WINDOW;
        while at < range.end {
            self.left.set(self.left.get().checked_sub(window)?);
            let bytes = (self.read)(at, window).filter(|bytes| !bytes.is_empty())?;
            window = (window * 2).min(WIDEST);
            let (mut seen, mut passed) = (0, 0);
            while let Some(rest) = bytes.get(seen..).filter(|rest| !rest.is_empty()) {
                if level == Level::Vendors && within && seen >= passed {
                    seen += devices(rest);
                    // A block is looked at once: where there is something in it, line by line.
                    passed = seen + BLOCK;
                    continue;
                }
                let end = memchr::memchr(b'\n', rest);
                // A line that the window cuts is looked at from its start, in the next one.
                if end.is_none() && seen > 0 {
                    break;
                }
                let begins = at + seen as u64;
                let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
                if !within && begins < range.end && wanted(line) {
                    return Some((begins, line.to_vec()));
                }
                // Back to the line's end, from where on devices are passed over.
                let again = !within && level == Level::Vendors;
                seen += end.map_or(rest.len(), |end| if again { end } else { end + 1 });
                within = end.is_none() || again;
            }
            at += seen as u64;
        }
        None
    }
}

/// Which lines are looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Vendors,
    Devices,
}

/// Bytes at the start, from within a line on, in which only lines begin that begin with a tab. Many bytes at once: a
/// quarter of the list is one vendor's.
fn devices(bytes: &[u8]) -> usize {
    let begins = |(before, byte): (&u8, &u8)| *before == b'\n' && *byte != b'\t';
    let only_devices = |block: &[u8]| {
        let next = block.get(1..).unwrap_or_default();
        !block.iter().zip(next).fold(false, |any, pair| any | begins(pair))
    };
    let mut passed = 0;
    while bytes.get(passed..passed + BLOCK).is_some_and(only_devices) {
        passed += BLOCK - 1;
    }
    passed
}

/// Bytes that are looked at at once.
const BLOCK: usize = 256;

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
    use std::fmt::Write;

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
    fn a_long_list_is_read_here_and_there() {
        // Vendors of 1 to 900 devices, some with subsystems, some lines longer than a window.
        let mut list = "#\n# comment\n".to_owned();
        let mut all = BTreeMap::new();
        for vendor in (1..0xffff).step_by(2000) {
            let devices = [100, 900, 1, 40][usize::from(vendor % 7 % 4)];

            writeln!(list, "{vendor:04x}  Maker {vendor}").unwrap();
            for number in 0..devices {
                let device = number * 20 + vendor % 7;
                let long = "x".repeat(if number == 37 { 5000 } else { 0 });
                writeln!(list, "\t{device:04x}  Device {device}{long}").unwrap();
                for _ in 0..number % 5 {
                    writeln!(list, "\t\t{vendor:04x} {device:04x}  Board\n# between").unwrap();
                }
                all.insert(DeviceId { vendor, device }, format!("Maker {vendor} Device {device}{long}"));
            }
        }
        list.push_str("\n# classes\nC 00  Unclassified\n\t00  Not a device\nC 03  Display\n\t00  VGA\n");
        assert!(list.len() > 100 * WINDOW);
        let read = Cell::new(0);
        for (id, name) in all.iter().step_by(37).chain(all.iter().next_back()) {
            let nobody = DeviceId { vendor: id.vendor, device: id.device + 1 };
            let wanted = BTreeSet::from([*id, nobody]);
            let windows = |at, length| {
                read.set(read.get() + 1);
                Some(part_of(list.as_bytes(), at, length).to_vec())
            };
            let found = search(&windows, &wanted);
            assert!(found.devices[id].starts_with(name.get(..2000).unwrap_or(name)), "{id}");
            assert_eq!(found.devices.len(), 1, "{id}");
        }
        let every = find(list.as_bytes(), &all.keys().copied().collect());
        assert_eq!((every.devices.len(), every.vendors.len()), (all.len(), 33));
        let searches = all.iter().step_by(37).count() + 1;
        assert!(
            read.get() / searches < list.len() / WINDOW / 4,
            "{} windows of {} in {searches}",
            read.get(),
            list.len() / WINDOW
        );
    }

    #[test]
    fn devices_are_passed_over_wherever_a_vendor_begins() {
        for end in ["\n", "\r\n", "\n#\n", "\n\n", "\n\t\t1 2  Board\n"] {
            for length in 0..600 {
                // A line of each length behind the first vendor, and many as long before the third.
                let long = format!("\t0001  {}{end}", "x".repeat(length));
                let list = format!("0001  A{end}{long}0002  B{end}{}0003  C{end}", long.repeat(9));
                let vendors = ["A", "B", "C"].map(str::to_owned);
                let wanted = (1..5).map(|vendor| DeviceId { vendor, device: 9 }).collect();
                let found = find(list.as_bytes(), &wanted).vendors;
                assert!(found.into_iter().eq((1..4).zip(vendors)), "{length} {end:?}");
            }
        }
    }

    #[test]
    fn what_is_not_listed_does_not_hide_what_comes_next() {
        let wanted: BTreeSet<DeviceId> =
            ["10de:2202", "10de:2203", "10de:2204"].iter().map(|id| id.parse().unwrap()).collect();
        let found = find(IDS, &wanted);
        assert_eq!(found.devices.len(), 2, "{found:?}");
    }

    #[test]
    fn nothing_is_looked_through_twice() {
        let text = [b"0001  A\n".to_vec(), b"#\n".repeat(1 << 20), b"ffff  Z\n".to_vec()].concat();
        let wanted = (1..2000).map(|vendor| DeviceId { vendor, device: 0 }).collect();
        let bytes = Cell::new(0);
        let read = |at, length| {
            bytes.set(bytes.get() + length);
            Some(part_of(&text, at, length).to_vec())
        };
        search(&read, &wanted);
        assert!(bytes.get() < 2 * text.len() + 2000 * 16 * WINDOW, "{} bytes", bytes.get());
    }
}
