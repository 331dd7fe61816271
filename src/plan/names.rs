//! Where gpuferry's own files go on a Debian host.

/// What GRUB's boot menu is read from.
pub const GRUB_CFG: &str = "/boot/grub/grub.cfg";
/// GRUB's settings by the distribution and its owner.
pub const GRUB_DEFAULTS: &str = "/etc/default/grub";
/// Drop-ins for them; grub-mkconfig reads `*.cfg` in order of name, after [`GRUB_DEFAULTS`].
pub const GRUB_FOLDER: &str = "/etc/default/grub.d";
/// Our drop-in: last by name, so that what others set is there to be added to.
pub const GRUB_DROP_IN: &str = "/etc/default/grub.d/zz-gpuferry.cfg";
/// Our hook, which puts the module into the image.
pub const HOOK: &str = "/etc/initramfs-tools/hooks/gpuferry";
/// Our early script. By name it comes before `udev`, which would load the native drivers.
pub const INIT_TOP: &str = "/etc/initramfs-tools/scripts/init-top/gpuferry";
