//! Guests by QEMU alone, without libvirt: what a guest is ([`Spec`]), QEMU's command line ([`qemu`]), and the one
//! process that starts, watches and ends it ([`run`]).
//!
//! ```text
//!  gpuferry vm run ──starts──▶ the guest's supervisor (unit gpuferry-vm-NAME, or our keeper) ──starts──▶ QEMU
//!        ▲   serial line, words          │ hands the cards over, watches QEMU by pidfd,            │ QMP
//!        └──────────────────────────────▶│ brings home what it handed over  ◀───────────────────────┘
//! ```
//!
//! **The card comes home whatever ends the guest.** The supervisor outlives the client; it is started again if it is
//! killed, and takes up the guest that still runs. If the client goes away (killed, session closed), the guest is
//! shut down as by its power button. A card that was lent before stays lent.

pub mod disk;
pub mod domain;
pub mod firmware;
pub mod qemu;
pub mod qmp;
pub mod run;

use crate::{
    handover::{awake, record, request::Wishes, snapshot::Card},
    machine::{Machine, process},
    pci::Address,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Which accelerator QEMU uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accel {
    /// KVM or nothing.
    Kvm,
    /// QEMU's own emulation.
    Tcg,
    /// KVM, and emulation where that does not start.
    KvmOrTcg,
}

/// What the guest starts with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// QEMU's own SeaBIOS.
    Bios,
    /// UEFI in two flash images.
    Uefi {
        /// The code, read-only.
        code: PathBuf,
        /// The variables: the guest's own copy.
        vars: PathBuf,
    },
    /// One image.
    File(PathBuf),
}

/// Where the guest's serial line goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Serial {
    /// To the client's standard streams.
    Stdio,
    /// Into a file.
    File(PathBuf),
    /// There is none.
    None,
}

/// How an image is written. It is said, or told by the name, never read from the image: a guest could write another
/// format's header into a raw image, and name any file of the host as its base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Byte for byte; also block devices.
    Raw,
    /// QEMU's own.
    Qcow2,
}

impl Format {
    /// QEMU's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What a disk is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bus {
    /// Every guest has a driver for it.
    Sata,
    /// Faster; Windows needs a driver first.
    Virtio,
}

/// A disk of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The image or block device, as an absolute path.
    pub path: PathBuf,
    /// How it is written.
    pub format: Format,
    /// What it is attached to.
    pub bus: Bus,
}

/// A guest, as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Its name: letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// Its cards.
    pub cards: Vec<Card>,
    /// Who may be stopped for them, as `handover::stop::Stop::word` names them.
    #[serde(default)]
    pub stop: Vec<String>,
    /// What is to be done differently with them.
    #[serde(default)]
    pub wishes: Wishes,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual processors.
    pub cpus: u32,
    /// Disks, in the order they are booted from.
    pub disks: Vec<Disk>,
    /// A CD image.
    pub cdrom: Option<PathBuf>,
    /// A Linux kernel that is started without a boot loader.
    pub kernel: Option<PathBuf>,
    /// Its initramfs.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub append: Option<String>,
    /// What the guest starts with.
    pub firmware: Firmware,
    /// Where its serial line goes.
    pub serial: Serial,
    /// QEMU.
    pub qemu: PathBuf,
    /// Which accelerator.
    pub accel: Accel,
    /// Whether a reboot of the guest ends it.
    pub no_reboot: bool,
    /// After how many seconds it is shut down.
    pub stop_after: Option<u64>,
    /// The client: process id and start time. With it, the guest goes.
    pub client: Option<(u32, u64)>,
}

impl Spec {
    /// A small guest without anything.
    pub fn new(name: &str, qemu: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            cards: Vec::new(),
            stop: Vec::new(),
            wishes: Wishes::default(),
            memory_mib: 2048,
            cpus: 2,
            disks: Vec::new(),
            cdrom: None,
            kernel: None,
            initrd: None,
            append: None,
            firmware: Firmware::Bios,
            serial: Serial::None,
            qemu,
            accel: Accel::Tcg,
            no_reboot: false,
            stop_after: None,
            client: None,
        }
    }
}

/// What is on record of a guest, in its folder's `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestState {
    /// The operation that made it.
    pub op: String,
    /// Its name.
    pub name: String,
    /// Its cards.
    pub cards: Vec<Address>,
    /// Those of them that it was given by its supervisor, and that go home with its end.
    pub borrowed: Vec<Address>,
    /// QEMU: process id and start time. `None`: not started yet.
    pub qemu: Option<(u32, u64)>,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
}

/// A guest that runs, or whose end was not seen to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Running {
    /// Its name.
    pub name: String,
    /// QEMU's process id; `None`: it has ended.
    pub pid: Option<u32>,
    /// Its cards.
    pub cards: Vec<Address>,
    /// Whether its supervisor is at work.
    pub watched: bool,
    /// Whether the host is kept awake for it.
    pub awake: bool,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
}

/// The word by which the host is kept awake for a guest.
pub fn awake_key(name: &str) -> String {
    format!("vm-{name}")
}

impl Running {
    /// In a sentence.
    pub fn sentence(&self) -> String {
        let cards: Vec<_> = self.cards.iter().map(Address::to_string).collect();
        let cards = if cards.is_empty() { "no card".to_owned() } else { cards.join(", ") };
        let cards =
            if self.awake { format!("{cards}; sleep and the lid switch are inhibited") } else { cards };
        match (self.pid, self.watched) {
            (Some(pid), true) => format!("{} runs (pid {pid}) with {cards}", self.name),
            (Some(pid), false) => format!("{} runs (pid {pid}) with {cards}; nobody watches it", self.name),
            (None, true) => format!("{} starts or ends, with {cards}", self.name),
            (None, false) => format!("{} has ended unseen, with {cards}", self.name),
        }
    }
}

/// The guests on record.
pub fn list(machine: &dyn Machine) -> Vec<Running> {
    let folder = Path::new(record::RUN).join("vm");
    let names = machine.list(&folder).unwrap_or_default();
    let states = names.iter().filter_map(|name| {
        let folder = folder.join(name);
        let state: GuestState = record::load(machine, &folder.join("state.json")).ok()??;
        let alive = state.qemu.filter(|(pid, started)| process::start_time(machine, *pid) == Some(*started));
        Some(Running {
            name: state.name,
            pid: alive.map(|(pid, _)| pid),
            cards: state.cards,
            watched: matches!(machine.lock(&folder.join("lock")), Ok(None)),
            awake: awake::is_held(machine, &awake_key(&name.to_string_lossy())),
            since_ms: state.since_ms,
        })
    });
    states.collect()
}
