//! The small host: the distribution's kernel with an initramfs of busybox, pciutils and kmod. It boots in seconds,
//! forgets everything when it ends, and has the same kernel, modules, IOMMU and cards as the full one.
//!
//! The initramfs is put together of up to three archives that the kernel unpacks one after another: the base (from
//! the distribution, cached), the kit for guests inside the host (cached, optional), and what changes with every
//! build: the first process, the agent, gpuferry and the case's own files.

use crate::binaries::Binaries;
use crate::cpio::Archive;
use crate::kernel::{self, Kernel};
use crate::{cache, foreign, modules, nested, nvidia, tree};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Raise it when the content of the base archive changes for the same tree.
const VERSION: &str = "2";

/// Programs of the distribution; everything else is busybox.
const PROGRAMS: [(&str, &str); 4] = [
    ("usr/bin/lspci", "lspci"),
    ("usr/bin/setpci", "setpci"),
    ("usr/bin/kmod", "kmod"),
    ("usr/bin/bash", "bash"),
];

/// Scripts of the distribution; bash is there for them.
const SCRIPTS: [&str; 1] = ["usr/sbin/driverctl"];

/// Names that kmod is called by.
const KMOD_NAMES: [&str; 6] = ["modprobe", "insmod", "rmmod", "lsmod", "modinfo", "depmod"];

const INIT: &str = include_str!("../assets/small-init.sh");

/// What a small host is booted from.
#[derive(Debug, Clone)]
pub struct Small {
    /// The distribution's kernel.
    pub kernel: Kernel,
    /// The part of the initramfs that is the same for every case.
    pub base: PathBuf,
}

/// A file that a case wants to find in its small host.
#[derive(Debug, Clone)]
pub struct Extra {
    /// Path in the host.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Content.
    pub content: Vec<u8>,
}

/// Kernel and base archive, made when they are not in the cache.
pub fn small() -> Result<Small> {
    let (tree, kernel) = kernel()?;
    let key = format!("{VERSION}\n{}\n{}\n{:?}", tree.display(), kernel.release, modules::WANTED);
    let base = cache::entry("small", key, |path| write_base(&tree, &kernel.release, &[], path))?;
    Ok(Small { kernel, base })
}

/// The same with a driver for the look-alike card, see [`nvidia`].
pub fn small_with_nvidia() -> Result<Small> {
    let (tree, kernel) = kernel()?;
    let more = nvidia::modules(&kernel.release)?;
    let key = format!("{VERSION}\n{}\n{}\n{:?}\n{more:?}", tree.display(), kernel.release, modules::WANTED);
    let base = cache::entry("small-nvidia", key, |path| write_base(&tree, &kernel.release, &more, path))?;
    Ok(Small { kernel, base })
}

fn kernel() -> Result<(PathBuf, Kernel)> {
    let tree = tree::host()?;
    let kernel = kernel::of_tree(&tree, "-amd64")?;
    Ok((tree, kernel))
}

/// Writes the whole initramfs to `path`.
pub fn initramfs(
    path: &Path,
    small: &Small,
    binaries: &Binaries,
    with_guest: bool,
    extra: &[Extra],
) -> Result<()> {
    let mut out = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut append = |part: &Path| -> Result<()> {
        let mut part = File::open(part).with_context(|| format!("cannot open {}", part.display()))?;
        io::copy(&mut part, &mut out)?;
        Ok(())
    };
    append(&small.base)?;
    if with_guest {
        append(&nested::kit()?)?;
    }
    let mut archive = Archive::new(BufWriter::new(out));
    archive.file("init", 0o755, INIT.as_bytes())?;
    archive.copy("usr/bin/lab-agent", &binaries.agent)?;
    archive.copy("usr/bin/gpuferry", &binaries.gpuferry)?;
    for file in extra {
        archive.file(file.path.trim_start_matches('/'), file.mode, &file.content)?;
    }
    archive.finish()?;
    Ok(())
}

fn write_base(tree: &Path, release: &str, more: &[PathBuf], path: &Path) -> Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(path)?));
    for folder in
        ["usr/bin", "usr/lib64", "proc", "sys", "dev", "tmp", "run", "root", "lab", "var/lib", "var/log"]
    {
        archive.folder(folder)?;
    }
    for (name, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/bin"),
        ("usr/sbin", "bin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
    ] {
        archive.link(name, target)?;
    }
    archive.device("dev/console", (5, 1))?;
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
    archive.file("etc/group", 0o644, b"root:x:0:\n")?;
    archive.file("etc/os-release", 0o644, b"ID=lab\nNAME=lab\nPRETTY_NAME=\"the lab's small host\"\n")?;
    archive.copy("usr/share/misc/pci.ids", &tree.join("usr/share/misc/pci.ids"))?;
    programs(&mut archive, tree, &PROGRAMS.map(|(path, _)| path))?;
    for script in SCRIPTS {
        // /usr/sbin is a link to /usr/bin here.
        archive.copy(script.replace("sbin", "bin"), &tree.join(script))?;
    }
    for name in KMOD_NAMES {
        archive.link(format!("usr/bin/{name}"), "kmod")?;
    }
    busybox(&mut archive, tree)?;
    modules::add(&mut archive, tree, release, more)?;
    if !more.is_empty() {
        archive.file(nvidia::SETTINGS.0, 0o644, nvidia::SETTINGS.1.as_bytes())?;
    }
    archive.finish()?;
    Ok(())
}

/// Busybox under all its names, except those that a real program has.
fn busybox<W: io::Write>(archive: &mut Archive<W>, tree: &Path) -> Result<()> {
    let program = tree.join("usr/bin/busybox");
    archive.copy("usr/bin/busybox", &program)?;
    let output = Command::new(&program).arg("--list").output().context("cannot run the tree's busybox")?;
    ensure!(output.status.success(), "busybox lists no names");
    for name in String::from_utf8_lossy(&output.stdout).split_whitespace() {
        let taken = KMOD_NAMES.contains(&name) || PROGRAMS.iter().any(|(_, program)| *program == name);
        if !taken && name != "busybox" {
            archive.link(format!("usr/bin/{name}"), "busybox")?;
        }
    }
    Ok(())
}

/// Programs of the tree with the libraries they need.
pub fn programs<W: io::Write>(archive: &mut Archive<W>, tree: &Path, paths: &[&str]) -> Result<()> {
    let mut libraries = std::collections::BTreeSet::new();
    for path in paths {
        archive.copy(
            path,
            &fs::canonicalize(tree.join(path)).with_context(|| format!("no {path} in the tree"))?,
        )?;
        libraries.extend(foreign::libraries(tree, Path::new(path))?);
    }
    for library in libraries {
        archive.copy(&library, &fs::canonicalize(tree.join(&library))?)?;
    }
    Ok(())
}
