//! The command line: one file a verb. Parses words, calls the library, prints; decides nothing itself.

mod apply;
mod capture;
mod card;
mod consent;
mod detach;
mod doctor;
mod follow;
mod generate;
mod history;
mod hook;
mod inspect;
mod json;
mod keep;
mod later;
mod plan;
mod reattach;
mod render;
mod revert;
mod screen;
mod source;
mod status;
mod view;
mod vm;

use crate::{
    error::{Error, Result, Status},
    language::Language,
};
use clap::{Args, Parser, Subcommand};
use later::Later;
use std::{
    io::{self, Write},
    path::PathBuf,
};

/// Carries a GPU from this host to a KVM guest and back.
#[derive(Debug, Parser)]
#[command(name = "gpuferry", version, about, propagate_version = true)]
pub struct Cli<const WHOLE: bool = false> {
    /// What every verb takes.
    #[command(flatten)]
    pub general: General,
    /// What to do; without it, the machine and the next step are shown.
    #[command(subcommand)]
    pub verb: Option<Verb<WHOLE>>,
}

/// What every verb takes.
#[derive(Debug, Args)]
pub struct General {
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// Look at what was saved instead of this machine (read-only verbs): a capture, a folder or archive with a saved
    /// sys/, pasted text, or `-` for standard input. May be given several times; the facts are put together.
    #[arg(long, global = true, value_name = "FILE")]
    pub host: Vec<PathBuf>,
    /// For screen readers: sentences, one fact a line, no columns and no lines drawn.
    #[arg(long, global = true)]
    pub plain: bool,
    /// Read the configuration of sleeping devices too, which wakes them.
    #[arg(long, global = true)]
    pub wake: bool,
    /// The language of findings. Without it, that of the locale; JSON is English unless it is asked for here.
    #[arg(long, global = true, value_name = "LANGUAGE", value_enum)]
    pub lang: Option<Language>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb<const WHOLE: bool> {
    /// Show the machine: cards, IOMMU groups, devices, how it boots. With --json, everything that is known.
    Inspect(Later<inspect::Inspect, WHOLE>),
    /// Say what stands in the way, why, and what helps. Ends with status 1 where something blocks.
    Doctor(Later<doctor::Doctor, WHOLE>),
    /// Show what would change for a goal, as a diff. Changes nothing.
    Plan(Later<plan::Plan, WHOLE>),
    /// Carry a plan out, after showing it and asking; `revert` undoes it.
    Apply(Later<apply::Apply, WHOLE>),
    /// Undo everything that `apply` ever changed.
    Revert(Later<revert::Revert, WHOLE>),
    /// Show every change that was made, step by step, with its time.
    History(Later<history::History, WHOLE>),
    /// Take cards away from the host, so that a guest can have them; undone by `reattach`.
    Detach(Later<detach::Detach, WHOLE>),
    /// Bring cards home: drivers, screen and consoles as they were.
    Reattach(Later<reattach::Reattach, WHOLE>),
    /// Keep a card that was detached with --timeout: it does not go home by itself.
    Keep(Later<keep::Keep, WHOLE>),
    /// Guests.
    Vm(Later<vm::Vm, WHOLE>),
    /// Hand cards over when libvirt starts and stops its guests.
    Hook(Later<hook::Hook, WHOLE>),
    /// Show who has which card, since when, and what comes next.
    Status(Later<status::Status, WHOLE>),
    /// Write this machine to a file for somebody else to look at, without what is personal.
    Capture(Later<capture::Capture, WHOLE>),
    /// What the worker's unit runs.
    #[command(hide = true)]
    Card(Later<card::Card, WHOLE>),
    /// Write man pages and shell completions below a folder, for packagers.
    #[command(hide = true)]
    Generate(Later<generate::Generate, WHOLE>),
}

/// What every verb is given.
#[derive(Debug)]
pub struct Context {
    /// Print JSON instead of text.
    pub json: bool,
    /// What to look at instead of this machine.
    pub host: Vec<PathBuf>,
    /// For screen readers.
    pub plain: bool,
    /// Sleeping devices may be woken.
    pub wake: bool,
    /// The language of findings.
    pub language: Language,
}

/// The language that was asked for, or that of the locale for who reads text.
fn language(general: &General) -> Language {
    let of_locale = || {
        // The kernel's text console has no such letters.
        if std::env::var("TERM").is_ok_and(|terminal| terminal == "linux") {
            return Language::English;
        }
        let names = ["LC_ALL", "LC_MESSAGES", "LANG"].iter().filter_map(|name| std::env::var(name).ok());
        let mut set = names.filter(|locale| !locale.is_empty());
        set.next().map_or(Language::English, |locale| Language::of_locale(&locale))
    };
    general.lang.unwrap_or_else(|| if general.json { Language::English } else { of_locale() })
}

/// Runs the program on these words and returns its exit status.
pub fn main(words: impl IntoIterator<Item = std::ffi::OsString>) -> Status {
    let words: Vec<_> = words.into_iter().collect();
    match words.as_slice() {
        // libvirt waits for it at every step of every guest: before anything else is made ready.
        [_, verb, part, call @ ..] if verb == "hook" && part == "qemu" && call.len() == 4 => {
            return crate::hook::call::main(call, &mut io::stdin());
        }
        // Another gpuferry waits for it.
        [_, verb, paths @ ..] if verb == crate::machine::apart::VERB => {
            // A closed pipe: nobody listens any more.
            let _ = crate::machine::apart::child(paths, &mut io::stdout());
            return Status::Done;
        }
        _ => {}
    }
    let cli = match later::parse(&words) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap knows which stream is right.
            let _ = error.print();
            return if error.use_stderr() { Status::Usage } else { Status::Done };
        }
    };
    let Cli { general, verb } = cli;
    let language = language(&general);
    let General { json, host, plain, wake, .. } = general;
    let context = Context { json, host, plain, wake, language };
    match run(&context, verb) {
        Ok(status) => status,
        Err(error) => report(&context, &error),
    }
}

fn run(context: &Context, verb: Option<Verb<false>>) -> Result<Status> {
    match verb {
        Some(Verb::Inspect(Later(verb))) => verb.run(context),
        Some(Verb::Doctor(Later(verb))) => verb.run(context),
        Some(Verb::Plan(Later(verb))) => verb.run(context),
        Some(Verb::Apply(Later(verb))) => verb.run(context),
        Some(Verb::Revert(Later(verb))) => verb.run(context),
        Some(Verb::History(_)) => history::History::run(context),
        Some(Verb::Detach(Later(verb))) => verb.run(context),
        Some(Verb::Reattach(Later(verb))) => verb.run(context),
        Some(Verb::Hook(Later(verb))) => verb.run(context),
        Some(Verb::Status(_)) => status::Status::run(context),
        Some(Verb::Keep(Later(verb))) => verb.run(context),
        Some(Verb::Vm(Later(verb))) => verb.run(context),
        Some(Verb::Capture(Later(verb))) => verb.run(context),
        Some(Verb::Card(Later(verb))) => verb.run(context),
        Some(Verb::Generate(Later(verb))) => verb.run(),
        None => inspect::first_screen(context),
    }
}

/// Prints an error where a person, or a program that asked for JSON, looks for it.
fn report(context: &Context, error: &Error) -> Status {
    let status = error.status;
    let text = if context.json {
        serde_json::json!({ "schema": 1, "error": {
            "status": status as u8, "message": error.message, "details": error.details, "hints": error.hints } })
        .to_string()
    } else {
        error.to_string()
    };
    // With a closed standard error there is nobody left to tell; the status still does.
    let _ = writeln!(io::stderr(), "{text}");
    status
}

/// Writes to standard output. A reader that went away (`| head`) is no error.
pub fn print(text: &str) -> Result<()> {
    printed(io::stdout().write_all(text.as_bytes()))
}

fn printed(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::failed(format!("cannot write to standard output: {}", crate::error::said(&error))))
        }
        _ => Ok(()),
    }
}
