//! What is on record of a hand-over: the state of each card in /run (it ends with the boot), the worker's events
//! there, and one log on disk in which every write stands before it is made.
//!
//! Writes only below [`RUN`] and [`LOG`]; changes nothing else.

use super::snapshot::{Card, Snapshot, boot_id, key};
use crate::{
    error::{Error, Result, Status},
    host::Host,
    machine::{Machine, Ownership, Root},
    pci::Address,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Everything that ends with the boot.
pub const RUN: &str = "/run/gpuferry";
/// The log on disk, JSON lines; folder and file are root's alone.
pub const LOG: &str = "/var/lib/gpuferry/handover.log";

/// Where a card is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// On its way to vfio-pci.
    Lending,
    /// With vfio-pci.
    Lent,
    /// On its way home.
    Homing,
    /// Neither: a way failed, and so did the way home.
    Stuck,
}

/// The state of a card that is not simply the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Version of this form.
    pub schema: u32,
    /// The operation that made it so: a worker that was restarted knows itself by it.
    pub op: String,
    /// The card.
    pub card: Card,
    /// Where it is.
    pub phase: Phase,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// The guest that it was lent for: it comes home when that ends.
    pub guest: Option<String>,
    /// When it goes home by itself if nobody takes it, in milliseconds since 1970; `None`: it stays.
    #[serde(default)]
    pub home_at_ms: Option<u64>,
}

/// Something that a worker did. One JSON line each, with [`Line::op`] and time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A hand-over begins.
    Open {
        /// The card.
        card: Address,
        /// `lend`, `home` or `give`.
        goal: String,
        /// The boot.
        boot_id: String,
    },
    /// A stage begins.
    Begin {
        /// One word.
        label: String,
        /// What of.
        text: String,
    },
    /// A write, or a program, is about to be made.
    Write {
        /// The attribute or program.
        path: String,
        /// What is written, or the arguments.
        value: String,
    },
    /// It was made.
    Wrote {
        /// The attribute or program.
        path: String,
        /// How long it took, in milliseconds.
        ms: u64,
        /// What the kernel said; `None`: done.
        error: Option<String>,
    },
    /// A stage is done.
    End {
        /// How long it took, in milliseconds.
        ms: u64,
    },
    /// A stage waits for the owner's word (`--step`).
    Ask {
        /// The file whose appearance is the word.
        file: String,
    },
    /// The host is about to be rebooted over a write that hangs.
    Reboot {
        /// A sentence.
        text: String,
    },
    /// Something to say.
    Note {
        /// A sentence.
        text: String,
    },
    /// The worker is done.
    Finished {
        /// Exit status.
        status: u8,
        /// A sentence.
        message: String,
        /// Lines of detail.
        details: Vec<String>,
        /// Commands that help.
        hints: Vec<String>,
    },
}

/// An event as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The operation.
    pub op: String,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// A write that has begun and has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InFlight {
    /// The attribute or program.
    pub path: String,
    /// What is written.
    pub value: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
}

impl InFlight {
    /// How long a write may take before a person is told that it hangs, in milliseconds.
    const SHORT: u64 = 3000;

    /// Whether it has taken so long that it hangs. A program has a deadline of its own.
    pub fn hangs(&self, now_ms: u64) -> bool {
        self.path.starts_with("/sys/") && now_ms.saturating_sub(self.since_ms) > Self::SHORT
    }
}

/// The folder of a card.
pub fn folder(address: Address) -> PathBuf {
    Path::new(RUN).join("cards").join(key(address))
}

/// Makes a folder and what leads to it, for root alone. What is there stays.
pub fn make_folders(machine: &(impl Machine + ?Sized), path: &Path) -> Result<()> {
    let mut way: Vec<_> = path.ancestors().filter(|part| part.parent().is_some()).collect();
    way.reverse();
    for part in way {
        let mode = if part.starts_with(RUN) || part.starts_with("/var/lib/gpuferry") { 0o700 } else { 0o755 };
        match machine.make_folder(part, mode) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !machine.exists(part) => {
                return Err(Error::io("make", part, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Replaces a small file whole: a reader sees the old or the new.
pub fn replace(machine: &(impl Machine + ?Sized), path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    // Left by somebody who was killed here; the lock of the card is ours.
    let _ = machine.remove(&new);
    let made = machine.create(&new, bytes, &Ownership::root(0o600)).and_then(|()| machine.rename(&new, path));
    made.map_err(|error| Error::io("write", path, &error))?;
    if let Some(folder) = path.parent() {
        machine.sync_folder(folder).map_err(|error| Error::io("sync", folder, &error))?;
    }
    Ok(())
}

/// Reads a JSON file of ours; `None` where there is none.
pub fn load<T: DeserializeOwned>(root: &(impl Root + ?Sized), path: &Path) -> Result<Option<T>> {
    let bytes = match root.read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, &error)),
    };
    let value = serde_json::from_slice(&bytes);
    value.map(Some).map_err(|error| Error::failed(format!("{} is damaged: {error}", path.display())))
}

fn save(machine: &(impl Machine + ?Sized), path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value);
    let text = text.map_err(|error| Error::failed(format!("cannot form {}: {error}", path.display())))?;
    replace(machine, path, text.as_bytes())
}

/// The card's state; `None`: it is simply the host's.
pub fn state(root: &(impl Root + ?Sized), address: Address) -> Result<Option<State>> {
    load(root, &folder(address).join("state.json"))
}

/// Sets the card's state.
pub fn set_state(machine: &(impl Machine + ?Sized), state: &State) -> Result<()> {
    save(machine, &folder(state.card.address).join("state.json"), state)
}

/// How the card was. One from another boot does not count: /run does not outlive a boot, a copy of it might.
pub fn snapshot(root: &(impl Root + ?Sized), address: Address) -> Result<Option<Snapshot>> {
    let found: Option<Snapshot> = load(root, &folder(address).join("snapshot.json"))?;
    let boot = boot_id(root)?;
    Ok(found.filter(|snapshot| snapshot.boot_id == boot))
}

/// What is on record of the device that is at this address now, whatever its address was then. A card that is off
/// the bus, or has been replaced, is on record where it was.
pub fn snapshot_of(root: &(impl Root + ?Sized), host: &Host, address: Address) -> Result<Option<Snapshot>> {
    for state in cards(root)? {
        let found = snapshot(root, state.card.address)?;
        let has = |known: &Snapshot| {
            known.functions.iter().any(|before| before.here(host).is_some_and(|now| now.address == address))
        };
        if let Some(found) = found.filter(has) {
            return Ok(Some(found));
        }
    }
    if host.function(address).is_some() { Ok(None) } else { snapshot(root, address) }
}

/// Keeps how the card was.
pub fn set_snapshot(machine: &(impl Machine + ?Sized), snapshot: &Snapshot) -> Result<()> {
    save(machine, &folder(snapshot.card.address).join("snapshot.json"), snapshot)
}

/// Forgets state and snapshot: the card is home. The snapshot goes first; without it a state is only a word.
pub fn forget(machine: &(impl Machine + ?Sized), address: Address) -> Result<()> {
    for name in ["snapshot.json", "state.json"] {
        let path = folder(address).join(name);
        match machine.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &path, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Every card of which something is on record, by key.
pub fn cards(root: &(impl Root + ?Sized)) -> Result<Vec<State>> {
    let folder = Path::new(RUN).join("cards");
    let names = match root.list(&folder) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", &folder, &error)),
    };
    let states = names.iter().map(|name| load(root, &folder.join(name).join("state.json")));
    states.filter_map(Result::transpose).collect()
}

/// Lines of a file of events. A line that was cut off by a kill is no event.
pub fn lines(root: &(impl Root + ?Sized), path: &Path) -> Vec<Line> {
    parse_lines(&root.text(path).unwrap_or_default())
}

fn parse_lines(text: &str) -> Vec<Line> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// How an operation ended, if it has.
pub fn end_of<'l>(lines: &'l [Line], op: &str) -> Option<&'l Event> {
    let mut own = lines.iter().rev().filter(|line| line.op == op).map(|line| &line.event);
    own.find(|event| matches!(event, Event::Finished { .. }))
}

/// The write that the last worker of a card is in, going by its events.
pub fn in_flight(lines: &[Line]) -> Option<InFlight> {
    let last =
        lines.iter().rev().find(|line| !matches!(line.event, Event::Note { .. } | Event::Reboot { .. }))?;
    match &last.event {
        Event::Write { path, value } => {
            Some(InFlight { path: path.clone(), value: value.clone(), since_ms: last.time_ms })
        }
        _ => None,
    }
}

/// Closes on disk the hand-overs that a reboot ended: opened in another boot, and without an end.
pub fn close_old(machine: &(impl Machine + ?Sized)) -> Result<()> {
    let path = Path::new(LOG);
    for (op, text) in unended(&lines(machine, path), &boot_id(machine)?) {
        let event = Event::Finished {
            status: Status::NotUndone as u8,
            message: text,
            details: Vec::new(),
            hints: Vec::new(),
        };
        let line = Line { op, time_ms: millis(machine.now()), event };
        let text =
            serde_json::to_string(&line).map_err(|error| Error::failed(format!("an event: {error}")))?;
        machine
            .append(path, format!("{text}\n").as_bytes())
            .map_err(|error| Error::io("write", path, &error))?;
    }
    Ok(())
}

/// Operations of other boots without an end, and what they were in.
fn unended(lines: &[Line], boot: &str) -> Vec<(String, String)> {
    let opened = lines.iter().filter_map(|line| match &line.event {
        Event::Open { card, boot_id, .. } if boot_id != boot => Some((line.op.clone(), *card)),
        _ => None,
    });
    let mut found: Vec<(String, String)> = Vec::new();
    for (op, card) in opened {
        let own: Vec<_> = lines.iter().filter(|line| line.op == op).cloned().collect();
        // A worker that was started again opens again: its last word counts.
        let word = |line: &&Line| matches!(line.event, Event::Open { .. } | Event::Finished { .. });
        let last = own.iter().rev().find(word);
        let ended = last.is_some_and(|line| matches!(line.event, Event::Finished { .. }));
        if ended || found.iter().any(|(other, _)| *other == op) {
            continue;
        }
        let text = match in_flight(&own) {
            Some(write) => {
                format!("{card}: ended by reboot, in the write of `{}` to {}", write.value.trim(), write.path)
            }
            None => format!("{card}: ended by reboot, between two writes"),
        };
        found.push((op, text));
    }
    found
}

/// Where a worker writes down what it does.
#[derive(Debug)]
pub struct Recorder<'m> {
    machine: &'m dyn Machine,
    op: String,
    events: PathBuf,
    on_disk: bool,
}

impl std::fmt::Debug for dyn Machine + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Machine")
    }
}

impl<'m> Recorder<'m> {
    /// Opens the record of an operation in the folder of a card or guest, whose lock the caller holds. A new
    /// operation begins a new file of events; a worker that was restarted goes on in its own.
    pub fn open(machine: &'m dyn Machine, folder: &Path, op: &str) -> Result<Self> {
        make_folders(machine, folder)?;
        let events = folder.join("events");
        if !lines(machine, &events).iter().any(|line| line.op == op) {
            replace(machine, &events, b"")?;
        }
        let _ = close_old(machine);
        let disk = Path::new(LOG).parent().map_or(Ok(()), |folder| make_folders(machine, folder));
        Ok(Self { machine, op: op.to_owned(), events, on_disk: disk.is_ok() })
    }

    /// The machine that this is about.
    pub fn machine(&self) -> &'m dyn Machine {
        self.machine
    }

    /// The operation.
    pub fn op(&self) -> &str {
        &self.op
    }

    /// Writes an event down. An error means that nobody would know: do not act then.
    pub fn say(&self, event: Event) -> Result<()> {
        let kept = matches!(
            event,
            Event::Open { .. }
                | Event::Write { .. }
                | Event::Wrote { .. }
                | Event::Reboot { .. }
                | Event::Finished { .. }
        );
        let line = Line { op: self.op.clone(), time_ms: millis(self.machine.now()), event };
        let text =
            serde_json::to_string(&line).map_err(|error| Error::failed(format!("an event: {error}")))?;
        let text = format!("{text}\n");
        if kept && self.on_disk {
            // A full or read-only disk does not stop a card from coming home; /run has the events too.
            let _ = self.machine.append(Path::new(LOG), text.as_bytes());
        }
        self.machine.append(&self.events, text.as_bytes()).map_err(|e| Error::io("write", &self.events, &e))
    }
}

/// Milliseconds of a duration.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: Event) -> Line {
        Line { op: "1-1".into(), time_ms: 5, event }
    }

    #[test]
    fn a_write_without_an_end_is_in_flight() {
        let write = Event::Write { path: "/sys/x".into(), value: "1".into() };
        let wrote = Event::Wrote { path: "/sys/x".into(), ms: 3, error: None };
        let lines = [line(write.clone()), line(wrote), line(write)];
        assert_eq!(in_flight(&lines[..2]), None);
        let found = in_flight(&lines).unwrap();
        assert_eq!((found.path.as_str(), found.since_ms), ("/sys/x", 5));
    }

    #[test]
    fn what_a_reboot_ended_is_closed_once() {
        let card = "0000:01:00.0".parse().unwrap();
        let open = |boot: &str| line(Event::Open { card, goal: "lend".into(), boot_id: boot.into() });
        let write = line(Event::Write { path: "/sys/x/unbind".into(), value: "0000:01:00.1".into() });
        let found = unended(&[open("old"), write.clone()], "new");
        assert_eq!(found.len(), 1);
        assert!(
            found[0].1.ends_with("ended by reboot, in the write of `0000:01:00.1` to /sys/x/unbind"),
            "{found:?}"
        );
        assert!(unended(&[open("new"), write.clone()], "new").is_empty());
        let end = Event::Finished { status: 5, message: String::new(), details: vec![], hints: vec![] };
        assert!(unended(&[open("old"), write, line(end)], "new").is_empty());
    }

    #[test]
    fn a_line_that_was_cut_off_is_no_event() {
        let whole = serde_json::to_string(&line(Event::End { ms: 4 })).unwrap();
        let text = format!("{whole}\n{}", &whole[..whole.len() - 3]);
        assert_eq!(parse_lines(&text), vec![line(Event::End { ms: 4 })]);
    }
}
