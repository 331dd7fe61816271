//! Are words on the kernel command line misspelt? The kernel does not say: an unknown word with a dot is silent.

use super::{Finding, Severity};
use crate::host::{Host, kernel};

/// Words that people get wrong, as they are right (Documentation/admin-guide/kernel-parameters.txt, and the
/// parameters of vfio-pci, pci-stub and kvm).
const WORDS: [&str; 10] = [
    "vfio-pci.ids",
    "vfio-pci.disable_vga",
    "vfio-pci.disable_idle_d3",
    "pci-stub.ids",
    "kvm.ignore_msrs",
    "intel_iommu",
    "amd_iommu",
    "gpuferry.bind",
    "gpuferry.load",
    "gpuferry.off",
];

/// Parameters that are lists of `vendor:device[:subvendor:subdevice[:class[:mask]]]`
/// (drivers/vfio/pci/vfio_pci.c, `vfio_pci_fill_ids`).
const IDS: [&str; 2] = ["vfio-pci.ids", "pci-stub.ids"];

/// A word that is nearly one of ours, or whose value the kernel would not take.
pub(super) fn misspelt(host: &Host) -> Vec<Finding> {
    let words = kernel::words(host.kernel.cmdline.as_deref().unwrap_or_default());
    words.iter().filter_map(|word| name_of(word).or_else(|| ids(word)).or_else(|| switch(word))).collect()
}

fn finding(word: &str, right: &str, cause: String) -> Finding {
    Finding::new(
        "misspelt-word",
        Severity::Warning,
        format!("`{word}` on the kernel command line does nothing"),
    )
    .seen("/proc/cmdline", word)
    .cause(cause)
    .advice(format!("write `{right}`"))
}

/// Letters and digits are those of a known word, but what stands between them is not.
fn name_of(word: &str) -> Option<Finding> {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    let bare = |text: &str| {
        text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
    };
    let meant = WORDS.iter().find(|right| bare(right) == bare(name))?;
    if kernel::same_name(meant, name) {
        return None;
    }
    let right = word.replacen(name, meant, 1);
    Some(finding(
        word,
        &right,
        format!("the kernel knows no `{name}`, and says nothing about words it does not know"),
    ))
}

fn ids(word: &str) -> Option<Finding> {
    let (name, _) = word.split_once('=')?;
    IDS.iter().find(|right| kernel::same_name(right, name))?;
    let (wrong, right) = wrong_ids(word)?;
    Some(finding(word, &right, format!("`{wrong}` is no vendor:device; ids are separated by commas")))
}

/// The first item of `NAME=ITEM,…` that is no id, and the whole as it should be.
pub(super) fn wrong_ids(word: &str) -> Option<(String, String)> {
    let (name, value) = word.split_once('=')?;
    let number =
        |text: &str| !text.is_empty() && text.len() <= 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let good = |item: &str| {
        let fields: Vec<&str> = item.split(':').collect();
        (2..=6).contains(&fields.len()) && fields.iter().all(|field| number(field))
    };
    let wrong = value.split(',').find(|item| !item.is_empty() && !good(item))?;
    let right: String =
        value.chars().map(|c| if c.is_ascii_hexdigit() || c == ':' { c } else { ',' }).collect();
    let right = right.split(',').filter(|item| !item.is_empty()).collect::<Vec<_>>().join(",");
    Some((wrong.to_owned(), format!("{name}={right}")))
}

/// `intel_iommu=1` and the like: the kernel takes `on` (drivers/iommu/intel/iommu.c, `intel_iommu_setup`).
fn switch(word: &str) -> Option<Finding> {
    let (name, value) = word.split_once('=')?;
    let no_switch = ["1", "yes", "true", "enable", "enabled", "ON", "On"].contains(&value);
    let is_it = kernel::same_name(name, "intel_iommu") && no_switch;
    is_it.then(|| finding(word, &format!("{name}=on"), format!("`{value}` is not among what {name} takes")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::desktop;

    fn on(cmdline: &str) -> Vec<Finding> {
        let mut host = desktop();
        host.kernel.cmdline = Some(cmdline.into());
        misspelt(&host)
    }

    #[test]
    fn the_right_word_is_given() {
        for (wrong, right) in [
            ("vfio-pci-ids=10de:2204", "vfio-pci.ids=10de:2204"),
            ("vfio_pci_ids=10de:2204", "vfio-pci.ids=10de:2204"),
            ("pcistub.ids=10de:2204", "pci-stub.ids=10de:2204"),
            ("vfio-pci.ids=10de:2204.10de:1aef", "vfio-pci.ids=10de:2204,10de:1aef"),
            ("vfio-pci.ids=10de:2204;10de:1aef,8086:1", "vfio-pci.ids=10de:2204,10de:1aef,8086:1"),
            ("inteliommu=on", "intel_iommu=on"),
            ("intel_iommu=1", "intel_iommu=on"),
        ] {
            let found = on(wrong);
            assert_eq!(found.len(), 1, "{wrong}");
            assert_eq!(found[0].fixes[0].text, format!("write `{right}`"));
        }
    }

    #[test]
    fn right_words_are_left_alone() {
        let fine = "vfio-pci.ids=10de:2204,10de:1aef:1458:403b vfio_pci.ids=8086:1, intel-iommu=on iommu=pt quiet \
                    intel_iommu=on,igfx_off kvm.ignore_msrs=1 gpuferry.off=1 pci-stub.ids=1:2:3:4:5:6";
        assert_eq!(on(fine), []);
        assert_eq!(on(""), []);
    }
}
