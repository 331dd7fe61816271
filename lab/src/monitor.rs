//! QEMU's own control: a client for the QEMU Machine Protocol (docs/interop/qmp-spec.rst in QEMU's tree).

use crate::line::Line;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long QEMU may take for a command; under load it is slow, but never this slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to QEMU's monitor.
#[derive(Debug)]
pub struct Monitor {
    line: Line<State>,
}

#[derive(Debug, Default)]
struct State {
    greeted: bool,
    next: u64,
    answers: Vec<Value>,
    events: Vec<Value>,
}

impl Monitor {
    /// Takes over the connection that QEMU made, and agrees on the protocol.
    pub fn new(port: UnixStream) -> Result<Self> {
        let monitor = Self { line: Line::new(port, "monitor", State::hear)? };
        let greeted = |state: &mut State| state.greeted.then_some(());
        monitor.line.wait(PATIENCE, greeted).context("QEMU's monitor does not greet")?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Runs a command and gives what it returned.
    pub fn execute(&self, command: &str, arguments: &Value) -> Result<Value> {
        let id = self.line.with(|state| {
            state.next += 1;
            state.next
        });
        let request = json!({ "execute": command, "arguments": arguments, "id": id });
        self.line.say(&request.to_string()).context("cannot write to QEMU's monitor")?;
        let answered = |state: &mut State| {
            let at = state.answers.iter().position(|answer| answer["id"] == id)?;
            Some(state.answers.swap_remove(at))
        };
        let answer = self.line.wait(PATIENCE, answered);
        let answer = answer.with_context(|| format!("QEMU's monitor command {command}"))?;
        if let Some(error) = answer.get("error") {
            bail!(
                "QEMU's monitor refused {command}: {}",
                error["desc"].as_str().unwrap_or("no reason given")
            );
        }
        Ok(answer["return"].clone())
    }

    /// Runs a command of the human monitor, such as `info pci`.
    pub fn human(&self, line: &str) -> Result<String> {
        let said = self.execute("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(said.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until an event of this name was seen, also when it came before the call; it is consumed.
    pub fn wait_for_event(&self, name: &str, patience: Duration) -> Result<Value> {
        let seen = |state: &mut State| {
            let at = state.events.iter().position(|event| event["event"] == name)?;
            Some(state.events.remove(at))
        };
        self.line.wait(patience, seen).with_context(|| format!("QEMU's event {name}"))
    }
}

impl State {
    fn hear(&mut self, line: &[u8]) {
        let Ok(said) = serde_json::from_slice::<Value>(line) else { return };
        if said.get("QMP").is_some() {
            self.greeted = true;
        } else if said.get("event").is_some() {
            self.events.push(said);
        } else {
            self.answers.push(said);
        }
    }
}
