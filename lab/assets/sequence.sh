# Operations of tests/sequences, as the shell of an emulated host does them. Each prints what came of it.
pci=/sys/bus/pci

# Writes in the background: what sleeps where no signal reaches it blocks.
write() {
    if [ ! -e "$1" ]; then
        # To the shell a file that sysfs does not have is one that may not be made.
        echo No such file or directory
        return
    fi
    { echo "$2" > "$1"; } 2>/tmp/said &
    writer=$! state=R n=0
    while [ "$state" != Z ] && [ $n -lt 40 ]; do
        sleep 0.05
        state=$(sed 's/.*) //; s/ .*//' /proc/$writer/stat 2>/dev/null || echo Z)
        n=$((n + 1))
    done
    if [ "$state" = Z ]; then
        wait $writer && echo ok || { head -n 1 /tmp/said | sed 's/.*: //'; }
    else
        blocked=$writer
        echo blocks
    fi
}

bind() { write $pci/drivers/$1/bind 0000:$2; }
unbind() { write $pci/drivers/$1/unbind 0000:$2; }
new_id() { d=$1; shift; write $pci/drivers/$d/new_id "$*"; }
remove_id() { d=$1; shift; write $pci/drivers/$d/remove_id "$*"; }
probe() { write $pci/drivers_probe 0000:$1; }
override() { if [ "$2" = - ]; then v=; else v=$2; fi; write $pci/devices/0000:$1/driver_override "$v"; }
remove() { write $pci/devices/0000:$1/remove 1; }
reset() { write $pci/devices/0000:$1/reset 1; }
rescan() { write $pci/rescan 1; }
vtcon() { write /sys/class/vtconsole/vtcon$1/bind $2; }
load() { modprobe $1 && echo ok || echo failed; }

hold() {
    for node in $pci/devices/0000:$1/drm/card[0-9]* $pci/devices/0000:$1/sound/card*/controlC*; do
        case $node in *-*-*) continue ;; esac
        [ -e $node/uevent ] || continue
        sleep 1000 < /dev/$(sed -n 's/^DEVNAME=//p' $node/uevent) &
        holders="$holders $!"
    done
    # They have it open once they have become sleep.
    sleep 0.3
    [ -n "$holders" ] && echo ok || echo failed
}

let_go() {
    kill $holders
    wait $holders 2>/dev/null
    holders=
    [ -z "$blocked" ] || wait $blocked
    blocked=
    echo ok
}

look() {
    # Consoles follow their frame buffer a moment later.
    sleep 0.3
    for bus in 01 02 03; do
        for function in 0 1; do
            f=$pci/devices/0000:$bus:00.$function
            [ -e $f ] || continue
            driver=-
            [ -e $f/driver ] && driver=$(basename $(readlink $f/driver))
            # While a driver lets go of the device, this would wait with it.
            [ -n "$blocked" ] && [ "$driver" = - ] && only=- || only=$(cat $f/driver_override)
            [ "$only" = '(null)' ] && only=-
            echo "  $bus:00.$function $driver $only"
        done
    done
    for fb in /sys/class/graphics/fb[0-9]*; do
        [ -e $fb ] || continue
        at=$(readlink -f $fb | grep -o '0000:[0-9a-f:]*\.[0-7]' | tail -n 1)
        echo "  $(basename $fb) $(cat $fb/name) ${at#0000:}"
    done
    for console in /sys/class/vtconsole/vtcon*; do
        echo "  $(basename $console) $(cat $console/bind) $(cat $console/name)"
    done
}
