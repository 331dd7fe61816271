//! Pasted text to facts of a [`Host`]: what people put into forums, mails and bug reports.
//!
//! Takes group scripts in their many shapes, `lspci` in all its forms, `find` and `ls` of the groups, udev's database,
//! kernel logs and a few files of /proc, alone or one after another with prose between them. Pure: reads no file and
//! cannot fail. What the text does not say stays unknown, what is known is not overwritten, and a line that looks
//! like a listing and is not understood is named in [`Host::unseen`].

mod device;
mod facts;
mod group;
mod inventory;
mod lines;
mod log;
mod lspci;
mod markup;
mod reader;
mod system;
mod table;
mod tree;
mod udev;
mod words;

use crate::host::Host;
use facts::Facts;

/// A text that somebody pasted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// What to call it in notes: a file's name, or `standard input`.
    pub name: String,
    /// What it holds.
    pub text: String,
}

/// Adds what texts tell to what is known of a machine. All texts are of one machine. Cards are not worked out:
/// [`crate::host::conclude`] is the caller's next step.
pub fn merge(host: &mut Host, texts: &[Text]) {
    let mut facts = Facts::new(host);
    let mut notes = Vec::new();
    for text in texts {
        reader::read(&mut facts, text, &mut notes);
    }
    facts.give(host, &mut notes);
    for note in notes {
        if !host.unseen.contains(&note) {
            host.unseen.push(note);
        }
    }
}
