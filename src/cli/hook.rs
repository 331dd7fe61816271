//! `gpuferry hook`: libvirt's daemon calls gpuferry when guests start and stop; the owner says for which of them.

use super::{
    Context,
    apply::progress,
    follow::{asked, can_ask, need_root, this_machine},
    print,
};
use crate::{
    error::{Error, Result, Status},
    handover::{awake, request::Wishes, snapshot::Card},
    hook::{
        Guest,
        hold::{self, Hold},
        install::{self, Plan, TakenUp},
        record, watch,
    },
    host::{self, Host},
    journal::run::{self, Which},
    machine::{Machine, Root, live::Live},
    plan::show,
    vm::domain::{self, Domain},
};
use clap::{Args, Subcommand};
use std::{ffi::OsString, io, path::PathBuf};

/// Hand cards over when libvirt starts and stops its guests.
#[derive(Debug, Args)]
pub struct Hook {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Have libvirt's daemon call gpuferry, and check that it does. Guests are enabled one by one.
    Install(Yes),
    /// Take the hook out again.
    Remove(Yes),
    /// Hand cards over for this guest when it starts, and bring them home when it ends.
    Enable(Enable),
    /// Leave this guest alone again.
    Disable(Disable),
    /// Show whether the hook is in place, and for which guests it acts.
    List,
    /// What libvirt's daemon runs.
    #[command(hide = true)]
    Qemu {
        /// As <https://libvirt.org/hooks.html> has them: guest, operation, sub-operation, extra.
        words: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
struct Yes {
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Enable {
    /// The domain's name.
    guest: String,
    /// Who may be stopped for it without being asked about: a unit, `display-manager`, `session:USER`,
    /// `process:NAME`, or `all`. Units that ran start again when the card is home.
    #[arg(long, value_name = "WHO")]
    stop: Vec<String>,
    #[command(flatten)]
    wishes: Wishes,
    #[command(flatten)]
    yes: Yes,
}

#[derive(Debug, Args)]
struct Disable {
    /// The domain's name.
    guest: String,
    #[command(flatten)]
    yes: Yes,
}

impl Hook {
    pub(super) fn run(&self, context: &Context) -> Result<Status> {
        if let Part::Qemu { words } = &self.part {
            return Ok(crate::hook::call::main(words, &mut io::stdin()));
        }
        let machine = this_machine(context, "hook")?;
        match &self.part {
            Part::Install(yes) => install(context, &machine, yes),
            Part::Remove(yes) => {
                undo(context, &machine, yes, &install::own_files(), "the hook is not installed")
            }
            Part::Enable(enable) => enable.run(context, &machine),
            Part::Disable(disable) => {
                let name = &disable.guest;
                let path =
                    record(name).ok_or_else(|| Error::usage(format!("`{name}` is no domain's name")))?;
                undo(context, &machine, &disable.yes, &[path], &format!("{name} is not enabled"))
            }
            Part::List | Part::Qemu { .. } => list(context, &machine),
        }
    }
}

fn install(context: &Context, machine: &Live, yes: &Yes) -> Result<Status> {
    let (binary, version) = (install::binary(machine)?, install::libvirt_version(machine)?);
    let plan = install::install(&machine, &binary, version)?;
    need_root("hook install")?;
    let change = carry_out(context, machine, yes, &plan, &[])?;
    let taken = install::take_up(machine);
    let taken = taken.map_err(|error| install::take_back(machine, change, error, &mut progress(context)))?;
    let (word, text) = match taken {
        TakenUp::AtItsStart => {
            ("at-its-start", "libvirt's daemon does not run; it looks for hooks when it starts")
        }
        TakenUp::Now => ("now", "libvirt's daemon has looked, and calls it from now on"),
        TakenUp::Told => (
            "told",
            "libvirt's daemon was told to look; with another script beside it, that it did cannot be seen from here",
        ),
    };
    say(
        context,
        change,
        &plan,
        &serde_json::json!({ "taken_up": word }),
        &[
            text.to_owned(),
            "for a guest       gpuferry hook enable GUEST".to_owned(),
            "take it out       gpuferry hook remove".to_owned(),
        ],
    )
}

impl Enable {
    fn run(&self, context: &Context, machine: &Live) -> Result<Status> {
        need_root("hook enable")?;
        let domain = defined(machine, &self.guest)?;
        let uuid = domain.as_ref().and_then(|domain| domain.uuid.clone());
        let guest = Guest {
            schema: 1,
            name: self.guest.clone(),
            uuid,
            stop: self.stop.clone(),
            wishes: self.wishes.clone(),
        };
        let plan = install::enable(&machine, &guest)?;
        let host = host::observe(machine);
        let notes = notes(machine, &host, &guest, domain.as_ref());
        let change = carry_out(context, machine, &self.yes, &plan, &notes)?;
        let next = match install::installed(&machine) {
            Some(_) => format!("virsh start {}", guest.name),
            None => "gpuferry hook install".to_owned(),
        };
        say(
            context,
            change,
            &plan,
            &serde_json::json!({ "guest": guest, "notes": notes }),
            &[
                format!("next              {next}"),
                format!("leave it alone    gpuferry hook disable {}", guest.name),
            ],
        )
    }
}

/// The domain as libvirt keeps it; `None` where it keeps none by that name.
fn defined(machine: &Live, name: &str) -> Result<Option<Domain>> {
    if record(name).is_none() {
        return Err(Error::usage(format!("`{name}` is no domain's name")));
    }
    let path = PathBuf::from(format!("/etc/libvirt/qemu/{name}.xml"));
    let text = match machine.read_start(&path, domain::MAX_XML + 1) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", &path, &error)),
    };
    let domain = domain::hostdevs(&text);
    domain.map(Some).map_err(|error| Error::failed(format!("{}: {error}", path.display())))
}

/// What the owner should know before saying yes.
fn notes(machine: &Live, host: &Host, guest: &Guest, domain: Option<&Domain>) -> Vec<String> {
    let name = &guest.name;
    let mut notes = Vec::new();
    match domain {
        None => notes.push(format!("libvirt knows no domain {name} yet: whichever gets that name is meant")),
        Some(domain) if domain.hostdevs.is_empty() => {
            notes.push(format!("{name} takes no PCI device yet: nothing is handed over until it does"));
        }
        Some(domain) => {
            let mut cards: Vec<Card> = Vec::new();
            for address in domain.addresses() {
                match Card::find(host, address) {
                    Ok(card) if cards.contains(&card) => {}
                    Ok(card) => cards.push(card),
                    Err(error) => notes.push(error.message),
                }
            }
            for card in &cards {
                notes
                    .push(format!("{} ({}) goes to it and comes home with its end", card.address, card.name));
                if let Some(refusal) = crate::handover::preflight::refuse_host(host, card, &cards) {
                    notes.push(format!("as things are, its start would be refused: {}", refusal.message));
                }
            }
        }
    }
    for unit in &guest.stop {
        notes.push(format!(
            "{unit} is stopped for it if the card is in use then, and started again afterwards"
        ));
    }
    for other in install::others(&machine, name) {
        notes.push(format!(
            "{} seems to hand devices over as well: one of the two is too many",
            other.display()
        ));
    }
    notes
}

/// Shows a change, asks, and makes it. `None`: it is so already.
fn carry_out(
    context: &Context,
    machine: &Live,
    yes: &Yes,
    plan: &Plan,
    notes: &[String],
) -> Result<Option<u32>> {
    if !context.json {
        print(&format!(" {}\n", plan.title))?;
        for step in &plan.steps {
            print(&match show::diff(step, &plan.sources) {
                Some(diff) => format!("\n{diff}"),
                None => format!("   {}\n", step.describe()),
            })?;
        }
        notes.iter().try_for_each(|note| print(&format!("   {note}\n")))?;
    }
    if plan.steps.is_empty() {
        return Ok(None);
    }
    confirm(context, yes)?;
    let _held = run::lock(machine)?;
    run::apply(machine, plan.planned()?, &mut progress(context)).map(Some)
}

fn confirm(context: &Context, yes: &Yes) -> Result<()> {
    if yes.yes {
        return Ok(());
    }
    if !can_ask(context) {
        return Err(Error::usage("nobody can be asked here").hint("say yes beforehand: --yes"));
    }
    if asked("\n do this")? { Ok(()) } else { Err(Error::failed("stopped; nothing was changed")) }
}

fn say(
    context: &Context,
    change: Option<u32>,
    plan: &Plan,
    more: &serde_json::Value,
    lines: &[String],
) -> Result<Status> {
    if context.json {
        let mut value = serde_json::json!({ "schema": 1, "change": change, "title": plan.title });
        if let (Some(value), Some(more)) = (value.as_object_mut(), more.as_object()) {
            value.extend(more.clone());
        }
        print(&format!("{value}\n"))?;
        return Ok(Status::Done);
    }
    let head = match change {
        Some(number) => format!("\n change {number} is made and checked\n"),
        None => " nothing to change: it is so already\n".to_owned(),
    };
    print(&lines.iter().fold(head, |text, line| format!("{text}   {line}\n")))?;
    Ok(Status::Done)
}

/// Undoes the changes that wrote these files.
fn undo(context: &Context, machine: &Live, yes: &Yes, paths: &[PathBuf], none: &str) -> Result<Status> {
    need_root("hook")?;
    let held = run::lock(machine)?;
    let changes = install::changes_of(&machine, paths)?;
    if changes.is_empty() {
        print(&if context.json {
            format!("{}\n", serde_json::json!({ "schema": 1, "undone": [] }))
        } else {
            format!(" {none}: nothing to undo\n")
        })?;
        return Ok(Status::Done);
    }
    for change in changes.iter().filter(|_| !context.json) {
        print(&format!(" undo change {}: {}\n", change.number, change.planned.title))?;
    }
    confirm(context, yes)?;
    let mut undone = Vec::new();
    for change in &changes {
        undone.extend(run::revert(machine, Which::One(change.number), true, &mut progress(context))?);
    }
    drop(held);
    let left: Vec<_> = hold::all(machine)?.into_iter().map(|hold| hold.name).collect();
    if context.json {
        print(&format!("{}\n", serde_json::json!({ "schema": 1, "undone": undone })))?;
    } else if !left.is_empty() {
        print(&format!(" cards that guests have now come home with their end: {}\n", left.join(", ")))?;
    }
    Ok(Status::Done)
}

fn list(context: &Context, machine: &Live) -> Result<Status> {
    let installed = install::installed(&machine);
    let guests = Guest::all(machine)?;
    let holds = hold::all(machine)?;
    let of = |guest: &Guest| holds.iter().find(|hold| hold.name == guest.name);
    if context.json {
        let rows = guests.iter().map(|guest| {
            serde_json::json!({ "name": guest.name, "uuid": guest.uuid, "stop": guest.stop,
                "cards": of(guest).map(|hold| hold.cards.iter().map(|card| card.address).collect::<Vec<_>>()) })
        });
        let value =
            serde_json::json!({ "schema": 1, "installed": installed, "guests": rows.collect::<Vec<_>>() });
        print(&format!("{value}\n"))?;
        return Ok(Status::Done);
    }
    print(&match &installed {
        Some(path) => format!(" libvirt calls {}\n", path.display()),
        None => " libvirt does not call gpuferry\n   next   gpuferry hook install\n".to_owned(),
    })?;
    for guest in &guests {
        let uuid = guest.uuid.as_deref().unwrap_or("whichever domain has that name");
        let now = of(guest).map_or_else(String::new, |hold| format!("   {}", sentence(machine, hold)));
        print(&format!(" {}   {uuid}{now}\n", guest.name))?;
        for who in &guest.stop {
            print(&format!("   may stop {who}\n"))?;
        }
    }
    if guests.is_empty() {
        print(" no guest is enabled\n   next   gpuferry hook enable GUEST\n")?;
    }
    Ok(Status::Done)
}

/// A domain with cards, in a sentence.
pub(super) fn sentence(machine: &dyn Machine, hold: &Hold) -> String {
    let cards: Vec<_> = hold.cards.iter().map(|card| card.address.to_string()).collect();
    let mut text = match hold.stage {
        hold::Stage::Starting => format!("starts with {}", cards.join(", ")),
        hold::Stage::Running => format!("runs with {}", cards.join(", ")),
        hold::Stage::Ended => format!("has ended, and {} comes home", cards.join(", ")),
    };
    if awake::is_held(machine, &watch::key(&hold.uuid)) {
        text.push_str("; sleep and the lid switch are inhibited");
    }
    if !watch::is_watched(machine, &hold.uuid) {
        text.push_str("; nobody watches it");
    }
    text
}

/// The domains with cards, for `status`.
pub(super) fn rows(machine: &dyn Machine) -> (Vec<serde_json::Value>, Vec<String>) {
    let holds = hold::all(machine).unwrap_or_default();
    let row = |hold: &Hold| {
        serde_json::json!({ "name": hold.name, "uuid": hold.uuid, "stage": hold.stage,
            "cards": hold.cards.iter().map(|card| card.address).collect::<Vec<_>>(),
            "pid": hold.qemu.map(|(pid, _)| pid), "since_ms": hold.since_ms,
            "watched": watch::is_watched(machine, &hold.uuid),
            "awake": awake::is_held(machine, &watch::key(&hold.uuid)) })
    };
    let lines = holds.iter().map(|hold| format!(" domain {} {}\n", hold.name, sentence(machine, hold)));
    (holds.iter().map(row).collect(), lines.collect())
}
