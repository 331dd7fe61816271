//! Where this machine gets Debian from: its own apt configuration, read and never written.
//!
//! Formats: sources.list(5) (one-line and deb822), apt.conf(5). Pure functions; reading is [`super`]'s.

/// One entry of the apt configuration that installs binary packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Base addresses, in the order written.
    pub uris: Vec<String>,
    /// Suite names (`trixie`, `stable-security`); exact paths end in `/`.
    pub suites: Vec<String>,
    /// Components (`main`).
    pub components: Vec<String>,
    /// The key file that must have signed it; inline keys and fingerprints are left out.
    pub keyring: Option<String>,
    /// Signed by a key that stands in the entry itself, or named by fingerprint.
    pub other_key: bool,
    /// The owner of this machine said `trusted=yes`.
    pub trusted: bool,
}

/// Where Debian's archive is for this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// The archive itself.
    pub main: Entry,
    /// The security archive, where the machine has one.
    pub security: Option<Entry>,
}

/// Reads a `*.list` file: `deb [options] uri suite component...` per line.
pub fn parse_list(text: &str) -> Vec<Entry> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Entry> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t', '[']) {
        return None;
    }
    let mut entry = Entry::default();
    let mut rest = rest.trim_start();
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        rest = after.trim_start();
        for option in options.split_whitespace() {
            if let Some((name, value)) = option.split_once('=') {
                entry.option(name, value);
            }
        }
    }
    let mut words = rest.split_whitespace();
    entry.uris.push(words.next()?.to_owned());
    entry.suites.push(words.next()?.to_owned());
    entry.components = words.map(str::to_owned).collect();
    Some(entry)
}

/// Reads a `*.sources` file: stanzas of `Field: value`, continuation lines start with a blank.
pub fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            entries.extend(stanza(&fields));
            fields.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    entries
}

fn stanza(fields: &[(String, String)]) -> Option<Entry> {
    let field = |name: &str| fields.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value.trim());
    let words = |name: &str| field(name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    if !words("types").iter().any(|t| t == "deb") || matches!(field("enabled"), "no" | "false" | "0" | "off")
    {
        return None;
    }
    let mut entry = Entry {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        ..Entry::default()
    };
    for name in ["signed-by", "trusted"] {
        if !field(name).is_empty() {
            entry.option(name, field(name));
        }
    }
    (!entry.uris.is_empty() && !entry.suites.is_empty()).then_some(entry)
}

impl Entry {
    fn option(&mut self, name: &str, value: &str) {
        match name {
            "signed-by" if value.starts_with('/') && !value.contains(char::is_whitespace) => {
                self.keyring = Some(value.to_owned());
            }
            "signed-by" => self.other_key = true,
            "trusted" => self.trusted = matches!(value, "yes" | "true" | "1" | "on"),
            _ => {}
        }
    }

    /// The one-line form for another suite of the same archive.
    fn line(&self, uri: &str, suite: &str) -> String {
        let mut options = Vec::new();
        if let Some(keyring) = &self.keyring {
            options.push(format!("signed-by={keyring}"));
        }
        if self.trusted {
            options.push("trusted=yes".to_owned());
        }
        let options = if options.is_empty() { String::new() } else { format!("[{}] ", options.join(" ")) };
        format!("deb {options}{uri} {suite} main\n")
    }

    /// How surely this is Debian's own archive or a mirror of it; 0 means it is somebody else's.
    ///
    /// Many vendors name their suites after Debian's and have a `main`: the key and the path tell them apart.
    fn likelihood(&self, last: &str) -> u8 {
        let key = self.keyring.as_deref().is_some_and(|k| k.contains("debian-archive"));
        let path = self.uris.iter().any(|uri| uri.trim_end_matches('/').ends_with(last));
        let plain = self.keyring.is_none() && !self.other_key;
        u8::from(key) * 4 + u8::from(path) * 2 + u8::from(plain)
    }
}

/// What Debian calls its releases, so that an entry can be known for one of Debian's.
const RELEASES: &[&str] = &[
    "stable",
    "oldstable",
    "oldoldstable",
    "testing",
    "unstable",
    "sid",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
];

fn is_security(suite: &str) -> bool {
    suite
        .strip_suffix("-security")
        .or_else(|| suite.strip_suffix("/updates"))
        .is_some_and(|base| RELEASES.contains(&base))
}

/// Picks Debian's archive (and its security archive) among all entries; what is not Debian's is passed over.
pub fn debian(entries: &[Entry]) -> Option<Archive> {
    let pick = |suite: &dyn Fn(&str) -> bool, last: &str| {
        let mut best: Option<(u8, &Entry)> = None;
        for entry in entries {
            let fits = entry.suites.iter().any(|s| suite(s)) && entry.components.iter().any(|c| c == "main");
            let likelihood = entry.likelihood(last);
            if fits && likelihood > best.map_or(0, |(most, _)| most) {
                best = Some((likelihood, entry));
            }
        }
        best.map(|(_, entry)| entry.clone())
    };
    Some(Archive {
        main: pick(&|suite| RELEASES.contains(&suite), "debian")?,
        security: pick(&is_security, "debian-security"),
    })
}

impl Archive {
    /// sources.list(5) lines for `suites` of the archive; `NAME-security` is taken from the security archive,
    /// and left out where the machine has none.
    pub fn sources(&self, suites: &[&str]) -> String {
        let mut lines = String::new();
        for suite in suites {
            let entry = if is_security(suite) { self.security.as_ref() } else { Some(&self.main) };
            if let Some((entry, uri)) = entry.and_then(|e| Some((e, e.uris.first()?))) {
                lines.push_str(&entry.line(uri, suite));
            }
        }
        lines
    }

    /// Whether packages come from this machine's own file system.
    pub fn is_local(&self) -> bool {
        let local = |uri: &String| uri.starts_with("file:") || uri.starts_with("copy:");
        self.main.uris.iter().any(local) || self.security.iter().flat_map(|e| &e.uris).any(local)
    }
}

/// From `apt-config dump`: how this machine reaches its mirrors (proxies, clocks that are off, retries).
pub fn acquire(dump: &str) -> Vec<&str> {
    const WANTED: &[&str] = &[
        "Acquire::http::",
        "Acquire::https::",
        "Acquire::Check-Valid-Until ",
        "Acquire::Check-Date ",
        "Acquire::Retries ",
        "Acquire::ForceIPv4 ",
        "Acquire::ForceIPv6 ",
    ];
    dump.lines()
        .map(str::trim)
        .filter(|line| WANTED.iter().any(|w| line.starts_with(w)) && !line.ends_with(" \"\";"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

    #[test]
    fn stock_deb822() {
        let text = "# comment\nTypes: deb deb-src\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                    Components: main non-free-firmware\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
                    Types: deb\nURIs: http://mirror.example/debian-security/\nSuites: bookworm-security\n\
                    Components: main\nSigned-By:\n /usr/share/keyrings/debian-archive-keyring.gpg\n";
        let archive = debian(&parse_deb822(text)).unwrap();
        assert_eq!(
            archive.sources(&["trixie", "trixie-security"]),
            format!(
                "deb [signed-by={KEY}] http://mirror.example/debian trixie main\n\
                 deb [signed-by={KEY}] http://mirror.example/debian-security/ trixie-security main\n"
            )
        );
    }

    #[test]
    fn one_line_with_options_and_without_security() {
        let text = "deb-src http://mirror.example/debian sid main\n\
                    deb [arch=amd64 trusted=yes] file:/srv/debian sid main contrib # here\n";
        let archive = debian(&parse_list(text)).unwrap();
        assert!(archive.is_local());
        assert_eq!(
            archive.sources(&["trixie", "trixie-security", "trixie-backports"]),
            "deb [trusted=yes] file:/srv/debian trixie main\n\
             deb [trusted=yes] file:/srv/debian trixie-backports main\n"
        );
    }

    #[test]
    fn other_peoples_archives_are_passed_over() {
        let vendors = "deb [signed-by=/etc/apt/keyrings/vendor.asc] https://vendor.example/linux/debian bookworm stable\n\
                       deb [signed-by=/etc/apt/keyrings/other.gpg] https://apt.other.example bookworm main\n\
                       deb https://pg.example/debian bookworm-pgdg main\n\
                       deb http://ubuntu.example/ubuntu noble main\n";
        assert_eq!(debian(&parse_list(vendors)), None);
        let inline = "Types: deb\nURIs: https://third.example/\nSuites: trixie\nComponents: main\n\
                      Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDME\n -----END PGP PUBLIC KEY BLOCK-----\n";
        assert_eq!(debian(&parse_deb822(inline)), None);
        let mut both = parse_list(vendors);
        both.extend(parse_list("deb https://mirror.example/pub/debian/ trixie main\n"));
        assert_eq!(debian(&both).unwrap().main.uris, ["https://mirror.example/pub/debian/"]);
    }

    #[test]
    fn disabled_stanzas_and_torn_text() {
        assert_eq!(
            parse_deb822("Types: deb\nEnabled: no\nURIs: http://x\nSuites: trixie\nComponents: main\n"),
            []
        );
        assert_eq!(parse_deb822("Types: deb\nSuites: trixie\n"), []);
        assert_eq!(parse_deb822(" stray continuation\nno colon here\n"), []);
        assert_eq!(parse_list("deb\ndeb [\ndeb [a=b]\ndeb http://x\ndebian http://x trixie main\n"), []);
    }

    #[test]
    fn proxies_are_carried_over() {
        let dump = "Acquire \"\";\nAcquire::http \"\";\nAcquire::http::Proxy \"http://proxy.example:3142\";\n\
                    Acquire::https::Proxy \"\";\nAcquire::Check-Date \"false\";\nAcquire::Languages:: \"none\";\n";
        assert_eq!(
            acquire(dump),
            ["Acquire::http::Proxy \"http://proxy.example:3142\";", "Acquire::Check-Date \"false\";"]
        );
    }
}
