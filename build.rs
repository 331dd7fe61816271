//! Writes the names of PCI devices, as the crate `pci-ids` has them, as tables without pointers.
//!
//! The crate's own tables hold 40,000 pointers to strings. Where a program is loaded at a random address (every
//! position-independent one), each of them is a word that is written, and a page that is copied, before `main`: a
//! third of the time of a whole look at a machine.
//!
//! With each name goes the place that its line has in a list that says nothing else: where to look first in another one.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write},
    path::Path,
};

/// Every name, end to end; the tables have where each begins and how many bytes it has.
#[derive(Default)]
struct Names(String);

impl Names {
    fn keep(&mut self, name: &str) -> (usize, usize) {
        let start = self.0.len();
        self.0.push_str(name);
        (start, name.len())
    }
}

fn table(name: &str, form: &str, lines: &[String]) -> String {
    format!("pub(super) static {name}: [{form}; {}] = [\n{}];\n", lines.len(), lines.join(",\n"))
}

fn main() -> io::Result<()> {
    writeln!(io::stdout(), "cargo::rerun-if-changed=build.rs")?;
    let mut names = Names::default();
    let (mut vendors, mut devices) = (Vec::new(), Vec::new());
    let mut place = 0;
    let sorted: BTreeMap<u16, &pci_ids::Vendor> =
        pci_ids::Vendors::iter().map(|vendor| (vendor.id(), vendor)).collect();
    for (vendor, known) in sorted {
        let (start, length) = names.keep(known.name());
        vendors.push(format!("({vendor}, {start}, {length}, {place})"));
        place += "10de  \n".len() + length;
        let sorted: BTreeMap<u16, &pci_ids::Device> =
            known.devices().map(|device| (device.id(), device)).collect();
        for (device, known) in sorted {
            let (start, length) = names.keep(known.name());
            devices.push(format!("(({vendor}, {device}), {start}, {length}, {place})"));
            let boards = known.subsystems().map(|board| "\t\t1458 403b  \n".len() + board.name().len());
            place += "\t2204  \n".len() + length + boards.sum::<usize>();
        }
    }
    let mut classes = Vec::new();
    let sorted: BTreeMap<u8, &pci_ids::Class> =
        pci_ids::Classes::iter().map(|class| (class.id(), class)).collect();
    for (class, known) in sorted {
        for subclass in known.subclasses() {
            let (start, length) = names.keep(subclass.name());
            classes
                .push(format!("({}, {start}, {length})", u16::from(class) << 8 | u16::from(subclass.id())));
        }
        // What lspci says of a subclass that the list does not have: the class's name (lib/names-parse.c).
        let (start, length) = names.keep(known.name());
        classes.push(format!("({}, {start}, {length})", u16::from(class) << 8 | 0x80));
    }
    let text = table("VENDORS", "(u16, u32, u16, u32)", &vendors)
        + &table("DEVICES", "((u16, u16), u32, u16, u32)", &devices)
        + &table("CLASSES", "(u16, u32, u16)", &classes)
        + &format!("pub(super) static NAMES: &str = {:?};\n", names.0);
    let folder = env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
    fs::write(Path::new(&folder).join("names.rs"), text)
}
