//! What an owner wants done differently with a card: how it is reset, and a reboot where a write hangs for too long.

use lab::{Machine, left_to_soak, small_host};
use std::time::Duration;

const CARD: &str = "0000:01:00.0";
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn a_way_to_reset_is_chosen_before_the_guest_and_put_back_after_it() {
    let host = small_host(Machine::single_bochs()).boot();
    // The small host's own drive, which nobody uses there.
    let drive = host.run("basename /sys/bus/pci/drivers/nvme/0000:*").ok().stdout().trim().to_owned();
    let method = format!("/sys/bus/pci/devices/{drive}/reset_method");
    let before = host.read(&method);
    assert_eq!(before, "flr bus\n");
    host.run(&format!("gpuferry detach {drive} --reset-method bus")).ok().prints("is lent");
    assert_eq!(host.read(&method), "bus\n");
    host.run(&format!("gpuferry reattach {drive}")).ok().prints("is home");
    assert_eq!(host.read(&method), before);

    // A way that this device does not have, and one that no device has: it stays with the host.
    for wrong in ["pm", "magic"] {
        let out = host.run(&format!("gpuferry detach {drive} --reset-method {wrong}")).status(4);
        out.complains("everything is as it was").complains("can be reset by flr bus");
        host.expect_driver(&drive, "nvme");
        assert_eq!(host.read(&method), before);
    }
}

/// Somebody opens the card's sound between preflight and unbind, and never lets go.
#[test]
fn a_write_that_hangs_for_too_long_reboots_the_host_of_an_owner_who_wants_that() {
    if left_to_soak() {
        return;
    }
    let mut host = small_host(Machine::single_bochs()).boot();
    let asked = host.start(&format!(
        "(echo y; echo y; until [ -e /tmp/held ]; do sleep 0.1; done; echo y; sleep 1000) | \
         gpuferry detach {CARD} --step --patience 3 --reboot-when-hung 10 2>&1"
    ));
    asked.wait_for("? release 01:00.1", PATIENCE);
    host.start("exec 3< /dev/snd/controlC0; touch /tmp/held; exec sleep 1000");
    asked.wait_for("has hung for", PATIENCE);
    // The emulator ends where a machine would start again.
    host.wait_for_power_off(PATIENCE);
    let log = std::fs::read(host.logs().join("console.log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    assert!(log.contains("sysrq: Resetting"), "{log}");
}
