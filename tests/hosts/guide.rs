//! The guide is true: its chapter on looking is run as it stands, and every command of every chapter is one that exists.

use super::{commands::commands, tree};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn case(path: &str) -> String {
    fs::read_to_string(project().join("tests/hosts").join(path)).unwrap()
}

/// What the chapter's commands name, in a folder of its own: somebody's saved machine, archive, listings and post.
fn furnish(folder: &Path, machine: &Path) {
    let home = folder.join("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::symlink(machine, home.join("saved-machine")).unwrap();
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(machine).arg("-czf").arg(folder.join("sysfs.tar.gz")).arg("sys");
    assert!(pack.status().unwrap().success());
    fs::write(folder.join("lspci.txt"), case("paste-optimus-3d-controller/paste.txt")).unwrap();
    let log = "[    0.000000] Linux version 6.1.0-1-amd64\n[    0.500000] pci 0000:01:00.0: Adding to iommu group 2\n";
    fs::write(folder.join("dmesg.txt"), log).unwrap();
    fs::write(folder.join("post.txt"), case("paste-proxmox-table/paste.txt")).unwrap();
}

#[test]
fn the_chapter_on_looking_is_run_as_it_stands() {
    let machine = tree::plant(&case("twin-cards/tree.txt"));
    let folder = tempfile::tempdir().unwrap();
    furnish(folder.path(), machine.path());
    let chapter = fs::read_to_string(project().join("docs/guide/02-see-any-host.md")).unwrap();
    let commands = commands(&chapter);
    assert!(commands.len() >= 13, "{commands:?}");
    let programs = Path::new(env!("CARGO_BIN_EXE_gpuferry")).parent().unwrap().display();
    for command in commands {
        let output = Command::new("/bin/sh")
            .args(["-c", &command])
            .current_dir(folder.path())
            .env("PATH", format!("{programs}:/usr/bin:/bin"))
            .env("HOME", folder.path().join("home"))
            .output()
            .unwrap();
        let (out, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        // 1 is what doctor says where something is in the way.
        let fine =
            output.status.code().is_some_and(|code| code == 0 || code == 1 && command.contains(" doctor"));
        assert!(
            fine && errors.is_empty() && !out.is_empty(),
            "{command}: {:?}\n{out}{errors}",
            output.status
        );
        let shows = match command.as_str() {
            "gpuferry inspect --host sysfs.tar.gz" | "gpuferry inspect --host ~/saved-machine" => {
                "0000:01:00.0"
            }
            "gpuferry inspect --host lspci.txt --host dmesg.txt" => "GeForce GTX 1050",
            "gpuferry inspect devices --json" => "\"functions\"",
            "tar --zstd -tf host.tar.zst" => "gpuferry-capture.json\n",
            _ => "",
        };
        assert!(out.contains(shows), "{command} does not show {shows}:\n{out}");
    }
}

#[test]
fn every_command_of_the_guide_is_one() {
    let folder = fs::read_dir(project().join("docs/guide")).unwrap().map(|entry| entry.unwrap().path());
    let readme = ["README.md", "README.zh-CN.md"].map(|name| project().join(name));
    let mut seen = 0;
    for file in folder.chain(readme).filter(|path: &PathBuf| path.extension().is_some_and(|is| is == "md")) {
        for command in commands(&fs::read_to_string(&file).unwrap()) {
            let Some(words) = command.trim_start_matches("sudo ").strip_prefix("gpuferry") else { continue };
            seen += 1;
            let words: Vec<&str> =
                words.split_whitespace().take_while(|word| !["<", "|", ">"].contains(word)).collect();
            let is_verb = |word: &&&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
            let verb: Vec<&str> =
                words.iter().take_while(is_verb).filter(|word| !word.starts_with("--")).copied().collect();
            let mut help = None;
            // `hook enable win10`: how many of the words are a verb, the program knows.
            for length in (0..=verb.len()).rev() {
                let output = Command::new(env!("CARGO_BIN_EXE_gpuferry"))
                    .args(&verb[..length])
                    .arg("--help")
                    .output()
                    .unwrap();
                if output.status.success() && (length > 0 || verb.is_empty()) {
                    help = Some(String::from_utf8(output.stdout).unwrap());
                    break;
                }
            }
            let help = help.unwrap_or_else(|| panic!("{}: no verb in `{command}`", file.display()));
            for flag in words.iter().filter(|word| word.starts_with('-') && word.len() > 1) {
                let name = flag.split('=').next().unwrap_or_default();
                let is_there =
                    help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|word| word == name);
                assert!(
                    is_there,
                    "{}: `{command}` has {name}, which its help does not:\n{help}",
                    file.display()
                );
            }
        }
    }
    assert!(seen > 30, "only {seen} commands were found");
}
