//! The running kernel: its release, and the words of its command line.

use super::{Kernel, look::Look};

/// `uname -r`.
pub(super) fn release(look: &Look) -> Option<String> {
    look.text("/proc/sys/kernel/osrelease").filter(|release| !release.is_empty())
}

/// Release and command line.
pub(super) fn kernel(look: &Look) -> Kernel {
    Kernel { release: release(look), cmdline: look.text("/proc/cmdline") }
}

/// The words of a kernel command line, quotes resolved. A double quote holds a word together wherever it stands
/// (lib/cmdline.c, `next_arg`); after `--` the words are init's.
pub fn words(cmdline: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut begun) = (false, false);
    for character in cmdline.chars() {
        match character {
            '"' => (quoted, begun) = (!quoted, true),
            // The kernel's isspace(): also the no-break space of Latin-1, which no boot loader writes.
            _ if character.is_ascii_whitespace() && !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            _ => {
                word.push(character);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    if let Some(end) = words.iter().position(|word| word == "--") {
        words.truncate(end);
    }
    words
}

/// The value of a word: the last `name=value` counts. Dashes and underscores are the same in names
/// (kernel/params.c, `parameq`).
pub fn value<'w>(words: &'w [String], name: &str) -> Option<&'w str> {
    words.iter().rev().find_map(|word| {
        let (have, value) = word.split_once('=')?;
        same_name(have, name).then_some(value)
    })
}

/// Whether two parameter names are one for the kernel.
pub fn same_name(one: &str, other: &str) -> bool {
    let plain = |byte: u8| if byte == b'-' { b'_' } else { byte };
    one.len() == other.len() && one.bytes().map(plain).eq(other.bytes().map(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_as_the_kernel_cuts_them() {
        assert_eq!(words("  ro quiet\troot=UUID=1 "), ["ro", "quiet", "root=UUID=1"]);
        assert_eq!(words("dyndbg=\"file x.c +p\" b"), ["dyndbg=file x.c +p", "b"]);
        assert_eq!(words("\"a b=c\" \"unclosed d"), ["a b=c", "unclosed d"]);
        assert_eq!(words("a -- single"), ["a"]);
        assert!(words("").is_empty());
    }

    #[test]
    fn the_last_value_counts_and_dashes_are_underscores() {
        let words = words("vfio_pci.ids=1 vfio-pci.ids=2 quiet");
        assert_eq!(value(&words, "vfio-pci.ids"), Some("2"));
        assert_eq!(value(&words, "quiet"), None);
    }
}
