//! libvirt's guests that take PCI devices, from libvirt's own files: libvirt is not asked, and not started.

use super::look::Look;
use crate::{pci::Address, vm::domain};
use serde::{Deserialize, Serialize};

/// A libvirt domain that takes PCI devices of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibvirtDomain {
    /// Its name.
    pub name: String,
    /// Whether it runs now.
    pub running: bool,
    /// Whether libvirt starts it with the machine.
    pub autostart: bool,
    /// The devices that it takes.
    pub devices: Vec<Address>,
    /// Those that libvirt takes from their drivers itself (`managed='yes'`).
    pub managed: Vec<Address>,
}

/// Where libvirt keeps what is defined (each user's own session aside), and what runs.
const DEFINED: &str = "/etc/libvirt/qemu";
const RUNNING: &str = "/run/libvirt/qemu";

/// Domains that take PCI devices, by name. `None`: not told; libvirt's files are for root.
pub(super) fn domains(look: &Look) -> Option<Vec<LibvirtDomain>> {
    // Without libvirt there are none; without /etc nothing is known.
    if !look.exists("/etc/libvirt") {
        return look.exists("/etc/os-release").then(Vec::new);
    }
    let names = match look.list(DEFINED) {
        Some(names) => names,
        None if look.exists(DEFINED) => return None,
        None => Vec::new(),
    };
    let mut found: Vec<LibvirtDomain> =
        files(&names).filter_map(|name| read(look, DEFINED, name, false)).collect();
    for name in files(&look.list(RUNNING).unwrap_or_default()) {
        // What runs may differ from what is defined, and may be defined nowhere.
        if let Some(running) = read(look, RUNNING, name, true) {
            found.retain(|defined| defined.name != running.name);
            found.push(running);
        }
    }
    let autostart = look.list(&format!("{DEFINED}/autostart")).unwrap_or_default();
    for domain in &mut found {
        domain.autostart = autostart.iter().any(|name| name.strip_suffix(".xml") == Some(&domain.name));
    }
    found.retain(|domain| !domain.devices.is_empty());
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Some(found)
}

fn files(names: &[String]) -> impl Iterator<Item = &String> {
    names.iter().filter(|name| std::path::Path::new(name).extension().is_some_and(|kind| kind == "xml"))
}

fn read(look: &Look, folder: &str, name: &str, running: bool) -> Option<LibvirtDomain> {
    let path = format!("{folder}/{name}");
    let bytes = look.start(&path, domain::MAX_XML + 1)?;
    match domain::hostdevs(&String::from_utf8_lossy(&bytes)) {
        Ok(domain) => Some(LibvirtDomain {
            running,
            autostart: false,
            devices: domain.addresses(),
            managed: domain
                .hostdevs
                .iter()
                .filter(|device| device.managed)
                .map(|device| device.address)
                .collect(),
            name: domain.name,
        }),
        Err(error) => {
            look.note(format!("{path}: {error}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{Tree, at};

    fn xml(name: &str, device: &str) -> String {
        format!("<domain><name>{name}</name><devices>{device}</devices></domain>")
    }

    const CARD: &str = "<hostdev type='pci' managed='yes'><source><address bus='1'/></source></hostdev>";

    #[test]
    fn defined_and_running_domains() {
        let mut tree = Tree::new();
        tree.file("/etc/libvirt/qemu/win10.xml", xml("win10", CARD));
        tree.file("/etc/libvirt/qemu/plain.xml", xml("plain", ""));
        tree.file("/etc/libvirt/qemu/broken.xml", "<domain>");
        tree.file("/etc/libvirt/qemu/networks/default.xml", "<network/>");
        tree.link("/etc/libvirt/qemu/autostart/win10.xml", "/etc/libvirt/qemu/win10.xml");
        let status = format!(
            "<domstatus state='running'>{}</domstatus>",
            xml("transient", &CARD.replace("bus='1'", "bus='2'"))
        );
        tree.file("/run/libvirt/qemu/transient.xml", status);
        let look = Look::new(&tree);
        let found = domains(&look).unwrap();
        let shown: Vec<_> =
            found.iter().map(|it| (it.name.as_str(), it.running, it.autostart, it.devices[0])).collect();
        assert_eq!(shown, [("transient", true, false, at("02:00.0")), ("win10", false, true, at("01:00.0"))]);
        assert_eq!(found[1].managed, [at("01:00.0")]);
        assert!(look.unseen()[0].starts_with("/etc/libvirt/qemu/broken.xml: "));
    }

    #[test]
    fn what_may_not_be_read_is_not_nothing() {
        let mut tree = Tree::new();
        assert_eq!(domains(&Look::new(&tree)), None);
        tree.file("/etc/os-release", "ID=debian\n");
        assert_eq!(domains(&Look::new(&tree)), Some(Vec::new()), "no libvirt");
        tree.forbid("/etc/libvirt/qemu");
        let look = Look::new(&tree);
        assert_eq!(domains(&look), None);
        assert_eq!(look.unseen().len(), 1);
    }
}
