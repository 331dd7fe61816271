//! A verb's words, described when that verb is asked for: describing those of all verbs takes longer than many a verb.

use clap::{
    ArgMatches, Args, Command, Error, FromArgMatches,
    builder::{Resettable, StyledStr},
};

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
    use crate::cli::Cli;
    use clap::{CommandFactory, Parser};

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
        ];
        for call in calls {
            let words = || ["gpuferry"].into_iter().chain(call.split(' '));
            let now = Cli::<true>::try_parse_from(words()).unwrap_err();
            let later = Cli::<false>::try_parse_from(words()).unwrap_err();
            assert_eq!((later.kind(), later.to_string()), (now.kind(), now.to_string()), "{call}");
        }
        let words = ["gpuferry", "detach", "--json", "01:00.0", "--timeout", "60", "--host", "x"];
        let (now, later) = (Cli::<true>::parse_from(words), Cli::<false>::parse_from(words));
        assert_eq!(format!("{now:?}"), format!("{later:?}"));
    }
}
