//! `gpuferry inspect`: the machine, as text or as JSON.

use super::{Context, print, render::wrap, screen, source::look, view};
use crate::{
    error::{Error, Result, Status},
    host::Host,
};
use clap::{Args, ValueEnum};

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
    let mut text = match (what, plain) {
        (None, false) => screen::machine(host) + &view::gpus::text(host),
        (None, true) => view::plain::machine(host) + &view::gpus::plain(host),
        (Some(What::Gpus), false) => view::gpus::text(host),
        (Some(What::Gpus), true) => view::gpus::plain(host),
        (Some(What::Groups), false) => view::groups::text(host),
        (Some(What::Groups), true) => view::groups::plain(host),
        (Some(What::Devices), false) => view::devices::text(host),
        (Some(What::Devices), true) => view::devices::plain(host),
        (Some(What::Boot), false) => view::boot::text(host),
        (Some(What::Boot), true) => view::boot::plain(host),
    };
    for sentence in &host.unseen {
        text.push_str(&wrap(&format!("not seen: {sentence}"), 0));
    }
    text
}
