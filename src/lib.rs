//! gpuferry carries a graphics card (any PCI device) from a Linux host to a KVM guest, and back.
//!
//! This is the map of the program. Each module's first lines say what it is for and what it may not do.
//!
//! ```text
//!  this machine ──observe──▶ host::Host ──judge──▶ findings, refusals, verdicts
//!  or a saved tree               │
//!                                ├─ plan::files ─▶ step::FileStep ─ journal ──▶ files, boot loader, initramfs
//!                                └─ plan::live ──▶ step::live::LiveStep ─ handover ─▶ drivers, consoles
//! ```
//!
//! # How a command runs
//! 1. [`cli`] parses words and picks a verb. It prints, and decides nothing.
//! 2. [`host::observe`] reads the machine through [`machine::Root`] into plain data. What could not be read is
//!    unknown, never a default.
//! 3. [`judge`] and [`plan`] are pure functions over that data: no file, no program, no clock. What gpuferry *knows*
//!    is here, and is tested on machines that were written down.
//! 4. What is to be done is a list of steps from one of two small closed enums, because the two die differently:
//!    [`step::FileStep`] is on the disk, [`step::live::LiveStep`] ends with the boot.
//! 5. [`journal`] carries file steps out, each on record before it acts, and undoes them after a power cut too.
//!    [`handover`] carries live steps out in a worker of their own; the way home is planned from the machine as it
//!    is.
//! 6. [`vm`] runs a guest with a card by QEMU alone; [`hook`] is called by libvirt's daemon for its own guests.
//!
//! Everything that touches the outside goes through [`machine::Machine`], one method an operation. That is what lets
//! the tests put a simulated machine in its place, which loses power at any of them.
//!
//! # Where new things go
//! | you want to add | it goes |
//! |---|---|
//! | a fact about a machine | a field in [`host`], read in the file of its concern there |
//! | a rule, a finding of `doctor` | a file below [`judge`]: `fn(&Host) -> Vec<Finding>`; its `mod` and a line in the list in `src/judge/mod.rs`; its sentences in Chinese in `i18n/` ([`language`]) |
//! | a step on the disk | a variant of [`step::FileStep`], which [`plan::files`] uses |
//! | a step in the kernel | a variant of [`step::live::LiveStep`], which [`plan::live`] uses |
//! | a driver's way of letting go | a row in [`handover::drivers`] |
//! | an editor for another program's file | [`edit`]: text in, text out |
//! | a verb | a file below [`cli`], and a line in its enum |
//! | a case on a booted machine | a test in `lab/cases/` (a new file: its `mod` in `main.rs`); it alone: `cargo test -p lab --test cases NAME` |
//!
//! `docs/extending.md` has the recipes, `docs/design/` the reasons.

pub mod capture;
pub mod cli;
pub mod edit;
pub mod error;
pub mod handover;
pub mod hook;
pub mod host;
pub mod journal;
pub mod judge;
pub mod language;
pub mod machine;
pub mod paste;
pub mod pci;
pub mod plan;
pub mod step;
pub mod vm;
