//! Writes the man pages and shell completions from the command line's own description, for packagers.

use super::Cli;
use crate::error::{Error, Result, Status};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::{fs, path::PathBuf};

/// Write man pages and shell completions below a folder.
#[derive(Debug, Args)]
pub struct Generate {
    /// Where `man/` and the completion folders go; made where missing.
    folder: PathBuf,
}

/// Where each shell looks for completions below a prefix's `share`, and the file's name there.
const COMPLETIONS: &[(Shell, &str, &str)] = &[
    (Shell::Bash, "bash-completion/completions", "gpuferry"),
    (Shell::Zsh, "zsh/site-functions", "_gpuferry"),
    (Shell::Fish, "fish/vendor_completions.d", "gpuferry.fish"),
];

impl Generate {
    /// Writes the files. They are made on the builder's own disk, so nothing of this goes through a `Machine`.
    pub fn run(&self) -> Result<Status> {
        let folder = |below: &str| {
            let path = self.folder.join(below);
            fs::create_dir_all(&path).map_err(|error| Error::io("create", &path, &error))?;
            Ok::<_, Error>(path)
        };
        let pages = folder("man/man1")?;
        clap_mangen::generate_to(Cli::<true>::command(), &pages)
            .map_err(|error| Error::io("write man pages below", &pages, &error))?;
        for (shell, below, name) in COMPLETIONS {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::<true>::command(), "gpuferry", &mut script);
            let path = folder(below)?.join(name);
            fs::write(&path, script).map_err(|error| Error::io("write", &path, &error))?;
        }
        Ok(Status::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_and_a_completion() {
        let folder = tempfile::tempdir().unwrap();
        let status = Generate { folder: folder.path().to_owned() }.run().unwrap();
        assert_eq!(status, Status::Done);
        let bash = folder.path().join("bash-completion/completions/gpuferry");
        let bash = fs::read_to_string(bash).unwrap();
        for verb in Cli::<true>::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let page = folder.path().join(format!("man/man1/gpuferry-{}.1", verb.get_name()));
            assert!(page.exists(), "{} has no page", verb.get_name());
            assert!(bash.contains(verb.get_name()), "{} is not completed", verb.get_name());
        }
    }
}
