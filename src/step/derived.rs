//! Files that tools make from others: the boot loader's configuration and every kernel's initramfs.
//!
//! Made by the distribution's own tools, checked by reading what they made, and never put back from a copy. What
//! they have to hold follows from the source files as they are now, so the same check serves applying and undoing.

use super::{image, write};
use crate::{
    edit::grub::{self, EntryKind},
    error::{Error, Result},
    journal::{STATE, record::remove_tree},
    machine::{Finished, MAX_OUTPUT, Machine, Program, Root, wait_until},
    plan::names::{GRUB_CFG, GRUB_DROP_IN, INIT_TOP},
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// A file, or a set of files, that a tool makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum Derived {
    /// The initramfs of one kernel, by initramfs-tools.
    InitramfsTools {
        /// Release of the kernel.
        kernel: String,
    },
    /// `/boot/grub/grub.cfg`, by Debian's grub-mkconfig.
    GrubDebian,
}

/// How long the tools may take. An initramfs with every module takes minutes on slow machines.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// How long to wait for a tool that an earlier, killed gpuferry has left running.
const WAIT_FOR_TOOLS: Duration = Duration::from_secs(15 * 60);

fn tools_lock() -> PathBuf {
    Path::new(STATE).join("tools.lock")
}

fn tools_folder() -> PathBuf {
    Path::new(STATE).join("tmp")
}

/// Waits until no tool that we once started runs any more: it goes on when gpuferry is killed, and would write its
/// files after we had cleaned up.
pub fn wait_for_tools(machine: &dyn Machine) -> Result<()> {
    let lock = tools_lock();
    let mut failed = None;
    let free = wait_until(machine, WAIT_FOR_TOOLS, || match machine.lock(&lock) {
        Ok(held) => held.is_some(),
        Err(error) => {
            failed = Some(error);
            true
        }
    });
    match failed {
        Some(error) => Err(Error::io("lock", &lock, &error)),
        None if free => Ok(()),
        None => Err(Error::failed("a tool that gpuferry started earlier still runs (update-initramfs)")
            .detail("waited 15 minutes for it")
            .hint(format!("fuser -v {}", lock.display()))),
    }
}

/// Removes the working files of a tool that was cut off.
pub fn clean_tools(machine: &dyn Machine) -> Result<()> {
    let state = Path::new(STATE);
    remove_tree(machine, &tools_folder())?;
    machine.sync_folder(state).map_err(|error| Error::io("write", state, &error))
}

/// Removes what a tool of ours left in /boot when it was cut off. `boot` are the names that were there before.
pub fn clean(machine: &dyn Machine, boot: &[String]) -> Result<()> {
    write::remove_if_there(machine, &write::temporary(Path::new(GRUB_CFG)))?;
    let folder = Path::new("/boot");
    let names = match machine.list(folder) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read", folder, &error)),
    };
    for name in names {
        let Some(name) = name.to_str() else { continue };
        // update-initramfs(8) writes IMAGE.new, and keeps the old image as IMAGE.dpkg-bak and IMAGE.bak.
        let leftover = name.starts_with("initrd.img-")
            && [".new", ".dpkg-bak", ".bak"].iter().any(|end| name.ends_with(end))
            && !boot.iter().any(|before| before == name);
        if leftover {
            write::remove_if_there(machine, &folder.join(name))?;
        }
    }
    machine.sync_folder(folder).map_err(|error| Error::io("write", folder, &error))
}

impl Derived {
    /// What is made, in a sentence.
    pub fn describe(&self) -> String {
        match self {
            Self::InitramfsTools { kernel } => format!("make the initramfs of Linux {kernel} again"),
            Self::GrubDebian => format!("make {GRUB_CFG} again"),
        }
    }

    /// The file that is made.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::InitramfsTools { kernel } => image_path(kernel),
            Self::GrubDebian => PathBuf::from(GRUB_CFG),
        }
    }

    /// The commands that do the same by hand.
    pub fn by_hand(&self) -> String {
        match self {
            Self::InitramfsTools { kernel } => format!("update-initramfs -u -k {kernel}"),
            Self::GrubDebian => "update-grub".to_owned(),
        }
    }

    /// Makes it, and returns when it is on the disk. Checks what it made before anything old is replaced, where the
    /// tool lets us.
    pub fn make(&self, machine: &dyn Machine) -> Result<()> {
        match self {
            Self::InitramfsTools { kernel } => make_initramfs(machine, kernel),
            Self::GrubDebian => make_grub(machine),
        }
    }

    /// Whether what is there is what its sources make, and on the disk, so that it need not be made again.
    ///
    /// An image tells: our script is all that we ever put into one. A grub.cfg does not tell its sources.
    pub fn is_settled(&self, machine: &dyn Machine) -> Result<bool> {
        if *self == Self::GrubDebian || self.verify(&machine).is_err() {
            return Ok(false);
        }
        let path = self.path();
        settle(machine, &path)?;
        Ok(true)
    }

    /// Reads it, and compares it with the source files.
    pub fn verify(&self, root: &dyn Root) -> Result<()> {
        match self {
            Self::InitramfsTools { kernel } => verify_initramfs(root, kernel),
            Self::GrubDebian => {
                let path = Path::new(GRUB_CFG);
                let text = root.read(path).map_err(|error| Error::io("read", path, &error))?;
                check_grub(root, &String::from_utf8_lossy(&text))
            }
        }
    }
}

fn image_path(kernel: &str) -> PathBuf {
    Path::new("/boot").join(format!("initrd.img-{kernel}"))
}

/// Runs a tool and turns its failure into an error that shows its last words.
fn run(machine: &dyn Machine, program: &Program, name: &str) -> Result<Finished> {
    let finished = machine.run(program).map_err(|error| {
        Error::failed(format!("cannot run {name}: {}", crate::error::said(&error)))
            .hint(format!("ls -l {}", program.path.display()))
    })?;
    if finished.ok() {
        return Ok(finished);
    }
    let mut error = Error::failed(match finished.status {
        Some(status) => format!("{name} failed with status {status}"),
        None => format!("{name} was ended: by a signal, or because it took longer than 30 minutes"),
    });
    let words = String::from_utf8_lossy(&finished.stderr).into_owned();
    let lines: Vec<&str> = words.lines().filter(|line| !line.trim().is_empty()).collect();
    for line in lines.iter().skip(lines.len().saturating_sub(6)) {
        error = error.detail(format!("{name}: {}", line.trim_end()));
    }
    Err(error.hint(format!("try it by hand: {name}")))
}

fn make_initramfs(machine: &dyn Machine, kernel: &str) -> Result<()> {
    let folder = tools_folder();
    remove_tree(machine, &folder)?;
    machine.make_folder(&folder, 0o700).map_err(|error| Error::io("create", &folder, &error))?;
    // flock(1) runs the tool with the lock open, so that it and its children hold it until the last has ended.
    // mkinitramfs leaves its working files in TMPDIR when it is killed: there they are known to be ours.
    let mut tmpdir = std::ffi::OsString::from("TMPDIR=");
    tmpdir.push(&folder);
    let program = Program::new("/usr/bin/flock", DEADLINE)
        .arg("--no-fork")
        .arg(tools_lock())
        .arg("/usr/bin/env")
        .arg(tmpdir)
        .args(["/usr/sbin/update-initramfs", "-u", "-k", kernel]);
    let made = run(machine, &program, &format!("update-initramfs -u -k {kernel}"));
    clean_tools(machine)?;
    made?;
    settle(machine, &image_path(kernel))?;
    verify_initramfs(&machine, kernel)
}

/// Brings a file that a tool wrote, and its name, to the disk.
fn settle(machine: &dyn Machine, path: &Path) -> Result<()> {
    machine.sync_file(path).map_err(|error| Error::io("write", path, &error))?;
    machine.sync_folder(Path::new("/boot")).map_err(|error| Error::io("write", Path::new("/boot"), &error))
}

fn verify_initramfs(root: &dyn Root, kernel: &str) -> Result<()> {
    let path = image_path(kernel);
    let bytes = root.read(&path).map_err(|error| Error::io("read", &path, &error))?;
    let wrong = |what: &str| {
        Error::failed(format!("{} {what}", path.display()))
            .hint(format!("lsinitramfs {} | grep -e gpuferry -e vfio", path.display()))
    };
    let image = image::read(&bytes).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    let script = match root.read(Path::new(INIT_TOP)) {
        Ok(script) => Some(script),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Error::io("read", Path::new(INIT_TOP), &error)),
    };
    match (script, &image.script) {
        (None, None) => return Ok(()),
        (None, Some(_)) => return Err(wrong("still holds gpuferry's early script")),
        (Some(_), None) => {
            return Err(wrong("does not hold gpuferry's early script, although update-initramfs made it")
                .detail("update_initramfs=no in /etc/initramfs-tools/update-initramfs.conf would do that"));
        }
        (Some(ours), Some(theirs)) if ours != *theirs => {
            return Err(wrong("holds another version of gpuferry's early script"));
        }
        (Some(_), Some(_)) => {}
    }
    if !image.vfio_pci {
        return Err(wrong("does not hold the module vfio-pci")
            .detail(format!("Linux {kernel} may have been built without it"))
            .hint(format!("grep VFIO_PCI /boot/config-{kernel}")));
    }
    if !image.runs_before("gpuferry", "udev") {
        return Err(wrong("would run gpuferry's early script after udev, too late to be first")
            .detail("scripts/init-top/ORDER in it gives the order"));
    }
    Ok(())
}

fn make_grub(machine: &dyn Machine) -> Result<()> {
    let path = Path::new(GRUB_CFG);
    let old = machine.stat(path).map_err(|error| Error::io("read", path, &error))?;
    // To standard output: `-o FILE` copies into FILE with cat (not atomic), and leaves FILE.new when cut off.
    let program = Program::new("/usr/sbin/grub-mkconfig", DEADLINE);
    let made = run(machine, &program, "grub-mkconfig")?.stdout;
    if made.len() >= MAX_OUTPUT {
        return Err(Error::failed("grub-mkconfig printed more than 4 MiB, which is no configuration"));
    }
    let mut check = Program::new("/usr/bin/grub-script-check", Duration::from_secs(60));
    check.stdin.clone_from(&made);
    run(machine, &check, "grub-script-check")?;
    check_grub(&machine, &String::from_utf8_lossy(&made))?;
    write::replace(machine, path, &made, &old.ownership)
}

/// Checks that a grub.cfg says what its sources say, before it is put in place.
fn check_grub(root: &dyn Root, text: &str) -> Result<()> {
    let words = match root.read(Path::new(GRUB_DROP_IN)) {
        Ok(ours) => grub::drop_in_words(&String::from_utf8_lossy(&ours)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Error::io("read", Path::new(GRUB_DROP_IN), &error)),
    };
    let entries = grub::entries(text);
    let normal: Vec<_> = entries.iter().filter(|entry| entry.kind == EntryKind::Normal).collect();
    let wrong = |what: String| {
        Error::failed(what)
            .hint(format!("grep -n 'gpuferry\\|linux.*vmlinuz' {GRUB_CFG} /etc/default/grub.d/*"))
    };
    if normal.is_empty() {
        return Err(wrong(format!("{GRUB_CFG} would have no entry that boots Linux")));
    }
    for kernel in kernels(root)? {
        if !normal.iter().any(|entry| entry.kernel.ends_with(&format!("vmlinuz-{kernel}"))) {
            return Err(wrong(format!("{GRUB_CFG} would have no entry for Linux {kernel}")));
        }
    }
    for entry in &entries {
        let ours = entry.words.iter().any(|word| word.starts_with("gpuferry."));
        match entry.kind {
            EntryKind::Normal if words.is_empty() && ours => {
                return Err(wrong(format!("the entry `{}` still has gpuferry's words", entry.title)));
            }
            EntryKind::Normal => {
                if let Some(missing) = words.iter().find(|word| !entry.words.contains(word)) {
                    return Err(wrong(format!(
                        "the entry `{}` would not get the word {missing}",
                        entry.title
                    ))
                    .detail("a file that is read after ours may set GRUB_CMDLINE_LINUX_DEFAULT anew"));
                }
            }
            EntryKind::Recovery if ours => {
                return Err(wrong(format!(
                    "the recovery entry `{}` would get gpuferry's words",
                    entry.title
                ))
                .detail("it has to stay a way out"));
            }
            EntryKind::Recovery | EntryKind::Other => {}
        }
    }
    Ok(())
}

/// Releases of the kernels in /boot that have an initramfs beside them.
pub fn kernels(root: &dyn Root) -> Result<Vec<String>> {
    let folder = Path::new("/boot");
    let names = root.list(folder).map_err(|error| Error::io("read", folder, &error))?;
    let names: Vec<&str> = names.iter().filter_map(|name| name.to_str()).collect();
    let releases = names.iter().filter_map(|name| name.strip_prefix("vmlinuz-"));
    Ok(releases
        .filter(|release| names.contains(&format!("initrd.img-{release}").as_str()))
        .map(|release| (*release).to_owned())
        .collect())
}
