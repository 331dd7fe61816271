//! Machines that are not here: saved trees, archives of them, captures, and how a capture is made.
//!
//! Everything that is read here was written by somebody else and may be hostile: it has limits, is never written to
//! the disk, and is refused whole where it tries to leave its root. Facts are not looked for here; what comes out is
//! a [`Root`](crate::machine::Root) that [`host::observe`](crate::host::observe) reads like a machine's own.

pub mod archive;
pub mod cards;
pub mod make;
pub mod manifest;
pub mod record;
pub mod redact;
pub mod scrub;
pub mod source;
pub mod union;
