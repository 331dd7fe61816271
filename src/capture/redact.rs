//! What of a file goes into a capture, by its path.
//!
//! Safe by default: a path that no row knows gives only what is text, and that through the scrubber; bytes that are
//! no text stay out. The rows say where more is needed (formats with addresses in hexadecimal, serial numbers inside
//! binary data) and where nothing personal can be.

use super::scrub::{Kind, Scrubber};
use std::path::Path;

/// What becomes of a file.
#[derive(Clone, Copy)]
enum Rule {
    /// As it is: nothing of a person's can be in it.
    Keep,
    /// Text through the scrubber.
    Scrub,
    /// Text through the scrubber, but for names.
    Ids,
    /// Another value of the same form.
    Shape,
    /// Not at all, and why.
    Out(&'static str),
    /// A format of its own.
    Own(fn(&Scrubber, &[u8]) -> Vec<u8>),
}

/// Attributes of sysfs whose values the kernel makes of numbers and fixed words.
const PLAIN: &[&str] = &[
    "modalias",
    "class",
    "vendor",
    "device",
    "subsystem_vendor",
    "subsystem_device",
    "revision",
    "boot_vga",
    "power_state",
    "runtime_status",
    "control",
    "current_link_speed",
    "current_link_width",
    "max_link_speed",
    "max_link_width",
    "driver_override",
    "reset_method",
    "numa_node",
    "local_cpulist",
    "resource",
    "d3cold_allowed",
    "enable",
    "irq",
    "type",
    "dev",
    "size",
    "ro",
    "removable",
    "operstate",
    "flags",
    "carrier",
    "bind",
    "status",
    "enabled",
    "dpms",
    "modes",
    "sriov_numvfs",
    "sriov_totalvfs",
    "ari_enabled",
    "refcnt",
    "initstate",
    "chassis_type",
    "sys_vendor",
    "product_name",
    "product_version",
    "product_family",
    "board_vendor",
    "board_name",
    "board_version",
    "bios_vendor",
    "bios_version",
    "bios_date",
    "bios_release",
    "broken_parity_status",
    "msi_bus",
    "rescan",
    "state",
    "id",
    "online",
    "reserved_regions",
];

/// Parts of names of attributes that hold what identifies one device or machine.
const PERSONAL: &[&str] = &[
    "serial",
    "uuid",
    "unique_id",
    "uniq",
    "wwn",
    "wwid",
    "asset_tag",
    "eui",
    "nguid",
    "nqn",
    "phys_port_id",
    "phys_switch_id",
    "mac_address",
    "machine-id",
    "boot_id",
    "product_sku",
    "address",
];

fn rule(path: &str) -> Rule {
    let name = path.rsplit('/').next().unwrap_or_default();
    let below = |folder: &str| path.starts_with(folder);
    if below("/sys/") {
        sysfs(path, name)
    } else if below("/proc/") {
        procfs(path, name)
    } else {
        file(path, name)
    }
}

fn sysfs(path: &str, name: &str) -> Rule {
    let below = |folder: &str| path.starts_with(folder);
    if below("/sys/firmware/efi/efivars/") {
        let known = ["SecureBoot-", "SetupMode-", "MokSBState"].iter().any(|start| name.starts_with(start));
        return if known { Rule::Keep } else { Rule::Out("EFI variables") };
    }
    if below("/sys/firmware/acpi/tables/") {
        // Who made the board is in them, not which one it is; others (MSDM) hold keys.
        let known = ["DMAR", "IVRS", "MCFG"].iter().any(|table| name.starts_with(table));
        return if known { Rule::Keep } else { Rule::Out("ACPI tables") };
    }
    if below("/sys/firmware/dmi/") {
        return Rule::Out("DMI tables");
    }
    match name {
        "config" => Rule::Own(config),
        "edid" => Rule::Own(edid),
        "vpd" | "rom" | "descriptors" | "bos_descriptors" | "report_descriptor" => {
            Rule::Out("binary data of devices")
        }
        _ if PERSONAL.iter().any(|part| name.contains(part)) => Rule::Shape,
        _ if PLAIN.contains(&name) => Rule::Keep,
        _ => Rule::Ids,
    }
}

fn procfs(path: &str, name: &str) -> Rule {
    let process = path.strip_prefix("/proc/").and_then(|rest| rest.split('/').next());
    let of_process = process.is_some_and(|id| id.bytes().all(|byte| byte.is_ascii_digit()));
    match (path, name) {
        ("/proc/cpuinfo", _) => Rule::Own(cpuinfo),
        (
            "/proc/interrupts"
            | "/proc/iomem"
            | "/proc/ioports"
            | "/proc/meminfo"
            | "/proc/modules"
            | "/proc/filesystems"
            | "/proc/devices"
            | "/proc/fb"
            | "/proc/mtrr"
            | "/proc/config.gz"
            | "/proc/version"
            | "/proc/sys/kernel/osrelease"
            | "/proc/sys/kernel/version",
            _,
        ) => Rule::Keep,
        ("/proc/net/route", _) => Rule::Own(route),
        ("/proc/net/ipv6_route" | "/proc/net/if_inet6", _) => Rule::Own(six),
        (_, "route") if of_process => Rule::Own(route),
        (_, "ipv6_route" | "if_inet6") if of_process => Rule::Own(six),
        (_, "mountinfo" | "mounts") => Rule::Own(mounts),
        (_, "cmdline") if of_process => Rule::Own(arguments),
        (_, "maps" | "smaps") if of_process => Rule::Own(maps),
        (_, "environ" | "mem" | "auxv") if of_process => Rule::Out("memory of processes"),
        _ => Rule::Scrub,
    }
}

fn file(path: &str, name: &str) -> Rule {
    let below = |folder: &str| path.starts_with(folder);
    match path {
        "/etc/machine-id" | "/var/lib/dbus/machine-id" => Rule::Shape,
        "/etc/os-release" | "/usr/lib/os-release" => Rule::Keep,
        "/etc/passwd" => Rule::Own(passwd),
        "/etc/shadow" | "/etc/gshadow" => Rule::Out("password files"),
        _ if name == "pci.ids" => Rule::Keep,
        _ if below("/lib/modules/") || below("/usr/lib/modules/") => {
            if name.starts_with("modules.") {
                Rule::Keep
            } else {
                Rule::Out("kernel modules")
            }
        }
        _ if below("/boot/config-") => Rule::Keep,
        _ if below("/boot/") && (name.starts_with("vmlinu") || name.starts_with("init")) => {
            Rule::Out("kernel and initramfs images")
        }
        _ => Rule::Scrub,
    }
}

/// The file as it goes in; an error is why it does not.
pub fn content(scrub: &Scrubber, path: &Path, bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    let Some(path) = path.to_str() else { return Err("names that are no text") };
    let text = || match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err("binary data of unknown form"),
    };
    match rule(path) {
        Rule::Keep => Ok(bytes.to_vec()),
        Rule::Scrub => Ok(scrub.text(text()?).into_bytes()),
        Rule::Ids => Ok(scrub.ids(text()?).into_bytes()),
        Rule::Shape => {
            let text = text()?;
            let kind = if path.contains("address") { Kind::Mac } else { Kind::Serial };
            // A hardware address or id keeps its own way, so that it is the same in other files.
            let other = scrub.ids(text);
            let done = other != text || text.trim().is_empty();
            Ok(if done { other } else { scrub.shape(text, kind) }.into_bytes())
        }
        Rule::Out(why) => Err(why),
        Rule::Own(own) => Ok(own(scrub, bytes)),
    }
}

/// A path, and a link's target, as they go in. `None` for what is no text.
pub fn path(scrub: &Scrubber, path: &Path) -> Option<String> {
    let text = path.to_str()?;
    // The ids in these names are those of who made the variable.
    if text.starts_with("/sys/firmware/efi/") {
        return Some(text.to_owned());
    }
    Some(if text.starts_with("/sys/") || text.starts_with("../") {
        scrub.ids(text)
    } else {
        scrub.path(text)
    })
}

/// Config space without the serial number of the device: extended capability 3 (PCI Express Base, 7.9.3).
fn config(scrub: &Scrubber, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0x100;
    for _ in 0..64 {
        let header =
            bytes.get(at..at + 4).and_then(|header| header.try_into().ok()).map_or(0, u32::from_le_bytes);
        if header & 0xffff == 3 {
            if let Some(serial) =
                bytes.get_mut(at + 4..at + 12).filter(|serial| serial.iter().any(|byte| *byte != 0))
            {
                serial.fill(0);
                scrub.count(Kind::Serial);
            }
        }
        let next = (header >> 20) as usize & !3;
        if header == 0 || header == u32::MAX || next < 0x100 {
            break;
        }
        at = next;
    }
    bytes
}

/// A monitor's data without its serial number: four bytes in the first block, and descriptors of kind ff (E-EDID 1.4,
/// 3.4 and 3.10.3). Blocks after the first are left out: they may hold it again.
fn edid(scrub: &Scrubber, bytes: &[u8]) -> Vec<u8> {
    let mut block = bytes.get(..128).unwrap_or(bytes).to_vec();
    if block.len() < 128 {
        return block;
    }
    scrub.count(Kind::Serial);
    if let Some(serial) = block.get_mut(12..16) {
        serial.fill(0);
    }
    for at in [54, 72, 90, 108] {
        if let Some([0, 0, 0, 0xff, _, text @ ..]) = block.get_mut(at..at + 18) {
            text.fill(b' ');
            text[0] = b'\n';
        }
    }
    block[126] = 0;
    let sum = block.iter().take(127).fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    block[127] = sum.wrapping_neg();
    block
}

/// Text that may have bytes of any kind in it, line by line.
fn lines(bytes: &[u8], change: impl Fn(&str) -> String) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    text.split_inclusive('\n').map(change).collect::<String>().into_bytes()
}

/// The processor's own serial number is in ARM's (arch/arm/kernel/setup.c).
fn cpuinfo(scrub: &Scrubber, bytes: &[u8]) -> Vec<u8> {
    lines(bytes, |line| match line.split_once(':') {
        Some((name, value)) if name.trim_end() == "Serial" => {
            format!("{name}:{}", scrub.shape(value, Kind::Serial))
        }
        _ => line.to_owned(),
    })
}

/// /proc/net/route: networks and gateways in hexadecimal, as this processor has their bytes.
fn route(scrub: &Scrubber, bytes: &[u8]) -> Vec<u8> {
    let address = |field: &str| {
        let bits = u32::from_str_radix(field, 16).ok().filter(|_| field.len() == 8)?;
        Some(format!("{:08X}", scrub.ipv4(bits.swap_bytes()).swap_bytes()))
    };
    lines(bytes, |line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let mask =
            fields.get(7).and_then(|mask| u32::from_str_radix(mask.trim(), 16).ok()).map(u32::swap_bytes);
        let changed = fields.iter().enumerate().map(|(at, field)| match at {
            0 => scrub.ids(field),
            // A network has no bits below its mask.
            1 => address(field).map_or_else(
                || (*field).to_owned(),
                |text| {
                    let bits =
                        u32::from_str_radix(&text, 16).unwrap_or(0).swap_bytes() & mask.unwrap_or(u32::MAX);
                    format!("{:08X}", bits.swap_bytes())
                },
            ),
            2 => address(field).unwrap_or_else(|| (*field).to_owned()),
            _ => (*field).to_owned(),
        });
        changed.collect::<Vec<_>>().join("\t")
    })
}

/// /proc/net/if_inet6 and ipv6_route: addresses are 32 digits.
fn six(scrub: &Scrubber, bytes: &[u8]) -> Vec<u8> {
    lines(bytes, |line| {
        let word = |word: &str| match u128::from_str_radix(word, 16) {
            Ok(bits) if word.len() == 32 => format!("{:032x}", scrub.ipv6(bits)),
            _ => scrub.ids(word),
        };
        line.split(' ').map(word).collect::<Vec<_>>().join(" ")
    })
}

/// Filesystems of other machines by their kind only: their servers, shares and users are in source and options.
fn mounts(scrub: &Scrubber, bytes: &[u8]) -> Vec<u8> {
    let remote = |kind: &str| {
        let known = ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "afs", "virtiofs", "davfs"];
        known.contains(&kind) || kind.starts_with("fuse.")
    };
    lines(bytes, |line| {
        let Some((front, back)) = line.split_once(" - ") else { return scrub.text(line) };
        let mut fields = back.trim_end().splitn(3, ' ');
        let (Some(kind), Some(_), Some(_)) = (fields.next(), fields.next(), fields.next()) else {
            return scrub.text(line);
        };
        if remote(kind) { format!("{} - {kind} left-out rw\n", scrub.text(front)) } else { scrub.text(line) }
    })
}

/// What of a process's memory is a device's: whoever looks for holders looks for those, and other names are those of
/// people's files.
fn maps(scrub: &Scrubber, bytes: &[u8]) -> Vec<u8> {
    lines(bytes, |line| {
        let node =
            line.find(" /dev/").and_then(|at| line.get(at + 1..)).is_some_and(|at| is_node(Path::new(at)));
        if node { scrub.text(line) } else { String::new() }
    })
}

/// Whether a path is that of a device node, as far as its name tells. /dev/shm is a folder of files.
fn is_node(path: &Path) -> bool {
    path.starts_with("/dev") && !path.starts_with("/dev/shm")
}

/// Whether a link may go in: of what a process has open, only devices.
pub fn link(scrub: &Scrubber, path: &Path, target: &Path) -> bool {
    let mut parts = path.iter().skip(1).filter_map(|part| part.to_str());
    let of_process = parts.next() == Some("proc")
        && parts.next().is_some_and(|id| id.bytes().all(|byte| byte.is_ascii_digit()))
        && matches!(parts.next(), Some("fd" | "cwd" | "exe" | "root" | "map_files" | "task"));
    let left_out = of_process && !is_node(target);
    if left_out && target.is_absolute() {
        scrub.count(Kind::Files);
    }
    !left_out
}

/// The program's own name, and nothing that it was told.
fn arguments(scrub: &Scrubber, bytes: &[u8]) -> Vec<u8> {
    let mut parts = bytes.split(|byte| *byte == 0);
    let name = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    // Some programs write their state there, with spaces.
    let name = name.split(' ').next().unwrap_or_default();
    if parts.any(|part| !part.is_empty()) {
        scrub.count(Kind::Arguments);
    }
    let mut out = scrub.text(name).into_bytes();
    if !out.is_empty() {
        out.push(0);
    }
    out
}

/// Names and numbers; what people call themselves, and where they live, is left out.
fn passwd(scrub: &Scrubber, bytes: &[u8]) -> Vec<u8> {
    lines(bytes, |line| {
        let fields: Vec<&str> = line.trim_end().split(':').collect();
        match fields.as_slice() {
            [name, _, uid, gid, _, home, shell] => {
                format!("{}:x:{uid}:{gid}::{}:{shell}\n", scrub.text(name), scrub.text(home))
            }
            _ => String::new(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrub() -> Scrubber {
        Scrubber::new(b"key", Some("kepler"), &["alice".into()])
    }

    fn text(path: &str, text: &str) -> String {
        String::from_utf8(content(&scrub(), Path::new(path), text.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn safe_by_default() {
        assert_eq!(
            text("/etc/any.conf", "for alice on kepler, 52:54:00:01:02:03").matches("alice").count(),
            0
        );
        assert_eq!(content(&scrub(), Path::new("/etc/any"), &[0, 1, 2]), Err("binary data of unknown form"));
        assert_eq!(
            content(&scrub(), Path::new("/etc/any"), &[0xff, 0xfe]),
            Err("binary data of unknown form")
        );
        for path in [
            "/sys/firmware/efi/efivars/db-1",
            "/sys/firmware/acpi/tables/MSDM",
            "/boot/initrd.img-6",
            "/etc/shadow",
            "/proc/77/environ",
            "/sys/devices/pci0000:00/0000:00:01.0/vpd",
            "/sys/firmware/dmi/tables/DMI",
        ] {
            assert!(content(&scrub(), Path::new(path), b"x").is_err(), "{path}");
        }
    }

    #[test]
    fn what_the_kernel_counts_stays() {
        let modalias = "pci:v000010DEd00002204sv00001458sd0000403Bbc03sc00i00\n";
        assert_eq!(text("/sys/devices/pci0000:00/0000:00:01.0/modalias", modalias), modalias);
        assert_eq!(text("/proc/interrupts", " 28: 0 PCI-MSIX-0000:00:01.0"), " 28: 0 PCI-MSIX-0000:00:01.0");
        assert_eq!(
            text("/sys/class/vtconsole/vtcon1/name", "(M) frame buffer device\n"),
            "(M) frame buffer device\n"
        );
    }

    #[test]
    fn attributes_that_name_one_device() {
        for (path, value) in [
            ("/sys/class/dmi/id/product_serial", "5CD1234XYZ\n"),
            ("/sys/class/dmi/id/product_uuid", "3f2a9c1e-1111-2222-3333-444455556666\n"),
            ("/sys/devices/pci0000:00/0000:00:1f.6/net/eno1/address", "52:54:00:01:02:03\n"),
            ("/sys/devices/x/nvme/nvme0/serial", "S3Z9NB0K123456\n"),
            ("/sys/devices/x/unique_id", "a1b2c3d4e5f60718\n"),
            ("/etc/machine-id", "3f2a9c1e111122223333444455556666\n"),
        ] {
            let out = text(path, value);
            assert_ne!(out, value);
            assert_eq!(out.len(), value.len(), "the same form: {out}");
        }
        assert_eq!(text("/sys/class/net/lo/address", "00:00:00:00:00:00\n").len(), 18);
    }

    #[test]
    fn a_device_keeps_its_config_but_not_its_serial_number() {
        let mut config = vec![0; 4096];
        config[0x100..0x104].copy_from_slice(&0x1501_0001_u32.to_le_bytes());
        config[0x150..0x154].copy_from_slice(&0x0001_0003_u32.to_le_bytes());
        config[0x154..0x15c].fill(0x5a);
        config[0x40] = 7;
        let out = content(&scrub(), Path::new("/sys/devices/a/config"), &config).unwrap();
        assert!(out[0x154..0x15c].iter().all(|byte| *byte == 0));
        config[0x154..0x15c].fill(0);
        assert_eq!(out, config);
        assert_eq!(content(&scrub(), Path::new("/sys/devices/a/config"), &[1; 16]).unwrap(), [1; 16]);
    }

    #[test]
    fn a_monitor_keeps_its_name_but_not_its_serial_number() {
        let mut edid = vec![1; 256];
        edid[54..58].copy_from_slice(&[0, 0, 0, 0xff]);
        edid[72..76].copy_from_slice(&[0, 0, 0, 0xfc]);
        let out = content(&scrub(), Path::new("/sys/class/drm/card0-DP-1/edid"), &edid).unwrap();
        assert_eq!((out.len(), &out[12..16]), (128, &[0; 4][..]));
        assert_eq!(out[59], b'\n');
        assert_eq!(out[72..90], edid[72..90]);
        assert_eq!(out.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    }

    #[test]
    fn networks_keep_their_shape() {
        let route = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth0\t00000000\t0111A8C0\t0003\t0\t0\t0\t00000000\n\
            eth0\t0011A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
        let out = text("/proc/net/route", route);
        let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(lines[1][1], "00000000", "the default route is one");
        assert!(lines[2][1].starts_with("00") && lines[2][1] != "0011A8C0", "a network is one");
        assert_eq!(lines[1][2][2..], lines[2][1][2..], "its gateway is in it");
        let six = "20010db8000000000000000000000001 02 40 00 80     eth0\n";
        let out = text("/proc/net/if_inet6", six);
        assert!(!out.contains("20010db8") && out.ends_with(" 02 40 00 80     eth0\n"));
        assert_eq!(
            text("/proc/net/ipv6_route", &format!("{} 00\n", "0".repeat(32))),
            format!("{} 00\n", "0".repeat(32))
        );
    }

    #[test]
    fn processes_and_people() {
        assert_eq!(text("/proc/77/cmdline", "/usr/bin/x\0--key\0alice\0"), "/usr/bin/x\0");
        assert_eq!(text("/proc/cmdline", "quiet iommu=pt\n"), "quiet iommu=pt\n");
        let passwd = "root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000:Alice A.,,,:/home/alice:/bin/zsh\n";
        assert_eq!(
            text("/etc/passwd", passwd),
            "root:x:0:0::/root:/bin/bash\nuser1:x:1000:1000::/home/user1:/bin/zsh\n"
        );
        let mounts = "36 35 0:40 / /mnt rw - nfs4 nas.home:/alice rw,addr=10.0.0.7\n36 35 8:1 / / rw - ext4 /dev/sda1 rw\n";
        let out = text("/proc/1/mountinfo", mounts);
        assert_eq!(out, "36 35 0:40 / /mnt rw - nfs4 left-out rw\n36 35 8:1 / / rw - ext4 /dev/sda1 rw\n");
    }

    #[test]
    fn paths_go_the_way_of_their_contents() {
        let scrub = scrub();
        let at = |text: &str| path(&scrub, Path::new(text)).unwrap();
        assert_eq!(at("/home/alice/x"), "/home/user1/x");
        assert_eq!(at("/sys/class/net/enx525400010203").len(), "/sys/class/net/enx525400010203".len());
        assert_ne!(at("/sys/class/net/enx525400010203"), "/sys/class/net/enx525400010203");
        let efi = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
        assert_eq!(at(efi), efi);
        let pci = "/sys/devices/pci0000:00/0000:00:1f.6/usb1/1-2/1-2:1.0/host6/target6:0:0/6:0:0:0";
        assert_eq!(at(pci), pci);
    }
}
