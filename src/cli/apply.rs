//! `gpuferry apply`: shows a plan, asks, carries it out, checks it.

use super::{
    Context,
    follow::{need_root, this_machine},
    plan::{Cards, here, make},
    print,
};
use crate::{
    error::{Error, Result, Status},
    journal::{
        record::Planned,
        run::{self, Progress},
    },
    machine::{Root, live::Live},
    plan::{
        file::{self, PlanFile},
        files::FilePlan,
        goal::Goal,
        show,
        sources::Sources,
    },
    step::derived::{self, Derived},
};
use clap::{Args, Subcommand};
use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::PathBuf,
};

/// What `gpuferry apply` is told.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = false, subcommand_precedence_over_arg = true)]
pub struct Apply {
    /// A plan that `gpuferry plan -o FILE` wrote.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Do not ask.
    #[arg(long, short, global = true)]
    pub yes: bool,
    /// What is wanted, in the place of a plan file.
    #[command(subcommand)]
    pub goal: Option<ApplyGoal>,
}

/// What can be applied without a plan file.
#[derive(Debug, Subcommand)]
pub enum ApplyGoal {
    /// Cards go to guests from boot on, until it is undone.
    Static(Cards),
}

impl Apply {
    pub(super) fn run(&self, context: &Context) -> Result<Status> {
        let machine = this_machine(context, "apply")?;
        let (goal, planned) = self.goal()?;
        need_root("apply")?;
        run::refuse_unfinished(&machine)?;
        let (_, sources, plan) = make(context, &goal)?;
        if let Some((path, planned)) = &planned {
            file::compare(path, planned, &plan)?;
        }
        if plan.steps.is_empty() {
            return done_already(context, &machine, &plan);
        }
        if !context.json {
            let seen = planned.is_some();
            print(&if seen { show::summary(&plan) } else { show::text(&plan, &sources) })?;
        }
        if !self.yes && !confirmed(context, &plan)? {
            return Err(Error::failed("stopped; nothing was changed"));
        }
        let held = run::lock(&machine)?;
        // What was shown is what is done: the owner may have thought for a while.
        let now = make(context, &goal)?.2;
        if now.digest != plan.digest {
            return Err(Error::refused("this machine's files changed while the plan was shown")
                .hint("gpuferry apply …   shows the plan as it is now"));
        }
        let steps = Planned {
            schema: 1,
            time: 0,
            title: plan.title.clone(),
            digest: plan.digest.clone(),
            words: plan.words.clone(),
            steps: plan.steps.clone(),
            boot: Vec::new(),
        };
        let number = run::apply(&machine, steps, &mut progress(context))?;
        drop(held);
        finished(context, &plan, &sources, number)
    }

    /// The goal, and the plan file that it comes from.
    fn goal(&self) -> Result<(Goal, Option<(PathBuf, PlanFile)>)> {
        match (&self.goal, &self.file) {
            (Some(ApplyGoal::Static(cards)), None) => Ok((cards.goal(), None)),
            (None, Some(path)) => {
                let (machine, absolute) = here(path)?;
                let bytes = machine
                    .read_start(&absolute, file::MAX_SIZE + 1)
                    .map_err(|error| Error::io("read", path, &error).with_status(Status::Usage))?;
                let plan = file::parse(path, &bytes)?;
                Ok((plan.goal.clone(), Some((path.clone(), plan))))
            }
            (Some(_), Some(_)) => Err(Error::usage("a plan file and a goal together are too much: give one")),
            (None, None) => Err(Error::usage("what is to be applied?")
                .hint("gpuferry apply FILE   carries out what gpuferry plan -o FILE wrote")
                .hint("gpuferry apply static --gpu ADDR")),
        }
    }
}

/// The source files are as the goal wants them. What is made from them is looked at before that is believed.
fn done_already(context: &Context, machine: &Live, plan: &FilePlan) -> Result<Status> {
    let kernels = derived::kernels(machine)?;
    let images = kernels.into_iter().map(|kernel| Derived::InitramfsTools { kernel });
    for made in images.chain([Derived::GrubDebian]) {
        made.verify(machine).map_err(|error| error.hint(format!("make it again: {}", made.by_hand())))?;
    }
    print(&if context.json {
        format!("{}\n", serde_json::json!({ "schema": 1, "change": null, "title": plan.title, "steps": [] }))
    } else {
        format!(" {}\n nothing to change: it is so already\n", plan.title)
    })?;
    Ok(Status::Done)
}

/// Asks yes, no or explain. Where nobody can be asked, `--yes` has to say it.
fn confirmed(context: &Context, plan: &FilePlan) -> Result<bool> {
    if context.json || !io::stdin().is_terminal() {
        return Err(
            Error::usage("nobody can be asked here").hint("say yes beforehand: gpuferry apply --yes …")
        );
    }
    loop {
        print("\n do this? [yes/no/explain] ")?;
        let mut answer = String::new();
        if io::stdin().lock().read_line(&mut answer).unwrap_or(0) == 0 {
            return Ok(false);
        }
        match answer.trim() {
            "y" | "yes" => return Ok(true),
            "e" | "explain" => {
                for (number, step) in plan.steps.iter().enumerate() {
                    print(&format!("  {:>2}  {}\n      {}\n", number + 1, step.describe(), show::why(step)))?;
                }
                print("  every step is written down first; gpuferry revert undoes all of it\n")?;
            }
            _ => return Ok(false),
        }
    }
}

/// Shows steps as they happen: where JSON goes to standard output, on standard error.
pub(super) fn progress(context: &Context) -> impl FnMut(&Progress) {
    let json = context.json;
    let live = !json && io::stdout().is_terminal();
    move |progress| {
        let line = match progress {
            Progress::Begin(what) if live => format!("  … {what}\r"),
            Progress::Begin(_) => return,
            Progress::Done(what, took) => format!("  ✓ {what:<62} {:>6.1} s\n", took.as_secs_f64()),
            Progress::Failed(what) => format!("  ✗ {what}\n"),
            Progress::Note(what) => format!("  · {what}\n"),
        };
        // With nobody to show it to, the work goes on all the same.
        let _ = if json {
            io::stderr().write_all(line.as_bytes())
        } else {
            io::stdout().write_all(line.as_bytes()).and_then(|()| io::stdout().flush())
        };
    }
}

fn finished(context: &Context, plan: &FilePlan, sources: &Sources, number: u32) -> Result<Status> {
    let next = ["systemctl reboot", "gpuferry revert"];
    if context.json {
        let steps: Vec<_> = plan
            .steps
            .iter()
            .map(|step| serde_json::json!({ "text": step.describe(), "diff": show::diff(step, sources) }))
            .collect();
        let value = serde_json::json!({ "schema": 1, "change": number, "title": plan.title,
            "words": plan.words, "steps": steps, "notes": plan.notes, "next": next });
        print(&format!("{value}\n"))?;
        return Ok(Status::Done);
    }
    print(&format!(
        "\n change {number} is made and checked; it takes effect with the next boot\n   \
         reboot                                  {}\n   \
         one boot without it                     add gpuferry.off=1 in the boot menu (key e), or take a recovery entry\n   \
         undo it                                 sudo {}\n",
        next[0], next[1]
    ))?;
    Ok(Status::Done)
}
