//! How long a look takes, and how much memory: `cargo bench --bench inspect`.
//!
//! Machines are made here, as archives: a desktop of 60 functions and a server of 10,000, most of them virtual
//! functions of network cards. The program is started for each look, as a person starts it, so that reading the
//! archive counts. Prints the median of several runs and the peak of memory (VmHWM in /proc/PID/status).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench that cannot go on should say where")]

use std::{
    fmt::Write,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A saved tree that is written as an archive.
struct Machine {
    archive: tar::Builder<Vec<u8>>,
    functions: usize,
}

impl Machine {
    fn new() -> Self {
        let mut machine = Self { archive: tar::Builder::new(Vec::new()), functions: 0 };
        machine.file("proc/cpuinfo", "vendor_id\t: AuthenticAMD\nmodel name\t: A CPU\nflags\t\t: svm\n");
        machine.file("proc/interrupts", " 0: 9 IR-IO-APIC 2-edge timer\n");
        machine.file("proc/cmdline", "root=/dev/nvme0n1p1 iommu=pt\n");
        machine.file("sys/firmware/acpi/tables/IVRS", "");
        machine.file("proc/self/mountinfo", "28 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw\n");
        machine
    }

    fn file(&mut self, path: &str, text: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        self.archive.append_data(&mut header, path, text.as_bytes()).unwrap();
    }

    fn link(&mut self, path: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        self.archive.append_link(&mut header, path, target).unwrap();
    }

    /// A function as sysfs has it, with what is read and some that is not.
    fn function(
        &mut self,
        place: &str,
        class: &str,
        vendor: u16,
        device: u16,
        driver: &str,
        physical: Option<&str>,
    ) {
        let folder = format!("sys/devices/{place}");
        let address = place.rsplit('/').next().unwrap();
        let group = self.functions;
        self.functions += 1;
        let up = "../".repeat(folder.matches('/').count());
        self.file(
            &format!("{folder}/modalias"),
            &format!(
                "pci:v0000{vendor:04X}d0000{device:04X}sv00001028sd00000001bc{}sc{}i{}\n",
                &class[0..2],
                &class[2..4],
                &class[4..6]
            ),
        );
        let config: String =
            (0..64).map(|at| if at == 14 && class.starts_with("0604") { '\u{1}' } else { '\u{0}' }).collect();
        for (name, text) in [
            ("class", format!("0x{class}\n")),
            ("vendor", format!("0x{vendor:04x}\n")),
            ("device", format!("0x{device:04x}\n")),
            ("revision", "0x01\n".into()),
            ("power_state", "D0\n".into()),
            ("power/runtime_status", "active\n".into()),
            ("driver_override", "(null)\n".into()),
            ("current_link_speed", "16.0 GT/s PCIe\n".into()),
            ("current_link_width", "16\n".into()),
            ("max_link_speed", "16.0 GT/s PCIe\n".into()),
            ("max_link_width", "16\n".into()),
            ("numa_node", "0\n".into()),
            ("config", config),
        ] {
            self.file(&format!("{folder}/{name}"), &text);
        }
        self.link(&format!("{folder}/driver"), &format!("{up}bus/pci/drivers/{driver}"));
        self.link(&format!("{folder}/iommu_group"), &format!("{up}kernel/iommu_groups/{group}"));
        self.file(&format!("sys/kernel/iommu_groups/{group}/type"), "DMA-FQ\n");
        self.link(
            &format!("sys/kernel/iommu_groups/{group}/devices/{address}"),
            &format!("../../../../devices/{place}"),
        );
        self.link(&format!("sys/bus/pci/devices/{address}"), &format!("../../../devices/{place}"));
        if let Some(physical) = physical {
            self.link(&format!("{folder}/physfn"), &format!("../{physical}"));
        }
    }

    fn interface(&mut self, place: &str, number: usize) {
        self.file(&format!("sys/devices/{place}/net/eth{number}/operstate"), "up\n");
        self.link(&format!("sys/class/net/eth{number}"), &format!("../../devices/{place}/net/eth{number}"));
    }

    fn disk(&mut self, place: &str, number: usize) {
        let folder = format!("sys/devices/{place}/nvme/nvme{number}/nvme{number}n1");
        self.file(&format!("{folder}/dev"), &format!("259:{}\n", number * 4));
        self.file(&format!("{folder}/nvme{number}n1p1/dev"), &format!("259:{}\n", number * 4 + 1));
        self.link(
            &format!("sys/block/nvme{number}n1"),
            &format!("../devices/{place}/nvme/nvme{number}/nvme{number}n1"),
        );
    }
}

/// A desktop: bridges, two cards with audio, disks, a network card.
fn desktop() -> Machine {
    let mut machine = Machine::new();
    machine.function("pci0000:00/0000:00:00.0", "060000", 0x1022, 0x14d8, "none", None);
    for port in 1..29 {
        let bridge = format!("pci0000:00/0000:00:{port:02x}.0");
        machine.function(&bridge, "060400", 0x1022, 0x14db, "pcieport", None);
        let below = format!("{bridge}/0000:{port:02x}:00.");
        match port {
            1 | 2 => {
                machine.function(&format!("{below}0"), "030000", 0x10de, 0x2204, "nvidia", None);
                machine.function(&format!("{below}1"), "040300", 0x10de, 0x1aef, "snd_hda_intel", None);
            }
            3 => {
                machine.function(&format!("{below}0"), "010802", 0x144d, 0xa808, "nvme", None);
                machine.disk(&format!("{below}0"), 0);
            }
            4 => {
                machine.function(&format!("{below}0"), "020000", 0x8086, 0x15f3, "igc", None);
                machine.interface(&format!("{below}0"), 0);
            }
            _ => machine.function(&format!("{below}0"), "0c0330", 0x1022, 0x15b6, "xhci_hcd", None),
        }
    }
    machine.function("pci0000:00/0000:00:1f.0", "060100", 0x1022, 0x790e, "none", None);
    machine
}

/// A server: eight cards, eight disks, and network cards with virtual functions up to the number.
fn server(functions: usize) -> Machine {
    let mut machine = Machine::new();
    machine.function("pci0000:00/0000:00:00.0", "060000", 0x1022, 0x14a4, "none", None);
    let (mut bus, mut number) = (1, 0);
    for at in 0..8 {
        let bridge = format!("pci0000:00/0000:00:{:02x}.0", at + 1);
        machine.function(&bridge, "060400", 0x1022, 0x14a5, "pcieport", None);
        machine.function(&format!("{bridge}/0000:{bus:02x}:00.0"), "030200", 0x10de, 0x2330, "nvidia", None);
        let bridge = format!("pci0000:00/0000:00:{:02x}.1", at + 1);
        machine.function(&bridge, "060400", 0x1022, 0x14a5, "pcieport", None);
        let disk = format!("{bridge}/0000:{:02x}:00.0", bus + 1);
        machine.function(&disk, "010802", 0x144d, 0xa808, "nvme", None);
        machine.disk(&disk, at);
        bus += 2;
    }
    let (mut domain, mut port) = (1, 0);
    while machine.functions < functions {
        let bridge = format!("pci{domain:04x}:00/{domain:04x}:00:{port:02x}.0");
        machine.function(&bridge, "060400", 0x1022, 0x14a5, "pcieport", None);
        let bus = port + 1;
        let physical = format!("{domain:04x}:{bus:02x}:00.0");
        machine.function(&format!("{bridge}/{physical}"), "020000", 0x8086, 0x1592, "ice", None);
        machine.interface(&format!("{bridge}/{physical}"), number);
        number += 1;
        for own in 1..256 {
            if machine.functions >= functions {
                break;
            }
            let place = format!("{bridge}/{domain:04x}:{bus:02x}:{:02x}.{}", own / 8, own % 8);
            let free = own % 2 == 0;
            let driver = if free { "vfio-pci" } else { "iavf" };
            machine.function(&place, "020000", 0x8086, 0x1889, driver, Some(&physical));
            if !free {
                machine.interface(&place, number);
                number += 1;
            }
        }
        port += 1;
        if port == 8 {
            (domain, port) = (domain + 1, 0);
        }
    }
    machine
}

/// One run: how long, and the most memory in KiB.
fn run(binary: &str, archive: &Path, words: &[&str]) -> (Duration, u64) {
    let begun = Instant::now();
    let mut child =
        Command::new(binary).arg("--host").arg(archive).args(words).stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let high = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = peak.max(high.and_then(|high| high.split_whitespace().next()?.parse().ok()).unwrap_or(0));
        if child.try_wait().unwrap().is_some() {
            return (begun.elapsed(), peak);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn measure(binary: &str, name: &str, archive: &Path, words: &[&str], runs: usize) -> f64 {
    let mut times = Vec::new();
    let mut peak = 0;
    for _ in 0..runs {
        let (time, memory) = run(binary, archive, words);
        times.push(time.as_secs_f64() * 1000.0);
        peak = peak.max(memory);
    }
    times.sort_by(f64::total_cmp);
    let median = times[runs / 2];
    let shown = words.iter().fold(String::new(), |mut text, word| {
        let _ = write!(text, "{word} ");
        text
    });
    println!("{name:<8} {shown:<26} {median:>9.1} ms  {peak:>7} KiB at most  ({runs} runs)");
    median
}

/// What is measured.
const LOOKS: [&[&str]; 4] =
    [&["inspect", "--json"], &["inspect", "devices", "--json"], &["inspect"], &["doctor"]];

fn main() {
    let folder = std::env::temp_dir().join(format!("gpuferry-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let binary = env!("CARGO_BIN_EXE_gpuferry");
    let keep = std::env::var_os("GPUFERRY_BENCH_KEEP").is_some();
    let mut medians = Vec::new();
    for (name, machine, runs) in [("desktop", desktop(), 31), ("server", server(10_000), 5)] {
        let functions = machine.functions;
        let archive = folder.join(format!("{name}.tar"));
        fs::write(&archive, machine.archive.into_inner().unwrap()).unwrap();
        println!("{name}: {functions} functions");
        medians.push(LOOKS.map(|words| measure(binary, name, &archive, words, runs)));
    }
    if let [desktop, server] = &medians[..] {
        println!("the server's time in the desktop's (the server has 167 times the functions)");
        for (words, (desktop, server)) in LOOKS.iter().zip(desktop.iter().zip(server)) {
            println!("{:<35} {:>9.1} times", words.join(" "), server / desktop);
        }
    }
    if keep {
        println!("kept in {}", folder.display());
    } else {
        fs::remove_dir_all(&folder).unwrap();
    }
}
