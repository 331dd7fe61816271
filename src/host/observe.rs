//! Reads a machine: calls the observer of each concern and puts their facts together.
//!
//! Changes nothing, runs nothing, and cannot fail: what could not be read is unknown, and named in `unseen`.

use super::{Host, Source, console, cpu, firmware, gpu, iommu, kernel, look::Look, pci};
use crate::{judge, machine::Root};

/// The machine behind a door.
pub fn observe(root: &dyn Root) -> Host {
    let look = Look::new(root);
    let mut host = Host::unknown(Source::Live);
    host.cpu = cpu::cpu(&look);
    host.kernel = kernel::kernel(&look);
    host.acpi = firmware::acpi(&look);
    host.functions = pci::functions(&look);
    (host.iommu, host.groups) = iommu::iommu(&look, &mut host.functions, host.kernel.cmdline.as_deref());
    host.framebuffers = console::framebuffers(&look);
    host.consoles = console::consoles(&look);
    host.systemd = look.exists("/run/systemd/system");
    host.gpus = gpu::gpus(&host);
    host.unseen = look.unseen();
    judge::gpus(&mut host);
    host
}
