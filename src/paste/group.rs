//! Lines that name an IOMMU group: headings of the many group scripts, and paths below /sys/kernel/iommu_groups.
//!
//! Pure: one line in, what it says out.

use super::words::{addresses, leading_number, number};
use crate::pci::Address;

/// A heading: `IOMMU Group 1:`, `Group:  1   …`, `IOMMU GROUP 0`, `### group #3`, and what follows the number.
pub(super) fn heading(line: &str) -> Option<(u32, &str)> {
    let marks =
        [' ', '\t', '#', '*', '=', '-', '+', '|', '│', '├', '└', '─', '•', '"', '[', '(', '<', '/', '\''];
    let mut rest = line.trim_start_matches(marks);
    // `cat -n`.
    if let Some((_, after)) = leading_number(rest) {
        let after = after.trim_start();
        if starts_with(after, "iommu") || starts_with(after, "group") {
            rest = after;
        }
    }
    let mut named = true;
    if let Some(after) = translated(rest) {
        rest = after;
    } else {
        named = starts_with(rest, "iommu");
        if named {
            rest = rest.get(5..)?.trim_start_matches([' ', '_', '-', '\t']);
        }
        if !starts_with(rest, "group") {
            return None;
        }
        rest = rest.get(5..)?;
    }
    if starts_with(rest, "id") || starts_with(rest, " id") {
        rest = rest.trim_start().get(2..)?;
    }
    let rest = rest.trim_start_matches([' ', '\t', ':', '#', '=', '_', '-', '(', '[', '*']);
    let (group, after) = leading_number(rest)?;
    // `group 1.5` and `group 3rd` are sentences.
    if after.starts_with(|next: char| next.is_alphanumeric() || next == '.' || next == '_') {
        return None;
    }
    let after = after
        .trim_start_matches([' ', '\t', ':', '*', '=', '#', '-', '>', ')', ']', '|', '│', '"', ',', '→']);
    // A heading has nothing after the number, or a function.
    let plain = named || after.is_empty() || !addresses(after).is_empty();
    plain.then_some((group, after))
}

/// What people made of `IOMMU Group` in their own language; what follows it.
fn translated(text: &str) -> Option<&str> {
    let words = [
        "groupe iommu",
        "grupo iommu",
        "gruppo iommu",
        "gruppe iommu",
        "grupa iommu",
        "iommu-gruppe",
        "iommu gruppe",
        "iommu-groep",
        "iommu-grupp",
        "iommu groep",
        "iommu 组",
        "iommu组",
        "iommu 群組",
        "iommu群組",
        "iommu 分组",
        "iommu分组",
        "iommu グループ",
        "iommuグループ",
        "iommu 그룹",
        "группа iommu",
        "Группа IOMMU",
        "iommu-группа",
        "IOMMU-группа",
    ];
    words.iter().find_map(|word| starts_with(text, word).then(|| text.get(word.len()..)).flatten())
}

fn starts_with(text: &str, word: &str) -> bool {
    text.get(..word.len()).is_some_and(|front| front.eq_ignore_ascii_case(word))
}

/// What a path says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// `…/iommu_groups/12/devices/0000:01:00.0`.
    Member(u32, Address),
    /// `…/iommu_groups/12/devices:`, whose members follow.
    Folder(u32),
}

/// Paths of groups in a line; `…/0000:01:00.0/iommu_group -> …/iommu_groups/12` too.
pub(super) fn paths(line: &str) -> Vec<Path> {
    let mut found = Vec::new();
    for (at, word) in line.match_indices("iommu_groups/").take(64) {
        let Some(rest) = line.get(at + word.len()..) else { continue };
        let Some((group, after)) = leading_number(rest) else { continue };
        if let Some(inside) = after.strip_prefix("/devices/") {
            match super::words::leading_address(inside) {
                Some((address, _)) => found.push(Path::Member(group, address)),
                None => found.push(Path::Folder(group)),
            }
        } else if after.starts_with("/devices") || after == ":" || after == "/:" {
            found.push(Path::Folder(group));
        } else if line
            .get(..at)
            .is_some_and(|front| front.contains("iommu_group ") || front.contains("iommu_group:"))
        {
            let before = line.get(..at).map(addresses).unwrap_or_default();
            found.extend(before.last().map(|(address, _, _)| Path::Member(group, *address)));
        }
    }
    if found.is_empty() {
        // `find` from inside the folder: `./12/devices/0000:01:00.0`.
        let rest = line.strip_prefix("./").unwrap_or(line);
        if let Some((group, after)) = leading_number(rest) {
            if let Some((address, _)) =
                after.strip_prefix("/devices/").and_then(super::words::leading_address)
            {
                found.push(Path::Member(group, address));
            }
        }
    }
    found
}

/// `IOMMU group 12` in lspci's flags (`Flags: bus master, …, IOMMU group 12`), or as a line of its own.
pub(super) fn mentioned(line: &str) -> Option<u32> {
    after(line, "IOMMU group")
}

/// The group at the end of a function's line, which scripts write as they like.
pub(super) fn behind(line: &str) -> Option<u32> {
    ["IOMMU group", "IOMMU Group", "iommu group", "iommu_group"].iter().find_map(|word| after(line, word))
}

fn after(line: &str, word: &str) -> Option<u32> {
    let rest = super::words::after(line, word)?.trim_start_matches([':', '=', '#', ' ', '\t']);
    let end = rest.find(|next: char| !next.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..end).and_then(number)
}

/// `0000:02:00.0 (IOMMU group 15)`: scripts that list controllers say it in brackets behind the address.
pub(super) fn beside(line: &str) -> Option<(Address, u32)> {
    let found = addresses(line);
    let (address, _, end) = found.first().filter(|_| found.len() == 1)?;
    let rest = line.get(*end..)?.trim_start().strip_prefix(['(', '[', '|'])?.trim_start();
    let (group, _) = heading(rest)?;
    starts_with(rest, "iommu").then_some((*address, group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_of_many_scripts() {
        let found = |line: &str| heading(line).map(|(group, rest)| (group, rest.to_owned()));
        for line in [
            "IOMMU Group 12:",
            "IOMMU GROUP 12",
            "Group 12",
            "### IOMMU group 12 ###",
            "iommu_group 12",
            "**Group #12**",
            "Group: 12",
            "----- IOMMU Group: 12 -----",
            "  3\tIOMMU Group 12:",
        ] {
            assert_eq!(found(line), Some((12, String::new())), "{line}");
        }
        for line in ["Groupe IOMMU 7 :", "IOMMU-Gruppe 7", "IOMMU组 7", "Группа IOMMU 7:", "GRUPO IOMMU 7"]
        {
            assert_eq!(found(line).map(|(group, _)| group), Some(7), "{line}");
        }
        assert_eq!(found("IOMMU-Gruppen sind 7"), None);
        let at = |text: &str| text.parse::<Address>().unwrap();
        assert_eq!(beside("Bus 3 --> 0000:07:00.3 (IOMMU group 21)"), Some((at("07:00.3"), 21)));
        assert_eq!(beside("my 07:00.3 is in IOMMU group 21"), None);
        assert_eq!(found("IOMMU Group 1 01:00.0 VGA").unwrap(), (1, "01:00.0 VGA".to_owned()));
        assert_eq!(found("Group:  1   0000:01:00.0 x   Driver: y").unwrap().0, 1);
        assert_eq!(found("Group 0:        [1022:14da]     00:01.0  Host bridge").unwrap().0, 0);
        assert_eq!(found("IOMMU group 1:\t[8086:1901] 00:01.0 PCI bridge").unwrap().0, 1);
        for line in ["Group 3 is mine", "group 1.5", "groups 12", "the group 12", "Group"] {
            assert_eq!(found(line), None, "{line}");
        }
    }

    #[test]
    fn paths_of_groups() {
        let at = |text: &str| text.parse::<Address>().unwrap();
        assert_eq!(
            paths("/sys/kernel/iommu_groups/7/devices/0000:00:1f.3"),
            [Path::Member(7, at("00:1f.3"))]
        );
        assert_eq!(paths("./7/devices/0000:00:1f.3"), [Path::Member(7, at("00:1f.3"))]);
        assert_eq!(paths("/sys/kernel/iommu_groups/7/devices:"), [Path::Folder(7)]);
        let link = "lrwxrwxrwx 1 root root 0 Jan  1 00:00 /sys/bus/pci/devices/0000:00:02.0/iommu_group -> ../../../kernel/iommu_groups/1";
        assert_eq!(paths(link), [Path::Member(1, at("00:02.0"))]);
        assert_eq!(mentioned("Flags: bus master, latency 0, IRQ 5, IOMMU group 12"), Some(12));
        assert_eq!(mentioned("IOMMU group: 3"), Some(3));
    }
}
