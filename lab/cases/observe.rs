//! What gpuferry sees of a real kernel, and what it says about it.

#![allow(clippy::expect_used, reason = "a case that cannot go on should say where")]

use crate::agree::agrees;
use lab::{Function, Host, Iommu, Machine, small_host};
use serde_json::{Value, json};
use std::time::Duration;

/// What is seen of this machine, after a comparison with what others see of it.
#[track_caller]
fn seen(host: &Host) -> Value {
    let seen = seen_alone(host);
    agrees(host, &seen);
    seen
}

#[track_caller]
fn seen_alone(host: &Host) -> Value {
    host.run("gpuferry inspect --json").ok().json()
}

/// The function at an address.
fn function<'v>(seen: &'v Value, address: &str) -> &'v Value {
    let functions = seen["functions"].as_array().expect("a list of functions");
    let found = functions.iter().find(|function| function["address"] == address);
    found.unwrap_or_else(|| panic!("no function at {address}"))
}

/// The card at an address.
fn card<'v>(seen: &'v Value, address: &str) -> &'v Value {
    let cards = seen["gpus"].as_array().expect("a list of cards");
    cards
        .iter()
        .find(|card| card["address"] == address)
        .unwrap_or_else(|| panic!("no card at {address}: {cards:?}"))
}

fn ids(doctor: &Value) -> Vec<&str> {
    let findings = doctor["findings"].as_array().expect("a list of findings");
    findings.iter().filter_map(|finding| finding["id"].as_str()).collect()
}

#[test]
fn twin_cards_are_ready_each_with_its_audio() {
    let host = small_host(Machine::twin_nvidia()).boot();
    let seen = seen(&host);
    assert_eq!(
        seen["iommu"],
        json!({ "state": "on", "interrupt_remapping": true, "passthrough_mode": false })
    );
    for (address, twin, boot) in
        [("0000:01:00.0", "0000:02:00.0", true), ("0000:02:00.0", "0000:01:00.0", false)]
    {
        let card = card(&seen, address);
        assert_eq!(card["functions"], json!([address, address.replace(".0", ".1")]), "{card}");
        assert_eq!((&card["kind"], &card["boot_vga"]), (&json!("discrete"), &json!(boot)));
        assert_eq!((&card["identical_to"], &card["companions"]), (&json!([twin]), &json!([])));
        assert_eq!((&card["isolation"], &card["verdict"]), (&json!("isolated"), &json!("ready")), "{card}");
    }
    let second = function(&seen, "0000:02:00.0");
    assert_eq!(second["path"], "0000:00:03.1/00.0");
    assert_eq!(second["subsystem_device"], "4002");
    host.run("gpuferry").ok().prints("gpuferry detach 0000:02:00.0");
    host.run("gpuferry doctor").ok().prints("identical");
    a_sleeping_card_is_looked_at_and_sleeps_on(&host);
}

#[test]
fn a_card_that_is_drawn_on_shows_its_console() {
    let host = small_host(Machine::twin_bochs()).boot();
    let seen = seen(&host);
    assert_eq!(card(&seen, "0000:01:00.0")["kind"], "virtual");
    assert_eq!(card(&seen, "0000:02:00.0")["verdict"], "ready");
    let framebuffers = seen["framebuffers"].as_array().expect("frame buffers");
    let of_first = framebuffers.iter().find(|framebuffer| framebuffer["function"] == "0000:01:00.0");
    assert_eq!(of_first.expect("one on the first card")["name"], "bochs-drmdrmfb");
    let bound = seen["consoles"].as_array().expect("consoles").iter().any(|console| console["bound"] == true);
    assert!(bound, "{}", seen["consoles"]);
    a_driver_that_does_not_let_go_does_not_hang_a_look(&host);
}

#[test]
fn without_an_iommu_the_firmware_is_named() {
    let host = small_host(Machine::twin_nvidia().iommu(Iommu::None)).boot();
    let seen = seen(&host);
    assert_eq!(host.group("0000:01:00.0"), None);
    host.run("ls /sys/kernel/iommu_groups | wc -l").ok().prints("0");
    assert_eq!((&seen["iommu"]["state"], &seen["acpi"]["dmar"]), (&json!("off"), &json!(false)));
    assert_eq!(card(&seen, "0000:02:00.0")["verdict"], "blocked");
    assert_eq!(card(&seen, "0000:02:00.0")["reasons"], json!(["iommu-off"]));
    host.run("gpuferry doctor").status(1).prints("the firmware offers none");
}

#[test]
fn an_iommu_that_a_word_turns_off_is_possible() {
    let host = small_host(Machine::twin_nvidia()).cmdline("intel_iommu=off intremap=off").boot();
    assert_eq!(card(&seen(&host), "0000:02:00.0")["verdict"], "possible");
    let doctor = host.run("gpuferry doctor --json").status(1).json();
    assert_eq!(ids(&doctor)[0], "iommu-off");
    assert!(doctor["findings"][0]["cause"].as_str().expect("a cause").contains("intel_iommu=off"));
}

#[test]
fn amds_iommu_remaps_too() {
    let host = small_host(Machine::twin_nvidia().iommu(Iommu::Amd)).boot();
    let seen = seen(&host);
    host.expect_group(&["0000:01:00.0", "0000:01:00.1"]);
    host.run("grep -m1 vendor_id /proc/cpuinfo").ok().prints("AuthenticAMD");
    host.run("test -d /sys/class/iommu/ivhd0").ok();
    assert_eq!((&seen["acpi"]["ivrs"], &seen["iommu"]["state"]), (&json!(true), &json!("on")));
    assert_eq!(seen["iommu"]["interrupt_remapping"], true, "{}", host.read("/proc/interrupts"));
    assert_eq!(card(&seen, "0000:02:00.0")["verdict"], "ready");
}

#[test]
fn on_a_bad_board_the_cards_share_a_group() {
    let host = small_host(Machine::twin_nvidia().without_acs()).boot();
    let seen = seen(&host);
    let members = host.group_members("0000:02:00.0");
    for address in ["0000:00:03.0", "0000:01:00.0", "0000:01:00.1", "0000:02:00.0", "0000:02:00.1"] {
        assert!(members.iter().any(|member| member == address), "{address} is not in {members:?}");
    }
    let second = card(&seen, "0000:02:00.0");
    assert_eq!(second["isolation"], "shared");
    assert_eq!(second["companions"], json!(["0000:01:00.0", "0000:01:00.1"]), "and no bridge");
    assert_eq!(second["reasons"], json!(["group-shared"]));
}

#[test]
fn early_binding_that_did_not_happen_is_told() {
    let words = "gpuferry.bind=0000:00:03.1/00.0=10de:2204:1458:4001 vfio-pci-ids=10de:2204";
    let host = small_host(Machine::twin_nvidia()).cmdline(words).boot();
    host.run("echo '<4>gpuferry: 0000:00:03.1/00.0: not the card that was planned' > /dev/kmsg").ok();
    let doctor = host.run("gpuferry doctor --json").status(1).json();
    let ids = ids(&doctor);
    // The first card has the ids that were planned for the second slot: the cards were exchanged.
    assert_eq!(ids[0], "binding-moved", "{ids:?}");
    assert!(ids.contains(&"misspelt-word"), "{ids:?}");
    let evidence = doctor["findings"][0]["evidence"].as_array().expect("evidence");
    assert!(evidence.iter().any(|seen| seen["source"] == "dmesg"), "{evidence:?}");
}

fn a_driver_that_does_not_let_go_does_not_hang_a_look(host: &Host) {
    // snd_hda_intel waits in its remove for whoever has the sound card's control file open.
    let card = "c=$(basename $(ls -d /sys/bus/pci/devices/0000:02:00.1/sound/card*)); exec 3</dev/snd/controlC${c#card}; \
                echo begun; sleep 1000";
    let holder = host.start(card);
    holder.wait_for("begun", Duration::from_secs(20));
    let unbind = "echo begun; echo 0000:02:00.1 > /sys/bus/pci/drivers/snd_hda_intel/unbind";
    let stuck = host.start(unbind);
    stuck.wait_for("begun", Duration::from_secs(20));
    let look = host.run_within("sleep 1; gpuferry inspect --json", Duration::from_secs(60)).ok().json();
    assert!(stuck.is_running(), "the unbind was to hang");
    let sound = function(&look, "0000:02:00.1");
    assert_eq!((&sound["driver"], &sound["device"]), (&Value::Null, &json!("2668")), "{sound}");
    holder.kill(9);
    assert!(stuck.wait(Duration::from_secs(30)).is_some(), "the unbind ends when the holder closes");
}

/// vfio-pci lets a card that nobody uses sleep (D3hot; there is nothing here that could cut its power, D3cold).
/// Looking at it is not using it.
fn a_sleeping_card_is_looked_at_and_sleeps_on(host: &Host) {
    host.run("gpuferry detach 0000:02:00.0").ok();
    let card = host.card(2);
    let asleep = || [Function::Gpu, Function::Audio].map(|function| card.power(function));
    let suspended = "until [ $(grep -l suspended /sys/bus/pci/devices/0000:02:00.?/power/runtime_status | wc -l) = 2 ]; \
                     do sleep 0.1; done";
    host.run(suspended).ok();
    assert_eq!(asleep(), [3, 3], "D3hot was written to both functions");
    let wakes = card.wakes();
    let seen = seen_alone(host);
    for verb in ["inspect", "inspect gpus", "inspect groups", "inspect devices", "status"] {
        host.run(&format!("gpuferry {verb}")).ok();
    }
    host.run("gpuferry doctor --json");
    assert_eq!((asleep(), card.wakes()), ([3, 3], wakes), "inspection woke the card");
    let second = self::card(&seen, "0000:02:00.0");
    assert_eq!(second["functions"], json!(["0000:02:00.0", "0000:02:00.1"]));
    assert_eq!(function(&seen, "0000:02:00.0")["power"], "D3hot");
    agrees(host, &seen);
    // What is counted above is seen where it happens.
    host.run("echo on > /sys/bus/pci/devices/0000:02:00.0/power/control").ok();
    assert_eq!((asleep(), card.wakes()), ([0, 3], wakes + 1));
}
