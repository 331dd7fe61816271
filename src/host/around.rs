//! What is around a machine's cards: who draws on them, who holds them, who else manages them, and what the machine
//! has for guests. One call of [`fill`] per observation, after functions, groups and kernel are known.

use super::{
    Host, chassis, display, gpu, holders, kconfig, libvirt, loaded, look::Look, managers, memory, security,
    sessions,
};
use crate::pci::Address;
use std::collections::BTreeSet;

/// Fills in these facts.
pub(super) fn fill(look: &Look, host: &mut Host) {
    host.gpus = gpu::gpus(host);
    let displays: Vec<_> = host.gpus.iter().map(|gpu| gpu.address).collect();
    host.drm_cards = display::cards(look);
    firmware(look, host, &displays);
    host.chassis = chassis::chassis(look);
    host.kernel_options = kconfig::options(look, host.kernel.release.as_deref());
    host.security = security::security(look, host.kernel.cmdline.as_deref());
    host.memory = memory::memory(look);
    host.topology = look.text("/proc/cpuinfo").and_then(|text| memory::topology(&text));
    let nodes = host.memory.as_ref().map_or(&[][..], |memory| &memory.nodes);
    memory::fill(look, nodes, &mut host.functions);
    host.domains = libvirt::domains(look);
    host.managers = managers::managers(look);
    host.sessions = sessions::sessions(look);
    hold(look, host);
}

/// The frame buffers that the firmware left, and whose they are.
pub(super) fn firmware(look: &Look, host: &mut Host, displays: &[Address]) {
    host.firmware_framebuffers = display::firmware(look);
    host.claims = display::claims(look, displays);
    display::settle(host);
}

/// Who holds the functions of cards: one look at all processes, and the modules.
fn hold(look: &Look, host: &mut Host) {
    let own: Vec<_> = host.gpus.iter().flat_map(|gpu| &gpu.functions).copied().collect();
    let drivers: BTreeSet<&str> =
        own.iter().filter_map(|own| host.function(*own)?.driver.as_deref()).collect();
    host.modules = loaded::modules(look, &drivers.into_iter().collect::<Vec<_>>());
    if own.is_empty() {
        return;
    }
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
