//! [`Host`]: everything that is known about a machine, as plain data.
//!
//! The same from this machine, a capture, or pasted text. Reading it changes nothing, not even a power state. A
//! fact that could not be read is `None`, [`Known::Unknown`] or an `Unknown` variant, never a default. Judging and
//! planning are pure functions over this; nothing here decides anything.

pub mod acpi;
mod around;
pub mod board;
mod boot;
pub mod chassis;
pub mod config;
mod console;
mod cpu;
pub mod display;
pub mod edid;
pub(crate) mod embedded;
pub mod gpu;
pub mod holders;
mod input;
mod iommu;
mod kconfig;
pub mod kernel;
mod libvirt;
mod loaded;
pub mod log;
mod look;
mod managers;
mod memory;
mod modules;
pub mod names;
mod network;
mod nvidia;
mod observe;
mod pci;
mod regions;
mod security;
pub mod sessions;
mod storage;
#[cfg(test)]
pub(crate) mod testing;

pub use board::Board;
pub use chassis::{Chassis, ChassisKind, Mux};
pub use config::Config;
pub use display::{Claim, Connector, DrmCard, FirmwareFramebuffer, draws_for_firmware, loses_console};
pub use holders::Holder;
pub use kconfig::{KernelOptions, Setting};
pub use libvirt::LibvirtDomain;
pub use loaded::LoadedModule;
pub use managers::{Manager, ManagerKind};
pub use memory::{HugePages, Memory, Node, Topology};
pub use nvidia::Nvidia;
pub use observe::{
    conclude, observe, observe_devices, observe_drivers, observe_for_hand_over, observe_waking,
};
pub use regions::{Region, RegionKind};
pub use security::{Lockdown, SealedDisk, Security};
pub use sessions::Session;

use crate::{
    error::{Error, Result},
    pci::{Address, Class, DeviceId, DevicePath},
};
use serde::{Deserialize, Serialize};

/// Where the facts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The running machine.
    Live,
    /// A capture, or a saved tree.
    Capture,
    /// Pasted text.
    Text,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Version of this form; fields are only ever added within one.
    pub schema: u32,
    /// Where the facts come from.
    pub source: Source,
    /// The processor.
    pub cpu: Cpu,
    /// The IOMMU as the kernel uses it.
    pub iommu: Iommu,
    /// What the firmware's ACPI tables offer.
    pub acpi: Acpi,
    /// The running kernel.
    pub kernel: Kernel,
    /// How the machine boots.
    pub boot: Boot,
    /// Every PCI function, by address.
    pub functions: Vec<Function>,
    /// Whether the source tells drivers: where it does not, a function without one may well have one.
    #[serde(default)]
    pub drivers_told: bool,
    /// IOMMU groups, by number.
    pub groups: Vec<Group>,
    /// Display controllers, by address.
    pub gpus: Vec<Gpu>,
    /// Disks behind PCI functions, and what they hold. `None`: not looked at (text, or not permitted).
    pub storage: Option<Vec<Disk>>,
    /// Network interfaces behind PCI functions. `None`: not looked at.
    pub network: Option<Vec<Interface>>,
    /// Whether an SSH server listens beyond the loopback: the second way in. `None`: not told.
    #[serde(default)]
    pub ssh: Option<bool>,
    /// Frame buffers, by number.
    pub framebuffers: Vec<Framebuffer>,
    /// Virtual terminal back ends (/sys/class/vtconsole), by number.
    pub consoles: Vec<Console>,
    /// DRM cards and their connectors. `None`: not told.
    #[serde(default)]
    pub drm_cards: Option<Vec<DrmCard>>,
    /// Frame buffers that the firmware left.
    #[serde(default)]
    pub firmware_framebuffers: Vec<FirmwareFramebuffer>,
    /// Who has claimed memory of display controllers. `None`: not told.
    #[serde(default)]
    pub claims: Option<Vec<Claim>>,
    /// Login sessions. `None`: not told.
    #[serde(default)]
    pub sessions: Option<Vec<Session>>,
    /// What kind of machine it is.
    #[serde(default)]
    pub chassis: Chassis,
    /// The board and its firmware. `None`: not told.
    #[serde(default)]
    pub board: Option<Board>,
    /// Whether a laptop's second card can drive its panel. `None`: no such machine, or not known.
    #[serde(default)]
    pub mux: Option<Mux>,
    /// How the running kernel was built. `None`: not told.
    #[serde(default)]
    pub kernel_options: Option<KernelOptions>,
    /// What firmware and kernel allow.
    #[serde(default)]
    pub security: Security,
    /// Memory, huge pages and NUMA nodes. `None`: not told.
    #[serde(default)]
    pub memory: Option<Memory>,
    /// How the processors hang together. `None`: not told.
    #[serde(default)]
    pub topology: Option<Topology>,
    /// libvirt's domains that take PCI devices. `None`: not told; libvirt's files are for root.
    #[serde(default)]
    pub domains: Option<Vec<LibvirtDomain>>,
    /// Others that manage cards. `None`: not told.
    #[serde(default)]
    pub managers: Option<Vec<Manager>>,
    /// Loaded modules that drive cards, and those above them. `None`: not told.
    #[serde(default)]
    pub modules: Option<Vec<LoadedModule>>,
    /// Keyboards behind PCI functions (through their USB controllers). `None`: not looked at.
    #[serde(default)]
    pub keyboards: Option<Vec<Keyboard>>,
    /// NVIDIA's driver. `None`: not loaded, or not looked at.
    #[serde(default)]
    pub nvidia: Option<Nvidia>,
    /// True where systemd is the service manager (/run/systemd/system is there).
    pub systemd: bool,
    /// What could not be read, and why, in sentences for a person.
    pub unseen: Vec<String>,
}

/// The version of [`Host`]'s form.
pub const SCHEMA: u32 = 1;

/// Bridges above a function; a real tree has fewer than ten.
const MAX_DEPTH: usize = 64;

/// The processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Who makes it.
    pub vendor: CpuVendor,
    /// Which virtualisation it offers.
    pub virtualization: Virtualization,
    /// The model as /proc/cpuinfo names it.
    pub model: Option<String>,
    /// Whether this machine is itself a guest (the processor's `hypervisor` flag).
    #[serde(default)]
    pub guest: Option<bool>,
}

/// Processor makers whose IOMMUs differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuVendor {
    /// Intel: VT-x and VT-d.
    Intel,
    /// AMD (and Hygon): SVM and AMD-Vi.
    Amd,
    /// Another, or unknown.
    Other,
}

/// The processor flag for virtualisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Virtualization {
    /// Intel's flag.
    Vmx,
    /// AMD's flag.
    Svm,
    /// The processor shows neither.
    None,
    /// Not told.
    Unknown,
}

/// On, off, or not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Known {
    /// It is on.
    On,
    /// It is off.
    Off,
    /// The source does not tell.
    Unknown,
}

/// The IOMMU as the kernel uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Iommu {
    /// On where there are groups.
    pub state: Known,
    /// Whether interrupts are remapped.
    pub interrupt_remapping: Option<bool>,
    /// Whether the host's own devices bypass translation (`iommu=pt`).
    pub passthrough_mode: Option<bool>,
}

/// Which of the ACPI tables that describe an IOMMU the firmware has. `None`: not told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acpi {
    /// Intel's DMA remapping table.
    pub dmar: Option<bool>,
    /// AMD's I/O virtualisation table.
    pub ivrs: Option<bool>,
    /// What Intel's table says. `None`: not there, or not told (its contents need root).
    #[serde(default)]
    pub dmar_table: Option<acpi::Dmar>,
    /// What AMD's table says. `None`: not there, or not told.
    #[serde(default)]
    pub ivrs_table: Option<acpi::Ivrs>,
}

/// The running kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// `uname -r`.
    pub release: Option<String>,
    /// The command line it was booted with.
    pub cmdline: Option<String>,
}

impl Kernel {
    /// Major and minor number of its version: `(6, 12)`.
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.release.as_deref()?.split(['.', '-']).map_while(|number| number.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    }
}

/// How the machine boots, and what makes its boot files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// UEFI (true), BIOS (false).
    pub uefi: Option<bool>,
    /// The boot loader whose configuration makes the command line.
    pub loader: Option<Loader>,
    /// What builds the initramfs.
    pub initramfs: Option<InitramfsTool>,
    /// Kernels installed in /boot, by name.
    pub kernels: Vec<InstalledKernel>,
    /// The distribution's id and version from /etc/os-release.
    pub distribution: Option<String>,
}

/// Boot loaders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loader {
    /// GRUB 2 with Debian's layout: /etc/default/grub, its drop-in folder, update-grub.
    GrubDebian,
    /// GRUB 2, configured some other way.
    Grub,
    /// systemd-boot.
    SystemdBoot,
    /// Something that is recognised and not yet written to.
    Other,
}

/// Initramfs builders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitramfsTool {
    /// Debian's and Ubuntu's.
    InitramfsTools,
    /// Fedora's, SUSE's, and others'.
    Dracut,
    /// Arch's.
    Mkinitcpio,
    /// Arch's other.
    Booster,
}

/// A kernel in /boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledKernel {
    /// Release, as in `vmlinuz-RELEASE`.
    pub release: String,
    /// The initramfs beside it, where there is one.
    pub initramfs: Option<String>,
}

/// A PCI function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Function {
    /// Its address in this boot.
    pub address: Address,
    /// Its way from the root bus. `None`: not told.
    pub path: Option<DevicePath>,
    /// Class code.
    pub class: Class,
    /// Vendor id.
    #[serde(with = "crate::pci::hex_id_opt")]
    pub vendor: Option<u16>,
    /// Device id.
    #[serde(with = "crate::pci::hex_id_opt")]
    pub device: Option<u16>,
    /// Subsystem vendor id.
    #[serde(with = "crate::pci::hex_id_opt")]
    pub subsystem_vendor: Option<u16>,
    /// Subsystem device id.
    #[serde(with = "crate::pci::hex_id_opt")]
    pub subsystem_device: Option<u16>,
    /// Revision.
    pub revision: Option<u8>,
    /// Name from the PCI id database.
    pub name: Option<String>,
    /// The driver that has it.
    pub driver: Option<String>,
    /// Modules that say they can drive it.
    pub modules: Vec<String>,
    /// `driver_override`, where one is set.
    pub driver_override: Option<String>,
    /// IOMMU group.
    pub iommu_group: Option<u32>,
    /// Whether the firmware used it as the display. `None` where the kernel has no such attribute.
    pub boot_vga: Option<bool>,
    /// The bridge it is behind.
    pub parent: Option<Address>,
    /// Power state as the kernel last knew it (`D0`, `D3cold`, …); reading it wakes nothing.
    pub power: Option<String>,
    /// PCI header type without the multifunction bit; 1 is a bridge. `None`: reading it would wake the device.
    pub header_type: Option<u8>,
    /// Link now and at most.
    pub link: Option<Link>,
    /// Other functions that this one's driver waits for or that wait for it (`consumer:pci:` and `supplier:pci:`). Asked
    /// of displays, sound, and controllers of USB, USB4 and the like: the kernel links no others.
    pub linked: Vec<Address>,
    /// Modalias of the kernel.
    pub modalias: Option<String>,
    /// The physical function that this virtual function (SR-IOV) belongs to.
    #[serde(default)]
    pub physical_function: Option<Address>,
    /// What its config space says. `None`: not told, or reading it would wake the device.
    #[serde(default)]
    pub config: Option<Config>,
    /// Its regions of memory and I/O ports. `None`: not told, or a bridge.
    #[serde(default)]
    pub regions: Option<Vec<Region>>,
    /// Ways in which the kernel would reset it, first to last (`flr`, `bus`, …). `None`: not told, or a bridge.
    #[serde(default)]
    pub reset_methods: Option<Vec<String>>,
    /// Whether the kernel may cut its power (`d3cold_allowed`).
    #[serde(default)]
    pub d3cold_allowed: Option<bool>,
    /// Processes that hold its device nodes; looked at for the functions of cards. `None`: not told, or none was
    /// seen and not all processes may be looked at.
    #[serde(default)]
    pub holders: Option<Vec<Holder>>,
    /// The NUMA node it hangs on. `None`: not told, or there is one only.
    #[serde(default)]
    pub numa_node: Option<u32>,
}

impl Function {
    /// A function of which only address and class are known.
    pub fn new(address: Address, class: Class) -> Self {
        Self {
            address,
            path: None,
            class,
            vendor: None,
            device: None,
            subsystem_vendor: None,
            subsystem_device: None,
            revision: None,
            name: None,
            driver: None,
            modules: Vec::new(),
            driver_override: None,
            iommu_group: None,
            boot_vga: None,
            parent: None,
            power: None,
            header_type: None,
            link: None,
            linked: Vec::new(),
            modalias: None,
            physical_function: None,
            config: None,
            regions: None,
            reset_methods: None,
            d3cold_allowed: None,
            holders: None,
            numa_node: None,
        }
    }

    /// Vendor and device, where both are known.
    pub fn id(&self) -> Option<DeviceId> {
        Some(DeviceId { vendor: self.vendor?, device: self.device? })
    }

    /// Subsystem vendor and device, where both are known.
    pub fn subsystem(&self) -> Option<DeviceId> {
        Some(DeviceId { vendor: self.subsystem_vendor?, device: self.subsystem_device? })
    }

    /// A PCI-to-PCI bridge or root port: never handed over, and no companion. By header type where it is known,
    /// else by class 0604.
    pub fn is_pci_bridge(&self) -> bool {
        self.header_type.map_or(self.class.subclass() == 0x0604, |header| header == 1)
    }

    /// A display controller of any kind.
    pub fn is_display(&self) -> bool {
        self.class.base() == 0x03
    }

    /// What to call it: its name, else its ids.
    pub fn label(&self) -> String {
        match (&self.name, self.id()) {
            (Some(name), _) => name.clone(),
            (None, Some(id)) => format!("[{id}]"),
            (None, None) => "unknown device".to_owned(),
        }
    }
}

/// PCI Express link.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Speed now, in GT/s.
    pub speed_gts: Option<f64>,
    /// Lanes now.
    pub width: Option<u8>,
    /// Speed at most, in GT/s.
    pub max_speed_gts: Option<f64>,
    /// Lanes at most.
    pub max_width: Option<u8>,
}

/// An IOMMU group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its number in this boot.
    pub id: u32,
    /// Its functions, by address.
    pub functions: Vec<Address>,
    /// How the host's own DMA in it is translated: `DMA`, `DMA-FQ`, `identity` (not at all), `blocked`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Memory that the firmware wants devices of the group to reach at the same addresses. `None`: not told.
    #[serde(default)]
    pub reserved: Option<Vec<Reserved>>,
}

impl Group {
    /// A group of which only its functions are known.
    pub fn new(id: u32, functions: Vec<Address>) -> Self {
        Self { id, functions, kind: None, reserved: None }
    }
}

/// Memory that is mapped one to one in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// First address.
    pub start: u64,
    /// Last address.
    pub end: u64,
    /// The kernel gives it up for a guest (`direct-relaxable`: graphics and USB); otherwise it refuses the guest.
    pub relaxable: bool,
}

/// A graphics card (or another display controller) and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its display function.
    pub address: Address,
    /// What goes with it because it is the card: audio, USB, UCSI of its slot.
    pub functions: Vec<Address>,
    /// What kind it is.
    pub kind: GpuKind,
    /// Whether the firmware used it as the display.
    pub boot_vga: Option<bool>,
    /// Other display controllers with the same ids.
    pub identical_to: Vec<Address>,
    /// Functions of other devices in the same groups, which would have to go too. PCI bridges do not count.
    pub companions: Vec<Address>,
    /// Connectors with a display on them (`DP-1`), as the driver last saw them. `None`: no driver that tells.
    #[serde(default)]
    pub displays: Option<Vec<String>>,
    /// Whether there are companions.
    pub isolation: Isolation,
    /// Whether it can be lent: filled by the judge.
    pub verdict: Verdict,
    /// Ids of the rules that say why: filled by the judge.
    pub reasons: Vec<String>,
}

/// Kinds of display controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GpuKind {
    /// A card of its own.
    Discrete,
    /// Part of the processor or chipset.
    Integrated,
    /// A server's management controller.
    Management,
    /// Emulated by a hypervisor.
    Virtual,
    /// Not told.
    Unknown,
}

/// Whether a card is alone in its groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// No companions.
    Isolated,
    /// There are companions.
    Shared,
    /// No groups to tell by.
    Unknown,
}

/// Whether a card can be lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Could be detached now.
    Ready,
    /// After changes that gpuferry can plan.
    Possible,
    /// Needs firmware, hardware or an ACS override.
    Blocked,
    /// Not enough is known.
    Unknown,
}

/// A disk and what is on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The kernel's name: `nvme0n1`.
    pub name: String,
    /// The function that it hangs on; `None` for what is not behind PCI.
    pub function: Option<Address>,
    /// What uses it or anything on it, through partitions, LVM, RAID and crypt.
    pub uses: Vec<DiskUse>,
}

/// Something on a disk that the running host needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// The block device that is used: `nvme0n1p2`, `dm-0`.
    pub device: String,
    /// What the device mapper calls it: `vg0-root`.
    #[serde(default)]
    pub mapped: Option<String>,
    /// What for.
    #[serde(flatten)]
    pub purpose: Purpose,
}

/// What a block device is used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "purpose")]
pub enum Purpose {
    /// A filesystem is mounted from it.
    Mount {
        /// Where.
        at: String,
    },
    /// The host swaps to it.
    Swap,
    /// A part of a volume group, RAID or similar that is active, though nothing is mounted from it.
    Member {
        /// The device made from it.
        of: String,
    },
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The kernel's name: `enp3s0`.
    pub name: String,
    /// The function that it hangs on; `None` for what is not behind PCI.
    pub function: Option<Address>,
    /// Addresses, with prefix length: `192.0.2.7/24`. Those of a bridge or bond above it count as its own.
    pub addresses: Vec<String>,
    /// Whether a default route leaves through it (or through the bridge or bond above it).
    pub default_route: bool,
    /// Whether it has carrier and is up.
    pub up: bool,
}

/// A frame buffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Framebuffer {
    /// Number: 0 is /dev/fb0.
    pub index: u32,
    /// The driver's name for it: `bochs-drmdrmfb`, `EFI VGA`.
    pub name: String,
    /// The PCI function it belongs to, where there is one.
    pub function: Option<Address>,
}

/// A back end of the virtual terminals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// Number: 1 is /sys/class/vtconsole/vtcon1.
    pub index: u32,
    /// Its name: `(M) frame buffer device`.
    pub name: String,
    /// Whether terminals are on it now.
    pub bound: bool,
}

/// A keyboard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyboard {
    /// Its name, as the kernel has it from the device.
    pub name: String,
    /// The function that it hangs on; `None` for what is not behind PCI (PS/2).
    pub function: Option<Address>,
}

impl Host {
    /// The driver of a function in a word: its name, that there is none, or that it is not told.
    pub fn driver_word<'h>(&self, function: &'h Function) -> &'h str {
        function.driver.as_deref().unwrap_or(if self.drivers_told { "no driver" } else { "not told" })
    }

    /// A machine of which nothing is known: where every observation begins.
    pub fn unknown(source: Source) -> Self {
        Self {
            schema: SCHEMA,
            source,
            cpu: Cpu {
                vendor: CpuVendor::Other,
                virtualization: Virtualization::Unknown,
                model: None,
                guest: None,
            },
            iommu: Iommu { state: Known::Unknown, interrupt_remapping: None, passthrough_mode: None },
            acpi: Acpi { dmar: None, ivrs: None, dmar_table: None, ivrs_table: None },
            kernel: Kernel { release: None, cmdline: None },
            boot: Boot { uefi: None, loader: None, initramfs: None, kernels: Vec::new(), distribution: None },
            functions: Vec::new(),
            drivers_told: false,
            groups: Vec::new(),
            gpus: Vec::new(),
            storage: None,
            network: None,
            ssh: None,
            framebuffers: Vec::new(),
            consoles: Vec::new(),
            drm_cards: None,
            firmware_framebuffers: Vec::new(),
            claims: None,
            sessions: None,
            chassis: Chassis::default(),
            board: None,
            mux: None,
            kernel_options: None,
            security: Security::default(),
            memory: None,
            topology: None,
            domains: None,
            managers: None,
            modules: None,
            keyboards: None,
            nvidia: None,
            systemd: false,
            unseen: Vec::new(),
        }
    }

    /// The functions above this one, nearest first: bridges up to the root port, and what hides a domain (VMD).
    pub fn above(&self, address: Address) -> impl Iterator<Item = Address> + '_ {
        let parent = |address: &Address| self.function(*address).and_then(|function| function.parent);
        // A capture could name itself as its own parent.
        std::iter::successors(parent(&address), parent).take(MAX_DEPTH)
    }

    /// The function at an address.
    pub fn function(&self, address: Address) -> Option<&Function> {
        let place = self.functions.binary_search_by_key(&address, |function| function.address);
        // Every way to a host sorts them; one that was made by hand is found all the same.
        place.ok().and_then(|place| self.functions.get(place)).or_else(|| {
            let sorted = self.functions.is_sorted_by_key(|function| function.address);
            if sorted { None } else { self.functions.iter().find(|function| function.address == address) }
        })
    }

    /// The function at an address that somebody named, or an error that says there is none (status 2).
    pub fn require(&self, address: Address) -> Result<&Function> {
        self.function(address).ok_or_else(|| {
            Error::usage(format!("there is no PCI function {address} on this machine"))
                .detail("addresses move when cards are added or taken out")
                .hint("gpuferry inspect devices")
        })
    }

    /// The card whose display function, or one of whose functions, this is.
    pub fn gpu(&self, address: Address) -> Option<&Gpu> {
        let own = self.gpus.iter().find(|gpu| gpu.address == address);
        own.or_else(|| self.gpus.iter().find(|gpu| gpu.functions.contains(&address)))
    }

    /// Connectors of a function's DRM cards. `None`: no driver that tells.
    pub fn connectors(&self, address: Address) -> Option<Vec<&Connector>> {
        let mut own =
            self.drm_cards.iter().flatten().filter(|card| card.function == Some(address)).peekable();
        own.peek()?;
        Some(own.flat_map(|card| &card.connectors).collect())
    }

    /// The group with a number.
    pub fn group(&self, id: u32) -> Option<&Group> {
        let place = self.groups.binary_search_by_key(&id, |group| group.id);
        place
            .ok()
            .and_then(|place| self.groups.get(place))
            .or_else(|| self.groups.iter().find(|group| group.id == id))
    }
}
