#!/bin/sh
# First process of the guest that runs inside the emulated host: says which PCI devices it was given, and ends.
export PATH=/usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo "GUEST-UP $(cut -d' ' -f1 /proc/uptime)"
for device in /sys/bus/pci/devices/*; do
	vendor=$(cat "$device/vendor") id=$(cat "$device/device")
	echo "GUEST-PCI ${device##*/} ${vendor#0x}:${id#0x}"
done
echo "GUEST-END"
poweroff -f
