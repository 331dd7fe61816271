//! What /sys, /proc and systemd's folders show of the simulated kernel.

use super::{
    fbcon::FIRMWARE,
    kernel::{Function, KINDS, Kernel, needs},
    tree::{Node, Seen, Tree, walk},
};
use std::{cell::RefCell, path::Path, rc::Rc};

/// The trees, made when somebody looks: what stays for a boot, and what moves with every operation.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    fixed: RefCell<Option<Rc<Tree>>>,
    moving: RefCell<Option<Rc<Tree>>>,
}

impl View {
    /// Something has changed.
    pub(super) fn forget(&mut self) {
        *self.moving.get_mut() = None;
    }
}

/// Whether the kernel, or systemd, shows what is at a path.
pub(super) fn is_shown(path: &Path) -> bool {
    ["/sys", "/proc", "/dev", "/run/systemd", "/etc/systemd"].iter().any(|folder| path.starts_with(folder))
}

const PCI: &str = "/sys/bus/pci";

impl Function {
    /// Its folder below /sys/devices, without the first slash.
    fn place(&self) -> String {
        let way: Vec<_> = self.place.iter().map(ToString::to_string).collect();
        format!("devices/pci0000:00/{}", way.join("/"))
    }
}

impl Kernel {
    /// What is at a path; a link at its end is followed only if `last`.
    pub(super) fn look<T>(&self, path: &Path, last: bool, with: impl FnOnce(Seen) -> T) -> Option<T> {
        let made = |cell: &RefCell<Option<Rc<Tree>>>, make: &dyn Fn() -> Tree| {
            Rc::clone(cell.borrow_mut().get_or_insert_with(|| Rc::new(make())))
        };
        let fixed = made(&self.view.fixed, &|| self.fixed());
        let moving = made(&self.view.moving, &|| self.moving());
        walk([&fixed, &moving], path.to_str()?, last).map(with)
    }

    /// The attributes that stay. A root disk and the way to the network are there, on functions of their class.
    fn fixed(&self) -> Tree {
        let mut tree = Tree::default();
        tree.file("/proc/sys/kernel/osrelease", "6.12.0\n");
        tree.file("/proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/nvme0n1p2 ro quiet\n");
        tree.file("/proc/swaps", "Filename Type Size Used Priority\n");
        tree.file("/proc/bus/input/devices", "");
        tree.file("/proc/self/mountinfo", "28 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n");
        tree.folder("/sys/kernel/iommu_groups");
        tree.folder("/sys/block");
        tree.folder("/sys/class/net");
        tree.folder("/sys/firmware");
        tree.folder("/run/systemd/system");
        for (index, function) in self.functions.iter().enumerate() {
            attributes(&mut tree, function);
            let place = function.place();
            match function.class >> 8 {
                0x0108 => {
                    let disk = format!("/sys/{place}/nvme/nvme0/nvme0n1");
                    tree.file(&format!("{disk}/dev"), "259:0\n");
                    tree.file(&format!("{disk}/nvme0n1p2/dev"), "259:2\n");
                    tree.link("/sys/block/nvme0n1", format!("../{place}/nvme/nvme0/nvme0n1"));
                }
                0x0200 => {
                    let name = format!("eth{index}");
                    tree.file(&format!("/sys/{place}/net/{name}/operstate"), "up\n");
                    tree.link(&format!("/sys/class/net/{name}"), format!("../../{place}/net/{name}"));
                    let route = format!(
                        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                         {name} 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n"
                    );
                    tree.file("/proc/net/route", route);
                }
                _ => {}
            }
        }
        tree
    }

    fn moving(&self) -> Tree {
        let mut tree = Tree::default();
        tree.file("/proc/sys/kernel/random/boot_id", format!("boot-{}\n", self.boot));
        for module in &self.modules {
            tree.file(&format!("/sys/module/{module}/refcnt"), format!("{}\n", self.references(module)));
            for user in self.modules.iter().filter(|user| needs(user).contains(module)) {
                tree.folder(&format!("/sys/module/{module}/holders/{user}"));
            }
            if *module == "nvidia" {
                let version = if self.nvidia_holds { "570.86.15\n" } else { "595.45.04\n" };
                tree.file("/sys/module/nvidia/version", version.to_owned());
            }
        }
        tree.folder("/sys/bus/pci/devices");
        tree.folder("/sys/dev/char");
        for driver in self.drivers() {
            let kind = &KINDS[driver];
            let folder = format!("{PCI}/drivers/{}", kind.driver);
            tree.folder(&folder);
            if let Some(module) = kind.module {
                tree.link(&format!("{folder}/module"), format!("../../../../module/{module}"));
            }
        }
        for index in (0..self.functions.len()).filter(|index| self.functions[*index].on_bus) {
            self.function(&mut tree, index);
        }
        tree.folder("/sys/class/graphics");
        let mut list = Vec::new();
        for (number, (index, name)) in &self.consoles.framebuffers {
            let mut place = self.functions[*index].place();
            if *name == FIRMWARE {
                place.push_str("/efi-framebuffer.0");
            }
            tree.file(&format!("/sys/{place}/graphics/fb{number}/name"), format!("{name}\n"));
            tree.link(
                &format!("/sys/class/graphics/fb{number}"),
                format!("../../{place}/graphics/fb{number}"),
            );
            list.push(format!("{number} {name}\n"));
        }
        tree.folder("/sys/bus/platform/drivers/efi-framebuffer");
        if let Some((function, bound)) = self.firmware {
            // Its parent is the function since 6.9 (drivers/firmware/sysfb.c, `sysfb_parent_dev`).
            let (function, device) = (&self.functions[function], "efi-framebuffer.0");
            let place = format!("{}/{device}", function.place());
            tree.link(&format!("/sys/bus/platform/devices/{device}"), format!("../../../{place}"));
            tree.file(&format!("/sys/{place}/modalias"), "platform:efi-framebuffer\n");
            if bound {
                let up = "../".repeat(function.place.len() + 3);
                tree.link(
                    &format!("/sys/{place}/driver"),
                    format!("{up}bus/platform/drivers/efi-framebuffer"),
                );
            }
        }
        tree.file("/proc/fb", list.concat());
        for (number, (name, bound)) in self.consoles.list().into_iter().enumerate() {
            let folder = format!("/sys/class/vtconsole/vtcon{number}");
            tree.file(&format!("{folder}/name"), format!("{name}\n"));
            tree.file(&format!("{folder}/bind"), format!("{}\n", u8::from(bound)));
        }
        self.processes(&mut tree);
        self.systemd(&mut tree);
        tree
    }

    fn function(&self, tree: &mut Tree, index: usize) {
        let function = &self.functions[index];
        let place = function.place();
        let folder = format!("/sys/{place}");
        tree.link(&format!("{PCI}/devices/{}", function.address), format!("../../../{place}"));
        let only = function.driver_override.as_deref().unwrap_or("(null)");
        tree.file(&format!("{folder}/driver_override"), format!("{only}\n"));
        if function.resets {
            tree.file(&format!("{folder}/reset"), "");
            tree.file(&format!("{folder}/reset_method"), format!("{}\n", function.methods));
        }
        if let Some(kind) = function.kind().filter(|_| function.releasing.is_none()) {
            let up = "../".repeat(function.place.len() + 2);
            tree.link(&format!("{folder}/driver"), format!("{up}bus/pci/drivers/{}", kind.driver));
        }
        for (number, node) in self.nodes(index).into_iter().enumerate() {
            let (kind, name) = node.rsplit_once('/').unwrap_or(("misc", node.as_str()));
            if kind == "vfio" {
                continue;
            }
            if let Some(minor) = node.strip_prefix("nvidia") {
                // NVIDIA's nodes are in no class; /proc tells the minor number.
                let information = format!("Model: \t NVIDIA\nDevice Minor: \t {minor}\n");
                tree.file(&format!("/proc/driver/nvidia/gpus/{}/information", function.address), information);
                continue;
            }
            let class = if kind == "dri" { "drm".to_owned() } else { kind.replace('/', "_") };
            tree.file(&format!("{folder}/{class}/{name}/uevent"), format!("DEVNAME={node}\n"));
            // No two have one number; which it is matters to nobody here.
            tree.link(
                &format!("/sys/dev/char/{}:{}", 200 + index, number),
                format!("../../{place}/{class}/{name}"),
            );
            if kind == "dri" {
                tree.link(&format!("/sys/class/drm/{name}"), format!("../../{place}/drm/{name}"));
            }
        }
    }

    /// What is open of a device that is gone is marked, as proc_pid_fd(5) says.
    fn processes(&self, tree: &mut Tree) {
        for (pid, process) in &self.processes {
            let folder = format!("/proc/{pid}");
            let mut maps = Vec::new();
            tree.file(&format!("{folder}/comm"), format!("{}\n", process.comm));
            let (uid, started) = (process.uid, process.started);
            tree.file(&format!("{folder}/status"), format!("Name:\t{}\nUid:\t{uid}\t{uid}\n", process.comm));
            let stat = format!("{pid} ({}) S 1{} {started} 0\n", process.comm, " 0".repeat(17));
            tree.file(&format!("{folder}/stat"), stat);
            tree.file(&format!("{folder}/cgroup"), format!("0::{}\n", process.cgroup));
            tree.folder(&format!("{folder}/fd"));
            for (number, open) in process.open.iter().enumerate() {
                let gone = if self.nodes(open.function).contains(&open.node) { "" } else { " (deleted)" };
                let node = format!("/dev/{}{gone}", open.node);
                if open.mapped {
                    maps.push(format!("7f00-7f01 rw-s 00000000 00:05 9      {node}\n"));
                } else {
                    tree.link(&format!("{folder}/fd/{}", number + 7), node);
                }
            }
            tree.file(&format!("{folder}/maps"), maps.concat());
        }
    }
}

/// What a function says of itself.
fn attributes(tree: &mut Tree, function: &Function) {
    let folder = format!("/sys/{}", function.place());
    let at = |name: &str| format!("{folder}/{name}");
    let (class, id, subsystem) = (function.class, function.id, function.subsystem);
    let modalias = format!(
        "pci:v{:08X}d{:08X}sv{:08X}sd{:08X}bc{:02X}sc{:02X}i{:02X}\n",
        id.0,
        id.1,
        subsystem.0,
        subsystem.1,
        class >> 16,
        class >> 8 & 0xff,
        class & 0xff
    );
    tree.file(&at("modalias"), modalias);
    tree.file(&at("power_state"), "D0\n");
    tree.file(&at("power/runtime_status"), "active\n");
    let mut config = vec!['\0'; 16];
    config[14] = if class >> 8 == 0x0604 { '\u{1}' } else { '\0' };
    tree.file(&at("config"), config.into_iter().collect::<String>());
    if function.is_display() {
        tree.file(&at("boot_vga"), format!("{}\n", u8::from(function.boot_vga)));
    }
    if let Some(group) = function.group {
        let groups = format!("kernel/iommu_groups/{group}");
        let up = "../".repeat(function.place.len() + 2);
        tree.link(&at("iommu_group"), format!("{up}{groups}"));
        let member = format!("/sys/{groups}/devices/{}", function.address);
        tree.link(&member, format!("../../../../{}", function.place()));
    }
}

/// The text of a file.
pub(super) fn text(seen: Seen) -> Option<Vec<u8>> {
    match seen.node() {
        Some(Node::File(text)) => Some(text.clone().into_bytes()),
        _ => None,
    }
}
