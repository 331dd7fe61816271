//! The emulated machine as a case describes it: which IOMMU, which firmware, which cards in which slots.
//!
//! A description is plain data and can be changed between two boots of the same disk. Addresses follow from it:
//! every card or controller sits behind a PCI Express root port of its own, ports are numbered in the order of the
//! description, cards first, so the first card is `0000:01:00.0`, the second `0000:02:00.0`, and so on.
//! Turning it into QEMU's arguments is [`crate::arguments`]' business.

use crate::fakegpu::Card;

/// Which IOMMU the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Iommu {
    /// Intel VT-d with interrupt remapping; the processor says it is Intel's.
    #[default]
    Intel,
    /// AMD-Vi with interrupt remapping; the processor says it is AMD's.
    Amd,
    /// None: as when the firmware has it switched off. The processor says it is Intel's.
    None,
}

/// Which firmware the machine starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Firmware {
    /// `SeaBIOS`.
    #[default]
    Bios,
    /// OVMF: UEFI without Secure Boot.
    Uefi,
}

/// What can be put into a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A look-alike NVIDIA card, GPU and audio function; no driver of the kernel binds to it.
    Nvidia(Card),
    /// A card that the kernel draws on (`bochs-drm`, 1234:1111), with an audio function (`snd_hda_intel`).
    Bochs,
    /// A solid state disk of 64 MiB. The first one is the disk that the full host boots from, see
    /// [`Machine::boots_from_nvme`].
    Nvme,
    /// A network card (e1000e) whose cable leads nowhere.
    Nic,
    /// A USB controller (xhci) with keyboard and tablet.
    Usb,
    /// A bridge to old PCI with a network card (e1000) and a teaching device (edu, 1234:11e8) behind it: one group.
    Bridge,
    /// Eight functions in one slot (edu, 1234:11e8) that no driver takes: a processor or chipset shows dozens such.
    Many,
    /// A port with nothing in it; it takes a bus number all the same.
    Empty,
}

impl Device {
    fn is_card(&self) -> bool {
        matches!(self, Device::Nvidia(_) | Device::Bochs)
    }
}

/// A whole machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub(crate) iommu: Iommu,
    pub(crate) firmware: Firmware,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    pub(crate) acs: bool,
    pub(crate) boot_card: Option<usize>,
    pub(crate) nvme_root: bool,
    /// Ports of the slot for cards: at most eight.
    pub(crate) cards: Vec<Device>,
    /// Ports of the slot for everything else: at most eight.
    pub(crate) others: Vec<Device>,
}

impl Default for Machine {
    fn default() -> Self {
        Machine::twin_nvidia()
    }
}

impl Machine {
    /// No card at all; buses 01 to 04 are the disk, the network card, USB and the bridge.
    pub fn bare() -> Self {
        Self {
            iommu: Iommu::default(),
            firmware: Firmware::default(),
            memory_mib: 1536,
            cpus: 1,
            acs: true,
            boot_card: None,
            nvme_root: false,
            cards: Vec::new(),
            others: vec![Device::Nvme, Device::Nic, Device::Usb, Device::Bridge],
        }
    }

    /// Two look-alike NVIDIA cards of one model: `0000:01:00.{0,1}` (boot card, subsystem 1458:4001) and
    /// `0000:02:00.{0,1}` (1458:4002). NVMe is at 03, the network card at 04, USB at 05, the bridge at 06.
    pub fn twin_nvidia() -> Self {
        let cards = [0x4001, 0x4002].map(|subsystem| Device::Nvidia(Card::new(subsystem)));
        Self { cards: cards.into(), ..Self::bare() }
    }

    /// Two cards the kernel draws on: `0000:01:00.{0,1}` (boot card) and `0000:02:00.{0,1}`; the rest as in
    /// [`Machine::twin_nvidia`].
    pub fn twin_bochs() -> Self {
        Self { cards: vec![Device::Bochs, Device::Bochs], ..Self::bare() }
    }

    /// [`Machine::twin_bochs`] with about as many functions as a desktop has: 57.
    pub fn desktop() -> Self {
        let more = [Device::Many, Device::Many, Device::Many, Device::Many];
        more.into_iter().fold(Self::twin_bochs(), Self::with)
    }

    /// One card for the host, one to lend: bochs at 01 (boot card), a look-alike NVIDIA at 02.
    pub fn bochs_and_nvidia() -> Self {
        Self { cards: vec![Device::Bochs, Device::Nvidia(Card::new(0x4001))], ..Self::bare() }
    }

    /// Only one card, and the machine boots on it: a look-alike NVIDIA at 01.
    pub fn single_nvidia() -> Self {
        Self { cards: vec![Device::Nvidia(Card::new(0x4001))], ..Self::bare() }
    }

    /// Only one card, and the kernel draws on it: bochs at 01.
    pub fn single_bochs() -> Self {
        Self { cards: vec![Device::Bochs], ..Self::bare() }
    }

    /// With another IOMMU, or none.
    #[must_use]
    pub fn iommu(self, iommu: Iommu) -> Self {
        Self { iommu, ..self }
    }

    /// With other firmware.
    #[must_use]
    pub fn firmware(self, firmware: Firmware) -> Self {
        Self { firmware, ..self }
    }

    /// With so much memory; the default of 1536 MiB is enough for a small host with a guest of 256 MiB in it.
    #[must_use]
    pub fn memory_mib(self, memory_mib: u32) -> Self {
        Self { memory_mib, ..self }
    }

    /// With so many processors.
    #[must_use]
    pub fn cpus(self, cpus: u32) -> Self {
        Self { cpus, ..self }
    }

    /// The bad board: the cards' ports do not isolate, so all cards, their audio and the ports share one group.
    #[must_use]
    pub fn without_acs(self) -> Self {
        Self { acs: false, ..self }
    }

    /// The machine boots on the card with this index (from 0) instead of the first. Only look-alike cards may stand
    /// before it.
    #[must_use]
    pub fn boot_card(self, index: usize) -> Self {
        Self { boot_card: Some(index), ..self }
    }

    /// The full host's disk is the first NVMe disk instead of a virtio disk at `00:10.0`.
    #[must_use]
    pub fn boots_from_nvme(self) -> Self {
        Self { nvme_root: true, ..self }
    }

    /// With one more device: a card behind the last card, anything else behind the last of the others. A card added
    /// so moves all that is no card to higher buses.
    #[must_use]
    pub fn with(mut self, device: Device) -> Self {
        let slot = if device.is_card() { &mut self.cards } else { &mut self.others };
        slot.push(device);
        self
    }

    /// With a device in front of everything: every address moves up by one bus.
    #[must_use]
    pub fn with_first(mut self, device: Device) -> Self {
        self.cards.insert(0, device);
        self.boot_card = self.boot_card.map(|index| index + 1);
        self
    }

    /// With something else in the slot that `bus` (from 1) leads to.
    #[must_use]
    pub fn replace(mut self, bus: usize, device: Device) -> Self {
        let cards = self.cards.len();
        let slot = match bus.checked_sub(1) {
            Some(index) if index < cards => self.cards.get_mut(index),
            Some(index) => self.others.get_mut(index - cards),
            None => None,
        };
        if let Some(slot) = slot {
            *slot = device;
        }
        self
    }

    /// With the first two cards exchanged: each sits where the other was.
    #[must_use]
    pub fn cards_exchanged(mut self) -> Self {
        if self.cards.len() >= 2 {
            self.cards.swap(0, 1);
        }
        self
    }

    /// All ports with their devices in bus order; the first has bus 1.
    pub fn ports(&self) -> impl Iterator<Item = &Device> {
        self.cards.iter().chain(&self.others)
    }

    /// The look-alike cards with the index of their port.
    pub fn nvidia_cards(&self) -> impl Iterator<Item = (usize, &Card)> {
        self.cards.iter().enumerate().filter_map(|(index, device)| match device {
            Device::Nvidia(card) => Some((index, card)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_found_by_its_bus() {
        let machine = Machine::twin_bochs().replace(2, Device::Empty).replace(4, Device::Usb);
        let ports: Vec<_> = machine.ports().collect();
        assert_eq!(ports[1], &Device::Empty);
        assert_eq!(ports[3], &Device::Usb);
    }

    #[test]
    fn a_device_in_front_moves_the_boot_card_along() {
        let machine = Machine::twin_nvidia().boot_card(1).with_first(Device::Empty);
        assert_eq!(machine.boot_card, Some(2));
        assert_eq!(machine.nvidia_cards().map(|(index, _)| index).collect::<Vec<_>>(), [1, 2]);
    }
}
