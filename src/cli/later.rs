//! A verb's words, described when that verb is asked for: describing those of all verbs takes longer than many a verb.

use super::{Cli, General, Verb};
use clap::{
    ArgMatches, Args, Command, Error, FromArgMatches, Parser, Subcommand,
    builder::{Resettable, StyledStr},
};
use std::ffi::OsString;

/// What was asked for. First only the verbs are made known whose names are among the words: no other can be meant.
/// Where that fails, all are asked, so that the answer to wrong words, and help, tell of all.
pub(super) fn parse(words: &[OsString]) -> Result<Cli, Error> {
    let verbs = Verb::<false>::augment_subcommands(Command::new("verbs"));
    let named = verbs.get_subcommands().filter(|verb| words.iter().any(|word| word == verb.get_name()));
    let root = Command::new("gpuferry").version(env!("CARGO_PKG_VERSION")).propagate_version(true);
    let command = General::augment_args(root).subcommands(named.cloned());
    let few = command.try_get_matches_from(words).and_then(|matches| Cli::from_arg_matches(&matches));
    few.or_else(|_| Cli::try_parse_from(words))
}

/// A verb's words. `WHOLE`: described at once, for man pages and completions (of what follows `gpuferry help`, clap
/// completes only what is described already).
#[derive(Debug)]
pub struct Later<T, const WHOLE: bool>(pub T);

impl<T: FromArgMatches, const WHOLE: bool> FromArgMatches for Later<T, WHOLE> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        T::from_arg_matches(matches).map(Self)
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, Error> {
        T::from_arg_matches_mut(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(matches)
    }

    fn update_from_arg_matches_mut(&mut self, matches: &mut ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches_mut(matches)
    }
}

impl<T: Args, const WHOLE: bool> Args for Later<T, WHOLE> {
    fn augment_args(command: Command) -> Command {
        if WHOLE { T::augment_args(command) } else { command.defer(described::<T>) }
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

/// What the verb is for was said before; the type of its words has a sentence of its own.
fn described<T: Args>(command: Command) -> Command {
    let said = |text: Option<&StyledStr>| text.cloned().map_or(Resettable::Reset, Resettable::Value);
    let (about, long) = (said(command.get_about()), said(command.get_long_about()));
    T::augment_args(command).about(about).long_about(long)
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::cli::Cli;
    use clap::{CommandFactory, Parser};
    use std::ffi::OsString;

    fn words(call: &str) -> Vec<OsString> {
        ["gpuferry"].into_iter().chain(call.split_whitespace()).map(OsString::from).collect()
    }

    #[test]
    fn a_verb_that_is_described_later_says_the_same() {
        for verb in Cli::<true>::command().get_subcommands() {
            let parts = verb.get_subcommands().map(|part| vec![verb.get_name(), part.get_name()]);
            for words in parts.chain([vec![verb.get_name()]]) {
                let words = [&["gpuferry"], &words[..], &["--help"]].concat();
                let now = Cli::<true>::try_parse_from(&words).unwrap_err();
                let later = Cli::<false>::try_parse_from(&words).unwrap_err();
                assert_eq!(later.kind(), clap::error::ErrorKind::DisplayHelp, "{words:?}");
                assert_eq!(later.to_string(), now.to_string());
            }
        }
    }

    #[test]
    fn wrong_words_are_answered_the_same() {
        let calls = [
            "--help",
            "help",
            "help hook install",
            "help hook instal",
            "help nothing",
            "-V",
            "inspect -V",
            "-h",
            "detach -h",
            "nothing",
            "inspct",
            "inspect nothing",
            "inspect --nothing",
            "detach",
            "detach --tmeout 5",
            "detach --timeout",
            "hook",
            "hook install --nothing",
            "vm run --cpus x",
            "plan",
            "capture",
            "--host",
            "--lang xx",
            "card",
            "generate",
            "inspect --json --json",
            "card keep -V",
            "card keep --version",
        ];
        for call in calls {
            let now = Cli::<true>::try_parse_from(words(call)).unwrap_err();
            let later = parse(&words(call)).unwrap_err();
            assert_eq!((later.kind(), later.to_string()), (now.kind(), now.to_string()), "{call}");
        }
    }

    #[test]
    fn right_words_mean_the_same() {
        let calls = [
            "",
            "--json",
            "--host capture",
            "--host capture inspect",
            "--host help --lang zh doctor",
            "inspect devices --json",
            "--plain inspect groups --host a --host b",
            "capture -o plan",
            "capture --output hook",
            "detach --json 01:00.0 --timeout 60 --host x",
            "plan passthrough status",
            "vm run --help-me",
            "hook install --json",
            "history",
        ];
        for call in calls {
            let now = Cli::<true>::try_parse_from(words(call));
            let later = parse(&words(call));
            assert_eq!(now.is_ok(), later.is_ok(), "{call}");
            assert_eq!(format!("{:?}", now.ok()), format!("{:?}", later.ok()), "{call}");
        }
    }
}
