#!/bin/sh
# Stands in for the agent while the image is built: lets the booted host make its own initramfs and grub.cfg,
# so that making them again there changes nothing. $1 is the serial line and is not used.
exec > /lab/settle.log 2>&1
set -ex
stamp() { echo "settle: $(cut -d' ' -f1 /proc/uptime) $*"; }
stamp booted
systemctl is-system-running --wait || systemctl --no-pager --failed
stamp running
# initramfs-tools.conf(5). The list is the lab's own, in modules.d: the image is the same in every machine, so that one
# made again there can be compared with it, and is made without a look at each device.
echo 'MODULES=list' > /etc/initramfs-tools/conf.d/driver-policy
# Half of the time is zstd's level 9, which initramfs-tools asks for.
echo 'COMPRESSLEVEL=1' > /etc/initramfs-tools/conf.d/compress
sh -ex /lab/variant.sh
update-initramfs -u -k all
stamp update-initramfs
# Made anew, so that it has the mode grub-mkconfig gives it; an existing file keeps its own.
rm -f /boot/grub/grub.cfg
update-grub
stamp update-grub
rm -f /boot/*.bak /boot/*.dpkg-bak
fstrim /
sync
stamp done
touch /lab/settled
systemctl --no-block poweroff
