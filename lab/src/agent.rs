//! The lab's end of the line to the agent in the emulated host.
//!
//! Requests may be sent from several threads and overtake one another. Every wait has a deadline, and ends early
//! when the host reboots or goes away: what was asked before a reboot is never answered.

use crate::protocol::{Hello, Request, Said, Want, parse};
use anyhow::{Context, Result, anyhow, bail};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The connection to one host's agent.
#[derive(Debug)]
pub struct Agent {
    shared: Arc<Shared>,
    port: Mutex<UnixStream>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    hello: Option<Hello>,
    boots: u32,
    answers: HashMap<u64, Said>,
    closed: bool,
    next: u64,
}

impl Agent {
    /// Takes over the connection that QEMU made for the second serial port.
    pub fn new(port: UnixStream) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let reader = BufReader::new(port.try_clone().context("cannot duplicate the agent's socket")?);
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("agent".to_owned()).spawn(move || theirs.listen(reader))?;
        Ok(Self { shared, port: Mutex::new(port) })
    }

    /// Waits for the agent's greeting after boot number `boot` (from 1).
    pub fn wait_for_boot(&self, boot: u32, patience: Duration) -> Result<Hello> {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        loop {
            if state.boots >= boot {
                return state.hello.clone().context("an agent without a name");
            }
            if state.closed {
                bail!("the machine ended before its agent spoke");
            }
            state = self
                .shared
                .wait(state, deadline)
                .ok_or_else(|| anyhow!("no word from the agent within {} s", patience.as_secs()))?;
        }
    }

    /// How many times the host has booted since the machine was switched on.
    pub fn boots(&self) -> u32 {
        self.shared.lock().boots
    }

    /// Sends a request and waits for its answer.
    pub fn ask(&self, want: Want, patience: Duration) -> Result<Said> {
        let (id, boots) = self.send(want)?;
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        loop {
            if let Some(said) = state.answers.remove(&id) {
                return Ok(said);
            }
            if state.boots != boots {
                bail!("the host rebooted before it answered");
            }
            if state.closed {
                bail!("the machine ended before it answered");
            }
            state = self
                .shared
                .wait(state, deadline)
                .ok_or_else(|| anyhow!("the agent did not answer within {} s", patience.as_secs()))?;
        }
    }

    /// Sends a request whose answer nobody will wait for (the host is about to go down).
    pub fn tell(&self, want: Want) -> Result<()> {
        self.send(want).map(|_| ())
    }

    fn send(&self, want: Want) -> Result<(u64, u32)> {
        let (id, boots) = {
            let mut state = self.shared.lock();
            state.next += 1;
            (state.next, state.boots)
        };
        let line = format!("{}\n", serde_json::to_string(&Request { id, what: want })?);
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        port.write_all(line.as_bytes()).context("cannot write to the agent's serial port")?;
        Ok((id, boots))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None when the deadline is over.
    fn wait<'a>(&self, state: MutexGuard<'a, State>, deadline: Instant) -> Option<MutexGuard<'a, State>> {
        let left = deadline.checked_duration_since(Instant::now())?;
        Some(self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0)
    }

    fn listen(&self, mut reader: impl BufRead) {
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.read_until(b'\n', &mut line) {
                Ok(count) if count > 0 => self.heard(&line),
                _ => break,
            }
        }
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn heard(&self, line: &[u8]) {
        let Some(said) = parse::<Said>(line) else { return };
        let mut state = self.lock();
        match said {
            Said::Hello(hello) => {
                // A restarted agent greets again; only another boot id is another boot.
                if state.hello.as_ref().is_none_or(|known| known.boot_id != hello.boot_id) {
                    state.boots += 1;
                    state.answers.clear();
                }
                state.hello = Some(hello);
            }
            said => {
                if let Some(id) = said.id() {
                    state.answers.insert(id, said);
                }
            }
        }
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(boot_id: &str) -> String {
        let hello = Hello { boot_id: boot_id.to_owned(), uptime_ms: 1, kernel: "6".to_owned() };
        format!("{}\n", serde_json::to_string(&Said::Hello(hello)).unwrap())
    }

    #[test]
    fn a_reboot_ends_the_wait_for_an_answer() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let agent = Agent::new(ours).unwrap();
        theirs.write_all(hello("one").as_bytes()).unwrap();
        agent.wait_for_boot(1, Duration::from_secs(5)).unwrap();
        let asked = thread::scope(|scope| {
            let asking = scope
                .spawn(|| agent.ask(Want::Read { path: "/etc/passwd".to_owned() }, Duration::from_secs(5)));
            let mut request = String::new();
            BufReader::new(theirs.try_clone().unwrap()).read_line(&mut request).unwrap();
            assert!(request.contains("/etc/passwd"));
            theirs.write_all(hello("two").as_bytes()).unwrap();
            asking.join().unwrap()
        });
        assert!(format!("{:#}", asked.unwrap_err()).contains("rebooted"));
        assert_eq!(agent.boots(), 2);
    }

    #[test]
    fn a_restarted_agent_is_no_reboot() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let agent = Agent::new(ours).unwrap();
        theirs.write_all(format!("{}{}", hello("one"), hello("one")).as_bytes()).unwrap();
        agent.wait_for_boot(1, Duration::from_secs(5)).unwrap();
        let again = agent.wait_for_boot(2, Duration::from_millis(200));
        assert!(again.is_err());
    }

    #[test]
    fn the_end_of_the_machine_is_noticed_at_once() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let agent = Agent::new(ours).unwrap();
        drop(theirs);
        let error = agent.wait_for_boot(1, Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("ended"));
    }
}
