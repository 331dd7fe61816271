//! What the firmware offers: the names of its ACPI tables. Their contents need root; their names do not.

use super::{Acpi, look::Look};

/// Which of the tables that describe an IOMMU are there: DMAR is Intel's, IVRS is AMD's.
pub(super) fn acpi(look: &Look) -> Acpi {
    match look.list("/sys/firmware/acpi/tables") {
        // The folder holds at least a DSDT and a FADT on any machine with ACPI; an empty one was not saved.
        Some(tables) if !tables.is_empty() => {
            // Several tables of one name are numbered: SSDT1, SSDT2.
            let has = |name: &str| tables.iter().any(|table| table.starts_with(name));
            Acpi { dmar: Some(has("DMAR")), ivrs: Some(has("IVRS")) }
        }
        _ => Acpi { dmar: None, ivrs: None },
    }
}
