//! One running QEMU with its three lines: console, agent, monitor.
//!
//! The process never outlives the lab: it is killed when the value is dropped, and the kernel kills it when the lab
//! itself is killed (prctl(2), `PR_SET_PDEATHSIG`).

use crate::agent::Agent;
use crate::arguments::{AGENT, CONSOLE, MONITOR};
use crate::console::Console;
use crate::monitor::Monitor;
use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// How long QEMU may take from its start to the three connections.
const CONNECT: Duration = Duration::from_secs(30);

/// A running emulator.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    handle: OwnedFd,
    log: PathBuf,
    /// First serial port.
    pub console: Console,
    /// Second serial port.
    pub agent: Agent,
    /// QEMU's own control.
    pub monitor: Monitor,
}

impl Qemu {
    /// Starts `command`; its sockets are in `sockets`, its logs go to `logs`.
    pub fn start(command: &Command, sockets: &Path, logs: &Path) -> Result<Self> {
        // QEMU connects to us, so nothing that is written early gets lost and nothing is polled for.
        let [console, agent, monitor] = [CONSOLE, AGENT, MONITOR].map(|name| listen(&sockets.join(name)));
        let log = logs.join("qemu.log");
        let mut child = spawn(bound_to_us(command, &log)?)?;
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("QEMU has no process id")?;
        let lines = (|| {
            let handle = pidfd_open(id, PidfdFlags::empty()).context("cannot open QEMU's process")?;
            let console = accept(&console?, &handle)?;
            let agent = accept(&agent?, &handle)?;
            let monitor = accept(&monitor?, &handle)?;
            Ok((handle, console, agent, monitor))
        })();
        let (handle, console, agent, monitor) = match lines {
            Ok(lines) => lines,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failure(&error, &log));
            }
        };
        Ok(Self {
            console: Console::new(console, &logs.join("console.log"))?,
            agent: Agent::new(agent)?,
            monitor: Monitor::new(monitor).map_err(|error| failure(&error, &log))?,
            child,
            handle,
            log,
        })
    }

    /// Waits for the process to end by itself.
    pub fn wait_for_end(&mut self, patience: Duration) -> Result<ExitStatus> {
        ensure!(
            readable(&[&self.handle], patience)? == Some(0),
            "QEMU still runs after {} s",
            patience.as_secs()
        );
        self.child.wait().context("cannot wait for QEMU")
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it at once, as a power cut does.
    pub fn kill(&mut self) -> Result<()> {
        let _ = self.child.kill();
        self.child.wait().context("cannot wait for QEMU")?;
        Ok(())
    }

    /// What QEMU itself had to say.
    pub fn complaints(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn failure(error: &anyhow::Error, log: &Path) -> anyhow::Error {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    anyhow!("QEMU did not start: {error:#}\n{said}")
}

/// The command with its output in `log`, killed when the thread that starts it ends.
fn bound_to_us(command: &Command, log: &Path) -> Result<Command> {
    const SETPRIV: &str = "/usr/bin/setpriv";
    ensure!(Path::new(SETPRIV).exists(), "{SETPRIV} is missing: it is part of util-linux");
    let out = File::options().create(true).append(true).open(log).context("cannot open QEMU's log")?;
    let mut bound = Command::new(SETPRIV);
    bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    bound.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    Ok(bound)
}

/// Starts a process from a thread that lives as long as the lab: the death signal is bound to the *thread* that
/// forked (prctl(2)), and a test's thread may end before the process should.
fn spawn(command: Command) -> Result<Child> {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static STARTER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in jobs {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (answer, child) = mpsc::channel();
    starter
        .lock()
        .map_err(|_| anyhow!("the thread that starts processes is gone"))?
        .send((command, answer))
        .map_err(|_| anyhow!("the thread that starts processes is gone"))?;
    child.recv().context("the thread that starts processes is gone")?.context("cannot start QEMU")
}

fn listen(path: &Path) -> Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))
}

fn accept(listener: &UnixListener, process: &OwnedFd) -> Result<UnixStream> {
    match readable(&[process, listener], CONNECT)? {
        Some(1) => Ok(listener.accept().context("cannot accept QEMU's connection")?.0),
        Some(_) => bail!("it ended at once"),
        None => bail!("it did not connect within {} s", CONNECT.as_secs()),
    }
}

/// Which of the descriptors becomes readable first, none when time is over.
fn readable(descriptors: &[&dyn std::os::fd::AsFd], patience: Duration) -> Result<Option<usize>> {
    let mut list: Vec<PollFd<'_>> =
        descriptors.iter().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)).collect();
    let time = Timespec::try_from(patience).context("too long a wait")?;
    poll(&mut list, Some(&time)).context("cannot poll")?;
    Ok(list.iter().position(|fd| !fd.revents().is_empty()))
}
