//! What is around a machine's cards: who draws on them, who holds them, who else manages them, and what the machine
//! has for guests.

use super::{
    Host, Kernel, board, chassis, display, holders, kconfig, libvirt, loaded, look::Look, managers, memory,
    security, sessions,
};
use std::collections::BTreeSet;

/// Fills in what is told without knowing the functions.
pub(super) fn fill(look: &Look, kernel: &Kernel, host: &mut Host) {
    host.drm_cards = display::cards(look);
    host.firmware_framebuffers = display::firmware(look);
    host.chassis = chassis::chassis(look);
    host.board = board::board(look);
    host.kernel_options = kconfig::options(look, kernel.release.as_deref());
    host.security = security::security(look, kernel.cmdline.as_deref());
    host.memory = memory::memory(look);
    host.topology = look.text("/proc/cpuinfo").and_then(|text| memory::topology(&text));
    host.domains = libvirt::domains(look);
    host.managers = managers::managers(look);
    host.sessions = sessions::sessions(look);
}

/// Fills in where functions are in the machine.
pub(super) fn of_functions(look: &Look, host: &mut Host) {
    let nodes = host.memory.as_ref().map_or(&[][..], |memory| &memory.nodes);
    memory::fill(look, nodes, &mut host.functions);
}

/// Who may hold something: the machine's devices, and its processes with those that they have.
pub(super) struct Holding {
    devices: holders::Devices,
    processes: holders::Processes,
}

impl Holding {
    pub(super) fn read(look: &Look) -> Self {
        Self { devices: holders::Devices::read(look.root), processes: holders::Processes::read(look.root) }
    }
}

/// Who holds the functions of cards: processes and modules.
pub(super) fn hold(look: &Look, holding: &Holding, host: &mut Host) {
    let own: Vec<_> = host.gpus.iter().flat_map(|gpu| &gpu.functions).copied().collect();
    let drivers: BTreeSet<&str> =
        own.iter().filter_map(|own| host.function(*own)?.driver.as_deref()).collect();
    host.modules = loaded::modules(look, &drivers.into_iter().collect::<Vec<_>>());
    if own.is_empty() {
        return;
    }
    let nodes = holding.devices.nodes_of(look.root, &own);
    let scan = holding.processes.holding(look.root, &nodes.values().flatten().cloned().collect());
    for function in &mut host.functions {
        if let Some(nodes) = nodes.get(&function.address) {
            function.holders = scan.of(nodes);
        }
    }
    if scan.some && !scan.complete {
        look.note("what other users' processes hold: run it as root to see it".to_owned());
    }
}
