//! Who holds a card: processes that have one of its device nodes open or mapped. Looks only; kills nobody.
//!
//! Which nodes belong to a function is read from the kernel (/sys/dev, or every `uevent` below the function's
//! folder); who has them is read from /proc, in one pass for all functions. A holder is told by process, user, session
//! and unit; a process's arguments are never read. Used by the inspection and by the preflight of a hand-over.

use super::sessions::{self, Belongs, Session};
use crate::{
    machine::{FileKind, Root},
    pci::Address,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

/// A process that holds device nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Its name (/proc/PID/comm).
    pub process: String,
    /// Whose it is; the number where there is no name.
    pub user: String,
    /// The nodes, as paths below /dev.
    pub nodes: Vec<String>,
    /// Those of the nodes that it has mapped and no longer open: closing files does not let go of them.
    #[serde(default)]
    pub mapped: Vec<String>,
    /// The login session that it belongs to or draws for.
    #[serde(default)]
    pub session: Option<Session>,
    /// The unit of the system's service manager: `nvidia-persistenced.service`.
    #[serde(default)]
    pub unit: Option<String>,
    /// The unit of the user's own service manager: `pipewire.service`.
    #[serde(default)]
    pub user_unit: Option<String>,
    /// The container that it runs in: `docker 0123456789ab`.
    #[serde(default)]
    pub container: Option<String>,
    /// The libvirt domain whose QEMU it is.
    #[serde(default)]
    pub guest: Option<String>,
    /// Who keeps the nodes open for the session (logind, PID 1): then the process is the session's leader.
    #[serde(default)]
    pub via: Option<String>,
}

impl Holder {
    /// A process that has these nodes open, and of which no more is known.
    pub fn new(pid: u32, process: impl Into<String>, user: impl Into<String>, nodes: Vec<String>) -> Self {
        Self {
            pid,
            process: process.into(),
            user: user.into(),
            nodes,
            mapped: Vec::new(),
            session: None,
            unit: None,
            user_unit: None,
            container: None,
            guest: None,
            via: None,
        }
    }

    /// `pipewire (pid 812, ring)`, or the session that a device is kept open for.
    pub fn shown(&self) -> String {
        match (&self.via, &self.session, &self.guest, &self.container) {
            (Some(_), Some(session), ..) => session.shown(),
            (Some(via), None, ..) => format!("a login session ({via} keeps it open for it)"),
            (None, _, Some(guest), _) => format!("guest {guest} ({}, pid {})", self.process, self.pid),
            (None, _, None, Some(container)) => {
                format!("{} (pid {}, {}, in {container})", self.process, self.pid, self.user)
            }
            (None, _, None, None) => format!("{} (pid {}, {})", self.process, self.pid, self.user),
        }
    }

    /// Where it belongs, in words: its unit and its session. `None` where that is not known or said already.
    pub fn place(&self) -> Option<String> {
        if self.via.is_some() || self.guest.is_some() || self.container.is_some() {
            return None;
        }
        let unit = match (&self.user_unit, &self.unit) {
            (Some(unit), _) => Some(format!("{unit} of {}", self.user)),
            (None, Some(unit)) => Some(unit.clone()),
            (None, None) => None,
        };
        let session = self.session.as_ref().map(Session::shown);
        let parts: Vec<String> = [unit, session].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// What a look at all processes gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// Who holds any of the nodes, by process id.
    pub holders: Vec<Holder>,
    /// Whether every process could be looked at.
    pub complete: bool,
    /// Whether there were processes to look at.
    pub some: bool,
}

impl Scan {
    /// Who holds any of these nodes. `None`: none that could be seen, and not all could be seen.
    pub fn of(&self, nodes: &BTreeSet<PathBuf>) -> Option<Vec<Holder>> {
        let among = |all: &[String]| -> Vec<String> {
            all.iter().filter(|node| nodes.contains(Path::new(node.as_str()))).cloned().collect()
        };
        let own = self.holders.iter().filter_map(|holder| {
            let own = Holder { nodes: among(&holder.nodes), mapped: among(&holder.mapped), ..holder.clone() };
            (!own.nodes.is_empty()).then_some(own)
        });
        let own: Vec<Holder> = own.collect();
        (self.complete || !own.is_empty()).then_some(own)
    }
}

/// How deep device nodes lie below a function; sound nodes are three folders down, USB devices behind a card's own
/// controller some ten.
const DEPTH: usize = 12;

/// The device nodes of functions: paths below /dev. Nodes of input devices do not count: nothing waits for those who
/// read a jack or a button.
pub fn nodes(root: &(impl Root + ?Sized), functions: &[Address]) -> BTreeSet<PathBuf> {
    Devices::read(root).nodes_of(root, functions).into_values().flatten().collect()
}

/// Every character and block device: its folder below /sys/dev, and where in /sys/devices it is. `None` in a tree
/// without /sys/dev.
pub(super) struct Devices(Option<Vec<(PathBuf, String)>>);

impl Devices {
    pub(super) fn read(root: &(impl Root + ?Sized)) -> Self {
        let folders = ["/sys/dev/char", "/sys/dev/block"].map(Path::new);
        let mut found = None;
        for folder in folders {
            let Ok(links) = root.links(folder) else { continue };
            let links = links
                .into_iter()
                .filter_map(|(name, target)| Some((folder.join(name), target.to_str()?.to_owned())));
            found.get_or_insert_with(Vec::new).extend(links);
        }
        Self(found)
    }

    pub(super) fn nodes_of(
        &self,
        root: &(impl Root + ?Sized),
        functions: &[Address],
    ) -> BTreeMap<Address, BTreeSet<PathBuf>> {
        let mut found: BTreeMap<Address, BTreeSet<PathBuf>> = BTreeMap::new();
        let folder = |address: Address| PathBuf::from(format!("/sys/bus/pci/devices/{address}"));
        for &address in functions {
            let own = found.entry(address).or_default();
            match &self.0 {
                Some(devices) => of_registered(root, devices, address, own),
                None => collect(root, &folder(address), DEPTH, own),
            }
            if let Ok(group) = root.link_name(&folder(address).join("iommu_group")) {
                own.insert(Path::new("/dev/vfio").join(group));
            }
            own.extend(nvidia(root, address));
            if root.text(&folder(address).join("boot_vga")).is_ok_and(|flag| flag == "1") {
                own.extend(firmware(root, self.0.as_deref().unwrap_or_default()));
            }
        }
        found
    }
}

fn of_registered(
    root: &(impl Root + ?Sized),
    devices: &[(PathBuf, String)],
    address: Address,
    found: &mut BTreeSet<PathBuf>,
) {
    let part = format!("/{address}/");
    // What is behind another function (a switch above the card) is that one's.
    let own = devices
        .iter()
        .filter(|(_, target)| target.contains(&part) && super::look::last_function(target) == Some(address));
    for (folder, _) in own {
        if let Some(node) = root.text(&folder.join("uevent")).ok().as_deref().and_then(node_in) {
            if !node.starts_with("input/") {
                found.insert(Path::new("/dev").join(node));
            }
        }
    }
}

/// The nodes of whoever draws into what the firmware set up, which is the boot card's memory. Before Linux 6.9 they lie
/// below no function (drivers/firmware/sysfb.c, `sysfb_parent_dev`).
fn firmware(root: &(impl Root + ?Sized), devices: &[(PathBuf, String)]) -> Vec<PathBuf> {
    let own = devices.iter().filter(|(_, target)| target.split('/').any(super::display::is_firmware_device));
    let named = |(folder, _): &(PathBuf, String)| {
        let uevent = root.text(&folder.join("uevent")).ok()?;
        Some(Path::new("/dev").join(node_in(&uevent)?))
    };
    own.filter_map(named).collect()
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

/// What NVIDIA's modules share between all cards: who has one of these keeps the modules.
const NVIDIA_SHARED: [&str; 4] =
    ["/dev/nvidiactl", "/dev/nvidia-modeset", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"];

/// NVIDIA's modules make their nodes without sysfs; /proc/driver/nvidia says which minor number is whose. The shared
/// ones count for a card that is the only one on that driver: with two, their users may be the other card's.
fn nvidia(root: &(impl Root + ?Sized), address: Address) -> Vec<PathBuf> {
    let cards = root.list(Path::new("/proc/driver/nvidia/gpus")).unwrap_or_default();
    if !cards.iter().any(|card| card.to_str().is_some_and(|card| card.parse() == Ok(address))) {
        return Vec::new();
    }
    let only = cards.len() == 1;
    let minor =
        if sleeps(root, address) { only.then(|| "0".to_owned()) } else { nvidia_minor(root, address) };
    let mut found: Vec<PathBuf> =
        minor.map(|minor| PathBuf::from(format!("/dev/nvidia{minor}"))).into_iter().collect();
    if only {
        found.extend(NVIDIA_SHARED.map(PathBuf::from));
    }
    found
}

/// The driver asks the card for what this file says: not to be read while it sleeps.
fn nvidia_minor(root: &(impl Root + ?Sized), address: Address) -> Option<String> {
    let text = root.text(Path::new(&format!("/proc/driver/nvidia/gpus/{address}/information"))).ok()?;
    let minor = text.lines().find_map(|line| line.strip_prefix("Device Minor:"))?.trim();
    (!minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit())).then(|| minor.to_owned())
}

fn sleeps(root: &(impl Root + ?Sized), address: Address) -> bool {
    let status = root.text(Path::new(&format!("/sys/bus/pci/devices/{address}/power/runtime_status")));
    status.is_ok_and(|status| status == "suspended")
}

/// Who holds any of these nodes, by process id. What may not be read (other users' processes, without root) is not
/// in it.
pub fn holders(root: &(impl Root + ?Sized), nodes: &BTreeSet<PathBuf>) -> Vec<Holder> {
    if nodes.is_empty() { Vec::new() } else { Processes::read(root).holding(root, nodes).holders }
}

/// Who holds each of these functions, in one look at all processes.
pub fn of_each(root: &(impl Root + ?Sized), functions: &[Address]) -> BTreeMap<Address, Vec<Holder>> {
    let nodes = Devices::read(root).nodes_of(root, functions);
    let processes = Processes::read(root);
    nodes.into_iter().map(|(address, nodes)| (address, processes.holding(root, &nodes).holders)).collect()
}

/// Every process that has device nodes open or mapped.
pub(super) struct Processes {
    /// The nodes of each by its id; true: open, false: only mapped.
    held: Vec<(u32, BTreeMap<PathBuf, bool>)>,
    complete: bool,
    some: bool,
}

impl Processes {
    pub(super) fn read(root: &(impl Root + ?Sized)) -> Self {
        let names = root.list(Path::new("/proc")).unwrap_or_default();
        let pids: Vec<u32> = names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect();
        // Where /proc hides the processes of others (hidepid), the first one is missing.
        let mut complete = pids.contains(&1);
        let some = !pids.is_empty();
        let mut all = Vec::new();
        for pid in pids {
            match held(root, pid) {
                Ok(held) if held.is_empty() => {}
                Ok(held) => all.push((pid, held)),
                Err(error) => complete &= error.kind() != io::ErrorKind::PermissionDenied,
            }
        }
        Self { held: all, complete, some }
    }

    /// Those that have any of these nodes.
    pub(super) fn holding(&self, root: &(impl Root + ?Sized), nodes: &BTreeSet<PathBuf>) -> Scan {
        let mut found = Vec::new();
        let mut people = None;
        for (pid, held) in &self.held {
            let own = held.iter().filter(|(path, _)| nodes.contains(*path));
            let own: BTreeMap<&Path, bool> = own.map(|(path, open)| (path.as_path(), *open)).collect();
            // Ended meanwhile: it holds nothing, and has no name any more.
            if !own.is_empty() && root.exists(Path::new(&format!("/proc/{pid}"))) {
                let people = people.get_or_insert_with(|| People::read(root));
                found.push(holder(root, *pid, &own, people));
            }
        }
        found.sort_by_key(|holder| holder.pid);
        if let Some(people) = people {
            name_sessions(root, &mut found, &people.sessions);
        }
        Scan { holders: found, complete: self.complete, some: self.some }
    }
}

/// The nodes that a process has; true: open, false: only mapped.
fn held(root: &(impl Root + ?Sized), pid: u32) -> io::Result<BTreeMap<PathBuf, bool>> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let open = match root.links(&folder.join("fd")) {
        // It has ended, or the tree has no such folder.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        open => open?,
    };
    let open = open.iter().filter(|(_, target)| target.starts_with("/dev"));
    let mut held: BTreeMap<PathBuf, bool> = open.map(|(_, target)| (present(target), true)).collect();
    let maps = root.text(&folder.join("maps")).unwrap_or_default();
    for path in mapped(&maps) {
        held.entry(path).or_insert(false);
    }
    Ok(held)
}

/// A node that is gone from /dev, because its driver waits for those who have it open, is marked (proc_pid_fd(5)).
fn present(path: &Path) -> PathBuf {
    let text = path.to_str().and_then(|text| text.strip_suffix(" (deleted)"));
    text.map_or_else(|| path.to_owned(), PathBuf::from)
}

/// Paths of device nodes in /proc/PID/maps (proc_pid_maps(5): the sixth field, padded with spaces).
fn mapped(maps: &str) -> impl Iterator<Item = PathBuf> {
    // Hundreds of lines for each process, and hardly ever one of these: the whole text is searched at once.
    let rests = maps.match_indices(" /dev/").filter_map(|(at, _)| maps.get(at + 1..));
    rests.map(|rest| present(Path::new(rest.split('\n').next().unwrap_or_default())))
}

/// Names of users, and the sessions: read once, and only where somebody holds something.
struct People {
    passwd: String,
    sessions: Vec<Session>,
}

impl People {
    fn read(root: &(impl Root + ?Sized)) -> Self {
        Self {
            passwd: root.text(Path::new("/etc/passwd")).unwrap_or_default(),
            sessions: sessions::read(root).unwrap_or_default(),
        }
    }
}

fn holder(root: &(impl Root + ?Sized), pid: u32, held: &BTreeMap<&Path, bool>, people: &People) -> Holder {
    let text = |name: &str| root.text(Path::new(&format!("/proc/{pid}/{name}"))).ok();
    let belongs = text("cgroup").map_or_else(Belongs::default, |cgroup| sessions::belongs(&cgroup));
    let uid = text("status").and_then(|status| uid_in(&status));
    let by_scope = || people.sessions.iter().find(|session| Some(&session.id) == belongs.session.as_ref());
    let by_user = || sessions::display_of(&people.sessions, belongs.uid?);
    let path = |path: &&Path| path.display().to_string();
    Holder {
        pid,
        process: text("comm").unwrap_or_else(|| "?".into()),
        user: uid.map_or_else(|| "?".into(), |uid| user_name(&people.passwd, uid)),
        nodes: held.keys().map(path).collect(),
        mapped: held.iter().filter(|(_, open)| !**open).map(|(node, _)| path(node)).collect(),
        session: by_scope().or_else(by_user).cloned(),
        // The manager of a user is what runs the unit, not what the unit is.
        unit: belongs.unit.filter(|_| belongs.uid.is_none()),
        user_unit: belongs.user_unit,
        container: belongs.container,
        guest: belongs.guest,
        via: None,
    }
}

/// logind and PID 1 hold devices for sessions: such a row becomes a row for each session, unless a process of that
/// session is there itself. Where it is not known whose a device is, any process that has it stands for the session.
fn name_sessions(root: &(impl Root + ?Sized), found: &mut Vec<Holder>, sessions: &[Session]) {
    let is_root = |holder: &Holder| matches!(holder.user.as_str(), "root" | "0");
    let keeps = |holder: &Holder| is_root(holder) && (holder.pid == 1 || holder.process == "systemd-logind");
    let (keepers, others): (Vec<Holder>, Vec<Holder>) = found.drain(..).partition(keeps);
    let mut rows: BTreeMap<Option<String>, Holder> = BTreeMap::new();
    for kept in &keepers {
        for node in &kept.nodes {
            let number = number_of(root, node);
            let of_node =
                |session: &&Session| number.as_ref().is_some_and(|number| session.devices.contains(number));
            let mut owners: Vec<Option<&Session>> = sessions.iter().filter(of_node).map(Some).collect();
            if owners.is_empty() {
                owners.push(None);
            }
            for owner in owners {
                let id = owner.map(|owner| owner.id.clone());
                let stands = |other: &Holder| {
                    let same =
                        id.is_none() || other.session.as_ref().map(|session| &session.id) == id.as_ref();
                    same && other.nodes.contains(node)
                };
                if !others.iter().any(stands) {
                    let row = rows.entry(id).or_insert_with(|| row_of(root, kept, owner));
                    if !row.nodes.contains(node) {
                        row.nodes.push(node.clone());
                    }
                }
            }
        }
    }
    found.extend(others);
    found.extend(rows.into_values());
    found.sort_by_key(|holder| holder.pid);
}

/// A session that somebody keeps nodes for, without nodes yet: told by its leader.
fn row_of(root: &(impl Root + ?Sized), kept: &Holder, session: Option<&Session>) -> Holder {
    let leader = session.and_then(|session| session.leader);
    let name = leader.and_then(|pid| root.text(Path::new(&format!("/proc/{pid}/comm"))).ok());
    let process = name.unwrap_or_else(|| kept.process.clone());
    let user = session.and_then(|session| session.user.clone()).unwrap_or_else(|| kept.user.clone());
    let row = Holder::new(leader.unwrap_or(kept.pid), process, user, Vec::new());
    Holder { session: session.cloned(), via: Some(kept.process.clone()), ..row }
}

/// The device number of a node, as logind writes it: a folder of /sys/dev/char whose `uevent` names the node.
fn number_of(root: &(impl Root + ?Sized), node: &str) -> Option<String> {
    let node = node.strip_prefix("/dev/")?;
    // A DRM node's class folder has its base name; others are not held by logind for what gpuferry lends.
    let name = node.strip_prefix("dri/")?;
    root.text(Path::new(&format!("/sys/class/drm/{name}/dev"))).ok()
}

fn uid_in(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

/// passwd(5): name, password, number.
fn user_name(passwd: &str, uid: u32) -> String {
    let number = uid.to_string();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(number.as_str())).then(|| name.to_owned())
    });
    name.unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::Tree;

    const CARD: &str = "0000:01:00.0";
    const AUDIO: &str = "0000:01:00.1";

    fn at(address: &str) -> Address {
        address.parse().unwrap()
    }

    /// A card with a DRM node, a render node, an I2C bus, and its audio with a mixer and a jack.
    fn machine() -> Tree {
        let mut tree = Tree::new();
        let card = format!("../../devices/pci0000:00/0000:00:01.0/{CARD}");
        let audio = format!("../../devices/pci0000:00/0000:00:01.0/{AUDIO}");
        for (number, place, node) in [
            ("226:0", format!("{card}/drm/card0"), "dri/card0"),
            ("226:128", format!("{card}/drm/renderD128"), "dri/renderD128"),
            ("89:5", format!("{card}/i2c-5/i2c-dev/i2c-5"), "i2c-5"),
            ("116:2", format!("{audio}/sound/card0/controlC0"), "snd/controlC0"),
            ("13:69", format!("{audio}/sound/card0/input7/event5"), "input/event5"),
            ("4:1", "../../devices/virtual/tty/tty1".to_owned(), "tty1"),
        ] {
            tree.link(&format!("/sys/dev/char/{number}"), &place);
            tree.file(
                &format!("{}/uevent", place.replace("../..", "/sys")),
                format!("MAJOR=1\nMINOR=1\nDEVNAME={node}\n"),
            );
            tree.file(&format!("/sys/dev/char/{number}/uevent"), format!("DEVNAME={node}\n"));
        }
        tree.file("/sys/class/drm/card0/dev", "226:0\n");
        tree.file("/etc/passwd", "root:x:0:0::/:/bin/sh\nring:x:1000:1000::/:/bin/sh\n");
        tree
    }

    fn scan(tree: &Tree, nodes: &BTreeSet<PathBuf>) -> Scan {
        Processes::read(tree).holding(tree, nodes)
    }

    fn process(tree: &mut Tree, pid: u32, name: &str, uid: u32, cgroup: &str, open: &[&str]) {
        tree.file(&format!("/proc/{pid}/comm"), format!("{name}\n"));
        tree.file(
            &format!("/proc/{pid}/status"),
            format!("Name:\t{name}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"),
        );
        tree.file(&format!("/proc/{pid}/cgroup"), format!("0::{cgroup}\n"));
        tree.folder(&format!("/proc/{pid}/fd"));
        for (number, node) in open.iter().enumerate() {
            tree.link(&format!("/proc/{pid}/fd/{number}"), node);
        }
    }

    const USER: &str = "/user.slice/user-1000.slice";

    fn session(tree: &mut Tree, id: &str, more: &str) {
        let text = format!(
            "{more}UID=1000\nUSER=ring\nACTIVE=1\nSEAT=seat0\nTYPE=wayland\nCLASS=user\nTTY=tty2\nLEADER=1200\n"
        );
        tree.file(&format!("/run/systemd/sessions/{id}"), &text);
    }

    fn who(tree: &Tree, address: &str) -> Vec<String> {
        let nodes = nodes(tree, &[at(address)]);
        let scan = scan(tree, &nodes);
        let found = scan.of(&nodes).unwrap();
        found
            .iter()
            .map(|it| format!("{}: {}; {}", it.shown(), it.nodes.join(" "), it.place().unwrap_or_default()))
            .collect()
    }

    #[test]
    fn nodes_are_those_of_the_function() {
        let tree = machine();
        let shown = |address: &str| {
            nodes(&tree, &[at(address)]).iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(shown(CARD), ["/dev/dri/card0", "/dev/dri/renderD128", "/dev/i2c-5"]);
        assert_eq!(shown(AUDIO), ["/dev/snd/controlC0"], "nobody waits for who reads a jack");
        assert!(shown("0000:00:01.0").is_empty(), "what is behind a bridge is not the bridge's");
    }

    #[test]
    fn a_compositor_under_logind_is_named_and_logind_is_not() {
        let mut tree = machine();
        process(&mut tree, 1, "systemd", 0, "/init.scope", &["/dev/null", "/dev/dri/card0"]);
        process(
            &mut tree,
            400,
            "systemd-logind",
            0,
            "/system.slice/systemd-logind.service",
            &["/dev/dri/card0"],
        );
        process(
            &mut tree,
            1300,
            "sway",
            1000,
            &format!("{USER}/session-3.scope"),
            &["/dev/dri/card0", "/dev/dri/renderD128"],
        );
        session(&mut tree, "3", "SERVICE=login\nDEVICES=226:0 13:64\n");
        assert_eq!(
            who(&tree, CARD),
            [
                "sway (pid 1300, ring): /dev/dri/card0 /dev/dri/renderD128; session 3 of ring on seat0 (wayland, tty2)"
            ]
        );
    }

    #[test]
    fn a_compositor_as_a_users_unit_belongs_to_the_session_it_draws_for() {
        let mut tree = machine();
        process(&mut tree, 1, "systemd", 0, "/init.scope", &[]);
        let unit = format!("{USER}/user@1000.service/session.slice/org.gnome.Shell@wayland.service");
        process(&mut tree, 1300, "gnome-shell", 1000, &unit, &["/dev/dri/card0"]);
        session(&mut tree, "3", "SERVICE=gdm-password\n");
        session(&mut tree, "2", "TYPE=tty\n");
        let found = who(&tree, CARD);
        assert_eq!(
            found,
            ["gnome-shell (pid 1300, ring): /dev/dri/card0; org.gnome.Shell@wayland.service of ring, \
              session 3 of ring on seat0 (wayland, tty2)"]
        );
    }

    #[test]
    fn a_device_that_only_logind_holds_is_the_sessions() {
        let mut tree = machine();
        process(&mut tree, 1, "systemd", 0, "/init.scope", &["/dev/dri/card0"]);
        process(
            &mut tree,
            400,
            "systemd-logind",
            0,
            "/system.slice/systemd-logind.service",
            &["/dev/dri/card0"],
        );
        process(&mut tree, 1200, "gdm-session-wor", 0, &format!("{USER}/session-3.scope"), &[]);
        session(&mut tree, "3", "DEVICES=226:0\n");
        assert_eq!(who(&tree, CARD), ["session 3 of ring on seat0 (wayland, tty2): /dev/dri/card0; "]);
        let scan = scan(&tree, &nodes(&tree, &[at(CARD)]));
        assert_eq!((scan.holders[0].pid, scan.holders[0].process.as_str()), (1200, "gdm-session-wor"));
        tree.file("/run/systemd/sessions/3", "");
        assert_eq!(who(&tree, CARD)[0], "a login session (systemd keeps it open for it): /dev/dri/card0; ");
    }

    #[test]
    fn services_tools_containers_and_mappings() {
        let mut tree = machine();
        process(&mut tree, 1, "systemd", 0, "/init.scope", &[]);
        let unit = format!("{USER}/user@1000.service/session.slice/pipewire.service");
        process(
            &mut tree,
            812,
            "pipewire",
            1000,
            &unit,
            &["/dev/snd/controlC0 (deleted)", "/dev/input/event5"],
        );
        process(&mut tree, 900, "ddcutil", 0, "/system.slice/ddc.service", &["/dev/i2c-5"]);
        let id = "0123456789abcdef".repeat(4);
        process(
            &mut tree,
            950,
            "python3",
            0,
            &format!("/system.slice/docker-{id}.scope"),
            &["/dev/dri/renderD128"],
        );
        process(&mut tree, 960, "game", 1000, &format!("{USER}/session-9.scope"), &["/dev/null"]);
        tree.file(
            "/proc/960/maps",
            "7f00-7f01 r--p 00000000 08:01 9      /usr/lib/x.so\n7f02-7f03 rw-s 00000000 00:05 9      /dev/dri/renderD128 (deleted)\n",
        );
        assert_eq!(
            who(&tree, AUDIO),
            ["pipewire (pid 812, ring): /dev/snd/controlC0; pipewire.service of ring"]
        );
        assert_eq!(
            who(&tree, CARD),
            [
                "ddcutil (pid 900, root): /dev/i2c-5; ddc.service",
                "python3 (pid 950, root, in docker 0123456789ab): /dev/dri/renderD128; ",
                "game (pid 960, ring): /dev/dri/renderD128; ",
            ]
        );
        let scan = scan(&tree, &nodes(&tree, &[at(CARD)]));
        assert_eq!(scan.holders[2].mapped, ["/dev/dri/renderD128"]);
    }

    #[test]
    fn what_could_not_be_seen_is_not_nobody() {
        let mut tree = machine();
        process(&mut tree, 1, "systemd", 0, "/init.scope", &[]);
        process(&mut tree, 30, "bash", 1000, "/", &["/dev/snd/controlC0"]);
        let (card, audio) = (nodes(&tree, &[at(CARD)]), nodes(&tree, &[at(AUDIO)]));
        assert_eq!(scan(&tree, &card).of(&card), Some(Vec::new()));
        tree.forbid("/proc/1/fd");
        assert_eq!(scan(&tree, &card).of(&card), None);
        assert_eq!(scan(&tree, &audio).of(&audio).map(|found| found.len()), Some(1), "what was seen counts");
        let empty = Tree::new();
        assert_eq!(scan(&empty, &card).of(&card), None, "a tree without processes");
    }

    #[test]
    fn what_hangs_on_a_cards_own_usb_controller_is_the_cards() {
        let mut tree = machine();
        let usb = "../../devices/pci0000:00/0000:00:01.0/0000:01:00.2/usb3";
        for (number, place, node) in [
            ("189:256", usb.to_owned(), "bus/usb/003/001"),
            ("244:0", format!("{usb}/3-1/3-1:1.0/0003:1234:5678.0001/hidraw/hidraw0"), "hidraw0"),
        ] {
            tree.link(&format!("/sys/dev/char/{number}"), &place);
            tree.file(&format!("/sys/dev/char/{number}/uevent"), format!("DEVNAME={node}\n"));
        }
        let disk = format!("{usb}/3-2/3-2:1.0/host8/target8:0:0/8:0:0:0/block/sdb");
        tree.link("/sys/dev/block/8:16", &disk);
        tree.file("/sys/dev/block/8:16/uevent", "DEVNAME=sdb\n");
        let found: Vec<PathBuf> = nodes(&tree, &[at("0000:01:00.2")]).into_iter().collect();
        assert_eq!(found, ["/dev/bus/usb/003/001", "/dev/hidraw0", "/dev/sdb"].map(PathBuf::from));
    }

    #[test]
    fn nvidias_nodes_and_what_its_cards_share() {
        let mut tree = machine();
        tree.file(
            &format!("/proc/driver/nvidia/gpus/{CARD}/information"),
            "Model: \t x\nDevice Minor: \t 0\n",
        );
        let of =
            |tree: &Tree| nodes(tree, &[at(CARD)]).iter().filter(|path| path.starts_with("/dev")).count();
        assert!(nodes(&tree, &[at(CARD)]).contains(Path::new("/dev/nvidia0")));
        assert_eq!(of(&tree), 3 + 5);
        tree.file(&format!("/sys/bus/pci/devices/{CARD}/power/runtime_status"), "suspended\n");
        tree.forbid(&format!("/proc/driver/nvidia/gpus/{CARD}/information"));
        assert_eq!(of(&tree), 3 + 5, "the only card's number is known without asking it");
        tree.file(&format!("/sys/bus/pci/devices/{CARD}/power/runtime_status"), "active\n");
        tree.file(&format!("/proc/driver/nvidia/gpus/{CARD}/information"), "Device Minor: \t 0\n");
        tree.file("/proc/driver/nvidia/gpus/0000:05:00.0/information", "Device Minor: \t 1\n");
        assert_eq!(of(&tree), 3 + 1, "whose the shared ones are is not known");
    }

    #[test]
    fn a_tree_without_the_table_of_devices_is_walked() {
        let mut tree = Tree::new();
        tree.file(
            &format!("/sys/bus/pci/devices/{AUDIO}/sound/card0/controlC0/uevent"),
            "DEVNAME=snd/controlC0\n",
        );
        tree.file(
            &format!("/sys/bus/pci/devices/{AUDIO}/sound/card0/input5/event5/uevent"),
            "DEVNAME=input/event5\n",
        );
        tree.link(&format!("/sys/bus/pci/devices/{AUDIO}/iommu_group"), "../../../../kernel/iommu_groups/12");
        let found: Vec<PathBuf> = nodes(&tree, &[at(AUDIO)]).into_iter().collect();
        assert_eq!(found, [Path::new("/dev/snd/controlC0"), Path::new("/dev/vfio/12")]);
    }
}
