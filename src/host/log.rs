//! The kernel's log, as lines. What the lines mean is the judge's.

use crate::machine::Root;

/// Lines of a log, and where they are from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Log {
    /// `dmesg`, or the name of a file.
    pub source: String,
    /// The messages, without times and levels.
    pub lines: Vec<String>,
}

/// The kernel's log of this boot; an error is a sentence for the person who lacks the permission.
pub fn kernel(root: &dyn Root) -> Result<Log, String> {
    match root.kernel_log() {
        Ok(bytes) => Ok(Log { source: "dmesg".to_owned(), lines: parse(&String::from_utf8_lossy(&bytes)) }),
        Err(error) => Err(format!("the kernel log could not be read: {}", crate::error::said(&error))),
    }
}

/// Records of /dev/kmsg (`6,339,5140900,-;text`, then lines with a leading space: Documentation/ABI/testing/dev-kmsg)
/// or what dmesg prints (`[    1.234567] text`).
fn parse(text: &str) -> Vec<String> {
    let message = |line: &str| {
        if line.starts_with(' ') {
            return None;
        }
        let record = line.split_once(';').filter(|(head, _)| {
            // Level, number, time and flags; the kernel may add fields such as `caller=T1`.
            head.split(',').count() >= 4 && head.split(',').take(3).all(|field| field.parse::<u64>().is_ok())
        });
        let printed = || line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
        let (_, message) = record.or_else(printed).unwrap_or(("", line));
        (!message.is_empty()).then(|| message.to_owned())
    };
    text.lines().filter_map(message).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_printed_lines() {
        let records = "6,339,5140900,-;NET: Registered; family 10\n SUBSYSTEM=net\n4,340,5690716,-,caller=T1;gpuferry: x\n";
        assert_eq!(parse(records), ["NET: Registered; family 10", "gpuferry: x"]);
        assert_eq!(
            parse("[    1.234567] gpuferry: a [b] c\nplain; text\n"),
            ["gpuferry: a [b] c", "plain; text"]
        );
    }
}
