//! The lab's full host: its disk outlives reboots, power cuts and changes of the machine around it. Every part of it
//! is used by the cases of [`crate::early_binding`] too.

use crate::agree::agrees;
use lab::{Device, Machine, full_host, left_to_soak};
use std::time::Duration;

/// Long enough for every initramfs, and for firmware that is emulated inside the emulation.
const APPLY: Duration = Duration::from_secs(1500);

#[test]
fn a_disk_outlives_reboot_power_cut_and_another_machine() {
    if left_to_soak() {
        return;
    }
    let mut host = full_host(Machine::bochs_and_nvidia()).boot();
    host.expect_driver("0000:01:00.0", "bochs-drm").expect_driver("0000:02:00.0", None);
    let seen = host.run("gpuferry inspect --json").ok().json();
    agrees(&host, &seen);
    // Told by ids alone, the card is kept for guests wherever it is.
    host.run_within("gpuferry apply --yes static --gpu 0000:02:00.0 --bind-by ids", APPLY).ok();

    host.reboot_with_words("lab.once=yes");
    let words = "vfio-pci.ids=10de:2204:1458:4001,10de:1aef:1458:4001";
    host.run("cat /proc/cmdline").ok().prints("lab.once=yes").prints(words);
    host.expect_driver("0000:02:00.0", "vfio-pci").expect_driver("0000:02:00.1", "vfio-pci");
    host.expect_driver("0000:01:00.0", "bochs-drm").expect_driver("0000:01:00.1", "snd_hda_intel");
    let log = host.kernel_log();
    assert!(!log.contains("snd_hda_intel 0000:02:00.1"), "another driver was there first: {log}");
    host.run("echo flushed > /root/flushed; sync /root/flushed; sleep 1; echo kept in memory > /root/lost")
        .ok();

    host.power_cut();
    host.start_again_as(Machine::bochs_and_nvidia().with_first(Device::Empty).boots_from_nvme());
    assert!(!host.run("cat /proc/cmdline").ok().stdout().contains("lab.once"));
    host.expect_driver("0000:02:00.0", "bochs-drm");
    assert_eq!(host.ids("0000:03:00.0").as_deref(), Some("10de:2204"));
    host.expect_driver("0000:03:00.0", "vfio-pci").expect_driver("0000:03:00.1", "vfio-pci");
    assert_eq!(host.read("/root/flushed"), "flushed\n");
    host.run("test -s /root/lost").status(1);
    host.run("findmnt -no SOURCE /").ok().prints("/dev/nvme0n1p1");
}

/// A guest with UEFI, emulated inside the emulation: its firmware finds nothing to boot, and says so.
#[test]
fn a_guest_with_uefi_keeps_its_own_variables() {
    if left_to_soak() {
        return;
    }
    let host = full_host(Machine::bochs_and_nvidia().memory_mib(2560)).boot();
    let words =
        "gpuferry vm run --name u --gpu 0000:02:00.0 --firmware uefi --memory 256M --cpus 1 --accel tcg";
    let shown = host.run(&format!("{words} --print")).ok();
    let shown = shown.prints("readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd");
    shown.prints("unit=1,format=raw,file=/var/lib/gpuferry/vm/u/vars.fd");
    let factory = "cmp -s /usr/share/OVMF/OVMF_VARS_4M.fd /var/lib/gpuferry/vm/u/vars.fd";
    for _ in 0..2 {
        let guest = host.start(&format!("{words} 2>&1"));
        guest.wait_for("BdsDxe", APPLY);
        guest.wait_for("is inside as", APPLY);
        // What the firmware wrote stays the guest's, and the next start does not bring the factory's back.
        host.run(factory).status(1);
        guest.kill(2);
        guest.wait_for("power button", APPLY);
        guest.kill(2);
        assert!(guest.wait(APPLY).is_some(), "the guest does not end: {}", guest.stdout());
        host.run(factory).status(1);
        host.expect_driver("0000:02:00.0", None);
    }
    host.run("mv /usr/share/OVMF /usr/share/OVMF.away").ok();
    host.run(&format!("{words} --print")).status(2).complains("apt install ovmf");
}
