//! Takes out of text what names a person, a machine or a network: addresses, ids, names. Pure, but for its key.
//!
//! The same value becomes the same other value, in this capture and in the next one of the same machine, so that
//! what belongs together stays together; nobody without the machine's own id can go back. Networks keep their
//! shape: two addresses in one network are in one network afterwards.

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
            .or_else(|| self.hardware(rest, before))
            .or_else(|| self.address(rest, before))
            .or_else(|| if words { self.word(rest, before) } else { None })
    }

    /// A value whose key says what it is: `UUID=…`, `SerialNumber: …`, `by-id/…`, `passwd='…'`, `<serial>…`.
    fn after_key(&self, rest: &str, done: &str) -> Option<(usize, String)> {
        let tail = done.trim_end_matches(['\'', '"']);
        let ends = |key: &str| {
            let from = tail.len().checked_sub(key.len());
            from.and_then(|from| tail.get(from..)).is_some_and(|have| have.eq_ignore_ascii_case(key))
        };
        let kind = if SECRETS.iter().any(|key| ends(key)) {
            Kind::Secret
        } else if SERIALS.iter().any(|key| ends(key)) {
            Kind::Serial
        } else if IDS.iter().any(|key| ends(key)) {
            Kind::Uuid
        } else {
            return None;
        };
        let end =
            |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '<' | '>' | ',' | '&' | ')' | '/' | ';');
        let length = rest.find(end).unwrap_or(rest.len());
        let value = rest.get(..length).filter(|value| !value.is_empty())?;
        // A UUID keeps its own way, so that it is the same where no key stands before it.
        if let Some(found) = self.uuid(value).filter(|(length, _)| *length == value.len()) {
            return Some(found);
        }
        let with = if kind == Kind::Secret { self.hidden() } else { self.shape(value, kind) };
        Some((length, with))
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

    /// Hardware addresses: six pairs, or twelve digits after `enx` and its like; world-wide names.
    fn hardware(&self, rest: &str, before: Option<char>) -> Option<(usize, String)> {
        let bytes = rest.as_bytes();
        let digits = |from: usize, count: usize| {
            let part = rest.get(from..from + count)?;
            part.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(part)
        };
        let ends = |at: usize, also: &[u8]| {
            !bytes.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || also.contains(byte))
        };
        let name = ["enx", "wlx", "wwx"].into_iter().find(|name| rest.starts_with(name));
        if let (Some(name), Some(mac)) = (name, digits(3, 12).filter(|_| ends(15, b""))) {
            return Some((15, format!("{name}{}", self.mac(mac))));
        }
        for name in ["wwn-0x", "naa.", "eui.", "nvme.", "0x5000"] {
            let Some(value) = rest.strip_prefix(name) else { continue };
            let length = value.bytes().take_while(u8::is_ascii_hexdigit).count();
            if length >= 12 && ends(name.len() + length, b"") {
                let value = value.get(..length)?;
                return Some((name.len() + length, format!("{name}{}", self.shape(value, Kind::Serial))));
            }
        }
        let between = *bytes.get(2).filter(|byte| matches!(byte, b':' | b'-'))?;
        if before == Some(char::from(between)) || !ends(17, &[between]) {
            return None;
        }
        let pairs: Option<Vec<&str>> = (0..6)
            .map(|pair| {
                let joined = pair == 5 || bytes.get(pair * 3 + 2) == Some(&between);
                digits(pair * 3, 2).filter(|_| joined)
            })
            .collect();
        let other = self.mac(&pairs?.concat());
        let pieces: Vec<&str> = (0..6).filter_map(|pair| other.get(pair * 2..pair * 2 + 2)).collect();
        Some((17, pieces.join(&char::from(between).to_string())))
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

/// Keys whose value is hidden.
const SECRETS: &[&str] = &[
    "password=",
    "passwd=",
    "passphrase=",
    "psk=",
    "secret=",
    "token=",
    "password ",
    "grub.pbkdf2.",
    "pass=",
];

/// Keys whose value is a serial number, or holds one.
const SERIALS: &[&str] = &[
    "serial=",
    "serial_short=",
    "serialnumber: ",
    "serial number: ",
    "<serial>",
    "serial>",
    "by-id/",
    "wwid=",
    "wwn=",
    "uniq=",
    "serial: ",
    "wwn_with_extension=",
];

/// Keys whose value is the id of a filesystem or the like; many are UUIDs, FAT's and NTFS's are not.
const IDS: &[&str] =
    &["uuid=", "by-uuid/", "by-partuuid/", "uuid_enc=", "uuid_sub=", "uuid>", "machine_id=", "entry_uuid="];

#[cfg(test)]
#[path = "scrub_tests.rs"]
mod tests;
