//! Shows a hand-over as it happens: a line a stage.

use super::{Context, print};
use crate::{
    error::{Error, Result, Status},
    handover::{
        client,
        record::{Event, Line},
        request::{Request, Way},
    },
    machine::{Machine, Ownership, live::Live},
    step::live::driver_of,
};
use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::Path,
    time::Duration,
};

/// The running machine, for verbs that change it. A saved tree cannot be changed.
pub(super) fn this_machine(context: &Context, verb: &str) -> Result<Live> {
    if !context.host.is_empty() {
        return Err(Error::usage(format!(
            "`{verb}` acts on this machine; --host is for verbs that only look"
        )));
    }
    Live::open(Path::new("/")).map_err(|error| Error::io("open", Path::new("/"), &error))
}

pub(super) use client::{at_work as worker_at_work, nothing_hangs};

/// Only root writes to sysfs.
pub(super) fn need_root(verb: &str) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::failed(format!("`{verb}` needs root")).hint(format!("sudo gpuferry {verb} …")))
}

/// Starts the worker and shows its stages to the end.
pub(super) fn carry_out(
    context: &Context,
    machine: &dyn Machine,
    systemd: bool,
    request: &Request,
    title: &str,
) -> Result<Status> {
    if worker_at_work(machine, request.address) {
        return Err(crate::handover::worker::busy(machine, request.address));
    }
    say(context, &format!(" {title}\n"))?;
    client::start_worker(machine, systemd, request)?;
    let mut shown = Shown::default();
    let (status, finished) = client::follow(machine, request.address, &request.op, request.limit, |line| {
        shown.line(context, machine, line)
    })?;
    end(context, machine, request, status, &finished, &shown)
}

fn end(
    context: &Context,
    machine: &dyn Machine,
    request: &Request,
    status: Status,
    finished: &Event,
    shown: &Shown,
) -> Result<Status> {
    let Event::Finished { message, details, hints, .. } = finished else { return Ok(status) };
    if status != Status::Done {
        return Err(Error {
            status,
            message: message.clone(),
            details: details.clone(),
            hints: hints.clone(),
        });
    }
    if context.json {
        let driver = driver_of(machine, request.address);
        let stage = |(label, text, ms): &(String, String, u64)| serde_json::json!({ "label": label, "text": text, "ms": ms });
        let stages: Vec<_> = shown.stages.iter().map(stage).collect();
        let value = serde_json::json!({ "schema": 1, "address": request.address, "driver": driver,
            "message": message, "stages": stages });
        print(&format!("{value}\n"))?;
        return Ok(status);
    }
    print(&format!(" {message}\n"))?;
    if let Some(after) = request.home_after.filter(|_| request.way == Way::Lend) {
        print(&format!(
            "   goes home by itself in {} s unless a guest takes it; to keep it   gpuferry keep {}\n",
            after.as_secs(),
            request.address
        ))?;
    }
    if request.way == Way::Lend {
        print(&format!("   take it back with   gpuferry reattach {}\n", request.address))?;
    }
    Ok(status)
}

fn say(context: &Context, text: &str) -> Result<()> {
    if context.json { Ok(()) } else { print(text) }
}

/// What was shown so far.
#[derive(Debug, Default)]
pub(super) struct Shown {
    open: Option<(String, String)>,
    /// Label, text, milliseconds.
    pub(super) stages: Vec<(String, String, u64)>,
}

impl Shown {
    /// Shows an event of a guest's supervisor: it asks nothing.
    pub(super) fn note(&mut self, line: &Line, say: &mut dyn FnMut(&str)) {
        match &line.event {
            Event::Begin { label, text } => self.open = Some((label.clone(), text.clone())),
            Event::End { ms } => {
                let (label, text) = self.open.take().unwrap_or_default();
                say(&stage_line(&label, &text, *ms));
            }
            Event::Note { text } => say(&format!("  · {text}\n")),
            _ => {}
        }
    }

    /// Shows an event where it is one that people are shown.
    pub(super) fn line(&mut self, context: &Context, machine: &dyn Machine, line: &Line) -> Result<()> {
        match &line.event {
            Event::Begin { label, text } => self.open = Some((label.clone(), text.clone())),
            Event::End { ms } => {
                let (label, text) = self.open.take().unwrap_or_default();
                say(context, &stage_line(&label, &text, *ms))?;
                self.stages.push((label, text, *ms));
            }
            Event::Note { text } => say(context, &format!("  · {text}\n"))?,
            Event::Ask { file } => {
                let (label, text) = self.open.clone().unwrap_or_default();
                let word = if asked(&format!("  ? {label} {text}"))? { "go" } else { "stop" };
                let made = machine.create(Path::new(file), word.as_bytes(), &Ownership::root(0o600));
                made.map_err(|error| Error::io("write", Path::new(file), &error))?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn stage_line(label: &str, text: &str, ms: u64) -> String {
    let line = format!("  ✓ {label:<10} {text:<46} {}", seconds(ms));
    format!("{}\n", line.trim_end())
}

fn seconds(ms: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "a tenth of a second is shown")]
    let seconds = Duration::from_millis(ms).as_secs_f64();
    if ms < 50 { String::new() } else { format!("{seconds:.1} s") }
}

/// Asks on standard output, reads a line; an end of input is a no.
pub(super) fn asked(question: &str) -> Result<bool> {
    print(&format!("{question}? [y/N] "))?;
    // No line ends here: without this the question would wait for the answer.
    let _ = io::stdout().flush();
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    Ok(read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes" | "go"))
}

/// Whether a person can be asked.
pub(super) fn can_ask(context: &Context) -> bool {
    !context.json && io::stdin().is_terminal() && io::stdout().is_terminal()
}
