//! [`LiveStep`]: one change of what is in the running kernel. Each says what it does, whether it can hang, does
//! it, and holds already where the machine is as it should be, so that a plan can be carried out twice.
//!
//! A step acts only through [`Hands`], which keep the record before they write. It decides nothing: which steps,
//! and in which order, is [`crate::plan::live`]'s.

use super::services::{self, Unit};
use crate::{
    error::{Error, Result},
    handover::{drivers, holders},
    machine::{Finished, Machine, Program, Root, wait_until},
    pci::Address,
};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// What a step acts with. Every change is on record before it is made.
pub trait Hands {
    /// For looking and waiting.
    fn machine(&self) -> &dyn Machine;
    /// Writes an attribute; the error says what the kernel said.
    fn write(&self, path: &Path, value: &str) -> Result<()>;
    /// Runs a program.
    fn run(&self, program: &Program) -> Result<Finished>;
    /// Asks a process to end (SIGTERM), if it is still the one that started then.
    fn terminate(&self, pid: u32, started: u64) -> Result<()>;
}

/// One change of the running kernel, or one wait for what it brings about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum LiveStep {
    /// Stops a unit; what would start it again goes first.
    StopUnit {
        /// The unit.
        unit: Unit,
        /// Whether nobody may start it in this boot until it is started here again.
        mask: bool,
    },
    /// Starts a unit, and unmasks it.
    StartUnit {
        /// The unit.
        unit: Unit,
    },
    /// Ends a login session.
    EndSession {
        /// Its name at logind.
        session: String,
    },
    /// Asks a process to end.
    EndProcess {
        /// Its number.
        pid: u32,
        /// When it started, in clock ticks since boot: with the number, its identity.
        started: u64,
        /// Its name.
        name: String,
    },
    /// Waits until nobody has the nodes of these functions open.
    AwaitFree {
        /// The functions.
        functions: Vec<Address>,
    },
    /// Loads a module, unless its driver is there.
    LoadModule {
        /// The module.
        module: String,
        /// The PCI driver that it brings, where it brings one.
        driver: Option<String>,
    },
    /// Unloads a module, if it is loaded.
    UnloadModule {
        /// The module.
        module: String,
    },
    /// Sets or clears `driver_override`.
    Override {
        /// The function.
        address: Address,
        /// The only driver that may have it; `None`: whichever matches.
        driver: Option<String>,
    },
    /// Takes a function away from a driver.
    Unbind {
        /// The function.
        address: Address,
        /// The driver that has it.
        driver: String,
    },
    /// Asks the kernel to find a driver for a function that has none.
    Probe {
        /// The function.
        address: Address,
    },
    /// Gives a function to one driver.
    Bind {
        /// The function.
        address: Address,
        /// The driver.
        driver: String,
    },
    /// Waits until a driver has a function.
    AwaitDriver {
        /// The function.
        address: Address,
        /// The driver.
        driver: String,
    },
    /// Waits until a frame buffer of a function is there.
    AwaitFramebuffer {
        /// The function.
        address: Address,
        /// Its name in /proc/fb.
        name: String,
    },
    /// Says how the kernel is to reset a function.
    ResetMethod {
        /// The function.
        address: Address,
        /// Ways, first to last, as `reset_method` has them.
        method: String,
        /// Whether it is a failure when the kernel does not take it.
        must: bool,
    },
    /// Resets a function by the kernel's own choice of method, where it has one.
    Reset {
        /// The function, which has no driver.
        address: Address,
    },
    /// Takes a function off the bus. Everything that the kernel knows of it is forgotten, `driver_override` too.
    Remove {
        /// The function, which has no driver.
        address: Address,
    },
    /// Looks for functions that are not on the bus, and waits for these.
    Rescan {
        /// The functions.
        functions: Vec<Address>,
    },
    /// Gives the frame buffer that the firmware left to the driver that draws into it, or takes it away.
    FirmwareScreen {
        /// Its name below /sys/bus/platform/devices.
        device: String,
        /// The driver.
        driver: String,
        /// Whether the driver has it.
        bound: bool,
    },
    /// Puts the virtual terminals on a console back end, or takes them off it.
    Console {
        /// Number N of /sys/class/vtconsole/vtconN.
        index: u32,
        /// Its name, by which it is known again.
        name: String,
        /// On it or off it.
        bound: bool,
    },
}

/// How long a driver or a frame buffer may take to appear.
const APPEARS: Duration = Duration::from_secs(20);
/// How long those who were asked to end may take to let go.
const LETS_GO: Duration = Duration::from_secs(30);
/// How long a module may take to load or unload.
const MODULE: Duration = Duration::from_secs(60);

/// The folder of a function in sysfs.
pub fn device(address: Address) -> PathBuf {
    PathBuf::from(format!("/sys/bus/pci/devices/{address}"))
}

/// The driver that has a function now. Reading the link takes no lock of the device.
pub fn driver_of(machine: &(impl Root + ?Sized), address: Address) -> Option<String> {
    machine.link_name(&device(address).join("driver")).ok()
}

fn driver_folder(driver: &str) -> PathBuf {
    Path::new("/sys/bus/pci/drivers").join(driver)
}

fn platform_driver(driver: &str) -> PathBuf {
    Path::new("/sys/bus/platform/drivers").join(driver)
}

fn module_folder(module: &str) -> PathBuf {
    Path::new("/sys/module").join(module.replace('-', "_"))
}

impl LiveStep {
    /// Whether it can hang in the kernel: those steps are done by the card's worker, after a preflight.
    pub fn can_hang(&self) -> bool {
        match self {
            Self::Unbind { driver, .. } => drivers::facts(driver).waits,
            Self::UnloadModule { .. }
            | Self::Bind { .. }
            | Self::Probe { .. }
            | Self::Reset { .. }
            | Self::Remove { .. }
            | Self::Rescan { .. } => true,
            _ => false,
        }
    }

    /// What it does, as a command a person could type.
    pub fn describe(&self) -> String {
        match self {
            Self::StopUnit { unit, mask: true } => {
                format!("{} && {}", unit.typed("mask --runtime"), unit.typed("stop"))
            }
            Self::StopUnit { unit, mask: false } => unit.typed("stop"),
            Self::StartUnit { unit } => unit.typed("start"),
            Self::EndSession { session } => format!("loginctl terminate-session {session}"),
            Self::EndProcess { pid, name, .. } => format!("kill -TERM {pid}   ({name})"),
            Self::AwaitFree { functions } => {
                let words: Vec<_> = functions.iter().map(Address::to_string).collect();
                format!("wait until nobody has {} open", words.join(", "))
            }
            Self::LoadModule { module, .. } => format!("modprobe {module}"),
            Self::UnloadModule { module } => format!("rmmod {module}"),
            Self::Override { address, driver } => {
                let value = driver.as_deref().unwrap_or("");
                format!("echo '{value}' > {}/driver_override", device(*address).display())
            }
            Self::Unbind { address, driver } => {
                format!("echo {address} > {}/unbind", driver_folder(driver).display())
            }
            Self::Probe { address } => format!("echo {address} > /sys/bus/pci/drivers_probe"),
            Self::Bind { address, driver } => {
                format!("echo {address} > {}/bind", driver_folder(driver).display())
            }
            Self::AwaitDriver { address, driver } => format!("wait until {driver} has {address}"),
            Self::AwaitFramebuffer { address, name } => format!("wait for frame buffer {name} of {address}"),
            Self::ResetMethod { address, method, .. } => {
                format!("echo '{method}' > {}/reset_method", device(*address).display())
            }
            Self::Reset { address } => format!("echo 1 > {}/reset", device(*address).display()),
            Self::Remove { address } => format!("echo 1 > {}/remove", device(*address).display()),
            Self::Rescan { .. } => "echo 1 > /sys/bus/pci/rescan".to_owned(),
            Self::FirmwareScreen { device, driver, bound } => {
                let verb = if *bound { "bind" } else { "unbind" };
                format!("echo {device} > {}", platform_driver(driver).join(verb).display())
            }
            Self::Console { index, bound, .. } => {
                format!("echo {} > /sys/class/vtconsole/vtcon{index}/bind", u8::from(*bound))
            }
        }
    }

    /// Does it. What holds already is left alone.
    pub fn apply(&self, hands: &dyn Hands) -> Result<()> {
        let machine = hands.machine();
        match self {
            Self::StopUnit { unit, mask } => unit.stop(hands, *mask),
            Self::StartUnit { unit } => unit.start(hands),
            Self::EndSession { session } => services::end_session(hands, session),
            Self::EndProcess { pid, started, .. } => hands.terminate(*pid, *started),
            Self::AwaitFree { functions } => await_free(machine, functions),
            Self::LoadModule { module, driver } => {
                let there = match driver {
                    Some(driver) => machine.exists(&driver_folder(driver)),
                    None => machine.exists(&module_folder(module)),
                };
                // As udev loads what it finds for a device: with an eye on the blacklist. A driver that is named had
                // the device before, whatever the blacklist says.
                match (there, driver) {
                    (true, _) => Ok(()),
                    (false, Some(_)) => modprobe(hands, &["--", module]),
                    (false, None) => modprobe(hands, &["-b", "--", module]),
                }
            }
            Self::UnloadModule { module } if machine.exists(&module_folder(module)) => {
                // rmmod(8), not modprobe -r: that goes on to whatever the module needed, and by a file's name, which
                // distributions change.
                succeed(hands, &Program::new("/sbin/rmmod", MODULE).args(["--", module]))
            }
            Self::Override { address, driver } => set_override(hands, *address, driver.as_deref()),
            Self::Unbind { address, driver } => match driver_of(machine, *address) {
                Some(now) if now == *driver => {
                    hands.write(&driver_folder(driver).join("unbind"), &address.to_string())
                }
                Some(now) => {
                    Err(Error::failed(format!("{address} has gone to {now} meanwhile, not {driver}")))
                }
                None => Ok(()),
            },
            Self::Probe { address } => match driver_of(machine, *address) {
                Some(_) => Ok(()),
                None => hands.write(Path::new("/sys/bus/pci/drivers_probe"), &address.to_string()),
            },
            Self::Bind { address, driver } => match driver_of(machine, *address) {
                Some(now) if now == *driver => Ok(()),
                _ => hands.write(&driver_folder(driver).join("bind"), &address.to_string()),
            },
            Self::AwaitDriver { address, driver } => await_driver(machine, *address, driver),
            Self::AwaitFramebuffer { address, name } => await_framebuffer(machine, *address, name),
            Self::ResetMethod { address, method, must } => {
                let set = set_reset_method(hands, *address, method);
                if *must { set } else { set.or(Ok(())) }
            }
            Self::Reset { address } => {
                let path = device(*address).join("reset");
                // Without a reset method there is no such file (drivers/pci/pci.c, `pci_dev_reset_attr_is_visible`).
                if machine.exists(&path) { hands.write(&path, "1") } else { Ok(()) }
            }
            Self::Remove { address } if machine.exists(&device(*address)) => {
                hands.write(&device(*address).join("remove"), "1")
            }
            Self::UnloadModule { .. } | Self::Remove { .. } => Ok(()),
            Self::Rescan { functions } => rescan(hands, functions),
            Self::FirmwareScreen { device, driver, bound } => {
                set_firmware_screen(hands, device, driver, *bound)
            }
            Self::Console { index, name, bound } => set_console(hands, *index, name, *bound),
        }
    }
}

fn await_free(machine: &dyn Machine, functions: &[Address]) -> Result<()> {
    let nodes = holders::nodes(machine, functions);
    let mut left = Vec::new();
    let free = wait_until(machine, LETS_GO, || {
        left = holders::holders(machine, &nodes);
        left.is_empty()
    });
    if free {
        return Ok(());
    }
    let who: Vec<_> = left.iter().map(holders::Holder::shown).collect();
    Err(Error::failed(format!("{} did not let go in {} s", who.join(", "), LETS_GO.as_secs()))
        .hint("close it, then try again: nobody is killed"))
}

fn modprobe(hands: &dyn Hands, args: &[&str]) -> Result<()> {
    succeed(hands, &Program::new("/sbin/modprobe", MODULE).args(args))
}

fn succeed(hands: &dyn Hands, program: &Program) -> Result<()> {
    let finished = hands.run(program)?;
    if finished.ok() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&finished.stderr);
    let said = said.lines().next().unwrap_or("it did not end in time").trim();
    Err(Error::failed(format!("`{}` failed: {said}", program.shown())))
}

/// A newline clears it: `driver_override_store` in drivers/base/driver.c takes an empty line for "none", and shows
/// `(null)` then.
fn set_override(hands: &dyn Hands, address: Address, driver: Option<&str>) -> Result<()> {
    let path = device(address).join("driver_override");
    let now = hands.machine().text(&path).map_err(|error| Error::io("read", &path, &error))?;
    let now = Some(now.as_str()).filter(|now| !now.is_empty() && *now != "(null)");
    if now == driver { Ok(()) } else { hands.write(&path, driver.unwrap_or("\n")) }
}

/// A word that the kernel does not know, or that this device does not do, is no valid argument (drivers/pci/pci.c,
/// `reset_method_store`). Since 5.15; without any method there is no such file.
fn set_reset_method(hands: &dyn Hands, address: Address, method: &str) -> Result<()> {
    let path = device(address).join("reset_method");
    let Ok(now) = hands.machine().text(&path) else {
        return Err(Error::failed(format!("{address} has no choice of ways to be reset"))
            .detail("the kernel is older than 5.15, or knows no way at all to reset it"));
    };
    if now == method {
        return Ok(());
    }
    // Nothing is no write at all to sysfs, a newline is one.
    hands.write(&path, if method.is_empty() { "\n" } else { method }).map_err(|error| {
        error.hint(format!("{address} can be reset by {now}: --reset-method takes one of these"))
    })?;
    match hands.machine().text(&path) {
        Ok(now) if now != method => {
            Err(Error::failed(format!("{address} is reset by {now}, and was told {method}")))
        }
        _ => Ok(()),
    }
}

fn await_driver(machine: &dyn Machine, address: Address, driver: &str) -> Result<()> {
    if wait_until(machine, APPEARS, || driver_of(machine, address).as_deref() == Some(driver)) {
        return Ok(());
    }
    let now = driver_of(machine, address);
    let now = now.map_or_else(|| "it has no driver".to_owned(), |now| format!("{now} has it"));
    // drivers_probe reports success even when the probe failed (drivers/base/bus.c): the log has the reason.
    Err(Error::failed(format!("{driver} did not take {address}: {now}"))
        .hint(format!("journalctl -k -b | grep {address}   shows what the kernel said")))
}

fn rescan(hands: &dyn Hands, functions: &[Address]) -> Result<()> {
    let machine = hands.machine();
    let gone = |address: &&Address| !machine.exists(&device(**address));
    if !functions.iter().any(|address| gone(&address)) {
        return Ok(());
    }
    hands.write(Path::new("/sys/bus/pci/rescan"), "1")?;
    if wait_until(machine, APPEARS, || !functions.iter().any(|address| gone(&address))) {
        return Ok(());
    }
    let lost: Vec<_> = functions.iter().filter(gone).map(Address::to_string).collect();
    Err(Error::failed(format!("{} did not come back to the bus", lost.join(", ")))
        .hint("switch the machine off and on again: a card that has lost its way answers after that"))
}

fn await_framebuffer(machine: &dyn Machine, address: Address, name: &str) -> Result<()> {
    let there = || framebuffers_of(machine, address).iter().any(|(_, found)| found == name);
    if wait_until(machine, APPEARS, there) {
        return Ok(());
    }
    let seconds = APPEARS.as_secs();
    Err(Error::failed(format!("the frame buffer {name} of {address} did not come back in {seconds} s")))
}

/// Frame buffers of a function: number and name.
pub fn framebuffers_of(machine: &(impl Root + ?Sized), address: Address) -> Vec<(u32, String)> {
    let folder = Path::new("/sys/class/graphics");
    let names = machine.list(folder).unwrap_or_default();
    let numbers = names.iter().filter_map(|name| name.to_str()?.strip_prefix("fb")?.parse::<u32>().ok());
    // The link's target is the device's way in the tree, `…/0000:01:00.0/graphics/fb0`: the last address in it is
    // the function, also where a bus such as virtio lies between.
    let own = numbers.filter(|number| {
        let target = machine.readlink(&folder.join(format!("fb{number}"))).unwrap_or_default();
        let mut parts = target.iter().rev().filter_map(|part| part.to_str()?.parse::<Address>().ok());
        parts.next() == Some(address)
    });
    own.filter_map(|number| Some((number, machine.text(&folder.join(format!("fb{number}/name"))).ok()?)))
        .collect()
}

/// The device is gone for good once a driver of the card has taken its memory: drivers/firmware/sysfb.c,
/// `sysfb_disable`, unregisters it, for vfio-pci too (drivers/vfio/pci/vfio_pci_core.c, `vfio_pci_vga_init`).
fn set_firmware_screen(hands: &dyn Hands, device: &str, driver: &str, bound: bool) -> Result<()> {
    let folder = Path::new("/sys/bus/platform/devices").join(device);
    if !hands.machine().exists(&folder) {
        return Ok(());
    }
    let now = hands.machine().link_name(&folder.join("driver")).ok();
    match (bound, now.as_deref()) {
        (true, None) => hands.write(&platform_driver(driver).join("bind"), device),
        (false, Some(now)) if now == driver => hands.write(&platform_driver(driver).join("unbind"), device),
        _ => Ok(()),
    }
}

/// Finds the console by number, else by name: a frame buffer console that was gone may come back with another
/// number. One that is gone altogether is off.
fn set_console(hands: &dyn Hands, index: u32, name: &str, bound: bool) -> Result<()> {
    let machine = hands.machine();
    let Some(index) = find_console(machine, index, name) else {
        let gone = || Error::failed(format!("the console `{name}` is not there any more"));
        return if bound { Err(gone()) } else { Ok(()) };
    };
    let path = PathBuf::from(format!("/sys/class/vtconsole/vtcon{index}/bind"));
    let now = machine.text(&path).map_err(|error| Error::io("read", &path, &error))?;
    if (now == "1") == bound { Ok(()) } else { hands.write(&path, if bound { "1" } else { "0" }) }
}

fn find_console(machine: &dyn Machine, index: u32, name: &str) -> Option<u32> {
    let folder = Path::new("/sys/class/vtconsole");
    let named =
        |number: u32| machine.text(&folder.join(format!("vtcon{number}/name"))).is_ok_and(|n| n == name);
    if named(index) {
        return Some(index);
    }
    let names = machine.list(folder).unwrap_or_default();
    let mut numbers = names.iter().filter_map(|entry| entry.to_str()?.strip_prefix("vtcon")?.parse().ok());
    numbers.find(|number| named(*number))
}
