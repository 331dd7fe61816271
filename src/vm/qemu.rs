//! QEMU's command line for a guest with cards: pure.
//!
//! Cards stand where they stand in the host: what is behind a port there gets a root port of its own here, because
//! drivers expect a PCI Express card; what is on the host's root bus (integrated graphics) is on the root bus here.
//! All functions of a slot stay functions of one slot.

use super::{Accel, Bus, Firmware, Serial, Spec};
use crate::{
    handover::snapshot::Card,
    host::{Function, Host},
    pci::Address,
};
use std::path::{Path, PathBuf};

/// Where a host's function is in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The host's function.
    pub host: Address,
    /// Its id on QEMU's command line, by which QMP shows it.
    pub id: String,
    /// The root port that it is behind; `None`: on the root bus.
    pub port: Option<String>,
    /// Device number on its bus.
    pub slot: u8,
    /// Function number.
    pub function: u8,
}

/// Where the functions of these cards go.
pub fn placement(host: &Host, cards: &[Card]) -> Vec<Placed> {
    let mut placed = Vec::new();
    let mut ports = 0;
    // 0 and 0x1f are the chipset's own; 2 is where drivers look for integrated graphics.
    let mut root_slots = 3..0x10_u8;
    for (number, card) in cards.iter().enumerate() {
        let mut slots: Vec<Address> =
            card.functions.iter().map(|function| function.with_function(0)).collect();
        slots.dedup();
        for slot in slots {
            let functions: Vec<_> =
                card.functions.iter().filter(|function| function.same_slot(slot)).collect();
            let on_root = host.function(*functions[0]).is_some_and(|function| function.parent.is_none());
            let display = functions.iter().any(|f| host.function(**f).is_some_and(Function::is_display));
            let (port, device) = if on_root {
                let free = if display && number == 0 { Some(2) } else { root_slots.next() };
                (None, free.unwrap_or(0x0f))
            } else {
                ports += 1;
                (Some(format!("port{}", ports - 1)), 0)
            };
            // A slot without function 0 is not looked at by a guest: the lowest one becomes it.
            let has_first = functions.iter().any(|function| function.function == 0);
            for (index, function) in functions.iter().enumerate() {
                let guest = if has_first { function.function } else { u8::try_from(index).unwrap_or(7) };
                placed.push(Placed {
                    host: **function,
                    id: format!("card{number}-{}f{guest}", if on_root { device } else { 0 }),
                    port: port.clone(),
                    slot: device,
                    function: guest,
                });
            }
        }
    }
    // Cards whose functions lie in several slots behind ports would share an id: the port tells them apart.
    for item in &mut placed {
        if let Some(port) = &item.port {
            item.id = format!("{port}f{}", item.function);
        }
    }
    placed
}

/// The folder of a guest's sockets and records.
pub fn folder(name: &str) -> PathBuf {
    Path::new(crate::handover::record::RUN).join("vm").join(name)
}

/// In an option list a comma is written twice (QEMU: `-drive`, "to use a comma in a file name").
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The arguments, without the program itself.
pub fn arguments(spec: &Spec, host: &Host) -> Vec<String> {
    let mut args = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(|word| (*word).to_owned()));
    let run = folder(&spec.name);
    add(&["-name", &format!("guest={}", spec.name), "-no-user-config", "-nodefaults", "-display", "none"]);
    add(&["-machine", "q35"]);
    match spec.accel {
        Accel::Kvm => add(&["-accel", "kvm", "-cpu", "host"]),
        Accel::Tcg => add(&["-accel", "tcg", "-cpu", "max"]),
        // QEMU takes the first one that starts; `max` is the host's processor with KVM.
        Accel::KvmOrTcg => add(&["-accel", "kvm", "-accel", "tcg", "-cpu", "max"]),
    }
    add(&["-smp", &spec.cpus.to_string(), "-m", &format!("{}M", spec.memory_mib)]);
    // Paused until somebody listens to it: a guest's first words would be lost.
    add(&["-S", "-qmp", &format!("unix:{},server=on,wait=off", escaped(&run.join("qmp")))]);
    let serial = match &spec.serial {
        Serial::Stdio => {
            Some(format!("socket,id=serial0,path={},server=on,wait=off", escaped(&run.join("serial"))))
        }
        Serial::File(path) => Some(format!("file,id=serial0,path={}", escaped(path))),
        Serial::None => None,
    };
    if let Some(serial) = serial {
        add(&["-chardev", &serial, "-serial", "chardev:serial0"]);
    }
    match &spec.firmware {
        Firmware::Bios => {}
        Firmware::File(path) => add(&["-bios", &path.display().to_string()]),
        Firmware::Uefi { code, vars } => {
            let code = format!("if=pflash,unit=0,format=raw,readonly=on,file={}", escaped(code));
            add(&["-drive", &code]);
            add(&["-drive", &format!("if=pflash,unit=1,format=raw,file={}", escaped(vars))]);
        }
    }
    for (number, disk) in spec.disks.iter().enumerate() {
        let drive =
            format!("if=none,id=disk{number},format={},file={}", disk.format.word(), escaped(&disk.path));
        let device = match disk.bus {
            Bus::Sata => format!("ide-hd,bus=ide.{number},drive=disk{number},bootindex={}", number + 1),
            Bus::Virtio => format!("virtio-blk-pci,drive=disk{number},bootindex={}", number + 1),
        };
        add(&["-drive", &drive, "-device", &device]);
    }
    if let Some(path) = &spec.cdrom {
        let drive = format!("if=none,id=cd0,media=cdrom,readonly=on,format=raw,file={}", escaped(path));
        add(&["-drive", &drive, "-device", "ide-cd,bus=ide.5,drive=cd0,bootindex=90"]);
    }
    for (option, path) in [("-kernel", &spec.kernel), ("-initrd", &spec.initrd)] {
        if let Some(path) = path {
            add(&[option, &path.display().to_string()]);
        }
    }
    if let Some(append) = &spec.append {
        add(&["-append", append]);
    }
    if spec.no_reboot {
        add(&["-no-reboot"]);
    }
    let mut port = None;
    let mut ports = 0_u8;
    let placed = placement(host, &spec.cards);
    for item in &placed {
        if item.port.is_some() && item.port != port {
            port.clone_from(&item.port);
            let name = item.port.as_deref().unwrap_or_default();
            let addr = 0x10 + ports;
            ports += 1;
            add(&[
                "-device",
                &format!("pcie-root-port,id={name},bus=pcie.0,addr={addr:#x},chassis={ports},slot={ports}"),
            ]);
        }
        let bus = item.port.as_deref().unwrap_or("pcie.0");
        let several =
            placed.iter().filter(|other| (&other.port, other.slot) == (&item.port, item.slot)).count() > 1;
        // On every function: one without it lands in another group when the guest rescans its bus.
        let several = if several { ",multifunction=on" } else { "" };
        let Placed { host, id, slot, function, .. } = item;
        add(&[
            "-device",
            &format!("vfio-pci,host={host},id={id},bus={bus},addr={slot:#x}.{function}{several}"),
        ]);
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::testing::{at, desktop, driven},
        vm::{Disk, Format},
    };

    fn spec(host: &Host, cards: &[&str]) -> Spec {
        let mut spec = Spec::new("win10", "/usr/bin/qemu-system-x86_64".into());
        spec.cards = cards.iter().map(|card| Card::find(host, at(card)).unwrap()).collect();
        spec
    }

    #[test]
    fn a_card_is_behind_a_port_with_all_its_functions() {
        let host = desktop();
        let args = arguments(&spec(&host, &["01:00.0"]), &host);
        assert_eq!(
            args.join(" "),
            "-name guest=win10 -no-user-config -nodefaults -display none -machine q35 -accel tcg -cpu max -smp 2 \
             -m 2048M -S -qmp unix:/run/gpuferry/vm/win10/qmp,server=on,wait=off \
             -device pcie-root-port,id=port0,bus=pcie.0,addr=0x10,chassis=1,slot=1 \
             -device vfio-pci,host=0000:01:00.0,id=port0f0,bus=port0,addr=0x0.0,multifunction=on \
             -device vfio-pci,host=0000:01:00.1,id=port0f1,bus=port0,addr=0x0.1,multifunction=on"
        );
    }

    #[test]
    fn integrated_graphics_stay_on_the_root_bus() {
        let mut host = desktop();
        let mut card = driven("00:02.0", "030000", "8086:a780", "i915", 30);
        card.parent = None;
        host.functions.push(card);
        host.gpus.clear();
        let args = arguments(&spec(&host, &["00:02.0"]), &host).join(" ");
        assert!(
            args.ends_with("-device vfio-pci,host=0000:00:02.0,id=card0-2f0,bus=pcie.0,addr=0x2.0"),
            "{args}"
        );
    }

    #[test]
    fn everything_else_that_can_be_asked_for() {
        let host = desktop();
        let mut spec = spec(&host, &[]);
        spec.accel = Accel::KvmOrTcg;
        spec.serial = Serial::Stdio;
        spec.firmware =
            Firmware::Uefi { code: "/usr/share/OVMF/OVMF_CODE_4M.fd".into(), vars: "/v/vars.fd".into() };
        spec.disks = vec![
            Disk { path: "/images/a,b.qcow2".into(), format: Format::Qcow2, bus: Bus::Sata },
            Disk { path: "/dev/sdb".into(), format: Format::Raw, bus: Bus::Virtio },
        ];
        spec.cdrom = Some("/iso/x.iso".into());
        (spec.kernel, spec.initrd) = (Some("/boot/vmlinuz".into()), Some("/boot/initrd.img".into()));
        spec.append = Some("console=ttyS0 quiet".into());
        spec.no_reboot = true;
        let args = arguments(&spec, &host);
        let tail = args.iter().skip_while(|arg| *arg != "-accel").cloned().collect::<Vec<_>>().join("\n");
        assert_eq!(
            tail,
            "-accel\nkvm\n-accel\ntcg\n-cpu\nmax\n-smp\n2\n-m\n2048M\n-S\n-qmp\n\
             unix:/run/gpuferry/vm/win10/qmp,server=on,wait=off\n-chardev\n\
             socket,id=serial0,path=/run/gpuferry/vm/win10/serial,server=on,wait=off\n-serial\nchardev:serial0\n\
             -drive\nif=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd\n\
             -drive\nif=pflash,unit=1,format=raw,file=/v/vars.fd\n\
             -drive\nif=none,id=disk0,format=qcow2,file=/images/a,,b.qcow2\n\
             -device\nide-hd,bus=ide.0,drive=disk0,bootindex=1\n\
             -drive\nif=none,id=disk1,format=raw,file=/dev/sdb\n\
             -device\nvirtio-blk-pci,drive=disk1,bootindex=2\n\
             -drive\nif=none,id=cd0,media=cdrom,readonly=on,format=raw,file=/iso/x.iso\n\
             -device\nide-cd,bus=ide.5,drive=cd0,bootindex=90\n\
             -kernel\n/boot/vmlinuz\n-initrd\n/boot/initrd.img\n-append\nconsole=ttyS0 quiet\n-no-reboot"
        );
    }
}
