//! Cases: what gpuferry does on a host that boots, has an IOMMU and cards. One file per subject.
//!
//! How to write one: see the documentation of the crate `lab`.

mod agree;
mod broken_card;
#[path = "../../tests/hosts/commands.rs"]
mod commands;
mod desktop;
mod early_binding;
mod firmware;
mod full;
mod handover;
mod holders;
mod libvirt;
mod nvidia;
mod observe;
mod sequences;
mod smoke;
mod wishes;
