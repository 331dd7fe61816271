//! A verb's words, described when that verb is asked for: describing those of all verbs takes longer than many a verb.

use clap::{
    ArgMatches, Args, Command, Error, FromArgMatches,
    builder::{Resettable, StyledStr},
};

/// A verb's words. `WHOLE`: described at once, for who shows all that there is (in `gpuferry help`, clap lists the parts
/// of verbs that are described already).
#[derive(Debug)]
pub struct Later<T, const WHOLE: bool>(pub T);

impl<T: FromArgMatches, const WHOLE: bool> FromArgMatches for Later<T, WHOLE> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        T::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(matches)
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
}
