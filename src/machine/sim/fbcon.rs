//! Frame buffers, and the console that draws on them: which terminals go where when a screen comes or goes.
//!
//! All terminals are taken to be on one frame buffer, as they are unless somebody used `con2fbmap`.
//! (drivers/video/fbdev/core/fbcon.c: `fbcon_fb_unbind`, `fbcon_fb_unregistered`, `do_fb_registered`.)

use std::collections::BTreeMap;

/// The name of the frame buffer that draws into what the firmware set up (drivers/video/fbdev/efifb.c).
pub(crate) const FIRMWARE: &str = "EFI VGA";

/// Frame buffers by number, and the two back ends of the terminals: the dummy, and the frame buffer console.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Consoles {
    /// Number: function and name.
    pub(crate) framebuffers: BTreeMap<u32, (usize, &'static str)>,
    /// Whether the terminals are on the frame buffer console; it is there while there is a frame buffer.
    pub(crate) bound: bool,
    /// The frame buffer that the terminals are mapped to (`con2fb_map`).
    map: Option<u32>,
    /// The one that they are mapped to at first (`con2fb_map_boot`): the primary device's.
    boot_map: u32,
    primary: Option<u32>,
    /// The one that the console took last (`info_idx`).
    current: Option<u32>,
}

impl Consoles {
    /// A driver has made a frame buffer: it gets the lowest number that is free.
    pub(super) fn register(&mut self, function: usize, name: &'static str, boot_vga: bool) {
        let number = (0..32).find(|number| !self.framebuffers.contains_key(number)).unwrap_or_default();
        self.framebuffers.insert(number, (function, name));
        if boot_vga && self.primary.is_none() {
            self.primary = Some(number);
            self.boot_map = number;
        }
        if self.boot_map != number {
            return;
        }
        if self.current.is_none() {
            self.take_over(number);
        } else if self.map != Some(number) {
            if self.bound { self.map = Some(number) } else { self.take_over(number) }
        }
    }

    fn take_over(&mut self, number: u32) {
        (self.current, self.map, self.bound) = (Some(number), Some(number), true);
    }

    /// The frame buffer of a function goes: its driver's, or the firmware's.
    pub(super) fn unregister(&mut self, function: usize, firmware: bool) {
        let goes = |(of, name): &(usize, &'static str)| *of == function && (*name == FIRMWARE) == firmware;
        let Some(number) = self.framebuffers.iter().find(|(_, fb)| goes(fb)).map(|(n, _)| *n) else {
            return;
        };
        if self.map == Some(number) {
            // No other has a terminal: the console lets go of all.
            (self.map, self.bound) = (None, false);
        }
        self.framebuffers.remove(&number);
        if self.current == Some(number) {
            self.current = self.framebuffers.keys().next().copied();
        }
        self.map = self.map.or(self.current);
        if self.primary == Some(number) {
            self.primary = None;
        }
        if self.framebuffers.is_empty() {
            self.bound = false;
        }
    }

    /// A write to `vtconN/bind`; false where there is none.
    pub(crate) fn bind(&mut self, console: u32, bind: bool) -> bool {
        match (console, bind) {
            // Only what is modular is put on and taken off (vt.c, `vt_bind`, `vt_unbind`).
            (0, _) => {}
            (1, _) if self.framebuffers.is_empty() => return false,
            (1, bind) => {
                self.bound = bind;
                self.map = self.map.or(self.current);
            }
            _ => return false,
        }
        true
    }

    /// Name and flag of each back end.
    pub(crate) fn list(&self) -> Vec<(&'static str, bool)> {
        let mut all = vec![("(S) dummy device", !self.bound)];
        if !self.framebuffers.is_empty() {
            all.push(("(M) frame buffer device", self.bound));
        }
        all
    }

    /// Whether the terminals are drawn on a function's frame buffer.
    pub(crate) fn draws_on(&self, function: usize) -> bool {
        let on = self.map.and_then(|number| self.framebuffers.get(&number));
        self.bound && on.is_some_and(|(of, _)| *of == function)
    }
}
