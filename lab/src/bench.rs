//! `lab bench`: what gpuferry costs, beside what does the same job, in one run inside one emulated host.
//!
//! Prints the table of docs/performance.md. Times under emulation are long and noisy; the ratios of neighbours in
//! one round are what counts.

use anyhow::{Context, Result, bail, ensure};
use lab::{End, Machine, small_host};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

/// Rounds; each does everything once.
const ROUNDS: usize = 11;

/// What is compared: its name in the script's output, what gpuferry does, what it is compared with.
const PAIRS: [(&str, &str, &str); 6] = [
    ("devices-nnk", "gpuferry inspect devices --json", "lspci -nnk"),
    (
        "inspect-loop",
        "gpuferry inspect --json",
        "the loop over the groups that people copy: `lspci -nns` once a device",
    ),
    ("inspect-nnk", "gpuferry inspect --json", "lspci -nnk"),
    ("inspect-Dnn", "gpuferry inspect --json", "lspci -Dnn"),
    ("detach", "gpuferry detach", "the bare sysfs writes: override, unbind, probe"),
    ("reattach", "gpuferry reattach", "the bare sysfs writes: clear, unbind, probe"),
];

/// Measures and prints.
pub(crate) fn run() -> Result<()> {
    let host = small_host(Machine::desktop().cpus(2))
        .program("/bench.sh", include_str!("../assets/bench.sh"))
        .try_boot()?;
    let functions = host.try_run("ls /sys/bus/pci/devices | wc -l", b"", Duration::from_secs(30))?;
    let output = host.try_run(&format!("sh /bench.sh {ROUNDS}"), b"", Duration::from_secs(1800))?;
    ensure!(output.end == End::Exit(0), "the script failed: {}{}", output.stdout(), output.stderr());
    let samples = samples(output.stdout())?;
    let mut out = io::stdout();
    writeln!(
        out,
        "{} PCI functions, accelerator {:?}, {ROUNDS} rounds, medians\n",
        functions.text(),
        host.accelerator()
    )?;
    writeln!(
        out,
        "| gpuferry | ms | compared with | ms | ratio (median of rounds) |\n|---|---|---|---|---|"
    )?;
    for (name, ours, theirs) in PAIRS {
        let rounds = samples.get(name).with_context(|| format!("nothing was measured for {name}"))?;
        let a = median(rounds.iter().map(|(a, _)| a / 1000.0));
        let b = median(rounds.iter().map(|(_, b)| b / 1000.0));
        let ratio = median(rounds.iter().map(|(a, b)| a / b));
        writeln!(out, "| `{ours}` | {a:.1} | {theirs} | {b:.1} | {ratio:.3} |")?;
    }
    Ok(())
}

/// Pairs of microseconds by name.
fn samples(text: &str) -> Result<BTreeMap<String, Vec<(f64, f64)>>> {
    let mut samples: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for line in text.lines() {
        let [name, a, b] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            bail!("the script printed `{line}`");
        };
        samples.entry(name.to_owned()).or_default().push((a.parse()?, b.parse()?));
    }
    Ok(samples)
}

/// The middle one; the lower of the two middle ones of an even number.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}
