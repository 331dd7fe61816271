//! gpuferry carries a GPU from a Linux host to a KVM guest and back.
pub mod cli;
pub mod edit;
pub mod error;
pub mod handover;
pub mod host;
pub mod journal;
pub mod judge;
pub mod machine;
pub mod pci;
pub mod plan;
pub mod step;
pub mod vm;
