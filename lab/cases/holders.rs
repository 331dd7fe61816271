//! Who uses a card, named as its user would name it: a session and not logind, a service of a user, a tool in a
//! terminal, a mapping whose file is closed.

use lab::{Host, Machine, full_host};
use serde_json::Value;
use std::fs;
use std::time::Duration;

const CARD: &str = "0000:01:00.0";
const AUDIO: &str = "0000:01:00.1";
/// The look-alike card, whose driver makes an I2C bus.
const OTHER: &str = "0000:02:00.0";
const USER: &str = "ringelnatz";
const PATIENCE: Duration = Duration::from_secs(120);

const COMPOSITOR: &str = include_str!("../assets/compositor.pl");
const RECORDER: &str = include_str!("../assets/recorder.pl");
const HOLDER: &str = include_str!("../assets/holder.pl");

/// Someone who may use graphics and sound, with a service that starts with the first session, and one that waits.
fn furnish(host: &Host, card: &str) {
    host.run(&format!("useradd -u 1000 -m -s /bin/sh -G video,audio {USER}")).ok();
    host.write_with_mode("/usr/local/bin/compositor", 0o755, COMPOSITOR)
        .write_with_mode("/usr/local/bin/recorder", 0o755, RECORDER)
        .write_with_mode("/usr/local/bin/pipewire", 0o755, HOLDER)
        .write_with_mode("/usr/local/bin/ddcutil", 0o755, HOLDER);
    let mixer = format!("ls /sys/bus/pci/devices/{AUDIO}/sound/card*/ | grep ^controlC");
    let mixer = host.run(&mixer).ok().text().to_owned();
    let unit = |what: &str| format!("[Service]\nExecStart={what}\n");
    host.write(
        "/etc/systemd/user/pipewire.service",
        unit(&format!("/usr/local/bin/pipewire /dev/snd/{mixer}")),
    )
    .write("/etc/systemd/user/recorder.service", unit(&format!("/usr/local/bin/recorder {card}")));
    host.run("systemctl --global add-wants default.target pipewire.service").ok();
}

/// Waits until one of the programs says that it has what it wants.
fn ready(host: &Host, program: &str) {
    let waits = format!(
        "for i in $(seq 300); do [ -e /tmp/{program} ] && exit; sleep 0.2; done; \
         journalctl --no-pager -n 50 >&2; exit 1"
    );
    host.run_within(&waits, PATIENCE).ok();
}

/// A login on a text terminal, which runs these programs, one of them in the background.
fn log_in(host: &Host, terminal: u32, programs: &str) {
    host.run(&format!(
        "systemd-run --quiet --collect -u login-{terminal} -p User={USER} -p PAMName=login \
         -p TTYPath=/dev/tty{terminal} -p StandardInput=tty -p StandardOutput=journal /bin/sh -c '{programs}'"
    ))
    .ok();
}

/// The holder of a function whose process has this name.
#[track_caller]
fn holder<'v>(seen: &'v Value, address: &str, process: &str) -> &'v Value {
    let functions = seen["functions"].as_array().into_iter().flatten();
    let function = functions.into_iter().find(|function| function["address"] == address);
    let holders = function.and_then(|function| function["holders"].as_array());
    let found = holders.and_then(|holders| holders.iter().find(|holder| holder["process"] == process));
    found.unwrap_or_else(|| panic!("no {process} in {holders:?}"))
}

#[test]
fn each_is_named_as_its_user_would_name_it() {
    let host = full_host(Machine::bochs_and_nvidia()).boot();
    for module in lab::nvidia::modules(host.run("uname -r").ok().text()).expect("the driver's modules") {
        fs::copy(&module, host.share().join(module.file_name().expect("a name"))).expect("the share");
    }
    host.run("/usr/sbin/modprobe i2c-dev && /usr/sbin/insmod /lab/nvidia.ko").ok();
    let node = |class: &str, address: &str| {
        let look = format!("ls -d /sys/bus/pci/devices/{address}/{class} | head -1");
        format!("/dev/{}", host.run(&look).ok().text().rsplit('/').next().unwrap_or_default())
    };
    let card = node("drm/card*", CARD).replace("/dev/", "/dev/dri/");
    let bus = node("i2c-*", OTHER);
    furnish(&host, &card);

    // What ddcutil's own udev rule does for a group of its own.
    host.run(&format!("chgrp video {bus}; chmod g+rw {bus}")).ok();
    log_in(&host, 2, &format!("ddcutil {bus} & exec compositor {card}"));
    for program in ["compositor", "pipewire", "ddcutil"] {
        ready(&host, program);
    }
    let as_user = format!("runuser -u {USER} -- env XDG_RUNTIME_DIR=/run/user/1000");
    host.run(&format!("{as_user} systemctl --user start recorder")).ok();
    ready(&host, "recorder");
    // The card is held for the session by logind and, for its sake, by PID 1.
    host.run(&format!("ls -l /proc/1/fd /proc/$(pidof systemd-logind)/fd | grep -c {card}")).ok().prints("2");

    let seen = host.run("gpuferry inspect --json").ok().json();
    let compositor = holder(&seen, CARD, "compositor");
    assert_eq!(compositor["user"], USER, "{compositor}");
    let session = &compositor["session"];
    assert_eq!((&session["user"], &session["tty"]), (&USER.into(), &"tty2".into()), "{compositor}");
    let pipewire = holder(&seen, AUDIO, "pipewire");
    assert_eq!((&pipewire["user"], &pipewire["user_unit"]), (&USER.into(), &"pipewire.service".into()));
    let recorder = holder(&seen, CARD, "recorder");
    assert_eq!((&recorder["user"], &recorder["user_unit"]), (&USER.into(), &"recorder.service".into()));
    assert_eq!(recorder["mapped"][0], card, "{recorder}");
    let ddcutil = holder(&seen, OTHER, "ddcutil");
    assert_eq!((&ddcutil["user"], &ddcutil["nodes"][0]), (&USER.into(), &bus.as_str().into()), "{ddcutil}");
    assert_eq!(ddcutil["session"], *session, "{ddcutil}");

    let refused = host.run(&format!("gpuferry detach {CARD} </dev/null")).status(3);
    for process in ["compositor", "recorder", "pipewire"] {
        refused.clone().complains(&format!("{process} (pid ")).complains(&format!(", {USER})"));
    }
    for keeper in ["systemd-logind", "systemd (pid 1"] {
        assert!(!refused.stderr().contains(keeper), "{}", refused.stderr());
    }
    let refused = host.run(&format!("gpuferry detach {OTHER} </dev/null")).status(3);
    refused.complains("ddcutil (pid ").complains(&bus);
    host.expect_driver(CARD, "bochs-drm")
        .expect_driver(AUDIO, "snd_hda_intel")
        .expect_driver(OTHER, "nvidia");

    // logind alone holds it: then it is the session's.
    host.run("kill -USR1 $(pidof -x compositor)").ok();
    let waits = format!("until ! ls -l /proc/$(pidof -x compositor)/fd | grep -q {card}; do sleep 0.1; done");
    host.run(&waits).ok();
    let refused = host.run(&format!("gpuferry detach {CARD} </dev/null")).status(3);
    refused.complains(&format!(" of {USER} on seat0 (tty, tty2)"));

    // What somebody else gets to read of all this has no name in it.
    host.run("gpuferry capture -o /root/host.tar.zst").ok();
    host.run(&format!("zstd -dc /root/host.tar.zst | grep -c -a -i {USER}")).status(1).prints("0");
    let seen = host.run("gpuferry --host /root/host.tar.zst inspect --json").ok().json();
    assert_eq!(holder(&seen, AUDIO, "pipewire")["user_unit"], "pipewire.service");
}
