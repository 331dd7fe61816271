//! One change on the disk: its folder, its journal, and what the journal says about it.
//!
//! Decides nothing about steps; it remembers them so that a power cut forgets none.

use super::{STATE, make_state_folder, millis};
use crate::{
    error::{Error, Result},
    machine::{FileKind, Machine, Ownership, Root},
    step::{FileStep, before::Before},
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
};

/// What is planned, as it is kept with the change and shown later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Version of this form.
    pub schema: u32,
    /// When the change was begun, in milliseconds since 1970.
    pub time: u64,
    /// The goal in a sentence.
    pub title: String,
    /// Digest of the plan.
    pub digest: String,
    /// Words that the change adds to the kernel command line.
    pub words: Vec<String>,
    /// The steps, in order.
    pub steps: Vec<FileStep>,
    /// Names in /boot before the change, so that leftovers of an interrupted tool can be told from what was there.
    pub boot: Vec<String>,
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "record")]
pub enum Record {
    /// The step may have acted from here on.
    Begin {
        /// Milliseconds since 1970.
        time: u64,
        /// Number of the step, from 0.
        step: usize,
        /// What was there.
        before: Before,
    },
    /// The step has acted, and what it made is on the disk.
    Done {
        /// Milliseconds since 1970.
        time: u64,
        /// Number of the step.
        step: usize,
    },
    /// The step failed.
    Failed {
        /// Milliseconds since 1970.
        time: u64,
        /// Number of the step.
        step: usize,
        /// What was said.
        error: String,
    },
    /// Every step is done and checked.
    Applied {
        /// Milliseconds since 1970.
        time: u64,
    },
    /// Undoing was begun.
    Reverting {
        /// Milliseconds since 1970.
        time: u64,
    },
    /// The step is undone.
    Reverted {
        /// Milliseconds since 1970.
        time: u64,
        /// Number of the step.
        step: usize,
    },
    /// Everything of the change is undone.
    Closed {
        /// Milliseconds since 1970.
        time: u64,
    },
}

/// Where a change stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Begun, and neither finished nor undone: it was interrupted, or its undoing failed.
    Unfinished,
    /// In force.
    Applied,
    /// Undone.
    Reverted,
}

/// A change that was made, or begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its number; later changes have larger ones.
    pub number: u32,
    /// What was planned.
    pub planned: Planned,
    /// Its journal so far.
    pub records: Vec<Record>,
    /// True where the journal on the disk ends in half a line: it is mended before the next one.
    torn: bool,
}

/// Where the folders of changes are.
pub fn changes() -> PathBuf {
    Path::new(STATE).join("changes")
}

fn folder(number: u32) -> PathBuf {
    changes().join(format!("{number:04}"))
}

impl Change {
    /// Where it stands.
    pub fn state(&self) -> State {
        let mut state = State::Unfinished;
        for record in &self.records {
            match record {
                Record::Applied { .. } => state = State::Applied,
                Record::Reverting { .. } => state = State::Unfinished,
                Record::Closed { .. } => state = State::Reverted,
                _ => {}
            }
        }
        state
    }

    /// What was there before a step, where the step was begun.
    pub fn before(&self, step: usize) -> Option<&Before> {
        self.records.iter().find_map(|record| match record {
            Record::Begin { step: begun, before, .. } if *begun == step => Some(before),
            _ => None,
        })
    }

    /// True where the step has been undone already.
    pub fn is_reverted(&self, step: usize) -> bool {
        self.records.iter().any(|record| matches!(record, Record::Reverted { step: s, .. } if *s == step))
    }

    /// The change's folder.
    pub fn folder(&self) -> PathBuf {
        folder(self.number)
    }

    /// Starts a change: its folder, its plan, and an empty journal, all on the disk.
    pub fn create(machine: &dyn Machine, number: u32, planned: Planned) -> Result<Self> {
        let change = Self { number, planned, records: Vec::new(), torn: false };
        let folder = change.folder();
        let plan = serde_json::to_vec_pretty(&change.planned)
            .map_err(|error| Error::failed(format!("cannot write the plan down: {error}")))?;
        for path in [folder.clone(), folder.join("before")] {
            machine.make_folder(&path, 0o700).map_err(|error| Error::io("create", &path, &error))?;
        }
        put(machine, &folder.join("plan.json"), &plan)?;
        put(machine, &folder.join("journal"), b"")?;
        sync(machine, &folder)?;
        sync(machine, &changes())?;
        Ok(change)
    }

    /// Keeps the bytes of a file that a step will replace.
    pub fn keep(&self, machine: &dyn Machine, step: usize, bytes: &[u8]) -> Result<()> {
        let folder = self.folder().join("before");
        put(machine, &folder.join(format!("{step:02}")), bytes)?;
        sync(machine, &folder)
    }

    /// The bytes that [`Change::keep`] kept, checked against the journal.
    pub fn kept(&self, root: &dyn Root, step: usize, sha256: &str) -> Result<Vec<u8>> {
        let path = self.folder().join("before").join(format!("{step:02}"));
        let bytes = root.read(&path).map_err(|error| Error::io("read", &path, &error))?;
        if super::sha256(&bytes) != sha256 {
            return Err(Error::failed(format!("{} is damaged: its checksum is another", path.display()))
                .detail(format!("the journal says sha256 {sha256}"))
                .hint("put the file back from a backup, then: gpuferry revert"));
        }
        Ok(bytes)
    }

    /// Adds a record, and returns when it is on the disk.
    pub fn write(&mut self, machine: &dyn Machine, record: Record) -> Result<()> {
        let path = self.folder().join("journal");
        let line = line(&record)?;
        self.mend(machine)?;
        machine.append(&path, &line).map_err(|error| Error::io("write", &path, &error))?;
        self.records.push(record);
        Ok(())
    }

    /// Writes a journal that a power cut tore anew, without its half line.
    fn mend(&mut self, machine: &dyn Machine) -> Result<()> {
        if !self.torn {
            return Ok(());
        }
        let (path, new) = (self.folder().join("journal"), self.folder().join("journal.new"));
        let lines: Vec<u8> = self.records.iter().map(line).collect::<Result<Vec<_>>>()?.concat();
        remove_tree(machine, &new)?;
        put(machine, &new, &lines)?;
        machine.rename(&new, &path).map_err(|error| Error::io("write", &path, &error))?;
        sync(machine, &self.folder())?;
        self.torn = false;
        Ok(())
    }

    /// The time now, for a record.
    pub fn time(machine: &dyn Machine) -> u64 {
        millis(machine.now())
    }

    /// Throws the kept files away: the change is closed and nothing needs them any more.
    pub fn forget_kept(&self, machine: &dyn Machine) -> Result<()> {
        remove_tree(machine, &self.folder().join("before"))?;
        sync(machine, &self.folder())
    }
}

fn line(record: &Record) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(record)
        .map_err(|error| Error::failed(format!("cannot write down what is done: {error}")))?;
    line.push(b'\n');
    Ok(line)
}

fn put(machine: &dyn Machine, path: &Path, bytes: &[u8]) -> Result<()> {
    let owner =
        machine.stat(Path::new(STATE)).map_err(|error| Error::io("read", Path::new(STATE), &error))?;
    let ownership = Ownership { mode: 0o600, xattrs: Vec::new(), ..owner.ownership };
    machine.create(path, bytes, &ownership).map_err(|error| Error::io("write", path, &error))
}

fn sync(machine: &dyn Machine, folder: &Path) -> Result<()> {
    machine.sync_folder(folder).map_err(|error| Error::io("write", folder, &error))
}

/// Removes a folder of the state folder with everything in it. Follows no link; what is gone already is no error.
pub fn remove_tree(machine: &dyn Machine, path: &Path) -> Result<()> {
    let stat = match machine.stat(path) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read", path, &error)),
    };
    if stat.kind != FileKind::Folder {
        return machine.remove(path).map_err(|error| Error::io("remove", path, &error));
    }
    for name in machine.list(path).map_err(|error| Error::io("read", path, &error))? {
        remove_tree(machine, &path.join(name))?;
    }
    machine.remove_folder(path).map_err(|error| Error::io("remove", path, &error))
}

/// Every change of a machine, oldest first. Changes nothing; folders without a journal are left out (they were cut
/// off before anything was changed).
pub fn load(root: &dyn Root) -> Result<Vec<Change>> {
    let mut found = Vec::new();
    for number in numbers(root)? {
        if let Some(change) = load_one(root, number)? {
            found.push(change);
        }
    }
    Ok(found)
}

fn numbers(root: &dyn Root) -> Result<Vec<u32>> {
    let path = changes();
    let names = match root.list(&path) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", &path, &error)),
    };
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn load_one(root: &dyn Root, number: u32) -> Result<Option<Change>> {
    let folder = folder(number);
    let journal = match root.read(&folder.join("journal")) {
        Ok(journal) => journal,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", &folder.join("journal"), &error)),
    };
    let (records, torn) = parse(&journal).map_err(|line| {
        damaged(&folder.join("journal"), &format!("line {line} cannot be read, and it is not the last"))
    })?;
    let plan = folder.join("plan.json");
    let planned = match root.read(&plan) {
        Ok(bytes) => serde_json::from_slice(&bytes).ok(),
        Err(_) => None,
    };
    match planned {
        Some(planned) => Ok(Some(Change { number, planned, records, torn })),
        // The plan is brought to the disk before the journal's first line is written.
        None if records.is_empty() => Ok(None),
        None => Err(damaged(&plan, "it cannot be read")),
    }
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::failed(format!("{} is damaged: {why}", path.display()))
        .detail("without it gpuferry does not know what it changed, and changes nothing more")
        .hint(format!("look at it and put it back from a backup: {}", path.display()))
}

/// The records of a journal, and whether its last line was torn by a power cut. A damaged line before it is an
/// error that gives the line's number.
fn parse(bytes: &[u8]) -> std::result::Result<(Vec<Record>, bool), usize> {
    let mut records = Vec::new();
    let mut torn = None;
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        if let Some(torn) = torn {
            return Err(torn);
        }
        match serde_json::from_slice(line) {
            Ok(record) => records.push(record),
            Err(_) => torn = Some(at + 1),
        }
    }
    let torn = torn.is_some() || bytes.last().is_some_and(|last| *last != b'\n');
    Ok((records, torn))
}

/// Makes the folder of changes ready for a new one, and returns its number. Throws away what was cut off before it
/// changed anything.
pub fn next_number(machine: &dyn Machine) -> Result<u32> {
    make_state_folder(machine)?;
    let path = changes();
    if !machine.exists(&path) {
        machine.make_folder(&path, 0o700).map_err(|error| Error::io("create", &path, &error))?;
        sync(machine, Path::new(STATE))?;
    }
    tidy(machine)?;
    Ok(numbers(&machine)?.last().map_or(1, |last| last + 1))
}

/// Removes folders of changes that were cut off before they changed anything, and kept files that nothing needs.
pub fn tidy(machine: &dyn Machine) -> Result<()> {
    for number in numbers(&machine)? {
        let empty = match load_one(&machine, number)? {
            None => true,
            Some(change) => {
                if change.state() == State::Reverted && machine.exists(&change.folder().join("before")) {
                    change.forget_kept(machine)?;
                }
                change.records.is_empty()
            }
        };
        if empty {
            remove_tree(machine, &folder(number))?;
            sync(machine, &changes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_line_is_a_power_cut_and_another_is_damage() {
        let good = br#"{"record":"begin","time":1,"step":0,"before":{"was":"absent"}}"#;
        let mut journal = good.to_vec();
        journal.extend(b"\n{\"record\":\"do");
        assert!(matches!(parse(&journal), Ok((records, true)) if records.len() == 1));
        journal.extend(b"\n");
        journal.extend(good);
        assert_eq!(parse(&journal).unwrap_err(), 2);
    }
}
