//! A libvirt domain, as far as it says which PCI devices it takes: reads XML, writes none.
//!
//! The XML is somebody else's: a file in /etc/libvirt/qemu, or a hook's standard input. A document type (and with it
//! every entity of one's own) is refused, and so is what is larger or deeper than a domain is.
//! Format: <https://libvirt.org/formatdomain.html>.

use crate::pci::Address;
use roxmltree::{Document, Node, ParsingOptions};
use serde::{Deserialize, Serialize};

/// The largest domain that is read, in bytes. Real ones have some 10 KiB, running ones with their state 40 KiB.
pub const MAX_XML: usize = 1 << 20;

/// Elements, texts and comments that a domain may have.
const MAX_NODES: u32 = 20_000;

/// Attributes and name spaces that the whole domain may have, and elements inside elements. The parser compares each
/// attribute of an element with the others, and each element inherits the name spaces above it.
const MAX_EQUALS: usize = 10_000;
const MAX_SPACES: usize = 200;
const MAX_DEPTH: usize = 64;

/// What a domain says about PCI devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its UUID; `None` in XML that was not yet defined.
    pub uuid: Option<String>,
    /// PCI devices of the host that it takes, in the order of the XML.
    pub hostdevs: Vec<Hostdev>,
}

/// A PCI device of the host that a domain takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hostdev {
    /// Where it is on the host.
    pub address: Address,
    /// Whether libvirt takes it from its driver and gives it back (`managed='yes'`).
    pub managed: bool,
    /// How the domain takes it.
    pub kind: HostdevKind,
}

/// How a domain takes a PCI device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostdevKind {
    /// `<hostdev type='pci'>`.
    Hostdev,
    /// `<interface type='hostdev'>`: a virtual function of a network card.
    Interface,
    /// `<disk type='nvme'>`: QEMU's own NVMe driver, through vfio-pci.
    Nvme,
    /// `-device vfio-pci,host=…` among `<qemu:commandline>`: libvirt does not know of it.
    Argument,
}

impl Domain {
    /// Addresses of its PCI devices, in the order of the XML.
    pub fn addresses(&self) -> Vec<Address> {
        self.hostdevs.iter().map(|hostdev| hostdev.address).collect()
    }
}

/// Why a text is no domain that can be read. For people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// More than [`MAX_XML`], or more elements than any domain.
    #[error("the domain's XML is too large: {0}")]
    TooLarge(&'static str),
    /// Not well-formed, or with a document type.
    #[error("the domain's XML is not well-formed: {0}")]
    Malformed(String),
    /// XML, but no domain.
    #[error("the XML is no libvirt domain: {0}")]
    NoDomain(String),
}

/// The PCI devices that a domain takes. Takes `<domain>` and, as libvirt keeps running ones in /run/libvirt/qemu,
/// `<domstatus>` around it.
pub fn hostdevs(xml: &str) -> Result<Domain, DomainError> {
    let document = parse(xml)?;
    let root = document.root_element();
    let domain = match root.tag_name().name() {
        "domain" => Some(root),
        "domstatus" => child(root, "domain"),
        _ => None,
    };
    let domain =
        domain.ok_or_else(|| DomainError::NoDomain(format!("it is a <{}>", root.tag_name().name())))?;
    let name = child(domain, "name").map(text).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| DomainError::NoDomain("it has no name".to_owned()))?;
    let mut hostdevs = Vec::new();
    for device in child(domain, "devices").into_iter().flat_map(|devices| devices.children()) {
        hostdevs.extend(of_device(device)?);
    }
    hostdevs.extend(arguments(domain));
    Ok(Domain { name, uuid: child(domain, "uuid").map(text).filter(|uuid| !uuid.is_empty()), hostdevs })
}

fn parse(xml: &str) -> Result<Document<'_>, DomainError> {
    if xml.len() > MAX_XML {
        return Err(DomainError::TooLarge("more than 1 MiB"));
    }
    if xml.bytes().filter(|byte| *byte == b'=').count() > MAX_EQUALS {
        return Err(DomainError::TooLarge("more than 10000 attributes"));
    }
    if xml.matches("xmlns").count() > MAX_SPACES {
        return Err(DomainError::TooLarge("more than 200 name spaces"));
    }
    let options = ParsingOptions { nodes_limit: MAX_NODES, allow_dtd: false, ..ParsingOptions::default() };
    let document = Document::parse_with_options(xml, options).map_err(|error| match error {
        roxmltree::Error::NodesLimitReached => DomainError::TooLarge("more than 20000 elements"),
        other => DomainError::Malformed(other.to_string()),
    })?;
    let deepest = document
        .descendants()
        .filter(Node::is_element)
        .map(|node| node.ancestors().take(MAX_DEPTH + 2).count());
    if deepest.max().unwrap_or(0) > MAX_DEPTH + 1 {
        return Err(DomainError::TooLarge("more than 64 elements inside each other"));
    }
    Ok(document)
}

fn child<'d, 'x>(node: Node<'d, 'x>, name: &str) -> Option<Node<'d, 'x>> {
    node.children().find(|child| child.is_element() && child.tag_name().name() == name)
}

fn text(node: Node) -> String {
    node.text().unwrap_or_default().trim().to_owned()
}

/// The PCI device of an element below `<devices>`, if it takes one.
fn of_device(device: Node) -> Result<Option<Hostdev>, DomainError> {
    let is = |name: &str, value: &str| device.attribute(name) == Some(value);
    let Some(source) = child(device, "source") else { return Ok(None) };
    // A disk says how its source is managed at the source; the others at the device.
    let (kind, managed) = match device.tag_name().name() {
        // The mode is `subsystem` where nothing else is said; a capability of a container is no device.
        "hostdev" if is("type", "pci") && !is("mode", "capabilities") => (HostdevKind::Hostdev, device),
        "interface" if is("type", "hostdev") => (HostdevKind::Interface, device),
        "disk" if is("type", "nvme") => (HostdevKind::Nvme, source),
        _ => return Ok(None),
    };
    // A virtual function may also be named by vendor and product of a USB adapter.
    let Some(address) = child(source, "address") else { return Ok(None) };
    if address.attribute("type").is_some_and(|of| of != "pci") {
        return Ok(None);
    }
    let written = || {
        address.attributes().map(|a| format!("{}='{}'", a.name(), a.value())).collect::<Vec<_>>().join(" ")
    };
    let address = pci_address(address)
        .ok_or_else(|| DomainError::Malformed(format!("<address {}> is no PCI address", written())))?;
    Ok(Some(Hostdev { address, managed: managed.attribute("managed") == Some("yes"), kind }))
}

/// What is left out is 0 (src/conf/device_conf.c of libvirt, `virPCIDeviceAddressParseXML`).
fn pci_address(node: Node) -> Option<Address> {
    let field = |name: &str| node.attribute(name).map_or(Some(0), number);
    let (bus, device, function) = (field("bus")?, field("slot")?, field("function")?);
    Some(Address {
        domain: field("domain")?,
        bus: u8::try_from(bus).ok()?,
        device: u8::try_from(device).ok().filter(|device| *device < 32)?,
        function: u8::try_from(function).ok().filter(|function| *function < 8)?,
    })
}

/// As strtoul(3) with base 0, which libvirt uses: `0x10`, `16`, and `020` too.
fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if plain { u32::from_str_radix(digits, radix).ok() } else { None }
}

/// Devices that are given to QEMU behind libvirt's back (<https://libvirt.org/kbase/qemu-passthrough-security.html>).
fn arguments<'d>(domain: Node<'d, '_>) -> impl Iterator<Item = Hostdev> + 'd {
    let line = child(domain, "commandline");
    let values =
        line.into_iter().flat_map(|line| line.children()).filter(|arg| arg.tag_name().name() == "arg");
    values.filter_map(|arg| arg.attribute("value")).filter_map(|value| {
        let host =
            value.strip_prefix("vfio-pci,")?.split(',').find_map(|option| option.strip_prefix("host="))?;
        Some(Hostdev { address: host.parse().ok()?, managed: false, kind: HostdevKind::Argument })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(devices: &str) -> String {
        format!(
            "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n<name>win10</name>\n\
             <uuid>0a1b2c3d-0000-4000-8000-000000000001</uuid><metadata><x:y xmlns:x='urn:x'>&lt;hostdev&gt;</x:y></metadata>\n\
             <devices>{devices}</devices></domain>"
        )
    }

    const CARD: &str = "<hostdev mode='subsystem' type='pci' managed='yes'><driver name='vfio'/><source>\
        <address domain='0x0000' bus='0x06' slot='0x00' function='0x1'/></source>\
        <address type='pci' domain='0x0000' bus='0x09' slot='0x01' function='0x0'/></hostdev>";

    fn shown(xml: &str) -> Vec<String> {
        let domain = hostdevs(xml).unwrap();
        domain.hostdevs.iter().map(|h| format!("{} {} {:?}", h.address, h.managed, h.kind)).collect()
    }

    #[test]
    fn the_hosts_address_and_not_the_guests() {
        let found = hostdevs(&domain(CARD)).unwrap();
        assert_eq!((found.name.as_str(), found.uuid.is_some()), ("win10", true));
        assert_eq!(shown(&domain(CARD)), ["0000:06:00.1 true Hostdev"]);
        let status =
            format!("<domstatus state='running' reason='booted' pid='4242'>{}</domstatus>", domain(CARD));
        assert_eq!(hostdevs(&status).unwrap().addresses(), found.addresses());
    }

    #[test]
    fn numbers_as_libvirt_takes_them() {
        let at = |address: &str| {
            domain(&format!("<hostdev type='pci'><source><address {address}/></source></hostdev>"))
        };
        assert_eq!(shown(&at("bus='10' slot='020' function='0'")), ["0000:0a:10.0 false Hostdev"]);
        assert_eq!(shown(&at("domain='0x10000' bus='0xE1' slot='0x0'")), ["10000:e1:00.0 false Hostdev"]);
        for wrong in
            ["bus='0x100'", "slot='32'", "function='8'", "bus='+1'", "bus='0x'", "bus=''", "bus='09'"]
        {
            assert!(matches!(hostdevs(&at(wrong)), Err(DomainError::Malformed(_))), "{wrong}");
        }
    }

    #[test]
    fn other_ways_to_take_a_device() {
        let all = "<interface type='hostdev' managed='yes'><source><address type='pci' bus='0x03' slot='0x10'/></source></interface>\
            <disk type='nvme' device='disk'><source type='pci' managed='yes' namespace='1'><address bus='0x04'/></source></disk>\
            <hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/><address bus='1' device='2'/></source></hostdev>\
            <hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='c2177883'/></source></hostdev>\
            <controller type='pci'/>";
        assert_eq!(shown(&domain(all)), ["0000:03:10.0 true Interface", "0000:04:00.0 true Nvme"]);
        let arguments = domain("").replace(
            "</domain>",
            "<qemu:commandline><qemu:arg value='-device'/><qemu:arg value='vfio-pci,id=x,host=0b:00.0,x-vga=on'/>\
             <qemu:arg value='vfio-pci,sysfsdev=/sys/x'/></qemu:commandline></domain>",
        );
        assert_eq!(shown(&arguments), ["0000:0b:00.0 false Argument"]);
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        let refused = |xml: &str| hostdevs(xml).unwrap_err().to_string();
        for malformed in
            ["", "<domain>", "<domain type='kvm'\n<name>x</name></domain>", "\u{feff}", "<a></b>", "text"]
        {
            assert!(refused(malformed).contains("not well-formed"), "{malformed:?}");
        }
        assert!(refused("<network><name>x</name></network>").contains("it is a <network>"));
        assert!(refused("<domain/>").contains("no name"));
        assert!(refused("<domstatus/>").contains("no libvirt domain"));
    }

    #[test]
    fn bombs_are_refused_in_time() {
        let begun = std::time::Instant::now();
        let laughs = format!("<!DOCTYPE d [<!ENTITY a 'aa'><!ENTITY b '&a;&a;'>]>{}", domain("&b;"));
        assert!(matches!(hostdevs(&laughs), Err(DomainError::Malformed(_))));
        assert!(matches!(hostdevs(&domain("&own;")), Err(DomainError::Malformed(_))));
        assert!(matches!(hostdevs(&" ".repeat(MAX_XML + 1)), Err(DomainError::TooLarge(_))));
        let deep = domain(&format!("{}{}", "<a>".repeat(9_000), "</a>".repeat(9_000)));
        assert!(matches!(hostdevs(&deep), Err(DomainError::TooLarge(_))));
        assert!(matches!(hostdevs(&domain(&"<a/>".repeat(200_000))), Err(DomainError::TooLarge(_))));
        let wide = |count: u32| (0..count).map(|n| format!(" a{n}=''")).collect::<Vec<_>>().concat();
        assert!(matches!(hostdevs(&domain(&format!("<a{}/>", wide(20_000)))), Err(DomainError::TooLarge(_))));
        assert!(hostdevs(&domain(&format!("<a{}/>", wide(9_000)))).is_ok());
        let spaces = (0..300).map(|n| format!("<a xmlns:n{n}='{n}'>")).collect::<Vec<_>>().concat();
        assert!(matches!(hostdevs(&domain(&spaces)), Err(DomainError::TooLarge(_))));
        assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
    }
}
