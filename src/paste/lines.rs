//! A text cut into lines, without what mail, forums and terminals put around them: quote marks, markup, colours,
//! carriage returns, and the blank line after every line.
//!
//! Knows of listings only how their lines begin: that tells a comment's mark and a lost line end from text.

use super::{
    markup,
    words::{addresses, head, leading_address},
};
use std::borrow::Cow;

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
    let mut take = |number: usize, raw: &str| {
        if number > MAX_LINES {
            whole = false;
            return false;
        }
        let kept = head(raw, MAX_LINE);
        whole &= kept.len() == raw.len();
        let meant = if is_plain(kept) { Cow::Borrowed(kept) } else { Cow::Owned(markup::meant(kept)) };
        for one in meant.split('\n') {
            let (indent, text) = clean(one);
            for (at, part) in parted(&text).into_iter().enumerate() {
                let inner = if is_detail(part) { 8 } else { 0 };
                let indent = if at == 0 { indent } else { inner };
                lines.push(Line { number, indent, text: part.trim_end().to_owned() });
            }
        }
        true
    };
    match markup::printable(text) {
        Some(decoded) => decoded.iter().all(|(number, raw)| take(*number, raw)),
        None => text.split(separator).enumerate().all(|(index, raw)| take(index + 1, raw)),
    };
    while lines.last().is_some_and(Line::is_blank) {
        lines.pop();
    }
    if is_double_spaced(&lines) {
        lines.retain(|line| !line.is_blank());
    }
    (lines, whole)
}

/// A line that has no markup in it: most have none.
fn is_plain(line: &str) -> bool {
    line.bytes().all(|byte| byte.is_ascii() && !matches!(byte, b'<' | b'&' | b'\\' | 0x1b))
        && !line.contains("[/")
        && !line.trim_start().starts_with('[')
}

/// What lspci prints on a line of its own below a function.
const DETAILS: [&str; 4] = ["Kernel driver in use:", "Kernel modules:", "Subsystem:", "Flags: "];

fn is_detail(text: &str) -> bool {
    DETAILS.iter().any(|detail| text.starts_with(detail))
}

/// A line that web pages made of several by losing their ends, cut where one began: nothing stands between
/// `nvidia` and `01:00.1 Audio device`, or between `17` and `[    0.536467] pci`.
fn parted(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let is_at = |at: usize, wanted: u8| bytes.get(at) == Some(&wanted);
    let begins = |at: usize| {
        let (Some(&last), Some(&first)) = (bytes.get(at - 1), bytes.get(at)) else { return false };
        // Most bytes begin nothing: told from the byte before and a few after.
        let glued = last.is_ascii_alphanumeric() || matches!(last, b')' | b']');
        let address = first.is_ascii_hexdigit() && (is_at(at + 2, b':') || is_at(at + 4, b':'));
        if !glued || !(address || matches!(first, b'K' | b'S' | b'F' | b'[')) {
            return false;
        }
        // A digit before an address may be one of its own: domains may have five.
        let listed = |rest: &str| address && !last.is_ascii_digit() && is_listed(rest);
        text.get(at..).is_some_and(|rest| is_detail(rest) || listed(rest) || is_logged(rest))
    };
    // `[1234:5678] 01:00.1 Audio device`: a line end became a space. An id may also stand before its own address.
    let spaced = |from: usize, at: usize| {
        let closed = at >= 2 && is_at(at - 1, b' ') && (is_at(at - 2, b')') || is_at(at - 2, b']'));
        if !closed || !bytes.get(at).is_some_and(u8::is_ascii_hexdigit) {
            return false;
        }
        let listed = text.get(at..).is_some_and(is_listed);
        let before = text.get(from..at).unwrap_or_default();
        let first = if listed { addresses(before).first().copied() } else { None };
        first.is_some_and(|(_, begin, _)| {
            !before.get(..begin).is_some_and(|front| front.trim_end().ends_with(']'))
        })
    };
    let mut parts = Vec::new();
    let mut from = 0;
    let mut at = 1;
    while at < text.len() {
        if begins(at) || spaced(from, at) {
            parts.extend(text.get(from..at));
            from = at;
            // What was just begun is not cut again inside its own address.
            at += 12;
        } else {
            at += 1;
        }
    }
    parts.extend(text.get(from..));
    parts
}

/// `01:00.1 Audio device` or `0000:01:00.1 Audio device`: an address, then a word with a capital.
fn is_listed(rest: &str) -> bool {
    let short = |text: &str| {
        let form = text.bytes().take(9).enumerate().all(|(at, byte)| match at {
            2 => byte == b':',
            5 => byte == b'.',
            6 => (b'0'..=b'7').contains(&byte),
            7 => byte == b' ',
            8 => byte.is_ascii_uppercase(),
            _ => byte.is_ascii_hexdigit(),
        });
        form && text.len() > 8
    };
    let domain = rest.get(..5).is_some_and(|domain| {
        domain.ends_with(':') && domain.bytes().take(4).all(|byte| byte.is_ascii_hexdigit())
    });
    short(rest) || (domain && rest.get(5..).is_some_and(short))
}

/// `[    0.536467] pci`: the time of a kernel's message.
fn is_logged(rest: &str) -> bool {
    let Some((time, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once("] ")) else {
        return false;
    };
    let number = time.trim_start();
    let counted = number.split_once('.').is_some_and(|(whole, part)| {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits(whole) && digits(part) && part.len() == 6
    });
    counted && !after.is_empty() && time.len() <= 16
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
    let mut rest = raw.trim_end_matches(|character: char| character.is_whitespace() || character == '\0');
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
        } else if let Some(inside) = commented(trimmed) {
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

/// What a comment of a configuration file holds, where it is a line of a listing.
fn commented(text: &str) -> Option<&str> {
    let inside = text.strip_prefix('#')?.trim_start_matches('#');
    let line = inside.trim_start();
    let heading = line.get(..5).is_some_and(|word| word.eq_ignore_ascii_case("iommu"));
    (heading || is_detail(line) || leading_address(line).is_some()).then_some(inside)
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
    fn lines_that_lost_their_ends_are_parted() {
        let glued = "01:00.0 VGA [0300]: X [10de:2203] (rev a1)Kernel driver in use: nvidiaKernel modules: \
                     nouveau, nvidia01:00.1 Audio device [0403]: Y [10de:1aef]";
        let (found, _) = lines(glued);
        let parts: Vec<_> = found.iter().map(|line| (line.number, line.indent, line.text.as_str())).collect();
        assert_eq!(
            parts,
            [
                (1, 0, "01:00.0 VGA [0300]: X [10de:2203] (rev a1)"),
                (1, 8, "Kernel driver in use: nvidia"),
                (1, 8, "Kernel modules: nouveau, nvidia"),
                (1, 0, "01:00.1 Audio device [0403]: Y [10de:1aef]"),
            ]
        );
        let log =
            "[    0.536462] pci 0000:01:00.0: Adding to iommu group 17[    0.536467] pci 0000:01:00.1: x";
        assert_eq!(lines(log).0.len(), 2);
        let spaced =
            "01:00.0 USB controller [0c03]: X [1234:1639] 01:00.1 USB controller [0c03]: X [1234:1640]";
        assert_eq!(lines(spaced).0.len(), 2);
        for whole in [
            "[1234:1639] 01:00.0 USB controller: X",
            "IOMMU group 1:\t[1234:1639] 01:00.0 USB controller: X",
            "IOMMU Group 17:01:00.0 VGA compatible",
            "10000:e0:06.0 System peripheral",
            "pci 0000:01:00.0: [10de:2203] type 00",
            "\tCapabilities: [68] MSI-X: Enable- Count=1 Masked-",
            "see 01:00.0 VGA and 01:00.1 Audio",
            "Device [10de:2203] (rev a1) (prog-if 00 [VGA controller])",
        ] {
            assert_eq!(lines(whole).0.len(), 1, "{whole}");
        }
    }

    #[test]
    fn no_line_is_endless() {
        let long = "é".repeat(MAX_LINE);
        let (found, whole) = lines(&long);
        assert!(!whole && found[0].text.len() <= MAX_LINE);
    }
}
