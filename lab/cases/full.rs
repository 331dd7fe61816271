//! The lab's full host: its disk outlives reboots, power cuts and changes of the machine around it. What every run
//! needs of that, the cases of [`crate::early_binding`] use.

use lab::{Device, Machine, full_host, left_to_soak};

#[test]
fn a_disk_outlives_reboot_power_cut_and_another_machine() {
    if left_to_soak() {
        return;
    }
    let mut host = full_host(Machine::bochs_and_nvidia()).boot();
    host.expect_driver("0000:01:00.0", "bochs-drm").expect_driver("0000:02:00.0", None);
    host.run("gpuferry --version").ok();

    host.reboot_with_words("lab.once=yes gpuferry.off=1");
    host.run("cat /proc/cmdline").ok().prints("lab.once=yes gpuferry.off=1");
    host.run("echo flushed > /root/flushed; sync /root/flushed; sleep 1; echo kept in memory > /root/lost")
        .ok();

    host.power_cut();
    host.start_again_as(Machine::bochs_and_nvidia().with_first(Device::Empty).boots_from_nvme());
    assert!(!host.run("cat /proc/cmdline").ok().stdout().contains("lab.once"));
    host.expect_driver("0000:02:00.0", "bochs-drm");
    assert_eq!(host.ids("0000:03:00.0").as_deref(), Some("10de:2204"));
    assert_eq!(host.read("/root/flushed"), "flushed\n");
    host.run("test -s /root/lost").status(1);
    host.run("findmnt -no SOURCE /").ok().prints("/dev/nvme0n1p1");
}
