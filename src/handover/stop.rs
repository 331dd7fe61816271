//! What has to end before a card can go: from who holds it to units, sessions and processes. Looks only; the steps
//! that end them are [`crate::step::live`]'s, and whether they may is the owner's word ([`Stop::is_allowed`]).
//!
//! PID 1 and logind hold a display for a session: it is the session that ends. A display manager is stopped as the
//! unit that it is, or it would start the next greeter; what runs in a user's manager is stopped there, with the
//! sockets that would start it again.

use super::{holders::Holder, preflight::Held};
use crate::{
    host::sessions::Session,
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
    let seen = Seen { root, triggers, manager: display_manager(root) };
    let taken = held.iter().filter(|held| held.driver.as_deref() != Some(VFIO));
    merged(taken.flat_map(|held| &held.holders).filter_map(|holder| seen.stop(holder)).collect())
}

/// The unit behind `display-manager.service`, a link that distributions make (systemd.special(7)).
pub fn display_manager(root: &(impl Root + ?Sized)) -> Option<Unit> {
    let link = Path::new("/etc/systemd/system/display-manager.service");
    root.link_name(link).ok().filter(|name| name != "null").map(Unit::system)
}

struct Seen<'r> {
    root: &'r dyn Root,
    /// What would start a unit again.
    triggers: &'r dyn Fn(&Unit) -> Vec<Unit>,
    manager: Option<Unit>,
}

impl Seen<'_> {
    fn stop(&self, holder: &Holder) -> Option<Stop> {
        let draws = holder.nodes.iter().any(|node| {
            ["/dev/dri/", "/dev/nvidia", "/dev/fb"].iter().any(|folder| node.starts_with(folder))
        });
        let session = holder.session.as_ref();
        if holder.via.is_some() {
            return session.map(|session| self.session(session));
        }
        if let Some(name) = &holder.unit {
            return Some(self.unit(Unit::system(name), Vec::new()));
        }
        if let Some(session) = session.filter(|session| draws && session.seat.is_some()) {
            return Some(self.session(session));
        }
        match &holder.user_unit {
            Some(name) if name.rsplit('.').next() == Some("service") => {
                Some(self.unit(Unit { name: name.clone(), user: Some(holder.user.clone()) }, Vec::new()))
            }
            _ => self.process(holder),
        }
    }

    /// A session that the display manager opened ends with it.
    fn session(&self, session: &Session) -> Stop {
        let greeter = session.class.as_deref() == Some("greeter");
        match self.manager.as_ref().filter(|_| greeter || session.by_display_manager()) {
            Some(unit) => {
                self.unit(unit.clone(), if greeter { Vec::new() } else { vec![session.id.clone()] })
            }
            None => Stop::Session {
                id: session.id.clone(),
                user: session.user.clone().unwrap_or_else(|| "?".to_owned()),
            },
        }
    }

    fn unit(&self, unit: Unit, sessions: Vec<String>) -> Stop {
        let display_manager = self.manager.as_ref() == Some(&unit);
        Stop::Unit { triggers: (self.triggers)(&unit), display_manager, sessions, unit }
    }

    fn process(&self, holder: &Holder) -> Option<Stop> {
        let (name, user) = (holder.process.clone(), holder.user.clone());
        let started = start_time(self.root, holder.pid)?;
        Some(Stop::Process { pid: holder.pid, started, name, user })
    }
}

/// One stop for each thing that ends: a display manager that several holders lead to ends all their sessions.
fn merged(stops: Vec<Stop>) -> Vec<Stop> {
    let mut found: Vec<Stop> = Vec::new();
    for stop in stops {
        let same = found.iter_mut().find(|other| match (&**other, &stop) {
            (Stop::Unit { unit, .. }, Stop::Unit { unit: own, .. }) => unit == own,
            (other, stop) => other == stop,
        });
        match (same, stop) {
            (Some(Stop::Unit { sessions, .. }), Stop::Unit { sessions: more, .. }) => {
                sessions.extend(more);
                sessions.sort();
                sessions.dedup();
            }
            (Some(_), _) => {}
            (None, stop) => found.push(stop),
        }
    }
    found.sort_by_key(|stop| (stop.display_manager().is_none(), stop.clone()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{host::holders::holders, machine::live::Live};
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
                "UID=1000\nUSER=ring\nSEAT=seat0\nTYPE=wayland\nDEVICES=226:0 13:64 \nCLASS=user\nSERVICE=gdm-password\n",
            );
            desktop.put(
                "run/systemd/sessions/5",
                "UID=1001\nUSER=wagner\nSEAT=seat0\nTYPE=tty\nCLASS=user\nSERVICE=login\nTTY=tty3\n",
            );
            desktop.put("etc/passwd", "root:x:0:\nring:x:1000:\nwagner:x:1001:\n");
            desktop
                .put("run/systemd/sessions/9", "UID=1001\nUSER=wagner\nTYPE=tty\nSERVICE=sshd\nREMOTE=1\n");
            desktop
        }

        fn put(&self, path: &str, text: &str) {
            let path: PathBuf = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// A process that has a node open.
        fn holds(&self, pid: u32, process: &str, uid: u32, cgroup: &str, node: &str) {
            self.put(&format!("proc/{pid}/cgroup"), &format!("0::{cgroup}\n"));
            self.put(&format!("proc/{pid}/comm"), &format!("{process}\n"));
            self.put(&format!("proc/{pid}/status"), &format!("Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"));
            let fields = "0 ".repeat(18);
            self.put(&format!("proc/{pid}/stat"), &format!("{pid} (x) S {fields}4711 0\n"));
            let fd = self.0.path().join(format!("proc/{pid}/fd"));
            fs::create_dir_all(&fd).unwrap();
            symlink(node, fd.join("9")).unwrap();
        }

        fn words(&self) -> Vec<String> {
            let root = Live::open(self.0.path()).unwrap();
            let nodes = [CARD, "/dev/snd/controlC1", "/dev/nvidia0"].map(PathBuf::from).into();
            let holders = holders(&root, &nodes);
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
        desktop.holds(1, "systemd", 0, "/init.scope", CARD);
        desktop.holds(700, "systemd-logind", 0, "/system.slice/systemd-logind.service", CARD);
        desktop.holds(900, "gnome-shell", 1000, shell, CARD);
        let masked = "systemctl mask --runtime gdm3.service && systemctl stop gdm3.service";
        assert_eq!(desktop.words(), [masked, "loginctl terminate-session 2"]);
    }

    #[test]
    fn what_logind_holds_is_its_sessions() {
        let desktop = Desktop::new();
        desktop.put("sys/class/drm/card0/dev", "226:0\n");
        desktop.holds(700, "systemd-logind", 0, "/system.slice/systemd-logind.service", CARD);
        let masked = "systemctl mask --runtime gdm3.service && systemctl stop gdm3.service";
        assert_eq!(desktop.words(), [masked, "loginctl terminate-session 2"]);
    }

    #[test]
    fn sound_is_stopped_in_its_users_manager_with_its_socket_first() {
        let desktop = Desktop::new();
        let place = "/user.slice/user-1000.slice/user@1000.service/session.slice/pipewire.service";
        desktop.holds(812, "pipewire", 1000, place, "/dev/snd/controlC1");
        assert_eq!(
            desktop.words(),
            [
                "systemctl --user --machine=ring@.host stop pipewire.socket",
                "systemctl --user --machine=ring@.host stop pipewire.service",
            ]
        );
    }

    #[test]
    fn who_was_started_by_hand_is_a_session_at_a_seat_and_a_process_elsewhere() {
        let at = |session: &str| format!("/user.slice/user-1001.slice/session-{session}.scope");
        let service = "/system.slice/nvidia-persistenced.service";
        for (process, uid, place, node, words) in [
            ("Xorg", 1001, at("5"), CARD, "loginctl terminate-session 5"),
            ("nvtop", 1001, at("9"), CARD, "kill -TERM 41   (nvtop)"),
            (
                "nvidia-persiste",
                0,
                service.into(),
                "/dev/nvidia0",
                "systemctl stop nvidia-persistenced.service",
            ),
        ] {
            let desktop = Desktop::new();
            desktop.holds(41, process, uid, &place, node);
            assert_eq!(desktop.words(), [words]);
        }
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
}
