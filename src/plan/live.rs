//! The plan of a hand-over: from a [`Host`] and a [`Goal`] to the steps, in order. Pure.
//!
//! The way out takes the functions that can make the kernel wait first, while the screen still shows why, and the
//! display last. The way home is not the way out backwards: it is planned from the machine as it is, so that it
//! works from any point at which a hand-over stopped, and doing it twice changes nothing more.

use crate::{
    error::{Error, Result},
    handover::{
        drivers,
        snapshot::{Before, Card, Now, Snapshot},
        stop::Stop,
    },
    host::{Console, Function, Gpu, Host, Nvidia},
    pci::Address,
    step::live::LiveStep,
};

/// Where a card should be.
#[derive(Debug, Clone, Copy)]
pub enum Goal<'a> {
    /// With vfio-pci, for a guest, once these have ended; reset in this way, where one is named.
    Lend(&'a Card, &'a [Stop], Option<&'a Reset>),
    /// As it was before it was lent.
    Home(&'a Snapshot),
    /// With the host's own driver, whichever that is: for a card that was never the host's in this boot.
    Give(&'a Card),
}

/// How a card is to be reset by the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// As `reset_method` takes it.
    pub method: String,
    /// Whether the owner named it: then the card goes so, or not at all.
    pub must: bool,
}

/// Steps that a person sees as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// One word.
    pub label: &'static str,
    /// What of.
    pub text: String,
    /// In order.
    pub steps: Vec<LiveStep>,
}

/// A hand-over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LivePlan {
    /// In order. Empty: nothing is to be done.
    pub stages: Vec<Stage>,
}

/// The driver that guests' devices are with.
pub const VFIO: &str = "vfio-pci";

/// Plans it. An error is a refusal, or a machine that is not known well enough.
pub fn live(host: &Host, goal: Goal) -> Result<LivePlan> {
    let stages = match goal {
        Goal::Lend(card, stops, reset) => lend(host, card, stops, reset)?,
        Goal::Home(snapshot) => home(host, snapshot)?,
        Goal::Give(card) => give(host, card)?,
    };
    Ok(LivePlan { stages: stages.into_iter().filter(|stage| !stage.steps.is_empty()).collect() })
}

fn function(host: &Host, address: Address) -> Result<&Function> {
    host.function(address).ok_or_else(|| Error::failed(format!("{address} is not on the bus")))
}

/// Addresses as people say them: without domain 0.
fn shown<'a>(addresses: impl IntoIterator<Item = &'a Address>) -> String {
    let words = addresses.into_iter().map(|address| {
        let text = address.to_string();
        text.strip_prefix("0000:").map_or(text.clone(), str::to_owned)
    });
    words.collect::<Vec<_>>().join(" ")
}

fn lend(host: &Host, card: &Card, stops: &[Stop], reset: Option<&Reset>) -> Result<Vec<Stage>> {
    let mut away = Vec::new();
    for address in &card.functions {
        let function = function(host, *address)?;
        if function.is_pci_bridge() {
            return Err(Error::refused(format!("{address} is a PCI bridge: bridges stay with the host")));
        }
        if function.iommu_group.is_none() {
            return Err(Error::blocked(format!(
                "{address} is in no IOMMU group: without an IOMMU a guest cannot have it"
            ))
            .hint("gpuferry   says what this machine lacks"));
        }
        if function.driver.as_deref() != Some(VFIO) {
            away.push(function);
        }
    }
    // Those whose driver waits for its users first, the display last: a hang is seen before the screen is dark.
    let waits = |function: &&Function| function.driver.as_deref().is_some_and(|d| drivers::facts(d).waits);
    away.sort_by_key(|function| (function.is_display(), !waits(function), function.address));
    // Before vfio-pci has it: its first open resets.
    let reset = reset.map(|reset| Stage {
        label: "reset",
        text: format!("{} by {}, where it can be", shown([&card.address]), reset.method),
        steps: vec![LiveStep::ResetMethod {
            address: card.address,
            method: reset.method.clone(),
            must: reset.must,
        }],
    });
    if away.is_empty() {
        return Ok(reset.into_iter().collect());
    }
    let claimed = || away.iter().map(|function| &function.address);
    let mut stages = vec![
        Stage {
            label: "module",
            text: VFIO.to_owned(),
            steps: vec![LiveStep::LoadModule { module: VFIO.into(), driver: Some(VFIO.into()) }],
        },
        stop(&away, stops),
        Stage {
            label: "claim",
            text: format!("{} for {VFIO}", shown(claimed())),
            steps: claimed()
                .map(|address| LiveStep::Override { address: *address, driver: Some(VFIO.into()) })
                .collect(),
        },
    ];
    let mut consoles = consoles_on(host, card);
    for function in &away {
        if function.is_display() {
            stages.extend(consoles.take());
            stages.push(firmware_screens(host, function.address));
        }
        let Some(driver) = &function.driver else { continue };
        if let Some(unload) = unload(host, card, driver)? {
            stages.push(unload);
            continue;
        }
        stages.push(Stage {
            label: "release",
            text: format!("{} from {driver}", shown([&function.address])),
            steps: vec![LiveStep::Unbind { address: function.address, driver: driver.clone() }],
        });
    }
    stages.extend(reset);
    let mut bind: Vec<_> = claimed().map(|address| LiveStep::Probe { address: *address }).collect();
    bind.extend(claimed().map(|address| LiveStep::AwaitDriver { address: *address, driver: VFIO.into() }));
    stages.push(Stage { label: "bind", text: format!("{} → {VFIO}", shown(&card.functions)), steps: bind });
    stages.extend(serve_another_screen(host, card, stops));
    Ok(stages)
}

/// Who uses the card ends, and is waited for: an unbind with users left may hang, and takes the picture from them.
fn stop(away: &[&Function], stops: &[Stop]) -> Stage {
    let mut steps: Vec<_> = stops.iter().flat_map(Stop::steps).collect();
    if !steps.is_empty() {
        steps.push(LiveStep::AwaitFree { functions: away.iter().map(|function| function.address).collect() });
    }
    let text = stops.iter().map(Stop::shown).collect::<Vec<_>>().join(", ");
    Stage { label: "stop", text, steps }
}

/// With another card's screen left, the display manager goes on there at once: it takes what it finds when it
/// starts.
fn serve_another_screen(host: &Host, card: &Card, stops: &[Stop]) -> Option<Stage> {
    let manager = stops.iter().find_map(Stop::display_manager)?;
    let has_screen = |gpu: &&Gpu| {
        let driven = host.function(gpu.address).and_then(|function| function.driver.as_deref());
        gpu.address != card.address && driven.is_some_and(|driver| driver != VFIO && driver != "pci-stub")
    };
    let other = host.gpus.iter().find(has_screen)?;
    Some(Stage {
        label: "screen",
        text: format!("{manager} on {}", shown([&other.address])),
        steps: vec![LiveStep::StartUnit { unit: manager.clone() }],
    })
}

/// The console that draws on this card's frame buffers, if it draws on no other.
///
/// The frame buffer console is one back end for all frame buffers. Where another one is left, which terminals move
/// to it and which go dark is the kernel's to decide (drivers/video/fbdev/core/fbcon.c, `fbcon_fb_unbind`; with all
/// terminals on the one that goes, it takes the console down and puts it back when that one returns).
fn consoles_on(host: &Host, card: &Card) -> Option<Stage> {
    let own = |function: Option<Address>| function.is_some_and(|f| card.functions.contains(&f));
    let mine = host.framebuffers.iter().any(|fb| own(fb.function));
    let others = host.framebuffers.iter().any(|fb| !own(fb.function));
    if !mine || others {
        return None;
    }
    let drawn = host.consoles.iter().filter(|console| console.bound && is_framebuffer_console(&console.name));
    let steps: Vec<_> = drawn
        .map(|console| LiveStep::Console { index: console.index, name: console.name.clone(), bound: false })
        .collect();
    let names = host.consoles.iter().filter(|console| console.bound && is_framebuffer_console(&console.name));
    let names: Vec<_> = names.map(|console| format!("vtcon{}", console.index)).collect();
    Some(Stage { label: "consoles", text: format!("{} unbound", names.join(" ")), steps })
}

/// The frame buffers that the firmware left in a card's memory, taken from their drivers. vfio-pci would throw them
/// out as well, on kernels that do so for it; on others they go on drawing into memory that is a guest's.
fn firmware_screens(host: &Host, address: Address) -> Stage {
    let own = host.firmware_framebuffers.iter().filter(|screen| screen.function == Some(address));
    let steps: Vec<_> = own
        .filter_map(|screen| {
            let (device, driver) = (screen.device.clone(), screen.driver.clone()?);
            Some(LiveStep::FirmwareScreen { device, driver, bound: false })
        })
        .collect();
    Stage { label: "screen", text: "the firmware's frame buffer, unbound".to_owned(), steps }
}

/// As drivers/video/fbdev/core/fbcon.c names it in `fbcon_startup`; `(M)` is for modular, set by vt.c.
fn is_framebuffer_console(name: &str) -> bool {
    name.contains("frame buffer")
}

/// The driver's modules go, where it has such and no other device needs them, and the card is free with them.
///
/// Where another card stays with the driver, the modules stay too, and this card alone is unbound: who has two cards
/// of one maker keeps the picture on the other one. NVIDIA's driver can do that since
/// [`Nvidia::lets_go_of_one`](crate::host::Nvidia::lets_go_of_one); before, its DRM part keeps hold of every card.
fn unload(host: &Host, card: &Card, driver: &str) -> Result<Option<Stage>> {
    let Some(own) = drivers::facts(driver).module else { return Ok(None) };
    let mut others = host.functions.iter().filter(|other| other.driver.as_deref() == Some(driver));
    if let Some(other) = others.find(|other| !card.functions.contains(&other.address)) {
        if host.nvidia.as_ref().is_some_and(Nvidia::lets_go_of_one) {
            return Ok(None);
        }
        let version = host.nvidia.as_ref().and_then(|nvidia| nvidia.version.as_deref());
        return Err(Error::refused(format!(
            "{driver} {} does not let go of {} alone, and {} stays with it",
            version.unwrap_or("of an unknown version"),
            card.address,
            other.address
        ))
        .detail("its part nvidia_drm holds every card for as long as it is loaded: the unbind would hang")
        .detail(format!("unloading it would take the picture of {} as well", other.address))
        .hint("the driver from version 580.105.08 on lets one card go")
        .hint(format!("gpuferry plan static --gpu {}   lends it from boot on", card.address)));
    }
    let mut modules = drivers::above(host, driver);
    modules.push(own.to_owned());
    let text = modules.join(" ");
    let steps = modules.into_iter().map(|module| LiveStep::UnloadModule { module }).collect();
    Ok(Some(Stage { label: "unload", text, steps }))
}

fn home(host: &Host, snapshot: &Snapshot) -> Result<Vec<Stage>> {
    let mut clear = Vec::new();
    let mut release = Vec::new();
    let mut bind = Vec::new();
    for before in display_first(host, snapshot) {
        // By its path, not by its address: a rescan may have given that to another card.
        let now = before.find(host)?;
        let address = now.address;
        if now.driver_override != before.driver_override {
            clear.push(LiveStep::Override { address, driver: before.driver_override.clone() });
        }
        if now.driver == before.driver {
            continue;
        }
        if let Some(driver) = &now.driver {
            release.push(LiveStep::Unbind { address, driver: driver.clone() });
        }
        let Some(driver) = before.driver.clone() else { continue };
        if let Some(module) = before.module.clone() {
            bind.push(LiveStep::LoadModule { module, driver: Some(driver.clone()) });
        }
        // Bound by name, not probed: with ids given to vfio-pci, a probe would give it back to vfio-pci.
        bind.push(LiveStep::Bind { address, driver: driver.clone() });
        bind.push(LiveStep::AwaitDriver { address, driver });
    }
    let wanted = snapshot.firmware.iter().filter(|_| !snapshot.wishes.leave_consoles);
    let firmware = wanted.filter_map(|before| {
        let now = host.firmware_framebuffers.iter().find(|now| now.device == before.device)?;
        let driver = before.driver.clone().filter(|_| now.driver.is_none())?;
        Some(LiveStep::FirmwareScreen { device: before.device.clone(), driver, bound: true })
    });
    let mut light: Vec<_> = firmware.collect();
    let missing = snapshot.screens().filter(|fb| !snapshot.has_screen(host, fb));
    light.extend(missing.filter_map(|fb| {
        let address = snapshot.address_now(host, fb.function?);
        Some(LiveStep::AwaitFramebuffer { address, name: fb.name.clone() })
    }));
    let modules = snapshot.modules.iter().map(|m| LiveStep::LoadModule { module: m.clone(), driver: None });
    // A console that is gone now may be there once its frame buffer is. One that was off is taken off again only if
    // this card's return is what puts it on; on already, it is another card's, and would go dark.
    let lit = |console: &&Console| {
        console.bound || !host.consoles.iter().any(|now| now.name == console.name && now.bound)
    };
    let consoles = || snapshot.screen_consoles(host).filter(lit);
    let flags = consoles()
        .map(|console| format!("vtcon{} {}", console.index, if console.bound { "on" } else { "off" }));
    let text = flags.collect::<Vec<_>>().join(", ");
    let consoles = consoles().map(|console| LiveStep::Console {
        index: console.index,
        name: console.name.clone(),
        bound: console.bound,
    });
    let drivers = snapshot.functions.iter().map(|before| {
        let driver = before.driver.as_deref().unwrap_or("no driver");
        format!("{} → {driver}", shown([&snapshot.address_now(host, before.address)]))
    });
    let released: Vec<_> = release
        .iter()
        .filter_map(|step| match step {
            LiveStep::Unbind { address, .. } => Some(*address),
            _ => None,
        })
        .collect();
    let names: Vec<_> = snapshot.screens().map(|fb| fb.name.clone()).collect();
    let units: Vec<_> = snapshot.units.iter().map(ToString::to_string).collect();
    let start = snapshot.units.iter().map(|unit| LiveStep::StartUnit { unit: unit.clone() });
    Ok(vec![
        Stage { label: "claim", text: "given up".into(), steps: clear },
        Stage { label: "release", text: format!("{} from {VFIO}", shown(&released)), steps: release },
        Stage { label: "bind", text: drivers.collect::<Vec<_>>().join(", "), steps: bind },
        Stage { label: "load", text: snapshot.modules.join(" "), steps: modules.collect() },
        Stage { label: "screen", text: names.join(" "), steps: light },
        Stage { label: "consoles", text, steps: consoles.collect() },
        Stage { label: "start", text: units.join(", "), steps: start.collect() },
    ])
}

/// Whether vfio-pci has every function of a card.
pub fn is_lent(host: &Host, card: &Card) -> bool {
    let lent = |address: &Address| host.function(*address).is_some_and(|f| f.driver.as_deref() == Some(VFIO));
    card.functions.iter().all(lent)
}

/// The ways to reset a card, as they were: once it is home, or as far as it came.
pub fn reset_as_before(host: &Host, snapshot: &Snapshot) -> LivePlan {
    let changed = snapshot.functions.iter().filter_map(|before| {
        let (now, method) = (before.here(host)?, before.reset_method.clone()?);
        Some(LiveStep::ResetMethod { address: now.address, method, must: true })
    });
    let (label, text) = ("reset", "in the ways that it was before".to_owned());
    let stage = Stage { label, text, steps: changed.collect() };
    LivePlan { stages: if stage.steps.is_empty() { Vec::new() } else { vec![stage] } }
}

/// What is tried when a card has not come home by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rescue {
    /// A reset of what has no driver: a guest may have left it in a state that its driver does not know.
    Reset,
    /// Off the bus and found again: the kernel looks at it as at a new one.
    Rescan,
}

/// What to do before the way home is tried again. Empty: this rescue has nothing to act on.
///
/// Only functions that no driver has are touched: reset and removal of one that is in use would wait for its users.
/// A device that is in the place of one that was lent is left alone.
pub fn rescue(host: &Host, snapshot: &Snapshot, how: Rescue) -> LivePlan {
    let driven = snapshot.functions.iter().filter(|before| before.driver.is_some());
    let lost = driven.filter_map(|before| match before.now(host) {
        Now::Here(now) => now.driver.is_none().then_some(now.address),
        Now::Gone => Some(before.address),
        Now::Other(_) => None,
    });
    let lost: Vec<Address> = lost.collect();
    let there = lost.iter().filter(|address| host.function(**address).is_some());
    let mut steps: Vec<_> = match how {
        Rescue::Reset => there.map(|address| LiveStep::Reset { address: *address }).collect(),
        Rescue::Rescan => there.map(|address| LiveStep::Remove { address: *address }).collect(),
    };
    if how == Rescue::Rescan && !lost.is_empty() {
        steps.push(LiveStep::Rescan { functions: lost.clone() });
    }
    let label = if how == Rescue::Reset { "reset" } else { "rescan" };
    let stage = Stage { label, text: shown(&lost), steps };
    LivePlan { stages: if stage.steps.is_empty() { Vec::new() } else { vec![stage] } }
}

/// The display before what depends on it, such as its audio.
fn display_first<'a>(host: &Host, snapshot: &'a Snapshot) -> Vec<&'a Before> {
    let mut functions: Vec<_> = snapshot.functions.iter().collect();
    let display = |before: &Before| before.here(host).is_some_and(Function::is_display);
    functions.sort_by_key(|before| (!display(before), before.address));
    functions
}

fn give(host: &Host, card: &Card) -> Result<Vec<Stage>> {
    let (mut clear, mut release, mut bind) = (Vec::new(), Vec::new(), Vec::new());
    // An override with another name is the owner's own.
    let claimed = |now: &Function| now.driver_override.as_deref() == Some(VFIO);
    let lent = |now: &Function| now.driver.as_deref() == Some(VFIO) || claimed(now);
    if !card.functions.iter().filter_map(|address| host.function(*address)).any(lent) {
        return Ok(Vec::new());
    }
    for address in &card.functions {
        let (now, address) = (function(host, *address)?, *address);
        if claimed(now) {
            clear.push(LiveStep::Override { address, driver: None });
        }
        if now.driver.as_deref() == Some(VFIO) {
            release.push(LiveStep::Unbind { address, driver: VFIO.into() });
        }
        if now.driver.is_none() || now.driver.as_deref() == Some(VFIO) {
            let modules = now.modules.iter().filter(|module| module.replace('_', "-") != VFIO);
            let load = modules.map(|module| LiveStep::LoadModule { module: module.clone(), driver: None });
            bind.extend(load);
            bind.push(LiveStep::Probe { address });
        }
    }
    Ok(vec![
        Stage { label: "claim", text: "given up".into(), steps: clear },
        Stage { label: "release", text: format!("{} from {VFIO}", shown(&card.functions)), steps: release },
        Stage {
            label: "bind",
            text: format!("{} → the host's drivers", shown(&card.functions)),
            steps: bind,
        },
    ])
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
