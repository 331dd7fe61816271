//! Whatever dies or refuses while libvirt hands the only card over: the picture comes back, or was never lost.
//!
//! Each fault says how it ends, and within which time; the times are for a host that is emulated without KVM, where a
//! start takes some ten seconds, and are told as they were measured.

use crate::desktop::{CARD, Card, Desktop, PATIENCE, tell};
use lab::{Machine, full_host, left_to_soak};
use std::time::{Duration, Instant};

/// From the fault to the picture: the hand-over back, libvirt's own patience, and the X server's start.
const LIMIT: Duration = Duration::from_secs(180);

/// Waits until the card's worker has begun to lend: before that there is nothing to turn around.
const AT_WORK: &str = "for i in $(seq 6000); do \
                       grep -qs '\"lending\"' /run/gpuferry/cards/0000-01-00/state.json && break; sleep 0.01; done";

/// The picture is back, nothing was left, and it took no longer than it may.
#[track_caller]
fn mended(desktop: &Desktop, fault: &str, begun: Instant, before: &str) {
    desktop.comes_home();
    desktop.shows();
    let took = begun.elapsed();
    tell(&format!("{fault}: the picture is back after {took:.1?}"));
    assert!(took < LIMIT, "{fault}: {took:?}");
    desktop.is_as(before, fault);
    desktop.host.run("gpuferry status").ok();
}

#[test]
fn whatever_dies_or_refuses_the_picture_comes_back() {
    if left_to_soak() {
        return;
    }
    let desktop = Desktop::boot(Card::Bochs);
    let host = &desktop.host;
    desktop.define("first", 1, "yes");

    // The daemon was not told: it is found out, and nothing is left that somebody would rely on.
    host.run("mkdir -p /run/systemd/system/libvirtd.service.d && \
              printf '[Service]\\nType=notify\\nExecReload=\\nExecReload=/bin/true\\n' > /run/systemd/system/libvirtd.service.d/deaf.conf \
              && systemctl daemon-reload && virsh list")
        .ok();
    let deaf = host.run_within("gpuferry hook install --yes", PATIENCE).status(4);
    deaf.complains("libvirtd.service was told to look for hooks, and did not")
        .complains("everything is as it was");
    host.run("ls /etc/libvirt/hooks/qemu.d").status(2);
    desktop.shows();
    host.run("rm -r /run/systemd/system/libvirtd.service.d && systemctl daemon-reload").ok();
    host.run_within("gpuferry hook install --yes", PATIENCE).ok().prints("has looked");
    host.run_within("virsh start first", PATIENCE).ok();
    host.run_within("virsh destroy first", PATIENCE).ok();
    desktop.shows();
    let before = desktop.traces();

    // The hook, while the card's unit is at work for it.
    let begun = Instant::now();
    let start = host.start("virsh start first 2>&1");
    host.run_within(
        &format!("{AT_WORK}; pkill -9 -f '^/usr/bin/gpuferry hook qemu first prepare'"),
        PATIENCE,
    )
    .ok();
    assert_eq!(start.wait(PATIENCE).map(|said| said.end), Some(lab::End::Exit(1)));
    mended(&desktop, "the hook was killed", begun, &before);

    // The card's unit, at work.
    let begun = Instant::now();
    let start = host.start("virsh start first 2>&1");
    host.run_within(&format!("{AT_WORK}; systemctl kill -s KILL gpuferry-card-0000-01-00"), PATIENCE).ok();
    assert_eq!(start.wait(PATIENCE).map(|said| said.end), Some(lab::End::Exit(1)));
    assert!(start.stdout().contains("the worker was killed on the way"), "{}", start.stdout());
    mended(&desktop, "the card's unit was killed", begun, &before);

    // Somebody who may be stopped, and does not stop.
    // In no unit: one of a unit is the unit's to end.
    let holder = host.start(
        "echo $$ > /sys/fs/cgroup/cgroup.procs; \
         exec perl -e '$SIG{TERM} = \"IGNORE\"; open(F, \"<\", \"/dev/snd/controlC0\"); sleep 1000'",
    );
    host.run("until readlink /proc/$(pidof perl)/fd/* | grep -q controlC0; do sleep 0.1; done").ok();
    host.run(
        "gpuferry hook disable first --yes; \
              gpuferry hook enable first --yes --stop display-manager --stop process:perl",
    )
    .ok();
    let begun = Instant::now();
    let refused = host.run_within("virsh start first", PATIENCE).status(1);
    refused.complains("perl (pid ").complains("everything is as it was");
    assert!(holder.is_running());
    desktop.comes_home();
    desktop.shows();
    tell(&format!("a holder ignored SIGTERM: the picture is back after {:.1?}", begun.elapsed()));
    assert!(begun.elapsed() < LIMIT);
    holder.kill(9);
    holder.end();
    desktop.is_as(&before, "a holder ignored SIGTERM");

    // QEMU alone; then libvirt's daemon alone, below a guest that runs.
    host.run_within("virsh start first", PATIENCE).ok();
    desktop.lent();
    let begun = Instant::now();
    host.run("kill -9 $(pidof qemu-system-x86_64)").ok();
    mended(&desktop, "QEMU was killed", begun, &before);
    host.run_within("virsh start first", PATIENCE).ok();
    desktop.outlives_the_daemon("first");
    let begun = Instant::now();
    desktop.shut_down("first");
    desktop.comes_home();
    desktop.shows();
    tell(&format!(
        "libvirtd was killed: the picture is back {:.1?} after the guest's power button",
        begun.elapsed()
    ));
}

/// The machine is rebooted below the guest; then the guest starts by itself at each boot, and one boot is to be
/// without it.
#[test]
fn a_reboot_ends_the_hand_over_and_the_kill_switch_keeps_the_screen() {
    if left_to_soak() {
        return;
    }
    let mut desktop = Desktop::boot(Card::Bochs);
    desktop.define("first", 1, "yes");
    desktop.host.run_within("gpuferry hook install --yes", PATIENCE).ok();
    desktop.host.run_within("virsh start first", PATIENCE).ok();
    desktop.lent();
    let begun = Instant::now();
    desktop.host.reboot();
    tell(&format!("rebooted below a guest: up again after {:.1?}", begun.elapsed()));
    assert!(begun.elapsed() < LIMIT);
    desktop.host.run_within("systemctl start display-manager", PATIENCE).ok();
    desktop.comes_home();
    desktop.shows();
    desktop.host.run("gpuferry status").ok();
    desktop.host.run("systemctl list-units --failed --no-legend | grep -i gpuferry").status(1);

    // It starts by itself, and has the card before anybody draws.
    desktop.host.run("virsh autostart first").ok();
    desktop.host.reboot();
    let waits = "for i in $(seq 800); do gpuferry status | grep -q 'domain first runs' && exit 0; sleep 0.3; done; \
                 gpuferry status; exit 1";
    desktop.host.run_within(waits, PATIENCE).ok();
    desktop.lent();

    let begun = Instant::now();
    desktop.host.reboot_with_words("gpuferry.off=1");
    let refused = "for i in $(seq 800); do journalctl -b -u libvirtd --no-pager | grep -q 'gpuferry.off=1 is on the kernel' \
                   && exit 0; sleep 0.3; done; journalctl -b -u libvirtd --no-pager; exit 1";
    desktop.host.run_within(refused, PATIENCE).ok();
    desktop.host.run_within("virsh domstate first", PATIENCE).ok().prints("shut off");
    desktop.host.expect_driver(CARD, "bochs-drm");
    desktop.host.run_within("systemctl start display-manager", PATIENCE).ok();
    desktop.shows();
    tell(&format!(
        "with gpuferry.off=1: the picture is there {:.1?} after the reboot was asked for",
        begun.elapsed()
    ));
    assert!(begun.elapsed() < LIMIT + LIMIT);
    desktop.host.run_within("virsh start first", PATIENCE).status(1).complains("gpuferry.off=1");
    desktop.shows();
}

/// Debian has no `virtqemud`: libvirt's daemon runs under that name, with the unit, the program and the process that
/// gpuferry knows it by.
const UNDER_THE_OTHER_NAME: &str = "\
    systemctl stop libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd.service && \
    systemctl mask --quiet libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd.service && \
    mv /usr/sbin/libvirtd /usr/sbin/virtqemud && \
    sed -e 's|/usr/sbin/libvirtd|/usr/sbin/virtqemud|' -e 's|--timeout 120||' -e '/libvirtd.*socket/d' \
        /usr/lib/systemd/system/libvirtd.service > /etc/systemd/system/virtqemud.service && \
    systemctl daemon-reload && systemctl start virtqemud.service && virsh list";

#[test]
fn the_daemon_of_the_newer_name_calls_the_hook_too() {
    if left_to_soak() {
        return;
    }
    let desktop = Desktop::boot(Card::Bochs);
    let host = &desktop.host;
    host.run_within(UNDER_THE_OTHER_NAME, PATIENCE).ok();
    desktop.define("first", 1, "yes");
    host.run_within("gpuferry hook install --yes", PATIENCE).ok().prints("has looked");
    desktop.shows();
    host.run_within("virsh start first", PATIENCE).ok();
    desktop.lent();
    // Below a guest that has the card, the daemon goes and comes back.
    host.run_within("systemctl restart virtqemud.service && virsh domstate first", PATIENCE)
        .ok()
        .prints("running");
    desktop.lent();
    host.run_within("virsh destroy first", PATIENCE).ok();
    desktop.comes_home();
    desktop.shows();
}

/// Debian and Ubuntu run libvirt's daemon under a profile that says what a hook may run, and each guest under one of
/// its own.
#[test]
fn under_apparmor_the_hook_may_do_what_it_does() {
    if left_to_soak() {
        return;
    }
    let desktop = Desktop::of(Card::Bochs, full_host(Machine::single_bochs()).with_apparmor().boot());
    let host = &desktop.host;
    host.run_within("virsh list", PATIENCE).ok();
    host.run("cat /proc/$(pidof libvirtd)/attr/current").ok().prints("libvirtd (enforce)");
    desktop.define("first", 1, "yes");
    // The profile lets a hook run programs of the distribution's folders only.
    host.run("install -m 755 /usr/bin/gpuferry /usr/local/bin/gpuferry").ok();
    host.run("/usr/local/bin/gpuferry hook install --yes").status(3).complains("/usr/bin");
    host.run("rm /usr/local/bin/gpuferry").ok();
    host.run_within("gpuferry hook install --yes", PATIENCE).ok().prints("has looked");
    host.run_within("virsh start first", PATIENCE).ok();
    desktop.lent();
    host.run("cat /proc/$(pidof qemu-system-x86_64)/attr/current").ok().prints("libvirt-6b1ab9a0");
    host.run_within("virsh destroy first", PATIENCE).ok();
    desktop.comes_home();
    desktop.shows();
    host.run("dmesg | grep 'apparmor=.DENIED' | grep -i gpuferry").status(1);
}
