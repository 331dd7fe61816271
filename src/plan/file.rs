//! The plan file: what `plan -o` writes and `apply FILE` reads.
//!
//! It holds the goal, and checksums that tell whether it was edited and whether the machine is still the same. Its
//! steps are there to be read by people: they are never carried out, the plan is made anew.

use super::{
    files::{FilePlan, Fingerprint, digest},
    goal::Goal,
};
use crate::{
    error::{Error, Result},
    step::FileStep,
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A plan as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    /// Version of this form.
    pub schema: u32,
    /// Always [`KIND`].
    pub kind: String,
    /// The goal in a sentence.
    pub title: String,
    /// What is wanted.
    pub goal: Goal,
    /// Which machine it was made for.
    pub fingerprint: Fingerprint,
    /// Checksum of goal, words and steps.
    pub digest: String,
    /// Words that come to the kernel command line.
    pub words: Vec<String>,
    /// What the owner should know.
    pub notes: Vec<String>,
    /// The steps, to be read.
    pub steps: Vec<FileStep>,
}

/// What kind of file it is.
pub const KIND: &str = "gpuferry-plan";

/// The version of [`PlanFile`]'s form.
pub const SCHEMA: u32 = 1;

/// Larger than any plan: three small files and their steps.
pub const MAX_SIZE: usize = 1 << 20;

impl From<&FilePlan> for PlanFile {
    fn from(plan: &FilePlan) -> Self {
        Self {
            schema: SCHEMA,
            kind: KIND.to_owned(),
            title: plan.title.clone(),
            goal: plan.goal.clone(),
            fingerprint: plan.fingerprint.clone(),
            digest: plan.digest.clone(),
            words: plan.words.clone(),
            notes: plan.notes.clone(),
            steps: plan.steps.clone(),
        }
    }
}

/// Reads a plan file. One that is damaged or was edited is refused (status 2).
pub fn parse(path: &Path, bytes: &[u8]) -> Result<PlanFile> {
    let path = path.display();
    let again = "make it again: gpuferry plan static --gpu ADDR -o FILE";
    if bytes.len() > MAX_SIZE {
        return Err(Error::usage(format!("{path} is too large for a plan")).hint(again));
    }
    let plan: PlanFile = serde_json::from_slice(bytes)
        .map_err(|error| Error::usage(format!("{path} is no plan of gpuferry: {error}")).hint(again))?;
    if plan.kind != KIND || plan.schema != SCHEMA {
        return Err(Error::usage(format!(
            "{path} is a `{}` of version {}, and this gpuferry reads `{KIND}` of version {SCHEMA}",
            plan.kind, plan.schema
        ))
        .hint(again));
    }
    if digest(&plan.goal, &plan.words, &plan.steps)? != plan.digest {
        return Err(Error::usage(format!("{path} was edited: its steps are not those of its checksum"))
            .detail("a plan is made for one machine and one goal, and is not for editing")
            .hint(again));
    }
    Ok(plan)
}

/// Compares a plan file with the plan that is made for its goal now. Another machine, or one that changed, is
/// refused (status 3).
pub fn compare(path: &Path, file: &PlanFile, now: &FilePlan) -> Result<()> {
    let again = "make it again: gpuferry plan static --gpu ADDR -o FILE";
    let path = path.display();
    if file.fingerprint.machine != now.fingerprint.machine {
        return Err(Error::refused(format!("{path} was made for another machine")).hint(again));
    }
    if file.fingerprint.state != now.fingerprint.state {
        return Err(Error::refused(format!("{path} was made before this machine changed"))
            .detail("a device, a kernel, the boot loader or the initramfs tool is another now")
            .hint(again));
    }
    if file.digest != now.digest {
        return Err(Error::refused(format!("{path} was made before this machine's files changed"))
            .detail("the same goal needs other steps now")
            .hint(again));
    }
    Ok(())
}
