//! Disks behind PCI functions, and what the host uses them for, through partitions, LVM, RAID and crypt.
//!
//! Does not say what is protected; that is the judge's. [`disks`] is pure; [`storage`] reads for it.

use super::{Disk, DiskUse, Purpose, look::Look, look::last_function};
use crate::pci::Address;
use std::collections::{BTreeMap, BTreeSet};

/// A block device: a disk, a partition, or what the device mapper or md made.
#[derive(Debug, Default, Clone)]
struct Block {
    /// `major:minor`.
    number: String,
    /// What the device mapper calls it.
    mapped: Option<String>,
    /// Devices made from it: partitions, and holders (/sys/block/*/holders).
    above: Vec<String>,
    /// The controllers that it hangs on; empty for what is not behind PCI, `None` for what is no disk.
    controllers: Option<Vec<Address>>,
}

type Blocks = BTreeMap<String, Block>;

/// A mounted filesystem.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// `major:minor`; major 0 where the filesystem has no single device (btrfs, ZFS, overlay).
    number: String,
    at: String,
    kind: String,
    source: String,
}

/// Disks and their uses; `None` where what is mounted could not be read.
pub(super) fn storage(look: &Look) -> Option<Vec<Disk>> {
    let mut blocks = blocks(look)?;
    let mut mounts = parse_mounts(&look.text("/proc/self/mountinfo")?);
    // Where this process has mounts of its own (a service), the system's count too.
    mounts.extend(look.text_quietly("/proc/1/mountinfo").iter().flat_map(|text| parse_mounts(text)));
    let swaps = parse_swaps(&look.text("/proc/swaps").unwrap_or_default());
    if !join_zfs(look, &mut blocks, &mounts) {
        look.note("a ZFS pool is imported, and which disks it is made of could not be seen".to_owned());
        return None;
    }
    let sharing = sharing_filesystems(look);
    let mut used: Vec<(String, Purpose)> = Vec::new();
    for mount in mounts {
        let mut devices = by_number(&blocks, &mount.number);
        if devices.is_empty() {
            devices = mount.source.split(':').filter_map(|source| by_source(look, &blocks, source)).collect();
        }
        let shared = sharing.iter().filter(|members| members.iter().any(|member| devices.contains(member)));
        let others: Vec<String> = shared.flatten().cloned().collect();
        devices.extend(others);
        let at = |_| Purpose::Mount { at: mount.at.clone() };
        used.extend(
            devices
                .into_iter()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .map(|device| (device.clone(), at(device))),
        );
    }
    let swapped = swaps.iter().filter_map(|path| by_source(look, &blocks, path));
    used.extend(swapped.map(|device| (device, Purpose::Swap)));
    Some(disks(&blocks, &used))
}

/// Every disk with what is used on it or above it.
fn disks(blocks: &Blocks, used: &[(String, Purpose)]) -> Vec<Disk> {
    let mut disks = Vec::new();
    for (name, block) in blocks {
        let Some(controllers) = &block.controllers else { continue };
        let uses = uses(blocks, name, used);
        let disk = |function| Disk { name: name.clone(), function, uses: uses.clone() };
        if controllers.is_empty() {
            disks.push(disk(None));
        }
        disks.extend(controllers.iter().map(|controller| disk(Some(*controller))));
    }
    disks
}

fn uses(blocks: &Blocks, disk: &str, used: &[(String, Purpose)]) -> Vec<DiskUse> {
    let mapped = |device: &str| blocks.get(device).and_then(|block| block.mapped.clone());
    let made = |device: &str, purpose: &Purpose| DiskUse {
        device: device.to_owned(),
        mapped: mapped(device),
        purpose: purpose.clone(),
    };
    let mut uses: Vec<DiskUse> = Vec::new();
    let everything = closure(blocks, disk);
    for device in &everything {
        let direct = used.iter().filter(|(on, _)| on == device);
        for (device, purpose) in direct {
            let one = made(device, purpose);
            if !uses.contains(&one) {
                uses.push(one);
            }
        }
        let Some(block) = blocks.get(device) else { continue };
        let holders = block.above.iter().filter(|above| !is_partition_of(above, device));
        for holder in holders {
            let below = closure(blocks, holder);
            if !used.iter().any(|(on, _)| below.contains(on)) {
                let of = mapped(holder).unwrap_or_else(|| holder.clone());
                uses.push(made(device, &Purpose::Member { of }));
            }
        }
    }
    uses
}

/// `nvme0n1p2` of `nvme0n1`, `sda1` of `sda`.
fn is_partition_of(name: &str, disk: &str) -> bool {
    let number = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_prefix(disk).is_some_and(|rest| number(rest.strip_prefix('p').unwrap_or(rest)))
}

/// A device and everything that is made from it.
fn closure(blocks: &Blocks, device: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut next = vec![device.to_owned()];
    while let Some(device) = next.pop() {
        let above = blocks.get(&device).into_iter().flat_map(|block| block.above.iter().cloned());
        if seen.insert(device.clone()) {
            next.extend(above);
        }
    }
    seen
}

fn by_number(blocks: &Blocks, number: &str) -> Vec<String> {
    let found = blocks.iter().filter(|(_, block)| block.number == number && !number.starts_with("0:"));
    found.map(|(name, _)| name.clone()).collect()
}

/// The block device that a path in /dev names: by its own name, by the device mapper's, or through a link.
fn by_source(look: &Look, blocks: &Blocks, source: &str) -> Option<String> {
    let name = source.strip_prefix("/dev/")?;
    let mapped = name.strip_prefix("mapper/");
    let is_it = |(have, block): &(&String, &Block)| {
        have.as_str() == name || (mapped.is_some() && block.mapped.as_deref() == mapped)
    };
    let direct = blocks.iter().find(is_it).map(|(name, _)| name.clone());
    direct.or_else(|| look.link_name(source).filter(|name| blocks.contains_key(name)))
}

fn blocks(look: &Look) -> Option<Blocks> {
    let mut blocks = Blocks::new();
    // Loop devices, RAM disks and zram hold files or memory, never a disk; the files are on mounted filesystems.
    let of_memory = |name: &String| ["loop", "ram", "zram"].iter().any(|kind| name.starts_with(kind));
    for name in look.list("/sys/block")?.into_iter().filter(|name| !of_memory(name)) {
        let folder = format!("/sys/block/{name}");
        let mut disk = block(look, &folder);
        let entries = look.list(&folder).unwrap_or_default();
        for part in entries.into_iter().filter(|entry| is_partition_of(entry, &name)) {
            blocks.insert(part.clone(), block(look, &format!("{folder}/{part}")));
            disk.above.push(part);
        }
        disk.mapped = if name.starts_with("dm-") { look.text(&format!("{folder}/dm/name")) } else { None };
        disk.controllers = controllers(look, &look.link(&folder).unwrap_or_default());
        blocks.insert(name, disk);
    }
    Some(blocks)
}

fn block(look: &Look, folder: &str) -> Block {
    Block {
        number: look.text(&format!("{folder}/dev")).unwrap_or_default(),
        above: look.list(&format!("{folder}/holders")).unwrap_or_default(),
        ..Block::default()
    }
}

/// The controllers of a disk. With native multipath, an NVMe disk hangs on a subsystem whose folder links to its
/// controllers (drivers/nvme/host/core.c, `nvme_init_subsystem`).
fn controllers(look: &Look, link: &str) -> Option<Vec<Address>> {
    if let Some(function) = last_function(link) {
        return Some(vec![function]);
    }
    let subsystem = link.split('/').find(|part| part.starts_with("nvme-subsys") && *part != "nvme-subsystem");
    if let Some(subsystem) = subsystem {
        let folder = format!("/sys/devices/virtual/nvme-subsystem/{subsystem}");
        let names = look.list(&folder).unwrap_or_default();
        let through = names.iter().filter_map(|name| look.function_of(&format!("{folder}/{name}")));
        return Some(through.collect::<BTreeSet<_>>().into_iter().collect());
    }
    if link.contains("/virtual/") { None } else { Some(Vec::new()) }
}

/// Filesystems over several devices, by their members (/sys/fs/btrfs/UUID/devices).
fn sharing_filesystems(look: &Look) -> Vec<Vec<String>> {
    let ids = look.list("/sys/fs/btrfs").unwrap_or_default();
    ids.iter().filter_map(|id| look.list(&format!("/sys/fs/btrfs/{id}/devices"))).collect()
}

/// Marks the members of ZFS pools, which sysfs does not know as holders; udev has read their labels. False where a
/// pool is imported and no member was found.
fn join_zfs(look: &Look, blocks: &mut Blocks, mounts: &[Mount]) -> bool {
    let pools = look.list("/proc/spl/kstat/zfs").unwrap_or_default();
    let mut pools: BTreeSet<String> =
        pools.into_iter().filter(|name| look.exists(&format!("/proc/spl/kstat/zfs/{name}/state"))).collect();
    let datasets = mounts.iter().filter(|mount| mount.kind == "zfs");
    pools.extend(datasets.filter_map(|mount| mount.source.split('/').next()).map(str::to_owned));
    if pools.is_empty() {
        return true;
    }
    let mut found = false;
    for block in blocks.values_mut() {
        let data = look.text_quietly(&format!("/run/udev/data/b{}", block.number)).unwrap_or_default();
        if let Some(pool) = parse_zfs_member(&data).filter(|pool| pools.contains(pool)) {
            block.above.push(format!("ZFS pool {pool}"));
            found = true;
        }
    }
    found
}

fn parse_zfs_member(udev: &str) -> Option<String> {
    let value = |name: &str| udev.lines().find_map(|line| line.strip_prefix(name));
    if value("E:ID_FS_TYPE=") == Some("zfs_member") {
        value("E:ID_FS_LABEL=").map(str::to_owned)
    } else {
        None
    }
}

/// /proc/PID/mountinfo (proc(5)): `36 35 98:0 /root /mount options … - type source options`.
fn parse_mounts(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ');
        let mut back = back.split(' ');
        Some(Mount {
            number: front.nth(2)?.to_owned(),
            at: unescape(front.nth(1)?),
            kind: back.next()?.to_owned(),
            source: unescape(back.next()?),
        })
    };
    text.lines().filter_map(mount).collect()
}

/// /proc/swaps (proc(5)): a heading, then a path first in every line.
fn parse_swaps(text: &str) -> Vec<String> {
    text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(unescape).collect()
}

/// Octal escapes of space, tab, newline and backslash (fs/proc_namespace.c, `mangle`).
fn unescape(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let [first, rest @ ..] = bytes {
        let octal = match bytes {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        plain.push(octal.unwrap_or(*first));
        bytes = if octal.is_some() { bytes.get(4..).unwrap_or_default() } else { rest };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(above: &[&str], controller: Option<&str>) -> Block {
        Block {
            number: String::new(),
            mapped: None,
            above: above.iter().map(|name| (*name).to_owned()).collect(),
            controllers: controller.map(|address| vec![address.parse().unwrap()]),
        }
    }

    fn at(path: &str) -> Purpose {
        Purpose::Mount { at: path.into() }
    }

    #[test]
    fn a_root_on_lvm_on_crypt_reaches_its_disk() {
        let mut blocks = Blocks::new();
        blocks.insert("nvme0n1".into(), block(&["nvme0n1p1", "nvme0n1p2"], Some("0000:03:00.0")));
        blocks.insert("nvme0n1p1".into(), block(&[], None));
        blocks.insert("nvme0n1p2".into(), block(&["dm-0"], None));
        blocks.insert("dm-0".into(), block(&["dm-1"], None));
        blocks.insert("dm-1".into(), Block { mapped: Some("vg0-root".into()), ..block(&[], None) });
        let disks = disks(&blocks, &[("dm-1".into(), at("/"))]);
        assert_eq!(disks.len(), 1);
        assert_eq!(disks[0].function.unwrap().to_string(), "0000:03:00.0");
        assert_eq!(
            disks[0].uses,
            [DiskUse { device: "dm-1".into(), mapped: Some("vg0-root".into()), purpose: at("/") }]
        );
    }

    #[test]
    fn an_active_volume_without_a_mount_is_a_use() {
        let mut blocks = Blocks::new();
        blocks.insert("sda".into(), block(&["sda1"], Some("0000:00:17.0")));
        blocks.insert("sda1".into(), block(&["md0"], None));
        blocks.insert("md0".into(), block(&[], None));
        let member =
            DiskUse { device: "sda1".into(), mapped: None, purpose: Purpose::Member { of: "md0".into() } };
        assert_eq!(disks(&blocks, &[])[0].uses, [member]);
        assert_eq!(disks(&blocks, &[("md0".into(), Purpose::Swap)])[0].uses.len(), 1, "named once");
    }

    #[test]
    fn a_ring_of_holders_ends() {
        let mut blocks = Blocks::new();
        blocks.insert("sda".into(), block(&["dm-0"], Some("0000:00:17.0")));
        blocks.insert("dm-0".into(), block(&["sda"], None));
        assert_eq!(closure(&blocks, "sda").len(), 2);
        assert_eq!(disks(&blocks, &[("dm-0".into(), at("/x"))]).len(), 1);
    }

    #[test]
    fn partitions_by_name() {
        assert!(is_partition_of("nvme0n1p2", "nvme0n1"));
        assert!(is_partition_of("sda1", "sda"));
        assert!(!is_partition_of("sdaa", "sda"));
        assert!(!is_partition_of("nvme0n1p", "nvme0n1"));
    }

    #[test]
    fn mounts_and_their_escapes() {
        let text = "36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
                    40 1 0:33 /@ / rw - btrfs /dev/mapper/luks rw\nbroken\n1 2 - x\n";
        let mounts = parse_mounts(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!((mounts[0].number.as_str(), mounts[0].at.as_str()), ("98:0", "/mnt two"));
        assert_eq!((mounts[1].kind.as_str(), mounts[1].source.as_str()), ("btrfs", "/dev/mapper/luks"));
        assert_eq!(unescape("a\\134b\\9\\"), "a\\b\\9\\");
        assert_eq!(parse_swaps("Filename Type\n/dev/dm-1 partition 1 0 -2\n"), ["/dev/dm-1"]);
    }

    #[test]
    fn zfs_members_by_their_labels() {
        assert_eq!(
            parse_zfs_member("E:ID_FS_LABEL=tank\nE:ID_FS_TYPE=zfs_member\n").as_deref(),
            Some("tank")
        );
        assert_eq!(parse_zfs_member("E:ID_FS_LABEL=tank\nE:ID_FS_TYPE=ext4\n"), None);
    }
}
