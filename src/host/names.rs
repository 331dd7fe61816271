//! Names of PCI devices: the distribution's pci.ids, and an embedded copy where there is none.

use super::{Function, embedded, look::Look};
use crate::{machine::part_of, pci::DeviceId};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    rc::Rc,
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
/// is at the end (`C 00  …`). Each level is in order, so that little of the 1.4 MB is read; what is in the wrong place is
/// not found.
fn search(read: &Read, wanted: &BTreeSet<DeviceId>) -> Found {
    let mut found = Found::default();
    let list = List { read, known: RefCell::default(), last: RefCell::default(), left: Cell::new(LIMIT) };
    let vendors: BTreeSet<u16> = wanted.iter().map(|id| id.vendor).collect();
    let mut last = Place::default();
    for vendor in vendors {
        let Some(line) = list.first(0..END, last, Level::Vendors, vendor.into(), vendor.into()) else {
            continue;
        };
        last = Level::Vendors.place(line.at, line.number);
        let Some((_, maker)) = entry_of(&line.text).filter(|(number, _)| *number == vendor) else { continue };
        let maker = text_of(maker);
        let (mut from, mut near) = (line.at, last);
        let mut end = END;
        if let Some(next) = list.behind(&line) {
            end = next.at;
            last = Level::Vendors.place(next.at, next.number);
        }
        let level = Level::Devices(vendor.into());
        for id in wanted.iter().filter(|id| id.vendor == vendor) {
            let Some(line) = list.first(from..end, near, level, id.device.into(), vendor.into()) else {
                break;
            };
            near = level.place(line.at, line.number);
            // It may be the next one's: what begins at the start of a range is not in it.
            from = line.at - 1;
            if let Some((_, name)) = device_of(&line.text).filter(|(device, _)| *device == id.device) {
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

/// Which lines are looked for: those of vendors, or those of one vendor's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Vendors,
    Devices(u32),
}

impl Level {
    /// The number that a line of this level has.
    fn number(self, line: &[u8]) -> Option<u32> {
        match self {
            Self::Vendors => vendor_of(line),
            Self::Devices(_) => device_of(line).map(|(device, _)| device.into()),
        }
    }

    /// Where the embedded list has it.
    fn embedded(self, number: u32) -> i64 {
        match self {
            Self::Vendors => embedded::place_of_vendor(number),
            Self::Devices(vendor) => embedded::place_of_device(vendor, number),
        }
    }

    fn place(self, here: u64, number: u32) -> Place {
        Place { here, embedded: self.embedded(number) }
    }
}

/// Where a line is in the machine's list and in the embedded one, which is of another day: between lines that are near
/// to one another there are about as many bytes in both.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    here: u64,
    embedded: i64,
}

impl Place {
    /// Where a line is that has this place in the embedded list, as seen from here, and from a place behind it.
    fn towards(self, wanted: i64, above: Option<Self>) -> u64 {
        let far = wanted - self.embedded;
        let between = above.and_then(|above| {
            let here = i64::try_from(above.here.checked_sub(self.here)?).ok()?;
            Some((here, above.embedded - self.embedded)).filter(|(_, embedded)| *embedded > 0)
        });
        let by = between.map_or(far, |(here, embedded)| far * here / embedded);
        self.here.saturating_add_signed(by)
    }
}

/// A vendor's or a device's line.
#[derive(Debug, Clone)]
struct Line {
    at: u64,
    number: u32,
    text: Vec<u8>,
}

/// Lists end before this, in bytes.
const END: u64 = 16 << 20;

/// What is read in all, at most: a list that is made to be slow is given up.
const LIMIT: usize = 256 << 20;

/// What is read at once, in bytes. Of a longer line this much is seen.
const WINDOW: usize = 2048;

/// What is read at once, in bytes, where much is looked through.
const WIDEST: usize = 16 << 10;

/// Around a guess, in bytes: less than a window, so that the last line is whole.
const AROUND: u64 = 1536;

/// Guesses, before a part is halved, and those of them that may be among the devices of some vendor.
const GUESSES: usize = 12;
const MISSES: usize = 5;

/// How far back is looked then, in bytes: at first twice this, then twice as far each time.
const BACK: u64 = 4096;

/// The devices of a vendor are many where their lines are longer than this, in bytes.
const MANY: i64 = 16 << 10;

/// What is kept of a maker's line, in bytes.
const LONGEST_NAME: usize = 256;

/// A list that is read here and there.
struct List<'r> {
    read: &'r Read<'r>,
    /// The first vendor behind an offset; `None` behind the last one.
    known: RefCell<BTreeMap<u64, Option<Line>>>,
    /// What was read last.
    last: RefCell<Window>,
    left: Cell<usize>,
}

/// What came of so many bytes from an offset on.
#[derive(Default)]
struct Window {
    asked: (u64, usize),
    bytes: Rc<Vec<u8>>,
}

impl List<'_> {
    /// The first line of this number or a higher one, of those that begin in a part: first where the embedded list has
    /// it, as seen from lines that are known, then by halving.
    ///
    /// `owner`: the vendor whose devices are probably those that are met where a vendor is looked for.
    fn first(&self, part: Range<u64>, known: Place, level: Level, number: u32, owner: u32) -> Option<Line> {
        let (mut low, mut high) = (part.start, part.end);
        let wanted = level.embedded(number);
        let (mut below, mut above) = (known, None);
        let (mut guesses, mut misses, mut instead) = (0..GUESSES, 0..MISSES, None);
        while high.saturating_sub(low) > WINDOW as u64 {
            let middle = if guesses.next().is_some() {
                let expected = instead.take().unwrap_or_else(|| below.towards(wanted, above));
                let last = high.saturating_sub(AROUND).max(low + 1);
                expected.saturating_sub(AROUND / 2).clamp(low + 1, last)
            } else {
                low + (high - low) / 2
            };
            let around = middle..high.min(middle + AROUND);
            let (mut before, mut line) = self.next(around.clone(), level, number);
            if before.is_none() && line.is_none() {
                // Among devices. If they are the owner's, they tell how far it is; if not, there is a vendor somewhere
                // before them.
                if let (Level::Vendors, Some(miss)) = (level, misses.next()) {
                    let own = Level::Devices(owner);
                    let device = self.next(around, own, 0).1.filter(|_| miss == 0);
                    let way = |device: Line| own.place(device.at, device.number).towards(wanted, None);
                    instead = device.map(way).or_else(|| middle.checked_sub(BACK << miss));
                    continue;
                }
                line = match level {
                    Level::Vendors => self.vendor_after(middle),
                    Level::Devices(_) => self.next(middle..high, level, 0).1,
                };
                let lower = line.take_if(|line| line.number < number);
                before = lower.map(|line| level.place(line.at, line.number));
            }
            match (before, line) {
                // The first one behind a lower one, or the one.
                (Some(_), Some(line)) => return Some(line),
                (None, Some(line)) if line.number == number => return Some(line),
                (None, line) => {
                    high = middle;
                    above = line.map(|line| level.place(line.at, line.number));
                }
                (Some(before), None) => (low, below) = (before.here, before),
            }
        }
        match level {
            Level::Vendors => self.next(low..high + 1, level, number).1.or_else(|| self.vendor_after(high)),
            Level::Devices(_) => self.next(low..part.end, level, number).1,
        }
    }

    /// The next vendor: where the devices of a vendor end. Of one with many devices not all lines are looked through
    /// where nothing can be between it and a vendor that the embedded list has next: no number, or no line.
    fn behind(&self, vendor: &Line) -> Option<Line> {
        let here = Level::Vendors.place(vendor.at, vendor.number);
        let next = embedded::vendor_behind(vendor.number)
            .filter(|number| Level::Vendors.embedded(*number) - here.embedded > MANY)
            .and_then(|number| {
                let next = self.first(vendor.at..END, here, Level::Vendors, number, vendor.number)?;
                let follows = number == vendor.number + 1 || self.is_last(vendor, &next);
                (next.number == number && follows).then_some(next)
            });
        next.or_else(|| self.vendor_after(vendor.at.max(1)))
    }

    /// Whether the last device before a later vendor is one that the embedded list has for this vendor.
    fn is_last(&self, vendor: &Line, later: &Line) -> bool {
        let before = later.at.saturating_sub(AROUND).max(vendor.at)..later.at;
        let (mut last, mut between) = (None, false);
        self.lines(before, Level::Devices(vendor.number), |_, line| {
            between |= vendor_of(line).is_some();
            last = device_of(line).map(|(device, name)| (device, text_of(name))).or_else(|| last.take());
            None
        });
        let known =
            |device| embedded::device_alone(DeviceId { vendor: u16::try_from(vendor.number).ok()?, device });
        !between && last.is_some_and(|(device, name)| known(device) == Some(name.as_str()))
    }

    /// The first vendor whose line begins behind an offset (at 0: or there). No long part is looked through twice: one
    /// has a quarter of the list.
    fn vendor_after(&self, offset: u64) -> Option<Line> {
        let before =
            |known: &BTreeMap<u64, Option<Line>>| Some(known.range(..=offset).next_back()?.1.clone());
        match before(&self.known.borrow()) {
            Some(Some(vendor)) if vendor.at > offset => return Some(vendor),
            Some(None) => return None,
            _ => {}
        }
        let next = self.known.borrow().range(offset..).next().map(|(from, vendor)| (*from, vendor.clone()));
        let (end, behind) = next.unwrap_or((END, None));
        let vendor = self.next(offset..end + 1, Level::Vendors, 0).1.or(behind);
        self.known.borrow_mut().insert(offset, vendor.clone());
        vendor
    }

    /// The first line of this number or a higher one, of those that begin in a part, but not at its start (at 0: or
    /// there); and the last of a lower number before it.
    fn next(&self, part: Range<u64>, level: Level, number: u32) -> (Option<Place>, Option<Line>) {
        let mut before = None;
        let line = self.lines(part, level, |at, line| match level.number(line) {
            Some(lower) if lower < number => {
                before = Some((at, lower));
                None
            }
            here => {
                let longest = if level == Level::Vendors { LONGEST_NAME } else { line.len() };
                Some(Line { at, number: here?, text: line.get(..longest).unwrap_or(line).to_vec() })
            }
        });
        (before.map(|(at, lower)| level.place(at, lower)), line)
    }

    /// Bytes from an offset on; those that were read last are read once.
    fn window(&self, at: u64, length: usize) -> Option<Rc<Vec<u8>>> {
        let mut last = self.last.borrow_mut();
        if last.asked != (at, length) {
            self.left.set(self.left.get().checked_sub(length)?);
            *last = Window { asked: (at, length), bytes: Rc::new((self.read)(at, length)?) };
        }
        Some(Rc::clone(&last.bytes)).filter(|bytes| !bytes.is_empty())
    }

    /// Lines that begin in a part, but not at its start (at 0: or there), until one is wanted.
    fn lines(
        &self,
        range: Range<u64>,
        level: Level,
        mut wanted: impl FnMut(u64, &[u8]) -> Option<Line>,
    ) -> Option<Line> {
        let (mut at, mut within) = (range.start, range.start > 0);
        let (mut window, only_vendors) = (WINDOW, level == Level::Vendors);
        while at < range.end {
            let bytes = self.window(at, window)?;
            window = (window * 2).min(WIDEST);
            let (mut seen, mut passed) = (0, 0);
            while let Some(rest) = bytes.get(seen..).filter(|rest| !rest.is_empty()) {
                if only_vendors && within && seen >= passed {
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
                if !within && begins < range.end {
                    if let Some(wanted) = wanted(begins, line) {
                        return Some(wanted);
                    }
                }
                // Back to the line's end, from where on devices are passed over.
                let again = !within && only_vendors;
                seen += end.map_or(rest.len(), |end| if again { end } else { end + 1 });
                within = end.is_none() || again;
            }
            at += seen as u64;
        }
        None
    }
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
    fn a_list_of_another_day_is_read_where_the_embedded_one_has_the_lines() {
        // What is in a list of another day: as much, or less, or more.
        for kind in 0..3 {
            let has = |vendor: u16, device: u16| match kind {
                0 => (true, 0),
                1 => ((vendor ^ device) % 3 != 0, 0),
                _ => (true, ((vendor / 7) ^ device) % 3),
            };
            let (mut list, mut all) = ("# a list\n\n".to_owned(), BTreeMap::new());
            for (vendor, maker) in embedded::vendors() {
                writeln!(list, "{vendor:04x}  {maker}").unwrap();
                for (device, name) in embedded::devices(vendor) {
                    let (listed, boards) = has(vendor, device);
                    if listed {
                        writeln!(list, "\t{device:04x}  {name}").unwrap();
                        all.insert(DeviceId { vendor, device }, format!("{maker} {name}"));
                    }
                    for board in 0..boards {
                        writeln!(list, "\t\t{vendor:04x} {board:04x}  A board with a name").unwrap();
                    }
                }
            }
            list.push_str("C 00  Unclassified device\n");
            assert_eq!(find(list.as_bytes(), &all.keys().copied().collect()).devices, all);
            let (windows, bytes) = (Cell::new(0), Cell::new(0));
            let read = |at, length| {
                windows.set(windows.get() + 1);
                bytes.set(bytes.get() + length);
                Some(part_of(list.as_bytes(), at, length).to_vec())
            };
            // A machine's: a dozen devices of half as many vendors.
            let ids: Vec<_> = all.keys().copied().collect();
            for first in (0..ids.len() - 600).step_by(101) {
                let wanted: BTreeSet<_> = ids[first..first + 600].iter().step_by(50).copied().collect();
                assert_eq!(search(&read, &wanted).devices.len(), 12);
            }
            let machines = (0..ids.len() - 600).step_by(101).count();
            let each = (windows.get() / machines, bytes.get() / machines);
            assert!(each.0 < 75 && each.1 < list.len() / 3, "{kind}: {each:?} of {}", list.len());
        }
    }

    #[test]
    fn a_vendor_that_the_embedded_list_does_not_have_hides_nothing_and_lends_nothing() {
        // Intel's devices, some of them not listed here, and a vendor between it and the next that the embedded list has.
        let has_all = |device: u16| device.is_power_of_two();
        for other in ["", "8087  Between\n\t0010  Not Intel's\n\tffff  Not Intel's either\n"] {
            let mut list = "8085  Before\n8086  Intel Corporation\n".to_owned();
            for (device, name) in embedded::devices(0x8086).filter(|(device, _)| !has_all(*device)) {
                writeln!(list, "\t{device:04x}  {name}").unwrap();
            }
            writeln!(list, "{other}8088  Next\n\t0001  One").unwrap();
            let wanted = (0..=0xffff).map(|device| DeviceId { vendor: 0x8086, device }).collect();
            let all: BTreeSet<u16> =
                find(list.as_bytes(), &wanted).devices.keys().map(|id| id.device).collect();
            let listed = embedded::devices(0x8086).map(|(device, _)| device);
            assert!(all.into_iter().eq(listed.filter(|device| !has_all(*device))), "{other}");
            let one = find(list.as_bytes(), &BTreeSet::from([DeviceId { vendor: 0x8086, device: 0xffff }]));
            assert!(one.devices.is_empty(), "{one:?}");
        }
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
        let wanted = (1..200).map(|vendor| DeviceId { vendor, device: 0 }).collect();
        let bytes = Cell::new(0);
        let read = |at, length| {
            bytes.set(bytes.get() + length);
            Some(part_of(&text, at, length).to_vec())
        };
        search(&read, &wanted);
        assert!(bytes.get() < 2 * text.len() + 200 * 48 * WINDOW, "{} bytes", bytes.get());
    }
}
