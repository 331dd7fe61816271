//! Machines in small: every folder here is a case, a saved tree in a compact form and what must come out of it.
//!
//! A case holds `tree.txt` (see [`tree`]) or `paste.txt` (what somebody pasted), `expect.json` (parts of `inspect --json`) and what the text verbs print.
//! With `GPUFERRY_BLESS=1` the texts are written anew instead of compared; `expect.json` never is.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on should say where")]

mod capture;
mod commands;
mod guide;
mod odd;
mod tree;

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Text files of a case, and the words that print them.
const TEXTS: [(&str, &[&str]); 13] = [
    ("screen.txt", &[]),
    ("gpus.txt", &["inspect", "gpus"]),
    ("groups.txt", &["inspect", "groups"]),
    ("devices.txt", &["inspect", "devices"]),
    ("boot.txt", &["inspect", "boot"]),
    ("doctor.txt", &["doctor"]),
    ("screen-plain.txt", &["--plain"]),
    ("gpus-plain.txt", &["--plain", "inspect", "gpus"]),
    ("groups-plain.txt", &["--plain", "inspect", "groups"]),
    ("devices-plain.txt", &["--plain", "inspect", "devices"]),
    ("boot-plain.txt", &["--plain", "inspect", "boot"]),
    ("screen-zh.txt", &["--lang", "zh-CN"]),
    ("doctor-zh.txt", &["--lang", "zh-CN", "doctor"]),
];

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    cases.sort();
    assert!(cases.len() >= 10, "where are the cases?");
    cases
}

/// The machine of a case: a tree that is made for it, or its text.
enum Machine {
    Tree(tempfile::TempDir),
    Text(PathBuf),
}

impl Machine {
    fn of(case: &Path) -> Self {
        // As seen from the project's folder, where tests run: what is printed has the name in it.
        let text = case.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().join("paste.txt");
        if text.exists() {
            return Self::Text(text);
        }
        Self::Tree(tree::plant(&fs::read_to_string(case.join("tree.txt")).unwrap()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Tree(folder) => folder.path(),
            Self::Text(file) => file,
        }
    }
}

fn gpuferry(root: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpuferry"));
    command.env("LC_ALL", "C").arg("--host").arg(root).args(words).output().unwrap()
}

/// Every sentence of every finding has a translation, and what a program goes by is as it was.
fn is_told_in_chinese(root: &Path) {
    let doctor = |words: &[&str]| {
        let output = gpuferry(root, &[&["doctor", "--json"], words].concat());
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        found["findings"].as_array().unwrap().clone()
    };
    let (english, chinese) = (doctor(&[]), doctor(&["--lang", "zh-CN"]));
    assert_eq!(english.len(), chinese.len());
    for (english, chinese) in english.iter().zip(&chinese) {
        assert_eq!((&english["id"], &english["evidence"]), (&chinese["id"], &chinese["evidence"]));
        let fixes = chinese["fixes"].as_array().unwrap().iter().map(|fix| &fix["text"]);
        for said in [&chinese["title"], &chinese["cause"]].into_iter().chain(fixes) {
            let said = said.as_str().unwrap();
            let han = |c: char| ('\u{4e00}'..='\u{9fff}').contains(&c);
            assert!(said.is_empty() || said.contains(han), "{}: `{said}`", root.display());
            // A command, a word of the kernel's and a name are left, and no sentence.
            let words: Vec<&str> = said.split(' ').collect();
            let is_word = |word: &&str| word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_lowercase());
            let english = words.windows(3).any(|three| three.iter().all(is_word) && three[0] != "sudo");
            assert!(!english, "{}: `{said}`", root.display());
        }
    }
}

#[test]
fn every_machine_is_seen_as_it_is() {
    for case in cases() {
        let root = Machine::of(&case);
        let output = gpuferry(root.path(), &["inspect", "--json"]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && errors.is_empty(), "{}: {errors}", case.display());
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        let expected = fs::read_to_string(case.join("expect.json")).unwrap();
        let expected: Value = serde_json::from_str(&expected).unwrap();
        holds(&expected, &seen, &case.display().to_string());
        let text = matches!(root, Machine::Text(_));
        assert_eq!(seen["source"], if text { "text" } else { "capture" });
        let host: gpuferry::host::Host = serde_json::from_value(seen.clone()).unwrap();
        assert_eq!(serde_json::to_value(&host).unwrap(), seen, "the JSON reads back as it was");
    }
}

/// Everything expected is there; objects may have more, lists may not.
fn holds(expected: &Value, seen: &Value, at: &str) {
    match (expected, seen) {
        (Value::Object(expected), Value::Object(seen)) => {
            for (name, value) in expected {
                let found = seen.get(name).unwrap_or_else(|| panic!("{at}: no {name}"));
                holds(value, found, &format!("{at}.{name}"));
            }
        }
        (Value::Array(expected), Value::Array(seen)) => {
            assert_eq!(expected.len(), seen.len(), "{at}: {seen:#?}");
            for (index, (expected, seen)) in expected.iter().zip(seen).enumerate() {
                holds(expected, seen, &format!("{at}[{index}]"));
            }
        }
        _ => assert_eq!(expected, seen, "{at}"),
    }
}

#[test]
fn every_text_is_as_it_was_read() {
    let bless = std::env::var_os("GPUFERRY_BLESS").is_some();
    for case in cases() {
        let root = Machine::of(&case);
        for (name, words) in TEXTS {
            let file = case.join(name);
            let text = matches!(root, Machine::Text(_));
            let wanted = name == "screen.txt" || (name == "doctor.txt" && !text);
            if !(file.exists() || bless && wanted) {
                continue;
            }
            let output = gpuferry(root.path(), words);
            let printed = String::from_utf8(output.stdout).unwrap();
            let status = output.status.code().unwrap();
            let shown = match &root {
                Machine::Tree(folder) => printed.replace(&*folder.path().to_string_lossy(), "DIR"),
                Machine::Text(_) => printed,
            } + &format!("(status {status})\n");
            // A command stays in one piece, to be copied; it then stands alone.
            let mut text = shown.lines().filter(|line| !line.trim_start().starts_with("gpuferry "));
            // What is read aloud has no columns; the terminal breaks its lines.
            let wrong = if name.ends_with("-plain.txt") {
                text.find(|line| line.contains("  ") || line.contains(['│', '├', '└']))
            } else {
                text.find(|line| line.chars().count() > 80)
            };
            assert_eq!(wrong, None, "{}", file.display());
            if bless {
                fs::write(&file, &shown).unwrap();
            }
            assert_eq!(fs::read_to_string(&file).unwrap(), shown, "{}", file.display());
        }
    }
}

#[test]
fn doctor_speaks_json_with_the_same_status() {
    for case in cases() {
        let root = Machine::of(&case);
        let output = gpuferry(root.path(), &["doctor", "--json"]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = found["findings"].as_array().unwrap();
        let blocking = findings.iter().any(|finding| finding["severity"] == "blocking");
        assert_eq!(output.status.code(), Some(i32::from(blocking)), "{}", case.display());
        assert_eq!(found["schema"], 1);
        is_told_in_chinese(root.path());
    }
}

#[test]
fn a_tree_that_is_not_there_is_a_wrong_word() {
    let output = gpuferry(Path::new("/nowhere/at/all"), &["inspect"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error: cannot open /nowhere/at/all: No such file or directory\n"), "{said}");
}

#[test]
fn an_empty_tree_says_that_it_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let output = gpuferry(folder.path(), &["inspect", "--json"]);
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(seen["unseen"][0].as_str().unwrap().ends_with("holds no sys/bus/pci/devices"));
    assert_eq!(seen["iommu"]["state"], "unknown");
    assert_eq!(seen["boot"]["uefi"], Value::Null);
}

/// Trees that others saved, where the environment names a folder of them: each is read without an error.
#[test]
fn saved_trees_of_others_are_read() {
    let Some(corpus) = std::env::var_os("GPUFERRY_CORPUS") else {
        eprintln!("GPUFERRY_CORPUS is not set: no trees of others are read");
        return;
    };
    let machines = fs::read_dir(Path::new(&corpus).join("machines")).unwrap();
    let mut read = 0;
    for machine in machines.map(|entry| entry.unwrap().path()) {
        let roots = [machine.clone(), machine.join("root"), machine.join("tree")];
        let Some(root) = roots.iter().find(|root| root.join("sys/bus/pci/devices").is_dir()) else {
            continue;
        };
        let output = gpuferry(root, &["inspect", "--json"]);
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(!seen["functions"].as_array().unwrap().is_empty(), "{}", root.display());
        is_told_in_chinese(root);
        read += 1;
    }
    eprintln!("{read} trees of others were read");
}
