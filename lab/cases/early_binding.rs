//! Early binding on a whole Debian: plan, apply, reboot, the way out at the boot prompt, revert.

use crate::commands::{ONE_CARD, commands};
use lab::initramfs::{Members, listed};
use lab::{Device, End, Firmware, Host, Machine, full_host, left_to_soak};
use std::time::{Duration, Instant};

/// Long enough for every initramfs and the boot menu, also without KVM on a busy machine.
const APPLY: Duration = Duration::from_secs(1500);

/// Every file of /etc and /boot with its checksum, mode and owner.
const FILES: &str = r"cd / && find etc boot var/tmp ! -path 'boot/initrd.img-*' ! -path 'var/tmp/systemd-private-*' -printf '%p %y %m %u %g %l\n' | sort
find etc boot -type f ! -name 'initrd.img-*' -print0 | sort -z | xargs -0 sha256sum
ls boot";

fn files(host: &Host) -> String {
    host.run_within(FILES, APPLY).ok().stdout().to_owned()
}

/// Each initramfs.
fn images(host: &Host) -> Vec<(String, Members)> {
    let listed = host.run("ls /boot/initrd.img-*").ok();
    listed.lines().into_iter().map(|path| (path.to_owned(), host.initramfs(path))).collect()
}

/// The files, and of each initramfs every member with its mode, owner and checksum. By nature different, and not
/// looked at: the bytes of the archive, since times and inode numbers are in it.
fn state(host: &Host) -> String {
    let images = images(host).into_iter().map(|(path, members)| format!("{path}\n{}", listed(&members)));
    format!("{}\n{}", files(host), images.collect::<String>())
}

/// Of each image, whether our early script is in it.
#[track_caller]
fn scripted(host: &Host) -> Vec<bool> {
    images(host).iter().map(|(_, members)| members.contains_key("scripts/init-top/gpuferry")).collect()
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

/// Lines of the kernel's log about functions whose address begins so, from others than the bus, VFIO and gpuferry.
/// A driver's line begins with its name (include/linux/dev_printk.h).
fn of_other_drivers<'l>(log: &'l str, address: &str) -> Vec<&'l str> {
    let known = ["pci", "vfio-pci", "vfio_pci:", "gpuferry:"];
    let said = log.lines().filter(|line| line.contains(address));
    let first = |line: &'l str| line.split_once("] ").map_or(line, |(_, said)| said).split(' ').next();
    said.filter(|line| !first(line).is_some_and(|who| known.contains(&who))).collect()
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
    let machine = Machine::twin_nvidia();
    let mut host = full_host(machine.clone()).with_competition().boot();
    let before = state(&host);
    let cmdline = host.read("/proc/cmdline");

    let shown = host.run("gpuferry plan static --gpu 0000:02:00.0 -o /root/p.json").ok();
    assert!(shown.stdout().contains("gpuferry.bind=0000:00:"), "{}", shown.stdout());
    assert!(before.starts_with(&files(&host)), "a plan has changed something");
    apply(&host, "/root/p.json");
    // The early script is in the image, and runs before udev.
    let (_, members) = &images(&host)[0];
    let order = String::from_utf8_lossy(&members["scripts/init-top/ORDER"].content).into_owned();
    let place = |name: &str| order.find(name).unwrap_or_else(|| panic!("{name} in {order}"));
    assert!(place("init-top/gpuferry") < place("init-top/udev"), "{order}");

    host.reboot();
    host.expect_driver("0000:02:00.0", "vfio-pci").expect_driver("0000:02:00.1", "vfio-pci");
    host.expect_driver("0000:01:00.1", "snd_hda_intel");
    assert_ne!(host.driver("0000:01:00.0").as_deref(), Some("vfio-pci"));
    let log = host.kernel_log();
    assert!(log.contains("gpuferry: 0000:02:00.0 is bound to vfio-pci"), "{log}");
    assert_eq!(of_other_drivers(&log, "0000:02:00."), Vec::<&str>::new(), "another driver was there first");
    assert!(log.contains("snd_hda_intel 0000:01:00.1: "), "the twin's line is what is looked for: {log}");

    // The way out: `e` in GRUB's menu, and the switch at the end of the kernel's line, for one boot.
    host.reboot_with_words("gpuferry.off=1");
    let words = host.read("/proc/cmdline");
    assert!(words.contains("gpuferry.bind=") && words.trim_end().ends_with("gpuferry.off=1"), "{words}");
    host.expect_driver("0000:02:00.1", "snd_hda_intel").expect_driver("0000:01:00.1", "snd_hda_intel");
    assert_ne!(host.driver("0000:02:00.0").as_deref(), Some("vfio-pci"));
    assert!(host.kernel_log().contains("gpuferry: gpuferry.off is on the command line"));
    assert!(!host.read("/proc/modules").contains("vfio"), "nothing is bound, and nothing loaded for it");
    assert_eq!(
        host.run("systemctl list-units --all --no-legend 'gpuferry*'").ok().text(),
        "",
        "nothing started"
    );

    the_path_is_followed_and_the_ids_decide(&mut host, machine);

    host.run("gpuferry history").ok().prints("in force");
    revert(&host);
    as_before(&host, &before);
    assert_eq!(scripted(&host), [false]);
    let ours =
        "find /boot /etc -name '*gpuferry*'; grep -rl --exclude=lab-agent.service gpuferry /boot/grub /etc";
    assert_eq!(host.run(ours).text(), "", "something of ours was left");
    host.run("gpuferry history").ok().prints("undone");
    host.reboot();
    assert_eq!(host.read("/proc/cmdline"), cmdline);
    host.expect_driver("0000:02:00.1", "snd_hda_intel");
    assert_ne!(host.driver("0000:02:00.0").as_deref(), Some("vfio-pci"));
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
fn the_path_is_followed_and_the_ids_decide(host: &mut Host, machine: Machine) {
    // A bridge in the first slot takes two bus numbers: the card is on bus 3 now, behind the same port.
    host.reboot_as(machine.clone().replace(1, Device::Bridge));
    assert_eq!(host.ids("0000:03:00.0").as_deref(), Some("10de:2204"));
    host.expect_driver("0000:03:00.0", "vfio-pci").expect_driver("0000:03:00.1", "vfio-pci");
    assert!(host.kernel_log().contains("gpuferry: 0000:03:00.0 is bound to vfio-pci"));
    let (found, _) = findings(host, "");
    assert!(!found.iter().any(|id| id.starts_with("binding-")), "it is bound, wherever it is: {found:?}");

    // Another device where the card was: the boot goes on, and nothing is bound.
    host.reboot_as(machine.clone().replace(2, Device::Nic));
    host.expect_driver("0000:02:00.0", "e1000e");
    assert!(host.kernel_log().contains("nothing of its card is bound"), "{}", host.kernel_log());
    let (found, text) = findings(host, "binding-other-device");
    assert!(text.contains("0000:02:00.0") && text.contains("gpuferry: "), "{found:?} {text}");

    // The two cards exchanged: the slot holds a card with other subsystem ids.
    host.reboot_as(machine.cards_exchanged());
    for address in ["0000:01:00.0", "0000:02:00.0"] {
        assert_ne!(host.driver(address).as_deref(), Some("vfio-pci"), "{address}");
    }
    assert!(host.kernel_log().contains("is another than"), "{}", host.kernel_log());
    let (found, text) = findings(host, "binding-moved");
    assert!(text.contains("gpuferry plan static --gpu 0000:01:00.0"), "{found:?} {text}");
    assert!(text.contains("0000:00:03.1/00.0") && text.contains("is another than"), "{text}");
}

#[test]
fn of_two_screens_one_goes_with_every_kernel() {
    let mut host = full_host(Machine::twin_bochs()).with_two_kernels().boot();
    let before = state(&host);
    apply(&host, "static --gpu 0000:02:00.0");
    assert_eq!(scripted(&host), [true, true]);
    host.reboot();
    host.expect_driver("0000:02:00.0", "vfio-pci").expect_driver("0000:02:00.1", "vfio-pci");
    host.expect_driver("0000:01:00.0", "bochs-drm").expect_driver("0000:01:00.1", "snd_hda_intel");
    assert_eq!(of_other_drivers(&host.kernel_log(), "0000:02:00."), Vec::<&str>::new());
    revert(&host);
    as_before(&host, &before);
    assert_eq!(scripted(&host), [false, false]);
}

/// What somebody does whose machine does not come up any more: a system from a stick, and what it is told there.
#[test]
fn it_is_undone_from_a_rescue_system() {
    if left_to_soak() {
        return;
    }
    let mut host = full_host(Machine::twin_bochs()).boot();
    let before = files(&host);
    apply(&host, "static --gpu 0000:02:00.0");
    host.power_cut();
    host.start_rescue();
    let mount = "modprobe ext4 && mkdir /mnt && mount -t ext4 /dev/vda1 /mnt";
    host.run(&format!("{mount} && ls /mnt/etc/default/grub.d/*gpuferry*")).ok();
    let chapter = commands(ONE_CARD);
    let told = host.run_within(chapter.last().map_or("", String::as_str), APPLY);
    // The sources are as before. What is made from them is made by the tools of the system that they belong to.
    let told = told.status(5);
    let hints: Vec<_> = told.stderr().lines().filter_map(|line| line.split_once("hint: ")).collect();
    let [(_, mounts), (_, chroot), (_, again)] = hints[..] else {
        panic!("three commands: {}", told.stderr())
    };
    host.run(mounts).ok();
    host.run_within(chroot, APPLY).ok();
    host.run_within(again.split("   ").next().unwrap_or_default(), APPLY).ok().prints("undone");
    host.run("umount -l /mnt/dev /mnt/proc /mnt/sys && umount /mnt").ok();
    host.end_rescue();
    // Made in the rescue system, where the disk has another name: grub.cfg's hints for finding it differ.
    assert!(!host.read("/boot/grub/grub.cfg").contains("gpuferry"));
    host.run_within("update-grub", APPLY).ok();
    same(&before, &files(&host));
    assert!(!host.read("/proc/cmdline").contains("gpuferry"));
    assert_eq!(scripted(&host), [false]);
    host.run("gpuferry history").ok().prints("undone");
}

/// The same crossing where the boot goes another way: UEFI firmware, and GRUB on an EFI partition.
#[test]
fn with_uefi_it_is_the_same() {
    if left_to_soak() {
        return;
    }
    let mut host = full_host(Machine::twin_nvidia().firmware(Firmware::Uefi)).boot();
    let before = state(&host);
    let cmdline = host.read("/proc/cmdline");
    apply(&host, "static --gpu 0000:02:00.0");
    host.reboot();
    host.expect_driver("0000:02:00.0", "vfio-pci").expect_driver("0000:02:00.1", "vfio-pci");
    host.expect_driver("0000:01:00.1", "snd_hda_intel");
    revert(&host);
    as_before(&host, &before);
    host.reboot();
    assert_eq!(host.read("/proc/cmdline"), cmdline);
    host.expect_driver("0000:02:00.0", None).expect_driver("0000:02:00.1", "snd_hda_intel");
}

#[test]
fn killed_or_without_power_in_the_middle_it_is_undone() {
    let mut host = full_host(Machine::twin_bochs()).boot();
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

/// One clear sentence, and a hint.
#[track_caller]
fn refused(host: &Host, command: &str, status: i32, why: &str) {
    let said = host.run(command).status(status).complains(why);
    let lines: Vec<_> = said.stderr().lines().collect();
    assert!(lines.first().is_some_and(|line| line.contains(": ") && line.len() < 200), "{}", said.stderr());
    // What the command line itself is told about is answered in its own form.
    let helps = ["hint: ", "For more information, try"];
    assert!(
        lines.iter().any(|line| helps.iter().any(|h| line.trim_start().starts_with(h))),
        "{}",
        said.stderr()
    );
}

#[test]
fn bad_input_changes_nothing_and_says_what_helps() {
    let host = full_host(Machine::twin_bochs().boots_from_nvme()).boot();
    let before = state(&host);
    let root = host.run("basename $(readlink -f /sys/block/nvme0n1/device/device)").ok().text().to_owned();
    for verb in ["detach --yes", "plan static --gpu", "apply --yes static --gpu"] {
        refused(&host, &format!("gpuferry {verb} {root}"), 3, "nvme0n1p1 is mounted at /");
    }
    let apply = "gpuferry apply --yes static --gpu 0000:02:00.0";
    refused(&host, "gpuferry plan static --gpu 0000:02", 2, "0000:01:00.0");
    refused(&host, "gpuferry apply --yes static --gpu 0000:42:00.0", 2, "there is no device");
    refused(&host, &format!("setpriv --reuid 65534 --clear-groups {apply}"), 4, "sudo");

    host.run("mount --bind /boot /boot && mount -o remount,ro,bind /boot").ok();
    refused(&host, apply, 4, "read-only");
    host.run("umount /boot").ok();

    // What is left for everybody at once; what is kept for root, byte by byte.
    let fill = "fallocate -l $(df --output=avail -B1 / | tail -1) /root/fill; dd if=/dev/zero of=/root/more bs=1M; sync";
    host.run(&format!("{fill}; true")).ok();
    refused(&host, apply, 4, "room");
    host.run("ls /boot/*.new /boot/*.bak /boot/*/*.new").status(2);
    host.run("rm -f /root/fill /root/more").ok();

    host.run("gpuferry plan static --gpu 0000:02:00.0 -o /root/p.json").ok();
    host.run("sed 's/0000:02:00.0/0000:01:00.0/' /root/p.json > /root/e.json").ok();
    refused(&host, "gpuferry apply --yes /root/e.json", 2, "was edited");
    host.run("cp -p /etc/machine-id /root/id && echo 11112222333344445555666677778888 > /etc/machine-id")
        .ok();
    refused(&host, "gpuferry apply --yes /root/p.json", 3, "another machine");
    host.run("cp -p /root/id /etc/machine-id").ok();

    host.run("cp -p /etc/default/grub /root/grub && echo 'GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\" iommu=pt' >> /etc/default/grub")
        .ok();
    refused(&host, apply, 1, "grub-quoting-broken");
    host.run("cp -p /root/grub /etc/default/grub").ok();
    as_before(&host, &before);
}
