# Drivers that want the cards are in the initramfs, as on a machine with a boot splash.
printf '%s\n' nouveau snd_hda_intel bochs >> /etc/initramfs-tools/modules
