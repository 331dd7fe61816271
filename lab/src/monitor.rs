//! QEMU's own control: a client for the QEMU Machine Protocol (docs/interop/qmp-spec.rst in QEMU's tree).

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long QEMU may take for a command; under load it is slow, but never this slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to QEMU's monitor.
#[derive(Debug)]
pub struct Monitor {
    shared: Arc<Shared>,
    line: Mutex<UnixStream>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    greeted: bool,
    next: u64,
    answers: Vec<Value>,
    events: Vec<Value>,
    closed: bool,
}

impl Monitor {
    /// Takes over the connection that QEMU made, and agrees on the protocol.
    pub fn new(line: UnixStream) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let reader = BufReader::new(line.try_clone().context("cannot duplicate the monitor's socket")?);
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("monitor".to_owned()).spawn(move || theirs.listen(reader))?;
        let monitor = Self { shared, line: Mutex::new(line) };
        monitor
            .wait(PATIENCE, |state| state.greeted.then_some(()))
            .context("QEMU's monitor does not greet")?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Runs a command and gives what it returned.
    pub fn execute(&self, command: &str, arguments: &Value) -> Result<Value> {
        let id = {
            let mut state = self.shared.lock();
            state.next += 1;
            state.next
        };
        let request = json!({ "execute": command, "arguments": arguments, "id": id });
        {
            let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            line.write_all(format!("{request}\n").as_bytes()).context("cannot write to QEMU's monitor")?;
        }
        let answer = self
            .wait(PATIENCE, |state| {
                let at = state.answers.iter().position(|answer| answer["id"] == id)?;
                Some(state.answers.swap_remove(at))
            })
            .with_context(|| format!("QEMU's monitor command {command}"))?;
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
        self.wait(patience, |state| {
            let at = state.events.iter().position(|event| event["event"] == name)?;
            Some(state.events.remove(at))
        })
        .with_context(|| format!("QEMU's event {name}"))
    }

    fn wait<T>(&self, patience: Duration, mut ready: impl FnMut(&mut State) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = ready(&mut state) {
                return Ok(found);
            }
            if state.closed {
                bail!("QEMU ended");
            }
            let left = deadline
                .checked_duration_since(Instant::now())
                .ok_or_else(|| anyhow!("nothing within {} s", patience.as_secs()))?;
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, reader: impl BufRead) {
        for line in reader.lines() {
            let Ok(line) = line else { break };
            let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
            let mut state = self.lock();
            if said.get("QMP").is_some() {
                state.greeted = true;
            } else if said.get("event").is_some() {
                state.events.push(said);
            } else {
                state.answers.push(said);
            }
            self.changed.notify_all();
        }
        self.lock().closed = true;
        self.changed.notify_all();
    }
}
