//! `lab demo`: the whole crossing in an emulated host, each command and what it prints as it happens.
//!
//! Nothing here is told in advance: every line below a `#` prompt was printed by the host, and the table at the end
//! holds what the host's kernel said at three moments.

use anyhow::{Result, ensure};
use lab::{Host, Machine, full_host};
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// The card that makes the journey: the second of two identical ones.
const CARD: &str = "0000:02:00.0";
/// Longer than any command takes on two slow cores without KVM.
const PATIENCE: Duration = Duration::from_secs(600);

/// Carries a card over and back.
pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    say(&format!(
        "A Debian host with two identical graphics cards is emulated here, with a real kernel, a real IOMMU,\n\
         GRUB and systemd. {CARD} will go to a guest and come home. No part of it is mocked."
    ))?;
    chapter("the host boots")?;
    let mut host = full_host(Machine::twin_bochs()).try_boot()?;
    let before = holders(&host)?;
    let files = source_files(&host)?;

    chapter("look")?;
    show(&host, "gpuferry")?;
    chapter("what would change")?;
    show(&host, &format!("gpuferry plan static --gpu {CARD} -o /root/card.json"))?;
    chapter("change it")?;
    show(&host, "gpuferry apply --yes /root/card.json")?;
    chapter("the host reboots")?;
    host.try_reboot()?;
    show(&host, "dmesg | grep gpuferry:")?;

    chapter("a guest gets the card")?;
    // The emulated processor has SVM, so the host offers KVM; emulated twice it is slower than QEMU's own emulation.
    let vm = format!("gpuferry vm run --name demo --gpu {CARD} --memory 256M --accel tcg --cpus 1 2>&1");
    prompt(&vm)?;
    // In the shell's place: the signal below is for gpuferry.
    let job = host.start(&format!("exec {vm}"));
    let mut printed = Printed::default();
    while printed.so_far.matches("is inside as").count() < 2 {
        ensure!(job.is_running(), "`{vm}` ended: {}", job.stdout());
        ensure!(start.elapsed() < PATIENCE * 3, "the guest does not see the card");
        printed.follow(&job.stdout())?;
    }
    let during = holders(&host)?;
    show(&host, "gpuferry status")?;
    say("\nCtrl-C, and once more: this guest has no system that would hear its power button.")?;
    let output = loop {
        job.kill(2);
        if let Some(output) = job.wait(Duration::from_secs(3)) {
            break output;
        }
        ensure!(start.elapsed() < PATIENCE * 3, "the guest does not end");
    };
    printed.follow(output.stdout())?;
    ensure!(output.end == lab::End::Exit(0), "`{vm}` ended with {:?}", output.end);

    chapter("the card comes home")?;
    show(&host, &format!("gpuferry reattach {CARD}"))?;
    show(&host, "gpuferry status")?;
    let after = holders(&host)?;

    chapter("undo everything")?;
    show(&host, "gpuferry revert")?;
    chapter("the host reboots")?;
    host.try_reboot()?;
    show(&host, "cat /proc/cmdline")?;
    ensure!(source_files(&host)? == files, "/etc is not as it was");
    let end = holders(&host)?;
    ensure!(end == before, "the drivers are not those of the beginning");

    chapter("who had the card")?;
    let mut out = io::stdout();
    for (when, who) in [("before", &before), ("during", &during), ("after", &after), ("undone", &end)] {
        writeln!(out, "  {when:8} {}", who.join("  "))?;
    }
    writeln!(
        out,
        "\nand what the guest had on its PCI bus, as its own firmware numbered it (QMP, query-pci):"
    )?;
    for line in output.stdout().lines().filter(|line| line.contains("is inside as")) {
        writeln!(out, "  {}", line.trim())?;
    }
    writeln!(out, "\n/etc is as it was, byte for byte. {} s in all.", start.elapsed().as_secs())?;
    Ok(())
}

/// Driver of each function of both cards, as the kernel's links say.
fn holders(host: &Host) -> Result<Vec<String>> {
    let functions = ["01:00.0", "01:00.1", "02:00.0", "02:00.1"];
    let link = |function: &str| -> Result<String> {
        let command = format!(
            "basename $(readlink /sys/bus/pci/devices/0000:{function}/driver) 2>/dev/null || echo none"
        );
        let driver = host.try_run(&command, b"", Duration::from_secs(60))?;
        Ok(format!("{function} {}", driver.text()))
    };
    functions.into_iter().map(link).collect()
}

/// Checksum, mode and owner of every file in /etc.
fn source_files(host: &Host) -> Result<String> {
    let command = "cd /etc && find . -xdev -type f -exec sha256sum {} + | sort -k2 && find . -xdev | sort | xargs -d '\\n' stat -c '%a %u %g %n'";
    let output = host.try_run(command, b"", Duration::from_secs(120))?;
    ensure!(output.end == lab::End::Exit(0), "cannot list /etc: {}", output.stderr());
    Ok(output.stdout)
}

/// Runs a command in the host and passes on what it prints, as it prints it.
fn show(host: &Host, command: &str) -> Result<()> {
    prompt(command)?;
    let job = host.start(&format!("{command} 2>&1"));
    let mut printed = Printed::default();
    let start = Instant::now();
    let output = loop {
        if let Some(output) = job.wait(Duration::from_millis(300)) {
            break output;
        }
        ensure!(start.elapsed() < PATIENCE, "`{command}` does not end");
        printed.follow(&job.stdout())?;
    };
    printed.follow(output.stdout())?;
    ensure!(output.end == lab::End::Exit(0), "`{command}` ended with {:?}", output.end);
    Ok(())
}

/// What was passed on of a command's output.
#[derive(Default)]
struct Printed {
    so_far: String,
}

impl Printed {
    fn follow(&mut self, stdout: &str) -> Result<()> {
        if let Some(new) = stdout.strip_prefix(self.so_far.as_str()) {
            let mut out = io::stdout();
            out.write_all(new.as_bytes())?;
            out.flush()?;
        }
        stdout.clone_into(&mut self.so_far);
        Ok(())
    }
}

fn chapter(title: &str) -> Result<()> {
    say(&format!("\n== {title} {}", "=".repeat(74_usize.saturating_sub(title.len()))))
}

fn prompt(command: &str) -> Result<()> {
    say(&format!("\nhost# {command}"))
}

fn say(text: &str) -> Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
