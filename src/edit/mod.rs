//! Readers and editors of other programs' text: text in, data or text out. They open no file.

pub mod grub;
pub mod shell;
