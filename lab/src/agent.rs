//! The lab's end of the line to the agent in the emulated host.
//!
//! Requests may be sent from several threads and overtake one another. Every wait has a deadline, and ends early
//! when the host reboots or goes away: what was asked before a reboot is never answered.

use crate::line::Line;
use crate::protocol::{Hello, Request, Said, Want, parse};
use anyhow::{Context, Result, anyhow};
use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The connection to one host's agent.
#[derive(Debug)]
pub struct Agent {
    line: Line<State>,
}

#[derive(Debug, Default)]
struct State {
    hello: Option<Hello>,
    boots: u32,
    answers: HashMap<u64, Said>,
    next: u64,
}

impl Agent {
    /// Takes over the connection that QEMU made for the second serial port.
    pub fn new(port: UnixStream) -> Result<Self> {
        Ok(Self { line: Line::new(port, "agent", State::hear)? })
    }

    /// Waits for the agent's greeting after boot number `boot` (from 1).
    pub fn wait_for_boot(&self, boot: u32, patience: Duration) -> Result<Hello> {
        let greeted = |state: &mut State| state.hello.clone().filter(|_| state.boots >= boot);
        self.line.wait(patience, greeted).context("the agent's greeting")
    }

    /// How many times the host has booted since the machine was switched on.
    pub fn boots(&self) -> u32 {
        self.line.with(|state| state.boots)
    }

    /// Sends a request and waits for its answer.
    pub fn ask(&self, want: Want, patience: Duration) -> Result<Said> {
        let (id, boots) = self.send(want)?;
        let answer = self.line.wait(patience, |state| match state.answers.remove(&id) {
            None if state.boots != boots => Some(Err(anyhow!("the host rebooted before it answered"))),
            answer => answer.map(Ok),
        });
        answer.context("the agent's answer")?
    }

    /// Sends a request whose answer nobody will wait for (the host is about to go down).
    pub fn tell(&self, want: Want) -> Result<()> {
        self.send(want).map(|_| ())
    }

    fn send(&self, want: Want) -> Result<(u64, u32)> {
        let (id, boots) = self.line.with(|state| {
            state.next += 1;
            (state.next, state.boots)
        });
        let request = serde_json::to_string(&Request { id, what: want })?;
        self.line.say(&request).context("cannot write to the agent's serial port")?;
        Ok((id, boots))
    }
}

impl State {
    fn hear(&mut self, line: &[u8]) {
        match parse::<Said>(line) {
            Some(Said::Hello(hello)) => {
                // A restarted agent greets again; only another boot id is another boot.
                if self.hello.as_ref().is_none_or(|known| known.boot_id != hello.boot_id) {
                    self.boots += 1;
                    self.answers.clear();
                }
                self.hello = Some(hello);
            }
            Some(said) => self.answers.extend(said.id().map(|id| (id, said))),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader, Write},
        thread,
    };

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
        assert!(format!("{error:#}").contains("ended"));
    }
}
