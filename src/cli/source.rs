//! What a command looks at: this machine, or what `--host` names.
//!
//! Decides nothing about what it finds.

use super::Context;
use crate::{
    error::{Error, Result, said},
    host::{self, Host, Source},
    machine::{Root, live::Live},
};
use std::path::Path;

/// The door to the machine that is looked at, and what is seen through it.
pub(super) fn look(context: &Context) -> Result<(Box<dyn Root>, Host)> {
    let folder = context.host.first().map_or(Path::new("/"), |folder| folder.as_path());
    let root = Live::open(folder).map_err(|error| {
        Error::usage(format!("cannot open {}: {}", folder.display(), said(&error)))
            .hint("--host takes a folder that holds a saved sys/, proc/ and etc/")
    })?;
    let mut host = host::observe(&root);
    if !context.host.is_empty() {
        host.source = Source::Capture;
        if host.functions.is_empty() {
            host.unseen.push(format!("{} holds no sys/bus/pci/devices", folder.display()));
        }
    }
    Ok((Box::new(root), host))
}
