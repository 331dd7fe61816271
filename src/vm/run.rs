//! The guest's supervisor: hands its cards over, starts QEMU, watches it, ends it when asked to, and brings home
//! what it handed over. Started by the client through [`client::start`]; it outlives it.
//!
//! It acts on cards only through [`crate::handover::worker`], and on QEMU through QMP and a pidfd.

use super::{
    Firmware, GuestState, Serial, Spec, disk, firmware, qemu,
    qmp::{self, Client, QmpError},
};
use crate::{
    error::{Error, Result, Status, said},
    handover::{
        awake, client,
        record::{self, Event, Recorder, millis},
        request::{Request, Way},
        snapshot::Card,
        worker::{self, Outcome},
    },
    host,
    machine::{
        Machine, Ownership, Program,
        process::{self, End, Process},
        wait_until,
    },
    pci::Address,
    plan::live::VFIO,
    step::live::driver_of,
};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How long QEMU may take to listen, and to answer.
const ANSWERS: Duration = Duration::from_secs(60);
/// How long the guest's firmware may take to number its buses; without KVM it takes seconds.
const NUMBERED: Duration = Duration::from_secs(60);
/// How long a guest may take to shut down after its power button was pressed.
const POWER_BUTTON: Duration = Duration::from_secs(60);
/// How long QEMU may take to end when it is told to.
const QUITS: Duration = Duration::from_secs(10);
/// How often it is looked whether the guest shall end.
const LOOK: Duration = Duration::from_millis(250);

/// The file by which a client asks for the end: `stop`, or `now`.
pub fn stop_file(name: &str) -> PathBuf {
    qemu::folder(name).join("stop")
}

/// Puts the guest on record and starts its supervisor.
pub fn start(machine: &dyn Machine, systemd: bool, spec: &Spec, op: &str) -> Result<()> {
    let folder = qemu::folder(&spec.name);
    record::make_folders(machine, &folder)?;
    if let Ok(None) = machine.lock(&folder.join("lock")) {
        return Err(Error::refused(format!("a guest named {} runs already", spec.name))
            .hint("gpuferry vm run --name OTHER …"));
    }
    // Left by a guest of that name that has ended.
    let _ = machine.remove(&stop_file(&spec.name));
    let text = serde_json::to_vec_pretty(spec);
    let text = text.map_err(|error| Error::failed(format!("cannot write the guest down: {error}")))?;
    record::replace(machine, &folder.join("spec.json"), &text)?;
    let words = ["guest", &spec.name, "--op", op].map(std::ffi::OsString::from);
    client::start(machine, systemd, &format!("gpuferry-vm-{}", spec.name), &words)
}

/// Does all of it, from lock to the last event.
pub fn work(machine: &dyn Machine, name: &str, op: &str) -> Result<()> {
    let folder = qemu::folder(name);
    let path = folder.join("lock");
    let lock = machine.lock(&path).map_err(|error| Error::io("lock", &path, &error))?;
    let Some(lock) = lock else { return Err(Error::refused(format!("a guest named {name} runs already"))) };
    let spec: Option<Spec> = record::load(machine, &folder.join("spec.json"))?;
    let spec = spec.ok_or_else(|| Error::failed(format!("nothing is on record of a guest named {name}")))?;
    let recorder = Recorder::open(machine, &folder, op)?;
    let stop = Arc::new(AtomicBool::new(false));
    // A handler that cannot be set leaves the default: the signal ends us, and whoever is started next goes on.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&stop));
    let guest = Guest { machine, recorder: &recorder, spec: &spec, op, stop };
    let done = guest.live();
    let _ = machine.remove(&folder.join("state.json"));
    drop(lock);
    let finished = match &done {
        Ok(message) => finished(Status::Done, message, &[], &[]),
        Err(error) => finished(error.status, &error.message, &error.details, &error.hints),
    };
    recorder.say(finished)?;
    done.map(drop)
}

fn finished(status: Status, message: &str, details: &[String], hints: &[String]) -> Event {
    Event::Finished {
        status: status as u8,
        message: message.to_owned(),
        details: details.to_vec(),
        hints: hints.to_vec(),
    }
}

struct Guest<'g> {
    machine: &'g dyn Machine,
    recorder: &'g Recorder<'g>,
    spec: &'g Spec,
    op: &'g str,
    stop: Arc<AtomicBool>,
}

impl Guest<'_> {
    fn state_path(&self) -> PathBuf {
        qemu::folder(&self.spec.name).join("state.json")
    }

    fn keep(&self, state: &GuestState) -> Result<()> {
        let text = serde_json::to_vec_pretty(state);
        let text = text.map_err(|error| Error::failed(format!("cannot write the guest's state: {error}")))?;
        record::replace(self.machine, &self.state_path(), &text)
    }

    fn note(&self, text: impl Into<String>) -> Result<()> {
        self.recorder.say(Event::Note { text: text.into() })
    }

    /// From wherever the record says that it is. Whatever happens in between, the cards go home at the end.
    fn live(&self) -> Result<String> {
        let before: Option<GuestState> = record::load(self.machine, &self.state_path())?;
        let mut state = before.clone().unwrap_or_else(|| GuestState {
            op: self.op.to_owned(),
            name: self.spec.name.clone(),
            cards: self.spec.cards.iter().map(|card| card.address).collect(),
            borrowed: Vec::new(),
            qemu: None,
            since_ms: millis(self.machine.now()),
        });
        if !self.spec.cards.is_empty() {
            let cards: Vec<_> = self.spec.cards.iter().map(|card| card.address.to_string()).collect();
            let why = format!("the guest {} has {}", self.spec.name, cards.join(", "));
            // Without it the host sleeps when its owner says so; the guest runs, and its cards come home.
            let _ = awake::start(self.machine, &super::awake_key(&self.spec.name), &why);
        }
        let adopted = state.qemu.and_then(|(pid, started)| process::find(self.machine, pid, started));
        let ended = match (before.is_some(), adopted) {
            (true, Some(qemu)) => {
                self.note("the supervisor was killed and is back; the guest runs on")?;
                self.supervise(qemu)
            }
            (true, None) => {
                Err(Error::failed("the supervisor was killed, and the guest has ended meanwhile"))
            }
            (false, _) => self.begin(&mut state).and_then(|qemu| self.supervise(qemu)),
        };
        let home = self.bring_home(&state);
        match (ended, home) {
            (ended, Ok(())) => ended,
            (Ok(_), Err(home)) => Err(home),
            (Err(ended), Err(home)) => {
                let mut both = ended.with_status(home.status).detail(home.message);
                both.details.extend(home.details);
                both.hints.extend(home.hints);
                Err(both)
            }
        }
    }

    /// Cards, then QEMU.
    fn begin(&self, state: &mut GuestState) -> Result<Box<dyn Process>> {
        let host = host::observe_for_hand_over(&self.machine);
        for disk in &self.spec.disks {
            if let Some(refusal) = disk::refuse(&host, self.machine, &disk.path)? {
                return Err(refusal);
            }
        }
        self.keep(state)?;
        for card in &self.spec.cards {
            if card.functions.iter().all(|f| driver_of(self.machine, *f).as_deref() == Some(VFIO)) {
                continue;
            }
            // On record before it is begun: whoever is started after us brings it home.
            state.borrowed.push(card.address);
            self.keep(state)?;
            self.recorder.say(Event::Begin { label: "detach".into(), text: shown(card) })?;
            let begun = self.machine.uptime();
            let lent = worker::work(self.machine, &self.request(card.address, Way::Lend))?;
            if lent == Outcome::WasLent {
                state.borrowed.retain(|address| *address != card.address);
                self.keep(state)?;
            }
            self.done(begun)?;
        }
        if let Firmware::Uefi { code, vars } = &self.spec.firmware {
            self.variables(code, vars)?;
        }
        self.memory_module();
        self.recorder.say(Event::Begin { label: "start".into(), text: self.spec.name.clone() })?;
        let begun = self.machine.uptime();
        let folder = qemu::folder(&self.spec.name);
        for socket in ["qmp", "serial"] {
            let _ = self.machine.remove(&folder.join(socket));
        }
        let program = Program::new(&self.spec.qemu, Duration::MAX).args(qemu::arguments(self.spec, &host));
        let started = self.machine.start(&program, &folder.join("qemu.log"));
        let qemu = started.map_err(|error| {
            Error::failed(format!("cannot start {}: {}", self.spec.qemu.display(), said(&error)))
                .hint("apt install qemu-system-x86   or   gpuferry vm run --qemu PATH …")
        })?;
        let pid = qemu.pid();
        state.qemu = process::start_time(self.machine, pid).map(|start| (pid, start));
        self.keep(state)?;
        self.done(begun)?;
        Ok(qemu)
    }

    /// Loads the module through which a guest's memory reaches its devices. vfio names it as a soft dependency only
    /// (drivers/vfio/vfio_main.c), which is lost where vfio-pci was loaded by an initramfs.
    fn memory_module(&self) {
        if self.machine.exists(Path::new("/sys/module/vfio_iommu_type1")) {
            return;
        }
        let program = Program::new("/sbin/modprobe", ANSWERS).args(["-b", "--", "vfio_iommu_type1"]);
        // A kernel that does without it (iommufd alone) is no failure; QEMU says what it lacks.
        let _ = self.machine.run(&program);
    }

    fn done(&self, begun: Duration) -> Result<()> {
        self.recorder.say(Event::End { ms: millis(self.machine.uptime().saturating_sub(begun)) })
    }

    fn request(&self, address: Address, way: Way) -> Request {
        let word = if way == Way::Lend { "lend" } else { "home" };
        let op = format!("{}-{word}-{address}", self.op);
        Request {
            together: self.spec.cards.iter().map(|card| card.address).collect(),
            stop: self.spec.stop.clone(),
            guest: Some(self.spec.name.clone()),
            wishes: self.spec.wishes.clone(),
            ..Request::new(op, way, address, Duration::from_secs(60))
        }
    }

    /// The guest's own copy of the UEFI variables, made once.
    fn variables(&self, code: &Path, vars: &Path) -> Result<()> {
        if self.machine.exists(vars) {
            return Ok(());
        }
        let template = firmware::variables(code);
        let bytes = self.machine.read(&template).map_err(|error| Error::io("read", &template, &error))?;
        record::make_folders(self.machine, vars.parent().unwrap_or(Path::new("/")))?;
        let made = self.machine.create(vars, &bytes, &Ownership::root(0o600));
        made.map_err(|error| Error::io("write", vars, &error))
    }

    /// Watches QEMU to its end.
    fn supervise(&self, mut qemu: Box<dyn Process>) -> Result<String> {
        let mut monitor = None;
        let watched = self.watch(qemu.as_mut(), &mut monitor);
        if let Err(error) = watched {
            // Whatever went wrong, QEMU does not run on without anybody to watch it.
            if let Some(monitor) = &mut monitor {
                let _ = monitor.ask("quit", QUITS);
            }
            if qemu.wait(QUITS).is_none() {
                qemu.kill();
                let _ = qemu.wait(QUITS);
            }
            return Err(error);
        }
        watched
    }

    fn watch(&self, qemu: &mut dyn Process, monitor: &mut Option<Client>) -> Result<String> {
        *monitor = self.connect(qemu)?;
        if let Some(monitor) = monitor {
            self.listen(monitor);
            monitor.ask("cont", ANSWERS).map_err(|error| failed(&error))?;
            self.confirm(qemu, monitor)?;
        }
        let begun = self.machine.uptime();
        let mut stopping = Stopping::No;
        loop {
            if let Some(end) = qemu.wait(Duration::ZERO) {
                return self.ended(end, stopping);
            }
            let reason = self.reason(begun);
            stopping = self.stopping(stopping, reason, qemu, monitor)?;
            match monitor.as_mut().map(|monitor| monitor.event(LOOK)) {
                Some(Ok(None)) => {}
                Some(Ok(Some(event))) => match event.0.as_str() {
                    "SHUTDOWN" => self.note("the guest shuts down")?,
                    "RESET" if self.machine.uptime().saturating_sub(begun) > LOOK => {
                        self.note("the guest restarts")?;
                    }
                    _ => {}
                },
                Some(Err(_)) => *monitor = None,
                None => {
                    let _ = qemu.wait(LOOK);
                }
            }
        }
    }

    /// Connects to QEMU; `None`: it has ended.
    fn connect(&self, qemu: &mut dyn Process) -> Result<Option<Client>> {
        let path = qemu::folder(&self.spec.name).join("qmp");
        let mut found = None;
        let mut ended = false;
        wait_until(self.machine, ANSWERS, || {
            ended = qemu.wait(Duration::ZERO).is_some();
            found = Client::connect(&path, ANSWERS).ok();
            ended || found.is_some()
        });
        if found.is_none() && !ended {
            return Err(Error::failed(format!("QEMU did not listen on {} in time", path.display())));
        }
        Ok(found)
    }

    /// Waits a moment for the client to listen to the serial line, so that the guest's first words are heard.
    fn listen(&self, monitor: &mut Client) {
        if self.spec.serial != Serial::Stdio {
            return;
        }
        wait_until(self.machine, Duration::from_secs(10), || {
            let answer = monitor.ask("query-chardev", ANSWERS);
            // `disconnected:` in front of the address says that nobody listens (QEMU: chardev/char-socket.c).
            answer.is_err() || answer.is_ok_and(|devices| connected(&devices)) || self.client_gone()
        });
    }

    /// Looks over QMP whether every function is inside, and says where.
    fn confirm(&self, qemu: &mut dyn Process, monitor: &mut Client) -> Result<()> {
        let host = host::observe_for_hand_over(&self.machine);
        let placed = qemu::placement(&host, &self.spec.cards);
        let mut inside = Vec::new();
        let mut failure = None;
        wait_until(self.machine, NUMBERED, || {
            match monitor.ask("query-pci", ANSWERS) {
                Ok(answer) => inside = qmp::devices(&answer),
                Err(error) => failure = Some(error),
            }
            let all = placed.iter().all(|item| inside.iter().any(|device| device.name == item.id));
            all || failure.is_some()
                || qemu.wait(Duration::ZERO).is_some()
                || self.reason(Duration::MAX).is_some()
        });
        if let Some(error) = failure.filter(|error| !matches!(error, QmpError::Closed)) {
            return Err(failed(&error));
        }
        for item in &placed {
            let found = inside.iter().find(|device| device.name == item.id);
            let text = match found {
                Some(device) => {
                    let ((vendor, id), (bus, slot, function)) = (device.id, device.at);
                    // Bus 255: the firmware has not numbered the port that it is behind.
                    let at = if bus == 0xff {
                        "inside".into()
                    } else {
                        format!("inside as {bus:02x}:{slot:02x}.{function}")
                    };
                    format!("{} is {at} [{vendor:04x}:{id:04x}]", item.host)
                }
                None => format!("{} is not on the guest's bus yet", item.host),
            };
            self.note(text)?;
        }
        Ok(())
    }

    fn client_gone(&self) -> bool {
        let gone = |(pid, started)| process::start_time(self.machine, pid) != Some(started);
        self.spec.client.is_some_and(gone)
    }

    /// Why the guest shall end, if it shall.
    fn reason(&self, begun: Duration) -> Option<Reason> {
        let word = self.machine.text(&stop_file(&self.spec.name)).ok();
        if word.as_deref() == Some("now") {
            return Some(Reason { text: "stopped", now: true });
        }
        let soft = |text| Some(Reason { text, now: false });
        if word.is_some() {
            return soft("asked to stop");
        }
        if self.stop.load(Ordering::Relaxed) {
            return soft("its unit is being stopped");
        }
        if self.client_gone() {
            return soft("gpuferry vm run is gone");
        }
        let limit = self.spec.stop_after.map(Duration::from_secs)?;
        (self.machine.uptime().saturating_sub(begun) > limit)
            .then_some(Reason { text: "its time is over", now: false })
    }

    /// One step further to the end: power button, quit, kill, each with its time.
    fn stopping(
        &self,
        stopping: Stopping,
        reason: Option<Reason>,
        qemu: &dyn Process,
        monitor: &mut Option<Client>,
    ) -> Result<Stopping> {
        let now = self.machine.uptime();
        let mut ask = |word: &str| monitor.as_mut().is_some_and(|monitor| monitor.ask(word, QUITS).is_ok());
        let next = match (stopping, reason) {
            (Stopping::No, None) => Stopping::No,
            (Stopping::No, Some(reason)) if !reason.now => {
                self.note(format!("{}: pressing the guest's power button", reason.text))?;
                // Without a monitor there is no button: QEMU ends by SIGTERM, and writes its images out first.
                if !ask("system_powerdown") {
                    qemu.terminate();
                }
                Stopping::Button(now + POWER_BUTTON)
            }
            (Stopping::Button(end), reason) if now < end && !reason.is_some_and(|reason| reason.now) => {
                stopping
            }
            (Stopping::No | Stopping::Button(_), _) => {
                self.note("the guest did not shut down: QEMU is told to quit")?;
                if !ask("quit") {
                    qemu.terminate();
                }
                Stopping::Quit(now + QUITS)
            }
            (Stopping::Quit(end), _) if now >= end => {
                self.note("QEMU did not quit: killed")?;
                qemu.kill();
                Stopping::Killed
            }
            (Stopping::Quit(_) | Stopping::Killed, _) => stopping,
        };
        Ok(next)
    }

    fn ended(&self, end: End, stopping: Stopping) -> Result<String> {
        let log = self.machine.text(&qemu::folder(&self.spec.name).join("qemu.log")).unwrap_or_default();
        // What QEMU says when it falls back from KVM, or ends by our signal, is no complaint.
        let lines: Vec<_> = log.lines().rev().take(8).map(str::to_owned).collect();
        let name = &self.spec.name;
        match (end, stopping) {
            (End::Status(0) | End::Unknown, _) => Ok(format!("the guest {name} has ended")),
            (_, Stopping::Quit(_) | Stopping::Killed) => Ok(format!("the guest {name} was stopped")),
            (End::Status(status), _) => {
                let mut error = Error::failed(format!("QEMU ended with status {status}"));
                error.details.extend(lines.into_iter().rev());
                Err(error)
            }
            (End::Signal, _) => {
                let mut error = Error::failed("QEMU was killed by a signal".to_owned());
                error.details.extend(lines.into_iter().rev());
                Err(error)
            }
        }
    }

    /// What was lent for this guest goes home; each card is tried, and all failures are told.
    fn bring_home(&self, state: &GuestState) -> Result<()> {
        let mut failure: Option<Error> = None;
        for address in &state.borrowed {
            self.recorder.say(Event::Begin { label: "reattach".into(), text: address.to_string() })?;
            let begun = self.machine.uptime();
            match worker::work(self.machine, &self.request(*address, Way::Home)) {
                Ok(outcome) => {
                    if outcome == Outcome::HomeDark {
                        self.note(outcome.sentence(*address))?;
                    }
                    self.done(begun)?;
                }
                Err(error) => {
                    self.note(format!("{address}: {}", error.message))?;
                    let stays = error.with_status(Status::NotUndone).detail(format!("{address} is not home"));
                    failure = Some(match failure {
                        None => stays,
                        Some(first) => first.detail(stays.message),
                    });
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

fn failed(error: &QmpError) -> Error {
    Error::failed(error.to_string())
}

fn shown(card: &Card) -> String {
    format!("{} ({})", card.address, card.name)
}

fn connected(devices: &Value) -> bool {
    let serial = devices.as_array().into_iter().flatten().find(|device| device["label"] == "serial0");
    let address = serial.and_then(|serial| serial["filename"].as_str());
    address.is_none_or(|address| !address.starts_with("disconnected:"))
}

#[derive(Debug, Clone, Copy)]
struct Reason {
    text: &'static str,
    now: bool,
}

/// How far the end of a guest is, and until when the next step waits (time since boot).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopping {
    No,
    Button(Duration),
    Quit(Duration),
    Killed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_serial_line_that_nobody_hears_is_seen() {
        let with = |filename: &str| json!([{ "label": "serial0", "filename": filename }]);
        assert!(!connected(&with("disconnected:unix:/run/x,server=on")));
        assert!(connected(&with("unix:/run/x,server=on <-> /run/y")));
        assert!(connected(&json!([])));
        assert!(connected(&json!(3)));
    }
}
