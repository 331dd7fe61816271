//! As much of a VT100 as GRUB uses on a serial line: enough to know what stands on which row, and where the cursor is.
//!
//! Source: grub-core/term/terminfo.c (the strings it sends for a vt100). Colours and bold are ignored.

/// A screen of fixed size.
#[derive(Debug)]
pub(crate) struct Terminal {
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

const ROWS: usize = 24;
const COLUMNS: usize = 80;

impl Terminal {
    /// The screen after all of `bytes` were written to it.
    pub(crate) fn after(bytes: &[u8]) -> Self {
        let mut terminal = Self { rows: vec![vec![' '; COLUMNS]; ROWS], row: 0, column: 0 };
        let text = String::from_utf8_lossy(bytes);
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '\x1b' if characters.peek() == Some(&'[') => {
                    characters.next();
                    let mut parameters = String::new();
                    for next in characters.by_ref() {
                        if ('@'..='~').contains(&next) {
                            terminal.obey(&parameters, next);
                            break;
                        }
                        parameters.push(next);
                    }
                }
                '\r' => terminal.column = 0,
                '\n' => terminal.line_feed(),
                '\x08' => terminal.column = terminal.column.saturating_sub(1),
                character if !character.is_control() => terminal.put(character),
                _ => {}
            }
        }
        terminal
    }

    /// What stands on the row of the cursor.
    pub(crate) fn cursor_line(&self) -> String {
        self.rows[self.row].iter().collect()
    }

    /// The whole screen.
    pub(crate) fn text(&self) -> String {
        let lines: Vec<String> = self.rows.iter().map(|row| row.iter().collect()).collect();
        lines.join("\n")
    }

    fn obey(&mut self, parameters: &str, command: char) {
        let mut numbers = parameters.split(';').map(|number| number.parse::<usize>().unwrap_or(0));
        let first = numbers.next().unwrap_or(0);
        match command {
            'H' => {
                let second = numbers.next().unwrap_or(0);
                self.row = first.saturating_sub(1).min(ROWS - 1);
                self.column = second.saturating_sub(1).min(COLUMNS - 1);
            }
            'J' if first == 2 => self.rows = vec![vec![' '; COLUMNS]; ROWS],
            'J' => {
                self.rows[self.row][self.column..].fill(' ');
                self.rows[self.row + 1..].iter_mut().for_each(|row| row.fill(' '));
            }
            'K' => self.rows[self.row][self.column..].fill(' '),
            _ => {}
        }
    }

    fn put(&mut self, character: char) {
        if self.column == COLUMNS {
            self.column = 0;
            self.line_feed();
        }
        self.rows[self.row][self.column] = character;
        self.column += 1;
    }

    fn line_feed(&mut self) {
        if self.row + 1 < ROWS {
            self.row += 1;
        } else {
            self.rows.remove(0);
            self.rows.push(vec![' '; COLUMNS]);
        }
        self.column = self.column.min(COLUMNS - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_goes_where_it_is_told() {
        let terminal = Terminal::after(b"\x1b[2J\x1b[5;3Hlinux /boot\x1b[7;1Hinitrd\x1b[5;3H");
        assert_eq!(terminal.cursor_line().trim(), "linux /boot");
        assert!(terminal.text().contains("initrd"));
    }

    #[test]
    fn erased_is_gone_and_scrolled_is_up() {
        assert_eq!(Terminal::after(b"old\r\x1b[Knew").cursor_line().trim(), "new");
        let mut many = Vec::new();
        for line in 0..30 {
            many.extend_from_slice(format!("line {line}\r\n").as_bytes());
        }
        let text = Terminal::after(&many).text();
        assert!(text.contains("line 29") && !text.contains("line 5\n"), "{text}");
    }

    #[test]
    fn nothing_makes_it_panic() {
        for bytes in
            [&b"\x1b["[..], b"\x1b[999;999H\xff\n\n", b"\x1b[24;80Hxy\x1b[J\x08\x08", b"\x1b[;;;m\x1b"]
        {
            Terminal::after(bytes).text();
        }
    }
}
