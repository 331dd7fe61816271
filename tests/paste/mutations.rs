//! The same text as other people would have pasted it: quoted, cut, mixed with sentences, with other line ends.
//! What comes out is the same, or, where something was cut, a part of it.

use super::{corpus, machine, text};
use gpuferry::{host::Host, paste::Text};
use std::collections::BTreeMap;

/// What must stay the same: by address, class, ids, group, driver and way from the root bus.
type Facts = BTreeMap<String, [String; 5]>;

fn facts(host: &Host) -> Facts {
    let of = |function: &gpuferry::host::Function| {
        [
            if function.class.0 == 0 { String::new() } else { function.class.to_string() },
            function.id().map_or_else(String::new, |id| id.to_string()),
            function.iommu_group.map_or_else(String::new, |group| group.to_string()),
            function.driver.clone().unwrap_or_default(),
            function.path.as_ref().map_or_else(String::new, ToString::to_string),
        ]
    };
    host.functions.iter().map(|function| (function.address.to_string(), of(function))).collect()
}

/// Every fact of `part` is in `whole`, or is unknown in `part`.
fn beyond(part: &Facts, whole: &Facts) -> Vec<String> {
    let odd = |(address, facts): (&String, &[String; 5])| {
        let Some(known) = whole.get(address) else { return Some(format!("{address} is new: {facts:?}")) };
        // A class without its interface, and the beginning of a word at the end of what was cut.
        let right =
            |(own, known): (&String, &String)| known.starts_with(own.strip_suffix("00").unwrap_or(own));
        let good = facts.iter().zip(known).all(right);
        (!good).then(|| format!("{address}: {facts:?}, was {known:?}"))
    };
    part.iter().filter_map(odd).collect()
}

fn each_line(text: &str, change: impl Fn(&str) -> String) -> String {
    text.lines().map(change).collect()
}

/// A way to paste a text.
type Way = fn(&str) -> String;

/// Ways to paste a text that change nothing.
fn harmless() -> Vec<(&'static str, Way)> {
    vec![
        ("line ends of Windows", |text| each_line(text, |line| format!("{line}\r\n"))),
        ("quoted", |text| each_line(text, |line| format!("> {line}\n"))),
        ("quoted twice", |text| each_line(text, |line| format!(">> {line}\n"))),
        ("set off", |text| each_line(text, |line| format!("    {line}\n"))),
        ("fenced", |text| format!("Here it is:\n\n```\n{text}\n```\n\nThanks!\n")),
        ("in a forum's code", |text| format!("[code]{text}[/code]\n")),
        ("after a prompt", |text| format!("root@box:~# lspci -nnvvv\n{text}\nroot@box:~# \n")),
        ("between sentences", |text| {
            format!(
                "Hi all, my card at 01:00.0 will not go.\nHere is it:\n\n{text}\n\nAny ideas? I tried group 3.\n"
            )
        }),
        ("trailing spaces", |text| each_line(text, |line| format!("{line}  \n"))),
        ("doubled line ends", |text| each_line(text, |line| format!("{line}\n\n"))),
        ("coloured", |text| each_line(text, |line| format!("{line}\u{1b}[0m\n"))),
        ("with a mark of the encoding", |text| format!("\u{feff}{text}")),
        ("twice", |text| format!("{text}\n\n{text}")),
    ]
}

/// Small numbers that look random, the same in every run.
pub(crate) struct Dice(pub u64);

impl Dice {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (limit.max(1) as u64)).unwrap()
    }
}

/// Paragraphs in another order.
fn shuffled(text: &str, dice: &mut Dice) -> String {
    let mut parts: Vec<&str> = text.split("\n\n").collect();
    for at in (1..parts.len()).rev() {
        parts.swap(at, dice.below(at + 1));
    }
    parts.join("\n\n")
}

fn machines() -> Vec<(String, Vec<Text>)> {
    let mut machines: Vec<(String, Vec<Text>)> = Vec::new();
    if let Some(corpus) = corpus::corpus() {
        for truth in corpus::truths(&corpus) {
            let name = truth["machine"].as_str().unwrap();
            let texts = corpus::texts(&corpus.join(name));
            let mut texts = texts;
            texts.retain(|one| !one.text.starts_with('{'));
            if !texts.is_empty() {
                machines.push((name.to_owned(), texts));
            }
        }
    }
    machines
}

#[test]
fn how_it_is_pasted_changes_nothing() {
    let mut wrong = Vec::new();
    for (index, (name, texts)) in machines().into_iter().enumerate() {
        let whole = facts(&machine(&texts));
        // Each machine in some of the ways, each way with some of the machines.
        for (way, change) in harmless().into_iter().skip(index % 4).step_by(4) {
            let changed: Vec<Text> = texts.iter().map(|one| text(&one.name, &change(&one.text))).collect();
            let ours = facts(&machine(&changed));
            let lost = beyond(&whole, &ours);
            let new = beyond(&ours, &whole);
            if !(lost.is_empty() && new.is_empty()) {
                wrong.push(format!(
                    "{name} {way}: {} lost, {} new: {:?} {:?}\n",
                    lost.len(),
                    new.len(),
                    lost.first(),
                    new.first()
                ));
            }
        }
        let together: Vec<String> = texts.iter().map(|one| one.text.clone()).collect();
        let ours = facts(&machine(&[text("all", &together.join("\n\nand the other one:\n\n"))]));
        let (lost, new) = (beyond(&whole, &ours), beyond(&ours, &whole));
        if !(lost.is_empty() && new.is_empty()) {
            wrong.push(format!("{name} together: {:?} {:?}\n", lost.first(), new.first()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

#[test]
fn a_part_gives_a_part() {
    let mut wrong = Vec::new();
    let mut dice = Dice(0x5eed);
    for (name, texts) in machines() {
        let whole = facts(&machine(&texts));
        for _ in 0..2 {
            for one in &texts {
                let mut end = dice.below(one.text.len());
                while !one.text.is_char_boundary(end) {
                    end -= 1;
                }
                let (front, back) = one.text.split_at(end);
                for part in [front, back] {
                    let mut own = facts(&machine(&[text(&one.name, part)]));
                    if one.name.contains("dmesg") {
                        // In a log the last driver counts, and what was cut off may have named a later one.
                        for facts in own.values_mut() {
                            facts[3].clear();
                        }
                    }
                    let odd = beyond(&own, &whole);
                    if !odd.is_empty() {
                        wrong.push(format!(
                            "{name} {} cut at {end}: {} {:?}\n",
                            one.name,
                            odd.len(),
                            odd.first()
                        ));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

#[test]
fn the_order_of_paragraphs_changes_nothing() {
    let mut wrong = Vec::new();
    let mut dice = Dice(0xd1ce);
    for (name, texts) in machines() {
        let texts: Vec<Text> = texts.into_iter().filter(|one| !one.name.contains("dmesg")).collect();
        let whole = facts(&machine(&texts));
        let changed: Vec<Text> =
            texts.iter().map(|one| text(&one.name, &shuffled(&one.text, &mut dice))).collect();
        let ours = facts(&machine(&changed));
        let (lost, new) = (beyond(&whole, &ours), beyond(&ours, &whole));
        if !(lost.is_empty() && new.is_empty()) {
            wrong.push(format!("{name}: {:?} {:?}\n", lost.first(), new.first()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
}
