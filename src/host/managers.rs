//! Others that bind, hide or switch cards on this machine: driverctl, lines in modprobe.d, hook and early scripts,
//! units, switching tools. Found and named; never run, and never fought.

use super::{Function, look::Look};
use crate::pci::{Address, DeviceId};
use serde::{Deserialize, Serialize};

/// Somebody else who manages a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manager {
    /// What it is.
    pub kind: ManagerKind,
    /// Where it was found.
    pub path: String,
    /// Line in it, from 1.
    pub line: Option<u32>,
    /// What stands there, or the name of the tool.
    pub text: String,
    /// Devices that it names by address. Addresses move: whether it is the same device is not said.
    pub functions: Vec<Address>,
    /// Devices that it names by vendor and device.
    pub ids: Vec<DeviceId>,
}

/// Kinds of other managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ManagerKind {
    /// An override that driverctl sets at every boot.
    Driverctl,
    /// `options vfio-pci ids=…` in modprobe.d.
    ModprobeIds,
    /// `install vfio-pci …` in modprobe.d.
    ModprobeInstall,
    /// `softdep … pre: vfio-pci` in modprobe.d.
    ModprobeSoftdep,
    /// `blacklist` of a driver for cards in modprobe.d.
    ModprobeBlacklist,
    /// A script that libvirt calls.
    HookScript,
    /// A script in the initramfs.
    EarlyScript,
    /// A systemd unit.
    Unit,
    /// A rule of udev.
    UdevRule,
    /// A tool that switches cards.
    Tool,
}

impl Manager {
    /// Whether it is after this function: by address, by ids, or by the driver that it keeps away.
    pub fn is_after(&self, function: &Function) -> bool {
        let by_id = function.id().is_some_and(|id| self.ids.contains(&id));
        let by_driver = self.kind == ManagerKind::ModprobeBlacklist
            && self
                .text
                .split_whitespace()
                .nth(1)
                .is_some_and(|module| function.modules.iter().any(|own| own == module));
        by_id || by_driver || self.functions.contains(&function.address)
    }

    /// Whether it does not say which device it is after.
    pub fn is_after_any(&self) -> bool {
        self.functions.is_empty() && self.ids.is_empty() && self.kind != ManagerKind::ModprobeBlacklist
    }

    /// `/etc/modprobe.d/vfio.conf line 3`.
    pub fn place(&self) -> String {
        self.line.map_or_else(|| self.path.clone(), |line| format!("{} line {line}", self.path))
    }
}

/// The largest script that is looked through, in bytes.
const MAX_SCRIPT: usize = 256 << 10;
/// Scripts and folders that are looked at below a hook folder.
const MAX_SCRIPTS: usize = 200;

/// Tools that switch or hide cards, by a file of theirs.
const TOOLS: [(&str, &str); 8] = [
    ("/usr/bin/supergfxctl", "supergfxctl"),
    ("/usr/bin/envycontrol", "envycontrol"),
    ("/usr/local/bin/envycontrol", "envycontrol"),
    ("/usr/bin/optimus-manager", "optimus-manager"),
    ("/usr/sbin/bumblebeed", "bumblebee"),
    ("/usr/bin/prime-select", "prime-select"),
    ("/usr/bin/system76-power", "system76-power"),
    ("/usr/bin/vfio-isolate", "vfio-isolate"),
];

/// All that are found. `None`: there is no /etc to look in.
pub(super) fn managers(look: &Look) -> Option<Vec<Manager>> {
    let etc = look.list("/etc")?;
    let has = |name: &str| etc.iter().any(|have| have == name);
    let mut found = Vec::new();
    if has("driverctl.d") {
        found.extend(driverctl(look));
    }
    for folder in ["/etc/modprobe.d", "/run/modprobe.d"] {
        for path in files(look, folder, "conf") {
            let text = script(look, &path).unwrap_or_default();
            found.extend(modprobe(&path, &text));
        }
    }
    if has("libvirt") {
        let mut hooks = Vec::new();
        below(look, "/etc/libvirt/hooks", 5, &mut hooks);
        found.extend(scripts(look, hooks, ManagerKind::HookScript));
    }
    let mut early = Vec::new();
    for folder in ["/etc/initramfs-tools/scripts", "/etc/initcpio/hooks"] {
        below(look, folder, 2, &mut early);
    }
    found.extend(scripts(look, early, ManagerKind::EarlyScript));
    found.extend(scripts(look, files(look, "/etc/systemd/system", "service"), ManagerKind::Unit));
    found.extend(scripts(look, files(look, "/etc/udev/rules.d", "rules"), ManagerKind::UdevRule));
    let tools = TOOLS.iter().filter(|(path, _)| look.exists(path));
    found.extend(tools.map(|(path, name)| plain(ManagerKind::Tool, path, name)));
    Some(found)
}

fn plain(kind: ManagerKind, path: &str, text: &str) -> Manager {
    Manager {
        kind,
        path: path.to_owned(),
        line: None,
        text: text.to_owned(),
        functions: Vec::new(),
        ids: Vec::new(),
    }
}

/// Our own files are called after us.
fn is_ours(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.contains("gpuferry"))
}

/// Paths in a folder with this ending, ours left out.
fn files(look: &Look, folder: &str, ending: &str) -> Vec<String> {
    let names = look.list(folder).unwrap_or_default().into_iter();
    let names =
        names.filter(|name| name.rsplit_once('.').is_some_and(|(_, end)| end == ending) && !is_ours(name));
    names.map(|name| format!("{folder}/{name}")).collect()
}

fn below(look: &Look, folder: &str, depth: usize, found: &mut Vec<String>) {
    // No note where it is no folder.
    for name in look.root.list(std::path::Path::new(folder)).unwrap_or_default() {
        let Some(path) = name.to_str().map(|name| format!("{folder}/{name}")) else { continue };
        if found.len() >= MAX_SCRIPTS {
            return;
        }
        found.push(path.clone());
        if depth > 0 {
            below(look, &path, depth - 1, found);
        }
    }
}

fn script(look: &Look, path: &str) -> Option<String> {
    look.start(path, MAX_SCRIPT).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// driverctl keeps a file for each override: the address is its name, the driver its content (driverctl(8)).
fn driverctl(look: &Look) -> Vec<Manager> {
    let names = look.list("/etc/driverctl.d").unwrap_or_default();
    let read = |name: &String| {
        let address: Address = name.strip_prefix("pci-").unwrap_or(name).parse().ok()?;
        let path = format!("/etc/driverctl.d/{name}");
        let driver = look.text(&path).unwrap_or_default();
        Some(Manager { functions: vec![address], ..plain(ManagerKind::Driverctl, &path, &driver) })
    };
    names.iter().filter_map(read).collect()
}

/// Drivers whose blacklisting hides a card. Those that only draw on frame buffers, and nouveau beside NVIDIA's own,
/// are blacklisted by distributions.
const DRIVERS: [&str; 8] =
    ["nvidia", "nvidia_drm", "nvidia_modeset", "amdgpu", "radeon", "i915", "xe", "snd_hda_intel"];

/// Lines of modprobe.d(5): a backslash at the end goes on, `#` begins a comment, dashes are underscores.
fn modprobe(path: &str, text: &str) -> Vec<Manager> {
    let mut found = Vec::new();
    let mut lines = text.lines().zip(1_u32..);
    while let Some((line, number)) = lines.next() {
        let mut whole = line.trim().to_owned();
        while let Some(start) = whole.strip_suffix('\\') {
            let next = lines.next().map_or("", |(next, _)| next);
            whole = format!("{} {}", start.trim_end(), next.trim());
        }
        let words: Vec<&str> = whole.split_whitespace().collect();
        let plain_name = |word: &str| word.replace('-', "_");
        let (command, module) = match words.as_slice() {
            [command, module, ..] if !command.starts_with('#') => (*command, plain_name(module)),
            _ => continue,
        };
        let is_vfio = matches!(module.as_str(), "vfio_pci" | "pci_stub");
        let rest = words.get(2..).unwrap_or_default();
        let kind = match command {
            "options" if is_vfio && rest.iter().any(|word| word.starts_with("ids=")) => {
                ManagerKind::ModprobeIds
            }
            "install" if is_vfio => ManagerKind::ModprobeInstall,
            "softdep" if rest.iter().any(|word| plain_name(word) == "vfio_pci") => {
                ManagerKind::ModprobeSoftdep
            }
            "blacklist" if DRIVERS.contains(&module.as_str()) => ManagerKind::ModprobeBlacklist,
            "install" if DRIVERS.contains(&module.as_str()) && rest.iter().any(|word| is_nothing(word)) => {
                ManagerKind::ModprobeBlacklist
            }
            _ => continue,
        };
        let values = rest.iter().filter_map(|word| word.strip_prefix("ids="));
        let ids = values.flat_map(|value| value.split(',')).filter_map(first_two);
        let text = if kind == ManagerKind::ModprobeBlacklist {
            format!("{command} {module}")
        } else {
            whole.clone()
        };
        found.push(Manager { line: Some(number), ids: ids.collect(), ..plain(kind, path, &text) });
    }
    found
}

/// Commands that do nothing in the place of a module.
fn is_nothing(command: &str) -> bool {
    matches!(command, "/bin/true" | "/bin/false" | "/usr/bin/true" | "/usr/bin/false")
}

/// `vendor:device[:…]`.
fn first_two(item: &str) -> Option<DeviceId> {
    let mut fields = item.split(':');
    let (vendor, device) = (fields.next()?, fields.next()?);
    format!("{vendor}:{device}").parse().ok()
}

/// What a script that binds or unbinds cards has in it.
const WORDS: [&str; 6] =
    ["driver_override", "vfio-pci", "vfio_pci", "nodedev-detach", "nodedev-dettach", "/unbind"];

fn scripts(look: &Look, paths: Vec<String>, kind: ManagerKind) -> Vec<Manager> {
    let read = |path: String| {
        if is_ours(&path) {
            return None;
        }
        // Folders are among the paths; reading one fails.
        let text = look.root.read_start(std::path::Path::new(&path), MAX_SCRIPT).ok()?;
        let text = String::from_utf8_lossy(&text);
        if text.contains("gpuferry hook qemu") {
            return None;
        }
        let code = |line: &&str| !line.trim_start().starts_with('#');
        let lines = || text.lines().zip(1_u32..).filter(|(line, _)| code(line));
        let (line, number) = lines().find(|(line, _)| WORDS.iter().any(|word| line.contains(word)))?;
        let mut functions: Vec<Address> = lines().flat_map(|(line, _)| addresses(line)).collect();
        functions.sort_unstable();
        functions.dedup();
        Some(Manager { line: Some(number), functions, ..plain(kind, &path, line.trim()) })
    };
    paths.into_iter().filter_map(read).collect()
}

/// Addresses in a line of a script: `0000:01:00.0`, with backslashes, and `pci_0000_01_00_0` as virsh writes them.
fn addresses(line: &str) -> Vec<Address> {
    let line = line.replace('\\', "");
    let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, ':' | '.' | '_')));
    let parse = |word: &str| match word.strip_prefix("pci_") {
        Some(rest) => {
            let parts: Vec<&str> = rest.split('_').collect();
            let [domain, bus, device, function] = parts.as_slice() else { return None };
            format!("{domain}:{bus}:{device}.{function}").parse().ok()
        }
        None => super::look::full_address(word.trim_matches(|c| c == '.' || c == ':' || c == '_')),
    };
    words.filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{Tree, at, function};

    fn found(tree: &Tree) -> Vec<(ManagerKind, String)> {
        let all = managers(&Look::new(tree)).unwrap();
        all.iter().map(|manager| (manager.kind, manager.place())).collect()
    }

    #[test]
    fn lines_of_modprobe() {
        let text = "# options vfio-pci ids=1:2\noptions vfio-pci \\\n  ids=10de:2204,10de:1aef:1458:403b disable_vga=1\n\
            install vfio-pci /sbin/vfio-pci-override-vga.sh\nsoftdep nvidia pre: vfio-pci\nblacklist amdgpu\n\
            install nvidia-drm /bin/false\nblacklist nouveau\nblacklist pcspkr\noptions nvidia_drm modeset=1\noptions vfio_pci disable_idle_d3=1\n";
        let all = modprobe("/etc/modprobe.d/vfio.conf", text);
        let shown: Vec<_> = all.iter().map(|it| (it.kind, it.line.unwrap())).collect();
        assert_eq!(
            shown,
            [
                (ManagerKind::ModprobeIds, 2),
                (ManagerKind::ModprobeInstall, 4),
                (ManagerKind::ModprobeSoftdep, 5),
                (ManagerKind::ModprobeBlacklist, 6),
                (ManagerKind::ModprobeBlacklist, 7),
            ]
        );
        let mut card = function("01:00.0", "030000", "10de:2204");
        assert!(all[0].is_after(&card) && !all[3].is_after(&card));
        card.modules = vec!["amdgpu".into()];
        assert!(all[3].is_after(&card));
        assert!(all[1].is_after_any() && !all[0].is_after_any() && !all[3].is_after_any());
        assert!(modprobe("x", "options\n\\\n").is_empty());
    }

    #[test]
    fn other_managers_are_found_and_our_own_files_are_not() {
        let mut tree = Tree::new();
        assert_eq!(managers(&Look::new(&tree)), None);
        tree.file("/etc/driverctl.d/0000:01:00.0", "vfio-pci\n");
        tree.file("/etc/modprobe.d/gpuferry.conf", "softdep nvidia pre: vfio-pci\n");
        tree.file("/etc/libvirt/hooks/qemu", "#!/bin/sh\nexec /usr/bin/gpuferry hook qemu \"$@\"\n");
        tree.file(
            "/etc/libvirt/hooks/qemu.d/win10/prepare/begin/start.sh",
            "#!/bin/sh\n# vfio-pci\nvirsh nodedev-detach pci_0000_01_00_0\nmodprobe vfio-pci\n",
        );
        tree.file(
            "/etc/initramfs-tools/scripts/init-top/vfio.sh",
            "DEVS=\"0000:01:00.0 0000:01:00.1\"\necho vfio-pci > /sys/bus/pci/devices/$D/driver_override\n",
        );
        tree.file("/etc/initramfs-tools/scripts/init-top/gpuferry", "driver_override\n");
        tree.file(
            "/etc/systemd/system/bind.service",
            "[Service]\nExecStart=/bin/sh -c 'echo 0000\\:01\\:00.0 > /sys/bus/pci/drivers/nvidia/unbind'\n",
        );
        tree.file("/etc/systemd/system/other.service", "[Service]\nExecStart=/bin/true\n");
        tree.file("/etc/udev/rules.d/99-vfio.rules", "ACTION==\"add\", ATTR{driver_override}=\"vfio-pci\"\n");
        tree.file("/usr/bin/supergfxctl", "");
        assert_eq!(
            found(&tree),
            [
                (ManagerKind::Driverctl, "/etc/driverctl.d/0000:01:00.0".to_owned()),
                (
                    ManagerKind::HookScript,
                    "/etc/libvirt/hooks/qemu.d/win10/prepare/begin/start.sh line 3".to_owned()
                ),
                (ManagerKind::EarlyScript, "/etc/initramfs-tools/scripts/init-top/vfio.sh line 2".to_owned()),
                (ManagerKind::Unit, "/etc/systemd/system/bind.service line 2".to_owned()),
                (ManagerKind::UdevRule, "/etc/udev/rules.d/99-vfio.rules line 1".to_owned()),
                (ManagerKind::Tool, "/usr/bin/supergfxctl".to_owned()),
            ]
        );
        let all = managers(&Look::new(&tree)).unwrap();
        assert_eq!(all[1].functions, [at("01:00.0")]);
        assert_eq!(all[2].functions, [at("01:00.0"), at("01:00.1")]);
        assert_eq!(all[3].functions, [at("01:00.0")]);
    }
}
