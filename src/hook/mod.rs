//! The libvirt hook: a guest that was enabled gets its cards when libvirt starts it, and they come home with its end.
//!
//! ```text
//!  libvirtd ──runs──▶ gpuferry hook qemu GUEST OPERATION SUB-OPERATION EXTRA   (XML on standard input)
//!                        │ prepare begin   the cards go to vfio-pci, or the start is refused   ─▶ the cards' units
//!                        │ start begin     they are still there, or the start is refused
//!                        │ started begin   which process has them now
//!                        │ stopped end     it has ended
//!                        │ release end     the cards come home                                 ─▶ the cards' units
//!                        │ reconnect begin the daemon was restarted below a running guest: always status 0
//!                        └── gpuferry-guest-UUID.service watches: whoever dies, the cards come home
//! ```
//!
//! What it may not do (<https://libvirt.org/hooks.html>, src/util/virhook.c): call libvirt, which waits for it; print
//! on standard output, which replaces the guest's XML for some operations; leave a child with its pipes, which
//! would hold the start up; fail at `reconnect`, which kills the guest; do anything for a guest that was not enabled.
//! It need not read its input: the daemon takes a closed pipe for an answer (src/util/vircommand.c,
//! `virCommandProcessIO`).
//!
//! Devices that libvirt manages need nothing else: what vfio-pci has already when libvirt looks, it neither takes nor
//! gives back (src/util/virpci.c, `virPCIDeviceBindToStub`, `virPCIDeviceUnbindFromStub`), so it is ours from
//! `prepare` to `release` whether the XML says `managed='yes'` or not.
//!
//! On record: [`Guest`] below the state folder, made and undone as a change of files; [`hold::Hold`] in /run, by the
//! domain's UUID, so that the `stopped` and `release` that follow a refused start find nothing to give back.

pub mod call;
pub mod hold;
pub mod install;
pub mod watch;

use crate::{
    error::{Error, Result},
    handover::request::Wishes,
    journal::STATE,
    machine::{Machine, Root},
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
};

/// A guest that the hook acts for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Version of this form.
    pub schema: u32,
    /// The domain's name.
    pub name: String,
    /// The domain's UUID; `None`: it was not defined yet when it was enabled, and any domain of that name is meant.
    pub uuid: Option<String>,
    /// Who may be stopped for it, in the words of [`crate::handover::stop::Stop::word`].
    #[serde(default)]
    pub stop: Vec<String>,
    /// What is to be done differently with its cards.
    #[serde(default)]
    pub wishes: Wishes,
}

/// Where the guests that were enabled are on record.
pub fn folder() -> PathBuf {
    Path::new(STATE).join("guests")
}

/// The record of a guest. `None` for what is no domain's name: libvirt has no `/` and no newline in one
/// (src/conf/domain_conf.c, `virDomainDefPostParse`), and ours is a file's name with an ending.
pub fn record(name: &str) -> Option<PathBuf> {
    let fits = !name.is_empty() && name.len() <= 200 && !name.contains(['/', '\n', '\0']);
    fits.then(|| folder().join(format!("{name}.json")))
}

impl Guest {
    /// The guest of this name, if it was enabled.
    pub fn load(root: &(impl Root + ?Sized), name: &str) -> Result<Option<Self>> {
        let Some(path) = record(name) else { return Ok(None) };
        let guest: Option<Self> = crate::handover::record::load(root, &path)?;
        match guest {
            Some(guest) if guest.name != name => {
                Err(Error::failed(format!("{} is the record of another guest", path.display())))
            }
            guest => Ok(guest),
        }
    }

    /// Every guest that was enabled, by name.
    pub fn all(root: &(impl Root + ?Sized)) -> Result<Vec<Self>> {
        let names = match root.list(&folder()) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("list", &folder(), &error)),
        };
        let names = names.iter().filter_map(|name| name.to_str()?.strip_suffix(".json"));
        names
            .filter(|name| !name.starts_with('.'))
            .filter_map(|name| Self::load(root, name).transpose())
            .collect()
    }

    /// As it stands in its file.
    pub fn text(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self);
        let text =
            text.map_err(|error| Error::failed(format!("cannot form the record of a guest: {error}")))?;
        Ok(text + "\n")
    }
}

/// The kernel command line says that gpuferry does nothing by itself in this boot.
pub fn is_off(root: &(impl Root + ?Sized)) -> bool {
    let words = root.text(Path::new("/proc/cmdline")).unwrap_or_default();
    words.split_whitespace().any(|word| word == "gpuferry.off" || word == "gpuferry.off=1")
}

/// True where systemd is the service manager (sd_booted(3)).
pub fn has_systemd(machine: &(impl Machine + ?Sized)) -> bool {
    machine.exists(Path::new("/run/systemd/system"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_files_of_ours() {
        assert_eq!(record("win 10").unwrap(), Path::new("/var/lib/gpuferry/guests/win 10.json"));
        assert_eq!(record("..").unwrap(), Path::new("/var/lib/gpuferry/guests/...json"));
        for wrong in ["", "a/b", "/", "a\nb", "a\0", &"x".repeat(201)] {
            assert_eq!(record(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_guest_is_found_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = crate::machine::live::Live::open(folder.path()).unwrap();
        assert_eq!(Guest::load(&root, "win10").unwrap(), None);
        assert_eq!(Guest::all(&root).unwrap(), []);
        let guests = folder.path().join("var/lib/gpuferry/guests");
        std::fs::create_dir_all(&guests).unwrap();
        let guest = Guest {
            schema: 1,
            name: "win10".into(),
            uuid: None,
            stop: Vec::new(),
            wishes: Wishes::default(),
        };
        std::fs::write(guests.join("win10.json"), guest.text().unwrap()).unwrap();
        std::fs::write(guests.join(".gpuferry-new.x.json"), "half").unwrap();
        assert_eq!(Guest::load(&root, "win10").unwrap(), Some(guest.clone()));
        assert_eq!(Guest::all(&root).unwrap(), std::slice::from_ref(&guest));
        std::fs::write(guests.join("other.json"), guest.text().unwrap()).unwrap();
        assert!(Guest::load(&root, "other").is_err());
        std::fs::write(guests.join("other.json"), "{").unwrap();
        assert!(Guest::load(&root, "other").unwrap_err().message.contains("damaged"));
    }

    #[test]
    fn the_kill_switch_is_a_word() {
        let folder = tempfile::tempdir().unwrap();
        let root = crate::machine::live::Live::open(folder.path()).unwrap();
        std::fs::create_dir_all(folder.path().join("proc")).unwrap();
        for (line, off) in
            [("quiet gpuferry.off=1\n", true), ("gpuferry.off", true), ("gpuferry.offer=1 quiet", false)]
        {
            std::fs::write(folder.path().join("proc/cmdline"), line).unwrap();
            assert_eq!(is_off(&root), off, "{line}");
        }
    }
}
