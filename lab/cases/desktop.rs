//! One card, a display manager with a real X server on it: it goes, and the picture comes back.

use lab::{End, Host, Machine, full_host};
use std::time::Duration;

const CARD: &str = "0000:01:00.0";
const PATIENCE: Duration = Duration::from_secs(240);

/// Waits until the display manager's server takes clients.
fn wait_for_server(host: &Host) {
    let waits = "for i in $(seq 600); do \
                 auth=$(ls -t /var/lib/xdm/authdir/authfiles/A:0* /var/lib/xdm/authfiles/A:0* 2>/dev/null | head -1); \
                 DISPLAY=:0 XAUTHORITY=$auth xset q >/dev/null 2>&1 && exit 0; sleep 0.2; done; \
                 systemctl status --no-pager xdm; cat /var/log/Xorg.0.log /var/log/xdm.log; exit 1";
    host.run_within(waits, PATIENCE).ok();
}

/// Has a client of the server fill the screen, and looks at the monitor.
#[track_caller]
fn shows(host: &Host, colour: [u8; 3]) {
    let [red, green, blue] = colour;
    let paint = format!(
        "auth=$(ls -t /var/lib/xdm/authdir/authfiles/A:0* /var/lib/xdm/authfiles/A:0* 2>/dev/null | head -1); \
         DISPLAY=:0 XAUTHORITY=$auth xsetroot -solid '#{red:02x}{green:02x}{blue:02x}'"
    );
    host.run_within(&paint, PATIENCE).ok();
    let mut screen = host.screendump(1);
    for _ in 0..20 {
        let painted = screen.pixels.iter().filter(|pixel| **pixel == colour).count();
        if painted > screen.pixels.len() / 2 {
            return;
        }
        host.run("sleep 0.5").ok();
        screen = host.screendump(1);
    }
    panic!("the screen does not show {colour:?}; it has {} colours", screen.colours());
}

/// What a hand-over must not leave behind.
fn traces(host: &Host) -> String {
    let look = "cat /sys/bus/pci/devices/0000:01:00.*/driver_override; \
                for f in /sys/bus/pci/devices/0000:01:00.*; do readlink $f/driver; done; cat /proc/fb; \
                cd /sys/class/vtconsole; for v in *; do echo $v $(cat $v/bind $v/name); done; \
                ls /run/systemd/system | grep -v transient; systemctl list-units --state=masked,failed --no-legend; \
                ls /run/gpuferry/cards/*/snapshot.json 2>&1 | wc -l; systemctl is-active xdm";
    host.run_within(look, PATIENCE).stdout().to_owned()
}

#[test]
fn a_display_manager_gives_its_card_up_and_comes_back() {
    let host = full_host(Machine::single_bochs()).with_desktop().boot();
    host.run_within("systemctl start display-manager", PATIENCE).ok();
    wait_for_server(&host);
    shows(&host, [0x20, 0x40, 0x60]);
    let before = traces(&host);

    // Nobody is stopped unasked, and everybody is named.
    let refused = host.run_within(&format!("gpuferry detach --yes {CARD} 2>&1 </dev/null"), PATIENCE);
    refused.status(3).prints("Xorg (pid ").prints("--stop display-manager");
    shows(&host, [0x60, 0x40, 0x20]);

    let rounds = if std::env::var_os("GPUFERRY_SOAK").is_some() { 50 } else { 2 };
    for round in 0..rounds {
        let lend = format!("gpuferry detach --yes --stop display-manager {CARD} </dev/null");
        host.run_within(&lend, PATIENCE).ok().prints("is lent");
        host.expect_driver(CARD, "vfio-pci");
        host.run("systemctl is-active xdm").status(3);
        assert_ne!(host.run("systemctl start display-manager").end, End::Exit(0), "it is masked meanwhile");
        host.run_within(&format!("gpuferry reattach {CARD}"), PATIENCE).ok().prints("is home");
        wait_for_server(&host);
        shows(&host, [0x30, 0x50 + u8::try_from(round).unwrap_or(0), 0x90]);
        assert_eq!(traces(&host), before, "round {round}");
    }

    // What the guide's chapter on one card says to do before the first time: look at the steps, lend it on trial.
    host.run_within(&format!("gpuferry detach --dry-run {CARD}"), PATIENCE).ok().prints("bochs-drm/unbind");
    let trial = format!("gpuferry detach --yes --timeout 3 --stop display-manager {CARD} </dev/null");
    host.run_within(&trial, PATIENCE).ok().prints("goes home by itself");
    let home = "for i in $(seq 600); do gpuferry status --json | grep -q '\"holder\":\"idle\"' || break; sleep 0.2; done; \
                until systemctl is-active -q xdm; do sleep 0.2; done";
    host.run_within(home, PATIENCE).ok();
    wait_for_server(&host);
    shows(&host, [0x10, 0x70, 0x30]);
    assert_eq!(traces(&host), before, "after a trial");
    let trial = format!("gpuferry detach --yes --timeout 600 --stop display-manager {CARD} </dev/null");
    host.run_within(&trial, PATIENCE).ok();
    host.run_within("gpuferry status", PATIENCE).ok().prints("goes home in");
    host.run_within(&format!("gpuferry keep {CARD}"), PATIENCE).ok().prints("stays lent");
    host.run_within("gpuferry status", PATIENCE).ok().prints("lent, no guest has it");
    host.run_within(&format!("gpuferry reattach {CARD}"), PATIENCE).ok();
    wait_for_server(&host);
    assert_eq!(traces(&host), before, "after a trial that was kept");
}
