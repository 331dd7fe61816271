//! Reads a machine: calls the observer of each concern and puts their facts together.
//!
//! Changes nothing, runs nothing, and cannot fail: what could not be read is unknown, and named in `unseen`.

use super::{
    Host, Kernel, Source, acpi, around, boot, console, cpu, display, gpu, input, iommu, kernel, look::Look,
    modules, names, network, nvidia, pci, storage,
};
use crate::{judge, machine::Root, pci::Address};

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
    let kernel = kernel::kernel(&look);
    let (devices, rest) = look.with(users, || functions_and_groups(&look, &kernel));
    let Host { iommu, functions, drivers_told, groups, .. } = devices;
    let mut host = Host { iommu, kernel, functions, drivers_told, groups, ..rest };
    cards(&look, &mut host);
    host.unseen = look.unseen();
    host
}

/// Cards, and what the firmware left to them.
fn cards(look: &Look, host: &mut Host) {
    host.gpus = gpu::gpus(host);
    host.claims = display::claims(look, &displays(host));
    host.firmware_framebuffers = display::firmware(look);
    display::settle(host);
}

fn displays(host: &Host) -> Vec<Address> {
    host.gpus.iter().map(|gpu| gpu.address).collect()
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
fn devices<'r>(look: &Look<'r>, release: Option<&str>, host: &mut Host) -> pci::Overrides<'r> {
    let (functions, overrides) = pci::functions(look);
    host.functions = functions;
    // Saved trees often leave the drivers out.
    host.drivers_told = host.functions.iter().any(|function| function.driver.is_some())
        || look.exists("/sys/bus/pci/drivers");
    let functions = &host.functions;
    match modules::list(look, release) {
        Some(list) => {
            let modules = |look: &Look| modules::known(look, functions, &list);
            let (names, modules) = look.with(modules, || names::known(look, functions));
            names.fill(&mut host.functions);
            modules.fill(&mut host.functions);
        }
        None => names::known(look, functions).fill(&mut host.functions),
    }
    overrides
}

fn functions_and_groups(look: &Look, kernel: &Kernel) -> Host {
    let mut host = Host::unknown(Source::Live);
    let overrides = devices(look, kernel.release.as_deref(), &mut host);
    (host.iommu, host.groups) = iommu::iommu(look, &mut host.functions, kernel.cmdline.as_deref());
    overrides.fill(look, &mut host.functions);
    host
}

/// What the host uses functions for.
fn users(look: &Look) -> Host {
    Host {
        framebuffers: console::framebuffers(look),
        consoles: console::consoles(look),
        storage: storage::storage(look),
        network: network::network(look),
        ssh: network::ssh(look),
        keyboards: input::keyboards(look),
        nvidia: nvidia::nvidia(look),
        systemd: look.exists("/run/systemd/system"),
        ..Host::unknown(Source::Live)
    }
}

fn look_at(look: Look) -> Host {
    let kernel = kernel::kernel(&look);
    let rest = |look: &Look| (rest(look, &kernel), around::Holding::read(look));
    let (devices, (rest, holding)) = look.with(rest, || functions_and_groups(&look, &kernel));
    let Host { iommu, functions, drivers_told, groups, .. } = devices;
    let mut host = Host { iommu, kernel, functions, drivers_told, groups, ..rest };
    host.gpus = gpu::gpus(&host);
    host.claims = display::claims(&look, &displays(&host));
    display::settle(&mut host);
    around::of_functions(&look, &mut host);
    around::hold(&look, &holding, &mut host);
    host.unseen = look.unseen();
    conclude(&mut host);
    host
}

/// What is told without knowing the functions.
fn rest(look: &Look, kernel: &Kernel) -> Host {
    let mut host =
        Host { cpu: cpu::cpu(look), acpi: acpi::acpi(look), boot: boot::boot(look), ..users(look) };
    around::fill(look, kernel, &mut host);
    host
}

/// The functions alone, with names, drivers and modules: for who asks for no more.
pub fn observe_devices(root: &dyn Root) -> Host {
    let look = Look::new(root);
    let mut host = Host::unknown(Source::Live);
    host.kernel.release = kernel::release(&look);
    let release = host.kernel.release.clone();
    let overrides = devices(&look, release.as_deref(), &mut host);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{host::testing::Tree, machine::live::Live};

    /// Many cards, one of them with vfio-pci, and a kernel that knows their modules.
    fn tree() -> Tree {
        let mut tree = Tree::new();
        tree.file("/proc/sys/kernel/osrelease", "6.12.1\n");
        tree.file("/lib/modules/6.12.1/modules.alias", "alias pci:v000010DEd*sv*sd*bc03sc*i* nouveau\n");
        tree.file("/usr/share/misc/pci.ids", "10de  NVIDIA Corporation\n\t2203  GA102\n");
        for device in 0..32 {
            let folder = format!("/sys/devices/pci0000:00/0000:00:{device:02x}.0");
            tree.link(
                &format!("/sys/bus/pci/devices/0000:00:{device:02x}.0"),
                &format!("../../..{}", &folder[4..]),
            );
            let id = 0x2200 + device;
            tree.file(
                &format!("{folder}/modalias"),
                format!("pci:v000010DEd0000{id:04X}sv00001458sd00001234bc03sc00i00\n"),
            );
            tree.file(
                &format!("{folder}/driver_override"),
                if device == 7 { "vfio-pci\n" } else { "(null)\n" },
            );
            tree.link(&format!("{folder}/iommu_group"), &format!("../../../kernel/iommu_groups/{device}"));
            if device == 7 {
                tree.link(&format!("{folder}/driver"), "../../../bus/pci/drivers/vfio-pci");
            }
        }
        tree.file("/proc/1/maps", "");
        tree.link("/proc/1/fd/0", "/dev/null");
        tree
    }

    #[test]
    fn several_threads_see_what_one_sees() {
        let tree = tree();
        let folder = tempfile::tempdir().unwrap();
        tree.plant(folder.path());
        let live = Live::open(folder.path()).unwrap();
        let looks: [fn(&dyn Root) -> Host; 4] =
            [observe, observe_for_hand_over, observe_drivers, observe_devices];
        for look in looks {
            let (here, there) = (look(&tree), look(&live));
            assert_eq!(here, there);
            assert_eq!(here.functions.len(), 32);
            let named = |device: usize| here.functions[device].driver_override.as_deref();
            assert_eq!((named(6), named(7), named(8)), (None, Some("vfio-pci"), None));
        }
    }

    /// Config space with a header of these ids, and PCI Express with Resizable BAR where it is that long.
    fn config(vendor: u16, device: u16, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let registers = [
            (0x00, u32::from(device) << 16 | u32::from(vendor)),
            (0x04, 0x0010_0000),
            (0x34, 0x40),
            (0x40, 0x0002_0010),
            (0x100, 0x0001_0015),
            (0x104, 0xff0),
            (0x108, 0x0000_0821),
        ];
        for (at, value) in registers {
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
        }
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn what_only_some_functions_have_is_found_where_it_is() {
        let mut tree = Tree::new();
        // Class, config space as far as it is shown, whether it sleeps; 10de:2204 all of them.
        let card = config(0x10de, 0x2204, 4096);
        let all: [(&str, Option<Vec<u8>>, bool); 8] = [
            ("0300", Some(card.clone()), false),
            ("0302", Some(config(0x10de, 0x2204, 64)), false),
            ("0300", Some(card.clone()), true),
            ("1200", Some(card.clone()), false),
            ("1200", Some(vec![0; 256]), false),
            ("0200", Some(config(0xffff, 0xffff, 256)), false),
            ("0880", Some(config(0x10de, 0x2204, 256)), false),
            ("1200", None, false),
        ];
        for (device, (class, config, sleeps)) in all.iter().enumerate() {
            let folder = format!("/sys/devices/pci0000:00/0000:00:{device:02x}.0");
            let link = format!("../../..{}", &folder[4..]);
            tree.link(&format!("/sys/bus/pci/devices/0000:00:{device:02x}.0"), &link);
            let (base, sub) = class.split_at(2);
            let modalias = format!("pci:v000010DEd00002204sv00001458sd00001234bc{base}sc{sub}i00\n");
            tree.file(&format!("{folder}/modalias"), modalias);
            tree.file(&format!("{folder}/power_state"), if *sleeps { "D3hot\n" } else { "D0\n" });
            if let Some(config) = config {
                tree.file(&format!("{folder}/config"), config);
            }
            let bar = "0x00000000a4000000 0x00000000a4ffffff 0x0000000000040200\n";
            tree.file(&format!("{folder}/resource"), bar);
            tree.file(&format!("{folder}/resource0_resize"), "0000000000000ff0\n");
            if matches!(device, 0 | 6) {
                tree.link(&format!("{folder}/consumer:pci:0000:00:07.0"), "../x");
            }
            if device == 5 {
                tree.link(&format!("{folder}/physfn"), "../0000:00:07.0");
            }
            if device == 0 {
                tree.file(&format!("{folder}/boot_vga"), "1\n");
                tree.file(&format!("{folder}/reset_method"), "flr bus\n");
            }
        }
        let host = observe(&tree);
        let told = host.functions.iter().map(|function| {
            let regions = function.regions.as_deref().unwrap_or_default();
            let resizable = regions.iter().any(|region| region.resizable);
            (resizable, function.linked.len(), function.physical_function.is_some())
        });
        let wanted = [
            (true, 1, false),
            (true, 0, false),
            (true, 0, false),
            (true, 0, false),
            (true, 0, false),
            (true, 0, true),
            (true, 1, false),
            (true, 0, false),
        ];
        assert_eq!(told.collect::<Vec<_>>(), wanted);
        assert_eq!(host.functions[0].config.as_ref().unwrap().resizable.len(), 1);
        assert_eq!(host.functions[0].boot_vga, Some(true));
        assert_eq!(host.functions[0].reset_methods.as_deref().unwrap(), ["flr", "bus"]);
        assert!(host.functions[2].config.is_none(), "it sleeps on");
    }

    #[test]
    fn a_hand_over_knows_the_module_of_a_card_that_early_binding_lent() {
        let host = observe_for_hand_over(&tree());
        assert_eq!(host.functions[7].driver.as_deref(), Some("vfio-pci"));
        assert_eq!(host.functions[7].modules, ["nouveau"]);
    }
}
