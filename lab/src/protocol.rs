//! What the lab and its agent in the emulated host say to one another: one JSON object per line, over a serial port.
//!
//! Both sides are built from the same source, so there is no version to negotiate. Bytes travel as base64.
//! A line that is not one of these objects is noise of the serial port and is dropped by either side.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// A request of the lab. Answers carry the same `id` and may come in any order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the lab; for a started command it is also the command's job number.
    pub id: u64,
    /// What is wanted.
    pub what: Want,
}

/// What the lab wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// Start `/bin/sh -c command` in a process group of its own.
    Start {
        /// The text given to the shell.
        command: String,
        /// Standard input, base64; empty means end of file at once.
        stdin: String,
        /// Answer when it ended or this many milliseconds are over; zero answers at once.
        wait_ms: u64,
        /// Kill the process group when the time is over.
        kill: bool,
    },
    /// What a started command has printed up to now; wait at most `wait_ms` milliseconds for its end.
    Poll {
        /// The `id` of the request that started it.
        job: u64,
        /// Milliseconds.
        wait_ms: u64,
    },
    /// Send a signal to a started command's process group.
    Kill {
        /// The `id` of the request that started it.
        job: u64,
        /// Signal number.
        signal: i32,
    },
    /// The content of a file.
    Read {
        /// Absolute path.
        path: String,
    },
    /// Make or replace a file.
    Write {
        /// Absolute path.
        path: String,
        /// Content, base64.
        data: String,
        /// Permission bits.
        mode: u32,
    },
}

/// Everything the agent may say.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// The agent has started.
    Hello(Hello),
    /// The state of a command.
    Job(Job),
    /// The content of a file, base64.
    Content {
        /// Of the request.
        id: u64,
        /// Base64.
        data: String,
    },
    /// It is done and there is nothing to tell.
    Done {
        /// Of the request.
        id: u64,
    },
    /// It could not be done.
    Failed {
        /// Of the request.
        id: u64,
        /// What failed and what the kernel said.
        error: String,
    },
}

/// How the agent introduces itself.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Hello {
    /// `/proc/sys/kernel/random/boot_id`: another one means that the host was rebooted.
    pub boot_id: String,
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
    /// `uname -r`.
    pub kernel: String,
}

/// The state of a started command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Of the request that is answered.
    pub id: u64,
    /// Absent while it runs.
    pub end: Option<End>,
    /// Standard output up to now, base64.
    pub stdout: String,
    /// Standard error up to now, base64.
    pub stderr: String,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It exited with this status.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
    /// Its time was over. It was sent SIGKILL; a process stuck in the kernel is still there.
    Deadline,
}

impl Said {
    /// The request that this answers; none for a greeting.
    pub fn id(&self) -> Option<u64> {
        match self {
            Said::Hello(_) => None,
            Said::Job(job) => Some(job.id),
            Said::Content { id, .. } | Said::Done { id } | Said::Failed { id, .. } => Some(*id),
        }
    }
}

/// Bytes as they travel.
pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Bytes as they were before travelling; none when it is not base64.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// A line of the serial port as an object, none for noise.
pub fn parse<T: for<'a> Deserialize<'a>>(line: &[u8]) -> Option<T> {
    let start = line.iter().position(|&byte| byte == b'{')?;
    serde_json::from_slice(&line[start..]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_before_an_object_is_dropped() {
        let said: Option<Said> = parse(b"\0\xffgarbage{\"done\":{\"id\":7}}");
        assert_eq!(said.and_then(|said| said.id()), Some(7));
    }

    #[test]
    fn noise_alone_is_nothing() {
        assert!(parse::<Said>(b"").is_none());
        assert!(parse::<Said>(b"{\"done\":").is_none());
        assert!(parse::<Said>(b"\xff\xff").is_none());
    }
}
