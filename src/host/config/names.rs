//! Capabilities by name: include/uapi/linux/pci_regs.h, `PCI_CAP_ID_*` and `PCI_EXT_CAP_ID_*`.

use crate::pci::ParseError;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// A capability: what it is, and where it stands in config space. Written `express@60`, `acs@148` (the offset in hex
/// digits); one without a name is written by its id, `id-1f@60`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability {
    /// Its number: 8 bits below offset 100 (hex), 16 bits from there on.
    pub id: u16,
    /// Where its header is, in bytes. From 256 on it is an extended capability.
    pub offset: u16,
}

impl Capability {
    /// Its name, where it has one here.
    pub fn name(self) -> Option<&'static str> {
        let names: &[(u16, &str)] = if self.offset < 0x100 { &STANDARD } else { &EXTENDED };
        names.iter().find(|(id, _)| *id == self.id).map(|(_, name)| *name)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name}@{:x}", self.offset),
            None => write!(f, "id-{:x}@{:x}", self.id, self.offset),
        }
    }
}

impl FromStr for Capability {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let hex = |text: &str| {
            let good = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if good { u16::from_str_radix(text, 16).ok() } else { None }
        };
        let parse = || {
            let (name, offset) = text.rsplit_once('@')?;
            let offset = hex(offset).filter(|offset| *offset < 0x1000)?;
            let names: &[(u16, &str)] = if offset < 0x100 { &STANDARD } else { &EXTENDED };
            let named = names.iter().find(|(_, own)| *own == name).map(|(id, _)| *id);
            let id = named.or_else(|| name.strip_prefix("id-").and_then(hex))?;
            Some(Self { id, offset })
        };
        parse().ok_or_else(|| ParseError::new(text, "capability", "one looks like express@60"))
    }
}

impl Serialize for Capability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Capability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

pub(super) const POWER: u16 = 0x01;
pub(super) const MSI: u16 = 0x05;
pub(super) const EXPRESS: u16 = 0x10;
pub(super) const MSI_X: u16 = 0x11;
pub(super) const ADVANCED_FEATURES: u16 = 0x13;
pub(super) const SERIAL: u16 = 0x03;
pub(super) const ACS: u16 = 0x0d;
pub(super) const SR_IOV: u16 = 0x10;
pub(super) const RESIZABLE: u16 = 0x15;

const STANDARD: [(u16, &str); 20] = [
    (POWER, "power-management"),
    (0x02, "agp"),
    (0x03, "vital-product-data"),
    (0x04, "slot-id"),
    (MSI, "msi"),
    (0x06, "compact-pci-hot-swap"),
    (0x07, "pci-x"),
    (0x08, "hypertransport"),
    (0x09, "vendor"),
    (0x0a, "debug-port"),
    (0x0b, "compact-pci-control"),
    (0x0c, "hot-plug"),
    (0x0d, "bridge-subsystem"),
    (0x0e, "agp-8x"),
    (0x0f, "secure-device"),
    (EXPRESS, "express"),
    (MSI_X, "msi-x"),
    (0x12, "sata"),
    (ADVANCED_FEATURES, "advanced-features"),
    (0x14, "enhanced-allocation"),
];

const EXTENDED: [(u16, &str); 39] = [
    (0x01, "error-reporting"),
    (0x02, "virtual-channel"),
    (SERIAL, "serial-number"),
    (0x04, "power-budget"),
    (0x05, "root-complex-link"),
    (0x06, "root-complex-internal-link"),
    (0x07, "event-collector"),
    (0x08, "multifunction-virtual-channel"),
    (0x09, "virtual-channel-9"),
    (0x0a, "root-complex-registers"),
    (0x0b, "vendor"),
    (0x0c, "config-correlation"),
    (ACS, "acs"),
    (0x0e, "ari"),
    (0x0f, "ats"),
    (SR_IOV, "sr-iov"),
    (0x11, "mr-iov"),
    (0x12, "multicast"),
    (0x13, "page-request"),
    (0x14, "amd-reserved"),
    (RESIZABLE, "resizable-bar"),
    (0x16, "dynamic-power"),
    (0x17, "processing-hints"),
    (0x18, "latency-tolerance"),
    (0x19, "secondary-express"),
    (0x1a, "protocol-multiplexing"),
    (0x1b, "pasid"),
    (0x1d, "downstream-port-containment"),
    (0x1e, "l1-substates"),
    (0x1f, "precision-time"),
    (0x23, "designated-vendor"),
    (0x24, "vf-resizable-bar"),
    (0x25, "data-link-feature"),
    (0x26, "physical-layer-16"),
    (0x27, "lane-margining"),
    (0x2a, "physical-layer-32"),
    (0x2e, "data-object-exchange"),
    (0x2f, "device-3"),
    (0x31, "physical-layer-64"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_reads_as_it_is_written() {
        for offset in [0x40, 0xfc, 0x100, 0xffc] {
            for id in 0..0x120 {
                let capability = Capability { id, offset };
                assert_eq!(capability.to_string().parse(), Ok(capability));
            }
        }
        assert_eq!(Capability { id: ACS, offset: 0x148 }.to_string(), "acs@148");
        for odd in ["", "@", "acs", "acs@40", "express@1000", "id-@40", "id-10000@40", "id-+1@40"] {
            assert!(odd.parse::<Capability>().is_err(), "{odd}");
        }
    }
}
