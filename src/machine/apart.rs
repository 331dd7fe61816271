//! Reads that may hang, made by a child that can be left behind.
//!
//! Some attributes are read under the device lock (`driver_override`, drivers/pci/pci-sysfs.c). While a driver does not
//! let go of its device, such a read sleeps where no signal reaches it, and so would this program: not even its end
//! would come. The child is this same program; it prints each file as soon as it has it. Newer kernels have a lock for
//! the override alone, which nobody holds for long; there no child is needed.

use rustix::event::{PollFd, PollFlags, poll};
use std::{
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The word that makes this program the child.
pub const VERB: &str = "read-apart";

/// How long one file may take: reading an attribute takes microseconds, starting the child on a slow machine most.
const PATIENCE: Duration = Duration::from_secs(3);

/// Children that are left behind before the rest is given up.
const MAX_STUCK: usize = 2;

/// Whether a kernel of this release may read an override under the device lock. Linux 7.1 does not ("PCI: use generic
/// `driver_override` infrastructure"), nor do the stable releases that took it over: 6.12.91 and 6.18.33. What a
/// distribution has added to its own of an older number is not told by the number.
pub(super) fn is_needed(release: &std::ffi::CStr) -> bool {
    let release = release.to_str().unwrap_or_default();
    // `6.12.117+deb13-amd64`, `7.1.0-rc1`.
    let mut numbers =
        release.split(['.', '-', '+', '_']).map_while(|number| number.parse::<u32>().ok()).take(3);
    let (major, minor, patch) = (numbers.next(), numbers.next(), numbers.next().unwrap_or(0));
    let (Some(major), Some(minor)) = (major, minor) else { return true };
    match (major, minor) {
        (6, 12) => patch < 91,
        (6, 18) => patch < 33,
        _ => (major, minor) < (7, 1),
    }
}

/// Reads files in a child; what hangs is [`io::ErrorKind::TimedOut`].
pub(super) fn read(paths: &[PathBuf]) -> Vec<io::Result<Vec<u8>>> {
    let mut results = Vec::new();
    let mut stuck = 0;
    while let Some(rest) = paths.get(results.len()..).filter(|rest| !rest.is_empty()) {
        let before = results.len();
        let end = if stuck < MAX_STUCK { round(rest, &mut results) } else { Err(late()) };
        let error = match end {
            Ok(()) if results.len() == paths.len() => break,
            Ok(()) => io::Error::other("the reader ended early"),
            Err(error) => error,
        };
        // A child that could not be started will not start the next time either.
        stuck +=
            if results.len() == before && error.kind() != io::ErrorKind::TimedOut { MAX_STUCK } else { 1 };
        results.push(Err(error));
    }
    results
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the device does not answer: somebody holds its lock")
}

/// One child's work: as many results as it gives.
fn round(paths: &[PathBuf], results: &mut Vec<io::Result<Vec<u8>>>) -> io::Result<()> {
    let mut child = Command::new("/proc/self/exe")
        .arg(VERB)
        .args(paths)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let listened = listen(&mut child, paths.len(), PATIENCE, results);
    match &listened {
        Ok(()) => drop(child.wait()),
        // It dies when its read returns; nobody waits for that.
        Err(_) => drop(child.kill()),
    }
    listened
}

/// Takes a child's records until there are enough, it ends, or the next one takes too long.
fn listen(
    child: &mut Child,
    count: usize,
    patience: Duration,
    results: &mut Vec<io::Result<Vec<u8>>>,
) -> io::Result<()> {
    let mut pipe = child.stdout.take().ok_or_else(|| io::Error::other("a child without output"))?;
    let (mut text, mut given) = (Vec::new(), 0);
    let mut end = Instant::now() + patience;
    while given < count {
        let left = super::live::timespec(end.saturating_duration_since(Instant::now()));
        match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(late()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut part = [0; 4096];
        match pipe.read(&mut part)? {
            0 => break,
            length => text.extend_from_slice(part.get(..length).unwrap_or_default()),
        }
        while let Some((result, length)) = record(&text) {
            text.drain(..length);
            results.push(result);
            given += 1;
            end = Instant::now() + patience;
        }
    }
    Ok(())
}

/// A whole record at the start of a text, and how long it is: `LENGTH\n` and bytes, or `!ERRNO\n`.
fn record(text: &[u8]) -> Option<(io::Result<Vec<u8>>, usize)> {
    let line = text.iter().position(|byte| *byte == b'\n')?;
    let head = std::str::from_utf8(text.get(..line)?).ok()?;
    if let Some(errno) = head.strip_prefix('!') {
        return Some((Err(io::Error::from_raw_os_error(errno.parse().ok()?)), line + 1));
    }
    let end = (line + 1).checked_add(head.parse().ok()?)?;
    Some((Ok(text.get(line + 1..end)?.to_vec()), end))
}

/// What the child does: prints a record for each path.
pub fn child(paths: &[impl AsRef<Path>], out: &mut dyn Write) -> io::Result<()> {
    for path in paths {
        match attribute(path.as_ref()) {
            Ok(bytes) => {
                writeln!(out, "{}", bytes.len())?;
                out.write_all(&bytes)?;
            }
            Err(error) => writeln!(out, "!{}", error.raw_os_error().unwrap_or(5))?,
        }
        out.flush()?;
    }
    Ok(())
}

/// Only attributes of devices are read for others.
fn attribute(path: &Path) -> io::Result<Vec<u8>> {
    if !path.as_os_str().as_bytes().starts_with(b"/sys/") {
        return Err(io::Error::from(rustix::io::Errno::PERM));
    }
    std::fs::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_kernels_need_no_child() {
        let needed = |release: &str| is_needed(&std::ffi::CString::new(release).unwrap());
        for old in [
            "6.1.0-18-amd64",
            "6.12.90+deb13-amd64",
            "6.12.0-55.el10.x86_64",
            "6.18.32",
            "6.18.0-9-generic",
            "6.17.99",
            "7.0.12",
            "",
            "odd",
        ] {
            assert!(needed(old), "{old}");
        }
        for new in ["6.12.91", "6.12.117+deb13-amd64", "6.18.33-1-lts", "7.1.0-rc1", "7.1", "8.0.1"] {
            assert!(!needed(new), "{new}");
        }
    }

    fn child_that(does: &str) -> Child {
        Command::new("/bin/sh").args(["-c", does]).stdout(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn a_child_that_hangs_is_left_with_what_it_gave() {
        let mut child = child_that("printf '2\\nab!5\\n3\\nc'; exec sleep 1000");
        let mut results = Vec::new();
        let end = listen(&mut child, 4, Duration::from_millis(500), &mut results);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(results.len(), 2, "{results:?}");
        assert_eq!(results[0].as_deref().unwrap(), b"ab");
        assert_eq!(results[1].as_ref().unwrap_err().raw_os_error(), Some(5));
    }

    #[test]
    fn a_child_that_ends_early_is_no_wait() {
        let mut child = child_that("printf '1\\nx'");
        let mut results = Vec::new();
        listen(&mut child, 3, Duration::from_secs(60), &mut results).unwrap();
        child.wait().unwrap();
        assert_eq!(results.len(), 1);
    }

    #[test]
    fn records_read_as_they_are_written() {
        let mut out = Vec::new();
        let paths = ["/sys/kernel/mm", "/sys/not/there", "/etc/passwd"].map(PathBuf::from);
        child(&paths, &mut out).unwrap();
        let errors: Vec<Option<i32>> = std::iter::from_fn(|| {
            let (result, length) = record(&out)?;
            out.drain(..length);
            Some(result.unwrap_err().raw_os_error())
        })
        .collect();
        assert_eq!(errors, [Some(21), Some(2), Some(1)], "a folder, nothing, and what is no attribute");
        let (result, length) = record(b"3\nabc2\nde").unwrap();
        assert_eq!((result.unwrap(), length), (b"abc".to_vec(), 5));
        assert!(record(b"3\nab").is_none() && record(b"3").is_none());
        assert!(record(b"99999999999999999999\nx").is_none());
    }
}
