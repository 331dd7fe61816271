//! Does a card answer at all? One that has lost its power or its link reads as ones.

use super::{Finding, Severity};
use crate::{
    host::{Function, Gpu, Host},
    pci::Address,
};

/// Functions of a card whose config space reads as ones: nothing is there to answer (PCI Express base
/// specification, 2.3.2: a read that nobody completes returns ones).
pub(super) fn silent(host: &Host, gpu: &Gpu) -> Vec<Address> {
    let own = gpu.functions.iter().filter_map(|own| host.function(*own));
    let silent = |function: &&Function| function.config.as_ref().is_some_and(|config| !config.answers);
    own.filter(silent).map(|function| function.address).collect()
}

/// Cards that do not answer.
pub(super) fn off_the_bus(host: &Host) -> Vec<Finding> {
    let of = |gpu: &Gpu| {
        let silent = silent(host, gpu);
        let first = silent.first()?;
        let title = format!("{first} does not answer: it has fallen off the bus");
        let finding = Finding::new("device-off-the-bus", Severity::Blocking, title).on(gpu.address);
        let all = silent.iter().fold(finding, |finding, address| {
            finding.seen(format!("/sys/bus/pci/devices/{address}/config"), "every byte reads ff")
        });
        Some(
            all.cause("a reset that went wrong, or power that the card lost; its driver and a guest would see the same")
                .advice("switch the machine off, not only restart it, and on again")
                .fix("what the kernel says of it", format!("journalctl -k -b | grep {}", gpu.address)),
        )
    };
    host.gpus.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Config, testing::*};

    #[test]
    fn a_card_that_reads_as_ones_is_named() {
        let mut host = desktop();
        crate::host::conclude(&mut host);
        assert_eq!(off_the_bus(&host), []);
        let function = host.functions.iter_mut().find(|function| function.address == at("01:00.0")).unwrap();
        function.config = Some(Config::parse(&[0xff; 256]));
        crate::host::conclude(&mut host);
        let found = off_the_bus(&host);
        assert_eq!(found[0].id, "device-off-the-bus");
        let gpu = host.gpu(at("01:00.0")).unwrap();
        assert_eq!(gpu.verdict, crate::host::Verdict::Blocked);
        assert_eq!(gpu.reasons, ["device-off-the-bus"]);
    }
}
