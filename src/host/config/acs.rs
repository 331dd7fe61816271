//! Access Control Services: what keeps the devices behind a port apart from one another.
//!
//! Source: PCI Express Base Specification, "Access Control Services"; drivers/pci/pci.c, `pci_acs_enabled`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A set of access controls (include/uapi/linux/pci_regs.h, `PCI_ACS_*`). In JSON a list of lspci's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Controls(pub u16);

/// Bits and lspci's names for them.
const NAMES: [(u16, &str); 7] = [
    (0x01, "SrcValid"),
    (0x02, "TransBlk"),
    (0x04, "ReqRedir"),
    (0x08, "CmpltRedir"),
    (0x10, "UpstreamFwd"),
    (0x20, "EgressCtrl"),
    (0x40, "DirectTrans"),
];

impl Controls {
    /// Source validation, request redirect, completion redirect and upstream forwarding: what the kernel asks for
    /// before it takes two devices for isolated (drivers/iommu/iommu.c, `REQ_ACS_FLAGS`).
    pub const REQUIRED: Self = Self(0x1d);

    /// Names, as lspci has them.
    pub fn names(self) -> Vec<&'static str> {
        NAMES.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, name)| *name).collect()
    }

    /// The set of these names of lspci; what is no name is left out.
    pub fn of<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let bit = |name: &str| NAMES.iter().find(|(_, own)| *own == name).map_or(0, |(bit, _)| *bit);
        Self(names.into_iter().fold(0, |all, name| all | bit(name)))
    }
}

impl Serialize for Controls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.names().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Controls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let wrong = names.iter().find(|name| NAMES.iter().all(|(_, own)| own != name));
        match wrong {
            Some(wrong) => Err(de::Error::custom(format!("`{wrong}` is no access control"))),
            None => Ok(Self::of(names.iter().map(String::as_str))),
        }
    }
}

/// The capability for access control of a function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acs {
    /// The part of config space where it would be was not told.
    #[default]
    Unknown,
    /// The function has none.
    Missing,
    /// It is there.
    Present {
        /// What the function can do.
        can: Controls,
        /// What is switched on.
        on: Controls,
    },
}

/// [`Acs`] in a word: what a person asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Setting {
    /// Not told.
    Unknown,
    /// The hardware has none.
    Missing,
    /// It is there, and not everything that isolation needs is on.
    Off,
    /// Everything that isolation needs and the function can do is on.
    On,
}

impl Acs {
    /// As the kernel sees it: each control that is required must be on where the function can do it
    /// (drivers/pci/pci.c, `pci_acs_flags_enabled`).
    pub fn setting(self) -> Setting {
        match self {
            Self::Unknown => Setting::Unknown,
            Self::Missing => Setting::Missing,
            Self::Present { can, on } => {
                let needed = Controls::REQUIRED.0 & can.0;
                if on.0 & needed == needed { Setting::On } else { Setting::Off }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_and_there_must_be_on() {
        let acs = |can, on| Acs::Present { can: Controls(can), on: Controls(on) }.setting();
        assert_eq!(acs(0x1f, 0x1d), Setting::On);
        assert_eq!(acs(0x1f, 0x00), Setting::Off);
        assert_eq!(acs(0x1f, 0x0d), Setting::Off, "upstream forwarding is missing");
        assert_eq!(acs(0x0f, 0x0d), Setting::On, "what the port cannot do is not asked of it");
        assert_eq!(
            acs(0x00, 0x00),
            Setting::On,
            "a function that cannot send to its neighbours needs no control"
        );
        assert_eq!(Acs::Missing.setting(), Setting::Missing);
    }

    #[test]
    fn names_are_those_of_lspci() {
        let all = Controls(0x7f);
        assert_eq!(Controls::of(all.names()), all);
        assert_eq!(serde_json::to_string(&Controls(5)).unwrap(), r#"["SrcValid","ReqRedir"]"#);
        assert_eq!(serde_json::from_str::<Controls>(r#"["SrcValid"]"#).unwrap(), Controls(1));
        assert!(serde_json::from_str::<Controls>(r#"["Nonsense"]"#).is_err());
    }
}
