//! The first screen: the machine, its cards, the one thing that stands in the way, and what to do next.

use super::render::{WIDTH, fit, group_word, short_name, used_for, wrap};
use crate::{
    host::{ChassisKind, Gpu, GpuKind, Host, InitramfsTool, Known, Loader, Mux, Verdict, Virtualization},
    judge::{self, Finding, Severity},
    language::Language,
};
use std::fmt::Write;
use unicode_width::UnicodeWidthStr;

/// The whole screen. The next command is the last thing on it.
pub(super) fn screen(host: &Host, language: Language) -> String {
    let mut text = machine(host);
    text.push_str(&cards(host));
    for sentence in &host.unseen {
        text.push_str(&wrap(&language.say(&format!("Not seen: {sentence}")), 1));
    }
    if !host.unseen.is_empty() {
        text.push('\n');
    }
    text.push_str(&next(host, language));
    text
}

/// The machine in two lines, and what its IOMMU does.
pub(super) fn machine(host: &Host) -> String {
    let parts = [
        host.cpu.model.clone(),
        (host.chassis.kind == ChassisKind::Laptop).then(|| "laptop".to_owned()),
        host.kernel.release.as_ref().map(|release| format!("Linux {release}")),
        host.boot.distribution.clone(),
        host.boot.loader.map(|loader| loader_word(loader).to_owned()),
        host.boot.initramfs.map(|tool| initramfs_word(tool).to_owned()),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let mut text = if parts.is_empty() { String::new() } else { wrap(&parts.join(" · "), 1) + "\n" };
    let virtualization = match host.cpu.virtualization {
        Virtualization::Vmx => "on (vmx)",
        Virtualization::Svm => "on (svm)",
        Virtualization::None => "off",
        Virtualization::Unknown => "not known",
    };
    let mut iommu = match host.iommu.state {
        Known::On => "on".to_owned(),
        Known::Off => "off".to_owned(),
        Known::Unknown => "not known".to_owned(),
    };
    if host.iommu.state == Known::On {
        match host.iommu.interrupt_remapping {
            Some(true) => iommu.push_str(", interrupt remapping"),
            Some(false) => iommu.push_str(", no interrupt remapping"),
            None => {}
        }
        let plural = if host.groups.len() == 1 { "" } else { "s" };
        let _ = write!(iommu, ", {} group{plural}", host.groups.len());
    }
    let _ = writeln!(text, " Virtualization  {virtualization:<18}IOMMU  {iommu}\n");
    text
}

fn loader_word(loader: Loader) -> &'static str {
    match loader {
        Loader::GrubDebian | Loader::Grub => "GRUB",
        Loader::SystemdBoot => "systemd-boot",
        Loader::Other => "another boot loader",
    }
}

fn initramfs_word(tool: InitramfsTool) -> &'static str {
    match tool {
        InitramfsTool::InitramfsTools => "initramfs-tools",
        InitramfsTool::Dracut => "dracut",
        InitramfsTool::Mkinitcpio => "mkinitcpio",
        InitramfsTool::Booster => "booster",
    }
}

/// A line for each card.
pub(super) fn cards(host: &Host) -> String {
    if host.gpus.is_empty() {
        return String::new();
    }
    let best = best(host).map(|gpu| gpu.address);
    let mut text = " GPUs\n".to_owned();
    for gpu in &host.gpus {
        let Some(function) = host.function(gpu.address) else { continue };
        let driver = host.driver_word(function);
        let mark =
            if best == Some(gpu.address) && gpu.verdict == Verdict::Ready { "  ← can go" } else { "" };
        let line = format!(
            "   {}  {:<20} {:<10} {:<10} {}{mark}",
            gpu.address,
            fit(&short_name(function), 20),
            fit(driver, 10),
            group_word(host, gpu),
            used_for(host, gpu),
        );
        let _ = writeln!(text, "{}", fit(line.trim_end(), WIDTH));
    }
    if host.gpus.iter().any(|gpu| !gpu.companions.is_empty()) {
        text.push_str("   * shares its group with other devices: gpuferry inspect groups\n");
    }
    text.push('\n');
    text
}

/// The card that could go with the least trouble.
fn best(host: &Host) -> Option<&Gpu> {
    let weight = |gpu: &&Gpu| {
        let verdict = match gpu.verdict {
            Verdict::Ready => 0,
            Verdict::Possible => 1,
            Verdict::Unknown => 2,
            Verdict::Blocked => 3,
        };
        let kind = match gpu.kind {
            GpuKind::Discrete => 0,
            GpuKind::Virtual | GpuKind::Unknown => 1,
            GpuKind::Integrated => 2,
            GpuKind::Management => 3,
        };
        let shows = gpu.displays.as_ref().is_some_and(|displays| !displays.is_empty());
        (verdict, kind, gpu.boot_vga == Some(true), shows)
    };
    host.gpus.iter().min_by_key(weight)
}

/// What stands in the way or that nothing does, and the command for it.
pub(super) fn next(host: &Host, language: Language) -> String {
    let Some(gpu) = best(host) else {
        let none = language.say("No graphics card is seen here.");
        return format!(" {none}\n   {}    gpuferry inspect devices\n", language.say("every device"));
    };
    let address = gpu.address;
    let commands = |lines: &[(&str, String)]| {
        lines.iter().fold(String::new(), |text, (what, command)| {
            let what = language.say(what);
            let room = " ".repeat(36_usize.saturating_sub(what.width()));
            let line = format!("   {what}{room} {command}");
            text + &if line.width() >= WIDTH { format!("   {what}\n      {command}\n") } else { line + "\n" }
        })
    };
    let live = ("try it now, until you take it back", format!("gpuferry detach {address}"));
    let stay = ("keep it for guests from boot on", format!("gpuferry plan static --gpu {address}"));
    match gpu.verdict {
        Verdict::Ready => {
            let driver = host.function(address).and_then(|function| function.driver.as_deref());
            if driver == Some("vfio-pci") {
                let run = ("start a guest with it", format!("gpuferry vm run --gpu {address} …"));
                let kept = language.say(&format!("{address} is kept for guests."));
                return format!(" {kept}\n{}", commands(&[run]));
            }
            let state = match used_for(host, gpu).as_str() {
                "free" => "Nothing uses it.".to_owned(),
                "no display" => "No display is on it.".to_owned(),
                // Who has it open stands below.
                "" if host.function(address).is_some_and(|own| own.holders.is_some()) => String::new(),
                "" => "What uses it is not told.".to_owned(),
                used => format!("It is in use now: {used}."),
            };
            let ready = language.say(&format!("Ready to lend {address} to a guest."));
            let first = wrap(format!("{ready} {}", language.say(&state)).trim_end(), 1);
            format!("{first}{}{}", wants(host, gpu, language), commands(&[live, stay]))
        }
        Verdict::Possible | Verdict::Blocked | Verdict::Unknown => {
            let in_the_way = obstacle(host, gpu);
            let title =
                in_the_way.as_ref().map_or("Too little is known to say more.", |finding| &finding.title);
            let first = in_the_way.as_ref().and_then(|finding| finding.fixes.first());
            let mut text = wrap(&language.say(&format!("{}.", title.trim_end_matches('.'))), 1);
            if let Some(fix) = first {
                text.push_str(&wrap(&language.say(&fix.text), 3));
            }
            let command = first.and_then(|fix| fix.command.clone());
            let doctor = ("why, and what else helps", "gpuferry doctor".to_owned());
            match command {
                Some(command) => text.push_str(&commands(&[doctor, ("do it", command)])),
                None => text.push_str(&commands(&[doctor])),
            }
            text
        }
    }
}

/// What a person should know before the card goes: what goes dark, how the picture comes back, who else is after it.
fn wants(host: &Host, gpu: &Gpu, language: Language) -> String {
    let mut sentences = Vec::new();
    sentences.extend(judge::in_words(host, gpu).map(|dark| {
        let mut letters = dark.chars();
        letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
    }));
    if gpu.kind == GpuKind::Discrete {
        sentences.extend(host.mux.map(|mux| mux_words(mux).to_owned()));
    }
    let own = gpu.functions.iter().filter_map(|own| host.function(*own));
    let mut users: Vec<String> = Vec::new();
    for holder in own.flat_map(|own| own.holders.iter().flatten()) {
        let name = match (&holder.via, &holder.guest) {
            (None, None) => holder.process.clone(),
            _ => holder.shown(),
        };
        if !users.contains(&name) {
            users.push(name);
        }
    }
    if !users.is_empty() {
        let more = if users.len() > 4 { format!(" and {} more", users.len() - 4) } else { String::new() };
        users.truncate(4);
        sentences.push(format!("It is held by {}{more} (gpuferry inspect gpus)", users.join(", ")));
    }
    let taken = host.domains.iter().flatten().filter(|domain| domain.devices.contains(&gpu.address));
    for domain in taken {
        let when = match (domain.running, domain.autostart) {
            (true, _) => "has it now",
            (false, true) => "takes it when the machine starts",
            (false, false) => "takes it when it starts",
        };
        sentences.push(format!("The guest {} {when}", domain.name));
    }
    let others: Vec<String> =
        judge::managers_of(host, gpu.address).into_iter().map(crate::host::Manager::place).collect();
    if !others.is_empty() {
        sentences.push(format!("Others manage it too: {} (gpuferry doctor)", others.join(", ")));
    }
    sentences.iter().map(|sentence| wrap(&language.say(&format!("{sentence}.")), 1)).collect()
}

/// How a laptop's second card is wired, and what that means for a guest's picture.
pub(super) fn mux_words(mux: Mux) -> &'static str {
    match mux {
        Mux::Muxed => "It can drive the panel (a multiplexer gives it to the card)",
        Mux::Muxless => {
            "It has no outputs: a guest's picture comes over the network, or through the host (Looking Glass)"
        }
        Mux::OwnOutputs => {
            "The panel stays with the host: an external display on the card's outputs shows the guest"
        }
    }
}

/// The first finding that is among a card's reasons; else the worst there is.
fn obstacle(host: &Host, gpu: &Gpu) -> Option<Finding> {
    let findings = judge::doctor(host, None);
    let about = |finding: &&Finding| finding.device.is_none_or(|device| device == gpu.address);
    let reason = |finding: &&Finding| gpu.reasons.contains(&finding.id) && about(finding);
    let first = findings.iter().find(reason);
    first.or_else(|| findings.iter().find(|finding| finding.severity == Severity::Blocking)).cloned()
}
