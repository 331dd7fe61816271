//! NVIDIA's driver as it is loaded: which version, what stands on it, and whether its DRM part drives the screens.

use super::look::Look;
use serde::{Deserialize, Serialize};

/// NVIDIA's kernel modules, of either kind (proprietary or open).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nvidia {
    /// /sys/module/nvidia/version: `595.45.04`.
    pub version: Option<String>,
    /// Whether nvidia_drm drives the screens (its parameter `modeset`, which only root may read). `None`: not known,
    /// or nvidia_drm is not loaded.
    pub modeset: Option<bool>,
    /// Loaded modules that use nvidia, directly or not, each before the ones that it uses.
    pub above: Vec<String>,
}

/// From this version on its DRM part lets go of one card when that is unbound, and takes it up when it is bound
/// again. Source: the open NVIDIA kernel modules, nv-pci.c calls `nvidia_modeset_remove` in 580.105.08 and does not in
/// 580.95.05.
const UNBINDS: [u32; 2] = [580, 105];

impl Nvidia {
    /// Whether one of several cards can be taken from the driver while the modules stay for the others. `false` also
    /// where that is not known: the DRM part would hold the card for as long as it is loaded, and the unbind hang.
    pub fn lets_go_of_one(&self) -> bool {
        let drm = self.above.iter().any(|module| module == "nvidia_drm");
        let version = self.version.as_deref().unwrap_or_default();
        let numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
        !drm || self.modeset == Some(false) || numbers.collect::<Vec<_>>().as_slice() >= UNBINDS.as_slice()
    }
}

/// The driver, if it is loaded.
pub(super) fn nvidia(look: &Look) -> Option<Nvidia> {
    look.exists("/sys/module/nvidia").then(|| {
        let modeset = look.text_quietly("/sys/module/nvidia_drm/parameters/modeset");
        let mut above = Vec::new();
        users_of(look, "nvidia", &mut Vec::new(), &mut above);
        Nvidia {
            version: look.text_quietly("/sys/module/nvidia/version"),
            modeset: modeset.map(|word| word == "Y" || word == "1"),
            above,
        }
    })
}

/// Modules that use `module` (/sys/module/NAME/holders), each after its own users. `seen` ends circles, which sysfs
/// has none of.
fn users_of(look: &Look, module: &str, seen: &mut Vec<String>, found: &mut Vec<String>) {
    for user in look.list(&format!("/sys/module/{module}/holders")).unwrap_or_default() {
        if !seen.contains(&user) {
            seen.push(user.clone());
            users_of(look, &user, seen, found);
            found.push(user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::live::Live;
    use std::fs;

    fn loaded(version: &str, modeset: Option<bool>) -> Nvidia {
        Nvidia { version: Some(version.into()), modeset, above: vec!["nvidia_drm".into()] }
    }

    #[test]
    fn who_uses_a_module_comes_before_it() {
        let folder = tempfile::tempdir().unwrap();
        for (module, users) in [
            ("nvidia", ["nvidia_drm", "nvidia_modeset", "nvidia_uvm"].as_slice()),
            ("nvidia_modeset", &["nvidia_drm"]),
        ] {
            for user in users {
                fs::create_dir_all(folder.path().join(format!("sys/module/{module}/holders/{user}")))
                    .unwrap();
            }
        }
        fs::write(folder.path().join("sys/module/nvidia/version"), "595.45.04\n").unwrap();
        let root = Live::open(folder.path()).unwrap();
        let found = nvidia(&Look::new(&root)).unwrap();
        assert_eq!(found.above, ["nvidia_drm", "nvidia_modeset", "nvidia_uvm"]);
        assert_eq!((found.version.as_deref(), found.modeset), (Some("595.45.04"), None));
        assert!(found.lets_go_of_one());
    }

    #[test]
    fn only_newer_drivers_let_go_of_one_card() {
        assert!(loaded("580.105.08", Some(true)).lets_go_of_one());
        assert!(loaded("610.1", None).lets_go_of_one());
        assert!(!loaded("580.95.05", Some(true)).lets_go_of_one());
        assert!(!loaded("470.256.02", None).lets_go_of_one());
        assert!(!loaded("", None).lets_go_of_one());
        assert!(loaded("470.256.02", Some(false)).lets_go_of_one());
        assert!(Nvidia { above: vec!["nvidia_uvm".into()], ..loaded("470.1", None) }.lets_go_of_one());
    }

    #[test]
    fn modules_that_name_each_other_end() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("sys/module/nvidia/holders/a")).unwrap();
        fs::create_dir_all(folder.path().join("sys/module/a/holders/a")).unwrap();
        let root = Live::open(folder.path()).unwrap();
        assert!(nvidia(&Look::new(&root)).unwrap().above.contains(&"a".to_owned()));
    }
}
