//! What the owner wants, as a plan file keeps it.

use crate::pci::Address;
use serde::{Deserialize, Serialize};

/// A goal that files are changed for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "goal", deny_unknown_fields)]
pub enum Goal {
    /// These cards, and no others, go to guests from boot on.
    Static {
        /// Any function of each card.
        gpus: Vec<Address>,
        /// How the early boot knows them.
        bind_by: BindBy,
    },
}

/// How the early boot knows a card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BindBy {
    /// By its path from the root port and its ids: tells twins apart, and follows a card whose address moved.
    #[default]
    Path,
    /// By its ids alone, with vfio-pci's own list.
    Ids,
}
