//! Why a group is shared: the port or bridge that does not keep devices apart, and what would part them.
//!
//! Pure, and careful: where config space was not told, it says so and what would tell.

use super::acs::{self, Apart, Key};
use crate::{
    host::{Function, Gpu, Host, Source, config::PortKind},
    pci::Address,
};
use std::collections::BTreeSet;

/// Why functions share a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A port or bridge does not keep apart what is behind it.
    Port {
        /// The port.
        port: Address,
        /// In which way it does not.
        how: Apart,
        /// Functions of the group behind it; bridges do not count.
        behind: Vec<Address>,
        /// Other ports of the group that do not either, below it.
        also: Vec<Address>,
    },
    /// Bridges are among the functions, and what is behind which was not told: a bridge is in a group with others where
    /// it does not keep them apart.
    Bridges {
        /// The bridges.
        bridges: Vec<Address>,
    },
    /// Functions of one slot are not kept apart.
    Slot {
        /// The functions.
        functions: Vec<Address>,
        /// In which way they are not.
        how: Apart,
    },
}

/// A slot whose devices have groups of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// Its port.
    pub port: Address,
    /// The number on the board.
    pub slot: Option<u16>,
    /// Lanes.
    pub width: Option<u8>,
    /// What is in it now.
    pub now: Vec<Address>,
}

/// What the override patch would do to a card's group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Override {
    /// `pcie_acs_override=downstream` is enough.
    Downstream,
    /// It takes `pcie_acs_override=downstream,multifunction`.
    Multifunction,
    /// Neither parts them.
    Useless,
    /// Too little is told.
    Unknown,
}

impl Override {
    /// The word on the command line.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Downstream => Some("pcie_acs_override=downstream"),
            Self::Multifunction => Some("pcie_acs_override=downstream,multifunction"),
            Self::Useless | Self::Unknown => None,
        }
    }
}

fn members(host: &Host, group: u32) -> Vec<&Function> {
    host.functions.iter().filter(|function| function.iommu_group == Some(group)).collect()
}

/// Whether a group holds more than one device: functions of different slots, bridges and idle host bridges left out.
pub fn is_shared(host: &Host, group: u32) -> bool {
    let counts = |function: &&Function| {
        !function.is_pci_bridge() && (function.class.subclass() != 0x0600 || function.driver.is_some())
    };
    let members = members(host, group);
    let slots: BTreeSet<Address> =
        members.into_iter().filter(counts).map(|function| function.address.with_function(0)).collect();
    slots.len() > 1
}

/// Why the functions of a group are in one: ports first, from the root down, then slots.
pub fn causes(host: &Host, group: u32) -> Vec<Cause> {
    let members = members(host, group);
    let inside = |address: Address| members.iter().any(|member| member.address == address);
    let below = |port: Address| {
        members.iter().filter(move |member| host.above(member.address).any(|above| above == port)).copied()
    };
    let mut causes = Vec::new();
    let tops = members.iter().filter(|member| {
        let apart = member.parent.is_none_or(|parent| !inside(parent));
        member.is_pci_bridge() && apart && below(member.address).next().is_some()
    });
    for top in tops {
        let also = below(top.address).filter(|member| {
            let has_more = below(member.address).next().is_some();
            member.is_pci_bridge() && has_more && acs::apart(host, member).known() == Some(false)
        });
        let behind = below(top.address).filter(|member| !member.is_pci_bridge());
        causes.push(Cause::Port {
            port: top.address,
            how: acs::apart(host, top),
            behind: behind.map(|member| member.address).collect(),
            also: also.map(|member| member.address).collect(),
        });
    }
    let bridges = members.iter().filter(|member| member.is_pci_bridge()).map(|member| member.address);
    let bridges: Vec<Address> = bridges.collect();
    let placeless = |member: &&&Function| member.parent.is_none() && member.path.is_none();
    if causes.is_empty() && !bridges.is_empty() && members.iter().filter(placeless).count() > 1 {
        causes.push(Cause::Bridges { bridges });
    }
    let slots: BTreeSet<Address> = members.iter().map(|member| member.address.with_function(0)).collect();
    for slot in slots {
        let functions: Vec<&&Function> =
            members.iter().filter(|member| member.address.same_slot(slot)).collect();
        // What is behind a bridge to conventional PCI has no say of its own.
        let by_bridge = functions.iter().any(|function| {
            let how = function
                .parent
                .and_then(|parent| host.function(parent))
                .map(|parent| acs::apart(host, parent));
            how == Some(Apart::Conventional)
        });
        if functions.len() > 1 && !by_bridge {
            let how = functions.iter().map(|function| acs::apart(host, function));
            let how = how.clone().find(|how| how.known() == Some(false)).or_else(|| how.clone().next());
            causes.push(Cause::Slot {
                functions: functions.iter().map(|function| function.address).collect(),
                how: how.unwrap_or(Apart::Unknown),
            });
        }
    }
    causes
}

impl Cause {
    /// In a sentence without its full stop.
    pub fn sentence(&self, host: &Host) -> String {
        match self {
            Self::Port { port, how, behind, also } => {
                let kind = host.function(*port).and_then(acs::kind);
                let name = kind.map_or("a bridge", |kind| match kind {
                    PortKind::RootPort => "a root port",
                    PortKind::Upstream => "the upstream port of a switch",
                    PortKind::Downstream => "a downstream port of a switch",
                    PortKind::PcieToPci => "a bridge to conventional PCI",
                    _ => "a bridge",
                });
                let devices = count(behind);
                let also = if also.is_empty() { String::new() } else { format!(", nor do {}", list(also)) };
                match how {
                    Apart::Missing => format!(
                        "{port}, {name}, has no access control (ACS): it does not keep apart the {devices} behind \
                         it{also}"
                    ),
                    Apart::Off => {
                        let off = missing_controls(host, *port);
                        format!(
                            "{port}, {name}, has access control (ACS), and {off} switched off: it does not keep apart the \
                         {devices} behind it{also}"
                        )
                    }
                    Apart::Conventional => format!(
                        "{port} is a bridge to conventional PCI: to the IOMMU, the {devices} behind it and the bridge are one"
                    ),
                    Apart::Unknown => format!(
                        "{port}, {name}, does not keep apart the {devices} behind it; whether it has no access \
                         control (ACS) or has it off was not told"
                    ),
                    _ => format!("{port}, {name}, shares the group with the {devices} behind it{also}"),
                }
            }
            Self::Bridges { bridges } => format!(
                "{} in the group: what is behind them is not kept apart; which devices these are, and whether access \
                 control (ACS) is missing or off, was not told",
                match bridges.len() {
                    1 => format!("the bridge {} is", list(bridges)),
                    _ => format!("the bridges {} are", list(bridges)),
                }
            ),
            Self::Slot { functions, how } => {
                let why = match how {
                    Apart::Missing => " that has no access control (ACS) between them",
                    Apart::Off => " whose access control (ACS) is off",
                    Apart::Conventional => " of conventional PCI",
                    _ => "",
                };
                format!("{} are functions of one device{why}", list(functions))
            }
        }
    }

    /// The port or the first function of the slot.
    pub fn place(&self) -> Option<Address> {
        match self {
            Self::Port { port, .. } => Some(*port),
            Self::Slot { functions, .. } => functions.first().copied(),
            Self::Bridges { bridges } => bridges.first().copied(),
        }
    }

    /// Whether config space would tell more.
    fn is_unknown(&self) -> bool {
        matches!(self, Self::Port { how: Apart::Unknown, .. } | Self::Bridges { .. })
    }
}

/// Controls that the kernel asks for, the port can do, and are off; by lspci's names.
fn missing_controls(host: &Host, port: Address) -> String {
    use crate::host::config::{Acs, Controls};
    let acs = host.function(port).and_then(|port| port.config.as_ref()).map(|config| config.acs);
    match acs {
        Some(Acs::Present { can, on }) => Controls(Controls::REQUIRED.0 & can.0 & !on.0).names().join(", "),
        _ => "it".to_owned(),
    }
}

fn count(addresses: &[Address]) -> String {
    let slots: BTreeSet<Address> = addresses.iter().map(|address| address.with_function(0)).collect();
    if slots.len() == 1 { "device".to_owned() } else { format!("{} devices", slots.len()) }
}

/// `a, b and c`, at most four of them.
fn list(addresses: &[Address]) -> String {
    let mut words: Vec<String> = addresses.iter().take(4).map(ToString::to_string).collect();
    if addresses.len() > 4 {
        words.push(format!("{} more", addresses.len() - 4));
    }
    match words.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => words.concat(),
    }
}

/// Slots at root ports that keep apart what is in them, widest first, the card's own left out.
pub fn elsewhere(host: &Host, gpu: &Gpu) -> Vec<Elsewhere> {
    let above: Vec<Address> = host.above(gpu.address).collect();
    let own_group = host.function(gpu.address).and_then(|function| function.iommu_group);
    let good = |port: &&Function| {
        let on_root_bus =
            port.path.as_ref().is_none_or(|path| path.below.is_empty()) && port.parent.is_none();
        let truly = matches!(acs::apart(host, port), Apart::ByAcs | Apart::ByQuirk | Apart::ByGroups);
        let express = port.config.as_ref().and_then(|config| config.express.as_ref());
        // Where it was told that there is no connector, there is no slot.
        let slot = express.is_none_or(|express| express.slot.is_some());
        port.is_pci_bridge()
            && on_root_bus
            && truly
            && slot
            && !above.contains(&port.address)
            && port.iommu_group != own_group
    };
    let mut all: Vec<Elsewhere> = host
        .functions
        .iter()
        .filter(good)
        .map(|port| Elsewhere {
            port: port.address,
            slot: port.config.as_ref().and_then(|config| config.express.as_ref()?.slot),
            width: port.link.and_then(|link| link.max_width),
            now: devices_behind(host, port.address),
        })
        .collect();
    all.sort_by_key(|slot| (std::cmp::Reverse(slot.width), slot.port));
    all
}

fn devices_behind(host: &Host, port: Address) -> Vec<Address> {
    let behind =
        host.functions.iter().filter(|function| host.above(function.address).any(|above| above == port));
    behind.filter(|function| !function.is_pci_bridge()).map(|function| function.address).collect()
}

/// What the override patch would do: whether the card would be in other groups than its companions.
pub fn overriding(host: &Host, gpu: &Gpu, companions: &[&Function]) -> Override {
    // Whatever else is not told: no word parts what is behind one bridge to conventional PCI.
    let conventional = |above: &Address| {
        host.function(*above).is_some_and(|above| acs::apart(host, above) == Apart::Conventional)
    };
    let mine: BTreeSet<Address> = host.above(gpu.address).filter(conventional).collect();
    if companions.iter().any(|companion| host.above(companion.address).any(|above| mine.contains(&above))) {
        return Override::Useless;
    }
    let known =
        |function: &Function| function.config.as_ref().is_some_and(|config| config.extended.is_some());
    let own: Vec<&Function> = gpu.functions.iter().filter_map(|own| host.function(*own)).collect();
    let all = || own.iter().chain(companions).copied();
    let bridges =
        || all().flat_map(|function| host.above(function.address)).filter_map(|above| host.function(above));
    if !all().chain(bridges().filter(|bridge| bridge.is_pci_bridge())).all(known) {
        return Override::Unknown;
    }
    let parts = |multifunction: bool| {
        let kept = |function: &Function| {
            let now = acs::apart(host, function).known() == Some(true);
            now || acs::overridden(function, multifunction)
        };
        let key = |function: &&Function| acs::key(host, function, &kept);
        let mine: BTreeSet<Key> = own.iter().map(key).collect();
        companions.iter().all(|companion| !mine.contains(&key(companion)))
    };
    match (parts(false), parts(true)) {
        (true, _) => Override::Downstream,
        (false, true) => Override::Multifunction,
        (false, false) => Override::Useless,
    }
}

/// What would tell more, where something was not told.
pub fn would_tell(host: &Host, causes: &[Cause]) -> Option<&'static str> {
    if !causes.iter().any(Cause::is_unknown) {
        return None;
    }
    Some(match host.source {
        Source::Live => "root sees which: sudo gpuferry inspect groups",
        Source::Capture => "a capture made by root has it",
        Source::Text => "the output of sudo lspci -vvv has it",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{config::Acs, gpu, testing::*};

    fn cards(mut host: Host) -> Host {
        host.groups = crate::host::testing::groups(&host.functions);
        host.gpus = gpu::gpus(&host);
        host
    }

    /// Processor ports 00:01.0 and 00:01.1 without ACS: a card behind the first, a disk behind the second, one group.
    /// Another port, 00:06.0, with ACS.
    fn client(acs: Acs) -> Host {
        let mut host = desktop();
        host.functions.clear();
        let mut add = |mut function: Function, parent: Option<&str>, group| {
            function.parent = parent.map(at);
            function.iommu_group = Some(group);
            host.functions.push(function);
        };
        add(express("00:01.0", "060400", "8086:1901", PortKind::RootPort, acs), None, 1);
        add(express("00:01.1", "060400", "8086:1905", PortKind::RootPort, acs), None, 1);
        let mut free = express("00:06.0", "060400", "8086:9999", PortKind::RootPort, ON);
        free.config.as_mut().unwrap().express.as_mut().unwrap().slot = Some(4);
        add(free, None, 6);
        add(
            express("01:00.0", "030000", "10de:1b80", PortKind::LegacyEndpoint, Acs::Missing),
            Some("00:01.0"),
            1,
        );
        add(express("01:00.1", "040300", "10de:10f0", PortKind::Endpoint, Acs::Missing), Some("00:01.0"), 1);
        add(express("02:00.0", "010802", "144d:a808", PortKind::Endpoint, Acs::Missing), Some("00:01.1"), 1);
        cards(host)
    }

    fn others(host: &Host) -> Vec<&Function> {
        host.gpus[0].companions.iter().map(|companion| host.function(*companion).unwrap()).collect()
    }

    #[test]
    fn a_processors_two_ports_without_acs() {
        let host = client(Acs::Missing);
        assert!(is_shared(&host, 1) && !is_shared(&host, 6));
        let causes = causes(&host, 1);
        let place = |cause: &Cause| cause.place().unwrap().to_string();
        assert_eq!(
            causes.iter().map(place).collect::<Vec<_>>(),
            ["0000:00:01.0", "0000:00:01.1", "0000:00:01.0", "0000:01:00.0"]
        );
        assert_eq!(
            causes[0].sentence(&host),
            "0000:00:01.0, a root port, has no access control (ACS): it does not keep apart the device behind it"
        );
        assert_eq!(
            causes[2].sentence(&host),
            "0000:00:01.0 and 0000:00:01.1 are functions of one device that has no access control (ACS) between them"
        );
        assert_eq!(would_tell(&host, &causes), None);
        assert_eq!(overriding(&host, &host.gpus[0], &others(&host)), Override::Downstream);
        let slots = elsewhere(&host, &host.gpus[0]);
        assert_eq!((slots.len(), slots[0].port, slots[0].slot), (1, at("00:06.0"), Some(4)));
        assert!(slots[0].now.is_empty());
    }

    #[test]
    fn the_override_leaves_ports_alone_that_have_acs_off() {
        let host = client(OFF);
        assert!(
            causes(&host, 1)[0]
                .sentence(&host)
                .contains("SrcValid, ReqRedir, CmpltRedir, UpstreamFwd switched off")
        );
        assert_eq!(overriding(&host, &host.gpus[0], &others(&host)), Override::Useless);
    }

    #[test]
    fn without_config_space_the_port_is_named_and_the_rest_unknown() {
        let mut host = client(Acs::Missing);
        host.functions.iter_mut().for_each(|function| function.config = None);
        let causes = causes(&host, 1);
        assert!(causes[0].sentence(&host).ends_with("was not told"), "{}", causes[0].sentence(&host));
        assert!(would_tell(&host, &causes).unwrap().contains("sudo"));
        assert_eq!(overriding(&host, &host.gpus[0], &others(&host)), Override::Unknown);
    }

    #[test]
    fn a_listing_without_places_names_the_bridges() {
        let mut host = client(Acs::Missing);
        host.source = Source::Text;
        for function in &mut host.functions {
            (function.parent, function.config) = (None, None);
        }
        let causes = causes(&host, 1);
        assert!(
            causes[0]
                .sentence(&host)
                .starts_with("the bridges 0000:00:01.0 and 0000:00:01.1 are in the group")
        );
        assert_eq!(would_tell(&host, &causes), Some("the output of sudo lspci -vvv has it"));
    }

    #[test]
    fn a_bridge_to_conventional_pci_is_beyond_the_override() {
        let mut host = desktop();
        let mut add = |mut function: Function, parent: &str, group| {
            function.parent = Some(at(parent));
            function.iommu_group = Some(group);
            host.functions.push(function);
        };
        add(express("05:00.0", "060400", "1b21:1080", PortKind::PcieToPci, Acs::Missing), "00:01.0", 30);
        let conventional = |address, class, id| {
            let mut function = express(address, class, id, PortKind::Endpoint, Acs::Missing);
            let config = function.config.as_mut().unwrap();
            (config.express, config.capabilities) = (None, Some(Vec::new()));
            function
        };
        add(conventional("07:00.0", "030000", "1002:5159"), "05:00.0", 30);
        add(conventional("07:01.0", "020000", "8086:100e"), "05:00.0", 30);
        host.functions[0].config = express("00:01.0", "060400", "8086:460d", PortKind::RootPort, ON).config;
        let host = cards(host);
        let causes = causes(&host, 30);
        assert_eq!(causes.len(), 1);
        assert!(
            causes[0].sentence(&host).contains("bridge to conventional PCI: to the IOMMU, the 2 devices")
        );
        let old = host.gpu(at("07:00.0")).unwrap();
        assert_eq!(overriding(&host, old, &[host.function(at("07:01.0")).unwrap()]), Override::Useless);
    }

    #[test]
    fn a_switch_needs_both_words() {
        // A chipset of AMD: functions 01:00.0 (USB) and 01:00.2 (switch) of one slot, ports below the switch.
        let mut host = desktop();
        host.functions.clear();
        let mut add = |mut function: Function, parent: Option<&str>, group| {
            function.parent = parent.map(at);
            function.iommu_group = Some(group);
            host.functions.push(function);
        };
        let missing = Acs::Missing;
        add(express("00:01.3", "060400", "1022:1453", PortKind::RootPort, ON), None, 2);
        add(
            express("01:00.0", "0c0330", "1022:43d5", PortKind::LegacyEndpoint, missing),
            Some("00:01.3"),
            12,
        );
        add(express("01:00.2", "060400", "1022:43c6", PortKind::Upstream, missing), Some("00:01.3"), 12);
        add(express("02:00.0", "060400", "1022:43c7", PortKind::Downstream, missing), Some("01:00.2"), 12);
        add(express("02:01.0", "060400", "1022:43c7", PortKind::Downstream, missing), Some("01:00.2"), 12);
        add(express("04:00.0", "020000", "10ec:8168", PortKind::Endpoint, missing), Some("02:00.0"), 12);
        add(
            express("06:00.0", "030000", "1002:699f", PortKind::LegacyEndpoint, missing),
            Some("02:01.0"),
            12,
        );
        add(express("06:00.1", "040300", "1002:aae0", PortKind::Endpoint, missing), Some("02:01.0"), 12);
        let host = cards(host);
        let causes = causes(&host, 12);
        let Cause::Port { port, behind, also, .. } = &causes[0] else { panic!("{causes:?}") };
        assert_eq!((*port, behind.len(), also.len()), (at("01:00.2"), 3, 2));
        assert_eq!(overriding(&host, &host.gpus[0], &others(&host)), Override::Multifunction);
    }
}
