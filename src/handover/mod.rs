//! Handing a card over, live: from the host's drivers to vfio-pci and back.
//!
//! ```text
//!  gpuferry detach ──starts──▶ worker (systemd unit gpuferry-card-SLOT, or our own keeper) ──writes──▶ sysfs
//!        ▲                        │ lock, preflight, snapshot, steps, or the way home
//!        └──────follows───────────┴──▶ /run/gpuferry/cards/SLOT/{events,state.json,snapshot.json}
//!                                      /var/lib/gpuferry/handover.log   every write, before it is made
//! ```
//!
//! **Who acts.** Only the card's worker writes to the card, with the card's lock held. Clients start it and read
//! what it writes down. So a hand-over survives the session that it ends, and a write that hangs hangs one process.
//!
//! **When it is killed.** The unit has `Restart=on-abnormal` (elsewhere the keeper does the same), and a worker
//! that finds its own operation half-way on record brings the card home. So there is one way of recovery, not two:
//! looking at the record, and planning from the machine as it is. With worker and keeper both gone, the record
//! stays: `status` shows it, and `reattach` brings the card home. A worker that ends with the card lent has done
//! what it was asked for, and nothing starts again.
//!
//! **When a write hangs.** Its line is in the events and on disk without an end. The client stops waiting and says
//! which write it is and who holds the device; the worker keeps the lock, so nothing else is written to the device.
//! When the holder closes, the write completes, the worker sees that it took too long, and brings the card home.
//!
//! May change: drivers, overrides, consoles and modules of the card that it was asked for, and files below
//! [`record::RUN`] and [`record::LOG`].

pub mod awake;
pub mod client;
pub mod drivers;
pub mod guard;
pub mod preflight;
pub mod record;
pub mod request;
pub mod snapshot;
#[cfg(test)]
mod soak;
pub mod stop;
pub mod unused;
pub mod worker;

pub use crate::host::holders;
