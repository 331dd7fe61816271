//! `lab bench`: what gpuferry costs, beside what does the same job, each thing in turn in one run: on this machine,
//! inside one emulated host, and on this machine with that host's /sys as files.
//!
//! Prints the tables of docs/performance.md. Times under emulation are long and noisy; the ratios of neighbours in
//! one round are what counts.

use anyhow::{Context, Result, bail, ensure};
use lab::{End, Machine, small_host};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Rounds in the emulated host; each does everything once.
const ROUNDS: usize = 11;

/// Rounds on this machine.
const ROUNDS_HERE: usize = 200;

/// Rounds on this machine with the emulated host's /sys.
const ROUNDS_FILES: usize = 31;

const SCRIPT: &str = include_str!("../assets/bench.sh");

/// Packs what looks read of PCI functions. What only the kernel can give (memory of devices) stays out.
const PACK: &str = "mkdir /tmp/saved; cd /tmp/saved; cp -dR --parents /sys/bus/pci/devices /sys/devices/pci* \
                    /sys/kernel/iommu_groups . 2>/dev/null; tar -cz sys | base64 -w0";

/// Runs the script where that /sys is.
const UNPACK: &str = "base64 -d | tar -xz -C \"$1\" && mount --bind \"$1/sys\" /sys && \
                      cd \"$1\" && PATH=$2:$PATH exec bash -c \"$3\" bench \"$4\" looks";

/// What is run on this machine, and what it is compared with.
const PAIRS_HERE: [(&str, &str); 4] = [
    ("gpuferry inspect devices --json", "lspci -nnk"),
    ("gpuferry inspect --json", "lspci -nnk"),
    ("gpuferry inspect --json", "lspci -Dnn"),
    ("gpuferry hook qemu nobody prepare begin -", "true"),
];

/// What is compared: its name in the script's output, what gpuferry does, what it is compared with.
const PAIRS: [(&str, &str, &str); 6] = [
    ("devices-nnk", "gpuferry inspect devices --json", "`lspci -nnk`"),
    (
        "inspect-loop",
        "gpuferry inspect --json",
        "the loop over the groups that people copy: `lspci -nns` once a device",
    ),
    ("inspect-nnk", "gpuferry inspect --json", "`lspci -nnk`"),
    ("inspect-Dnn", "gpuferry inspect --json", "`lspci -Dnn`"),
    ("detach", "gpuferry detach", "the bare sysfs writes: override, unbind, probe"),
    ("reattach", "gpuferry reattach", "the bare sysfs writes: clear, unbind, probe"),
];

/// Measures and prints.
pub(crate) fn run() -> Result<()> {
    let functions = std::fs::read_dir("/sys/bus/pci/devices").map_or(0, Iterator::count);
    let here = here(&lab::binaries::binaries()?.gpuferry)?;
    let mut out = io::stdout();
    writeln!(out, "this machine, {functions} PCI functions, {ROUNDS_HERE} rounds, medians\n\n{HEAD}")?;
    for ((ours, theirs), rounds) in PAIRS_HERE.iter().zip(here) {
        row(&mut out, ours, &format!("`{theirs}`"), rounds.iter().copied())?;
    }
    writeln!(out)?;
    let host = small_host(Machine::desktop().cpus(2)).program("/bench.sh", SCRIPT).try_boot()?;
    let functions = host.try_run("ls /sys/bus/pci/devices | wc -l", b"", Duration::from_secs(30))?;
    let output =
        host.try_run(&format!("cd /tmp && sh /bench.sh {ROUNDS}"), b"", Duration::from_secs(1800))?;
    ensure!(output.end == End::Exit(0), "the script failed: {}{}", output.stdout(), output.stderr());
    writeln!(
        out,
        "emulated host, {} PCI functions, accelerator {:?}, {ROUNDS} rounds, medians\n\n{HEAD}",
        functions.text(),
        host.accelerator()
    )?;
    rows(&mut out, &PAIRS, output.stdout())?;
    let saved = host.try_run(PACK, b"", Duration::from_secs(300))?;
    ensure!(saved.end == End::Exit(0), "/sys could not be packed: {}", saved.stderr());
    drop(host);
    if !rustix::process::geteuid().is_root() {
        return Ok(writeln!(out, "\nonly root can put another /sys in the place of this machine's")?);
    }
    writeln!(
        out,
        "\nthis machine with that /sys as files, {} PCI functions, {ROUNDS_FILES} rounds, medians\n\n{HEAD}",
        functions.text()
    )?;
    let looks: Vec<_> = PAIRS.into_iter().filter(|(_, ours, _)| ours.contains("inspect")).collect();
    rows(&mut out, &looks, &with_files(saved.stdout())?)
}

/// What the script prints on this machine, in a mount namespace of its own.
fn with_files(saved: &str) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let programs = lab::binaries::binaries()?.gpuferry.parent().context("gpuferry is in no folder")?;
    let mut child = Command::new("unshare")
        .args(["--mount", "sh", "-c", UNPACK, "bench"])
        .args([folder.path(), programs])
        .args([SCRIPT, &ROUNDS_FILES.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start unshare")?;
    child.stdin.take().context("there is no pipe")?.write_all(saved.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "the script failed: {said}");
    Ok(said)
}

/// Rows of what the script printed.
fn rows(out: &mut impl Write, pairs: &[(&str, &str, &str)], said: &str) -> Result<()> {
    let samples = samples(said)?;
    for (name, ours, theirs) in pairs {
        let rounds = samples.get(*name).with_context(|| format!("nothing was measured for {name}"))?;
        row(out, ours, theirs, rounds.iter().copied())?;
    }
    Ok(())
}

const HEAD: &str = "| gpuferry | ms | compared with | ms | ratio (median of rounds) |\n|---|---|---|---|---|";

/// Pairs of microseconds as a row.
fn row(
    out: &mut impl Write,
    ours: &str,
    theirs: &str,
    rounds: impl Iterator<Item = (f64, f64)> + Clone,
) -> io::Result<()> {
    let a = median(rounds.clone().map(|(a, _)| a / 1000.0));
    let b = median(rounds.clone().map(|(_, b)| b / 1000.0));
    let ratio = median(rounds.map(|(a, b)| a / b));
    writeln!(out, "| `{ours}` | {a:.1} | {theirs} | {b:.1} | {ratio:.3} |")
}

/// Microseconds of each of [`PAIRS_HERE`], round by round.
fn here(gpuferry: &Path) -> Result<[Vec<(f64, f64)>; PAIRS_HERE.len()]> {
    let mut all = [const { Vec::new() }; PAIRS_HERE.len()];
    for _ in 0..ROUNDS_HERE {
        for ((ours, theirs), rounds) in PAIRS_HERE.iter().zip(&mut all) {
            rounds.push((took(gpuferry, ours)?, took(gpuferry, theirs)?));
        }
    }
    Ok(all)
}

/// Microseconds that a command takes.
fn took(gpuferry: &Path, command: &str) -> Result<f64> {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let mut command = Command::new(if program == "gpuferry" { gpuferry } else { Path::new(program) });
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let status = command.status().with_context(|| format!("cannot start {program}"))?;
    let took = begun.elapsed().as_secs_f64() * 1e6;
    ensure!(status.success(), "{program} ended with {status}");
    Ok(took)
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
