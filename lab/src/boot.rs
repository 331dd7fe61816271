//! From a description to a running machine: what is booted, with which files, on which disk.

use crate::arguments::{Accelerator, Start, Wiring, arguments, function_socket};
use crate::binaries::binaries;
use crate::fakegpu::{self, Boot, BootDone, Control, Function, Served};
use crate::host::Host;
use crate::machine::{Firmware, Machine};
use crate::place::Place;
use crate::qemu::Qemu;
use crate::slot::{self, Slot};
use crate::small::{self, Extra};
use crate::{image, kvm, tree};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A host that is to be booted.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) machine: Machine,
    pub(crate) kind: Kind,
    cmdline: String,
    with_guest: bool,
    with_nvidia: bool,
    extra: Vec<Extra>,
    accelerator: Option<Accelerator>,
    patience: Option<Duration>,
    image: fn() -> Result<PathBuf>,
}

/// What is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Kernel and initramfs.
    Small,
    /// What is on the disk.
    Full,
    /// Kernel and initramfs, and the full host's disk is attached.
    Rescue,
}

/// A host of the distribution's kernel and an initramfs: up in seconds, remembers nothing.
pub fn small_host(machine: Machine) -> Plan {
    Plan {
        machine,
        kind: Kind::Small,
        cmdline: String::new(),
        with_guest: false,
        with_nvidia: false,
        extra: Vec::new(),
        accelerator: None,
        patience: None,
        image: image::disk,
    }
}

/// A whole Debian with boot loader, systemd and disk: up in half a minute, survives reboots.
pub fn full_host(machine: Machine) -> Plan {
    let machine = if machine.memory_mib < 2048 { machine.memory_mib(2048) } else { machine };
    Plan { kind: Kind::Full, ..small_host(machine) }
}

impl Plan {
    /// Words for the small host's kernel command line. (A full host has those of its disk.)
    #[must_use]
    pub fn cmdline(mut self, words: &str) -> Self {
        self.cmdline = format!("{} {words}", self.cmdline);
        self
    }

    /// The small host has QEMU and a guest in it, see [`crate::nested`].
    #[must_use]
    pub fn with_guest(self) -> Self {
        Self { with_guest: true, ..self }
    }

    /// The small host has a driver for the look-alike card, see [`crate::nvidia`].
    #[must_use]
    pub fn with_nvidia(self) -> Self {
        Self { with_nvidia: true, ..self }
    }

    /// The full host has nouveau, `snd_hda_intel` and bochs in its initramfs: drivers that compete for the cards.
    #[must_use]
    pub fn with_competition(self) -> Self {
        Self { image: image::disk_competition, ..self }
    }

    /// The full host has a second kernel; it boots the same one.
    #[must_use]
    pub fn with_two_kernels(self) -> Self {
        Self { image: image::disk_two_kernels, ..self }
    }

    /// The full host has a display manager with an X server, libvirt's daemon, and a driver for the look-alike card
    /// ([`crate::nvidia`]). The display manager starts when a case starts it.
    #[must_use]
    pub fn with_desktop(self) -> Self {
        Self { image: image::disk_desktop, ..self }
    }

    /// As [`with_desktop`](Self::with_desktop), with AppArmor and without the driver for the look-alike card.
    #[must_use]
    pub fn with_apparmor(self) -> Self {
        Self { image: image::disk_apparmor, ..self }
    }

    /// The small host finds this file, readable by all.
    #[must_use]
    pub fn file(self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.file_with_mode(path, 0o644, content)
    }

    /// The small host finds this program.
    #[must_use]
    pub fn program(self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.file_with_mode(path, 0o755, content)
    }

    fn file_with_mode(mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.extra.push(Extra { path: path.to_owned(), mode, content: content.into() });
        self
    }

    pub(crate) fn accelerator(self, accelerator: Accelerator, patience: Duration) -> Self {
        Self { accelerator: Some(accelerator), patience: Some(patience), ..self }
    }

    /// Boots it and waits until commands can be run.
    ///
    /// # Panics
    /// When it does not come up; where its logs are is printed.
    #[track_caller]
    pub fn boot(self) -> Host {
        match self.try_boot() {
            Ok(host) => host,
            Err(error) => panic!("the host does not boot: {error:#}"),
        }
    }

    /// The same, with the error handed back.
    pub fn try_boot(self) -> Result<Host> {
        let place = Place::new()?;
        Host::new(self, place)
    }

    /// How long a boot may take.
    pub(crate) fn patience(&self, accelerator: Accelerator) -> Duration {
        self.patience.unwrap_or_else(|| {
            Duration::from_secs(match (accelerator, self.kind == Kind::Full) {
                (Accelerator::Kvm, false) => 60,
                (Accelerator::Kvm, true) | (Accelerator::Tcg, false) => 150,
                (Accelerator::Tcg, true) => 400,
            })
        })
    }
}

/// What runs while a machine is switched on.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) qemu: Qemu,
    pub(crate) accelerator: Accelerator,
    boot_done: BootDone,
    _functions: Vec<Served>,
    _slot: Option<Slot>,
}

impl Running {
    /// The boot card is chosen anew by the firmware that comes next.
    pub(crate) fn choose_boot_card_again(&self) {
        self.boot_done.store(false, Ordering::SeqCst);
    }
}

/// Switches a machine on.
pub(crate) fn switch_on(
    plan: &Plan,
    place: &Place,
    controls: &mut BTreeMap<usize, Arc<Control>>,
) -> Result<Running> {
    let accelerator = match plan.accelerator {
        Some(accelerator) => accelerator,
        None => kvm::accelerator(),
    };
    let wiring = Wiring {
        sockets: place.sockets().to_owned(),
        share: place.share(),
        accelerator,
        start: match plan.kind {
            Kind::Full => Start::Disk(disk(plan, place)?),
            Kind::Small => kernel(plan, place, None)?,
            Kind::Rescue => kernel(plan, place, Some(disk(plan, place)?))?,
        },
        uefi: (plan.machine.firmware == Firmware::Uefi).then(|| uefi(place)).transpose()?,
    };
    let boot_done = BootDone::default();
    let functions = serve_cards(&plan.machine, place, &boot_done, controls)?;
    let mut command = tree::tools()?.qemu();
    command.args(arguments(&plan.machine, &wiring));
    let slot = slot::take();
    fs::write(place.file("qemu.command"), format!("{command:?}\n"))?;
    let qemu = Qemu::start(&command, place.sockets(), place.folder())?;
    Ok(Running { qemu, accelerator, boot_done, _functions: functions, _slot: slot })
}

fn serve_cards(
    machine: &Machine,
    place: &Place,
    boot_done: &BootDone,
    controls: &mut BTreeMap<usize, Arc<Control>>,
) -> Result<Vec<Served>> {
    let mut functions = Vec::new();
    for (index, card) in machine.nvidia_cards() {
        let boot = match machine.boot_card {
            Some(chosen) if index < chosen => Boot::Waits(Arc::clone(boot_done)),
            Some(chosen) if index == chosen => Boot::Chosen(Arc::clone(boot_done)),
            _ => Boot::ByOrder,
        };
        let control = controls.entry(index).or_default();
        for (number, function) in [(0, Function::Gpu), (1, Function::Audio)] {
            let socket = function_socket(place.sockets(), index, number);
            let _ = fs::remove_file(&socket);
            functions.push(fakegpu::serve(&socket, function, card, boot.clone(), Arc::clone(control))?);
        }
    }
    Ok(functions)
}

fn kernel(plan: &Plan, place: &Place, disk: Option<PathBuf>) -> Result<Start> {
    let small = if plan.with_nvidia { small::small_with_nvidia()? } else { small::small()? };
    let initrd = place.file("initrd");
    small::initramfs(&initrd, &small, binaries()?, plan.with_guest, &plan.extra)?;
    // no_timer_check: on a busy build machine the emulated timer can come too late for the check at boot, and the
    // kernel panics ("timer doesn't work through Interrupt-remapped IO-APIC"). mitigations=off: see the full host's
    // GRUB_DEFAULT in `image`. init_on_alloc=0: Debian's kernel clears 4 KiB for every path that it is given, which
    // takes an emulator as long as all the rest of opening a file.
    let cmdline = format!(
        "console=ttyS0 panic=-1 quiet no_timer_check mitigations=off init_on_alloc=0{}",
        plan.cmdline
    );
    // UEFI starts the kernel as the UEFI program that a bzImage is.
    let kernel = match plan.machine.firmware {
        Firmware::Bios => small.kernel.vmlinux,
        Firmware::Uefi => small.kernel.image,
    };
    Ok(Start::Kernel { kernel, initrd, cmdline, disk })
}

/// The host's own disk: a thin layer over the image that all hosts share.
fn disk(plan: &Plan, place: &Place) -> Result<PathBuf> {
    let binaries = binaries()?;
    for (name, from) in [("gpuferry", &binaries.gpuferry), ("lab-agent", &binaries.agent)] {
        let to = place.share().join(name);
        fs::copy(from, &to).with_context(|| format!("cannot copy to {}", to.display()))?;
    }
    let disk = place.file("disk.qcow2");
    if !disk.exists() {
        let base = (plan.image)()?;
        let output = tree::tools()?
            .qemu_img()
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([&base, &disk])
            .output()
            .context("cannot run qemu-img")?;
        ensure!(output.status.success(), "qemu-img: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(disk)
}

fn uefi(place: &Place) -> Result<(PathBuf, PathBuf)> {
    let tools = tree::tools()?;
    let variables = place.file("uefi-variables");
    if !variables.exists() {
        fs::copy(tools.ovmf_vars(), &variables).context("cannot copy the UEFI variables")?;
    }
    Ok((tools.ovmf_code(), variables))
}
