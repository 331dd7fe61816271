//! A text cut into lines, without what mail, forums and terminals put around them: quote marks, markup, colours,
//! carriage returns, and the blank line after every line.
//!
//! Knows nothing of listings.

use super::words::head;

/// Bytes of a line that are looked at; the longest real ones (command lines, USB descriptors) have 4096.
pub(super) const MAX_LINE: usize = 16 * 1024;

/// Lines of a text that are looked at: udev's database of the largest machines has some 100,000.
pub(super) const MAX_LINES: usize = 1_000_000;

/// A line as it was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1, as editors do.
    pub number: usize,
    /// White space in front, a tab counting to the next multiple of eight.
    pub indent: usize,
    /// The rest, without white space at its end. Tabs inside are kept.
    pub text: String,
}

impl Line {
    /// Nothing on it.
    pub(super) fn is_blank(&self) -> bool {
        self.text.is_empty()
    }
}

/// The lines of a text, and whether all of it was looked at.
pub(super) fn lines(text: &str) -> (Vec<Line>, bool) {
    let separator = if text.contains('\n') { '\n' } else { '\r' };
    let mut whole = true;
    let mut lines = Vec::new();
    for (index, raw) in text.split(separator).enumerate() {
        if index >= MAX_LINES {
            whole = false;
            break;
        }
        let kept = head(raw, MAX_LINE);
        whole &= kept.len() == raw.len();
        let (indent, text) = clean(kept);
        lines.push(Line { number: index + 1, indent, text });
    }
    while lines.last().is_some_and(Line::is_blank) {
        lines.pop();
    }
    if is_double_spaced(&lines) {
        lines.retain(|line| !line.is_blank());
    }
    (lines, whole)
}

/// A blank line after (nearly) every line: what some forums make of line ends.
fn is_double_spaced(lines: &[Line]) -> bool {
    let full = lines.iter().filter(|line| !line.is_blank()).count();
    let pairs = lines.windows(2).filter(|pair| !pair[0].is_blank() && pair[1].is_blank()).count();
    full >= 4 && pairs * 10 >= (full - 1) * 9
}

/// Tags that forums put at the beginning or end of a line.
const TAGS: [&str; 8] = ["pre", "code", "quote", "spoiler", "php", "details", "font", "p"];

fn clean(raw: &str) -> (usize, String) {
    let plain = without_colours(raw);
    let mut rest = plain.trim_end_matches(|character: char| character.is_whitespace() || character == '\0');
    loop {
        let trimmed = rest.trim_start_matches(is_space);
        if let Some(quoted) = trimmed.strip_prefix('>') {
            // One space belongs to the mark; `>TAbort-` is a flag of lspci's.
            if quoted.starts_with("TAbort") || quoted.starts_with("SERR") || quoted.starts_with("Reset") {
                break;
            }
            rest = quoted.strip_prefix(' ').unwrap_or(quoted);
        } else if let Some(inside) = without_tag(trimmed) {
            rest = inside;
        } else if let Some(inside) = trimmed.strip_prefix('`') {
            rest = inside;
        } else {
            break;
        }
    }
    let text = rest.trim_start_matches(is_space);
    let indent = width(rest.get(..rest.len() - text.len()).unwrap_or_default());
    let mut text = text.trim_end_matches(['`', ' ', '\t']);
    for tag in TAGS {
        for end in [format!("</{tag}>"), format!("[/{tag}]")] {
            // ASCII only, so that the length is that of the text.
            let cut = text.len().saturating_sub(end.len());
            if text.get(cut..).is_some_and(|tail| tail.eq_ignore_ascii_case(&end)) {
                text = text.get(..cut).unwrap_or_default().trim_end();
            }
        }
    }
    (indent, text.to_owned())
}

fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{feff}' | '\u{200b}' | '\0')
}

fn width(space: &str) -> usize {
    space.chars().fold(0, |at, character| if character == '\t' { (at / 8 + 1) * 8 } else { at + 1 })
}

/// `<pre>` or `[code]` in front.
fn without_tag(text: &str) -> Option<&str> {
    let (open, close) = match text.chars().next()? {
        '<' => ('<', '>'),
        '[' => ('[', ']'),
        _ => return None,
    };
    let (tag, rest) = text.strip_prefix(open)?.split_once(close)?;
    let name = tag.trim_start_matches('/').split([' ', '=']).next()?;
    TAGS.iter().any(|known| name.eq_ignore_ascii_case(known)).then_some(rest)
}

/// Without terminal escapes (`ESC [ … m`), with a no-break space as a space.
fn without_colours(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut characters = raw.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => {
                if characters.next_if_eq(&'[').is_some() {
                    while characters.next_if(|next| next.is_ascii_digit() || *next == ';').is_some() {}
                    characters.next();
                }
            }
            '\u{a0}' => text.push(' '),
            '\u{feff}' | '\u{200b}' => {}
            _ => text.push(character),
        }
    }
    // What web pages make of brackets and quotes.
    let entities =
        [("&gt;", ">"), ("&lt;", "<"), ("&quot;", "\""), ("&#39;", "'"), ("&nbsp;", " "), ("&amp;", "&")];
    if text.contains('&') {
        for (entity, meant) in entities {
            text = text.replace(entity, meant);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(raw: &str) -> (usize, String) {
        let (lines, _) = lines(raw);
        lines.first().map(|line| (line.indent, line.text.clone())).unwrap_or_default()
    }

    #[test]
    fn what_is_around_a_line_is_taken_off() {
        assert_eq!(one("> > \t00:01.0 x \r"), (8, "00:01.0 x".to_owned()));
        assert_eq!(one("<pre>00:01.0 x</pre>"), (0, "00:01.0 x".to_owned()));
        assert_eq!(one("[CODE]00:01.0 x"), (0, "00:01.0 x".to_owned()));
        assert_eq!(one("`00:01.0 x`"), (0, "00:01.0 x".to_owned()));
        assert_eq!(one("\u{1b}[01;31m00:01.0\u{1b}[0m x"), (0, "00:01.0 x".to_owned()));
        assert_eq!(one("[10de:2204] 01:00.0"), (0, "[10de:2204] 01:00.0".to_owned()));
        assert_eq!(one("\u{feff}a"), (0, "a".to_owned()));
    }

    #[test]
    fn doubled_line_ends_are_single_again() {
        let (found, _) = lines("a\n\nb\n\nc\n\nd\n\n");
        assert_eq!(
            found.iter().map(|line| (line.number, line.text.as_str())).collect::<Vec<_>>(),
            [(1, "a"), (3, "b"), (5, "c"), (7, "d")]
        );
        assert_eq!(lines("a\nb\n\nc\nd").0.len(), 5);
    }

    #[test]
    fn no_line_is_endless() {
        let long = "é".repeat(MAX_LINE);
        let (found, whole) = lines(&long);
        assert!(!whole && found[0].text.len() <= MAX_LINE);
    }
}
