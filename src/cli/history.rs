//! `gpuferry history`: everything that was ever changed, with its time.

use super::{Context, print, source::look};
use crate::{
    error::{Error, Result, Status},
    handover::record::{self as handover, Event},
    journal::record::{self, Change, Record, State},
    machine::Root,
};
use clap::Args;
use std::{fmt::Write, path::Path};

/// What `gpuferry history` is told.
#[derive(Debug, Args)]
pub struct History {}

impl History {
    pub(super) fn run(context: &Context) -> Result<Status> {
        let (root, _) = look(context)?;
        let root = root.as_ref();
        readable(root)?;
        let changes = record::load(root)?;
        let mut log = handover::lines(root, Path::new(handover::LOG));
        log.sort_by_key(|line| line.time_ms);
        if context.json {
            let changes: Vec<_> = changes.iter().map(json).collect();
            let value = serde_json::json!({ "schema": 1, "changes": changes, "handovers": log });
            print(&format!("{value}\n"))?;
            return Ok(Status::Done);
        }
        let mut parts: Vec<(u64, String)> =
            changes.iter().map(|change| (change.planned.time, text(change))).collect();
        parts.extend(
            log.iter().filter_map(|line| Some((line.time_ms, handed_over(line.time_ms, &line.event)?))),
        );
        parts.sort_by_key(|(time, _)| *time);
        if parts.is_empty() {
            print(" nothing was ever changed by gpuferry here\n")?;
        }
        parts.iter().try_for_each(|(_, text)| print(text))?;
        Ok(Status::Done)
    }
}

/// The state folder is root's alone: without permission "nothing" would be a lie.
fn readable(root: &dyn Root) -> Result<()> {
    let path = Path::new(crate::journal::STATE);
    match root.list(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(Error::io("read", path, &error).hint("sudo gpuferry history"))
        }
        _ => Ok(()),
    }
}

fn json(change: &Change) -> serde_json::Value {
    let steps: Vec<_> = change.planned.steps.iter().map(crate::step::FileStep::describe).collect();
    serde_json::json!({ "number": change.number, "time": change.planned.time, "title": change.planned.title,
        "state": change.state(), "words": change.planned.words, "steps": steps, "records": change.records })
}

fn text(change: &Change) -> String {
    let state = match change.state() {
        State::Applied => "in force",
        State::Reverted => "undone",
        State::Unfinished => "not finished: gpuferry revert",
    };
    let mut text = format!("{}  change {}, {state}\n", when(change.planned.time), change.number);
    let _ = writeln!(text, "  {}", change.planned.title);
    let step = |step: usize| {
        change.planned.steps.get(step).map_or_else(|| "?".to_owned(), crate::step::FileStep::describe)
    };
    for record in &change.records {
        let (time, what) = match record {
            Record::Begin { .. } => continue,
            Record::Done { time, step: done } => (time, format!("✓ {}", step(*done))),
            Record::Failed { time, step: failed, error } => (time, format!("✗ {}: {error}", step(*failed))),
            Record::Applied { time } => (time, "✓ checked".to_owned()),
            Record::Reverting { time } => (time, "undoing".to_owned()),
            Record::Reverted { time, step: undone } => (time, format!("↶ {}", step(*undone))),
            Record::Closed { time } => (time, "everything is as it was".to_owned()),
        };
        let _ = writeln!(text, "  {}  {what}", when(*time));
    }
    text
}

fn handed_over(time: u64, event: &Event) -> Option<String> {
    let what = match event {
        Event::Open { card, goal, .. } => format!("{goal} {card}"),
        Event::Write { path, value } => format!("  write {value} to {path}"),
        Event::Wrote { path, error: Some(error), .. } => format!("  ✗ {path}: {error}"),
        Event::Finished { message, .. } => format!("  {message}"),
        _ => return None,
    };
    Some(format!("{}  {}\n", when(time), what.replace(['\n', '\r'], " ")))
}

/// A time as people read it, in UTC. (Days to dates: H. Hinnant, "chrono-compatible low-level date algorithms".)
fn when(millis: u64) -> String {
    let seconds = millis / 1000;
    let days = seconds / 86400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:03}Z", millis % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        assert_eq!(when(0), "1970-01-01 00:00:00.000Z");
        assert_eq!(when(951_782_399_999), "2000-02-28 23:59:59.999Z");
        assert_eq!(when(951_782_400_000), "2000-02-29 00:00:00.000Z");
        assert_eq!(when(1_795_275_405_042), "2026-11-21 15:36:45.042Z");
    }
}
