//! Applies a plan of file steps, and undoes what was applied.
//!
//! Every step is written into the journal before it acts. A step that fails has everything before it undone at
//! once. Undoing looks at what is there now, goes on past single errors, and may itself be cut off and begun anew.

use super::{
    STATE,
    record::{self, Change, Planned, Record, State},
};
use crate::{
    error::{Error, Result, Status},
    machine::{Lock, Machine, Root},
    step::{
        FileStep, Undone,
        before::{Before, look},
        derived::{self, Derived},
        write,
    },
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// Something that was done, to be shown as it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// This begins now, and may take a while.
    Begin(String),
    /// It is done, and took this long.
    Done(String, Duration),
    /// It failed.
    Failed(String),
    /// Good to know.
    Note(String),
}

/// Where progress goes.
pub type Say<'s> = &'s mut dyn FnMut(&Progress);

/// Takes the lock that whoever changes files holds.
pub fn lock(machine: &dyn Machine) -> Result<Box<dyn Lock>> {
    super::make_state_folder(machine)?;
    let path = Path::new(STATE).join("lock");
    match machine.lock(&path) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(Error::refused("another gpuferry is changing files just now")
            .hint(format!("fuser -v {}", path.display()))),
        Err(error) => Err(Error::io("lock", &path, &error)),
    }
}

/// Runs something and shows how long it took.
fn timed<T>(machine: &dyn Machine, say: Say, what: String, act: impl FnOnce() -> Result<T>) -> Result<T> {
    say(&Progress::Begin(what.clone()));
    let begun = machine.uptime();
    let result = act();
    say(&match &result {
        Ok(_) => Progress::Done(what, machine.uptime().saturating_sub(begun)),
        Err(_) => Progress::Failed(what),
    });
    result
}

/// Carries a plan out. The caller holds the [`lock`]. Returns the change's number.
pub fn apply(machine: &dyn Machine, mut planned: Planned, say: Say) -> Result<u32> {
    refuse_unfinished(&machine)?;
    derived::wait_for_tools(machine)?;
    derived::clean_tools(machine)?;
    check_space(machine, &planned.steps)?;
    planned.boot = names(machine, Path::new("/boot"))?;
    planned.time = Change::time(machine);
    let number = record::next_number(machine)?;
    let mut change = match Change::create(machine, number, planned) {
        Ok(change) => change,
        Err(error) => {
            // Nothing but our own folder was touched; the next change tidies what cannot be removed now.
            let _ = record::tidy(machine);
            return Err(error);
        }
    };
    match carry_out(machine, &mut change, say) {
        Ok(()) => Ok(number),
        Err(error) => Err(roll_back(machine, change, error, say)),
    }
}

/// Refuses while a change is half made: it has to be undone before anything else is planned.
pub fn refuse_unfinished(root: &dyn Root) -> Result<()> {
    let all = record::load(root)?;
    let cut_off = |change: &&Change| change.state() == State::Unfinished && !change.records.is_empty();
    match all.iter().find(cut_off) {
        None => Ok(()),
        Some(change) => {
            Err(Error::refused(format!("change {} was interrupted and is not finished", change.number))
                .detail(change.planned.title.clone())
                .hint("undo it first: gpuferry revert"))
        }
    }
}

fn carry_out(machine: &dyn Machine, change: &mut Change, say: Say) -> Result<()> {
    for (index, step) in change.planned.steps.clone().iter().enumerate() {
        let (before, bytes) = step.look(&machine)?;
        if let Before::File { .. } = before {
            change.keep(machine, index, &bytes)?;
        }
        let time = Change::time(machine);
        change.write(machine, Record::Begin { time, step: index, before: before.clone() })?;
        let done = timed(machine, say, step.describe(), || step.apply(machine, &before));
        let time = Change::time(machine);
        if let Err(error) = done {
            // The failure itself is what is reported; that it could not be written down as well adds nothing.
            let _ = change.write(machine, Record::Failed { time, step: index, error: error.message.clone() });
            return Err(error);
        }
        change.write(machine, Record::Done { time, step: index })?;
    }
    let steps = change.planned.steps.clone();
    timed(machine, say, "check what was written".to_owned(), || {
        steps.iter().try_for_each(|step| step.verify(&machine))
    })?;
    let time = Change::time(machine);
    change.write(machine, Record::Applied { time })
}

fn roll_back(machine: &dyn Machine, change: Change, error: Error, say: Say) -> Error {
    say(&Progress::Note("undoing what was done".to_owned()));
    match undo(machine, vec![change], true, say) {
        Ok(()) => error.with_status(Status::Undone).detail("everything is as it was before"),
        Err(left) => {
            let mut all = error.with_status(Status::NotUndone).detail(format!("and {}", left.message));
            all.details.extend(left.details);
            all.hints.extend(left.hints);
            all
        }
    }
}

/// Which changes to undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Everything that was ever changed.
    All,
    /// The newest change that is not undone.
    Last,
    /// The change with this number: one whose files no later change has touched.
    One(u32),
}

/// Undoes changes. The caller holds the [`lock`]. `tools` tells whether the distribution's tools of this root can be
/// run; without them, what is left for a person to run is said. Returns the numbers of the changes that were undone.
pub fn revert(machine: &dyn Machine, which: Which, tools: bool, say: Say) -> Result<Vec<u32>> {
    if tools {
        derived::wait_for_tools(machine)?;
    }
    derived::clean_tools(machine)?;
    record::tidy(machine)?;
    let mut open = record::load(&machine)?;
    open.retain(|change| change.state() != State::Reverted);
    open.reverse();
    match which {
        Which::All => {}
        Which::Last => open.truncate(1),
        Which::One(number) => open.retain(|change| change.number == number),
    }
    let numbers = open.iter().map(|change| change.number).collect();
    let edited = edited(machine, &open)?;
    if !edited.is_empty() {
        return Err(refuse_edited(&edited));
    }
    undo(machine, open, tools, say)?;
    Ok(numbers)
}

/// The files that somebody changed after us, in changes that are undone newest first.
fn edited(machine: &dyn Machine, open: &[Change]) -> Result<Vec<write::Edited>> {
    // What will be at each path once the newer changes are undone.
    let mut there: BTreeMap<PathBuf, (Before, Vec<u8>)> = BTreeMap::new();
    let mut found = Vec::new();
    for change in open {
        for (index, step) in change.planned.steps.iter().enumerate().rev() {
            let (FileStep::Write { path, content, .. }, Some(before)) = (step, change.before(index)) else {
                continue;
            };
            let (now, bytes) = match there.remove(path) {
                Some(known) => known,
                None => look(&machine, path)?,
            };
            let kept = match before {
                Before::File { sha256, .. } => change.kept(&machine, index, sha256)?,
                _ => Vec::new(),
            };
            let is_file = matches!(now, Before::File { .. });
            let ours = is_file && bytes == content.as_bytes();
            let as_before = match before {
                Before::File { .. } => is_file && bytes == kept,
                _ => now == Before::Absent,
            };
            if !ours && !as_before {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                found.push(write::Edited {
                    path: path.clone(),
                    before: matches!(before, Before::File { .. }).then(|| text(&kept)),
                    ours: content.clone(),
                    now: is_file.then(|| text(&bytes)),
                });
            }
            there.insert(path.clone(), (before.clone(), kept));
        }
    }
    Ok(found)
}

fn refuse_edited(edited: &[write::Edited]) -> Error {
    let mut error = Error::refused("files that gpuferry wrote were changed by somebody else since");
    for file in edited {
        error = error.detail(format!("{}:", file.path.display()));
        let versions = [
            ("before gpuferry", file.before.as_deref()),
            ("by gpuferry", Some(file.ours.as_str())),
            ("now", file.now.as_deref()),
        ];
        for (name, text) in versions {
            error = error.detail(format!("  {name}:"));
            match text {
                None => error = error.detail("    (no file)"),
                Some(text) => {
                    for line in text.lines() {
                        error = error.detail(format!("    | {line}"));
                    }
                }
            }
        }
        error = error.hint(match (&file.before, &file.now) {
            (None, _) => {
                format!("keep a copy if you need it, then: rm {0}; gpuferry revert", file.path.display())
            }
            (Some(_), _) => {
                format!("make {} as it was before gpuferry, then: gpuferry revert", file.path.display())
            }
        });
    }
    error
}

/// Undoes these changes, newest first: all their source files, then what is made from them, once.
fn undo(machine: &dyn Machine, mut open: Vec<Change>, tools: bool, say: Say) -> Result<()> {
    let mut left: Vec<Error> = Vec::new();
    for change in &mut open {
        let failed = left.len();
        if let Err(error) = undo_sources(machine, change, say, &mut left) {
            left.push(error);
        }
        if left.len() > failed {
            // Older changes of the same files must wait for this one.
            break;
        }
    }
    if left.is_empty() {
        if let Err(error) = derived::clean_tools(machine) {
            left.push(error);
        }
        for change in &open {
            if let Err(error) = derived::clean(machine, &change.planned.boot) {
                left.push(error);
            }
        }
        remake(machine, &open, tools, say, &mut left);
    }
    if left.is_empty() {
        for change in &mut open {
            close(machine, change)?;
        }
        return Ok(());
    }
    let mut error =
        Error::new(Status::NotUndone, format!("not everything could be undone ({} left)", left.len()));
    for one in left {
        error = error.detail(one.message);
        error.details.extend(one.details.into_iter().map(|line| format!("  {line}")));
        error.hints.extend(one.hints);
    }
    error.hints.dedup();
    // Of another system, who called says how to go on.
    Err(if tools { error.hint("when that is mended, go on with: gpuferry revert") } else { error })
}

fn undo_sources(machine: &dyn Machine, change: &mut Change, say: Say, left: &mut Vec<Error>) -> Result<()> {
    let time = Change::time(machine);
    change.write(machine, Record::Reverting { time })?;
    for (index, step) in change.planned.steps.clone().iter().enumerate().rev() {
        let (Some(before), Some(path)) = (change.before(index).cloned(), step.source()) else { continue };
        if change.is_reverted(index) {
            continue;
        }
        let undone = match step {
            FileStep::MakeFolder { .. } => write::undo_folder(machine, path, &before),
            _ => write::undo(machine, path, &before, |sha256| change.kept(&machine, index, sha256)),
        };
        match undone {
            // What is in it may be what could not be undone just now: look again next time.
            Ok(Undone::FolderKept) if !left.is_empty() => {}
            Ok(undone) => {
                let what = match undone {
                    Undone::AsBefore => format!("{} is as it was", path.display()),
                    Undone::FolderKept => format!("{} stays: somebody else's file is in it", path.display()),
                };
                say(&Progress::Note(what));
                let time = Change::time(machine);
                change.write(machine, Record::Reverted { time, step: index })?;
            }
            Err(error) => left.push(error),
        }
    }
    Ok(())
}

/// Makes again what the changes had begun to make, from the sources as they are now.
fn remake(machine: &dyn Machine, open: &[Change], tools: bool, say: Say, left: &mut Vec<Error>) {
    let mut begun = Vec::new();
    for change in open {
        for (index, step) in change.planned.steps.iter().enumerate() {
            if let (FileStep::Derive(derived), Some(_)) = (step, change.before(index)) {
                begun.push(derived);
            }
        }
    }
    let mut again = Vec::new();
    if begun.iter().any(|derived| matches!(derived, Derived::InitramfsTools { .. })) {
        // Kernels that were installed since have our script as well; those that were removed need nothing.
        match derived::kernels(&machine) {
            Ok(kernels) => {
                again.extend(kernels.into_iter().map(|kernel| Derived::InitramfsTools { kernel }));
            }
            Err(error) => left.push(error),
        }
    }
    if begun.contains(&&Derived::GrubDebian) {
        again.push(Derived::GrubDebian);
    }
    for derived in again {
        // Without its tools, what was made by hand meanwhile is believed when it holds nothing of ours.
        let settled = if tools { derived.is_settled(machine) } else { Ok(derived.verify(&machine).is_ok()) };
        let made = match settled {
            Ok(true) => {
                say(&Progress::Note(format!("no need to {}: it holds nothing of ours", derived.describe())));
                Ok(())
            }
            Ok(false) if !tools => {
                Err(Error::failed(format!("{} was not made again", derived.path().display())))
            }
            Ok(false) => timed(machine, say, derived.describe(), || derived.make(machine)),
            Err(error) => Err(error),
        };
        if let Err(error) = made {
            left.push(error);
        }
    }
}

fn close(machine: &dyn Machine, change: &mut Change) -> Result<()> {
    for index in 0..change.planned.steps.len() {
        if change.before(index).is_some() && !change.is_reverted(index) {
            let time = Change::time(machine);
            change.write(machine, Record::Reverted { time, step: index })?;
        }
    }
    let time = Change::time(machine);
    change.write(machine, Record::Closed { time })?;
    change.forget_kept(machine)
}

fn names(machine: &dyn Machine, folder: &Path) -> Result<Vec<String>> {
    let names = machine.list(folder).map_err(|error| Error::io("read", folder, &error))?;
    Ok(names.into_iter().map(|name| name.to_string_lossy().into_owned()).collect())
}

/// Looks for room before anything is changed: a new image is written beside the old one, and the tool's working
/// files lie in the state folder meanwhile.
fn check_space(machine: &dyn Machine, steps: &[FileStep]) -> Result<()> {
    const MARGIN: u64 = 8 << 20;
    let mut needs: Vec<(PathBuf, u64)> = vec![(PathBuf::from(STATE), 1 << 20)];
    for step in steps {
        match step {
            FileStep::MakeFolder { path, .. } | FileStep::Write { path, .. } => {
                let there = path.ancestors().skip(1).find(|folder| machine.exists(folder));
                needs.push((there.unwrap_or(Path::new("/")).to_owned(), 1 << 16));
            }
            FileStep::Derive(derived) => {
                let path = derived.path();
                let size = machine.stat(&path).map_err(|error| Error::io("read", &path, &error))?.size;
                let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
                needs.push((folder, size + size / 8 + MARGIN));
                // mkinitramfs unpacks its modules there, and packs them before it compresses.
                needs.push((PathBuf::from(STATE), size * 3));
            }
        }
    }
    for (path, need) in needs {
        let space = machine.space(&path).map_err(|error| Error::io("look at", &path, &error))?;
        if space.read_only {
            return Err(Error::failed(format!(
                "{} is on a filesystem that is mounted read-only",
                path.display()
            ))
            .detail("nothing was changed")
            .hint(format!("mount -o remount,rw $(findmnt -nT {} -o TARGET)", path.display())));
        }
        if space.free < need {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            return Err(Error::failed(format!(
                "there is not enough room in {}: {} MiB are free, and {} MiB are needed",
                path.display(),
                space.free >> 20,
                mib(need)
            ))
            .detail("nothing was changed")
            .hint("remove kernels that you no longer boot: apt-get autoremove --purge")
            .hint(format!("df -h {}", path.display())));
        }
    }
    Ok(())
}
