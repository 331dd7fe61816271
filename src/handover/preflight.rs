//! Whether a card can go now without hanging the kernel and without taking the picture from anybody. Pure; the
//! facts are collected by [`super::holders`].

use super::{drivers, holders::Holder, snapshot::Card, stop::Stop};
use crate::{error::Error, host::Host, pci::Address, plan::live::VFIO};

/// A function and who holds its nodes.
#[derive(Debug, Clone)]
pub struct Held {
    /// The function.
    pub address: Address,
    /// The driver that has it.
    pub driver: Option<String>,
    /// Who holds its nodes.
    pub holders: Vec<Holder>,
}

/// Why a card cannot go to a guest now: somebody uses it, and the owner did not say that they may be stopped
/// (`allowed`: words of [`Stop::word`]). Everybody is named.
pub fn refuse_lend(card: &Card, held: &[Held], stops: &[Stop], allowed: &[String]) -> Option<Error> {
    let busy: Vec<_> =
        held.iter().filter(|held| !held.holders.is_empty() && held.driver.as_deref() != Some(VFIO)).collect();
    let first = busy.first()?;
    let kept: Vec<_> = stops.iter().filter(|stop| !stop.is_allowed(allowed)).collect();
    if kept.is_empty() && !stops.is_empty() {
        return None;
    }
    let who = first.holders.iter().map(Holder::shown).collect::<Vec<_>>().join(", ");
    let driver = first.driver.as_deref().unwrap_or("no driver");
    let mut error = Error::refused(format!("{} ({driver}) is in use by {who}", first.address))
        .detail(in_use(&first.holders[0]))
        .detail(format!("taken away now, {}", drivers::facts(driver).otherwise));
    for more in &busy[1..] {
        let who = more.holders.iter().map(Holder::shown).collect::<Vec<_>>().join(", ");
        error = error.detail(format!("{} is in use by {who}", more.address));
    }
    // Two users' units may have one name, and one word allows both.
    let mut words: Vec<String> = Vec::new();
    for stop in &kept {
        let word = format!(" --stop {}", stop.word());
        if !words.contains(&word) {
            error = error.detail(format!("with{word}: {}", stop.meaning()));
            words.push(word);
        }
    }
    Some(error.hint(format!(
        "close them, or let gpuferry:  gpuferry detach {}{}",
        card.address,
        words.concat()
    )))
}

/// `/dev/dri/card0 is open`, or only mapped: its file was closed, and its memory is still used.
fn in_use(holder: &Holder) -> String {
    let open = holder.nodes.iter().any(|node| !holder.mapped.contains(node));
    let verb = if holder.nodes.len() > 1 { "are" } else { "is" };
    format!("{} {verb} {}", holder.nodes.join(", "), if open { "open" } else { "mapped" })
}

/// Why a card cannot come home now: a guest has it.
pub fn refuse_home(card: &Card, held: &[Held]) -> Option<Error> {
    let guest =
        held.iter().filter(|held| held.driver.as_deref() == Some(VFIO)).find(|held| !held.holders.is_empty());
    if let Some(held) = guest {
        let who = held.holders.iter().map(Holder::shown).collect::<Vec<_>>().join(", ");
        return Some(
            Error::refused(format!(
                "{} is inside a guest: {who} has {}",
                held.address, held.holders[0].nodes[0]
            ))
            .detail(
                "taken away now, the unbind would hang until the guest ends, and other hand-overs with it",
            )
            .hint(format!("shut the guest down, then: gpuferry reattach {}", card.address)),
        );
    }
    None
}

/// What rule 2 protects, and groups that would have to go as one. `together`: all cards named in one command.
pub fn refuse_host(host: &Host, card: &Card, together: &[Card]) -> Option<Error> {
    if let Some(error) = card.functions.iter().find_map(|address| crate::judge::protect(host, *address)) {
        return Some(error);
    }
    let mut companions = card.companions(host);
    companions.retain(|companion| !together.iter().any(|other| other.functions.contains(companion)));
    if companions.is_empty() {
        return None;
    }
    let group = host.function(card.address).and_then(|function| function.iommu_group);
    let group = group.map_or_else(String::new, |group| format!(" {group}"));
    let named = |address: &Address| {
        let label = host.function(*address).map_or_else(String::new, crate::host::Function::label);
        format!("{address} {label}")
    };
    let mut error = Error::refused(format!("{} shares IOMMU group{group} with other devices", card.address));
    for companion in &companions {
        error = error.detail(named(companion));
    }
    let words: Vec<_> = companions.iter().map(Address::to_string).collect();
    Some(
        error
            .detail("a guest gets a whole group or nothing: what shares it can reach the guest's memory")
            .hint(format!(
                "gpuferry detach {} {}   if the host can do without them",
                card.address,
                words.join(" ")
            ))
            .hint("another slot may have a group of its own: gpuferry inspect groups"),
    )
}
