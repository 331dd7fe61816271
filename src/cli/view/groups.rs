//! `inspect groups`: the tree of bridges and devices with the group of each, and why groups are shared.

use super::config::{acs_word, bridge_word};
use crate::{
    cli::render::{WIDTH, class_word, fit, short_name, wrap},
    host::{Function, Gpu, GpuKind, Host, Known},
    judge::{
        self,
        shared::{self, Cause},
    },
    pci::Address,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

/// For the eye.
pub(in crate::cli) fn text(host: &Host) -> String {
    if host.functions.is_empty() {
        return "no PCI functions\n".to_owned();
    }
    let mut text = match kinds(host) {
        Some(kinds) if !host.groups.is_empty() => wrap(&kinds, 0),
        _ => without_groups(host),
    };
    text.push_str("\ngroup\n");
    let tree = Tree::of(host);
    for (function, lines) in tree.walk() {
        text.push_str(&row(host, function, &lines));
    }
    for group in &host.groups {
        let reasons = reasons(host, group.id);
        if reasons.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\ngroup {} is shared", group.id);
        for reason in reasons {
            text.push_str(&wrap(&reason, 2));
        }
        for (gpu, advice) in advice(host, group.id) {
            text.push_str(&wrap(&format!("what would part {} from the rest:", name(host, gpu)), 2));
            for one in advice {
                let _ = write!(text, "  - {}", wrap(&one, 4).trim_start_matches(' '));
            }
        }
    }
    text
}

/// For a screen reader.
pub(in crate::cli) fn plain(host: &Host) -> String {
    let mut text = match kinds(host) {
        Some(kinds) if !host.groups.is_empty() => format!("{kinds}.\n"),
        _ => without_groups(host),
    };
    for group in &host.groups {
        for function in group.functions.iter().filter_map(|address| host.function(*address)) {
            let id = function.id().map_or_else(String::new, |id| format!(", {id}"));
            let behind = function.parent.map_or_else(String::new, |parent| format!(", behind {parent}"));
            let acs = acs_word(function).map_or_else(String::new, |acs| format!(", {acs}"));
            let _ = writeln!(
                text,
                "Group {}: {}, {}, {}{id}{behind}{acs}.",
                group.id,
                function.address,
                bridge_word(function).unwrap_or(class_word(function)),
                fit(&short_name(function), usize::MAX),
            );
        }
        for reason in reasons(host, group.id) {
            let _ = writeln!(text, "Group {} is shared: {}.", group.id, fit(&reason, usize::MAX));
        }
        for (gpu, advice) in advice(host, group.id) {
            for one in advice {
                let _ = writeln!(text, "To part {}: {}.", gpu.address, fit(&one, usize::MAX));
            }
        }
    }
    let without = host.functions.iter().filter(|function| function.iommu_group.is_none());
    for function in without {
        let _ = writeln!(text, "In no group: {}, {}.", function.address, class_word(function));
    }
    text
}

fn without_groups(host: &Host) -> String {
    match host.iommu.state {
        Known::Off => "no groups: the IOMMU is off (why: gpuferry doctor)\n".to_owned(),
        Known::On | Known::Unknown => "groups are not known\n".to_owned(),
    }
}

/// `22 groups, type DMA-FQ, but group 3 identity`.
fn kinds(host: &Host) -> Option<String> {
    let mut count: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for group in &host.groups {
        count.entry(group.kind.as_deref().unwrap_or("")).or_default().push(group.id);
    }
    let (most, _) = count.iter().max_by_key(|(_, groups)| groups.len())?;
    let mut text = match host.groups.len() {
        1 => "1 IOMMU group".to_owned(),
        number => format!("{number} IOMMU groups"),
    };
    if !most.is_empty() {
        let _ = write!(text, " of type {most}");
    }
    for (kind, groups) in count.iter().filter(|(kind, _)| *kind != most && !kind.is_empty()) {
        let shown: Vec<String> = groups.iter().take(6).map(ToString::to_string).collect();
        let more = if groups.len() > 6 { ", …" } else { "" };
        let _ = write!(text, "; {kind}: {}{more}", shown.join(", "));
    }
    Some(text)
}

/// Why a group is shared, in sentences; nothing for one that is not.
fn reasons(host: &Host, group: u32) -> Vec<String> {
    if !shared::is_shared(host, group) {
        return Vec::new();
    }
    // That a card's functions are together is as it should be.
    let is_a_card = |cause: &Cause| match cause {
        Cause::Slot { functions, .. } => {
            host.gpus.iter().any(|gpu| functions.iter().all(|function| gpu.functions.contains(function)))
        }
        Cause::Port { .. } | Cause::Bridges { .. } => false,
    };
    let causes = shared::causes(host, group).into_iter().filter(|cause| !is_a_card(cause));
    let mut reasons: Vec<String> = causes.map(|cause| cause.sentence(host)).collect();
    if reasons.is_empty() {
        reasons.push(
            "no port among its members says why: the firmware or the kernel put them together".to_owned(),
        );
    }
    reasons
}

/// Cards in a group that share it, and what would part each.
fn advice(host: &Host, group: u32) -> Vec<(&Gpu, Vec<String>)> {
    let inside = |gpu: &&Gpu| {
        gpu.kind != GpuKind::Management
            && host.function(gpu.address).is_some_and(|function| function.iommu_group == Some(group))
    };
    let cards = host.gpus.iter().filter(inside);
    cards.map(|gpu| (gpu, judge::parting(host, gpu))).filter(|(_, advice)| !advice.is_empty()).collect()
}

fn name(host: &Host, gpu: &Gpu) -> String {
    let label = host
        .function(gpu.address)
        .map_or_else(String::new, |function| format!(" ({})", short_name(function)));
    format!("{}{label}", gpu.address)
}

fn row(host: &Host, function: &Function, lines: &str) -> String {
    let group = function.iommu_group.map_or_else(|| "-".to_owned(), |group| group.to_string());
    let is_shared = function.iommu_group.is_some_and(|group| shared::is_shared(host, group));
    let star = if is_shared && !function.is_pci_bridge() { '*' } else { ' ' };
    let id = function.id().map_or_else(|| "?        ".to_owned(), |id| id.to_string());
    let word = bridge_word(function).unwrap_or(class_word(function));
    let acs = acs_word(function).map_or_else(String::new, |acs| format!("{acs}, "));
    let line = format!(
        "{group:>4}{star} {lines}{}  {word:<11} {id}  {acs}{}",
        function.address,
        short_name(function)
    );
    fit(line.trim_end(), WIDTH) + "\n"
}

/// Functions by the bridge they are behind.
struct Tree<'h> {
    roots: Vec<&'h Function>,
    below: BTreeMap<Address, Vec<&'h Function>>,
}

/// Bridges inside each other that are drawn; a real tree has fewer than ten.
const MAX_DEPTH: usize = 12;

impl<'h> Tree<'h> {
    fn of(host: &'h Host) -> Self {
        let known: BTreeSet<Address> = host.functions.iter().map(|function| function.address).collect();
        let mut tree = Self { roots: Vec::new(), below: BTreeMap::new() };
        for function in &host.functions {
            match function.parent.filter(|parent| known.contains(parent) && *parent != function.address) {
                Some(parent) => tree.below.entry(parent).or_default().push(function),
                None => tree.roots.push(function),
            }
        }
        tree
    }

    /// Every function with what is drawn before it, from the top. What hangs on itself in a made-up capture comes last.
    fn walk(&self) -> Vec<(&'h Function, String)> {
        let mut out = Vec::new();
        let mut seen = BTreeSet::new();
        for root in &self.roots {
            self.descend(root, "", "", 0, &mut seen, &mut out);
        }
        for function in self.below.values().flatten() {
            self.descend(function, "", "", 0, &mut seen, &mut out);
        }
        out
    }

    fn descend(
        &self,
        function: &'h Function,
        before: &str,
        branch: &str,
        depth: usize,
        seen: &mut BTreeSet<Address>,
        out: &mut Vec<(&'h Function, String)>,
    ) {
        if !seen.insert(function.address) {
            return;
        }
        out.push((function, format!("{before}{branch}")));
        let below = self.below.get(&function.address).map(Vec::as_slice).unwrap_or_default();
        let before = match branch {
            _ if depth >= MAX_DEPTH => before.to_owned(),
            "" => before.to_owned(),
            "└─" => format!("{before}  "),
            _ => format!("{before}│ "),
        };
        for (index, one) in below.iter().enumerate() {
            let branch = if index + 1 == below.len() { "└─" } else { "├─" };
            self.descend(one, &before, branch, depth + 1, seen, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::*;

    #[test]
    fn the_tree_is_drawn_and_ends() {
        let mut host = desktop();
        host.functions[0].parent = Some(at("01:00.0"));
        let text = text(&host);
        assert_eq!(text.lines().filter(|line| line.contains("0000:")).count(), host.functions.len());
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH));
        let host = desktop();
        assert!(super::text(&host).contains("\n  15  ├─0000:01:00.0  VGA"), "{}", super::text(&host));
    }

    #[test]
    fn types_are_said_once() {
        let mut host = desktop();
        for group in &mut host.groups {
            group.kind = Some(if group.id == 17 { "identity" } else { "DMA-FQ" }.to_owned());
        }
        assert_eq!(kinds(&host).unwrap(), "5 IOMMU groups of type DMA-FQ; identity: 17");
        assert!(!plain(&host).contains(['│', '├', '└']));
    }

    #[test]
    fn without_groups_it_says_why() {
        let mut host = desktop();
        host.groups.clear();
        host.functions.iter_mut().for_each(|function| function.iommu_group = None);
        host.iommu.state = Known::Off;
        assert!(text(&host).starts_with("no groups: the IOMMU is off"));
    }
}
