//! Writes initramfs archives: the `newc` form of cpio, which the kernel unpacks at boot.
//!
//! Source: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel tree. Several archives may
//! follow one another; later files replace earlier ones. Nothing is compressed: unpacking is slow under emulation.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// An archive being written.
pub struct Archive<W: Write> {
    out: W,
    inode: u32,
    folders: BTreeSet<PathBuf>,
}

/// Type bits of `st_mode` (stat(2), inode(7)).
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub fn new(out: W) -> Self {
        Self { out, inode: 0, folders: BTreeSet::new() }
    }

    /// A folder, and the folders above it.
    pub fn folder(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let mut above = PathBuf::new();
        for part in path.as_ref().components() {
            if let Component::Normal(name) = part {
                above.push(name);
                if self.folders.insert(above.clone()) {
                    self.member(&above.clone(), FOLDER | 0o755, (0, 0), &[])?;
                }
            }
        }
        Ok(())
    }

    /// A plain file with the given permission bits.
    pub fn file(&mut self, path: impl AsRef<Path>, mode: u32, content: &[u8]) -> Result<()> {
        self.above(path.as_ref())?;
        self.member(path.as_ref(), FILE | mode, (0, 0), content)
    }

    /// A copy of a file of this machine, with its permission bits.
    pub fn copy(&mut self, path: impl AsRef<Path>, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        let mode = fs::metadata(from)?.permissions().mode() & 0o7777;
        self.file(path, mode, &content)
    }

    /// A symbolic link.
    pub fn link(&mut self, path: impl AsRef<Path>, target: &str) -> Result<()> {
        self.above(path.as_ref())?;
        self.member(path.as_ref(), LINK | 0o777, (0, 0), target.as_bytes())
    }

    /// A character device (major, minor).
    pub fn device(&mut self, path: impl AsRef<Path>, numbers: (u32, u32)) -> Result<()> {
        self.above(path.as_ref())?;
        self.member(path.as_ref(), CHARACTER_DEVICE | 0o600, numbers, &[])
    }

    /// Ends the archive and hands back what it was written to.
    pub fn finish(mut self) -> Result<W> {
        self.member(Path::new("TRAILER!!!"), 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn above(&mut self, path: &Path) -> Result<()> {
        path.parent().map_or(Ok(()), |above| self.folder(above))
    }

    fn member(&mut self, path: &Path, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        let name = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
        let name = name.trim_start_matches('/');
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is 4 GiB or more"))?;
        self.inode += 1;
        let fields = [
            self.inode,
            mode,
            0, // owner
            0, // group
            1, // links
            0, // time
            size,
            0, // device it is on
            0,
            device.0,
            device.1,
            u32::try_from(name.len() + 1)?,
            0, // checksum, unused in this form
        ];
        let mut head = String::from("070701");
        for field in fields {
            let _ = write!(head, "{field:08x}");
        }
        head += name;
        head.push('\0');
        self.out.write_all(&padded(head.as_bytes()))?;
        self.out.write_all(content)?;
        self.out.write_all(&[0; 3][..padding(content.len())])?;
        Ok(())
    }
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_aligned_and_folders_come_first() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a/b/c", 0o644, b"hello").unwrap();
        archive.link("a/d", "b/c").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let mut names = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |n: usize| {
                let from = at + 6 + 8 * n;
                usize::from_str_radix(std::str::from_utf8(&bytes[from..from + 8]).unwrap(), 16).unwrap()
            };
            let (size, name) = (field(6), field(11));
            names.push(String::from_utf8(bytes[at + 110..at + 109 + name].to_vec()).unwrap());
            at += (110 + name).next_multiple_of(4) + size.next_multiple_of(4);
        }
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/d", "TRAILER!!!"]);
    }
}
