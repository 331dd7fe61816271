//! What this machine lacks for building and running the lab.

use anyhow::{Result, bail};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Programs with the Debian package that has them and what they are for.
const PROGRAMS: [(&str, &str, &str); 6] = [
    ("mmdebstrap", "mmdebstrap", "fetches Debian for the emulated host"),
    ("apt-get", "apt", "knows where this machine gets Debian from"),
    ("xz", "xz-utils", "unpacks kernel modules"),
    ("zstd", "zstd", "unpacks the kernel"),
    ("setpriv", "util-linux", "ends QEMU together with the lab"),
    ("cargo", "cargo", "builds gpuferry for the emulated host"),
];

/// Prints one line per need; fails when one is not met.
pub(crate) fn report() -> Result<()> {
    let mut out = io::stdout();
    let mut missing = Vec::new();
    for (program, package, purpose) in PROGRAMS {
        let found = find(program);
        let state = if found.is_some() { "ok" } else { "missing" };
        writeln!(out, "{state:8} {program:12} {purpose}")?;
        if found.is_none() {
            missing.push(package);
        }
    }
    let root = rustix::process::geteuid().is_root();
    let state = if root { "ok" } else { "missing" };
    writeln!(out, "{state:8} {:12} the host's files belong to its root; needed once, to build", "root")?;
    let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    let speed = if kvm { "will be tried" } else { "not usable: hosts run emulated, five times slower" };
    writeln!(out, "{:8} {:12} {speed}", "", "/dev/kvm")?;
    writeln!(out, "{:8} {:12} {}", "", "cache", lab::cache::root()?.display())?;
    if !missing.is_empty() {
        bail!("some programs are missing\n  hint: apt-get install {}", missing.join(" "));
    }
    if !root {
        bail!("the trees and the disk can only be built by root\n  hint: run `lab build` as root once");
    }
    Ok(())
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|folder| folder.join(program))
        .find(|file| Path::is_file(file))
}
