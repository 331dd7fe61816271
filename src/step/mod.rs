//! The steps that change a machine: two small closed enums, because they die differently.
//!
//! [`live::LiveStep`] is what is in the kernel and ends with the boot.

pub mod live;
