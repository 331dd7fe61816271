//! One small machine in every form that people paste: a processor's host bridge, a root port, a card with its sound
//! behind it, and a disk controller.

use super::{machine, text};
use gpuferry::host::{Host, Known};

/// What every form that has groups and ids must tell.
pub(crate) fn check(form: &str, host: &Host) {
    let at = |address: &str| {
        host.function(address.parse().unwrap())
            .unwrap_or_else(|| panic!("{form}: no {address} in {:#?}", host.functions))
    };
    let groups: Vec<(u32, Vec<String>)> = host
        .groups
        .iter()
        .map(|group| (group.id, group.functions.iter().map(ToString::to_string).collect()))
        .collect();
    let expected = vec![
        (0, vec!["0000:00:00.0".to_owned()]),
        (2, vec!["0000:00:01.0".to_owned(), "0000:01:00.0".to_owned(), "0000:01:00.1".to_owned()]),
        (11, vec!["0000:02:00.0".to_owned()]),
    ];
    assert_eq!(groups, expected, "{form}");
    assert_eq!(host.iommu.state, Known::On, "{form}");
    if at("01:00.0").id().is_some() {
        assert_eq!(at("01:00.0").id().unwrap().to_string(), "10de:2204", "{form}");
        assert_eq!(at("01:00.1").id().unwrap().to_string(), "10de:1aef", "{form}");
        assert_eq!(at("00:01.0").id().unwrap().to_string(), "8086:460d", "{form}");
    }
    if at("01:00.0").class.0 != 0 {
        assert_eq!(at("01:00.0").class.subclass(), 0x0300, "{form}");
        assert_eq!(host.gpus.len(), 1, "{form}");
        assert!(at("00:01.0").is_pci_bridge(), "{form}");
        let gpu = &host.gpus[0];
        assert_eq!((gpu.functions.len(), gpu.companions.len()), (2, 0), "{form}");
    }
    assert_eq!(host.unseen, Vec::<String>::new(), "{form}");
}

const HOST: &str =
    "Host bridge [0600]: Intel Corporation 12th Gen Core Processor Host Bridge [8086:4660] (rev 02)";
const PORT: &str = "PCI bridge [0604]: Intel Corporation 12th Gen Core Processor PCI Express x16 Controller #1 [8086:460d] (rev 02)";
const CARD: &str =
    "VGA compatible controller [0300]: NVIDIA Corporation GA102 [GeForce RTX 3090] [10de:2204] (rev a1)";
const SOUND: &str =
    "Audio device [0403]: NVIDIA Corporation GA102 High Definition Audio Controller [10de:1aef] (rev a1)";
const DISK: &str =
    "Non-Volatile memory controller [0108]: Samsung Electronics Co Ltd NVMe SSD Controller [144d:a808]";

/// Group, address and line, in the order of a shell's pattern: by the group's name, not by its number.
fn rows() -> [(u32, &'static str, &'static str); 5] {
    [
        (0, "00:00.0", HOST),
        (11, "02:00.0", DISK),
        (2, "00:01.0", PORT),
        (2, "01:00.0", CARD),
        (2, "01:00.1", SOUND),
    ]
}

pub(crate) fn rows_as(form: impl Fn(u32, &str, &str) -> String) -> String {
    rows().iter().map(|(group, address, line)| form(*group, address, line)).collect()
}

/// A heading for each group, then its rows.
pub(crate) fn headed(
    heading: impl Fn(u32) -> String,
    row: impl Fn(u32, &str, &str) -> String,
    end: &str,
) -> String {
    let mut written = String::new();
    let mut last = None;
    for (group, address, line) in rows() {
        if last != Some(group) {
            if last.is_some() {
                written += end;
            }
            written += &heading(group);
        }
        last = Some(group);
        written += &row(group, address, line);
    }
    written
}

#[test]
#[allow(clippy::too_many_lines, reason = "a list")]
fn every_group_script_says_the_same() {
    let forms: Vec<(&str, String)> = vec![
        ("heading and tab", headed(|g| format!("IOMMU Group {g}:\n"), |_, a, l| format!("\t{a} {l}\n"), "")),
        (
            "heading and spaces",
            headed(|g| format!("IOMMU Group {g}:\n"), |_, a, l| format!("        {a} {l}\n"), "\n"),
        ),
        (
            "heading, not set off",
            headed(|g| format!("IOMMU Group {g}:\n"), |_, a, l| format!("{a} {l}\n"), ""),
        ),
        (
            "capitals and numbers in brackets",
            headed(|g| format!("IOMMU GROUP {g}\n"), |g, a, l| format!(" ({g}) {a} {l}\n"), ""),
        ),
        ("everything in a line", rows_as(|g, a, l| format!("IOMMU Group {g} {a} {l}\n"))),
        ("a colon in the line", rows_as(|g, a, l| format!("IOMMU Group {g}: {a} {l}\n"))),
        ("columns", rows_as(|g, a, l| format!("Group:  {g:<3} 0000:{a} {l}   Driver: x-y\n"))),
        ("no driver", rows_as(|g, a, l| format!("Group:  {g:<3} 0000:{a} {l}   Driver:\n"))),
        (
            "ids first",
            headed(
                |g| format!("IOMMU group {g}:"),
                |_, a, l| {
                    let (class, rest) = l.split_once(" [").unwrap();
                    let (_, rest) = rest.split_once("]: ").unwrap();
                    let (name, id) = rest.rsplit_once(" [").unwrap();
                    let (id, revision) = id.split_once(']').unwrap();
                    format!("\t[{id}] {a} {class}: {name}{revision}\n")
                },
                "",
            ),
        ),
        (
            "marks",
            headed(
                |g| format!("### IOMMU Group {g}\n"),
                |_, a, l| format!("- `{a}` {l}\n").replace('`', ""),
                "\n",
            ),
        ),
        ("stars", headed(|g| format!("**IOMMU Group {g}**\n"), |_, a, l| format!("* {a} {l}\n"), "\n")),
        (
            "a line of the whole path",
            rows_as(|g, a, _| format!("/sys/kernel/iommu_groups/{g}/devices/0000:{a}\n")),
        ),
        ("a path from inside", rows_as(|g, a, _| format!("./{g}/devices/0000:{a}\n"))),
        (
            "folders as ls has them",
            headed(
                |g| format!("/sys/kernel/iommu_groups/{g}/devices:\n"),
                |_, a, _| format!("0000:{a}\n"),
                "\n",
            ),
        ),
        (
            "long folders",
            headed(
                |g| format!("/sys/kernel/iommu_groups/{g}/devices/:\ntotal 0\n"),
                |_, a, _| {
                    format!(
                        "lrwxrwxrwx 1 root root 0 Jan  1 10:00 0000:{a} -> ../../../../devices/pci0000:00/0000:{a}\n"
                    )
                },
                "\n",
            ),
        ),
        (
            "links of devices",
            rows_as(|g, a, _| {
                format!(
                    "lrwxrwxrwx 1 root root 0 May 1 08:00 /sys/bus/pci/devices/0000:{a}/iommu_group -> ../../../kernel/iommu_groups/{g}\n"
                )
            }),
        ),
        (
            "the kernel's log",
            rows_as(|g, a, _| format!("[    0.{g:06}] pci 0000:{a}: Adding to iommu group {g}\n")),
        ),
        (
            "the log of old kernels",
            rows_as(|g, a, _| format!("[    0.{g:06}] iommu: Adding device 0000:{a} to group {g}\n")),
        ),
        (
            "syslog",
            rows_as(|g, a, _| {
                format!("Jan  1 10:00:00 box kernel: pci 0000:{a}: Adding to iommu group {g}\n")
            }),
        ),
        (
            "a log without line ends",
            rows_as(|g, a, _| format!("[0.{g:06}] pci 0000:{a}: Adding to iommu group {g}")),
        ),
        ("a log without spaces", rows_as(|g, a, _| format!("[0.{g:06}]pci0000:{a}:Addingtoiommugroup{g}\n"))),
        (
            "a log that a mail program broke",
            rows_as(|g, a, _| format!("[    0.{g:06}] pci 0000:{a}: Adding to iommu\ngroup {g}\n")),
        ),
        (
            "a table",
            format!(
                "| IOMMU Group | Address | Description |\n|---|---|---|\n{}",
                rows_as(|g, a, l| format!("| {g} | {a} | {l} |\n"))
            ),
        ),
        (
            "lspci -v",
            rows_as(|g, a, l| {
                format!(
                    "{a} {l}\n\tSubsystem: X [1458:403b]\n\tFlags: bus master, fast devsel, latency 0, IRQ 5, IOMMU group {g}\n\tKernel modules: nouveau\n\n"
                )
            }),
        ),
        (
            "lspci -vv",
            rows_as(|g, a, l| {
                format!(
                    "{a} {l}\n\tSubsystem: X [1458:403b]\n\tControl: I/O- Mem+\n\tLatency: 0\n\tIOMMU group: {g}\n\n"
                )
            }),
        ),
        (
            "lspci -vv, not set off",
            rows_as(|g, a, l| {
                format!(
                    "{a} {l}\nSubsystem: X [1458:403b]\nControl: I/O- Mem+\nLatency: 0\nIOMMU group: {g}\n\n"
                )
            }),
        ),
        (
            "lspci that a mail program broke",
            headed(
                |g| format!("IOMMU Group {g}:\n"),
                |_, a, l| format!("\t{a} {}\n", l.replacen(": ", ":\n", 1)),
                "",
            ),
        ),
        (
            "a tail that a mail program broke",
            rows_as(|g, a, l| {
                let (front, back) = l.rsplit_once(" [").unwrap();
                format!("IOMMU Group {g} {a} {front}\n[{back}\n")
            }),
        ),
        (
            "quoted on a web page",
            headed(|g| format!("&gt; IOMMU Group {g}:\n"), |_, a, l| format!("&gt; \t{a} {l}\n"), ""),
        ),
        ("numbered", headed(|g| format!("   {g}\tIOMMU Group {g}:\n"), |_, a, l| format!("\t{a} {l}\n"), "")),
    ];
    for (form, written) in forms {
        check(form, &machine(&[text("paste", &written)]));
    }
}

#[test]
fn records_for_machines() {
    let ids = "Slot:\t0000:01:00.0\nClass:\t0300\nVendor:\t10de\nDevice:\t2204\nSVendor:\t1458\nSDevice:\t403b\nRev:\ta1\nProgIf:\t00\nDriver:\tnvidia\nModule:\tnouveau\nModule:\tnvidia\nIOMMUGroup:\t2\n\n";
    let names = "Slot:\t01:00.0\nClass:\tVGA compatible controller [0300]\nVendor:\tNVIDIA Corporation [10de]\nDevice:\tGA102 [GeForce RTX 3090] [2204]\nSVendor:\tX [1458]\nSDevice:\tDevice [403b]\nRev:\ta1\nProgIf:\t00\nDriver:\tnvidia\nModule:\tnouveau\nModule:\tnvidia\nIOMMUGroup:\t2\n";
    let one_line = "01:00.0 \"VGA compatible controller [0300]\" \"NVIDIA Corporation [10de]\" \"GA102 [GeForce RTX 3090] [2204]\" -ra1 -p00 \"X [1458]\" \"Device [403b]\"\n";
    for form in [ids, names, one_line] {
        let host = machine(&[text("paste", form)]);
        let card = host.function("01:00.0".parse().unwrap()).unwrap();
        assert_eq!(card.id().unwrap().to_string(), "10de:2204", "{form}");
        assert_eq!(card.subsystem().unwrap().to_string(), "1458:403b", "{form}");
        assert_eq!((card.class.0, card.revision), (0x03_0000, Some(0xa1)), "{form}");
        if form != one_line {
            assert_eq!(
                (card.driver.as_deref(), card.iommu_group, card.modules.len()),
                (Some("nvidia"), Some(2), 2)
            );
        }
        assert_eq!(host.unseen, Vec::<String>::new());
    }
}

#[test]
fn details_of_lspci() {
    let host = machine(&[text(
        "paste",
        concat!(
            "00:01.0 PCI bridge [0604]: Intel Corporation Port [8086:460d] (rev 02) (prog-if 00 [Normal decode])\n",
            "\tBus: primary=00, secondary=01, subordinate=01, sec-latency=0\n",
            "\tCapabilities: [a0] Express (v2) Root Port (Slot+), MSI 00\n",
            "\t\tDevCap:\tMaxPayload 256 bytes, PhantFunc 0\n",
            "\t\tLnkCap:\tPort #2, Speed 16GT/s, Width x16, ASPM L1, Exit Latency L1 <16us\n",
            "\t\tLnkSta:\tSpeed 2.5GT/s (downgraded), Width x16\n",
            "\tCapabilities: [140 v1] Access Control Services\n",
            "\t\tACSCap:\tSrcValid+ TransBlk+ ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans-\n",
            "\t\tACSCtl:\tSrcValid+ TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans-\n",
            "\tKernel driver in use: pcieport\n\n",
            "01:00.0 VGA compatible controller [0300]: Advanced Micro Devices, Inc. [AMD/ATI] Navi 21 [1002:73bf] (rev c1) (prog-if 00 [VGA controller])\n",
            "\tSubsystem: Sapphire Technology Limited Navi 21 [1da2:e438]\n",
            "\tControl: I/O+ Mem+ BusMaster+\n",
            "\tCapabilities: [50] Power Management version 3\n",
            "\t\tFlags: PMEClk- DSI- D1+ D2+\n",
            "\t\tStatus: D3 NoSoftRst+ PME-Enable-\n",
            "\tCapabilities: [64] Express (v2) Legacy Endpoint, MSI 00\n",
            "\t\t\tExtTag+ AttnBtn- AttnInd- PwrInd- RBE+ FLReset-\n",
            "\tCapabilities: [200 v1] Physical Resizable BAR\n",
            "\t\tBAR 0: current size: 256MB, supported: 256MB 512MB 1GB 16GB\n",
            "\tKernel driver in use: amdgpu\n",
            "\tKernel modules: amdgpu, radeon\n",
        ),
    )]);
    let json = serde_json::to_value(&host).unwrap();
    let port = &json["functions"][0];
    assert_eq!(port["header_type"], 1);
    assert_eq!(port["link"]["max_speed_gts"], 16.0);
    assert_eq!(port["link"]["speed_gts"], 2.5);
    assert_eq!(port["config"]["express"]["kind"], "root-port");
    assert_eq!(
        port["config"]["acs"]["present"]["on"],
        serde_json::json!(["SrcValid", "ReqRedir", "CmpltRedir", "UpstreamFwd"])
    );
    let card = &json["functions"][1];
    assert_eq!((card["device"].as_str(), card["subsystem_device"].as_str()), (Some("73bf"), Some("e438")));
    assert_eq!(
        (card["path"].as_str(), card["parent"].as_str()),
        (Some("0000:00:01.0/00.0"), Some("0000:00:01.0"))
    );
    assert_eq!(card["config"]["acs"], "missing");
    assert_eq!(
        (card["config"]["flr"].as_bool(), card["config"]["power_state"].as_u64()),
        (Some(false), Some(3))
    );
    assert_eq!(card["config"]["resizable"][0]["sizes"].as_array().unwrap().len(), 4);
    assert_eq!(card["modules"], serde_json::json!(["amdgpu", "radeon"]));
    assert_eq!(json["iommu"]["state"], "unknown", "no groups are told, none are guessed");
}

#[test]
fn a_hex_dump_tells_what_the_names_do_not() {
    let mut rows = [
        "86 80 0d 46 07 05 10 00 02 00 04 06 00 00 01 00".to_owned(),
        "00 00 00 00 00 00 00 00 00 05 07 00 00 00 00 00".to_owned(),
        vec!["00"; 16].join(" "),
        vec!["00"; 16].join(" "),
    ];
    for (at, row) in rows.iter_mut().enumerate() {
        *row = format!("{:02x}: {row}", at * 16);
    }
    let written = format!(
        "00:01.0 PCI bridge: Intel Corporation Something (rev 02)\n{}\n\n05:00.0 VGA compatible controller: NVIDIA Corporation GA102 (rev a1)\n00: de 10 04 22 07 04\n",
        rows.join("\n")
    );
    let host = machine(&[text("paste", &written)]);
    let port = host.function("00:01.0".parse().unwrap()).unwrap();
    assert_eq!(port.id().unwrap().to_string(), "8086:460d");
    assert_eq!(port.header_type, Some(1));
    assert_eq!(host.function("05:00.0".parse().unwrap()).unwrap().parent, Some("00:01.0".parse().unwrap()));
    assert_eq!(host.unseen, ["paste: line 8 looks like a listing and is not understood"]);
}

#[test]
fn the_kernels_log() {
    let host = machine(&[text(
        "dmesg",
        concat!(
            "[    0.000000] Linux version 6.12.1-amd64 (someone) #1 SMP\n",
            "[    0.000000] Command line: BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro amd_iommu=on iommu=pt\n",
            "[    0.000000] efi: EFI v2.7 by American Megatrends\n",
            "[    0.010000] ACPI: IVRS 0x00000000A3A0B000 0000D0 (v02 AMD)\n",
            "[    0.200000] smpboot: CPU0: AMD Ryzen 7 5800X 8-Core Processor (family: 0x19, model: 0x21, stepping: 0x0)\n",
            "[    0.300000] PCI host bridge to bus 0000:00\n",
            "[    0.310000] pci 0000:00:01.1: [1022:1483] type 01 class 0x060400 PCIe Root Port\n",
            "[    0.310000] pci 0000:00:01.1: PCI bridge to [bus 01]\n",
            "[    0.320000] pci 0000:01:00.0: [10de:2204] type 00 class 0x030000 PCIe Legacy Endpoint\n",
            "[    0.330000] pci 0000:01:00.1: [10de:1aef] type 00 class 0x040300 PCIe Endpoint\n",
            "[    0.340000] iommu: Default domain type: Passthrough (set via kernel command line)\n",
            "[    0.350000] pci 0000:01:00.0: vgaarb: setting as boot VGA device\n",
            "[    0.400000] pci 0000:00:01.1: Adding to iommu group 2\n",
            "[    0.410000] pci 0000:01:00.0: Adding to iommu group 14\n",
            "[    0.420000] pci 0000:01:00.1: Adding to iommu group 14\n",
            "[    0.430000] platform AMDI0030:00: Adding to iommu group 99\n",
            "[    0.500000] AMD-Vi: Interrupt remapping enabled\n",
            "[    4.500000] snd_hda_intel 0000:01:00.1: enabling device (0000 -> 0002)\n",
            "[    9.500000] vfio-pci 0000:01:00.1: resetting\n",
        ),
    )]);
    let card = host.function("01:00.0".parse().unwrap()).unwrap();
    assert_eq!((card.iommu_group, card.boot_vga, card.header_type), (Some(14), Some(true), Some(0)));
    assert_eq!(card.path.as_ref().unwrap().to_string(), "0000:00:01.1/00.0");
    let sound = host.function("01:00.1".parse().unwrap()).unwrap();
    assert_eq!(sound.driver.as_deref(), Some("vfio-pci"), "the last one that spoke");
    assert_eq!(host.groups.len(), 2);
    assert_eq!((host.iommu.interrupt_remapping, host.iommu.passthrough_mode), (Some(true), Some(true)));
    assert_eq!((host.acpi.ivrs, host.boot.uefi), (Some(true), Some(true)));
    assert_eq!(host.kernel.release.as_deref(), Some("6.12.1-amd64"));
    assert!(host.kernel.cmdline.unwrap().ends_with("iommu=pt"));
}

#[test]
fn the_display_that_the_log_changed_its_mind_about() {
    let host = machine(&[text(
        "dmesg",
        concat!(
            "pci 0000:03:00.0: [1002:7480] type 00 class 0x030000\npci 0000:68:00.0: [1002:15bf] type 00 class 0x030000\n",
            "pci 0000:03:00.0: vgaarb: setting as boot VGA device\n",
            "pci 0000:68:00.0: vgaarb: setting as boot VGA device (overriding previous)\n",
        ),
    )]);
    let boot = |address: &str| host.function(address.parse().unwrap()).unwrap().boot_vga;
    assert_eq!((boot("03:00.0"), boot("68:00.0")), (Some(false), Some(true)));
    let old = machine(&[text(
        "dmesg",
        "pci 0000:00:02.0: [8086:1916] type 00 class 0x030000\nvgaarb: setting as boot device: PCI:0000:00:02.0\n",
    )]);
    assert_eq!(old.functions[0].boot_vga, Some(true));
}

#[test]
fn udevs_database() {
    let host = machine(&[text(
        "udev",
        concat!(
            "P: /devices/pci0000:00/0000:00:01.0\nE: DEVPATH=/devices/pci0000:00/0000:00:01.0\nE: DRIVER=pcieport\nE: PCI_CLASS=60400\nE: PCI_ID=8086:460D\nE: PCI_SUBSYS_ID=0000:0000\nE: SUBSYSTEM=pci\n\n",
            "P: /devices/pci0000:00/0000:00:01.0/0000:01:00.0\nM: 0000:01:00.0\nE: DRIVER=nvidia\nE: PCI_CLASS=30000\nE: PCI_ID=10DE:2204\nE: PCI_SUBSYS_ID=1458:403B\nE: ID_VENDOR_FROM_DATABASE=NVIDIA Corporation\nE: ID_MODEL_FROM_DATABASE=GA102\n\n",
            "P: /devices/pci0000:00/0000:00:01.0/0000:01:00.0/drm/card0\nN: dri/card0\nE: DEVNAME=/dev/dri/card0\n\n",
        ),
    )]);
    assert_eq!(host.functions.len(), 2);
    let card = host.function("01:00.0".parse().unwrap()).unwrap();
    assert_eq!(
        (card.id().unwrap().to_string().as_str(), card.class.0, card.driver.as_deref()),
        ("10de:2204", 0x03_0000, Some("nvidia"))
    );
    assert_eq!(card.path.as_ref().unwrap().to_string(), "0000:00:01.0/00.0");
    assert_eq!(card.name.as_deref(), Some("NVIDIA Corporation GA102"));
    assert_eq!(host.unseen, Vec::<String>::new());
}

#[test]
fn what_breaks_off_is_named_and_the_rest_is_kept() {
    let host = machine(&[text(
        "paste",
        "01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GA102 [10de:2204]\n01:00.1 Audio dev",
    )]);
    assert_eq!(host.functions.len(), 1);
    assert_eq!(host.unseen, ["paste: line 2 looks like a listing and is not understood"]);
    let json = machine(&[text("more.json", "{\n \"a\": 1 }")]);
    assert_eq!(json.unseen, ["more.json: JSON, which is not read as a listing"]);
    let prose = machine(&[text("mail", "Hello,\nit does not work.\n")]);
    assert_eq!(prose.unseen, ["mail: nothing in it is a listing that is known here"]);
}

#[test]
fn a_listing_after_a_group_script_is_not_its_last_group() {
    let script = headed(|g| format!("IOMMU Group {g}:\n"), |_, a, l| format!("\t{a} {l}\n"), "");
    for between in ["", "\n", "\nand lspci says:\n", "$ lspci -nn\n"] {
        let written = format!(
            "{script}{between}00:00.0 {HOST}\n00:00.2 IOMMU [0806]: Intel Corporation X [8086:0001]\n"
        );
        let host = machine(&[text("paste", &written)]);
        assert_eq!(host.function("00:00.2".parse().unwrap()).unwrap().iommu_group, None, "{between:?}");
    }
}

#[test]
fn known_facts_are_not_overwritten() {
    let mut host = machine(&[text(
        "first",
        "01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GA102 [10de:2204] (rev a1)\n\tKernel driver in use: vfio-pci\n",
    )]);
    gpuferry::paste::merge(
        &mut host,
        &[text(
            "second",
            "IOMMU Group 7:\n\t01:00.0 3D controller [0302]: NVIDIA Corporation X [10de:2204] (rev a2)\n\tKernel driver in use: nvidia\n",
        )],
    );
    let card = &host.functions[0];
    assert_eq!(
        (card.id().unwrap().to_string().as_str(), card.class.0, card.driver.as_deref()),
        ("10de:2204", 0x03_0000, Some("vfio-pci"))
    );
    assert_eq!((card.revision, card.iommu_group), (Some(0xa1), Some(7)));
}
