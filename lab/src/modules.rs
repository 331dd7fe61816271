//! Which kernel modules the small host has, and how they get into its initramfs.
//!
//! They are put in uncompressed: unpacking each of them under emulation would take longer than all the rest.

use crate::cpio::Archive;
use crate::foreign;
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Modules that are wanted; what they depend on comes along. What a kernel has built in or lacks is skipped.
pub(crate) const WANTED: &[&str] = &[
    "vfio-pci",
    "vfio_iommu_type1",
    "iommufd",
    "pci-stub",
    "bochs",
    "cirrus",
    "simpledrm",
    "virtio-gpu",
    "snd-hda-intel",
    "snd-hda-codec-generic",
    "snd-hda-codec-hdmi",
    "nvme",
    "ahci",
    "e1000",
    "e1000e",
    "igb",
    "xhci-pci",
    "usbhid",
    "hid-generic",
    "i2c-i801",
    "lpc_ich",
    "ext4",
    // Its checksums: the kernel asks for them by an alias when a file system is mounted.
    "crc32c_generic",
    "vfat",
    "overlay",
    "loop",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "9p",
    "9pnet_virtio",
    "kvm-intel",
    "kvm-amd",
    "evdev",
];

/// Adds the wanted modules of `tree` and `more` that are none of its own, with the tables that modprobe reads.
pub(crate) fn add<W: Write>(
    archive: &mut Archive<W>,
    tree: &Path,
    release: &str,
    more: &[PathBuf],
) -> Result<()> {
    let folder = format!("usr/lib/modules/{release}");
    let table = fs::read_to_string(tree.join(&folder).join("modules.dep"))
        .with_context(|| format!("no modules.dep in {folder}: depmod has not run in the tree"))?;
    let stage = tempfile::tempdir().context("cannot create a temporary folder")?;
    let staged = stage.path().join(&folder);
    for module in closure(&table, WANTED) {
        let plain = staged.join(without_compression(&module));
        fs::create_dir_all(plain.parent().unwrap_or(&staged))?;
        fs::write(&plain, unpacked(&tree.join(&folder).join(&module))?)?;
    }
    for module in more {
        // depmod.d(5): where modules from elsewhere go.
        let folder = staged.join("updates");
        fs::create_dir_all(&folder)?;
        fs::copy(module, folder.join(module.file_name().context("a module without a name")?))?;
    }
    for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        let from = tree.join(&folder).join(list);
        if from.exists() {
            fs::copy(from, staged.join(list))?;
        }
    }
    // depmod looks below /lib/modules.
    std::os::unix::fs::symlink("usr/lib", stage.path().join("lib"))?;
    let output = foreign::command_as(tree, "usr/bin/kmod", "depmod")
        .arg("-b")
        .arg(stage.path())
        .arg(release)
        .output()
        .context("cannot run depmod")?;
    ensure!(output.status.success(), "depmod: {}", String::from_utf8_lossy(&output.stderr));
    add_folder(archive, stage.path(), Path::new(&folder))
}

fn add_folder<W: Write>(archive: &mut Archive<W>, root: &Path, folder: &Path) -> Result<()> {
    let mut entries: Vec<PathBuf> = fs::read_dir(root.join(folder))?
        .map(|entry| entry.map(|entry| folder.join(entry.file_name())))
        .collect::<Result<_, _>>()?;
    entries.sort();
    for entry in entries {
        if root.join(&entry).is_dir() {
            add_folder(archive, root, &entry)?;
        } else {
            archive.copy(&entry, &root.join(&entry))?;
        }
    }
    Ok(())
}

/// The files of the wanted modules and of all they depend on, as `modules.dep` (modules.dep(5)) tells.
fn closure(table: &str, wanted: &[&str]) -> BTreeSet<String> {
    let lines: BTreeMap<String, (&str, &str)> = table
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (module_name(file), (file, needs)))
        .collect();
    let mut found = BTreeSet::new();
    for name in wanted {
        if let Some((file, needs)) = lines.get(&name.replace('-', "_")) {
            found.insert((*file).to_owned());
            found.extend(needs.split_whitespace().map(str::to_owned));
        }
    }
    found
}

/// `kernel/drivers/vfio/pci/vfio-pci.ko.xz` is called `vfio_pci`.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

fn without_compression(file: &str) -> &str {
    file.find(".ko").map_or(file, |at| &file[..at + 3])
}

fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    let output = Command::new(program)
        .arg("-dc")
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program} to unpack a kernel module"))?;
    ensure!(output.status.success(), "{program} cannot unpack {}", path.display());
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "kernel/a/vfio-pci.ko.xz: kernel/a/vfio-pci-core.ko.xz kernel/a/vfio.ko.xz
kernel/a/vfio-pci-core.ko.xz: kernel/a/vfio.ko.xz
kernel/a/vfio.ko.xz:
kernel/b/nvme.ko:
";

    #[test]
    fn what_a_module_depends_on_comes_along() {
        let found = closure(TABLE, &["vfio-pci", "absent"]);
        let expected = ["kernel/a/vfio-pci-core.ko.xz", "kernel/a/vfio-pci.ko.xz", "kernel/a/vfio.ko.xz"];
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn compression_is_not_part_of_the_name() {
        assert_eq!(without_compression("kernel/a/vfio.ko.xz"), "kernel/a/vfio.ko");
        assert_eq!(without_compression("kernel/b/nvme.ko"), "kernel/b/nvme.ko");
        assert_eq!(module_name("kernel/a/snd-hda-intel.ko.zst"), "snd_hda_intel");
    }
}
