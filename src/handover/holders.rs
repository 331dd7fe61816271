//! Who holds a card: processes that have one of its device nodes open or mapped. Looks only; kills nobody.
//!
//! Which nodes belong to a card is read from the kernel: every `uevent` below the function's folder that names a
//! node. Who has them open is read from /proc.

use crate::{
    machine::{FileKind, Root},
    pci::Address,
    step::live::device,
};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// A process that holds device nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Its name (/proc/PID/comm).
    pub process: String,
    /// Whose it is; the number where there is no name.
    pub user: String,
    /// The nodes, as paths below /dev.
    pub nodes: Vec<String>,
}

impl Holder {
    /// `pipewire (pid 812, ring)`.
    pub fn shown(&self) -> String {
        format!("{} (pid {}, {})", self.process, self.pid, self.user)
    }
}

/// How deep device nodes lie below a function; sound nodes are three folders down, USB devices behind a card's own
/// controller some ten.
const DEPTH: usize = 12;

/// The device nodes of a function: paths below /dev. Nodes of input devices do not count: nothing waits for those
/// who read a jack or a button.
pub fn nodes(root: &(impl Root + ?Sized), address: Address) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    collect(root, &device(address), DEPTH, &mut found);
    if let Ok(group) = root.link_name(&device(address).join("iommu_group")) {
        found.insert(Path::new("/dev/vfio").join(group));
    }
    found.extend(nvidia(root, address));
    found
}

fn collect(root: &(impl Root + ?Sized), folder: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
    for name in root.list(folder).unwrap_or_default() {
        let path = folder.join(&name);
        let folder = root.stat(&path).is_ok_and(|stat| stat.kind == FileKind::Folder);
        if !folder || name == "power" {
            continue;
        }
        if let Some(node) = root.text(&path.join("uevent")).ok().as_deref().and_then(node_in) {
            if !node.starts_with("input/") {
                found.insert(Path::new("/dev").join(node));
            }
        }
        if depth > 0 {
            collect(root, &path, depth - 1, found);
        }
    }
}

/// The node that a `uevent` attribute names (Documentation/driver-api/driver-model; `DEVNAME=dri/card0`).
fn node_in(uevent: &str) -> Option<&str> {
    uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="))
}

/// NVIDIA's modules make their nodes without sysfs; /proc/driver/nvidia says which minor number is whose.
fn nvidia(root: &(impl Root + ?Sized), address: Address) -> Option<PathBuf> {
    let text = root.text(Path::new(&format!("/proc/driver/nvidia/gpus/{address}/information"))).ok()?;
    let minor = text.lines().find_map(|line| line.strip_prefix("Device Minor:"))?.trim();
    minor.bytes().all(|b| b.is_ascii_digit()).then(|| PathBuf::from(format!("/dev/nvidia{minor}")))
}

/// Who holds any of these nodes, by process id. What may not be read (other users' processes, without root) is not
/// in it.
pub fn holders(root: &(impl Root + ?Sized), nodes: &BTreeSet<PathBuf>) -> Vec<Holder> {
    if nodes.is_empty() {
        return Vec::new();
    }
    let names = root.list(Path::new("/proc")).unwrap_or_default();
    let pids = names.iter().filter_map(|name| name.to_str()?.parse::<u32>().ok());
    let mut found: Vec<_> = pids.filter_map(|pid| holder(root, pid, nodes)).collect();
    found.sort_by_key(|holder| holder.pid);
    found
}

fn holder(root: &(impl Root + ?Sized), pid: u32, nodes: &BTreeSet<PathBuf>) -> Option<Holder> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let open = root.list(&folder.join("fd")).unwrap_or_default();
    let open = open.iter().filter_map(|name| root.readlink(&folder.join("fd").join(name)).ok());
    let mut held: BTreeSet<PathBuf> =
        open.map(|path| present(&path)).filter(|path| nodes.contains(path)).collect();
    let maps = root.text(&folder.join("maps")).unwrap_or_default();
    held.extend(mapped(&maps).map(present).filter(|path| nodes.contains(path)));
    if held.is_empty() {
        return None;
    }
    Some(Holder {
        pid,
        process: root.text(&folder.join("comm")).unwrap_or_else(|_| "?".into()),
        user: user(root, pid).unwrap_or_else(|| "?".into()),
        nodes: held.iter().map(|path| path.display().to_string()).collect(),
    })
}

/// A node that is gone from /dev, because its driver waits for those who have it open, is marked (proc_pid_fd(5)).
fn present(path: &Path) -> PathBuf {
    let text = path.to_str().and_then(|text| text.strip_suffix(" (deleted)"));
    text.map_or_else(|| path.to_owned(), PathBuf::from)
}

/// Paths of device nodes in /proc/PID/maps (proc(5): the sixth field).
fn mapped(maps: &str) -> impl Iterator<Item = &Path> {
    maps.lines().filter_map(|line| line.find("/dev/").map(|at| Path::new(&line[at..])))
}

fn user(root: &(impl Root + ?Sized), pid: u32) -> Option<String> {
    let status = root.text(Path::new(&format!("/proc/{pid}/status"))).ok()?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?;
    let passwd = root.text(Path::new("/etc/passwd")).unwrap_or_default();
    Some(user_name(&passwd, uid).unwrap_or(uid).to_owned())
}

/// passwd(5): name, password, number.
fn user_name<'p>(passwd: &'p str, uid: &str) -> Option<&'p str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::live::Live;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn those_who_hold_a_node_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let card = at("sys/bus/pci/devices/0000:01:00.1/sound/card0/controlC0");
        fs::create_dir_all(&card).unwrap();
        fs::write(card.join("uevent"), "MAJOR=116\nMINOR=2\nDEVNAME=snd/controlC0\n").unwrap();
        let jack = at("sys/bus/pci/devices/0000:01:00.1/sound/card0/input5/event5");
        fs::create_dir_all(&jack).unwrap();
        fs::write(jack.join("uevent"), "DEVNAME=input/event5\n").unwrap();
        for (pid, node) in
            [("812", "/dev/snd/controlC0 (deleted)"), ("1", "/dev/input/event5"), ("30", "/dev/null")]
        {
            fs::create_dir_all(at("proc").join(pid).join("fd")).unwrap();
            symlink(node, at("proc").join(pid).join("fd/7")).unwrap();
            fs::write(at("proc").join(pid).join("comm"), "pipewire\n").unwrap();
            fs::write(at("proc").join(pid).join("status"), "Name:\tx\nUid:\t1000\t1000\t1000\t1000\n")
                .unwrap();
        }
        fs::create_dir_all(at("proc/40/fd")).unwrap();
        fs::write(at("proc/40/maps"), "7f00-7f01 rw-s 00000000 00:05 9      /dev/snd/controlC0\n").unwrap();
        fs::create_dir_all(at("etc")).unwrap();
        fs::write(at("etc/passwd"), "root:x:0:0::/:/bin/sh\nring:x:1000:1000::/:/bin/sh\n").unwrap();
        let root = Live::open(folder.path()).unwrap();
        let nodes = nodes(&root, "0000:01:00.1".parse().unwrap());
        assert_eq!(nodes.iter().collect::<Vec<_>>(), [Path::new("/dev/snd/controlC0")]);
        let found = holders(&root, &nodes);
        assert_eq!(found.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [40, 812]);
        assert_eq!(found[1].shown(), "pipewire (pid 812, ring)");
    }
}
