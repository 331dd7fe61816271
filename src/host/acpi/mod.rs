//! What the firmware says about its IOMMU: the ACPI tables DMAR (Intel) and IVRS (AMD).
//!
//! Their names are for everybody to see, their contents for root. The parsers are pure and never fail; a structure that
//! is cut off or of an impossible length ends the table.

mod dmar;
mod ivrs;

pub use dmar::{Dmar, DmarUnit, ReservedMemory, Scope, ScopeKind};
pub use ivrs::{Ivrs, IvrsMemory, IvrsUnit};

use super::{Acpi, Function, look::Look};

const TABLES: &str = "/sys/firmware/acpi/tables";

/// Real tables have a few kilobytes.
const MOST: usize = 1 << 20;

/// Header of every table (ACPI specification, "System Description Table Header"): signature, length, and more.
const HEADER: usize = 36;

/// Which of the tables that describe an IOMMU are there, and what they say.
pub(super) fn acpi(look: &Look) -> Acpi {
    let nothing = Acpi { dmar: None, ivrs: None, dmar_table: None, ivrs_table: None };
    match look.list(TABLES) {
        // The folder holds at least a DSDT and a FADT on any machine with ACPI; an empty one was not saved.
        Some(tables) if !tables.is_empty() => {
            // Several tables of one name are numbered: SSDT1, SSDT2.
            let named = |name: &str| tables.iter().find(|table| table.starts_with(name));
            let bytes = |table: Option<&String>| look.start_quietly(&format!("{TABLES}/{}", table?), MOST);
            let (dmar, ivrs) = (named("DMAR"), named("IVRS"));
            Acpi {
                dmar: Some(dmar.is_some()),
                ivrs: Some(ivrs.is_some()),
                dmar_table: bytes(dmar).and_then(|bytes| Dmar::parse(&bytes)),
                ivrs_table: bytes(ivrs).and_then(|bytes| Ivrs::parse(&bytes)),
            }
        }
        _ => nothing,
    }
}

impl Acpi {
    /// Memory that the firmware wants this function to keep reaching at the same addresses: first and last byte.
    /// `None` where the tables could not be read.
    pub fn reserved_for(&self, function: &Function) -> Option<Vec<(u64, u64)>> {
        let by_dmar = self.dmar_table.as_ref().map(|table| table.reserved_for(function));
        let by_ivrs = self.ivrs_table.as_ref().map(|table| table.reserved_for(function));
        match (by_dmar, by_ivrs) {
            (None, None) if self.dmar == Some(false) && self.ivrs == Some(false) => Some(Vec::new()),
            (None, None) => None,
            (one, other) => Some(one.into_iter().chain(other).flatten().collect()),
        }
    }
}

/// Little end first, at an offset.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(length)?)?;
    Some(part.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// The table after its header, as far as the header says that it goes.
fn body(bytes: &[u8], signature: [u8; 4]) -> Option<&[u8]> {
    if !bytes.starts_with(&signature) {
        return None;
    }
    let length = usize::try_from(number(bytes, 4, 4)?).ok()?;
    bytes.get(HEADER..length.min(bytes.len()))
}
