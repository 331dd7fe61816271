//! What the firmware and the kernel allow, and disks that open themselves only on an unchanged boot.

use super::look::Look;
use serde::{Deserialize, Serialize};

/// What is locked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// Whether Secure Boot is on. `None`: not told, or no UEFI.
    pub secure_boot: Option<bool>,
    /// Whether the firmware waits for keys to be enrolled (then Secure Boot checks nothing).
    pub setup_mode: Option<bool>,
    /// How far the kernel keeps root out of itself. `None`: not told.
    pub lockdown: Option<Lockdown>,
    /// Whether there is a TPM that the kernel uses. `None`: not told.
    pub tpm: Option<bool>,
    /// Disks that a TPM opens: a changed command line or initramfs can change what it measures. `None`: not told.
    pub sealed_disks: Option<Vec<SealedDisk>>,
    /// What is installed that could seal a disk: `clevis`.
    pub sealers: Vec<String>,
}

/// How far the kernel keeps root out of itself (kernel_lockdown(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lockdown {
    /// Not at all.
    None,
    /// The running kernel cannot be changed: unsigned modules are refused.
    Integrity,
    /// Nor read.
    Confidentiality,
}

/// A disk that a TPM opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedDisk {
    /// The name it gets when it is open: `root`.
    pub name: String,
    /// Where that is said.
    pub source: String,
    /// Line in it, from 1.
    pub line: Option<u32>,
}

/// Where UEFI keeps its own variables (the specification's global GUID).
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Reads what is locked.
pub(super) fn security(look: &Look, cmdline: Option<&str>) -> Security {
    // Four bytes of attributes, then the value (Documentation/filesystems/efivarfs.rst).
    let variable = |name: &str| {
        let bytes = look.bytes(&format!("/sys/firmware/efi/efivars/{name}-{GLOBAL}"))?;
        bytes.get(4).map(|value| *value == 1)
    };
    let installed = [
        ("/usr/bin/clevis", "clevis"),
        ("/usr/lib/dracut/modules.d/60clevis-pin-tpm2", "clevis for dracut"),
        ("/usr/share/initramfs-tools/hooks/clevis", "clevis for initramfs-tools"),
    ];
    let sealers = installed.iter().filter(|(path, _)| look.exists(path)).map(|(_, name)| (*name).to_owned());
    Security {
        secure_boot: variable("SecureBoot"),
        setup_mode: variable("SetupMode"),
        lockdown: look.text_quietly("/sys/kernel/security/lockdown").and_then(|text| lockdown(&text)),
        tpm: look.list("/sys/class").map(|classes| {
            let known = classes.iter().any(|class| class == "tpm");
            known && look.list("/sys/class/tpm").is_some_and(|chips| !chips.is_empty())
        }),
        sealed_disks: sealed(look, cmdline),
        sealers: sealers.collect(),
    }
}

/// `none [integrity] confidentiality`.
fn lockdown(text: &str) -> Option<Lockdown> {
    let (_, rest) = text.split_once('[')?;
    match rest.split_once(']')?.0 {
        "none" => Some(Lockdown::None),
        "integrity" => Some(Lockdown::Integrity),
        "confidentiality" => Some(Lockdown::Confidentiality),
        _ => None,
    }
}

fn sealed(look: &Look, cmdline: Option<&str>) -> Option<Vec<SealedDisk>> {
    let table = look.text("/etc/crypttab");
    if table.is_none() && cmdline.is_none() {
        return None;
    }
    let mut found = table.map_or_else(Vec::new, |table| parse_crypttab(&table));
    // systemd-cryptsetup-generator(8): `rd.luks.options=[UUID=]tpm2-device=auto`.
    for word in super::kernel::words(cmdline.unwrap_or_default()) {
        let is_one = word.starts_with("rd.luks.options=") || word.starts_with("luks.options=");
        if is_one && word.contains("tpm2-device=") {
            let name = word
                .split('=')
                .nth(1)
                .filter(|name| name.contains('-') && !name.starts_with("tpm2"))
                .unwrap_or("any");
            found.push(SealedDisk { name: name.to_owned(), source: "/proc/cmdline".into(), line: None });
        }
    }
    Some(found)
}

/// crypttab(5): name, device, key, options. `tpm2-device=` opens with the TPM.
fn parse_crypttab(text: &str) -> Vec<SealedDisk> {
    let lines = text.lines().zip(1_u32..);
    let sealed = lines.filter_map(|(line, number)| {
        let mut fields = line.split_whitespace();
        let name = fields.next().filter(|name| !name.starts_with('#'))?;
        let options = fields.nth(2)?;
        let by_tpm = options.split(',').any(|option| option.starts_with("tpm2-device="));
        by_tpm.then(|| SealedDisk {
            name: name.to_owned(),
            source: "/etc/crypttab".into(),
            line: Some(number),
        })
    });
    sealed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::Tree;

    #[test]
    fn secure_boot_and_lockdown() {
        let mut tree = Tree::new();
        assert_eq!(security(&Look::new(&tree), None), Security::default());
        tree.file(&format!("/sys/firmware/efi/efivars/SecureBoot-{GLOBAL}"), [6, 0, 0, 0, 1]);
        tree.file(&format!("/sys/firmware/efi/efivars/SetupMode-{GLOBAL}"), [6, 0, 0, 0]);
        tree.file("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
        tree.folder("/sys/class/tpm/tpm0");
        let found = security(&Look::new(&tree), Some("quiet"));
        assert_eq!(
            (found.secure_boot, found.setup_mode),
            (Some(true), None),
            "a short variable says nothing"
        );
        assert_eq!((found.lockdown, found.tpm), (Some(Lockdown::Integrity), Some(true)));
        assert_eq!(found.sealed_disks, Some(Vec::new()));
        assert_eq!(lockdown("[other]"), None);
    }

    #[test]
    fn disks_that_a_tpm_opens() {
        let mut tree = Tree::new();
        tree.file(
            "/etc/crypttab",
            "# name device key options\nroot UUID=1 none luks,tpm2-device=auto,discard\nhome UUID=2 /key luks\nshort UUID=3\n",
        );
        tree.file("/usr/bin/clevis", "");
        let found = security(&Look::new(&tree), Some("rd.luks.options=tpm2-device=auto quiet"));
        let disks = found.sealed_disks.unwrap();
        assert_eq!((disks[0].name.as_str(), disks[0].line), ("root", Some(2)));
        assert_eq!((disks.len(), disks[1].source.as_str()), (2, "/proc/cmdline"));
        assert_eq!(found.sealers, ["clevis"]);
    }
}
