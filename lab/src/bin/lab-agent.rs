//! The lab's hand in the emulated host: runs commands and moves files on request of the lab, over a serial port.
//!
//! `lab-agent /dev/ttyS1`. Statically linked, so that it runs in every root file system. Each request is served by
//! a thread of its own: a command that hangs in the kernel does not keep the lab from asking what else is going on.
//! It decides nothing: what to run and how long to wait is the lab's business. `lab-agent took COMMAND` times one.

use anyhow::{Context, Result, bail, ensure};
use lab::protocol::{End, Hello, Job, Request, Said, Want, decode, encode, parse};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long output may still trickle in after a command ended (a child of it may hold the pipe for ever).
const AFTER_END: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "lab-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `lab-agent took COMMAND`: prints how many microseconds a command takes, and throws its output away. A shell's fork
/// is no part of it.
fn took(mut words: impl Iterator<Item = String>) -> Result<()> {
    let program = words.next().context("which command? usage: lab-agent took COMMAND")?;
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
    let begun = Instant::now();
    let status = command.status().context("cannot start it")?;
    let took = begun.elapsed().as_micros();
    ensure!(status.success(), "it ended with {status}");
    Ok(writeln!(std::io::stdout(), "{took}")?)
}

fn serve() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let path = words.next().context("which serial port? usage: lab-agent /dev/ttyS1")?;
    if path == "took" {
        return took(words);
    }
    let port =
        OpenOptions::new().read(true).write(true).open(&path).with_context(|| format!("open {path}"))?;
    if let Ok(mut modes) = rustix::termios::tcgetattr(&port) {
        modes.make_raw();
        let _ = modes.set_speed(115_200);
        rustix::termios::tcsetattr(&port, rustix::termios::OptionalActions::Now, &modes)
            .with_context(|| format!("set {path} to raw mode"))?;
    }
    install_gpuferry();
    let agent = Arc::new(Agent {
        port: Mutex::new(port.try_clone().context("duplicate the port's descriptor")?),
        jobs: Mutex::default(),
    });
    agent.say(&Said::Hello(hello()))?;
    let mut lines = BufReader::new(port);
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).context("read from the port")? == 0 {
            return Ok(());
        }
        if let Some(request) = parse::<Request>(&line) {
            let agent = Arc::clone(&agent);
            thread::spawn(move || {
                let answer = agent.answer(request);
                let _ = agent.say(&answer);
            });
        }
    }
}

/// In a host that boots from a disk the binary under test comes over the shared folder.
fn install_gpuferry() {
    let (shared, installed) = (Path::new("/lab/gpuferry"), Path::new("/usr/bin/gpuferry"));
    let Ok(new) = fs::read(shared) else { return };
    if fs::read(installed).is_ok_and(|old| old == new) {
        return;
    }
    // Renamed into place, because a running program's file cannot be written to.
    let beside = Path::new("/usr/bin/.gpuferry.new");
    let _ = fs::write(beside, new)
        .and_then(|()| fs::set_permissions(beside, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(beside, installed));
}

fn hello() -> Hello {
    let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let uptime = line("/proc/uptime");
    let seconds: f64 = uptime.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or_default();
    Hello {
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        uptime_ms: u64::try_from(Duration::from_secs_f64(seconds).as_millis()).unwrap_or(u64::MAX),
        kernel: line("/proc/sys/kernel/osrelease"),
    }
}

/// What all request threads share.
struct Agent {
    port: Mutex<File>,
    jobs: Mutex<HashMap<u64, Arc<Started>>>,
}

/// A command that was started, perhaps long ago.
struct Started {
    group: Option<Pid>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    end: Option<End>,
    open_pipes: usize,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Agent {
    fn say(&self, what: &Said) -> Result<()> {
        // The line feed in front ends whatever noise stands on the line already.
        let text = format!("\n{}\n", serde_json::to_string(what)?);
        let mut port = locked(&self.port);
        port.write_all(text.as_bytes()).context("write to the port")
    }

    fn answer(&self, request: Request) -> Said {
        let id = request.id;
        let answer = match request.what {
            Want::Start { command, stdin, wait_ms, kill } => {
                self.start(id, &command, &stdin).map(|started| {
                    let job = started.wait(id, Duration::from_millis(wait_ms));
                    Said::Job(if kill && job.end.is_none() { started.give_up(id) } else { job })
                })
            }
            Want::Poll { job, wait_ms } => {
                self.job(job).map(|started| Said::Job(started.wait(id, Duration::from_millis(wait_ms))))
            }
            Want::Kill { job, signal } => self.job(job).and_then(|started| {
                started.signal(signal)?;
                Ok(Said::Done { id })
            }),
            Want::Read { path } => fs::read(&path)
                .with_context(|| format!("read {path}"))
                .map(|data| Said::Content { id, data: encode(&data) }),
            Want::Write { path, data, mode } => write(&path, &data, mode).map(|()| Said::Done { id }),
        };
        answer.unwrap_or_else(|error| Said::Failed { id, error: format!("{error:#}") })
    }

    fn job(&self, job: u64) -> Result<Arc<Started>> {
        locked(&self.jobs).get(&job).cloned().with_context(|| format!("no command was started as {job}"))
    }

    fn start(&self, id: u64, command: &str, stdin: &str) -> Result<Arc<Started>> {
        let input = decode(stdin).context("the standard input is not base64")?;
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .current_dir("/")
            .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("start /bin/sh")?;
        let started = Arc::new(Started {
            group: i32::try_from(child.id()).ok().and_then(Pid::from_raw),
            state: Mutex::new(State { open_pipes: 2, ..State::default() }),
            changed: Condvar::new(),
        });
        if let Some(mut pipe) = child.stdin.take() {
            thread::spawn(move || pipe.write_all(&input));
        }
        if let Some(pipe) = child.stdout.take() {
            let started = Arc::clone(&started);
            thread::spawn(move || started.collect(pipe, |state| &mut state.stdout));
        }
        if let Some(pipe) = child.stderr.take() {
            let started = Arc::clone(&started);
            thread::spawn(move || started.collect(pipe, |state| &mut state.stderr));
        }
        let waiter = Arc::clone(&started);
        thread::spawn(move || {
            let end = match child.wait() {
                Ok(status) => {
                    status.code().map_or_else(|| End::Signal(status.signal().unwrap_or(0)), End::Exit)
                }
                Err(_) => End::Exit(-1),
            };
            waiter.ended(end);
        });
        locked(&self.jobs).insert(id, Arc::clone(&started));
        Ok(started)
    }
}

impl Started {
    fn collect(&self, mut pipe: impl Read, which: fn(&mut State) -> &mut Vec<u8>) {
        let mut buffer = vec![0; 65536];
        while let Ok(count) = pipe.read(&mut buffer) {
            if count == 0 {
                break;
            }
            which(&mut locked(&self.state)).extend_from_slice(&buffer[..count]);
        }
        locked(&self.state).open_pipes -= 1;
        self.changed.notify_all();
    }

    /// Notes the end once both pipes are empty, or after a grace time when a child of the command holds them.
    fn ended(&self, end: End) {
        let deadline = Instant::now() + AFTER_END;
        let mut state = locked(&self.state);
        while state.open_pipes > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.end.is_none() {
            state.end = Some(end);
        }
        self.changed.notify_all();
    }

    fn wait(&self, id: u64, time: Duration) -> Job {
        let deadline = Instant::now() + time;
        let mut state = locked(&self.state);
        while state.end.is_none() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Job { id, end: state.end, stdout: encode(&state.stdout), stderr: encode(&state.stderr) }
    }

    fn give_up(&self, id: u64) -> Job {
        let _ = self.signal(Signal::KILL.as_raw());
        locked(&self.state).end = Some(End::Deadline);
        self.wait(id, Duration::ZERO)
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let (Some(group), Some(signal)) = (self.group, Signal::from_named_raw(signal)) else {
            bail!("signal {signal} cannot be sent");
        };
        kill_process_group(group, signal).context("signal the process group")
    }
}

fn write(path: &str, data: &str, mode: u32) -> Result<()> {
    let data = decode(data).context("the content is not base64")?;
    let path = Path::new(path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    // Written beside and renamed: what is there may be a program that runs.
    let is_plain = fs::symlink_metadata(path).map_or(true, |meta| meta.is_file());
    let target = if is_plain { path.with_extension("lab-new") } else { path.to_owned() };
    let mut file = OpenOptions::new()
        .write(true)
        .create(is_plain)
        .truncate(is_plain)
        .mode(mode)
        .open(&target)
        .with_context(|| format!("open {}", target.display()))?;
    file.write_all(&data).with_context(|| format!("write {}", target.display()))?;
    if is_plain {
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
        fs::rename(&target, path).with_context(|| format!("rename to {}", path.display()))?;
    }
    Ok(())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
