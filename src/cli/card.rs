//! `gpuferry card`: what the worker's unit runs. Not for people.

use super::{Context, follow::this_machine};
use crate::{
    error::{Result, Status},
    handover::{
        awake, client, guard,
        record::RUN,
        request::{Request, Way, Wishes},
        unused,
        worker::{self, Outcome},
    },
    hook::watch,
    pci::Address,
    vm::run,
};
use clap::{Args, Subcommand};
use std::{ffi::OsString, path::Path, time::Duration};

/// What the worker's unit runs.
#[derive(Debug, Args)]
pub struct Card {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Carry one hand-over out.
    Work(Work),
    /// Bring a card home that was lent on trial, when nobody takes it in time.
    Trial {
        address: Address,
        #[arg(long)]
        op: String,
    },
    /// Reboot the host if a write of a hand-over hangs for too long, where its owner wants that.
    Guard { address: Address, pid: u32, started: u64, after: u64 },
    /// Start and watch a guest.
    Guest {
        name: String,
        #[arg(long)]
        op: String,
    },
    /// Watch a libvirt domain that has cards, until they are home.
    Watch { uuid: String },
    /// Hold a lock until a process ends: what `systemd-inhibit` runs.
    Awake { key: String, pid: u32, started: u64 },
    /// Without systemd: start `gpuferry card WORDS` in a session of its own, and again if it is killed.
    Keep {
        /// The words.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
struct Work {
    way: Way,
    address: Address,
    #[arg(long)]
    op: String,
    #[arg(long)]
    limit: u64,
    #[arg(long)]
    with: Vec<Address>,
    #[arg(long)]
    step: bool,
    #[arg(long)]
    stop: Vec<String>,
    #[arg(long)]
    home_after: Option<u64>,
    #[arg(long)]
    guest: Option<String>,
    #[command(flatten)]
    wishes: Wishes,
}

impl Card {
    /// Runs it.
    pub fn run(self, context: &Context) -> Result<Status> {
        let machine = this_machine(context, "card")?;
        match self.part {
            Part::Keep { words } => client::keep(&machine, &words, &Path::new(RUN).join("worker.log")),
            Part::Trial { address, op } => unused::watch(&machine, address, &op).map(|()| Status::Done),
            Part::Guard { address, pid, started, after } => {
                guard::watch(&machine, address, pid, started, Duration::from_secs(after))
                    .map(|()| Status::Done)
            }
            Part::Watch { uuid } => watch::work(&machine, &uuid).map(|()| Status::Done),
            Part::Awake { key, pid, started } => {
                awake::keep(&machine, &key, pid, started).map(|()| Status::Done)
            }
            Part::Guest { name, op } => run::work(&machine, &name, &op).map(|()| Status::Done),
            Part::Work(work) => {
                let request = Request {
                    op: work.op,
                    way: work.way,
                    address: work.address,
                    together: work.with,
                    limit: Duration::from_secs(work.limit),
                    step: work.step,
                    stop: work.stop,
                    home_after: work.home_after.map(Duration::from_secs),
                    guest: work.guest,
                    wishes: work.wishes,
                };
                let outcome = worker::work(&machine, &request)?;
                if outcome == Outcome::Lent {
                    unused::start(&machine, &request)?;
                }
                Ok(Status::Done)
            }
        }
    }
}
