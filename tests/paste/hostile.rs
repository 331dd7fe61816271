//! Text that means harm, and text that chance made: no panic, no endless work, no endless memory.

use super::{mutations::Dice, text};
use gpuferry::{
    host::{Host, Source},
    paste,
};
use std::time::{Duration, Instant};

fn merged(written: &str) -> Host {
    let mut host = Host::unknown(Source::Text);
    paste::merge(&mut host, &[text("paste", written)]);
    host
}

/// Pieces that the parsers look for.
const PIECES: [&str; 52] = [
    "*-display\n",
    "bus info: pci@0000:01:00.0",
    "15: PCI 100.0: 0300 VGA\n",
    "SysFS BusID: 0000:01:00.0\n",
    "<device>\n<name>pci_0000_01_00_0</name>\n",
    "<iommuGroup number='7'>",
    "<address domain='0x0000' bus='0x01' slot='0x1f' function='0x7'/>\n",
    "Content-Transfer-Encoding: quoted-printable\n",
    "=C3=\n",
    "&#x5b;&amp;#91;&#99999999;",
    "<br /><strong>\\[",
    "dom0:01_00.0 ",
    "IOMMU Group 1:",
    "Group:  7 ",
    "01:00.0 ",
    "0000:01:00.0",
    "10000:e1:1f.7",
    "[10de:2204]",
    "[0300]: ",
    "VGA compatible controller",
    "NVIDIA Corporation Device 2204",
    "(rev a1)",
    "(prog-if 30 [XHCI])",
    "\n",
    "\n\n",
    "\t",
    "> ",
    "```",
    "00: de 10 04 22 07 04 10 00 a1 00 00 03 00 00 80 00",
    "f0: ff",
    "-[0000:00]-+-",
    "+-01.0-[01-ff]--",
    "\\-1f.7",
    "P: /devices/pci0000:00/0000:00:01.0",
    "E: PCI_CLASS=30000",
    "E: PCI_ID=10DE:2204",
    "Slot:\t",
    "IOMMUGroup:\t3",
    ": Adding to iommu group ",
    "vgaarb: setting as boot VGA device",
    "] type 01 class 0x060400",
    "PCI bridge to [bus 01-02]",
    "/sys/kernel/iommu_groups/1/devices/",
    "Bus: primary=00, secondary=01, subordinate=ff",
    "VF offset: 4294967, stride: 4294967",
    "Number of VFs: 65535, Total VFs: 65535",
    "Initial VFs: 8, Total VFs: 8, Number of VFs: 4",
    "| group | id |",
    "é",
    "\u{1b}[",
    "\u{0}",
    "Kernel driver in use: vfio-pci",
];

#[test]
fn chance_breaks_nothing() {
    let mut dice = Dice(0xf00d);
    for _ in 0..4000 {
        let mut written = String::new();
        for _ in 0..dice.below(40) {
            written.push_str(PIECES[dice.below(PIECES.len())]);
            if dice.below(6) == 0 {
                written.truncate(
                    (0..=dice.below(written.len()))
                        .rev()
                        .find(|at| written.is_char_boundary(*at))
                        .unwrap_or(0),
                );
            }
        }
        let host = merged(&written);
        assert!(host.unseen.len() < 64, "{written}");
    }
}

#[test]
fn much_of_everything_takes_little_time() {
    let mut long = Vec::new();
    for piece in PIECES {
        long.push(piece.repeat(400_000 / piece.len()));
        long.push(format!("{piece}\n").repeat(400_000 / (piece.len() + 1)));
    }
    for written in long {
        let begin = Instant::now();
        merged(&written);
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?}: {}", written.get(..60).unwrap_or_default());
    }
}

#[test]
fn functions_without_end_are_counted_and_left_out() {
    let row = |n: u32| {
        format!("{:04x}:{:02x}:00.0 VGA compatible controller [0300]: X [10de:2204]", n >> 8, n & 0xff)
    };
    let rows = (0..40_000).map(row).collect::<Vec<_>>().join("\n");
    let host = merged(&rows);
    assert_eq!(host.functions.len(), 16_384);
    assert!(host.unseen.iter().any(|note| note.contains("were left out")), "{:?}", host.unseen);
}

#[test]
fn bridges_in_a_circle_end() {
    let host = merged(concat!(
        "01:00.0 PCI bridge [0604]: X [8086:0001]\n\tBus: primary=01, secondary=02, subordinate=02\n\n",
        "02:00.0 PCI bridge [0604]: X [8086:0001]\n\tBus: primary=02, secondary=01, subordinate=01\n\n",
    ));
    assert!(host.functions.iter().all(|function| function.path.is_none()));
}
