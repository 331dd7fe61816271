//! `gpuferry revert`: everything that was changed on the disk is undone.

use super::{
    Context,
    apply::progress,
    follow::{need_root, this_machine},
    print,
};
use crate::{
    error::{Error, Result, Status, said},
    journal::{
        self,
        run::{self, Which},
    },
    machine::{Root, live::Live},
};
use clap::Args;
use std::path::{Path, PathBuf};

/// What `gpuferry revert` is told.
#[derive(Debug, Args)]
pub struct Revert {
    /// Undo only the newest change.
    #[arg(long)]
    pub last: bool,
    /// The root folder of another system, mounted in a rescue shell.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

impl Revert {
    pub(super) fn run(&self, context: &Context) -> Result<Status> {
        let machine = match &self.root {
            None => this_machine(context, "revert")?,
            Some(folder) => Live::open(folder).map_err(|error| {
                Error::usage(format!("cannot open {}: {}", folder.display(), said(&error)))
            })?,
        };
        need_root("revert")?;
        if !machine.exists(Path::new(journal::STATE)) {
            return shown(context, &[]);
        }
        let held = run::lock(&machine)?;
        let which = if self.last { Which::Last } else { Which::All };
        let undone = run::revert(&machine, which, self.root.is_none(), &mut progress(context))
            .map_err(|error| self.by_hand(error))?;
        drop(held);
        shown(context, &undone)
    }

    /// In a rescue shell the tools of the other system are run by its owner.
    fn by_hand(&self, error: Error) -> Error {
        let Some(root) = self.root.as_ref().filter(|_| error.status == Status::NotUndone) else {
            return error;
        };
        let root = root.display();
        error
            .hint(format!("for d in dev proc sys; do mount --rbind /$d {root}/$d; done"))
            .hint(format!("chroot {root} /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c 'update-initramfs -u -k all && update-grub'"))
            .hint(format!("gpuferry revert --root {root}   then checks it and closes the change"))
    }
}

fn shown(context: &Context, undone: &[u32]) -> Result<Status> {
    let value = serde_json::json!({ "schema": 1, "undone": undone });
    print(&match undone {
        _ if context.json => format!("{value}\n"),
        [] => " nothing to undo: no change of gpuferry's is in force\n".to_owned(),
        numbers => {
            let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
            format!(
                " undone: change {}; what the running kernel was booted with stays until the next boot\n",
                numbers.join(", ")
            )
        }
    })?;
    Ok(Status::Done)
}
