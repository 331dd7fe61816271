//! The lab: an emulated host with a real kernel, a real (emulated) IOMMU and PCI cards, on which gpuferry is tried.
//!
//! A case describes a machine, boots it, runs commands in it, and says what it expects:
//!
//! ```no_run
//! use lab::{Machine, small_host};
//!
//! // #[test]
//! fn only_the_named_one_of_two_twins_is_bound() {
//!     let host = small_host(Machine::twin_nvidia()).boot();
//!     host.run("gpuferry apply --yes static --gpu 0000:02:00.0").ok();
//!     host.expect_driver("0000:02:00.0", "vfio-pci").expect_driver("0000:01:00.0", None);
//! }
//! ```
//!
//! Cases are ordinary tests in `lab/cases/`, one file per subject, run by `cargo test -p lab --test cases`
//! (`… smoke::` for one file, `-- --test-threads=2` beside other work). Each has its own machine.
//!
//! # Two kinds of host
//! - [`small_host`]: the distribution's kernel and modules with an initramfs of busybox, `lspci`, `setpci`, `kmod`
//!   and gpuferry (`/usr/bin/gpuferry`, built from this clone, or the one that `GPUFERRY_BIN` names). Up in some 6 s
//!   without KVM. It forgets everything when it reboots. Kernel parameters: [`Plan::cmdline`]. With
//!   [`Plan::with_guest`] there are QEMU and a guest kernel in it ([`nested`]), with [`Plan::with_nvidia`] a driver
//!   for the look-alike card ([`nvidia`]).
//! - [`full_host`]: a Debian disk with GRUB, initramfs-tools and systemd, up in some 30 s. Every host writes to a
//!   layer of its own over the cached image. It survives [`Host::reboot`], [`Host::power_cut`] and
//!   [`Host::start_again`], also as another machine ([`Host::reboot_as`]).
//!   [`Host::start_rescue`] boots another system beside its disk.
//!   [`Host::reboot_with_words`] changes the kernel command line for one boot, as a user does in GRUB's menu.
//!
//! # Machines
//! [`Machine::twin_nvidia`] (the default of most cases) has two look-alike cards 10de:2204 with audio 10de:1aef:
//!
//! | address | what | driver at boot |
//! |---|---|---|
//! | `0000:01:00.0`, `.1` | look-alike NVIDIA, subsystem 1458:4001; the boot card | none; audio: `snd_hda_intel` |
//! | `0000:02:00.0`, `.1` | its twin, subsystem 1458:4002 | the same |
//! | `0000:03:00.0` | NVMe disk, 64 MiB | nvme |
//! | `0000:04:00.0` | network card, no cable | e1000e |
//! | `0000:05:00.0` | USB controller, keyboard, tablet | `xhci_hcd` |
//! | `0000:06:00.0`, `0000:07:01.0`, `0000:07:02.0` | PCI bridge, e1000 and edu behind it, one group | –, e1000, – |
//! | `0000:00:03.x`, `0000:00:04.x` | root ports | pcieport |
//!
//! [`Machine::twin_bochs`] has cards that the kernel draws on in the same slots (1234:1111 on `bochs-drm`, audio
//! 8086:2668 on `snd_hda_intel`); [`Machine::bochs_and_nvidia`] one of each. IOMMU (Intel, AMD, none), firmware
//! (BIOS, UEFI), a board without isolation, another boot card, more cards: see [`Machine`]. A look-alike card can be
//! made to misbehave while the host runs: [`Host::card`].
//!
//! # What every run can afford
//! A case that takes minutes begins with [`left_to_soak`]: it is run by `make soak` alone, and says so elsewhere.
//!
//! # When a case fails
//! the folder with the console's log, QEMU's command line and its complaints is printed and kept for three days.
//! `GPUFERRY_LAB_KEEP=1` keeps it always. `GPUFERRY_LAB_ACCEL=tcg` does not try KVM.

pub mod agent;
pub mod arguments;
pub mod binaries;
mod boot;
pub mod cache;
pub mod console;
pub mod cpio;
mod devices;
pub mod fakegpu;
pub mod foreign;
mod grub;
pub mod host;
pub mod image;
pub mod initramfs;
mod job;
pub mod kernel;
pub mod kvm;
mod line;
pub mod machine;
mod modules;
pub mod monitor;
pub mod nested;
pub mod nvidia;
mod output;
mod place;
pub mod protocol;
pub mod qemu;
pub mod screen;
mod slot;
pub mod small;
mod soak;
mod terminal;
pub mod tree;

pub use boot::{Plan, full_host, small_host};
pub use fakegpu::{Behaviour, Card, Function};
pub use host::Host;
pub use job::Job;
pub use machine::{Device, Firmware, Iommu, Machine};
pub use output::Output;
pub use protocol::End;
pub use soak::left_to_soak;
