//! Reading for the observers: through the [`Root`] door only, and what is forbidden is noted, not guessed.
//!
//! Decides nothing about what it reads. A thing that is not there is `None` without a word: most machines lack most
//! things. A thing that may not be read is `None` and a sentence in [`Host::unseen`](super::Host::unseen).

use crate::{
    machine::{self, Root},
    pci::Address,
};
use std::{cell::RefCell, io, path::Path, thread};

/// The door, and what stayed closed.
pub(super) struct Look<'r> {
    pub(super) root: &'r dyn Root,
    /// Whether a sleeping device may be woken to be looked at.
    pub(super) wake: bool,
    /// Whether only what a hand-over needs is looked at.
    pub(super) brief: bool,
    unseen: RefCell<Vec<String>>,
}

impl<'r> Look<'r> {
    pub(super) fn new(root: &'r dyn Root) -> Self {
        Self { root, wake: false, brief: false, unseen: RefCell::default() }
    }

    /// As [`Look::new`], and may wake sleeping devices.
    pub(super) fn waking(root: &'r dyn Root) -> Self {
        Self { wake: true, ..Self::new(root) }
    }

    /// As [`Look::new`], for a hand-over: of config space the header alone, which tells bridges.
    pub(super) fn brief(root: &'r dyn Root) -> Self {
        Self { brief: true, ..Self::new(root) }
    }

    /// Looks at two things, at the same time where the door lets two look.
    pub(super) fn with<B: Send, A>(
        &self,
        beside: impl Fn(&Look) -> B + Sync,
        here: impl FnOnce() -> A,
    ) -> (A, B) {
        let Some((root, _)) = self.root.at_once() else {
            return (here(), beside(self));
        };
        let beside = &beside;
        thread::scope(|scope| {
            let other = self.begin(scope, root, beside);
            let here = here();
            (here, self.end(other, beside))
        })
    }

    /// Looks at parts of something, at the same time where the door lets several look; what each gives, in order.
    pub(super) fn each<P: Sync + ?Sized, T: Send>(
        &self,
        parts: &[&P],
        what: impl Fn(&Look, &P) -> T + Sync,
    ) -> Vec<T> {
        let (Some((root, _)), Some((first, others))) = (self.root.at_once(), parts.split_first()) else {
            return parts.iter().map(|part| what(self, part)).collect();
        };
        let what = &what;
        thread::scope(|scope| {
            let begun: Vec<_> =
                others.iter().map(|part| self.begin(scope, root, move |look| what(look, part))).collect();
            let first = what(self, first);
            let ended =
                begun.into_iter().zip(others).map(|(begun, part)| self.end(begun, |look| what(look, part)));
            std::iter::once(first).chain(ended).collect()
        })
    }

    /// Looks, and puts what could not be seen in an order that does not depend on who looked when.
    pub(super) fn in_order<T>(&self, what: impl FnOnce() -> T) -> T {
        let noted = self.unseen.borrow().len();
        let seen = what();
        if let Some(new) = self.unseen.borrow_mut().get_mut(noted..) {
            new.sort_unstable();
        }
        seen
    }

    /// Begins to look at something in a thread, through a door that others look through as well. `None`: there can be
    /// no more threads.
    fn begin<'s, T: Send + 's>(
        &self,
        scope: &'s thread::Scope<'s, '_>,
        root: &'s (dyn Root + Sync),
        what: impl FnOnce(&Look) -> T + Send + 's,
    ) -> Option<Begun<'s, T>> {
        let (wake, brief) = (self.wake, self.brief);
        let look = move || {
            let look = Look { wake, brief, ..Look::new(root) };
            (what(&look), look.unseen())
        };
        thread::Builder::new().spawn_scoped(scope, look).ok()
    }

    /// What was seen in a thread; without one, what is seen here.
    fn end<T>(&self, begun: Option<Begun<'_, T>>, what: impl FnOnce(&Look) -> T) -> T {
        match begun.map(thread::ScopedJoinHandle::join) {
            None => what(self),
            Some(Ok((seen, unseen))) => {
                for sentence in unseen {
                    self.note(sentence);
                }
                seen
            }
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }

    /// What could not be seen, once each.
    pub(super) fn unseen(self) -> Vec<String> {
        self.unseen.into_inner()
    }

    /// Notes something that could not be seen.
    pub(super) fn note(&self, sentence: String) {
        let mut unseen = self.unseen.borrow_mut();
        if !unseen.contains(&sentence) {
            unseen.push(sentence);
        }
    }

    /// Notes what is forbidden.
    pub(super) fn kept<T>(&self, path: &str, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.note(format!("{path} may not be read: {}", crate::error::said(&error)));
                None
            }
            Err(_) => None,
        }
    }

    /// A file as text without trailing white space.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        self.kept(path, self.root.text(Path::new(path)))
    }

    /// A file as text, without a note where it may not be read: for what is a second source only.
    pub(super) fn text_quietly(&self, path: &str) -> Option<String> {
        self.root.text(Path::new(path)).ok()
    }

    /// A file's bytes.
    pub(super) fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        self.kept(path, self.root.read(Path::new(path)))
    }

    /// The first bytes of a file.
    pub(super) fn start(&self, path: &str, length: usize) -> Option<Vec<u8>> {
        self.kept(path, self.root.read_start(Path::new(path), length))
    }

    /// The first bytes of a file, without a note where it may not be read.
    pub(super) fn start_quietly(&self, path: &str, length: usize) -> Option<Vec<u8>> {
        self.root.read_start(Path::new(path), length).ok()
    }

    /// A long file of which parts are read: bytes by offset and length.
    pub(super) fn parts(&self, path: &str) -> Option<impl Fn(u64, usize) -> Option<Vec<u8>>> {
        let part = self.kept(path, self.root.parts(Path::new(path)))?;
        Some(move |offset, length| part(offset, length).ok())
    }

    /// A file, some whole lines at a time; false where there is no such file.
    pub(super) fn lines(&self, path: &str, mut some: impl FnMut(&[u8])) -> bool {
        self.kept(path, self.root.lines(Path::new(path), &mut some)).is_some()
    }

    /// A file in pieces, until what was read of it is enough; false where it cannot be read. Without a note.
    pub(super) fn pieces(&self, path: &str, piece: usize, mut enough: impl FnMut(&str) -> bool) -> bool {
        let mut enough = |bytes: &[u8]| enough(&String::from_utf8_lossy(bytes));
        self.root.pieces(Path::new(path), piece, &mut enough).is_ok()
    }

    /// A folder of which several attributes are read.
    pub(super) fn folder(&self, path: &str) -> Option<Folder<'_, 'r>> {
        let open = self.kept(path, self.root.folder(Path::new(path)))?;
        Some(Folder { look: self, path: path.to_owned(), open })
    }

    /// The names in a folder, sorted. Names that are no UTF-8 are no names of the kernel's.
    pub(super) fn list(&self, path: &str) -> Option<Vec<String>> {
        let names = self.kept(path, self.root.list(Path::new(path)))?;
        Some(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    /// Where a link points, as text.
    pub(super) fn link(&self, path: &str) -> Option<String> {
        let target = self.root.readlink(Path::new(path)).ok()?;
        Some(target.to_string_lossy().into_owned())
    }

    /// The last component of a link's target.
    pub(super) fn link_name(&self, path: &str) -> Option<String> {
        self.root.link_name(Path::new(path)).ok()
    }

    /// True where something is at a path.
    pub(super) fn exists(&self, path: &str) -> bool {
        self.root.exists(Path::new(path))
    }

    /// The PCI function that a sysfs link leads through last: a disk's controller, a NIC's function.
    pub(super) fn function_of(&self, link: &str) -> Option<Address> {
        self.link(link).and_then(|target| last_function(&target))
    }
}

/// A thread that looks, and what it could not see.
type Begun<'s, T> = thread::ScopedJoinHandle<'s, (T, Vec<String>)>;

/// A folder that is looked into as a [`Look`] does.
pub(super) struct Folder<'l, 'r> {
    look: &'l Look<'r>,
    path: String,
    open: Box<dyn machine::Folder + 'r>,
}

impl Folder<'_, '_> {
    fn kept<T>(&self, name: &str, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => self.look.kept(&format!("{}/{name}", self.path), Err(error)),
        }
    }

    /// The names in it, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let names = self.look.kept(&self.path, self.open.names()).unwrap_or_default();
        names.into_iter().filter_map(|name| name.into_string().ok()).collect()
    }

    /// An attribute as text without trailing white space.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.kept(name, self.open.read(name)).map(machine::text_of)
    }

    /// Where a link points, as text.
    pub(super) fn link(&self, name: &str) -> Option<String> {
        Some(self.open.link(name).ok()?.to_string_lossy().into_owned())
    }

    /// The last component of a link's target.
    pub(super) fn link_name(&self, name: &str) -> Option<String> {
        let target = self.open.link(name).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Bytes of an attribute that parts are read of: by offset and length.
    pub(super) fn parts(&self, name: &str) -> Option<impl Fn(usize, usize) -> Option<Vec<u8>>> {
        let part = self.kept(name, self.open.parts(name))?;
        Some(move |at, length| self.kept(name, part(at as u64, length)))
    }
}

/// The last component of a sysfs path that is a PCI address. What hangs on a USB controller is below it.
pub(super) fn last_function(path: &str) -> Option<Address> {
    path.rsplit('/').find_map(full_address)
}

/// An address with its domain: names such as `1:0.0` (USB interfaces) are none.
pub(super) fn full_address(component: &str) -> Option<Address> {
    if component.len() < 12 { None } else { component.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_function_of_a_device() {
        let usb_disk =
            "../devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sda";
        assert_eq!(last_function(usb_disk).unwrap().to_string(), "0000:00:14.0");
        let nvme = "../devices/pci0000:00/0000:00:1d.0/0000:03:00.0/nvme/nvme0/nvme0n1";
        assert_eq!(last_function(nvme).unwrap().to_string(), "0000:03:00.0");
        assert_eq!(last_function("../devices/virtual/block/dm-0"), None);
        assert_eq!(last_function("../devices/pci0000:00/x"), None);
    }
}
