//! Login sessions, as logind keeps them in /run/systemd/sessions, and whom a process belongs to by its control group.
//!
//! logind (and PID 1, which keeps its files over a restart) holds the devices of a session for it. Who looks for the
//! holder of a card wants the session's name, not logind's.

use super::look::Look;
use serde::{Deserialize, Serialize};

/// Where logind keeps a file for each session.
pub(super) const FOLDER: &str = "/run/systemd/sessions";

/// A login session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// logind's name for it: `3`, `c1`.
    pub id: String,
    /// Whose it is.
    pub user: Option<String>,
    /// Number of the user.
    pub uid: Option<u32>,
    /// The seat, where it has one: `seat0`.
    pub seat: Option<String>,
    /// `wayland`, `x11`, `tty`, `unspecified`, …
    pub kind: Option<String>,
    /// `user`, `greeter`, `lock-screen`, `manager`, `background`, …
    pub class: Option<String>,
    /// The desktop, where the display manager said it: `GNOME`, `sway`.
    pub desktop: Option<String>,
    /// The X display: `:0`.
    pub display: Option<String>,
    /// The terminal: `tty2`.
    pub tty: Option<String>,
    /// What started it, as PAM names it: `gdm-password`, `lightdm`, `login`, `sshd`.
    pub service: Option<String>,
    /// The process that leads it.
    pub leader: Option<u32>,
    /// Whether it is the one that its seat shows.
    pub active: bool,
    /// Whether it came over the network.
    pub remote: bool,
    /// Device numbers (`226:0`) that logind holds for it.
    #[serde(default)]
    pub devices: Vec<String>,
}

impl Session {
    /// `session 3 of ring on seat0 (wayland, tty2)`.
    pub fn shown(&self) -> String {
        let of = self.user.as_ref().map_or_else(String::new, |user| format!(" of {user}"));
        let on = self.seat.as_ref().map_or_else(String::new, |seat| format!(" on {seat}"));
        let how = [self.kind.as_deref().filter(|kind| *kind != "unspecified"), self.tty.as_deref()];
        let how: Vec<&str> = how.into_iter().flatten().collect();
        let how = if how.is_empty() { String::new() } else { format!(" ({})", how.join(", ")) };
        let greeter = if self.class.as_deref() == Some("greeter") { "the login screen, " } else { "" };
        format!("{greeter}session {}{of}{on}{how}", self.id)
    }

    /// Whether it draws on a screen of this machine.
    pub fn is_graphical(&self) -> bool {
        matches!(self.kind.as_deref(), Some("x11" | "wayland" | "mir")) && !self.remote
    }

    /// Whether a display manager started it, whose stopping ends it.
    pub fn by_display_manager(&self) -> bool {
        let managers = [
            "gdm",
            "lightdm",
            "sddm",
            "lxdm",
            "xdm",
            "slim",
            "ly",
            "greetd",
            "plasmalogin",
            "cosmic-greeter",
        ];
        let service = self.service.as_deref().unwrap_or_default();
        managers.iter().any(|manager| {
            service.strip_prefix(manager).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    }
}

/// Every session; `None` where logind keeps none here.
pub(super) fn sessions(look: &Look) -> Option<Vec<Session>> {
    read(&look.root)
}

/// As [`sessions`], through the bare door.
pub(super) fn read(root: &(impl crate::machine::Root + ?Sized)) -> Option<Vec<Session>> {
    let folder = std::path::Path::new(FOLDER);
    let names = root.list(folder).ok()?;
    // Beside `3` there is a pipe `3.ref` in older versions.
    let names = names.iter().filter_map(|name| name.to_str()).filter(|name| !name.contains('.'));
    Some(names.filter_map(|id| Some(parse(id, &root.text(&folder.join(id)).ok()?))).collect())
}

/// `NAME=value` lines (src/login/logind-session.c, `session_save`).
fn parse(id: &str, text: &str) -> Session {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        let value = line.trim_matches('"');
        (!value.is_empty()).then(|| value.to_owned())
    };
    let number = |name: &str| value(name).and_then(|value| value.parse().ok());
    let on = |name: &str| value(name).as_deref() == Some("1");
    let terminal = || number("VTNR").filter(|number: &u32| *number > 0).map(|number| format!("tty{number}"));
    Session {
        id: id.to_owned(),
        user: value("USER"),
        uid: number("UID"),
        seat: value("SEAT"),
        kind: value("TYPE"),
        class: value("CLASS"),
        desktop: value("DESKTOP"),
        display: value("DISPLAY"),
        tty: value("TTY").or_else(terminal),
        service: value("SERVICE"),
        leader: number("LEADER"),
        active: on("ACTIVE") || value("STATE").as_deref() == Some("active"),
        remote: on("REMOTE"),
        devices: value("DEVICES")
            .map_or_else(Vec::new, |all| all.split_whitespace().map(str::to_owned).collect()),
    }
}

/// The session that a user's services (run by the user's own manager, outside of any session) draw for.
pub(super) fn display_of(sessions: &[Session], uid: u32) -> Option<&Session> {
    let mut own = sessions.iter().filter(|session| session.uid == Some(uid) && session.is_graphical());
    own.clone().find(|session| session.active).or_else(|| own.next())
}

/// Whom a process belongs to, by its control group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Belongs {
    /// The session.
    pub(super) session: Option<String>,
    /// The unit of the system's manager.
    pub(super) unit: Option<String>,
    /// The unit of the user's own manager, and whose that is.
    pub(super) user_unit: Option<String>,
    pub(super) uid: Option<u32>,
    /// `docker 0123456789ab`, `lxc web`.
    pub(super) container: Option<String>,
    /// The libvirt domain.
    pub(super) guest: Option<String>,
}

/// From /proc/PID/cgroup (cgroups(7)): systemd's own hierarchy where there are several, else the only one.
pub(super) fn belongs(cgroup: &str) -> Belongs {
    let path_of = |line: &str, wanted: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        (controllers == wanted).then(|| path.to_owned())
    };
    let named = cgroup.lines().find_map(|line| path_of(line, "name=systemd"));
    let path = named.filter(|path| path != "/").or_else(|| cgroup.lines().find_map(|line| path_of(line, "")));
    let mut found = Belongs::default();
    let mut before = "";
    for part in path.unwrap_or_default().split('/') {
        let (stem, kind) = part.rsplit_once('.').unwrap_or((part, ""));
        let is_unit = ["service", "scope", "socket", "mount"].contains(&kind);
        if let Some(uid) = stem.strip_prefix("user@").filter(|_| is_unit) {
            found.uid = uid.parse().ok();
            found.unit = Some(part.to_owned());
        } else if let Some(session) = stem.strip_prefix("session-").filter(|_| kind == "scope") {
            found.session = Some(session.to_owned());
        } else if let Some(machine) = stem.strip_prefix("machine-").filter(|_| kind == "scope") {
            let name = unescaped(machine);
            match name.strip_prefix("qemu-").and_then(|rest| rest.split_once('-')) {
                Some((_, guest)) => found.guest = Some(guest.to_owned()),
                None => found.container = Some(format!("machine {name}")),
            }
        } else if let Some(container) = container(stem, part, before) {
            found.container = Some(container);
        } else if is_unit && found.container.is_none() && found.guest.is_none() {
            *(if found.uid.is_some() { &mut found.user_unit } else { &mut found.unit }) =
                Some(part.to_owned());
        }
        before = part;
    }
    found
}

/// The names that Docker, Podman, CRI-O, containerd, LXC and systemd-nspawn give their groups.
fn container(stem: &str, part: &str, before: &str) -> Option<String> {
    let is_id = |id: &str| id.len() >= 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let short = |kind: &str, id: &str| Some(format!("{kind} {}", id.get(..12)?));
    for (prefix, kind) in [
        ("docker-", "docker"),
        ("libpod-", "podman"),
        ("crio-", "cri-o"),
        ("cri-containerd-", "containerd"),
        ("nerdctl-", "containerd"),
    ] {
        if let Some(id) = stem.strip_prefix(prefix).filter(|id| is_id(id)) {
            return short(kind, id);
        }
    }
    if matches!(before, "docker" | "libpod_parent" | "kubepods") && is_id(part) {
        return short(if before == "docker" { "docker" } else { "container" }, part);
    }
    if let Some(name) = part.strip_prefix("lxc.payload.") {
        return Some(format!("lxc {name}"));
    }
    if matches!(before, "lxc" | "lxc.payload") {
        return Some(format!("lxc {part}"));
    }
    stem.strip_prefix("systemd-nspawn@").map(|name| format!("machine {}", unescaped(name)))
}

/// systemd.unit(5): `\x2d` is a dash.
fn unescaped(name: &str) -> String {
    let mut pieces = name.split("\\x");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let code = piece.get(..2).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok()).filter(u8::is_ascii);
        if let Some(byte) = byte {
            text.push(char::from(byte));
            text.push_str(piece.get(2..).unwrap_or_default());
        } else {
            text.push_str("\\x");
            text.push_str(piece);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_in_words() {
        let text = "# This is private data. Do not parse.\nUID=1000\nUSER=ring\nACTIVE=1\nSTATE=active\nREMOTE=0\nTYPE=wayland\n\
            CLASS=user\nSEAT=seat0\nDESKTOP=GNOME\nDISPLAY=:0\nTTY=tty2\nVTNR=2\nSERVICE=gdm-password\nLEADER=1204\n\
            DEVICES=13:64 226:1 \nCONTROLLER=:1.31\n";
        let session = parse("3", text);
        assert_eq!(session.shown(), "session 3 of ring on seat0 (wayland, tty2)");
        assert!(session.active && session.is_graphical() && session.by_display_manager() && !session.remote);
        assert_eq!((session.uid, session.leader), (Some(1000), Some(1204)));
        assert_eq!(session.devices, ["13:64", "226:1"]);
        let greeter = parse(
            "c1",
            "UID=110\nUSER=lightdm\nTYPE=x11\nCLASS=greeter\nSEAT=seat0\nVTNR=7\nSERVICE=lightdm-greeter\n",
        );
        assert_eq!(greeter.shown(), "the login screen, session c1 of lightdm on seat0 (x11, tty7)");
        assert!(!greeter.active && greeter.by_display_manager());
        let by_hand = parse("5", "USER=ring\nUID=1000\nTYPE=tty\nSERVICE=login\n");
        assert!(!by_hand.by_display_manager() && !by_hand.is_graphical());
        assert_eq!(parse("9", "").shown(), "session 9");
        let sessions = [by_hand, session.clone()];
        assert_eq!(display_of(&sessions, 1000), Some(&session));
        assert_eq!(display_of(&sessions, 0), None);
    }

    #[test]
    fn whom_a_process_belongs_to() {
        let of = |path: &str| {
            let it = belongs(&format!("0::{path}\n"));
            let uid = it.uid.map(|uid| uid.to_string());
            [it.session, it.unit, it.user_unit, uid, it.container, it.guest]
                .map(Option::unwrap_or_default)
                .join("|")
        };
        assert_eq!(of("/user.slice/user-1000.slice/session-3.scope"), "3|||||");
        assert_eq!(
            of("/user.slice/user-1000.slice/user@1000.service/session.slice/pipewire.service"),
            "|user@1000.service|pipewire.service|1000||"
        );
        assert_eq!(of("/system.slice/nvidia-persistenced.service"), "|nvidia-persistenced.service||||");
        assert_eq!(of("/init.scope"), "|init.scope||||");
        let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        assert_eq!(of(&format!("/system.slice/docker-{id}.scope")), "||||docker 0123456789ab|");
        assert_eq!(of(&format!("/docker/{id}")), "||||docker 0123456789ab|");
        assert_eq!(
            of(&format!(
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope/container"
            )),
            "|user@1000.service||1000|podman 0123456789ab|"
        );
        assert_eq!(of("/lxc.payload.web/system.slice/x.service"), "||||lxc web|");
        assert_eq!(
            of("/machine.slice/machine-qemu\\x2d3\\x2dwin10\\x2dgames.scope/libvirt/emulator"),
            "|||||win10-games"
        );
        assert_eq!(of("/machine.slice/systemd-nspawn@box.service/payload"), "||||machine box|");
        assert_eq!(of("/"), "|||||");
        let several = "12:cpuset:/\n1:name=systemd:/system.slice/sshd.service\n0::/x.scope\n";
        assert_eq!(belongs(several).unit.as_deref(), Some("sshd.service"));
        assert_eq!(belongs("garbage"), Belongs::default());
        assert_eq!(unescaped("a\\x2db\\xzz\\x"), "a-b\\xzz\\x");
    }
}
