//! Reads a machine: calls the observer of each concern and puts their facts together.
//!
//! Changes nothing, runs nothing, and cannot fail: what could not be read is unknown, and named in `unseen`.

use super::{
    Host, Source, acpi, around, boot, console, cpu, gpu, input, iommu, kernel, look::Look, modules, names,
    network, nvidia, pci, storage,
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

/// What a hand-over needs: functions with their drivers and groups, consoles and frame buffers, and what of the host
/// hangs on which function. Nothing of the rest, so that a hand-over does not wait for what it will not use.
pub fn observe_for_hand_over(root: &dyn Root) -> Host {
    let look = Look::brief(root);
    let mut host = Host::unknown(Source::Live);
    host.kernel = kernel::kernel(&look);
    let overrides = devices(&look, &mut host);
    groups(&look, &mut host);
    users(&look, &mut host);
    overrides.fill(&look, &mut host.functions);
    cards(&look, &mut host);
    host.unseen = look.unseen();
    host
}

/// Cards, and what the firmware left to them.
fn cards(look: &Look, host: &mut Host) {
    host.gpus = gpu::gpus(host);
    let displays: Vec<_> = host.gpus.iter().map(|gpu| gpu.address).collect();
    around::firmware(look, host, &displays);
}

/// What [`Snapshot::differences`](crate::handover::snapshot::Snapshot::differences) is asked about, again and again:
/// functions with drivers and overrides, frame buffers and consoles. No names, no modules, no users.
pub fn observe_drivers(root: &dyn Root) -> Host {
    let look = Look::brief(root);
    let mut host = Host::unknown(Source::Live);
    let (functions, overrides) = pci::functions(&look);
    host.functions = functions;
    host.framebuffers = console::framebuffers(&look);
    host.consoles = console::consoles(&look);
    overrides.fill(&look, &mut host.functions);
    cards(&look, &mut host);
    host.unseen = look.unseen();
    host
}

/// Functions and what they are called; their overrides are being read in the meantime.
fn devices<'r>(look: &Look<'r>, host: &mut Host) -> pci::Overrides<'r> {
    let (functions, overrides) = pci::functions(look);
    host.functions = functions;
    // Saved trees often leave the drivers out.
    host.drivers_told = host.functions.iter().any(|function| function.driver.is_some())
        || look.exists("/sys/bus/pci/drivers");
    names::fill(look, &mut host.functions);
    if !look.brief {
        modules::fill(look, &mut host.functions, host.kernel.release.as_deref());
    }
    overrides
}

fn groups(look: &Look, host: &mut Host) {
    (host.iommu, host.groups) = iommu::iommu(look, &mut host.functions, host.kernel.cmdline.as_deref());
}

/// What the host uses functions for.
fn users(look: &Look, host: &mut Host) {
    host.framebuffers = console::framebuffers(look);
    host.consoles = console::consoles(look);
    host.storage = storage::storage(look);
    host.network = network::network(look);
    host.ssh = network::ssh(look);
    host.keyboards = input::keyboards(look);
    host.nvidia = nvidia::nvidia(look);
    host.systemd = look.exists("/run/systemd/system");
}

fn look_at(look: Look) -> Host {
    let mut host = Host::unknown(Source::Live);
    host.cpu = cpu::cpu(&look);
    host.kernel = kernel::kernel(&look);
    host.acpi = acpi::acpi(&look);
    let overrides = devices(&look, &mut host);
    groups(&look, &mut host);
    host.boot = boot::boot(&look);
    users(&look, &mut host);
    overrides.fill(&look, &mut host.functions);
    around::fill(&look, &mut host);
    host.unseen = look.unseen();
    conclude(&mut host);
    host
}

/// The functions alone, with names, drivers and modules: for who asks for no more.
pub fn observe_devices(root: &dyn Root) -> Host {
    let look = Look::new(root);
    let mut host = Host::unknown(Source::Live);
    host.kernel.release = kernel::release(&look);
    let overrides = devices(&look, &mut host);
    overrides.fill(&look, &mut host.functions);
    host.unseen = look.unseen();
    host
}

/// Cards, and the verdict on them, from the functions and groups that are known: the last step of every way to a
/// [`Host`].
pub fn conclude(host: &mut Host) {
    host.functions.sort_by_key(|function| function.address);
    host.groups.sort_by_key(|group| group.id);
    let now = gpu::gpus(host);
    let before = std::mem::replace(&mut host.gpus, now);
    for gpu in &mut host.gpus {
        let same = before.iter().find(|old| old.address == gpu.address);
        // What a listing told; connectors tell it where they are known.
        gpu.displays = gpu.displays.take().or_else(|| same.and_then(|old| old.displays.clone()));
    }
    host.mux = super::chassis::mux(host);
    judge::gpus(host);
}
