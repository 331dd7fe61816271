//! The tree that `lspci -t` draws: which function is behind which bridge.
//!
//! ```text
//! -+-[0000:40]-+-01.0-[41]----00.0  a device alone behind its bridge
//!  |           \-02.0  a device on the root bus
//!  \-[0000:00]---00.0
//! ```
//! A branch (`+-`, `\-`) belongs to the bus that opened its column, so columns must be as they were printed.

use super::{
    facts::{ClassFrom, Facts, fill},
    lines::Line,
    words::{hex, id, last_bracketed_id},
};
use crate::pci::{Address, Class};

/// Columns that are open at once; a real tree is as deep as its bridges.
const MAX_DEPTH: usize = 64;

/// What a branch hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bus {
    /// Above the root buses.
    Top,
    /// A bus: domain, number.
    At(u32, u8),
}

/// A tree that is being read.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Columns that are open, from left to right.
    columns: Vec<(usize, Bus)>,
    /// A first line was there.
    begun: bool,
    /// It is the line before this one.
    first: bool,
}

impl Tree {
    /// Forgets the tree: something else has begun.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// Takes a line of a tree. `None`: it is none. `Some(false)`: it looks like one and is not understood.
    pub(super) fn line(&mut self, facts: &mut Facts, line: &Line) -> Option<bool> {
        let text = &line.text;
        let begins = text.starts_with("-[") || text.starts_with("-+-[");
        let branch = || {
            let rest = text.trim_start_matches(['|', ' ']);
            rest.strip_prefix("+-").or_else(|| rest.strip_prefix("\\-"))
        };
        let goes_on = branch().is_some_and(|rest| rest.starts_with('[') || device_function(rest).is_some());
        if begins {
            self.columns.clear();
            self.begun = true;
        } else if !goes_on || !self.begun {
            return None;
        } else if self.first {
            self.align(text, line.indent);
        }
        self.first = begins;
        Some(self.walk(facts, text, line.indent).is_some())
    }

    /// Puts the columns of the first line where the second one has them: a text is often cut out from its first
    /// character that is no space, so that the first line alone lost its indent. The second line goes on with what
    /// the first one opened last.
    fn align(&mut self, text: &str, indent: usize) {
        let at = indent + text.len() - text.trim_start_matches(['|', ' ']).len();
        let known = self.columns.iter().any(|(open, _)| *open == at);
        let moved = self.columns.last().and_then(|(open, _)| at.checked_sub(*open));
        if let (false, Some(moved)) = (known, moved) {
            for (open, _) in &mut self.columns {
                *open += moved;
            }
        }
    }

    fn walk(&mut self, facts: &mut Facts, text: &str, indent: usize) -> Option<()> {
        let column = |rest: &str| indent + text.len() - rest.len();
        let mut rest = text.trim_start_matches(['|', ' ']);
        let mut bus = Bus::Top;
        let mut bridge: Option<Address> = None;
        if rest.starts_with(['+', '\\']) {
            let at = column(rest);
            while self.columns.last().is_some_and(|(open, _)| *open > at) {
                self.columns.pop();
            }
            bus = self.columns.last().filter(|(open, _)| *open == at).map(|(_, bus)| *bus)?;
            rest = rest.get(1..)?;
        }
        loop {
            rest = rest.trim_start_matches('-');
            if rest.is_empty() {
                return Some(());
            }
            if rest.starts_with('+') {
                if self.columns.len() >= MAX_DEPTH {
                    return None;
                }
                self.columns.push((column(rest), bus));
                rest = rest.get(1..)?;
            } else if let Some(inside) = rest.strip_prefix('[') {
                let (numbers, after) = inside.split_once(']')?;
                bus = buses(facts, numbers, bus, bridge)?;
                rest = after;
            } else {
                let (device, function, after) = device_function(rest)?;
                let Bus::At(domain, number) = bus else { return None };
                let address = Address { domain, bus: number, device, function };
                let fact = facts.at(address)?;
                bridge = Some(address);
                rest = after;
                if after.starts_with([' ', '\t']) || after.is_empty() {
                    let name = after.trim();
                    if let Some((id, _)) = last_bracketed_id(name) {
                        fill(&mut fact.function.vendor, Some(id.vendor));
                        fill(&mut fact.function.device, Some(id.device));
                    }
                    fact.named(name);
                    return Some(());
                }
            }
        }
    }
}

/// `0000:40` of a root bus; `41` or `41-4f` behind a bridge, in old versions with the domain in front.
fn buses(facts: &mut Facts, numbers: &str, bus: Bus, bridge: Option<Address>) -> Option<Bus> {
    let (domain, numbers) = match numbers.split_once(':') {
        Some((domain, numbers)) => {
            let known = (4..=8).contains(&domain.len()).then(|| hex(domain, domain.len()));
            (Some(known??), numbers)
        }
        None => (None, numbers),
    };
    let byte = |digits: &str| hex(digits, 2).and_then(|bus| u8::try_from(bus).ok());
    let (first, last) = match numbers.split_once('-') {
        Some((first, last)) => (byte(first)?, byte(last)?),
        None => (byte(numbers)?, byte(numbers)?),
    };
    if let (Bus::At(above, _), Some(address)) = (bus, bridge) {
        let fact = facts.known(address)?;
        fill(&mut fact.behind, Some((first, last)));
        fact.class(Class(0x06_0400), ClassFrom::Name);
        return Some(Bus::At(above, first));
    }
    let domain = domain.unwrap_or(0);
    facts.root_bus(domain, first);
    Some(Bus::At(domain, first))
}

/// `1f.3`, and what follows.
fn device_function(text: &str) -> Option<(u8, u8, &str)> {
    let word = text.get(..4)?;
    let known: crate::pci::DeviceFunction = word.parse().ok()?;
    let rest = text.get(4..)?;
    let ends = rest.is_empty() || rest.starts_with([' ', '-', '\t']);
    ends.then_some((known.device, known.function, rest))
}

impl super::facts::Fact {
    /// A maker and a name, as they stand behind a function.
    fn named(&mut self, name: &str) {
        let name = last_bracketed_id(name).and_then(|(_, at)| name.get(..at)).unwrap_or(name).trim();
        if name.is_empty() {
            return;
        }
        let maker = super::words::vendor_by_name(name);
        match name.rsplit_once("Device ").and_then(|(_, code)| id(code)) {
            Some(code) if maker.is_some() && self.function.device.is_none() => {
                fill(&mut self.function.vendor, maker);
                if self.function.vendor == maker {
                    self.function.device = Some(code);
                }
            }
            Some(_) => {}
            None => {
                fill(&mut self.function.vendor, maker);
                fill(&mut self.function.name, Some(name.to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Host, Source};

    fn read(text: &str) -> (Host, Vec<Option<bool>>) {
        let mut host = Host::unknown(Source::Text);
        let mut facts = Facts::new(&host);
        let mut tree = Tree::default();
        let (lines, _) = crate::paste::lines::lines(text);
        let seen = lines.iter().map(|line| tree.line(&mut facts, line)).collect();
        facts.give(&mut host, &mut Vec::new());
        (host, seen)
    }

    #[test]
    fn functions_hang_where_they_are_drawn() {
        let (host, _) = read(concat!(
            "-+-[0000:40]-+-01.0-[41-42]----00.0-[42]--+-00.0  NVIDIA Corporation GA102 [10de:2204]\n",
            " |           |                            \\-00.1  NVIDIA Corporation Device 1aef\n",
            " |           \\-02.0  Advanced Micro Devices, Inc. [AMD] Device 1480\n",
            " \\-[0000:00]-+-00.0\n",
            "             \\-03.0-[01]--\n",
        ));
        let path = |address: &str| {
            host.function(address.parse().unwrap()).unwrap().path.as_ref().unwrap().to_string()
        };
        assert_eq!(path("42:00.0"), "0000:40:01.0/00.0/00.0");
        assert_eq!(path("42:00.1"), "0000:40:01.0/00.0/00.1");
        assert_eq!(path("40:02.0"), "0000:40:02.0");
        assert_eq!(path("00:03.0"), "0000:00:03.0");
        let card = host.function("42:00.0".parse().unwrap()).unwrap();
        assert_eq!(card.id().unwrap().to_string(), "10de:2204");
        assert_eq!(card.parent.unwrap().to_string(), "0000:41:00.0");
        let audio = host.function("42:00.1".parse().unwrap()).unwrap();
        assert_eq!(audio.id().unwrap().to_string(), "10de:1aef");
        assert_eq!(host.functions.len(), 7);
    }

    #[test]
    fn a_first_line_that_lost_its_indent_is_put_back() {
        let (host, seen) = read(concat!(
            "-[0000:00]---00.0-[01-0f]----00.0-[02-05]--+-01.0-[03]----00.0\n",
            "                                              +-02.0-[04]----00.0\n",
            "                                              \\-03.0-[05]--\n",
        ));
        assert_eq!(seen, [Some(true); 3]);
        assert_eq!(
            host.function("04:00.0".parse().unwrap()).unwrap().path.as_ref().unwrap().to_string(),
            "0000:00:00.0/00.0/02.0/00.0"
        );
        let (host, seen) = read(concat!(
            "-+-[000d:30]---00.0-[31]--\n",
            "   +-[000a:10]---00.0-[11-12]--+-00.0\n",
            "   |                           \\-00.1\n",
            "   \\-[0000:00]-\n",
        ));
        assert_eq!(seen, [Some(true); 4]);
        assert!(host.function("000a:11:00.1".parse().unwrap()).is_some());
    }

    #[test]
    fn a_tree_without_its_columns_is_not_guessed() {
        let (_, seen) = read("-[0000:00]-+-00.0\n+-01.0-[01]----00.0\n\\-02.0\nplain\n");
        assert_eq!(seen, [Some(true), Some(false), Some(false), None]);
    }
}
