//! `inspect devices`: every function, its driver, and what the host uses it for.

use super::config::bridge_word;
use crate::{
    cli::render::{WIDTH, class_word, fit, holds, link_words, short_name, wrap},
    host::{Function, Host},
    judge,
};
use std::fmt::Write;

/// For the eye.
pub(in crate::cli) fn text(host: &Host) -> String {
    let mut text = String::new();
    for function in &host.functions {
        let id = function.id().map_or_else(|| "?".to_owned(), |id| id.to_string());
        let driver = function.driver.as_deref().unwrap_or(if host.drivers_told { "-" } else { "?" });
        let word = bridge_word(function).unwrap_or(class_word(function));
        let line = format!(
            "  {}  {word:<11} {id}  {:<14} {}",
            function.address,
            fit(driver, 14),
            short_name(function)
        );
        text.push_str(&fit(line.trim_end(), WIDTH));
        text.push('\n');
        for note in notes(host, function) {
            text.push_str(&wrap(&note, 16));
        }
    }
    text
}

/// The driver, in words of its own.
pub(in crate::cli) fn driver_words(host: &Host, function: &Function) -> String {
    match (&function.driver, host.drivers_told) {
        (Some(driver), _) => format!("driver {driver}"),
        (None, true) => "no driver".to_owned(),
        (None, false) => "driver not told".to_owned(),
    }
}

/// For a screen reader.
pub(in crate::cli) fn plain(host: &Host) -> String {
    let mut text = String::new();
    for function in &host.functions {
        let address = function.address;
        let mut say = |fact: &str| {
            let _ = writeln!(text, "{address}: {}.", fit(fact, usize::MAX));
        };
        let id = function.id().map_or_else(String::new, |id| format!(", {id}"));
        say(&format!(
            "{}, {}{id}",
            bridge_word(function).unwrap_or(class_word(function)),
            short_name(function)
        ));
        say(&driver_words(host, function));
        if let Some(group) = function.iommu_group {
            say(&format!("IOMMU group {group}"));
        }
        for note in notes(host, function) {
            say(&note);
        }
    }
    text
}

fn notes(host: &Host, function: &Function) -> Vec<String> {
    let asleep = function.power.as_deref().filter(|power| *power != "D0" && function.config.is_none());
    let express = function.config.as_ref().and_then(|config| config.express.as_ref());
    let slot = express.and_then(|express| express.slot).map(|number| slot(host, function, number));
    let refusal = judge::refusal(host, function.address).filter(|_| !function.is_pci_bridge());
    [
        slot,
        holds(host, function.address),
        asleep.map(|power| format!("asleep ({power})")),
        refusal.map(|refusal| format!("stays with the host: {}", refusal.id)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// `slot 4, at most 16.0 GT/s x16, empty`; 0 is what ports say whose slot has no number.
fn slot(host: &Host, port: &Function, number: u16) -> String {
    let name = if number == 0 { "slot".to_owned() } else { format!("slot {number}") };
    let link = port.link.as_ref().and_then(link_words).map_or_else(String::new, |link| format!(", {link}"));
    let empty = !host.functions.iter().any(|function| function.parent == Some(port.address));
    format!("{name}{link}{}", if empty { ", empty" } else { "" })
}
