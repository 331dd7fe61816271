//! A card that was lent on trial goes home by itself: when nobody has taken it in time and nobody said to keep it.
//!
//! Runs as a process of its own beside the worker, without the card's lock, so that anybody may act on the card
//! meanwhile. Never takes a card from under a guest: one that has the card's VFIO file open ends the trial.

use super::{
    client,
    holders::{holders, nodes},
    record::{self, Phase, State, millis},
    request::{Request, Way},
    snapshot::key,
    worker,
};
use crate::{
    error::{Error, Result},
    machine::{Machine, wait_until},
    pci::Address,
};
use std::{ffi::OsString, path::Path, time::Duration};

/// Starts the watch over a card that was lent by this request, if it was lent on trial.
pub fn start(machine: &dyn Machine, request: &Request) -> Result<()> {
    if request.home_after.is_none() {
        return Ok(());
    }
    let systemd = machine.exists(Path::new("/run/systemd/system"));
    let unit = format!("gpuferry-trial-{}-{}", key(request.address), request.op);
    let words = ["trial", &request.address.to_string(), "--op", &request.op].map(OsString::from);
    client::start(machine, systemd, &unit, &words)
}

/// Waits until the trial is over, and brings the card home if nobody wants it.
pub fn watch(machine: &dyn Machine, address: Address, op: &str) -> Result<()> {
    let on_trial = || -> Option<State> {
        let state = record::state(machine, address).ok().flatten()?;
        (state.op == op && state.phase == Phase::Lent && state.home_at_ms.is_some()).then_some(state)
    };
    let Some(state) = on_trial() else { return Ok(()) };
    let now = millis(machine.now());
    let left = Duration::from_millis(state.home_at_ms.unwrap_or(now).saturating_sub(now));
    let vfio = nodes(machine, &state.card.functions);
    let over = wait_until(machine, left, || on_trial().is_none() || !holders(machine, &vfio).is_empty());
    if over {
        return keep(machine, address).map(drop);
    }
    let request = Request::new(format!("{op}-unused"), Way::Home, address, Duration::from_secs(60));
    worker::work(machine, &request).map(drop)
}

/// Ends the trial of a card: it stays lent. Tells whether it was on trial.
pub fn keep(machine: &dyn Machine, address: Address) -> Result<bool> {
    let state = record::state(machine, address)?.filter(|state| state.phase == Phase::Lent);
    let Some(state) = state.filter(|state| state.home_at_ms.is_some()) else { return Ok(false) };
    let lock = worker::lock(machine, address)?;
    record::set_state(machine, &State { home_at_ms: None, ..state })?;
    drop(lock);
    Ok(true)
}

/// What is said of a card that is not lent.
pub fn not_lent(address: Address) -> Error {
    Error::usage(format!("{address} is not lent: there is nothing to keep"))
        .hint(format!("gpuferry detach --timeout 60 {address}   lends it on trial"))
}
