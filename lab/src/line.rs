//! A socket on which somebody speaks in lines: a thread listens and keeps what was said in a state, and others look
//! at that state, wait for it to become what they need, and write.
//!
//! Every wait has a deadline, and ends early when the other side is gone.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A line to somebody, and what was heard on it.
#[derive(Debug)]
pub(crate) struct Line<S> {
    shared: Arc<Shared<S>>,
    port: Mutex<UnixStream>,
}

#[derive(Debug, Default)]
struct Shared<S> {
    heard: Mutex<Heard<S>>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Heard<S> {
    state: S,
    closed: bool,
}

impl<S: Default + Send + 'static> Line<S> {
    /// Takes a connection over; `hear` puts each line, with its end, into the state.
    pub(crate) fn new(port: UnixStream, name: &str, hear: fn(&mut S, &[u8])) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let reader = BufReader::new(
            port.try_clone().with_context(|| format!("cannot duplicate the {name}'s socket"))?,
        );
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name(name.to_owned()).spawn(move || theirs.listen(reader, hear))?;
        Ok(Self { shared, port: Mutex::new(port) })
    }

    /// Writes a line.
    pub(crate) fn say(&self, line: &str) -> Result<()> {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(port.write_all(format!("{line}\n").as_bytes())?)
    }

    /// Looks at the state, or changes it.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut S) -> T) -> T {
        look(&mut self.shared.lock().state)
    }

    /// Waits until `ready` finds what it looks for.
    pub(crate) fn wait<T>(
        &self,
        patience: Duration,
        mut ready: impl FnMut(&mut S) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        let mut heard = self.shared.lock();
        loop {
            if let Some(found) = ready(&mut heard.state) {
                return Ok(found);
            }
            if heard.closed {
                bail!("the machine ended");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("nothing within {} s", patience.as_secs());
            }
            let waited = self.shared.changed.wait_timeout(heard, left);
            heard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Heard<S>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, mut reader: impl BufRead, hear: fn(&mut S, &[u8])) {
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.read_until(b'\n', &mut line) {
                Ok(count) if count > 0 => hear(&mut self.lock().state, &line),
                _ => break,
            }
            self.changed.notify_all();
        }
        self.lock().closed = true;
        self.changed.notify_all();
    }
}
