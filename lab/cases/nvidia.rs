//! A card with NVIDIA's driver goes to a guest and comes home: modules that need each other, a frame buffer that
//! keeps one of them, a remove that waits for its users.

use lab::{End, Host, Job, Machine, small_host};
use std::time::Duration;

const CARD: &str = "0000:01:00.0";
const AUDIO: &str = "0000:01:00.1";
const TWIN: &str = "0000:02:00.0";
const PATIENCE: Duration = Duration::from_secs(90);

fn boot(machine: Machine) -> Host {
    small_host(machine).with_nvidia().boot()
}

/// Frame buffers, consoles with their flags, device nodes and modules: what has to be the same afterwards.
fn state(host: &Host) -> String {
    let look = "cat /proc/fb; cd /sys/class/vtconsole; for v in *; do echo $v $(cat $v/bind $v/name); done; \
                ls /dev/nvidia*; cut -d ' ' -f 1 /proc/modules | grep nvidia | sort";
    host.run(look).stdout().to_owned()
}

/// Writes the same words to the first terminal, without a cursor that blinks, and looks at what was drawn.
fn drawn(host: &Host) -> String {
    host.run("printf '\\033[?25l\\033[2J\\033[Hthe card is home 0123456789\\n' > /dev/tty1").ok();
    host.run("md5sum < /dev/fb0").ok().stdout().to_owned()
}

/// A process that has something open from now on.
fn hold<'h>(host: &'h Host, node: &str) -> Job<'h> {
    let job = host.start(&format!("exec 3< {node}; touch /tmp/held; exec sleep 1000"));
    host.run("for i in $(seq 100); do [ -e /tmp/held ] && rm /tmp/held && exit; sleep 0.1; done; exit 1")
        .ok();
    job
}

/// Ends it, and waits until the kernel has closed what it had open.
fn let_go(job: &Job) {
    job.kill(9);
    job.end();
}

fn lent(host: &Host) {
    host.expect_driver(CARD, "vfio-pci").expect_driver(AUDIO, "vfio-pci");
}

fn home(host: &Host) {
    host.expect_driver(CARD, "nvidia").expect_driver(AUDIO, "snd_hda_intel");
}

/// The modules are what the other cases take them for: each `rmmod` says no for the reason a real one has.
#[test]
fn the_driver_has_the_shape_of_the_real_one() {
    let host = boot(Machine::single_nvidia());
    host.expect_driver(CARD, "nvidia");
    let state = state(&host);
    for part in ["0 nvidia-drmdrmfb", "vtcon1 1 (M) frame buffer device", "/dev/nvidia0", "nvidia_uvm"] {
        assert!(state.contains(part), "{part}: {state}");
    }
    host.run(&format!("cat /proc/driver/nvidia/gpus/{CARD}/information")).ok().prints("Device Minor: \t 0");
    host.run("readlink -f /sys/class/graphics/fb0/device").ok().prints(CARD);
    host.run("/sbin/rmmod nvidia").status(1).complains("nvidia_uvm");
    // The console is on it.
    host.run("/sbin/rmmod nvidia_drm").status(1).complains("Module nvidia_drm is in use");
    host.run("echo 0 > /sys/class/vtconsole/vtcon1/bind; /sbin/rmmod nvidia_drm").ok();
    let holder = hold(&host, "/dev/nvidia-uvm");
    host.run("/sbin/rmmod nvidia_uvm").status(1).complains("is in use");
    let_go(&holder);
    host.run("/sbin/rmmod nvidia_uvm nvidia_modeset").ok();
    // Unbound with a user, it waits for the user.
    let holder = hold(&host, "/dev/nvidia0");
    let unbind = host.start(&format!("echo {CARD} > /sys/bus/pci/drivers/nvidia/unbind"));
    assert!(unbind.wait(Duration::from_secs(2)).is_none());
    assert!(host.kernel_log().contains("NVRM: Attempting to remove device"));
    let_go(&holder);
    assert_eq!(unbind.end().end, End::Exit(0));
    host.run("/sbin/rmmod nvidia").ok();
    host.run("/sbin/modprobe nvidia; ls /dev/nvidia0 /dev/nvidia-uvm; cat /proc/fb")
        .ok()
        .prints("nvidia-drmdrmfb");
}

#[test]
fn the_only_screen_goes_with_its_modules_and_comes_back() {
    let host = boot(Machine::single_nvidia());
    let (before, picture) = (state(&host), drawn(&host));
    host.run(&format!("gpuferry detach {AUDIO}"))
        .ok()
        .prints("nvidia_drm nvidia_uvm nvidia_modeset nvidia")
        .prints("is lent");
    lent(&host);
    assert!(!state(&host).contains("nvidia"), "{}", state(&host));
    // Each of them is on record, in the one order that works.
    let log = host.read("/var/lib/gpuferry/handover.log");
    let at = |part: &str| log.find(part).unwrap_or_else(|| panic!("{part}: {log}"));
    let order = ["vtcon1/bind", "-- nvidia_drm", "-- nvidia_uvm", "-- nvidia_modeset", "-- nvidia\""].map(at);
    assert!(order.is_sorted(), "{log}");
    host.run("gpuferry history").ok().prints("rmmod");
    host.run(&format!("gpuferry reattach {CARD}")).ok().prints("is home");
    home(&host);
    assert_eq!(state(&host), before);
    assert_eq!(drawn(&host), picture);
    host.run(&format!("gpuferry reattach {CARD}")).ok().prints("nothing was changed");
}

/// Each of these nodes keeps a module: named, with nothing changed, instead of half a hand-over.
#[test]
fn who_uses_the_driver_is_named() {
    let host = boot(Machine::single_nvidia());
    let before = state(&host);
    for node in ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-modeset", "/dev/nvidia-uvm", "/dev/fb0"] {
        let holder = hold(&host, node);
        let refused = host.run(&format!("gpuferry detach {CARD}")).status(3);
        refused.complains("sleep (pid ").complains(node);
        assert!(holder.is_running());
        home(&host);
        assert_eq!(state(&host), before);
        let_go(&holder);
    }
    assert!(host.run("test -e /run/gpuferry/cards/0000-01-00/snapshot.json").end != End::Exit(0));
}

/// A user that comes after the preflight: the kernel refuses to unload the module, nothing hangs, and what went
/// before comes back.
#[test]
fn a_module_that_stays_in_use_turns_the_card_around() {
    let host = boot(Machine::single_nvidia());
    let before = state(&host);
    let asked = host.start(&format!(
        "(for i in 1 2 3 4; do echo y; done; until [ -e /tmp/go ]; do sleep 0.1; done; echo y; sleep 1000) | \
         gpuferry detach {CARD} --step 2>&1"
    ));
    asked.wait_for("? unload", PATIENCE);
    let holder = hold(&host, "/dev/nvidia0");
    host.run("touch /tmp/go").ok();
    asked.wait_for("everything is as it was", PATIENCE);
    let told = asked.stdout();
    assert!(told.contains("nvidia is in use"), "{told}");
    assert!(holder.is_running());
    home(&host);
    assert_eq!(state(&host), before);
    let_go(&holder);
    host.run(&format!("gpuferry detach {CARD}")).ok();
    lent(&host);
}

/// The picture of the other card stays, and so does what computes on it.
#[test]
fn one_of_two_cards_goes_and_the_driver_stays_for_the_other() {
    let host = boot(Machine::twin_nvidia());
    let before = state(&host);
    let holders = [hold(&host, "/dev/nvidia1"), hold(&host, "/dev/nvidia-uvm")];
    host.run(&format!("gpuferry detach {CARD}")).ok();
    lent(&host);
    host.expect_driver(TWIN, "nvidia");
    assert!(host.read("/proc/fb").starts_with("1 nvidia-drmdrmfb"), "{}", host.read("/proc/fb"));
    host.run(&format!("gpuferry detach {TWIN}")).status(3).complains("/dev/nvidia1");
    holders.iter().for_each(let_go);
    // The last one takes the modules with it. They come home in either order.
    for order in [[CARD, TWIN], [TWIN, CARD]] {
        host.run(&format!("gpuferry detach {TWIN}")).ok().prints("nvidia_modeset nvidia");
        host.expect_driver(TWIN, "vfio-pci");
        assert!(!state(&host).contains("nvidia"), "{}", state(&host));
        host.run(&format!("gpuferry reattach {}", order[0])).ok();
        host.expect_driver(order[0], "nvidia").expect_driver(order[1], "vfio-pci");
        host.run(&format!("gpuferry reattach {}", order[1])).ok();
        host.expect_driver(CARD, "nvidia").expect_driver(TWIN, "nvidia");
        assert_eq!(state(&host), before);
        host.run(&format!("gpuferry detach {CARD}")).ok();
    }
}

/// With the modules needed elsewhere only the unbind is left, and that waits for a user who came after the
/// preflight: he is named, nothing else hangs, and once he lets go the card comes home.
#[test]
fn an_unbind_that_waits_for_a_late_user_is_named() {
    let host = boot(Machine::twin_nvidia());
    let before = state(&host);
    let asked = host.start(&format!(
        "(for i in 1 2 3; do echo y; done; until [ -e /tmp/go ]; do sleep 0.1; done; echo y; sleep 1000) | \
         gpuferry detach {CARD} --step --patience 3 2>&1"
    ));
    asked.wait_for("? release 01:00.0", PATIENCE);
    let holder = hold(&host, "/dev/nvidia0");
    host.run("touch /tmp/go").ok();
    asked.wait_for("has hung for", PATIENCE);
    let told = asked.stdout();
    assert!(told.contains("nvidia/unbind") && told.contains("sleep (pid "), "{told}");
    host.run("gpuferry status").ok().prints("HANGS").prints("nvidia/unbind");
    let_go(&holder);
    let waits = "for i in $(seq 300); do gpuferry status --json | grep -q -e '\"holder\":\"hanging\"' \
                 -e '\"holder\":\"moving\"' -e '\"holder\":\"unfinished\"' || exit 0; sleep 0.2; done; \
                 gpuferry status; exit 1";
    host.run_within(waits, PATIENCE).ok();
    home(&host);
    assert_eq!(state(&host), before);
}
