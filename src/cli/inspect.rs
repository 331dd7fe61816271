//! `gpuferry inspect`: the machine, as text or as JSON.

use super::{
    Context, print,
    render::{
        WIDTH, class_word, fit, holds, kind_word, link_words, short_name, used_for, verdict_word, wrap,
    },
    screen,
    source::look,
};
use crate::{
    error::{Error, Result, Status},
    host::{Connector, Function, Gpu, Holder, Host},
    judge,
};
use clap::{Args, ValueEnum};
use std::fmt::Write;

/// What `gpuferry inspect` is told.
#[derive(Debug, Args)]
pub struct Inspect {
    /// What to show; without it, the machine and its cards.
    #[arg(value_enum)]
    pub what: Option<What>,
}

/// Parts of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Graphics cards, their functions, groups and links.
    Gpus,
    /// IOMMU groups.
    Groups,
    /// Every PCI function, and what the host uses it for.
    Devices,
    /// Boot loader, initramfs tool, kernels, command line.
    Boot,
}

impl Inspect {
    pub(super) fn run(&self, context: &Context) -> Result<Status> {
        let (_, host) = look(context)?;
        print(&if context.json { json(&host)? } else { text(&host, self.what) })?;
        Ok(Status::Done)
    }
}

/// `gpuferry` alone: the first screen.
pub(super) fn first_screen(context: &Context) -> Result<Status> {
    let (_, host) = look(context)?;
    print(&if context.json { json(&host)? } else { screen::screen(&host) })?;
    Ok(Status::Done)
}

fn json(host: &Host) -> Result<String> {
    let text = serde_json::to_string_pretty(host);
    text.map(|text| text + "\n").map_err(|error| Error::failed(format!("cannot write JSON: {error}")))
}

fn text(host: &Host, what: Option<What>) -> String {
    let mut text = match what {
        None => screen::machine(host) + &gpus(host),
        Some(What::Gpus) => gpus(host),
        Some(What::Groups) => groups(host),
        Some(What::Devices) => devices(host),
        Some(What::Boot) => boot(host),
    };
    for sentence in &host.unseen {
        text.push_str(&wrap(&format!("not seen: {sentence}"), 0));
    }
    text
}

fn gpus(host: &Host) -> String {
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
    line("used for", &used_for(host, gpu));
    if let Some(path) = &function.path {
        line("path", &path.to_string());
    }
    let mut title = "functions";
    for own in gpu.functions.iter().filter_map(|own| host.function(*own)) {
        let driver = own.driver.as_deref().unwrap_or("no driver");
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
    let group = function.iommu_group.map_or_else(|| "none".to_owned(), |group| group.to_string());
    let shares = if gpu.companions.is_empty() { "" } else { ", shared with" };
    line("group", &format!("{group}{shares}"));
    for companion in gpu.companions.iter().filter_map(|companion| host.function(*companion)) {
        line("", &format!("{}  {:<8} {}", companion.address, class_word(companion), short_name(companion)));
    }
    if let Some(link) = function.link.as_ref().and_then(link_words) {
        line("link", &link);
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

fn row(function: &Function, rest: &str) -> String {
    let id = function.id().map_or_else(|| "?".to_owned(), |id| id.to_string());
    let driver = function.driver.as_deref().unwrap_or("-");
    let line =
        format!("  {}  {:<11} {id}  {:<14} {rest}", function.address, class_word(function), fit(driver, 14));
    fit(line.trim_end(), WIDTH) + "\n"
}

fn groups(host: &Host) -> String {
    let mut text = String::new();
    for group in &host.groups {
        let _ = writeln!(text, "group {}", group.id);
        for function in group.functions.iter().filter_map(|address| host.function(*address)) {
            text.push_str(&row(function, &short_name(function)));
        }
    }
    let without: Vec<&Function> =
        host.functions.iter().filter(|function| function.iommu_group.is_none()).collect();
    if !without.is_empty() {
        text.push_str("in no group\n");
        text.extend(without.into_iter().map(|function| row(function, &short_name(function))));
    }
    text
}

fn devices(host: &Host) -> String {
    let mut text = String::new();
    for function in &host.functions {
        text.push_str(&row(function, &short_name(function)));
        if let Some(holds) = holds(host, function.address) {
            text.push_str(&wrap(&holds, 16));
        }
        if let Some(refusal) = judge::refusal(host, function.address).filter(|_| !function.is_pci_bridge()) {
            text.push_str(&wrap(&format!("stays with the host: {}", refusal.id), 16));
        }
    }
    text
}

fn boot(host: &Host) -> String {
    let mut text = screen::machine(host);
    let firmware = match host.boot.uefi {
        Some(true) => "UEFI",
        Some(false) => "BIOS",
        None => "not known",
    };
    let _ = writeln!(text, " Firmware        {firmware}");
    let mut title = "Kernels";
    for kernel in &host.boot.kernels {
        let image = kernel.initramfs.as_deref().unwrap_or("no initramfs");
        let _ = writeln!(text, "{}", fit(&format!(" {title:<15} {}  {image}", kernel.release), WIDTH));
        title = "";
    }
    if let Some(cmdline) = &host.kernel.cmdline {
        text.push_str(" Command line\n");
        text.push_str(&wrap(cmdline, 3));
    }
    text
}
