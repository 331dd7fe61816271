//! Folders, files and links as the kernel shows them in /sys and /proc: what stays for a boot, and what moves.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

/// Something at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// What a read returns.
    File(String),
    /// Names.
    Folder(BTreeMap<String, Node>),
    /// Where it points, as it is written there.
    Link(String),
}

/// A tree, from its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tree(Node);

impl Default for Tree {
    fn default() -> Self {
        Self(Node::Folder(BTreeMap::new()))
    }
}

impl Tree {
    /// Puts something at a path, with the folders above it.
    pub(super) fn put(&mut self, path: &str, node: Node) {
        let mut at = &mut self.0;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let Node::Folder(inside) = at else { panic!("{path} lies below a file") };
            if !inside.contains_key(part) {
                inside.insert(part.to_owned(), Node::Folder(BTreeMap::new()));
            }
            at = inside.get_mut(part).unwrap();
        }
        *at = node;
    }

    pub(super) fn file(&mut self, path: &str, text: impl Into<String>) {
        self.put(path, Node::File(text.into()));
    }

    pub(super) fn folder(&mut self, path: &str) {
        self.put(path, Node::Folder(BTreeMap::new()));
    }

    pub(super) fn link(&mut self, path: &str, target: impl Into<String>) {
        self.put(path, Node::Link(target.into()));
    }
}

/// What two trees have at one path: folders are joined.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'t>([Option<&'t Node>; 2]);

impl<'t> Seen<'t> {
    fn child(self, name: &str) -> Option<Self> {
        let inside = |node: Option<&'t Node>| match node {
            Some(Node::Folder(inside)) => inside.get(name),
            _ => None,
        };
        let found = self.0.map(inside);
        found.iter().any(Option::is_some).then_some(Self(found))
    }

    /// The one of the two that says more than "folder".
    pub(super) fn node(self) -> Option<&'t Node> {
        let own = |node: &&Node| !matches!(node, Node::Folder(_));
        self.0.into_iter().flatten().find(own).or(self.0[0]).or(self.0[1])
    }

    pub(super) fn names(self) -> io::Result<BTreeSet<&'t str>> {
        let mut names = BTreeSet::new();
        for node in self.0.into_iter().flatten() {
            match node {
                Node::Folder(inside) => names.extend(inside.keys().map(String::as_str)),
                _ => return Err(super::disk::errno(20)),
            }
        }
        Ok(names)
    }
}

/// What is at a path of two trees, links followed; the one at its end only if `last`.
pub(super) fn walk<'t>(trees: [&'t Tree; 2], path: &str, last: bool) -> Option<Seen<'t>> {
    let mut path = path.to_owned();
    'again: for _ in 0..40 {
        let mut at = Seen(trees.map(|tree| Some(&tree.0)));
        let mut end = 0;
        for part in path.split('/') {
            let start = end;
            end += part.len() + 1;
            if part.is_empty() {
                continue;
            }
            at = at.child(part)?;
            let rest = path.get(end..).unwrap_or_default();
            if let (Some(Node::Link(target)), true) = (at.node(), last || !rest.is_empty()) {
                path = join(&path[..start], target) + "/" + rest;
                continue 'again;
            }
        }
        return Some(at);
    }
    None
}

/// A link's target, seen from the folder that the link is in.
pub(super) fn join(folder: &str, target: &str) -> String {
    if target.starts_with('/') {
        return target.to_owned();
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_through_both_trees() {
        let (mut fixed, mut moving) = (Tree::default(), Tree::default());
        fixed.file("/sys/devices/pci0/a/class", "0x030000\n");
        fixed.link("/sys/bus/a", "../devices/pci0/a");
        moving.link("/sys/devices/pci0/a/driver", "../../../drivers/d");
        moving.file("/sys/drivers/d/x", "1\n");
        let at = |path: &str, last| walk([&fixed, &moving], path, last);
        assert_eq!(at("/sys/bus/a/driver/x", true).unwrap().node(), Some(&Node::File("1\n".into())));
        let names = at("/sys/bus/a", true).unwrap().names().unwrap();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["class", "driver"]);
        assert!(matches!(at("/sys/bus/a", false).unwrap().node(), Some(Node::Link(_))));
        assert!(at("/sys/bus/b", true).is_none() && at("/sys/bus/a/class/x", true).is_none());
    }
}
