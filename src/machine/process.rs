//! Processes that run on: started and left, or found again by number. Watched by pidfd, so that a number that was
//! given to somebody else meanwhile is never waited for or signalled.

use super::{Machine, Program, Root};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    fmt, io,
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this exit status.
    Status(i32),
    /// By a signal.
    Signal,
    /// It is not ours: how is not told.
    Unknown,
}

/// A process that may outlive us.
pub trait Process: fmt::Debug {
    /// Its number.
    fn pid(&self) -> u32;
    /// Waits for its end, at most this long; `None`: it runs.
    fn wait(&mut self, at_most: Duration) -> Option<End>;
    /// Asks it to end (SIGTERM).
    fn terminate(&self);
    /// Ends it (SIGKILL).
    fn kill(&self);
}

/// A process by its pidfd, and as our child where it is.
#[derive(Debug)]
pub(super) struct Watched {
    pid: u32,
    handle: OwnedFd,
    child: Option<Child>,
    end: Option<End>,
}

impl Watched {
    /// Starts a program in a clean environment; its output goes to a file.
    pub(super) fn start(program: &Program, output: std::fs::File) -> io::Result<Self> {
        let errors = output.try_clone()?;
        let child = Command::new(&program.path)
            .args(&program.args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .env("HOME", "/root")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()?;
        let mut watched = Self::find(child.id())?;
        watched.child = Some(child);
        Ok(watched)
    }

    /// A process by number.
    pub(super) fn find(number: u32) -> io::Result<Self> {
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
        let pid =
            pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no process has that number"))?;
        Ok(Self { pid: number, handle: pidfd_open(pid, PidfdFlags::empty())?, child: None, end: None })
    }
}

impl Process for Watched {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn wait(&mut self, at_most: Duration) -> Option<End> {
        if self.end.is_none() {
            let mut wait = [PollFd::new(&self.handle, PollFlags::IN)];
            let ready = poll(&mut wait, Some(&super::live::timespec(at_most)));
            if ready.is_ok_and(|count| count > 0) {
                let status = self.child.as_mut().and_then(|child| child.wait().ok());
                self.end = Some(match status.map(|status| status.code()) {
                    Some(Some(code)) => End::Status(code),
                    Some(None) => End::Signal,
                    None => End::Unknown,
                });
            }
        }
        self.end
    }

    fn terminate(&self) {
        // It may have ended by itself meanwhile: that is what was asked for.
        let _ = pidfd_send_signal(&self.handle, Signal::TERM);
    }

    fn kill(&self) {
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }
}

/// When a process started, in clock ticks since boot: with the number, its identity. proc_pid_stat(5), field 22,
/// counted after the name, which may hold spaces and parentheses.
pub fn start_time(root: &(impl Root + ?Sized), pid: u32) -> Option<u64> {
    let stat = root.text(Path::new(&format!("/proc/{pid}/stat"))).ok()?;
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The process with this number, if it is still the one that started then.
pub fn find(machine: &(impl Machine + ?Sized), pid: u32, started: u64) -> Option<Box<dyn Process>> {
    let found = machine.process(pid).ok()?;
    // Looked at after the handle was taken: the handle then is of the process that the time is of.
    (start_time(machine, pid) == Some(started)).then_some(found)
}
