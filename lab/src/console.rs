//! The first serial port: firmware, boot loader and kernel write there. Everything is kept in a file and in memory,
//! can be waited for, and can be typed at (a boot loader's menu).

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A serial console.
#[derive(Debug)]
pub struct Console {
    shared: Arc<Shared>,
    keyboard: Mutex<UnixStream>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Seen {
    bytes: Vec<u8>,
    closed: bool,
}

impl Console {
    /// Takes over the connection that QEMU made for the first serial port, and writes all that comes to `log`.
    pub fn new(port: UnixStream, log: &Path) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        // Appended to: one log tells all boots of one host.
        let log =
            File::options().create(true).append(true).open(log).context("cannot open the console's log")?;
        let reader = port.try_clone().context("cannot duplicate the console's socket")?;
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("console".to_owned()).spawn(move || theirs.listen(reader, log))?;
        Ok(Self { shared, keyboard: Mutex::new(port) })
    }

    /// How much has been written up to now; a mark for [`Console::wait_for`] and [`Console::since`].
    pub fn mark(&self) -> usize {
        self.shared.lock().bytes.len()
    }

    /// What was written since `mark`.
    pub fn since(&self, mark: usize) -> Vec<u8> {
        self.shared.lock().bytes.get(mark..).unwrap_or_default().to_vec()
    }

    /// Waits until `text` was written after `mark`; gives the mark behind it.
    pub fn wait_for(&self, text: &str, mark: usize, patience: Duration) -> Result<usize> {
        let deadline = Instant::now() + patience;
        let mut seen = self.shared.lock();
        loop {
            let fresh = seen.bytes.get(mark..).unwrap_or_default();
            if let Some(at) = fresh.windows(text.len()).position(|window| window == text.as_bytes()) {
                return Ok(mark + at + text.len());
            }
            if seen.closed {
                bail!("the machine ended before its console said {text:?}");
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                bail!("the console did not say {text:?} within {} s", patience.as_secs());
            };
            seen = self.shared.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until nothing was written for `silence`.
    pub fn wait_for_silence(&self, silence: Duration) {
        let mut seen = self.shared.lock();
        loop {
            let before = seen.bytes.len();
            let (next, timeout) =
                self.shared.changed.wait_timeout(seen, silence).unwrap_or_else(PoisonError::into_inner);
            seen = next;
            if seen.closed || (timeout.timed_out() && seen.bytes.len() == before) {
                return;
            }
        }
    }

    /// Types.
    pub fn type_keys(&self, keys: &[u8]) -> Result<()> {
        let mut keyboard = self.keyboard.lock().unwrap_or_else(PoisonError::into_inner);
        keyboard.write_all(keys).context("cannot type on the console")
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, mut port: UnixStream, mut log: File) {
        let mut buffer = [0; 4096];
        while let Ok(count) = port.read(&mut buffer) {
            if count == 0 {
                break;
            }
            let _ = log.write_all(&buffer[..count]);
            self.lock().bytes.extend_from_slice(&buffer[..count]);
            self.changed.notify_all();
        }
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_after_the_mark_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let console = Console::new(ours, &folder.path().join("log")).unwrap();
        theirs.write_all(b"login: first").unwrap();
        let mark = console.wait_for("login:", 0, Duration::from_secs(5)).unwrap();
        assert!(console.wait_for("login:", mark, Duration::from_millis(50)).is_err());
        theirs.write_all(b" login: second").unwrap();
        assert!(console.wait_for("login:", mark, Duration::from_secs(5)).is_ok());
    }
}
