//! What a command looks at: this machine, or what `--host` names.
//!
//! Decides nothing about what it finds.

use super::Context;
use crate::{
    capture::source::Sources,
    error::{Error, Result, said},
    host::{self, Host, Source},
    machine::{Root, live::Live},
    paste,
};
use std::path::Path;

fn this_machine() -> Result<Live> {
    Live::open(Path::new("/")).map_err(|error| Error::usage(format!("cannot open /: {}", said(&error))))
}

/// The functions of what is looked at; of this machine, nothing else is read.
pub(super) fn look_at_devices(context: &Context) -> Result<Host> {
    if context.host.is_empty() { Ok(host::observe_devices(&this_machine()?)) } else { Ok(look(context)?.1) }
}

/// The door to the machine that is looked at, and what is seen through it.
pub(super) fn look(context: &Context) -> Result<(Box<dyn Root>, Host)> {
    if context.host.is_empty() {
        let root = this_machine()?;
        let host = if context.wake { host::observe_waking(&root) } else { host::observe(&root) };
        return Ok((Box::new(root), host));
    }
    let mut sources = Sources::open(&context.host)?;
    let texts = sources.texts.clone();
    let notes = std::mem::take(&mut sources.notes);
    let trees = !sources.trees.is_empty();
    let root = sources.root();
    let mut host = if trees { host::observe(&root) } else { Host::unknown(Source::Text) };
    if trees {
        host.source = Source::Capture;
    }
    if !texts.is_empty() {
        paste::merge(&mut host, &texts);
        host::conclude(&mut host);
    }
    host.unseen.extend(notes);
    if host.functions.is_empty() && trees {
        let named: Vec<String> = context.host.iter().map(|name| name.display().to_string()).collect();
        host.unseen.push(format!("{} holds no sys/bus/pci/devices", named.join(", ")));
    }
    Ok((Box::new(root), host))
}
