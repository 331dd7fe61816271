//! GRUB as Debian sets it up: the words of our drop-in, and the entries of a grub.cfg.

/// What a menu entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// This system, with `GRUB_CMDLINE_LINUX_DEFAULT`.
    Normal,
    /// This system without it: the way out.
    Recovery,
    /// Another system, a memory test, something written by hand.
    Other,
}

/// A menu entry that boots a Linux kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its title.
    pub title: String,
    /// What it is for, told by the id that 10_linux gives it (`gnulinux-RELEASE-advanced-DEVICE`).
    pub kind: EntryKind,
    /// The kernel's file, as GRUB names it.
    pub kernel: String,
    /// The kernel command line, word by word.
    pub words: Vec<String>,
}

/// The words of a line of GRUB's script, quotes taken off (GRUB's manual, "Quoting").
fn script_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut begun) = (Vec::new(), String::new(), false);
    let mut chars = line.chars();
    let mut quote = None;
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => word.extend(chars.next()),
            (None, '\'' | '"') => {
                quote = Some(c);
                begun = true;
            }
            (None, c) if c.is_whitespace() => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (_, c) => word.push(c),
        }
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    words
}

/// The entries of a grub.cfg that boot a Linux kernel, in order.
pub fn entries(text: &str) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut current: Option<(String, EntryKind)> = None;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("menuentry ") {
            let words = script_words(line);
            let mark = words.iter().position(|word| word == "$menuentry_id_option" || word == "--id");
            let id = mark.and_then(|mark| words.get(mark + 1)).map_or("", String::as_str);
            let kind = match id {
                id if !id.starts_with("gnulinux-") => EntryKind::Other,
                id if id.contains("-recovery-") => EntryKind::Recovery,
                _ => EntryKind::Normal,
            };
            current = Some((words.get(1).cloned().unwrap_or_default(), kind));
        } else if line.starts_with("linux") {
            let mut words = script_words(line).into_iter();
            let command = words.next();
            let (true, Some((title, kind))) =
                (matches!(command.as_deref(), Some("linux" | "linuxefi")), &current)
            else {
                continue;
            };
            let kernel = words.next().unwrap_or_default();
            found.push(Entry { title: title.clone(), kind: *kind, kernel, words: words.collect() });
        }
    }
    found
}

/// The line that our drop-in adds words with.
const ADDS: &str = "GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT ";

/// Our drop-in for these words. They hold nothing that a shell or GRUB would take for its own.
pub fn drop_in(words: &[String]) -> String {
    format!(
        "# Written by gpuferry; `gpuferry revert` takes it away again.\n\
         # For one boot without it, add gpuferry.off=1 to the kernel's line in the boot menu (key e).\n\
         {ADDS}{}\"\n",
        words.join(" ")
    )
}

/// The words that our drop-in adds.
pub fn drop_in_words(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(ADDS)?.strip_suffix('"'));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CFG: &str = r"
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-u-1' {
	load_video
	linux	/boot/vmlinuz-6.1.0-1-amd64 root=UUID=u-1 ro  quiet gpuferry.bind=0000:00:01.0/00.0=10de:2204:0:0
	initrd	/boot/initrd.img-6.1.0-1-amd64
}
submenu 'Advanced options for Debian' $menuentry_id_option 'gnulinux-advanced-u-1' {
	menuentry 'Debian, it'\''s Linux 6.1.0-1-amd64 (recovery mode)' --class debian $menuentry_id_option 'gnulinux-6.1.0-1-amd64-recovery-u-1' {
		linux	/boot/vmlinuz-6.1.0-1-amd64 root=UUID=u-1 ro single
	}
}
menuentry 'Other (on /dev/sda3)' $menuentry_id_option 'osprober-gnulinux-simple-x' {
	linux /boot/vmlinuz-5 root=/dev/sda3
}
menuentry 'Memory test' { linux16 /boot/memtest86+.bin }
";

    #[test]
    fn entries_are_told_apart() {
        let entries = entries(CFG);
        let kinds: Vec<_> = entries.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [EntryKind::Normal, EntryKind::Recovery, EntryKind::Other]);
        assert_eq!(entries[0].words.last().unwrap(), "gpuferry.bind=0000:00:01.0/00.0=10de:2204:0:0");
        assert_eq!(entries[1].title, "Debian, it's Linux 6.1.0-1-amd64 (recovery mode)");
        assert_eq!(entries[0].kernel, "/boot/vmlinuz-6.1.0-1-amd64");
    }

    #[test]
    fn the_drop_in_reads_as_it_was_written() {
        let words = ["intel_iommu=on".to_owned(), "gpuferry.bind=0000:00:01.0/00.0=1:2:3:4".to_owned()];
        assert_eq!(drop_in_words(&drop_in(&words)), words);
        assert!(drop_in_words("# nothing\n").is_empty());
    }
}
