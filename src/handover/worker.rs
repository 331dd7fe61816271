//! The card's worker: the one process that carries a hand-over out, and nothing else does.
//!
//! It takes the card's lock, looks again (what the client saw may have changed), writes down how the card was, and
//! then acts, each write on record before it is made. A step that fails on the way to a guest turns the card
//! around. A write that hangs hangs only this process: the lock stays held, so nobody writes to the device after
//! it, and when it completes the card is brought home.

use super::{
    guard, holders,
    preflight::{self, Held},
    record::{self, Event, Phase, Recorder, State, millis},
    request::{Request, Way, Wishes},
    snapshot::{Card, Snapshot, boot_id},
    stop,
};
use crate::{
    error::{Error, Result, Status, said},
    host::{self, Host},
    machine::{Finished, Machine, Program, Root, process, wait_until},
    pci::Address,
    plan::live::{self, Goal, LivePlan, Rescue, Reset, VFIO},
    step::live::{Hands, LiveStep, driver_of},
};
use std::{cell::Cell, path::Path, time::Duration};

/// Lines of the kernel's log that are shown after a stage.
const KERNEL_LINES: usize = 10;

/// What came of it, when it went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With vfio-pci now.
    Lent,
    /// It was there already, and nothing was changed.
    WasLent,
    /// As it was before.
    Home,
    /// As it was before, but for the picture that the firmware had set up: that is back with the next boot.
    HomeDark,
    /// It was home already.
    WasHome,
    /// With these drivers now, after it was never the host's in this boot.
    Given(Vec<String>),
}

/// Takes the lock of a card. Somebody else's hand-over is told with what it is in.
pub fn lock(machine: &dyn Machine, address: Address) -> Result<Box<dyn crate::machine::Lock>> {
    let folder = record::folder(address);
    record::make_folders(machine, &folder)?;
    let path = folder.join("lock");
    match machine.lock(&path).map_err(|error| Error::io("lock", &path, &error))? {
        Some(lock) => Ok(lock),
        None => Err(busy(machine, address)),
    }
}

/// What is said of a card whose worker is at work, or hangs.
pub fn busy(root: &(impl Root + ?Sized), address: Address) -> Error {
    let lines = record::lines(root, &record::folder(address).join("events"));
    let error = Error::refused(format!("a hand-over of {address} is under way"));
    match record::in_flight(&lines) {
        Some(write) => error
            .detail(format!("it is writing `{}` to {}", write.value.trim(), write.path))
            .hint("gpuferry status   shows since when, and what completes it"),
        None => error.hint("gpuferry status"),
    }
}

/// Does what is asked, from lock to the last event. The outcome is on record in any case.
pub fn work(machine: &dyn Machine, request: &Request) -> Result<Outcome> {
    let lock = lock(machine, request.address)?;
    // Killed after its last word, and started again: a failure that was told is not tried once more. (What went well
    // holds already, and doing it again changes nothing.)
    let events = record::lines(machine, &record::folder(request.address).join("events"));
    if let Some(failure) = record::end_of(&events, &request.op).and_then(told) {
        return Err(failure);
    }
    let recorder = Recorder::open(machine, &record::folder(request.address), &request.op)?;
    let done = carry(&recorder, request);
    let finished = match &done {
        Ok(outcome) => finished(Status::Done, outcome.sentence(request.address), &[], &[]),
        Err(error) => finished(error.status, error.message.clone(), &error.details, &error.hints),
    };
    // First free, then told: who hears of the end may start the next one.
    drop(lock);
    recorder.say(finished)?;
    done
}

/// The failure that an operation has ended with, from its last word.
fn told(end: &Event) -> Option<Error> {
    match end {
        Event::Finished { status, message, details, hints } if *status != Status::Done as u8 => Some(Error {
            status: super::client::status_of(*status),
            message: message.clone(),
            details: details.clone(),
            hints: hints.clone(),
        }),
        _ => None,
    }
}

fn finished(status: Status, message: String, details: &[String], hints: &[String]) -> Event {
    Event::Finished { status: status as u8, message, details: details.to_vec(), hints: hints.to_vec() }
}

impl Outcome {
    /// In a sentence.
    pub fn sentence(&self, address: Address) -> String {
        match self {
            Self::Lent => format!("{address} is lent: vfio-pci has it, and a guest can take it"),
            Self::WasLent => format!("{address} is lent already: nothing was changed"),
            Self::Home => format!("{address} is home: drivers, screen and consoles are as they were"),
            Self::HomeDark => format!(
                "{address} is home: its drivers are as they were. Its text console drew into what the firmware \
                 had set up, and is back with the next boot"
            ),
            Self::WasHome => format!("{address} is the host's already: nothing was changed"),
            Self::Given(drivers) => format!("{address} is the host's: {}", drivers.join(", ")),
        }
    }
}

fn carry(recorder: &Recorder, request: &Request) -> Result<Outcome> {
    let machine = recorder.machine();
    let state = record::state(machine, request.address)?;
    let resumed = state.as_ref().filter(|state| state.op == request.op).map(|state| state.phase);
    recorder.say(Event::Open {
        card: request.address,
        goal: if request.way == Way::Lend { "lend" } else { "home" }.to_owned(),
        boot_id: boot_id(machine)?,
    })?;
    let known = record::snapshot(machine, request.address)?.map(|known| known.wishes).unwrap_or_default();
    if let Some(after) = request.wishes.clone().or(&known).reboot_when_hung {
        let started = guard::start(machine, request, after);
        match started {
            // Before anything was done. On any way home, nothing stops a card from coming home.
            Err(error) if request.way == Way::Lend && resumed.is_none() => return Err(error),
            Err(error) => recorder.say(Event::Note { text: error.message })?,
            Ok(()) => {}
        }
    }
    let worker = Worker { recorder, request, hung: Cell::new(false) };
    match (request.way, resumed) {
        (Way::Lend, Some(Phase::Lending | Phase::Homing | Phase::Stuck)) => {
            Err(worker.turn_around(Error::failed("the worker was killed on the way")))
        }
        (Way::Lend, Some(Phase::Lent)) => Ok(Outcome::Lent),
        (Way::Lend, None) => worker.lend(state.is_none()),
        (Way::Home, _) => worker.home(),
    }
}

/// Who holds which function of a card now.
pub fn held(root: &(impl Root + ?Sized), card: &Card) -> Vec<Held> {
    let mut all = holders::of_each(root, &card.functions);
    let held = card.functions.iter().map(|address| Held {
        address: *address,
        driver: driver_of(root, *address),
        holders: all.remove(address).unwrap_or_default(),
    });
    held.collect()
}

/// How a card is reset: as its owner says, or by the module that knows how, where that is loaded. Its way is not taken
/// by itself since 5.15: the kernel chose before the module was there (<https://github.com/gnif/vendor-reset>).
pub fn reset_of(machine: &(impl Root + ?Sized), host: &Host, card: &Card, wishes: &Wishes) -> Option<Reset> {
    if let Some(method) = &wishes.reset_method {
        return Some(Reset { method: method.clone(), must: true });
    }
    let amd = host.function(card.address).is_some_and(|f| f.is_display() && f.vendor == Some(0x1002));
    let there = amd && machine.exists(Path::new("/sys/module/vendor_reset"));
    there.then(|| Reset { method: "device_specific".to_owned(), must: false })
}

struct Worker<'r, 'm> {
    recorder: &'r Recorder<'m>,
    request: &'r Request,
    /// Whether a write took so long that it counts as hung.
    hung: Cell<bool>,
}

impl Worker<'_, '_> {
    fn machine(&self) -> &dyn Machine {
        self.recorder.machine()
    }

    fn look(&self) -> Host {
        host::observe_for_hand_over(&self.machine())
    }

    fn lend(&self, first: bool) -> Result<Outcome> {
        let machine = self.machine();
        let host = self.look();
        let card = Card::find(&host, self.request.address)?;
        let together = self.request.together.iter().map(|address| Card::find(&host, *address));
        let together: Vec<_> = together.collect::<Result<_>>()?;
        let held = held(machine, &card);
        let stops = stop::stops(machine, &held);
        let reset = reset_of(machine, &host, &card, &self.request.wishes);
        let plan = live::live(&host, Goal::Lend(&card, &stops, reset.as_ref()))?;
        if live::is_lent(&host, &card) {
            // At most how it is reset is still to be said: of a card that early binding lent, until the next boot.
            self.remember(card.address, reset.is_some())?;
            self.run(&plan)?;
            return Ok(Outcome::WasLent);
        }
        if let Some(refusal) = preflight::refuse_host(&host, &card, &together) {
            return Err(refusal);
        }
        if let Some(refusal) = preflight::refuse_lend(&card, &held, &stops, &self.request.stop) {
            return Err(refusal);
        }
        // The first snapshot is how the card was; one taken on the way would remember the way.
        if record::snapshot(machine, card.address)?.is_none() || first {
            let now = millis(machine.now());
            let mut snapshot = Snapshot::take(machine, &host, &card, now)?;
            snapshot.units = stop::units(&stops);
            record::set_snapshot(machine, &snapshot)?;
        }
        self.remember(card.address, reset.is_some())?;
        self.set(&card, Phase::Lending)?;
        if let Err(error) = self.run(&plan) {
            return Err(self.turn_around(error));
        }
        self.set(&card, Phase::Lent)?;
        Ok(Outcome::Lent)
    }

    /// Adds to what is known of how a card was what is wished now, and how it was reset if that is about to change.
    fn remember(&self, address: Address, reset: bool) -> Result<()> {
        let machine = self.machine();
        let Some(mut snapshot) = record::snapshot(machine, address)? else { return Ok(()) };
        let before = snapshot.clone();
        snapshot.wishes = self.request.wishes.clone().or(&before.wishes);
        if reset {
            snapshot.keep_reset_method(machine);
        }
        if snapshot == before { Ok(()) } else { record::set_snapshot(machine, &snapshot) }
    }

    /// A failure on the way to a guest: the card goes home, and the failure is told with how that went.
    fn turn_around(&self, failure: Error) -> Error {
        let _ = self.recorder.say(Event::Note { text: format!("{}: going back", failure.message) });
        // Going back is what was promised: it is not asked for, stage by stage.
        let request = Request { step: false, ..self.request.clone() };
        let back = Worker { recorder: self.recorder, request: &request, hung: self.hung.clone() };
        let Err(home) = back.home() else {
            return failure.with_status(Status::Undone).detail("everything is as it was");
        };
        // Nobody is at work on it any more, and it is neither here nor there.
        if let Ok(Some(state)) = record::state(self.machine(), self.request.address) {
            let _ = self.set(&state.card, Phase::Stuck);
        }
        let mut both = failure.with_status(Status::NotUndone).detail(home.message);
        both.details.extend(home.details);
        both.hints.extend(home.hints);
        both
    }

    fn home(&self) -> Result<Outcome> {
        let machine = self.machine();
        let address = self.request.address;
        let Some(mut snapshot) = record::snapshot(machine, address)? else { return self.give() };
        snapshot.wishes = self.request.wishes.clone().or(&snapshot.wishes);
        let card = &snapshot.card.clone();
        let host = self.look();
        let now = snapshot.card_now(&host);
        if let Some(refusal) = preflight::refuse_home(&now, &held(machine, &now)) {
            return Err(refusal);
        }
        // What the firmware had set up is gone once vfio-pci has reset the card, and what a guest did with it.
        let reached = now.functions.iter().any(|own| driver_of(machine, *own).as_deref() == Some(VFIO));
        let dark = reached && snapshot.is_drawn_by_firmware();
        self.set(card, Phase::Homing)?;
        let (mut left, mut failures) = self.way_home(&host, &snapshot)?;
        // From here on the kernel may find the card anew, and where efifb would draw then is nobody's screen.
        snapshot.firmware.clear();
        for how in [Rescue::Reset, Rescue::Rescan] {
            // While a write hangs, to this card or another, nothing of this is tried: it would hang too.
            if left.is_empty() || self.hung.get() || super::client::nothing_hangs(machine).is_err() {
                break;
            }
            let plan = live::rescue(&self.look(), &snapshot, how);
            if plan.stages.is_empty() {
                continue;
            }
            self.recorder.say(Event::Note { text: format!("not home yet: {}", left.join("; ")) })?;
            failures.extend(self.run_all(&plan)?);
            let (now_left, more) = self.way_home(&self.look(), &snapshot)?;
            left = now_left;
            failures.extend(more);
        }
        // Last, after the resets above, which go by the owner's way.
        if snapshot.functions.iter().any(|before| before.reset_method.is_some()) {
            failures.extend(self.run_all(&live::reset_as_before(&self.look(), &snapshot))?);
        }
        if left.is_empty() {
            record::forget(machine, address)?;
            return Ok(if dark { Outcome::HomeDark } else { Outcome::Home });
        }
        self.set(card, Phase::Stuck)?;
        let mut error = Error::new(Status::NotUndone, format!("{address} is not home yet"));
        error.details.extend(left);
        error.details.extend(failures.iter().map(|failure| failure.message.clone()));
        Err(error.hint(format!("gpuferry reattach {address}   tries again from where it is")))
    }

    /// Everything that is not as it was, once the way home from here was gone; and what failed on it.
    fn way_home(&self, host: &Host, snapshot: &Snapshot) -> Result<(Vec<String>, Vec<Error>)> {
        let machine = self.machine();
        let failures = match live::live(host, Goal::Home(snapshot)) {
            Ok(plan) => self.run_all(&plan)?,
            Err(error) => vec![error],
        };
        let mut left = Vec::new();
        // Consoles follow their frame buffer after a moment: look until it is as it was.
        wait_until(machine, Duration::from_secs(5), || {
            left = snapshot.differences(&host::observe_drivers(&machine));
            left.is_empty()
        });
        let missed = snapshot.units.iter().filter(|unit| unit.is_missed(machine));
        left.extend(missed.map(|unit| format!("{unit} does not run again")));
        Ok((left, failures))
    }

    /// Home for a card that was lent before anybody could look: whatever driver of the host takes it.
    fn give(&self) -> Result<Outcome> {
        let machine = self.machine();
        let host = self.look();
        let card = Card::find(&host, self.request.address)?;
        let plan = live::live(&host, Goal::Give(&card))?;
        if plan.stages.is_empty() {
            record::forget(machine, card.address)?;
            return Ok(Outcome::WasHome);
        }
        if let Some(refusal) = preflight::refuse_home(&card, &held(machine, &card)) {
            return Err(refusal);
        }
        self.run(&plan)?;
        let taken = |address: &Address| driver_of(machine, *address).as_deref() == Some(VFIO);
        if let Some(again) = card.functions.iter().find(|address| taken(address)) {
            return Err(Error::failed(format!("vfio-pci took {again} again"))
                .detail("its ids are given to vfio-pci, on the kernel command line or in modprobe.d")
                .hint("gpuferry inspect boot   shows what stands there"));
        }
        let drivers = card.functions.iter().map(|address| {
            let driver = driver_of(machine, *address).unwrap_or_else(|| "no driver".into());
            format!("{address} {driver}")
        });
        record::forget(machine, card.address)?;
        Ok(Outcome::Given(drivers.collect()))
    }

    fn set(&self, card: &Card, phase: Phase) -> Result<()> {
        record::set_state(
            self.machine(),
            &State {
                schema: 1,
                op: self.request.op.clone(),
                card: card.clone(),
                phase,
                since_ms: millis(self.machine().now()),
                guest: self.request.guest.clone(),
                home_at_ms: self
                    .request
                    .home_after
                    .filter(|_| phase == Phase::Lent)
                    .map(|after| millis(self.machine().now() + after)),
            },
        )
    }

    /// Carries a plan out up to its first failure.
    fn run(&self, plan: &LivePlan) -> Result<()> {
        for (number, stage) in plan.stages.iter().enumerate() {
            self.stage(number, stage, |step| step.apply(self))?;
        }
        Ok(())
    }

    /// Carries a plan out to its end, past failures: the way home does what can be done.
    fn run_all(&self, plan: &LivePlan) -> Result<Vec<Error>> {
        let mut failures = Vec::new();
        // Where a driver said no there is nothing to wait for, and what is loaded above it would find no device.
        let mut refused = Vec::new();
        for (number, stage) in plan.stages.iter().enumerate() {
            let done = self.stage(number, stage, |step| {
                match step {
                    LiveStep::AwaitDriver { address, .. } | LiveStep::AwaitFramebuffer { address, .. }
                        if refused.contains(address) =>
                    {
                        return Ok(());
                    }
                    LiveStep::LoadModule { driver: None, .. } if !refused.is_empty() => return Ok(()),
                    _ => {}
                }
                let Err(error) = step.apply(self) else { return Ok(()) };
                if let LiveStep::Bind { address, .. } = step {
                    refused.push(*address);
                }
                self.recorder.say(Event::Note { text: error.message.clone() })?;
                failures.push(error);
                Ok(())
            });
            done?;
        }
        Ok(failures)
    }

    fn stage(
        &self,
        number: usize,
        stage: &live::Stage,
        mut each: impl FnMut(&LiveStep) -> Result<()>,
    ) -> Result<()> {
        let log = if self.request.step {
            for step in &stage.steps {
                self.recorder.say(Event::Note { text: format!("next: {}", step.describe()) })?;
            }
            self.ask(number, stage)?;
            self.kernel_said().len()
        } else {
            0
        };
        let begun = self.machine().uptime();
        self.recorder.say(Event::Begin { label: stage.label.into(), text: stage.text.clone() })?;
        let done = stage.steps.iter().try_for_each(&mut each);
        if self.request.step {
            for text in self.kernel_said().into_iter().skip(log).take(KERNEL_LINES) {
                self.recorder.say(Event::Note { text: format!("the kernel: {text}") })?;
            }
        }
        done?;
        self.recorder.say(Event::End { ms: millis(self.machine().uptime().saturating_sub(begun)) })
    }

    /// What the kernel's log holds about the card.
    fn kernel_said(&self) -> Vec<String> {
        let slot = self.request.address.to_string();
        let slot = slot.rsplit_once('.').map_or(slot.as_str(), |(slot, _)| slot).to_owned();
        let log = host::log::kernel(&self.machine()).unwrap_or_default();
        log.lines.into_iter().filter(|line| line.contains(&slot)).collect()
    }

    /// Waits for the owner's word, which is a file that the client makes.
    fn ask(&self, number: usize, stage: &live::Stage) -> Result<()> {
        let file = record::folder(self.request.address).join(format!("go-{}-{number}", self.request.op));
        self.recorder.say(Event::Begin { label: stage.label.into(), text: stage.text.clone() })?;
        self.recorder.say(Event::Ask { file: file.display().to_string() })?;
        // There before its word is: who looks at the file's name alone finds it empty.
        let mut word = String::new();
        wait_until(self.machine(), Duration::from_secs(600), || {
            word = self.machine().text(&file).unwrap_or_default();
            !word.is_empty()
        });
        let _ = self.machine().remove(&file);
        if word == "go" {
            return Ok(());
        }
        Err(Error::failed(format!("stopped before `{} {}`", stage.label, stage.text)))
    }

    fn timed<T>(
        &self,
        path: &Path,
        value: &str,
        limit: Duration,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let shown = path.display().to_string();
        self.recorder.say(Event::Write { path: shown.clone(), value: value.to_owned() })?;
        let begun = self.machine().uptime();
        let done = act();
        let took = self.machine().uptime().saturating_sub(begun);
        let error = done.as_ref().err().map(|error| error.message.clone());
        self.recorder.say(Event::Wrote { path: shown, ms: millis(took), error })?;
        if took > limit {
            self.hung.set(true);
        }
        if took > limit && done.is_ok() {
            return Err(Error::failed(format!(
                "writing `{}` to {} hung for {} s",
                value.trim(),
                path.display(),
                took.as_secs()
            )));
        }
        done
    }
}

impl Hands for Worker<'_, '_> {
    fn machine(&self) -> &dyn Machine {
        self.recorder.machine()
    }

    fn write(&self, path: &Path, value: &str) -> Result<()> {
        let written = || {
            let done = self.machine().write_attribute(path, value);
            done.map_err(|error| {
                Error::failed(format!(
                    "cannot write `{}` to {}: {}",
                    value.trim(),
                    path.display(),
                    said(&error)
                ))
            })
        };
        self.timed(path, value, self.request.limit, written)
    }

    fn run(&self, program: &Program) -> Result<Finished> {
        let words: Vec<_> = program.args.iter().map(|arg| arg.to_string_lossy()).collect();
        let run = || self.machine().run(program).map_err(|error| Error::io("run", &program.path, &error));
        self.timed(&program.path, &words.join(" "), program.deadline.max(self.request.limit), run)
    }

    fn terminate(&self, pid: u32, started: u64) -> Result<()> {
        let ask = || {
            if let Some(found) = process::find(self.machine(), pid, started) {
                found.terminate();
            }
            Ok(())
        };
        self.timed(Path::new(&format!("/proc/{pid}")), "SIGTERM", self.request.limit, ask)
    }
}
