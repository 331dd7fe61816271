//! `inspect gpus`: each card with what belongs to it, who uses it, and what stands in its way.

use super::{config, plain::titled};
use crate::{
    cli::{
        render::{WIDTH, class_word, fit, kind_word, link_words, short_name, used_for, verdict_word, wrap},
        screen,
    },
    host::{Connector, Function, Gpu, GpuKind, Holder, Host, LoadedModule, kernel},
    judge,
};
use std::fmt::Write;

/// For the eye.
pub(in crate::cli) fn text(host: &Host) -> String {
    if host.gpus.is_empty() {
        return "no graphics card\n".to_owned();
    }
    host.gpus.iter().map(|gpu| card(host, gpu)).collect::<Vec<_>>().join("\n")
}

fn card(host: &Host, gpu: &Gpu) -> String {
    let Some(function) = host.function(gpu.address) else { return String::new() };
    let id = function.id().map_or_else(String::new, |id| format!(" [{id}]"));
    let name = fit(&function.label(), WIDTH - 14 - id.len());
    let mut text = format!("{}  {name}{}\n", gpu.address, if function.name.is_some() { &id } else { "" });
    let mut line = |name: &str, value: &str| {
        let lines = wrap(value, 14);
        let _ = write!(text, "  {name:<12}{}", lines.trim_start_matches(' '));
    };
    line("kind", kind_word(gpu.kind));
    let used = used_for(host, gpu);
    line("used for", if used.is_empty() { "not told" } else { &used });
    if let Some(path) = &function.path {
        line("path", &path.to_string());
    }
    let mut title = "functions";
    for own in gpu.functions.iter().filter_map(|own| host.function(*own)) {
        let driver = host.driver_word(own);
        line(title, &format!("{}  {:<8} {driver}", own.address, class_word(own)));
        title = "";
    }
    let mut title = "connectors";
    for connector in host.connectors(gpu.address).into_iter().flatten() {
        line(title, &connector_words(connector));
        title = "";
    }
    let mut title = "held by";
    for own in gpu.functions.iter().filter_map(|own| host.function(*own)) {
        for holder in own.holders.iter().flatten() {
            line(title, &holder_words(holder));
            title = "";
        }
    }
    let drivers: Vec<String> =
        host.modules.iter().flatten().filter(|module| drives(host, gpu, module)).map(module_words).collect();
    if !drivers.is_empty() {
        line("modules", &drivers.join(", "));
    }
    for framebuffer in
        host.framebuffers.iter().filter(|framebuffer| framebuffer.function == Some(gpu.address))
    {
        let on = host.consoles.iter().find(|console| console.bound && console.name.contains("frame buffer"));
        let text = on.map_or_else(String::new, |console| {
            format!(", the text console (vtcon{}) is on it", console.index)
        });
        line("console", &format!("fb{} ({}){text}", framebuffer.index, framebuffer.name));
    }
    for claim in host
        .claims
        .iter()
        .flatten()
        .filter(|claim| claim.function == gpu.address && claim.is_firmware_framebuffer())
    {
        line("firmware's", &format!("frame buffer is in its memory ({})", claim.by));
    }
    if let Some(mux) = host.mux.filter(|_| gpu.kind == GpuKind::Discrete) {
        line("laptop", screen::mux_words(mux));
    }
    for domain in host
        .domains
        .iter()
        .flatten()
        .filter(|domain| domain.devices.iter().any(|device| gpu.functions.contains(device)))
    {
        let state = if domain.running {
            " (running)"
        } else if domain.autostart {
            " (starts with the machine)"
        } else {
            ""
        };
        line("guest", &format!("{}{state}", domain.name));
    }
    for manager in gpu.functions.iter().flat_map(|own| judge::managers_of(host, *own)) {
        line("managed by", &manager.place());
    }
    let group = function.iommu_group.map_or_else(|| "none".to_owned(), |group| group.to_string());
    let shares = if gpu.companions.is_empty() { "" } else { ", shared with" };
    line("group", &format!("{group}{shares}"));
    for companion in gpu.companions.iter().filter_map(|companion| host.function(*companion)) {
        line("", &format!("{}  {:<8} {}", companion.address, class_word(companion), short_name(companion)));
    }
    if let Some(link) = function.link.as_ref().and_then(link_words) {
        line("link", &link);
    }
    for (title, value) in config::lines(function) {
        line(title, &value);
    }
    if !gpu.identical_to.is_empty() {
        let twins: Vec<String> = gpu.identical_to.iter().map(ToString::to_string).collect();
        line("identical", &twins.join(", "));
    }
    let reasons =
        if gpu.reasons.is_empty() { String::new() } else { format!(": {}", gpu.reasons.join(", ")) };
    line("verdict", &format!("{}{reasons}", verdict_word(gpu.verdict)));
    text
}

/// Whether a module is the card's driver, or above it.
fn drives(host: &Host, gpu: &Gpu, module: &LoadedModule) -> bool {
    let own = host.function(gpu.address).and_then(|function| function.driver.as_deref());
    let is_own = |name: &str| own.is_some_and(|driver| kernel::same_name(driver, name));
    let below = |name: &str| {
        host.modules
            .iter()
            .flatten()
            .any(|below| is_own(&below.name) && below.used_by.iter().any(|user| user == name))
    };
    is_own(&module.name) || below(&module.name)
}

fn module_words(module: &LoadedModule) -> String {
    match module.references {
        Some(count) => format!("{} (held {count} times)", module.name),
        None => module.name.clone(),
    }
}

fn connector_words(connector: &Connector) -> String {
    let on = match (connector.connected, &connector.monitor) {
        (Some(true), Some(monitor)) => monitor.shown(),
        (Some(true), None) => "a display".to_owned(),
        (Some(false), _) => "nothing".to_owned(),
        (None, _) => "not known".to_owned(),
    };
    let dark = connector.connected == Some(true) && connector.enabled == Some(false);
    format!("{:<10}  {on}{}", connector.name, if dark { ", dark" } else { "" })
}

fn holder_words(holder: &Holder) -> String {
    let place = holder.place().map_or_else(String::new, |place| format!("; {place}"));
    let only =
        |node: &String| if holder.mapped.contains(node) { format!("{node} (mapped)") } else { node.clone() };
    let nodes: Vec<String> = holder.nodes.iter().map(only).collect();
    format!("{}: {}{place}", holder.shown(), nodes.join(" "))
}

/// For a screen reader.
pub(in crate::cli) fn plain(host: &Host) -> String {
    let plainly = |gpu: &Gpu| {
        let name = host.function(gpu.address).map_or_else(String::new, Function::label);
        let about = format!("Card {}, ", gpu.address);
        format!("{about}name: {}.\n", fit(&name, usize::MAX)) + &titled(&card(host, gpu), &about, 2, 12)
    };
    host.gpus.iter().map(plainly).collect()
}
