//! What is printed as JSON for whoever asked with `--json`: two spaces for each level, as serde_json's own pretty form.
//!
//! That one writes a line's end and each two spaces apart; a look at a machine has thousands of lines.

use super::printed;
use crate::error::Result;
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use std::io::{self, Write};

/// Prints a value, piece by piece: a server's machine is tens of megabytes of text.
pub(super) fn print(value: &impl Serialize) -> Result<()> {
    let mut out = io::BufWriter::with_capacity(16 << 10, io::stdout().lock());
    printed(write(&mut out, value).and_then(|()| out.flush()))
}

fn write(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(&mut *out, Lines::default()))?;
    out.write_all(b"\n")
}

/// Between two values: the end of a line, and the spaces of the next.
const NEXT: &[u8] = b",\n                                                                ";

/// One value a line.
#[derive(Debug, Default)]
struct Lines {
    /// Spaces before a line.
    spaces: usize,
    /// Whether what was begun last has anything in it.
    any: bool,
}

impl Lines {
    fn begin<W: Write + ?Sized>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.spaces += 2;
        self.any = false;
        out.write_all(bracket)
    }

    fn end<W: Write + ?Sized>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.spaces -= 2;
        if self.any {
            self.line(out, true)?;
        }
        self.any = true;
        out.write_all(bracket)
    }

    fn line<W: Write + ?Sized>(&self, out: &mut W, first: bool) -> io::Result<()> {
        let begin = usize::from(first);
        if let Some(next) = NEXT.get(begin..2 + self.spaces) {
            return out.write_all(next);
        }
        out.write_all(NEXT.get(begin..2).unwrap_or_default())?;
        (0..self.spaces).try_for_each(|_| out.write_all(b" "))
    }
}

impl Formatter for Lines {
    fn begin_array<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"[")
    }

    fn end_array<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"]")
    }

    fn begin_array_value<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.line(out, first)
    }

    fn end_array_value<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.any = true;
        Ok(())
    }

    fn begin_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"{")
    }

    fn end_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"}")
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.line(out, first)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn end_object_value<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.any = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn it_is_what_serde_json_writes() {
        let mut deep = json!([1, "two", {}]);
        for level in 0..40 {
            let text = serde_json::to_string_pretty(&deep).unwrap() + "\n";
            let mut ours = Vec::new();
            write(&mut ours, &deep).unwrap();
            assert_eq!(String::from_utf8(ours).unwrap(), text);
            deep = if level % 2 == 0 {
                json!([[], deep, {}, Value::Null, 1.5, -3])
            } else {
                json!({ "a": deep, "b": {}, "c\n\"": [true, { "d": [] }], "e": "\u{1}ä" })
            };
        }
    }
}
