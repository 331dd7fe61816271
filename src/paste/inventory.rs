//! Programs that list a machine in records of their own: `lshw`, `hwinfo`, `virsh nodedev-dumpxml`.
//!
//! A record's lines come in any order, so its facts are kept until it ends. Pure: one line in, facts out.

use super::{
    device::{Row, driver_name},
    facts::Facts,
    words::{after, class_by_name, hex, id, leading_address, leading_number, number},
};
use crate::pci::{Address, Class};

/// Members that a group of a record may have.
const MAX_MEMBERS: usize = 1024;

/// Whose record it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Lshw,
    Hwinfo,
    Virsh,
}

/// A record that is being read.
#[derive(Debug)]
struct Record {
    program: Program,
    address: Option<Address>,
    class: Option<Class>,
    interface: bool,
    vendor: Option<u16>,
    device: Option<u16>,
    driver: Option<String>,
    group: Option<u32>,
    members: Vec<Address>,
    /// Inside of `<driver>`, whose `<name>` is not the function's.
    in_driver: bool,
}

/// What is read of such records.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    record: Option<Record>,
}

impl Inventory {
    /// Takes a line; true where it is of such a record and says something.
    pub(super) fn line(&mut self, facts: &mut Facts, text: &str) -> bool {
        if let Some(record) = begin(text) {
            self.end(facts);
            self.record = Some(record);
            return true;
        }
        let Some(record) = &mut self.record else { return false };
        if text == "</device>" {
            self.end(facts);
            return true;
        }
        match record.program {
            Program::Lshw => record.lshw(text),
            Program::Hwinfo => record.hwinfo(text),
            Program::Virsh => record.virsh(text),
        }
        .is_some()
    }

    /// The record is over: a blank line, another one, the end of the text.
    pub(super) fn end(&mut self, facts: &mut Facts) {
        let Some(record) = self.record.take() else { return };
        let Some(address) = record.address else { return };
        let mut row = Row::at(address);
        (row.class, row.interface) = (record.class, record.interface);
        (row.vendor, row.device, row.driver) = (record.vendor, record.device, record.driver);
        if !facts.row(&row) {
            return;
        }
        let Some(group) = record.group else { return };
        facts.group(address, group);
        for member in record.members {
            facts.group(member, group);
        }
    }
}

/// A record's first line.
fn begin(text: &str) -> Option<Record> {
    let mut record = Record {
        program: Program::Lshw,
        address: None,
        class: None,
        interface: false,
        vendor: None,
        device: None,
        driver: None,
        group: None,
        members: Vec::new(),
        in_driver: false,
    };
    if text.strip_prefix("*-").is_some_and(|name| name.starts_with(|first: char| first.is_ascii_lowercase()))
    {
        return Some(record);
    }
    if text == "<device>" {
        record.program = Program::Virsh;
        return Some(record);
    }
    // `15: PCI 100.0: 0300 VGA compatible controller (VGA)`
    let (_, rest) = leading_number(text)?;
    let (_, rest) = rest.strip_prefix(": PCI")?.split_once(": ")?;
    record.program = Program::Hwinfo;
    record.class = Some(Class(u32::from(rest.get(..4).and_then(id)?) << 8));
    Some(record)
}

/// The number between quotes behind a word: `id='0x67df'`.
fn quoted<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let rest = after(text, word)?;
    let mark = rest.chars().next().filter(|mark| matches!(mark, '\'' | '"'))?;
    rest.get(1..)?.split(mark).next()
}

/// `0x67df`, of at most so many digits.
fn code(text: &str, digits: usize) -> Option<u32> {
    let text = text.strip_prefix("0x")?;
    hex(text, text.len()).filter(|_| (1..=digits).contains(&text.len()))
}

fn short(text: &str) -> Option<u16> {
    code(text, 4).and_then(|code| u16::try_from(code).ok())
}

impl Record {
    fn lshw(&mut self, text: &str) -> Option<()> {
        let (key, value) = text.split_once(": ")?;
        match key {
            "description" => self.class = class_by_name(value),
            // With -numeric, without zeroes in front.
            "product" => {
                let (vendor, device) =
                    value.rsplit_once('[').and_then(|(_, ids)| ids.strip_suffix(']')?.split_once(':'))?;
                let part = |digits: &str| u16::from_str_radix(digits, 16).ok();
                (self.vendor, self.device) = (part(vendor), part(device));
            }
            "bus info" => {
                let (address, rest) = leading_address(value.strip_prefix("pci@")?)?;
                self.address = Some(address).filter(|_| rest.is_empty());
            }
            "configuration" => self.driver = after(value, "driver=").and_then(driver_name),
            _ => return None,
        }
        Some(())
    }

    fn hwinfo(&mut self, text: &str) -> Option<()> {
        let (key, value) = text.split_once(": ")?;
        let number = || value.strip_prefix("pci ").and_then(|value| short(value.split(' ').next()?));
        match key {
            "SysFS BusID" => {
                let (address, rest) = leading_address(value)?;
                self.address = Some(address).filter(|_| rest.is_empty());
            }
            "Vendor" => self.vendor = number(),
            "Device" => self.device = number(),
            "Driver" => self.driver = driver_name(value.trim_matches('"')),
            _ => return None,
        }
        Some(())
    }

    fn virsh(&mut self, text: &str) -> Option<()> {
        let inside = |tag: &str| {
            let text = text.strip_prefix('<')?.strip_prefix(tag)?.strip_prefix('>')?;
            text.split('<').next()
        };
        if let Some(name) = inside("name") {
            if self.in_driver {
                self.driver = driver_name(name);
            } else {
                // `pci_0000_01_00_0`
                let parts: Vec<&str> = name.strip_prefix("pci_")?.split('_').collect();
                let [domain, bus, device, function] = parts.as_slice() else { return None };
                self.address = format!("{domain}:{bus}:{device}.{function}").parse().ok();
            }
        } else if let Some(class) = inside("class") {
            self.class = code(class, 6).map(Class);
            self.interface = true;
        } else if text.starts_with("<product ") {
            self.device = quoted(text, "id=").and_then(short);
        } else if text.starts_with("<vendor ") {
            self.vendor = quoted(text, "id=").and_then(short);
        } else if text.starts_with("<iommuGroup ") {
            self.group = quoted(text, "number=").and_then(number);
        } else if text.starts_with("<address ") && self.group.is_some() && self.members.len() < MAX_MEMBERS {
            let part = |word: &str, digits| quoted(text, word).and_then(|part| code(part, digits));
            let (bus, device) = (part("bus=", 2)?, part("slot=", 2)?);
            let (domain, function) = (part("domain=", 4)?, part("function=", 1)?);
            let address = format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}").parse::<Address>();
            self.members.extend(address.ok());
        } else {
            self.in_driver = text == "<driver>";
            let known = ["<driver>", "</driver>", "</iommuGroup>"].contains(&text);
            return known.then_some(());
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use crate::host::{Host, Source};

    fn read(text: &str) -> Host {
        let mut host = Host::unknown(Source::Text);
        super::super::merge(&mut host, &[super::super::Text { name: "t".into(), text: text.into() }]);
        host
    }

    fn card(host: &Host) -> (String, u32, String, Option<String>) {
        let card = host.function("01:00.0".parse().unwrap()).unwrap();
        (
            card.address.to_string(),
            card.class.subclass().into(),
            card.id().unwrap().to_string(),
            card.driver.clone(),
        )
    }

    #[test]
    fn every_program_says_the_same() {
        let lshw = "  *-display\n       description: VGA compatible controller\n       product: G1 [10DE:A6C]\n       \
            vendor: NVIDIA Corporation [10DE]\n       bus info: pci@0000:01:00.0\n       \
            configuration: driver=nvidia latency=0\n  *-usb\n       bus info: usb@1:2\n";
        let hwinfo = "15: PCI 100.0: 0300 VGA compatible controller (VGA)\n  [Created at pci.386]\n  \
            SysFS BusID: 0000:01:00.0\n  Vendor: pci 0x10de \"nVidia Corporation\"\n  Device: pci 0x0a6c\n  \
            SubVendor: pci 0x17aa \"Lenovo\"\n  SubDevice: pci 0x3ca0\n  Driver: \"nvidia\"\n";
        let virsh = "<device>\n  <name>pci_0000_01_00_0</name>\n  <driver>\n    <name>nvidia</name>\n  </driver>\n  \
            <capability type='pci'>\n    <class>0x030000</class>\n    <product id='0x0a6c'>G1</product>\n    \
            <vendor id='0x10de'>N</vendor>\n    <iommuGroup number='7'>\n      \
            <address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>\n      \
            <address domain='0x0000' bus='0x01' slot='0x00' function='0x1'/>\n    </iommuGroup>\n  \
            </capability>\n</device>\n";
        for text in [lshw, hwinfo, virsh] {
            let host = read(text);
            let expected =
                ("0000:01:00.0".to_owned(), 0x0300, "10de:0a6c".to_owned(), Some("nvidia".to_owned()));
            assert_eq!(card(&host), expected, "{text}");
            assert_eq!(host.unseen, Vec::<String>::new(), "{text}");
        }
        let host = read(virsh);
        assert_eq!(host.functions.iter().map(|one| one.iommu_group).collect::<Vec<_>>(), [Some(7); 2]);
        assert_eq!(read(lshw).functions.len(), 1);
        let above = virsh
            .replace(
                "<driver>\n",
                "<path>/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0</path>\n  <driver>\n",
            )
            .replace("bus='0x01' slot='0x00' function='0x1'", "bus='0x00' slot='0x01' function='0x0'");
        assert!(read(&above).function("00:01.0".parse().unwrap()).unwrap().is_pci_bridge());
    }

    #[test]
    fn a_guests_addresses_are_no_group() {
        let domain = "<hostdev mode='subsystem' type='pci'>\n<source>\n\
            <address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>\n</source>\n</hostdev>\n";
        assert_eq!(read(domain).functions, []);
    }
}
