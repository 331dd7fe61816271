//! Applying and undoing on simulated machines, cut off at every operation.

use super::{record::*, run::*};
use crate::{
    error::Status,
    machine::{
        Machine, Root,
        sim::{Fault, Node, Random, Sim},
    },
    plan::names,
    step::{FileStep, derived::Derived},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// A Debian machine, different for each seed.
fn machine(random: &mut Random) -> Sim {
    let sim = Sim::new(random.below(1 << 40));
    for folder in ["/var/lib", "/var/tmp", "/boot/grub", "/etc/default", "/etc/initramfs-tools/hooks"] {
        sim.put_folder(folder);
    }
    sim.put("/etc/default/grub", b"GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n", 0o644);
    if random.coin() {
        sim.put("/etc/default/grub.d/50-cloud.cfg", b"GRUB_TIMEOUT=0\n", 0o644);
    }
    if random.coin() {
        sim.put_folder("/etc/initramfs-tools/scripts/init-top");
    }
    if random.below(4) == 0 {
        // Somebody's own file where ours goes.
        sim.put(names::GRUB_DROP_IN, b"# mine\n", 0o600);
    }
    if random.below(4) == 0 {
        sim.put("/boot/initrd.img-6.1.0-1.bak", b"kept by the owner", 0o644);
    }
    for kernel in 0..=random.below(3) {
        sim.put(&format!("/boot/vmlinuz-6.{kernel}.0-1"), b"kernel", 0o644);
    }
    for kernel in crate::step::derived::kernels(&sim).unwrap().into_iter().chain(kernels(&sim)) {
        sim.update_initramfs(&kernel, Path::new("/var/tmp")).unwrap();
    }
    let cfg = sim.grub_mkconfig().unwrap();
    sim.put(names::GRUB_CFG, cfg.as_bytes(), if random.coin() { 0o444 } else { 0o600 });
    sim.settle();
    sim
}

fn kernels(sim: &Sim) -> Vec<String> {
    let names = sim.list(Path::new("/boot")).unwrap();
    names.iter().filter_map(|name| Some(name.to_str()?.strip_prefix("vmlinuz-")?.to_owned())).collect()
}

/// The steps of early binding on such a machine.
fn planned(sim: &Sim, word: &str) -> Planned {
    let mut steps = Vec::new();
    let drop_in = crate::edit::grub::drop_in(&[word.to_owned()]);
    for (path, content, mode) in [
        (names::GRUB_DROP_IN, drop_in.as_str(), 0o644),
        // Short ones: what they say is not what is tried here.
        (names::HOOK, "manual_add_modules vfio-pci\n", 0o755),
        (names::INIT_TOP, "#!/bin/sh\n", 0o755),
    ] {
        let path = PathBuf::from(path);
        let missing: Vec<_> = path.ancestors().skip(1).take_while(|folder| !sim.exists(folder)).collect();
        steps.extend(
            missing.into_iter().rev().map(|path| FileStep::MakeFolder { path: path.to_owned(), mode: 0o755 }),
        );
        if sim.read(&path).ok().as_deref() != Some(content.as_bytes()) {
            steps.push(FileStep::Write { path, content: content.to_owned(), mode });
        }
    }
    steps.extend(kernels(sim).into_iter().map(|kernel| FileStep::Derive(Derived::InitramfsTools { kernel })));
    steps.push(FileStep::Derive(Derived::GrubDebian));
    Planned {
        schema: 1,
        time: 0,
        title: "test".into(),
        digest: String::new(),
        words: vec![word.to_owned()],
        steps,
        boot: Vec::new(),
    }
}

const WORD: &str = "gpuferry.bind=0000:00:01.0/00.0=10de:2204:1458:403b";

fn apply_now(sim: &Sim, planned: Planned) -> crate::error::Result<u32> {
    let _held = lock(sim)?;
    apply(sim, planned, &mut |_| ())
}

fn revert_now(sim: &Sim, which: Which) -> crate::error::Result<Vec<u32>> {
    let _held = lock(sim)?;
    revert(sim, which, true, &mut |_| ())
}

const WATCHED: [&str; 3] = ["/etc", "/boot", "/var/tmp"];

/// The paths that are not the same in two trees: short enough to read.
fn differ(sim: &Sim, before: &BTreeMap<PathBuf, Node>) -> Vec<String> {
    let now = sim.tree(&WATCHED);
    let paths: BTreeSet<_> = now.keys().chain(before.keys()).collect();
    let show = |node: Option<&Node>| match node {
        Some((kind, bytes, mode, _)) => format!("{kind} {mode:o} {} bytes", bytes.len()),
        None => "nothing".to_owned(),
    };
    let changed = paths.into_iter().filter(|path| now.get(*path) != before.get(*path));
    changed
        .map(|path| format!("{}: {} -> {}", path.display(), show(before.get(path)), show(now.get(path))))
        .collect()
}

#[track_caller]
fn assert_as(sim: &Sim, before: &BTreeMap<PathBuf, Node>, when: &str) {
    let differ = differ(sim, before);
    assert!(differ.is_empty(), "{when}: {differ:#?}");
}

/// What may be left of gpuferry itself: its locks and its history.
fn assert_only_history(sim: &Sim) {
    for path in sim.tree(&["/var/lib/gpuferry"]).keys() {
        let name = path.strip_prefix("/var/lib/gpuferry").unwrap().to_str().unwrap();
        let known = ["", "lock", "tools.lock", "changes"].contains(&name)
            || name.strip_prefix("changes/").is_some_and(|name| {
                let inside = name.get(4..).unwrap();
                name[..4].parse::<u32>().is_ok() && ["", "/plan.json", "/journal"].contains(&inside)
            });
        assert!(known, "left in the state folder: {}", path.display());
    }
}

#[test]
fn applied_holds_and_reverted_is_as_before() {
    for seed in 0..40 {
        let sim = machine(&mut Random::new(seed));
        let before = sim.tree(&WATCHED);
        let planned = planned(&sim, WORD);
        apply_now(&sim, planned.clone()).unwrap();
        for step in &planned.steps {
            step.verify(&sim).unwrap();
        }
        assert!(sim.text(Path::new(names::GRUB_CFG)).unwrap().contains(WORD));
        assert_eq!(load(&sim).unwrap()[0].state(), State::Applied);
        assert_eq!(revert_now(&sim, Which::All).unwrap(), [1]);
        assert_as(&sim, &before, &format!("seed {seed}"));
        assert_only_history(&sim);
        assert_eq!(load(&sim).unwrap()[0].state(), State::Reverted);
        assert!(revert_now(&sim, Which::All).unwrap().is_empty());
    }
}

#[test]
fn two_changes_are_undone_one_by_one_or_together() {
    for which in [Which::All, Which::Last] {
        let sim = machine(&mut Random::new(5));
        let before = sim.tree(&WATCHED);
        apply_now(&sim, planned(&sim, WORD)).unwrap();
        let between = sim.tree(&WATCHED);
        apply_now(&sim, planned(&sim, "gpuferry.bind=0000:00:02.0=1:2:3:4")).unwrap();
        assert_ne!(sim.tree(&WATCHED), between);
        if which == Which::Last {
            assert_eq!(revert_now(&sim, which).unwrap(), [2]);
            assert_as(&sim, &between, "undone");
        }
        revert_now(&sim, Which::All).unwrap();
        assert_as(&sim, &before, "undone");
        assert_only_history(&sim);
    }
}

#[test]
fn a_later_edit_is_never_overwritten() {
    let sim = machine(&mut Random::new(3));
    apply_now(&sim, planned(&sim, WORD)).unwrap();
    sim.remove(Path::new(names::GRUB_DROP_IN)).unwrap();
    sim.put(names::GRUB_DROP_IN, b"# mine now\n", 0o644);
    let before = sim.tree(&WATCHED);
    let error = revert_now(&sim, Which::All).unwrap_err();
    assert_eq!(error.status, Status::Refused);
    let text = error.to_string();
    assert!(text.contains("# mine now") && text.contains(WORD) && text.contains("rm /etc/default"), "{text}");
    assert_as(&sim, &before, "undone");
    sim.remove(Path::new(names::GRUB_DROP_IN)).unwrap();
    revert_now(&sim, Which::All).unwrap();
}

#[test]
fn somebody_elses_file_in_our_folder_stays() {
    let mut random = Random::new(0);
    let sim = loop {
        let sim = machine(&mut random);
        if !sim.exists(Path::new("/etc/default/grub.d")) {
            break sim;
        }
    };
    apply_now(&sim, planned(&sim, WORD)).unwrap();
    sim.put("/etc/default/grub.d/theirs.cfg", b"GRUB_TIMEOUT=1\n", 0o644);
    revert_now(&sim, Which::All).unwrap();
    assert!(sim.exists(Path::new("/etc/default/grub.d/theirs.cfg")));
    assert!(!sim.exists(Path::new(names::GRUB_DROP_IN)));
}

#[test]
fn no_room_and_read_only_change_nothing() {
    for (free, read_only) in [(4 << 20, false), (1 << 30, true)] {
        let sim = machine(&mut Random::new(9));
        drop(lock(&sim).unwrap());
        let before = sim.tree(&WATCHED);
        {
            let mut world = sim.world.borrow_mut();
            (world.disk.free, world.disk.read_only) = (free, read_only);
        }
        let error = apply_now(&sim, planned(&sim, WORD)).unwrap_err();
        assert_eq!(error.status, Status::Undone, "{error}");
        assert!(!error.hints.is_empty());
        assert_as(&sim, &before, "undone");
    }
}

#[test]
fn in_a_rescue_shell_the_owner_runs_the_tools() {
    let sim = machine(&mut Random::new(2));
    let before = sim.tree(&WATCHED);
    apply_now(&sim, planned(&sim, WORD)).unwrap();
    let rescue = || {
        let _held = lock(&sim)?;
        revert(&sim, Which::All, false, &mut |_| ())
    };
    let error = rescue().unwrap_err();
    assert_eq!(error.status, Status::NotUndone);
    assert!(error.to_string().contains("/boot/grub/grub.cfg was not made again"), "{error}");
    assert!(!sim.exists(Path::new(names::GRUB_DROP_IN)));
    for kernel in kernels(&sim) {
        sim.update_initramfs(&kernel, Path::new("/var/tmp")).unwrap();
    }
    let cfg = sim.grub_mkconfig().unwrap();
    let mode = before[Path::new(names::GRUB_CFG)].2;
    sim.remove(Path::new(names::GRUB_CFG)).unwrap();
    sim.put(names::GRUB_CFG, cfg.as_bytes(), mode);
    assert_eq!(rescue().unwrap(), [1]);
    assert_as(&sim, &before, "undone by hand");
    assert_only_history(&sim);
}

fn fault(random: &mut Random) -> Fault {
    match random.below(6) {
        0 => Fault::KilledBefore,
        1 => Fault::KilledAfter,
        2 => Fault::PowerBefore,
        3 => Fault::PowerDuring,
        4 => Fault::PowerAfter,
        _ => Fault::Error([5, 28, 30, 12][usize::try_from(random.below(4)).unwrap()]),
    }
}

/// Applies with a fault, and undoes, perhaps with faults again: the machine is as it was.
fn crossing(seed: u64) {
    let mut random = Random::new(seed);
    let sim = machine(&mut random);
    let before = sim.tree(&WATCHED);
    let planned = planned(&sim, WORD);
    let whole = sim.copy();
    apply_now(&whole, planned.clone()).unwrap();
    let operations = whole.world.borrow().operations;
    let at = 1 + random.below(operations);
    let what = fault(&mut random);
    sim.world.borrow_mut().fault = Some((at, what));
    let applied = apply_now(&sim, planned);
    let dead = sim.world.borrow().dead;
    if let (Err(error), false) = (&applied, dead) {
        // An error was met and everything is undone at once.
        assert_eq!(error.status, Status::Undone, "seed {seed}, {what:?} at {at}: {error}");
        assert_as(&sim, &before, &format!("seed {seed}, {what:?} at {at}, after {error}"));
    }
    sim.start();
    for _ in 0..random.below(3) {
        let what = fault(&mut random);
        sim.world.borrow_mut().fault = Some((1 + random.below(operations), what));
        let _ = revert_now(&sim, Which::All);
        sim.start();
    }
    if let Err(error) = revert_now(&sim, Which::All) {
        panic!("seed {seed}, {what:?} at {at}: {error}");
    }
    assert_as(&sim, &before, &format!("seed {seed}, {what:?} at operation {at}"));
    assert_only_history(&sim);
    // And the machine is fit for another change.
    assert!(load(&sim).unwrap().iter().all(|change| change.state() == State::Reverted));
}

/// `make soak` has more seeds; a single one is run with `GPUFERRY_SEED=N`.
#[test]
fn any_fault_anywhere_can_be_undone() {
    if let Some(seed) = std::env::var("GPUFERRY_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return crossing(seed);
    }
    let seeds = if std::env::var_os("GPUFERRY_SOAK").is_some() { 1_000_000 } else { 10_000 };
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope
                .spawn(move || (thread..seeds).step_by(usize::try_from(threads).unwrap()).for_each(crossing));
        }
    });
}

/// Every operation of one machine's change, with every kind of cut.
#[test]
fn every_operation_can_be_the_last() {
    let sim = machine(&mut Random::new(1));
    let before = sim.tree(&WATCHED);
    let planned = planned(&sim, WORD);
    let whole = sim.copy();
    apply_now(&whole, planned.clone()).unwrap();
    let operations = whole.world.borrow().operations;
    assert!(operations > 50, "{operations}");
    for at in 1..=operations {
        for fault in [
            Fault::KilledBefore,
            Fault::KilledAfter,
            Fault::PowerBefore,
            Fault::PowerDuring,
            Fault::PowerAfter,
        ] {
            let sim = sim.copy();
            sim.world.borrow_mut().fault = Some((at, fault));
            let _ = apply_now(&sim, planned.clone());
            assert!(sim.world.borrow().dead, "{fault:?} at {at}");
            sim.start();
            revert_now(&sim, Which::All).unwrap();
            assert_as(&sim, &before, &format!("{fault:?} at {at}"));
            assert_only_history(&sim);
        }
    }
}
