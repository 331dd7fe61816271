//! What has to end before a card can go: from who holds it to units, sessions and processes. Looks only; the steps
//! that end them are [`crate::step::live`]'s, and whether they may is the owner's word ([`Stop::is_allowed`]).
//!
//! PID 1 and logind hold a display for a session: it is the session that ends. A display manager is stopped as the
//! unit that it is, or it would start the next greeter; what runs in a user's manager is stopped there, with the
//! sockets that would start it again.

use super::{holders::Holder, preflight::Held};
use crate::{
    machine::{Machine, Root, process::start_time},
    plan::live::VFIO,
    step::{live::LiveStep, services::Unit},
};
use std::path::Path;

/// Something that ends for a hand-over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// A unit, and those that would start it again.
    Unit {
        /// The unit.
        unit: Unit,
        /// Sockets and paths that trigger it.
        triggers: Vec<Unit>,
        /// Whether it is the display manager: masked while the card is away, because upgrades restart it.
        display_manager: bool,
        /// Login sessions that end with it, as logind names them.
        sessions: Vec<String>,
    },
    /// A login session at a seat.
    Session {
        /// Its name at logind.
        id: String,
        /// Whose.
        user: String,
    },
    /// A process that is nothing of the above.
    Process {
        /// Its number.
        pid: u32,
        /// When it started, in clock ticks since boot.
        started: u64,
        /// Its name.
        name: String,
        /// Whose.
        user: String,
    },
}

/// The word for everything in [`Stop::is_allowed`].
pub const ALL: &str = "all";
/// The word for the display manager, whatever its unit is called.
pub const DISPLAY_MANAGER: &str = "display-manager";

impl Stop {
    /// By which word the owner allows it: the unit, `session:USER`, `process:NAME`.
    pub fn word(&self) -> String {
        match self {
            Self::Unit { display_manager: true, .. } => DISPLAY_MANAGER.to_owned(),
            Self::Unit { unit, .. } => unit.name.clone(),
            Self::Session { user, .. } => format!("session:{user}"),
            Self::Process { name, .. } => format!("process:{name}"),
        }
    }

    /// Whether one of these words allows it.
    pub fn is_allowed(&self, words: &[String]) -> bool {
        let own = self.word();
        let name = match self {
            Self::Unit { unit, .. } => Some(&unit.name),
            _ => None,
        };
        words.iter().any(|word| word == ALL || *word == own || Some(word) == name)
    }

    /// For people, in a few words.
    pub fn shown(&self) -> String {
        match self {
            Self::Unit { unit, .. } => unit.to_string(),
            Self::Session { id, user } => format!("session {id} of {user}"),
            Self::Process { pid, name, user, .. } => format!("{name} (pid {pid}, {user})"),
        }
    }

    /// What that means to people, as a sentence without its end.
    pub fn meaning(&self) -> String {
        match self {
            Self::Unit { unit, display_manager: true, .. } => {
                format!("{unit} is stopped: graphical sessions end, what is not saved in them is lost")
            }
            Self::Unit { unit, .. } => format!("{unit} is stopped, and started again when the card is home"),
            Self::Session { id, user } => {
                format!("session {id} of {user} ends, with everything that runs in it")
            }
            Self::Process { pid, name, user, .. } => {
                format!("{name} (pid {pid}) of {user} is asked to end; it is not started again")
            }
        }
    }

    /// What ends it, in order.
    pub fn steps(&self) -> Vec<LiveStep> {
        match self {
            Self::Unit { unit, triggers, display_manager, sessions } => {
                let stop = |unit: &Unit, mask| LiveStep::StopUnit { unit: unit.clone(), mask };
                let first = triggers.iter().map(|trigger| stop(trigger, false));
                let end = sessions.iter().map(|session| LiveStep::EndSession { session: session.clone() });
                first.chain([stop(unit, *display_manager)]).chain(end).collect()
            }
            Self::Session { id, .. } => vec![LiveStep::EndSession { session: id.clone() }],
            Self::Process { pid, started, name, .. } => {
                vec![LiveStep::EndProcess { pid: *pid, started: *started, name: name.clone() }]
            }
        }
    }

    /// The display manager, where this is it.
    pub fn display_manager(&self) -> Option<&Unit> {
        match self {
            Self::Unit { unit, display_manager: true, .. } => Some(unit),
            _ => None,
        }
    }
}

/// Units that start again when the card is home: services before their sockets find them, the display manager last.
pub fn units(stops: &[Stop]) -> Vec<Unit> {
    let mut units = Vec::new();
    let last = |stop: &&Stop| stop.display_manager().is_some();
    for stop in stops.iter().filter(|stop| !last(stop)).chain(stops.iter().filter(last)) {
        if let Stop::Unit { unit, triggers, .. } = stop {
            units.extend(triggers.iter().chain([unit]).cloned());
        }
    }
    units
}

/// What has to end so that nobody holds these functions any more: the display manager first, because it would start
/// again what ends under it.
pub fn stops(machine: &dyn Machine, held: &[Held]) -> Vec<Stop> {
    find(&machine, held, &|unit| unit.triggers(machine))
}

fn find(root: &dyn Root, held: &[Held], triggers: &dyn Fn(&Unit) -> Vec<Unit>) -> Vec<Stop> {
    let seen = Seen { root, triggers, manager: display_manager(root), sessions: sessions(root) };
    let taken = held.iter().filter(|held| held.driver.as_deref() != Some(VFIO));
    let mut found: Vec<Stop> = Vec::new();
    for stop in taken.flat_map(|held| &held.holders).flat_map(|holder| seen.stops(holder)) {
        found.push(stop);
    }
    found.sort_by_key(|stop| (stop.display_manager().is_none(), stop.clone()));
    found.dedup();
    found
}

/// The unit behind `display-manager.service`, a link that distributions make (systemd.special(7)).
pub fn display_manager(root: &(impl Root + ?Sized)) -> Option<Unit> {
    let link = Path::new("/etc/systemd/system/display-manager.service");
    root.link_name(link).ok().filter(|name| name != "null").map(Unit::system)
}

/// A login session, from logind's own file (src/login/logind-session.c, `session_save`).
#[derive(Debug, Clone, Default)]
struct Session {
    id: String,
    user: String,
    /// It is at a seat: not over the network.
    seat: bool,
    graphical: bool,
    /// Somebody took control of its devices: a compositor or X server.
    controlled: bool,
    /// `user`, `greeter`, …
    class: String,
    /// The PAM service that opened it: `lightdm`, `gdm-password`, `login`.
    service: String,
}

impl Session {
    /// Whether a display manager opened it: PAM services are named after their programs (`gdm-password`, `sddm`).
    fn is_of(&self, manager: &Unit) -> bool {
        let stem = manager.name.trim_end_matches(".service").trim_end_matches(|c: char| c.is_ascii_digit());
        self.class == "greeter" || (!stem.is_empty() && self.service.starts_with(stem))
    }
}

fn sessions(root: &(impl Root + ?Sized)) -> Vec<Session> {
    let folder = Path::new("/run/systemd/sessions");
    let names = root.list(folder).unwrap_or_default();
    let names = names.iter().filter_map(|name| name.to_str()).filter(|name| !name.contains('.'));
    names.filter_map(|name| Some(session(name, &root.text(&folder.join(name)).ok()?))).collect()
}

fn session(id: &str, text: &str) -> Session {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().to_owned()
    };
    Session {
        id: id.to_owned(),
        user: value("USER"),
        seat: !value("SEAT").is_empty(),
        graphical: matches!(value("TYPE").as_str(), "x11" | "wayland" | "mir"),
        controlled: !value("CONTROLLER").is_empty(),
        class: value("CLASS"),
        service: value("SERVICE"),
    }
}

/// Where a process belongs, from its control group.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Unit(String),
    UserUnit(String),
    Session(String),
    Elsewhere,
}

/// The kind of a unit: what follows its last dot.
fn kind(unit: &str) -> &str {
    unit.rsplit_once('.').map_or("", |(_, kind)| kind)
}

fn place(root: &(impl Root + ?Sized), pid: u32) -> Place {
    let text = root.text(Path::new(&format!("/proc/{pid}/cgroup"))).unwrap_or_default();
    parse_place(&text)
}

/// `0::/user.slice/user-1000.slice/user@1000.service/session.slice/pipewire.service` (systemd's part of
/// the tree: "0::" in the unified hierarchy, "name=systemd" before).
fn parse_place(text: &str) -> Place {
    let path = text.lines().find_map(|line| {
        let (number, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        (number == "0" && controllers.is_empty() || controllers == "name=systemd").then_some(path)
    });
    let parts: Vec<&str> = path.unwrap_or_default().split('/').collect();
    let last_unit = |parts: &[&str]| {
        let unit = parts.iter().rev().find(|part| matches!(kind(part), "service" | "scope"));
        unit.map(|unit| (*unit).to_owned())
    };
    if let Some(at) = parts.iter().position(|part| part.starts_with("user@")) {
        return last_unit(&parts[at + 1..]).map_or(Place::Elsewhere, Place::UserUnit);
    }
    match last_unit(&parts) {
        Some(unit) => match unit.strip_prefix("session-").and_then(|rest| rest.strip_suffix(".scope")) {
            Some(session) => Place::Session(session.to_owned()),
            None if kind(&unit) == "service" => Place::Unit(unit),
            None => Place::Elsewhere,
        },
        None => Place::Elsewhere,
    }
}

struct Seen<'r> {
    root: &'r dyn Root,
    /// What would start a unit again.
    triggers: &'r dyn Fn(&Unit) -> Vec<Unit>,
    manager: Option<Unit>,
    sessions: Vec<Session>,
}

impl Seen<'_> {
    fn stops(&self, holder: &Holder) -> Vec<Stop> {
        let draws = holder.nodes.iter().any(|node| {
            ["/dev/dri/", "/dev/nvidia", "/dev/fb"].iter().any(|folder| node.starts_with(folder))
        });
        let at_seat = |session: &&Session| session.seat && (session.graphical || session.controlled);
        match (place(self.root, holder.pid), holder.process.as_str()) {
            (_, "systemd-logind") => self.all(self.sessions.iter().filter(at_seat)),
            _ if holder.pid == 1 => self.all(self.sessions.iter().filter(at_seat)),
            (Place::Unit(name), _) => vec![self.unit(Unit::system(name))],
            (Place::Session(id), _) => match self.sessions.iter().find(|session| session.id == id) {
                Some(session) if session.seat && draws => self.all([session]),
                _ => self.process(holder),
            },
            (Place::UserUnit(name), _) => {
                let own = |session: &&Session| at_seat(session) && session.user == holder.user;
                if draws && self.sessions.iter().any(|session| own(&session)) {
                    return self.all(self.sessions.iter().filter(own));
                }
                if kind(&name) == "service" {
                    return vec![self.unit(Unit { name, user: Some(holder.user.clone()) })];
                }
                self.process(holder)
            }
            (Place::Elsewhere, _) => self.process(holder),
        }
    }

    fn all<'s>(&self, sessions: impl IntoIterator<Item = &'s Session>) -> Vec<Stop> {
        sessions.into_iter().map(|session| self.session(session)).collect()
    }

    /// A session that the display manager opened ends with it.
    fn session(&self, session: &Session) -> Stop {
        match self.manager.as_ref().filter(|unit| session.is_of(unit)) {
            Some(unit) => self.unit(unit.clone()),
            None => Stop::Session { id: session.id.clone(), user: session.user.clone() },
        }
    }

    fn unit(&self, unit: Unit) -> Stop {
        let display_manager = self.manager.as_ref() == Some(&unit);
        let ends = |session: &&Session| display_manager && session.class == "user" && session.is_of(&unit);
        let sessions = self.sessions.iter().filter(ends).map(|session| session.id.clone()).collect();
        Stop::Unit { triggers: (self.triggers)(&unit), display_manager, sessions, unit }
    }

    fn process(&self, holder: &Holder) -> Vec<Stop> {
        let (name, user) = (holder.process.clone(), holder.user.clone());
        let started = start_time(self.root, holder.pid);
        started.map(|started| Stop::Process { pid: holder.pid, started, name, user }).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::live::Live;
    use std::{fs, os::unix::fs::symlink, path::PathBuf};

    /// A desktop: a greeter's display manager, a session that it opened, one that was begun by hand on a terminal.
    struct Desktop(tempfile::TempDir);

    impl Desktop {
        fn new() -> Self {
            let desktop = Self(tempfile::tempdir().unwrap());
            let units = desktop.0.path().join("etc/systemd/system");
            fs::create_dir_all(&units).unwrap();
            symlink("/usr/lib/systemd/system/gdm3.service", units.join("display-manager.service")).unwrap();
            desktop.put(
                "run/systemd/sessions/2",
                "UID=1000\nUSER=ring\nSEAT=seat0\nTYPE=wayland\nCONTROLLER=:1.7\nCLASS=user\nSERVICE=gdm-password\n",
            );
            desktop.put(
                "run/systemd/sessions/5",
                "UID=1001\nUSER=wagner\nSEAT=seat0\nTYPE=tty\nCLASS=user\nSERVICE=login\nTTY=tty3\n",
            );
            desktop
                .put("run/systemd/sessions/9", "UID=1001\nUSER=wagner\nTYPE=tty\nSERVICE=sshd\nREMOTE=1\n");
            desktop
        }

        fn put(&self, path: &str, text: &str) {
            let path: PathBuf = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn holds(&self, pid: u32, process: &str, user: &str, cgroup: &str, node: &str) -> Holder {
            self.put(&format!("proc/{pid}/cgroup"), &format!("0::{cgroup}\n"));
            let fields = "0 ".repeat(18);
            self.put(&format!("proc/{pid}/stat"), &format!("{pid} (x) S {fields}4711 0\n"));
            Holder::new(pid, process, user, vec![node.into()])
        }

        fn words(&self, holders: Vec<Holder>) -> Vec<String> {
            let root = Live::open(self.0.path()).unwrap();
            let held =
                Held { address: "0000:01:00.0".parse().unwrap(), driver: Some("amdgpu".into()), holders };
            let socket = |unit: &Unit| match unit.name.as_str() {
                "pipewire.service" => {
                    vec![Unit { name: "pipewire.socket".into(), user: unit.user.clone() }]
                }
                _ => Vec::new(),
            };
            let stops = find(&root, &[held], &socket);
            stops.iter().flat_map(Stop::steps).map(|step| step.describe()).collect()
        }
    }

    const CARD: &str = "/dev/dri/card0";

    #[test]
    fn a_session_of_the_display_manager_ends_with_it_and_logind_is_nobody() {
        let desktop = Desktop::new();
        let shell =
            "/user.slice/user-1000.slice/user@1000.service/session.slice/org.gnome.Shell@wayland.service";
        let holders = vec![
            desktop.holds(1, "systemd", "root", "/init.scope", CARD),
            desktop.holds(700, "systemd-logind", "root", "/system.slice/systemd-logind.service", CARD),
            desktop.holds(900, "gnome-shell", "ring", shell, CARD),
        ];
        let masked = "systemctl mask --runtime gdm3.service && systemctl stop gdm3.service";
        assert_eq!(desktop.words(holders), [masked, "loginctl terminate-session 2"]);
    }

    #[test]
    fn sound_is_stopped_in_its_users_manager_with_its_socket_first() {
        let desktop = Desktop::new();
        let place = "/user.slice/user-1000.slice/user@1000.service/session.slice/pipewire.service";
        let holder = desktop.holds(812, "pipewire", "ring", place, "/dev/snd/controlC1");
        assert_eq!(
            desktop.words(vec![holder]),
            [
                "systemctl --user --machine=ring@.host stop pipewire.socket",
                "systemctl --user --machine=ring@.host stop pipewire.service",
            ]
        );
    }

    #[test]
    fn who_was_started_by_hand_is_a_session_at_a_seat_and_a_process_elsewhere() {
        let desktop = Desktop::new();
        let at = |session: &str| format!("/user.slice/user-1001.slice/session-{session}.scope");
        let xorg = desktop.holds(40, "Xorg", "wagner", &at("5"), CARD);
        assert_eq!(desktop.words(vec![xorg]), ["loginctl terminate-session 5"]);
        let tool = desktop.holds(41, "nvtop", "wagner", &at("9"), CARD);
        assert_eq!(desktop.words(vec![tool]), ["kill -TERM 41   (nvtop)"]);
        let service = "/system.slice/nvidia-persistenced.service";
        let daemon = desktop.holds(42, "nvidia-persiste", "root", service, "/dev/nvidia0");
        assert_eq!(desktop.words(vec![daemon]), ["systemctl stop nvidia-persistenced.service"]);
    }

    #[test]
    fn nobody_is_stopped_without_a_word_for_it() {
        let unit = |name: &str, display_manager| Stop::Unit {
            unit: Unit::system(name),
            triggers: Vec::new(),
            display_manager,
            sessions: Vec::new(),
        };
        let manager = unit("sddm.service", true);
        for (words, allowed) in [
            (vec![], false),
            (vec!["pipewire.service"], false),
            (vec!["display-manager"], true),
            (vec!["sddm.service"], true),
            (vec!["all"], true),
        ] {
            let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
            assert_eq!(manager.is_allowed(&words), allowed, "{words:?}");
        }
        assert!(!unit("other.service", false).is_allowed(&["display-manager".to_owned()]));
    }

    #[test]
    fn the_display_manager_starts_last() {
        let unit = |name: &str, display_manager| Stop::Unit {
            unit: Unit::system(name),
            triggers: Vec::new(),
            display_manager,
            sessions: Vec::new(),
        };
        let order = units(&[unit("gdm3.service", true), unit("nvidia-persistenced.service", false)]);
        assert_eq!(
            order.iter().map(|unit| unit.name.as_str()).collect::<Vec<_>>(),
            ["nvidia-persistenced.service", "gdm3.service"]
        );
    }

    #[test]
    fn places_in_both_hierarchies() {
        assert_eq!(parse_place("0::/system.slice/lightdm.service\n"), Place::Unit("lightdm.service".into()));
        let old = "5:devices:/user.slice\n1:name=systemd:/user.slice/user-1000.slice/session-c2.scope\n";
        assert_eq!(parse_place(old), Place::Session("c2".into()));
        let container = "0::/system.slice/docker-0123.scope\n";
        assert_eq!(parse_place(container), Place::Elsewhere);
        assert_eq!(parse_place("0::/user.slice/user-1000.slice/user@1000.service"), Place::Elsewhere);
        assert_eq!(parse_place(""), Place::Elsewhere);
        assert_eq!(parse_place("nonsense"), Place::Elsewhere);
    }
}
