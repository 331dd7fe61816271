//! What is fuzzed: a function for each parser of bytes that somebody else wrote. Each takes any bytes and must come back,
//! in time, without a panic; what must hold whatever the bytes are is asserted.
//!
//! Compiled into cargo-fuzz's programs, and into `tests/fuzz.rs`.

use gpuferry::{
    capture::archive::{Limits, Unpacked, unpack},
    host::{
        self, Acpi, Config, Function, Host, Source,
        acpi::{Dmar, Ivrs},
        config::without_serial,
        edid, names,
    },
    judge,
    machine::Root,
    paste::{self, Text},
    pci::{Address, Class, DeviceId},
};
use std::path::Path;

fn address() -> Address {
    Address { domain: 0, bus: 1, device: 0, function: 0 }
}

/// Config space: as it is, and filled up to 4096 bytes, where reading it in pieces must give the same.
pub fn config_space(data: &[u8]) {
    let mut function = Function::new(address(), Class(0));
    function.know_config(data);
    let mut whole = data.to_vec();
    whole.resize(4096, 0);
    let config = Config::parse(&whole);
    let pieces = Config::read(|at, length| whole.get(at..at + length).map(<[u8]>::to_vec));
    assert_eq!(Some(&config), pieces.as_ref());
    for capability in config.capabilities.iter().chain(&config.extended).flatten() {
        assert_eq!(capability.to_string().parse(), Ok(*capability));
    }
    without_serial(&mut whole);
}

/// DMAR and IVRS. The signature and the length are put right, so that what follows is looked at.
pub fn acpi_tables(data: &[u8]) {
    let mut table = data.to_vec();
    table.resize(table.len().max(36), 0);
    let length = u32::try_from(table.len()).unwrap_or(u32::MAX);
    table[4..8].copy_from_slice(&length.to_le_bytes());
    let mut read = |signature: &[u8; 4]| {
        table[..4].copy_from_slice(signature);
        table.clone()
    };
    let (dmar, ivrs) = (Dmar::parse(&read(b"DMAR")), Ivrs::parse(&read(b"IVRS")));
    let acpi = Acpi { dmar: Some(true), ivrs: Some(true), dmar_table: dmar, ivrs_table: ivrs };
    let mut function = Function::new(address(), Class(0x03_0000));
    function.path = "0000:00:01.0/00.0".parse().ok();
    let _ = acpi.reserved_for(&function);
    let _ = (Dmar::parse(data), Ivrs::parse(data));
}

/// The list of names; the first four bytes are the id that is looked for.
pub fn pci_ids(data: &[u8]) {
    let Some((id, list)) = data.split_at_checked(4) else { return };
    let id =
        DeviceId { vendor: u16::from_le_bytes([id[0], id[1]]), device: u16::from_le_bytes([id[2], id[3]]) };
    let found = names::find(list, &[id].into());
    assert!(found.devices.keys().all(|one| *one == id) && found.vendors.keys().all(|one| *one == id.vendor));
}

/// A monitor's block: as it is, and with checksums that are right.
pub fn edid(data: &[u8]) {
    let _ = edid::parse(data);
    let mut edid = data.to_vec();
    for block in edid.chunks_exact_mut(128) {
        let sum = block[..127].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        block[127] = 0_u8.wrapping_sub(sum);
    }
    if let Some(monitor) = edid::parse(&edid) {
        assert!(!monitor.shown().contains(char::is_control), "{monitor:?}");
    }
}

/// Pasted text, and every rule over what comes out of it.
pub fn paste_text(data: &[u8]) {
    let text = Text { name: "text".to_owned(), text: String::from_utf8_lossy(data).into_owned() };
    let mut host = Host::unknown(Source::Text);
    paste::merge(&mut host, &[text]);
    host::conclude(&mut host);
    let _ = judge::doctor(&host, None);
    let json = serde_json::to_vec(&host).expect("a host can always be written");
    let read: Host = serde_json::from_slice(&json).expect("what was written can be read");
    assert_eq!(read, host);
}

/// An archive, with limits that are soon reached; what is taken is looked at as a machine.
pub fn archive(data: &[u8]) {
    const LIMITS: Limits = Limits {
        unpacked: 1 << 20,
        contents: 256 << 10,
        file: 64 << 10,
        entries: 500,
        depth: 16,
        name: 255,
        path: 4096,
    };
    let Ok(Unpacked::Tree(tree)) = unpack("archive", data, &LIMITS) else { return };
    let names = tree.list(Path::new("/")).unwrap_or_default();
    assert!(names.iter().all(|name| name != ".." && name != "."));
    let _ = host::observe(&tree);
}
