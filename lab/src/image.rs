//! The bootable disk of the full emulated host: a raw image of [`crate::tree::host`] with GRUB for SeaBIOS and OVMF.
//!
//! No loop device and no mount: mke2fs fills the file system from a folder, GRUB's sectors are written by hand.
//! The image is then booted once, so that its initramfs and its grub.cfg are the running host's own and
//! `update-grub` there writes the same bytes again. Root is needed, since the files keep Debian's owners.
//! An image is never written to once it is in the cache: boot from an overlay.

mod mbr;

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::arguments::Accelerator;
use crate::tree::{self, Tools, logged, progress};
use crate::{cache, kernel, kvm, nvidia};
use mbr::{Partition, SECTOR};

/// Bumped when something below changes that the key's other parts do not show.
const VERSION: &str = "2";

const MIB: u64 = 1 << 20;

/// The root file system: what is not used is a hole in the image.
const ROOT: Partition = Partition { kind: 0x83, boot: true, start: MIB, size: 2047 * MIB };

/// The EFI system partition, behind it.
const ESP: Partition = Partition { kind: 0xef, boot: false, start: 2048 * MIB, size: 16 * MIB };

/// The most memory, in MiB, with which SeaBIOS boots the disk as an NVMe drive.
///
/// Above it QEMU's q35 puts memory beyond 4 GiB, SeaBIOS then moves 64-bit BARs there (its `pciinit.c`,
/// `pci_pad_mem64`) and cannot reach the drive's any more: "could not read the boot disk". OVMF has no such limit.
pub const SEABIOS_MEMORY_MIB: u32 = 2815;

/// The root file system's UUID: fixed, so that one image is like the next.
pub const ROOT_UUID: &str = "6b1ab9a0-7d0c-4c1e-9f53-1f0e5a3c9d01";

const MACHINE_ID: &str = "6b1ab9a07d0c4c1e9f531f0e5a3c9d02\n";

const AGENT_UNIT: &str = include_str!("image/lab-agent.service");
const SETTLE: &str = include_str!("image/settle.sh");
const LIBVIRT: &str = include_str!("image/libvirt.sh");
const NVIDIA: &str = include_str!("image/nvidia.sh");
const COMPETITION: &str = include_str!("image/competition.sh");
const EARLY_CFG: &str = include_str!("image/early.cfg");
const FIRST_GRUB_CFG: &str = include_str!("image/first-grub.cfg");

/// Changes to Debian's own `/etc/default/grub`: setting, value. The screen's console stays a console, the serial
/// line gets a copy; the menu is on both. `no_timer_check`: an emulator on a busy machine may miss the few timer
/// interrupts that the kernel waits for, and the kernel panics (`arch/x86/kernel/apic/io_apic.c`); under KVM the
/// kernel sets this itself. `mitigations=off`: with page tables of the kernel's own, each system call empties QEMU's
/// translation buffer twice, and takes ten times as long.
const GRUB_DEFAULT: &[(&str, &str)] = &[
    ("GRUB_TIMEOUT", "1"),
    ("GRUB_CMDLINE_LINUX", "\"console=tty0 console=ttyS0 no_timer_check mitigations=off\""),
    ("GRUB_TERMINAL", "\"console serial\""),
    ("GRUB_SERIAL_COMMAND", "\"serial --unit=0 --speed=115200\""),
];

/// Units that only cost time here, or would write into the serial lines.
const MASKED: &[&str] = &[
    "serial-getty@ttyS0.service",
    "serial-getty@ttyS1.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "grub-common.service",
    "systemd-random-seed.service",
    "modprobe@configfs.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "sys-kernel-config.mount",
    "sys-kernel-tracing.mount",
    "sys-fs-fuse-connections.mount",
    "dev-mqueue.mount",
];

/// Modules of GRUB's image for a BIOS, enough to find the root file system's own.
const GRUB_BIOS: &[&str] = &[
    "biosdisk",
    "part_msdos",
    "ext2",
    "search",
    "search_fs_uuid",
    "configfile",
    "normal",
    "linux",
    "minicmd",
];

/// The same for UEFI.
const GRUB_EFI: &[&str] =
    &["part_msdos", "fat", "ext2", "search", "search_fs_uuid", "configfile", "normal", "linux", "minicmd"];

/// The base image: Debian as installed, booted once. Raw, sparse. Built when missing, as root, in one to three
/// minutes.
pub fn disk() -> Result<PathBuf> {
    disk_of("disk", &tree::host()?, "", &[])
}

/// [`disk`] with a second kernel installed; it boots the same one.
pub fn disk_two_kernels() -> Result<PathBuf> {
    disk_of("disk-two-kernels", &tree::host_two_kernels()?, "", &[])
}

/// [`disk`] with a display manager, an X server, libvirt's daemon and a driver for the look-alike card. Its guests are
/// root's, since nothing here is anybody else's.
pub fn disk_desktop() -> Result<PathBuf> {
    let host = tree::host_desktop()?;
    let modules = nvidia::modules(&kernel::of_tree(&host, "-amd64")?.release)?;
    disk_of("disk-desktop", &host, &format!("{LIBVIRT}{NVIDIA}"), &modules)
}

/// [`disk_desktop`] with AppArmor, and without the look-alike card's driver.
pub fn disk_apparmor() -> Result<PathBuf> {
    disk_of("disk-apparmor", &tree::host_apparmor()?, LIBVIRT, &[])
}

/// `variant` is run in the host at its first boot, and finds `files` in /lab.
fn disk_of(name: &'static str, host: &Path, variant: &str, files: &[PathBuf]) -> Result<PathBuf> {
    let key = format!(
        "{VERSION}\n{}\n{AGENT_UNIT}{SETTLE}{EARLY_CFG}{FIRST_GRUB_CFG}\
         {GRUB_DEFAULT:?}{MASKED:?}{GRUB_BIOS:?}{GRUB_EFI:?}{ROOT:?}{ESP:?}{ROOT_UUID}{variant}",
        host.display()
    );
    let key = if files.is_empty() { key } else { format!("{key}{files:?}") };
    let entry = cache::entry(name, key, |part| {
        let done = progress(name, "1 to 3 minutes")?;
        ensure!(
            rustix::process::geteuid().is_root(),
            "the disk's files keep Debian's owners, which only root can set"
        );
        fs::create_dir(part)?;
        let tools = tree::tools()?;
        let image = part.join("disk.raw");
        raw(&tools, host, part, &image)?;
        settle(&tools, part, &image, variant, files)?;
        done.say()
    })?;
    Ok(entry.join("disk.raw"))
}

/// [`disk`] with nouveau, `snd_hda_intel` and bochs in the initramfs: drivers that compete for the cards early.
pub fn disk_competition() -> Result<PathBuf> {
    let base = disk()?;
    let key = format!("{VERSION}\n{}\n{SETTLE}{COMPETITION}", base.display());
    let entry = cache::entry("disk-competition", key, |part| {
        let done = progress("disk with competing drivers", "2 minutes")?;
        fs::create_dir(part)?;
        let image = part.join("disk.raw");
        copy(&base, &image, part)?;
        settle(&tree::tools()?, part, &image, COMPETITION, &[])?;
        done.say()
    })?;
    Ok(entry.join("disk.raw"))
}

/// Where the log of an image's building lies, beside the image.
pub fn log_of(image: &Path) -> PathBuf {
    image.with_file_name("log")
}

fn copy(from: &Path, to: &Path, part: &Path) -> Result<()> {
    let mut cp = Command::new("/usr/bin/cp");
    cp.args(["-a", "--reflink=auto", "--sparse=always"]).arg(from).arg(to);
    logged(&mut cp, "cp", &part.join("log"))
}

/// The image before its first boot.
fn raw(tools: &Tools, host: &Path, part: &Path, image: &Path) -> Result<()> {
    let log = part.join("log");
    let root = part.join("root");
    copy(host, &root, part)?;
    let kernel = furnish(&root)?;
    for (from, to) in [("i386-pc", "i386-pc"), ("x86_64-efi", "x86_64-efi")] {
        grub_modules(&root.join("usr/lib/grub").join(from), &root.join("boot/grub").join(to))?;
    }
    fs::write(
        root.join("boot/grub/grub.cfg"),
        FIRST_GRUB_CFG.replace("ROOT_UUID", ROOT_UUID).replace("KERNEL", &kernel),
    )?;
    let mut env = tools.program("usr/bin/grub-editenv");
    env.arg(root.join("boot/grub/grubenv")).arg("create");
    logged(&mut env, "grub-editenv", &log)?;

    let file = File::options().create_new(true).read(true).write(true).open(image)?;
    file.set_len(ESP.start + ESP.size)?;
    let mut mke2fs = tools.program("usr/sbin/mke2fs");
    mke2fs.env("MKE2FS_CONFIG", tools.root().join("etc/mke2fs.conf"));
    // A new file is all zeroes: nothing is left for the kernel to initialise in the background of each boot.
    mke2fs.args(["-q", "-F", "-t", "ext4", "-L", "root", "-U", ROOT_UUID, "-E"]);
    mke2fs.arg(format!("offset={},assume_storage_prezeroed=1,nodiscard", ROOT.start));
    mke2fs.arg("-d").arg(&root).arg(image).arg(format!("{}k", ROOT.size / 1024));
    logged(&mut mke2fs, "mke2fs", &log)?;
    fs::remove_dir_all(&root).context("cannot remove the furnished copy of the tree")?;

    let early = part.join("early.cfg");
    fs::write(&early, EARLY_CFG.replace("ROOT_UUID", ROOT_UUID))?;
    let core = mkimage(tools, "i386-pc", GRUB_BIOS, &early, part)?;
    let boot = fs::read(tools.root().join("usr/lib/grub/i386-pc/boot.img"))?;
    let core = fs::read(core)?;
    ensure!(core.len() as u64 <= ROOT.start - SECTOR, "GRUB's core image does not fit before the partition");
    file.write_all_at(&mbr::sector(&boot, 0x6c61_6201, &[ROOT, ESP])?, 0)?;
    // boot.img looks for the core image in sector 1, grub-mkimage has told the core that its rest follows.
    file.write_all_at(&core, SECTOR)?;
    drop(file);

    let efi = mkimage(tools, "x86_64-efi", GRUB_EFI, &early, part)?;
    let at = format!("{}@@{}", image.display(), ESP.start);
    let mtool = |name: &str, args: &[&str]| {
        let mut command = tools.program("usr/bin/mtools");
        command.env("MTOOLS_SKIP_CHECK", "1").env("MTOOLSRC", "/dev/null");
        command.args(["-c", name, "-i", &at]).args(args);
        logged(&mut command, name, &log)
    };
    mtool("mformat", &["-T", &(ESP.size / SECTOR).to_string(), "-h", "16", "-s", "63", "-v", "ESP", "::"])?;
    mtool("mmd", &["::/EFI", "::/EFI/BOOT"])?;
    mtool("mcopy", &[&efi.display().to_string(), "::/EFI/BOOT/BOOTX64.EFI"])?;
    for leftover in [early, efi, part.join("grub-i386-pc")] {
        fs::remove_file(&leftover).with_context(|| format!("cannot remove {}", leftover.display()))?;
    }
    Ok(())
}

/// Makes the copy of the tree at `root` this lab's host; gives the kernel's version.
fn furnish(root: &Path) -> Result<String> {
    let put = |path: &str, text: &str| {
        let path = root.join(path);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    put("etc/hostname", "lab\n")?;
    put("etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\tlab\n::1\tlocalhost ip6-localhost ip6-loopback\n")?;
    put("etc/fstab", &format!("UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\n"))?;
    put("etc/machine-id", MACHINE_ID)?;
    let stock = fs::read_to_string(root.join("usr/share/grub/default/grub"))
        .context("the tree has no template of /etc/default/grub")?;
    let shadow = fs::read_to_string(root.join("etc/shadow"))?;
    put("etc/shadow", &open_root(&shadow))?;
    put("etc/systemd/system/lab-agent.service", AGENT_UNIT)?;
    symlink(
        "../lab-agent.service",
        root.join("etc/systemd/system/multi-user.target.wants/lab-agent.service"),
    )?;
    for unit in MASKED {
        symlink("/dev/null", root.join("etc/systemd/system").join(unit))?;
    }
    // Looks for AF_VSOCK in every virtual machine and complains on the console where there is none.
    let generators = root.join("etc/systemd/system-generators");
    fs::create_dir_all(&generators)?;
    symlink("/dev/null", generators.join("systemd-ssh-generator"))?;
    fs::create_dir(root.join("lab"))?;
    fs::create_dir_all(root.join("boot/grub"))?;
    let kernels = kernels(root)?;
    // Versions sort Debian's flavours by name: the plain kernel first, GRUB would boot the last.
    let kernel = kernels.first().context("the tree has no kernel in /boot")?;
    let mut grub = grub_default(&stock);
    if kernels.len() > 1 {
        grub = format!("{grub}GRUB_TOP_LEVEL=/boot/vmlinuz-{kernel}\n");
    }
    put("etc/default/grub", &grub)?;
    Ok(kernel.clone())
}

/// Versions of the kernels in the `/boot` of a tree.
fn kernels(root: &Path) -> Result<Vec<String>> {
    let mut versions = Vec::new();
    for file in fs::read_dir(root.join("boot"))? {
        let name = file?.file_name().to_string_lossy().into_owned();
        versions.extend(name.strip_prefix("vmlinuz-").map(str::to_owned));
    }
    versions.sort();
    Ok(versions)
}

/// Debian's `/etc/default/grub` with [`GRUB_DEFAULT`]: a set line is changed in place, others follow at the end.
fn grub_default(stock: &str) -> String {
    let mut lines: Vec<String> = stock.lines().map(str::to_owned).collect();
    for (setting, value) in GRUB_DEFAULT {
        let line = format!("{setting}={value}");
        match lines.iter_mut().find(|old| old.split('=').next() == Some(setting)) {
            Some(old) => *old = line,
            None => lines.push(line),
        }
    }
    lines.join("\n") + "\n"
}

/// shadow(5) with no password for root: the lab's host has no network.
fn open_root(shadow: &str) -> String {
    let mut text = String::new();
    for line in shadow.lines() {
        let mut fields: Vec<&str> = line.split(':').collect();
        if let [name, password, ..] = fields.as_mut_slice() {
            if *name == "root" {
                *password = "";
            }
        }
        text.push_str(&fields.join(":"));
        text.push('\n');
    }
    text
}

/// What grub-install would put below `/boot/grub`: the modules and their lists.
fn grub_modules(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for file in fs::read_dir(from).with_context(|| format!("no GRUB in {}", from.display()))? {
        let file = file?.path();
        let wanted = matches!(file.extension().and_then(|e| e.to_str()), Some("mod" | "lst"));
        if let (true, Some(name)) = (wanted, file.file_name()) {
            fs::copy(&file, to.join(name))?;
        }
    }
    Ok(())
}

fn mkimage(tools: &Tools, format: &str, modules: &[&str], early: &Path, part: &Path) -> Result<PathBuf> {
    let image = part.join(format!("grub-{format}"));
    let mut mkimage = tools.program("usr/bin/grub-mkimage");
    mkimage
        .args(["-O", format, "-p", "/boot/grub", "-d"])
        .arg(tools.root().join("usr/lib/grub").join(format));
    mkimage.arg("-c").arg(early).arg("-o").arg(&image).args(modules);
    logged(&mut mkimage, "grub-mkimage", &part.join("log"))?;
    Ok(image)
}

/// Boots `image` and lets the host itself run `variant`, then make its initramfs and grub.cfg.
fn settle(tools: &Tools, part: &Path, image: &Path, variant: &str, files: &[PathBuf]) -> Result<()> {
    let share = part.join("share");
    fs::create_dir(&share)?;
    fs::write(share.join("variant.sh"), variant)?;
    for file in files {
        fs::copy(file, share.join(file.file_name().context("a file without a name")?))?;
    }
    fs::write(share.join("lab-agent"), SETTLE)?;
    fs::set_permissions(share.join("lab-agent"), fs::Permissions::from_mode(0o755))?;
    let console = part.join("console.log");
    let mut qemu = tools.qemu();
    let accelerator = match kvm::accelerator() {
        Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
        Accelerator::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"],
    };
    qemu.args(accelerator).args(["-machine", "q35", "-smp", "2", "-m", "2G"]);
    qemu.args(["-nodefaults", "-display", "none", "-vga", "std", "-no-reboot"]);
    qemu.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "null"]);
    // Holes punched by the guest's fstrim become holes of the file.
    qemu.arg("-drive")
        .arg(format!("if=none,id=disk,format=raw,cache=unsafe,discard=unmap,file={}", image.display()));
    qemu.args(["-device", "nvme,drive=disk,serial=lab,bootindex=1"]);
    qemu.arg("-virtfs")
        .arg(format!("local,path={},mount_tag=lab,security_model=none,id=lab", share.display()));
    let mut limited = Command::new("/usr/bin/timeout");
    limited.args(["--kill-after=10", "900"]).arg(qemu.get_program()).args(qemu.get_args());
    let result = logged(&mut limited, "QEMU", &part.join("log"));
    let told = fs::read_to_string(share.join("settle.log")).unwrap_or_default();
    let mut log = File::options().append(true).open(part.join("log"))?;
    log.seek(SeekFrom::End(0))?;
    log.write_all(told.as_bytes())?;
    result?;
    if !share.join("settled").exists() {
        bail!(
            "the new host did not make its initramfs and grub.cfg; its console: {}; it said:\n{told}",
            console.display()
        );
    }
    fs::remove_dir_all(&share).context("cannot remove the share of the first boot")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grub_settings_are_changed_in_place() {
        let text = grub_default(
            "# GRUB\nGRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\nGRUB_CMDLINE_LINUX=\"\"\n#GRUB_TERMINAL=console\n",
        );
        assert_eq!(
            text,
            "# GRUB\nGRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n\
             GRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0 no_timer_check mitigations=off\"\n#GRUB_TERMINAL=console\n\
             GRUB_TERMINAL=\"console serial\"\nGRUB_SERIAL_COMMAND=\"serial --unit=0 --speed=115200\"\n"
        );
    }

    #[test]
    fn only_root_gets_in_without_a_password() {
        assert_eq!(
            open_root("root:*:20000:0:99999:7:::\nbin:*:1::::::\n"),
            "root::20000:0:99999:7:::\nbin:*:1::::::\n"
        );
    }
}
