//! The look-alike NVIDIA card: a GPU (10de:2204, class 0300) and its audio function (10de:1aef, class 0403), served
//! to QEMU over vfio-user by threads of the lab's own process.
//!
//! To the kernel in the emulated host it is a card with no driver: it has ids, base addresses, an option ROM, power
//! states and resets, and it can be bound to vfio-pci and handed to a guest. It computes nothing and draws nothing.
//! A case can make it misbehave while the host runs, see [`Behaviour`].

mod config;

use anyhow::{Context, Result};
use config::{CLASS, Config, ROM_SIZE, bars};
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_AUTOMASKED, VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_INFO_MASKABLE, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS, VFIO_PCI_ROM_REGION_INDEX,
    VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE, vfio_region_info,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion};

/// What distinguishes one look-alike card from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Subsystem vendor and device: twins differ in the second.
    pub subsystem: (u16, u16),
    /// Another device id than 2204 for the GPU.
    pub device: Option<u16>,
    /// Whether it offers a function level reset (consumer cards do not).
    pub flr: bool,
}

impl Card {
    /// A card of one board maker (1458, Gigabyte) that cannot reset itself.
    pub fn new(subsystem_device: u16) -> Self {
        Self { subsystem: (0x1458, subsystem_device), device: None, flr: false }
    }
}

/// One of the card's two functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// Function 0.
    Gpu,
    /// Function 1.
    Audio,
}

/// How a card behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// As it should.
    Healthy,
    /// Its configuration space reads all ones, as that of a card that fell off the bus.
    Gone,
    /// It works until it is reset, and reads all ones from then on.
    DeadAfterReset,
}

/// The lab's hold on a card that is being served.
#[derive(Debug, Default)]
pub struct Control {
    behaviour: AtomicU8,
    resets: AtomicU32,
    dead: AtomicBool,
    /// Of each function.
    power: [AtomicU8; 2],
    wakes: AtomicU32,
    config_reads: AtomicU32,
}

impl Control {
    /// Makes it behave so from now on; a card that died of a reset lives again.
    pub fn set(&self, behaviour: Behaviour) {
        self.behaviour.store(behaviour as u8, Ordering::SeqCst);
        self.dead.store(false, Ordering::SeqCst);
    }

    /// How many resets the GPU function has seen, of whatever kind.
    pub fn resets(&self) -> u32 {
        self.resets.load(Ordering::SeqCst)
    }

    /// The power state that was last written to a function: 0 is full power (D0), 3 is asleep (D3hot).
    pub fn power(&self, function: Function) -> u8 {
        self.power[function as usize].load(Ordering::SeqCst)
    }

    /// How often a function was woken: from any lower power state to full power.
    pub fn wakes(&self) -> u32 {
        self.wakes.load(Ordering::SeqCst)
    }

    /// How often configuration space was read, of either function.
    pub fn config_reads(&self) -> u32 {
        self.config_reads.load(Ordering::SeqCst)
    }

    fn set_power(&self, function: Function, state: u8) {
        let before = self.power[function as usize].swap(state, Ordering::SeqCst);
        if before != 0 && state == 0 {
            self.wakes.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn is_silent(&self) -> bool {
        let behaviour = self.behaviour.load(Ordering::SeqCst);
        behaviour == Behaviour::Gone as u8 || self.dead.load(Ordering::SeqCst)
    }

    fn was_reset(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
        if self.behaviour.load(Ordering::SeqCst) == Behaviour::DeadAfterReset as u8 {
            self.dead.store(true, Ordering::SeqCst);
        }
    }
}

/// Lets a card that is not the first on the bus be the one the machine boots on.
///
/// `SeaBIOS` takes the first VGA card it finds. The cards before the chosen one say that they are display controllers
/// of another kind until the firmware has run the chosen card's option ROM; the kernel, which comes later, sees
/// them as what they are.
pub type BootDone = Arc<AtomicBool>;

/// Where a function stands when the machine chooses its boot card.
#[derive(Debug, Clone, Default)]
pub enum Boot {
    /// The firmware decides by bus order.
    #[default]
    ByOrder,
    /// This card: reading its ROM lets the others show themselves.
    Chosen(BootDone),
    /// This card waits until the chosen one was initialised.
    Waits(BootDone),
}

/// Serves one function at `socket` until QEMU closes the connection.
pub fn serve(
    socket: &Path,
    function: Function,
    card: &Card,
    boot: Boot,
    control: Arc<Control>,
) -> Result<Served> {
    let backend =
        Backend { function, config: Config::new(function, card), rom: config::rom(card), boot, control };
    let server = Server::new(socket, true, irqs(), regions(function))
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("cannot serve a card at {}", socket.display()))?;
    let ended = Arc::new(OnceLock::new());
    let noted = Arc::clone(&ended);
    let mut backend = backend;
    thread::Builder::new().name("look-alike card".to_owned()).spawn(move || {
        let result = server.run(&mut backend).map_err(|error| error.to_string());
        let _ = noted.set(result);
    })?;
    Ok(Served { socket: socket.to_owned(), ended })
}

/// A function being served.
#[derive(Debug)]
pub struct Served {
    socket: PathBuf,
    ended: Arc<OnceLock<Result<(), String>>>,
}

impl Served {
    /// Why the server ended, if it ended by an error.
    pub fn failure(&self) -> Option<&str> {
        self.ended.get()?.as_ref().err().map(String::as_str)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // A server that QEMU never came to still waits: come and go.
        if self.ended.get().is_none() {
            drop(UnixStream::connect(&self.socket));
        }
    }
}

fn regions(function: Function) -> Vec<ServerRegion> {
    (0..VFIO_PCI_NUM_REGIONS)
        .map(|index| {
            let size = match index {
                0..=5 => bars(function)[index as usize],
                VFIO_PCI_ROM_REGION_INDEX if function == Function::Gpu => ROM_SIZE as u64,
                VFIO_PCI_CONFIG_REGION_INDEX => 4096,
                _ => 0,
            };
            let flags = if size > 0 { VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE } else { 0 };
            let argsz = u32::try_from(size_of::<vfio_region_info>()).unwrap_or(u32::MAX);
            let region_info = vfio_region_info { argsz, index, size, flags, ..Default::default() };
            ServerRegion { region_info, sparse_areas: Vec::new(), mmap_fd: None }
        })
        .collect()
}

fn irqs() -> Vec<IrqInfo> {
    let intx = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
    (0..VFIO_PCI_NUM_IRQS)
        .map(|index| {
            let is_intx = index == VFIO_PCI_INTX_IRQ_INDEX;
            IrqInfo { index, count: u32::from(is_intx), flags: if is_intx { intx } else { 0 } }
        })
        .collect()
}

struct Backend {
    function: Function,
    config: Config,
    rom: Vec<u8>,
    boot: Boot,
    control: Arc<Control>,
}

impl Backend {
    fn read_config(&self, at: usize, data: &mut [u8]) {
        copy(&self.config.bytes, at, data);
        let hides = matches!(&self.boot, Boot::Waits(done) if !done.load(Ordering::SeqCst));
        if hides && self.function == Function::Gpu {
            // Class 0380 instead of 0300.
            let subclass = CLASS + 1;
            if let Some(byte) = subclass.checked_sub(at).and_then(|offset| data.get_mut(offset)) {
                *byte = 0x80;
            }
        }
    }

    fn was_reset(&mut self) {
        self.config.reset();
        self.control.set_power(self.function, self.config.power());
        if self.function == Function::Gpu {
            self.control.was_reset();
        }
    }
}

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        if region == VFIO_PCI_CONFIG_REGION_INDEX {
            self.control.config_reads.fetch_add(1, Ordering::SeqCst);
        }
        if self.control.is_silent() {
            data.fill(0xff);
            return Ok(());
        }
        match region {
            VFIO_PCI_CONFIG_REGION_INDEX => self.read_config(at, data),
            VFIO_PCI_ROM_REGION_INDEX => {
                if let Boot::Chosen(done) = &self.boot {
                    done.store(true, Ordering::SeqCst);
                }
                copy(&self.rom, at, data);
            }
            _ => data.fill(0),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        if region == VFIO_PCI_CONFIG_REGION_INDEX && !self.control.is_silent() {
            self.config.write(usize::try_from(offset).unwrap_or(usize::MAX), data);
            self.control.set_power(self.function, self.config.power());
            if self.config.wants_reset() {
                self.was_reset();
            }
        }
        Ok(())
    }

    fn dma_map(&mut self, _: DmaMapFlags, _: u64, _: u64, _: u64, _: Option<File>) -> io::Result<()> {
        Ok(())
    }

    fn dma_unmap(&mut self, _: DmaUnmapFlags, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.was_reset();
        Ok(())
    }

    fn set_irqs(&mut self, _: u32, _: u32, _: u32, _: u32, _: Vec<File>) -> io::Result<()> {
        Ok(())
    }
}

/// What lies outside reads as ones, as on a real bus.
fn copy(from: &[u8], at: usize, to: &mut [u8]) {
    for (offset, byte) in to.iter_mut().enumerate() {
        *byte = at.checked_add(offset).and_then(|at| from.get(at)).copied().unwrap_or(0xff);
    }
}
