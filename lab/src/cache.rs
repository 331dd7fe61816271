//! Things that take long to make (trees, disks, kernels) are made once and kept outside the clone, in
//! `${XDG_CACHE_HOME:-~/.cache}/gpuferry-lab/`, under a name that carries a hash of everything they were made from.
//!
//! Nothing in the cache is ever changed in place: an entry is either whole or absent, also after a crash,
//! and two processes that want the same entry wait for one another instead of making it twice.

use anyhow::{Context, Result, anyhow};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder that holds all entries; made when it is missing.
pub fn root() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .filter(|v| Path::new(v).is_absolute())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .ok_or_else(|| anyhow!("neither XDG_CACHE_HOME nor HOME is set: no place for the lab's cache"))?;
    let root = base.join("gpuferry-lab");
    fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    Ok(root)
}

/// The path of the entry `name` made from `key_material`; `build` makes it if it is not there.
///
/// `build` is given a path that does not exist yet and puts a file or a folder there. Only when it returns
/// without an error does the entry appear under its final name. `key_material` is everything the content
/// depends on: package versions, the text of scripts, hashes of inputs.
pub fn entry(
    name: &str,
    key_material: impl AsRef<[u8]>,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    entry_in(&root()?, name, key_material.as_ref(), build)
}

/// Where [`entry`] would put it, whether it is there or not.
pub fn place(name: &str, key_material: impl AsRef<[u8]>) -> Result<PathBuf> {
    Ok(root()?.join(file_name(name, key_material.as_ref())))
}

/// The first 16 hexadecimal digits of the SHA-256 of `material`.
pub fn hash(material: impl AsRef<[u8]>) -> String {
    let digest = Sha256::digest(material.as_ref());
    digest.iter().take(8).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn file_name(name: &str, key_material: &[u8]) -> String {
    format!("{name}-{}", hash(key_material))
}

fn entry_in(
    root: &Path,
    name: &str,
    key_material: &[u8],
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let name = file_name(name, key_material);
    let entry = root.join(&name);
    if entry.exists() {
        return Ok(entry);
    }
    let lock_path = root.join(format!(".{name}.lock"));
    let lock =
        fs::File::create(&lock_path).with_context(|| format!("cannot create {}", lock_path.display()))?;
    flock(&lock, FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock {}", lock_path.display()))?;
    if entry.exists() {
        return Ok(entry);
    }
    let unfinished = root.join(format!(".{name}.unfinished"));
    remove(&unfinished)?;
    build(&unfinished).with_context(|| format!("cannot make {name} for the lab's cache"))?;
    fs::rename(&unfinished, &entry)
        .with_context(|| format!("cannot rename {} to {}", unfinished.display(), entry.display()))?;
    Ok(entry)
}

fn remove(path: &Path) -> Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
    let removed = if meta.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_made_once() {
        let root = tempfile::tempdir().unwrap();
        let mut made = 0;
        for _ in 0..2 {
            let path = entry_in(root.path(), "thing", b"key", |path| {
                made += 1;
                Ok(fs::write(path, "content")?)
            });
            assert_eq!(fs::read_to_string(path.unwrap()).unwrap(), "content");
        }
        assert_eq!(made, 1);
    }

    #[test]
    fn another_key_is_another_entry() {
        let root = tempfile::tempdir().unwrap();
        let make =
            |key: &[u8]| entry_in(root.path(), "thing", key, |path| Ok(fs::write(path, key)?)).unwrap();
        assert_ne!(make(b"one"), make(b"two"));
    }

    #[test]
    fn what_failed_half_way_is_not_an_entry() {
        let root = tempfile::tempdir().unwrap();
        let failed = entry_in(root.path(), "tree", b"key", |path| {
            fs::create_dir(path)?;
            fs::write(path.join("half"), "")?;
            Err(anyhow!("disk full"))
        });
        assert!(failed.is_err());
        let made = entry_in(root.path(), "tree", b"key", |path| Ok(fs::create_dir(path)?)).unwrap();
        assert_eq!(fs::read_dir(made).unwrap().count(), 0);
    }
}
