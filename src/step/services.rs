//! Units and sessions, as steps of a hand-over act on them: systemctl and loginctl by absolute path.
//!
//! Decides nothing about who is stopped; [`crate::handover::stop`] does. Nobody is ever killed here: systemd's own
//! unit files say how long a service may take to end.

use super::live::Hands;
use crate::{
    error::{Error, Result},
    machine::{Finished, Machine, Program},
};
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path, time::Duration};

/// A unit of the system's manager, or of a user's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unit {
    /// Its name: `lightdm.service`.
    pub name: String,
    /// Whose manager; `None`: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl fmt::Display for Unit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(out, "{} of {user}", self.name),
            None => write!(out, "{}", self.name),
        }
    }
}

/// How long a unit may take to stop: systemd's own default is 90 s before it kills (systemd-system.conf(5)).
const STOPS: Duration = Duration::from_secs(110);
/// How long a unit may take to start.
const STARTS: Duration = Duration::from_secs(90);
/// How long masking may take: systemd reads all units anew for it (systemctl(1), `mask` and `daemon-reload`), for
/// which systemctl itself waits longer than for other answers.
const RELOADS: Duration = Duration::from_secs(90);
/// How long a question may take.
const ANSWERS: Duration = Duration::from_secs(20);

impl Unit {
    /// A unit of the system's manager.
    pub fn system(name: impl Into<String>) -> Self {
        Self { name: name.into(), user: None }
    }

    fn systemctl(&self, words: &[&str], deadline: Duration) -> Program {
        let program = Program::new("/usr/bin/systemctl", deadline).arg("--no-ask-password");
        let program = match &self.user {
            Some(user) => program.arg("--user").arg(format!("--machine={user}@.host")),
            None => program,
        };
        program.args(words).arg("--").arg(&self.name)
    }

    /// As a person would type it.
    pub fn typed(&self, words: &str) -> String {
        match &self.user {
            Some(user) => format!("systemctl --user --machine={user}@.host {words} {}", self.name),
            None => format!("systemctl {words} {}", self.name),
        }
    }

    /// Whether it runs (systemctl(1): status 0 is active; where no manager answers it is no yes either, since then it is
    /// missed). `None`: systemctl could not be run, or did not end.
    pub fn is_active(&self, machine: &dyn Machine) -> Option<bool> {
        let finished = machine.run(&self.systemctl(&["is-active", "--quiet"], ANSWERS)).ok()?;
        finished.status.map(|status| status == 0)
    }

    /// The sockets and paths that would start it again: stopped with it, or it comes back at the first knock. One that
    /// does not run is not among them, and is not started with it later.
    pub fn triggers(&self, machine: &dyn Machine) -> Vec<Self> {
        let show = self.systemctl(&["show", "--property=TriggeredBy", "--value"], ANSWERS);
        let Ok(finished) = machine.run(&show) else { return Vec::new() };
        let text = String::from_utf8_lossy(&finished.stdout).into_owned();
        let names = text.split_whitespace().filter(|name| name.rsplit('.').next() != Some("timer"));
        let units = names.map(|name| Self { name: name.to_owned(), user: self.user.clone() });
        units.filter(|unit| unit.is_active(machine) != Some(false)).collect()
    }

    /// Whether it should run and does not: nobody is missed while the machine goes down, or after a logout.
    pub fn is_missed(&self, machine: &dyn Machine) -> bool {
        let gone = self.user.as_ref().is_some_and(|user| !logged_in(machine, user));
        self.is_active(machine) == Some(false) && !gone && !goes_down(machine)
    }

    fn is_masked_for_this_boot(&self, machine: &dyn Machine) -> bool {
        let link = Path::new("/run/systemd/system").join(&self.name);
        machine.readlink(&link).is_ok_and(|target| target == Path::new("/dev/null"))
    }

    /// Stops it. `mask`: nobody starts it in this boot until it is unmasked; an upgrade of its package would.
    pub(super) fn stop(&self, hands: &dyn Hands, mask: bool) -> Result<()> {
        if mask && !self.is_masked_for_this_boot(hands.machine()) {
            done(hands, &self.systemctl(&["mask", "--runtime", "--quiet"], RELOADS))?;
        }
        done(hands, &self.systemctl(&["stop"], STOPS))
    }

    /// Starts it, unless it runs or the machine is going down.
    pub(super) fn start(&self, hands: &dyn Hands) -> Result<()> {
        let machine = hands.machine();
        if goes_down(machine) {
            return Ok(());
        }
        if self.is_masked_for_this_boot(machine) {
            done(hands, &self.systemctl(&["unmask", "--runtime", "--quiet"], RELOADS))?;
        }
        if self.is_active(machine) == Some(true) {
            return Ok(());
        }
        if self.user.as_ref().is_some_and(|user| !logged_in(machine, user)) {
            return Ok(());
        }
        // A greeter that was stopped and started often in a short time has met its start limit; that is ours to
        // forgive, it did not fail.
        let _ = done(hands, &self.systemctl(&["reset-failed"], ANSWERS));
        done(hands, &self.systemctl(&["start"], STARTS))
    }
}

/// While the machine shuts down nothing is started again (systemctl(1), is-system-running).
fn goes_down(machine: &dyn Machine) -> bool {
    let program = Program::new("/usr/bin/systemctl", ANSWERS).arg("is-system-running");
    machine.run(&program).is_ok_and(|finished| finished.stdout.starts_with(b"stopping"))
}

/// Whether a user's manager runs: without it their units have nowhere to be, and the next login starts them.
fn logged_in(machine: &dyn Machine, user: &str) -> bool {
    let program = Program::new("/usr/bin/loginctl", ANSWERS).args(["show-user", "--", user]);
    machine.run(&program).is_ok_and(|finished| finished.ok())
}

/// Ends a login session, everything that it started with it.
pub(super) fn end_session(hands: &dyn Hands, session: &str) -> Result<()> {
    let there = |machine: &dyn Machine| machine.exists(&Path::new("/run/systemd/sessions").join(session));
    if !there(hands.machine()) {
        return Ok(());
    }
    let program = Program::new("/usr/bin/loginctl", ANSWERS).args(["terminate-session", "--", session]);
    match done(hands, &program) {
        // It ended by itself meanwhile.
        Err(_) if !there(hands.machine()) => Ok(()),
        done => done,
    }
}

fn done(hands: &dyn Hands, program: &Program) -> Result<()> {
    let finished: Finished = hands.run(program)?;
    if finished.ok() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&finished.stderr);
    let said = match (said.lines().next(), finished.status) {
        (Some(line), _) => line.trim().to_owned(),
        (None, Some(status)) => format!("status {status}"),
        (None, None) => format!("it did not end in {} s", program.deadline.as_secs()),
    };
    Err(Error::failed(format!("`{}` failed: {said}", program.shown())))
}
