//! What is shown where: frame buffers, and the back ends of the virtual terminals.

use super::{Console, Framebuffer, look::Look};

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
