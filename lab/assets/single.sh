# Runs inside a full host whose only card draws for xdm. One way of lending the card to a domain and taking it back;
# prints the milliseconds of detach, of the guest's start, and of the return until an X server takes clients again.
# $1: the way. $2: modules of the card's driver, the topmost first. $3: units that hold the card.
way=$1 modules=$2 units=$3
P=/sys/bus/pci
functions="0000:01:00.0 0000:01:00.1"
set -e

now() { echo "${EPOCHREALTIME%.*}${EPOCHREALTIME#*.}"; }
consoles() { for v in /sys/class/vtconsole/vtcon*; do ! grep -q 'frame buffer' "$v/name" || echo "$1" > "$v/bind"; done; }
served() {
    while :; do
        XAUTHORITY=$(ls -t /var/lib/xdm/authdir/authfiles/A:0* 2>/dev/null | head -1)
        export XAUTHORITY DISPLAY=:0
        [ -z "$XAUTHORITY" ] || ! xset q >/dev/null 2>&1 || return 0
        sleep 0.1
    done
}

# The writes, and nothing else.
out_bare() {
    systemctl stop xdm $units
    consoles 0
    for m in $modules; do rmmod "$m"; done
    for f in $functions; do
        echo vfio-pci > $P/devices/$f/driver_override
        [ ! -e $P/devices/$f/driver ] || echo $f > $P/devices/$f/driver/unbind
        echo $f > $P/drivers_probe
    done
}
back_bare() {
    for f in $functions; do
        echo > $P/devices/$f/driver_override
        echo $f > $P/devices/$f/driver/unbind
    done
    [ -z "$modules" ] || modprobe -a $modules
    for f in $functions; do echo $f > $P/drivers_probe; done
    consoles 1
    systemctl start $units xdm
}
# What hook scripts that people copy do: the same through libvirt, with sleeps of 4 and 2 seconds in between.
out_copied() {
    systemctl stop xdm $units
    sleep 4
    consoles 0
    for m in $modules; do modprobe -r "$m"; done
    sleep 2
    virsh -q nodedev-detach pci_0000_01_00_0
    virsh -q nodedev-detach pci_0000_01_00_1
    modprobe vfio-pci
}
back_copied() {
    virsh -q nodedev-reattach pci_0000_01_00_0
    virsh -q nodedev-reattach pci_0000_01_00_1
    for m in $modules; do modprobe "$m"; done
    consoles 1
    systemctl start $units xdm
}
stops=--stop=display-manager
for u in $units; do stops="$stops --stop=$u.service"; done
out_gpuferry() { gpuferry detach --yes $stops 0000:01:00.0 </dev/null; }
back_gpuferry() { gpuferry reattach 0000:01:00.0; }

# The hook does it all within the start and the end of the domain.
out_hook() { :; }
back_hook() { virsh -q destroy first; }

guest=plain
[ "$way" != hook ] || guest=first
a=$(now)
"out_$way" >&2
b=$(now)
virsh -q start $guest >&2
c=$(now)
[ "$way" = hook ] || virsh -q destroy $guest >&2
d=$(now)
"back_$way" >&2
served
e=$(now)
echo $(((b - a) / 1000)) $(((c - b) / 1000)) $(((e - d) / 1000))
