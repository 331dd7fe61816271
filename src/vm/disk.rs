//! Which disks a guest may have: never one that the host uses. Looks only.

use super::{Bus, Disk, Format};
use crate::{
    error::{Error, Result},
    host::{Host, Purpose},
    machine::{FileKind, Root},
};
use std::path::{Component, Path, PathBuf};

/// Reads `FILE[,format=raw|qcow2][,bus=sata|virtio]`; `FILE,raw` is short for the first.
pub fn parse(text: &str, folder: &Path) -> Result<Disk> {
    let mut parts = text.split(',');
    let path = parts.next().unwrap_or_default();
    let mut disk = Disk { path: absolute(folder, Path::new(path))?, format: Format::Raw, bus: Bus::Sata };
    let mut said = None;
    for part in parts {
        match part {
            "raw" | "format=raw" => said = Some(Format::Raw),
            "qcow2" | "format=qcow2" => said = Some(Format::Qcow2),
            "bus=sata" => disk.bus = Bus::Sata,
            "bus=virtio" => disk.bus = Bus::Virtio,
            _ => {
                return Err(Error::usage(format!("`{part}` says nothing about a disk"))
                    .hint("--disk FILE[,format=raw|qcow2][,bus=sata|virtio]"));
            }
        }
    }
    let by_name = match disk.path.extension().and_then(|extension| extension.to_str()) {
        Some("qcow2") => Some(Format::Qcow2),
        Some("raw" | "img" | "iso") => Some(Format::Raw),
        _ if disk.path.starts_with("/dev") => Some(Format::Raw),
        _ => None,
    };
    let unsaid = || {
        Error::usage(format!("how {} is written is not told by its name", disk.path.display()))
            .detail("it is not looked up in the image: what a guest wrote there could lie")
            .hint(format!("--disk {path},format=raw   or   --disk {path},format=qcow2"))
    };
    disk.format = said.or(by_name).ok_or_else(unsaid)?;
    Ok(disk)
}

/// A path as QEMU and the supervisor will see it, whose working folder is another one.
pub fn absolute(folder: &Path, path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::usage("a path is empty"));
    }
    if path.to_str().is_none() {
        return Err(Error::usage(format!("{} is not UTF-8, which QEMU's options are", path.display())));
    }
    Ok(folder.join(path))
}

/// Why a guest may not have it: the host uses it. A device whose uses are not known counts as used.
pub fn refuse(host: &Host, root: &(impl Root + ?Sized), path: &Path) -> Result<Option<Error>> {
    let real = resolve(root, path)?;
    let stat = root.stat(&real).map_err(|error| {
        Error::usage(format!("cannot look at {}: {}", path.display(), crate::error::said(&error)))
    })?;
    match stat.kind {
        FileKind::Other => Ok(device(host, root, path, &real)),
        FileKind::Folder => Err(Error::usage(format!("{} is a folder", path.display()))),
        _ => Ok(file(root, path, &real)),
    }
}

fn device(host: &Host, root: &(impl Root + ?Sized), path: &Path, real: &Path) -> Option<Error> {
    let name = real.file_name()?.to_str()?;
    let shown = path.display();
    let unknown =
        |why: &str| Some(Error::refused(format!("{shown}: {why}")).detail("it may be the host's own"));
    let Some(disks) = &host.storage else { return unknown("what uses the host's disks could not be seen") };
    // A partition's folder lies in its disk's (Documentation/ABI/stable/sysfs-block).
    let target = root.readlink(&Path::new("/sys/class/block").join(name)).unwrap_or_default();
    let whole = target.parent().and_then(Path::file_name).and_then(|parent| parent.to_str());
    let found = disks.iter().find(|disk| disk.name == name || Some(disk.name.as_str()) == whole);
    let same = |used: &str, mapped: &Option<String>| used == name || mapped.as_deref() == Some(name);
    // The whole disk, or a partition beside one that is used: a guest that writes a partition table harms both.
    let uses = disks.iter().flat_map(|disk| {
        let here = found.is_some_and(|found| found.name == disk.name);
        disk.uses.iter().filter(move |used| here || same(&used.device, &used.mapped))
    });
    let Some(used) = uses.into_iter().next() else {
        return if found.is_some() { None } else { unknown("what uses it could not be seen") };
    };
    let what = match &used.purpose {
        Purpose::Mount { at } => format!("{} is mounted at {at}", used.device),
        Purpose::Swap => format!("the host swaps to {}", used.device),
        Purpose::Member { of } => format!("{} is a part of {of}", used.device),
    };
    Some(
        Error::refused(format!("{shown} is a disk of this host: {what}"))
            .detail("two systems that write to one disk destroy what is on it")
            .hint("lsblk   shows which disk is free"),
    )
}

/// Files that the host itself uses as disks.
fn file(root: &(impl Root + ?Sized), path: &Path, real: &Path) -> Option<Error> {
    let swaps = root.text(Path::new("/proc/swaps")).unwrap_or_default();
    if swaps.lines().skip(1).any(|line| line.split_whitespace().next() == real.to_str()) {
        return Some(Error::refused(format!("{} is swap space of this host", path.display())));
    }
    let names = root.list(Path::new("/sys/block")).unwrap_or_default();
    let looped = names.iter().find(|name| {
        let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
        root.text(&backing).is_ok_and(|backing| Path::new(&backing) == real)
    })?;
    Some(
        Error::refused(format!("{} is in use as {}", path.display(), looped.to_string_lossy()))
            .hint(format!("losetup -d /dev/{}", looped.to_string_lossy())),
    )
}

/// Follows links at every step, at most forty (as the kernel does), within the root.
fn resolve(root: &(impl Root + ?Sized), path: &Path) -> Result<PathBuf> {
    let mut done = PathBuf::from("/");
    let mut rest: Vec<_> = parts(path);
    rest.reverse();
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&part);
        match root.readlink(&next) {
            Ok(target) => {
                links += 1;
                if links > 40 {
                    return Err(Error::usage(format!("{}: too many links", path.display())));
                }
                if target.is_absolute() {
                    done = PathBuf::from("/");
                }
                rest.extend(parts(&target).into_iter().rev());
            }
            Err(_) => done = next,
        }
    }
    Ok(done)
}

fn parts(path: &Path) -> Vec<std::ffi::OsString> {
    let named = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    named.map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::{
            Disk as HostDisk,
            testing::{at, desktop, mounted},
        },
        machine::live::Live,
    };
    use std::{fs, os::unix::fs::symlink, os::unix::net::UnixListener};

    #[test]
    fn the_format_is_said_or_told_by_the_name() {
        let parse = |text| parse(text, Path::new("/home"));
        let disk = parse("a.qcow2,bus=virtio").unwrap();
        assert_eq!(
            (disk.path.to_str(), disk.format, disk.bus),
            (Some("/home/a.qcow2"), Format::Qcow2, Bus::Virtio)
        );
        assert_eq!(parse("/dev/sdb").unwrap().format, Format::Raw);
        assert_eq!(parse("x,raw").unwrap().format, Format::Raw);
        for wrong in ["x", "", "x.img,cache=none"] {
            assert_eq!(parse(wrong).unwrap_err().status, crate::error::Status::Usage, "{wrong}");
        }
    }

    /// A tree in which sockets stand for block devices: making those needs root.
    fn tree() -> (tempfile::TempDir, Live, Vec<UnixListener>) {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["dev/disk/by-id", "sys/class/block", "sys/block/loop0/loop", "proc", "images"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        let devices = ["nvme0n1", "nvme0n1p2", "nvme0n1p3", "sdb", "dm-0", "nvme1n1"];
        let devices = devices.iter().map(|name| UnixListener::bind(at("dev").join(name)).unwrap()).collect();
        symlink("../../nvme0n1p2", at("dev/disk/by-id/root")).unwrap();
        for (name, way) in
            [("nvme0n1", "nvme0/nvme0n1"), ("sdb", "host0/block/sdb"), ("dm-0", "virtual/block/dm-0")]
        {
            symlink(format!("../../devices/{way}"), at("sys/class/block").join(name)).unwrap();
        }
        for name in ["nvme0n1p2", "nvme0n1p3"] {
            symlink(format!("../../devices/nvme0/nvme0n1/{name}"), at("sys/class/block").join(name)).unwrap();
        }
        fs::write(at("images/a.img"), "x").unwrap();
        fs::write(at("images/looped.img"), "x").unwrap();
        fs::write(at("sys/block/loop0/loop/backing_file"), "/images/looped.img\n").unwrap();
        let root = Live::open(folder.path()).unwrap();
        (folder, root, devices)
    }

    #[test]
    fn a_disk_of_the_host_is_refused() {
        let (_folder, root, _devices) = tree();
        let mut host = desktop();
        let mut mapped = mounted("dm-0", "/home");
        mapped.mapped = Some("vg0-home".into());
        host.storage = Some(vec![
            HostDisk {
                name: "nvme0n1".into(),
                function: Some(at("03:00.0")),
                uses: vec![mounted("nvme0n1p2", "/"), mapped],
            },
            HostDisk { name: "sdb".into(), function: None, uses: Vec::new() },
        ]);
        for used in ["/dev/nvme0n1", "/dev/nvme0n1p2", "/dev/nvme0n1p3", "/dev/disk/by-id/root", "/dev/dm-0"]
        {
            let error = refuse(&host, &root, Path::new(used)).unwrap().unwrap();
            assert_eq!(error.status, crate::error::Status::Refused, "{used}");
            assert!(error.message.contains("is mounted at /"), "{used}: {error}");
        }
        for free in ["/dev/sdb", "/images/a.img"] {
            assert!(refuse(&host, &root, Path::new(free)).unwrap().is_none(), "{free}");
        }
        // Not on the list: nothing is known of it.
        assert!(refuse(&host, &root, Path::new("/dev/nvme1n1")).unwrap().is_some());
        assert!(refuse(&host, &root, Path::new("/images/looped.img")).unwrap().is_some());
        assert!(refuse(&host, &root, Path::new("/images/none.img")).is_err());
        host.storage = None;
        assert!(refuse(&host, &root, Path::new("/dev/sdb")).unwrap().is_some());
    }
}
