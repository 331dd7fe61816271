//! Words and tables for people, in 80 columns. Pure: a [`Host`] in, text out.

use crate::{
    host::{Function, Gpu, GpuKind, Host, Isolation, Link, Purpose, Verdict},
    pci::Address,
};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns of a terminal that nobody made wider.
pub(super) const WIDTH: usize = 80;

/// A text in at most this many columns; what is cut ends in an ellipsis.
pub(super) fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return plain(text);
    }
    let start: String = plain(text).chars().take(width.saturating_sub(1)).collect();
    format!("{}…", start.trim_end())
}

/// Without control characters: names come from devices and files that somebody else wrote.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Lines of at most 80 columns, broken at spaces and between Chinese characters, all with this indent.
pub(super) fn wrap(text: &str, indent: usize) -> String {
    let room = WIDTH - indent;
    let mut lines = vec![String::new()];
    let mut column = 0;
    let text = plain(text);
    for word in text.split(' ') {
        let mut space = usize::from(column > 0);
        for piece in pieces(word) {
            let width = piece.width();
            if column > 0 && column + space + width > room {
                lines.push(String::new());
                (column, space) = (0, 0);
            }
            if let Some(line) = lines.last_mut() {
                line.push_str(&" ".repeat(space));
                line.push_str(piece);
            }
            column += space + width;
            space = 0;
        }
    }
    lines.iter().fold(String::new(), |text, line| text + &" ".repeat(indent) + line + "\n")
}

/// Where a word may be broken: around each character of two columns, but not before a full stop or a closing mark.
fn pieces(word: &str) -> Vec<&str> {
    let is_wide = |c: char| c.width() == Some(2);
    let closes = |c: char| "，。；：、）”".contains(c);
    let mut pieces = Vec::new();
    let (mut start, mut before) = (0, None);
    for (at, c) in word.char_indices() {
        if before.is_some_and(|before| (is_wide(before) && before != '（' || is_wide(c)) && !closes(c)) {
            pieces.push(word.get(start..at).unwrap_or_default());
            start = at;
        }
        before = Some(c);
    }
    pieces.push(word.get(start..).unwrap_or_default());
    pieces
}

/// `RTX 3090 Ti`: what is printed on the box, where pci.ids has it in brackets.
pub(super) fn short_name(function: &Function) -> String {
    let Some(name) = &function.name else { return function.label() };
    let boxed = name.rsplit_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(inside, _)| inside);
    // The database gives the maker first, and long.
    let makers =
        ["[AMD/ATI] ", "[AMD] ", " Corporation ", " Co Ltd ", " Co., Ltd. ", ", Inc. ", " Ltd. ", " Inc. "];
    let chip = || makers.iter().find_map(|end| name.split_once(end)).map_or(name.as_str(), |(_, chip)| chip);
    let short = boxed.filter(|inside| *inside != "AMD/ATI" && *inside != "AMD").unwrap_or_else(chip);
    short.trim_start_matches("GeForce ").to_owned()
}

/// What kind of device, by class (pci.ids, list of classes).
pub(super) fn class_word(function: &Function) -> &'static str {
    match function.class.subclass() {
        0x0300 => "VGA",
        0x0302 => "3D",
        0x0301 | 0x0303..=0x03ff => "display",
        0x0401 | 0x0403 => "audio",
        0x0c03 => "USB",
        0x0c80 if function.vendor == Some(0x10de) => "USB-C",
        0x0108 => "NVMe",
        0x0106 => "SATA",
        0x0100..=0x0105 | 0x0107 | 0x0109..=0x01ff => "storage",
        0x0280 => "wireless",
        0x0200..=0x027f | 0x0281..=0x02ff => "network",
        0x0600 => "host bridge",
        0x0601 => "LPC",
        0x0604 => "PCI bridge",
        0x0c05 => "SMBus",
        0x0c80 => "SPI",
        _ => "device",
    }
}

/// What the host uses a card for, in a few words.
pub(super) fn used_for(host: &Host, gpu: &Gpu) -> String {
    let driver = host.function(gpu.address).and_then(|function| function.driver.as_deref());
    if driver == Some("vfio-pci") {
        return "kept for guests".to_owned();
    }
    let on_screen = gpu.displays.iter().flatten().take(2).cloned().collect::<Vec<_>>().join(", ");
    let framebuffer = host.framebuffers.iter().any(|framebuffer| framebuffer.function == Some(gpu.address));
    match (on_screen.is_empty(), framebuffer, gpu.boot_vga) {
        (false, _, Some(true)) => format!("your display ({on_screen})"),
        (false, _, _) => format!("a display ({on_screen})"),
        (true, _, _) if gpu.kind == GpuKind::Management => "remote management".to_owned(),
        (true, _, Some(true)) => "boot card".to_owned(),
        (true, true, _) => "a console".to_owned(),
        (true, false, _) if driver.is_none() && host.drivers_told => "free".to_owned(),
        // No driver is told, or no connector.
        (true, false, _) if driver.is_none() || gpu.displays.is_none() => String::new(),
        (true, false, _) => "no display".to_owned(),
    }
}

/// What the host uses a function for, where that is known: mounts, swap, network.
pub(super) fn holds(host: &Host, address: Address) -> Option<String> {
    let below = |function: Option<Address>| function == Some(address);
    let disks = host.storage.iter().flatten().filter(|disk| below(disk.function));
    let mut parts: Vec<String> = Vec::new();
    for disk in disks {
        let uses = disk.uses.iter().map(|of| match &of.purpose {
            Purpose::Mount { at } => at.clone(),
            Purpose::Swap => "swap".to_owned(),
            Purpose::Member { of } => format!("part of {of}"),
        });
        let uses: Vec<String> = uses.take(3).collect();
        let of = if uses.is_empty() { "free".to_owned() } else { uses.join(", ") };
        parts.push(format!("{}: {of}", disk.name));
    }
    for interface in host.network.iter().flatten().filter(|interface| below(interface.function)) {
        let addresses = if interface.addresses.is_empty() {
            "no address".to_owned()
        } else {
            interface.addresses.join(", ")
        };
        let route = if interface.default_route { ", default route" } else { "" };
        parts.push(format!("{}: {addresses}{route}", interface.name));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// `PCIe 8.0 GT/s x8 of 16.0 GT/s x16`.
pub(super) fn link_words(link: &Link) -> Option<String> {
    let half = |speed: Option<f64>, width: Option<u8>| Some(format!("{:.1} GT/s x{}", speed?, width?));
    let now = half(link.speed_gts, link.width);
    let most = half(link.max_speed_gts, link.max_width);
    match (now, most) {
        (Some(now), Some(most)) if now != most => Some(format!("{now} of {most}")),
        (Some(now), _) => Some(now),
        (None, most) => most.map(|most| format!("at most {most}")),
    }
}

/// A verdict as a person would say it.
pub(super) fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ready => "ready",
        Verdict::Possible => "possible",
        Verdict::Blocked => "blocked",
        Verdict::Unknown => "not known",
    }
}

/// A kind as a person would say it.
pub(super) fn kind_word(kind: GpuKind) -> &'static str {
    match kind {
        GpuKind::Discrete => "a card of its own",
        GpuKind::Integrated => "part of the processor or chipset",
        GpuKind::Management => "the management controller's",
        GpuKind::Virtual => "emulated",
        GpuKind::Unknown => "not known",
    }
}

/// `group 17`, or that there is none.
pub(super) fn group_word(host: &Host, gpu: &Gpu) -> String {
    let group = host.function(gpu.address).and_then(|function| function.iommu_group);
    match (group, gpu.isolation) {
        (Some(group), Isolation::Shared) => format!("group {group}*"),
        (Some(group), _) => format!("group {group}"),
        (None, _) => "no group".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::*;

    #[test]
    fn lines_fit() {
        assert_eq!(fit("abcdef", 6), "abcdef");
        assert_eq!(fit("abc defg", 5), "abc…");
        assert_eq!(fit("a\x1b[31m\nb", 80), "a?[31m?b");
        let wrapped = wrap(&"word ".repeat(60), 4);
        assert!(wrapped.lines().all(|line| line.chars().count() <= WIDTH && line.starts_with("    ")));
        assert_eq!(wrap("", 2), "  \n");
    }

    #[test]
    fn chinese_is_broken_by_columns() {
        let text =
            "把卡换到另一个插槽：直连处理器的插槽通常各自成组，".repeat(4) + "0000:01:00.0（NVMe 控制器）";
        let wrapped = wrap(&text, 4);
        assert!(wrapped.lines().all(|line| line.width() <= WIDTH), "{wrapped}");
        assert!(wrapped.lines().all(|line| !line.trim_start().starts_with(['，', '：', '）'])), "{wrapped}");
        assert!(wrapped.lines().next().unwrap().width() > WIDTH - 4, "{wrapped}");
        assert_eq!(wrapped.split_whitespace().collect::<String>(), text.replace(' ', ""), "nothing is lost");
    }

    #[test]
    fn names_as_on_the_box() {
        let mut card = function("01:00.0", "030000", "10de:2203");
        assert_eq!(short_name(&card), "[10de:2203]");
        card.name = Some("NVIDIA Corporation GA102 [GeForce RTX 3090 Ti]".into());
        assert_eq!(short_name(&card), "RTX 3090 Ti");
        card.name = Some("Advanced Micro Devices, Inc. [AMD/ATI] Raphael".into());
        assert_eq!(short_name(&card), "Raphael");
        card.name = Some("Intel Corporation device 1234".into());
        assert_eq!(short_name(&card), "device 1234");
    }

    #[test]
    fn links_in_words() {
        let link =
            |width| Link { speed_gts: Some(16.0), width, max_speed_gts: Some(16.0), max_width: Some(16) };
        assert_eq!(link_words(&link(Some(16))).unwrap(), "16.0 GT/s x16");
        assert_eq!(link_words(&link(Some(8))).unwrap(), "16.0 GT/s x8 of 16.0 GT/s x16");
        assert_eq!(link_words(&link(None)).unwrap(), "at most 16.0 GT/s x16");
    }
}
