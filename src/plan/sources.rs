//! The files that a plan reads, once, so that planning itself is a pure function.

use super::names::{GRUB_DEFAULTS, GRUB_DROP_IN, GRUB_FOLDER, HOOK, INIT_TOP};
use crate::{
    error::{Error, Result},
    journal::sha256,
    machine::{FileKind, Root},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

/// What stands in the files that count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// SHA-256 of the machine's id; the id itself is nobody's business.
    pub machine: Option<String>,
    /// GRUB's settings in the order in which they are read, our own drop-in left out.
    pub grub: Vec<(PathBuf, String)>,
    /// What is at the paths of our own files; nothing where there is none.
    pub own: BTreeMap<PathBuf, String>,
    /// Folders of our own files that are there.
    pub folders: BTreeSet<PathBuf>,
    /// `/etc/crypttab`.
    pub crypttab: Option<String>,
}

fn text(root: &dyn Root, path: &Path) -> Result<Option<String>> {
    match root.stat(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, &error)),
        Ok(stat) if stat.kind == FileKind::Folder || stat.kind == FileKind::Other => {
            return Err(Error::refused(format!("{} is not a file", path.display()))
                .hint(format!("ls -ld {}", path.display())));
        }
        Ok(_) => {}
    }
    match root.read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        // A link that leads nowhere.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path, &error)),
    }
}

/// Paths below a folder with this ending, sorted by name as the shell sorts `*`; none where there is no folder.
fn inside(root: &dyn Root, folder: &str, ending: &str) -> Result<Vec<PathBuf>> {
    let folder = Path::new(folder);
    let names = match root.list(folder) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", folder, &error)),
    };
    let names = names
        .into_iter()
        .filter(|name| name.to_str().is_some_and(|name| name.ends_with(ending) && !name.starts_with('.')));
    Ok(names.map(|name| folder.join(name)).collect())
}

impl Sources {
    /// Reads them.
    pub fn read(root: &dyn Root) -> Result<Self> {
        let mut sources = Self {
            machine: text(root, Path::new("/etc/machine-id"))?
                .map(|id| sha256(format!("gpuferry {}", id.trim()).as_bytes())),
            crypttab: text(root, Path::new("/etc/crypttab")).unwrap_or_default(),
            ..Self::default()
        };
        let grub = [PathBuf::from(GRUB_DEFAULTS)].into_iter().chain(inside(root, GRUB_FOLDER, ".cfg")?);
        for path in grub.filter(|path| path != Path::new(GRUB_DROP_IN)) {
            sources.grub.extend(text(root, &path)?.map(|text| (path, text)));
        }
        for path in [GRUB_DROP_IN, HOOK, INIT_TOP].map(PathBuf::from) {
            let folders = path.ancestors().skip(1).map(Path::to_owned).filter(|folder| root.exists(folder));
            sources.folders.extend(folders);
            sources.own.extend(text(root, &path)?.map(|text| (path, text)));
        }
        Ok(sources)
    }
}
