//! The board and its firmware, by the names that the firmware gives (SMBIOS). Serial numbers are not read.

use super::look::Look;
use serde::{Deserialize, Serialize};

/// A board. `None` in it: not told, or left as the factory's form has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Board {
    /// Who makes it: `ASUSTeK COMPUTER INC.`
    pub vendor: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// The version of the firmware.
    pub firmware: Option<String>,
    /// The date of the firmware, as it gives it: `MM/DD/YYYY`.
    pub date: Option<String>,
}

/// What is read of a name; longer ones are cut.
const LONGEST: usize = 64;

/// Reads what the firmware says.
pub(super) fn board(look: &Look) -> Option<Board> {
    let text = |name: &str| {
        let text = look.text_quietly(&format!("/sys/class/dmi/id/{name}"))?;
        let text: String = text.trim().chars().filter(|c| !c.is_control()).take(LONGEST).collect();
        // What makers leave standing (DSP0134 only says that these are strings).
        let empty = ["", "default string", "to be filled by o.e.m.", "not specified", "none", "n/a"];
        (!empty.contains(&text.to_lowercase().as_str())).then_some(text)
    };
    let board = Board {
        vendor: text("board_vendor").or_else(|| text("sys_vendor")),
        name: text("board_name").or_else(|| text("product_name")),
        firmware: text("bios_version"),
        date: text("bios_date"),
    };
    (board != Board::default()).then_some(board)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::Tree;

    #[test]
    fn what_the_factory_left_standing_is_not_told() {
        let mut tree = Tree::new();
        let dmi =
            |tree: &mut Tree, name: &str, text: &str| tree.file(&format!("/sys/class/dmi/id/{name}"), text);
        assert_eq!(board(&Look::new(&tree)), None);
        dmi(&mut tree, "board_vendor", "To be filled by O.E.M.\n");
        dmi(&mut tree, "sys_vendor", "Micro-Star International Co., Ltd.\n");
        dmi(&mut tree, "board_name", &format!("MAG \u{1b}[31m{}\n", "x".repeat(500)));
        dmi(&mut tree, "bios_version", "1.80\n");
        let board = board(&Look::new(&tree)).unwrap();
        assert_eq!(board.vendor.as_deref(), Some("Micro-Star International Co., Ltd."));
        let name = board.name.unwrap();
        assert!(name.starts_with("MAG [31mxx") && name.len() == LONGEST, "{name}");
        assert_eq!((board.firmware.as_deref(), board.date), (Some("1.80"), None));
    }
}
