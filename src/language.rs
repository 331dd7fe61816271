//! What findings say, in another language than English.
//!
//! The rules say everything in English. A catalogue (`i18n/`) has each of their sentences with `{}` where something is
//! put in, and below it the translation, as gettext's have. A sentence is found again by what stands between the things
//! that were put in; those are looked up too, because many are words of the rules' own. What a catalogue does not have
//! stays English. Reads nothing and prints nothing.

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
    /// What a locale asks for: `zh_CN.UTF-8`, as in `LC_ALL`, `LC_MESSAGES` or `LANG` (locale(7)).
    pub fn of_locale(locale: &str) -> Self {
        let name = locale.split(['.', '@']).next().unwrap_or_default();
        if matches!(name, "zh" | "zh_CN" | "zh_SG") { Self::Chinese } else { Self::English }
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
    said: &'static str,
}

fn entries(catalogue: &'static str) -> Vec<Entry> {
    let lines = catalogue.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (mut all, mut english) = (Vec::new(), None);
    for line in lines {
        match (line.strip_prefix('\t'), english.take()) {
            (Some(said), Some(sentence)) => {
                let sentence: &str = sentence;
                all.push(Entry { parts: sentence.split("{}").collect(), said });
            }
            (_, _) => english = Some(line),
        }
    }
    all
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
        for part in between {
            let (one, after) = left.split_once(part)?;
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

/// The sentence with the most letters of its own that this one is.
fn found(all: &[Entry], text: &str, least: usize, depth: u8) -> Option<String> {
    // A list or a pair is one of the rules' where it begins with an address or a word, and not with somebody's name.
    let is_ours = |entry: &Entry, put_in: &[&str]| {
        entry.own() >= SENTENCE || !put_in.first().is_some_and(|first| first.contains(char::is_uppercase))
    };
    let fits = |entry: &'_ &Entry| {
        (entry.own() >= least || entry.parts.len() == 1)
            && entry.put_in(text).is_some_and(|put_in| is_ours(entry, &put_in))
    };
    let entry = all.iter().filter(fits).max_by_key(|entry| entry.own())?;
    let put_in = entry.put_in(text)?.into_iter().map(|one| {
        let known = depth.checked_sub(1).and_then(|depth| found(all, one, 0, depth));
        known.unwrap_or_else(|| {
            // A list: its words by themselves.
            let word = |word| all.iter().find(|entry| entry.parts == [word]).map_or(word, |entry| entry.said);
            one.split(", ").map(word).collect::<Vec<_>>().join(", ")
        })
    });
    Some(entry.with(&put_in.collect::<Vec<_>>()))
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
        assert_eq!(say("nobody says this"), "nobody says this");
        assert_eq!(say("this, and that"), "this, and that", "a list is no sentence");
        assert_eq!(Language::English.say("The IOMMU is off"), "The IOMMU is off");
    }

    #[test]
    fn locales() {
        let of = Language::of_locale;
        assert!(["zh_CN.UTF-8", "zh_SG", "zh"].iter().all(|name| of(name) == Language::Chinese));
        // Traditional characters, and everybody else.
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
            said.contains(part) || ends.any(|(one, two)| said.contains(one) && said.contains(two))
        };
        for entry in entries(CHINESE) {
            for part in entry.parts.iter().flat_map(|part| part.split(['`', '(', ')', ',', ':'])) {
                let part = part.trim().to_lowercase();
                assert!(part.len() < SENTENCE || is_said(&part), "nobody says `{part}`: {:?}", entry.parts);
            }
        }
    }
}
