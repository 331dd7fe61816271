//! The kernel's side of a hand-over: PCI functions and their drivers, modules, consoles, and who holds what.
//!
//! Each operation has the kernel's results and error numbers (drivers/base/{bus,dd}.c, drivers/pci/pci-driver.c,
//! drivers/video/fbdev/core/fbcon.c, drivers/tty/vt/vt.c). What it looks like from outside is [`super::sysfs`]'s.
//! `tests/sequences` holds it to a real kernel.

use super::{
    disk::errno,
    fbcon::{Consoles, FIRMWARE},
    sysfs::View,
};
use crate::pci::Address;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

/// What a driver makes for a function that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Makes {
    /// A DRM device and a frame buffer of this name.
    Screen(&'static str),
    /// A sound card.
    Sound,
    /// /dev/nvidiaN; a screen once nvidia_drm is loaded.
    Nvidia,
    /// A VFIO device.
    Vfio,
    /// One node whose name begins so.
    Node(&'static str),
    /// Nothing that anybody opens.
    Nothing,
}

/// What is known of a driver: its module, what it matches (vendor, device, class; 0 is any), what it makes, and
/// whether its remove waits for those who have that open.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) driver: &'static str,
    pub(crate) module: Option<&'static str>,
    matches: (u16, u16, u32),
    pub(crate) makes: Makes,
    pub(crate) waits: bool,
}

const fn kind(
    driver: &'static str,
    module: &'static str,
    matches: (u16, u16, u32),
    makes: Makes,
    waits: bool,
) -> Kind {
    Kind { driver, module: Some(module), matches, makes, waits }
}

pub(crate) const KINDS: &[Kind] = &[
    Kind { driver: "pcieport", module: None, matches: (0, 0, 0x0604), makes: Makes::Nothing, waits: false },
    kind("nvme", "nvme", (0, 0, 0x0108), Makes::Nothing, false),
    kind("e1000e", "e1000e", (0, 0, 0x0200), Makes::Nothing, false),
    kind("bochs-drm", "bochs", (0x1234, 0x1111, 0), Makes::Screen("bochs-drmdrmfb"), false),
    kind("nouveau", "nouveau", (0x10de, 0, 0x0300), Makes::Screen("nouveaudrmfb"), false),
    kind("nvidia", "nvidia", (0x10de, 0, 0x0300), Makes::Nvidia, true),
    kind("amdgpu", "amdgpu", (0x1002, 0, 0x0300), Makes::Screen("amdgpudrmfb"), false),
    kind("i915", "i915", (0x8086, 0, 0x0300), Makes::Screen("i915drmfb"), false),
    kind("acme", "acme", (0x1abc, 0, 0x0300), Makes::Node("acme"), true),
    kind("snd_hda_intel", "snd_hda_intel", (0, 0, 0x0403), Makes::Sound, true),
    kind("xhci_hcd", "xhci_pci", (0, 0, 0x0c03), Makes::Node("bus/usb/00"), false),
    kind("nvidia-gpu", "i2c_nvidia_gpu", (0x10de, 0, 0x0c80), Makes::Node("i2c-"), false),
    kind("vfio-pci", "vfio_pci", (0xffff, 0xffff, 0xffff), Makes::Vfio, true),
];

/// What a module needs below it.
pub(super) fn needs(module: &str) -> &'static [&'static str] {
    match module {
        "nvidia_modeset" | "nvidia_uvm" => &["nvidia"],
        "nvidia_drm" => &["nvidia_modeset"],
        "vfio_pci" => &["vfio_pci_core", "vfio_iommu_type1"],
        "vfio_pci_core" | "vfio_iommu_type1" => &["vfio"],
        _ => &[],
    }
}

/// What makes a probe work again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cure {
    /// Nothing but trying.
    Time,
    Reset,
    Rescan,
}

/// What a device does wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The driver's probe fails with this number, so often, or until that has been done.
    ProbeFails(&'static str, i32, u32, Cure),
    /// The driver does not let go until then; `None`: never.
    HangsUntil(&'static str, Option<Duration>),
    /// The driver takes the device, and makes no frame buffer.
    NoFramebuffer(&'static str),
}

/// A PCI function.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) address: Address,
    /// The addresses from the root port down to it.
    pub(crate) place: Vec<Address>,
    pub(crate) class: u32,
    pub(crate) id: (u16, u16),
    pub(crate) subsystem: (u16, u16),
    pub(crate) group: Option<u32>,
    pub(crate) boot_vga: bool,
    pub(crate) driver: Option<usize>,
    pub(crate) driver_override: Option<String>,
    /// The driver that is letting go: its link is away already, the device lock is held (`__device_release_driver`).
    pub(crate) releasing: Option<usize>,
    pub(crate) trouble: Vec<Trouble>,
    pub(crate) card: Option<u32>,
    pub(crate) sound: Option<u32>,
    pub(crate) on_bus: bool,
    /// It has the attribute `reset`.
    pub(crate) resets: bool,
    /// How, first to last.
    pub(crate) methods: &'static str,
}

/// What every function here that resets can do (drivers/pci/pci.c, `pci_reset_fn_methods`).
const METHODS: [&str; 4] = ["flr bus", "flr", "bus", "bus flr"];

impl Function {
    pub(crate) fn new(address: &str, class: u32, id: (u16, u16), group: Option<u32>) -> Self {
        let address: Address = address.parse().unwrap();
        Self {
            address,
            place: vec![address],
            class,
            id,
            subsystem: (0x1af4, 0x1100),
            group,
            boot_vga: false,
            driver: None,
            driver_override: None,
            releasing: None,
            trouble: Vec::new(),
            card: None,
            sound: None,
            on_bus: true,
            resets: true,
            methods: METHODS[0],
        }
    }

    pub(crate) fn below(mut self, port: &str) -> Self {
        self.place.insert(0, port.parse().unwrap());
        self
    }

    pub(super) fn kind(&self) -> Option<&'static Kind> {
        self.driver.map(|driver| &KINDS[driver])
    }

    pub(super) fn is_display(&self) -> bool {
        self.class >> 16 == 3
    }
}

/// A file that a process has open: the function that it belongs to and the path that it was opened by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) function: usize,
    pub(crate) node: String,
    /// Mapped instead of open.
    pub(crate) mapped: bool,
}

/// A process of the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) comm: &'static str,
    pub(crate) uid: u32,
    pub(crate) open: Vec<Open>,
    pub(crate) started: u64,
    pub(crate) cgroup: String,
    /// Does not end when it is asked to.
    pub(crate) stubborn: bool,
}

/// Something that the world does by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Happening {
    /// A process starts and opens what a function has, if it has something.
    Opens { comm: &'static str, uid: u32, function: usize },
    /// A process ends.
    Ends(u32),
}

/// What the firmware left, and how the kernel and the drivers treat it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Firmware {
    /// There is a frame buffer, on the boot card.
    pub(crate) draws: bool,
    /// vfio-pci throws it out, as since 6.0.
    pub(crate) vfio_evicts: bool,
    /// nvidia_drm makes frame buffers of its own, as its default is since 570, and throws it out.
    pub(crate) nvidia_draws: bool,
}

impl Default for Firmware {
    fn default() -> Self {
        Self { draws: false, vfio_evicts: true, nvidia_draws: true }
    }
}

/// A write into sysfs, or a program, that may not be over at once.
#[derive(Debug, Clone)]
pub(super) struct Task {
    path: String,
    value: String,
    /// The function whose driver is on its way out.
    releasing: Option<usize>,
    /// It holds the lock that remove and rescan take.
    holds_rescan: bool,
}

/// A write that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) path: String,
    pub(crate) value: String,
    /// A device lock was held by a write that hung when it began.
    pub(crate) while_hung: bool,
}

/// The simulated kernel and what runs on it.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(crate) functions: Vec<Function>,
    pub(crate) modules: BTreeSet<&'static str>,
    /// Ids given to vfio-pci.
    pub(crate) vfio_ids: BTreeSet<(u16, u16)>,
    pub(crate) consoles: Consoles,
    pub(crate) processes: BTreeMap<u32, Process>,
    pub(crate) units: Vec<super::units::Unit>,
    pub(crate) happenings: Vec<(Duration, Happening)>,
    /// Matching takes the lock of every device (6.12.72 and later, `driver_match_device_locked`): one that is held
    /// holds up every driver that is loaded.
    pub(crate) matches_locked: bool,
    /// nvidia_drm keeps its devices in use for as long as it is loaded, as before 580.105.
    pub(crate) nvidia_holds: bool,
    /// How it and the drivers treat what the firmware left.
    treats: Firmware,
    /// The function whose memory has the frame buffer that the firmware left, and whether efifb draws into it.
    pub(crate) firmware: Option<(usize, bool)>,
    pub(crate) boot: u32,
    pub(crate) written: Vec<Written>,
    /// Devices whose lock somebody holds for good.
    locked: BTreeSet<usize>,
    rescan_locked: bool,
    next_pid: u32,
    pub(super) view: View,
}

impl Kernel {
    /// A kernel that has just booted on a machine of these functions, with these modules loaded in order.
    pub(crate) fn new(functions: Vec<Function>, modules: &[&'static str]) -> Self {
        Self::with_firmware(functions, modules, Firmware::default())
    }

    /// The same, where the firmware left something.
    pub(crate) fn with_firmware(
        functions: Vec<Function>,
        modules: &[&'static str],
        firmware: Firmware,
    ) -> Self {
        let mut kernel = Self {
            functions,
            modules: BTreeSet::new(),
            vfio_ids: BTreeSet::new(),
            consoles: Consoles::default(),
            processes: BTreeMap::new(),
            units: Vec::new(),
            happenings: Vec::new(),
            matches_locked: false,
            nvidia_holds: true,
            treats: firmware,
            firmware: None,
            boot: 1,
            written: Vec::new(),
            locked: BTreeSet::new(),
            rescan_locked: false,
            next_pid: 700,
            view: View::default(),
        };
        kernel.firmware =
            kernel.functions.iter().position(|f| f.boot_vga && firmware.draws).map(|f| (f, false));
        kernel.set_firmware_screen(true);
        for index in 0..kernel.functions.len() {
            kernel.attach(index);
        }
        for module in modules {
            kernel.load(module);
        }
        kernel
    }

    /// The function at an address.
    pub(crate) fn at(&self, address: &str) -> usize {
        self.find(address).unwrap_or_else(|| panic!("nothing at {address}"))
    }

    pub(super) fn find(&self, address: &str) -> Option<usize> {
        let address: Address = address.trim().parse().ok()?;
        self.functions.iter().position(|function| function.address == address && function.on_bus)
    }

    fn is_loaded(&self, driver: usize) -> bool {
        KINDS[driver].module.is_none_or(|module| self.modules.contains(module))
    }

    /// Drivers that are there, by place in [`KINDS`].
    pub(super) fn drivers(&self) -> impl Iterator<Item = usize> {
        (0..KINDS.len()).filter(|driver| self.is_loaded(*driver))
    }

    /// `pci_match_device`: an override names the only driver, and matches whatever the ids.
    fn fits(&self, index: usize, driver: usize) -> bool {
        let (function, kind) = (&self.functions[index], &KINDS[driver]);
        if let Some(only) = &function.driver_override {
            return only == kind.driver;
        }
        if kind.makes == Makes::Vfio {
            return self.vfio_ids.contains(&function.id);
        }
        let (vendor, device, class) = kind.matches;
        let class_fits =
            class == 0 || function.class >> 8 == class || (class == 0x0300 && function.is_display());
        (vendor == 0 || vendor == function.id.0) && (device == 0 || device == function.id.1) && class_fits
    }

    /// `device_attach`: the first driver that takes it.
    fn attach(&mut self, index: usize) {
        for driver in 0..KINDS.len() {
            let free = self.functions[index].driver.is_none();
            if free && self.is_loaded(driver) && self.fits(index, driver) {
                let _ = self.probe(index, driver);
            }
        }
    }

    fn probe(&mut self, index: usize, driver: usize) -> io::Result<()> {
        let name = KINDS[driver].driver;
        let failing = self.functions[index].trouble.iter_mut().find_map(|trouble| match trouble {
            Trouble::ProbeFails(of, number, times, _) if *of == name && *times > 0 => {
                *times = times.saturating_sub(1);
                Some(*number)
            }
            _ => None,
        });
        if let Some(number) = failing {
            return Err(errno(number));
        }
        self.functions[index].driver = Some(driver);
        match KINDS[driver].makes {
            Makes::Screen(name) => {
                self.evict(index);
                self.make_screen(index, name);
            }
            Makes::Vfio if self.treats.vfio_evicts => self.evict(index),
            Makes::Sound => {
                let used = |n| self.functions.iter().any(|f| f.sound == Some(n));
                let free = (0..32).find(|n| !used(*n) && !self.is_open(&format!("snd/controlC{n}")));
                self.functions[index].sound = free;
            }
            // Since 580.105 nvidia_drm takes up a card that comes while it is loaded; before, it never looks again.
            Makes::Nvidia if !self.nvidia_holds && self.modules.contains("nvidia_drm") => {
                self.make_screen(index, "nvidia-drmdrmfb");
            }
            _ => {}
        }
        Ok(())
    }

    /// `aperture_remove_conflicting_pci_devices`: the firmware's frame buffer loses its device, for this boot.
    fn evict(&mut self, index: usize) {
        if self.firmware.is_some_and(|(function, _)| function == index) {
            self.set_firmware_screen(false);
            self.firmware = None;
        }
    }

    /// efifb takes the firmware's frame buffer, or gives it up. False where it has done so already.
    fn set_firmware_screen(&mut self, bound: bool) -> bool {
        let Some((function, now)) = self.firmware else { return false };
        if now == bound {
            return false;
        }
        self.firmware = Some((function, bound));
        if bound {
            self.consoles.register(function, FIRMWARE, self.functions[function].boot_vga);
        } else {
            self.consoles.unregister(function, true);
        }
        true
    }

    fn make_screen(&mut self, index: usize, name: &'static str) {
        let used = |n| self.functions.iter().any(|f| f.card == Some(n));
        let free = (0..32).find(|n| !used(*n) && !self.is_open(&format!("dri/card{n}")));
        self.functions[index].card = free;
        let driver = self.functions[index].kind().map_or("", |kind| kind.driver);
        if driver == "nvidia" {
            if !self.treats.nvidia_draws {
                return;
            }
            self.evict(index);
        }
        if !self.functions[index].trouble.contains(&Trouble::NoFramebuffer(driver)) {
            self.consoles.register(index, name, self.functions[index].boot_vga);
        }
    }

    fn drop_screen(&mut self, index: usize) {
        self.functions[index].card = None;
        self.consoles.unregister(index, false);
    }

    fn is_open(&self, node: &str) -> bool {
        self.processes.values().any(|process| process.open.iter().any(|open| open.node == node))
    }

    /// The nodes of a function, below /dev.
    pub(super) fn nodes(&self, index: usize) -> Vec<String> {
        let function = &self.functions[index];
        let Some(kind) = function.kind().filter(|_| function.releasing.is_none()) else { return Vec::new() };
        let mut nodes = Vec::new();
        match kind.makes {
            Makes::Sound => nodes.extend(
                function.sound.iter().flat_map(|n| [format!("snd/controlC{n}"), format!("snd/pcmC{n}D3p")]),
            ),
            Makes::Nvidia => nodes.push(format!("nvidia{index}")),
            Makes::Vfio => nodes.extend(function.group.map(|group| format!("vfio/{group}"))),
            Makes::Node(begin) => nodes.push(format!("{begin}{index}")),
            Makes::Screen(_) | Makes::Nothing => {}
        }
        nodes.extend(
            function.card.iter().flat_map(|n| [format!("dri/card{n}"), format!("dri/renderD{}", 128 + n)]),
        );
        nodes
    }

    /// Whether somebody has something open that the driver of a function waits for.
    fn is_used(&self, index: usize, driver: usize) -> bool {
        let kind = &KINDS[driver];
        let waited = |open: &Open| {
            open.function == index && (kind.makes != Makes::Nvidia || open.node.starts_with("nvidia"))
        };
        let open = || self.processes.values().any(|process| process.open.iter().any(waited));
        let above =
            || kind.makes == Makes::Nvidia && self.nvidia_holds && self.modules.contains("nvidia_drm");
        kind.waits && (open() || above())
    }

    fn hangs(&self, index: usize, driver: usize, now: Duration) -> bool {
        self.functions[index].trouble.iter().any(|trouble| match trouble {
            Trouble::HangsUntil(of, until) => {
                *of == KINDS[driver].driver && until.is_none_or(|until| now < until)
            }
            _ => false,
        })
    }

    /// Whether a lock is held that somebody waits under.
    pub(crate) fn is_locked(&self, index: usize) -> bool {
        self.locked.contains(&index)
    }

    /// Whether any write hangs.
    pub(crate) fn is_hung(&self) -> bool {
        !self.locked.is_empty() || self.rescan_locked
    }

    /// Loads a module and what it needs: its driver takes every device that it fits.
    fn load(&mut self, module: &'static str) {
        for below in needs(module) {
            self.load(below);
        }
        if !self.modules.insert(module) {
            return;
        }
        for driver in (0..KINDS.len()).filter(|driver| KINDS[*driver].module == Some(module)) {
            for index in 0..self.functions.len() {
                let free = self.functions[index].driver.is_none() && self.functions[index].on_bus;
                if free && self.fits(index, driver) {
                    let _ = self.probe(index, driver);
                }
            }
        }
        if module == "nvidia_drm" {
            for index in self.of_nvidia() {
                self.make_screen(index, "nvidia-drmdrmfb");
            }
        }
    }

    fn of_nvidia(&self) -> Vec<usize> {
        let own =
            |index: &usize| self.functions[*index].kind().is_some_and(|kind| kind.makes == Makes::Nvidia);
        (0..self.functions.len()).filter(own).collect()
    }

    /// How often a module is used: by modules above it, by open files, by the console that draws through it.
    pub(crate) fn references(&self, module: &str) -> usize {
        let above = self.modules.iter().filter(|other| needs(other).contains(&module)).count();
        let nodes = match module {
            "nvidia" => "nvidia",
            "nvidia_drm" => "dri/",
            _ => return above,
        };
        let own = self.of_nvidia();
        let open = |open: &&Open| own.contains(&open.function) && open.node.starts_with(nodes);
        let files = self.processes.values().flat_map(|process| process.open.iter().filter(open)).count();
        let drawn = module == "nvidia_drm" && own.iter().any(|index| self.consoles.draws_on(*index));
        above + files + usize::from(drawn)
    }

    /// `modprobe [-b] [-r] [--] MODULE`: the exit status and what it complains about. `None`: it waits for a lock.
    pub(super) fn modprobe(&mut self, args: &[&str]) -> Option<(i32, String)> {
        let name = args.last().copied().unwrap_or_default().replace('-', "_");
        let known = KINDS.iter().filter_map(|kind| kind.module).chain([
            "nvidia_modeset",
            "nvidia_uvm",
            "nvidia_drm",
            "vfio_iommu_type1",
        ]);
        let Some(module) = known.into_iter().find(|module| *module == name) else {
            return Some((
                1,
                format!("modprobe: FATAL: Module {name} not found in directory /lib/modules/6.12.0"),
            ));
        };
        self.view.forget();
        if !args.contains(&"-r") {
            if self.matches_locked && self.is_hung() && !self.modules.contains(module) {
                return None;
            }
            self.load(module);
            return Some((0, String::new()));
        }
        if !self.modules.contains(module) {
            return Some((0, String::new()));
        }
        if self.references(module) > 0 {
            return Some((1, format!("modprobe: FATAL: Module {module} is in use.")));
        }
        if module == "nvidia_drm" {
            for index in self.of_nvidia() {
                self.drop_screen(index);
            }
        }
        self.modules.remove(module);
        // `modprobe -r` takes what is then unused below it too; a driver with devices stays in use here.
        Some((0, String::new()))
    }

    /// `rmmod [--] MODULE`: the exit status and what it complains about. `None`: a driver of it waits, or for one.
    pub(super) fn rmmod(&mut self, args: &[&str], now: Duration) -> Option<(i32, String)> {
        self.view.forget();
        let name = args.last().copied().unwrap_or_default();
        let Some(module) = self.modules.iter().copied().find(|module| *module == name) else {
            return Some((1, format!("rmmod: ERROR: Module {name} is not currently loaded")));
        };
        if self.references(module) > 0 {
            return Some((1, format!("rmmod: ERROR: Module {module} is in use")));
        }
        // Its drivers give up their devices, one after the other (drivers/base/dd.c, `driver_detach`).
        for index in 0..self.functions.len() {
            let Some(driver) = self.functions[index].driver else { continue };
            if KINDS[driver].module != Some(module) {
                continue;
            }
            if self.is_locked(index) || self.is_used(index, driver) || self.hangs(index, driver, now) {
                return None;
            }
            self.let_go(index);
        }
        if module == "nvidia_drm" {
            for index in self.of_nvidia() {
                self.drop_screen(index);
            }
        }
        self.modules.remove(module);
        Some((0, String::new()))
    }

    /// Begins a write into sysfs.
    pub(super) fn begin(&mut self, path: &str, value: &str) -> Task {
        let while_hung = self.is_hung();
        self.written.push(Written { path: path.to_owned(), value: value.to_owned(), while_hung });
        Task { path: path.to_owned(), value: value.to_owned(), releasing: None, holds_rescan: false }
    }

    /// Goes on with it. `None`: it waits.
    pub(super) fn go_on(&mut self, task: &mut Task, now: Duration) -> Option<io::Result<()>> {
        self.view.forget();
        let parts: Vec<&str> = task.path.split('/').filter(|part| !part.is_empty()).collect();
        match parts.as_slice() {
            ["sys", "bus", "pci", "drivers", driver, verb] => {
                let Some(driver) = self.drivers().find(|have| KINDS[*have].driver == *driver) else {
                    return Some(Err(errno(2)));
                };
                match *verb {
                    "unbind" => self.unbind(task, driver, now),
                    "bind" => self.bind(&task.value, driver),
                    "new_id" => self.new_id(&task.value, driver),
                    "remove_id" => Some(self.remove_id(&task.value, driver)),
                    _ => Some(Err(errno(2))),
                }
            }
            ["sys", "bus", "pci", "drivers_probe"] => {
                let Some(index) = self.find(&task.value) else { return Some(Err(errno(19))) };
                // Only a device without a driver is looked at (`bus_rescan_devices_helper`); what the probe said is
                // lost.
                let idle =
                    self.functions[index].driver.is_none() && self.functions[index].releasing.is_none();
                if idle {
                    if self.is_locked(index) {
                        return None;
                    }
                    self.attach(index);
                }
                Some(Ok(()))
            }
            ["sys", "bus", "pci", "rescan"] => self.rescan(task),
            ["sys", "bus", "pci", "devices", address, attribute] => {
                let Some(index) = self.find(address) else { return Some(Err(errno(2))) };
                match *attribute {
                    "driver_override" => self.set_override(index, &task.value),
                    "remove" => self.remove(task, index, now),
                    "reset_method" => Some(self.set_reset_method(index, &task.value)),
                    "reset" => self.reset(index, &task.value),
                    _ => Some(Err(errno(2))),
                }
            }
            ["sys", "bus", "platform", "drivers", "efi-framebuffer", verb] => {
                // drivers/base/bus.c: what is not this driver's, or is not there, is no device.
                let fits = task.value.trim() == "efi-framebuffer.0" && matches!(*verb, "bind" | "unbind");
                let done = fits && self.set_firmware_screen(*verb == "bind");
                Some(if done { Ok(()) } else { Err(errno(19)) })
            }
            ["sys", "class", "vtconsole", console, "bind"] => {
                let number = console.strip_prefix("vtcon").and_then(|number| number.parse().ok());
                // store_bind (vt.c) takes a number, and says that all is well.
                let bind = task.value.trim().parse::<u32>().is_ok_and(|bind| bind != 0);
                let known = number.is_some_and(|number| self.consoles.bind(number, bind));
                Some(if known { Ok(()) } else { Err(errno(2)) })
            }
            _ => Some(Err(errno(2))),
        }
    }

    /// `unbind_store`: under the device lock, and the link is away before the driver has let go.
    fn unbind(&mut self, task: &mut Task, driver: usize, now: Duration) -> Option<io::Result<()>> {
        if let Some(index) = task.releasing {
            if self.is_used(index, driver) || self.hangs(index, driver, now) {
                return None;
            }
            self.let_go(index);
            return Some(Ok(()));
        }
        let Some(index) = self.find(&task.value) else { return Some(Err(errno(19))) };
        if self.functions[index].driver != Some(driver) {
            return Some(Err(errno(19)));
        }
        if self.is_locked(index) {
            return None;
        }
        self.functions[index].releasing = Some(driver);
        self.locked.insert(index);
        task.releasing = Some(index);
        self.unbind(task, driver, now)
    }

    fn let_go(&mut self, index: usize) {
        self.locked.remove(&index);
        let function = &mut self.functions[index];
        (function.driver, function.releasing, function.sound) = (None, None, None);
        if function.card.is_some() {
            self.drop_screen(index);
        }
    }

    /// `bind_store`: what does not match is no device; what another has is busy; else what the probe says.
    fn bind(&mut self, value: &str, driver: usize) -> Option<io::Result<()>> {
        let Some(index) = self.find(value) else { return Some(Err(errno(19))) };
        if self.matches_locked && self.is_locked(index) {
            return None;
        }
        if !self.fits(index, driver) {
            return Some(Err(errno(19)));
        }
        if self.is_locked(index) {
            return None;
        }
        if self.functions[index].driver.is_some() {
            return Some(Err(errno(16)));
        }
        Some(self.probe(index, driver))
    }

    /// `new_id_store`: two hex numbers at least; ids that it has are there already; then every device is tried.
    fn new_id(&mut self, value: &str, driver: usize) -> Option<io::Result<()>> {
        let mut words = value.split_whitespace().map_while(|word| u16::from_str_radix(word, 16).ok());
        let (Some(vendor), Some(device)) = (words.next(), words.next()) else { return Some(Err(errno(22))) };
        if KINDS[driver].makes != Makes::Vfio {
            return Some(Err(errno(22)));
        }
        if self.matches_locked && self.is_hung() {
            return None;
        }
        if !self.vfio_ids.insert((vendor, device)) {
            return Some(Err(errno(17)));
        }
        for index in 0..self.functions.len() {
            if self.functions[index].driver.is_none() && self.fits(index, driver) {
                let _ = self.probe(index, driver);
            }
        }
        Some(Ok(()))
    }

    /// `remove_id_store`: only what was given can be taken back.
    fn remove_id(&mut self, value: &str, driver: usize) -> io::Result<()> {
        let mut words = value.split_whitespace().map_while(|word| u16::from_str_radix(word, 16).ok());
        let (Some(vendor), Some(device)) = (words.next(), words.next()) else { return Err(errno(22)) };
        let known = KINDS[driver].makes == Makes::Vfio && self.vfio_ids.remove(&(vendor, device));
        if known { Ok(()) } else { Err(errno(19)) }
    }

    /// `driver_set_override`: up to the first newline; nothing clears it. The device lock is taken.
    fn set_override(&mut self, index: usize, value: &str) -> Option<io::Result<()>> {
        if self.is_locked(index) {
            return None;
        }
        let value = value.split('\n').next().unwrap_or_default();
        self.functions[index].driver_override = Some(value.to_owned()).filter(|value| !value.is_empty());
        Some(Ok(()))
    }

    /// `reset_store`: 1, under the device lock. Where there is no method, as on a bus that others share, there is no
    /// such file.
    fn reset(&mut self, index: usize, value: &str) -> Option<io::Result<()>> {
        if !self.functions[index].resets {
            return Some(Err(errno(2)));
        }
        if value.trim() != "1" {
            return Some(Err(errno(22)));
        }
        if self.is_locked(index) {
            return None;
        }
        self.cure(index, Cure::Reset);
        Some(Ok(()))
    }

    /// `reset_method_store`: under no lock; a way that it does not have is no valid argument.
    fn set_reset_method(&mut self, index: usize, value: &str) -> io::Result<()> {
        if !self.functions[index].resets {
            return Err(errno(2));
        }
        let known = METHODS.into_iter().find(|methods| *methods == value.trim()).ok_or_else(|| errno(22))?;
        self.functions[index].methods = known;
        Ok(())
    }

    fn cure(&mut self, index: usize, cure: Cure) {
        let cured = |trouble: &Trouble| matches!(trouble, Trouble::ProbeFails(.., by) if *by == cure);
        self.functions[index].trouble.retain(|trouble| !cured(trouble));
    }

    /// `remove_store`: under the lock of all removes and rescans, and then the device's.
    fn remove(&mut self, task: &mut Task, index: usize, now: Duration) -> Option<io::Result<()>> {
        if !task.holds_rescan {
            if self.rescan_locked {
                return None;
            }
            (self.rescan_locked, task.holds_rescan) = (true, true);
        }
        if let Some(driver) = self.functions[index].driver {
            if self.is_locked(index) && task.releasing.is_none() {
                return None;
            }
            task.releasing = Some(index);
            self.functions[index].releasing = Some(driver);
            self.locked.insert(index);
            if self.is_used(index, driver) || self.hangs(index, driver, now) {
                return None;
            }
            self.let_go(index);
        }
        self.functions[index].on_bus = false;
        self.rescan_locked = false;
        Some(Ok(()))
    }

    /// What was removed is found again, as a new device: without its `driver_override`.
    fn rescan(&mut self, task: &Task) -> Option<io::Result<()>> {
        if self.is_hung() {
            return None;
        }
        if task.value.trim().parse::<u32>().is_err() {
            return Some(Err(errno(22)));
        }
        for index in 0..self.functions.len() {
            if !self.functions[index].on_bus {
                self.functions[index].on_bus = true;
                self.functions[index].driver_override = None;
                self.functions[index].methods = METHODS[0];
                self.cure(index, Cure::Rescan);
                self.attach(index);
            }
        }
        Some(Ok(()))
    }

    /// A process that opens what a function has.
    pub(crate) fn open(&mut self, comm: &'static str, uid: u32, functions: &[usize]) -> Option<u32> {
        let nodes = functions.iter().flat_map(|function| {
            // A guest takes what is VFIO's, everybody else the rest.
            let guest = comm.starts_with("qemu");
            let nodes =
                self.nodes(*function).into_iter().filter(move |node| node.starts_with("vfio/") == guest);
            nodes.map(|node| Open { function: *function, node, mapped: false })
        });
        let open: Vec<_> = nodes.collect();
        if open.is_empty() {
            return None;
        }
        self.view.forget();
        self.next_pid += 1;
        let started = u64::from(self.next_pid) * 10;
        let cgroup = format!("/user.slice/user-{uid}.slice/session-2.scope");
        let process = Process { comm, uid, open, started, cgroup, stubborn: false };
        self.processes.insert(self.next_pid, process);
        Some(self.next_pid)
    }

    /// Processes that no unit runs.
    pub(crate) fn strangers(&self) -> Vec<u32> {
        let own = |pid: &u32| self.units.iter().any(|unit| unit.pid == Some(*pid));
        self.processes.keys().copied().filter(|pid| !own(pid)).collect()
    }

    /// A process ends, and with it what it had open.
    pub(crate) fn end(&mut self, pid: u32) {
        self.view.forget();
        self.processes.remove(&pid);
    }

    /// Writes that waited for somebody who has let go meanwhile come to their end.
    pub(crate) fn complete(&mut self) {
        for index in 0..self.functions.len() {
            let releasing = self.functions[index].releasing;
            if releasing.is_some_and(|driver| !self.is_used(index, driver)) {
                self.let_go(index);
            }
        }
    }

    /// A device behaves from here on; a frame buffer that was missing is there.
    pub(crate) fn recover(&mut self, index: usize) {
        self.view.forget();
        self.functions[index].trouble.clear();
        let bare = !self.consoles.framebuffers.values().any(|(function, _)| *function == index);
        let name = match self.functions[index].kind().map(|kind| kind.makes) {
            Some(Makes::Screen(name)) => name,
            Some(Makes::Nvidia) if self.treats.nvidia_draws => "nvidia-drmdrmfb",
            _ => return,
        };
        if bare && self.functions[index].card.is_some() {
            self.consoles.register(index, name, self.functions[index].boot_vga);
        }
    }

    /// Everything that happens up to a moment.
    pub(super) fn happen(&mut self, now: Duration) {
        if self.happenings.iter().all(|(at, _)| *at > now) {
            return;
        }
        self.happenings.sort_by_key(|(at, _)| *at);
        while self.happenings.first().is_some_and(|(at, _)| *at <= now) {
            match self.happenings.remove(0).1 {
                Happening::Opens { comm, uid, function } => drop(self.open(comm, uid, &[function])),
                Happening::Ends(pid) => self.end(pid),
            }
        }
    }

    /// When something next happens that may let a write go on.
    pub(super) fn next_event(&self, now: Duration) -> Option<Duration> {
        let hangs =
            self.functions.iter().flat_map(|function| &function.trouble).filter_map(
                |trouble| match trouble {
                    Trouble::HangsUntil(_, until) => *until,
                    _ => None,
                },
            );
        self.happenings.iter().map(|(at, _)| *at).chain(hangs).filter(|at| *at > now).min()
    }
}
