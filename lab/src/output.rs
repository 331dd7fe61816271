//! What a command in the emulated host did, with the assertions that cases make about it.
//!
//! The assertions panic, as those of the test harness do, with everything the command printed.

// An assertion's result may be dropped: the assertion was made.
#![allow(clippy::return_self_not_must_use)]

use crate::protocol::End;
use std::time::Duration;

/// A command that has ended, or whose time was over.
#[derive(Debug, Clone)]
pub struct Output {
    /// What was run.
    pub command: String,
    /// How it ended.
    pub end: End,
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error; bytes that are not UTF-8 are replaced.
    pub stderr: String,
    /// From the request to the answer, as seen from outside.
    pub took: Duration,
}

impl Output {
    /// It exited with status 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.status(0)
    }

    /// It exited with this status.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn status(self, status: i32) -> Self {
        assert!(self.end == End::Exit(status), "expected exit status {status}: {}", self.account());
        self
    }

    /// Its standard output contains `text`.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn prints(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "expected {text:?} in the output: {}", self.account());
        self
    }

    /// Its standard error contains `text`.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn complains(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "expected {text:?} on standard error: {}", self.account());
        self
    }

    /// Standard output.
    pub fn stdout(&self) -> &str {
        &self.stdout
    }

    /// Standard error.
    pub fn stderr(&self) -> &str {
        &self.stderr
    }

    /// Standard output without white space around it.
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }

    /// The lines of standard output.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("expected JSON ({error}): {}", self.account()),
        }
    }

    /// Everything about it, for a failed assertion.
    fn account(&self) -> String {
        format!(
            "`{}` ended with {:?} after {} ms\n--- stdout\n{}--- stderr\n{}---",
            self.command,
            self.end,
            self.took.as_millis(),
            self.stdout,
            self.stderr
        )
    }
}
