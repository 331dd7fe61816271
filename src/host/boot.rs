//! How the machine boots: firmware, boot loader, what builds the initramfs, which kernels are installed.

use super::{Boot, InitramfsTool, InstalledKernel, Loader, look::Look};

/// What is found in /sys/firmware, /boot, and by the tools that are installed.
pub(super) fn boot(look: &Look) -> Boot {
    let names = look.list("/boot").unwrap_or_default();
    Boot {
        uefi: look.exists("/sys/firmware").then(|| look.exists("/sys/firmware/efi")),
        loader: loader(look),
        initramfs: initramfs(look),
        kernels: kernels(&names),
        distribution: look.text("/etc/os-release").and_then(|text| parse_os_release(&text)),
    }
}

fn loader(look: &Look) -> Option<Loader> {
    let any = |paths: &[&str]| paths.iter().any(|path| look.exists(path));
    let debian = ["/etc/default/grub", "/usr/sbin/update-grub", "/boot/grub/grub.cfg"];
    if debian.iter().all(|path| look.exists(path)) {
        return Some(Loader::GrubDebian);
    }
    // Proxmox VE keeps the boot files of its ESPs itself.
    if any(&["/etc/kernel/proxmox-boot-uuids"]) {
        return Some(Loader::Other);
    }
    if any(&["/boot/loader/loader.conf", "/efi/loader/loader.conf", "/boot/efi/loader/loader.conf"]) {
        return Some(Loader::SystemdBoot);
    }
    if any(&["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"]) {
        return Some(Loader::Grub);
    }
    any(&["/boot/limine.conf", "/boot/refind_linux.conf", "/boot/extlinux/extlinux.conf"])
        .then_some(Loader::Other)
}

/// By the tool that would be run. Where dracut is installed beside parts of initramfs-tools, it has taken over:
/// their packages exclude each other.
fn initramfs(look: &Look) -> Option<InitramfsTool> {
    let tools = [
        ("/usr/bin/dracut", InitramfsTool::Dracut),
        ("/usr/sbin/dracut", InitramfsTool::Dracut),
        ("/usr/sbin/mkinitramfs", InitramfsTool::InitramfsTools),
        ("/usr/sbin/update-initramfs", InitramfsTool::InitramfsTools),
        ("/usr/bin/mkinitcpio", InitramfsTool::Mkinitcpio),
        ("/usr/bin/booster", InitramfsTool::Booster),
    ];
    tools.iter().find(|(path, _)| look.exists(path)).map(|(_, tool)| *tool)
}

/// `vmlinuz-RELEASE`, with the initramfs that Debian, Fedora, SUSE or Arch put beside it.
fn kernels(names: &[String]) -> Vec<InstalledKernel> {
    let kernel = |name: &String| {
        let release = name.strip_prefix("vmlinuz-").filter(|release| !release.is_empty())?;
        let beside = [
            format!("initrd.img-{release}"),
            format!("initramfs-{release}.img"),
            format!("initrd-{release}"),
        ];
        let initramfs = beside.into_iter().find(|image| names.contains(image));
        Some(InstalledKernel { release: release.to_owned(), initramfs })
    };
    names.iter().filter_map(kernel).collect()
}

/// Id and version (os-release(5)): `debian 13`.
fn parse_os_release(text: &str) -> Option<String> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(line.trim().trim_matches(['"', '\'']).to_owned())
    };
    let id = value("ID")?;
    Some(value("VERSION_ID").map_or(id.clone(), |version| format!("{id} {version}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_and_their_images() {
        let names = [
            "initrd.img-6.12.1-amd64",
            "vmlinuz-6.12.1-amd64",
            "vmlinuz-linux",
            "initramfs-linux.img",
            "vmlinuz-x",
        ];
        let found = kernels(&names.map(str::to_owned));
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].initramfs.as_deref(), Some("initrd.img-6.12.1-amd64"));
        assert_eq!(found[1].initramfs.as_deref(), Some("initramfs-linux.img"));
        assert_eq!(found[2].initramfs, None);
    }

    #[test]
    fn a_distribution_by_id_and_version() {
        assert_eq!(
            parse_os_release("NAME=\"Debian\"\nVERSION_ID=\"13\"\nID=debian\n").as_deref(),
            Some("debian 13")
        );
        assert_eq!(parse_os_release("ID=arch").as_deref(), Some("arch"));
        assert_eq!(parse_os_release("NAME=x"), None);
    }
}
