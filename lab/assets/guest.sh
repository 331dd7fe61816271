#!/bin/sh
# Hands PCI devices to a guest inside the emulated host. They must be bound to vfio-pci already.
#   /guest/qemu info ADDRESS...   no system in the guest; prints what QEMU sees (`info pci`) and ends
#   /guest/qemu hold ADDRESS...   the same, but keeps the devices until it is killed
#   /guest/qemu run ADDRESS...    boots Linux in the guest, which prints GUEST-PCI lines and powers off
mode=$1
shift
set -- $(function=0; for address; do
	echo "-device vfio-pci,host=$address,bus=pcie.0,addr=5.$function,multifunction=on"
	function=$((function + 1))
done)
common='-machine q35 -accel tcg -nodefaults -no-user-config -display none -vga none'
case $mode in
info) printf 'info pci\nquit\n' | exec qemu-system-x86_64 $common -m 64M -S -monitor stdio "$@" ;;
hold) exec qemu-system-x86_64 $common -m 64M -S -qmp unix:/run/guest.qmp,server=on,wait=off "$@" ;;
run) exec qemu-system-x86_64 $common -m 256M -no-reboot -serial stdio \
	-kernel /guest/vmlinux -initrd /guest/initrd -append 'console=ttyS0 quiet panic=-1' "$@" ;;
*) echo "info, hold or run, not $mode" >&2; exit 2 ;;
esac
