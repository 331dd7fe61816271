//! `lab`: builds the emulated host, boots one to look around in, says what this machine lacks for it.

mod bench;
mod demo;
mod doctor;
mod shell;

use anyhow::{Context, Result, bail};
use lab::{
    Device, Firmware, Host, Iommu, Machine, Plan, binaries, full_host, image, kvm, small, small_host, tree,
};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "\
lab doctor                    what this machine lacks for the lab
lab build                     make everything that is cached: trees, kernel, disk, programs
lab bench                     time gpuferry against what does the same job
lab demo                      carry a card over and back, showing each step
lab boot small|full [option…] boot a host and run the commands typed (or piped) in
    --machine twin-nvidia|twin-bochs|desktop|bochs-and-nvidia|single-nvidia|single-bochs|bare
    --iommu intel|amd|none    --uefi    --bad-board (cards share a group)    --boot-card N (from 0)
    --cmdline WORDS           kernel parameters (small)
    --guest                   with QEMU and a guest kernel in it (small)
    --desktop                 with a display manager, libvirt's daemon, the look-alike card's driver (full)
    --nvidia-driver           with a driver for the look-alike card (small)
    --nvme-root               the disk is an NVMe disk (full)
    --empty-first             an empty port in front: every bus number is one higher
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["doctor"] => doctor::report(),
        ["bench"] => bench::run(),
        ["bench", "files", gpuferry] => bench::files(gpuferry),
        ["build"] => build(),
        ["demo"] => build().and_then(|()| demo::run()),
        ["boot", kind, options @ ..] => plan(kind, options).and_then(boot),
        _ => Err(anyhow::anyhow!("usage:\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    step("QEMU and firmware", || Ok(tree::tools()?.root().display().to_string()))?;
    step("Debian for the host", || Ok(tree::host()?.display().to_string()))?;
    step("gpuferry and agent, static", || Ok(binaries::binaries()?.gpuferry.display().to_string()))?;
    step("kernel and small host", || Ok(small::small()?.base.display().to_string()))?;
    step("kit for guests in the small host", || Ok(lab::nested::kit()?.display().to_string()))?;
    step("accelerator", || Ok(format!("{:?}", kvm::accelerator())))?;
    step("driver of the look-alike card", || Ok(small::small_with_nvidia()?.base.display().to_string()))?;
    step("disk of the full host", || Ok(image::disk()?.display().to_string()))
}

fn step(name: &str, make: impl FnOnce() -> Result<String>) -> Result<()> {
    let start = Instant::now();
    let mut out = io::stdout();
    write!(out, "{name:34}")?;
    out.flush()?;
    let made = make()?;
    writeln!(out, "{:6.1} s  {made}", start.elapsed().as_secs_f64())?;
    Ok(())
}

fn plan(kind: &str, options: &[&str]) -> Result<Plan> {
    let (mut machine, mut cmdline) = (Machine::default(), String::new());
    let (mut with_guest, mut with_desktop, mut with_nvidia) = (false, false, false);
    let mut options = options.iter().copied();
    // The machine first: the other options change it.
    let mut later = Vec::new();
    while let Some(option) = options.next() {
        if option == "--machine" {
            machine = named(options.next().context("--machine needs a name")?)?;
        } else {
            later.push(option);
        }
    }
    let mut options = later.into_iter();
    while let Some(option) = options.next() {
        let mut value = || options.next().with_context(|| format!("{option} needs a value"));
        machine = match option {
            "--iommu" => machine.iommu(match value()? {
                "intel" => Iommu::Intel,
                "amd" => Iommu::Amd,
                "none" => Iommu::None,
                other => bail!("no IOMMU is called {other}"),
            }),
            "--uefi" => machine.firmware(Firmware::Uefi),
            "--bad-board" => machine.without_acs(),
            "--boot-card" => machine.boot_card(value()?.parse().context("--boot-card needs a number")?),
            "--nvme-root" => machine.boots_from_nvme(),
            "--empty-first" => machine.with_first(Device::Empty),
            "--cmdline" => {
                value()?.clone_into(&mut cmdline);
                machine
            }
            "--guest" => {
                with_guest = true;
                machine
            }
            "--desktop" => {
                with_desktop = true;
                machine
            }
            "--nvidia-driver" => {
                with_nvidia = true;
                machine
            }
            other => bail!("unknown option {other}; usage:\n{USAGE}"),
        };
    }
    let plan = match kind {
        "small" => small_host(machine),
        "full" => full_host(machine),
        other => bail!("a host is small or full, not {other}"),
    };
    let plan = if cmdline.is_empty() { plan } else { plan.cmdline(&cmdline) };
    let plan = if with_desktop { plan.with_desktop() } else { plan };
    let plan = if with_nvidia { plan.with_nvidia() } else { plan };
    Ok(if with_guest { plan.with_guest() } else { plan })
}

fn named(name: &str) -> Result<Machine> {
    Ok(match name {
        "twin-nvidia" => Machine::twin_nvidia(),
        "twin-bochs" => Machine::twin_bochs(),
        "desktop" => Machine::desktop(),
        "bochs-and-nvidia" => Machine::bochs_and_nvidia(),
        "single-nvidia" => Machine::single_nvidia(),
        "single-bochs" => Machine::single_bochs(),
        "bare" => Machine::bare(),
        other => bail!("no machine is called {other}"),
    })
}

fn boot(plan: Plan) -> Result<()> {
    let mut host: Host = plan.try_boot()?;
    shell::talk(&mut host)
}
