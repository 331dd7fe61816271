//! `gpuferry doctor`: what is wrong, why, and what helps.

use super::{Context, print, render::wrap, source::look};
use crate::{
    error::{Error, Result, Status},
    host::{Host, Source, log},
    judge::{self, Finding, Severity},
    language::Language,
};
use clap::Args;
use std::fmt::Write;

/// What `gpuferry doctor` is told.
#[derive(Debug, Args)]
pub struct Doctor {}

impl Doctor {
    #[allow(clippy::unused_self, reason = "every verb is run the same way")]
    pub(super) fn run(&self, context: &Context) -> Result<Status> {
        let (root, mut host) = look(context)?;
        // A text has no files: what it has of the log was read with the rest.
        let told = |sentence| {
            if host.source != Source::Text {
                host.unseen.push(sentence);
            }
        };
        let log = log::kernel(root.as_ref()).map_err(told).ok();
        let findings = judge::doctor(&host, log.as_ref()).into_iter();
        let findings: Vec<_> = findings.map(|finding| context.language.finding(finding)).collect();
        let text = if context.json { json(&findings)? } else { text(&findings, &host, context.language) };
        print(&text)?;
        let blocks = findings.iter().any(|finding| finding.severity == Severity::Blocking);
        Ok(if blocks { Status::Blocked } else { Status::Done })
    }
}

fn json(findings: &[Finding]) -> Result<String> {
    let all = serde_json::json!({ "schema": 1, "findings": findings });
    let text = serde_json::to_string_pretty(&all);
    text.map(|text| text + "\n").map_err(|error| Error::failed(format!("cannot write JSON: {error}")))
}

fn text(findings: &[Finding], host: &Host, language: Language) -> String {
    let mut text = String::new();
    for finding in findings {
        let severity = match finding.severity {
            Severity::Blocking => "blocking",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        text.push_str(&wrap(&format!("{}: {}", language.say(severity), finding.title), 0));
        for seen in finding.evidence.iter().take(6) {
            let line = seen.line.map_or_else(String::new, |line| format!(":{line}"));
            let shown = wrap(&format!("{}{line}: {}", seen.source, language.say(&seen.text)), 4);
            let _ = write!(text, "  {}", shown.trim_start_matches(' '));
        }
        text.push_str(&wrap(&finding.cause, 2));
        for fix in &finding.fixes {
            let _ = write!(text, "  - {}", wrap(&fix.text, 4).trim_start_matches(' '));
            if let Some(command) = &fix.command {
                let _ = writeln!(text, "      {command}");
            }
        }
        text.push('\n');
    }
    for sentence in &host.unseen {
        text.push_str(&wrap(&language.say(&format!("not seen: {sentence}")), 0));
    }
    let blocks = findings.iter().filter(|finding| finding.severity == Severity::Blocking).count();
    let end = match blocks {
        0 if host.source == Source::Text && host.gpus.is_empty() => "No graphics card is seen here.",
        0 if host.source == Source::Text => "Nothing that the text tells stands in the way.",
        0 => "Nothing stands in the way.",
        1 => "One thing stands in the way.",
        _ => "Several things stand in the way; begin with the first.",
    };
    text + &language.say(end) + "\n"
}
