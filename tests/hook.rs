//! The hook as libvirt's daemon calls it, for guests that were not enabled: this machine's, which has none of these.

#![allow(clippy::unwrap_used, reason = "a test says by its panic what it did not get")]

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

const CALLS: &[[&str; 2]] = &[
    ["prepare", "begin"],
    ["start", "begin"],
    ["started", "begin"],
    ["stopped", "end"],
    ["release", "end"],
    ["migrate", "begin"],
    ["restore", "begin"],
    ["reconnect", "begin"],
    ["attach", "begin"],
    ["something", "new"],
];

fn called(operation: &[&str; 2], input: &[u8]) -> Output {
    let mut hook = Command::new(env!("CARGO_BIN_EXE_gpuferry"))
        .args(["hook", "qemu", "a guest nobody has"])
        .args(operation)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // As in libvirt, a pipe that nobody reads to its end is no error.
    let _ = hook.stdin.take().unwrap().write_all(input);
    hook.wait_with_output().unwrap()
}

fn is_silent(output: &Output) -> bool {
    output.status.code() == Some(0) && output.stdout.is_empty() && output.stderr.is_empty()
}

#[test]
fn whatever_the_input_a_guest_that_was_not_enabled_is_let_through() {
    let card =
        "<hostdev mode='subsystem' type='pci' managed='yes'><source><address bus='0x01'/></source></hostdev>";
    let domain = format!("<domain><name>a guest nobody has</name><devices>{card}</devices></domain>");
    let inputs = [
        Vec::new(),
        domain.as_bytes()[..40].to_vec(),
        domain.into_bytes(),
        vec![0xff; 4096],
        vec![b'<'; 50 << 20],
    ];
    for operation in CALLS {
        for input in &inputs {
            let output = called(operation, input);
            assert!(is_silent(&output), "{operation:?}, {} bytes: {output:?}", input.len());
        }
    }
}

#[test]
fn a_closed_input_is_an_empty_one() {
    for name in ["a guest nobody has", "../../etc/passwd", "", "\u{1f47b}", "--help"] {
        let output = Command::new("/bin/sh")
            .args([
                "-c",
                "exec \"$0\" hook qemu \"$1\" prepare begin - <&-",
                env!("CARGO_BIN_EXE_gpuferry"),
                name,
            ])
            .output()
            .unwrap();
        assert!(is_silent(&output), "{name}: {output:?}");
    }
}

#[test]
fn other_words_than_the_daemons_are_for_the_command_line() {
    let hook = |words: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_gpuferry")).arg("hook").args(words).output().unwrap()
    };
    assert_eq!(hook(&["--help"]).status.code(), Some(0));
    assert_eq!(hook(&[]).status.code(), Some(2));
    assert_eq!(hook(&["enable"]).status.code(), Some(2));
}
