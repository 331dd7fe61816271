//! The kit for a guest inside the small host: QEMU with its libraries and firmware at the places the distribution
//! has them, and a guest (`/guest/vmlinux`, `/guest/initrd`) that prints the PCI devices it was given.
//!
//! `/guest/qemu info ADDRESS…` prints what QEMU sees of the devices (seconds); `/guest/qemu hold ADDRESS…` keeps them
//! until it is killed; `/guest/qemu run ADDRESS…` boots Linux with them, which says `GUEST-PCI 0000:00:05.0 10de:2204`
//! per device and powers off. That one runs emulated inside the emulation: minutes, and on a busy machine too
//! many for a case.

use crate::cpio::Archive;
use crate::small::programs;
use crate::{cache, kernel, tree};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Raise it when the content of the kit changes for the same tree.
const VERSION: &str = "1";

const GUEST_INIT: &str = include_str!("../assets/guest-init.sh");
/// Starts QEMU with the devices it is told, see the file's own head.
const GUEST_QEMU: &str = include_str!("../assets/guest.sh");
const GUEST_NAMES: [&str; 7] = ["sh", "mount", "cat", "cut", "echo", "poweroff", "ls"];
const FIRMWARE: [&str; 7] = [
    "usr/share/seabios/bios-256k.bin",
    "usr/share/seabios/vgabios-stdvga.bin",
    "usr/share/seabios/vgabios.bin",
    "usr/share/qemu/kvmvapic.bin",
    "usr/share/qemu/linuxboot_dma.bin",
    "usr/share/qemu/linuxboot.bin",
    "usr/share/qemu/pvh.bin",
];
const QEMU_MODULES: &str = "usr/lib/x86_64-linux-gnu/qemu";

/// A guest's system.
#[derive(Debug)]
struct Guest {
    /// Its kernel.
    vmlinux: PathBuf,
    /// Its initramfs; it prints the guest's PCI devices, then powers off.
    initrd: PathBuf,
}

/// The guest's two files.
fn guest() -> Result<Guest> {
    let tree = tree::host()?;
    let key = format!("{VERSION}\n{}\n{GUEST_INIT}", tree.display());
    let initrd = cache::entry("guest-initrd", key, |path| Ok(fs::write(path, guest_initrd(&tree)?)?))?;
    Ok(Guest { vmlinux: kernel::of_tree(&tree::guest()?, "-cloud-amd64")?.vmlinux, initrd })
}

/// The archive with the kit.
pub fn kit() -> Result<PathBuf> {
    let (tree, guest) = (tree::host()?, guest()?);
    let key = format!("{VERSION}\n{}\n{guest:?}\n{GUEST_QEMU}", tree.display());
    cache::entry("guest-kit", key, |path| write_kit(&tree, &guest, path))
}

fn write_kit(tree: &Path, guest: &Guest, path: &Path) -> Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(path)?));
    programs(&mut archive, tree, &["usr/bin/qemu-system-x86_64"])?;
    for file in FIRMWARE {
        // Which of them a QEMU version has and needs differs; one that is missing shows when it is asked for.
        if let Ok(real) = fs::canonicalize(tree.join(file)) {
            archive.copy(file, &real)?;
        }
    }
    // QEMU looks for its accelerators beside its libraries.
    let modules = tree.join(QEMU_MODULES);
    for entry in fs::read_dir(&modules).with_context(|| format!("cannot read {}", modules.display()))? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if text.starts_with("accel-") && text.contains("tcg") {
            archive.copy(Path::new(QEMU_MODULES).join(&name), &modules.join(&name))?;
        }
    }
    archive.file("guest/qemu", 0o755, GUEST_QEMU.as_bytes())?;
    archive.copy("guest/vmlinux", &guest.vmlinux)?;
    archive.copy("guest/initrd", &guest.initrd)?;
    archive.finish()?;
    Ok(())
}

fn guest_initrd(tree: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    for folder in ["proc", "sys", "dev", "usr/bin"] {
        archive.folder(folder)?;
    }
    archive.link("bin", "usr/bin")?;
    archive.device("dev/console", (5, 1))?;
    archive.copy("usr/bin/busybox", &tree.join("usr/bin/busybox"))?;
    for name in GUEST_NAMES {
        archive.link(format!("usr/bin/{name}"), "busybox")?;
    }
    archive.file("init", 0o755, GUEST_INIT.as_bytes())?;
    archive.finish()
}

/// Whether this machine can run programs of the tree at all (it is x86-64 Linux).
pub fn runs_here(tree: &Path) -> bool {
    Command::new(tree.join("usr/bin/busybox")).arg("true").status().is_ok_and(|status| status.success())
}
