//! Who uses a card, and whether they may be stopped: asked where somebody can be asked, else by `--stop`.

use super::{
    Context,
    follow::{asked, can_ask},
    print,
    render::wrap,
};
use crate::{
    error::Result,
    handover::{
        preflight::{self, Held},
        snapshot::Card,
        stop::{self, Stop},
        worker::held,
    },
    machine::Machine,
};

/// The words by which everything that has to stop for these cards may: those that were given, and those that the
/// owner says yes to now. Refused where one is missing.
pub(super) fn may_stop(
    context: &Context,
    machine: &dyn Machine,
    cards: &[Card],
    given: &[String],
) -> Result<Vec<String>> {
    let mut words = given.to_vec();
    for card in cards {
        let held = held(machine, card);
        let stops = stop::stops(machine, &held);
        let asks: Vec<&Stop> = stops.iter().filter(|stop| !stop.is_allowed(&words)).collect();
        if !asks.is_empty() && can_ask(context) && agreed(card, &held, &asks)? {
            words.extend(asks.iter().map(|stop| stop.word()));
        }
        if let Some(refusal) = preflight::refuse_lend(card, &held, &stops, &words) {
            return Err(refusal);
        }
    }
    Ok(words)
}

fn agreed(card: &Card, held: &[Held], asks: &[&Stop]) -> Result<bool> {
    print(&format!(" {} is in use\n", card.address))?;
    for holder in held.iter().flat_map(|held| &held.holders) {
        print(&wrap(&format!("{} has {} open", holder.shown(), holder.nodes.join(", ")), 3))?;
    }
    print(" to lend it\n")?;
    for stop in asks {
        print(&wrap(&stop.meaning(), 3))?;
    }
    asked(" stop them")
}
