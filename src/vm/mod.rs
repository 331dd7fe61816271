//! Guests by QEMU alone, without libvirt.

use crate::machine::Root;
use serde::Serialize;

/// A guest that runs.
#[derive(Debug, Clone, Serialize)]
pub struct Running {
    /// Its name.
    pub name: String,
    /// QEMU's process id.
    pub pid: u32,
}

impl Running {
    /// In a sentence.
    pub fn sentence(&self) -> String {
        format!("{} runs (pid {})", self.name, self.pid)
    }
}

/// The guests that run.
pub fn list(_root: &(impl Root + ?Sized)) -> Vec<Running> {
    Vec::new()
}
