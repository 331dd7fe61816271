//! What stands on the disk for the hook, as changes that `history` shows and `revert` undoes: the script that
//! libvirt's daemon runs, and the records of the guests that were enabled. Plans; [`crate::journal::run`] carries out.
//!
//! Sources: <https://libvirt.org/hooks.html> (`qemu.d` since 6.5.0), src/util/virhook.c: the daemon looks for hooks
//! when it starts and at SIGHUP, and only for the kinds of which it found one then.

use super::{Guest, record};
use crate::{
    error::{Error, Result, Status},
    journal::{
        STATE,
        record::{self as changes, Change, Planned, State},
        run::{self, Which},
        sha256,
    },
    machine::{Machine, Program, Root},
    plan::sources::Sources,
    step::{
        FileStep,
        before::{Before, look},
    },
};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where libvirt's daemon looks for hooks.
pub const HOOKS: &str = "/etc/libvirt/hooks";
/// Our script where there is a folder for many.
pub const SCRIPT: &str = "/etc/libvirt/hooks/qemu.d/50-gpuferry";
/// The one script of older versions.
pub const ONLY: &str = "/etc/libvirt/hooks/qemu";
/// Somebody else's script, where ours had to take its place.
pub const KEPT: &str = "/etc/libvirt/hooks/qemu.before-gpuferry";

/// Folders that libvirt's security profiles let a hook run programs from (src/security/apparmor/usr.sbin.libvirtd.in:
/// `PUx`).
const FOLDERS: &[&str] = &["/usr/bin", "/usr/sbin", "/bin", "/sbin"];

/// A change that is to be made, with what the diff needs.
#[derive(Debug)]
pub struct Plan {
    /// In a sentence.
    pub title: String,
    /// The steps; none where it is so already.
    pub steps: Vec<FileStep>,
    /// What stands in the files now.
    pub sources: Sources,
}

impl Plan {
    fn new(title: String) -> Self {
        Self { title, steps: Vec::new(), sources: Sources::default() }
    }

    /// Adds a file of ours, with the folders that it needs.
    fn file(&mut self, root: &dyn Root, path: &Path, content: String, mode: u32, folders: u32) -> Result<()> {
        if let (Before::File { .. }, bytes) = look(root, path)? {
            let old = String::from_utf8(bytes).map_err(|_| {
                Error::refused(format!("{} is no text: it is somebody else's", path.display()))
                    .hint(format!("file {}", path.display()))
            })?;
            if old == content {
                return Ok(());
            }
            self.sources.own.insert(path.to_owned(), old);
        }
        let missing: Vec<_> = path.ancestors().skip(1).take_while(|folder| !root.exists(folder)).collect();
        // The state folder itself is the journal's.
        let own = |folder: &&Path| !Path::new(STATE).starts_with(folder);
        for folder in missing.into_iter().filter(own).rev() {
            let step = FileStep::MakeFolder { path: folder.to_owned(), mode: folders };
            if !self.steps.contains(&step) {
                self.steps.push(step);
            }
        }
        self.steps.push(FileStep::Write { path: path.to_owned(), content, mode });
        Ok(())
    }

    /// As the journal takes it.
    pub fn planned(&self) -> Result<Planned> {
        let bytes = serde_json::to_vec(&(&self.title, &self.steps))
            .map_err(|error| Error::failed(format!("cannot write the plan: {error}")))?;
        Ok(Planned {
            schema: 1,
            time: 0,
            title: self.title.clone(),
            digest: sha256(&bytes),
            words: Vec::new(),
            steps: self.steps.clone(),
            boot: Vec::new(),
        })
    }
}

/// The change that enables a guest.
pub fn enable(root: &dyn Root, guest: &Guest) -> Result<Plan> {
    let path =
        record(&guest.name).ok_or_else(|| Error::usage(format!("`{}` is no domain's name", guest.name)))?;
    let mut plan = Plan::new(format!("hand cards over for the guest {}", guest.name));
    plan.file(root, &path, guest.text()?, 0o600, 0o700)?;
    Ok(plan)
}

/// The change that installs the hook. `binary` is this program, `version` libvirt's.
pub fn install(root: &dyn Root, binary: &Path, version: (u32, u32)) -> Result<Plan> {
    let folder = binary.parent().and_then(Path::to_str).unwrap_or_default();
    if !FOLDERS.contains(&folder) {
        return Err(Error::refused(format!("{} is not where libvirt's daemon may run it", binary.display()))
            .detail("its security profiles let a hook run programs from /usr/bin and /usr/sbin")
            .hint(format!(
                "install -m 755 {} /usr/bin/gpuferry; /usr/bin/gpuferry hook install",
                binary.display()
            )));
    }
    let mut plan = Plan::new("libvirt calls gpuferry when guests start and end".to_owned());
    if version >= (6, 5) {
        plan.file(root, Path::new(SCRIPT), script(binary), 0o755, 0o755)?;
        return Ok(plan);
    }
    match look(root, Path::new(ONLY))? {
        (Before::File { .. }, bytes) if bytes == both(binary).as_bytes() => {}
        (Before::File { ownership, .. }, bytes) if bytes != script(binary).as_bytes() => {
            let theirs = String::from_utf8(bytes).map_err(|_| {
                Error::refused(format!("{ONLY} is no text: it cannot be called beside gpuferry's"))
            })?;
            plan.file(root, Path::new(KEPT), theirs, ownership.mode, 0o755)?;
            plan.file(root, Path::new(ONLY), both(binary), 0o755, 0o755)?;
        }
        _ => plan.file(root, Path::new(ONLY), script(binary), 0o755, 0o755)?,
    }
    Ok(plan)
}

/// The script of a hook.
fn script(binary: &Path) -> String {
    format!("#!/bin/sh\nexec {} hook qemu \"$@\"\n", binary.display())
}

/// The script where another one was there and libvirt knows only one.
fn both(binary: &Path) -> String {
    format!(
        "#!/bin/sh\n# This libvirt calls one script only: gpuferry, then the script that was here before.\n\
         # `gpuferry hook remove` puts it back.\nxml=$(cat)\n\
         printf '%s\\n' \"$xml\" 2>/dev/null | {} hook qemu \"$@\" || exit\n\
         printf '%s\\n' \"$xml\" 2>/dev/null | {KEPT} \"$@\"\n",
        binary.display()
    )
}

/// The changes in force that wrote one of these files, newest first.
pub fn changes_of(root: &dyn Root, paths: &[PathBuf]) -> Result<Vec<Change>> {
    let mut found = changes::load(root)?;
    found.retain(|change| {
        let writes = |step: &FileStep| matches!(step, FileStep::Write { path, .. } if paths.contains(path));
        change.state() == State::Applied && change.planned.steps.iter().any(writes)
    });
    found.reverse();
    Ok(found)
}

/// Files of the hook itself.
pub fn own_files() -> Vec<PathBuf> {
    [SCRIPT, ONLY, KEPT].map(PathBuf::from).to_vec()
}

/// Which of our scripts is in place.
pub fn installed(root: &dyn Root) -> Option<PathBuf> {
    let ours =
        |path: &&&str| root.text(Path::new(path)).is_ok_and(|text| text.contains("gpuferry hook qemu"));
    [SCRIPT, ONLY].iter().find(ours).map(PathBuf::from)
}

/// Other scripts there that seem to hand devices over too.
pub fn others(root: &dyn Root, name: &str) -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from(ONLY)];
    let folder = Path::new(HOOKS).join("qemu.d");
    files.extend(root.list(&folder).unwrap_or_default().into_iter().map(|name| folder.join(name)));
    // The layout of a helper that many use: qemu.d/GUEST/prepare/begin/*.
    for part in ["prepare/begin", "release/end"] {
        let folder = folder.join(name).join(part);
        files.extend(root.list(&folder).unwrap_or_default().into_iter().map(|name| folder.join(name)));
    }
    const WORDS: &[&str] = &["vfio", "nodedev-", "driver_override", "unbind", "display-manager"];
    files.retain(|path| {
        let text = root.text(path).unwrap_or_default();
        !text.contains("gpuferry hook qemu") && WORDS.iter().any(|word| text.contains(word))
    });
    files
}

/// Daemons that call hooks for QEMU's guests: where they may be, and the unit that runs them.
const DAEMONS: &[(&str, &str)] = &[
    ("/usr/sbin/virtqemud", "virtqemud.service"),
    ("/usr/sbin/libvirtd", "libvirtd.service"),
    ("/usr/bin/virtqemud", "virtqemud.service"),
    ("/usr/bin/libvirtd", "libvirtd.service"),
];

/// The version of libvirt's daemon here.
pub fn libvirt_version(machine: &dyn Machine) -> Result<(u32, u32)> {
    let missing = || {
        Error::failed("libvirt's daemon is not installed here")
            .detail("neither virtqemud nor libvirtd is in /usr/sbin or /usr/bin")
            .hint("gpuferry vm run   runs a guest without libvirt")
    };
    let (path, _) = DAEMONS.iter().find(|(path, _)| machine.exists(Path::new(path))).ok_or_else(missing)?;
    let program = Program::new(path, Duration::from_secs(30)).arg("--version");
    let finished = machine.run(&program).map_err(|error| Error::io("run", &program.path, &error))?;
    let said = String::from_utf8_lossy(&finished.stdout).into_owned();
    version(&said).ok_or_else(|| {
        Error::failed(format!("`{path} --version` said nothing of a version: {}", said.trim()))
    })
}

/// `libvirtd (libvirt) 11.3.0`.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.lines().next()?.split_whitespace().next_back()?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// How the daemon knows of the hook now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenUp {
    /// It does not run, and looks when it is started.
    AtItsStart,
    /// It was told, and was seen to look.
    Now,
    /// It was told; another script was there before, so that what it did could not be seen.
    Told,
}

/// How long a daemon may take to look after it was told to.
const LOOKS: Duration = Duration::from_secs(30);

/// Tells the daemons that run to look for hooks again, and watches them do it.
pub fn take_up(machine: &dyn Machine) -> Result<TakenUp> {
    let mut taken = TakenUp::AtItsStart;
    let mut units: Vec<_> = DAEMONS.iter().map(|(_, unit)| *unit).collect();
    units.sort_unstable();
    units.dedup();
    for unit in units {
        if systemctl(machine, &["is-active", "--quiet", unit])?.is_err() {
            continue;
        }
        // With a script of the old name it looks no further, and nothing can be seen of that.
        let seen = !machine.exists(Path::new(ONLY));
        let folder = Path::new(SCRIPT).parent().unwrap_or(Path::new(HOOKS));
        let watch = if seen { Some(machine.watch_folder(folder)) } else { None };
        let watch = watch.transpose().map_err(|error| Error::io("watch", folder, &error))?;
        systemctl(machine, &["reload", unit])??;
        match watch.map(|mut watch| watch.listed(LOOKS)) {
            None => taken = TakenUp::Told,
            Some(true) => taken = TakenUp::Now,
            Some(false) => {
                return Err(Error::failed(format!(
                    "{unit} was told to look for hooks, and did not within 30 s"
                ))
                .detail("until it does, guests start without their cards being handed over")
                .hint(format!("systemctl restart {unit}   guests run on meanwhile")));
            }
        }
    }
    Ok(taken)
}

/// The daemon did not take it up: what was written for it is taken out again, so that nobody relies on it. The failure
/// is told with how that went.
pub fn take_back(machine: &dyn Machine, change: Option<u32>, failure: Error, say: run::Say) -> Error {
    let failure = failure.hint("gpuferry hook install   after that");
    // It was there before: whether somebody relies on it is not known.
    let Some(number) = change else { return failure };
    let undone = run::lock(machine).and_then(|_held| run::revert(machine, Which::One(number), true, say));
    match undone {
        Ok(_) => failure.detail("the script was taken out again: everything is as it was"),
        Err(error) => failure
            .with_status(Status::NotUndone)
            .detail(format!("the script could not be taken out again: {}", error.message))
            .hint("gpuferry hook remove"),
    }
}

/// Whether it ended well; the error says what it said.
fn systemctl(machine: &dyn Machine, words: &[&str]) -> Result<std::result::Result<(), Error>> {
    let program = Program::new("/usr/bin/systemctl", Duration::from_secs(30)).args(words);
    let finished = machine.run(&program).map_err(|error| Error::io("run", &program.path, &error))?;
    let said = String::from_utf8_lossy(&finished.stderr);
    let said = said.lines().next().unwrap_or("it did not end in time");
    Ok(if finished.ok() {
        Ok(())
    } else {
        Err(Error::failed(format!("`{}` failed: {said}", program.shown())))
    })
}

/// The program that the hook is to run: this one, by its path without links.
pub fn binary(machine: &dyn Machine) -> Result<PathBuf> {
    let own = crate::handover::client::own_path(machine)?;
    match own.to_str() {
        Some(path) if !path.contains(|c: char| c.is_whitespace() || "\"'\\$`;&|<>()".contains(c)) => Ok(own),
        _ => {
            let name: OsString = own.into_os_string();
            Err(Error::refused(format!("{} is no name for a script", name.to_string_lossy())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::live::Live;

    const OURS: &str = "/usr/bin/gpuferry";

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Live) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = Live::open(folder.path()).unwrap();
        (folder, root)
    }

    fn written(plan: &Plan) -> Vec<(String, u32, String)> {
        let written = plan.steps.iter().map(|step| match step {
            FileStep::MakeFolder { path, mode } => (path.display().to_string(), *mode, String::new()),
            FileStep::Write { path, content, mode } => (path.display().to_string(), *mode, content.clone()),
            FileStep::Derive(_) => panic!("{step:?}"),
        });
        written.collect()
    }

    #[test]
    fn a_drop_in_where_there_is_a_folder_for_them() {
        let (_folder, root) = tree(&[("/etc/libvirt/hooks/qemu", "#!/bin/sh\nvfio\n")]);
        let plan = install(&root, Path::new(OURS), (9, 0)).unwrap();
        let script = "#!/bin/sh\nexec /usr/bin/gpuferry hook qemu \"$@\"\n".to_owned();
        assert_eq!(
            written(&plan),
            [
                ("/etc/libvirt/hooks/qemu.d".into(), 0o755, String::new()),
                (SCRIPT.into(), 0o755, script.clone())
            ]
        );
        let (_folder, root) = tree(&[(SCRIPT, &script)]);
        assert!(install(&root, Path::new(OURS), (6, 5)).unwrap().steps.is_empty());
        assert_eq!(installed(&root).as_deref(), Some(Path::new(SCRIPT)));
    }

    #[test]
    fn an_old_libvirt_runs_both_scripts() {
        let (folder, root) = tree(&[(ONLY, "#!/bin/sh\necho theirs \"$@\" $(cat)\n")]);
        let plan = install(&root, Path::new(OURS), (6, 0)).unwrap();
        let files = written(&plan);
        assert_eq!(files[0].0, KEPT);
        assert!(files[0].2.contains("theirs"));
        assert_eq!(files[1].0, ONLY);
        // It is carried out here, with other programs in the two places.
        let at = |path: &str| folder.path().join(path).display().to_string();
        let run = |ours: &str| {
            std::fs::write(at("ours"), format!("#!/bin/sh\n{ours}\n")).unwrap();
            std::fs::write(at("theirs"), &files[0].2).unwrap();
            let script = files[1].2.replace(KEPT, &format!("sh {}", at("theirs")));
            let script = script.replace("/usr/bin/gpuferry", &format!("sh {}", at("ours")));
            std::fs::write(at("both"), script).unwrap();
            let mut program = Program::new("/bin/sh", Duration::from_secs(20));
            program = program.arg(at("both")).args(["vm", "prepare", "begin", "-"]);
            program.stdin = b"<domain/>".to_vec();
            let done = Live::open(Path::new("/")).unwrap().run(&program).unwrap();
            (done.status, String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
        };
        let theirs = "theirs vm prepare begin - <domain/>\n".to_owned();
        assert_eq!(run("exit 0"), (Some(0), theirs.clone(), String::new()));
        assert_eq!(run("cat >&2"), (Some(0), theirs, "<domain/>\n".into()));
        assert_eq!(run("echo no >&2; exit 3"), (Some(3), String::new(), "no\n".into()));
        std::fs::write(folder.path().join(&ONLY[1..]), &files[1].2).unwrap();
        assert!(install(&root, Path::new(OURS), (6, 0)).unwrap().steps.is_empty());
    }

    #[test]
    fn only_from_where_the_daemon_may_run_it() {
        let (_folder, root) = tree(&[]);
        for wrong in ["/usr/local/bin/gpuferry", "/home/ring/gpuferry", "/usr/bin/x/gpuferry"] {
            let error = install(&root, Path::new(wrong), (9, 0)).unwrap_err();
            assert!(error.hints[0].contains("install -m 755"), "{error}");
        }
    }

    #[test]
    fn what_no_daemon_took_up_is_taken_out_again() {
        let (folder, root) = tree(&[("/var/lib/x", ""), ("/boot/x", "")]);
        let plan = install(&root, Path::new(OURS), (9, 0)).unwrap();
        let mut quiet = |_: &run::Progress| {};
        drop(run::lock(&root).unwrap());
        let number = run::apply(&root, plan.planned().unwrap(), &mut quiet).unwrap();
        assert!(installed(&root).is_some());
        let error = take_back(&root, Some(number), Error::failed("it did not look"), &mut quiet);
        assert_eq!((error.status, installed(&root)), (Status::Undone, None), "{error}");
        assert!(!folder.path().join("etc/libvirt/hooks/qemu.d").exists());
        assert!(error.details[0].contains("as it was"), "{error}");
        // One that was there before stays.
        assert!(take_back(&root, None, Error::failed("x"), &mut quiet).details.is_empty());
    }

    #[test]
    fn versions_as_the_daemons_say_them() {
        assert_eq!(version("libvirtd (libvirt) 11.3.0\n"), Some((11, 3)));
        assert_eq!(version("/usr/sbin/virtqemud (libvirt) 6.5.0"), Some((6, 5)));
        assert_eq!(version("usage"), None);
        assert_eq!(version(""), None);
    }

    #[test]
    fn another_script_that_hands_over_is_seen() {
        let (_folder, root) = tree(&[
            ("/etc/libvirt/hooks/qemu", "#!/bin/sh\necho started >> /tmp/log\n"),
            (
                "/etc/libvirt/hooks/qemu.d/win10/prepare/begin/start.sh",
                "virsh nodedev-detach pci_0000_01_00_0\n",
            ),
            (SCRIPT, "exec /usr/bin/gpuferry hook qemu vfio\n"),
        ]);
        let found = others(&root, "win10");
        assert_eq!(found, [Path::new("/etc/libvirt/hooks/qemu.d/win10/prepare/begin/start.sh")]);
        assert!(others(&root, "other").is_empty());
    }

    #[test]
    fn a_guest_is_a_file_of_ours() {
        let (_folder, root) = tree(&[]);
        let guest = Guest {
            schema: 1,
            name: "win10".into(),
            uuid: None,
            stop: vec!["lightdm.service".into()],
            wishes: crate::handover::request::Wishes::default(),
        };
        let files = written(&enable(&root, &guest).unwrap());
        let names: Vec<_> = files.iter().map(|(path, mode, _)| (path.as_str(), *mode)).collect();
        assert_eq!(names[names.len() - 2], ("/var/lib/gpuferry/guests", 0o700));
        assert_eq!(names[names.len() - 1], ("/var/lib/gpuferry/guests/win10.json", 0o600));
    }
}
