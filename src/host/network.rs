//! Network interfaces behind functions, and what leaves through them, through bridges, bonds and VLANs above them.
//!
//! No netlink: everything comes from files, so that a saved tree tells as much as the machine.

use super::{Interface, look::Look};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

const NET: &str = "/sys/class/net";

/// Interfaces that are hardware; `None` where they could not be listed.
pub(super) fn network(look: &Look) -> Option<Vec<Interface>> {
    let names = look.list(NET)?;
    let routes = routes(look);
    let addresses = addresses(look, &routes);
    let links: BTreeMap<&String, String> =
        names.iter().filter_map(|name| Some((name, look.link(&format!("{NET}/{name}"))?))).collect();
    let above: BTreeMap<String, Vec<String>> =
        names.iter().map(|name| (name.clone(), above(look, name))).collect();
    let defaults: BTreeSet<&str> =
        routes.iter().filter(|route| route.prefix == 0).map(|route| route.interface.as_str()).collect();
    let mut found = Vec::new();
    for name in &names {
        if links.get(name).is_none_or(|link| link.contains("/virtual/")) {
            continue;
        }
        let mut reached = closure(&above, name);
        // Open vSwitch does not say which of its ports belong together: any may be the way of any.
        if reached.contains("ovs-system") {
            reached.extend(names.iter().filter(|name| is_unexplained(look, &links, name)).cloned());
        }
        let on = |owner: &str| reached.contains(owner);
        let mut own: Vec<String> =
            addresses.iter().filter(|(owner, _)| on(owner)).map(|(_, address)| address.clone()).collect();
        own.sort();
        own.dedup();
        found.push(Interface {
            name: name.clone(),
            function: look.function_of(&format!("{NET}/{name}")),
            addresses: own,
            default_route: defaults.iter().any(|owner| on(owner)),
            up: is_up(look, name),
        });
    }
    Some(found)
}

/// Whether something listens for SSH (port 22, or what sshd_config names) on more than the loopback. `None`: not
/// told.
pub(super) fn ssh(look: &Look) -> Option<bool> {
    let config = look.text_quietly("/etc/ssh/sshd_config").unwrap_or_default();
    let mut ports: Vec<u16> = config.lines().filter_map(port_of).collect();
    if ports.is_empty() {
        ports.push(22);
    }
    let four = sockets(look, "/proc/net/tcp", "/proc/net/sockstat", "TCP:", &ports)?;
    Some(four || sockets(look, "/proc/net/tcp6", "/proc/net/sockstat6", "TCP6:", &ports).unwrap_or_default())
}

/// Whether one of these ports is listened at. Sockets that listen come first; for the others the kernel goes through a
/// table of as many places as the machine has memory for, which takes longer than all the rest of a look: so the file
/// is read in small pieces, up to the answer (net/ipv4/tcp_ipv4.c, `tcp_seq_start`), and not at all where it is empty.
fn sockets(look: &Look, list: &str, counts: &str, kind: &str, ports: &[u16]) -> Option<bool> {
    // `TCP: inuse 5 orphan 0 …`: how many there are, whatever they do (net/ipv4/proc.c).
    let counts = look.text_quietly(counts).unwrap_or_default();
    let words = counts.lines().find_map(|line| line.strip_prefix(kind));
    let count = words.and_then(|words| words.split_whitespace().nth(1)?.parse::<usize>().ok());
    if count == Some(0) {
        return Some(false);
    }
    let (mut done, mut found) = (0, false);
    let told = look.pieces(list, PIECE, |text| {
        for line in text.lines().skip(done) {
            let mut fields = line.split_whitespace().skip(3);
            // Where nothing follows the state, it may not be whole yet.
            let (Some(state), Some(_)) = (fields.next(), fields.next()) else { break };
            found |= listening(line).is_some_and(|port| ports.contains(&port));
            let heading = done == 0;
            done += 1;
            if found || !(heading || state == "0A") || count.is_some_and(|count| done > count) {
                return true;
            }
        }
        false
    });
    told.then_some(found)
}

/// Bytes of a read: a third of a line. With each line that is given the kernel looks for the next one
/// (fs/seq_file.c, `seq_read_iter`).
const PIECE: usize = 50;

/// `Port 22` (sshd_config(5)).
fn port_of(line: &str) -> Option<u16> {
    let mut words = line.split_whitespace();
    if !words.next()?.eq_ignore_ascii_case("port") {
        return None;
    }
    words.next()?.parse().ok()
}

/// The port of a socket that listens beyond the loopback: `0: 00000000:0016 00000000:0000 0A …`
/// (Documentation/networking/proc_net_tcp.rst; 0A is TCP_LISTEN, addresses are in network order).
fn listening(line: &str) -> Option<u16> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    let (address, port) = local.split_once(':')?;
    let loopback = address == "0100007F" || address == "00000000000000000000000001000000";
    (state == "0A" && !loopback).then(|| u16::from_str_radix(port, 16).ok()).flatten()
}

/// What is directly above an interface (net/core/dev.c, `netdev_adjacent_sysfs_add`), its bridge and bond too.
fn above(look: &Look, name: &str) -> Vec<String> {
    let entries = look.list(&format!("{NET}/{name}")).unwrap_or_default();
    let mut above: Vec<String> =
        entries.iter().filter_map(|entry| entry.strip_prefix("upper_")).map(str::to_owned).collect();
    if entries.iter().any(|entry| entry == "master") {
        above.extend(look.link_name(&format!("{NET}/{name}/master")));
    }
    above
}

fn closure(above: &BTreeMap<String, Vec<String>>, name: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut next = vec![name.to_owned()];
    while let Some(name) = next.pop() {
        let more = above.get(&name).into_iter().flatten().cloned();
        if seen.insert(name.clone()) {
            next.extend(more);
        }
    }
    seen
}

/// A virtual interface that stands on nothing the kernel tells of: no `lower_`, no bridge, no tunnel driver's mark.
fn is_unexplained(look: &Look, links: &BTreeMap<&String, String>, name: &str) -> bool {
    let is_virtual = links.iter().any(|(have, link)| have.as_str() == name && link.contains("/virtual/"));
    let entries = look.list(&format!("{NET}/{name}")).unwrap_or_default();
    let explained =
        entries.iter().any(|entry| entry.starts_with("lower_") || entry == "bridge" || entry == "tun_flags");
    is_virtual && name != "lo" && !explained
}

/// `operstate` (Documentation/networking/operstates.rst): drivers that do not tell say unknown; then the
/// interface's own flag counts (IFF_UP is bit 0).
fn is_up(look: &Look, name: &str) -> bool {
    match look.text(&format!("{NET}/{name}/operstate")).as_deref() {
        Some("up") => true,
        Some("unknown") => {
            let flags = look.text(&format!("{NET}/{name}/flags")).unwrap_or_default();
            u32::from_str_radix(flags.trim_start_matches("0x"), 16).is_ok_and(|flags| flags & 1 == 1)
        }
        _ => false,
    }
}

/// A route of IPv4 or IPv6.
#[derive(Debug, PartialEq, Eq)]
struct Route {
    interface: String,
    /// Network address; `None` for IPv6, where addresses name their interface themselves.
    network: Option<u32>,
    /// Length of the prefix in bits; 0 is the default route.
    prefix: u32,
}

/// Routes that lead nowhere (`unreachable`, `blackhole`): RTF_REJECT in include/uapi/linux/route.h.
const REJECT: u32 = 0x200;

fn routes(look: &Look) -> Vec<Route> {
    let four = look.text("/proc/net/route").unwrap_or_default();
    let six = look.text("/proc/net/ipv6_route").unwrap_or_default();
    four.lines().filter_map(parse_route).chain(six.lines().filter_map(parse_route6)).collect()
}

/// `eth0 0002A8C0 00000000 0001 0 0 100 00FFFFFF 0 0 0`: network order read as this processor's number.
fn parse_route(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let hex = |at: usize| fields.get(at).and_then(|text| u32::from_str_radix(text, 16).ok());
    let (network, flags, mask) = (hex(1)?.swap_bytes(), hex(3)?, hex(7)?.swap_bytes());
    let interface = (*fields.first()?).to_owned();
    (flags & REJECT == 0).then_some(Route { interface, network: Some(network), prefix: mask.leading_ones() })
}

/// Destination, prefix length, source, its length, next hop, metric, counts, flags, interface. Only default routes
/// are of use here; the kernel's own `unreachable` one is on lo.
fn parse_route6(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let flags = fields.get(8).and_then(|text| u32::from_str_radix(text, 16).ok())?;
    let interface = *fields.get(9)?;
    let anywhere = fields.first()?.bytes().all(|digit| digit == b'0') && *fields.get(1)? == "00";
    let good = anywhere && flags & REJECT == 0 && interface != "lo";
    good.then(|| Route { interface: interface.to_owned(), network: None, prefix: 0 })
}

/// Addresses by interface.
fn addresses(look: &Look, routes: &[Route]) -> Vec<(String, String)> {
    let four = parse_local(&look.text("/proc/net/fib_trie").unwrap_or_default());
    let four = four.into_iter().flat_map(|address| with_interface(address, routes));
    let six = look.text("/proc/net/if_inet6").unwrap_or_default();
    four.chain(six.lines().filter_map(parse_address6)).collect()
}

/// The host's own IPv4 addresses: entries `/32 host LOCAL` of the routing tables (net/ipv4/fib_trie.c).
fn parse_local(trie: &str) -> BTreeSet<Ipv4Addr> {
    let mut local = BTreeSet::new();
    let mut leaf = None;
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            local.extend(leaf.filter(|address| !address.is_loopback()));
        }
    }
    local
}

/// The interfaces that an address's network is directly connected to: those with the longest prefix.
fn with_interface(address: Ipv4Addr, routes: &[Route]) -> Vec<(String, String)> {
    let bits = u32::from(address);
    let mask = |prefix: u32| u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
    let holds = |route: &&Route| route.prefix > 0 && route.network == Some(bits & mask(route.prefix));
    let longest = routes.iter().filter(holds).map(|route| route.prefix).max();
    let best = routes.iter().filter(holds).filter(|route| Some(route.prefix) == longest);
    best.map(|route| (route.interface.clone(), format!("{address}/{}", route.prefix))).collect()
}

/// Address, interface number, prefix length, scope (00 is global), flags, name (all hexadecimal but the name).
fn parse_address6(line: &str) -> Option<(String, String)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = Ipv6Addr::from(u128::from_str_radix(fields.first()?, 16).ok()?);
    let prefix = u8::from_str_radix(fields.get(2)?, 16).ok()?;
    let name = (*fields.get(5)?).to_owned();
    (*fields.get(3)? == "00").then(|| (name, format!("{address}/{prefix}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        br0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        br0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        wg0\t000200C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
        *\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0\n";

    #[test]
    fn routes_of_both_kinds() {
        let routes: Vec<Route> = ROUTES.lines().filter_map(parse_route).collect();
        assert_eq!(routes.len(), 3, "the heading and the rejecting route are none");
        assert_eq!((routes[0].interface.as_str(), routes[0].prefix), ("br0", 0));
        assert_eq!(routes[1].network.map(Ipv4Addr::from), Some(Ipv4Addr::new(192, 0, 2, 0)));
        let zero = "0".repeat(32);
        let six = format!("{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 1 0 00450003 eth0");
        assert_eq!(parse_route6(&six).unwrap().interface, "eth0");
        let none = format!("{zero} 00 {zero} 00 {zero} ffffffff 1 0 00200200 lo");
        assert_eq!(parse_route6(&none), None);
    }

    #[test]
    fn an_address_is_on_the_interface_of_its_network() {
        let trie = "Local:\n  +-- 0.0.0.0/0 2 0 2\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 192.0.2.7\n        \
                    /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n";
        let local = parse_local(trie);
        assert_eq!(local.into_iter().collect::<Vec<_>>(), [Ipv4Addr::new(192, 0, 2, 7)]);
        let routes: Vec<Route> = ROUTES.lines().filter_map(parse_route).collect();
        let on = with_interface(Ipv4Addr::new(192, 0, 2, 7), &routes);
        assert_eq!(on, [("br0".to_owned(), "192.0.2.7/24".to_owned())]);
        assert!(with_interface(Ipv4Addr::new(198, 51, 100, 1), &routes).is_empty());
    }

    #[test]
    fn global_addresses_only() {
        let global = "20010db8000000000000000000000001 02 40 00 80     eth0";
        assert_eq!(parse_address6(global).unwrap(), ("eth0".to_owned(), "2001:db8::1/64".to_owned()));
        assert_eq!(parse_address6("fe800000000000000000000000000001 02 40 20 80 eth0"), None);
        assert_eq!(parse_address6("zz"), None);
    }

    #[test]
    fn a_second_way_in_listens_beyond_the_loopback() {
        let any = "   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1";
        assert_eq!(listening(any), Some(22));
        assert_eq!(listening(&any.replace("00000000:0016", "0100007F:0016")), None);
        assert_eq!(listening(&any.replace(" 0A ", " 01 ")), None, "a connection listens to nobody");
        assert_eq!(listening("  sl  local_address rem_address   st"), None);
        assert_eq!(port_of("port 2222"), Some(2222));
        assert_eq!(port_of("#Port 22"), None);
    }

    #[test]
    fn sockets_are_read_up_to_the_answer() {
        let folder = tempfile::tempdir().unwrap();
        let root = crate::machine::live::Live::open(folder.path()).unwrap();
        let look = Look::new(&root);
        std::fs::create_dir_all(folder.path().join("proc/net")).unwrap();
        let seen = |list: &str, counts: &str| {
            std::fs::write(folder.path().join("proc/net/tcp"), list).unwrap();
            std::fs::write(folder.path().join("proc/net/sockstat"), counts).unwrap();
            sockets(&look, "/proc/net/tcp", "/proc/net/sockstat", "TCP:", &[22]).unwrap()
        };
        let line = |port: &str, state: &str| {
            let line = format!(
                "   0: 00000000:{port} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 1"
            );
            format!("{line:149}\n")
        };
        let heading = format!("{:149}\n", "  sl  local_address rem_address   st tx_queue rx_queue");
        let (ssh, other, connection) = (line("0016", "0A"), line("0CEA", "0A"), line("0016", "01"));
        let count = |count: usize| format!("sockets: used 9\nTCP: inuse {count} orphan 0\nUDP: inuse 1\n");
        let whole = heading.clone() + &other + &ssh + &connection;
        for counts in [count(3), count(9), String::new(), "TCP: odd".to_owned()] {
            assert!(seen(&whole, &counts), "{counts}");
            assert!(!seen(&(heading.clone() + &other + &connection), &counts), "{counts}");
            assert!(!seen(&heading, &counts) && !seen("", &counts), "{counts}");
        }
        assert!(seen(whole.trim_end(), &count(2)), "the last line may have no end");
        // What cannot be there is not looked for: the kernel would go through all its tables.
        assert!(!seen(&whole, &count(1)) && !seen(&(heading + &connection + &ssh), &count(3)));
        assert_eq!(sockets(&look, "/proc/net/tcp6", "/proc/net/sockstat6", "TCP6:", &[22]), None);
    }

    #[test]
    fn a_ring_above_an_interface_ends() {
        let above =
            BTreeMap::from([("a".to_owned(), vec!["b".to_owned()]), ("b".to_owned(), vec!["a".to_owned()])]);
        assert_eq!(closure(&above, "a").len(), 2);
    }
}
