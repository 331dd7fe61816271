//! What the facts mean: pure rules over a [`Host`], one question a file.
//!
//! A rule reads nothing and prints nothing.

pub mod acs;
mod acs_override;
mod binding;
mod boot_card;
mod dark;
mod driver;
mod groups;
mod identical;
mod iommu;
mod kernel;
mod keyboard;
mod off_the_bus;
mod other_manager;
mod protect;
mod remapping;
mod reserved;
mod root_disk;
pub mod setup;
pub mod shared;
mod verdict;
mod virtualization;
mod words;

pub use dark::{goes_dark, in_words};
pub use groups::parting;
pub use keyboard::last_keyboard;
pub use other_manager::managers_of;
pub use protect::{Refusal, protect, refusal};
pub use verdict::gpus;

use crate::{
    host::{Host, log::Log},
    pci::Address,
};
use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Stands in the way.
    Blocking,
    /// Will bite later, or is wrong without standing in the way.
    Warning,
    /// Good to know.
    Info,
}

/// Where a finding is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was read: a path, `dmesg`, the name of a log.
    pub source: String,
    /// Line in it, from 1.
    pub line: Option<u32>,
    /// What stands there.
    pub text: String,
}

/// Something that helps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fix {
    /// In a sentence.
    pub text: String,
    /// As a command.
    pub command: Option<String>,
}

/// What a rule found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable id.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// One line.
    pub title: String,
    /// The device it is about, where it is about one.
    pub device: Option<Address>,
    /// Where it is seen.
    pub evidence: Vec<Evidence>,
    /// Why it is so.
    pub cause: String,
    /// What helps, best first.
    pub fixes: Vec<Fix>,
}

impl Finding {
    /// A finding without evidence, cause or fixes yet.
    pub fn new(id: &str, severity: Severity, title: impl Into<String>) -> Self {
        Self {
            id: id.to_owned(),
            severity,
            title: title.into(),
            device: None,
            evidence: Vec::new(),
            cause: String::new(),
            fixes: Vec::new(),
        }
    }

    /// Names the device it is about.
    #[must_use]
    pub fn on(mut self, device: Address) -> Self {
        self.device = Some(device);
        self
    }

    /// Says why.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = cause.into();
        self
    }

    /// Adds what was read, and where.
    #[must_use]
    pub fn seen(mut self, source: impl Into<String>, text: impl Into<String>) -> Self {
        self.evidence.push(Evidence { source: source.into(), line: None, text: text.into() });
        self
    }

    /// Adds advice in words.
    #[must_use]
    pub fn advice(mut self, text: impl Into<String>) -> Self {
        self.fixes.push(Fix { text: text.into(), command: None });
        self
    }

    /// Adds advice with a command.
    #[must_use]
    pub fn fix(mut self, text: impl Into<String>, command: impl Into<String>) -> Self {
        self.fixes.push(Fix { text: text.into(), command: Some(command.into()) });
        self
    }
}

/// All rules, the likeliest obstacle first; the worst findings come first.
pub fn doctor(host: &Host, log: Option<&Log>) -> Vec<Finding> {
    let rules: [fn(&Host) -> Vec<Finding>; 17] = [
        off_the_bus::off_the_bus,
        iommu::iommu_off,
        virtualization::virtualization_off,
        kernel::without_vfio,
        remapping::no_interrupt_remapping,
        words::misspelt,
        reserved::reserved_memory,
        groups::group_shared,
        acs_override::acs_override,
        boot_card::boot_card,
        dark::dark,
        other_manager::other_manager,
        identical::identical_cards,
        driver::driver_in_use,
        kernel::sealed_disks,
        kernel::lockdown,
        root_disk::root_disk,
    ];
    let mut findings: Vec<Finding> = rules.iter().flat_map(|rule| rule(host)).collect();
    findings.extend(binding::bindings(host, log));
    findings.sort_by_key(|finding| finding.severity);
    findings
}
