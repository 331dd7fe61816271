//! What config space and its neighbours in sysfs say of a function, as titles and values.

use crate::host::{Function, RegionKind, config::Setting};

/// Titles and values; what is not known is left out.
pub(in crate::cli) fn lines(function: &Function) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let config = function.config.as_ref();
    let mut title = "memory";
    // Registers of less than a MiB are of no interest to a person.
    let large = function
        .regions
        .iter()
        .flatten()
        .filter(|region| region.kind == RegionKind::Memory && region.size >> 20 > 0);
    for region in large.filter(|region| region.index < 6) {
        let resizable = config.and_then(|config| {
            config.resizable.iter().find(|one| u32::from(one.bar) == u32::from(region.index))
        });
        let most = resizable.and_then(|one| one.sizes.last()).filter(|most| **most > region.size);
        let most = most.map_or_else(String::new, |most| format!(", up to {} possible", size(*most)));
        let place = if region.start >> 32 > 0 { ", above 4 GiB" } else { "" };
        lines.push((title, format!("region {}: {}{most}{place}", region.index, size(region.size))));
        title = "";
    }
    if let Some(methods) = &function.reset_methods {
        let words =
            if methods.is_empty() { "no way to reset it alone".to_owned() } else { methods.join(", ") };
        lines.push(("reset", words));
    } else if let Some(flr) = config.and_then(|config| config.flr) {
        lines.push(("reset", if flr { "flr" } else { "no flr" }.to_owned()));
    }
    if config.is_some_and(|config| !config.answers) {
        lines.push(("config", "all bytes are ff: the device is off the bus".to_owned()));
    }
    if let Some(power) = function.power.as_deref().filter(|power| *power != "D0") {
        let unread = if config.is_none() { ": asleep, and left so (--wake reads more)" } else { "" };
        lines.push(("power", format!("{power}{unread}")));
    }
    if function.d3cold_allowed == Some(false) {
        lines.push(("", "its power is never cut (d3cold_allowed is 0)".to_owned()));
    }
    lines
}

/// What a bridge is, in a word or two.
pub(super) fn bridge_word(function: &Function) -> Option<&'static str> {
    use crate::host::config::PortKind;
    let kind = function.config.as_ref()?.express.as_ref()?.kind;
    match kind {
        PortKind::RootPort => Some("root port"),
        PortKind::Upstream => Some("switch"),
        PortKind::Downstream => Some("switch port"),
        PortKind::PcieToPci => Some("to PCI"),
        PortKind::PciToPcie => Some("to PCIe"),
        _ => None,
    }
}

/// Access control of a port, where it was told.
pub(super) fn acs_word(function: &Function) -> Option<&'static str> {
    use crate::host::config::PortKind;
    let config = function.config.as_ref()?;
    let port = matches!(
        config.express.as_ref()?.kind,
        PortKind::RootPort | PortKind::Downstream | PortKind::Upstream
    );
    match config.acs.setting() {
        _ if !port => None,
        Setting::On => Some("ACS on"),
        Setting::Off => Some("ACS off"),
        Setting::Missing => Some("no ACS"),
        Setting::Unknown => None,
    }
}

/// `256 MiB`, `32 GiB`: sizes of regions are powers of two.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes >> 30 > 0 => format!("{} GiB", bytes >> 30),
        _ if bytes >> 20 > 0 => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{
        Region,
        config::{Acs, PortKind, Resizable},
        testing::*,
    };

    #[test]
    fn a_card_that_could_show_more_memory() {
        let mut card = express("01:00.0", "030000", "10de:2204", PortKind::LegacyEndpoint, Acs::Missing);
        let region = |index, size| Region {
            index,
            start: 0x40_0000_0000,
            size,
            kind: RegionKind::Memory,
            wide: true,
            prefetch: true,
            resizable: false,
        };
        card.regions =
            Some(vec![region(1, 256 << 20), region(3, 32 << 20), region(0, 4096), region(6, 1 << 20)]);
        card.config.as_mut().unwrap().resizable =
            vec![Resizable { bar: 1, size: 256 << 20, sizes: vec![256 << 20, 32 << 30] }];
        card.reset_methods = Some(vec!["bus".into()]);
        card.power = Some("D3hot".into());
        assert_eq!(
            lines(&card),
            [
                ("memory", "region 1: 256 MiB, up to 32 GiB possible, above 4 GiB".to_owned()),
                ("", "region 3: 32 MiB, above 4 GiB".to_owned()),
                ("reset", "bus".to_owned()),
                ("power", "D3hot".to_owned()),
            ]
        );
        card.config = None;
        assert!(lines(&card).last().unwrap().1.contains("--wake"));
    }
}
