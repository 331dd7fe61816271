//! A card that the host uses goes to a guest and comes home: drivers, frame buffer, consoles, and what is seen.

use lab::{End, Host, Machine, full_host, screen::Screen, small_host};
use std::time::Duration;

const CARD: &str = "0000:01:00.0";
const AUDIO: &str = "0000:01:00.1";
const PATIENCE: Duration = Duration::from_secs(90);

/// Frame buffers by number, and every console with its flag: what has to be the same afterwards.
fn consoles(host: &Host) -> String {
    let look = "cat /proc/fb; cd /sys/class/vtconsole; for v in *; do echo $v $(cat $v/bind $v/name); done";
    host.run(look).ok().stdout().to_owned()
}

/// Writes the same words to the first terminal, without a cursor that blinks, and looks at the monitor.
fn drawn(host: &Host) -> Screen {
    host.run("printf '\\033[?25l\\033[2J\\033[Hthe card is home 0123456789\\n' > /dev/tty1").ok();
    host.screendump(1)
}

fn lent(host: &Host) {
    host.expect_driver(CARD, "vfio-pci").expect_driver(AUDIO, "vfio-pci");
}

fn home(host: &Host) {
    host.expect_driver(CARD, "bochs-drm").expect_driver(AUDIO, "snd_hda_intel");
}

/// A guest without a disk: its firmware finds nothing to boot and stays.
fn run_guest(more: &str) -> String {
    format!("gpuferry vm run --name g --gpu {CARD} --memory 64M --cpus 1 --accel tcg --serial none {more}")
}

/// Kills processes by how their command line begins, words joined by spaces.
fn kill(host: &Host, begin: &str) {
    let look = format!(
        "n=0; for p in /proc/[0-9]*; do case \"$(tr '\\0' ' ' < $p/cmdline 2>/dev/null)\" in \
         '{begin}'*) kill -9 ${{p#/proc/}} && n=1;; esac; done; [ $n = 1 ]"
    );
    host.run(&look).ok();
}

#[test]
fn the_only_screen_goes_and_comes_back() {
    let host = small_host(Machine::single_bochs()).boot();
    let (before, picture) = (consoles(&host), drawn(&host));
    assert!(!picture.is_blank() && before.contains("bochs"), "{before}");
    host.run(&format!("gpuferry detach {AUDIO}")).ok().prints("vtcon").prints("is lent");
    lent(&host);
    assert!(!consoles(&host).contains("bochs"));
    host.run("gpuferry status").ok().prints("lent, no guest has it");
    host.run(&format!("gpuferry detach {CARD}")).ok().prints("lent already");
    host.run(&format!("gpuferry reattach {CARD}")).ok().prints("is home");
    home(&host);
    assert_eq!(consoles(&host), before);
    assert!(drawn(&host) == picture, "the text is not where it was drawn before");
    host.run(&format!("gpuferry reattach {CARD}")).ok().prints("nothing was changed");
    let paths =
        ["driver_override", "snd_hda_intel/unbind", "bochs-drm/unbind", "vtcon1/bind", "bochs-drm/bind"];
    every_write_is_told(&host, &paths);

    // Who holds the card is named, and not ended.
    let holder = host.start("exec sleep 1000 < /dev/snd/controlC0");
    host.run("for i in $(seq 50); do pidof sleep && exit; sleep 0.1; done").ok();
    let refused = host.run(&format!("gpuferry detach {CARD}")).status(3);
    refused.complains("sleep (pid ").complains("/dev/snd/controlC0");
    assert!(holder.is_running());
    home(&host);
    assert_eq!(consoles(&host), before);
    assert!(host.run("test -e /run/gpuferry/cards/0000-01-00/snapshot.json").end != End::Exit(0));
}

/// The writes that are on disk stand in the history, each with its time, and these are among them.
#[track_caller]
fn every_write_is_told(host: &Host, paths: &[&str]) {
    let history = host.run("gpuferry history").ok();
    let told: Vec<_> = history.lines().into_iter().filter_map(|line| line.split_once("  write ")).collect();
    let log = host.read("/var/lib/gpuferry/handover.log");
    let written = log.lines().filter(|line| line.contains("\"event\":\"write\"")).count();
    assert!(written > paths.len() && told.len() == written, "{}\n{log}", history.stdout());
    for (time, write) in &told {
        // As 2026-11-21 15:36:45.042Z.
        let digits = time.trim().trim_end_matches('Z').split(['-', ' ', ':', '.']);
        assert_eq!(digits.filter(|part| part.parse::<u32>().is_ok()).count(), 7, "{time}: {write}");
    }
    for path in paths {
        assert!(told.iter().any(|(_, write)| write.contains(path)), "{path}: {}", history.stdout());
    }
}

#[test]
fn one_of_two_screens_goes_and_comes_back() {
    let host = small_host(Machine::twin_bochs()).boot();
    let (before, picture) = (consoles(&host), drawn(&host));
    host.run(&format!("gpuferry detach {CARD}")).ok();
    lent(&host);
    host.expect_driver("0000:02:00.0", "bochs-drm").expect_driver("0000:02:00.1", "snd_hda_intel");
    host.run(&format!("gpuferry reattach {CARD}")).ok();
    home(&host);
    assert_eq!(consoles(&host), before);
    assert!(drawn(&host) == picture, "the text is not where it was drawn before");
    what_cannot_go_is_refused(&host);
}

#[test]
fn a_guest_has_the_card_until_it_ends() {
    let host = small_host(Machine::single_bochs()).with_guest().boot();
    let (before, picture) = (consoles(&host), drawn(&host));
    let guest = host.start(&format!("{} 2>&1", run_guest("")));
    guest.wait_for("0000:01:00.1 is inside", PATIENCE);
    assert!(guest.stdout().contains("[1234:1111]"), "{}", guest.stdout());
    lent(&host);
    host.run("gpuferry status").ok().prints("in a guest");
    let refused = host.run(&format!("gpuferry reattach {CARD}")).status(3);
    refused.complains("qemu-system").complains("is inside a guest");
    // Nothing in this guest hears the power button; the second signal ends it.
    guest.kill(2);
    guest.wait_for("power button", PATIENCE);
    guest.kill(2);
    assert_eq!(guest.end().end, End::Exit(0));
    home(&host);
    assert_eq!(consoles(&host), before);
    assert!(drawn(&host) == picture, "the text is not where it was drawn before");
    it_comes_home_whatever_ends_the_guest(&host, &before);
}

/// Whoever is killed: the card comes home, and nothing of the guest is left.
fn it_comes_home_whatever_ends_the_guest(host: &Host, before: &str) {
    let back = || {
        let waits = "for i in $(seq 300); do gpuferry status --json | grep -q '\"holder\":\"host\"' && \
                     ! pidof qemu-system-x86_64 && exit 0; sleep 0.3; done; gpuferry status; exit 1";
        host.run_within(waits, PATIENCE).ok();
        home(host);
        assert_eq!(consoles(host), before);
    };

    let guest = host.start(&format!("{} 2>&1", run_guest("")));
    guest.wait_for("0000:01:00.1 is inside", PATIENCE);
    host.run("kill -9 $(pidof qemu-system-x86_64)").ok();
    assert_eq!(guest.end().end, End::Exit(4));
    back();

    // The supervisor: another one takes the guest up, and then brings the card home.
    let guest = host.start(&format!("{} 2>&1", run_guest("")));
    guest.wait_for("0000:01:00.1 is inside", PATIENCE);
    kill(host, "/usr/bin/gpuferry card guest");
    guest.wait_for("the guest runs on", PATIENCE);
    lent(host);
    guest.kill(2);
    guest.wait_for("power button", PATIENCE);
    guest.kill(2);
    assert_eq!(guest.end().end, End::Exit(0));
    back();

    // The client: its guest is shut down.
    let guest = host.start(&format!("{} 2>&1", run_guest("")));
    guest.wait_for("0000:01:00.1 is inside", PATIENCE);
    kill(host, "gpuferry vm run");
    back();
}

#[test]
fn a_card_that_was_lent_before_stays_lent() {
    let host = small_host(Machine::twin_nvidia()).with_guest().boot();
    host.run("gpuferry detach 0000:02:00.0").ok();
    let guest = host.start(
        "gpuferry vm run --gpu 0000:02:00.0 --memory 256M --cpus 1 --accel tcg --kernel /guest/vmlinux \
         --initrd /guest/initrd --append 'console=ttyS0 quiet panic=-1 mitigations=off' --no-reboot",
    );
    // Emulated inside the emulation: a minute where nothing else runs.
    let said = guest.wait(Duration::from_secs(420));
    let said = said.unwrap_or_else(|| panic!("the guest does not end: {}", guest.stdout()));
    assert_eq!(said.end, End::Exit(0), "{}", said.text());
    assert!(said.stdout().contains("10de:2204") && said.stdout().contains("10de:1aef"), "{}", said.text());
    host.expect_driver("0000:02:00.0", "vfio-pci").expect_driver("0000:02:00.1", "vfio-pci");
    host.run("gpuferry reattach 0000:02:00.0").ok();
    host.expect_driver("0000:02:00.0", None).expect_driver("0000:02:00.1", "snd_hda_intel");
}

/// A holder that comes after the preflight: the write hangs, is named, hangs nothing else, and ends by itself.
#[test]
fn neither_a_write_that_hangs_nor_a_worker_that_is_killed_strands_the_card() {
    let host = small_host(Machine::single_bochs()).boot();
    let before = consoles(&host);
    let asked = host.start(&format!(
        "(echo y; echo y; until [ -e /tmp/held ]; do sleep 0.1; done; echo y; sleep 1000) | \
         gpuferry detach {CARD} --step --patience 3 2>&1"
    ));
    asked.wait_for("? release 01:00.1", PATIENCE);
    let holder = host.start("exec 3< /dev/snd/controlC0; touch /tmp/held; exec sleep 1000");
    asked.wait_for("has hung for", PATIENCE);
    let told = asked.stdout();
    assert!(told.contains("snd_hda_intel/unbind") && told.contains("sleep (pid "), "{told}");
    host.run("gpuferry status").ok().prints("HANGS").prints("snd_hda_intel/unbind");
    host.run(&format!("gpuferry reattach {CARD}")).status(3).complains("hung");
    holder.kill(9);
    let waits = "for i in $(seq 300); do gpuferry status --json | grep -q '\"holder\":\"host\"' && exit 0; \
                 sleep 0.2; done; gpuferry status; exit 1";
    host.run_within(waits, PATIENCE).ok();
    home(&host);
    assert_eq!(consoles(&host), before);
    a_worker_that_is_killed_does_not_strand_the_card(&host, &before);
}

fn a_worker_that_is_killed_does_not_strand_the_card(host: &Host, before: &str) {
    // Killed alone: its keeper starts another one, which brings the card home.
    let asked = host.start(&format!(
        "rm -f /tmp/no; (echo y; echo y; echo y; until [ -e /tmp/no ]; do sleep 0.1; done) | \
         gpuferry detach {CARD} --step 2>&1"
    ));
    asked.wait_for("? consoles", PATIENCE);
    host.expect_driver(AUDIO, None);
    kill(host, "/usr/bin/gpuferry card work");
    host.run("touch /tmp/no").ok();
    asked.wait_for("the worker was killed", PATIENCE);
    asked.wait_for("everything is as it was", PATIENCE);
    assert_eq!(asked.end().end, End::Exit(4));
    home(host);
    assert_eq!(consoles(host), before);

    // Killed with its keeper: the record stays, and `reattach` goes by it.
    let asked = host.start(&format!(
        "rm -f /tmp/no; (echo y; echo y; echo y; until [ -e /tmp/no ]; do sleep 0.1; done) | \
         gpuferry detach {CARD} --step 2>&1"
    ));
    asked.wait_for("? consoles", PATIENCE);
    kill(host, "/usr/bin/gpuferry card keep");
    kill(host, "/usr/bin/gpuferry card work");
    host.expect_driver(AUDIO, None);
    host.run("gpuferry status").ok().prints("interrupted").prints(&format!("gpuferry reattach {CARD}"));
    host.run(&format!("gpuferry reattach {CARD}")).ok();
    home(host);
    assert_eq!(consoles(host), before);
}

fn what_cannot_go_is_refused(host: &Host) {
    host.run("gpuferry detach 0000:09:00.0").status(2).complains("no PCI device 0000:09:00.0");
    host.run("gpuferry detach 1:2:3").status(2).complains("is not a PCI address");
    host.run("gpuferry detach 0000:00:1f.0").status(3);
    // What is behind one PCI bridge shares a group.
    host.run("gpuferry detach 0000:07:02.0").status(3).complains("0000:07:01.0");
    let network = "d=$(ls /sys/bus/pci/devices/0000:04:00.0/net); ip link set $d up; \
                   ip addr add 192.0.2.7/24 dev $d; ip route add default via 192.0.2.1";
    host.run(network).ok();
    host.run("gpuferry detach 0000:04:00.0").status(3).complains("192.0.2.7");
    host.run("gpuferry plan static --gpu 0000:04:00.0").status(3).complains("192.0.2.7");
    host.expect_driver("0000:04:00.0", "e1000e");
}

/// With systemd the worker is a unit of its own, which starts it again when it is killed.
#[test]
fn with_systemd_a_unit_carries_it_out() {
    let host = full_host(Machine::twin_bochs()).boot();
    let before = consoles(&host);
    host.run(&format!("gpuferry detach {CARD}")).ok().prints("is lent");
    lent(&host);
    host.run("journalctl -u gpuferry-card-0000-01-00 --no-pager").ok().prints("gpuferry-card-0000-01-00");
    host.run(&format!("gpuferry reattach {CARD}")).ok();
    home(&host);
    assert_eq!(consoles(&host), before);

    let asked = host.start(&format!(
        "rm -f /tmp/no; (echo y; echo y; echo y; until [ -e /tmp/no ]; do sleep 0.1; done) | \
         gpuferry detach {CARD} --step 2>&1"
    ));
    asked.wait_for("? release 01:00.0", PATIENCE);
    host.expect_driver(AUDIO, None);
    host.run("systemctl kill -s KILL gpuferry-card-0000-01-00").ok();
    host.run("touch /tmp/no").ok();
    asked.wait_for("the worker was killed", PATIENCE);
    asked.wait_for("everything is as it was", PATIENCE);
    home(&host);
    assert_eq!(consoles(&host), before);
    host.run("gpuferry history").ok().prints("snd_hda_intel/unbind");
}
