//! Views of a machine: a [`Host`](crate::host::Host) in, text out. Each has a form for the eye, in 80 columns, and a plain
//! one for screen readers: sentences, one fact a line, no columns and no lines drawn.

pub(super) mod boot;
mod config;
pub(super) mod devices;
pub(super) mod gpus;
pub(super) mod groups;
pub(super) mod plain;
