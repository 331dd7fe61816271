//! PCI functions from sysfs (Documentation/ABI/testing/sysfs-bus-pci). Wakes no device.
//!
//! Ids and class come from `modalias`, not from `uevent`: in some kernels (6.10) reading `uevent` takes the device
//! lock, which a driver that does not let go holds for as long as it likes. Config space and the link attributes
//! are accesses to the device; they are left alone while it sleeps, unless they were asked for.

use super::{
    Config, Function, Link,
    config::Header,
    look::{Folder, Look, full_address},
    regions::{Region, parse_resize, parse_resource},
};
use crate::pci::{Address, Class, DevicePath};
use std::{cell::RefCell, io};

const DEVICES: &str = "/sys/bus/pci/devices";

/// Bytes at the head of config space that tell devices from bridges, and where a bridge leads.
const HEAD: usize = 32;

/// Functions that are worth a thread.
const FEW: usize = 8;

/// Every function, by address; where asking for their overrides may hang, that is done in the meantime.
pub(super) fn functions<'r>(look: &Look<'r>) -> (Vec<Function>, Overrides<'r>) {
    let names = look.list(DEVICES).unwrap_or_default();
    let mut addresses: Vec<Address> = names.iter().filter_map(|name| full_address(name)).collect();
    addresses.sort_unstable();
    let apart = look.root.may_hang();
    let path = |address: &Address| format!("{DEVICES}/{address}/driver_override").into();
    let overrides = apart.then(|| look.root.begin_apart(addresses.iter().map(path).collect()));
    let threads = look.root.at_once().map_or(1, |(_, threads)| threads);
    // Each takes every nth one: what is alike (the virtual functions of a card) is side by side.
    let threads = threads.min(addresses.len().div_ceil(FEW)).max(1);
    let part = |first| addresses.iter().skip(first).step_by(threads).copied().collect();
    let parts: Vec<Vec<Address>> = (0..threads).map(part).collect();
    let parts: Vec<&Vec<Address>> = parts.iter().collect();
    let seen = look.in_order(|| look.each(&parts, |look, part| some(look, part, apart)));
    let mut functions: Vec<Function> = seen.into_iter().flatten().collect();
    functions.sort_unstable_by_key(|function| function.address);
    (functions, Overrides(overrides))
}

/// The functions at these addresses.
fn some(look: &Look, addresses: &[Address], apart: bool) -> Vec<Function> {
    let devices = look.folder(DEVICES);
    let function = |address: &Address| {
        let mut function = Function::new(*address, Class(0));
        let name = address.to_string();
        let link = devices.as_ref().and_then(|devices| devices.link(&name));
        if let Some(place) = link.as_deref().map(parse_place) {
            (function.path, function.parent) = (place.path, place.parent);
        }
        // The way that the link goes, where it goes there straight.
        let straight = link.as_deref().and_then(|link| link.strip_prefix("../../../devices/"));
        let path = match straight.filter(|path| !path.split('/').any(|name| name == "..")) {
            Some(path) => format!("/sys/devices/{path}"),
            None => format!("{DEVICES}/{name}"),
        };
        if let Some(folder) = look.folder(&path) {
            fill(look, &folder, &mut function, apart);
        }
        function
    };
    addresses.iter().map(function).collect()
}

/// Overrides that are being read. `driver_override` is read under the device lock in many kernels
/// (`driver_override_show`): there it is read apart, so that a device whose driver does not let go hides its own, and
/// hangs nobody.
pub(super) struct Overrides<'r>(Option<Begun<'r>>);

/// Reads that were begun.
type Begun<'r> = Box<dyn FnOnce() -> Vec<io::Result<Vec<u8>>> + 'r>;

impl Overrides<'_> {
    /// Fills them in.
    pub(super) fn fill(self, look: &Look, functions: &mut [Function]) {
        let Some(begun) = self.0 else { return };
        for (function, read) in functions.iter_mut().zip(begun()) {
            match read {
                Ok(bytes) => function.driver_override = parse_override(&bytes),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    let address = function.address;
                    look.note(format!(
                        "the driver_override of {address}: a write to the device, or its driver, hangs"
                    ));
                }
                Err(_) => {}
            }
        }
    }
}

/// `(null)` is none.
fn parse_override(bytes: &[u8]) -> Option<String> {
    let name = String::from_utf8_lossy(bytes).trim().to_owned();
    (!name.is_empty() && name != "(null)").then_some(name)
}

/// Bridges that a guest is never given: to the host, to ISA, and to other buses.
fn is_bridge(class: Class) -> bool {
    matches!(class.subclass(), 0x0600 | 0x0601 | 0x0604 | 0x0607 | 0x0609)
}

fn fill(look: &Look, folder: &Folder, function: &mut Function, apart: bool) {
    function.modalias = folder.text("modalias");
    if let Some(ids) = function.modalias.as_deref().and_then(parse_modalias) {
        ids.fill(function);
    } else {
        let number = |name: &str| folder.text(name).and_then(|text| hex(&text));
        let id = |name: &str| number(name).and_then(|id| u16::try_from(id).ok());
        function.class = folder.text("class").and_then(|class| class.parse().ok()).unwrap_or(Class(0));
        (function.vendor, function.device) = (id("vendor"), id("device"));
        (function.subsystem_vendor, function.subsystem_device) =
            (id("subsystem_vendor"), id("subsystem_device"));
    }
    function.driver = folder.link_name("driver");
    function.iommu_group = folder.link_name("iommu_group").and_then(|group| group.parse().ok());
    if !apart {
        let name = folder.text("driver_override");
        function.driver_override = name.and_then(|name| parse_override(name.as_bytes()));
    }

    let power_state = folder.text("power_state");
    let runtime = folder.text("power/runtime_status");
    let awake = is_awake(power_state.as_deref(), runtime.as_deref());
    function.power = power_state.filter(|state| state != "unknown" && state != "error");
    let mut own = None;
    if awake || look.wake {
        let mut conventional = false;
        if let Some((head, config)) = config(look, folder) {
            own = Header::parse(&head).filter(|head| Some(head.id) == function.id());
            function.revision = own.map(|head| head.revision);
            conventional = config.capabilities.is_some() && config.express.is_none();
            function.set_config(config);
        }
        // The kernel, too, knows of a link by the capability (drivers/pci/pci-sysfs.c, `pcie_dev_attrs_are_visible`).
        if function.link.is_none() && !conventional && !look.brief {
            function.link = link(folder);
        }
    }
    if function.revision.is_none() {
        let revision = folder.text("revision").and_then(|text| hex(&text));
        function.revision = revision.and_then(|id| u8::try_from(id).ok());
    }
    if !look.brief {
        function.d3cold_allowed = folder.text("d3cold_allowed").and_then(|flag| parse_flag(&flag));
    }
    // Virtual functions have ffff in their headers (SR-IOV specification, "Vendor ID").
    if own.is_none() || is_display(function.class) {
        function.physical_function = folder.link_name("physfn").and_then(|name| full_address(&name));
    }
    if !is_bridge(function.class) {
        of_a_device(look, folder, function, own.is_some());
    }
}

/// Displays, those of before there were classes too: no others have `boot_vga` (include/linux/pci.h, `pci_is_vga`).
fn is_display(class: Class) -> bool {
    class.base() == 0x03 || class.subclass() == 0x0001
}

/// Whether the kernel may link a function to another one: a card, its sound, and controllers of USB and USB4
/// (drivers/pci/quirks.c, `pci_create_device_link`; drivers/thunderbolt/acpi.c, `tb_acpi_add_link`).
fn may_be_linked(class: Class) -> bool {
    is_display(class) || matches!(class.base(), 0x04 | 0x08 | 0x0c)
}

/// Whether a region's size may be one that can be changed, as far as config space was seen.
fn may_resize(function: &Function) -> bool {
    let config = function.config.as_ref();
    config.is_none_or(|config| config.extended.is_none() || !config.resizable.is_empty())
}

/// What only devices are asked for: what they are to the firmware and to one another, their memory, and their ends.
/// `seen`: its config space is its own.
fn of_a_device(look: &Look, folder: &Folder, function: &mut Function, seen: bool) {
    if is_display(function.class) {
        function.boot_vga = folder.text("boot_vga").and_then(|flag| parse_flag(&flag));
    }
    // Listing a folder costs as much as all that is read in it.
    let names = if may_be_linked(function.class) || !look.brief && (!seen || may_resize(function)) {
        folder.names()
    } else {
        Vec::new()
    };
    function.linked = names.iter().filter_map(|name| parse_linked(name)).collect();
    if look.brief {
        return;
    }
    function.regions = folder.text("resource").map(|text| regions(&text, &names));
    // Written by root, read by all, under no lock (drivers/pci/pci.c, `reset_method_show`).
    let methods = folder.text("reset_method");
    function.reset_methods = methods.map(|methods| methods.split_whitespace().map(str::to_owned).collect());
}

/// The link, where config space does not tell it.
fn link(folder: &Folder) -> Option<Link> {
    let lanes = |name: &str| folder.text(name).and_then(|text| parse_width(&text));
    let speed = |name: &str| folder.text(name).and_then(|text| parse_speed(&text));
    known(Link {
        speed_gts: speed("current_link_speed"),
        width: lanes("current_link_width"),
        max_speed_gts: speed("max_link_speed"),
        max_width: lanes("max_link_width"),
    })
}

/// What config space says, as far as it may be read, and the bytes that it begins with.
fn config(look: &Look, folder: &Folder) -> Option<(Vec<u8>, Config)> {
    let part = folder.parts("config")?;
    let head = RefCell::new(Vec::new());
    let part = |at, length| {
        let bytes = part(at, length)?;
        if at == 0 {
            head.replace(bytes.clone());
        }
        Some(bytes)
    };
    let config = if look.brief { Config::parse(&part(0, HEAD)?) } else { Config::read(part)? };
    Some((head.into_inner(), config))
}

fn regions(resource: &str, names: &[String]) -> Vec<Region> {
    let resizable: Vec<u8> = names.iter().filter_map(|name| parse_resize(name)).collect();
    let mut regions = parse_resource(resource);
    for region in &mut regions {
        region.resizable = resizable.contains(&region.index);
    }
    regions
}

/// What a modalias of a PCI function says: `pci:v000010DEd00002204sv00001458sd0000403Bbc03sc00i00`
/// (drivers/pci/pci-sysfs.c, `modalias_show`).
#[derive(Debug, PartialEq, Eq)]
struct Ids {
    vendor: u16,
    device: u16,
    subsystem_vendor: u16,
    subsystem_device: u16,
    class: Class,
}

impl Ids {
    fn fill(&self, function: &mut Function) {
        function.class = self.class;
        (function.vendor, function.device) = (Some(self.vendor), Some(self.device));
        // A bridge has no subsystem ids; sysfs says 0000 there.
        (function.subsystem_vendor, function.subsystem_device) =
            (Some(self.subsystem_vendor), Some(self.subsystem_device));
    }
}

fn parse_modalias(text: &str) -> Option<Ids> {
    fn field<'t>(text: &'t str, tag: &str, digits: usize) -> Option<(u32, &'t str)> {
        let rest = text.strip_prefix(tag)?;
        Some((hex(rest.get(..digits)?)?, rest.get(digits..)?))
    }
    let short = |id: u32| u16::try_from(id).ok();
    let rest = text.strip_prefix("pci:")?;
    let (vendor, rest) = field(rest, "v", 8)?;
    let (device, rest) = field(rest, "d", 8)?;
    let (subsystem_vendor, rest) = field(rest, "sv", 8)?;
    let (subsystem_device, rest) = field(rest, "sd", 8)?;
    let (base, rest) = field(rest, "bc", 2)?;
    let (sub, rest) = field(rest, "sc", 2)?;
    let (interface, _) = field(rest, "i", 2)?;
    Some(Ids {
        vendor: short(vendor)?,
        device: short(device)?,
        subsystem_vendor: short(subsystem_vendor)?,
        subsystem_device: short(subsystem_device)?,
        class: Class(base << 16 | sub << 8 | interface),
    })
}

/// Hex digits, with the `0x` of sysfs or without.
fn hex(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let good = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if good { u32::from_str_radix(digits, 16).ok() } else { None }
}

fn parse_flag(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// Where a function hangs: from the link in /sys/bus/pci/devices.
#[derive(Debug, Default, PartialEq, Eq)]
struct Place {
    path: Option<DevicePath>,
    parent: Option<Address>,
}

/// `../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0`: the path begins at the last root bus (`pciDDDD:BB`), so
/// that what Intel's VMD hides in a domain of its own has a path in that domain; the VMD is still its parent.
fn parse_place(link: &str) -> Place {
    let mut all: Vec<Address> = Vec::new();
    let mut root_bus = None;
    for name in link.split('/') {
        if name.starts_with("pci") && name.contains(':') {
            root_bus = Some(all.len());
        } else if let Some(address) = full_address(name) {
            all.push(address);
        }
    }
    let below = root_bus.and_then(|at| all.get(at..)).and_then(<[Address]>::split_first);
    let path = below.map(|(root, below)| DevicePath {
        root: *root,
        below: below.iter().map(|address| address.device_function()).collect(),
    });
    let parent = all.len().checked_sub(2).filter(|_| root_bus.is_some());
    Place { path, parent: parent.and_then(|at| all.get(at).copied()) }
}

/// `consumer:pci:0000:01:00.1` and `supplier:pci:0000:01:00.0` (drivers/base/core.c, device links).
fn parse_linked(name: &str) -> Option<Address> {
    let rest = name.strip_prefix("consumer:pci:").or_else(|| name.strip_prefix("supplier:pci:"))?;
    full_address(rest)
}

/// Whether config space may be read without waking the device. Where the kernel has neither attribute, it does
/// not manage the device's power.
fn is_awake(power_state: Option<&str>, runtime: Option<&str>) -> bool {
    let powered = matches!(power_state, None | Some("D0" | "unknown"));
    powered && matches!(runtime, None | Some("active" | "unsupported"))
}

/// `16.0 GT/s PCIe`; `Unknown` (`Unknown speed` in older kernels) is none.
fn parse_speed(text: &str) -> Option<f64> {
    let number: f64 = text.split_whitespace().next()?.parse().ok()?;
    (number.is_finite() && number > 0.0).then_some(number)
}

/// Lanes. 0 is a link that is down; 255 is what `Unknown` prints as; 63 is what a device that is gone reads as.
fn parse_width(text: &str) -> Option<u8> {
    text.parse().ok().filter(|width| (1..=32).contains(width))
}

fn known(link: Link) -> Option<Link> {
    let nothing = Link { speed_gts: None, width: None, max_speed_gts: None, max_width: None };
    (link != nothing).then_some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modalias_holds_the_ids() {
        let ids = parse_modalias("pci:v000010DEd00002204sv00001458sd0000403Bbc03sc00i00").unwrap();
        assert_eq!(
            (ids.vendor, ids.device, ids.subsystem_vendor, ids.subsystem_device, ids.class.0),
            (0x10de, 0x2204, 0x1458, 0x403b, 0x03_0000)
        );
        for odd in
            ["", "pci:", "pci:v000010DEd", "usb:v1D6Bp0002", "pci:v000010DEd0000é204sv0000", "pci:v+00010DE"]
        {
            assert_eq!(parse_modalias(odd), None, "{odd}");
        }
    }

    #[test]
    fn the_path_is_where_the_link_leads() {
        let place = parse_place("../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:03.1");
        assert_eq!(place.path.unwrap().to_string(), "0000:00:01.0/00.0/03.1");
        assert_eq!(place.parent.unwrap().to_string(), "0000:01:00.0");
        let place = parse_place("../../../devices/pci0000:00/0000:00:02.0");
        assert_eq!((place.path.unwrap().to_string().as_str(), place.parent), ("0000:00:02.0", None));
        assert_eq!(parse_place("/somewhere/else"), Place::default());
    }

    #[test]
    fn what_vmd_hides_is_below_it() {
        let place =
            parse_place("../../../devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0");
        assert_eq!(place.path.unwrap().to_string(), "10000:e0:06.0/00.0");
        assert_eq!(place.parent.unwrap().to_string(), "10000:e0:06.0");
        let port = parse_place("../../../devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0");
        assert_eq!(port.parent.unwrap().to_string(), "0000:00:0e.0");
    }

    #[test]
    fn sleepers_are_left_alone() {
        assert!(is_awake(Some("D0"), Some("active")));
        assert!(is_awake(Some("unknown"), Some("active")), "a function whose driver just left");
        assert!(is_awake(None, None));
        assert!(!is_awake(Some("D3cold"), Some("suspended")));
        assert!(!is_awake(Some("D3hot"), Some("active")));
        assert!(!is_awake(Some("D0"), Some("suspending")));
        assert!(!is_awake(None, Some("suspended")));
    }

    #[test]
    fn links_as_the_kernel_prints_them() {
        assert_eq!(parse_speed("16.0 GT/s PCIe"), Some(16.0));
        assert_eq!(parse_speed("2.5 GT/s"), Some(2.5));
        assert_eq!(parse_speed("Unknown"), None);
        assert_eq!(parse_speed("NaN GT/s"), None);
        assert_eq!(
            (parse_width("16"), parse_width("255"), parse_width("0"), parse_width("63")),
            (Some(16), None, None, None)
        );
    }

    #[test]
    fn no_override_is_written_as_null() {
        assert_eq!(parse_override(b"(null)\n"), None);
        assert_eq!(parse_override(b"\n"), None);
        assert_eq!(parse_override(b"vfio-pci\n").as_deref(), Some("vfio-pci"));
    }

    #[test]
    fn linked_functions() {
        assert_eq!(parse_linked("consumer:pci:0000:01:00.1").unwrap().to_string(), "0000:01:00.1");
        assert_eq!(parse_linked("supplier:platform:x"), None);
    }
}
