//! The kernel command line as words.
//!
//! The rules are the kernel's (lib/cmdline.c, next_arg): words are divided by white space outside double quotes,
//! `-` and `_` are the same in a name (kernel/params.c, dash2underscore), and what follows ` -- ` is for init.

/// The words of a command line that are meant for the kernel.
pub fn words(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut begin, mut quoted) = (None, false);
    for (at, c) in line.char_indices() {
        if c == '"' {
            quoted = !quoted;
        }
        if c.is_ascii_whitespace() && !quoted {
            found.extend(begin.take().map(|begin| &line[begin..at]));
        } else if begin.is_none() {
            begin = Some(at);
        }
    }
    found.extend(begin.map(|begin| &line[begin..]));
    if let Some(end) = found.iter().position(|word| *word == "--") {
        found.truncate(end);
    }
    found
}

/// True where both are the same parameter name to the kernel.
pub fn same_name(one: &str, other: &str) -> bool {
    let plain = |name: &str| name.replace('-', "_");
    plain(one) == plain(other)
}

/// The values of a parameter, in order; an empty one where it stands without `=`.
pub fn values<'line>(line: &'line str, name: &str) -> Vec<&'line str> {
    let all = words(line).into_iter().map(|word| word.split_once('=').unwrap_or((word, "")));
    all.filter(|(key, _)| same_name(key, name)).map(|(_, value)| value.trim_matches('"')).collect()
}

/// True where a parameter with a comma-separated value has this option in any of its words: `iommu=pt,off`.
pub fn has_option(line: &str, name: &str, option: &str) -> bool {
    values(line, name).iter().any(|value| value.split(',').any(|one| one == option))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_a_word_together_and_two_dashes_end_it() {
        let line = "root=/dev/x dyndbg=\"file a.c +p\"  quiet -- single gpuferry.off";
        assert_eq!(words(line), ["root=/dev/x", "dyndbg=\"file a.c +p\"", "quiet"]);
    }

    #[test]
    fn names_are_the_same_with_dash_or_underscore() {
        assert_eq!(values("vfio-pci.ids=1:2 vfio_pci.ids=3:4", "vfio-pci.ids"), ["1:2", "3:4"]);
        assert!(has_option("quiet iommu=pt,off", "iommu", "off"));
        assert!(!has_option("amd_iommu=off", "iommu", "off"));
    }
}
