//! `gpuferry plan`: what would change, as a diff. Changes nothing but the file it is told to write.

use super::{Context, print, source::look};
use crate::{
    error::{Error, Result, Status},
    journal::run,
    machine::{Ownership, Root, live::Live},
    pci::Address,
    plan::{
        file::PlanFile,
        files::{FilePlan, files},
        goal::{BindBy, Goal},
        show,
        sources::Sources,
    },
    step::write::replace,
};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

/// What `gpuferry plan` is told.
#[derive(Debug, Args)]
pub struct Plan {
    /// What is wanted.
    #[command(subcommand)]
    pub goal: PlanGoal,
}

/// What can be planned.
#[derive(Debug, Subcommand)]
pub enum PlanGoal {
    /// Cards go to guests from boot on, until it is undone.
    Static {
        /// The cards.
        #[command(flatten)]
        cards: Cards,
        /// Write the plan to a file, for `gpuferry apply FILE`.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// The cards, and how the early boot knows them.
#[derive(Debug, Clone, Args)]
pub struct Cards {
    /// A card: any of its functions, as 0000:01:00.0. May be given several times; cards not named stay with the host.
    #[arg(long = "gpu", value_name = "ADDR", required = true, num_args = 1..)]
    pub gpus: Vec<Address>,
    /// How the early boot knows the card: by its path from the root port and its ids, or by its ids alone.
    #[arg(long, value_enum, default_value_t = BindBy::Path)]
    pub bind_by: BindBy,
}

impl Cards {
    /// As the goal of a plan.
    pub(super) fn goal(&self) -> Goal {
        Goal::Static { gpus: self.gpus.clone(), bind_by: self.bind_by }
    }
}

/// A plan for this goal on the machine as it is now, with the files that it was made from.
pub(super) fn make(context: &Context, goal: &Goal) -> Result<(Box<dyn Root>, Sources, FilePlan)> {
    let (root, host) = look(context)?;
    let sources = Sources::read(root.as_ref())?;
    let plan = files(&host, &sources, goal)?;
    Ok((root, sources, plan))
}

impl Plan {
    pub(super) fn run(&self, context: &Context) -> Result<Status> {
        let PlanGoal::Static { cards, output } = &self.goal;
        let (root, sources, plan) = make(context, &cards.goal())?;
        // Where the journal can be read: half a change is no state to plan from.
        if crate::journal::record::load(root.as_ref()).is_ok() {
            run::refuse_unfinished(root.as_ref())?;
        }
        let json = json(&plan)?;
        if let Some(path) = output {
            save(path, json.as_bytes())?;
        }
        if context.json {
            print(&json)?;
            return Ok(Status::Done);
        }
        print(&show::text(&plan, &sources))?;
        if !plan.steps.is_empty() {
            print(&match output {
                Some(path) => format!("\n do it    sudo gpuferry apply {}\n", path.display()),
                None => format!("\n do it    sudo gpuferry apply {}\n", words(cards)),
            })?;
        }
        Ok(Status::Done)
    }
}

/// The same goal as words.
fn words(cards: &Cards) -> String {
    let mut words = vec!["static".to_owned()];
    words.extend(cards.gpus.iter().map(|gpu| format!("--gpu {gpu}")));
    if cards.bind_by == BindBy::Ids {
        words.push("--bind-by ids".to_owned());
    }
    words.join(" ")
}

/// A plan as the file that holds it.
pub(super) fn json(plan: &FilePlan) -> Result<String> {
    let text = serde_json::to_string_pretty(&PlanFile::from(plan))
        .map_err(|error| Error::failed(format!("cannot write the plan: {error}")))?;
    Ok(text + "\n")
}

/// An absolute path, and the machine whose files it is among: a plan file is the caller's, not the looked-at host's.
pub(super) fn here(path: &Path) -> Result<(Live, PathBuf)> {
    let absolute = std::path::absolute(path).map_err(|error| Error::io("find", path, &error))?;
    let machine = Live::open(Path::new("/")).map_err(|error| Error::io("open", Path::new("/"), &error))?;
    Ok((machine, absolute))
}

fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    let (machine, path) = here(path)?;
    if machine.stat(&path).is_ok_and(|stat| stat.kind != crate::machine::FileKind::File) {
        return Err(Error::usage(format!("{} is there and is no plain file", path.display())));
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let ownership = Ownership { uid, gid, ..Ownership::root(0o644) };
    replace(&machine, &path, bytes, &ownership)
}
