//! What goes dark on the host while a card is lent.

use super::{Finding, Severity};
use crate::host::{Gpu, GpuKind, Host};

/// What a card shows now, in words: connectors with their monitors, the text console, the sessions on them. Empty:
/// nothing that is known.
pub fn goes_dark(host: &Host, gpu: &Gpu) -> Vec<String> {
    let mut dark = Vec::new();
    let connectors = host.connectors(gpu.address).unwrap_or_default().into_iter();
    dark.extend(
        connectors.filter(|connector| connector.connected == Some(true)).map(crate::host::Connector::shown),
    );
    if dark.is_empty() {
        dark.extend(gpu.displays.iter().flatten().cloned());
    }
    let framebuffer = host.framebuffers.iter().any(|framebuffer| framebuffer.function == Some(gpu.address));
    // Terminals are drawn by the back end of frame buffers, which draws into any of them (drivers/video/fbdev/core/fbcon.c).
    let console = host.consoles.iter().any(|console| console.bound && console.name.contains("frame buffer"));
    if framebuffer && console {
        let lost = crate::host::loses_console(host, &gpu.functions);
        let words = if lost {
            "the text console (the firmware's: it is back only with a reboot)"
        } else {
            "the text console"
        };
        dark.push(words.to_owned());
    }
    // Who only draws with it, for displays on another card, goes on drawing.
    if dark.is_empty() && host.connectors(gpu.address).is_some() {
        return dark;
    }
    let functions = gpu.functions.iter().filter_map(|own| host.function(*own));
    let holders = functions.flat_map(|function| function.holders.iter().flatten());
    for session in
        holders.filter_map(|holder| holder.session.as_ref()).filter(|session| session.is_graphical())
    {
        let shown = session.shown();
        if !dark.contains(&shown) {
            dark.push(shown);
        }
    }
    dark
}

/// The same as a sentence: also for the processor's graphics of which no driver tells the outputs. `None`: nothing
/// goes dark that is known.
pub fn in_words(host: &Host, gpu: &Gpu) -> Option<String> {
    let dark = goes_dark(host, gpu);
    if !dark.is_empty() {
        return Some(format!("while it is lent, this goes dark: {}", dark.join(", ")));
    }
    let told = host.connectors(gpu.address).is_some();
    let kept = host
        .function(gpu.address)
        .is_some_and(|own| own.driver.as_deref().is_some_and(|d| super::driver::KEEPERS.contains(&d)));
    let inside = gpu.kind == GpuKind::Integrated;
    (inside && !told && !kept)
        .then(|| "while it is lent, the panel and every output of the board go dark".to_owned())
}

/// For the processor's graphics and for an only card. The boot card has a finding of its own, which says this too.
pub(super) fn dark(host: &Host) -> Vec<Finding> {
    let only = host.gpus.len() == 1;
    let cards = host.gpus.iter().filter(|gpu| gpu.kind != GpuKind::Management);
    let cards =
        cards.filter(|gpu| only || gpu.kind == GpuKind::Integrated || !goes_dark(host, gpu).is_empty());
    cards
        .filter(|gpu| !super::boot_card::applies(host, gpu))
        .filter_map(|gpu| finding(host, gpu, only))
        .collect()
}

fn finding(host: &Host, gpu: &Gpu, only: bool) -> Option<Finding> {
    let words = in_words(host, gpu)?;
    let words = words.strip_prefix("while it is lent, ")?;
    // Beside another card it is how it should be: good to know, no more.
    let severity = if only { Severity::Warning } else { Severity::Info };
    let mut finding = Finding::new("goes-dark", severity, format!("while {} is lent, {words}", gpu.address))
        .on(gpu.address);
    for connector in host.connectors(gpu.address).unwrap_or_default() {
        if connector.connected == Some(true) {
            finding = finding.seen("/sys/class/drm", connector.shown());
        }
    }
    let cause = match (only, gpu.kind) {
        (true, _) => "it is the only card: nothing else shows the host",
        (false, GpuKind::Integrated) => "it is the processor's graphics, and the board's outputs are its",
        (false, _) => "displays hang on this card",
    };
    let finding = finding.cause(cause);
    Some(if only {
        finding.advice("have another way in before it is lent: ssh from another machine, or a serial line")
    } else {
        finding.advice("lend another card, or put a display on another one first")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Connector, Console, DrmCard, Framebuffer, Holder, Session, testing::*};

    fn laptop() -> Host {
        let mut host = desktop();
        host.functions.insert(0, driven("00:02.0", "030000", "8086:a780", "i915", 0));
        let connector = |name: &str, connected: bool| Connector {
            name: name.into(),
            connected: Some(connected),
            enabled: None,
            monitor: None,
        };
        let connectors = vec![connector("HDMI-A-1", false), connector("eDP-1", true)];
        host.drm_cards = Some(vec![DrmCard {
            name: "card0".into(),
            function: Some(at("00:02.0")),
            platform: None,
            connectors,
        }]);
        host.framebuffers =
            vec![Framebuffer { index: 0, name: "i915drmfb".into(), function: Some(at("00:02.0")) }];
        host.consoles = vec![Console { index: 1, name: "(M) frame buffer device".into(), bound: true }];
        host.functions.iter_mut().for_each(|function| function.boot_vga = None);
        host.gpus = crate::host::gpu::gpus(&host);
        host
    }

    #[test]
    fn the_panel_the_console_and_the_session() {
        let mut host = laptop();
        let gpu = host.gpu(at("00:02.0")).unwrap().clone();
        assert_eq!(goes_dark(&host, &gpu), ["eDP-1", "the text console"]);
        let session = Session {
            id: "3".into(),
            user: Some("ring".into()),
            uid: None,
            seat: None,
            kind: Some("wayland".into()),
            class: None,
            desktop: None,
            display: None,
            tty: None,
            service: None,
            leader: None,
            active: true,
            remote: false,
            devices: vec![],
        };
        let holder = Holder {
            session: Some(session),
            ..Holder::new(7, "sway", "ring", vec!["/dev/dri/card0".into()])
        };
        host.functions[0].holders = Some(vec![holder.clone(), holder]);
        assert_eq!(goes_dark(&host, &gpu)[2..], ["session 3 of ring (wayland)"]);
        let mut beside = host.clone();
        beside.drm_cards.iter_mut().flatten().for_each(|card| card.connectors.truncate(1));
        beside.consoles.clear();
        beside.gpus[0].displays = None;
        assert!(goes_dark(&beside, &beside.gpus[0]).is_empty(), "it shows nothing");
        host.consoles[0].bound = false;
        assert_eq!(
            in_words(&host, &gpu).unwrap(),
            "while it is lent, this goes dark: eDP-1, session 3 of ring (wayland)"
        );
    }

    #[test]
    fn an_integrated_card_is_not_offered_without_a_word() {
        let mut host = laptop();
        let found = dark(&host);
        assert_eq!(
            (found.len(), found[0].severity, found[0].device),
            (1, Severity::Info, Some(at("00:02.0")))
        );
        assert!(found[0].title.contains("goes dark: eDP-1"), "{}", found[0].title);
        host.gpus.retain(|gpu| gpu.address == at("00:02.0"));
        assert_eq!(dark(&host)[0].severity, Severity::Warning);
        host.drm_cards = None;
        host.framebuffers.clear();
        host.gpus[0].displays = None;
        assert!(dark(&host)[0].title.ends_with("the panel and every output of the board go dark"));
        host.functions[0].driver = Some("vfio-pci".into());
        assert_eq!(dark(&host), [], "it is lent already");
        assert_eq!(dark(&desktop()), [], "the boot card has its own finding");
    }
}
