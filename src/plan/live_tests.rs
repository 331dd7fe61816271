use super::*;
use crate::{
    handover::{preflight, snapshot::Snapshot, stop::Stop},
    host::{
        Console, FirmwareFramebuffer, Framebuffer, Group, Nvidia,
        testing::{at, desktop, driven},
    },
    step::services::Unit,
};

/// The desktop, with a bochs card instead, whose frame buffer the console is on.
fn host() -> Host {
    let mut host = desktop();
    for (address, driver) in [("01:00.0", "bochs-drm"), ("01:00.1", "snd_hda_intel")] {
        let function = host.functions.iter_mut().find(|f| f.address == at(address)).unwrap();
        function.driver = Some(driver.into());
        function.iommu_group = Some(15);
    }
    host.framebuffers =
        vec![Framebuffer { index: 0, name: "bochs-drmdrmfb".into(), function: Some(at("01:00.0")) }];
    host.consoles = vec![
        Console { index: 0, name: "(S) dummy device".into(), bound: false },
        Console { index: 1, name: "(M) frame buffer device".into(), bound: true },
    ];
    host
}

fn card(host: &Host) -> Card {
    Card::find(host, at("01:00.1")).unwrap()
}

fn snapshot(host: &Host) -> Snapshot {
    let folder = tempfile::tempdir().unwrap();
    let boot = folder.path().join("proc/sys/kernel/random");
    std::fs::create_dir_all(&boot).unwrap();
    std::fs::write(boot.join("boot_id"), "b\n").unwrap();
    let root = crate::machine::live::Live::open(folder.path()).unwrap();
    Snapshot::take(&root, host, &card(host), 1).unwrap()
}

fn set(host: &mut Host, address: &str, driver: Option<&str>, driver_override: Option<&str>) {
    let function = host.functions.iter_mut().find(|f| f.address == at(address)).unwrap();
    function.driver = driver.map(str::to_owned);
    function.driver_override = driver_override.map(str::to_owned);
}

/// How the machine is once the card is lent.
fn lent() -> Host {
    let mut host = host();
    set(&mut host, "01:00.0", Some(VFIO), Some(VFIO));
    set(&mut host, "01:00.1", Some(VFIO), Some(VFIO));
    host.framebuffers.clear();
    host.consoles[0].bound = true;
    host.consoles.truncate(1);
    host
}

fn steps(plan: &LivePlan) -> Vec<String> {
    plan.stages.iter().flat_map(|stage| stage.steps.iter().map(LiveStep::describe)).collect()
}

#[test]
fn the_way_out_frees_the_audio_first_and_the_display_last() {
    let host = host();
    let plan = live(&host, Goal::Lend(&card(&host), &[], None)).unwrap();
    assert_eq!(
        steps(&plan),
        [
            "modprobe vfio-pci",
            "echo 'vfio-pci' > /sys/bus/pci/devices/0000:01:00.1/driver_override",
            "echo 'vfio-pci' > /sys/bus/pci/devices/0000:01:00.0/driver_override",
            "echo 0000:01:00.1 > /sys/bus/pci/drivers/snd_hda_intel/unbind",
            "echo 0 > /sys/class/vtconsole/vtcon1/bind",
            "echo 0000:01:00.0 > /sys/bus/pci/drivers/bochs-drm/unbind",
            "echo 0000:01:00.1 > /sys/bus/pci/drivers_probe",
            "echo 0000:01:00.0 > /sys/bus/pci/drivers_probe",
            "wait until vfio-pci has 0000:01:00.1",
            "wait until vfio-pci has 0000:01:00.0",
        ]
    );
}

#[test]
fn the_way_home_ends_with_the_console() {
    let before = snapshot(&host());
    let plan = live(&lent(), Goal::Home(&before)).unwrap();
    assert_eq!(
        steps(&plan),
        [
            "echo '' > /sys/bus/pci/devices/0000:01:00.0/driver_override",
            "echo '' > /sys/bus/pci/devices/0000:01:00.1/driver_override",
            "echo 0000:01:00.0 > /sys/bus/pci/drivers/vfio-pci/unbind",
            "echo 0000:01:00.1 > /sys/bus/pci/drivers/vfio-pci/unbind",
            "echo 0000:01:00.0 > /sys/bus/pci/drivers/bochs-drm/bind",
            "wait until bochs-drm has 0000:01:00.0",
            "echo 0000:01:00.1 > /sys/bus/pci/drivers/snd_hda_intel/bind",
            "wait until snd_hda_intel has 0000:01:00.1",
            "wait for frame buffer bochs-drmdrmfb of 0000:01:00.0",
            "echo 1 > /sys/class/vtconsole/vtcon1/bind",
        ]
    );
}

/// From every point at which a way out can stop, the way home does what is left, and no more.
#[test]
fn the_way_home_is_planned_from_the_machine_as_it_is() {
    let before = snapshot(&host());
    let mut half = host();
    set(&mut half, "01:00.0", Some("bochs-drm"), Some(VFIO));
    set(&mut half, "01:00.1", None, Some(VFIO));
    let plan = live(&half, Goal::Home(&before)).unwrap();
    assert_eq!(
        steps(&plan),
        [
            "echo '' > /sys/bus/pci/devices/0000:01:00.0/driver_override",
            "echo '' > /sys/bus/pci/devices/0000:01:00.1/driver_override",
            "echo 0000:01:00.1 > /sys/bus/pci/drivers/snd_hda_intel/bind",
            "wait until snd_hda_intel has 0000:01:00.1",
            "echo 1 > /sys/class/vtconsole/vtcon1/bind",
        ]
    );
    // Home already: only the console is looked at, and it is as it was.
    assert_eq!(
        steps(&live(&host(), Goal::Home(&before)).unwrap()),
        ["echo 1 > /sys/class/vtconsole/vtcon1/bind"]
    );
    assert!(before.differences(&host()).is_empty());
    assert_eq!(before.differences(&half).len(), 3);
}

/// NVIDIA's driver before 570, or no driver at all: the console is on what the firmware set up.
#[test]
fn the_firmwares_frame_buffer_goes_after_the_console_and_comes_back_where_it_can() {
    let mut host = host();
    host.framebuffers[0].name = "EFI VGA".into();
    let screen = FirmwareFramebuffer {
        device: "efi-framebuffer.0".into(),
        driver: Some("efi-framebuffer".into()),
        function: Some(at("01:00.0")),
    };
    host.firmware_framebuffers = vec![screen.clone()];
    let plan = live(&host, Goal::Lend(&card(&host), &[], None)).unwrap();
    assert_eq!(
        steps(&plan)[4..7],
        [
            "echo 0 > /sys/class/vtconsole/vtcon1/bind",
            "echo efi-framebuffer.0 > /sys/bus/platform/drivers/efi-framebuffer/unbind",
            "echo 0000:01:00.0 > /sys/bus/pci/drivers/bochs-drm/unbind",
        ]
    );
    set(&mut host, "01:00.0", None, None);
    let plan = live(&host, Goal::Lend(&card(&host), &[], None)).unwrap();
    assert!(steps(&plan)[4].contains("vtcon1") && steps(&plan)[5].contains("efi-framebuffer"));

    let before = snapshot(&host);
    let mut there = lent();
    there.firmware_framebuffers = vec![FirmwareFramebuffer { driver: None, ..screen }];
    let home = steps(&live(&there, Goal::Home(&before)).unwrap());
    assert!(home.contains(&"echo efi-framebuffer.0 > /sys/bus/platform/drivers/efi-framebuffer/bind".into()));
    // It is there at once, or not at all: nobody waits.
    assert!(!home.iter().any(|step| step.starts_with("wait for frame buffer")), "{home:?}");
    let mut left = before.clone();
    left.wishes.leave_consoles = true;
    let home = steps(&live(&there, Goal::Home(&left)).unwrap());
    assert!(!home.iter().any(|step| step.contains("efi-framebuffer") || step.contains("vtcon")), "{home:?}");
    // Gone for good: nothing waits for it, and nothing counts as missing.
    let mut gone = lent();
    assert!(
        !steps(&live(&gone, Goal::Home(&before)).unwrap())
            .iter()
            .any(|s| s.contains("EFI") || s.contains("vtcon"))
    );
    set(&mut gone, "01:00.0", None, None);
    set(&mut gone, "01:00.1", Some("snd_hda_intel"), None);
    assert_eq!((before.differences(&gone), before.is_drawn_by_firmware()), (vec![], true));
}

#[test]
fn a_card_that_is_lent_needs_nothing() {
    let host = lent();
    assert!(live(&host, Goal::Lend(&card(&host), &[], None)).unwrap().stages.is_empty());
}

#[test]
fn a_console_that_has_another_screen_is_left_to_the_kernel() {
    let mut host = host();
    host.framebuffers.push(Framebuffer { index: 1, name: "i915drmfb".into(), function: Some(at("00:02.0")) });
    let plan = live(&host, Goal::Lend(&card(&host), &[], None)).unwrap();
    assert!(!steps(&plan).iter().any(|step| step.contains("vtcon")), "{:?}", steps(&plan));
}

#[test]
fn another_device_at_the_address_is_not_taken_home() {
    let before = snapshot(&host());
    let mut other = lent();
    let function = other.functions.iter_mut().find(|f| f.address == at("01:00.0")).unwrap();
    function.device = Some(0x9999);
    let error = live(&other, Goal::Home(&before)).unwrap_err();
    assert!(error.message.contains("another device"), "{error}");
}

/// Changes both functions of the card.
fn change(host: &mut Host, change: impl Fn(&mut Function)) {
    host.functions.iter_mut().filter(|f| f.address.bus == 1).for_each(change);
}

/// Moves the card to another bus number, still behind its own port.
fn renumber(host: &mut Host) {
    change(host, |function| function.address.bus = 2);
    host.framebuffers.iter_mut().for_each(|fb| fb.function = Some(at("02:00.0")));
}

#[test]
fn a_card_whose_bus_has_another_number_now_is_found_by_its_path() {
    let before = snapshot(&host());
    let mut moved = lent();
    renumber(&mut moved);
    // Its twin is where it was, behind another port.
    let mut twin = driven("01:00.0", "030000", "10de:2204", "nouveau", 20);
    twin.path = Some("0000:00:02.0/00.0".parse().unwrap());
    (twin.subsystem_vendor, twin.subsystem_device) = (Some(0x1458), Some(0x403b));
    moved.functions.push(twin.clone());
    let plan = steps(&live(&moved, Goal::Home(&before)).unwrap());
    assert_eq!(plan[2], "echo 0000:02:00.0 > /sys/bus/pci/drivers/vfio-pci/unbind");
    assert!(plan.contains(&"wait for frame buffer bochs-drmdrmfb of 0000:02:00.0".to_owned()), "{plan:?}");
    assert!(!plan.iter().any(|step| step.contains("0000:01:00")), "that is the twin: {plan:?}");
    assert_eq!(before.card_now(&moved).functions, [at("02:00.0"), at("02:00.1")]);

    let mut home = host();
    renumber(&mut home);
    home.functions.push(twin);
    assert!(before.differences(&home).is_empty(), "{:?}", before.differences(&home));
    set(&mut home, "02:00.0", None, None);
    assert_eq!(
        steps(&rescue(&home, &before, Rescue::Reset)),
        ["echo 1 > /sys/bus/pci/devices/0000:02:00.0/reset"]
    );
}

/// Nothing that could be in the place of the card is bound, unbound, reset or taken off the bus.
#[test]
fn another_card_in_its_place_is_not_touched() {
    let before = snapshot(&host());
    // The same chip on another maker's board, in the same slot; the twin from another slot, at the same address; and
    // another board where the path is not told.
    let others: [fn(&mut Function); 3] = [
        |function| function.subsystem_device = Some(0x4001),
        |function| {
            let port = format!("0000:00:02.0/00.{}", function.address.function);
            function.path = Some(port.parse().unwrap());
        },
        |function| (function.path, function.subsystem_vendor) = (None, Some(0x1043)),
    ];
    for (driver, other) in [None, Some(VFIO), Some("nouveau")].into_iter().zip(others) {
        let mut host = host();
        change(&mut host, other);
        set(&mut host, "01:00.0", driver, None);
        set(&mut host, "01:00.1", driver, None);
        let error = live(&host, Goal::Home(&before)).unwrap_err();
        assert!(error.message.contains("0000:01:00.0 is another device now"), "{error}");
        assert!(rescue(&host, &before, Rescue::Reset).stages.is_empty());
        assert!(rescue(&host, &before, Rescue::Rescan).stages.is_empty());
        assert_eq!(before.card_now(&host).functions, [], "whoever holds it does not hold ours");
        let left = before.differences(&host);
        assert_eq!(left[0], "at 0000:01:00.0 is another device now", "{left:?}");
    }
}

/// One that was taken by a gpuferry that kept no path.
#[test]
fn an_older_snapshot_goes_by_the_address() {
    let mut older = serde_json::to_value(snapshot(&host())).unwrap();
    for function in older["functions"].as_array_mut().unwrap() {
        let function = function.as_object_mut().unwrap();
        assert!(function.remove("path").is_some() && function.remove("subsystem").is_some());
    }
    let older: Snapshot = serde_json::from_value(older).unwrap();
    assert_eq!(older.functions[0].path, None);
    let now = snapshot(&host());
    assert_eq!(
        live(&lent(), Goal::Home(&older)).unwrap(),
        live(&lent(), Goal::Home(&now)).unwrap(),
        "by the address it is the same card"
    );
    let mut other = lent();
    change(&mut other, |function| function.device = Some(0x9999));
    assert!(live(&other, Goal::Home(&older)).unwrap_err().message.contains("another device"));
}

/// The card with NVIDIA's driver, of which these modules are loaded.
fn with_nvidia(version: &str, above: &[&str]) -> Host {
    let mut host = host();
    set(&mut host, "01:00.0", Some("nvidia"), None);
    let above = above.iter().map(|module| (*module).to_owned()).collect();
    host.nvidia = Some(Nvidia { version: Some(version.into()), modeset: Some(true), above });
    host
}

#[test]
fn the_only_card_goes_with_the_modules_of_its_driver() {
    let host = with_nvidia("470.256.02", &["gdrdrv", "nvidia_drm", "nvidia_modeset", "nvidia_uvm", "other"]);
    let steps = steps(&live(&host, Goal::Lend(&card(&host), &[], None)).unwrap());
    let at = |step: &str| steps.iter().position(|s| s == step).unwrap_or_else(|| panic!("{step}: {steps:?}"));
    let unloads: Vec<_> = steps.iter().filter(|step| step.starts_with("rmmod")).collect();
    assert_eq!(
        unloads,
        [
            "rmmod other",
            "rmmod nvidia_drm",
            "rmmod gdrdrv",
            "rmmod nvidia_uvm",
            "rmmod nvidia_modeset",
            "rmmod nvidia"
        ]
    );
    assert!(at("echo 0 > /sys/class/vtconsole/vtcon1/bind") < at("rmmod other"));
    assert!(at("rmmod nvidia") < at("echo 0000:01:00.0 > /sys/bus/pci/drivers_probe"));
    assert!(!steps.iter().any(|step| step.contains("nvidia/unbind")), "{steps:?}");
}

#[test]
fn where_another_card_stays_its_modules_stay() {
    let twin = driven("05:00.0", "030000", "10de:2204", "nvidia", 20);
    let mut host = with_nvidia("595.45.04", &["nvidia_drm", "nvidia_modeset"]);
    host.functions.push(twin.clone());
    let steps = steps(&live(&host, Goal::Lend(&card(&host), &[], None)).unwrap());
    assert!(!steps.iter().any(|step| step.starts_with("rmmod")), "{steps:?}");
    assert!(
        steps.contains(&"echo 0000:01:00.0 > /sys/bus/pci/drivers/nvidia/unbind".to_owned()),
        "{steps:?}"
    );
    // An older driver would hang in the unbind.
    let mut host = with_nvidia("570.86.15", &["nvidia_drm", "nvidia_modeset"]);
    host.functions.push(twin);
    let error = live(&host, Goal::Lend(&card(&host), &[], None)).unwrap_err();
    assert!(error.message.contains("0000:05:00.0") && error.message.contains("570.86.15"), "{error}");
    // With nobody but the twin's guest on vfio-pci the modules are free to go.
    set(&mut host, "05:00.0", Some(VFIO), None);
    assert!(live(&host, Goal::Lend(&card(&host), &[], None)).is_ok());
}

#[test]
fn without_an_iommu_nothing_goes() {
    let mut host = host();
    host.functions.iter_mut().for_each(|function| function.iommu_group = None);
    let error = live(&host, Goal::Lend(&card(&host), &[], None)).unwrap_err();
    assert_eq!(error.status, crate::error::Status::Blocked);
}

#[test]
fn what_shares_the_group_is_named_and_bridges_are_not() {
    let mut host = host();
    let mut bridge = driven("00:01.0", "060400", "8086:a70d", "pcieport", 15);
    bridge.header_type = Some(1);
    host.functions.retain(|function| function.address != at("00:01.0"));
    host.functions.extend([bridge, driven("07:00.0", "010601", "1b21:0612", "ahci", 15)]);
    let functions = ["00:01.0", "01:00.0", "01:00.1", "07:00.0"].map(at).to_vec();
    host.groups = vec![Group::new(15, functions)];
    let card = card(&host);
    assert_eq!(card.companions(&host), [at("07:00.0")]);
    let error = preflight::refuse_host(&host, &card, &[]).unwrap();
    assert!(error.to_string().contains("0000:07:00.0"), "{error}");
    let other = Card::find(&host, at("07:00.0")).unwrap();
    assert!(preflight::refuse_host(&host, &card, &[card.clone(), other]).is_none());
}

#[test]
fn who_uses_the_card_ends_first_and_starts_last() {
    let mut host = host();
    let manager = Unit::system("sddm.service");
    let stops = [Stop::Unit {
        unit: manager.clone(),
        triggers: Vec::new(),
        display_manager: true,
        sessions: vec!["2".into()],
    }];
    host.gpus.retain(|gpu| gpu.address == at("01:00.0"));
    let plan = steps(&live(&host, Goal::Lend(&card(&host), &stops, None)).unwrap());
    assert_eq!(
        plan[..4],
        [
            "modprobe vfio-pci",
            "systemctl mask --runtime sddm.service && systemctl stop sddm.service",
            "loginctl terminate-session 2",
            "wait until nobody has 0000:01:00.1, 0000:01:00.0 open",
        ]
    );
    assert!(!plan.iter().any(|step| step == "systemctl start sddm.service"), "no other screen: {plan:?}");
    let mut before = snapshot(&host);
    before.units = vec![manager];
    let home = steps(&live(&lent(), Goal::Home(&before)).unwrap());
    assert_eq!(home.last().unwrap(), "systemctl start sddm.service");
}

#[test]
fn a_rescue_touches_only_what_no_driver_has() {
    let before = snapshot(&host());
    assert!(rescue(&host(), &before, Rescue::Reset).stages.is_empty());
    assert!(rescue(&lent(), &before, Rescue::Rescan).stages.is_empty(), "vfio-pci has it: a guest may too");
    let mut half = host();
    set(&mut half, "01:00.0", None, None);
    assert_eq!(
        steps(&rescue(&half, &before, Rescue::Reset)),
        ["echo 1 > /sys/bus/pci/devices/0000:01:00.0/reset"]
    );
    assert_eq!(
        steps(&rescue(&half, &before, Rescue::Rescan)),
        ["echo 1 > /sys/bus/pci/devices/0000:01:00.0/remove", "echo 1 > /sys/bus/pci/rescan"]
    );
    half.functions.retain(|function| function.address != at("01:00.0"));
    assert!(rescue(&half, &before, Rescue::Reset).stages.is_empty(), "what is gone cannot be reset");
    assert_eq!(steps(&rescue(&half, &before, Rescue::Rescan)), ["echo 1 > /sys/bus/pci/rescan"]);
}
