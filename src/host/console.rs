//! What is shown where: frame buffers, the back ends of the virtual terminals, connectors with a display.

use super::{Console, Framebuffer, look::Look};
use crate::pci::Address;
use std::collections::BTreeMap;

/// Frame buffers, by number (/sys/class/graphics/fbN).
pub(super) fn framebuffers(look: &Look) -> Vec<Framebuffer> {
    let names = look.list("/sys/class/graphics").unwrap_or_default();
    let mut found: Vec<Framebuffer> = names
        .iter()
        .filter_map(|name| {
            let index = name.strip_prefix("fb")?.parse().ok()?;
            let folder = format!("/sys/class/graphics/{name}");
            let of_driver = look.text(&format!("{folder}/name")).unwrap_or_default();
            Some(Framebuffer { index, name: of_driver, function: look.function_of(&folder) })
        })
        .collect();
    found.sort_by_key(|framebuffer| framebuffer.index);
    found
}

/// Terminal back ends, by number (/sys/class/vtconsole/vtconN; Documentation/fb/fbcon.rst).
pub(super) fn consoles(look: &Look) -> Vec<Console> {
    let names = look.list("/sys/class/vtconsole").unwrap_or_default();
    let mut found: Vec<Console> = names
        .iter()
        .filter_map(|name| {
            let index = name.strip_prefix("vtcon")?.parse().ok()?;
            let at = |attribute: &str| look.text(&format!("/sys/class/vtconsole/{name}/{attribute}"));
            Some(Console { index, name: at("name").unwrap_or_default(), bound: at("bind")? == "1" })
        })
        .collect();
    found.sort_by_key(|console| console.index);
    found
}

/// Connectors with a display on them, for each function that has a DRM driver. `status` is what the driver saw last;
/// reading it looks at nothing anew (drivers/gpu/drm/drm_sysfs.c, `status_show`).
pub(super) fn displays(look: &Look) -> BTreeMap<Address, Vec<String>> {
    let names = look.list("/sys/class/drm").unwrap_or_default();
    let mut found: BTreeMap<Address, Vec<String>> = BTreeMap::new();
    for name in names.iter().filter(|name| name.starts_with("card")) {
        let folder = format!("/sys/class/drm/{name}");
        let Some(function) = look.function_of(&folder) else { continue };
        let connectors = found.entry(function).or_default();
        let Some((_, connector)) = name.split_once('-') else { continue };
        if look.text(&format!("{folder}/status")).as_deref() == Some("connected") {
            connectors.push(connector.to_owned());
        }
    }
    found
}
