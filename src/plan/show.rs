//! A plan as a person reads it: what is added to the command line, a diff for each file, a sentence for the rest.

use super::{files::FilePlan, sources::Sources};
use crate::step::FileStep;
use similar::TextDiff;
use std::fmt::Write;

/// The whole plan.
pub fn text(plan: &FilePlan, sources: &Sources) -> String {
    let mut text = steps(plan);
    for diff in plan.steps.iter().filter_map(|step| diff(step, sources)) {
        let _ = write!(text, "\n{diff}");
    }
    text + &notes(plan)
}

/// The plan without its diffs, for who has seen them: a plan file is applied only if it would show the same ones.
pub fn summary(plan: &FilePlan) -> String {
    format!("{}{}", steps(plan), notes(plan))
}

fn steps(plan: &FilePlan) -> String {
    let mut text = format!(" {}\n", plan.title);
    if !plan.words.is_empty() {
        text.push_str("\n kernel command line, at the end of every entry but the recovery ones\n");
        for word in &plan.words {
            let _ = writeln!(text, "   + {word}");
        }
    }
    if plan.steps.is_empty() {
        text.push_str("\n nothing to change: it is so already\n");
    } else {
        text.push_str("\n steps\n");
    }
    for (number, step) in plan.steps.iter().enumerate() {
        let _ = writeln!(text, "  {:>2}  {}", number + 1, step.describe());
    }
    text
}

fn notes(plan: &FilePlan) -> String {
    let mut text = String::new();
    if !plan.notes.is_empty() {
        text.push_str("\n good to know\n");
        for note in &plan.notes {
            let _ = writeln!(text, "   {note}");
        }
    }
    text
}

/// The unified diff of a file that a step writes.
pub fn diff(step: &FileStep, sources: &Sources) -> Option<String> {
    let FileStep::Write { path, content, mode } = step else { return None };
    let old = sources.own.get(path);
    let from = old.map_or_else(|| "/dev/null".to_owned(), |_| path.display().to_string());
    let diff = TextDiff::from_lines(old.map_or("", String::as_str), content);
    let to = match old {
        Some(_) => path.display().to_string(),
        None => format!("{}  (mode {mode:04o})", path.display()),
    };
    Some(diff.unified_diff().header(&from, &to).to_string())
}

/// Why a step is there, for `explain`.
pub fn why(step: &FileStep) -> &'static str {
    match step {
        FileStep::MakeFolder { .. } => {
            "the folder that the file goes into is not there; undone when it is empty"
        }
        FileStep::Write { path, .. } if path.ends_with("zz-gpuferry.cfg") => {
            "grub-mkconfig reads it after /etc/default/grub; deleting it undoes it"
        }
        FileStep::Write { path, .. } if path.ends_with("hooks/gpuferry") => {
            "update-initramfs runs it; it puts the module vfio-pci into the image"
        }
        FileStep::Write { .. } => {
            "runs early in the boot, before udev loads the native drivers, and binds what the command line names"
        }
        FileStep::Derive(crate::step::derived::Derived::GrubDebian) => {
            "as update-grub does; the new one is checked before it replaces the old one at once"
        }
        FileStep::Derive(_) => {
            "the scripts are in effect once they are in the image; takes up to some minutes"
        }
    }
}
