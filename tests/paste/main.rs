//! Pasted text: machines that other people described, the same text mutilated, and text that means harm.
//!
//! The corpus of others' machines is not part of the project; with `GPUFERRY_CORPUS=DIR` its machines are read and
//! compared with what is known of them.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on should say where")]

mod around;
mod corpus;
mod forms;
mod hostile;
mod mutations;

use gpuferry::{
    host::{self, Host, Source},
    paste::{self, Text},
};

/// A machine, from texts.
fn machine(texts: &[Text]) -> Host {
    let mut host = Host::unknown(Source::Text);
    paste::merge(&mut host, texts);
    host::conclude(&mut host);
    host
}

/// A text with a name.
fn text(name: &str, text: &str) -> Text {
    Text { name: name.into(), text: text.into() }
}
