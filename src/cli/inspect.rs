//! `gpuferry inspect`: the machine, as text or as JSON.

use super::{
    Context, print,
    render::{WIDTH, class_word, fit, kind_word, link_words, short_name, used_for, verdict_word, wrap},
    screen,
    source::look,
    view,
};
use crate::{
    error::{Error, Result, Status},
    host::{Connector, Function, Gpu, GpuKind, Holder, Host, LoadedModule, Lockdown, Setting, kernel},
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
        print(&if context.json { json(&host)? } else { text(&host, self.what, context.plain) })?;
        Ok(Status::Done)
    }
}

/// `gpuferry` alone: the first screen.
pub(super) fn first_screen(context: &Context) -> Result<Status> {
    let (_, host) = look(context)?;
    print(&match context {
        Context { json: true, .. } => json(&host)?,
        Context { plain: true, .. } => view::plain::screen(&host),
        _ => screen::screen(&host),
    })?;
    Ok(Status::Done)
}

fn json(host: &Host) -> Result<String> {
    let text = serde_json::to_string_pretty(host);
    text.map(|text| text + "\n").map_err(|error| Error::failed(format!("cannot write JSON: {error}")))
}

fn text(host: &Host, what: Option<What>, plain: bool) -> String {
    use view::plain::{machine, titled};
    let mut text = match (what, plain) {
        (None, false) => screen::machine(host) + &gpus(host),
        (None, true) => machine(host) + &gpus_plainly(host),
        (Some(What::Gpus), false) => gpus(host),
        (Some(What::Gpus), true) => gpus_plainly(host),
        (Some(What::Groups), false) => view::groups::text(host),
        (Some(What::Groups), true) => view::groups::plain(host),
        (Some(What::Devices), false) => view::devices::text(host),
        (Some(What::Devices), true) => view::devices::plain(host),
        (Some(What::Boot), false) => screen::machine(host) + &boot(host),
        (Some(What::Boot), true) => machine(host) + &titled(&boot(host), "", 1, 16),
    };
    for sentence in &host.unseen {
        text.push_str(&wrap(&format!("not seen: {sentence}"), 0));
    }
    text
}

fn gpus_plainly(host: &Host) -> String {
    let plainly = |gpu: &Gpu| {
        let name = host.function(gpu.address).map_or_else(String::new, Function::label);
        let about = format!("Card {}, ", gpu.address);
        format!("{about}name: {}.\n", fit(&name, usize::MAX))
            + &view::plain::titled(&card(host, gpu), &about, 2, 12)
    };
    host.gpus.iter().map(plainly).collect()
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
    for (title, value) in view::config::lines(function) {
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

/// What firmware, kernel and memory offer guests, a title and a value each; only what is known.
fn surroundings(host: &Host) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let security = &host.security;
    if let Some(on) = security.secure_boot {
        let state = match (on, security.setup_mode) {
            (true, _) => "on",
            (false, Some(true)) => "off (waits for keys)",
            (false, _) => "off",
        };
        lines.push(("Secure Boot", state.to_owned()));
    }
    if let Some(lockdown) = security.lockdown.filter(|lockdown| *lockdown != Lockdown::None) {
        let level = if lockdown == Lockdown::Integrity { "integrity" } else { "confidentiality" };
        lines.push(("Lockdown", level.to_owned()));
    }
    for disk in security.sealed_disks.iter().flatten() {
        lines.push(("TPM opens", format!("{} ({})", disk.name, disk.source)));
    }
    if let Some(options) = &host.kernel_options {
        let words = ["VFIO_PCI", "IOMMUFD", "SYSFB_SIMPLEFB", "DRM_SIMPLEDRM"].iter().filter_map(|name| {
            let state = match options.get(*name)? {
                Setting::BuiltIn => "built in",
                Setting::Module => "module",
                Setting::No => "no",
            };
            Some(format!("{name} {state}"))
        });
        lines.push(("Kernel", words.collect::<Vec<_>>().join(", ")));
    }
    if let Some(total) = host.memory.as_ref().and_then(|memory| memory.total) {
        let memory = host.memory.iter();
        let pools = memory.flat_map(|memory| &memory.huge_pages).filter(|pool| pool.total > 0);
        let pools = pools
            .map(|pool| format!("{} of {} huge pages of {} free", pool.free, pool.total, bytes(pool.size)));
        let parts: Vec<String> = [bytes(total)].into_iter().chain(pools).collect();
        lines.push(("Memory", parts.join(", ")));
    }
    if let Some(topology) = &host.topology {
        let nodes = host.memory.as_ref().map_or(0, |memory| memory.nodes.len());
        let numa = if nodes > 1 { format!(", {nodes} NUMA nodes") } else { String::new() };
        let shown = format!(
            "{}, {}, {}{numa}",
            plural(topology.packages, "package"),
            plural(topology.cores, "core"),
            plural(topology.threads, "thread")
        );
        lines.push(("Processor", shown));
    }
    lines
}

fn plural(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

/// `31.2 GiB`, `2 MiB`.
fn bytes(count: u64) -> String {
    let (unit, word) = if count >= 1 << 30 { (1_u64 << 30, "GiB") } else { (1 << 20, "MiB") };
    match (count / unit, count % unit * 10 / unit) {
        (whole, 0) => format!("{whole} {word}"),
        (whole, tenth) => format!("{whole}.{tenth} {word}"),
    }
}

fn boot(host: &Host) -> String {
    let mut text = String::new();
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
    for (title, value) in surroundings(host) {
        let lines = wrap(&value, 17);
        let _ = write!(text, " {title:<16}{}", lines.trim_start_matches(' '));
    }
    if let Some(cmdline) = &host.kernel.cmdline {
        let lines = wrap(cmdline, 17);
        let _ = write!(text, " {:<16}{}", "Command line", lines.trim_start_matches(' '));
    }
    text
}
