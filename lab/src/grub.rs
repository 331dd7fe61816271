//! GRUB's menu on the serial console, used as a person uses it: stop the countdown, edit the entry, boot.

use crate::console::Console;
use crate::host::{Host, must};
use crate::terminal::Terminal;
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// From the request to reboot to GRUB's menu: shutting down, firmware.
const TO_THE_MENU: Duration = Duration::from_secs(240);
/// GRUB answers a key within this time, or never.
const KEY: Duration = Duration::from_secs(10);
/// GRUB has finished drawing when it has sent nothing for so long.
const DRAWN: Duration = Duration::from_millis(700);

/// Keys of GRUB's editor ("GNU GRUB Manual", "Editing a menu entry").
const EDIT: &[u8] = b"e";
const DOWN: &[u8] = b"\x0e";
const END_OF_LINE: &[u8] = b"\x05";
const BOOT: &[u8] = b"\x18";

impl Host {
    /// Reboots a full host with `words` at the end of the kernel command line, for this boot only: as a user does
    /// who presses `e` in GRUB's menu.
    #[track_caller]
    pub fn reboot_with_words(&mut self, words: &str) -> &Self {
        must(self.try_reboot_with_words(words));
        self
    }

    /// The same, with the error handed back.
    pub fn try_reboot_with_words(&mut self, words: &str) -> Result<()> {
        let start = Instant::now();
        let mark = self.console().mark();
        self.begin_reboot()?;
        edit_entry(self.console(), mark, words)?;
        self.end_reboot(start)
    }
}

/// Waits for the menu, appends `words` to the chosen entry's `linux` line and boots it.
fn edit_entry(console: &Console, mark: usize, words: &str) -> Result<()> {
    let menu = console.wait_for("GNU GRUB", mark, TO_THE_MENU).context("GRUB's menu")?;
    console.type_keys(EDIT)?;
    console.wait_for("setparams", menu, KEY).context("GRUB's editor")?;
    console.wait_for_silence(DRAWN);
    for _ in 0..40 {
        let screen = Terminal::after(&console.since(mark));
        if screen.cursor_line().trim_start_matches([' ', '|', '│']).starts_with("linux") {
            console.type_keys(END_OF_LINE)?;
            console.wait_for_silence(DRAWN);
            console.type_keys(format!(" {words}").as_bytes())?;
            console.wait_for_silence(DRAWN);
            return console.type_keys(BOOT);
        }
        console.type_keys(DOWN)?;
        console.wait_for_silence(DRAWN);
    }
    bail!("no `linux` line in GRUB's editor:\n{}", Terminal::after(&console.since(mark)).text())
}
