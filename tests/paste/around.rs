//! The same small machine as pages, forums, comments and mail programs hand it on.

use super::{
    forms::{check, headed, rows_as},
    machine, text,
};

fn plain() -> String {
    headed(|group| format!("IOMMU Group {group}:\n"), |_, address, line| format!("\t{address} {line}\n"), "")
}

fn each(text: &str, change: impl Fn(&str) -> String) -> String {
    text.lines().map(|line| change(line) + "\n").collect()
}

#[test]
fn what_is_around_a_listing_changes_nothing() {
    let plain = plain();
    let beside = rows_as(|group, address, line| format!("IOMMU Group {group} {address} {line}\n"));
    let references = |text: &str| {
        let text = text.replace('&', "&amp;").replace('[', "&#91;").replace(']', "&#x5D;");
        text.replace('\t', "&nbsp;&nbsp;")
    };
    let printable = |text: &str| {
        // Soft line ends wherever they fall, as mail programs put them.
        let coded = text.replace('=', "=3D").replace('\t', "=C2=A0=C2=A0");
        let cut = |line: &str| {
            let (front, back) = line.split_at(line.len().min(39));
            let inside = front.rfind('=').is_some_and(|at| at + 3 > front.len());
            if inside { format!("{line}\n") } else { format!("{front}=\n{back}\n") }
        };
        let body: String = coded.lines().map(cut).collect();
        format!("Subject: groups\nContent-Transfer-Encoding: quoted-printable\n\n{body}")
    };
    let forms = [
        ("escaped by Markdown", plain.replace('[', "\\[").replace(']', "\\]").replace('_', "\\_")),
        ("as a comment", each(&plain, |line| format!("# {line}"))),
        ("as a comment without a space", each(&beside, |line| format!("#{line}"))),
        ("in bold", each(&plain, |line| format!("<strong>{line}</strong>"))),
        ("in bold of Markdown", each(&beside, |line| format!("**{line}**"))),
        ("as a page's source", format!("<p>{}</p>", references(&plain).replace('\n', "<br />"))),
        ("encoded twice", references(&references(&beside))),
        (
            "coloured by a forum",
            each(&plain, |line| format!("[COLOR=#636363][FONT=Menlo]{line}[/FONT][/COLOR]")),
        ),
        ("in a mail as it is stored", printable(&plain)),
        ("with invisible spaces", each(&plain, |line| format!("\u{200b}{}", line.replace(' ', "\u{a0}")))),
        ("in colours", each(&plain, |line| format!("\u{1b}[01;31m\u{1b}[K{line}\u{1b}[m"))),
        ("as added lines", each(&plain, |line| format!("+{line}"))),
        ("by a French script", beside.replace("IOMMU Group", "Groupe IOMMU")),
        ("by a German script", plain.replace("IOMMU Group", "IOMMU-Gruppe")),
        ("by a Chinese script", plain.replace("IOMMU Group", "IOMMU组")),
        (
            "with the group at the end",
            rows_as(|group, address, line| format!("{address} {line} (IOMMU group {group})\n")),
        ),
    ];
    for (form, listing) in forms {
        check(form, &machine(&[text("t", &listing)]));
    }
}

#[test]
fn usb_devices_below_a_controller_end_no_group() {
    let listing = "IOMMU group 21:\t[1022:149c] 05:00.1 USB controller: Advanced Micro Devices, Inc. [AMD] Matisse\n\
        Bus 001 Device 001 Port 1-0\tID 1d6b:0002 Linux Foundation 2.0 root hub\n\
        [1022:149d] 05:00.3 USB controller: Advanced Micro Devices, Inc. [AMD] Matisse\n";
    let host = machine(&[text("t", listing)]);
    let group: Vec<_> = host.functions.iter().map(|function| function.iommu_group).collect();
    assert_eq!(group, [Some(21), Some(21)]);
    let buses =
        "Bus 3 --> 0000:05:00.3 (IOMMU group 22)\nBus 003 Device 001: ID 1d6b:0002 Linux Foundation hub\n";
    let host = machine(&[text("t", buses)]);
    assert_eq!(host.functions.len(), 1);
    assert_eq!(host.functions[0].iommu_group, Some(22));
}

#[test]
fn sentences_are_neither_devices_nor_complaints() {
    let prose = "Since 03:00.0 and 03:00.1 are in group 5, I bound them.\n\
        0000:03:00.0. But then the\n03:00.0 was suspended between the following 2 prints\n\
        [1043:8769] is the subsystem\nat 12:30.1 it froze, see 6.1.0 and 10.0.0.1\n";
    let host = machine(&[text("t", prose)]);
    assert_eq!(host.functions, []);
    assert_eq!(host.unseen, ["t: nothing in it is a listing that is known here"]);
}

#[test]
fn a_card_that_was_asleep_is_dumped_again() {
    let dump = |bytes: &str| format!("00: {bytes}\n");
    let asleep = dump(&"ff ".repeat(16)) + "10: " + &"ff ".repeat(16) + "\n";
    let awake = dump("de 10 04 22 07 04 10 00 a1 00 00 03 10 00 80 00");
    let listing = format!(
        "01:00.0 VGA compatible controller: NVIDIA Corporation Device 2204 (rev ff)\n{asleep}\n\
        01:00.0 VGA compatible controller: NVIDIA Corporation Device 2204 (rev a1)\n{awake}\n\
        01:00.0 VGA compatible controller: NVIDIA Corporation Device 2204 (rev a1)\n{awake}"
    );
    let host = machine(&[text("t", &listing)]);
    assert_eq!(host.unseen, Vec::<String>::new());
    assert_eq!(host.functions[0].class.0, 0x03_0000);
    assert!(host.functions[0].config.is_some());
}

#[test]
fn two_machines_are_not_mixed() {
    let first = "IOMMU Group 1 01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GA102 [10de:2204] (rev a1)\n\
        IOMMU Group 1 01:00.1 Audio device [0403]: NVIDIA Corporation GA102 Audio [10de:1aef]\n";
    let second = "01:00.0 Ethernet controller [0200]: Intel Corporation I210 [8086:1533] (rev 03)\n\
        \tSubsystem: Intel Corporation [8086:0001]\n\tKernel driver in use: igb\n\
        IOMMU Group 9 01:00.1 Ethernet controller [0200]: Intel Corporation I210 [8086:1533]\n";
    let log = "pci 0000:01:00.0: [1002:67df] type 00 class 0x038000\n";
    let host = machine(&[text("t", &format!("mine:\n{first}\nhis:\n{second}{log}"))]);
    let card = &host.functions[0];
    assert_eq!(card.id().unwrap().to_string(), "10de:2204");
    assert_eq!((card.class.0, card.driver.as_deref(), card.subsystem_vendor), (0x03_0000, None, None));
    assert_eq!(host.groups.iter().map(|group| group.id).collect::<Vec<_>>(), [1]);
    assert_eq!(host.unseen.len(), 1, "{:?}", host.unseen);
    assert!(host.unseen[0].contains("different devices at 0000:01:00.0 and 1 more"), "{:?}", host.unseen);
}

#[test]
fn the_driver_of_one_card_tells_nothing_of_the_others() {
    let listing = plain()
        + "\n\n01:00.0 VGA compatible controller: NVIDIA Corporation GA102\n\tKernel driver in use: vfio-pci\n";
    assert!(!machine(&[text("t", &listing)]).drivers_told);
    let card = "01:00.0 VGA compatible controller: NVIDIA Corporation GA102\n\tKernel driver in use: vfio-pci\n\
        01:00.1 Audio device: NVIDIA Corporation GA102 High Definition Audio Controller\n";
    assert!(machine(&[text("t", card)]).drivers_told);
}
