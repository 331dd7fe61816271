//! What web pages, forums and mail programs put into lines: tags, character references, backslashes, the `=20` of
//! quoted-printable, the colours of terminals.
//!
//! Pure: text in, what was meant out. Knows nothing of listings, only that lspci writes `<TAbort-` and `<?>`, which
//! are no tags.

/// Tags of HTML that end a line.
const ENDS: [&str; 8] = ["br", "p", "div", "li", "tr", "h1", "h2", "h3"];

/// Tags that change how something looks, in `<…>`.
const LOOKS: [&str; 30] = [
    "a",
    "b",
    "i",
    "u",
    "em",
    "tt",
    "kbd",
    "pre",
    "code",
    "samp",
    "span",
    "font",
    "small",
    "strong",
    "mark",
    "sub",
    "sup",
    "blockquote",
    "details",
    "summary",
    "table",
    "thead",
    "tbody",
    "td",
    "th",
    "ul",
    "ol",
    "hr",
    "section",
    "quote",
];

/// Tags of forums, in `[…]`.
const FORUM: [&str; 20] = [
    "b", "i", "u", "code", "icode", "pre", "php", "quote", "spoiler", "font", "color", "size", "indent",
    "center", "left", "mono", "tt", "url", "list", "noparse",
];

/// A line as it was meant; several where tags ended lines inside it.
pub(super) fn meant(raw: &str) -> String {
    let mut text = without_colours(raw);
    if text.contains('<') {
        text = without_tags(&text, '<', '>');
    }
    if text.contains('[') && (text.contains("[/") || text.trim_start().starts_with('[')) {
        text = without_tags(&text, '[', ']');
    }
    // What was encoded twice is decoded twice.
    for _ in 0..2 {
        if text.contains('&') {
            text = decoded(&text);
        }
    }
    if text.contains('\\') {
        text = without_backslashes(&text);
    }
    text
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
            '\u{a0}' | '\u{2007}' | '\u{202f}' => text.push(' '),
            '\u{feff}' | '\u{200b}' | '\u{200c}' | '\u{200d}' | '\u{2060}' | '\u{ad}' => {}
            _ => text.push(character),
        }
    }
    text
}

/// Without the tags that are known; others stay.
fn without_tags(text: &str, open: char, close: char) -> String {
    let known: &[&[&str]] = if open == '<' { &[&ENDS, &LOOKS] } else { &[&FORUM] };
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, inside)) = rest.split_once(open) {
        kept.push_str(before);
        let Some((tag, after)) = inside.split_once(close) else {
            kept.push(open);
            rest = inside;
            continue;
        };
        let name = tag.trim_start_matches('/').trim_end_matches(['/', ' ']);
        let name = name.split([' ', '=']).next().unwrap_or_default();
        let is = |names: &[&str]| names.iter().any(|known| name.eq_ignore_ascii_case(known));
        if !known.iter().any(|names| is(names)) {
            kept.push(open);
            rest = inside;
            continue;
        }
        if open == '<' && is(&ENDS) {
            kept.push('\n');
        } else if open == '<' && is(&["td", "th"]) && !tag.starts_with('/') {
            kept.push_str("  ");
        }
        rest = after;
    }
    kept.push_str(rest);
    kept
}

/// References by name or number (`&gt;`, `&#91;`, `&#x5b;`) as characters.
fn decoded(text: &str) -> String {
    let names = [
        ("gt", '>'),
        ("lt", '<'),
        ("quot", '"'),
        ("apos", '\''),
        ("nbsp", ' '),
        ("amp", '&'),
        ("lsqb", '['),
        ("lbrack", '['),
        ("rsqb", ']'),
        ("rbrack", ']'),
        ("colon", ':'),
        ("period", '.'),
        ("num", '#'),
        ("lpar", '('),
        ("rpar", ')'),
        ("lowbar", '_'),
    ];
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, inside)) = rest.split_once('&') {
        kept.push_str(before);
        let reference = inside.split_once(';').filter(|(name, _)| (2..=8).contains(&name.len()));
        let character = reference.and_then(|(name, _)| {
            let code = name.strip_prefix('#');
            let hex = code.and_then(|code| code.strip_prefix(['x', 'X']));
            match (code, hex) {
                (_, Some(hex)) => u32::from_str_radix(hex, 16).ok().and_then(char::from_u32),
                (Some(code), None) => code.parse().ok().and_then(char::from_u32),
                _ => names.iter().find(|(known, _)| *known == name).map(|(_, character)| *character),
            }
        });
        if let (Some(character), Some((_, after))) = (character, reference) {
            kept.push(if character == '\u{a0}' { ' ' } else { character });
            rest = after;
        } else {
            kept.push('&');
            rest = inside;
        }
    }
    kept.push_str(rest);
    kept
}

/// `\[0300\]`: Markdown's backslash before what would have a meaning. The one before `-` is a branch of lspci's
/// tree and stays.
fn without_backslashes(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let escapes = |next: &char| {
            matches!(next, '[' | ']' | '_' | '(' | ')' | '*' | '#' | '.' | '>' | '<' | '~' | '|' | '`')
        };
        if character == '\\' && characters.peek().is_some_and(escapes) {
            continue;
        }
        kept.push(character);
    }
    kept
}

/// The lines of a mail as it is stored, where its head says that it is quoted-printable (RFC 2045, 6.7), each with
/// the number of its first line. `None`: it is not.
pub(super) fn printable(text: &str) -> Option<Vec<(usize, String)>> {
    let says = |line: &str| {
        let line = line.trim_end().to_ascii_lowercase();
        line.strip_prefix("content-transfer-encoding:").is_some_and(|kind| kind.trim() == "quoted-printable")
    };
    if !text.contains('=') || !text.split('\n').any(|line| line.len() < 80 && says(line)) {
        return None;
    }
    let mut lines: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut goes_on = false;
    for (index, raw) in text.split('\n').enumerate() {
        let raw = raw.strip_suffix('\r').unwrap_or(raw);
        let (body, soft) = match raw.trim_end().strip_suffix('=') {
            Some(body) => (body, true),
            None => (raw, false),
        };
        if !goes_on {
            lines.push((index + 1, Vec::new()));
        }
        if let Some((_, line)) = lines.last_mut() {
            let mut rest = body.as_bytes();
            while let Some((byte, after)) = rest.split_first() {
                let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
                let coded = code.filter(|_| *byte == b'=').and_then(|code| u8::from_str_radix(code, 16).ok());
                line.push(coded.unwrap_or(*byte));
                rest = if coded.is_some() { after.get(2..).unwrap_or_default() } else { after };
            }
        }
        goes_on = soft;
    }
    let words = |(number, line): (usize, Vec<u8>)| (number, String::from_utf8_lossy(&line).into_owned());
    Some(lines.into_iter().map(words).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pages_put_into_lines_is_taken_out() {
        assert_eq!(meant("a \\[0300\\]: b\\_c \\-00.1"), "a [0300]: b_c \\-00.1");
        assert_eq!(meant("&#91;1234:5678&#x5D; &amp;gt; &amp; &copy;"), "[1234:5678] > & &copy;");
        assert_eq!(meant("<strong>Group 1:<br />&nbsp;a</strong>"), "Group 1:\n a");
        assert_eq!(meant("[COLOR=#123456][FONT=Menlo]a [0300][/FONT][/COLOR]"), "a [0300]");
        let own = "Status: >TAbort- <TAbort- <MAbort+ <?> <access denied> <4us [b0] [R]";
        assert_eq!(meant(own), own);
    }

    #[test]
    fn a_mail_as_it_is_stored() {
        let mail = "Content-Transfer-Encoding: quoted-printable\n\n=C2=A0a [08=\n80]: b=20\nc=3Dd\n";
        let lines = printable(mail).unwrap();
        assert_eq!(lines.get(2), Some(&(3, "\u{a0}a [0880]: b ".to_owned())));
        assert_eq!(lines.get(3), Some(&(5, "c=d".to_owned())));
        assert_eq!(printable("a=\nb"), None);
    }
}
