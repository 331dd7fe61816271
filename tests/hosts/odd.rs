//! Saved trees with something wrong in them: files that are gone, empty or full of rubbish, links in circles, a folder
//! where a file was. People save trees with whatever program they have. Nothing of it may end in a panic, a hang or
//! an answer that is no JSON.

use super::{Machine, cases};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Trees that are broken for each case: what a debug build does in some seconds.
const ROUNDS: u64 = 2;

/// What is reached without following a link.
fn entries(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(inside) = fs::read_dir(folder) else { return };
    let mut inside: Vec<PathBuf> = inside.map(|entry| entry.unwrap().path()).collect();
    inside.sort();
    for path in inside {
        let real = fs::symlink_metadata(&path).unwrap().is_dir();
        if real {
            entries(&path, found);
        }
        found.push(path);
    }
}

fn remove(path: &Path) {
    let real = fs::symlink_metadata(path).is_ok_and(|kind| kind.is_dir());
    let _ = if real { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// Breaks one thing; says what.
fn spoil(path: &Path, way: u64) -> String {
    let is_file = fs::symlink_metadata(path).is_ok_and(|kind| kind.is_file());
    let way = match way % 7 {
        0 => {
            remove(path);
            "removed"
        }
        1 if is_file => {
            fs::write(path, "").unwrap();
            "emptied"
        }
        2 if is_file => {
            fs::write(path, b"\xff\0\xfe 99999999999999999999 -1 0x \n\xe9".repeat(40)).unwrap();
            "made rubbish"
        }
        3 => {
            remove(path);
            let _ = symlink(path, path);
            "made a link to itself"
        }
        4 => {
            remove(path);
            let _ = symlink("../../../../../..", path);
            "made a link far up"
        }
        5 => {
            remove(path);
            let _ = fs::create_dir(path);
            "made a folder"
        }
        _ => {
            remove(path);
            let _ = fs::write(path, "0000:01:00.0\n");
            "made a file"
        }
    };
    format!("{} {way}", path.display())
}

/// What a program says within half a minute.
fn answer(root: &Path, words: &[&str], what: &str) -> (Option<i32>, Vec<u8>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpuferry"));
    command.arg("--host").arg(root).args(words);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = std::thread::spawn(move || {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        std::io::Read::read_to_end(&mut out, &mut stdout).unwrap();
        std::io::Read::read_to_end(&mut err, &mut stderr).unwrap();
        (stdout, String::from_utf8_lossy(&stderr).into_owned())
    });
    let begun = Instant::now();
    while !read.is_finished() {
        if begun.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            panic!("no answer: {what}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let (stdout, stderr) = read.join().unwrap();
    (child.wait().unwrap().code(), stdout, stderr)
}

#[test]
fn no_broken_tree_breaks_the_program() {
    let trees: Vec<PathBuf> = cases().into_iter().filter(|case| case.join("tree.txt").exists()).collect();
    assert!(trees.len() >= 8);
    for (case, round) in trees.iter().flat_map(|case| (0..ROUNDS).map(move |round| (case, round))) {
        let Machine::Tree(folder) = Machine::of(case) else { continue };
        let mut all = Vec::new();
        entries(folder.path(), &mut all);
        let mut seed = 0x9e37_79b9_7f4a_7c15 ^ (round + 1).wrapping_mul(0x2545_f491_4f6c_dd1d);
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let mut what = vec![case.display().to_string()];
        for _ in 0..=(round * 2) {
            let at = usize::try_from(next() % u64::try_from(all.len()).unwrap()).unwrap();
            if fs::symlink_metadata(&all[at]).is_ok() {
                what.push(spoil(&all[at], next()));
            }
        }
        let what = what.join("\n");
        let words: &[&str] = if round % 3 == 0 { &["doctor", "--json"] } else { &["inspect", "--json"] };
        let (code, stdout, stderr) = answer(folder.path(), words, &what);
        assert!(matches!(code, Some(0..=4)) && !stderr.contains("panicked"), "{code:?} {stderr}\n{what}");
        if code == Some(0) {
            assert!(serde_json::from_slice::<Value>(&stdout).is_ok(), "{what}");
        }
    }
}
