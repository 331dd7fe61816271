//! The early scripts, which are part of the program and are written as they are.

/// initramfs-tools' hook: puts vfio-pci into the image.
pub const HOOK: &str = include_str!("initramfs-tools/hook");
/// initramfs-tools' early script: binds the cards that the command line names.
pub const INIT_TOP: &str = include_str!("initramfs-tools/init-top");
