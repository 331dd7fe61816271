//! Would the host be left without a keyboard?

use super::{Finding, Severity};
use crate::{
    host::{Host, Keyboard},
    pci::Address,
};

/// A warning where every keyboard hangs on this function (or behind it): lending it is allowed, but not unsaid.
pub fn last_keyboard(host: &Host, address: Address) -> Option<Finding> {
    let keyboards = host.keyboards.as_deref()?;
    let here = |keyboard: &Keyboard| {
        let function = keyboard.function;
        function.is_some_and(|function| function == address || host.above(function).any(|up| up == address))
    };
    let first = keyboards.first().filter(|_| keyboards.iter().all(here))?;
    let title = format!("{address} has the host's only keyboard ({})", first.name);
    Some(
        Finding::new("last-keyboard", Severity::Warning, title)
            .on(address)
            .seen("/proc/bus/input/devices", &first.name)
            .cause("while it is lent, nobody can type at the host")
            .advice("have another way in: ssh from another machine, or a keyboard on another controller"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::*;

    #[test]
    fn only_the_last_keyboard_is_news() {
        let keyboard = |function: Option<&str>| Keyboard { name: "Keys".into(), function: function.map(at) };
        let mut host = desktop();
        host.keyboards = Some(vec![keyboard(Some("03:00.0"))]);
        assert!(last_keyboard(&host, at("03:00.0")).is_some());
        assert_eq!(last_keyboard(&host, at("04:00.0")), None);
        host.keyboards = Some(vec![keyboard(Some("03:00.0")), keyboard(None)]);
        assert_eq!(last_keyboard(&host, at("03:00.0")), None, "there is one on PS/2");
        host.keyboards = Some(vec![]);
        assert_eq!(last_keyboard(&host, at("03:00.0")), None);
    }
}
