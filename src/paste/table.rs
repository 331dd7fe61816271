//! Tables: cells between bars, with a row of names above (`pvesh get /nodes/NODE/hardware/pci`, Markdown).
//!
//! Pure: one line in, a function's facts out. A table without a name for its groups, or with several addresses in a
//! row, is none.

use super::{
    device::{self, Row},
    words::{class_by_name, hex, id, leading_address, number},
};
use crate::pci::Class;

/// Columns of a table that is being read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Columns {
    group: Option<usize>,
    class: Option<usize>,
    vendor: Option<usize>,
    device: Option<usize>,
    name: Option<usize>,
    driver: Option<usize>,
}

/// The cells of a line, where it has bars at all.
fn cells(text: &str) -> Option<Vec<&str>> {
    let bar = if text.contains('│') { '│' } else { '|' };
    if text.matches(bar).count() < 2 {
        return None;
    }
    let text = text.trim().trim_start_matches(bar).trim_end_matches(bar);
    Some(text.split(bar).map(str::trim).take(32).collect())
}

/// The row of names above a table.
pub(super) fn names(text: &str) -> Option<Columns> {
    let cells = cells(text)?;
    let mut columns = Columns::default();
    for (index, cell) in cells.iter().enumerate() {
        let name = cell.to_lowercase().replace(['_', '-', ' ', '*'], "");
        let place = match name.as_str() {
            "iommugroup" | "group" | "grp" | "iommu" => &mut columns.group,
            "class" | "type" => &mut columns.class,
            "vendor" | "vendorid" => &mut columns.vendor,
            "device" | "deviceid" => &mut columns.device,
            "devicename" | "name" | "description" => &mut columns.name,
            "driver" | "kerneldriver" | "driverinuse" => &mut columns.driver,
            _ => continue,
        };
        place.get_or_insert(index);
    }
    columns.group.is_some().then_some(columns)
}

/// A row of a table; its group.
pub(super) fn row(columns: &Columns, text: &str) -> Option<(Row, Option<u32>)> {
    let cells = cells(text)?;
    let addresses = cells.iter().filter_map(|cell| leading_address(cell.trim_matches('`')));
    let mut addresses = addresses.filter(|(_, rest)| rest.is_empty() || rest.starts_with(' '));
    let (address, rest) = addresses.next()?;
    if addresses.next().is_some() {
        return None;
    }
    let cell = |column: Option<usize>| {
        column.and_then(|column| cells.get(column)).map(|cell| cell.trim_matches('`'))
    };
    let code = |column: Option<usize>| cell(column).and_then(|cell| cell.strip_prefix("0x")).and_then(id);
    let group = cell(columns.group).and_then(number);
    // The whole row as a line of lspci's, for what stands in cells without a name of their own.
    let words: Vec<&str> = cells
        .iter()
        .enumerate()
        .filter(|(index, cell)| Some(*index) != columns.group && leading_address(cell).is_none())
        .map(|(_, cell)| *cell)
        .filter(|cell| !cell.starts_with("0x"))
        .collect();
    let mut row = device::parse(&format!("{address} {} {}", rest.trim(), words.join(" | ")))?;
    if let Some(class) = cell(columns.class) {
        let digits = class.strip_prefix("0x").unwrap_or_default();
        match hex(digits, 6) {
            Some(code) => (row.class, row.interface) = (Some(Class(code)), true),
            None => row.class = row.class.or_else(|| class_by_name(class)),
        }
    }
    if let (Some(vendor), Some(code)) = (code(columns.vendor), code(columns.device)) {
        (row.vendor, row.device) = (Some(vendor), Some(code));
        row.name = None;
    }
    row.driver = row.driver.or_else(|| cell(columns.driver).and_then(device::driver_name));
    Some((row, group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_names_above_it() {
        let columns =
            names("│ class    │ device │ id           │ iommugroup │ vendor │ device_name │").unwrap();
        let (found, group) =
            row(&columns, "│ 0x030000 │ 0x2204 │ 0000:01:00.0 │         15 │ 0x10de │ GA102 │").unwrap();
        assert_eq!(group, Some(15));
        assert_eq!(
            (found.vendor, found.device, found.class),
            (Some(0x10de), Some(0x2204), Some(Class(0x03_0000)))
        );
        let (_, group) =
            row(&columns, "│ 0x060000 │ 0x2204 │ 0000:00:00.0 │         -1 │ 0x10de │ GA102 │").unwrap();
        assert_eq!(group, None);
        assert_eq!(row(&columns, "├──────────┼────────┼──────────────┼"), None);
        let columns = names("| Group | Address | Device | Driver |").unwrap();
        let (found, group) = row(
            &columns,
            "| 2 | 01:00.0 | VGA compatible controller: NVIDIA Corporation GA102 [10de:2204] | vfio-pci |",
        )
        .unwrap();
        assert_eq!((group, found.device, found.driver.as_deref()), (Some(2), Some(0x2204), Some("vfio-pci")));
        assert_eq!(names("| a | b | c |"), None);
    }
}
