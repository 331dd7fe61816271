//! Early binding on a whole Debian: plan, apply, reboot, the way out at the boot prompt, revert.

use lab::{Device, End, Host, Machine, Plan, full_host};
use std::time::{Duration, Instant};

/// Long enough for every initramfs and the boot menu, also without KVM on a busy machine.
const APPLY: Duration = Duration::from_secs(1500);

/// Every file of /etc and /boot with its checksum, mode and owner; of an initramfs the names of what is in it, and
/// its early scripts' order.
const STATE: &str = r#"cd / && find etc boot var/tmp ! -path 'boot/initrd.img-*' ! -path 'var/tmp/systemd-private-*' -printf '%p %y %m %u %g\n' | sort
find etc boot -type f ! -name 'initrd.img-*' -print0 | sort -z | xargs -0 sha256sum
ls boot
for i in boot/initrd.img-*; do echo "$i"; lsinitramfs "$i" | sort; done"#;

/// Of every initramfs each member with its checksum, mode, owner and target. By nature different, and not looked at:
/// the bytes of the archive, since it holds the time at which each member was made.
const IMAGES: &str = r#"for i in /boot/initrd.img-*; do rm -rf /tmp/image && unmkinitramfs "$i" /tmp/image && cd /tmp/image || exit
find . -printf "$i %p %y %m %u %g %l\n" | sort
find . -type f -print0 | sort -z | xargs -0 sha256sum | sed "s,^,$i ,"
cd / && rm -rf /tmp/image; done"#;

/// Boots it, and has its initramfs made for this machine's own devices (MODULES=dep), as it will be made again.
fn boot(plan: Plan) -> Host {
    let host = plan.boot();
    host.run_within("update-initramfs -u -k all", APPLY).ok();
    host
}

fn state(host: &Host) -> String {
    host.run_within(STATE, Duration::from_secs(300)).ok().stdout().to_owned()
}

fn images(host: &Host) -> String {
    host.run_within(IMAGES, APPLY).ok().stdout().to_owned()
}

#[track_caller]
fn as_before(host: &Host, before: &str) {
    same(before, &state(host));
}

#[track_caller]
fn same(before: &str, now: &str) {
    if now != before {
        let gone: Vec<_> = before.lines().filter(|line| !now.contains(*line)).take(20).collect();
        let new: Vec<_> = now.lines().filter(|line| !before.contains(*line)).take(20).collect();
        panic!("not as before; gone: {gone:#?}, new: {new:#?}");
    }
}

#[track_caller]
fn apply(host: &Host, words: &str) {
    host.run_within(&format!("gpuferry apply --yes {words}"), APPLY).ok().prints("made and checked");
}

#[track_caller]
fn revert(host: &Host) {
    host.run_within("gpuferry revert", APPLY).ok();
}

/// Waits until a command succeeds in the host.
fn wait_for(host: &Host, command: &str) {
    let end = Instant::now() + APPLY;
    while host.run(command).end != End::Exit(0) {
        assert!(Instant::now() < end, "waited in vain for: {command}");
    }
}

#[test]
fn only_the_named_twin_goes_to_vfio_and_all_of_it_comes_back() {
    // nouveau and snd_hda_intel are in the initramfs: they would take the cards before the root disk is there.
    let mut host = boot(full_host(Machine::twin_nvidia()).with_competition());
    let (before, content) = (state(&host), images(&host));
    let cmdline = host.read("/proc/cmdline");

    let shown = host.run("gpuferry plan static --gpu 0000:02:00.0 -o /root/p.json").ok();
    assert!(shown.stdout().contains("gpuferry.bind=0000:00:"), "{}", shown.stdout());
    as_before(&host, &before);
    apply(&host, "/root/p.json");
    // The early script is in the image, and runs before udev.
    let order = "rm -rf /tmp/i && unmkinitramfs /boot/initrd.img-$(uname -r) /tmp/i && cat $(find /tmp/i -path '*init-top/ORDER')";
    let order = host.run_within(order, Duration::from_secs(600)).ok();
    let place =
        |name: &str| order.stdout().find(name).unwrap_or_else(|| panic!("{name} in {}", order.stdout()));
    assert!(place("init-top/gpuferry") < place("init-top/udev"), "{}", order.stdout());

    host.reboot();
    host.expect_driver("0000:02:00.0", "vfio-pci").expect_driver("0000:02:00.1", "vfio-pci");
    host.expect_driver("0000:01:00.1", "snd_hda_intel");
    assert_ne!(host.driver("0000:01:00.0").as_deref(), Some("vfio-pci"));
    let log = host.kernel_log();
    assert!(log.contains("gpuferry: 0000:02:00.0 is bound to vfio-pci"), "{log}");
    let others = ["nouveau 0000:02:00.0", "snd_hda_intel 0000:02:00.1"];
    assert!(!others.iter().any(|other| log.contains(other)), "another driver was there first: {log}");

    // The way out: `e` in GRUB's menu, and the switch at the end of the kernel's line, for one boot.
    host.reboot_with_words("gpuferry.off=1");
    let words = host.read("/proc/cmdline");
    assert!(words.contains("gpuferry.bind=") && words.trim_end().ends_with("gpuferry.off=1"), "{words}");
    host.expect_driver("0000:02:00.1", "snd_hda_intel").expect_driver("0000:01:00.1", "snd_hda_intel");
    assert_ne!(host.driver("0000:02:00.0").as_deref(), Some("vfio-pci"));
    assert!(host.kernel_log().contains("gpuferry: gpuferry.off is on the command line"));

    host.run("gpuferry history").ok().prints("in force");
    revert(&host);
    as_before(&host, &before);
    same(&content, &images(&host));
    host.run("gpuferry history").ok().prints("undone");
    host.reboot();
    assert_eq!(host.read("/proc/cmdline"), cmdline);
    host.expect_driver("0000:02:00.1", "snd_hda_intel");
    assert_ne!(host.driver("0000:02:00.0").as_deref(), Some("vfio-pci"));
}

#[test]
fn of_two_screens_one_goes_with_every_kernel() {
    let mut host = boot(full_host(Machine::twin_bochs()).with_two_kernels());
    let before = state(&host);
    apply(&host, "static --gpu 0000:02:00.0");
    let images = host.run_within(
        "for i in /boot/initrd.img-*; do lsinitramfs $i | grep -c init-top/gpuferry$; done",
        Duration::from_secs(300),
    );
    assert_eq!(images.ok().lines(), ["1", "1"]);
    host.reboot();
    host.expect_driver("0000:02:00.0", "vfio-pci").expect_driver("0000:02:00.1", "vfio-pci");
    host.expect_driver("0000:01:00.0", "bochs-drm").expect_driver("0000:01:00.1", "snd_hda_intel");
    revert(&host);
    as_before(&host, &before);
}

/// What `doctor` finds, by its ids, and the text that goes with the first of these.
fn findings(host: &Host, id: &str) -> (Vec<String>, String) {
    let doctor = host.run("gpuferry doctor --json").json();
    let found = doctor["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ids = found.iter().filter_map(|finding| finding["id"].as_str().map(str::to_owned)).collect();
    let text = found.iter().find(|finding| finding["id"] == id).map(ToString::to_string);
    (ids, text.unwrap_or_default())
}

/// The same path, and the bus numbers behind it move; then another device is there; then the cards are exchanged.
#[test]
fn the_path_is_followed_and_the_ids_decide() {
    let machine = Machine::twin_nvidia();
    let mut host = full_host(machine.clone()).boot();
    apply(&host, "static --gpu 0000:02:00.0");

    // A bridge in the first slot takes two bus numbers: the card is on bus 3 now, behind the same port.
    host.reboot_as(machine.clone().replace(1, Device::Bridge));
    assert_eq!(host.ids("0000:03:00.0").as_deref(), Some("10de:2204"));
    host.expect_driver("0000:03:00.0", "vfio-pci").expect_driver("0000:03:00.1", "vfio-pci");
    assert!(host.kernel_log().contains("gpuferry: 0000:03:00.0 is bound to vfio-pci"));
    let (found, _) = findings(&host, "");
    assert!(!found.iter().any(|id| id.starts_with("binding-")), "it is bound, wherever it is: {found:?}");

    // Another device where the card was: the boot goes on, and nothing is bound.
    host.reboot_as(machine.clone().replace(2, Device::Nic));
    host.expect_driver("0000:02:00.0", "e1000e");
    assert!(host.kernel_log().contains("nothing of its card is bound"), "{}", host.kernel_log());
    let (found, text) = findings(&host, "binding-other-device");
    assert!(text.contains("0000:02:00.0") && text.contains("gpuferry: "), "{found:?} {text}");

    // The two cards exchanged: the slot holds a card with other subsystem ids.
    host.reboot_as(machine.cards_exchanged());
    for address in ["0000:01:00.0", "0000:02:00.0"] {
        assert_ne!(host.driver(address).as_deref(), Some("vfio-pci"), "{address}");
    }
    assert!(host.kernel_log().contains("is another than"), "{}", host.kernel_log());
    let (found, text) = findings(&host, "binding-moved");
    assert!(text.contains("gpuferry plan static --gpu 0000:01:00.0"), "{found:?} {text}");
    assert!(text.contains("0000:00:03.1/00.0") && text.contains("is another than"), "{text}");
}

#[test]
fn killed_or_without_power_in_the_middle_it_is_undone() {
    let mut host = boot(full_host(Machine::twin_bochs()));
    let before = state(&host);
    let words = "exec gpuferry apply --yes static --gpu 0000:02:00.0";

    // Killed while update-initramfs works, and undone in the same boot.
    let job = host.start(words);
    wait_for(&host, "ls /boot/initrd.img-*.new || ls /var/lib/gpuferry/tmp/mkinitramfs*");
    job.kill(9);
    host.run("gpuferry apply --yes static --gpu 0000:02:00.0").status(3).complains("gpuferry revert");
    revert(&host);
    as_before(&host, &before);

    // The power goes while update-initramfs works.
    let job = host.start(words);
    wait_for(&host, "ls /boot/initrd.img-*.new || ls /var/lib/gpuferry/tmp/mkinitramfs*");
    drop(job);
    host.power_cut();
    host.start_again();
    revert(&host);
    as_before(&host, &before);

    // Killed before anything is made from the sources.
    let job = host.start(words);
    wait_for(&host, "test -e /var/lib/gpuferry/changes/0003/journal");
    job.kill(9);
    host.reboot();
    revert(&host);
    as_before(&host, &before);
}

#[test]
fn bad_input_changes_nothing_and_says_what_helps() {
    let host = full_host(Machine::twin_bochs().boots_from_nvme()).boot();
    let before = state(&host);
    let root = host.run("basename $(readlink -f /sys/block/nvme0n1/device/device)").ok().text().to_owned();
    for verb in ["detach --yes", "plan static --gpu", "apply --yes static --gpu"] {
        host.run(&format!("gpuferry {verb} {root}"))
            .status(3)
            .complains("nvme0n1p")
            .complains("is mounted at /");
    }
    let apply = "gpuferry apply --yes static --gpu 0000:02:00.0";
    host.run("gpuferry plan static --gpu 0000:02").status(2).complains("0000:01:00.0");
    host.run("gpuferry apply --yes static --gpu 0000:42:00.0").status(2).complains("there is no device");
    host.run("setpriv --reuid 65534 --clear-groups gpuferry apply --yes static --gpu 0000:02:00.0")
        .status(4)
        .complains("sudo");

    host.run("mount --bind /boot /boot && mount -o remount,ro,bind /boot").ok();
    host.run(apply).status(4).complains("read-only");
    host.run("umount /boot").ok();

    host.run("dd if=/dev/zero of=/root/fill bs=1M 2>/dev/null; sync; true").ok();
    host.run(apply).status(4).complains("room");
    host.run("rm /root/fill").ok();

    host.run("gpuferry plan static --gpu 0000:02:00.0 -o /root/p.json").ok();
    host.run("sed 's/0000:02:00.0/0000:01:00.0/' /root/p.json > /root/e.json").ok();
    host.run("gpuferry apply --yes /root/e.json").status(2).complains("was edited");
    host.run("cp -p /etc/machine-id /root/id && echo 11112222333344445555666677778888 > /etc/machine-id")
        .ok();
    host.run("gpuferry apply --yes /root/p.json").status(3).complains("another machine");
    host.run("cp -p /root/id /etc/machine-id").ok();

    host.run("cp -p /etc/default/grub /root/grub && echo 'GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\" iommu=pt' >> /etc/default/grub")
        .ok();
    host.run(apply).status(1).complains("grub-quoting-broken");
    host.run("cp -p /root/grub /etc/default/grub").ok();
    as_before(&host, &before);
}
