//! `gpuferry capture`: this machine in a file, for somebody else to look at, without what is personal.

use super::{Context, plan::here, print, render::wrap};
use crate::{
    capture::{
        make::{Made, make},
        source::Sources,
    },
    error::{Error, Result, Status, said},
    machine::{Ownership, Root, live::Live},
    step::write::replace,
};
use clap::Args;
use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

/// What `gpuferry capture` is told.
#[derive(Debug, Args)]
pub struct Capture {
    /// Where it goes: an archive, tar in zstd. Only its owner can read it.
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Write over a file that is there.
    #[arg(long)]
    pub force: bool,
    /// Leave serial numbers, addresses, names, ids and arguments of processes in.
    #[arg(long)]
    pub with_personal_data: bool,
}

impl Capture {
    pub(super) fn run(&self, context: &Context) -> Result<Status> {
        let (machine, path) = here(&self.output)?;
        match machine.stat(&path) {
            Ok(stat) if stat.kind != crate::machine::FileKind::File => {
                return Err(Error::usage(format!("{} is there and is no plain file", path.display())));
            }
            Ok(_) if !self.force => {
                return Err(Error::usage(format!("{} is there already", path.display()))
                    .hint("another name, or --force to write over it"));
            }
            _ => {}
        }
        let root = root(context)?;
        let made = make(root.as_ref(), self.with_personal_data)?;
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        replace(&machine, &path, &made.bytes, &Ownership { uid, gid, ..Ownership::root(0o600) })?;
        print(&if context.json { self.json(&made) } else { self.text(&made) })?;
        Ok(Status::Done)
    }

    fn json(&self, made: &Made) -> String {
        let manifest = &made.manifest;
        let value = serde_json::json!({ "schema": 1, "file": self.output, "bytes": made.bytes.len(),
            "personal_data": manifest.personal_data, "went_in": manifest.went_in, "left_out": manifest.left_out,
            "fields": manifest.fields, "unseen": made.host.unseen });
        format!("{value:#}\n")
    }

    fn text(&self, made: &Made) -> String {
        let manifest = &made.manifest;
        let shown = self.output.display();
        let mut text = format!(
            " {shown}, {} KiB, can be read by its owner only\n\n Went in\n",
            made.bytes.len().div_ceil(1024)
        );
        for part in &manifest.went_in {
            let path = if part.path.is_empty() { "/" } else { &part.path };
            let plural = if part.files == 1 { "" } else { "s" };
            let _ = writeln!(text, "   {path:<24} {:>6} file{plural}, {} bytes", part.files, part.bytes);
        }
        if manifest.personal_data {
            text.push_str("\n Nothing was left out: it holds serial numbers, addresses and names.\n");
        } else {
            text.push_str("\n Left out, or replaced by something of the same form\n");
            for out in &manifest.left_out {
                let how = if out.replaced { "replaced" } else { "left out" };
                let _ = writeln!(text, "   {:<40} {:>6} {how}", out.what, out.count);
            }
            if !manifest.fields.is_empty() {
                text.push_str(
                    "\n Because of that, these fields of `inspect --json` are not as on the machine\n",
                );
                text.push_str(&wrap(&manifest.fields.join(", "), 3));
            }
        }
        for sentence in &made.host.unseen {
            text.push_str(&wrap(&format!("Not seen: {sentence}"), 1));
        }
        let _ = write!(text, "\n look at it    gpuferry inspect --host {shown}\n");
        text
    }
}

/// This machine, or the saved trees: a capture of them is smaller, and has nothing personal in it.
fn root(context: &Context) -> Result<Box<dyn Root>> {
    if context.host.is_empty() {
        let root = Live::open(Path::new("/"));
        return Ok(Box::new(
            root.map_err(|error| Error::failed(format!("cannot open /: {}", said(&error))))?,
        ));
    }
    let sources = Sources::open(&context.host)?;
    if sources.trees.is_empty() {
        return Err(Error::usage(
            "text is small enough to be passed on as it is: a capture is made of a machine or a saved tree",
        ));
    }
    Ok(Box::new(sources.root()))
}
