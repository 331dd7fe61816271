//! The commands that a chapter of the guide shows: the lines of its code blocks that a reader would type. For cases that
//! run a chapter, here and in the lab.

/// The chapter on hosts with one card.
#[allow(dead_code, reason = "the lab runs it")]
pub(crate) const ONE_CARD: &str = include_str!("../../docs/guide/03-one-card.md");

/// Each command of a text in Markdown, in order: without the comment behind it. Blocks that are marked as something else
/// than a shell's (`rust`, `json`) show none.
pub(crate) fn commands(chapter: &str) -> Vec<String> {
    let (mut found, mut inside) = (Vec::new(), None);
    for line in chapter.lines() {
        match (line.trim_start().strip_prefix("```"), inside) {
            (Some(kind), None) => inside = Some(matches!(kind.trim(), "" | "sh" | "console")),
            (Some(_), Some(_)) => inside = None,
            (None, Some(true)) => {
                let line = line.split(" # ").next().unwrap_or_default().trim();
                let line = line.strip_prefix("$ ").unwrap_or(line);
                if ["gpuferry", "sudo gpuferry", "tar "].iter().any(|start| line.starts_with(start)) {
                    found.push(line.to_owned());
                }
            }
            (None, _) => {}
        }
    }
    found
}
