//! A settings file that a shell reads (`/etc/default/grub`): is it quoted as its author meant?
//!
//! The classic break is a quote lost while adding a word: `GRUB_CMDLINE_LINUX_DEFAULT="quiet" iommu=pt`. The shell
//! then runs a word as a program, or sets a variable nobody reads, and update-grub goes on without it. The reader
//! knows the shell's quoting (POSIX, XCU 2), here-documents and substitutions; it runs nothing.

/// A place where the shell would read something else than the author meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// Line, from 1.
    pub line: usize,
    /// Column, in characters from 1.
    pub column: usize,
    /// What the shell makes of it.
    pub what: String,
    /// What would be right.
    pub right: String,
}

/// Words that settings files start commands with. Others are more likely a kernel parameter that fell out of its
/// quotes.
const COMMANDS: &[&str] = &[
    ".", ":", "!", "[", "[[", "{", "}", "break", "case", "cat", "cd", "command", "continue", "declare", "do",
    "done", "echo", "elif", "else", "esac", "eval", "exec", "exit", "export", "false", "fi", "for",
    "function", "if", "in", "local", "printf", "read", "readonly", "return", "set", "shift", "shopt",
    "source", "test", "then", "trap", "true", "typeset", "umask", "unset", "until", "while",
];

/// Words after which another command begins.
const LEADING: &[&str] = &["do", "elif", "else", "if", "then", "until", "while", "{", "!"];

struct Reader {
    chars: Vec<char>,
    at: usize,
    line: usize,
    column: usize,
    heredocs: Vec<(String, bool)>,
}

/// A word of a command: its text as written, where it begins, and whether any of it was quoted.
struct Word {
    text: String,
    line: usize,
    column: usize,
}

enum Token {
    Word(Word),
    /// Ends a command; what comes before may be anything when it is joined by `|`, `&` or a parenthesis.
    End {
        joined: bool,
    },
}

impl Reader {
    fn new(text: &str) -> Self {
        let chars = text.chars().collect();
        Self { chars, at: 0, line: 1, column: 1, heredocs: Vec::new() }
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
        Some(c)
    }

    fn flaw(line: usize, column: usize, what: impl Into<String>, right: impl Into<String>) -> Flaw {
        Flaw { line, column, what: what.into(), right: right.into() }
    }

    /// Skips to the quote, parenthesis or brace that closes what was opened at `open`. `depth` bounds nesting.
    fn close(&mut self, closing: char, open: (usize, usize), depth: u32) -> Result<(), Flaw> {
        let unclosed = || {
            let name = match closing {
                '"' => "a double quote",
                '\'' => "a single quote",
                '`' => "a backquote",
                '}' => "`${`",
                _ => "`$(`",
            };
            let what = format!("{name} is opened here and never closed");
            Self::flaw(open.0, open.1, what, format!("a closing {closing} where the value ends"))
        };
        if depth > 64 {
            return Err(Self::flaw(
                open.0,
                open.1,
                "quotes are nested too deeply to be read",
                "less of them",
            ));
        }
        loop {
            let place = (self.line, self.column);
            let c = self.next().ok_or_else(unclosed)?;
            if c == closing {
                return Ok(());
            }
            if closing == '\'' {
                continue;
            }
            match c {
                '\\' => {
                    self.next();
                }
                '`' if closing != '`' => self.close('`', place, depth + 1)?,
                '$' if self.peek() == Some('(') => {
                    self.next();
                    self.close(')', place, depth + 1)?;
                }
                '$' if self.peek() == Some('{') => {
                    self.next();
                    self.close('}', place, depth + 1)?;
                }
                '"' if closing != '"' => self.close('"', place, depth + 1)?,
                '\'' if closing == ')' => self.close('\'', place, depth + 1)?,
                '(' if closing == ')' => self.close(')', place, depth + 1)?,
                _ => {}
            }
        }
    }

    fn word(&mut self) -> Result<Word, Flaw> {
        let (begin, line, column) = (self.at, self.line, self.column);
        while let Some(c) = self.peek() {
            let place = (self.line, self.column);
            match c {
                ' ' | '\t' | '\n' | ';' | '&' | '|' | '(' | ')' | '<' | '>' => break,
                '\\' => {
                    self.next();
                    self.next();
                }
                '\'' | '"' | '`' => {
                    self.next();
                    self.close(c, place, 0)?;
                }
                '$' => {
                    self.next();
                    match self.peek() {
                        Some('(') => {
                            self.next();
                            self.close(')', place, 0)?;
                        }
                        Some('{') => {
                            self.next();
                            self.close('}', place, 0)?;
                        }
                        _ => {}
                    }
                }
                '“' | '”' | '„' | '‘' | '’' => {
                    let what = format!("{c} is no quote to a shell, only \" and ' are");
                    return Err(Self::flaw(place.0, place.1, what, "plain double quotes around the value"));
                }
                '\r' => {
                    let what = "the line ends as on Windows, and the shell takes the extra character into it";
                    return Err(Self::flaw(
                        place.0,
                        place.1,
                        what,
                        "plain line ends: sed -i 's/\\r$//' FILE",
                    ));
                }
                _ => {
                    self.next();
                }
            }
        }
        Ok(Word { text: self.chars[begin..self.at].iter().collect(), line, column })
    }

    /// Skips the bodies of the here-documents that the line just ended has opened.
    fn skip_heredocs(&mut self) -> Result<(), Flaw> {
        for (end, tabs) in std::mem::take(&mut self.heredocs) {
            let place = (self.line, self.column);
            loop {
                if self.peek().is_none() {
                    let what = format!("a here-document begins here and its end, {end}, never comes");
                    return Err(Self::flaw(place.0, place.1, what, format!("a line with {end} alone")));
                }
                let mut line = String::new();
                while let Some(c) = self.next() {
                    if c == '\n' {
                        break;
                    }
                    line.push(c);
                }
                let line = if tabs { line.trim_start_matches('\t') } else { &line };
                if line == end {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Skips a redirection's operator and file; notes a here-document.
    fn redirection(&mut self) -> Result<(), Flaw> {
        let mut operator = String::new();
        while let Some(c @ ('<' | '>' | '&' | '|' | '-')) = self.peek() {
            operator.push(c);
            self.next();
        }
        while let Some(' ' | '\t') = self.peek() {
            self.next();
        }
        let word = self.word()?;
        if operator == "<<" || operator == "<<-" {
            let end: String = word.text.chars().filter(|c| !matches!(c, '"' | '\'' | '\\')).collect();
            self.heredocs.push((end, operator == "<<-"));
        }
        Ok(())
    }

    fn token(&mut self) -> Result<Option<Token>, Flaw> {
        loop {
            let Some(c) = self.peek() else { return Ok(None) };
            match c {
                ' ' | '\t' => {
                    self.next();
                }
                '\\' if self.chars.get(self.at + 1) == Some(&'\n') => {
                    self.next();
                    self.next();
                }
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.next();
                    }
                }
                '\n' => {
                    self.next();
                    self.skip_heredocs()?;
                    return Ok(Some(Token::End { joined: false }));
                }
                ';' => {
                    self.next();
                    return Ok(Some(Token::End { joined: false }));
                }
                '&' | '|' | '(' | ')' => {
                    self.next();
                    return Ok(Some(Token::End { joined: true }));
                }
                '<' | '>' => self.redirection()?,
                _ => return Ok(Some(Token::Word(self.word()?))),
            }
        }
    }
}

/// The name of the variable that a word sets, with `=` or `+=`.
fn assigned(word: &str) -> Option<&str> {
    let (name, _) = word.split_once('=')?;
    let name = name.strip_suffix('+').unwrap_or(name);
    let first = name.chars().next()?;
    let good = (first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    good.then_some(name)
}

/// The first place where a settings file is not quoted as its author meant, or nothing.
pub fn check(text: &str) -> Result<(), Flaw> {
    let mut reader = Reader::new(text);
    let mut command: Vec<Word> = Vec::new();
    // Patterns of `case` look like commands: inside it, commands are not judged.
    let mut cases = 0_usize;
    let mut free = false;
    loop {
        let token = reader.token()?;
        match token {
            Some(Token::Word(word)) => {
                match word.text.as_str() {
                    "case" if command.is_empty() => cases += 1,
                    "esac" if command.is_empty() => cases = cases.saturating_sub(1),
                    _ => {}
                }
                let leads = command.is_empty() && LEADING.contains(&word.text.as_str());
                if leads {
                    // What is tested or negated may be any program.
                    free = matches!(word.text.as_str(), "if" | "elif" | "while" | "until" | "!");
                } else {
                    command.push(word);
                }
            }
            Some(Token::End { joined }) => {
                if cases == 0 && !joined && !free {
                    judge(&command)?;
                }
                command.clear();
                free = joined;
            }
            None => {
                return if cases == 0 && !free { judge(&command) } else { Ok(()) };
            }
        }
    }
}

fn judge(command: &[Word]) -> Result<(), Flaw> {
    let set: Vec<&str> = command.iter().map_while(|word| assigned(&word.text)).collect();
    let flaw = |word: &Word, what: String, right: String| {
        Err(Flaw { line: word.line, column: word.column, what, right })
    };
    let first = set.first().copied().unwrap_or_default();
    let quote = |name: &str| format!("one pair of quotes around all of it: {name}=\"… …\"");
    // `A=1 B=2` sets both; a kernel parameter after GRUB_… is what fell out of its quotes.
    if first.starts_with("GRUB_") {
        if let Some(at) = set.iter().position(|name| !name.starts_with("GRUB_")) {
            let word = &command[at];
            let what = format!("`{}` stands outside the quotes of {first} and is lost", word.text);
            return flaw(word, what, quote(first));
        }
    }
    let Some(word) = command.get(set.len()) else { return Ok(()) };
    if !set.is_empty() {
        let what =
            format!("`{}` stands outside the quotes of {first} and would be run as a program", word.text);
        return flaw(word, what, quote(first));
    }
    let name = word.text.as_str();
    let known = COMMANDS.contains(&name) || name.contains('/') || name.starts_with('$');
    if known {
        return Ok(());
    }
    if command.get(1).is_some_and(|next| next.text.starts_with('=')) || name.ends_with('=') {
        let what = format!("a space beside `=` makes the shell run `{name}` as a program");
        return flaw(word, what, format!("no space: {}=\"…\"", name.trim_end_matches('=')));
    }
    flaw(
        word,
        format!("`{name}` would be run as a program"),
        "a quoted value on the line above, or # before a remark".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_accepted() {
        for good in [
            "",
            "GRUB_CMDLINE_LINUX_DEFAULT=\"\"\n",
            "GRUB_CMDLINE_LINUX_DEFAULT='quiet splash'\n",
            "GRUB_CMDLINE_LINUX_DEFAULT+=\" iommu=pt\"\n",
            "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet \\\n  splash\"\n",
            "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\n  splash\"\n",
            "GRUB_DISTRIBUTOR=`lsb_release -i -s 2> /dev/null || echo Debian`\n",
            "GRUB_DISTRIBUTOR=$( . /etc/os-release && echo ${NAME} )\n",
            "GRUB_DISTRIBUTOR=\"$(sed 's, release .*$,,g' /etc/system-release)\"\n",
            "export GRUB_COLOR_NORMAL=\"light-blue/black\"\n",
            "if [ -e /x ]; then\n  . /x\nelse\n  GRUB_TIMEOUT=1\nfi\n",
            "if grep -q x /proc/cmdline; then GRUB_TIMEOUT=1; fi\n",
            "for x in /etc/d/*.cfg ; do if [ -e \"${x}\" ]; then source \"${x}\"; fi; done\n",
            "case \"$(uname -m)\" in\n x86_64) GRUB_TIMEOUT=1 ;;\n *) GRUB_TIMEOUT=2 ;;\nesac\n",
            "cat <<EOF >/dev/null\nanything goes here\" '\nEOF\nGRUB_TIMEOUT=1\n",
            "test -e /x && GRUB_TIMEOUT=3\n",
            "GRUB_RECORDFAIL_TIMEOUT=$GRUB_TIMEOUT # as above\n",
            "GRUB_TIMEOUT=1 GRUB_DEFAULT=0; GRUB_X=\"it's\"\n",
            "GRUB_X=a\\ b\n",
            "GRUB_X=${Y:-\"a b\"}\n",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[track_caller]
    fn flawed(text: &str, line: usize, column: usize, what: &str) {
        let flaw = check(text).unwrap_err();
        assert_eq!((flaw.line, flaw.column), (line, column), "{flaw:?}");
        assert!(flaw.what.contains(what), "{flaw:?}");
    }

    #[test]
    fn lost_quotes_are_placed() {
        flawed("A=1\nGRUB_CMDLINE_LINUX_DEFAULT=quiet splash\n", 2, 34, "`splash` stands outside");
        flawed("GRUB_CMDLINE_LINUX=\"a\" iommu=pt\n", 1, 24, "is lost");
        flawed("GRUB_CMDLINE_LINUX=\"a\" vfio-pci.ids=10de:1\n", 1, 24, "run as a program");
        flawed("GRUB_CMDLINE_LINUX=\"quiet\nGRUB_TIMEOUT=1\n", 1, 20, "never closed");
        flawed("GRUB_CMDLINE_LINUX=“quiet splash”\n", 1, 20, "no quote to a shell");
        flawed("GRUB_CMDLINE_LINUX = \"quiet\"\n", 1, 1, "a space beside");
        flawed("GRUB_TIMEOUT=1\r\n", 1, 15, "Windows");
        flawed("intel_iommu on\n", 1, 1, "run as a program");
        flawed("GRUB_X=$(echo a\n", 1, 8, "never closed");
        flawed("cat <<EOF\nx\n", 2, 1, "here-document");
    }

    #[test]
    fn settings_of_a_corpus_are_accepted() {
        let Some(corpus) = std::env::var_os("GPUFERRY_CORPUS") else { return };
        let folder = std::path::Path::new(&corpus).join("boot/grub");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            assert_eq!(check(&text), Ok(()), "{}", path.display());
            count += 1;
        }
        assert!(count > 0);
    }

    #[test]
    fn nothing_makes_it_panic() {
        let pieces = [
            "\"", "'", "`", "$(", "${", ")", "}", "\\", "\n", "<<", "a=", "case", "esac", "#", "&", "é", " ",
        ];
        let mut seed = 7_u32;
        for _ in 0..4000 {
            let mut text = String::new();
            for _ in 0..12 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                text.push_str(pieces[seed as usize / 64 % pieces.len()]);
            }
            let _ = check(&text);
        }
    }
}
