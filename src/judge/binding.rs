//! Did the early binding do what the kernel command line asks for?
//!
//! `gpuferry.bind=PATH=VENDOR:DEVICE:SUBVENDOR:SUBDEVICE,…`: a device is the same only by its path and its ids.

use super::{Evidence, Finding, Severity, driver::KEEPERS};
use crate::{
    host::{Function, Host, kernel, log::Log},
    pci::{Address, DeviceId, DevicePath},
};

/// One device that is to be bound.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    path: DevicePath,
    id: DeviceId,
    subsystem: Option<DeviceId>,
}

impl Wanted {
    fn parse(text: &str) -> Option<Self> {
        let (path, ids) = text.split_once('=')?;
        let mut ids = ids.splitn(3, ':');
        let id = format!("{}:{}", ids.next()?, ids.next()?).parse().ok()?;
        let subsystem = match ids.next() {
            Some(rest) => Some(rest.parse().ok()?),
            None => None,
        };
        Some(Self { path: path.parse().ok()?, id, subsystem })
    }

    fn is(&self, function: &Function) -> bool {
        function.id() == Some(self.id) && self.subsystem.is_none_or(|own| function.subsystem() == Some(own))
    }
}

/// Compares what is asked for with the machine. A word is a card, and is bound as a whole or not at all: one finding
/// for each, with the evidence of all its functions.
pub(super) fn bindings(host: &Host, log: Option<&Log>) -> Vec<Finding> {
    let words = kernel::words(host.kernel.cmdline.as_deref().unwrap_or_default());
    let cards: Vec<&str> = words.iter().filter_map(|word| word.strip_prefix("gpuferry.bind=")).collect();
    if cards.is_empty() {
        return Vec::new();
    }
    if let Some(off) = words.iter().find(|word| is_off(word)) {
        return vec![
            Finding::new("binding-off", Severity::Info, format!("Nothing is bound at boot: {off}"))
                .seen("/proc/cmdline", off)
                .cause(format!("the word {off} on the kernel command line switches early binding off")),
        ];
    }
    let all: Vec<Wanted> = cards.iter().flat_map(|card| card.split(',')).filter_map(Wanted::parse).collect();
    cards.iter().filter_map(|card| missed_card(host, card, &all, log)).collect()
}

/// As the early script understands it.
fn is_off(word: &str) -> bool {
    let value = word.strip_prefix("gpuferry.off").map(|rest| rest.strip_prefix('=').unwrap_or(rest));
    matches!(value, Some("" | "1" | "y" | "yes" | "on" | "true"))
}

fn missed_card(host: &Host, card: &str, all: &[Wanted], log: Option<&Log>) -> Option<Finding> {
    let missed = |item: &str| match Wanted::parse(item) {
        Some(wanted) => missed(host, &wanted, all).map(|finding| with_log(finding, log)),
        None => Some(malformed(item)),
    };
    let mut findings: Vec<Finding> = card.split(',').filter_map(missed).collect();
    // What is wrong with one function is why the others were not bound either.
    findings.sort_by_key(|finding| finding.severity);
    let mut findings = findings.into_iter();
    let mut first = findings.next()?;
    for seen in findings.flat_map(|finding| finding.evidence) {
        if !first.evidence.contains(&seen) {
            first.evidence.push(seen);
        }
    }
    Some(first)
}

fn malformed(item: &str) -> Finding {
    Finding::new(
        "binding-malformed",
        Severity::Blocking,
        format!("`{item}` in gpuferry.bind= is not understood"),
    )
    .seen("/proc/cmdline", item)
    .cause("it should look like 0000:00:01.0/00.0=10de:2204:1458:403b")
    .advice("make the plan again, and do not edit the word by hand")
}

fn missed(host: &Host, wanted: &Wanted, all: &[Wanted]) -> Option<Finding> {
    let at_path = host.functions.iter().find(|function| function.path.as_ref() == Some(&wanted.path));
    match at_path {
        Some(function) if wanted.is(function) => not_bound(host, function),
        other => Some(elsewhere(host, wanted, other, all)),
    }
}

fn not_bound(host: &Host, function: &Function) -> Option<Finding> {
    let driver = function.driver.as_deref();
    if driver.is_some_and(|driver| KEEPERS.contains(&driver)) {
        return None;
    }
    let state = driver.map_or_else(|| "on no driver".to_owned(), |driver| format!("on {driver}"));
    let title = format!("{} was to be kept for guests, but is {state}", function.address);
    Some(
        Finding::new("binding-not-done", Severity::Warning, title)
            .on(function.address)
            .seen(format!("/sys/bus/pci/devices/{}/driver", function.address), driver.unwrap_or("none"))
            .cause("another driver had it first, or it was given back after the boot")
            .fix("bind it now", format!("gpuferry detach {}", card_of(host, function.address))),
    )
}

/// The card that a function belongs to, or the function itself.
fn card_of(host: &Host, address: Address) -> Address {
    host.gpu(address).map_or(address, |gpu| gpu.address)
}

/// Something else, or nothing, is where the device was; perhaps it is somewhere else now.
fn elsewhere(host: &Host, wanted: &Wanted, other: Option<&Function>, all: &[Wanted]) -> Finding {
    let (path, id) = (&wanted.path, wanted.id);
    let taken = |function: &Function| {
        all.iter().any(|one| function.path.as_ref() == Some(&one.path) && one.is(function))
    };
    let moved = host.functions.iter().find(|function| wanted.is(function) && !taken(function));
    let there = match other {
        Some(function) => format!(
            "{} ({}) is there",
            function.label(),
            function.id().map_or_else(String::new, |id| id.to_string())
        ),
        None => "nothing is there".to_owned(),
    };
    if let Some(now) = moved {
        let new_path = now.path.as_ref().map_or_else(String::new, |path| format!(", path {path}"));
        return Finding::new(
            "binding-moved",
            Severity::Blocking,
            format!("The device to be bound at {path} has moved"),
        )
        .on(now.address)
        .seen("/proc/cmdline", format!("gpuferry.bind={path}={id}"))
        .seen("/sys/bus/pci/devices", format!("at {path}: {there}; {id} is now {}{new_path}", now.address))
        .cause("the card is in another slot; nothing was bound, for the slot decides")
        .fix("plan for the new place", format!("gpuferry plan static --gpu {}", now.address));
    }
    let (rule, cause) = match other {
        Some(_) => ("binding-other-device", "another device is in that slot now; nothing was bound"),
        None => {
            ("binding-nothing-there", "the device is not in the machine, or switched off; nothing was bound")
        }
    };
    let title = format!("{id} was to be bound at {path}, but {there}");
    let finding = Finding::new(rule, Severity::Blocking, title)
        .seen("/proc/cmdline", format!("gpuferry.bind={path}={id}"))
        .seen("/sys/bus/pci/devices", format!("at {path}: {there}"))
        .cause(cause)
        .fix("take the binding back", "gpuferry revert");
    match other {
        Some(function) => finding.on(function.address),
        None => finding,
    }
}

/// Quotes what the early script said about it.
fn with_log(mut finding: Finding, log: Option<&Log>) -> Finding {
    let Some(log) = log else { return finding };
    let about = |text: &str| {
        let named = finding.device.is_some_and(|device| text.contains(&device.to_string()));
        named
            || finding.evidence.iter().any(|seen| path_in(&seen.text).is_some_and(|path| text.contains(path)))
    };
    let lines = log.lines.iter().zip(1_u32..).filter(|(text, _)| text.contains("gpuferry:") && about(text));
    let quoted = lines.take(8).map(|(text, line)| Evidence {
        source: log.source.clone(),
        line: Some(line),
        text: text.clone(),
    });
    let quoted: Vec<Evidence> = quoted.collect();
    finding.evidence.extend(quoted);
    finding
}

/// The path in `gpuferry.bind=PATH=…`.
fn path_in(text: &str) -> Option<&str> {
    text.strip_prefix("gpuferry.bind=")?.split('=').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::*;

    const BIND: &str =
        "gpuferry.bind=0000:00:01.0/00.0=10de:2204:1458:403b,0000:00:01.0/00.1=10de:1aef:1458:403b";

    fn asked(cmdline: &str, driver: Option<&str>) -> Host {
        let mut host = desktop();
        host.kernel.cmdline = Some(cmdline.into());
        for function in host.functions.iter_mut().filter(|function| function.address.bus == 1) {
            function.driver = driver.map(str::to_owned);
        }
        host
    }

    fn ids(host: &Host) -> Vec<String> {
        bindings(host, None).into_iter().map(|finding| finding.id).collect()
    }

    #[test]
    fn done_is_no_news() {
        assert!(ids(&asked(BIND, Some("vfio-pci"))).is_empty());
        assert!(ids(&asked("quiet", Some("nvidia"))).is_empty());
    }

    #[test]
    fn the_right_device_on_another_driver() {
        assert_eq!(ids(&asked(BIND, Some("nouveau"))), ["binding-not-done"]);
        assert_eq!(ids(&asked(BIND, None)), ["binding-not-done"]);
    }

    #[test]
    fn another_device_at_the_path() {
        let mut host = asked(BIND, Some("vfio-pci"));
        host.functions.iter_mut().find(|function| function.address == at("01:00.0")).unwrap().device =
            Some(0x1b80);
        let found = bindings(&host, None);
        assert_eq!((found.len(), found[0].id.as_str()), (1, "binding-other-device"));
        assert!(found[0].title.contains("10de:1b80"), "{}", found[0].title);
        let mut host = asked(BIND, Some("vfio-pci"));
        host.functions.iter_mut().for_each(|function| function.subsystem_device = Some(1));
        let found = bindings(&host, None);
        assert_eq!(found.len(), 1, "the same chip from another maker is another device");
        assert_eq!(found[0].evidence.len(), 4, "both functions are in it");
    }

    #[test]
    fn nothing_at_the_path() {
        let mut host = asked(BIND, None);
        host.functions.retain(|function| function.address.bus != 1);
        assert_eq!(ids(&host), ["binding-nothing-there"]);
    }

    #[test]
    fn a_device_that_moved_is_found_by_its_ids() {
        let mut host = asked(BIND, None);
        for function in host.functions.iter_mut().filter(|function| function.address.bus == 1) {
            let path = format!("0000:00:06.0/00.{}", function.address.function);
            function.path = Some(path.parse().unwrap());
        }
        let found = bindings(&host, None);
        assert_eq!(found[0].id, "binding-moved");
        assert_eq!(found[0].fixes[0].command.as_deref(), Some("gpuferry plan static --gpu 0000:01:00.0"));
    }

    #[test]
    fn a_twin_that_is_asked_for_itself_has_not_moved() {
        let mut host = asked(&format!("{BIND},0000:00:06.0/00.0=10de:2204:1458:403b"), Some("vfio-pci"));
        assert_eq!(ids(&host), ["binding-nothing-there"]);
        host.kernel.cmdline = Some(format!("{BIND} gpuferry.bind=0000:00:06.0/00.0=10de:2204:1458:403b"));
        assert_eq!(ids(&host), ["binding-nothing-there"], "a word for each card");
        host.functions.retain(|function| function.address.bus != 1);
        assert_eq!(ids(&host), ["binding-nothing-there"; 2]);
    }

    #[test]
    fn the_switch_silences_it() {
        assert_eq!(ids(&asked(&format!("{BIND} gpuferry.off=1"), None)), ["binding-off"]);
        assert_eq!(ids(&asked(&format!("{BIND} gpuferry.off"), None)), ["binding-off"]);
        assert_eq!(ids(&asked(&format!("{BIND} gpuferry.off=0"), None)), ["binding-not-done"]);
        assert_eq!(ids(&asked("gpuferry.off=1", None)), [""; 0]);
    }

    #[test]
    fn what_is_no_binding_is_quoted() {
        assert_eq!(ids(&asked("gpuferry.bind=01:00.0,0000:00:01.0=10de:zz", None)), ["binding-malformed"]);
        assert_eq!(
            ids(&asked(&format!("{BIND},x"), None)),
            ["binding-malformed"],
            "and so its card is not bound"
        );
    }

    #[test]
    fn the_early_scripts_words_are_quoted() {
        let lines = vec![
            "gpuferry: 0000:00:01.0/00.0: found 10de:1b80, wanted 10de:2204".to_owned(),
            "other".to_owned(),
        ];
        let log = Log { source: "dmesg".into(), lines };
        let found = bindings(&asked(BIND, Some("nouveau")), Some(&log));
        assert!(found.iter().all(|finding| finding.evidence.iter().all(|seen| seen.source != "dmesg")));
        let mut host = asked(BIND, None);
        host.functions.retain(|function| function.address.bus != 1);
        let found = bindings(&host, Some(&log));
        let quoted: Vec<_> = found[0].evidence.iter().filter(|seen| seen.source == "dmesg").collect();
        assert_eq!((found.len(), quoted.len(), quoted[0].line), (1, 1, Some(1)));
    }
}
