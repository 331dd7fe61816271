//! The steps that change a machine: two small closed enums, because they die differently.
//!
//! [`FileStep`] is what is on the disk: a journal is written ahead, and undoing it gives every byte back.
//! [`live::LiveStep`] is what is in the kernel and ends with the boot.

pub mod before;
pub mod derived;
pub mod early;
pub mod file;
pub mod image;
pub mod live;
pub mod services;
pub mod write;

pub use file::{FileStep, Undone};
