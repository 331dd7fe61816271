//! systemd and logind, as far as a hand-over asks them: units that run programs, and login sessions.

use super::{kernel::Kernel, tree::Tree};

/// A service, or the socket that starts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) name: &'static str,
    /// Whose manager; `None`: the system's.
    pub(crate) user: Option<&'static str>,
    /// What starts it.
    pub(crate) triggered_by: &'static str,
    /// What it runs, which opens what these functions have.
    pub(crate) program: Option<(&'static str, Vec<usize>)>,
    pub(crate) active: bool,
    pub(crate) masked: bool,
    pub(crate) pid: Option<u32>,
}

impl Unit {
    /// A unit that runs a program, which opens what these functions have.
    pub(crate) fn new(name: &'static str, program: &'static str, functions: &[usize]) -> Self {
        let program = (!program.is_empty()).then(|| (program, functions.to_vec()));
        Self { name, user: None, triggered_by: "", program, active: false, masked: false, pid: None }
    }

    /// The same, of a user's manager.
    pub(crate) fn of(self, user: &'static str, triggered_by: &'static str) -> Self {
        Self { user: Some(user), triggered_by, ..self }
    }
}

impl Kernel {
    /// Starts a unit: its program opens what is there.
    pub(crate) fn start_unit(&mut self, index: usize) {
        self.view.forget();
        let unit = self.units[index].clone();
        if unit.active || unit.masked {
            return;
        }
        self.units[index].active = true;
        let Some((comm, functions)) = &unit.program else { return };
        let uid = if unit.user.is_some() { 1000 } else { 0 };
        let pid = self.open(comm, uid, functions);
        if let Some(process) = pid.and_then(|pid| self.processes.get_mut(&pid)) {
            process.cgroup = match unit.user {
                Some(_) => {
                    format!("/user.slice/user-{uid}.slice/user@{uid}.service/session.slice/{}", unit.name)
                }
                None => format!("/system.slice/{}", unit.name),
            };
        }
        self.units[index].pid = pid;
    }

    /// A unit is stopped, with what it ran.
    pub(crate) fn stop_unit(&mut self, index: usize) {
        self.view.forget();
        self.units[index].active = false;
        if let Some(pid) = self.units[index].pid.take() {
            self.end(pid);
        }
    }

    /// `systemctl [--user --machine=USER@.host] VERB [--option…] -- UNIT`: status, output, complaint (systemctl(1)).
    pub(super) fn systemctl(&mut self, args: &[&str]) -> (i32, String, String) {
        let user = args.iter().find_map(|arg| arg.strip_prefix("--machine=")?.strip_suffix("@.host"));
        let name = args.last().copied().unwrap_or_default();
        let verb = args.iter().find(|arg| !arg.starts_with('-')).copied().unwrap_or_default();
        if verb == "is-system-running" {
            return (0, "running\n".into(), String::new());
        }
        let found = self.units.iter().position(|unit| unit.name == name && unit.user == user);
        let Some(index) = found else {
            let missing = format!("Unit {name} could not be found.");
            return (if verb == "is-active" { 4 } else { 5 }, String::new(), missing);
        };
        self.view.forget();
        match verb {
            "is-active" => (if self.units[index].active { 0 } else { 3 }, String::new(), String::new()),
            "show" => (0, format!("{}\n", self.units[index].triggered_by), String::new()),
            "mask" | "unmask" => {
                self.units[index].masked = verb == "mask";
                (0, String::new(), String::new())
            }
            "stop" => {
                self.stop_unit(index);
                (0, String::new(), String::new())
            }
            "start" if self.units[index].masked => {
                (1, String::new(), format!("Failed to start {name}: Unit {name} is masked."))
            }
            "start" => {
                self.start_unit(index);
                (0, String::new(), String::new())
            }
            _ => (0, String::new(), String::new()),
        }
    }

    /// `loginctl VERB -- NAME` (loginctl(1)): every user of a unit is logged in, and there are no sessions to end.
    #[allow(clippy::unused_self, reason = "as systemctl")]
    pub(super) fn loginctl(&self, args: &[&str]) -> (i32, String, String) {
        let known = args.first() == Some(&"show-user");
        (i32::from(!known), String::new(), if known { String::new() } else { "No session".to_owned() })
    }

    pub(super) fn systemd(&self, tree: &mut Tree) {
        for unit in &self.units {
            if unit.masked {
                tree.link(&format!("/run/systemd/system/{}", unit.name), "/dev/null");
            }
            if matches!(&unit.program, Some(("Xorg", _))) {
                let path = "/etc/systemd/system/display-manager.service";
                tree.link(path, format!("/usr/lib/systemd/system/{}", unit.name));
            }
        }
    }
}
