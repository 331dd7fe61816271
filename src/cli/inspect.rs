//! `gpuferry inspect`: the machine, as text or as JSON.

use super::{
    Context, json, print,
    render::wrap,
    screen,
    source::{look, look_at_devices},
    view,
};
use crate::{
    error::{Result, Status},
    host::{Function, Host, Source},
};
use clap::{Args, ValueEnum};
use std::mem::ManuallyDrop;

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
        if context.json && self.what == Some(What::Devices) {
            // The process ends after it: its memory goes back at once, not string by string.
            let host = ManuallyDrop::new(look_at_devices(context)?);
            let Host { schema, source, functions, unseen, .. } = &*host;
            json::print(&Devices { schema: *schema, source: *source, functions, unseen })?;
            return Ok(Status::Done);
        }
        let (_, host) = look(context)?;
        if context.json {
            json::print(&host)?;
        } else {
            print(&text(&host, self.what, context.plain))?;
        }
        Ok(Status::Done)
    }
}

/// `inspect devices --json`: a part of the whole, in the same form.
#[derive(serde::Serialize)]
struct Devices<'h> {
    schema: u32,
    source: Source,
    functions: &'h [Function],
    unseen: &'h [String],
}

/// `gpuferry` alone: the first screen.
pub(super) fn first_screen(context: &Context) -> Result<Status> {
    let (_, host) = look(context)?;
    match context {
        Context { json: true, .. } => json::print(&host)?,
        Context { plain: true, .. } => print(&view::plain::screen(&host, context.language))?,
        _ => print(&screen::screen(&host, context.language))?,
    }
    Ok(Status::Done)
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
