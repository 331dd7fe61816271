//! What to do, as data: pure planners over a [`Host`](crate::host::Host). They read nothing and change nothing.
//!
//! [`files`] plans what is on the disk, [`live`] what is in the kernel. [`sources`] is the one part that reads: the
//! files that the planner is given.

pub mod file;
pub mod files;
#[cfg(test)]
mod files_tests;
pub mod goal;
pub mod live;
mod managers;
pub mod names;
pub mod show;
pub mod sources;
