//! `inspect boot`: firmware, loader, kernels, and what the machine offers guests around its cards.

use super::plain;
use crate::{
    cli::{
        render::{fit, wrap},
        screen,
    },
    host::{Host, Lockdown, Setting},
    judge::setup,
};
use std::fmt::Write;

/// For the eye.
pub(in crate::cli) fn text(host: &Host) -> String {
    let mut text = screen::machine(host);
    let mut last = "";
    for (title, value) in rows(host) {
        let shown = if title == last { "" } else { title };
        let _ = write!(text, " {shown:<16}{}", wrap(&value, 17).trim_start_matches(' '));
        last = title;
    }
    text
}

/// For a screen reader.
pub(in crate::cli) fn plain(host: &Host) -> String {
    let mut text = plain::machine(host);
    for (title, value) in rows(host) {
        let _ = writeln!(text, "{title}: {}.", fit(&value, usize::MAX));
    }
    text
}

/// Titles and values.
fn rows(host: &Host) -> Vec<(&'static str, String)> {
    let firmware = match host.boot.uefi {
        Some(true) => "UEFI",
        Some(false) => "BIOS",
        None => "not known",
    };
    let mut rows = vec![("Firmware", firmware.to_owned())];
    for kernel in &host.boot.kernels {
        let image = kernel.initramfs.as_deref().unwrap_or("no initramfs");
        rows.push(("Kernels", format!("{}, {image}", kernel.release)));
    }
    rows.extend(surroundings(host));
    rows.extend(firmware_setup(host));
    rows.extend(host.kernel.cmdline.clone().map(|cmdline| ("Command line", cmdline)));
    rows
}

/// Board and firmware by name, and what to look for in the firmware's setup.
fn firmware_setup(host: &Host) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(board) = &host.board {
        let of = |part: &Option<String>| part.clone().unwrap_or_default();
        let shown = [of(&board.vendor), of(&board.name), of(&board.firmware), of(&board.date)];
        let shown: Vec<&str> = shown.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        rows.push(("Board", shown.join(", ")));
    }
    for setting in setup::checklist(host) {
        let now = setting.now.unwrap_or_else(|| "not seen".to_owned());
        let wanted = setting.wanted.map_or_else(String::new, |wanted| format!("; wanted: {wanted}"));
        let place = setting.place.map_or_else(String::new, |place| format!(" ({place})"));
        rows.push(("Firmware setup", format!("{}: {now}{wanted}{place}", setting.name)));
    }
    rows
}

/// What firmware, kernel and memory offer guests, a title and a value each; only what is known.
fn surroundings(host: &Host) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let security = &host.security;
    if let Some(on) = security.secure_boot {
        let state = match (on, security.setup_mode) {
            (true, _) => "on",
            (false, Some(true)) => "off (waits for keys)",
            (false, _) => "off",
        };
        lines.push(("Secure Boot", state.to_owned()));
    }
    if let Some(lockdown) = security.lockdown.filter(|lockdown| *lockdown != Lockdown::None) {
        let level = if lockdown == Lockdown::Integrity { "integrity" } else { "confidentiality" };
        lines.push(("Lockdown", level.to_owned()));
    }
    for disk in security.sealed_disks.iter().flatten() {
        lines.push(("TPM opens", format!("{} ({})", disk.name, disk.source)));
    }
    if let Some(options) = &host.kernel_options {
        let words = ["VFIO_PCI", "IOMMUFD", "SYSFB_SIMPLEFB", "DRM_SIMPLEDRM"].iter().filter_map(|name| {
            let state = match options.get(*name)? {
                Setting::BuiltIn => "built in",
                Setting::Module => "module",
                Setting::No => "no",
            };
            Some(format!("{name} {state}"))
        });
        lines.push(("Kernel", words.collect::<Vec<_>>().join(", ")));
    }
    if let Some(total) = host.memory.as_ref().and_then(|memory| memory.total) {
        let memory = host.memory.iter();
        let pools = memory.flat_map(|memory| &memory.huge_pages).filter(|pool| pool.total > 0);
        let pools = pools
            .map(|pool| format!("{} of {} huge pages of {} free", pool.free, pool.total, bytes(pool.size)));
        let parts: Vec<String> = [bytes(total)].into_iter().chain(pools).collect();
        lines.push(("Memory", parts.join(", ")));
    }
    if let Some(topology) = &host.topology {
        let nodes = host.memory.as_ref().map_or(0, |memory| memory.nodes.len());
        let numa = if nodes > 1 { format!(", {nodes} NUMA nodes") } else { String::new() };
        let shown = format!(
            "{}, {}, {}{numa}",
            plural(topology.packages, "package"),
            plural(topology.cores, "core"),
            plural(topology.threads, "thread")
        );
        lines.push(("Processor", shown));
    }
    lines
}

fn plural(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

/// `31.2 GiB`, `2 MiB`.
fn bytes(count: u64) -> String {
    let (unit, word) = if count >= 1 << 30 { (1_u64 << 30, "GiB") } else { (1 << 20, "MiB") };
    match (count / unit, count % unit * 10 / unit) {
        (whole, 0) => format!("{whole} {word}"),
        (whole, tenth) => format!("{whole}.{tenth} {word}"),
    }
}
