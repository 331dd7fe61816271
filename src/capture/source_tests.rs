//! What is named is what it holds, whatever it is called.

use super::*;
use crate::error::Status;
use std::{fs, os::unix::fs::symlink};

/// A small saved tree below a folder.
fn plant(at: &Path) {
    let device = at.join("sys/devices/pci0000:00/0000:00:02.0");
    fs::create_dir_all(&device).unwrap();
    fs::write(device.join("modalias"), "pci:v00008086d00003E98sv00001028sd00000869bc03sc00i00\n").unwrap();
    fs::create_dir_all(at.join("sys/bus/pci/devices")).unwrap();
    symlink("../../../devices/pci0000:00/0000:00:02.0", at.join("sys/bus/pci/devices/0000:00:02.0")).unwrap();
}

fn pack(folder: &Path) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    builder.append_dir_all(".", folder).unwrap();
    builder.into_inner().unwrap()
}

fn open(names: &[&Path]) -> Result<Sources> {
    Sources::open(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
}

fn functions(names: &[&Path]) -> usize {
    crate::host::observe(&open(names).unwrap().root()).functions.len()
}

#[test]
fn trees_at_the_top_and_further_down() {
    let folder = tempfile::tempdir().unwrap();
    for below in ["", "host", "a/host"] {
        let at = folder.path().join(format!("x{}", below.len())).join(below);
        plant(&at);
        let top = folder.path().join(format!("x{}", below.len()));
        assert_eq!(functions(&[&top]), 1, "{below}");
        let archive = folder.path().join("any name");
        fs::write(&archive, pack(&top)).unwrap();
        assert_eq!(functions(&[&archive]), 1, "{below}");
    }
}

#[test]
fn a_sys_without_its_name() {
    let folder = tempfile::tempdir().unwrap();
    plant(folder.path());
    let sys = folder.path().join("sys");
    assert_eq!(functions(&[&sys]), 1);
    let archive = folder.path().join("sys.txt");
    fs::write(&archive, pack(&sys)).unwrap();
    assert_eq!(functions(&[&archive]), 1);
}

#[test]
fn a_folder_of_texts_and_archives() {
    let (machine, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    plant(machine.path());
    let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    put("a.bin", &pack(machine.path()));
    put("dmesg", b"[    0.000000] Linux version 6.1\n[    0.1] x\n");
    put("note", "\u{feff}hello\n".as_bytes());
    put("wide", &[0xff, 0xfe, b'h', 0, b'i', 0]);
    put("picture", &[0x89, b'P', b'N', b'G', 0, 0, 0]);
    put(".hidden", b"x");
    let sources = open(&[folder.path()]).unwrap();
    let texts: Vec<&str> = sources.texts.iter().map(|text| text.text.as_str()).collect();
    assert_eq!(texts[1..], ["hello\n", "hi"]);
    assert_eq!((sources.trees.len(), sources.notes.len()), (1, 1));
    assert!(sources.notes[0].ends_with("picture was passed over: neither an archive nor text"));
    let root = sources.root();
    assert!(String::from_utf8(root.kernel_log().unwrap()).unwrap().contains("Linux version"));
    assert_eq!(crate::host::observe(&root).functions.len(), 1);
}

#[test]
fn an_archive_of_texts() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("listings")).unwrap();
    fs::write(folder.path().join("listings/lspci.txt"), "00:02.0 VGA compatible controller: x\n").unwrap();
    let archive = folder.path().join("archive");
    fs::write(&archive, pack(&folder.path().join("listings"))).unwrap();
    let sources = open(&[&archive]).unwrap();
    assert_eq!((sources.trees.len(), sources.texts.len()), (0, 1));
    assert!(sources.texts[0].name.ends_with("archive/lspci.txt"));
}

#[test]
fn what_cannot_be_read_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let error = |names: &[&Path]| open(names).err().unwrap();
    let nowhere = error(&[&folder.path().join("none")]);
    assert_eq!(nowhere.status, Status::Usage);
    assert!(
        nowhere.message.starts_with("cannot open ") && nowhere.message.ends_with("No such file or directory")
    );
    let picture = folder.path().join("picture");
    fs::write(&picture, [0x89, b'P', 0]).unwrap();
    assert!(error(&[&picture]).message.ends_with("is neither an archive nor text"));
    let (one, two) = (folder.path().join("all/one"), folder.path().join("all/two"));
    plant(&one);
    plant(&two);
    assert!(error(&[&folder.path().join("all")]).message.ends_with("holds several machines"));
}
