//! QEMU's machine protocol (docs/interop/qmp-spec.rst in QEMU): a small client over a UNIX socket.
//!
//! What comes from the socket is hostile until it is parsed: a guest that broke out of its device model speaks
//! here. Lines have a largest size, waits have a deadline, nothing panics. It knows the words of the protocol and
//! nothing of cards or hosts.

use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

/// The longest line that is read, in bytes; the answer to `query-pci` of a large guest has some hundred thousand.
const MAX_LINE: usize = 4 << 20;
/// Events that are kept while nobody asks for them; older ones go.
const MAX_EVENTS: usize = 256;
/// How deep bridges are followed in an answer.
const DEPTH: usize = 16;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The connection is gone: QEMU has ended, or is ending.
    #[error("QEMU has closed the connection")]
    Closed,
    /// No answer in time.
    #[error("QEMU did not answer `{0}` in time")]
    Late(String),
    /// What came is not the protocol.
    #[error("QEMU sent what is not its protocol: {0}")]
    Garbage(String),
    /// QEMU said no.
    #[error("QEMU refused `{command}`: {said}")]
    Refused {
        /// What was asked.
        command: String,
        /// What it said.
        said: String,
    },
    /// The socket failed.
    #[error("the connection to QEMU failed: {0}")]
    Socket(#[from] io::Error),
}

/// Something that QEMU told unasked, by name: `SHUTDOWN`, `RESET`, `POWERDOWN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QmpEvent(pub String);

/// A connection whose greeting is done.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
    events: VecDeque<QmpEvent>,
    next: u64,
}

impl Client {
    /// Connects to a socket and greets.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self, QmpError> {
        Self::greet(UnixStream::connect(path)?, limit)
    }

    /// Takes the greeting and leaves the negotiation mode (`qmp_capabilities`).
    pub fn greet(stream: UnixStream, limit: Duration) -> Result<Self, QmpError> {
        let mut client = Self { stream, buffer: Vec::new(), events: VecDeque::new(), next: 0 };
        let greeting = client.line(Instant::now() + limit, "greeting")?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Garbage(shortened(&greeting.to_string())));
        }
        client.ask("qmp_capabilities", limit)?;
        Ok(client)
    }

    /// Asks without arguments; the answer's `return`.
    pub fn ask(&mut self, command: &str, limit: Duration) -> Result<Value, QmpError> {
        self.next += 1;
        let id = self.next;
        let end = Instant::now() + limit;
        let question = json!({ "execute": command, "id": id }).to_string();
        self.stream.set_write_timeout(Some(limit.max(Duration::from_millis(1))))?;
        self.stream.write_all(format!("{question}\n").as_bytes()).map_err(closed)?;
        loop {
            let answer = self.line(end, command)?;
            if let Some(name) = answer.get("event").and_then(Value::as_str) {
                self.keep(name);
                continue;
            }
            // An answer that nobody waits for any more, of a question that was given up.
            if answer.get("id").and_then(Value::as_u64).is_some_and(|other| other != id) {
                continue;
            }
            if let Some(error) = answer.get("error") {
                let said = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
                return Err(QmpError::Refused { command: command.into(), said: shortened(said) });
            }
            return answer
                .get("return")
                .cloned()
                .ok_or_else(|| QmpError::Garbage(shortened(&answer.to_string())));
        }
    }

    /// The next event, waited for at most this long. `Ok(None)`: none came.
    pub fn event(&mut self, limit: Duration) -> Result<Option<QmpEvent>, QmpError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        match self.line(Instant::now() + limit, "event") {
            Ok(line) => {
                if let Some(name) = line.get("event").and_then(Value::as_str) {
                    self.keep(name);
                }
                Ok(self.events.pop_front())
            }
            Err(QmpError::Late(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn keep(&mut self, name: &str) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(QmpEvent(shortened(name)));
    }

    /// The next line, as JSON.
    fn line(&mut self, end: Instant, waiting_for: &str) -> Result<Value, QmpError> {
        let mut looked = 0;
        loop {
            if let Some(at) = self.buffer[looked..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=looked + at).collect();
                if line.trim_ascii().is_empty() {
                    looked = 0;
                    continue;
                }
                let value = serde_json::from_slice(&line);
                return value.map_err(|_| QmpError::Garbage(shortened(&String::from_utf8_lossy(&line))));
            }
            looked = self.buffer.len();
            if looked > MAX_LINE {
                return Err(QmpError::Garbage(format!("a line of more than {MAX_LINE} bytes")));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(QmpError::Late(waiting_for.into()));
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut piece = [0_u8; 16 << 10];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(QmpError::Closed),
                Ok(count) => self.buffer.extend_from_slice(&piece[..count]),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                    _ => return Err(closed(error)),
                },
            }
        }
    }
}

fn closed(error: io::Error) -> QmpError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => QmpError::Closed,
        _ => QmpError::Socket(error),
    }
}

/// What is shown of a text that somebody else chose.
fn shortened(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(200).collect()
}

/// A device that QEMU shows on the guest's PCI buses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestDevice {
    /// The id that it was given on QEMU's command line; empty for QEMU's own.
    pub name: String,
    /// Vendor and device id.
    pub id: (u16, u16),
    /// Bus, slot and function in the guest.
    pub at: (u8, u8, u8),
}

/// The devices in an answer to `query-pci`, those behind bridges too. Behind a root port they appear once the
/// guest's firmware has numbered the buses.
pub fn devices(answer: &Value) -> Vec<GuestDevice> {
    let mut found = Vec::new();
    for bus in answer.as_array().into_iter().flatten() {
        collect(bus.get("devices"), DEPTH, &mut found);
    }
    found
}

fn collect(devices: Option<&Value>, depth: usize, found: &mut Vec<GuestDevice>) {
    #[derive(Deserialize)]
    struct Id {
        vendor: u16,
        device: u16,
    }
    #[derive(Deserialize)]
    struct Device {
        #[serde(default)]
        qdev_id: String,
        id: Id,
        bus: u8,
        slot: u8,
        function: u8,
    }
    for value in devices.and_then(Value::as_array).into_iter().flatten() {
        if let Ok(device) = Device::deserialize(value) {
            found.push(GuestDevice {
                name: device.qdev_id,
                id: (device.id.vendor, device.id.device),
                at: (device.bus, device.slot, device.function),
            });
        }
        if depth > 0 {
            collect(value.get("pci_bridge").and_then(|bridge| bridge.get("devices")), depth - 1, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const LIMIT: Duration = Duration::from_secs(20);
    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": []}}"#;

    /// A server that says these lines, each after it has read one (the first at once), then closes.
    fn server(lines: Vec<String>) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut stream = theirs;
            for (number, line) in lines.iter().enumerate() {
                if number > 0 {
                    let mut byte = [0];
                    while stream.read(&mut byte).unwrap_or(0) == 1 && byte[0] != b'\n' {}
                }
                if stream.write_all(line.as_bytes()).is_err() {
                    return;
                }
            }
            let mut rest = [0; 100];
            while stream.read(&mut rest).unwrap_or(0) > 0 {}
        });
        ours
    }

    fn said(lines: &[&str]) -> UnixStream {
        server(lines.iter().map(|line| format!("{line}\r\n")).collect())
    }

    #[test]
    fn a_question_has_its_answer_and_events_wait() {
        let stream = said(&[
            GREETING,
            r#"{"return": {}, "id": 1}"#,
            "{\"event\": \"RESET\", \"data\": {}}\r\n{\"return\": {\"status\": \"running\"}, \"id\": 2}",
        ]);
        let mut client = Client::greet(stream, LIMIT).unwrap();
        let answer = client.ask("query-status", LIMIT).unwrap();
        assert_eq!(answer["status"], "running");
        assert_eq!(client.event(LIMIT).unwrap(), Some(QmpEvent("RESET".into())));
        assert_eq!(client.event(Duration::from_millis(20)).unwrap(), None);
    }

    #[test]
    fn a_refusal_is_told() {
        let stream =
            said(&[GREETING, r#"{"error": {"class": "GenericError", "desc": "no\u001b[2J"}, "id": 1}"#]);
        let error = Client::greet(stream, LIMIT).unwrap_err();
        assert_eq!(error.to_string(), "QEMU refused `qmp_capabilities`: no[2J");
    }

    #[test]
    fn what_is_not_the_protocol_is_an_error() {
        for wrong in ["hello", "{}", "[]", "{\"QMP\"", "\u{0}\u{1}"] {
            let error = Client::greet(said(&[wrong]), LIMIT).unwrap_err();
            assert!(matches!(error, QmpError::Garbage(_)), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_given_up() {
        let error = Client::greet(server(vec!["x".repeat(MAX_LINE + 100_000)]), LIMIT).unwrap_err();
        assert!(matches!(error, QmpError::Garbage(_)), "{error}");
    }

    #[test]
    fn a_close_in_the_middle_is_told() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut stream = theirs;
            stream.write_all(format!("{GREETING}\n{{\"ret").as_bytes()).unwrap();
            let mut question = [0; 10];
            stream.read_exact(&mut question).unwrap();
        });
        assert!(matches!(Client::greet(ours, LIMIT).unwrap_err(), QmpError::Closed));
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let error = Client::greet(ours, Duration::from_millis(30)).unwrap_err();
        assert!(matches!(error, QmpError::Late(_)), "{error}");
    }

    #[test]
    fn devices_behind_bridges_are_found() {
        let card = json!({ "qdev_id": "card0f0", "id": { "vendor": 0x10de, "device": 0x2204 },
            "bus": 1, "slot": 0, "function": 0 });
        let port = json!({ "qdev_id": "port0", "id": { "vendor": 0x1b36, "device": 12 }, "bus": 0, "slot": 16,
            "function": 0, "pci_bridge": { "bus": { "number": 0 }, "devices": [card] } });
        let found = devices(&json!([{ "bus": 0, "devices": [port] }]));
        assert_eq!(found[1], GuestDevice { name: "card0f0".into(), id: (0x10de, 0x2204), at: (1, 0, 0) });
        assert!(devices(&json!({ "devices": 3 })).is_empty());
        let mut deep = json!({});
        for _ in 0..100 {
            deep = json!({ "pci_bridge": { "devices": [deep] } });
        }
        assert!(devices(&json!([{ "devices": [deep] }])).is_empty());
    }
}
