//! `lab bench`: what gpuferry costs, beside what does the same job, each thing in turn in one run: on this machine,
//! inside one emulated host, and on this machine with that host's /sys as files.
//!
//! Prints the tables of docs/performance.md. Times under emulation are long and noisy; the ratios of neighbours in
//! one round are what counts.

use anyhow::{Context, Result, bail, ensure};
use lab::{End, Machine, small_host};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Rounds in the emulated host; each does everything once.
const ROUNDS: usize = 11;

/// Rounds on this machine.
const ROUNDS_HERE: usize = 200;

/// Rounds on this machine with the emulated host's /sys.
const ROUNDS_FILES: usize = 31;

const SCRIPT: &str = include_str!("../assets/bench.sh");

/// Packs /sys, of /sys/kernel only the groups: a look finds no huge pages and no lockdown there. What cannot be read
/// (memory of devices) stays out.
const PACK: &str = "mkdir /tmp/saved; cd /tmp/saved; cp -dR --parents /sys/b* /sys/class /sys/dev /sys/devices \
                    /sys/firmware /sys/kernel/iommu_groups /sys/module . 2>/dev/null; tar -cz sys | base64 -w0";

/// Runs a program where that /sys is.
const UNPACK: &str =
    "base64 -d | tar -xz -C \"$1\" && mount --bind \"$1/sys\" /sys && exec \"$2\" bench files \"$3\"";

/// What people copy to see their groups.
const LOOP: &str = include_str!("../assets/copied-loop.sh");

/// As it is called in the tables.
const LOOP_NAME: &str = "the loop over the groups that people copy: `lspci -nns` once a device";

/// A command, and one that it is compared with.
type Pair = (&'static str, &'static str);

/// What is run on this machine.
const PAIRS_HERE: [Pair; 4] = [
    ("gpuferry inspect devices --json", "lspci -nnk"),
    ("gpuferry inspect --json", "lspci -nnk"),
    ("gpuferry inspect --json", "lspci -Dnn"),
    ("gpuferry hook qemu nobody prepare begin -", "true"),
];

/// What is run with the emulated host's /sys as files.
const PAIRS_FILES: [Pair; 4] = [
    ("gpuferry inspect devices --json", "lspci -nnk"),
    ("gpuferry inspect --json", LOOP_NAME),
    ("gpuferry inspect --json", "lspci -nnk"),
    ("gpuferry inspect --json", "lspci -Dnn"),
];

/// What is compared: its name in the script's output, what gpuferry does, what it is compared with.
const PAIRS: [(&str, &str, &str); 6] = [
    ("devices-nnk", "gpuferry inspect devices --json", "`lspci -nnk`"),
    ("inspect-loop", "gpuferry inspect --json", LOOP_NAME),
    ("inspect-nnk", "gpuferry inspect --json", "`lspci -nnk`"),
    ("inspect-Dnn", "gpuferry inspect --json", "`lspci -Dnn`"),
    ("detach", "gpuferry detach", "the bare sysfs writes: override, unbind, probe"),
    ("reattach", "gpuferry reattach", "the bare sysfs writes: clear, unbind, probe"),
];

/// Measures and prints.
pub(crate) fn run() -> Result<()> {
    let gpuferry = &lab::binaries::binaries()?.gpuferry;
    here("this machine", gpuferry, &PAIRS_HERE, ROUNDS_HERE)?;
    let mut out = io::stdout();
    writeln!(out)?;
    let plan = small_host(Machine::desktop().cpus(2));
    let host = plan.program("/bench.sh", SCRIPT).program("/copied-loop.sh", LOOP).try_boot()?;
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
    let samples = samples(output.stdout())?;
    for (name, ours, theirs) in PAIRS {
        let rounds = samples.get(name).with_context(|| format!("nothing was measured for {name}"))?;
        row(&mut out, ours, theirs, rounds)?;
    }
    writeln!(out)?;
    let saved = host.try_run(PACK, b"", Duration::from_secs(300))?;
    ensure!(saved.end == End::Exit(0), "/sys could not be packed: {}", saved.stderr());
    drop(host);
    if !rustix::process::geteuid().is_root() {
        return Ok(writeln!(out, "only root can put another /sys in the place of this machine's")?);
    }
    with_files(gpuferry, saved.stdout())
}

/// Measures and prints on this machine, in a mount namespace with another /sys: [`files`] does it there.
fn with_files(gpuferry: &Path, saved: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut child = Command::new("unshare")
        .args(["--mount", "sh", "-c", UNPACK, "bench"])
        .args([folder.path(), &std::env::current_exe()?, gpuferry])
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start unshare")?;
    child.stdin.take().context("there is no pipe")?.write_all(saved.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "measuring with another /sys failed: {status}");
    Ok(())
}

/// Measures and prints where the emulated host's /sys is in the place of this machine's.
pub(crate) fn files(gpuferry: &str) -> Result<()> {
    here("this machine with that /sys as files", Path::new(gpuferry), &PAIRS_FILES, ROUNDS_FILES)
}

const HEAD: &str = "| gpuferry | ms | compared with | ms | ratio (median of rounds) |\n|---|---|---|---|---|";

/// Pairs of microseconds as a row.
fn row(out: &mut impl Write, ours: &str, theirs: &str, rounds: &[(f64, f64)]) -> io::Result<()> {
    let a = median(rounds.iter().map(|(a, _)| a / 1000.0));
    let b = median(rounds.iter().map(|(_, b)| b / 1000.0));
    let ratio = median(rounds.iter().map(|(a, b)| a / b));
    writeln!(out, "| `{ours}` | {a:.1} | {theirs} | {b:.1} | {ratio:.3} |")
}

/// Runs pairs of commands in turn, round by round, and prints what they took.
fn here(place: &str, gpuferry: &Path, pairs: &[Pair], rounds: usize) -> Result<()> {
    let mut all = vec![Vec::new(); pairs.len()];
    for _ in 0..rounds {
        for ((ours, theirs), rounds) in pairs.iter().zip(&mut all) {
            rounds.push((took(gpuferry, ours)?, took(gpuferry, theirs)?));
        }
    }
    let functions = std::fs::read_dir("/sys/bus/pci/devices").map_or(0, Iterator::count);
    let mut out = io::stdout();
    writeln!(out, "{place}, {functions} PCI functions, {rounds} rounds, medians\n\n{HEAD}")?;
    for ((ours, theirs), rounds) in pairs.iter().zip(&all) {
        let theirs = if *theirs == LOOP_NAME { LOOP_NAME.to_owned() } else { format!("`{theirs}`") };
        row(&mut out, ours, &theirs, rounds)?;
    }
    Ok(())
}

/// Microseconds that a command takes.
fn took(gpuferry: &Path, command: &str) -> Result<f64> {
    let words: Vec<&str> =
        if command == LOOP_NAME { vec!["sh", "-c", LOOP] } else { command.split(' ').collect() };
    let (program, words) = words.split_first().context("there is no command")?;
    let mut command = Command::new(if *program == "gpuferry" { gpuferry.to_owned() } else { found(program) });
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let status = command.status().with_context(|| format!("cannot start {program}"))?;
    let took = begun.elapsed().as_secs_f64() * 1e6;
    ensure!(status.success(), "{program} ended with {status}");
    Ok(took)
}

/// Where a program is, so that the search for it is not measured.
fn found(program: &str) -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&folders).map(|folder| folder.join(program));
    places.find(|place| place.is_file()).unwrap_or_else(|| program.into())
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
