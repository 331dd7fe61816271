//! The simulated kernel is held to a real one: the same operations, the same results, the same states.

#![allow(clippy::expect_used, reason = "a case that cannot go on should say where")]

use lab::{Card, Device, Machine, small_host};
use std::{fmt::Write as _, io, time::Duration};

const SEQUENCES: &str = include_str!("../../tests/sequences/drivers.txt");
const SHELL: &str = include_str!("../assets/sequence.sh");

/// What the simulation says, in the words of the kernel: error numbers are its sentences.
fn in_words(line: &str) -> String {
    let number = line.rsplit_once(": ").and_then(|(operation, said)| Some((operation, said.parse().ok()?)));
    let Some((operation, number)) = number else { return line.to_owned() };
    let text = io::Error::from_raw_os_error(number).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    format!("{operation}: {text}")
}

/// The shell's part of one sequence.
fn script(lines: &[&str]) -> String {
    let mut script = SHELL.to_owned();
    for line in lines.iter().filter(|line| !line.starts_with("  ")) {
        let operation = line.split(": ").next().unwrap_or_default();
        match operation.split_once(' ').unwrap_or((operation, "")) {
            ("look", _) => script.push_str("echo look; look\n"),
            // A word of the shell's own.
            ("let-go", _) => script.push_str("let_go > /tmp/result; echo let-go: $(cat /tmp/result)\n"),
            ("modprobe", module) => writeln!(script, "echo {operation}: $(load {module})").expect("a string"),
            _ => writeln!(script, "{operation} > /tmp/result; echo {operation}: $(cat /tmp/result)")
                .expect("a string"),
        }
    }
    script
}

#[test]
fn the_kernel_does_as_the_simulation_says() {
    let machine = Machine::twin_bochs().with(Device::Nvidia(Card::new(0x4001)));
    let host = small_host(machine).boot();
    let lines = SEQUENCES.lines().filter(|line| !line.starts_with('#'));
    let lines: Vec<&str> = lines.collect();
    let mut differ = Vec::new();
    let mut count = 0;
    for sequence in lines.split(|line| line.is_empty()).filter(|sequence| !sequence.is_empty()) {
        let (name, steps) = sequence.split_first().expect("a name");
        let said = host.run_within(&script(steps), Duration::from_secs(120)).ok();
        let wanted: Vec<String> = steps.iter().map(|line| in_words(line)).collect();
        let got = said.lines();
        count += 1;
        for at in 0..wanted.len().max(got.len()) {
            let (wanted, got) =
                (wanted.get(at).map_or("", String::as_str), got.get(at).copied().unwrap_or(""));
            if wanted != got {
                differ.push(format!("{name}, line {at}\n  simulated `{wanted}`\n  real      `{got}`"));
            }
        }
    }
    assert!(count > 20, "{count} sequences");
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
