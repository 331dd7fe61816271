//! Runs programs of a Debian tree on this machine without entering the tree: through the tree's own loader and
//! libraries, so it matters neither which distribution this machine has nor whether it may chroot.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/systemd"];

/// A command that runs `program` (a path below `tree`, such as `usr/bin/kmod`).
pub fn command(tree: &Path, program: &str) -> Command {
    let mut command = loader(tree);
    command.arg("--argv0").arg(name(program)).arg(tree.join(program));
    command
}

/// The same for a program that looks at the name it was called by (`usr/bin/kmod` as `depmod`).
pub fn command_as(tree: &Path, program: &str, argv0: &str) -> Command {
    let mut command = loader(tree);
    command.arg("--argv0").arg(argv0).arg(tree.join(program));
    command
}

/// The libraries that `program` needs, as paths below `tree`, with the loader itself.
pub fn libraries(tree: &Path, program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = loader(tree)
        .arg("--list")
        .arg(tree.join(program))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run the loader of {}", tree.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{} lists no libraries: {text}", program.display());
    let mut found: BTreeSet<PathBuf> =
        needed(&text).filter_map(|path| path.strip_prefix(tree).ok().map(Path::to_owned)).collect();
    found.insert(PathBuf::from(LOADER));
    Ok(found)
}

/// The paths in what `ld.so --list` prints: `libz.so.1 => /usr/lib/libz.so.1 (0x00007f…)`.
fn needed(text: &str) -> impl Iterator<Item = &Path> {
    text.lines().filter_map(|line| {
        let (_, target) = line.split_once("=>")?;
        target.split_whitespace().next().map(Path::new)
    })
}

fn loader(tree: &Path) -> Command {
    let mut command = Command::new(tree.join(LOADER));
    let libraries: Vec<String> = LIBRARIES.iter().map(|path| tree.join(path).display().to_string()).collect();
    command.arg("--library-path").arg(libraries.join(":"));
    command
}

fn name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_with_an_arrow_name_a_file() {
        let text =
            "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /t/usr/lib/libc.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n";
        assert_eq!(needed(text).collect::<Vec<_>>(), [Path::new("/t/usr/lib/libc.so.6")]);
    }
}
