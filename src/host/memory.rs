//! Memory, huge pages, NUMA nodes, and how the processors hang together.

use super::{Function, look::Look};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The machine's memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// All of it that the kernel has.
    pub total: Option<u64>,
    /// What nobody uses.
    pub free: Option<u64>,
    /// What a new program could get.
    pub available: Option<u64>,
    /// Pools of huge pages, by size.
    pub huge_pages: Vec<HugePages>,
    /// NUMA nodes, by number. Empty: not told.
    pub nodes: Vec<Node>,
}

/// A pool of huge pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    /// Bytes of a page.
    pub size: u64,
    /// Pages in the pool.
    pub total: u64,
    /// Pages that nobody has.
    pub free: u64,
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Its processors, as the kernel lists them: `0-7,16-23`.
    pub cpus: String,
    /// Its memory, in bytes.
    pub total: Option<u64>,
    /// What nobody uses of it, in bytes.
    pub free: Option<u64>,
    /// Its pools of huge pages, by size.
    pub huge_pages: Vec<HugePages>,
}

/// How the processors hang together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Sockets.
    pub packages: usize,
    /// Cores of all sockets.
    pub cores: usize,
    /// Threads that the kernel runs on.
    pub threads: usize,
    /// The threads of each core, by the first: what a guest's core should be given together.
    pub siblings: Vec<Vec<u32>>,
}

/// Reads /proc/meminfo and the pools. `None`: not told.
pub(super) fn memory(look: &Look) -> Option<Memory> {
    let text = look.text("/proc/meminfo")?;
    let nodes = look.list("/sys/devices/system/node").unwrap_or_default();
    let numbers = nodes.iter().filter_map(|name| name.strip_prefix("node")?.parse().ok());
    let mut nodes: Vec<Node> = numbers.map(|id| node(look, id)).collect();
    nodes.sort_by_key(|node| node.id);
    Some(Memory {
        total: kibibytes(&text, "MemTotal"),
        free: kibibytes(&text, "MemFree"),
        available: kibibytes(&text, "MemAvailable"),
        huge_pages: pools(look, "/sys/kernel/mm/hugepages"),
        nodes,
    })
}

fn node(look: &Look, id: u32) -> Node {
    let folder = format!("/sys/devices/system/node/node{id}");
    let text = look.text(&format!("{folder}/meminfo")).unwrap_or_default();
    Node {
        id,
        cpus: look.text(&format!("{folder}/cpulist")).unwrap_or_default(),
        total: kibibytes(&text, "MemTotal"),
        free: kibibytes(&text, "MemFree"),
        huge_pages: pools(look, &format!("{folder}/hugepages")),
    }
}

/// `MemTotal:  32768 kB`, and for a node `Node 0 MemTotal:  32768 kB`; in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.split_whitespace().next_back() == Some(name)).then_some(value)
    })?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

/// Folders `hugepages-2048kB` (Documentation/admin-guide/mm/hugetlbpage.rst).
fn pools(look: &Look, folder: &str) -> Vec<HugePages> {
    let names = look.list(folder).unwrap_or_default();
    let pool = |name: &String| {
        let size: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = |attribute: &str| look.text(&format!("{folder}/{name}/{attribute}"))?.parse().ok();
        Some(HugePages {
            size: size.checked_mul(1024)?,
            total: count("nr_hugepages")?,
            free: count("free_hugepages")?,
        })
    };
    let mut found: Vec<HugePages> = names.iter().filter_map(pool).collect();
    found.sort_by_key(|pool| pool.size);
    found
}

/// Fills in the node of every function. With one node there is nothing to tell, and nothing is read.
pub(super) fn fill(look: &Look, nodes: &[Node], functions: &mut [Function]) {
    if nodes.len() < 2 {
        return;
    }
    for function in functions {
        let text = look.text(&format!("/sys/bus/pci/devices/{}/numa_node", function.address));
        // -1: the firmware does not say (drivers/pci/pci-sysfs.c, `numa_node_show`).
        function.numa_node = text.and_then(|text| text.parse().ok());
    }
}

/// From /proc/cpuinfo: blocks with `processor`, `physical id` and `core id`. `None` where they are not told
/// (other processors than x86).
pub(super) fn topology(cpuinfo: &str) -> Option<Topology> {
    let mut cores: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
    let (mut thread, mut package, mut core) = (None, None, None);
    // The block of the last thread may end without an empty line.
    for line in cpuinfo.lines().chain([""]) {
        let Some((key, value)) = line.split_once(':') else {
            if let (Some(thread), Some(package), Some(core)) = (thread.take(), package.take(), core.take()) {
                cores.entry((package, core)).or_default().push(thread);
            }
            continue;
        };
        let number = value.trim().parse().ok();
        match key.trim() {
            "processor" => thread = number,
            "physical id" => package = number,
            "core id" => core = number,
            _ => {}
        }
    }
    let mut packages: Vec<u32> = cores.keys().map(|(package, _)| *package).collect();
    packages.dedup();
    let mut siblings: Vec<Vec<u32>> = cores.into_values().collect();
    siblings.sort();
    let threads = siblings.iter().map(Vec::len).sum();
    (threads > 0).then_some(Topology { packages: packages.len(), cores: siblings.len(), threads, siblings })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{Tree, function};

    #[test]
    fn threads_of_a_core_belong_together() {
        let block = |thread: u32, package: u32, core: u32| {
            format!(
                "processor\t: {thread}\nmodel name\t: x: y\nphysical id\t: {package}\ncore id\t\t: {core}\nflags\t: vmx\n\n"
            )
        };
        let text =
            [block(0, 0, 0), block(1, 0, 4), block(2, 1, 0), block(3, 0, 0), block(4, 0, 4), block(5, 1, 0)]
                .concat();
        let found = topology(&text).unwrap();
        assert_eq!((found.packages, found.cores, found.threads), (2, 3, 6));
        assert_eq!(found.siblings, [[0, 3], [1, 4], [2, 5]]);
        assert_eq!(topology(text.trim_end()).unwrap(), found);
        assert_eq!(topology("processor : 0\nBogoMIPS : 50\n\nprocessor : 1\n"), None);
        assert_eq!(topology(""), None);
    }

    fn two_nodes() -> Tree {
        let mut tree = Tree::new();
        tree.file(
            "/proc/meminfo",
            "MemTotal:       65536 kB\nMemFree:    1024 kB\nMemAvailable: 2048 kB\nHugePages_Total: 1\n",
        );
        for id in [0, 1] {
            let folder = format!("/sys/devices/system/node/node{id}");
            tree.file(
                &format!("{folder}/meminfo"),
                format!("Node {id} MemTotal:   32768 kB\nNode {id} MemFree: 512 kB\n"),
            );
            tree.file(&format!("{folder}/cpulist"), "0-3\n");
            tree.file(&format!("{folder}/hugepages/hugepages-2048kB/nr_hugepages"), "8\n");
            tree.file(&format!("{folder}/hugepages/hugepages-2048kB/free_hugepages"), "3\n");
        }
        tree
    }

    #[test]
    fn memory_by_node() {
        let mut tree = two_nodes();
        tree.file("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "2\n");
        tree.file("/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "2\n");
        let found = memory(&Look::new(&tree)).unwrap();
        assert_eq!(
            (found.total, found.free, found.available),
            (Some(64 << 20), Some(1 << 20), Some(2 << 20))
        );
        assert_eq!(found.huge_pages, [HugePages { size: 1 << 30, total: 2, free: 2 }]);
        assert_eq!(found.nodes[1].huge_pages, [HugePages { size: 2 << 20, total: 8, free: 3 }]);
        assert_eq!((found.nodes[1].total, found.nodes[1].cpus.as_str()), (Some(32 << 20), "0-3"));
        assert_eq!(memory(&Look::new(&Tree::new())), None);
    }

    #[test]
    fn the_node_of_a_function_where_there_are_several() {
        let mut tree = two_nodes();
        tree.file("/sys/bus/pci/devices/0000:01:00.0/numa_node", "1\n");
        tree.file("/sys/bus/pci/devices/0000:02:00.0/numa_node", "-1\n");
        let look = Look::new(&tree);
        let nodes = memory(&look).unwrap().nodes;
        let mut functions =
            [function("01:00.0", "030000", "10de:2204"), function("02:00.0", "030000", "10de:2204")];
        fill(&look, &nodes[..1], &mut functions);
        assert_eq!(functions[0].numa_node, None, "one node tells nothing");
        fill(&look, &nodes, &mut functions);
        assert_eq!((functions[0].numa_node, functions[1].numa_node), (Some(1), None));
    }
}
