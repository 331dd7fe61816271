//! A command that runs in the emulated host while the case goes on.

use crate::host::{COMMAND, Host, ON_THE_WAY, must};
use crate::output::Output;
use crate::protocol::{End, Said, Want, decode};
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// A started command. It is not ended when this value goes away: the host is, soon enough.
#[derive(Debug)]
pub struct Job<'a> {
    host: &'a Host,
    command: String,
    number: u64,
    start: Instant,
}

/// What the agent tells about a command.
pub(crate) struct Reply {
    pub(crate) id: u64,
    pub(crate) end: Option<End>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn reply(said: Said) -> Result<Reply> {
    let Said::Job(job) = said else { bail!("the agent answered {said:?}") };
    let text = |data: &str| -> Result<String> {
        let bytes = decode(data).context("the agent's answer is not base64")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(Reply { id: job.id, end: job.end, stdout: text(&job.stdout)?, stderr: text(&job.stderr)? })
}

impl<'a> Job<'a> {
    pub(crate) fn start(host: &'a Host, command: &str) -> Result<Self> {
        let want = Want::Start { command: command.to_owned(), stdin: String::new(), wait_ms: 0, kill: false };
        let number = reply(host.ask(want, COMMAND)?)?.id;
        Ok(Self { host, command: command.to_owned(), number, start: Instant::now() })
    }

    /// What it printed on standard output up to now.
    #[track_caller]
    pub fn stdout(&self) -> String {
        must(self.poll(Duration::ZERO)).stdout
    }

    /// Whether it still runs.
    #[track_caller]
    pub fn is_running(&self) -> bool {
        must(self.poll(Duration::ZERO)).end.is_none()
    }

    /// Waits for its end; none when it still runs after `patience`.
    #[track_caller]
    pub fn wait(&self, patience: Duration) -> Option<Output> {
        let reply = must(self.poll(patience));
        let (command, took) = (self.command.clone(), self.start.elapsed());
        reply.end.map(|end| Output { command, end, stdout: reply.stdout, stderr: reply.stderr, took })
    }

    /// Waits for its end, at most two minutes.
    ///
    /// # Panics
    /// When it still runs then.
    #[track_caller]
    pub fn end(&self) -> Output {
        match self.wait(COMMAND) {
            Some(output) => output,
            None => panic!("`{}` still runs", self.command),
        }
    }

    /// Waits until its standard output contains `text`.
    ///
    /// # Panics
    /// When it ends before, or has not printed it within `patience`.
    #[track_caller]
    pub fn wait_for(&self, text: &str, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            let reply = must(self.poll(Duration::from_millis(200)));
            if reply.stdout.contains(text) {
                return;
            }
            assert!(
                reply.end.is_none() && Instant::now() < deadline,
                "`{}` did not print {text:?}; it printed\n{}{}",
                self.command,
                reply.stdout,
                reply.stderr
            );
        }
    }

    /// Sends a signal, by number, to the command and its children.
    #[track_caller]
    pub fn kill(&self, signal: i32) {
        must(self.host.ask(Want::Kill { job: self.number, signal }, COMMAND));
    }

    fn poll(&self, patience: Duration) -> Result<Reply> {
        let wait_ms = u64::try_from(patience.as_millis())?;
        reply(self.host.ask(Want::Poll { job: self.number, wait_ms }, patience + ON_THE_WAY)?)
    }
}
