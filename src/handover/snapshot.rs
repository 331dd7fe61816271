//! [`Snapshot`]: how a card was before the first write, so that it can be brought home and compared.
//!
//! It is taken once, lies in /run, and ends with the boot. The way home is not read from it backwards: it is
//! planned from the machine as it is then ([`crate::plan::live`]).

use crate::{
    error::{Error, Result},
    handover::{drivers, holders, request::Wishes},
    host::{Console, FirmwareFramebuffer, Framebuffer, Function, Host, draws_for_firmware},
    machine::Root,
    pci::{Address, DeviceId, DevicePath},
    step::{live::device, services::Unit},
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What is handed over as one: a card and all its functions, or a single other function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// The display function, or the only one.
    pub address: Address,
    /// Every function that goes, by address; the display function is among them.
    pub functions: Vec<Address>,
    /// What people call it.
    pub name: String,
}

impl Card {
    /// The card that an address belongs to; an address that is no card's stands for itself.
    pub fn find(host: &Host, address: Address) -> Result<Self> {
        let missing = || {
            Error::usage(format!("there is no PCI device {address} in this machine"))
                .hint("gpuferry inspect devices   lists what there is")
        };
        let function = host.function(address).ok_or_else(missing)?;
        let Some(gpu) = host.gpu(address) else {
            return Ok(Self { address, functions: vec![address], name: function.label() });
        };
        let name = host.function(gpu.address).map_or_else(|| gpu.address.to_string(), Function::label);
        Ok(Self { address: gpu.address, functions: gpu.functions.clone(), name })
    }

    /// The cards that some addresses belong to, each once.
    pub fn find_all(host: &Host, addresses: &[Address]) -> Result<Vec<Self>> {
        let mut cards: Vec<Self> = Vec::new();
        for address in addresses {
            let card = Self::find(host, *address)?;
            if !cards.contains(&card) {
                cards.push(card);
            }
        }
        Ok(cards)
    }

    /// A word for files and units: the slot, and the function where it is not the first.
    pub fn key(&self) -> String {
        key(self.address)
    }

    /// Functions of other devices that share an IOMMU group with this card and are no bridges: they would have to
    /// go too.
    pub fn companions(&self, host: &Host) -> Vec<Address> {
        let groups =
            host.groups.iter().filter(|group| self.functions.iter().any(|f| group.functions.contains(f)));
        let members = groups.flat_map(|group| group.functions.iter().copied());
        let others = members.filter(|member| !self.functions.contains(member));
        others
            .filter(|other| host.function(*other).is_none_or(|function| !function.is_pci_bridge()))
            .collect()
    }
}

/// The word for an address in names of files and units.
pub fn key(address: Address) -> String {
    match address.function {
        0 => address.slot_name(),
        function => format!("{}-{function}", address.slot_name()),
    }
}

/// A function before it was handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// Its address then. A card that is added or taken out moves it.
    pub address: Address,
    /// Its way from the root bus, by which it is found again. `None`: not told, as by an older gpuferry; then the
    /// address stands for it.
    #[serde(default)]
    pub path: Option<DevicePath>,
    /// What: the same place with other ids is another device.
    pub id: Option<DeviceId>,
    /// Whose board: tells two makers' cards with one chip apart. `None`: not told.
    #[serde(default)]
    pub subsystem: Option<DeviceId>,
    /// The driver that had it.
    pub driver: Option<String>,
    /// The module that the driver came from; `None` also for one that is built in.
    pub module: Option<String>,
    /// Its `driver_override`.
    pub driver_override: Option<String>,
    /// How the kernel resets it, where that is changed on the way.
    #[serde(default)]
    pub reset_method: Option<String>,
}

/// Where a function of a snapshot is in the machine as it is now.
#[derive(Debug, Clone, Copy)]
pub enum Now<'h> {
    /// There, and the same device. Its address may be another.
    Here(&'h Function),
    /// In its place is another device, which nobody asked to touch.
    Other(&'h Function),
    /// Off the bus.
    Gone,
}

impl Before {
    /// Finds it by its path and ids; by its address only where there is no path to go by.
    pub fn now<'h>(&self, host: &'h Host) -> Now<'h> {
        let at_address = host.function(self.address);
        let known = self.path.is_some() && host.functions.iter().any(|function| function.path.is_some());
        let there = if known {
            host.functions.iter().find(|function| function.path == self.path)
        } else {
            at_address
        };
        let same = |function: &Function| {
            (self.id.is_none() || function.id() == self.id)
                && (self.subsystem.is_none() || function.subsystem() == self.subsystem)
        };
        match there {
            Some(function) if same(function) => Now::Here(function),
            Some(function) => Now::Other(function),
            None => at_address.map_or(Now::Gone, Now::Other),
        }
    }

    /// The function, if it is still on the bus.
    pub fn here<'h>(&self, host: &'h Host) -> Option<&'h Function> {
        match self.now(host) {
            Now::Here(function) => Some(function),
            Now::Other(_) | Now::Gone => None,
        }
    }

    /// The function, or a sentence on what has become of it.
    pub fn find<'h>(&self, host: &'h Host) -> Result<&'h Function> {
        match self.now(host) {
            Now::Here(function) => Ok(function),
            Now::Other(other) => Err(Error::failed(format!(
                "at {} is another device now than the one that was lent",
                other.address
            ))),
            Now::Gone => Err(Error::failed(format!("{} is not on the bus", self.address))),
        }
    }
}

/// How a card and the consoles on it were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of this form.
    pub schema: u32,
    /// /proc/sys/kernel/random/boot_id of the boot that it was taken in.
    pub boot_id: String,
    /// When, in milliseconds since 1970.
    pub taken_ms: u64,
    /// The card.
    pub card: Card,
    /// Its functions.
    pub functions: Vec<Before>,
    /// Modules that were loaded above its drivers and are unloaded on the way.
    pub modules: Vec<String>,
    /// Its frame buffers.
    pub framebuffers: Vec<Framebuffer>,
    /// What its owner wanted done differently.
    #[serde(default)]
    pub wishes: Wishes,
    /// Frame buffers that the firmware left in its memory, which a driver drew into.
    #[serde(default)]
    pub firmware: Vec<FirmwareFramebuffer>,
    /// Units that ran and are stopped for it, in the order in which they start again.
    #[serde(default)]
    pub units: Vec<Unit>,
    /// Its device nodes. While a driver waits for those who have them open, sysfs names them no more.
    #[serde(default)]
    pub nodes: Vec<PathBuf>,
    /// All console back ends of the machine.
    pub consoles: Vec<Console>,
}

impl Snapshot {
    /// Takes it: from the host's facts, and from sysfs which module each driver came from.
    pub fn take(root: &(impl Root + ?Sized), host: &Host, card: &Card, taken_ms: u64) -> Result<Self> {
        let before = |address: &Address| {
            let function = host.function(*address);
            let function =
                function.ok_or_else(|| Error::failed(format!("{address} has gone from the bus")))?;
            Ok(Before {
                address: *address,
                path: function.path.clone(),
                id: function.id(),
                subsystem: function.subsystem(),
                driver: function.driver.clone(),
                module: root.link_name(&device(*address).join("driver/module")).ok(),
                driver_override: function.driver_override.clone(),
                reset_method: None,
            })
        };
        let functions: Vec<Before> = card.functions.iter().map(before).collect::<Result<_>>()?;
        let above = functions.iter().filter_map(|f| f.driver.as_deref());
        let above = above.flat_map(|driver| drivers::above(host, driver));
        let loaded = above.filter(|module| root.exists(&Path::new("/sys/module").join(module)));
        let own = |fb: &&Framebuffer| fb.function.is_some_and(|f| card.functions.contains(&f));
        let drawn = |screen: &&FirmwareFramebuffer| {
            screen.driver.is_some() && screen.function.is_some_and(|f| card.functions.contains(&f))
        };
        Ok(Self {
            schema: 1,
            boot_id: boot_id(root)?,
            taken_ms,
            card: card.clone(),
            modules: loaded.collect(),
            framebuffers: host.framebuffers.iter().filter(own).cloned().collect(),
            firmware: host.firmware_framebuffers.iter().filter(drawn).cloned().collect(),
            nodes: holders::nodes(root, &card.functions).into_iter().collect(),
            consoles: host.consoles.clone(),
            functions,
            units: Vec::new(),
            wishes: Wishes::default(),
        })
    }

    /// Keeps how the display is reset, because it is about to be changed.
    pub fn keep_reset_method(&mut self, root: &(impl Root + ?Sized)) {
        let display = self.card.address;
        let unknown = |before: &&mut Before| before.address == display && before.reset_method.is_none();
        for before in self.functions.iter_mut().filter(unknown) {
            before.reset_method = root.text(&device(display).join("reset_method")).ok();
        }
    }

    /// The consoles that a card with a screen brings back. They belong to all screens of the machine, so one that was
    /// off may have been so because another card was away: on counts, off does not.
    pub fn screen_consoles<'s>(&'s self, host: &Host) -> impl Iterator<Item = &'s Console> + use<'s> {
        let modular = |console: &&Console| console.name.starts_with("(M)");
        let any = !self.wishes.leave_consoles
            && !self.framebuffers.is_empty()
            && (self.screens().next().is_some() || !host.framebuffers.is_empty());
        self.consoles.iter().filter(modular).filter(move |_| any)
    }

    /// The frame buffers that the card's own driver brings back. The firmware's is there at once where it still can
    /// be, and no driver can set up what the firmware did: nobody waits for it, and it is not missed.
    pub fn screens(&self) -> impl Iterator<Item = &Framebuffer> {
        self.framebuffers.iter().filter(|fb| !draws_for_firmware(fb))
    }

    /// Whether what the firmware had set up was drawn on.
    pub fn is_drawn_by_firmware(&self) -> bool {
        self.framebuffers.iter().any(draws_for_firmware)
    }

    /// The card where it is now: those of its functions that are on the bus, by their addresses of today.
    pub fn card_now(&self, host: &Host) -> Card {
        let functions = self.functions.iter().filter_map(|before| before.here(host));
        let functions = functions.map(|function| function.address).collect();
        Card { address: self.address_now(host, self.card.address), functions, name: self.card.name.clone() }
    }

    /// Where the function is now that was at this address.
    pub fn address_now(&self, host: &Host, address: Address) -> Address {
        let before = self.functions.iter().find(|before| before.address == address);
        before.and_then(|before| before.here(host)).map_or(address, |function| function.address)
    }

    /// Whether one of its frame buffers is there.
    pub fn has_screen(&self, host: &Host, fb: &Framebuffer) -> bool {
        let function = fb.function.map(|address| self.address_now(host, address));
        let was = Framebuffer { function, ..fb.clone() };
        host.framebuffers.iter().any(|now| same_screen(now, &was))
    }

    /// What is not as it was, a sentence each. Empty: the card is home.
    pub fn differences(&self, host: &Host) -> Vec<String> {
        let word = |driver: &Option<String>| driver.clone().unwrap_or_else(|| "no driver".to_owned());
        let mut found = Vec::new();
        for before in &self.functions {
            let now = match before.now(host) {
                Now::Here(now) => now,
                Now::Gone => {
                    found.push(format!("{} has gone from the bus", before.address));
                    continue;
                }
                Now::Other(other) => {
                    found.push(format!("at {} is another device now", other.address));
                    continue;
                }
            };
            if now.driver != before.driver {
                found.push(format!(
                    "{} has {}, had {}",
                    now.address,
                    word(&now.driver),
                    word(&before.driver)
                ));
            }
            if now.driver_override != before.driver_override {
                let is = now.driver_override.as_deref().unwrap_or("nothing");
                let had = before.driver_override.as_deref().unwrap_or("nothing");
                found.push(format!("driver_override of {} is {is}, was {had}", now.address));
            }
        }
        for fb in self.screens() {
            if !self.has_screen(host, fb) {
                found.push(format!("frame buffer fb{} ({}) is not back", fb.index, fb.name));
            }
        }
        for console in self.screen_consoles(host).filter(|console| console.bound) {
            let now = host.consoles.iter().find(|now| now.name == console.name);
            if now.is_none_or(|now| !now.bound) {
                found.push(format!("console vtcon{} ({}) was on", console.index, console.name));
            }
        }
        found
    }
}

/// Whether a frame buffer is another one come back. Its number is the lowest that was free (drivers/video/fbdev/core/
/// fbmem.c, `do_register_framebuffer`): with two cards away, the order of their return decides it.
fn same_screen(one: &Framebuffer, other: &Framebuffer) -> bool {
    one.function == other.function && one.name == other.name
}

/// The id of this boot.
pub fn boot_id(root: &(impl Root + ?Sized)) -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    root.text(path).map_err(|error| Error::io("read", path, &error))
}
