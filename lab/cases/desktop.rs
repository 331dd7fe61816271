//! The only card of a host draws for a display manager's X server, and a domain of libvirt's gets it with its start:
//! the picture comes back with the domain's end, and nothing else stays behind. Also what the guide says to do first.

use crate::commands::{ONE_CARD, commands};
use lab::{End, Host, Machine, full_host, left_to_soak};
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime};

pub(crate) const CARD: &str = "0000:01:00.0";
pub(crate) const AUDIO: &str = "0000:01:00.1";
/// A start or an end of a domain, in a host that is itself emulated: seconds, and minutes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(400);

/// Which card it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Card {
    /// One that the kernel draws on; what it shows is a dump of the emulated screen.
    Bochs,
    /// The look-alike with its four modules, a process that keeps it awake as `nvidia-persistenced` does, and an X
    /// server on its frame buffer. QEMU does not draw it: what it shows is what stands in the frame buffer.
    Nvidia,
}

/// A host whose only card draws for a display manager.
pub(crate) struct Desktop {
    pub(crate) host: Host,
    card: Card,
}

/// It draws, and nothing else: without these it starts in half the time.
const XORG: &str = "Section \"Extensions\"\n Option \"GLX\" \"Disable\"\nEndSection\n\
                    Section \"ServerFlags\"\n Option \"AutoAddDevices\" \"false\"\nEndSection\n";
/// Keeps the card as NVIDIA's own daemon does.
const PERSISTENCE: &str = "[Service]\nExecStart=/bin/sh -c 'exec 3<>/dev/nvidia0; exec sleep infinity'\n";

/// A boot sector (16-bit code at 0x7c00): it says that it hears the power button (PM1_EN, bit 8), sleeps from one
/// clock tick to the next until the button is pressed (PM1_STS, bit 8), and switches the machine off (PM1_CNT:
/// SLP_EN, and 0, which is S5 with QEMU). The ports are where SeaBIOS puts them on a q35: 0x600. See ACPI 6.5, 4.8.
const SECTOR: [u8; 28] = [
    0xb8, 0x00, 0x01, 0xba, 0x02, 0x06, 0xef, 0xfb, // out 0x602, 0x100; sti
    0xf4, 0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xf6, // hlt; in 0x600; test bit 8; again
    0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4, 0xeb, 0xfd, // out 0x604, 0x2000; hlt for ever
];

/// A domain that takes both functions of the card, and ends when its power button is pressed.
pub(crate) fn domain(name: &str, number: u8, managed: &str) -> String {
    let hostdev = |function: u8| {
        format!(
            "<hostdev mode='subsystem' type='pci' managed='{managed}'>\
             <source><address domain='0x0000' bus='0x01' slot='0x00' function='0x{function}'/></source>\
             <rom bar='off'/>\
             <address type='pci' bus='0x00' slot='0x05' function='0x{function}' multifunction='on'/></hostdev>"
        )
    };
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>6b1ab9a0-7d0c-4c1e-9f53-0000000000{number:02}</uuid>\
         <memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>\
         <features><acpi/></features>\
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/>\
         <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/root/guest.img'/>\
         <target dev='sda' bus='sata'/></disk>\
         <memballoon model='none'/><video><model type='none'/></video>{}{}</devices></domain>",
        hostdev(0),
        hostdev(1)
    )
}

/// A colour that nothing else has by chance.
fn some_colour() -> [u8; 3] {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(7, |time| time.as_nanos());
    let mixed = u64::try_from(nanos & 0xffff_ffff).unwrap_or(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let [_, _, red, green, blue, ..] = mixed.to_be_bytes();
    [red, green, blue]
}

const AUTHORITY: &str =
    "export DISPLAY=:0 XAUTHORITY=$(ls -t /var/lib/xdm/authdir/authfiles/A:0* 2>/dev/null | head -1)";

impl Desktop {
    /// Boots it and has the display manager's server draw.
    pub(crate) fn boot(card: Card) -> Self {
        let machine = match card {
            Card::Bochs => Machine::single_bochs(),
            Card::Nvidia => Machine::single_nvidia(),
        };
        Self::of(card, full_host(machine).with_desktop().boot())
    }

    /// Has the display manager's server draw on a host that has booted.
    pub(crate) fn of(card: Card, host: Host) -> Self {
        let mut sector = SECTOR.to_vec();
        sector.resize(510, 0);
        sector.extend([0x55, 0xaa]);
        sector.resize(1 << 20, 0);
        host.write("/root/guest.img", sector);
        host.run("mkdir -p /etc/X11/xorg.conf.d").ok();
        host.write("/etc/X11/xorg.conf.d/lab.conf", XORG);
        if card == Card::Nvidia {
            host.write("/etc/systemd/system/nvidia-persistenced.service", PERSISTENCE);
            host.run("systemctl daemon-reload && systemctl start nvidia-persistenced").ok();
        }
        // Loaded now, so that the first hand-over changes no module either.
        host.run_within("modprobe -a vfio-pci vfio_iommu_type1; systemctl start display-manager", PATIENCE)
            .ok();
        let desktop = Self { host, card };
        desktop.serves();
        desktop
    }

    /// Defines a domain with the card, and enables it, with leave to stop whoever draws.
    pub(crate) fn define(&self, name: &str, number: u8, managed: &str) {
        self.host.write(&format!("/root/{name}.xml"), domain(name, number, managed));
        self.host.run_within(&format!("virsh define /root/{name}.xml"), PATIENCE).ok();
        let enable = format!("gpuferry hook enable {name} --yes {}", self.stop());
        self.host.run_within(&enable, PATIENCE).ok().prints("goes to it");
    }

    /// The words that allow to stop whoever has the card.
    fn stop(&self) -> &'static str {
        match self.card {
            Card::Bochs => "--stop display-manager",
            Card::Nvidia => "--stop display-manager --stop nvidia-persistenced.service",
        }
    }

    fn driver(&self) -> &'static str {
        match self.card {
            Card::Bochs => "bochs-drm",
            Card::Nvidia => "nvidia",
        }
    }

    /// Waits until the display manager's server takes clients.
    #[track_caller]
    pub(crate) fn serves(&self) {
        let waits = format!(
            "for i in $(seq 1200); do {AUTHORITY}; [ $XAUTHORITY ] && xset q >/dev/null 2>&1 && exit 0; sleep 0.2; done; \
             systemctl status --no-pager xdm; cat /var/log/Xorg.0.log /var/log/xdm.log; exit 1"
        );
        self.host.run_within(&waits, PATIENCE).ok();
    }

    /// Has a client of the server fill the screen with a colour chosen at random, and looks at what the card shows.
    #[track_caller]
    pub(crate) fn shows(&self) {
        self.serves();
        let colour = some_colour();
        let [red, green, blue] = colour;
        let hex = format!("{red:02x}{green:02x}{blue:02x}");
        self.host.run_within(&format!("{AUTHORITY}; xsetroot -solid '#{hex}'"), PATIENCE).ok();
        for _ in 0..40 {
            let (painted, all) = match self.card {
                Card::Bochs => {
                    let screen = self.host.screendump(1);
                    (screen.pixels.iter().filter(|pixel| **pixel == colour).count(), screen.pixels.len())
                }
                Card::Nvidia => {
                    let count = format!("od -An -v -tx4 -w4 /dev/fb0 | grep -c '{hex}$'");
                    (self.host.run_within(&count, PATIENCE).text().parse().unwrap_or(0), 640 * 480)
                }
            };
            // The login window lies over the rest of a small screen.
            if painted > all / 4 {
                return;
            }
            self.host.run("sleep 0.5").ok();
        }
        panic!("the screen does not show #{hex}");
    }

    /// What a hand-over must not change: drivers and overrides, consoles, modules with their counts, units and masks,
    /// who has a device open, what libvirt's daemon has open, records.
    pub(crate) fn traces(&self) -> String {
        let look = "cd /sys/bus/pci/devices; for d in 0000:01:00.*; do \
                    echo $d $(cat $d/driver_override) $(readlink $d/driver); done; cat /proc/fb; \
                    cd /sys/class/vtconsole; for v in *; do echo $v $(cat $v/bind $v/name); done; \
                    awk '$1 ~ /nvidia|bochs|snd_hda|vfio/ {print $1, $3}' /proc/modules | sort; \
                    ls /run/systemd/system | grep -v transient; ls /run/systemd/transient | grep gpuferry; \
                    systemctl list-units --all --state=masked,failed --no-legend --plain; \
                    for p in /proc/[0-9]*; do readlink $p/fd/* | grep -E '^/dev/(dri|fb|nvidia|snd|vfio)' | \
                    sed \"s|^|$(cat $p/comm) |\"; done 2>/dev/null | sort; \
                    echo libvirtd has $(ls /proc/$(pidof libvirtd)/fd | wc -l) files open; \
                    ls /run/gpuferry/cards/*/snapshot.json /run/gpuferry/guests/*.json 2>/dev/null; \
                    systemd-inhibit --list --no-legend --no-pager | grep gpuferry; systemctl is-active xdm; true";
        self.host.run_within(look, PATIENCE).ok().stdout().to_owned()
    }

    /// Waits until everything is as it was: units end a moment after what they did.
    #[track_caller]
    pub(crate) fn is_as(&self, before: &str, when: &str) {
        let same = |now: &str| {
            // The daemon ends when it has had nothing to do for two minutes.
            let ended = now.contains("libvirtd has 0 files open");
            let lines =
                |text| str::lines(text).filter(move |line| !ended || !line.starts_with("libvirtd has"));
            lines(now).eq(lines(before))
        };
        let mut now = self.traces();
        for _ in 0..10 {
            if same(&now) {
                return;
            }
            self.host.run("sleep 1").ok();
            now = self.traces();
        }
        assert_eq!(now, before, "{when}");
    }

    pub(crate) fn lent(&self) {
        self.host.expect_driver(CARD, "vfio-pci").expect_driver(AUDIO, "vfio-pci");
    }

    /// Waits until no domain has a card and the host's drivers have it again.
    #[track_caller]
    pub(crate) fn comes_home(&self) {
        let waits = "for i in $(seq 800); do gpuferry status --json | grep -q '\"domains\":\\[\\]' && exit 0; sleep 0.3; done; \
                     gpuferry status; exit 1";
        self.host.run_within(waits, PATIENCE).ok();
        self.host.expect_driver(CARD, self.driver()).expect_driver(AUDIO, "snd_hda_intel");
    }

    /// Kills libvirt's daemon below a domain that has the card: it comes back, and the domain runs on.
    #[track_caller]
    pub(crate) fn outlives_the_daemon(&self, name: &str) {
        let kill = format!(
            "systemctl kill --kill-whom=main -s KILL libvirtd && until virsh domstate {name}; do sleep 0.3; done"
        );
        self.host.run_within(&kill, PATIENCE).ok().prints("running");
        self.lent();
    }

    /// Presses the power button of a domain until it hears it: its firmware does not.
    #[track_caller]
    pub(crate) fn shut_down(&self, name: &str) {
        let press = format!(
            "for i in $(seq 400); do virsh shutdown {name} >/dev/null 2>&1; sleep 0.5; \
             virsh domstate {name} | grep -q 'shut off' && exit 0; done; virsh domstate {name}; exit 1"
        );
        self.host.run_within(&press, PATIENCE).ok();
    }
}

/// Says something past the test harness.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "lab: {text}");
}

/// A domain gets the card so many times, and each time the picture comes back.
fn domains_have_the_card(desktop: &Desktop, rounds: u32) {
    let host = &desktop.host;
    let mut before = String::new();
    for round in 0..rounds {
        let begun = Instant::now();
        host.run_within("virsh start first", PATIENCE).ok();
        let started = begun.elapsed();
        desktop.lent();
        host.run("systemctl is-active xdm").status(3);
        desktop.shut_down("first");
        let ended = begun.elapsed();
        desktop.comes_home();
        desktop.shows();
        let seen = begun.elapsed();
        tell(&format!(
            "round {round}: started {started:.1?}, shut down after {ended:.1?}, seen again after {seen:.1?}"
        ));
        if round == 0 {
            // What the daemon opens for its first domain with a card stays open.
            before = desktop.traces();
        }
        desktop.is_as(&before, &format!("round {round}"));
    }
}

fn rounds(in_ci: u32) -> u32 {
    if std::env::var_os("GPUFERRY_SOAK").is_some() { 50 } else { in_ci }
}

#[test]
fn the_only_card_goes_to_a_domain_and_the_picture_comes_back() {
    let desktop = Desktop::boot(Card::Bochs);
    let host = &desktop.host;
    desktop.shows();
    let before = desktop.traces();
    // An empty folder may stay in the state folder: it is gpuferry's own.
    let files =
        "find /etc/libvirt /var/lib/gpuferry/guests ! -path /var/lib/gpuferry/guests 2>/dev/null | sort";
    let clean = host.run(files).ok().stdout().to_owned();

    // Nobody is stopped unasked, and everybody is named.
    let refused = host.run_within(&format!("gpuferry detach --yes {CARD} 2>&1 </dev/null"), PATIENCE);
    refused.status(3).prints("Xorg (pid ").prints("--stop display-manager");
    desktop.shows();
    desktop.is_as(&before, "after a refusal");

    desktop.define("first", 1, "yes");
    desktop.define("second", 2, "no");
    // The daemon runs by now, and has to be told.
    host.run_within("gpuferry hook install --yes", PATIENCE).ok().prints("has looked");
    // And twice more below.
    domains_have_the_card(&desktop, rounds(3));

    // What is said while a domain has it.
    host.run_within("virsh start first", PATIENCE).ok();
    desktop.lent();
    assert_ne!(host.run("systemctl start display-manager").end, End::Exit(0), "it is masked meanwhile");
    let inside = host.run("virsh qemu-monitor-command first --hmp 'info pci'").ok();
    inside.prints("1234:1111").prints("8086:2668");
    host.run("gpuferry status").ok().prints("domain first runs with 0000:01:00.0; sleep and the lid switch");
    host.run("systemd-inhibit --list --no-pager").ok().prints("gpuferry").prints("handle-lid-switch");
    // The second is refused, and what libvirt says after that does not take the card from the first.
    let refused = host.run_within("virsh start second", PATIENCE).status(1);
    refused.complains("0000:01:00.0").complains("is not free: the guest first has it");
    // Nor does a daemon that is killed and comes back.
    desktop.outlives_the_daemon("first");
    host.run_within("virsh destroy first", PATIENCE).ok();
    desktop.comes_home();
    desktop.shows();

    // Not managed by libvirt; and this time everybody is killed.
    host.run_within("virsh start second", PATIENCE).ok();
    desktop.lent();
    host.run("systemctl kill --kill-whom=main -s KILL libvirtd; kill -9 $(pidof qemu-system-x86_64)").ok();
    desktop.comes_home();
    desktop.shows();

    // Somebody else's script refuses after the card has gone: it comes home.
    host.run(
        "printf '#!/bin/sh\\n[ $2 != prepare ]\\n' > /etc/libvirt/hooks/qemu.d/60-other && \
              chmod 755 /etc/libvirt/hooks/qemu.d/60-other",
    )
    .ok();
    host.run_within("virsh start first", PATIENCE).status(1).complains("60-other");
    desktop.comes_home();
    desktop.shows();

    let remove = "for g in first second; do gpuferry hook disable $g --yes; virsh undefine $g; done; \
                  gpuferry hook remove --yes; rm -f /etc/libvirt/hooks/qemu.d/60-other; \
                  rmdir /etc/libvirt/hooks/qemu.d 2>/dev/null; true";
    host.run_within(remove, PATIENCE).ok();
    assert_eq!(host.run(files).ok().stdout(), clean);
    as_the_guide_says(&desktop);
}

/// Every command of the guide's chapter on one card, as it stands there.
fn as_the_guide_says(desktop: &Desktop) {
    let host = &desktop.host;
    let before = desktop.traces();
    let chapter = commands(ONE_CARD);
    let typed: Vec<_> = chapter.iter().map(|line| line.strip_prefix("sudo ").unwrap_or(line)).collect();
    // The last one is for a rescue shell: crate::early_binding runs it there.
    let [gpus, dry_run, trial, reattach, status, again, history, _rescue] = typed[..] else {
        panic!("a command of the chapter has no place here: {chapter:#?}");
    };
    let run = |command: &str| host.run_within(&format!("{command} </dev/null"), PATIENCE).ok();
    run(gpus).prints(CARD).prints("Xorg");
    run(dry_run).prints("bochs-drm/unbind");
    desktop.shows();
    desktop.is_as(&before, "after a dry run");
    // On a busy machine a minute may be over before the next command.
    assert!(trial.contains("--timeout 60"), "{trial}");
    run(&trial.replace("--timeout 60", "--timeout 600")).prints("goes home by itself");
    run(status).prints("goes home in");
    run(&format!("gpuferry keep {CARD}")).prints("stays lent");
    run(status).prints("lent, no guest has it");
    run(reattach).prints("is home");
    desktop.shows();
    run(again).prints("nothing was changed");
    run(history).prints("write vfio-pci to");
    desktop.shows();
    desktop.is_as(&before, "after a trial that was kept");
    if left_to_soak() {
        return;
    }
    run(trial).prints("goes home by itself");
    let home = "for i in $(seq 1200); do gpuferry status --json | grep -q '\"holder\":\"idle\"' || break; sleep 0.2; done; \
                until systemctl is-active -q xdm; do sleep 0.2; done";
    host.run_within(home, PATIENCE).ok();
    desktop.shows();
    desktop.is_as(&before, "after a trial");
}

/// The same with modules that need each other, a frame buffer that keeps them, and a daemon that keeps the card.
#[test]
fn a_card_with_nvidias_modules_goes_to_a_domain_and_the_picture_comes_back() {
    let desktop = Desktop::boot(Card::Nvidia);
    desktop.shows();
    desktop.define("first", 1, "yes");
    desktop.host.run_within("gpuferry hook install --yes", PATIENCE).ok().prints("has looked");
    domains_have_the_card(&desktop, rounds(3));
    desktop.host.run("systemctl is-active nvidia-persistenced").ok();
}

const WAYS: [(&str, &str); 4] = [
    ("hook", "the hook: `virsh start`, `virsh destroy`"),
    ("gpuferry", "`gpuferry detach`, `gpuferry reattach`"),
    ("bare", "the bare writes"),
    ("copied", "the writes of scripts that people copy, with their sleeps"),
];

/// The table of docs/performance.md: what a hand-over takes in each of four ways, in turn, in one host.
#[test]
fn what_a_hand_over_takes() {
    if left_to_soak() {
        return;
    }
    for (card, modules, units) in [
        (Card::Bochs, "", ""),
        (Card::Nvidia, "nvidia_drm nvidia_uvm nvidia_modeset nvidia", "nvidia-persistenced"),
    ] {
        let desktop = Desktop::boot(card);
        let host = &desktop.host;
        desktop.define("first", 1, "yes");
        host.write("/root/plain.xml", domain("plain", 3, "no"));
        host.run_within("virsh define /root/plain.xml; gpuferry hook install --yes", PATIENCE).ok();
        host.write("/root/single.sh", include_str!("../assets/single.sh"));
        let mut samples = vec![Vec::new(); WAYS.len()];
        for _ in 0..5 {
            for ((way, _), samples) in WAYS.iter().zip(&mut samples) {
                let once = format!("bash /root/single.sh {way} '{modules}' '{units}'");
                let said = host.run_within(&once, PATIENCE).ok();
                let times: Vec<u32> = said.text().split(' ').map(|time| time.parse().unwrap()).collect();
                samples.push(times);
                desktop.serves();
            }
        }
        tell(&format!("{card:?}, {:?}: medians of 5 rounds, ms", host.accelerator()));
        tell("| way | detach | guest start | return | together |\n|---|---|---|---|---|");
        for ((_, way), samples) in WAYS.iter().zip(&samples) {
            let median = |part: &dyn Fn(&[u32]) -> u32| {
                let mut values: Vec<u32> = samples.iter().map(|times| part(times)).collect();
                values.sort_unstable();
                values[values.len() / 2]
            };
            let parts = [0, 1, 2].map(|part| median(&|times: &[u32]| times[part]).to_string());
            let all = median(&|times: &[u32]| times.iter().sum());
            tell(&format!("| {way} | {} | {all} |", parts.join(" | ")));
        }
    }
}
