//! Paths below the folders of people: whose they are, and what they call their files.

use super::{Kind, Scrubber};

impl Scrubber {
    /// What is below a home folder or a person's disks: whose it is, and what they call their files. Hidden folders
    /// are programs' own.
    pub(super) fn home(&self, rest: &str, before: Option<char>) -> Option<(usize, String)> {
        let folder = HOMES.iter().find(|folder| rest.starts_with(**folder))?;
        let quote = before.filter(|before| matches!(before, '\'' | '"'));
        let end = |c: char| match quote {
            Some(quote) => c == quote || c == '\n',
            None => c.is_whitespace() || matches!(c, '\'' | '"' | '<' | '>' | ',' | ';' | ')'),
        };
        let length = rest.find(end).unwrap_or(rest.len());
        Some((length, self.below_home(folder, rest.get(folder.len()..length)?)))
    }

    fn below_home(&self, folder: &str, below: &str) -> String {
        let mut out = (*folder).to_owned();
        for (at, part) in below.split('/').enumerate() {
            if at > 0 {
                out.push('/');
            }
            let known = part.is_empty() || part.starts_with('.') || part == "lost+found";
            let user = || self.word(part, None).filter(|(length, _)| *length == part.len());
            match (at, part.rsplit_once('.')) {
                _ if known => out.push_str(part),
                (0, _) => {
                    out.push_str(&user().map_or_else(|| self.shape(part, Kind::User), |(_, with)| with));
                }
                (_, Some((stem, ending))) if ending.len() <= 6 => {
                    out.push_str(&self.shape(stem, Kind::Files));
                    out.push('.');
                    out.push_str(ending);
                }
                _ => out.push_str(&self.shape(part, Kind::Files)),
            }
        }
        out
    }

    /// A path, to its end, whatever is in it.
    pub fn path(&self, path: &str) -> String {
        let at = HOMES.iter().filter_map(|folder| Some((path.find(folder)?, *folder))).min();
        let Some((at, folder)) = at else { return self.text(path) };
        let (above, below) = path.split_at(at);
        self.text(above) + &self.below_home(folder, below.get(folder.len()..).unwrap_or_default())
    }
}

/// Where people's own files are.
const HOMES: &[&str] = &["/home/", "/run/media/", "/media/"];
