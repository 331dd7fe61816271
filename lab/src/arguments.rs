//! Turns a [`Machine`] into QEMU's arguments. Pure: it reads nothing and starts nothing.
//!
//! Root ports for cards are the functions of slot 3, all others those of slot 4, so that ports without access control
//! (`ioh3420`, a port of 2009 that has none) in one slot give the board on which the cards cannot be told apart. Firmware and kernel number the buses behind
//! the ports in that order. `multifunction=on` stands on every function: without it function 1 lands in another
//! IOMMU group after remove and rescan.

use crate::machine::{Device, Firmware, Iommu, Machine};
use std::path::{Path, PathBuf};

/// What emulates the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The kernel of this machine.
    Kvm,
    /// QEMU itself.
    Tcg,
}

/// What the machine runs.
#[derive(Debug, Clone)]
pub enum Start {
    /// A kernel with its initramfs and command line, without boot loader.
    Kernel {
        /// The kernel: an ELF file, or for UEFI a bzImage.
        kernel: PathBuf,
        /// Initramfs.
        initrd: PathBuf,
        /// Kernel command line.
        cmdline: String,
        /// A disk (qcow2) that is there and not booted from.
        disk: Option<PathBuf>,
    },
    /// Whatever the firmware finds on this disk (qcow2).
    Disk(PathBuf),
}

impl Start {
    fn disk(&self) -> Option<&Path> {
        match self {
            Start::Kernel { disk, .. } => disk.as_deref(),
            Start::Disk(disk) => Some(disk),
        }
    }
}

/// Where things lie for one run.
#[derive(Debug, Clone)]
pub struct Wiring {
    /// Folder of the unix sockets.
    pub sockets: PathBuf,
    /// Folder that the host can mount with the tag `lab`.
    pub share: PathBuf,
    /// What emulates the processor.
    pub accelerator: Accelerator,
    /// What runs.
    pub start: Start,
    /// UEFI: firmware code and this machine's own copy of the variables.
    pub uefi: Option<(PathBuf, PathBuf)>,
}

/// Names of the sockets in [`Wiring::sockets`].
pub const CONSOLE: &str = "console";
/// The serial port that the agent talks on.
pub const AGENT: &str = "agent";
/// QEMU's own control.
pub const MONITOR: &str = "monitor";

/// The socket of one function of the look-alike card at port `index`.
pub fn function_socket(sockets: &Path, index: usize, function: u8) -> PathBuf {
    sockets.join(format!("card{index}.{function}"))
}

/// All arguments after the program's own.
pub fn arguments(machine: &Machine, wiring: &Wiring) -> Vec<String> {
    let mut list = List(Vec::new());
    list.board(machine, wiring);
    list.lines(wiring);
    list.iommu(machine);
    list.ports(machine, wiring);
    list.start(machine, wiring);
    list.0
}

struct List(Vec<String>);

impl List {
    fn add(&mut self, option: &str, value: impl Into<String>) {
        self.0.push(option.to_owned());
        self.0.push(value.into());
    }

    fn device(&mut self, value: impl Into<String>) {
        self.add("-device", value);
    }

    fn board(&mut self, machine: &Machine, wiring: &Wiring) {
        // Interrupt remapping wants the interrupt controller split from KVM; AMD's wants it out of KVM altogether.
        let irqchip = if machine.iommu == Iommu::Amd { "off" } else { "split" };
        let vendor = if machine.iommu == Iommu::Amd { "AuthenticAMD" } else { "GenuineIntel" };
        // An emulator steps through strings a byte at a time; a kernel that is told that they are fast (erms, fsrm) uses
        // them to clear and to copy pages.
        let (accelerator, cpu) = match wiring.accelerator {
            Accelerator::Kvm => ("kvm", "host".to_owned()),
            Accelerator::Tcg => {
                ("tcg,thread=multi", format!("max,la57=off,erms=off,fsrm=off,vendor={vendor}"))
            }
        };
        self.add("-machine", format!("q35,kernel-irqchip={irqchip},memory-backend=memory"));
        self.add("-object", format!("memory-backend-memfd,id=memory,size={}M,share=on", machine.memory_mib));
        self.add("-m", format!("{}M", machine.memory_mib));
        self.add("-accel", accelerator);
        self.add("-cpu", cpu);
        self.add("-smp", machine.cpus.to_string());
        self.0.extend(["-nodefaults", "-no-user-config"].map(str::to_owned));
        self.add("-display", "none");
        self.add("-vga", "none");
    }

    /// Serial ports, monitor, shared folder.
    fn lines(&mut self, wiring: &Wiring) {
        for name in [CONSOLE, AGENT, MONITOR] {
            let path = wiring.sockets.join(name);
            self.add("-chardev", format!("socket,id={name},path={},server=off", path.display()));
        }
        self.add("-serial", format!("chardev:{CONSOLE}"));
        self.add("-serial", format!("chardev:{AGENT}"));
        self.add("-qmp", format!("chardev:{MONITOR}"));
        self.add("-fsdev", format!("local,id=share,path={},security_model=none", wiring.share.display()));
        self.device("virtio-9p-pci,fsdev=share,mount_tag=lab,bus=pcie.0,addr=0x11");
        self.add("-audiodev", "none,id=silence");
    }

    fn iommu(&mut self, machine: &Machine) {
        match machine.iommu {
            Iommu::Intel => self.device("intel-iommu,intremap=on,caching-mode=on"),
            Iommu::Amd => self.device("amd-iommu,intremap=on"),
            Iommu::None => {}
        }
    }

    fn ports(&mut self, machine: &Machine, wiring: &Wiring) {
        let mut port = 0;
        for (slot, devices, acs) in [(3, &machine.cards, machine.acs), (4, &machine.others, true)] {
            for (function, device) in devices.iter().enumerate() {
                let model = if acs { "pcie-root-port" } else { "ioh3420" };
                self.device(format!(
                    "{model},id=port{port},bus=pcie.0,addr={slot:#x}.{function},multifunction=on,chassis={}",
                    port + 1
                ));
                self.slot(device, port, machine, wiring);
                port += 1;
            }
        }
    }

    fn slot(&mut self, device: &Device, port: usize, machine: &Machine, wiring: &Wiring) {
        let bus = format!("bus=port{port}");
        match device {
            Device::Nvidia(_) => {
                for function in 0..2 {
                    let socket = function_socket(&wiring.sockets, port, function);
                    self.device(
                        serde_json::json!({
                            "driver": "vfio-user-pci",
                            "socket": { "type": "unix", "path": socket },
                            "id": format!("card{port}.{function}"),
                            "bus": format!("port{port}"),
                            "addr": format!("0.{function}"),
                            "multifunction": true,
                        })
                        .to_string(),
                    );
                }
            }
            Device::Bochs => {
                self.device(format!("VGA,id=card{port},{bus},addr=0.0,multifunction=on"));
                self.device(format!("intel-hda,id=sound{port},{bus},addr=0.1,multifunction=on"));
                self.device(format!("hda-output,bus=sound{port}.0,audiodev=silence"));
            }
            Device::Nvme => {
                let drive = self.nvme_drive(port, machine, wiring);
                self.device(format!("nvme,{bus},serial=LAB{port},drive={drive}"));
            }
            Device::Nic => {
                self.add("-netdev", format!("user,id=net{port},restrict=on"));
                self.device(format!("e1000e,{bus},netdev=net{port},romfile="));
            }
            Device::Usb => {
                self.device(format!("qemu-xhci,id=usb{port},{bus}"));
                self.device(format!("usb-kbd,bus=usb{port}.0"));
                self.device(format!("usb-tablet,bus=usb{port}.0"));
            }
            Device::Bridge => {
                self.device(format!("pcie-pci-bridge,id=bridge{port},{bus}"));
                self.add("-netdev", format!("user,id=net{port},restrict=on"));
                self.device(format!("e1000,bus=bridge{port},addr=1,netdev=net{port},romfile="));
                self.device(format!("edu,bus=bridge{port},addr=2"));
            }
            Device::Many => {
                for function in 0..8 {
                    self.device(format!("edu,{bus},addr=0.{function},multifunction=on"));
                }
            }
            Device::Empty => {}
        }
    }

    /// The disk behind an NVMe controller: the root disk behind the first one where the machine boots so.
    fn nvme_drive(&mut self, port: usize, machine: &Machine, wiring: &Wiring) -> String {
        let first = machine.ports().position(|device| *device == Device::Nvme) == Some(port);
        if first && machine.nvme_root && wiring.start.disk().is_some() {
            return "root,bootindex=1".to_owned();
        }
        self.add("-drive", format!("if=none,id=disk{port},file=null-co://,file.size=64M,format=raw"));
        format!("disk{port}")
    }

    fn start(&mut self, machine: &Machine, wiring: &Wiring) {
        if let (Firmware::Uefi, Some((code, variables))) = (machine.firmware, &wiring.uefi) {
            self.add("-drive", format!("if=pflash,format=raw,readonly=on,file={}", code.display()));
            self.add("-drive", format!("if=pflash,format=raw,file={}", variables.display()));
        }
        if let Start::Kernel { kernel, initrd, cmdline, .. } = &wiring.start {
            self.add("-kernel", kernel.display().to_string());
            self.add("-initrd", initrd.display().to_string());
            self.add("-append", cmdline.clone());
            // A panic must end the run, not repeat it.
            self.0.push("-no-reboot".to_owned());
        }
        let Some(disk) = wiring.start.disk() else { return };
        // What the guest has flushed is in the file when QEMU is killed; what it keeps in its own cache is lost. A
        // real disk may also lose what was sent and not flushed: there we are kinder.
        let disk = disk.display();
        self.add("-drive", format!("if=none,id=root,file={disk},format=qcow2,cache=writeback,discard=unmap"));
        if !machine.nvme_root {
            self.device("virtio-blk-pci,drive=root,bus=pcie.0,addr=0x10,bootindex=1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wiring(start: Start) -> Wiring {
        Wiring {
            sockets: "/s".into(),
            share: "/share".into(),
            accelerator: Accelerator::Tcg,
            start,
            uefi: None,
        }
    }

    fn joined(machine: &Machine) -> String {
        arguments(machine, &wiring(Start::Disk("/d.qcow2".into()))).join(" ")
    }

    #[test]
    fn bad_board_has_no_acs_on_the_cards_ports_only() {
        let text = joined(&Machine::twin_bochs().without_acs());
        assert_eq!(text.matches("ioh3420").count(), 2);
        assert!(text.contains("ioh3420,id=port1,bus=pcie.0,addr=0x3.1,"), "{text}");
        assert!(text.contains("pcie-root-port,id=port2,bus=pcie.0,addr=0x4.0,"), "{text}");
    }

    #[test]
    fn the_root_disk_is_attached_once() {
        let virtio = joined(&Machine::twin_nvidia());
        assert!(virtio.contains("virtio-blk-pci,drive=root"));
        assert!(!virtio.contains("serial=LAB2,drive=root"));
        let nvme = joined(&Machine::twin_nvidia().boots_from_nvme().with(Device::Nvme));
        assert!(!nvme.contains("virtio-blk-pci"));
        assert_eq!(nvme.matches("drive=root").count(), 1);
        assert!(nvme.contains("serial=LAB2,drive=root,bootindex=1"), "{nvme}");
    }

    #[test]
    fn both_functions_of_a_look_alike_are_multifunction() {
        let text = joined(&Machine::single_nvidia());
        assert_eq!(text.matches("\"multifunction\":true").count(), 2);
        assert!(text.contains("/s/card0.1"));
    }
}
