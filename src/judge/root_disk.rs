//! Which function holds the root filesystem?

use super::{Finding, Severity, protect::refusal};
use crate::host::{Host, Purpose};

/// The controller of the root filesystem: it is never lent, and neither is a card whose group it is in.
pub(super) fn root_disk(host: &Host) -> Vec<Finding> {
    let disks = host.storage.iter().flatten();
    let with_root = disks.filter_map(|disk| {
        let is_root = |of: &&crate::host::DiskUse| of.purpose == Purpose::Mount { at: "/".to_owned() };
        Some((disk, disk.uses.iter().find(is_root)?, disk.function?))
    });
    let finding = |(disk, of, function): (&crate::host::Disk, &crate::host::DiskUse, _)| {
        let message = refusal(host, function)?.message;
        Some(
            Finding::new("root-disk", Severity::Info, message)
                .on(function)
                .seen("/proc/self/mountinfo", format!("{} is mounted at /", of.device))
                .cause(format!("{} is the host's own disk; the controller stays with the host", disk.name)),
        )
    };
    with_root.filter_map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Disk, testing::*};

    #[test]
    fn the_controller_of_the_root_filesystem_is_named() {
        let mut host = desktop();
        assert_eq!(root_disk(&host), []);
        let disk = |uses| Disk { name: "nvme0n1".into(), function: Some(at("03:00.0")), uses };
        host.storage = Some(vec![disk(vec![mounted("nvme0n1p1", "/srv")])]);
        assert_eq!(root_disk(&host), []);
        host.storage = Some(vec![disk(vec![mounted("nvme0n1p2", "/")])]);
        assert_eq!(root_disk(&host)[0].device, Some(at("03:00.0")));
    }
}
