//! What went wrong, in the user's words: what failed, on what, what the kernel said, what helps.
//!
//! An [`Error`] knows its exit status. No error text is ever parsed by the program.

use std::{fmt, io, path::Path};

/// Exit status of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// Done, or healthy.
    Done = 0,
    /// There are findings that block.
    Blocked = 1,
    /// The command line, or a file named on it, is wrong.
    Usage = 2,
    /// Refused for safety; nothing was changed.
    Refused = 3,
    /// Failed; everything is as it was.
    Undone = 4,
    /// Failed, and something is left; the message says exactly what, and how to finish by hand.
    NotUndone = 5,
}

/// A failure that a person is told about.
#[derive(Debug)]
pub struct Error {
    /// Decides the exit status.
    pub status: Status,
    /// One sentence: what failed, on what, and what the kernel said.
    pub message: String,
    /// What would have happened otherwise, or what is left: a line each.
    pub details: Vec<String>,
    /// What helps: commands, a line each.
    pub hints: Vec<String>,
}

/// The program's result type.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of the given status.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), details: Vec::new(), hints: Vec::new() }
    }

    /// The command line, or a file named on it, is wrong (status 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Status::Usage, message)
    }

    /// Refused for safety (status 3).
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Status::Refused, message)
    }

    /// Findings block it (status 1).
    pub fn blocked(message: impl Into<String>) -> Self {
        Self::new(Status::Blocked, message)
    }

    /// Failed, and nothing is left changed (status 4).
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Status::Undone, message)
    }

    /// An operation on a path failed: `cannot <verb> <path>: <what the kernel said>` (status 4).
    pub fn io(verb: &str, path: &Path, error: &io::Error) -> Self {
        let failed = Self::failed(format!("cannot {verb} {}: {}", path.display(), said(error)));
        match error.kind() {
            io::ErrorKind::PermissionDenied => failed.hint("run it as root: sudo gpuferry …"),
            io::ErrorKind::ReadOnlyFilesystem => {
                failed.hint(format!("findmnt -T {}   shows what is mounted read-only", path.display()))
            }
            io::ErrorKind::StorageFull => failed.hint("df -h   shows which filesystem is full"),
            _ => failed,
        }
    }

    /// Adds a line of detail.
    #[must_use]
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, line: impl Into<String>) -> Self {
        self.hints.push(line.into());
        self
    }

    /// The same error with another status: what was undoable before may no longer be.
    #[must_use]
    pub fn with_status(mut self, status: Status) -> Self {
        self.status = status;
        self
    }
}

/// What the kernel said, without Rust's `(os error N)`.
pub fn said(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.status {
            Status::Refused => "refused",
            Status::Blocked => "blocked",
            _ => "error",
        };
        write!(f, "{word}: {}", self.message)?;
        self.details.iter().try_for_each(|line| write!(f, "\n  {line}"))?;
        self.hints.iter().try_for_each(|line| write!(f, "\n  hint: {line}"))
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_from_what_to_what_helps() {
        let error = Error::refused("0000:03:00.0 is the NVMe controller of nvme0n1")
            .detail("the host would lose /")
            .hint("gpuferry inspect");
        assert_eq!(
            error.to_string(),
            "refused: 0000:03:00.0 is the NVMe controller of nvme0n1\n  the host would lose /\n  hint: gpuferry inspect"
        );
    }

    #[test]
    fn the_kernel_speaks_without_numbers() {
        let error = Error::io("write", Path::new("/boot/x"), &io::Error::from_raw_os_error(28));
        assert_eq!(
            error.to_string(),
            "error: cannot write /boot/x: No space left on device\n  hint: df -h   shows which filesystem is full"
        );
    }
}
