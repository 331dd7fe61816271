//! Loaded modules that drive cards, with who keeps them from being unloaded.

use super::look::Look;
use serde::{Deserialize, Serialize};

/// A loaded module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedModule {
    /// Its name, with underscores.
    pub name: String,
    /// How many hold it: modules, open files, consoles. `None`: the kernel cannot unload modules.
    pub references: Option<u32>,
    /// Modules that use it.
    pub used_by: Vec<String>,
}

/// The modules behind these drivers, and those above them. `None`: not told.
pub(super) fn modules(look: &Look, drivers: &[&str]) -> Option<Vec<LoadedModule>> {
    let all = parse(&look.text("/proc/modules")?);
    let module = |driver: &&str| look.link_name(&format!("/sys/bus/pci/drivers/{driver}/module"));
    let mut wanted: Vec<String> = drivers.iter().filter_map(module).collect();
    // A ring of users cannot be: each name is added once.
    let mut at = 0;
    while let Some(name) = wanted.get(at) {
        let above = all.iter().find(|module| module.name == *name).map(|module| module.used_by.clone());
        for name in above.unwrap_or_default() {
            if !wanted.contains(&name) {
                wanted.push(name);
            }
        }
        at += 1;
    }
    Some(all.into_iter().filter(|module| wanted.contains(&module.name)).collect())
}

/// Lines `nvidia_drm 77824 4 nvidia_x,nvidia_y, Live 0x0` (proc_modules(5)); `-` stands for none, and for no count.
fn parse(text: &str) -> Vec<LoadedModule> {
    let module = |line: &str| {
        let mut fields = line.split_whitespace();
        let (name, references, users) = (fields.next()?, fields.nth(1)?, fields.next()?);
        let users =
            users.split(',').filter(|user| !user.is_empty() && *user != "-" && !user.starts_with('['));
        Some(LoadedModule {
            name: name.to_owned(),
            references: references.parse().ok(),
            used_by: users.map(str::to_owned).collect(),
        })
    };
    text.lines().filter_map(module).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::Tree;

    #[test]
    fn a_cards_modules_and_what_is_above_them() {
        let mut tree = Tree::new();
        tree.file(
            "/proc/modules",
            "nvidia_uvm 4 0 - Live 0x0 (POE)\nnvidia_drm 3 5 - Live 0x0 (POE)\nnvidia_modeset 2 2 nvidia_drm, Live 0x0\n\
             nvidia 1 29 nvidia_uvm,nvidia_modeset, Live 0x0\next4 1 1 - Live 0x0\nodd 1 - [permanent], Live 0x0\nshort\n",
        );
        tree.link("/sys/bus/pci/drivers/nvidia/module", "../../../../module/nvidia");
        let found = modules(&Look::new(&tree), &["nvidia", "nvidia", "built-in"]).unwrap();
        let shown: Vec<_> = found.iter().map(|it| (it.name.as_str(), it.references)).collect();
        assert_eq!(
            shown,
            [
                ("nvidia_uvm", Some(0)),
                ("nvidia_drm", Some(5)),
                ("nvidia_modeset", Some(2)),
                ("nvidia", Some(29))
            ]
        );
        assert_eq!(found[3].used_by, ["nvidia_uvm", "nvidia_modeset"]);
        assert_eq!(parse("odd 1 - [permanent], Live 0x0\n")[0].references, None);
        assert_eq!(modules(&Look::new(&Tree::new()), &["nvidia"]), None);
    }
}
