//! Reads a machine: calls the observer of each concern and puts their facts together.
//!
//! Changes nothing, runs nothing, and cannot fail: what could not be read is unknown, and named in `unseen`.

use super::{
    Host, Source, acpi, boot, console, cpu, display, gpu, holders, input, iommu, kernel, look::Look, modules,
    names, network, pci, sessions, storage,
};
use crate::{judge, machine::Root};

/// The machine behind a door.
pub fn observe(root: &dyn Root) -> Host {
    look_at(Look::new(root))
}

/// As [`observe`], and wakes sleeping devices to read their config space.
pub fn observe_waking(root: &dyn Root) -> Host {
    look_at(Look::waking(root))
}

fn look_at(look: Look) -> Host {
    let mut host = Host::unknown(Source::Live);
    host.cpu = cpu::cpu(&look);
    host.kernel = kernel::kernel(&look);
    host.acpi = acpi::acpi(&look);
    host.functions = pci::functions(&look);
    names::fill(&look, &mut host.functions);
    modules::fill(&look, &mut host.functions, host.kernel.release.as_deref());
    (host.iommu, host.groups) = iommu::iommu(&look, &mut host.functions, host.kernel.cmdline.as_deref());
    host.framebuffers = console::framebuffers(&look);
    host.consoles = console::consoles(&look);
    host.boot = boot::boot(&look);
    host.storage = storage::storage(&look);
    host.network = network::network(&look);
    host.ssh = network::ssh(&look);
    host.keyboards = input::keyboards(&look);
    host.systemd = look.exists("/run/systemd/system");
    host.drm_cards = display::cards(&look);
    host.firmware_framebuffers = display::firmware(&look);
    host.sessions = sessions::sessions(&look);
    host.gpus = gpu::gpus(&host);
    let displays: Vec<_> = host.gpus.iter().map(|gpu| gpu.address).collect();
    host.claims = display::claims(&look, &displays);
    display::settle(&mut host);
    hold(&look, &mut host);
    host.unseen = look.unseen();
    conclude(&mut host);
    host
}

/// Who holds the functions of cards: one look at all processes.
fn hold(look: &Look, host: &mut Host) {
    let own: Vec<_> = host.gpus.iter().flat_map(|gpu| &gpu.functions).copied().collect();
    let nodes = holders::nodes_of(&look.root, &own);
    let scan = holders::scan(&look.root, &nodes.values().flatten().cloned().collect());
    for function in &mut host.functions {
        if let Some(nodes) = nodes.get(&function.address) {
            function.holders = scan.of(nodes);
        }
    }
    if scan.some && !scan.complete {
        look.note("what other users' processes hold: run it as root to see it".to_owned());
    }
}

/// Cards, and the verdict on them, from the functions and groups that are known: the last step of every way to a
/// [`Host`].
pub fn conclude(host: &mut Host) {
    let now = gpu::gpus(host);
    let before = std::mem::replace(&mut host.gpus, now);
    for gpu in &mut host.gpus {
        let same = before.iter().find(|old| old.address == gpu.address);
        gpu.displays = same.and_then(|old| old.displays.clone());
    }
    judge::gpus(host);
}
