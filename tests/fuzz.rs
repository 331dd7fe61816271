//! What cargo-fuzz runs for hours, in seconds and with any compiler: every target over its corpus, and over bytes that
//! were changed by a generator with a fixed seed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say where")]
#![allow(missing_docs, unreachable_pub, reason = "the targets are another crate's")]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::{fs, path::Path, time::Instant};

/// Changed inputs for each target.
const ROUNDS: usize = 2000;

/// xorshift: the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        const TELLING: [u8; 8] = [0, 1, 0x10, 0x40, 0x7f, 0x80, 0xfc, 0xff];
        if self.below(2) == 0 { TELLING[self.below(8)] } else { u8::try_from(self.below(256)).unwrap() }
    }

    /// Bytes set, cut out, doubled, or joined with those of another input.
    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(8) {
            let (at, length) = (self.below(bytes.len()), self.below(64));
            let end = (at + length).min(bytes.len());
            match self.below(5) {
                0 => drop(bytes.drain(at..end)),
                1 => bytes.extend_from_within(at..end),
                2 => {
                    let from = self.below(other.len());
                    bytes.truncate(at);
                    bytes.extend_from_slice(other.get(from..).unwrap_or_default());
                }
                _ => {
                    let byte = self.byte();
                    bytes.iter_mut().skip(at).take(1).for_each(|one| *one = byte);
                }
            }
        }
        bytes.truncate(16 << 10);
    }
}

fn try_out(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(corpus.len() >= 3, "{} holds too little", folder.display());
    for (file, bytes) in files.iter().zip(&corpus) {
        let start = Instant::now();
        target(bytes);
        assert!(start.elapsed().as_secs() < 10, "{} takes too long", file.display());
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..ROUNDS {
        let (one, other) = (random.below(corpus.len()), random.below(corpus.len()));
        let mut bytes = corpus[one].clone();
        random.change(&mut bytes, &corpus[other]);
        target(&bytes);
    }
}

#[test]
fn config_space() {
    try_out("config_space", targets::config_space);
}

#[test]
fn acpi_tables() {
    try_out("acpi_tables", targets::acpi_tables);
}

#[test]
fn pci_ids() {
    try_out("pci_ids", targets::pci_ids);
}

#[test]
fn edid() {
    try_out("edid", targets::edid);
}

#[test]
fn paste_text() {
    try_out("paste_text", targets::paste_text);
}

#[test]
fn archive() {
    try_out("archive", targets::archive);
}
