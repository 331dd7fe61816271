//! What gpuferry sees, against what lspci, driverctl and the kernel's own files say: function for function.

use lab::Host;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One function as somebody describes it. What a source does not tell is `None`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Seen {
    class: Option<String>,
    ids: Option<String>,
    subsystem: Option<String>,
    revision: Option<u64>,
    driver: Option<String>,
    modules: BTreeSet<String>,
    group: Option<u64>,
    boot_vga: Option<bool>,
}

type All = BTreeMap<String, Seen>;

/// `inspect --json` agrees with the others on every function of this host.
///
/// # Panics
/// When it does not.
#[track_caller]
pub(crate) fn agrees(host: &Host, inspected: &Value) {
    let ours = of_inspect(inspected);
    assert!(ours.len() > 8, "a machine has more functions than {}", ours.len());

    let listed = of_lspci(host.run("lspci -Dnnk").ok().stdout());
    let told = project(&ours, |seen| Seen { group: None, boot_vga: None, ..seen });
    same("lspci -Dnnk", &told, &listed);

    let listed = of_sysfs(host.run(SYSFS).ok().stdout());
    let told = project(&ours, |seen| Seen { modules: BTreeSet::new(), ..seen });
    same("/sys/bus/pci/devices", &told, &listed);

    let listed = of_driverctl(host.run("driverctl list-devices").ok().stdout());
    let told = project(&ours, |seen| Seen { driver: seen.driver, ..Seen::default() });
    same("driverctl list-devices", &told, &listed);
}

fn same(who: &str, ours: &All, theirs: &All) {
    for address in ours.keys().chain(theirs.keys()) {
        assert_eq!(ours.get(address), theirs.get(address), "{address}: gpuferry inspect, then {who}");
    }
}

fn project(all: &All, what: impl Fn(Seen) -> Seen) -> All {
    all.iter().map(|(address, seen)| (address.clone(), what(seen.clone()))).collect()
}

fn of_inspect(inspected: &Value) -> All {
    let text = |function: &Value, name: &str| function[name].as_str().map(str::to_owned);
    let pair = |function: &Value, first: &str, second: &str| {
        Some(format!("{}:{}", text(function, first)?, text(function, second)?))
    };
    let functions = inspected["functions"].as_array().into_iter().flatten();
    let seen = |function: &Value| Seen {
        // Base class and subclass: that is what lspci shows.
        class: text(function, "class").map(|class| class[..4].to_owned()),
        ids: pair(function, "vendor", "device"),
        subsystem: pair(function, "subsystem_vendor", "subsystem_device").filter(is_id),
        revision: function["revision"].as_u64(),
        driver: text(function, "driver"),
        modules: names(function["modules"].as_array().into_iter().flatten().filter_map(Value::as_str)),
        group: function["iommu_group"].as_u64(),
        boot_vga: function["boot_vga"].as_bool(),
    };
    functions.map(|function| (text(function, "address").unwrap_or_default(), seen(function))).collect()
}

/// The kernel writes zeroes where a function has no subsystem, such as a bridge.
fn is_id(subsystem: &String) -> bool {
    subsystem != "0000:0000"
}

/// Module names are written with either line.
fn names<'t>(list: impl Iterator<Item = &'t str>) -> BTreeSet<String> {
    list.map(|name| name.replace('-', "_")).collect()
}

/// `0000:01:00.0 VGA compatible controller [0300]: Vendor Device [10de:2204] (rev a1)`, then indented lines.
fn of_lspci(text: &str) -> All {
    let mut all = All::new();
    let mut last = String::new();
    for line in text.lines() {
        let Some(more) = line.strip_prefix('\t') else {
            let (address, rest) = line.split_once(' ').unwrap_or((line, ""));
            address.clone_into(&mut last);
            let revision = rest.rsplit_once("(rev ").map(|(_, rev)| rev.chars().take(2).collect::<String>());
            let seen = Seen {
                class: rest.split_once(" [").map(|(_, class)| class[..4].to_owned()),
                ids: ids_at_the_end(rest),
                // A revision of zero is not printed.
                revision: Some(revision.map_or(0, |rev| u64::from_str_radix(&rev, 16).unwrap_or(u64::MAX))),
                ..Seen::default()
            };
            all.insert(address.to_owned(), seen);
            continue;
        };
        let Some(seen) = all.get_mut(&last) else { continue };
        match more.split_once(": ") {
            Some(("Subsystem", text)) => seen.subsystem = ids_at_the_end(text),
            Some(("Kernel driver in use", driver)) => seen.driver = Some(driver.to_owned()),
            Some(("Kernel modules", list)) => seen.modules = names(list.split(", ")),
            _ => {}
        }
    }
    all
}

/// The last `[1234:abcd]`: names may have brackets too.
fn ids_at_the_end(text: &str) -> Option<String> {
    let is_id = |word: &&str| word.len() == 9 && word.as_bytes().get(4) == Some(&b':');
    text.split(['[', ']']).rfind(is_id).map(str::to_owned)
}

/// One line a device: the attributes as they are, a dash for what is not there.
const SYSFS: &str = "cd /sys/bus/pci/devices && for d in *; do echo $d $(cat $d/class $d/vendor $d/device \
    $d/subsystem_vendor $d/subsystem_device $d/revision) $(basename \"$(readlink $d/driver || echo -)\") \
    $(basename \"$(readlink $d/iommu_group || echo -)\") $(cat $d/boot_vga 2>/dev/null || echo -); done";

fn of_sysfs(text: &str) -> All {
    let told = |word: &str| (word != "-").then(|| word.to_owned());
    let seen = |line: &str| -> Option<(String, Seen)> {
        let mut words = line.split_whitespace();
        let address = words.next()?.to_owned();
        let mut number = || words.next().and_then(|word| word.strip_prefix("0x")).map(str::to_owned);
        let (class, vendor, device) = (number()?, number()?, number()?);
        let subsystem = format!("{}:{}", number()?, number()?);
        let revision = u64::from_str_radix(&number()?, 16).ok();
        let driver = told(words.next()?);
        let group = told(words.next()?).and_then(|group| group.parse().ok());
        let boot_vga = told(words.next()?).map(|boot| boot == "1");
        let (class, ids) = (Some(class[..4].to_owned()), Some(format!("{vendor}:{device}")));
        let subsystem = Some(subsystem).filter(is_id);
        let modules = BTreeSet::new();
        Some((address, Seen { class, ids, subsystem, revision, driver, modules, group, boot_vga }))
    };
    text.lines().map(|line| seen(line).unwrap_or_else(|| panic!("`{line}`"))).collect()
}

/// `0000:01:00.0 bochs-drm`, `0000:02:00.0 (none)`, with a star where an override is set.
fn of_driverctl(text: &str) -> All {
    let seen = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let address = words.next().unwrap_or_default();
        let driver = words.next().filter(|driver| driver != "(none)");
        (address, Seen { driver, ..Seen::default() })
    };
    text.lines().map(seen).collect()
}
