//! Names of PCI things: address, path from the root port, ids, class. Parsed once at the border, typed inside.
//!
//! Nothing here reads a machine. Addresses are written as the kernel writes them (`0000:01:00.0`, a domain of
//! four or more hex digits), paths as the kernel's own `pci=` parameters write them
//! (Documentation/admin-guide/kernel-parameters.txt: `[<domain>:]<bus>:<dev>.<func>[/<dev>.<func>]*`).

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// Why a text is not the address, path or id it should be. The message quotes the text and says what is right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a PCI {what}; {right}")]
pub struct ParseError {
    text: String,
    what: &'static str,
    right: &'static str,
}

impl ParseError {
    pub(crate) fn new(text: &str, what: &'static str, right: &'static str) -> Self {
        Self { text: text.to_owned(), what, right }
    }
}

/// The address of a PCI function: domain, bus, device (5 bits), function (3 bits).
///
/// Good for one boot only: bus numbers move when a card is added. What stays is the [`DevicePath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// PCI domain (segment); wider than 16 bits behind Intel VMD (`10000:01:00.0`).
    pub domain: u32,
    /// Bus number.
    pub bus: u8,
    /// Device number on the bus, 0 to 31.
    pub device: u8,
    /// Function number of the device, 0 to 7.
    pub function: u8,
}

impl Address {
    /// The same slot, another function.
    #[must_use]
    pub fn with_function(self, function: u8) -> Self {
        Self { function: function & 7, ..self }
    }

    /// True where both are functions of one slot.
    pub fn same_slot(self, other: Self) -> bool {
        self.with_function(0) == other.with_function(0)
    }

    /// The slot as a word for file and unit names: `0000-01-00`.
    pub fn slot_name(self) -> String {
        format!("{:04x}-{:02x}-{:02x}", self.domain, self.bus, self.device)
    }

    /// Device and function, as one step of a [`DevicePath`].
    pub fn device_function(self) -> DeviceFunction {
        DeviceFunction { device: self.device, function: self.function }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = *self;
        if domain > 0xffff {
            return write!(f, "{domain:x}:{bus:02x}:{device:02x}.{function:x}");
        }
        let [d3, d2, d1, d0] = digits(domain);
        let ([b1, b0], [s1, s0]) = (digits(bus.into()), digits(device.into()));
        let [f0] = digits(function.into());
        f.write_str(written(&[d3, d2, d1, d0, b':', b1, b0, b':', s1, s0, b'.', f0]))
    }
}

/// Lower-case hex digits. A server's JSON has a hundred thousand such numbers; `{:04x}` takes seven times as long.
fn digits<const N: usize>(number: u32) -> [u8; N] {
    std::array::from_fn(|at| {
        let digit = (number >> (4 * (N - 1 - at)) & 0xf) as u8;
        if digit < 10 { b'0' + digit } else { b'a' - 10 + digit }
    })
}

/// What [`digits`] made.
fn written(digits: &[u8]) -> &str {
    std::str::from_utf8(digits).unwrap_or_default()
}

/// Hex digits only (`from_str_radix` would take a sign), at most `max` of them.
fn hex(text: &str, max: usize) -> Option<u32> {
    let good = !text.is_empty() && text.len() <= max && text.bytes().all(|b| b.is_ascii_hexdigit());
    if good { u32::from_str_radix(text, 16).ok() } else { None }
}

fn byte(text: &str) -> Option<u8> {
    hex(text, 2).and_then(|n| u8::try_from(n).ok())
}

impl FromStr for Address {
    type Err = ParseError;

    /// Takes `0000:01:00.0` and, as lspci prints it, `01:00.0` (domain 0).
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parse = || {
            let (front, last) = text.rsplit_once(':')?;
            let (domain, bus) = match front.split_once(':') {
                Some((domain, bus)) if domain.len() >= 4 => (hex(domain, 8)?, byte(bus)?),
                Some(_) => return None,
                None => (0, byte(front)?),
            };
            let DeviceFunction { device, function } = last.parse().ok()?;
            Some(Self { domain, bus, device, function })
        };
        parse().ok_or_else(|| ParseError {
            text: text.to_owned(),
            what: "address",
            right: "one looks like 0000:01:00.0 (domain:bus:device.function, hexadecimal)",
        })
    }
}

/// `device.function`: one step below a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceFunction {
    /// Device number on its bus, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl fmt::Display for DeviceFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([d1, d0], [f0]) = (digits(self.device.into()), digits(self.function.into()));
        f.write_str(written(&[d1, d0, b'.', f0]))
    }
}

impl FromStr for DeviceFunction {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parse = || {
            let (device, function) = text.split_once('.')?;
            let (device, function) = (byte(device)?, hex(function, 1)?);
            let function = u8::try_from(function).ok()?;
            (device < 32 && function < 8).then_some(Self { device, function })
        };
        parse().ok_or_else(|| ParseError {
            text: text.to_owned(),
            what: "device and function",
            right: "they look like 00.0 (device up to 1f, function up to 7)",
        })
    }
}

/// The way from the root bus to a function: `0000:00:01.0/00.0`. It stays when bus numbers move.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevicePath {
    /// The function on the root bus (a root port, or the device itself).
    pub root: Address,
    /// The steps below it, a `device.function` for each bus that is crossed.
    pub below: Vec<DeviceFunction>,
}

/// Buses a path may cross; a real tree has fewer than ten.
const MAX_STEPS: usize = 64;

impl DevicePath {
    /// The path of what lies at `step` behind the bridge at this path.
    #[must_use]
    pub fn child(&self, step: DeviceFunction) -> Self {
        let mut path = self.clone();
        path.below.push(step);
        path
    }

    /// The path of another function of the same slot.
    #[must_use]
    pub fn with_function(&self, function: u8) -> Self {
        let mut path = self.clone();
        match path.below.last_mut() {
            Some(last) => last.function = function & 7,
            None => path.root = path.root.with_function(function),
        }
        path
    }
}

impl fmt::Display for DevicePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)?;
        self.below.iter().try_for_each(|step| {
            f.write_str("/")?;
            step.fmt(f)
        })
    }
}

impl FromStr for DevicePath {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError {
            text: text.to_owned(),
            what: "device path",
            right: "one looks like 0000:00:01.0/00.0 (root port, then device.function behind each bridge)",
        };
        let mut parts = text.split('/');
        let root = parts.next().and_then(|root| root.parse().ok()).ok_or_else(wrong)?;
        let below: Result<Vec<_>, _> = parts.take(MAX_STEPS + 1).map(str::parse).collect();
        match below {
            Ok(below) if below.len() <= MAX_STEPS => Ok(Self { root, below }),
            _ => Err(wrong()),
        }
    }
}

/// Vendor and device id, written `10de:2204`. Also used for the subsystem's two ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

impl FromStr for DeviceId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let half = |part: &str| if part.len() == 4 { hex(part, 4) } else { None };
        let parse = || {
            let (vendor, device) = text.split_once(':')?;
            let (vendor, device) = (half(vendor)?, half(device)?);
            Some(Self { vendor: u16::try_from(vendor).ok()?, device: u16::try_from(device).ok()? })
        };
        parse().ok_or_else(|| ParseError {
            text: text.to_owned(),
            what: "id",
            right: "one looks like 10de:2204 (vendor:device, four hex digits each)",
        })
    }
}

/// Class code: base class, subclass, programming interface, as `030000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub u32);

impl Class {
    /// Base class: 03 is a display controller, 06 a bridge (pci.ids, list of classes).
    pub fn base(self) -> u8 {
        (self.0 >> 16 & 0xff) as u8
    }

    /// Base class and subclass: 0300 is a VGA controller.
    pub fn subclass(self) -> u16 {
        (self.0 >> 8 & 0xffff) as u16
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(written(&digits::<6>(self.0)))
    }
}

impl FromStr for Class {
    type Err = ParseError;

    /// Takes six hex digits, with the `0x` of sysfs or without.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let class = if digits.len() == 6 { hex(digits, 6) } else { None };
        class.map(Self).ok_or_else(|| ParseError {
            text: text.to_owned(),
            what: "class",
            right: "one looks like 030000",
        })
    }
}

/// Serde by way of `Display` and `FromStr`: the JSON is the text a person would write.
macro_rules! as_text {
    ($($name:ty),*) => { $(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )* };
}
as_text!(Address, DeviceFunction, DevicePath, DeviceId, Class);

/// A 16-bit id as four lower-case hex digits in JSON (`"10de"`), for `#[serde(with = "hex_id")]`.
pub mod hex_id {
    use super::{Deserialize, Deserializer, Serializer, de, digits, hex, written};

    /// Writes four lower-case hex digits.
    pub fn serialize<S: Serializer>(id: &u16, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(written(&digits::<4>((*id).into())))
    }

    /// Reads up to four hex digits.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex(&text, 4)
            .and_then(|n| u16::try_from(n).ok())
            .ok_or_else(|| de::Error::custom(format!("`{text}` is not four hex digits")))
    }
}

/// As [`hex_id`], for an id that may be unknown (`null`).
pub mod hex_id_opt {
    use super::{Deserialize, Deserializer, Serializer, de, hex};

    /// Writes four lower-case hex digits, or null.
    pub fn serialize<S: Serializer>(id: &Option<u16>, serializer: S) -> Result<S::Ok, S::Error> {
        match id {
            Some(id) => super::hex_id::serialize(id, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads up to four hex digits, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let id = hex(&text, 4).and_then(|n| u16::try_from(n).ok());
        id.map(Some).ok_or_else(|| de::Error::custom(format!("`{text}` is not four hex digits")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_it_is_written() {
        for text in ["0000:01:00.0", "10000:e1:1f.7", "0000:ff:1f.7"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("01:00.1".parse::<Address>().unwrap().to_string(), "0000:01:00.1");
    }

    #[test]
    fn what_is_no_address_is_named() {
        for text in
            ["", ":", "01:00", "01:20.0", "01:00.8", "001:01:00.0", "0000:101:00.0", "+1:00.0", "é1:00.0"]
        {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains("0000:01:00.0"), "{text}: {error}");
        }
    }

    #[test]
    fn a_path_is_the_kernel_form() {
        let path: DevicePath = "0000:00:01.1/00.0/02.3".parse().unwrap();
        assert_eq!(path.to_string(), "0000:00:01.1/00.0/02.3");
        assert_eq!(path.with_function(1).to_string(), "0000:00:01.1/00.0/02.1");
        let root: DevicePath = "0000:00:02.0".parse().unwrap();
        assert_eq!(root.with_function(1).to_string(), "0000:00:02.1");
        assert!("0000:00:01.0/".parse::<DevicePath>().is_err());
        assert!(format!("0000:00:01.0{}", "/00.0".repeat(65)).parse::<DevicePath>().is_err());
    }

    #[test]
    fn ids_and_classes() {
        assert_eq!("10de:2204".parse::<DeviceId>().unwrap(), DeviceId { vendor: 0x10de, device: 0x2204 });
        assert!("10de:22041".parse::<DeviceId>().is_err());
        let class: Class = "0x030000".parse().unwrap();
        assert_eq!((class.base(), class.subclass(), class.to_string().as_str()), (3, 0x300, "030000"));
    }
}
