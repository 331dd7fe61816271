//! A driver for the look-alike card: four kernel modules of the lab's own with the names of NVIDIA's.
//!
//! They give the real driver's shape and nothing of its work: `nvidia` (/dev/nvidia0, /dev/nvidiactl,
//! /proc/driver/nvidia, an I2C bus, a remove that waits until nobody uses the card), `nvidia_modeset` and
//! `nvidia_uvm` above it, `nvidia_drm` above those with a frame buffer that the console sits on. While a console or a process has something
//! of a module open, or a module above it is there, it cannot be unloaded.
//!
//! Built for the small host's own kernel, in a copy of the tree that has its headers: entering it needs root, as
//! making the host's tree does.

use crate::{cache, tree};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The modules as they are loaded, the lowest first.
const MODULES: [&str; 4] = ["nvidia", "nvidia-modeset", "nvidia-uvm", "nvidia-drm"];

const SOURCES: [(&str, &str); 6] = [
    ("Kbuild", include_str!("../modules/Kbuild")),
    ("nvidia.h", include_str!("../modules/nvidia.h")),
    ("nvidia.c", include_str!("../modules/nvidia.c")),
    ("nvidia-modeset.c", include_str!("../modules/nvidia-modeset.c")),
    ("nvidia-uvm.c", include_str!("../modules/nvidia-uvm.c")),
    ("nvidia-drm.c", include_str!("../modules/nvidia-drm.c")),
];

/// What distributions ship beside the driver: a card that is found brings them all.
pub(crate) const SETTINGS: (&str, &str) =
    ("etc/modprobe.d/nvidia.conf", "softdep nvidia post: nvidia-uvm nvidia-drm\n");

/// The built modules, made when they are not in the cache.
pub fn modules(release: &str) -> Result<Vec<PathBuf>> {
    let headers = tree::headers(release)?;
    let key = format!("{}\n{release}\n{SOURCES:?}", headers.display());
    let built = cache::entry("nvidia-modules", key, |part| {
        let done = tree::progress("the look-alike card's driver", "20 s")?;
        build(&headers, release, part)?;
        done.say()
    })?;
    Ok(MODULES.map(|module| built.join(format!("{module}.ko"))).into())
}

fn build(headers: &Path, release: &str, part: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("kernel modules are built inside a Debian tree, which only root can enter");
    }
    fs::create_dir(part)?;
    let root = part.join("root");
    // Hard links: the build makes files, it changes none.
    let copied = Command::new("cp").arg("-al").arg(headers).arg(&root).status().context("cannot run cp")?;
    ensure!(copied.success(), "cp cannot link {} to {}", headers.display(), root.display());
    // The packages are unpacked only: what they choose when they are installed is chosen here.
    let _ = symlink("mawk", root.join("usr/bin/awk"));
    let folder = root.join("build");
    fs::create_dir(&folder)?;
    for (name, text) in SOURCES {
        fs::write(folder.join(name), text)?;
    }
    let output = Command::new("chroot")
        .arg(&root)
        .args(["/usr/bin/env", "-i", "PATH=/usr/bin", "LC_ALL=C", "/usr/bin/make", "-C"])
        .arg(format!("/usr/src/linux-headers-{release}"))
        .args(["M=/build", "CONFIG_DEBUG_INFO=", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"])
        .stdin(Stdio::null())
        .output()
        .context("cannot run chroot")?;
    ensure!(
        output.status.success(),
        "the modules do not compile:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    for module in MODULES {
        let name = format!("{module}.ko");
        fs::rename(folder.join(&name), part.join(&name)).with_context(|| format!("no {name} was built"))?;
    }
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))
}
