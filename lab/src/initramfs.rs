//! What is in an initramfs, read on this machine: natively in a second, where the emulated host needs many.
//!
//! An image is one or more `newc` archives, one after the other, padded with zeroes; the first ones (microcode) are
//! not compressed, the last one is (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel tree).

use crate::cache;
use crate::host::{COMMAND, Host, must};
use crate::protocol::End;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// A file, folder or link of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Type and permission bits, as stat(2) has them.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Content; a link's target.
    pub content: Vec<u8>,
}

/// The members by their paths. Times, inode numbers and the order of the archive are not kept: those are another
/// each time an image is made.
pub type Members = BTreeMap<String, Member>;

impl Host {
    /// What is in the image at `path` of a full host.
    #[track_caller]
    pub fn initramfs(&self, path: &str) -> Members {
        must(self.try_initramfs(path))
    }

    /// The same, with the error handed back.
    pub fn try_initramfs(&self, path: &str) -> Result<Members> {
        const NAME: &str = "initramfs";
        let copied = self.try_run(&format!("cp {path} /lab/{NAME}"), b"", 5 * COMMAND)?;
        ensure!(copied.end == End::Exit(0), "cannot copy {path}: {}", copied.stderr());
        let file = self.share().join(NAME);
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        std::fs::remove_file(&file)?;
        members(&bytes).with_context(|| format!("the image {path}"))
    }
}

/// A line for each member: path, mode, owner, length and checksum.
pub fn listed(members: &Members) -> String {
    let mut text = String::new();
    for (path, Member { mode, owner: (user, group), content }) in members {
        let sum = cache::hash(content);
        let _ = writeln!(text, "{path} {mode:o} {user}:{group} {} {sum}", content.len());
    }
    text
}

/// All members of all archives of an image.
pub fn members(image: &[u8]) -> Result<Members> {
    let mut found = Members::new();
    let rest = archive(image, &mut found)?;
    match rest {
        [] => {}
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let plain = unpacked("zstd", rest)?;
            ensure!(archive(&plain, &mut found)?.is_empty(), "something follows the compressed archive");
        }
        other => bail!("it is packed in a way the lab does not know: {:02x?}", other.get(..6)),
    }
    ensure!(!found.is_empty(), "it is empty");
    Ok(found)
}

/// Reads uncompressed archives; gives what follows them.
fn archive<'i>(mut image: &'i [u8], found: &mut Members) -> Result<&'i [u8]> {
    loop {
        let zeroes = image.iter().take_while(|byte| **byte == 0).count();
        image = &image[zeroes..];
        if !image.starts_with(b"070701") {
            return Ok(image);
        }
        let field = |number: usize| -> Result<u32> {
            let at = 6 + 8 * number;
            let digits = std::str::from_utf8(image.get(at..at + 8).context("a header breaks off")?)?;
            Ok(u32::from_str_radix(digits, 16)?)
        };
        let (mode, user, group) = (field(1)?, field(2)?, field(3)?);
        let (size, name) = (field(6)? as usize, field(11)? as usize);
        let start = (110 + name).next_multiple_of(4);
        let path = image.get(110..(110 + name).saturating_sub(1)).context("a name breaks off")?;
        let path = String::from_utf8_lossy(path).into_owned();
        let content = image.get(start..start + size).context("a file breaks off")?.to_vec();
        image = image.get((start + size).next_multiple_of(4)..).unwrap_or_default();
        if path != "TRAILER!!!" {
            found.insert(path, Member { mode, owner: (user, group), content });
        }
    }
}

fn unpacked(program: &str, packed: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(program)
        .arg("-dcq")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let mut input = child.stdin.take().context("no pipe")?;
    let packed = packed.to_vec();
    // Zeroes may follow the frame: the program complains of them, and has unpacked all there is.
    let feeder = std::thread::spawn(move || drop(input.write_all(&packed)));
    let output = child.wait_with_output()?;
    let _ = feeder.join();
    ensure!(!output.stdout.is_empty(), "{program} unpacked nothing ({})", output.status);
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio::Archive;

    fn image(name: &str, content: &[u8]) -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.folder("etc").unwrap();
        archive.file(name, 0o755, content).unwrap();
        archive.link("bin", "usr/bin").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn members_of_several_archives_are_found() {
        let mut both = image("etc/early", b"microcode");
        both.resize(both.len().next_multiple_of(512), 0);
        let late = image("etc/late", b"script");
        let mut zstd =
            Command::new("zstd").args(["-cq"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        zstd.stdin.take().unwrap().write_all(&late).unwrap();
        both.extend(zstd.wait_with_output().unwrap().stdout);
        let found = members(&both).unwrap();
        let early = Member { mode: 0o100_755, owner: (0, 0), content: b"microcode".to_vec() };
        assert_eq!(found["etc/early"], early);
        assert_eq!(found["etc/late"].content, b"script");
        assert_eq!(found["bin"].content, b"usr/bin");
        assert!(listed(&found).contains("etc/late 100755 0:0 6 "), "{}", listed(&found));
    }

    #[test]
    fn what_breaks_off_is_an_error() {
        let whole = image("etc/file", b"some content");
        assert!(members(&whole).is_ok());
        for length in [0, 6, 100, 200] {
            assert!(members(&whole[..length]).is_err(), "{length}");
        }
        assert!(members(b"\x1f\x8b not known").is_err());
    }
}
