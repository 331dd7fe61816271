//! The lab: an emulated host with a real kernel, a real (emulated) IOMMU and PCI cards, on which gpuferry is tried.

pub mod cache;
pub mod image;
pub mod tree;
