# `bench.sh ROUNDS` runs inside the small host. Prints `NAME A_US B_US` per round: A is
# gpuferry, B what it is compared with.
rounds=$1
P=/sys/bus/pci
CARD="0000:02:00.0 0000:02:00.1"

# Microseconds that a command takes; its output is thrown away, its failure is not.
timed() {
    took=$(lab-agent took "$@" 2>bench.err) || { echo "FAILED $*"; cat bench.err; exit 1; }
}

# Microseconds that a function of this shell takes.
timed_here() {
    start=$EPOCHREALTIME
    "$@" >/dev/null 2>bench.err || { echo "FAILED $*"; cat bench.err; exit 1; }
    end=$EPOCHREALTIME
    took=$(( ${end%.*}${end#*.} - ${start%.*}${start#*.} ))
}

# What the documents that people copy from do, without their sleeps.
bare_out() {
    for d in $CARD; do
        echo vfio-pci > $P/devices/$d/driver_override
        echo $d > $P/devices/$d/driver/unbind
        echo $d > $P/drivers_probe
    done
}
bare_back() {
    for d in $CARD; do
        echo > $P/devices/$d/driver_override
        echo $d > $P/devices/$d/driver/unbind
        echo $d > $P/drivers_probe
    done
}

i=0
while [ $i -lt $rounds ]; do
    i=$((i + 1))
    timed gpuferry inspect devices --json; a=$took
    timed lspci -nnk; b=$took
    echo "devices-nnk $a $b"
    timed gpuferry inspect --json; a=$took
    timed lspci -nnk; b=$took
    echo "inspect-nnk $a $b"
    timed gpuferry inspect --json; a=$took
    timed lspci -Dnn; b=$took
    echo "inspect-Dnn $a $b"
    timed gpuferry inspect --json; a=$took
    timed sh /copied-loop.sh; b=$took
    echo "inspect-loop $a $b"
done
# Apart from the looks: for some time after a driver took a card, the kernel draws.
modprobe vfio-pci
i=0
while [ $i -lt $rounds ]; do
    i=$((i + 1))
    timed gpuferry detach --yes 0000:02:00.0; a=$took
    timed gpuferry reattach 0000:02:00.0; b=$took
    timed_here bare_out; c=$took
    timed_here bare_back; d=$took
    echo "detach $a $c"
    echo "reattach $b $d"
done
