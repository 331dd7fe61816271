//! Modules that say they can drive a function: the `pci:` lines of modules.alias, as `modprobe` would match them.
//!
//! One pass over the file for all functions; most lines are ruled out by the ids in them.

use super::{Function, look::Look};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

/// Where the kernel's list is.
pub(super) fn list(look: &Look, release: Option<&str>) -> Option<String> {
    // A release is a name, never a way out of the folder.
    let release = release.filter(|release| !release.contains('/') && !release.starts_with('.'))?;
    Some(format!("/lib/modules/{release}/modules.alias")).filter(|list| look.exists(list))
}

/// What it says of these functions.
pub(super) fn known(look: &Look, functions: &[Function], list: &str) -> Aliases {
    let mut aliases = Aliases::new(functions);
    look.lines(list, |lines| aliases.lines(lines));
    aliases
}

/// Lines are `alias PATTERN MODULE`, patterns are fnmatch(3)'s with upper-case hex: `pci:v000010DEd*sv*…`. Functions
/// that are alike (the virtual ones of a card) are matched once.
pub(super) struct Aliases {
    /// Modules by what a function says of itself.
    kinds: BTreeMap<String, BTreeSet<String>>,
    /// The vendors in there, few: eight digits each.
    vendors: Vec<u64>,
    /// Vendors and devices in there: `000010DEd00002204`.
    ids: BTreeSet<[u8; 17]>,
}

impl Aliases {
    fn new(functions: &[Function]) -> Self {
        let kinds: BTreeMap<_, _> = functions
            .iter()
            .filter_map(|function| Some((function.modalias.clone()?, BTreeSet::new())))
            .collect();
        let vendors: BTreeSet<_> = kinds.keys().filter_map(|kind| start_of(digits_of(kind))).collect();
        Self {
            vendors: vendors.into_iter().map(u64::from_ne_bytes).collect(),
            ids: kinds.keys().filter_map(|kind| start_of(digits_of(kind))).collect(),
            kinds,
        }
    }

    /// Takes in whole lines. Those of PCI functions follow one another, with many others between.
    fn lines(&mut self, text: &[u8]) {
        let next = memchr::memmem::Finder::new(b"\nalias pci:v");
        let mut rest = text;
        loop {
            if let Some(ids) = rest.strip_prefix(b"alias pci:v") {
                let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
                if !self.is_of_others(ids) {
                    self.line(rest.get(..end).unwrap_or_default());
                }
                rest = rest.get(end + 1..).unwrap_or_default();
            } else if let Some(end) = next.find(rest) {
                rest = rest.get(end + 1..).unwrap_or_default();
            } else {
                return;
            }
        }
    }

    /// Whether ids are written in full, and nobody has them: most lines are of vendors that are not here, and most
    /// others of other devices. (The bytes may reach into the next line: a pattern that is so short matches nobody.)
    fn is_of_others(&self, ids: &[u8]) -> bool {
        start_of::<8>(ids).is_some_and(|vendor| {
            if self.vendors.contains(&u64::from_ne_bytes(vendor)) {
                start_of::<17>(ids).is_some_and(|both| is_literal(&both) && !self.ids.contains(&both))
            } else {
                is_literal(&vendor)
            }
        })
    }

    fn line(&mut self, line: &[u8]) {
        let mut words = line.split(|byte| *byte == b' ').skip(1);
        let (Some(pattern), Some(module)) = (words.next(), words.next()) else { return };
        // What stands before the first wildcard is what all that match begin with.
        let fixed = pattern.split(|byte| matches!(byte, b'*' | b'?' | b'[')).next();
        let Some(Ok(fixed)) = fixed.map(std::str::from_utf8) else { return };
        for (modalias, modules) in self.kinds.range_mut::<str, _>((Bound::Included(fixed), Bound::Unbounded))
        {
            if !modalias.starts_with(fixed) {
                break;
            }
            if glob(pattern, modalias.as_bytes()) {
                modules.insert(String::from_utf8_lossy(module).into_owned());
            }
        }
    }

    /// Fills in the modules of every function.
    pub(super) fn fill(&self, functions: &mut [Function]) {
        for function in functions {
            let modules = function.modalias.as_ref().and_then(|modalias| self.kinds.get(modalias));
            function.modules.extend(modules.into_iter().flatten().cloned());
        }
    }
}

/// What follows `pci:v`.
fn digits_of(modalias: &str) -> &[u8] {
    modalias.as_bytes().get(5..).unwrap_or_default()
}

fn start_of<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk().copied()
}

/// Whether bytes of a pattern stand for themselves. All are looked at, many at once.
fn is_literal(pattern: &[u8]) -> bool {
    !pattern.iter().fold(false, |any, byte| any | matches!(byte, b'*' | b'?' | b'['))
}

/// `*`, `?` and sets; only the last `*` is ever tried again, so that the time is bounded.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => set(pattern.get(p..).unwrap_or_default(), text.get(t).copied().unwrap_or_default()),
            Some(byte) => (text.get(t) == Some(byte)).then_some(1),
            None => None,
        };
        match (step, retry) {
            (Some(length), _) => (p, t) = (p + length, t + 1),
            (None, Some((star, from))) => {
                (p, t) = (star + 1, from + 1);
                retry = Some((star, from + 1));
            }
            (None, None) => return false,
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

/// How many bytes of the pattern a set at its start takes when it holds `byte`.
fn set(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = pattern.iter().position(|byte| *byte == b']')?;
    let inside = pattern.get(1..end)?;
    let mut at = 0;
    while let Some(&low) = inside.get(at) {
        let high = if inside.get(at + 1) == Some(&b'-') { inside.get(at + 2) } else { None };
        if (low..=high.copied().unwrap_or(low)).contains(&byte) {
            return Some(end + 1);
        }
        at += if high.is_some() { 3 } else { 1 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::function;

    #[test]
    fn modules_by_vendor_class_and_wildcards() {
        let aliases = b"alias pci:v000010DEd*sv*sd*bc03sc02i00* nouveau\n\
            alias pci:v000010DEd*sv*sd*bc03sc00i00* nouveau\n\
            alias pci:v000010DEd*sv*sd*bc03sc00i00* nvidiafb\n\
            alias pci:v*d*sv*sd*bc03sc00i00* anycard\n\
            alias pci:v00001002d00007310sv*sd*bc*sc*i* amdgpu\n\
            alias pci:v000010DEd00002204sv00001458sd0000403Bbc03sc00i00 exact\n\
            alias pci:v000010DEd0000220[34]sv*sd*bc*sc*i* range\n\
            alias pci:v000010DEd00002205sv*sd*bc*sc*i* another\nalias pci:v000010D?d*sv*sd*bc*sc*i* wide\n\
            alias pci:v000010DE*d00002204* odd\nalias pci:v000010DE?00002204sv* odder\n\
            xalias pci:v000010DEd*sv*sd*bc*sc*i* nothing\n\
            alias usb:v10DEp*d* nothing\nalias pci:v\nalias pci:v000010DE\n";
        let mut card = function("01:00.0", "030000", "10de:2204");
        card.modalias = Some("pci:v000010DEd00002204sv00001458sd0000403Bbc03sc00i00".into());
        let mut functions = [card];
        let mut found = Aliases::new(&functions);
        found.lines(aliases);
        found.fill(&mut functions);
        assert_eq!(
            functions[0].modules,
            ["anycard", "exact", "nouveau", "nvidiafb", "odd", "odder", "range", "wide"]
        );
    }

    #[test]
    fn globs() {
        assert!(glob(b"a*c?e", b"abbbcde"));
        assert!(glob(b"*", b""));
        assert!(glob(b"x[0-9A]y", b"xAy") && glob(b"x[0-9A]y", b"x7y"));
        assert!(!glob(b"x[0-9]y", b"xAy") && !glob(b"x[0-9", b"x1"));
        assert!(!glob(b"abc", b"abcd") && !glob(b"abcd", b"abc"));
        let stars = b"*a".repeat(500);
        assert!(!glob(&[&stars[..], b"b"].concat(), &b"a".repeat(2000)), "and it ends");
    }
}
