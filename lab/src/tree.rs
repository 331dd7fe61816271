//! The distribution trees: Debian unpacked into a folder by mmdebstrap, from the mirrors this machine uses itself.
//!
//! [`tools`] holds the QEMU that emulates the host and the programs that make its disk; they run on any
//! distribution through the tree's own dynamic loader, and the tree needs no privileges to build. [`host`] is the
//! root of the emulated host and keeps its owners and modes, so it is built as root. Nothing here writes outside
//! the cache, and no tree is changed once it is built.

pub mod apt;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::cache;

/// The Debian release the emulated host runs: the current stable.
pub const SUITE: &str = "trixie";

/// Bumped when something below changes that the keys' other parts do not show: for [`tools`], for [`host`].
const VERSIONS: (&str, &str) = ("2", "1");

/// QEMU's library folder below a tree; its loader is there too.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// QEMU 10.1 or later is wanted for `vfio-user-pci`; [`SUITE`] itself has 10.0.
const TOOLS: &[&str] = &[
    "qemu-system-x86",
    "qemu-system-data",
    "qemu-system-common",
    "qemu-utils",
    "seabios",
    "ovmf",
    "libc-bin",
    "e2fsprogs",
    "fdisk",
    "dosfstools",
    "mtools",
    "grub-common",
    "grub-pc-bin",
    "grub-efi-amd64-bin",
];

/// What the emulated host has installed.
const HOST: &[&str] = &[
    "linux-image-amd64",
    "initramfs-tools",
    "kmod",
    "systemd-sysv",
    "libpam-systemd",
    "udev",
    "dbus",
    "login",
    "grub2-common",
    "grub-pc-bin",
    "grub-efi-amd64-bin",
    "pciutils",
    "driverctl",
    "qemu-system-x86",
    "qemu-utils",
    "seabios",
    "ovmf",
    "busybox-static",
    "iproute2",
    "procps",
    "util-linux",
    "e2fsprogs",
    "zstd",
    "less",
    "openssh-server",
];

/// Never read by a machine, and half the size of some packages.
const EXCLUDED: &[&str] = &["man", "doc", "doc-base", "locale", "info", "lintian", "bug"];

/// The initramfs made while unpacking: a list, since `MODULES=dep` needs the running host and `most` takes long.
///
/// `modules.d` is initramfs-tools' place for packages; `/etc/initramfs-tools/modules` stays as Debian ships it.
const INITRAMFS: &str = r#"set -eu
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
echo MODULES=list > "$1/etc/initramfs-tools/conf.d/driver-policy"
printf '%s\n' nvme ext4 virtio_pci virtio_blk > "$1/usr/share/initramfs-tools/modules.d/lab"
"#;

/// What mmdebstrap and the building machine left in the tree.
const CLEANUP: &str = r#"set -eu
rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$1/etc/resolv.conf"
rm -rf "$1/var/lib/apt/lists" "$1/var/cache/apt" "$1/var/log/apt"
find "$1/var/log" -type f -delete
: > "$1/etc/machine-id"
: > "$1/etc/apt/sources.list"
"#;

/// The tree with the programs that run on the building machine.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// Where the tree lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A program of the tree, by its path inside (`usr/bin/mcopy`), run through the tree's own loader.
    pub fn program(&self, path: &str) -> Command {
        let libraries = self.root.join(LIBRARIES);
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(libraries);
        command.arg("--argv0").arg(path.rsplit('/').next().unwrap_or(path));
        command.arg(self.root.join(path));
        command
    }

    /// `qemu-system-x86_64`; the machine's own QEMU, its modules and its firmware play no part.
    pub fn qemu(&self) -> Command {
        self.program("usr/bin/qemu-system-x86_64")
    }

    /// `qemu-img`.
    pub fn qemu_img(&self) -> Command {
        self.program("usr/bin/qemu-img")
    }

    /// UEFI firmware, read-only part.
    pub fn ovmf_code(&self) -> PathBuf {
        self.root.join("usr/share/OVMF/OVMF_CODE_4M.fd")
    }

    /// UEFI firmware, the variables as they come from the factory: copy before use.
    pub fn ovmf_vars(&self) -> PathBuf {
        self.root.join("usr/share/OVMF/OVMF_VARS_4M.fd")
    }
}

/// The tree with QEMU for the emulated host; built when missing, which takes some 20 s and no privileges.
///
/// Fails when its QEMU has no `vfio-user-pci`.
pub fn tools() -> Result<Tools> {
    let backports = format!("{SUITE}-backports");
    let packages = TOOLS.join(",");
    let root = cache::entry("tools", [VERSIONS.0, SUITE, &packages].join("\n"), |part| {
        let done = progress("tools", "20 s")?;
        fs::create_dir(part)?;
        let archive = archive()?;
        let tree = part.join("root");
        let mut bootstrap = mmdebstrap(&archive)?;
        // Unpacked only: no maintainer script runs, the programs are run from outside.
        let mode = if is_root() { "root" } else { "chrootless" };
        bootstrap.args([&format!("--mode={mode}"), "--variant=extract", &format!("--include={packages}")]);
        bootstrap.args([&format!("--aptopt=APT::Default-Release \"{backports}\""), SUITE]);
        bootstrap.arg(&tree).arg(sources(&archive, part, &[SUITE, &backports])?);
        logged(&mut bootstrap, "mmdebstrap", &part.join("log"))?;
        // QEMU's util/cutils.c, get_relocated_path(): beside the running file, which is the loader, a folder of
        // this name stands for `/`. Without it a module that this tree lacks is taken from the machine's own
        // QEMU, and a wrong one ends the program.
        let bundle = tree.join(LIBRARIES).join("qemu-bundle");
        fs::create_dir(&bundle)?;
        symlink("../../..", bundle.join("usr"))?;
        let found = Tools { root: tree };
        let devices =
            found.qemu().args(["-device", "help"]).output().context("the tree's QEMU does not start")?;
        if !String::from_utf8_lossy(&devices.stdout).contains("\"vfio-user-pci\"") {
            bail!(
                "QEMU from {backports} has no vfio-user-pci (10.1 or later is wanted)\n{}",
                String::from_utf8_lossy(&devices.stderr)
            );
        }
        done.say()
    })?;
    Ok(Tools { root: root.join("root") })
}

/// The root tree of the emulated host: Debian with its kernel, GRUB, initramfs-tools, systemd and QEMU, 450 MB.
///
/// Built when missing, which takes a minute and root. Must not be changed: copy what you change.
pub fn host() -> Result<PathBuf> {
    host_tree("host", &[])
}

/// A tree with Debian's kernel for clouds, for guests in the emulated host: it is up in half the time. Unpacked only.
pub fn guest() -> Result<PathBuf> {
    unpacked("guest", "20 s", "linux-image-cloud-amd64")
}

/// A tree with what builds modules for the kernel `release`: its headers, its compiler, make. Unpacked only; to be
/// copied, and entered, by who builds.
pub fn headers(release: &str) -> Result<PathBuf> {
    const PROGRAMS: &str = "make,bash,dash,coreutils,findutils,grep,sed,mawk,libc-bin";
    unpacked("headers", "30 s", &format!("linux-headers-{release},{PROGRAMS}")).with_context(|| {
        format!(
            "a mirror has the headers of its newest kernel only, and the lab's is {release}\n  \
             hint: `lab doctor` names the cache; without host-* in it, the host is made anew"
        )
    })
}

/// A tree of packages whose scripts did not run.
fn unpacked(name: &'static str, usually: &str, packages: &str) -> Result<PathBuf> {
    let root = cache::entry(name, [VERSIONS.0, SUITE, packages].join("\n"), |part| {
        let done = progress(name, usually)?;
        fs::create_dir(part)?;
        let archive = archive()?;
        let mut bootstrap = mmdebstrap(&archive)?;
        let mode = if is_root() { "root" } else { "chrootless" };
        bootstrap.args([
            &format!("--mode={mode}"),
            "--variant=extract",
            &format!("--include={packages}"),
            SUITE,
        ]);
        bootstrap.arg(part.join("root")).arg(sources(
            &archive,
            part,
            &[SUITE, &format!("{SUITE}-security")],
        )?);
        logged(&mut bootstrap, "mmdebstrap", &part.join("log"))?;
        done.say()
    })?;
    Ok(root.join("root"))
}

/// [`host`] with a second kernel: Debian's for clouds, without 9p, sound and most of DRM.
pub fn host_two_kernels() -> Result<PathBuf> {
    host_tree("host-two-kernels", &["linux-image-cloud-amd64"])
}

const DESKTOP: &[&str] = &[
    "xdm",
    "xserver-xorg-core",
    // Draws on the frame buffer of the look-alike card's driver, which is no DRM driver.
    "xserver-xorg-video-fbdev",
    "x11-xserver-utils",
    "libvirt-daemon-system",
    "libvirt-daemon-driver-qemu",
    "libvirt-clients",
];

/// [`host`] with a display manager, an X server and libvirt: what a desktop that lends its only card has.
pub fn host_desktop() -> Result<PathBuf> {
    // The display manager is there and starts when a case says so: before the cards' drivers are loaded, as on this
    // slow a machine, its server finds no screen and gives up.
    host_tree_with("host-desktop", DESKTOP, &[TEXT_MODE])
}

/// [`host_desktop`] with AppArmor, under whose profiles libvirt's daemon and its guests run.
pub fn host_apparmor() -> Result<PathBuf> {
    host_tree_with("host-apparmor", &[DESKTOP, &["apparmor"]].concat(), &[TEXT_MODE])
}

/// systemd.special(7): what is booted to.
const TEXT_MODE: &str =
    "ln -sf /usr/lib/systemd/system/multi-user.target \"$1/etc/systemd/system/default.target\"";

fn host_tree(name: &'static str, more: &[&str]) -> Result<PathBuf> {
    host_tree_with(name, more, &[])
}

fn host_tree_with(name: &'static str, more: &[&str], hooks: &[&str]) -> Result<PathBuf> {
    let packages = [HOST, more].concat().join(",");
    let mut key = vec![VERSIONS.1, SUITE, &packages, INITRAMFS, CLEANUP];
    key.extend(hooks);
    let root = cache::entry(name, key.join("\n"), |part| {
        let done = progress(name, "a minute")?;
        if !is_root() {
            bail!(
                "the emulated host's tree keeps Debian's owners and modes, which only root can set\n  \
                 hint: sudo --preserve-env=HOME,XDG_CACHE_HOME,PATH and the same command builds it once"
            );
        }
        fs::create_dir(part)?;
        let archive = archive()?;
        let mut bootstrap = mmdebstrap(&archive)?;
        bootstrap.args(["--mode=root", "--variant=minbase", &format!("--include={packages}")]);
        bootstrap.arg("--dpkgopt=force-unsafe-io");
        for share in EXCLUDED {
            bootstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{share}/*"));
        }
        bootstrap.arg(format!("--essential-hook={INITRAMFS}")).arg(format!("--customize-hook={CLEANUP}"));
        bootstrap.args(hooks.iter().map(|hook| format!("--customize-hook={hook}")));
        bootstrap.arg(SUITE).arg(part.join("root"));
        bootstrap.arg(sources(&archive, part, &[SUITE, &format!("{SUITE}-security")])?);
        logged(&mut bootstrap, "mmdebstrap", &part.join("log"))?;
        done.say()
    })?;
    Ok(root.join("root"))
}

/// A long step under way.
pub(crate) struct Progress {
    what: &'static str,
    start: Instant,
}

/// Says on standard error that `what` is being built and how long that usually takes.
pub(crate) fn progress(what: &'static str, usually: &str) -> Result<Progress> {
    writeln!(std::io::stderr(), "lab: building {what}, once, in about {usually}")?;
    Ok(Progress { what, start: Instant::now() })
}

impl Progress {
    /// Says that it is done.
    pub(crate) fn say(&self) -> Result<()> {
        let seconds = self.start.elapsed().as_secs();
        writeln!(std::io::stderr(), "lab: {} built in {seconds} s", self.what)?;
        Ok(())
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Debian's archive as this machine's apt knows it.
fn archive() -> Result<apt::Archive> {
    if let Some(uri) = std::env::var_os("GPUFERRY_LAB_MIRROR") {
        let uri = uri.to_string_lossy().into_owned();
        let main = apt::Entry { uris: vec![uri], ..apt::Entry::default() };
        return Ok(apt::Archive { main, security: None });
    }
    let mut entries = Vec::new();
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(folder) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(folder.flatten().map(|file| file.path()));
    }
    files.sort();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|e| e.to_str()) {
            Some("list") => entries.extend(apt::parse_list(&text)),
            Some("sources") => entries.extend(apt::parse_deb822(&text)),
            _ => {}
        }
    }
    apt::debian(&entries).context(
        "no entry for Debian's archive in /etc/apt/sources.list or /etc/apt/sources.list.d\n  \
         hint: GPUFERRY_LAB_MIRROR=URI names a mirror of Debian",
    )
}

/// Writes the sources into `part` and returns the file: an address may hold a password, so no argument shows it.
fn sources(archive: &apt::Archive, part: &Path, suites: &[&str]) -> Result<PathBuf> {
    let file = part.join("sources.list");
    fs::write(&file, archive.sources(suites)).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// mmdebstrap with what all trees share: quiet apt, this machine's way to its mirrors.
fn mmdebstrap(archive: &apt::Archive) -> Result<Command> {
    const MMDEBSTRAP: &str = "/usr/bin/mmdebstrap";
    if !Path::new(MMDEBSTRAP).exists() {
        bail!("{MMDEBSTRAP} is not installed\n  hint: scripts/install-packages installs it");
    }
    // A mirror that hangs must not hang the lab.
    let mut command = Command::new("/usr/bin/timeout");
    command.args(["--kill-after=10", "1800", MMDEBSTRAP, "--format=directory"]);
    command.args(["--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\""]);
    let dump = Command::new("/usr/bin/apt-config").arg("dump").output().context("cannot run apt-config")?;
    for line in apt::acquire(&String::from_utf8_lossy(&dump.stdout)) {
        command.arg(format!("--aptopt={line}"));
    }
    if archive.is_local() {
        // mmdebstrap(1), HOOKS: packages of a file: mirror are not copied, so the chroot must see them.
        command.arg("--hook-dir=/usr/share/mmdebstrap/hooks/file-mirror-automount");
    }
    command.env("LC_ALL", "C.UTF-8").env_remove("TMPDIR");
    Ok(command)
}

/// Runs `command`, called `name`, with its output in `log`; an error quotes the log's end.
pub(crate) fn logged(command: &mut Command, name: &str, log: &Path) -> Result<()> {
    let out = fs::File::options().create(true).append(true).open(log)?;
    let status = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .status()
        .with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        let text = String::from_utf8_lossy(&fs::read(log)?).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(25)..).unwrap_or_default().join("\n");
        bail!("{name} ended with {status}; the end of {}:\n{tail}", log.display());
    }
    Ok(())
}
