//! The running history: one JSON line for each thing done to the machine that is not a change of files.
//!
//! Hand-overs write here before each write that can hang, so that after the power button one can read which it
//! was. Changes of files have their own journals (`changes/NNNN`); `gpuferry history` shows both, by time.
//! Lines are only ever appended. A torn last line (power cut) is no error.

use super::STATE;
use crate::{
    error::{Error, Result},
    machine::{Machine, Root},
    pci::Address,
};
use serde::{Deserialize, Serialize};
use std::{io, path::Path};

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in milliseconds since 1970.
    pub time: u64,
    /// What, as a person reads it: `unbind 0000:01:00.0 from nvidia`.
    pub what: String,
    /// The device it was done to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Address>,
    /// The file that was written, where it was a write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What was written to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// How long it took, in milliseconds. A line without it was written before the act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// What the kernel said, where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Entry {
    /// A line with the time and a sentence.
    pub fn new(machine: &dyn Machine, what: impl Into<String>) -> Self {
        Self {
            time: super::millis(machine.now()),
            what: what.into(),
            device: None,
            path: None,
            value: None,
            took_ms: None,
            error: None,
        }
    }
}

/// Where the history is, below the state folder.
pub const FILE: &str = "/var/lib/gpuferry/history";

/// Adds a line and brings it to the disk before returning.
pub fn note(machine: &dyn Machine, entry: &Entry) -> Result<()> {
    super::make_state_folder(machine)?;
    let path = Path::new(FILE);
    let fresh = !machine.exists(path);
    let mut line =
        serde_json::to_vec(entry).map_err(|error| Error::failed(format!("cannot write {FILE}: {error}")))?;
    line.push(b'\n');
    machine.append(path, &line).map_err(|error| Error::io("write", path, &error))?;
    if fresh {
        machine
            .sync_folder(Path::new(STATE))
            .map_err(|error| Error::io("write", Path::new(STATE), &error))?;
    }
    Ok(())
}

/// Every line, oldest first. No file is no history; lines that cannot be read are left out.
pub fn read(root: &dyn Root) -> Result<Vec<Entry>> {
    match root.read(Path::new(FILE)) {
        Ok(bytes) => Ok(parse(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("read", Path::new(FILE), &error)),
    }
}

fn parse(bytes: &[u8]) -> Vec<Entry> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_loses_only_itself() {
        let text =
            b"{\"time\":1,\"what\":\"one\"}\n{\"time\":2,\"what\":\"two\",\"took_ms\":4}\n{\"time\":3,\"wh";
        let entries = parse(text);
        assert_eq!(entries.iter().map(|entry| entry.time).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(entries[1].took_ms, Some(4));
    }
}
