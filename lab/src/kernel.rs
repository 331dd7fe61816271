//! Takes the uncompressed kernel out of a distribution's `vmlinuz`.
//!
//! QEMU boots such an ELF file through its PVH entry point, and the emulated processor does not spend seconds on
//! unpacking. Source: Documentation/arch/x86/boot.rst (`setup_sects`, `payload_offset`, `payload_length`).

use crate::{cache, foreign};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The kernel of a root tree.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// The distribution's file.
    pub image: PathBuf,
    /// The uncompressed ELF file.
    pub vmlinux: PathBuf,
}

/// The newest kernel of `tree` whose release ends in `flavour` (`-amd64`, or `-cloud-amd64` for small guests).
pub fn of_tree(tree: &Path, flavour: &str) -> Result<Kernel> {
    let release = newest(tree, flavour)?;
    let image = tree.join(format!("boot/vmlinuz-{release}"));
    let packed = fs::read(&image).with_context(|| format!("cannot read {}", image.display()))?;
    let vmlinux = cache::entry("vmlinux", cache::hash(&packed), |path| {
        let elf = unpack(tree, payload(&packed)?)?;
        ensure!(elf.starts_with(b"\x7fELF"), "{} does not hold an ELF kernel", image.display());
        Ok(fs::write(path, elf)?)
    })?;
    Ok(Kernel { release, image, vmlinux })
}

fn newest(tree: &Path, flavour: &str) -> Result<String> {
    let boot = tree.join("boot");
    let mut releases: Vec<String> = fs::read_dir(&boot)
        .with_context(|| format!("cannot read {}", boot.display()))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("vmlinuz-").map(str::to_owned))
        .filter(|release| {
            release.ends_with(flavour) && (flavour.contains("cloud") || !release.contains("cloud"))
        })
        .collect();
    releases.sort();
    releases.pop().with_context(|| format!("no kernel of flavour {flavour} in {}", boot.display()))
}

/// The compressed kernel inside a bzImage, without the uncompressed length that the build appends (4 bytes).
fn payload(image: &[u8]) -> Result<&[u8]> {
    let word = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("shorter than its own header")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "not a bzImage: no HdrS");
    let sectors = usize::from(*image.get(0x1f1).context("shorter than its own header")?);
    let start = (sectors + 1) * 512 + word(0x248)?;
    let length = word(0x24c)?.checked_sub(4).context("its payload is empty")?;
    image.get(start..start + length).context("its payload lies outside the file")
}

fn unpack(tree: &Path, payload: &[u8]) -> Result<Vec<u8>> {
    let (program, arguments): (&str, &[&str]) = match payload {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => ("usr/bin/xz", &["-dc", "--single-stream"]),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("usr/bin/zstd", &["-dcq"]),
        [0x02, 0x21, 0x4c, 0x18, ..] => ("usr/bin/lz4", &["-dcq"]),
        [0x1f, 0x8b, ..] => ("usr/bin/gzip", &["-dc"]),
        [0x7f, b'E', b'L', b'F', ..] => return Ok(payload.to_vec()),
        _ => bail!("the kernel is packed in a way the lab does not know: {:02x?}", payload.get(..4)),
    };
    // A bare tree need not have the program; then this machine's own is tried.
    let mut command = if tree.join(program).exists() {
        foreign::command(tree, program)
    } else {
        std::process::Command::new(program.trim_start_matches("usr/bin/"))
    };
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {program} to unpack the kernel"))?;
    let mut input = child.stdin.take().context("no pipe")?;
    let packed = payload.to_vec();
    let feeder = std::thread::spawn(move || input.write_all(&packed));
    let output = child.wait_with_output()?;
    let _ = feeder.join();
    ensure!(!output.stdout.is_empty(), "{program} unpacked nothing ({})", output.status);
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_found_by_the_header() {
        let mut image = vec![0; 0x1000];
        image[0x1f1] = 3;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&0x10_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&12_u32.to_le_bytes());
        image[0x810..0x818].copy_from_slice(b"contents");
        assert_eq!(payload(&image).unwrap(), b"contents");
    }

    #[test]
    fn what_is_not_a_kernel_is_refused() {
        assert!(payload(b"").is_err());
        assert!(payload(&[0; 0x300]).is_err());
    }
}
