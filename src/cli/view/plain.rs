//! What a screen reader reads best: the machine and its cards in sentences, one fact a line.

use crate::{
    cli::{
        render::{short_name, used_for, verdict_word},
        screen,
    },
    host::{Gpu, Host},
    language::Language,
};
use std::fmt::Write;

/// The first screen.
pub(in crate::cli) fn screen(host: &Host, language: Language) -> String {
    let mut text = machine(host);
    for gpu in &host.gpus {
        text.push_str(&card(host, gpu));
    }
    for sentence in &host.unseen {
        let sentence = format!("Not seen: {}.", sentence.trim_end_matches('.'));
        let _ = writeln!(text, "{}", language.say(&sentence));
    }
    text + &pairs(&screen::next(host, language))
}

/// The machine: what it is, and what it can do.
pub(in crate::cli) fn machine(host: &Host) -> String {
    let both = screen::machine(host);
    let at = both.find(" Virtualization").unwrap_or(0);
    let (parts, words) = both.split_at(at);
    let parts = parts.split(['·', '\n']).map(str::trim).filter(|part| !part.is_empty());
    let machine = parts.map(|part| format!("Machine: {part}.\n"));
    // Two pairs of label and value on one line.
    let words: Vec<&str> = words.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    let pairs = words.chunks(2).map(|pair| format!("{}.\n", pair.join(": ")));
    machine.chain(pairs).collect()
}

fn card(host: &Host, gpu: &Gpu) -> String {
    let Some(function) = host.function(gpu.address) else { return String::new() };
    let group = function.iommu_group.map_or_else(|| "no group".to_owned(), |group| format!("group {group}"));
    let shared = if gpu.companions.is_empty() { "" } else { ", shared with other devices" };
    let driver = super::devices::driver_words(host, function);
    let facts = [
        short_name(function),
        driver,
        format!("{group}{shared}"),
        used_for(host, gpu),
        format!("verdict: {}", verdict_word(gpu.verdict)),
    ];
    facts
        .iter()
        .filter(|fact| !fact.is_empty())
        .fold(String::new(), |text, fact| text + &format!("Card {}: {fact}.\n", gpu.address))
}

/// Two columns to `label: value`; where there is one column, it is a sentence already.
pub(in crate::cli) fn pairs(text: &str) -> String {
    let line = |line: &str| {
        let parts: Vec<&str> = line.split("  ").map(str::trim).filter(|part| !part.is_empty()).collect();
        if parts.is_empty() { String::new() } else { parts.join(": ") + "\n" }
    };
    text.lines().map(line).collect()
}

/// A table whose titles stand in `width` columns after `indent`, to `title: value` after a word for what it is about.
/// A line without a title goes with the last one.
pub(in crate::cli) fn titled(text: &str, about: &str, indent: usize, width: usize) -> String {
    let mut title = String::new();
    let mut out = String::new();
    for line in text.lines() {
        let start: String = line.chars().skip(indent).take(width).collect();
        let value: String = line.chars().skip(indent + width).collect();
        let is_row = line.chars().take(indent).all(|c| c == ' ') && !value.trim().is_empty();
        if !is_row {
            continue;
        }
        if !start.trim().is_empty() {
            start.trim().clone_into(&mut title);
        }
        let parts: Vec<&str> = value.split("  ").map(str::trim).filter(|part| !part.is_empty()).collect();
        let _ = writeln!(out, "{about}{title}: {}.", parts.join(", ").trim_end_matches('.'));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::*;

    #[test]
    fn columns_become_sentences() {
        assert_eq!(
            pairs(" Ready.\n   try it now      gpuferry detach x\n\n"),
            "Ready.\ntry it now: gpuferry detach x\n"
        );
        let table = "0000:01:00.0  name\n  kind        a card\n  functions   0000:01:00.0  VGA      nvidia\n              0000:01:00.1  audio    snd\n";
        assert_eq!(
            titled(table, "Card 1, ", 2, 12),
            "Card 1, kind: a card.\nCard 1, functions: 0000:01:00.0, VGA, nvidia.\n\
             Card 1, functions: 0000:01:00.1, audio, snd.\n"
        );
    }

    #[test]
    fn the_machine_is_read_out() {
        let mut host = desktop();
        host.cpu.model = Some("A Processor".into());
        host.kernel.release = Some("6.1.0".into());
        assert_eq!(
            machine(&host),
            "Machine: A Processor.\nMachine: Linux 6.1.0.\nVirtualization: on (vmx).\n\
             IOMMU: on, interrupt remapping, 5 groups.\n"
        );
        let text = screen(&host, Language::English);
        assert!(text.contains("Card 0000:01:00.0: driver nvidia.\n"), "{text}");
        assert!(!text.contains("  ") && text.is_ascii(), "{text}");
    }
}
