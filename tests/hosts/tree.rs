//! A saved tree from a compact text: real folders, files and links, as sysfs has them.
//!
//! Lines:
//! - `pci PLACE CLASS IDS [NAME=VALUE…]`: a function; PLACE is its folder below /sys/devices, IDS are
//!   `vendor:device[:subvendor:subdevice]`. Names: `driver`, `group`, `boot_vga`, `header`, `power`, `runtime`,
//!   `link=SPEED,WIDTH,SPEED,WIDTH`, `consumer`, `supplier`, `override`; `express=KIND,ACS` gives all of config space,
//!   as root sees it: KIND is `endpoint`, `root-port`, `upstream`, `downstream`, `to-pci` or `inside`, ACS is `on`,
//!   `off` or `missing`. Without it there are the 64 bytes that others see.
//! - `disk NAME PLACE NUMBER`, `part DISK NAME NUMBER`, `made NAME NUMBER [MAPPED]`, `holder BELOW ABOVE`: block
//!   devices; PLACE is the function's folder, `made` is what the device mapper or md makes.
//! - `net NAME PLACE [UPPER…]`: an interface; PLACE `-` is a virtual one.
//! - `fb NUMBER NAME PLACE`, `vt NUMBER BOUND NAME`: frame buffers (PLACE `-` is none) and terminal back ends.
//! - `screen CARD PLACE CONNECTOR STATUS`: a connector of a DRM card.
//! - `file PATH TEXT`, `file PATH <<` with lines up to `>>`, `folder PATH`, `link PATH TARGET`.
//! - `# …` is a comment.

use std::{fs, os::unix::fs::symlink, path::Path};

/// Makes the tree in a temporary folder.
pub(crate) fn plant(text: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let planter = Planter { root: root.path() };
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] | ["#", ..] => {}
            ["pci", place, class, ids, attributes @ ..] => planter.pci(place, class, ids, attributes),
            ["disk", name, place, number] => planter.disk(name, place, number),
            ["part", disk, name, number] => {
                let folder = fs::canonicalize(planter.at(&format!("/sys/block/{disk}"))).unwrap().join(name);
                fs::create_dir_all(folder.join("holders")).unwrap();
                fs::write(folder.join("dev"), format!("{number}\n")).unwrap();
                fs::write(folder.join("partition"), "1\n").unwrap();
            }
            ["made", name, number, mapped @ ..] => planter.made(name, number, mapped.first().copied()),
            ["holder", below, above] => planter.holder(below, above),
            ["net", name, place, uppers @ ..] => planter.net(name, place, uppers),
            ["fb", number, name, place] => planter.fb(number, name, place),
            ["vt", number, bound, ..] => {
                let name = line.splitn(4, ' ').nth(3).unwrap();
                planter.file(&format!("/sys/class/vtconsole/vtcon{number}/bind"), bound);
                planter.file(&format!("/sys/class/vtconsole/vtcon{number}/name"), name);
            }
            ["screen", card, place, connector, status] => planter.screen(card, place, connector, status),
            ["file", path, "<<"] => {
                let inside: Vec<&str> = lines.by_ref().take_while(|line| *line != ">>").collect();
                planter.file(path, &inside.join("\n"));
            }
            ["file", path, ..] => planter.file(path, line.splitn(3, ' ').nth(2).unwrap_or_default()),
            ["folder", path] => fs::create_dir_all(planter.at(path)).unwrap(),
            ["link", path, target] => planter.link(path, target),
            _ => panic!("what is `{line}`?"),
        }
    }
    root
}

struct Planter<'r> {
    root: &'r Path,
}

impl Planter<'_> {
    fn at(&self, path: &str) -> std::path::PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn pci(&self, place: &str, class: &str, ids: &str, attributes: &[&str]) {
        let address = place.rsplit('/').next().unwrap();
        let folder = format!("/sys/devices/{place}");
        let ids: Vec<&str> = ids.split(':').chain(["0000", "0000"]).take(4).collect();
        let value =
            |name: &str| attributes.iter().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let upper: Vec<String> = ids.iter().map(|id| format!("0000{}", id.to_uppercase())).collect();
        let modalias = format!(
            "pci:v{}d{}sv{}sd{}bc{}sc{}i{}",
            upper[0],
            upper[1],
            upper[2],
            upper[3],
            &class[0..2],
            &class[2..4],
            &class[4..6]
        );
        self.file(&format!("{folder}/modalias"), &modalias);
        self.file(&format!("{folder}/class"), &format!("0x{class}"));
        self.file(&format!("{folder}/revision"), "0xa1");
        self.file(&format!("{folder}/driver_override"), value("override").unwrap_or("(null)"));
        self.file(&format!("{folder}/power_state"), value("power").unwrap_or("D0"));
        self.file(&format!("{folder}/power/runtime_status"), value("runtime").unwrap_or("active"));
        let bridge = u8::from(class.starts_with("0604"));
        let mut config = vec![0_u8; 64];
        // There is a list of capabilities, and it begins beyond what others than root see.
        config[6] = 0x10;
        config[0x34] = 0x40;
        config[14] = value("header").map_or(bridge, |header| header.parse().unwrap());
        if let Some((kind, acs)) = value("express").map(|words| words.split_once(',').unwrap()) {
            express(&mut config, kind, acs);
        }
        fs::write(self.at(&format!("{folder}/config")), config).unwrap();
        self.link(&format!("/sys/bus/pci/devices/{address}"), &format!("../../../devices/{place}"));
        if let Some(driver) = value("driver") {
            fs::create_dir_all(self.at(&format!("/sys/bus/pci/drivers/{driver}"))).unwrap();
            self.link(&format!("{folder}/driver"), &format!("../../../../bus/pci/drivers/{driver}"));
        }
        if let Some(group) = value("group") {
            self.link(&format!("{folder}/iommu_group"), &format!("../../../../kernel/iommu_groups/{group}"));
            let inside = format!("/sys/kernel/iommu_groups/{group}/devices/{address}");
            self.link(&inside, &format!("../../../../devices/{place}"));
            if !self.at(&format!("/sys/kernel/iommu_groups/{group}/type")).exists() {
                self.file(&format!("/sys/kernel/iommu_groups/{group}/type"), "DMA-FQ");
            }
        }
        if let Some(flag) = value("boot_vga") {
            self.file(&format!("{folder}/boot_vga"), flag);
        }
        if let Some(link) = value("link") {
            let names = ["current_link_speed", "current_link_width", "max_link_speed", "max_link_width"];
            for (name, part) in names.iter().zip(link.split(',')) {
                let unit = if name.ends_with("speed") { " GT/s PCIe" } else { "" };
                self.file(&format!("{folder}/{name}"), &format!("{part}{unit}"));
            }
        }
        for kind in ["consumer", "supplier"] {
            if let Some(other) = value(kind) {
                self.link(&format!("{folder}/{kind}:pci:{other}"), "../../../virtual/devlink/x");
            }
        }
    }

    fn disk(&self, name: &str, place: &str, number: &str) {
        let folder = format!("/sys/devices/{place}/x/{name}");
        self.file(&format!("{folder}/dev"), number);
        fs::create_dir_all(self.at(&format!("{folder}/holders"))).unwrap();
        self.link(&format!("/sys/block/{name}"), &format!("../devices/{place}/x/{name}"));
    }

    fn made(&self, name: &str, number: &str, mapped: Option<&str>) {
        let folder = format!("/sys/devices/virtual/block/{name}");
        self.file(&format!("{folder}/dev"), number);
        fs::create_dir_all(self.at(&format!("{folder}/holders"))).unwrap();
        if let Some(mapped) = mapped {
            self.file(&format!("{folder}/dm/name"), mapped);
        }
        self.link(&format!("/sys/block/{name}"), &format!("../devices/virtual/block/{name}"));
    }

    /// `below` is a disk, or `disk/partition`.
    fn holder(&self, below: &str, above: &str) {
        let folder = fs::canonicalize(self.at(&format!("/sys/block/{below}"))).unwrap().join("holders");
        symlink(format!("../../{above}"), folder.join(above)).unwrap();
    }

    fn net(&self, name: &str, place: &str, uppers: &[&str]) {
        let place = if place == "-" { "virtual" } else { place };
        let folder = format!("/sys/devices/{place}/net/{name}");
        self.file(&format!("{folder}/operstate"), "up");
        self.link(&format!("/sys/class/net/{name}"), &format!("../../devices/{place}/net/{name}"));
        for upper in uppers {
            self.link(&format!("{folder}/upper_{upper}"), &format!("../{upper}"));
        }
    }

    fn fb(&self, number: &str, name: &str, place: &str) {
        let place = if place == "-" { "platform/efi-framebuffer.0" } else { place };
        self.file(&format!("/sys/devices/{place}/graphics/fb{number}/name"), name);
        self.link(
            &format!("/sys/class/graphics/fb{number}"),
            &format!("../../devices/{place}/graphics/fb{number}"),
        );
    }

    fn screen(&self, card: &str, place: &str, connector: &str, status: &str) {
        let folder = format!("/sys/devices/{place}/drm/{card}/{card}-{connector}");
        self.file(&format!("{folder}/status"), status);
        let names = [format!("{card}/{card}-{connector}"), card.to_owned()];
        for name in names {
            let link = self.at(&format!("/sys/class/drm/{}", name.rsplit('/').next().unwrap()));
            if link.symlink_metadata().is_err() {
                fs::create_dir_all(link.parent().unwrap()).unwrap();
                symlink(format!("../../devices/{place}/drm/{name}"), link).unwrap();
            }
        }
    }
}

/// All 4096 bytes: a PCI Express capability at 40 (hex), an ACS capability at 100.
fn express(config: &mut Vec<u8>, kind: &str, acs: &str) {
    let kinds =
        [("endpoint", 0), ("root-port", 4), ("upstream", 5), ("downstream", 6), ("to-pci", 7), ("inside", 9)];
    let kind = kinds.iter().find(|(name, _)| *name == kind).unwrap().1;
    config.resize(4096, 0);
    // A root port has a slot.
    config[0x40..0x44].copy_from_slice(&[0x10, 0, kind << 4 | 2, u8::from(kind == 4)]);
    let on = match acs {
        "on" => Some(0x1d),
        "off" => Some(0),
        "missing" => None,
        _ => panic!("what is ACS `{acs}`?"),
    };
    if let Some(on) = on {
        config[0x100..0x108].copy_from_slice(&[0x0d, 0, 1, 0, 0x1f, 0, on, 0]);
    }
}
