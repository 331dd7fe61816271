//! [`Hold`]: which cards a domain was given, by its UUID, in /run. Who gives cards to a domain, or takes them back,
//! reads and writes this; nothing else here acts.

use crate::{
    error::{Error, Result},
    handover::{
        holders::{Holder, holders, nodes},
        record,
        snapshot::Card,
    },
    machine::{Lock, Machine, Root, process, wait_until},
    pci::Address,
    plan::live::VFIO,
    step::live::driver_of,
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// How far a domain with cards is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// `prepare` is at it, or libvirt has not started it yet.
    Starting,
    /// Its process has the cards.
    Running,
    /// libvirt said that it has ended.
    Ended,
}

/// The cards of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Version of this form.
    pub schema: u32,
    /// The domain.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// Its cards.
    pub cards: Vec<Card>,
    /// Those of them that were given to it, and go home with its end; the others were lent before.
    pub borrowed: Vec<Address>,
    /// How far it is.
    pub stage: Stage,
    /// The daemon that starts it: process id and start time.
    pub daemon: Option<(u32, u64)>,
    /// Its process: process id and start time.
    pub qemu: Option<(u32, u64)>,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
}

fn folder() -> PathBuf {
    Path::new(record::RUN).join("guests")
}

/// A UUID as a file's name: libvirt writes 36 characters, lower case.
fn key(uuid: &str) -> Option<String> {
    let plain = uuid.len() == 36 && uuid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    plain.then(|| uuid.to_ascii_lowercase())
}

/// A file of a domain.
pub fn file(uuid: &str, ending: &str) -> Result<PathBuf> {
    let key = key(uuid).ok_or_else(|| Error::failed(format!("`{uuid}` is not the UUID of a domain")))?;
    Ok(folder().join(format!("{key}.{ending}")))
}

/// The cards of a domain, if it has any.
pub fn load(root: &(impl Root + ?Sized), uuid: &str) -> Result<Option<Hold>> {
    record::load(root, &file(uuid, "json")?)
}

/// Every domain that has cards. What cannot be read is an error: it may be the one that matters.
pub fn all(root: &(impl Root + ?Sized)) -> Result<Vec<Hold>> {
    let names = match root.list(&folder()) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", &folder(), &error)),
    };
    let names =
        names.iter().filter(|name| Path::new(name).extension().is_some_and(|ending| ending == "json"));
    let found = names.map(|name| record::load(root, &folder().join(name)));
    found.filter_map(Result::transpose).collect()
}

/// Makes the folder of these records.
pub fn make_folder(machine: &dyn Machine) -> Result<()> {
    record::make_folders(machine, &folder())
}

/// Held while it is decided who gets which card.
pub fn decide(machine: &dyn Machine) -> Result<Box<dyn Lock>> {
    make_folder(machine)?;
    wait_for_lock(machine, &folder().join("lock"), Duration::from_secs(20))
}

/// Waits for a lock that others hold for a moment only.
pub fn wait_for_lock(machine: &dyn Machine, path: &Path, at_most: Duration) -> Result<Box<dyn Lock>> {
    let mut result = Ok(None);
    wait_until(machine, at_most, || {
        result = machine.lock(path);
        !matches!(result, Ok(None))
    });
    match result {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => {
            Err(Error::failed(format!("{} has been locked for {} s", path.display(), at_most.as_secs()))
                .hint(format!("fuser -v {}", path.display())))
        }
        Err(error) => Err(Error::io("lock", path, &error)),
    }
}

impl Hold {
    /// Puts it on record.
    pub fn save(&self, machine: &dyn Machine) -> Result<()> {
        make_folder(machine)?;
        let text = serde_json::to_vec_pretty(self);
        let text =
            text.map_err(|error| Error::failed(format!("cannot form the record of a guest: {error}")))?;
        record::replace(machine, &file(&self.uuid, "json")?, &text)
    }

    /// Takes it off the record: its cards are home.
    pub fn forget(&self, machine: &dyn Machine) -> Result<()> {
        let path = file(&self.uuid, "json")?;
        match machine.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path, &error)),
            _ => Ok(()),
        }
    }

    /// Whether a card, by any of its functions, is among its cards.
    pub fn has(&self, card: &Card) -> bool {
        self.cards.iter().any(|own| own.functions.iter().any(|address| card.functions.contains(address)))
    }

    /// Who has the VFIO files of its cards open.
    pub fn inside(&self, root: &(impl Root + ?Sized)) -> Vec<Holder> {
        inside(root, &self.cards)
    }

    /// Whether nobody is left who would take the cards or give them back: neither its process nor the daemon.
    pub fn is_left(&self, machine: &dyn Machine) -> bool {
        let gone = |(pid, started): (u32, u64)| process::start_time(machine, pid) != Some(started);
        let lent = |address: &Address| driver_of(machine, *address).as_deref() == Some(VFIO);
        let over = match self.stage {
            Stage::Starting => self.daemon.is_some_and(gone),
            Stage::Running => self.qemu.is_none_or(gone),
            Stage::Ended => true,
        };
        // Somebody may have brought its cards home by hand.
        let none_lent = !self.cards.iter().flat_map(|card| &card.functions).any(lent);
        (over || none_lent) && self.inside(machine).is_empty()
    }
}

/// The daemon that has called us: libvirt's own, above whatever scripts it went through. `None` where it is not
/// there, as when the hook is called by hand.
pub fn daemon(root: &(impl Root + ?Sized)) -> Option<(u32, u64)> {
    let mut pid = std::process::id();
    for _ in 0..8 {
        pid = parent(&root.text(Path::new(&format!("/proc/{pid}/stat"))).ok()?)?;
        let name = root.text(Path::new(&format!("/proc/{pid}/comm"))).ok()?;
        if matches!(name.as_str(), "libvirtd" | "virtqemud") {
            return identity(root, pid);
        }
    }
    None
}

/// proc_pid_stat(5): field 4, counted behind the name, which may hold spaces and parentheses.
fn parent(stat: &str) -> Option<u32> {
    stat.get(stat.rfind(')')? + 1..)?.split_whitespace().nth(1)?.parse().ok().filter(|pid| *pid != 0)
}

/// Who has the VFIO files of cards open: the group's, or the device's own (Linux 6.6 and later, /dev/vfio/devices).
pub fn inside(root: &(impl Root + ?Sized), cards: &[Card]) -> Vec<Holder> {
    let functions: Vec<_> = cards.iter().flat_map(|card| &card.functions).copied().collect();
    let vfio = nodes(root, &functions).into_iter().filter(|node| node.starts_with("/dev/vfio")).collect();
    holders(root, &vfio)
}

/// A process with its start time, as records keep it.
pub fn identity(root: &(impl Root + ?Sized), pid: u32) -> Option<(u32, u64)> {
    Some((pid, process::start_time(root, pid)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_behind_the_name() {
        assert_eq!(parent("7 (a b) ) S 812 7 7 0"), Some(812));
        assert_eq!(parent("1 (systemd) S 0 1 1"), None);
        assert_eq!(parent("torn"), None);
    }

    #[test]
    fn a_uuid_is_a_files_name_and_nothing_else_is() {
        let path = file("0A1B2C3D-0000-4000-8000-000000000001", "json").unwrap();
        assert_eq!(path, Path::new("/run/gpuferry/guests/0a1b2c3d-0000-4000-8000-000000000001.json"));
        for wrong in ["", "x", "../../../../etc/passwd-------------", &"/".repeat(36)] {
            assert!(file(wrong, "json").is_err(), "{wrong}");
        }
    }
}
