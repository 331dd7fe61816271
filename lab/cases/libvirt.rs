//! libvirt's own daemon calls the hook: a domain gets the host's only screen when it starts, and the screen comes
//! home with its end, whatever ends it.

use lab::{Host, Machine, full_host};
use std::time::Duration;

const CARD: &str = "0000:01:00.0";
const AUDIO: &str = "0000:01:00.1";
/// A start or an end of a domain, in a host that is itself emulated: seconds, and minutes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(400);

/// A domain without a disk, which takes both functions of the card.
fn domain(name: &str, number: u8, managed: &str) -> String {
    let hostdev = |function: u8| {
        format!(
            "<hostdev mode='subsystem' type='pci' managed='{managed}'>\
             <source><address domain='0x0000' bus='0x01' slot='0x00' function='0x{function}'/></source>\
             <rom bar='off'/>\
             <address type='pci' bus='0x00' slot='0x05' function='0x{function}' multifunction='on'/></hostdev>"
        )
    };
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>6b1ab9a0-7d0c-4c1e-9f53-0000000000{number:02}</uuid>\
         <memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>\
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/>\
         <memballoon model='none'/><video><model type='none'/></video>{}{}</devices></domain>",
        hostdev(0),
        hostdev(1)
    )
}

fn consoles(host: &Host) -> String {
    let look = "cat /proc/fb; cd /sys/class/vtconsole; for v in *; do echo $v $(cat $v/bind $v/name); done";
    host.run(look).ok().stdout().to_owned()
}

fn lent(host: &Host) {
    host.expect_driver(CARD, "vfio-pci").expect_driver(AUDIO, "vfio-pci");
}

fn home(host: &Host) {
    host.expect_driver(CARD, "bochs-drm").expect_driver(AUDIO, "snd_hda_intel");
    for address in [CARD, AUDIO] {
        assert_eq!(host.read(&format!("/sys/bus/pci/devices/{address}/driver_override")), "(null)\n");
    }
}

#[test]
fn a_domain_has_the_card_from_its_start_to_its_end() {
    let host = full_host(Machine::single_bochs()).with_desktop().boot();
    // An empty folder may stay in the state folder: it is gpuferry's own.
    let files =
        "find /etc/libvirt /var/lib/gpuferry/guests ! -path /var/lib/gpuferry/guests 2>/dev/null | sort";
    let (before, clean) = (consoles(&host), host.run(files).ok().stdout().to_owned());
    for (name, number, managed) in [("first", 1, "yes"), ("second", 2, "no")] {
        host.write(&format!("/root/{name}.xml"), domain(name, number, managed));
        host.run_within(&format!("virsh define /root/{name}.xml"), PATIENCE).ok();
        host.run(&format!("gpuferry hook enable {name} --yes")).ok().prints("goes to it");
    }
    // The daemon runs by now, and has to be told.
    host.run_within("gpuferry hook install --yes", PATIENCE).ok().prints("has looked");

    host.run_within("virsh start first", PATIENCE).ok();
    lent(&host);
    assert!(!consoles(&host).contains("bochs"));
    let inside = host.run("virsh qemu-monitor-command first --hmp 'info pci'").ok();
    inside.prints("1234:1111").prints("8086:2668");
    host.run("gpuferry status").ok().prints("domain first runs with 0000:01:00.0; sleep and the lid switch");
    host.run("systemd-inhibit --list --no-pager").ok().prints("gpuferry").prints("handle-lid-switch");

    // The second is refused, and what libvirt says after that does not take the card from the first.
    let refused = host.run_within("virsh start second", PATIENCE).status(1);
    refused.complains("0000:01:00.0").complains("is not free: the guest first has it");
    // Nor does a daemon that is killed and comes back.
    host.run(
        "systemctl kill --kill-whom=main -s KILL libvirtd && until virsh domstate first; do sleep 0.3; done",
    )
    .ok()
    .prints("running");
    lent(&host);
    host.run_within("virsh destroy first", PATIENCE).ok();
    home(&host);
    assert_eq!(consoles(&host), before);

    // Not managed by libvirt; and this time everybody is killed.
    host.run_within("virsh start second", PATIENCE).ok();
    lent(&host);
    host.run("systemctl kill --kill-whom=main -s KILL libvirtd; kill -9 $(pidof qemu-system-x86_64)").ok();
    let waits = "for i in $(seq 400); do gpuferry status --json | grep -q '\"domains\":\\[\\]' && exit 0; sleep 0.3; done; \
                 gpuferry status; exit 1";
    host.run_within(waits, PATIENCE).ok();
    home(&host);
    assert_eq!(consoles(&host), before);
    host.run("systemd-inhibit --list --no-pager | grep gpuferry").status(1);

    for name in ["first", "second"] {
        host.run(&format!("gpuferry hook disable {name} --yes; virsh undefine {name}")).ok();
    }
    host.run("gpuferry hook remove --yes").ok();
    assert_eq!(host.run(files).ok().stdout(), clean);
}
