//! A running emulated host, as a case sees it: run a command, look at a device, reboot, pull the plug.
//!
//! Switching it on and off is `power`'s business. Methods panic where a case could only fail anyway (the host is gone, the command cannot be started); the
//! `try_` forms hand the error back. Every wait has a deadline.

mod power;

use crate::arguments::Accelerator;
use crate::boot::{Plan, Running};
use crate::console::Console;
use crate::fakegpu::Control;
use crate::job::{Job, reply};
use crate::monitor::Monitor;
use crate::output::Output;
use crate::place::Place;
use crate::protocol::{Said, Want, decode, encode};
use crate::qemu::Qemu;
use crate::screen::Screen;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a command may run unless the case says otherwise.
pub const COMMAND: Duration = Duration::from_secs(120);

/// How much longer than the command itself the way to the host and back may take.
pub(crate) const ON_THE_WAY: Duration = Duration::from_secs(60);

/// An emulated host.
#[derive(Debug)]
pub struct Host {
    plan: Plan,
    running: Option<Running>,
    controls: BTreeMap<usize, Arc<Control>>,
    boots: u32,
    /// From switching on to the agent's greeting, of the latest boot.
    pub boot_time: Duration,
    // Dropped last: the machine must be off before its folder goes.
    place: Place,
}

impl Host {
    pub(crate) fn new(plan: Plan, place: Place) -> Result<Self> {
        let mut host = Self {
            plan,
            running: None,
            controls: BTreeMap::new(),
            boots: 0,
            boot_time: Duration::ZERO,
            place,
        };
        host.switch_on()?;
        Ok(host)
    }

    /// Waits until systemd has started all there is to start; gives its verdict (`running`, `degraded`).
    #[track_caller]
    pub fn settled(&self) -> String {
        let waited = self.run_within("systemctl is-system-running --wait", 2 * COMMAND);
        waited.text().to_owned()
    }

    fn qemu(&self) -> Result<&Qemu> {
        self.running.as_ref().map(|running| &running.qemu).context("the host is switched off")
    }

    pub(crate) fn ask(&self, want: Want, patience: Duration) -> Result<Said> {
        let qemu = self.qemu()?;
        if qemu.agent.boots() > self.boots {
            bail!("the host rebooted without being told to; its console says why");
        }
        match qemu.agent.ask(want, patience)? {
            Said::Failed { error, .. } => bail!("in the host: {error}"),
            said => Ok(said),
        }
    }

    /// Runs `command` with the host's shell and waits for its end, at most two minutes.
    #[track_caller]
    pub fn run(&self, command: &str) -> Output {
        self.run_within(command, COMMAND)
    }

    /// Runs `command` with a deadline of its own; when it is over, the command is killed and the case goes on.
    #[track_caller]
    pub fn run_within(&self, command: &str, patience: Duration) -> Output {
        must(self.try_run(command, b"", patience))
    }

    /// Runs `command` with something on its standard input.
    #[track_caller]
    pub fn run_with_input(&self, command: &str, input: &[u8]) -> Output {
        must(self.try_run(command, input, COMMAND))
    }

    /// The same as [`Host::run_within`], with input, and with the error handed back.
    pub fn try_run(&self, command: &str, input: &[u8], patience: Duration) -> Result<Output> {
        let start = Instant::now();
        let wait_ms = u64::try_from(patience.as_millis())?;
        let want = Want::Start { command: command.to_owned(), stdin: encode(input), wait_ms, kill: true };
        let said = self.ask(want, patience + ON_THE_WAY).with_context(|| format!("run `{command}`"))?;
        let reply = reply(said)?;
        let end = reply.end.context("the agent answered before the command's end")?;
        let (stdout, stderr) = (reply.stdout, reply.stderr);
        Ok(Output { command: command.to_owned(), end, stdout, stderr, took: start.elapsed() })
    }

    /// Starts `command` and lets it run.
    #[track_caller]
    pub fn start(&self, command: &str) -> Job<'_> {
        must(Job::start(self, command))
    }

    /// The content of a file in the host.
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        String::from_utf8_lossy(&must(self.try_read(path))).into_owned()
    }

    /// The content of a file in the host, as bytes, with the error handed back.
    pub fn try_read(&self, path: &str) -> Result<Vec<u8>> {
        match self.ask(Want::Read { path: path.to_owned() }, COMMAND)? {
            Said::Content { data, .. } => decode(&data).context("the agent's answer is not base64"),
            other => bail!("the agent answered {other:?}"),
        }
    }

    /// Makes or replaces a file in the host, readable by all.
    #[track_caller]
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        self.write_with_mode(path, 0o644, content)
    }

    /// Makes or replaces a file in the host with these permission bits.
    #[track_caller]
    pub fn write_with_mode(&self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> &Self {
        let want = Want::Write { path: path.to_owned(), data: encode(content.as_ref()), mode };
        must(self.ask(want, COMMAND));
        self
    }

    /// The kernel's log since boot.
    #[track_caller]
    pub fn kernel_log(&self) -> String {
        self.run("dmesg").ok().stdout
    }

    /// What a card that QEMU can draw ([`crate::machine::Device::Bochs`]) shows; `bus` is the bus it is on.
    #[track_caller]
    pub fn screendump(&self, bus: usize) -> Screen {
        must(self.try_screendump(bus))
    }

    /// The same, with the error handed back.
    pub fn try_screendump(&self, bus: usize) -> Result<Screen> {
        let index = bus.checked_sub(1).context("buses behind ports start at 1")?;
        let file = self.place.file("screen.ppm");
        let arguments = serde_json::json!({ "device": format!("card{index}"), "filename": file });
        self.qemu()?.monitor.execute("screendump", &arguments)?;
        Screen::parse(&std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?)
    }

    /// The look-alike card on this bus: makes it misbehave, counts its resets.
    ///
    /// # Panics
    /// When there is no look-alike card.
    #[track_caller]
    pub fn card(&self, bus: usize) -> &Control {
        match bus.checked_sub(1).and_then(|index| self.controls.get(&index)) {
            Some(control) => control,
            None => panic!("there is no look-alike card on bus {bus}"),
        }
    }

    /// QEMU's own control.
    #[track_caller]
    pub fn monitor(&self) -> &Monitor {
        &must(self.qemu()).monitor
    }

    /// The first serial port.
    #[track_caller]
    pub fn console(&self) -> &Console {
        &must(self.qemu()).console
    }

    /// A folder of this machine that the host can mount: `mount -t 9p -o trans=virtio,version=9p2000.L lab /lab`
    /// (a full host has it at /lab already).
    pub fn share(&self) -> PathBuf {
        self.place.share()
    }

    /// What emulates its processor.
    #[track_caller]
    pub fn accelerator(&self) -> Accelerator {
        must(self.running.as_ref().context("the host is switched off")).accelerator
    }

    /// Folder with the logs of this host.
    pub fn logs(&self) -> PathBuf {
        self.place.folder().to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.place.keep {
            self.place.keep = true;
            let _ =
                writeln!(std::io::stderr(), "lab: this host's logs are in {}", self.place.folder().display());
        }
        self.running = None;
    }
}

/// The value, or a panic with the whole error.
#[track_caller]
pub(crate) fn must<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error:#}"),
    }
}
