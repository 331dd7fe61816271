//! The client of a worker: starts it, follows what it writes down, and gives up waiting in time.
//!
//! The worker is a process of its own, so that a hand-over survives the session that it ends and a write that
//! hangs hangs nobody else. Where systemd is, it is a transient unit; elsewhere a keeper of our own does what the
//! unit would: it starts the worker in a session of its own, and again if it is killed.

use super::{
    record::{self, Event, Line},
    request::{Request, Way},
    snapshot::key,
};
use crate::{
    error::{Error, Result, Status},
    machine::{Machine, Program, process, wait_until},
    pci::Address,
};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a unit may take to go after its process has ended.
const LEAVES: Duration = Duration::from_secs(10);

/// The name of a new operation.
pub fn new_op(machine: &dyn Machine) -> String {
    format!("{}-{}", machine.now().as_millis(), std::process::id())
}

/// This program's own path. Read from the link, so that the unit runs what the user ran.
pub fn own_path(machine: &dyn Machine) -> Result<PathBuf> {
    let link = Path::new("/proc/self/exe");
    machine.readlink(link).map_err(|error| Error::io("read", link, &error))
}

/// Starts `gpuferry card WORDS` so that it outlives us, and is started again if it is killed.
pub fn start(machine: &dyn Machine, systemd: bool, unit: &str, words: &[OsString]) -> Result<()> {
    let own = own_path(machine)?;
    if systemd {
        // The one before it may have told its end and not be gone yet; its name is taken until then.
        let loaded = Path::new("/run/systemd/transient").join(format!("{unit}.service"));
        wait_until(machine, LEAVES, || !machine.exists(&loaded));
        // Restart: a worker that was killed is the one that knows how to bring the card home. KillMode: a guest
        // is not ended with its worker; the worker that comes after it takes it up again.
        let unit_words = ["--quiet", "--collect", "--service-type=exec", "--property=Restart=on-abnormal"];
        let program = Program::new("/usr/bin/systemd-run", Duration::from_secs(30))
            .args(unit_words)
            .args(["--property=KillMode=process", "--property=TimeoutStopSec=90", "--property=UMask=0077"])
            .arg(format!("--unit={unit}"))
            .arg(format!("--description=gpuferry: {unit}"))
            .arg("--")
            .arg(&own)
            .arg("card")
            .args(words);
        let finished = machine.run(&program).map_err(|error| Error::io("run", &program.path, &error))?;
        if finished.ok() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&finished.stderr).trim().to_owned();
        return Err(Error::failed(format!("systemd did not start {unit}: {said}"))
            .hint(format!("systemctl status {unit}")));
    }
    let log = Path::new(record::RUN).join(format!("{unit}.log"));
    record::make_folders(machine, Path::new(record::RUN))?;
    let program = Program::new(&own, Duration::MAX).args(["card", "keep"]).args(words);
    machine.start(&program, &log).map(drop).map_err(|error| Error::io("start", &own, &error))
}

/// What the keeper does: a session of its own, and the worker again for as long as it is killed, a few times.
pub fn keep(machine: &dyn Machine, words: &[OsString], log: &Path) -> Result<Status> {
    // Fails where we lead a session already, which is as good.
    let _ = rustix::process::setsid();
    let own = own_path(machine)?;
    let program = Program::new(&own, Duration::MAX).arg("card").args(words);
    for _ in 0..5 {
        let mut worker = machine.start(&program, log).map_err(|error| Error::io("start", &own, &error))?;
        loop {
            match worker.wait(Duration::from_secs(3600)) {
                None => {}
                Some(process::End::Signal) => break,
                Some(_) => return Ok(Status::Done),
            }
        }
    }
    Err(Error::failed("the worker was killed five times").with_status(Status::NotUndone))
}

/// Starts the worker for a request.
pub fn start_worker(machine: &dyn Machine, systemd: bool, request: &Request) -> Result<()> {
    let way = if request.way == Way::Lend { "lend" } else { "home" };
    let mut words: Vec<OsString> =
        ["work", way, &request.address.to_string(), "--op", &request.op].iter().map(OsString::from).collect();
    words.extend(["--limit".into(), request.limit.as_secs().to_string().into()]);
    for other in &request.together {
        words.extend(["--with".into(), other.to_string().into()]);
    }
    if request.step {
        words.push("--step".into());
    }
    if let Some(after) = request.home_after {
        words.extend(["--home-after".into(), after.as_secs().to_string().into()]);
    }
    for word in &request.stop {
        words.extend(["--stop".into(), word.into()]);
    }
    words.extend(request.wishes.words());
    if let Some(guest) = &request.guest {
        words.push(format!("--guest={guest}").into());
    }
    start(machine, systemd, &format!("gpuferry-card-{}", key(request.address)), &words)
}

/// Follows an operation to its end: each new event once, in order. `Err`: it hangs, or its worker is gone.
pub fn follow(
    machine: &dyn Machine,
    address: Address,
    op: &str,
    limit: Duration,
    mut each: impl FnMut(&Line) -> Result<()>,
) -> Result<(Status, Event)> {
    let events = record::folder(address).join("events");
    let mut seen = 0;
    loop {
        let mut lines = Vec::new();
        let limit = patience(&own(record::lines(machine, &events), op), limit);
        // A little more than the limit: the worker itself says so if it can.
        let news = wait_until(machine, limit + Duration::from_secs(5), || {
            lines = own(record::lines(machine, &events), op);
            lines.len() > seen
        });
        if !news {
            return Err(silent(machine, address, &lines, limit));
        }
        for line in &lines[seen..] {
            each(line)?;
            if let Event::Finished { status, .. } = &line.event {
                return Ok((status_of(*status), line.event.clone()));
            }
        }
        seen = lines.len();
    }
}

/// Starts the worker for a request and follows it to its end: the sentence that it ended with, or its failure.
pub fn carry_out(machine: &dyn Machine, systemd: bool, request: &Request) -> Result<String> {
    if at_work(machine, request.address) {
        return Err(super::worker::busy(machine, request.address));
    }
    start_worker(machine, systemd, request)?;
    match follow(machine, request.address, &request.op, request.limit, |_| Ok(()))? {
        (Status::Done, Event::Finished { message, .. }) => Ok(message),
        (status, Event::Finished { message, details, hints, .. }) => {
            Err(Error { status, message, details, hints })
        }
        (status, _) => Err(Error::new(status, "the worker ended without a word")),
    }
}

/// Whether somebody holds the card's lock.
pub fn at_work(machine: &dyn Machine, address: Address) -> bool {
    matches!(machine.lock(&record::folder(address).join("lock")), Ok(None))
}

/// While a write hangs, reading a device's attributes can hang too (its lock is held): say so and look no further.
pub fn nothing_hangs(machine: &dyn Machine) -> Result<()> {
    for state in record::cards(machine).unwrap_or_default() {
        let address = state.card.address;
        let lines = record::lines(machine, &record::folder(address).join("events"));
        let now = record::millis(machine.now());
        let write = record::in_flight(&lines).filter(|write| write.hangs(now));
        if let Some(write) = write.filter(|_| at_work(machine, address)) {
            return Err(hanging(machine, address, &write).with_status(Status::Refused));
        }
    }
    Ok(())
}

fn own(mut lines: Vec<Line>, op: &str) -> Vec<Line> {
    lines.retain(|line| line.op == op);
    lines
}

/// How long nothing new is nothing strange: a question waits for a person, and a program has a deadline of its own,
/// at which the worker ends it.
fn patience(lines: &[Line], limit: Duration) -> Duration {
    match lines.last().map(|line| &line.event) {
        Some(Event::Ask { .. }) => Duration::from_secs(600),
        Some(Event::Write { path, .. }) if !path.starts_with("/sys/") => limit.max(Duration::from_secs(120)),
        _ => limit,
    }
}

/// The status with a number; one that is not known is the worst.
pub fn status_of(number: u8) -> Status {
    let all = [Status::Done, Status::Blocked, Status::Usage, Status::Refused, Status::Undone];
    all.into_iter().find(|status| *status as u8 == number).unwrap_or(Status::NotUndone)
}

/// Nothing new for too long: the write that hangs, or a worker that is no more.
fn silent(machine: &dyn Machine, address: Address, lines: &[Line], limit: Duration) -> Error {
    if let Some(write) = record::in_flight(lines) {
        return hanging(machine, address, &write);
    }
    Error::new(
        Status::NotUndone,
        format!("the worker of {address} has said nothing for {} s", limit.as_secs()),
    )
    .hint("gpuferry status")
    .hint(format!("gpuferry reattach {address}   brings it home from wherever it is"))
}

/// What is said of a write that hangs: which, since when, and what completes it.
pub fn hanging(machine: &dyn Machine, address: Address, write: &record::InFlight) -> Error {
    let since = machine.now().as_secs().saturating_sub(write.since_ms / 1000);
    let mut error = Error::new(
        Status::NotUndone,
        format!("writing `{}` to {} has hung for {since} s", write.value.trim(), write.path),
    )
    .detail("nothing more is written to this device; the card comes home by itself when the write completes");
    let mut all = super::holders::nodes(machine, &[address]);
    all.extend(record::snapshot(machine, address).ok().flatten().into_iter().flat_map(|known| known.nodes));
    for holder in super::holders::holders(machine, &all) {
        error = error.detail(format!("{} holds {}", holder.shown(), holder.nodes.join(", ")));
        error = error.hint(format!("close {}: that completes it", holder.shown()));
    }
    error
        .hint("gpuferry status   shows when it has completed")
        .hint("do not remove or rescan devices meanwhile: that would hang too, and so would shutdown")
}
