//! `gpuferry vm`: guests. `vm run` starts one by QEMU alone and stays until it ends.

use super::{
    Context,
    consent::may_stop,
    follow::{Shown, need_root, nothing_hangs, this_machine},
    print,
};
use crate::{
    error::{Error, Result, Status},
    handover::{
        client::new_op,
        preflight,
        record::{self, Event},
        request::Wishes,
        snapshot::Card,
        worker::held,
    },
    host::{self, Host},
    machine::{Machine, Ownership, Root, process},
    pci::Address,
    plan::live::{self, Goal},
    vm::{
        Accel, Firmware, Serial, Spec,
        disk::{self, absolute},
        firmware, qemu, run,
    },
};
use clap::{Args, Subcommand, ValueEnum};
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};
use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Guests.
#[derive(Debug, Args)]
pub struct Vm {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Run a guest by QEMU alone, and bring its cards home when it ends.
    Run(Box<Run>),
}

/// Run a guest by QEMU alone. Ctrl-C presses its power button; a second one ends it.
#[derive(Debug, Args)]
struct Run {
    /// A card for the guest, by any of its functions; taken from the host if it has it. May be given again.
    #[arg(long, value_name = "ADDR")]
    gpu: Vec<Address>,
    /// Who may be stopped for it without being asked about: a unit, `display-manager`, `session:USER`,
    /// `process:NAME`, or `all`. What was stopped starts again when the guest has ended.
    #[arg(long, value_name = "WHO")]
    stop: Vec<String>,
    #[command(flatten)]
    wishes: Wishes,
    /// Memory, as 8G or 512M.
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = memory)]
    memory: u64,
    /// Virtual processors.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    cpus: u32,
    /// A disk image or a free block device: FILE[,format=raw|qcow2][,bus=sata|virtio]. May be given again.
    #[arg(long, value_name = "FILE")]
    disk: Vec<String>,
    /// A CD image.
    #[arg(long, value_name = "FILE")]
    cdrom: Option<PathBuf>,
    /// A Linux kernel, started without a boot loader.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Its initramfs.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Its command line.
    #[arg(long, value_name = "WORDS", requires = "kernel", allow_hyphen_values = true)]
    append: Option<String>,
    /// `bios`, `uefi` (OVMF; the guest keeps its own variables), or an image.
    #[arg(long, value_name = "KIND", default_value = "bios")]
    firmware: String,
    /// Where the serial line goes: `stdio`, `none`, or a file.
    #[arg(long, value_name = "WHERE", default_value = "stdio")]
    serial: String,
    /// QEMU.
    #[arg(long, value_name = "PATH", default_value = "/usr/bin/qemu-system-x86_64")]
    qemu: PathBuf,
    /// What runs the guest's processors.
    #[arg(long, value_enum, default_value_t = Accelerator::Auto)]
    accel: Accelerator,
    /// Its name.
    #[arg(long, default_value = "guest", value_parser = name)]
    name: String,
    /// Show QEMU's command line, one argument a line, and do nothing.
    #[arg(long)]
    print: bool,
    /// A reboot of the guest ends it.
    #[arg(long)]
    no_reboot: bool,
    /// Press the guest's power button after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Accelerator {
    /// KVM where it starts, else emulation.
    Auto,
    /// KVM or nothing.
    Kvm,
    /// QEMU's own emulation: slow.
    Tcg,
}

/// Memory in MiB from `8G`, `512M`, or a number of MiB.
fn memory(text: &str) -> std::result::Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1024),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1),
        _ => (text, 1),
    };
    let count = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten();
    let size = count.and_then(|count| count.checked_mul(factor)).filter(|size| (1..=1 << 24).contains(size));
    size.ok_or_else(|| "a size looks like 8G or 512M".to_owned())
}

fn name(text: &str) -> std::result::Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let first = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if first && text.len() <= 48 && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err("a name has letters, digits, dots, dashes and underlines, 48 at most".to_owned())
}

impl Vm {
    /// Runs it.
    pub fn run(self, context: &Context) -> Result<Status> {
        let Part::Run(run) = self.part;
        run.run(context)
    }
}

impl Run {
    fn run(&self, context: &Context) -> Result<Status> {
        let machine = this_machine(context, "vm run")?;
        nothing_hangs(&machine)?;
        let host = host::observe(&machine);
        let mut spec = self.spec(&machine, &host)?;
        if self.print {
            let mut lines = vec![spec.qemu.display().to_string()];
            lines.extend(qemu::arguments(&spec, &host));
            return print(&(lines.join("\n") + "\n")).map(|()| Status::Done);
        }
        for disk in &spec.disks {
            if let Some(refusal) = disk::refuse(&host, &machine, &disk.path)? {
                return Err(refusal);
            }
        }
        for card in &spec.cards {
            let lent = live::live(&host, Goal::Lend(card, &[], None)).map(|plan| plan.stages.is_empty());
            if !lent.as_ref().is_ok_and(|lent| *lent) {
                if let Some(refusal) = preflight::refuse_host(&host, card, &spec.cards) {
                    return Err(refusal);
                }
            }
            lent?;
        }
        need_root("vm run")?;
        for card in &spec.cards {
            if let Some(refusal) = preflight::refuse_home(card, &held(&machine, card)) {
                return Err(refusal);
            }
        }
        spec.wishes = self.wishes.clone();
        spec.stop = may_stop(context, &machine, &spec.cards, &self.stop)?;
        if !machine.exists(&spec.qemu) {
            return Err(Error::usage(format!("there is no QEMU at {}", spec.qemu.display()))
                .hint("apt install qemu-system-x86   or   --qemu PATH"));
        }
        let op = new_op(&machine);
        run::start(&machine, host.systemd, &spec, &op)?;
        attend(context, &machine, &spec, &op)
    }

    fn spec(&self, root: &dyn Root, host: &Host) -> Result<Spec> {
        let link = Path::new("/proc/self/cwd");
        let folder = root.readlink(link).map_err(|error| Error::io("read", link, &error))?;
        let path = |path: &PathBuf| absolute(&folder, path);
        let mut spec = Spec::new(&self.name, path(&self.qemu)?);
        spec.cards = Card::find_all(host, &self.gpu)?;
        (spec.memory_mib, spec.cpus) = (self.memory, self.cpus);
        spec.disks = self.disk.iter().map(|text| disk::parse(text, &folder)).collect::<Result<_>>()?;
        if spec.disks.len() > 5 {
            return Err(Error::usage("five disks at most"));
        }
        spec.cdrom = self.cdrom.as_ref().map(path).transpose()?;
        spec.kernel = self.kernel.as_ref().map(path).transpose()?;
        spec.initrd = self.initrd.as_ref().map(path).transpose()?;
        for file in [&spec.cdrom, &spec.kernel, &spec.initrd].into_iter().flatten() {
            if !root.exists(file) {
                return Err(Error::usage(format!("there is no file {}", file.display())));
            }
        }
        spec.append.clone_from(&self.append);
        spec.firmware = self.firmware(root, &folder)?;
        spec.serial = match self.serial.as_str() {
            "stdio" => Serial::Stdio,
            "none" => Serial::None,
            file => Serial::File(absolute(&folder, Path::new(file))?),
        };
        let kvm = root.exists(Path::new("/dev/kvm"));
        spec.accel = match self.accel {
            Accelerator::Kvm => Accel::Kvm,
            Accelerator::Auto if kvm => Accel::KvmOrTcg,
            Accelerator::Auto | Accelerator::Tcg => Accel::Tcg,
        };
        (spec.no_reboot, spec.stop_after) = (self.no_reboot, self.timeout);
        let pid = std::process::id();
        spec.client = process::start_time(root, pid).map(|started| (pid, started));
        Ok(spec)
    }

    fn firmware(&self, root: &dyn Root, folder: &Path) -> Result<Firmware> {
        match self.firmware.as_str() {
            "bios" => Ok(Firmware::Bios),
            "ovmf" | "uefi" => {
                let code = firmware::ovmf(root)?;
                let vars = Path::new("/var/lib/gpuferry/vm").join(&self.name).join("vars.fd");
                Ok(Firmware::Uefi { code, vars })
            }
            file => {
                let file = absolute(folder, Path::new(file))?;
                if root.exists(&file) {
                    return Ok(Firmware::File(file));
                }
                Err(Error::usage(format!("there is no firmware {}", file.display()))
                    .hint("--firmware bios|uefi|PATH"))
            }
        }
    }
}

/// Signals that ask for the end, counted: the first presses the power button, the second ends the guest.
fn signals() -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        let seen = Arc::clone(&count);
        // Where it cannot be set, the signal ends us, and the supervisor sees that we are gone.
        let _ = signal_hook::flag::register_usize(signal, seen, 1);
    }
    count
}

/// The client's side of a guest: its serial line, what its supervisor says, and signals, until it ends.
fn attend(context: &Context, machine: &dyn Machine, spec: &Spec, op: &str) -> Result<Status> {
    let signals = signals();
    let mut asked = 0;
    let events = qemu::folder(&spec.name).join("events");
    let mut serial = Line { stream: None, input: true, path: qemu::folder(&spec.name).join("serial") };
    let mut seen = 0;
    let mut shown = Shown::default();
    let mut silent_since = None;
    say(&format!(" guest {}   Ctrl-C presses its power button\n", spec.name));
    loop {
        if spec.serial == Serial::Stdio {
            serial.carry();
        } else {
            let _ = poll(&mut [], Some(&LOOK));
        }
        // A handler sets the flag; counting is ours: each look that finds it set is one request.
        if signals.swap(0, Ordering::Relaxed) > 0 {
            asked += 1;
            let word = if asked == 1 { "stop" } else { "now" };
            let file = run::stop_file(&spec.name);
            let _ = machine.remove(&file);
            let made = machine.create(&file, word.as_bytes(), &Ownership::root(0o600));
            made.map_err(|error| Error::io("write", &file, &error))?;
        }
        let mut lines = record::lines(machine, &events);
        lines.retain(|line| line.op == op);
        for line in lines.iter().skip(seen) {
            if let Event::Finished { status, message, details, hints } = &line.event {
                serial.drain();
                return finished(context, spec, *status, message, details, hints);
            }
            shown.note(line, &mut |text| say(text));
        }
        seen = seen.max(lines.len());
        // Locked: the supervisor is there. Between its being killed and its being started again it is not.
        let gone = !matches!(machine.lock(&qemu::folder(&spec.name).join("lock")), Ok(None));
        silent_since = if gone { silent_since.or(Some(machine.uptime())) } else { None };
        let limit = Duration::from_secs(30);
        if silent_since.is_some_and(|since| machine.uptime().saturating_sub(since) > limit) {
            return Err(Error::new(
                Status::NotUndone,
                format!("nobody watches the guest {} any more", spec.name),
            )
            .hint("gpuferry status"));
        }
    }
}

/// The client's own words go to standard error: standard output is the guest's.
fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn finished(
    context: &Context,
    spec: &Spec,
    status: u8,
    message: &str,
    details: &[String],
    hints: &[String],
) -> Result<Status> {
    let status = crate::handover::client::status_of(status);
    if status != Status::Done {
        return Err(Error {
            status,
            message: message.to_owned(),
            details: details.to_vec(),
            hints: hints.to_vec(),
        });
    }
    if context.json {
        let value = serde_json::json!({ "schema": 1, "name": spec.name, "message": message });
        print(&format!("{value}\n"))?;
    } else {
        say(&format!(" {message}\n"));
    }
    Ok(status)
}

const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The guest's serial line and our standard streams.
#[derive(Debug)]
struct Line {
    stream: Option<UnixStream>,
    input: bool,
    path: PathBuf,
}

impl Line {
    /// Carries bytes to and fro, for at most a tenth of a second.
    fn carry(&mut self) {
        if self.stream.is_none() {
            self.stream = UnixStream::connect(&self.path).ok();
        }
        let Some(stream) = &self.stream else {
            let _ = poll(&mut [], Some(&LOOK));
            return;
        };
        let stdin = io::stdin();
        let mut waits = vec![PollFd::new(stream, PollFlags::IN)];
        if self.input {
            waits.push(PollFd::new(&stdin, PollFlags::IN));
        }
        if poll(&mut waits, Some(&LOOK)).unwrap_or(0) == 0 {
            return;
        }
        let ready: Vec<bool> = waits.iter().map(|wait| !wait.revents().is_empty()).collect();
        drop(waits);
        let mut bytes = [0_u8; 16 << 10];
        if ready[0] {
            match (&*stream).read(&mut bytes) {
                Ok(count) if count > 0 => {
                    let mut out = io::stdout().lock();
                    let _ = out.write_all(&bytes[..count]).and_then(|()| out.flush());
                }
                // QEMU has ended, or will listen again for the next one.
                _ => self.stream = None,
            }
        }
        if ready.get(1).copied().unwrap_or(false) {
            let count = rustix::io::read(&stdin, &mut bytes).unwrap_or(0);
            self.input = count > 0;
            if let Some(stream) = &self.stream {
                let _ = (&*stream).write_all(&bytes[..count]);
            }
        }
    }

    /// What the guest said last.
    fn drain(&mut self) {
        while self.stream.as_ref().is_some_and(|stream| {
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&zero)).unwrap_or(0) > 0
        }) {
            self.input = false;
            self.carry();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_names() {
        assert_eq!((memory("8G"), memory("512M"), memory("300")), (Ok(8192), Ok(512), Ok(300)));
        for wrong in ["", "G", "0", "-1", "+5G", "8T", "99999999999999999999G", "18446744073709551615G"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
        assert!(name("win10").is_ok());
        for wrong in ["", "../x", ".", "a b", "a,b", &"x".repeat(49)] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }
}
