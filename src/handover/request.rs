//! What a worker is asked for, and what the owner wants done differently with a card.

use crate::pci::Address;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::{ffi::OsString, time::Duration};

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// To vfio-pci.
    Lend,
    /// To the host.
    Home,
}

/// What the owner wants done differently: what some machines need, and others should not have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
pub struct Wishes {
    /// Do not put the text consoles back when the card comes home, nor the firmware's frame buffer: on some machines
    /// that crashes the host. The kernel does it by itself where the host's driver makes a frame buffer.
    #[arg(long)]
    #[serde(default)]
    pub leave_consoles: bool,
    /// How the kernel resets the card for its guests: flr, pm, bus, device_specific; `inspect devices` lists what a
    /// card has. As before once it is home.
    #[arg(long, value_name = "METHOD", value_parser = method)]
    #[serde(default)]
    pub reset_method: Option<String>,
    /// Reboot the host when a write to the card hangs, and goes on to for so long (sync, then sysrq): what was not
    /// saved is lost.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(10..=86400))]
    #[serde(default)]
    pub reboot_when_hung: Option<u64>,
}

/// A word as the kernel has them (drivers/pci/pci.c, `pci_reset_fn_methods`), or several.
fn method(text: &str) -> Result<String, String> {
    let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if text.split(' ').all(word) {
        Ok(text.to_owned())
    } else {
        Err("a word such as flr, pm, bus or device_specific".to_owned())
    }
}

impl Wishes {
    /// As words of a command line.
    pub fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        if self.leave_consoles {
            words.push("--leave-consoles".into());
        }
        if let Some(method) = &self.reset_method {
            words.push(format!("--reset-method={method}").into());
        }
        if let Some(after) = self.reboot_when_hung {
            words.push(format!("--reboot-when-hung={after}").into());
        }
        words
    }

    /// With what was wished before, where nothing else is now.
    #[must_use]
    pub fn or(self, before: &Self) -> Self {
        Self {
            leave_consoles: self.leave_consoles || before.leave_consoles,
            reset_method: self.reset_method.or_else(|| before.reset_method.clone()),
            reboot_when_hung: self.reboot_when_hung.or(before.reboot_when_hung),
        }
    }
}

/// What a worker is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Names the operation: a worker that is started again with the same one goes on with it.
    pub op: String,
    /// Where to.
    pub way: Way,
    /// The card.
    pub address: Address,
    /// Other cards that the same command takes: their functions are no strangers in a shared group.
    pub together: Vec<Address>,
    /// How long one write may take before it counts as hanging.
    pub limit: Duration,
    /// Whether to wait for the owner's word before each stage.
    pub step: bool,
    /// What of the host's may be stopped for it, as [`super::stop::Stop::word`] names it; `all` is everything.
    pub stop: Vec<String>,
    /// After how long it goes home by itself, unless somebody has taken it or it was said to be kept.
    pub home_after: Option<Duration>,
    /// The guest that it is lent for.
    pub guest: Option<String>,
    /// What is to be done differently.
    pub wishes: Wishes,
}

impl Request {
    /// The plain case: one card, nobody stopped, nothing different.
    pub fn new(op: String, way: Way, address: Address, limit: Duration) -> Self {
        Self {
            op,
            way,
            address,
            together: Vec::new(),
            limit,
            step: false,
            stop: Vec::new(),
            home_after: None,
            guest: None,
            wishes: Wishes::default(),
        }
    }
}
