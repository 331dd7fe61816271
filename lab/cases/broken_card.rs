//! Cards that misbehave: whatever they do, gpuferry ends, says where the card is, and what to do next.

use lab::{Behaviour, Card, Device, End, Machine, small_host};
use std::time::Duration;

const CARD: &str = "0000:02:00.0";
const AUDIO: &str = "0000:02:00.1";
const PATIENCE: Duration = Duration::from_secs(90);

/// vfio-pci takes such a card all the same (the kernel says `device inaccessible`); it also comes home so.
#[test]
fn a_card_that_reads_all_ones_goes_and_comes_back() {
    let host = small_host(Machine::twin_nvidia()).boot();
    host.card(2).set(Behaviour::Gone);
    host.run_within(&format!("gpuferry detach {CARD}"), PATIENCE).ok().prints("is lent");
    host.expect_driver(CARD, "vfio-pci").expect_driver(AUDIO, "vfio-pci");
    assert!(host.kernel_log().contains("vfio-pci 0000:02:00.0: Unable to change power state"));
    host.run("gpuferry status").ok().prints("lent, no guest has it");
    host.run_within(&format!("gpuferry reattach {CARD}"), PATIENCE).ok().prints("is home");
    host.expect_driver(CARD, None).expect_driver(AUDIO, "snd_hda_intel");
}

/// Its function is gone when its turn comes: nothing is left for the command to undo, and it says so.
#[test]
fn a_card_that_leaves_the_bus_on_the_way_is_reported() {
    let host = small_host(Machine::twin_nvidia()).boot();
    let asked = host.start(&format!(
        "(echo y; until [ -e /tmp/gone ]; do sleep 0.1; done; yes) | gpuferry detach {CARD} --step 2>&1"
    ));
    asked.wait_for("? claim", PATIENCE);
    host.run(&format!("echo 1 > /sys/bus/pci/devices/{CARD}/remove; touch /tmp/gone")).ok();
    let end = asked.end();
    assert_eq!(end.end, End::Exit(5), "{}", end.stdout());
    assert!(end.stdout().contains(&format!("{CARD} is not on the bus")), "{}", end.stdout());
    let status = host.run("gpuferry status").ok();
    status.prints("neither lent nor home").prints(&format!("next   gpuferry reattach {CARD}"));
    // It is plugged in again.
    host.run("echo 1 > /sys/bus/pci/rescan").ok();
    host.run(&format!("gpuferry reattach {CARD}")).ok();
    host.expect_driver(CARD, None).expect_driver(AUDIO, "snd_hda_intel");
    assert!(!host.run("gpuferry status").ok().stdout().contains("neither"));
}

/// The kernel waits for a card that does not come back from its reset, up to a minute and with the device locked.
#[test]
fn a_reset_that_does_not_end_is_named_and_hangs_nothing_else() {
    let card = Card { flr: true, ..Card::new(0x4001) };
    let host = small_host(Machine::bochs_and_nvidia().replace(2, Device::Nvidia(card))).boot();
    host.card(2).set(Behaviour::DeadAfterReset);
    let asked = host.start(&format!(
        "(echo y; echo y; echo y; until [ -e /tmp/begun ]; do sleep 0.1; done; yes) | \
         gpuferry detach {CARD} --step --patience 3 2>&1"
    ));
    asked.wait_for("? bind", PATIENCE);
    let reset = host.start(&format!(
        "echo flr > /sys/bus/pci/devices/{CARD}/reset_method && \
         echo 1 > /sys/bus/pci/devices/{CARD}/reset"
    ));
    host.run("until dmesg | grep -q 'not ready'; do sleep 0.1; done; touch /tmp/begun").ok();
    asked.wait_for("has hung for", PATIENCE);
    assert!(reset.is_running(), "the reset was to take long");
    let told = asked.end();
    assert_eq!(told.end, End::Exit(5), "{}", told.stdout());
    assert!(told.stdout().contains("/sys/bus/pci/drivers_probe"), "{}", told.stdout());
    let status = host.run("gpuferry status").ok();
    status.prints("HANGS").prints("/sys/bus/pci/drivers_probe");
    host.run(&format!("gpuferry reattach {CARD}")).status(3).complains("hung");
    host.run("gpuferry inspect --json").ok();
    // It comes back after all: the write completes, and the card is brought home.
    host.card(2).set(Behaviour::Healthy);
    let waits = "for i in $(seq 300); do \
                 gpuferry status --json | grep -qE '\"holder\":\"(hanging|moving|unfinished)\"' || exit 0; \
                 sleep 0.2; done; gpuferry status; exit 1";
    host.run_within(waits, PATIENCE).ok();
    host.expect_driver(CARD, None).expect_driver(AUDIO, "snd_hda_intel");
}
