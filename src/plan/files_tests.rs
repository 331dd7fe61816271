//! Plans for machines in the words of their facts.

use super::{
    file::{PlanFile, compare, parse},
    files::files,
    goal::{BindBy, Goal},
    names::{GRUB_DROP_IN, HOOK, INIT_TOP},
    sources::Sources,
};
use crate::{
    error::Status,
    host::{Disk, Host, InitramfsTool, InstalledKernel, Known, Loader, testing::*},
    step::{FileStep, derived::Derived, early},
};
use std::path::{Path, PathBuf};

/// [`desktop`], as Debian sets it up.
fn debian() -> Host {
    let mut host = desktop();
    host.boot.loader = Some(Loader::GrubDebian);
    host.boot.initramfs = Some(InitramfsTool::InitramfsTools);
    let kernel = |release: &str| InstalledKernel {
        release: release.into(),
        initramfs: Some(format!("initrd.img-{release}")),
    };
    host.boot.kernels = vec![kernel("6.1.0-1"), kernel("6.12.0-2")];
    host
}

/// A twin of the card of [`desktop`], behind 00:02.0.
fn with_twin() -> Host {
    let mut host = debian();
    for (one, two) in [("01:00.0", "02:00.0"), ("01:00.1", "02:00.1")] {
        let mut twin = host.function(at(one)).unwrap().clone();
        twin.address = at(two);
        twin.path = twin.path.map(|path| path.to_string().replace("00:01.0", "00:02.0").parse().unwrap());
        (twin.iommu_group, twin.boot_vga) = (Some(19), Some(false));
        host.functions.push(twin);
    }
    let gpu = host.gpus[0].clone();
    host.gpus[0].identical_to = vec![at("02:00.0")];
    host.gpus.push(crate::host::Gpu {
        address: at("02:00.0"),
        functions: vec![at("02:00.0"), at("02:00.1")],
        identical_to: vec![at("01:00.0")],
        boot_vga: Some(false),
        ..gpu
    });
    host.groups.push(crate::host::Group::new(19, vec![at("02:00.0"), at("02:00.1")]));
    host
}

fn sources() -> Sources {
    Sources {
        machine: Some("m".into()),
        grub: vec![("/etc/default/grub".into(), "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n".into())],
        folders: ["/", "/etc", "/etc/default", "/etc/initramfs-tools", "/etc/initramfs-tools/hooks"]
            .map(PathBuf::from)
            .into(),
        ..Sources::default()
    }
}

fn goal(gpus: &[&str]) -> Goal {
    Goal::Static { gpus: gpus.iter().map(|gpu| at(gpu)).collect(), bind_by: BindBy::Path }
}

fn by_ids(gpus: &[&str]) -> Goal {
    Goal::Static { gpus: gpus.iter().map(|gpu| at(gpu)).collect(), bind_by: BindBy::Ids }
}

#[test]
fn a_card_is_bound_by_path_and_ids_with_all_its_functions() {
    let plan = files(&debian(), &sources(), &goal(&["01:00.1"])).unwrap();
    assert_eq!(
        plan.words,
        ["gpuferry.bind=0000:00:01.0/00.0=10de:2204:1458:403b,0000:00:01.0/00.1=10de:1aef:1458:403b"]
    );
    let describe: Vec<_> = plan.steps.iter().map(FileStep::describe).collect();
    assert_eq!(
        describe,
        [
            "make folder /etc/default/grub.d",
            "write /etc/default/grub.d/zz-gpuferry.cfg",
            "write /etc/initramfs-tools/hooks/gpuferry",
            "make folder /etc/initramfs-tools/scripts",
            "make folder /etc/initramfs-tools/scripts/init-top",
            "write /etc/initramfs-tools/scripts/init-top/gpuferry",
            "make the initramfs of Linux 6.1.0-1 again",
            "make the initramfs of Linux 6.12.0-2 again",
            "make /boot/grub/grub.cfg again",
        ]
    );
    assert!(plan.notes.iter().any(|note| note.contains("goes dark")), "{:?}", plan.notes);
}

#[test]
fn one_twin_goes_and_the_other_stays() {
    let plan = files(&with_twin(), &sources(), &goal(&["02:00.0"])).unwrap();
    assert!(plan.words[0].starts_with("gpuferry.bind=0000:00:02.0/00.0=10de:2204"));
    assert!(!plan.words[0].contains("00:01.0"));
    assert!(plan.notes.iter().any(|note| note.contains("0000:01:00.0 is identical and stays")));
    let refused = files(&with_twin(), &sources(), &by_ids(&["02:00.0"])).unwrap_err();
    assert_eq!(refused.status, Status::Refused);
    assert!(refused.message.contains("0000:01:00.0"), "{refused}");
    let both = files(&with_twin(), &sources(), &by_ids(&["02:00.0", "01:00.0"])).unwrap();
    assert_eq!(
        both.words,
        ["vfio-pci.ids=10de:2204:1458:403b,10de:1aef:1458:403b", "gpuferry.load=vfio-pci"]
    );
    let both = files(&with_twin(), &sources(), &goal(&["02:00.0", "01:00.0", "02:00.1"])).unwrap();
    assert_eq!(both.words.len(), 2);
}

#[test]
fn what_is_so_already_needs_no_step() {
    let mut sources = sources();
    let plan = files(&debian(), &sources, &goal(&["01:00.0"])).unwrap();
    for step in &plan.steps {
        if let FileStep::Write { path, content, .. } = step {
            sources.own.insert(path.clone(), content.clone());
        }
    }
    assert!(files(&debian(), &sources, &goal(&["01:00.0"])).unwrap().steps.is_empty());
    // Another word alone leaves the images as they are.
    sources.own.insert(GRUB_DROP_IN.into(), "# other\n".into());
    sources.folders.insert("/etc/default/grub.d".into());
    let plan = files(&debian(), &sources, &goal(&["01:00.0"])).unwrap();
    assert!(matches!(plan.steps.as_slice(), [FileStep::Write { .. }, FileStep::Derive(Derived::GrubDebian)]));
    // A newer script does not.
    sources.own.insert(INIT_TOP.into(), "#!/bin/sh\n".into());
    let plan = files(&debian(), &sources, &goal(&["01:00.0"])).unwrap();
    assert!(plan.steps.iter().any(|step| matches!(step, FileStep::Derive(Derived::InitramfsTools { .. }))));
    assert!(sources.own[Path::new(HOOK)] == early::HOOK);
}

#[test]
fn the_iommu_gets_a_word_only_where_one_helps() {
    let mut host = debian();
    host.iommu.state = Known::Off;
    assert_eq!(files(&host, &sources(), &goal(&["01:00.0"])).unwrap().words[0], "intel_iommu=on");
    host.kernel.cmdline = Some("quiet intel_iommu=off".into());
    assert_eq!(files(&host, &sources(), &goal(&["01:00.0"])).unwrap().words[0], "intel_iommu=on");

    host.kernel.cmdline = Some("quiet iommu=pt,off".into());
    let mut settings = sources();
    settings.grub[0].1 = "GRUB_CMDLINE_LINUX=\"iommu=pt,off\"\n".into();
    let error = files(&host, &settings, &goal(&["01:00.0"])).unwrap_err();
    assert_eq!(error.status, Status::Blocked);
    assert!(error.message.contains("/etc/default/grub"), "{error}");

    (host.acpi.dmar, host.acpi.ivrs) = (Some(false), Some(true));
    host.kernel.cmdline = Some("amd_iommu=off".into());
    let error = files(&host, &sources(), &goal(&["01:00.0"])).unwrap_err();
    assert!(error.message.contains("amd_iommu=off"), "{error}");

    (host.acpi.dmar, host.acpi.ivrs) = (Some(false), Some(false));
    let error = files(&host, &sources(), &goal(&["01:00.0"])).unwrap_err();
    assert_eq!(error.status, Status::Blocked);
    assert!(error.to_string().contains("VT-d"), "{error}");

    host.iommu.state = Known::Unknown;
    assert_eq!(files(&host, &sources(), &goal(&["01:00.0"])).unwrap_err().status, Status::Blocked);
}

#[test]
fn what_the_host_needs_is_refused_and_companions_block() {
    let mut host = debian();
    host.storage = Some(vec![Disk {
        name: "nvme0n1".into(),
        function: Some(at("03:00.0")),
        uses: vec![mounted("nvme0n1p2", "/")],
    }]);
    let error = files(&host, &sources(), &goal(&["03:00.0"])).unwrap_err();
    assert_eq!(error.status, Status::Refused);
    assert!(error.to_string().contains("mounted at /"), "{error}");

    let mut host = debian();
    host.functions[4].iommu_group = Some(15);
    host.groups.iter_mut().find(|group| group.id == 15).unwrap().functions.push(at("04:00.0"));
    let error = files(&host, &sources(), &goal(&["01:00.0"])).unwrap_err();
    assert_eq!(error.status, Status::Blocked);
    assert!(error.to_string().contains("0000:04:00.0"), "{error}");

    let error = files(&debian(), &sources(), &goal(&["09:00.0"])).unwrap_err();
    assert_eq!(error.status, Status::Usage);
    assert!(error.to_string().contains("--gpu 0000:01:00.0"), "{error}");
}

#[test]
fn broken_settings_block_and_are_placed() {
    let mut sources = sources();
    sources.grub[0].1 = "GRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\" iommu=pt\n".into();
    let error = files(&debian(), &sources, &goal(&["01:00.0"])).unwrap_err();
    assert_eq!(error.status, Status::Blocked);
    let text = error.to_string();
    assert!(
        text.contains("/etc/default/grub, line 2, column 36") && text.contains("[grub-quoting-broken]"),
        "{text}"
    );
}

#[test]
fn a_plan_file_is_for_one_machine_and_not_for_editing() {
    let path = Path::new("p.json");
    let plan = files(&with_twin(), &sources(), &goal(&["02:00.0"])).unwrap();
    let text = serde_json::to_string_pretty(&PlanFile::from(&plan)).unwrap();
    let file = parse(path, text.as_bytes()).unwrap();
    compare(path, &file, &plan).unwrap();

    for edited in
        [text.replace("02:00.0", "01:00.0"), text.replace("vfio", "evil"), text.replace("0644", "0600")]
    {
        if edited != text {
            assert_eq!(parse(path, edited.as_bytes()).unwrap_err().status, Status::Usage);
        }
    }
    for broken in ["", "{}", "[1]", &text[..text.len() / 2], &text.replacen('{', "{\"x\":1,", 1)] {
        let error = parse(path, broken.as_bytes()).unwrap_err();
        assert_eq!(error.status, Status::Usage, "{error}");
    }
    assert_eq!(parse(path, &vec![b' '; 2 << 20]).unwrap_err().status, Status::Usage);

    let mut elsewhere = sources();
    elsewhere.machine = Some("another".into());
    let now = files(&with_twin(), &elsewhere, &file.goal).unwrap();
    let error = compare(path, &file, &now).unwrap_err();
    assert_eq!((error.status, error.message.contains("another machine")), (Status::Refused, true));

    let mut host = with_twin();
    host.boot.kernels.pop();
    let error = compare(path, &file, &files(&host, &sources(), &file.goal).unwrap()).unwrap_err();
    assert_eq!(error.status, Status::Refused);
}
