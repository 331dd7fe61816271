//! The lab itself: the emulated machines are what the other cases take them for. Those without an IOMMU, with AMD's and
//! with a bad board are looked at where gpuferry looks at them: `observe`.

use lab::{Behaviour, Firmware, Host, Machine, small_host};
use std::time::Duration;

const TO_VFIO: &str = "modprobe -a vfio-pci vfio_iommu_type1
for f in 0 1; do d=0000:02:00.$f
echo vfio-pci > /sys/bus/pci/devices/$d/driver_override
[ -e /sys/bus/pci/devices/$d/driver ] && echo $d > /sys/bus/pci/devices/$d/driver/unbind
echo $d > /sys/bus/pci/drivers_probe; done";

const TO_NATIVE: &str = "for f in 0 1; do d=0000:02:00.$f
echo > /sys/bus/pci/devices/$d/driver_override
echo $d > /sys/bus/pci/devices/$d/driver/unbind
echo $d > /sys/bus/pci/drivers_probe; done";

#[test]
fn twin_cards_are_where_the_description_says() {
    let host = small_host(Machine::twin_nvidia()).boot();
    for (address, ids) in [
        ("0000:01:00.0", "10de:2204"),
        ("0000:01:00.1", "10de:1aef"),
        ("0000:02:00.0", "10de:2204"),
        ("0000:02:00.1", "10de:1aef"),
        ("0000:07:01.0", "8086:100e"),
        ("0000:07:02.0", "1234:11e8"),
    ] {
        assert_eq!(host.ids(address).as_deref(), Some(ids), "{address}");
    }
    assert_eq!(host.attribute("0000:01:00.0", "subsystem_device").as_deref(), Some("0x4001"));
    assert_eq!(host.attribute("0000:02:00.0", "subsystem_device").as_deref(), Some("0x4002"));
    assert_eq!(host.attribute("0000:02:00.0", "class").as_deref(), Some("0x030000"));
    host.expect_driver("0000:02:00.0", None)
        .expect_driver("0000:02:00.1", "snd_hda_intel")
        .expect_driver("0000:03:00.0", "nvme")
        .expect_driver("0000:04:00.0", "e1000e")
        .expect_driver("0000:05:00.0", "xhci_hcd");
    // Each card has a group of its own, and what is on old PCI shares one.
    host.expect_group(&["0000:01:00.0", "0000:01:00.1"])
        .expect_group(&["0000:02:00.0", "0000:02:00.1"])
        .expect_group(&["0000:06:00.0", "0000:07:01.0", "0000:07:02.0"]);
    the_first_card_is_the_boot_card_and_only_the_second_shows_its_rom(&host);
    a_card_that_fell_off_the_bus_reads_all_ones(&host);
    a_hung_command_does_not_hang_the_host(&host);
}

fn the_first_card_is_the_boot_card_and_only_the_second_shows_its_rom(host: &Host) {
    assert_eq!(host.attribute("0000:01:00.0", "boot_vga").as_deref(), Some("1"));
    assert_eq!(host.attribute("0000:02:00.0", "boot_vga").as_deref(), Some("0"));
    let rom =
        "cd /sys/bus/pci/devices/0000:02:00.0 && echo 1 > rom && head -c 2 rom | hexdump -e '2/1 \"%02x\"'";
    host.run(rom).ok().prints("55aa");
}

#[test]
fn the_second_card_can_be_the_boot_card() {
    let host = small_host(Machine::twin_nvidia().boot_card(1)).boot();
    assert_eq!(host.attribute("0000:01:00.0", "boot_vga").as_deref(), Some("0"));
    assert_eq!(host.attribute("0000:02:00.0", "boot_vga").as_deref(), Some("1"));
    assert_eq!(host.attribute("0000:01:00.0", "class").as_deref(), Some("0x030000"));
}

#[test]
fn uefi_boots_the_same_machine() {
    let host = small_host(Machine::twin_nvidia().firmware(Firmware::Uefi)).boot();
    assert_eq!(host.ids("0000:02:00.0").as_deref(), Some("10de:2204"));
    host.expect_group(&["0000:02:00.0", "0000:02:00.1"]);
}

#[test]
fn cards_that_are_drawn_on_go_to_vfio_and_come_back() {
    let host = small_host(Machine::twin_bochs()).boot();
    host.expect_driver("0000:01:00.0", "bochs-drm")
        .expect_driver("0000:01:00.1", "snd_hda_intel")
        .expect_driver("0000:02:00.0", "bochs-drm")
        .expect_driver("0000:02:00.1", "snd_hda_intel");
    // A quiet boot may have drawn nothing yet.
    host.run("echo a card that is drawn on > /dev/tty1").ok();
    assert!(!host.screendump(1).is_blank());
    host.run(TO_VFIO).ok();
    host.expect_driver("0000:02:00.0", "vfio-pci").expect_driver("0000:02:00.1", "vfio-pci");
    host.expect_driver("0000:01:00.0", "bochs-drm");
    host.run(TO_NATIVE).ok();
    host.expect_driver("0000:02:00.0", "bochs-drm").expect_driver("0000:02:00.1", "snd_hda_intel");
}

fn a_hung_command_does_not_hang_the_host(host: &Host) {
    let job = host.start("echo begun; sleep 1000");
    job.wait_for("begun", Duration::from_secs(20));
    let hung = host.run_within("sleep 1000", Duration::from_secs(1));
    assert_eq!(hung.end, lab::End::Deadline);
    let big = host.run("head -c 300000 /dev/zero | tr '\\0' x").ok();
    assert_eq!(big.stdout().len(), 300_000);
    host.run_with_input("cat", b"to and fro").ok().prints("to and fro");
    host.write("/tmp/deep/file", "content");
    assert_eq!(host.read("/tmp/deep/file"), "content");
    assert!(job.is_running());
    job.kill(9);
    assert_eq!(job.end().end, lab::End::Signal(9));
}

#[test]
fn a_guest_in_the_host_gets_the_card() {
    let host = small_host(Machine::twin_nvidia()).with_guest().boot();
    host.run(TO_VFIO).ok();
    host.run("/guest/qemu info 0000:02:00.0 0000:02:00.1").ok().prints("10de:2204").prints("10de:1aef");
    let guest = host.start("/guest/qemu hold 0000:02:00.0 0000:02:00.1");
    host.run("until [ -S /run/guest.qmp ]; do sleep 0.1; done").ok();
    host.run("/guest/qemu info 0000:02:00.0").status(1).complains("busy");
    assert!(host.card(2).resets() > 0);
    guest.kill(15);
    guest.end();
    host.run(TO_NATIVE).ok();
    host.expect_driver("0000:02:00.0", None);
}

fn a_card_that_fell_off_the_bus_reads_all_ones(host: &Host) {
    host.card(2).set(Behaviour::Gone);
    host.run("setpci -s 02:00.0 00.w").ok().prints("ffff");
    host.run("setpci -s 01:00.0 00.w").ok().prints("10de");
    host.card(2).set(Behaviour::Healthy);
    host.run("setpci -s 02:00.0 00.w").ok().prints("10de");
}
