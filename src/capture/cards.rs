//! Files of single cards, as tools for graphics cards save them: `card1/device/vendor`, without the machine around.
//!
//! Puts them where sysfs has them, under the address that `uevent` tells; what would need the rest of the machine
//! (the path, the group, the neighbours) stays unknown.

use crate::machine::{
    Root,
    tree::{Entry, Tree},
};
use std::path::{Path, PathBuf};

/// Attributes are small; what is larger (a firmware's tables) tells nothing here.
const MAX_ATTRIBUTE: usize = 64 << 10;

/// The cards in a folder, as a tree of a machine; `None` where there is none.
pub(super) fn cards(root: &dyn Root, folder: &Path) -> Option<Tree> {
    let mut tree = Tree::default();
    let names = root.list(folder).unwrap_or_default();
    let cards = names.iter().filter_map(|name| name.to_str()).filter(|name| is_card(name));
    for card in cards {
        place(root, &folder.join(card), &mut tree);
    }
    (!tree.is_empty()).then_some(tree)
}

fn is_card(name: &str) -> bool {
    let number = name.strip_prefix("card").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Puts a card's device where it belongs; not its connectors, which such tools leave out: none would look like none
/// connected. A device that does not say its address, or is on no PCI bus, is left out.
fn place(root: &dyn Root, card: &Path, tree: &mut Tree) -> Option<()> {
    let device = card.join("device");
    let uevent = root.text(&device.join("uevent")).ok()?;
    let value = |name: &str| uevent.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let address: crate::pci::Address = value("PCI_SLOT_NAME")?.parse().ok()?;
    let to = PathBuf::from(format!("/sys/bus/pci/devices/{address}"));
    let mut put = |path: PathBuf, entry: Entry| tree.put(&path, entry).ok();
    if let Some(modalias) = value("MODALIAS") {
        put(to.join("modalias"), Entry::File(modalias.into()));
    }
    if let Some(driver) = value("DRIVER").filter(|driver| !driver.contains('/') && !driver.starts_with('.')) {
        put(PathBuf::from(format!("/sys/bus/pci/drivers/{driver}")), Entry::Folder);
        put(to.join("driver"), Entry::Link(format!("../../drivers/{driver}").into()));
    }
    for below in ["", "power", "link"] {
        let from = device.join(below);
        for attribute in root.list(&from).unwrap_or_default() {
            if let Ok(bytes) = root.read_start(&from.join(&attribute), MAX_ATTRIBUTE) {
                put(to.join(below).join(&attribute), Entry::File(bytes));
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    #[test]
    fn a_card_alone_is_placed_by_its_own_word() {
        let mut saved = Tree::default();
        let mut put = |path: &str, text: &str| {
            saved.put(Path::new(path), Entry::File(text.into())).unwrap();
        };
        put(
            "/card1/device/uevent",
            "DRIVER=amdgpu\nPCI_CLASS=30000\nPCI_ID=1002:7550\nPCI_SUBSYS_ID=1849:5424\nPCI_SLOT_NAME=0000:03:00.0\n\
             MODALIAS=pci:v00001002d00007550sv00001849sd00005424bc03sc00i00\n",
        );
        put("/card1/device/current_link_speed", "16.0 GT/s PCIe\n");
        put("/card1/device/current_link_width", "16\n");
        put("/card2/device/uevent", "DRIVER=simpledrm\nMODALIAS=platform:x\n");
        let tree = cards(&saved, Path::new("/")).unwrap();
        let host = host::observe(&tree);
        assert_eq!(host.functions.len(), 1, "what is on no PCI bus is no function");
        let card = &host.functions[0];
        assert_eq!(card.address.to_string(), "0000:03:00.0");
        assert_eq!(card.id().unwrap().to_string(), "1002:7550");
        assert_eq!(card.subsystem().unwrap().to_string(), "1849:5424");
        assert_eq!(
            (card.driver.as_deref(), card.path.as_ref(), card.iommu_group),
            (Some("amdgpu"), None, None)
        );
        assert_eq!(card.link.unwrap().width, Some(16));
        assert_eq!(host.iommu.state, host::Known::Unknown);
        assert_eq!(host.gpus.len(), 1);
        assert!(cards(&tree, Path::new("/")).is_none());
    }
}
