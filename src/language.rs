//! What findings say, in another language than English.
//!
//! The rules say everything in English. A catalogue (`i18n/`) has each of their sentences with `{}` where something is
//! put in, and below it the translation, as gettext's have. A sentence is found again by what stands between the things
//! that were put in. Where those are words of the rules' own (`{~}`), they are looked up too; names of guests, disks
//! and devices never are. What a catalogue does not have stays English. Reads nothing and prints nothing.

use crate::judge::Finding;
use std::sync::OnceLock;

/// A language that findings are told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Language {
    /// As the rules say it.
    #[default]
    #[value(name = "en")]
    English,
    /// Simplified.
    #[value(name = "zh-CN")]
    Chinese,
}

const CHINESE: &str = include_str!("../i18n/zh-CN.txt");

/// Sentences in sentences in sentences: a list of slots within advice.
const DEPTH: u8 = 4;

/// A pattern with fewer letters of its own than this is a list or a pair: what is put in, and no sentence.
const SENTENCE: usize = 6;

impl Language {
    /// What a locale asks for: `zh_CN.UTF-8`, as in `LC_ALL`, `LC_MESSAGES` or `LANG` (locale(7)). Another encoding
    /// would need other bytes.
    pub fn of_locale(locale: &str) -> Self {
        let (name, encoding) = locale.split_once('.').unwrap_or((locale, ""));
        let encoding = encoding.split('@').next().unwrap_or_default().to_ascii_lowercase();
        let shown = matches!(encoding.as_str(), "utf-8" | "utf8");
        if shown && matches!(name, "zh" | "zh_CN" | "zh_SG") { Self::Chinese } else { Self::English }
    }

    fn catalogue(self) -> Option<&'static [Entry]> {
        static READ: OnceLock<Vec<Entry>> = OnceLock::new();
        (self == Self::Chinese).then(|| READ.get_or_init(|| entries(CHINESE)).as_slice())
    }

    /// A sentence of the rules' in this language.
    pub fn say(self, text: &str) -> String {
        self.sentence(text).unwrap_or_else(|| text.to_owned())
    }

    /// `None`: there is no translation.
    fn sentence(self, text: &str) -> Option<String> {
        let all = self.catalogue()?;
        let whole = text.trim_end_matches('.');
        let end = if whole.len() < text.len() { "。" } else { "" };
        let said = found(all, whole, SENTENCE, DEPTH).or_else(|| {
            let parts = whole.split("; ").map(|part| found(all, part, SENTENCE, DEPTH));
            parts.collect::<Option<Vec<String>>>().map(|parts| parts.join("；"))
        });
        said.map(|said| said + end)
    }

    /// A finding in this language; its id, its commands and what was read stay as they are.
    #[must_use]
    pub fn finding(self, mut finding: Finding) -> Finding {
        finding.title = self.say(&finding.title);
        finding.cause = self.say(&finding.cause);
        for fix in &mut finding.fixes {
            fix.text = self.say(&fix.text);
        }
        finding
    }
}

/// A sentence, cut at what is put in, and its translation.
#[derive(Debug)]
struct Entry {
    parts: Vec<&'static str>,
    /// Of each thing that is put in, whether it is one of the rules' own sentences or words.
    own_words: Vec<bool>,
    said: &'static str,
}

fn entries(catalogue: &'static str) -> Vec<Entry> {
    let lines = catalogue.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (mut all, mut english) = (Vec::new(), None);
    for line in lines {
        match (line.strip_prefix('\t'), english.take()) {
            (Some(said), Some(sentence)) => all.push(entry(sentence, said)),
            (_, _) => english = Some(line),
        }
    }
    all
}

fn entry(sentence: &'static str, said: &'static str) -> Entry {
    let (mut parts, mut own_words, mut left) = (Vec::new(), Vec::new(), sentence);
    while let Some((part, (slot, rest))) =
        left.split_once('{').and_then(|(part, rest)| Some((part, rest.split_once('}')?)))
    {
        parts.push(part);
        own_words.push(slot == "~");
        left = rest;
    }
    parts.push(left);
    Entry { parts, own_words, said }
}

impl Entry {
    /// How many letters are its own.
    fn own(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// What was put in; `None` where this is another sentence.
    fn put_in<'t>(&self, text: &'t str) -> Option<Vec<&'t str>> {
        let (first, rest) = self.parts.split_first()?;
        let mut left = text.strip_prefix(first)?;
        let Some((last, between)) = rest.split_last() else { return left.is_empty().then(Vec::new) };
        let mut put_in = Vec::new();
        for (at, part) in between.iter().enumerate() {
            // The last one from its end: names have brackets and commas of their own.
            let cut = if at + 1 == between.len() { left.rsplit_once(part) } else { left.split_once(part) };
            let (one, after) = cut?;
            put_in.push(one);
            left = after;
        }
        put_in.push(left.strip_suffix(last)?);
        put_in.iter().all(|one| !one.is_empty()).then_some(put_in)
    }

    /// The translation, with this put in.
    fn with(&self, put_in: &[String]) -> String {
        let mut parts = self.said.split('{');
        let mut text = parts.next().unwrap_or_default().to_owned();
        for (place, part) in parts.enumerate() {
            let (number, rest) = part.split_once('}').unwrap_or(("", part));
            let place = number.parse().map_or(place, |number: usize| number.saturating_sub(1));
            text.push_str(put_in.get(place).map_or("", String::as_str));
            text.push_str(rest);
        }
        text
    }
}

/// The sentence that this one is: one that begins as it does before one that begins with what is put in, and the one
/// with the most letters of its own.
fn found(all: &[Entry], text: &str, least: usize, depth: u8) -> Option<String> {
    // A pair or a list is one of addresses: a name may have an `and` of its own.
    let is_ours = |entry: &Entry, put_in: &[&str]| {
        let mut theirs = put_in.iter().zip(&entry.own_words).filter(|(_, own)| !**own);
        entry.own() >= SENTENCE || theirs.all(|(one, _)| items(one).iter().all(|item| !item.contains(' ')))
    };
    let fits = |entry: &'_ &Entry| {
        let enough = entry.own() >= least || entry.parts.len() == 1;
        enough && entry.put_in(text).is_some_and(|put_in| is_ours(entry, &put_in))
    };
    let begins = |entry: &Entry| entry.parts.first().is_some_and(|part| !part.is_empty());
    let entry = all.iter().filter(fits).max_by_key(|entry| (begins(entry), entry.own()))?;
    let deeper = depth.checked_sub(1);
    let word = |one: &str| deeper.and_then(|depth| found(all, one, 0, depth));
    let put_in = entry.put_in(text)?.into_iter().zip(&entry.own_words).map(|(one, own_words)| {
        if !own_words {
            return one.to_owned();
        }
        // A list of words and names, or a whole sentence.
        let known = |item: &str| word(item).or_else(|| (!item.contains(' ')).then(|| item.to_owned()));
        let list: Option<Vec<String>> = items(one).into_iter().map(known).collect();
        list.map(|list| list.join(", ")).or_else(|| word(one)).unwrap_or_else(|| one.to_owned())
    });
    Some(entry.with(&put_in.collect::<Vec<_>>()))
}

/// A list's items: what is in brackets belongs to one.
fn items(list: &str) -> Vec<&str> {
    let (mut items, mut start, mut open) = (Vec::new(), 0, 0_usize);
    for (at, c) in list.char_indices() {
        match c {
            '(' => open += 1,
            ')' => open = open.saturating_sub(1),
            ',' if open == 0 && list.get(at + 1..).is_some_and(|rest| rest.starts_with(' ')) => {
                items.push(list.get(start..at).unwrap_or_default());
                start = at + 2;
            }
            _ => {}
        }
    }
    items.push(list.get(start..).unwrap_or_default());
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_with_what_is_put_in() {
        let say = |text| Language::Chinese.say(text);
        assert_eq!(say("The IOMMU is off"), "IOMMU 没有启用");
        assert_eq!(say("The IOMMU is off."), "IOMMU 没有启用。");
        assert_eq!(
            say("`1:2` in /etc/modprobe.d/a.conf:3 is no vendor:device"),
            "/etc/modprobe.d/a.conf:3 中的 `1:2` 不是 厂商号:设备号"
        );
        assert_eq!(
            say("the group can only go as a whole, and 0000:00:1f.0 is a part of the chipset"),
            "整个组只能一起借出，而 0000:00:1f.0 是芯片组的一部分"
        );
        let named = "put the card behind 0000:00:01.0, now Advanced Micro Devices, Inc. A and B: it would be alone there";
        assert!(say(named).contains("Advanced Micro Devices, Inc. A and B"), "a name is no list");
        assert_eq!(
            say(
                "the group can only go as a whole, and 0000:00:1f.0 is the LPC or eSPI bridge: the board's firmware, clock and \
                 sensors hang on it"
            ),
            "整个组只能一起借出，而 0000:00:1f.0 是LPC 或 eSPI 桥：主板的固件、时钟和传感器都接在它上面"
        );
        assert_eq!(
            say("this goes dark: session 3 of ring on seat0 (wayland, tty2), eDP-1"),
            "这些会变黑：ring 在 seat0 上的会话 3（wayland, tty2）, eDP-1"
        );
        // Brackets in a name, and names that are words of ours.
        let moved =
            "10de:2204 was to be bound at 0000:00:01.0, but Ethernet (7) I219-LM (8086:15bb) is there";
        assert_eq!(
            say(moved),
            "10de:2204 本应在 0000:00:01.0 绑定，但那里是 Ethernet (7) I219-LM（8086:15bb）"
        );
        assert_eq!(say("The guest info has it now."), "客户机 info 正在用它。");
        assert_eq!(say("this goes dark: DP-1, the text console"), "这些会变黑：DP-1, 文本控制台");
        assert_eq!(say("nobody says this"), "nobody says this");
        assert_eq!(say("this, and that"), "this, and that", "a list is no sentence");
        assert_eq!(Language::English.say("The IOMMU is off"), "The IOMMU is off");
    }

    #[test]
    fn locales() {
        let of = Language::of_locale;
        assert!(["zh_CN.UTF-8", "zh_SG.utf8", "zh.UTF-8@x"].iter().all(|name| of(name) == Language::Chinese));
        // Another encoding, traditional characters, and everybody else.
        assert!(["zh_CN", "zh_CN.GB18030"].iter().all(|name| of(name) == Language::English));
        assert!(
            ["zh_TW.UTF-8", "C", "", "en_GB.UTF-8", "zhx"].iter().all(|name| of(name) == Language::English)
        );
    }

    #[test]
    fn the_catalogue_is_whole() {
        let all = entries(CHINESE);
        let lines = CHINESE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        assert_eq!(lines, all.len() * 2, "each sentence has its translation below it");
        for entry in &all {
            let sentence = entry.parts.join("{}");
            let same = all.iter().filter(|other| other.parts == entry.parts).count();
            assert_eq!(same, 1, "twice: {sentence}");
            let put_in: Vec<String> = (1..entry.parts.len()).map(|number| format!("<{number}>")).collect();
            let said = entry.with(&put_in);
            assert!(put_in.iter().all(|one| said.contains(one)), "{sentence}\n{said}: something is left out");
            assert!(!said.contains(['{', '}']), "{said}");
        }
    }

    /// What nobody says any more would only mislead who translates.
    #[test]
    fn every_sentence_is_somebodys() {
        let mut said = String::new();
        for folder in ["src/judge", "src/cli", "src/host"] {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            for file in std::fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                if path.extension().is_some_and(|end| end == "rs") {
                    said.push_str(&std::fs::read_to_string(path).unwrap());
                }
            }
        }
        // Strings go on after a backslash; what is put in has a name or none.
        let said: Vec<&str> = said.split("\\\n").map(str::trim_start).collect();
        let said = said.concat().replace("\\\"", "\"").to_lowercase();
        // A sentence may be put together from two.
        let is_said = |part: &str| {
            let mut ends = part.match_indices(' ').map(|(at, _)| part.split_at(at));
            let long = |end: &str| end.len() >= SENTENCE && said.contains(end);
            said.contains(part) || ends.any(|(one, two)| long(one) && long(two))
        };
        for entry in entries(CHINESE) {
            for part in entry.parts.iter().flat_map(|part| part.split(['`', '(', ')', ',', ':'])) {
                let part = part.trim().to_lowercase();
                assert!(part.len() < SENTENCE || is_said(&part), "nobody says `{part}`: {:?}", entry.parts);
            }
        }
    }
}
