//! Goes through a text line by line and gives each to the parser of its form.
//!
//! Keeps what later lines depend on: the group whose members follow, the function whose details follow. Decides
//! nothing about what the facts mean.

use super::{
    Text, device,
    facts::Facts,
    group,
    inventory::Inventory,
    lines::{self, Line},
    log, lspci, system, table,
    tree::Tree,
    udev,
    words::{addresses, leading_address},
};
use crate::pci::Address;

/// Notes about one text.
const MAX_NOTES: usize = 12;

/// A group whose members follow.
#[derive(Debug)]
struct Members {
    group: u32,
    /// The members' own indent, and the last of them.
    first: Option<(usize, Address)>,
    last: Option<Address>,
    /// The first member stood beside the heading: members that follow are set off from it.
    beside: bool,
    /// A blank line came.
    blank: bool,
    /// A folder as `ls` prints it: every address on the lines that follow.
    folder: bool,
}

/// A record of lines `Key: value`.
#[derive(Debug)]
struct Record {
    /// `None`: of something that is no function.
    address: Option<Address>,
    udev: bool,
    maker: Option<String>,
}

struct Reader<'f> {
    facts: &'f mut Facts,
    members: Option<Members>,
    /// The function whose details follow, and how far its line was set off.
    device: Option<(Address, usize)>,
    /// The function that a record for machines is about, or udev's; the maker's name in it.
    record: Option<Record>,
    tree: Tree,
    inventory: Inventory,
    /// The columns of the table that is being read.
    columns: Option<table::Columns>,
    /// A line that may go on in the next one: mail programs break lines.
    open: Option<Line>,
    understood: usize,
    /// Lines that look like a listing and are not understood.
    odd: Vec<usize>,
}

/// Reads a text.
pub(super) fn read(facts: &mut Facts, text: &Text, notes: &mut Vec<String>) {
    let begin = text.text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    if looks_like_json(begin) {
        notes.push(format!("{}: JSON, which is not read as a listing", text.name));
        return;
    }
    let (lines, whole) = lines::lines(&text.text);
    let mut reader = Reader {
        facts,
        members: None,
        device: None,
        record: None,
        tree: Tree::default(),
        inventory: Inventory::default(),
        columns: None,
        open: None,
        understood: 0,
        odd: Vec::new(),
    };
    for line in &lines {
        reader.line(line);
    }
    reader.inventory.end(reader.facts);
    let (understood, odd) = (reader.understood, reader.odd);
    for range in ranges(&odd).into_iter().take(MAX_NOTES) {
        notes.push(format!("{}: {range} looks like a listing and is not understood", text.name));
    }
    if odd.len() > MAX_NOTES {
        notes.push(format!("{}: {} lines in all are not understood", text.name, odd.len()));
    }
    if understood == 0 {
        notes.push(format!("{}: nothing in it is a listing that is known here", text.name));
    }
    if !whole {
        notes.push(format!("{}: its end, or the end of very long lines, was not read", text.name));
    }
}

/// JSON says so at once; a listing's brackets are followed by something else.
fn looks_like_json(text: &str) -> bool {
    let inside = text.strip_prefix('{').or_else(|| text.strip_prefix('['));
    inside.is_some_and(|inside| inside.trim_start().starts_with(['"', '{', '}']))
}

/// What follows an address in a sentence, or in the rest of a message that a mail program broke: a word without a
/// capital, a full stop. lspci and the scripts have a class there, a number or nothing.
fn is_prose(rest: &str) -> bool {
    let word = rest.trim_start_matches([':', ' ', '\t']);
    let sentence = rest.starts_with(['.', ',', ';', ')', '-']);
    let small = word.starts_with(|first: char| first.is_ascii_lowercase());
    let number = word.get(..4).and_then(super::words::id).is_some();
    sentence || (small && !number)
}

/// `line 7`, `lines 9 to 12`.
fn ranges(lines: &[usize]) -> Vec<String> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &line in lines {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == line => *last = line,
            _ => ranges.push((line, line)),
        }
    }
    let words = |(first, last): &(usize, usize)| {
        if first == last { format!("line {first}") } else { format!("lines {first} to {last}") }
    };
    ranges.iter().map(words).collect()
}

impl Reader<'_> {
    fn line(&mut self, line: &Line) {
        if line.is_blank() {
            if let Some(members) = &mut self.members {
                members.blank = members.first.is_some();
            }
            self.device = None;
            self.record = None;
            self.tree.end();
            self.inventory.end(self.facts);
            self.columns = None;
            self.open = None;
            return;
        }
        let text = &line.text;
        udev::places(self.facts, text);
        let open = self.open.take();
        if open.is_some_and(|open| self.goes_on(&open, line)) {
            self.understood += 1;
            return;
        }
        if self.inventory.line(self.facts, text)
            || self.record_line(text)
            || log::line(self.facts, text)
            || self.tree_line(line)
            || self.table_line(text)
            || self.path_line(line)
            || self.heading_line(line)
            || self.device_line(line)
            || self.detail_line(line)
            || log::driver(self.facts, text)
            || system::line(&mut self.facts.system, text)
        {
            self.understood += 1;
            let breaks_off = log::breaks_off(text) || text.ends_with("IOMMU");
            if breaks_off && self.open.is_none() {
                self.open = Some(line.clone());
            }
            return;
        }
        if log::breaks_off(text) || leading_address(text).is_some() {
            self.open = Some(line.clone());
        }
        // USB devices are listed below their controller.
        if text.starts_with("Bus ") || text.starts_with("USB:") {
            self.device = None;
            return;
        }
        // A detail that is not used is no end: lspci has hundreds.
        let detail = self.device.is_some() && (line.indent > 0 || text.contains(':'));
        if !detail {
            self.members = None;
            self.device = None;
        }
        if leading_address(text).is_some_and(|(_, rest)| !is_prose(rest)) {
            self.odd.push(line.number);
        }
    }

    /// Takes a line that goes on where the one before broke off; false where it is a line of its own.
    fn goes_on(&mut self, open: &Line, line: &Line) -> bool {
        let joined = format!("{} {}", open.text, line.text);
        if log::breaks_off(&open.text) {
            return log::line(self.facts, &joined);
        }
        if open.text.ends_with("IOMMU") {
            let group = group::mentioned(&joined);
            if let (Some((address, _)), Some(group)) = (self.device, group) {
                self.facts.group(address, group);
            }
            return group.is_some();
        }
        // Whatever can stand alone does.
        let alone = device::parse(&line.text).is_some()
            || group::heading(&line.text).is_some()
            || log::line(self.facts, &line.text);
        let rest = group::heading(&joined).map_or(joined.as_str(), |(_, rest)| rest);
        let Some(whole) = device::parse(rest).filter(|whole| whole.is_certain() && !alone) else {
            return false;
        };
        let before = device::parse(group::heading(&open.text).map_or(open.text.as_str(), |(_, rest)| rest));
        let more = before
            .is_none_or(|before| !before.is_certain() || (before.device.is_none() && whole.device.is_some()));
        if !more {
            return false;
        }
        // Not taken for a function without what follows: now it is one, where its own line stood.
        if self.odd.last() == Some(&open.number) {
            self.odd.pop();
        }
        if self.device.is_none_or(|(address, _)| address != whole.address) {
            let start = Line { text: joined.clone(), ..open.clone() };
            return self.device_line(&start);
        }
        self.facts.row(&whole);
        true
    }

    /// A table's names, or a row of it.
    fn table_line(&mut self, text: &str) -> bool {
        if let Some(columns) = table::names(text) {
            self.columns = Some(columns);
            return true;
        }
        let Some((row, group)) = self.columns.as_ref().and_then(|columns| table::row(columns, text)) else {
            return false;
        };
        let known = self.facts.row(&row);
        if let Some(group) = group.filter(|_| known) {
            self.facts.group(row.address, group);
        }
        true
    }

    /// A line of a record for machines (`lspci -vmm`), or of udev's database.
    fn record_line(&mut self, text: &str) -> bool {
        if let Some(path) = udev::record(text) {
            let address = udev::last_address(path);
            self.device = None;
            self.members = None;
            self.record = Some(Record { address, udev: true, maker: None });
            if let Some(address) = address {
                self.facts.at(address);
            }
            return true;
        }
        if let Some((key, value)) = lspci::pair(text) {
            let named = leading_address(value).filter(|(_, rest)| rest.is_empty());
            if let (Some((address, _)), "Slot" | "Device") = (named, key) {
                self.device = None;
                self.members = None;
                self.record = Some(Record { address: Some(address), udev: false, maker: None });
                self.facts.at(address);
                return true;
            }
        }
        let Some(record) = &mut self.record else { return false };
        let fact = record.address.and_then(|address| self.facts.known(address));
        if record.udev {
            if let (Some(fact), Some((key, value))) = (fact, udev::property(text)) {
                udev::take(fact, &mut record.maker, key, value);
            }
            return udev::is_inside(text);
        }
        let (Some(fact), Some((key, value))) = (fact, lspci::pair(text)) else { return false };
        let group = lspci::record(fact, key, value, &mut record.maker);
        if let (Some(address), Some(group)) = (record.address, group) {
            self.facts.group(address, group);
        }
        true
    }

    fn tree_line(&mut self, line: &Line) -> bool {
        match self.tree.line(self.facts, line) {
            None => false,
            Some(understood) => {
                self.device = None;
                self.members = None;
                if !understood {
                    self.odd.push(line.number);
                }
                true
            }
        }
    }

    fn path_line(&mut self, line: &Line) -> bool {
        if let Some((address, group)) = group::beside(&line.text) {
            self.facts.group(address, group);
            return true;
        }
        let paths = group::paths(&line.text);
        for path in &paths {
            match path {
                group::Path::Member(group, address) => self.facts.group(*address, *group),
                group::Path::Folder(group) => {
                    self.members = Some(Members::of(*group));
                    if let Some(members) = &mut self.members {
                        members.folder = true;
                    }
                }
            }
        }
        if !paths.is_empty() {
            self.device = None;
            return true;
        }
        let Some(members) = self.members.as_ref().filter(|members| members.folder) else { return false };
        let group = members.group;
        if line.text.starts_with("total ") {
            return true;
        }
        // `ls -l`: the name, then where it leads.
        let names = line.text.split(" -> ").next().unwrap_or_default();
        let found = addresses(names);
        let only = !found.is_empty() && device::parse(&line.text).is_none_or(|device| !device.is_certain());
        if only {
            for (address, _, _) in found {
                self.facts.group(address, group);
            }
        }
        only
    }

    fn heading_line(&mut self, line: &Line) -> bool {
        let Some((group, rest)) = group::heading(&line.text) else { return false };
        // lspci has the group of a function below it, in nearly the same words.
        let below = self.device.is_some_and(|(_, indent)| line.indent > indent || self.members.is_none());
        if below && rest.is_empty() && group::mentioned(&line.text) == Some(group) {
            return false;
        }
        let mut members = Members::of(group);
        self.device = None;
        if let Some(found) = device::parse(rest) {
            members.beside = true;
            members.first = Some((line.indent, found.address));
            members.last = Some(found.address);
            let known = self.facts.row(&found);
            if known {
                self.facts.group(found.address, group);
            }
            self.device = known.then_some((found.address, line.indent));
            self.open = found.device.is_none().then(|| line.clone());
            if !found.is_certain() && rest.len() > 12 {
                self.odd.push(line.number);
            }
        }
        self.members = Some(members);
        true
    }

    fn device_line(&mut self, line: &Line) -> bool {
        let Some(found) = device::parse(&line.text) else { return false };
        let own = found.group.or_else(|| group::behind(&line.text).filter(|_| found.is_certain()));
        let group = own.or_else(|| self.member_of(line, found.address));
        if !found.is_certain() && group.is_none() {
            return false;
        }
        if !found.is_certain() {
            self.odd.push(line.number);
        }
        let known = self.facts.row(&found);
        if let Some(group) = group.filter(|_| known) {
            self.facts.group(found.address, group);
        }
        // The details of another device are not this one's.
        self.device = known.then_some((found.address, line.indent));
        self.open = found.device.is_none().then(|| line.clone());
        true
    }

    /// The group that a function belongs to because of the heading above it. Ends the group's members where the
    /// function cannot be one.
    fn member_of(&mut self, line: &Line, address: Address) -> Option<u32> {
        let members = self.members.as_mut()?;
        let set_off = line.text.starts_with(['[', '|', '│', '(', '├', '└', '\\']);
        let follows = match members.first {
            None => true,
            Some(_) if members.beside => line.indent > 0 || set_off,
            Some((indent, _)) if indent > 0 => line.indent > 0,
            // Nothing is indented: a blank line, or an address that goes back, begins another listing.
            Some(_) => !members.blank && members.last.is_none_or(|last| last < address),
        };
        if !follows {
            self.members = None;
            return None;
        }
        members.first.get_or_insert((line.indent, address));
        members.last = Some(address);
        Some(members.group)
    }

    fn detail_line(&mut self, line: &Line) -> bool {
        let Some((address, _)) = self.device else { return false };
        let Some(fact) = self.facts.known(address) else { return false };
        if let Some(row) = lspci::hex_row(fact, &line.text) {
            if row == lspci::Row::Broken {
                self.odd.push(line.number);
            }
            return true;
        }
        let detail = lspci::line(fact, &line.text);
        let group = group::mentioned(&line.text);
        if let Some(group) = group {
            self.facts.group(address, group);
        }
        detail || group.is_some()
    }
}

impl Members {
    fn of(group: u32) -> Self {
        Self { group, first: None, last: None, beside: false, blank: false, folder: false }
    }
}
