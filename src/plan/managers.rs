//! Others who manage the card that is planned for. They are never fought: of two who bind one card at boot the later
//! one wins, and the kernel can hang between them.

use crate::{
    error::{Error, Result},
    host::{Function, Host, Manager, ManagerKind},
    judge,
};

/// Who else is after these functions, each once.
fn others<'h>(host: &'h Host, functions: &[&Function]) -> Vec<&'h Manager> {
    let mut found: Vec<&Manager> = Vec::new();
    for manager in functions.iter().flat_map(|function| judge::managers_of(host, function.address)) {
        if !found.contains(&manager) {
            found.push(manager);
        }
    }
    found
}

/// Whether it gives the card to a driver by itself, at boot. Of a unit it is not known whether it is enabled.
fn binds_at_boot(manager: &Manager) -> bool {
    matches!(manager.kind, ManagerKind::Driverctl | ManagerKind::EarlyScript | ManagerKind::UdevRule)
}

/// Refuses where somebody else binds the card at boot already, and says how to take that out.
pub(super) fn refuse(host: &Host, functions: &[&Function]) -> Result<()> {
    let others = others(host, functions);
    let fighters: Vec<_> = others.into_iter().filter(|manager| binds_at_boot(manager)).collect();
    let Some(first) = fighters.first() else { return Ok(()) };
    let Some(function) = functions.iter().find(|function| first.is_after(function)) else { return Ok(()) };
    let who = if first.kind == ManagerKind::Driverctl { "driverctl".to_owned() } else { first.place() };
    let mut error = Error::refused(format!(
        "{who} decides over {} at boot already, and two who do so fight over it",
        function.address
    ));
    for manager in &fighters {
        error = error.detail(format!("{}: {}", manager.place(), manager.text));
    }
    for manager in &fighters {
        error = match (manager.kind, manager.functions.first()) {
            (ManagerKind::Driverctl, Some(address)) => {
                error.hint(format!("driverctl unset-override {address}   leaves it to gpuferry"))
            }
            (ManagerKind::EarlyScript, _) => error.hint(format!(
                "delete {}, then update-initramfs -u -k all: the copy inside binds as well",
                manager.path
            )),
            _ => error.hint(format!("take {} out first, then plan again", manager.path)),
        };
    }
    Err(error)
}

/// Those who do not bind it at boot, a sentence each.
pub(super) fn notes(host: &Host, functions: &[&Function]) -> Vec<String> {
    let own = others(host, functions).into_iter().filter(|manager| !binds_at_boot(manager));
    // Some do not say what they are after: a rule for a class, a tool that switches cards.
    let any = host.managers.iter().flatten().filter(|manager| manager.is_after_any());
    let all = own.chain(any.filter(|manager| !functions.iter().any(|function| manager.is_after(function))));
    all.map(|manager| format!("{} may be after it too: {}", manager.place(), manager.text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Status,
        host::testing::{at, desktop},
    };

    fn manager(kind: ManagerKind, path: &str, text: &str) -> Manager {
        Manager {
            kind,
            path: path.into(),
            line: None,
            text: text.into(),
            functions: vec![at("01:00.0")],
            ids: vec![],
        }
    }

    #[test]
    fn who_binds_at_boot_is_not_fought() {
        let mut host = desktop();
        let own = |host: &Host| refuse(host, &[host.function(at("01:00.0")).unwrap()]);
        assert!(own(&host).is_ok());
        host.managers = Some(vec![
            manager(ManagerKind::HookScript, "/etc/libvirt/hooks/qemu.d/start.sh", "virsh nodedev-detach"),
            manager(ManagerKind::Driverctl, "/etc/driverctl.d/0000:01:00.0", "vfio-pci"),
        ]);
        let error = own(&host).unwrap_err();
        assert_eq!(error.status, Status::Refused);
        assert!(error.hints[0].starts_with("driverctl unset-override 0000:01:00.0"), "{error}");
        let function = host.function(at("01:00.0")).unwrap();
        assert_eq!(
            notes(&host, &[function]),
            ["/etc/libvirt/hooks/qemu.d/start.sh may be after it too: virsh nodedev-detach"]
        );
        // Another card's manager is none of this one's business.
        assert!(refuse(&host, &[host.function(at("01:00.1")).unwrap()]).is_ok());
    }
}
