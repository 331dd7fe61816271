//! How the running kernel was built: the options that passing a card needs or that draw on the screen early.
//!
//! First source: the kernel's own /proc/config.gz, or the file that the distribution put beside it. Second, for what
//! is built as a module: the list of what is built in, and the module's file.

use super::look::Look;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io::Read};

/// How an option of the kernel is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// In the kernel itself.
    BuiltIn,
    /// As a module.
    Module,
    /// Not there.
    No,
}

/// Options by name, without `CONFIG_`. What is not in it is not known.
pub type KernelOptions = BTreeMap<String, Setting>;

/// Options that are looked for, and the module of those that can be one.
const OPTIONS: [(&str, Option<&str>); 28] = [
    ("VFIO", Some("vfio")),
    ("VFIO_PCI", Some("vfio-pci")),
    ("VFIO_IOMMU_TYPE1", Some("vfio_iommu_type1")),
    ("VFIO_PCI_VGA", None),
    ("VFIO_DEVICE_CDEV", None),
    ("IOMMUFD", Some("iommufd")),
    ("PCI_STUB", Some("pci-stub")),
    ("IOMMU_SUPPORT", None),
    ("INTEL_IOMMU", None),
    ("INTEL_IOMMU_DEFAULT_ON", None),
    ("AMD_IOMMU", None),
    ("IRQ_REMAP", None),
    ("IOMMU_DEFAULT_PASSTHROUGH", None),
    ("IOMMU_DEFAULT_DMA_STRICT", None),
    ("KVM", Some("kvm")),
    ("KVM_INTEL", Some("kvm-intel")),
    ("KVM_AMD", Some("kvm-amd")),
    ("SYSFB", None),
    ("SYSFB_SIMPLEFB", None),
    ("DRM_SIMPLEDRM", Some("simpledrm")),
    ("FB_EFI", None),
    ("FB_VESA", None),
    ("FB_SIMPLE", Some("simplefb")),
    ("FRAMEBUFFER_CONSOLE", None),
    ("VGA_SWITCHEROO", None),
    ("MODULE_SIG_FORCE", None),
    ("SECURITY_LOCKDOWN_LSM", None),
    ("MODULES", None),
];

/// The options of the running kernel. `None`: no source tells.
pub(super) fn options(look: &Look, release: Option<&str>) -> Option<KernelOptions> {
    // A release is a name, never a way out of the folder.
    let release = release.filter(|release| !release.contains('/') && !release.starts_with('.'));
    if let Some(text) = config(look, release) {
        return Some(parse(&text));
    }
    let release = release?;
    let builtin = look.text_quietly(&format!("/lib/modules/{release}/modules.builtin"))?;
    let dependencies = look.text_quietly(&format!("/lib/modules/{release}/modules.dep"));
    Some(by_modules(&builtin, dependencies.as_deref()))
}

/// The largest configuration that is unpacked, in bytes; real ones have 300 KiB.
const MAX_CONFIG: u64 = 4 << 20;

fn config(look: &Look, release: Option<&str>) -> Option<String> {
    if let Ok(packed) = look.root.read(std::path::Path::new("/proc/config.gz")) {
        let mut text = Vec::new();
        if flate2::read::GzDecoder::new(&packed[..]).take(MAX_CONFIG).read_to_end(&mut text).is_ok() {
            return Some(String::from_utf8_lossy(&text).into_owned());
        }
    }
    let release = release?;
    let places = [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")];
    places.iter().find_map(|place| look.text_quietly(place))
}

/// Lines that a whole configuration has at least; distributions' have some ten thousand.
const WHOLE: usize = 500;

/// Lines `CONFIG_VFIO=m`, `# CONFIG_X is not set`. In a whole configuration, what is not named is not there: its
/// conditions are not met.
fn parse(text: &str) -> KernelOptions {
    let mut found: BTreeMap<&str, Setting> = BTreeMap::new();
    let mut lines = 0;
    for line in text.lines() {
        let named = line.strip_prefix("# CONFIG_").and_then(|rest| rest.strip_suffix(" is not set"));
        let set = line.strip_prefix("CONFIG_").and_then(|rest| rest.split_once('='));
        let (name, setting) = match (named, set) {
            (Some(name), _) => (name, Some(Setting::No)),
            (None, Some((name, "y"))) => (name, Some(Setting::BuiltIn)),
            (None, Some((name, "m"))) => (name, Some(Setting::Module)),
            (None, Some((name, _))) => (name, None),
            (None, None) => continue,
        };
        lines += 1;
        if let Some(setting) = setting.filter(|_| OPTIONS.iter().any(|(wanted, _)| *wanted == name)) {
            found.insert(name, setting);
        }
    }
    let of = |name: &str| found.get(name).copied().or((lines >= WHOLE).then_some(Setting::No));
    OPTIONS.iter().filter_map(|(name, _)| Some(((*name).to_owned(), of(name)?))).collect()
}

/// From the names of modules: `kernel/drivers/vfio/vfio.ko` in modules.builtin, `….ko.zst: …` in modules.dep. A name
/// in neither is not there only where both lists were read.
fn by_modules(builtin: &str, dependencies: Option<&str>) -> KernelOptions {
    let named = |list: &str, module: &str| {
        list.lines().any(|line| {
            let path = line.split(':').next().unwrap_or_default();
            let name = path.rsplit('/').next().and_then(|file| file.split('.').next());
            name.is_some_and(|name| super::kernel::same_name(name, module))
        })
    };
    let setting = |module: &str| match dependencies {
        _ if named(builtin, module) => Some(Setting::BuiltIn),
        Some(list) if named(list, module) => Some(Setting::Module),
        Some(_) => Some(Setting::No),
        None => None,
    };
    let found = OPTIONS.iter().filter_map(|(name, module)| Some(((*name).to_owned(), setting((*module)?)?)));
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::Tree;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    const CONFIG: &str = "#\n# Linux/x86 6.12\n#\nCONFIG_MODULES=y\nCONFIG_VFIO=m\nCONFIG_VFIO_PCI=m\n# CONFIG_IOMMUFD is not set\nCONFIG_INTEL_IOMMU=y\nCONFIG_LOG_BUF_SHIFT=17\n";

    #[test]
    fn options_of_a_configuration() {
        let found = parse(CONFIG);
        assert_eq!(found["VFIO_PCI"], Setting::Module);
        assert_eq!(found["INTEL_IOMMU"], Setting::BuiltIn);
        assert_eq!(found["IOMMUFD"], Setting::No);
        assert_eq!(found.get("DRM_SIMPLEDRM"), None, "it may be torn off");
        let whole = CONFIG.to_owned() + &"# CONFIG_X is not set\n".repeat(WHOLE);
        assert_eq!(parse(&whole)["DRM_SIMPLEDRM"], Setting::No, "not named in a whole one");
        assert!(parse("garbage\nCONFIG_X=1\n").is_empty(), "that is no configuration");
    }

    #[test]
    fn the_running_kernels_own_comes_first() {
        let mut tree = Tree::new();
        tree.file("/boot/config-6.12", CONFIG);
        let look = Look::new(&tree);
        assert_eq!(options(&look, Some("6.12")).unwrap()["VFIO"], Setting::Module);
        assert_eq!(options(&look, Some("../6.12")), None);
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(CONFIG.replace("VFIO=m", "VFIO=y").as_bytes()).unwrap();
        let packed = packed.finish().unwrap();
        tree.file("/proc/config.gz", &packed);
        assert_eq!(options(&Look::new(&tree), Some("6.12")).unwrap()["VFIO"], Setting::BuiltIn);
        tree.file("/proc/config.gz", &packed[..packed.len() / 2]);
        assert_eq!(options(&Look::new(&tree), Some("6.12")).unwrap()["VFIO"], Setting::Module, "a torn one");
    }

    #[test]
    fn the_lists_of_modules_are_the_second_source() {
        let mut tree = Tree::new();
        tree.file(
            "/lib/modules/6.12/modules.builtin",
            "kernel/drivers/pci/pci-stub.ko\nkernel/arch/x86/kvm/kvm.ko\n",
        );
        let of = |tree: &Tree| options(&Look::new(tree), Some("6.12")).unwrap();
        assert_eq!(of(&tree).get("PCI_STUB"), Some(&Setting::BuiltIn));
        assert_eq!(of(&tree).get("VFIO"), None, "without the other list it is not known");
        tree.file(
            "/lib/modules/6.12/modules.dep",
            "kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/drivers/vfio/vfio.ko.xz\n",
        );
        assert_eq!(of(&tree)["VFIO_PCI"], Setting::Module);
        assert_eq!(of(&tree)["VFIO"], Setting::No, "a line is one module's");
        assert!(!of(&tree).contains_key("INTEL_IOMMU"), "no module tells of that");
    }
}
