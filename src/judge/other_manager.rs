//! Is somebody else after a card? Two that bind the same card fight, and the kernel hangs between them.

use super::{Finding, Severity};
use crate::host::{Host, Manager, ManagerKind};
use crate::pci::Address;

/// A finding for each other manager that is after one of the machine's cards, or does not say what it is after.
pub(super) fn other_manager(host: &Host) -> Vec<Finding> {
    let managers = host.managers.iter().flatten();
    managers.filter_map(|manager| finding(host, manager)).chain(typing_errors(host)).collect()
}

/// Others who are after this function, by name or by a rule that names nothing. For those who plan and hand over.
pub fn managers_of(host: &Host, address: Address) -> Vec<&Manager> {
    let Some(function) = host.function(address) else { return Vec::new() };
    host.managers.iter().flatten().filter(|manager| manager.is_after(function)).collect()
}

fn finding(host: &Host, manager: &Manager) -> Option<Finding> {
    let own = host.gpus.iter().flat_map(|gpu| gpu.functions.iter().map(move |function| (gpu, function)));
    let mut own =
        own.filter(|(_, function)| host.function(**function).is_some_and(|own| manager.is_after(own)));
    let card = own.next().map(|(gpu, _)| gpu.address);
    if card.is_none() && !manager.is_after_any() || host.gpus.is_empty() {
        return None;
    }
    let place = manager.place();
    let severity = match manager.kind {
        ManagerKind::ModprobeSoftdep | ManagerKind::Tool => Severity::Info,
        _ => Severity::Warning,
    };
    let with_title = |title: String| {
        let finding = Finding::new("other-manager", severity, title).seen(&place, &manager.text);
        match card {
            Some(card) => finding.on(card),
            None => finding,
        }
    };
    let named = card.map_or_else(|| "cards".to_owned(), |card| card.to_string());
    Some(match manager.kind {
        ManagerKind::Driverctl => with_title(format!("driverctl gives {named} to {} at every boot", manager.text))
            .cause("it and gpuferry would each set the driver; the one that comes later wins")
            .fix("leave it to gpuferry", format!("driverctl unset-override {}", manager.functions.first()?)),
        ManagerKind::ModprobeIds => with_title(format!("a line for modprobe gives {named} to vfio-pci by its ids"))
            .cause("whenever vfio-pci is loaded, it takes every free device with these ids: twins too, and the card on its way home")
            .advice(format!("delete the line in {}, and build the initramfs again", manager.path)),
        ManagerKind::ModprobeInstall => with_title("a line for modprobe replaces the loading of vfio-pci by a command".into())
            .cause(
                "it runs only when modprobe is asked for vfio-pci, and mostly the host's driver has the card by then: \
                 who wrote this method down says that it had no effect",
            )
            .advice(format!("delete the line in {}; `gpuferry plan static` binds by the card's path, in time", manager.path)),
        ManagerKind::ModprobeSoftdep => with_title("a line for modprobe loads vfio-pci before another driver".into())
            .cause("it changes nothing for a card that gpuferry binds early")
            .advice("it can stay"),
        ManagerKind::ModprobeBlacklist => with_title(format!("a line for modprobe keeps the driver of {named} from loading"))
            .cause("when the card comes home, no driver takes it up, and the display stays dark")
            .advice(format!("delete the line in {} if the host is to use the card", manager.path)),
        ManagerKind::HookScript => with_title(format!("a script of libvirt's hands {named} over by itself"))
            .cause("two that unbind one card at the same time can hang the kernel")
            .advice(format!("take {} out before `gpuferry hook install`", manager.path)),
        ManagerKind::EarlyScript => with_title(format!("a script in the initramfs binds {named}"))
            .cause("it goes by addresses, which move when a card is added; it and gpuferry would both bind")
            .advice(format!("take {} out, and build the initramfs again", manager.path)),
        ManagerKind::Unit => with_title(format!("a service binds {named} by itself"))
            .cause("it and gpuferry would each set the driver; the one that comes later wins")
            .fix("leave it to gpuferry", format!("systemctl disable {}", manager.path.rsplit('/').next()?)),
        ManagerKind::UdevRule => with_title(format!("a rule of udev binds {named} by itself"))
            .cause("it runs again whenever the device is announced, also on its way home")
            .advice(format!("take {} out", manager.path)),
        ManagerKind::Tool => with_title(format!("{} is installed, which switches or hides cards", manager.text))
            .cause("a card that it turns off or gives to a driver is not where gpuferry left it")
            .advice("let one of the two look after the card"),
    })
}

/// Ids in modprobe.d that the kernel would not take: a point for a comma, and the line does nothing.
fn typing_errors(host: &Host) -> impl Iterator<Item = Finding> {
    let lines = host.managers.iter().flatten().filter(|manager| manager.kind == ManagerKind::ModprobeIds);
    lines.filter_map(|manager| {
        let value = manager.text.split_whitespace().find(|word| word.starts_with("ids="))?;
        let (wrong, right) = super::words::wrong_ids(value)?;
        let title = format!("`{wrong}` in {} is no vendor:device", manager.place());
        let finding =
            Finding::new("misspelt-word", Severity::Warning, title).seen(manager.place(), &manager.text);
        Some(
            finding
                .cause("ids are separated by commas; the kernel leaves out what it cannot read")
                .advice(format!("write `{right}`")),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::*;

    fn manager(kind: ManagerKind, text: &str, function: Option<&str>) -> Manager {
        let functions = function.map(at).into_iter().collect();
        Manager { kind, path: "/etc/x".into(), line: Some(3), text: text.into(), functions, ids: vec![] }
    }

    fn with(manager: Manager) -> Vec<Finding> {
        let mut host = desktop();
        host.managers = Some(vec![manager]);
        other_manager(&host)
    }

    #[test]
    fn those_who_are_after_a_card_are_named() {
        let found = with(manager(ManagerKind::Driverctl, "vfio-pci", Some("01:00.1")));
        assert_eq!((found[0].id.as_str(), found[0].device), ("other-manager", Some(at("01:00.0"))));
        assert_eq!(found[0].fixes[0].command.as_deref(), Some("driverctl unset-override 0000:01:00.1"));
        assert_eq!(with(manager(ManagerKind::Driverctl, "vfio-pci", Some("04:00.0"))), [], "a network card");
        let found = with(manager(ManagerKind::ModprobeInstall, "install vfio-pci /sbin/x", None));
        assert!(found[0].cause.contains("no effect"));
        assert_eq!(found[0].evidence[0].source, "/etc/x line 3");
        let script = with(manager(ManagerKind::HookScript, "unbind", None));
        assert_eq!((script[0].severity, script[0].device), (Severity::Warning, None));
        assert_eq!(with(manager(ManagerKind::HookScript, "unbind", Some("04:00.0"))), []);
        assert_eq!(other_manager(&desktop()), []);
    }

    #[test]
    fn ids_that_are_none_are_named_with_what_is_right() {
        let mut wrong =
            manager(ManagerKind::ModprobeIds, "options vfio-pci ids=10de:2204,10de:1aec.10de:1aed", None);
        wrong.ids = vec!["10de:2204".parse().unwrap()];
        let found = with(wrong);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].title, "`10de:1aec.10de:1aed` in /etc/x line 3 is no vendor:device");
        assert_eq!(found[1].fixes[0].text, "write `ids=10de:2204,10de:1aec,10de:1aed`");
    }
}
