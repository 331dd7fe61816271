#!/bin/sh
# First process of the lab's small host: what an initramfs and udev do on a real one, in the least time.
export PATH=/usr/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t configfs config /sys/kernel/config 2>/dev/null
mount -t debugfs debug /sys/kernel/debug 2>/dev/null
# Without this the kernel finds no codec driver for a sound card, and the card no controls.
echo /sbin/modprobe > /proc/sys/kernel/modprobe
hostname lab
ip link set lo up
# What udev does at boot: load the driver of every device, in one modprobe. By its path: busybox's own, which its
# shell prefers, knows no soft dependencies.
case " $(cat /proc/cmdline) " in
*" lab.coldplug=0 "*) ;;
*) find /sys/devices -name modalias | xargs cat | sort -u | xargs /sbin/modprobe -qab ;;
esac
# The agent is started again should a case kill it; the shell also buries orphaned processes.
while :; do /usr/bin/lab-agent /dev/ttyS1; sleep 1; done
