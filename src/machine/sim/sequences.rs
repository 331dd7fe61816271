//! Sequences of operations whose results and states the simulated kernel shares with a real one.
//!
//! `tests/sequences/drivers.txt` holds both, and the simulation is held to it here. Debian's kernel in an emulated host
//! had the same states after each; its error numbers were not compared. `GPUFERRY_BLESS=1` writes down what the
//! simulation says; then a real kernel has the last word.

use super::{
    Sim,
    kernel::{Function, KINDS, Kernel},
};
use crate::machine::{Machine, Program};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

const FILE: &str = "tests/sequences/drivers.txt";

/// The lab's machine, as far as the sequences touch it: two bochs cards with audio, and a look-alike NVIDIA card.
fn machine() -> Sim {
    let card = |bus: u8, id, audio| {
        let at = |function: u8| format!("0000:{bus:02x}:00.{function}");
        let group = Some(u32::from(bus) + 10);
        let port = format!("0000:00:03.{}", bus - 1);
        // Functions of one slot share its bus reset: neither can be reset alone.
        let alone = |function: Function| Function { resets: false, ..function.below(&port) };
        [
            alone(Function::new(&at(0), 0x03_0000, id, group)),
            alone(Function::new(&at(1), 0x04_0300, audio, group)),
        ]
    };
    let bochs = (0x1234, 0x1111);
    let cards = [
        card(1, bochs, (0x8086, 0x2668)),
        card(2, bochs, (0x8086, 0x2668)),
        card(3, (0x10de, 0x2204), (0x10de, 0x1aef)),
    ];
    let mut functions: Vec<Function> = cards.into_iter().flatten().collect();
    functions[0].boot_vga = true;
    let sim = Sim::new(1);
    sim.boot(Kernel::new(functions, &["bochs", "snd_hda_intel"]));
    sim
}

/// What a person sees: drivers and overrides, frame buffers, consoles.
fn state(kernel: &Kernel) -> Vec<String> {
    let mut lines = Vec::new();
    for function in kernel.functions.iter().filter(|function| function.on_bus) {
        let driver = function.driver.filter(|_| function.releasing.is_none());
        let driver = driver.map_or("-", |driver| KINDS[driver].driver);
        let only = function.driver_override.as_deref().unwrap_or("-");
        lines.push(format!("  {} {driver} {only}", function.address.to_string().trim_start_matches("0000:")));
    }
    for (number, (function, name)) in &kernel.consoles.framebuffers {
        let address = kernel.functions[*function].address.to_string();
        lines.push(format!("  fb{number} {name} {}", address.trim_start_matches("0000:")));
    }
    for (number, (name, bound)) in kernel.consoles.list().into_iter().enumerate() {
        lines.push(format!("  vtcon{number} {} {name}", u8::from(bound)));
    }
    lines
}

/// Where an operation writes, and what.
fn write(words: &[&str]) -> Option<(String, String)> {
    let long = |address: &str| format!("0000:{address}");
    let pci = "/sys/bus/pci";
    Some(match words {
        [verb @ ("bind" | "unbind"), driver, address] => {
            (format!("{pci}/drivers/{driver}/{verb}"), long(address))
        }
        [verb @ ("new_id" | "remove_id"), driver, ids @ ..] => {
            (format!("{pci}/drivers/{driver}/{verb}"), ids.join(" "))
        }
        ["probe", address] => (format!("{pci}/drivers_probe"), long(address)),
        ["override", address, "-"] => {
            (format!("{pci}/devices/{}/driver_override", long(address)), "\n".into())
        }
        ["override", address, name] => {
            (format!("{pci}/devices/{}/driver_override", long(address)), (*name).into())
        }
        [verb @ ("remove" | "reset"), address] => {
            (format!("{pci}/devices/{}/{verb}", long(address)), "1".into())
        }
        ["rescan"] => (format!("{pci}/rescan"), "1".into()),
        ["vtcon", number, bind] => (format!("/sys/class/vtconsole/vtcon{number}/bind"), (*bind).into()),
        _ => return None,
    })
}

/// Does an operation; what it says: `ok`, an error number, or `blocks`.
fn act(sim: &Sim, words: &[&str]) -> String {
    if let Some((path, value)) = write(words) {
        return match sim.write_attribute(Path::new(&path), &value) {
            Ok(()) => "ok".into(),
            // It waits, and goes on when what it waits for is over.
            Err(_) if std::mem::take(&mut sim.world.borrow_mut().stuck) => {
                sim.start();
                "blocks".into()
            }
            Err(error) => error.raw_os_error().map_or("?".into(), |number| number.to_string()),
        };
    }
    match words {
        ["modprobe", module] => {
            let program = Program::new("/sbin/modprobe", Duration::from_secs(9)).arg(module);
            if sim.run(&program).unwrap().ok() { "ok".into() } else { "failed".into() }
        }
        ["hold", address] => sim.kernel(|kernel| {
            let function = kernel.at(&format!("0000:{address}"));
            kernel.open("holder", 0, &[function]).map_or("failed".into(), |_| "ok".into())
        }),
        ["let-go"] => sim.kernel(|kernel| {
            for pid in kernel.strangers() {
                kernel.end(pid);
            }
            kernel.complete();
            "ok".into()
        }),
        _ => panic!("no operation: {words:?}"),
    }
}

#[test]
fn the_simulated_kernel_does_as_it_is_written_down() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let text = std::fs::read_to_string(&file).unwrap();
    let sim = machine();
    let mut lines = vec![];
    for line in text.lines().filter(|line| !line.starts_with("  ")) {
        let operation = line.split(": ").next().unwrap_or_default();
        match operation.split_whitespace().collect::<Vec<_>>().as_slice() {
            [] | ["#" | "==", ..] => lines.push(line.to_owned()),
            ["look"] => {
                lines.push("look".to_owned());
                lines.extend(sim.kernel(|kernel| state(kernel)));
            }
            words => lines.push(format!("{operation}: {}", act(&sim, words))),
        }
    }
    let said = lines.join("\n") + "\n";
    if std::env::var_os("GPUFERRY_BLESS").is_some() {
        std::fs::write(&file, said).unwrap();
    } else if let Some((one, other)) = said.lines().zip(text.lines()).find(|(one, other)| one != other) {
        panic!("the simulation says `{one}`, {FILE} says `{other}`");
    } else {
        assert_eq!(said, text);
    }
}
