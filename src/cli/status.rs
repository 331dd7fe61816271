//! `gpuferry status`: who has which card, since when, what comes next, and which write hangs. Changes nothing.

use super::{
    Context,
    follow::{this_machine, worker_at_work},
    print,
};
use crate::{
    error::{Result, Status as Exit},
    handover::{
        client,
        holders::{Holder, holders, nodes},
        record::{self, InFlight, Phase, State},
        snapshot::Card,
    },
    host,
    machine::Machine,
    pci::Address,
    plan::live::VFIO,
    step::live::driver_of,
};
use clap::Args;
use serde::Serialize;

/// Show who has which card, since when, and what comes next.
#[derive(Debug, Args)]
pub struct Status {}

/// A card and who has it.
#[derive(Debug, Serialize)]
struct Row {
    address: Address,
    name: String,
    functions: Vec<Function>,
    /// `host`, `idle` (with vfio-pci, no guest), `guest`, `moving`, `hanging`, `unfinished`.
    holder: &'static str,
    guest: Option<String>,
    guest_pid: Option<u32>,
    since_ms: Option<u64>,
    /// When it goes home by itself if nobody takes it.
    home_at_ms: Option<u64>,
    hanging: Option<InFlight>,
    next: Option<String>,
    details: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Function {
    address: Address,
    driver: Option<String>,
}

impl Status {
    /// Prints it.
    pub fn run(context: &Context) -> Result<Exit> {
        let machine = this_machine(context, "status")?;
        // Who may not write there sees the same, but for the word of an end that nobody saw.
        let _ = record::close_old(&machine);
        let (states, unseen) = match record::cards(&machine) {
            Ok(states) => (states, None),
            Err(error) => (Vec::new(), Some(error.message)),
        };
        let mut rows: Vec<Row> = states.iter().map(|state| row(&machine, &state.card, Some(state))).collect();
        // A device whose write hangs cannot be looked at: reading some of its attributes would hang us too.
        if rows.iter().all(|row| row.hanging.is_none()) {
            let host = host::observe_for_hand_over(&machine);
            let known = |address: Address| states.iter().any(|state| state.card.functions.contains(&address));
            for gpu in host.gpus.iter().filter(|gpu| !known(gpu.address)) {
                rows.push(row(&machine, &Card::find(&host, gpu.address)?, None));
            }
        }
        rows.sort_by_key(|row| row.address);
        let guests = crate::vm::list(&machine);
        let (domains, lines) = super::hook::rows(&machine);
        if context.json {
            let value = serde_json::json!({ "schema": 1, "cards": rows, "guests": guests, "domains": domains,
                "unseen": unseen });
            print(&format!("{value}\n"))?;
            return Ok(Exit::Done);
        }
        for row in &rows {
            print(&text(&machine, row))?;
        }
        for guest in &guests {
            print(&format!(" guest {}\n", guest.sentence()))?;
        }
        lines.iter().try_for_each(|line| print(line))?;
        if rows.is_empty() {
            print(" no card here\n")?;
        }
        if let Some(unseen) = unseen {
            print(&format!(" not seen: {unseen}\n"))?;
        }
        Ok(Exit::Done)
    }
}

fn row(machine: &dyn Machine, card: &Card, state: Option<&State>) -> Row {
    let driver = |address: &Address| Function { address: *address, driver: driver_of(machine, *address) };
    let functions: Vec<_> = card.functions.iter().map(driver).collect();
    let lent = functions.iter().any(|function| function.driver.as_deref() == Some(VFIO));
    let lines = record::lines(machine, &record::folder(card.address).join("events"));
    let at_work = state.is_some() && worker_at_work(machine, card.address);
    let now = record::millis(machine.now());
    let write = record::in_flight(&lines).filter(|write| at_work && write.hangs(now));
    let inside = if lent { inside(machine, card) } else { None };
    let phase = state.map(|state| state.phase);
    let again = Some(format!("gpuferry reattach {}", card.address));
    let (holder, next) = match (phase, &write, &inside) {
        (_, Some(_), _) => ("hanging", None),
        (Some(Phase::Lending | Phase::Homing), None, _) if at_work => ("moving", None),
        (Some(Phase::Lending | Phase::Homing | Phase::Stuck), None, _) => ("unfinished", again),
        (_, None, Some(_)) => ("guest", None),
        _ if lent => ("idle", again),
        _ => ("host", Some(format!("gpuferry detach {}", card.address))),
    };
    let details = match &write {
        Some(write) => client::hanging(machine, card.address, write).details,
        None => Vec::new(),
    };
    Row {
        address: card.address,
        name: card.name.clone(),
        functions,
        holder,
        guest: inside.as_ref().map(|holder| holder.process.clone()),
        guest_pid: inside.as_ref().map(|holder| holder.pid),
        since_ms: state.map(|state| state.since_ms),
        home_at_ms: state.and_then(|state| state.home_at_ms),
        hanging: write,
        next,
        details,
    }
}

/// The process that has the card's VFIO files open.
fn inside(machine: &dyn Machine, card: &Card) -> Option<Holder> {
    holders(machine, &nodes(machine, &card.functions)).into_iter().next()
}

fn text(machine: &dyn Machine, row: &Row) -> String {
    let who = match (row.holder, &row.guest, row.guest_pid) {
        ("guest", Some(guest), Some(pid)) => format!("in a guest: {guest} (pid {pid})"),
        ("idle", ..) => "lent, no guest has it".to_owned(),
        ("moving", ..) => "on its way".to_owned(),
        ("hanging", ..) => "HANGS".to_owned(),
        ("unfinished", ..) => "neither lent nor home: a hand-over was interrupted".to_owned(),
        _ => "the host's".to_owned(),
    };
    let now = record::millis(machine.now());
    let since =
        row.since_ms.map_or(String::new(), |ms| format!(", since {} s", now.saturating_sub(ms) / 1000));
    let mut lines = vec![format!(" {}  {}   {who}{since}", row.address, row.name)];
    for function in &row.functions {
        let driver = function.driver.as_deref().unwrap_or("no driver");
        lines.push(format!("   {}  {driver}", function.address));
    }
    if let Some(write) = &row.hanging {
        let since = now.saturating_sub(write.since_ms) / 1000;
        lines.push(format!("   in a write since {since} s: `{}` to {}", write.value.trim(), write.path));
    }
    if let Some(at) = row.home_at_ms.filter(|_| row.holder == "idle") {
        let left = at.saturating_sub(now) / 1000;
        lines
            .push(format!("   goes home in {left} s unless a guest takes it; gpuferry keep {}", row.address));
    }
    lines.extend(row.details.iter().map(|detail| format!("   {detail}")));
    lines.extend(row.next.iter().map(|next| format!("   next   {next}")));
    lines.join("\n") + "\n"
}
