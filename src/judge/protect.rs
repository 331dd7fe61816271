//! What may never be taken from the host: its disks, its way to the network, the chips that hold it together.
//!
//! There is no force. What is not known counts as in use: a storage controller whose disks could not be looked at
//! is refused.

use crate::{
    error::Error,
    host::{Disk, DiskUse, Function, GpuKind, Host, Interface, Purpose},
    pci::Address,
};

/// Why a function stays with the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable id of the reason: `disk-in-use`, `only-network`, `part-of-the-host`, `management`, `not-known`.
    pub id: &'static str,
    /// What the function is, and what hangs on it.
    pub message: String,
    /// What would happen otherwise.
    pub details: Vec<String>,
    /// What helps.
    pub hints: Vec<String>,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let error = Error::refused(refusal.message);
        let error = refusal.details.into_iter().fold(error, Error::detail);
        refusal.hints.into_iter().fold(error, Error::hint)
    }
}

/// An error with status 3 where the function must stay with the host. To be asked for every function before it is
/// bound, unbound or handed over, and again right before.
pub fn protect(host: &Host, address: Address) -> Option<Error> {
    refusal(host, address).map(Error::from)
}

/// As [`protect`], as data.
pub fn refusal(host: &Host, address: Address) -> Option<Refusal> {
    let function = host.function(address)?;
    part_of_the_host(host, function)
        .or_else(|| management(host, function))
        .or_else(|| disk_in_use(host, function))
        .or_else(|| only_network(host, function))
}

/// What is at this function or behind it.
fn reaches(host: &Host, function: &Function, behind: Option<Address>) -> bool {
    let below =
        |device: Address| device == function.address || host.above(device).any(|up| up == function.address);
    behind.is_some_and(below)
}

const INTEL: u16 = 0x8086;
const AMD: u16 = 0x1022;

/// Bridges, and the chips that the board itself is made of. Class codes: PCI Code and ID Assignment Specification
/// (pci.ids has the same list).
fn part_of_the_host(host: &Host, function: &Function) -> Option<Refusal> {
    let of_the_processor = matches!(function.vendor, Some(INTEL | AMD));
    let what = match function.class.subclass() {
        _ if function.is_pci_bridge() => "a PCI bridge: everything behind it would go dark",
        0x0600 => "a host bridge: it is the way to the PCI bus itself",
        0x0601 => "the LPC or eSPI bridge: the board's firmware, clock and sensors hang on it",
        0x0602..=0x067f => "a bridge of the board",
        0x0680 if of_the_processor => "a part of the chipset",
        0x0500..=0x05ff => "memory, or a controller of it",
        0x0800..=0x0803 => "an interrupt controller, timer or clock of the board",
        0x0806 => "the IOMMU itself",
        0x0c05 => "the SMBus controller: the board's sensors and memory modules hang on it",
        // NVIDIA's USB-C controllers have the same class; those belong to their card.
        0x0c80 if of_the_processor => "the SPI controller: the board's firmware is behind it",
        0x0780 if is_management_engine(function) => "Intel's management engine",
        _ => return None,
    };
    let card = host.gpus.iter().find(|gpu| gpu.companions.contains(&function.address));
    let hint = match card {
        Some(card) => format!("{} shares an IOMMU group with it; another slot may not", card.address),
        None => "gpuferry inspect gpus   shows the cards".to_owned(),
    };
    Some(Refusal {
        id: "part-of-the-host",
        message: format!("{} is {what}", function.address),
        details: vec!["the host cannot run without it".to_owned()],
        hints: vec![hint],
    })
}

/// Bus 0, device 16h on Intel's platforms (drivers/misc/mei/pci-me.c binds it).
fn is_management_engine(function: &Function) -> bool {
    let place = function.address.bus == 0 && function.address.device == 0x16;
    function.vendor == Some(INTEL) && (place || function.driver.as_deref() == Some("mei_me"))
}

fn management(host: &Host, function: &Function) -> Option<Refusal> {
    let display = host.gpu(function.address).is_some_and(|gpu| gpu.kind == GpuKind::Management);
    if !display && function.class.subclass() != 0x0c07 {
        return None;
    }
    Some(Refusal {
        id: "management",
        message: format!("{} belongs to the server's management controller", function.address),
        details: vec!["the remote console would go dark, and a guest could reach the controller".to_owned()],
        hints: vec!["gpuferry inspect gpus   shows the other cards".to_owned()],
    })
}

/// The controller below a mounted filesystem, swap, or an active volume.
fn disk_in_use(host: &Host, function: &Function) -> Option<Refusal> {
    let address = function.address;
    let Some(disks) = &host.storage else {
        return (function.class.base() == 0x01).then(|| Refusal {
            id: "not-known",
            message: format!("{address} is a storage controller, and what its disks hold could not be seen"),
            details: vec!["it may be the host's own".to_owned()],
            hints: vec!["sudo gpuferry inspect devices".to_owned()],
        });
    };
    let behind = disks.iter().filter(|disk| reaches(host, function, disk.function));
    let uses = behind.flat_map(|disk| disk.uses.iter().map(move |of| (disk, of)));
    let mut uses: Vec<(&Disk, &DiskUse)> = uses.collect();
    uses.sort_by_key(|(_, of)| weight(&of.purpose));
    let ((disk, first), others) = uses.split_first()?;
    let mut details = vec![consequence(&first.purpose)];
    details.extend(others.iter().take(3).map(|(_, of)| format!("also, {}", shown(of))));
    Some(Refusal {
        id: "disk-in-use",
        message: format!("{address} is the {} of {}, and {}", controller(function), disk.name, shown(first)),
        details,
        hints: remedy(first),
    })
}

/// Which use is named first.
fn weight(purpose: &Purpose) -> u8 {
    match purpose {
        Purpose::Mount { at } if at == "/" => 0,
        Purpose::Mount { at } if at == "/boot" || at.starts_with("/boot/") => 1,
        Purpose::Mount { .. } => 2,
        Purpose::Swap => 3,
        Purpose::Member { .. } => 4,
    }
}

fn shown(of: &DiskUse) -> String {
    let device = match &of.mapped {
        Some(name) => format!("{} ({name})", of.device),
        None => of.device.clone(),
    };
    match &of.purpose {
        Purpose::Mount { at } => format!("{device} is mounted at {at}"),
        Purpose::Swap => format!("the host swaps to {device}"),
        Purpose::Member { of } => format!("{device} is a part of {of}, which is active"),
    }
}

/// Unbinding a mounted disk succeeds: the kernel does not protect the filesystem, its journal aborts.
fn consequence(purpose: &Purpose) -> String {
    match purpose {
        Purpose::Mount { at } if at == "/" => {
            "the host would lose its root filesystem the moment the driver lets go".to_owned()
        }
        Purpose::Mount { at } => format!("the filesystem at {at} would die, with what is not yet written"),
        Purpose::Swap => "programs whose memory is swapped out would be killed".to_owned(),
        Purpose::Member { of } => format!("{of} would lose it, with what is not yet written"),
    }
}

fn remedy(of: &DiskUse) -> Vec<String> {
    let free = "gpuferry inspect devices   shows which storage is free".to_owned();
    match &of.purpose {
        Purpose::Mount { at } if weight(&of.purpose) == 2 => vec![format!("umount {at}"), free],
        Purpose::Swap => vec![format!("swapoff /dev/{}", of.device), free],
        Purpose::Mount { .. } | Purpose::Member { .. } => vec![free],
    }
}

fn controller(function: &Function) -> &'static str {
    match function.class.subclass() {
        0x0108 => "NVMe controller",
        0x0106 => "SATA controller",
        0x0104 => "RAID controller",
        0x0107 => "SAS controller",
        0x0101 => "IDE controller",
        0x0805 => "SD card reader",
        0x0c03 => "USB controller",
        _ => "disk controller",
    }
}

/// The function that all ways to the network go through. Without a default route, the only one with an address.
fn only_network(host: &Host, function: &Function) -> Option<Refusal> {
    let address = function.address;
    let Some(interfaces) = &host.network else {
        return (function.class.base() == 0x02).then(|| Refusal {
            id: "not-known",
            message: format!("{address} is a network card, and what goes through it could not be seen"),
            details: vec!["it may be the only way to the host".to_owned()],
            hints: vec!["sudo gpuferry inspect devices".to_owned()],
        });
    };
    let routed = interfaces.iter().any(|interface| interface.default_route);
    let carries = |interface: &&Interface| {
        if routed { interface.default_route } else { interface.up && !interface.addresses.is_empty() }
    };
    let here = |interface: &&Interface| reaches(host, function, interface.function);
    let mut carrying = interfaces.iter().filter(carries);
    let own: Vec<&Interface> = carrying.clone().filter(here).collect();
    let first = own.first()?;
    if carrying.any(|interface| !here(&interface)) {
        return None;
    }
    let addresses: Vec<&str> = own.iter().flat_map(|own| own.addresses.iter().map(String::as_str)).collect();
    let shown = if addresses.is_empty() { String::new() } else { format!(" ({})", addresses.join(", ")) };
    Some(Refusal {
        id: "only-network",
        message: format!("{address} is {}, the host's only way to the network{shown}", first.name),
        details: vec!["nobody could reach the host over the network, and it could reach nobody".to_owned()],
        hints: vec!["gpuferry inspect devices   shows the other network cards".to_owned()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Status, host::testing::*};

    fn refused(host: &Host, address: &str) -> Option<Refusal> {
        refusal(host, at(address))
    }

    #[test]
    fn the_controller_of_the_root_filesystem() {
        let mut host = desktop();
        host.storage = Some(vec![Disk {
            name: "nvme0n1".into(),
            function: Some(at("03:00.0")),
            uses: vec![mounted("nvme0n1p1", "/boot/efi"), mounted("nvme0n1p2", "/")],
        }]);
        let error = protect(&host, at("03:00.0")).unwrap();
        assert_eq!(error.status, Status::Refused);
        assert_eq!(
            error.to_string(),
            "refused: 0000:03:00.0 is the NVMe controller of nvme0n1, and nvme0n1p2 is mounted at /\n  \
             the host would lose its root filesystem the moment the driver lets go\n  \
             also, nvme0n1p1 is mounted at /boot/efi\n  \
             hint: gpuferry inspect devices   shows which storage is free"
        );
        assert_eq!(refused(&host, "01:00.0"), None);
    }

    #[test]
    fn swap_and_active_volumes_count() {
        let mut host = desktop();
        let disk = |uses| Some(vec![Disk { name: "nvme0n1".into(), function: Some(at("03:00.0")), uses }]);
        let of = |purpose| vec![DiskUse { device: "nvme0n1p3".into(), mapped: None, purpose }];
        host.storage = disk(of(Purpose::Swap));
        assert!(refused(&host, "03:00.0").unwrap().message.ends_with("the host swaps to nvme0n1p3"));
        host.storage = disk(of(Purpose::Member { of: "md0".into() }));
        assert!(refused(&host, "03:00.0").unwrap().message.contains("part of md0, which is active"));
        host.storage = disk(vec![]);
        assert_eq!(refused(&host, "03:00.0"), None);
    }

    #[test]
    fn disks_that_could_not_be_seen_are_not_free() {
        let mut host = desktop();
        host.storage = None;
        assert_eq!(refused(&host, "03:00.0").unwrap().id, "not-known");
        assert_eq!(refused(&host, "01:00.0"), None);
        host.network = None;
        assert_eq!(refused(&host, "04:00.0").unwrap().id, "not-known");
    }

    #[test]
    fn what_hides_the_disk_goes_with_it() {
        let mut host = desktop();
        host.functions.push(function("00:0e.0", "010400", "8086:9a0b"));
        let mut disk = function("10000:e1:00.0", "010802", "144d:a808");
        disk.parent = Some(at("00:0e.0"));
        host.functions.push(disk);
        host.storage = Some(vec![Disk {
            name: "nvme0n1".into(),
            function: Some("10000:e1:00.0".parse().unwrap()),
            uses: vec![mounted("nvme0n1p2", "/")],
        }]);
        assert!(refused(&host, "00:0e.0").unwrap().message.contains("RAID controller of nvme0n1"));
    }

    #[test]
    fn the_only_way_to_the_network() {
        let mut host = desktop();
        host.network = Some(vec![interface("enp4s0", "04:00.0", true)]);
        let refusal = refused(&host, "04:00.0").unwrap();
        assert_eq!(
            refusal.message,
            "0000:04:00.0 is enp4s0, the host's only way to the network (192.0.2.7/24)"
        );
        host.network = Some(vec![interface("enp4s0", "04:00.0", true), interface("enp6s0", "06:00.0", true)]);
        assert_eq!(refused(&host, "04:00.0"), None, "there is another");
        host.network =
            Some(vec![interface("enp4s0", "04:00.0", true), interface("enp6s0", "06:00.0", false)]);
        assert_eq!(refused(&host, "06:00.0"), None, "nothing leaves through it");
        assert!(refused(&host, "04:00.0").is_some(), "the other leads nowhere");
    }

    #[test]
    fn without_a_default_route_the_only_address_counts() {
        let mut host = desktop();
        host.network = Some(vec![interface("enp4s0", "04:00.0", false)]);
        assert_eq!(refused(&host, "04:00.0").unwrap().id, "only-network");
    }

    #[test]
    fn the_board_stays_whole() {
        let mut host = desktop();
        for (address, class, id, driver) in [
            ("00:00.0", "060000", "8086:29c0", None),
            ("00:1f.0", "060100", "8086:7a04", None),
            ("00:1f.4", "0c0500", "8086:7a23", Some("i801_smbus")),
            ("00:1f.5", "0c8000", "8086:7a24", Some("intel-spi")),
            ("00:16.0", "078000", "8086:7a68", Some("mei_me")),
            ("00:00.2", "080600", "1022:1481", None),
            ("00:01.0", "060400", "8086:460d", Some("pcieport")),
        ] {
            let mut function = function(address, class, id);
            function.driver = driver.map(str::to_owned);
            host.functions.retain(|have| have.address != function.address);
            host.functions.push(function);
            assert_eq!(refused(&host, address).unwrap().id, "part-of-the-host", "{address}");
        }
        host.functions.push(function("01:00.3", "0c8000", "10de:1ad9"));
        assert_eq!(refused(&host, "01:00.3"), None, "the USB-C controller of a card");
        host.functions.push(function("00:09.0", "078000", "1af4:1003"));
        assert_eq!(refused(&host, "00:09.0"), None, "a serial port of a hypervisor");
    }

    #[test]
    fn a_management_controller_stays() {
        let mut host = desktop();
        host.functions.push(function("08:00.0", "030000", "1a03:2000"));
        host.functions.push(function("08:00.1", "0c0701", "1a03:2402"));
        host.gpus = crate::host::gpu::gpus(&host);
        assert_eq!(refused(&host, "08:00.0").unwrap().id, "management");
        assert_eq!(refused(&host, "08:00.1").unwrap().id, "management");
    }
}
