//! What the facts mean: pure rules over a [`Host`](crate::host::Host), one question a file.
//!
//! A rule reads nothing and prints nothing.

mod protect;
mod verdict;

pub use protect::{Refusal, protect, refusal};
pub use verdict::gpus;

use crate::pci::Address;
use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Stands in the way.
    Blocking,
    /// Will bite later, or is wrong without standing in the way.
    Warning,
    /// Good to know.
    Info,
}

/// Where a finding is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was read: a path, `dmesg`, the name of a log.
    pub source: String,
    /// Line in it, from 1.
    pub line: Option<u32>,
    /// What stands there.
    pub text: String,
}

/// Something that helps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fix {
    /// In a sentence.
    pub text: String,
    /// As a command.
    pub command: Option<String>,
}

/// What a rule found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable id.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// One line.
    pub title: String,
    /// The device it is about, where it is about one.
    pub device: Option<Address>,
    /// Where it is seen.
    pub evidence: Vec<Evidence>,
    /// Why it is so.
    pub cause: String,
    /// What helps, best first.
    pub fixes: Vec<Fix>,
}
