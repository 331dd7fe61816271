//! Takes out of text what names a person, a machine or a network: addresses, ids, names. Pure, but for its key.
//!
//! The same value becomes the same other value, in this capture and in the next one of the same machine, so that
//! what belongs together stays together; nobody without the machine's own id can go back. Networks keep their
//! shape: two addresses in one network are in one network afterwards.

mod homes;
mod keyed;

use sha2::{Digest, Sha256};
use std::{cell::RefCell, collections::BTreeMap, net::Ipv6Addr};

/// What was replaced, for the list that a capture comes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Hardware addresses.
    Mac,
    /// Ids of filesystems, partitions, volumes, machines.
    Uuid,
    /// IPv4 and IPv6 addresses.
    Ip,
    /// The name of the host.
    Host,
    /// Names of users.
    User,
    /// Serial numbers and world-wide names.
    Serial,
    /// Passwords, keys and the like.
    Secret,
    /// Arguments of processes.
    Arguments,
    /// Names of files in the folders of people, and what they wrote about their guests.
    Files,
}

impl Kind {
    /// In a person's words.
    pub fn word(self) -> &'static str {
        match self {
            Self::Mac => "MAC addresses",
            Self::Uuid => "UUIDs and machine ids",
            Self::Ip => "IP addresses",
            Self::Host => "host name",
            Self::User => "user names",
            Self::Serial => "serial numbers",
            Self::Secret => "passwords and secrets",
            Self::Arguments => "process arguments",
            Self::Files => "names of people's files",
        }
    }
}

/// Names of hosts that half the world has; they say nothing, and stand for other things in many files.
const COMMON: &[&str] = &[
    "localhost",
    "localhost.localdomain",
    "(none)",
    "none",
    "debian",
    "ubuntu",
    "fedora",
    "arch",
    "archlinux",
    "linux",
    "host",
    "server",
    "desktop",
    "kali",
    "nixos",
    "gentoo",
    "opensuse",
    "pve",
    "proxmox",
    "manjaro",
    "mint",
    "root",
    "user",
    "raspberrypi",
];

/// Replaces what is personal.
#[derive(Debug)]
pub struct Scrubber {
    key: [u8; 32],
    /// Lower case, longest first, with what stands in its place.
    words: Vec<(String, String, Kind)>,
    counts: RefCell<BTreeMap<Kind, usize>>,
}

impl Scrubber {
    /// A scrubber with a key that only the machine knows, its name and its users' names.
    pub fn new(secret: &[u8], host: Option<&str>, users: &[String]) -> Self {
        let key = Sha256::new_with_prefix(b"gpuferry capture\0").chain_update(secret).finalize().into();
        let mut words: Vec<(String, String, Kind)> = Vec::new();
        let mut add = |word: &str, with: String, kind| {
            let word = word.to_lowercase();
            if word.len() >= 3
                && !COMMON.contains(&word.as_str())
                && !words.iter().any(|(have, ..)| *have == word)
            {
                words.push((word, with, kind));
            }
        };
        if let Some(host) = host {
            add(host, "host".to_owned(), Kind::Host);
            add(host.split('.').next().unwrap_or_default(), "host".to_owned(), Kind::Host);
        }
        for (number, user) in users.iter().enumerate() {
            add(user, format!("user{}", number + 1), Kind::User);
        }
        words.sort_by_key(|(word, ..)| std::cmp::Reverse(word.len()));
        Self { key, words, counts: RefCell::default() }
    }

    /// How often each kind was replaced.
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        self.counts.borrow().clone()
    }

    /// Counts something that was left out by other means.
    pub fn count(&self, kind: Kind) {
        *self.counts.borrow_mut().entry(kind).or_default() += 1;
    }

    fn hash(&self, about: &str, value: &[u8]) -> [u8; 32] {
        let hash = Sha256::new_with_prefix(self.key).chain_update(about.as_bytes()).chain_update([0]);
        hash.chain_update(value).finalize().into()
    }

    /// Another value of the same form: digits stay digits, letters letters, hexadecimal letters those.
    pub fn shape(&self, value: &str, kind: Kind) -> String {
        self.count(kind);
        let lower = value.to_ascii_lowercase();
        let hex = lower.bytes().all(|byte| !byte.is_ascii_alphabetic() || matches!(byte, b'a'..=b'f' | b'x'));
        let mut stream = (0_u32..)
            .flat_map(|block| self.hash("shape", &[lower.as_bytes(), &block.to_le_bytes()].concat()));
        let mut other = |from: u8, count: u8| char::from(from + stream.next().unwrap_or(0) % count);
        let letters = if hex { 6 } else { 26 };
        value
            .chars()
            .map(|character| match character {
                'x' | 'X' if hex => character,
                '0'..='9' => other(b'0', 10),
                'a'..='z' => other(b'a', letters),
                'A'..='Z' => other(b'A', letters),
                _ if character.is_ascii() => character,
                _ => other(b'a', letters),
            })
            .collect()
    }

    /// The six bytes of a hardware address, as twelve digits. Groups and nobody stay what they are.
    fn mac(&self, digits: &str) -> String {
        if digits.bytes().all(|byte| byte == b'0') || digits.bytes().all(|byte| matches!(byte, b'f' | b'F')) {
            return digits.to_owned();
        }
        self.count(Kind::Mac);
        let hash = self.hash("mac", digits.to_ascii_lowercase().as_bytes());
        // Locally administered (IEEE 802), so that it is nobody's.
        hash.iter().take(5).fold("02".to_owned(), |text, byte| format!("{text}{byte:02x}"))
    }

    /// Flips each bit by what stands before it: equal beginnings stay equal, and different ones different.
    fn flip(&self, bits: u128, width: u32, keep: u32) -> u128 {
        (keep..width).fold(bits, |out, at| {
            let before = bits.checked_shr(width - at).unwrap_or(0);
            let hash = self
                .hash("ip", &[&before.to_be_bytes()[..], &at.to_be_bytes(), &width.to_be_bytes()].concat());
            out ^ (u128::from(hash[0] & 1) << (width - 1 - at))
        })
    }

    /// Another IPv4 address. What is no single machine's stays: masks, loopback, groups, "any".
    pub fn ipv4(&self, bits: u32) -> u32 {
        let [first, second, ..] = bits.to_be_bytes();
        let mask = bits.leading_ones() + bits.trailing_zeros() >= 32;
        if mask || matches!(first, 0 | 127 | 224..=255) {
            return bits;
        }
        self.count(Kind::Ip);
        // Private networks (RFC 1918), shared (RFC 6598) and link-local addresses stay such.
        let keep = match (first, second) {
            (10, _) => 8,
            (172, 16..=31) => 12,
            (192, 168) | (169, 254) => 16,
            (100, 64..=127) => 10,
            _ => 0,
        };
        u32::try_from(self.flip(bits.into(), 32, keep)).unwrap_or(0)
    }

    /// Another IPv6 address.
    pub fn ipv6(&self, bits: u128) -> u128 {
        let address = Ipv6Addr::from(bits);
        if address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || bits.leading_ones() + bits.trailing_zeros() >= 128
        {
            return bits;
        }
        self.count(Kind::Ip);
        let keep = if bits >> 118 == 0xfe80 >> 6 || bits >> 121 == 0xfc >> 1 { 16 } else { 3 };
        self.flip(bits, 128, keep)
    }

    /// Text without what is personal.
    pub fn text(&self, text: &str) -> String {
        self.replace(text, true)
    }

    /// Text of the kernel's own, in which a name that is a common word is that word: ids and addresses only.
    pub fn ids(&self, text: &str) -> String {
        self.replace(text, false)
    }

    fn replace(&self, text: &str, words: bool) -> String {
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        let mut before: Option<char> = None;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            if let Some((length, with)) = self.found(rest, before, text.get(..at).unwrap_or_default(), words)
            {
                out.push_str(&with);
                at += length;
                before = text.get(..at).and_then(|done| done.chars().next_back());
                continue;
            }
            let Some(character) = rest.chars().next() else { break };
            out.push(character);
            before = Some(character);
            at += character.len_utf8();
        }
        out
    }

    /// Something personal at the start of a text: how long it is, and what stands in its place.
    fn found(&self, rest: &str, before: Option<char>, done: &str, words: bool) -> Option<(usize, String)> {
        if let Some(home) = self.home(rest, before).filter(|_| words) {
            return Some(home);
        }
        let begins = !before.is_some_and(|c| c.is_ascii_alphanumeric());
        if !begins {
            return None;
        }
        let first = rest.bytes().next()?;
        if !first.is_ascii_alphanumeric() && first != b':' {
            return self.after_key(rest, done);
        }
        self.after_key(rest, done)
            .or_else(|| self.uuid(rest))
            .or_else(|| self.hardware(rest, done))
            .or_else(|| self.pairs(rest, done))
            .or_else(|| self.address(rest, before))
            .or_else(|| if words { self.word(rest, before) } else { None })
    }

    fn hidden(&self) -> String {
        self.count(Kind::Secret);
        "left-out".to_owned()
    }

    /// 8-4-4-4-12 digits with `-` between, or `--` (the device mapper) or `\x2d` (systemd); or 32 digits.
    fn uuid(&self, rest: &str) -> Option<(usize, String)> {
        let hex = |from: usize, count: usize| {
            let part = rest.get(from..from + count)?;
            part.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(part)
        };
        let ends = |at: usize| {
            !rest.get(at..).and_then(|rest| rest.chars().next()).is_some_and(|c| c.is_ascii_alphanumeric())
        };
        if let Some(plain) = hex(0, 32).filter(|_| ends(32)) {
            return Some((32, self.shape(plain, Kind::Uuid)));
        }
        let start = hex(0, 8)?;
        let after = rest.get(8..)?;
        let between = ["\\x2d", "--", "-"].into_iter().find(|between| after.starts_with(between))?;
        let (mut at, mut digits, mut parts) = (8, start.to_owned(), vec![8]);
        for count in [4, 4, 4, 12] {
            if !rest.get(at..)?.starts_with(between) {
                return None;
            }
            at += between.len();
            digits.push_str(hex(at, count)?);
            parts.push(count);
            at += count;
        }
        if !ends(at) {
            return None;
        }
        let other = self.shape(&digits, Kind::Uuid);
        let mut from = 0;
        let pieces = parts.iter().filter_map(|count| {
            let piece = other.get(from..from + count);
            from += count;
            piece
        });
        Some((at, pieces.collect::<Vec<_>>().join(between)))
    }

    /// Hardware addresses after `enx` and its like; world-wide names.
    fn hardware(&self, rest: &str, done: &str) -> Option<(usize, String)> {
        let digits = |from: usize, count: usize| {
            let part = rest.get(from..from + count)?;
            part.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(part)
        };
        let ends = |at: usize| !rest.as_bytes().get(at).is_some_and(u8::is_ascii_alphanumeric);
        let name = ["enx", "wlx", "wwx"].into_iter().find(|name| rest.starts_with(name));
        if let (Some(name), Some(mac)) = (name, digits(3, 12).filter(|_| ends(15))) {
            return Some((15, format!("{name}{}", self.mac(mac))));
        }
        for name in ["wwn-0x", "naa.", "eui.", "nvme.", "0x5000"] {
            let Some(value) = rest.strip_prefix(name) else { continue };
            let length = value.bytes().take_while(u8::is_ascii_hexdigit).count();
            if length >= 12 && ends(name.len() + length) {
                let value = value.get(..length)?;
                return Some((name.len() + length, format!("{name}{}", self.shape(value, Kind::Serial))));
            }
        }
        // Names of machines and drives in networks of storage: RFC 3720, 3.2.6; NVMe Base, 4.7.
        let name =
            ["iqn.", "nqn."].into_iter().find(|name| rest.starts_with(name) && !done.ends_with('.'))?;
        let end = |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '<' | '>' | ',' | ')' | '/' | ';');
        let value = rest.get(name.len()..rest.find(end).unwrap_or(rest.len()))?;
        (value.len() >= 8)
            .then(|| (name.len() + value.len(), name.to_owned() + &self.shape(value, Kind::Serial)))
    }

    /// Hardware addresses: six pairs; more of them are those of other kinds of networks, or the boot loader's
    /// `BOOTIF=01-…`, where the first one is the kind.
    fn pairs(&self, rest: &str, done: &str) -> Option<(usize, String)> {
        let bytes = rest.as_bytes();
        let pair = |at: usize| {
            let pair = rest.get(at..at + 2)?;
            pair.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(pair)
        };
        let between = *bytes.get(2).filter(|byte| matches!(byte, b':' | b'-'))?;
        // Inside a longer row of digits, as an IPv6 address is.
        if let Some(before) = done.strip_suffix(char::from(between)) {
            let word = before.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            if word.is_empty() || word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return None;
            }
        }
        let mut all = vec![pair(0)?];
        while bytes.get(all.len() * 3 - 1) == Some(&between) {
            all.push(pair(all.len() * 3)?);
        }
        let length = all.len() * 3 - 1;
        if all.len() < 6 || bytes.get(length).is_some_and(u8::is_ascii_alphanumeric) {
            return None;
        }
        let joined = |digits: &str| {
            let pieces: Vec<&str> =
                (0..digits.len() / 2).filter_map(|at| digits.get(at * 2..at * 2 + 2)).collect();
            pieces.join(&char::from(between).to_string())
        };
        let with = match all.as_slice() {
            [kind, mac @ ..] if mac.len() == 6 => {
                format!("{kind}{}{}", char::from(between), joined(&self.mac(&mac.concat())))
            }
            mac if mac.len() == 6 => joined(&self.mac(&mac.concat())),
            all => joined(&self.shape(&all.concat(), Kind::Mac)),
        };
        Some((length, with))
    }

    fn address(&self, rest: &str, before: Option<char>) -> Option<(usize, String)> {
        // Versions (`v1.2.3.4`, `x-1.2.3.4`) and parts of longer numbers are none.
        if before.is_some_and(|c| matches!(c, '.' | '-' | '_' | ':' | '+' | '~')) {
            return None;
        }
        let run = |allowed: fn(&u8) -> bool| rest.bytes().take_while(allowed).count();
        let four = run(|byte| byte.is_ascii_digit() || *byte == b'.');
        let ends = |at: usize| {
            !rest
                .as_bytes()
                .get(at)
                .is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        };
        let trimmed = rest.get(..four)?.trim_end_matches('.');
        if let Ok(address) = trimmed.parse::<std::net::Ipv4Addr>() {
            if ends(trimmed.len()) || trimmed.len() < four {
                let other = std::net::Ipv4Addr::from(self.ipv4(address.into()));
                return Some((trimmed.len(), other.to_string()));
            }
        }
        let six = run(|byte| byte.is_ascii_hexdigit() || *byte == b':');
        let text = rest.get(..six)?;
        let colons = text.bytes().filter(|byte| *byte == b':').count();
        if colons < 2 || !ends(six) {
            return None;
        }
        let address: Ipv6Addr = text.parse().ok()?;
        Some((six, Ipv6Addr::from(self.ipv6(address.into())).to_string()))
    }

    fn word(&self, rest: &str, before: Option<char>) -> Option<(usize, String)> {
        if before == Some('_') {
            return None;
        }
        let (word, with, kind) = self.words.iter().find(|(word, ..)| {
            let same = rest.get(..word.len()).is_some_and(|start| start.to_lowercase() == *word);
            let next = rest.get(word.len()..).and_then(|rest| rest.chars().next());
            same && !next.is_some_and(|c| c.is_alphanumeric() || c == '_')
        })?;
        self.count(*kind);
        Some((word.len(), with.clone()))
    }
}

#[cfg(test)]
#[path = "scrub_tests.rs"]
mod tests;
