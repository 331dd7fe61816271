//! Keyboards, and the functions they hang on: whoever lends their USB controller types no more.

use super::{Keyboard, look::Look, look::last_function};

/// Keyboards; `None` where the kernel's list could not be read.
pub(super) fn keyboards(look: &Look) -> Option<Vec<Keyboard>> {
    look.text("/proc/bus/input/devices").map(|text| parse(&text))
}

/// Blocks of lines `N: Name="…"`, `S: Sysfs=…`, `H: Handlers=…`. The kernel's SysRq handler takes what has a left
/// Alt key (drivers/tty/sysrq.c, `sysrq_ids`): keyboards, and no power buttons.
fn parse(text: &str) -> Vec<Keyboard> {
    let keyboard = |block: &str| {
        let value = |tag: &str| block.lines().find_map(|line| line.strip_prefix(tag));
        let handlers = value("H: Handlers=")?;
        let is_one = handlers.split_whitespace().any(|handler| handler == "sysrq");
        let name = value("N: Name=").unwrap_or_default().trim_matches('"').to_owned();
        is_one.then(|| Keyboard { name, function: value("S: Sysfs=").and_then(last_function) })
    };
    text.split("\n\n").filter_map(keyboard).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyboards_and_no_power_buttons() {
        let text = "I: Bus=0019\nN: Name=\"Power Button\"\nS: Sysfs=/devices/LNXPWRBN:00/input/input0\nH: Handlers=kbd event0 \n\n\
            I: Bus=0003\nN: Name=\"USB Keyboard\"\nS: Sysfs=/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/x/input/input5\n\
            H: Handlers=sysrq kbd event5 leds \n\n\
            N: Name=\"AT keyboard\"\nS: Sysfs=/devices/platform/i8042/serio0/input/input1\nH: Handlers=sysrq kbd event1\n";
        let found = parse(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].function.unwrap().to_string(), "0000:00:14.0");
        assert_eq!((found[1].name.as_str(), found[1].function), ("AT keyboard", None));
    }
}
