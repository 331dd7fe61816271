//! The early scripts, which are part of the program and are written as they are.

/// initramfs-tools' hook: puts vfio-pci into the image.
pub const HOOK: &str = include_str!("initramfs-tools/hook");
/// initramfs-tools' early script: binds the cards that the command line names.
pub const INIT_TOP: &str = include_str!("initramfs-tools/init-top");

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
        path::{Path, PathBuf},
        process::Command,
    };

    /// Shells that run early scripts: dash, busybox's, klibc's. Those that are installed are used.
    fn shells() -> Vec<Vec<String>> {
        let all = [vec!["/bin/dash"], vec!["/bin/busybox", "sh"], vec!["/usr/lib/klibc/bin/sh"]];
        let there = all.iter().filter(|words| Path::new(words[0]).exists());
        let mut shells: Vec<Vec<String>> =
            there.map(|words| words.iter().map(|word| (*word).to_owned()).collect()).collect();
        // Others, each a command of words: for trying a shell that is not installed.
        let more = std::env::var("GPUFERRY_SHELLS").unwrap_or_default();
        shells.extend(
            more.split(';')
                .filter(|words| !words.is_empty())
                .map(|words| words.split_whitespace().map(str::to_owned).collect()),
        );
        assert!(!shells.is_empty());
        shells
    }

    /// A sysfs with two twin cards behind root ports, the second behind a switch, on these buses.
    struct Fake {
        root: tempfile::TempDir,
    }

    const CARD: &str = "0000:00:01.0/00.0=10de:2204:1458:403b,0000:00:01.0/00.1=10de:1aef:1458:403b";

    impl Fake {
        fn new() -> Self {
            let fake = Self { root: tempfile::tempdir().unwrap() };
            let sys = fake.path("sys/devices/pci0000:00");
            for (port, buses) in [("0000:00:01.0", vec!["05"]), ("0000:00:02.0", vec!["06", "07"])] {
                let mut folder = sys.join(port);
                fake.device(&folder, "8086 460d 0000 0000");
                for bus in &buses[..buses.len() - 1] {
                    folder = folder.join(format!("0000:{bus}:08.0"));
                    fake.device(&folder, "10b5 8747 0000 0000");
                }
                let bus = buses[buses.len() - 1];
                fake.device(&folder.join(format!("0000:{bus}:00.0")), "10de 2204 1458 403b");
                fake.device(&folder.join(format!("0000:{bus}:00.1")), "10de 1aef 1458 403b");
                // Links of a real sysfs that look nearly like a function, and a port service.
                symlink("/x", folder.join(format!("consumer:pci:0000:{bus}:00.1"))).unwrap();
                fs::create_dir(folder.join(format!("{port}:pcie001"))).unwrap();
            }
            fs::create_dir_all(fake.path("sys/bus/pci/drivers")).unwrap();
            fs::write(fake.path("sys/bus/pci/drivers_probe"), "").unwrap();
            fs::write(fake.path("kmsg"), "").unwrap();
            let modprobe =
                "#!/bin/sh\n[ \"$*\" = vfio-pci ] || exit 1\nmkdir ROOT/sys/bus/pci/drivers/vfio-pci\n";
            fake.program("modprobe", &modprobe.replace("ROOT", fake.path("").to_str().unwrap()));
            fake
        }

        fn path(&self, path: &str) -> PathBuf {
            self.root.path().join(path)
        }

        fn program(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
            fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn device(&self, folder: &Path, ids: &str) {
            fs::create_dir_all(folder).unwrap();
            let names = ["vendor", "device", "subsystem_vendor", "subsystem_device"];
            for (name, id) in names.iter().zip(ids.split(' ')) {
                fs::write(folder.join(name), format!("0x{id}\n")).unwrap();
            }
            fs::write(folder.join("driver_override"), "(null)\n").unwrap();
            fs::create_dir_all(self.path("sys/bus/pci/devices")).unwrap();
            symlink(folder, self.path("sys/bus/pci/devices").join(folder.file_name().unwrap())).unwrap();
        }

        fn folder(&self, address: &str) -> PathBuf {
            fs::canonicalize(self.path("sys/bus/pci/devices").join(address)).unwrap()
        }

        /// Runs the script on this command line, and returns the log and what was bound.
        fn boot(&self, shell: &[String], cmdline: &str) -> (String, Vec<String>) {
            let mut script = INIT_TOP.to_owned();
            let root = self.root.path().to_str().unwrap();
            let kernel = "echo \"$address\" > \"$pci/drivers_probe\"";
            for (from, to) in [
                ("pci=/sys/bus/pci", format!("pci={root}/sys/bus/pci")),
                ("cmdline=/proc/cmdline", format!("cmdline={root}/cmdline")),
                ("log=/dev/kmsg", format!("log={root}/line")),
                ("modprobe=/sbin/modprobe", format!("modprobe={root}/modprobe")),
                // What a real kernel does when it is told to probe.
                (
                    kernel,
                    format!(
                        "[ -e \"$1/refuses\" ] || : > \"$pci/drivers/vfio-pci/$address\"; {kernel}; \
                         read -r over < \"$1/driver_override\"; [ \"$over\" = vfio-pci ] || exit 9"
                    ),
                ),
                // A log keeps every line.
                (" > \"$log\"", " >> \"$log\"".to_owned()),
            ] {
                assert!(script.contains(from), "{from}");
                script = script.replace(from, &to);
            }
            fs::write(self.path("cmdline"), cmdline).unwrap();
            fs::write(self.path("script"), script).unwrap();
            let mut command = Command::new(&shell[0]);
            let done = command.args(&shell[1..]).arg(self.path("script")).output().unwrap();
            let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success() && stderr.is_empty(), "{shell:?}: {:?} {stderr}", done.status);
            assert!(done.stdout.is_empty());
            let mut bound: Vec<String> = fs::read_dir(self.path("sys/bus/pci/drivers/vfio-pci"))
                .map(|names| names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect())
                .unwrap_or_default();
            bound.sort();
            (fs::read_to_string(self.path("line")).unwrap_or_default(), bound)
        }
    }

    #[track_caller]
    fn nothing(cmdline: &str, said: &str, prepare: impl Fn(&Fake)) {
        for shell in shells() {
            let fake = Fake::new();
            prepare(&fake);
            let (log, bound) = fake.boot(&shell, cmdline);
            assert_eq!(bound, Vec::<String>::new(), "{shell:?}: {log}");
            assert!(log.contains(said) && (said.is_empty() == log.is_empty()), "{shell:?}: {log}");
            for address in ["0000:05:00.0", "0000:05:00.1", "0000:07:00.0"] {
                let file = fake.path("sys/bus/pci/devices").join(address).join("driver_override");
                assert_ne!(
                    fs::read_to_string(file).unwrap_or_default(),
                    "vfio-pci\n",
                    "{shell:?}: {address}"
                );
            }
        }
    }

    #[test]
    fn the_named_twin_is_bound_on_whatever_bus_it_is() {
        for shell in shells() {
            let fake = Fake::new();
            let (log, bound) =
                fake.boot(&shell, &format!("quiet root=/dev/sda1 gpuferry.bind={CARD} splash\n"));
            assert_eq!(bound, ["0000:05:00.0", "0000:05:00.1"], "{log}");
            assert!(log.contains("<5>gpuferry: 0000:05:00.0 is bound to vfio-pci\n"), "{log}");
            let twin = fs::read_to_string(fake.folder("0000:07:00.0").join("driver_override")).unwrap();
            assert_eq!(twin, "(null)\n");

            let fake = Fake::new();
            let behind = "0000:00:02.0/08.0/00.0=10de:2204:1458:403b";
            let (_, bound) = fake.boot(&shell, &format!("gpuferry.bind={behind} gpuferry.bind={CARD}\n"));
            assert_eq!(bound, ["0000:05:00.0", "0000:05:00.1", "0000:07:00.0"]);
            // Once more: what is bound stays so.
            let (_, again) = fake.boot(&shell, &format!("gpuferry.bind={behind} gpuferry.bind={CARD}\n"));
            assert_eq!(again, bound);
        }
    }

    #[test]
    fn another_device_or_none_binds_nothing_of_the_card() {
        let other = CARD.replace("10de:1aef", "10de:1aee");
        nothing(&format!("gpuferry.bind={other}\n"), "is another than 10de:1aee:1458:403b", |_| ());
        let other = CARD.replace("1458:403b,", "1458:403c,");
        nothing(&format!("gpuferry.bind={other}\n"), "is another than", |_| ());
        nothing(
            "gpuferry.bind=0000:00:05.0/00.0=10de:2204:1458:403b\n",
            "there is no device at 0000:00:05.0",
            |_| (),
        );
        nothing(&format!("gpuferry.bind={CARD}\n"), "there is no device at 0000:00:01.0/00.1", |fake| {
            fs::remove_dir_all(fake.folder("0000:05:00.1")).unwrap();
        });
    }

    #[test]
    fn a_driver_that_is_there_is_left_alone() {
        nothing(&format!("gpuferry.bind={CARD}\n"), "has a built-in driver already", |fake| {
            symlink("/", fake.folder("0000:05:00.1").join("driver")).unwrap();
        });
    }

    #[test]
    fn the_switch_turns_everything_off() {
        for off in ["gpuferry.off=1", "gpuferry.off", "gpuferry.off=yes"] {
            nothing(&format!("gpuferry.bind={CARD} -- {off}\n"), "nothing is touched", |_| ());
        }
        nothing("quiet splash\n", "", |_| ());
        nothing("", "", |_| ());
        nothing(&format!("quiet -- gpuferry.bind={CARD}\n"), "", |_| ());
    }

    #[test]
    fn without_the_module_nothing_is_touched() {
        nothing(&format!("gpuferry.bind={CARD}\n"), "vfio-pci cannot be loaded", |fake| {
            fake.program("modprobe", "#!/bin/sh\nexit 1\n");
        });
        nothing("gpuferry.load=vfio-pci\n", "vfio-pci cannot be loaded", |fake| {
            fake.program("modprobe", "#!/bin/sh\nexit 1\n");
        });
    }

    #[test]
    fn a_refused_probe_gives_the_device_back_to_its_driver() {
        for shell in shells() {
            let fake = Fake::new();
            fs::write(fake.folder("0000:05:00.0").join("refuses"), "").unwrap();
            let (log, bound) = fake.boot(&shell, &format!("gpuferry.bind={CARD}\n"));
            assert_eq!(bound, ["0000:05:00.1"]);
            assert!(log.contains("0000:05:00.0 could not be bound"), "{log}");
            let text = fs::read_to_string(fake.folder("0000:05:00.0").join("driver_override")).unwrap();
            assert_eq!(text, "\n");
        }
    }

    #[test]
    fn hostile_words_are_only_text() {
        for word in [
            "",
            ",",
            "=",
            "*",
            "$(touch ROOT/pwned)",
            "`touch ROOT/pwned`",
            ";touch${IFS}ROOT/pwned",
            "../../../etc=10de:2204:1458:403b",
            "0000:00:01.0/../../x=10de:2204:1458:403b",
            "0000:00:01.0/*=10de:2204:1458:403b",
            "0000:00:01.0/00.0=????:????:????:????",
            "0000:00:01.0/00.0=10de:2204",
            "0000:00:01.0/00.0=10de:2204:1458:403b:0",
            "0000:00:01.0/=10de:2204:1458:403b",
            "/0000:00:01.0=10de:2204:1458:403b",
            "0000:00:01.0/00.0",
        ] {
            for shell in shells() {
                let fake = Fake::new();
                let word = word.replace("ROOT", fake.path("").to_str().unwrap());
                let (log, bound) = fake.boot(&shell, &format!("gpuferry.bind={word}\n"));
                assert_eq!(bound, Vec::<String>::new(), "{word}: {log}");
                assert!(log.contains("gpuferry: "), "{word}");
                assert!(!fake.path("pwned").exists(), "{word}");
            }
        }
    }

    #[test]
    fn a_long_word_ends_soon() {
        let fake = Fake::new();
        let path = format!("0000:00:01.0{}", "/00.0".repeat(500));
        let (log, _) = fake.boot(&shells()[0], &format!("gpuferry.bind={path}=10de:2204:1458:403b\n"));
        assert!(log.contains("there is no device"), "{log}");
    }

    #[test]
    fn both_answer_what_they_need_and_are_good_shell() {
        for text in [HOOK, INIT_TOP] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("script");
            fs::write(&path, text).unwrap();
            for shell in shells() {
                let run =
                    |words: &[&str]| Command::new(&shell[0]).args(&shell[1..]).args(words).output().unwrap();
                let path = path.to_str().unwrap();
                assert!(run(&["-n", path]).status.success());
                let done = run(&[path, "prereqs"]);
                assert_eq!((done.status.code(), done.stdout.as_slice()), (Some(0), &b"\n"[..]));
            }
        }
    }
}
