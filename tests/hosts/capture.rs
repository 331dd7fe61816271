//! Every case as a capture: the program packs it, reads it back, and sees the same machine but for what it lists.

use super::{cases, gpuferry, tree};
use serde_json::Value;
use std::{fs, path::Path, process::Command};

#[test]
fn every_machine_reads_back_from_its_capture() {
    let folder = tempfile::tempdir().unwrap();
    // A text is no machine to be captured.
    for case in cases().into_iter().filter(|case| case.join("tree.txt").exists()) {
        let root = tree::plant(&fs::read_to_string(case.join("tree.txt")).unwrap());
        let file = folder.path().join(case.file_name().unwrap()).with_extension("tar.zst");
        let output = gpuferry(root.path(), &["capture", "--json", "-o", file.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {said}", case.display());
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(!made["went_in"].as_array().unwrap().is_empty());
        let see = |from: &Path| -> Value {
            serde_json::from_slice(&gpuferry(from, &["inspect", "--json"]).stdout).unwrap()
        };
        let (before, after) = (see(root.path()), see(&file));
        let differ = gpuferry::capture::make::differences(&before, &after);
        assert_eq!(serde_json::to_value(&differ).unwrap(), made["fields"], "{}", case.display());
        // What is judged by is as it was; of the functions, only who holds them has other names.
        for field in &differ {
            let judged =
                ["groups", "gpus", "iommu", "cpu", "acpi", "boot"].iter().any(|part| field.starts_with(part));
            let named = !field.starts_with("functions") || field.rsplit('.').next() == Some("user");
            assert!(!judged && named, "{}: {field}", case.display());
        }
    }
}

#[test]
fn a_capture_is_its_owners_and_is_not_written_over() {
    use std::os::unix::fs::PermissionsExt;
    let case = cases().into_iter().next().unwrap();
    let root = tree::plant(&fs::read_to_string(case.join("tree.txt")).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("host.tar.zst");
    let words = ["capture", "-o", file.to_str().unwrap()];
    assert!(gpuferry(root.path(), &words).status.success());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    let again = gpuferry(root.path(), &words);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8(again.stderr).unwrap().contains("is there already"));
    assert!(gpuferry(root.path(), &[&words[..], &["--force"]].concat()).status.success());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn what_changes_something_takes_no_other_machine() {
    let folder = tempfile::tempdir().unwrap();
    for words in [
        &["detach", "01:00.0"][..],
        &["reattach", "01:00.0"],
        &["apply", "static", "--gpu", "01:00.0"],
        &["revert"],
        &["vm", "run", "--gpu", "01:00.0"],
    ] {
        let output = gpuferry(folder.path(), words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains("--host is for verbs that only look"), "{words:?}: {said}");
    }
}

#[test]
fn several_sources_and_standard_input() {
    let case = cases().into_iter().next().unwrap();
    let root = tree::plant(&fs::read_to_string(case.join("tree.txt")).unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpuferry"));
    let text = tempfile::NamedTempFile::new().unwrap();
    fs::write(text.path(), "[    0.000000] Linux version 6.1.0\n[    0.1] x\n").unwrap();
    command.args(["inspect", "--json", "--host"]).arg(root.path()).arg("--host").arg(text.path());
    let seen: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    assert_eq!(seen["source"], "capture");
    assert!(!seen["functions"].as_array().unwrap().is_empty());
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpuferry"));
    command.args(["inspect", "--json", "--host", "-"]).stdin(fs::File::open(text.path()).unwrap());
    let seen: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    assert_eq!(seen["source"], "text");
}
