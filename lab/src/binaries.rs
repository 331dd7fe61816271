//! The programs that are put into the emulated host: `gpuferry` itself and the lab's agent, linked statically so
//! that they run in every root file system. Built by cargo from this clone; cargo decides what is out of date.

use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The one target the lab emulates.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Paths of the static programs.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The program under test.
    pub gpuferry: PathBuf,
    /// The lab's agent.
    pub agent: PathBuf,
}

/// Builds them, once per process.
///
/// `GPUFERRY_BIN` names another gpuferry to try (a release, an older version); then only the agent is built.
pub fn binaries() -> Result<&'static Binaries> {
    static BUILT: OnceLock<Result<Binaries, String>> = OnceLock::new();
    match BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}"))) {
        Ok(binaries) => Ok(binaries),
        Err(error) => bail!("{error}"),
    }
}

fn build() -> Result<Binaries> {
    let given = std::env::var_os("GPUFERRY_BIN").map(PathBuf::from);
    let target = target_folder().join("static");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).args([
        "build",
        "--release",
        "--quiet",
        "--target",
        TARGET,
        "--package",
        "lab",
        "--bin",
        "lab-agent",
    ]);
    if given.is_none() {
        cargo.args(["--package", "gpuferry", "--bin", "gpuferry"]);
    }
    // Whatever the outer cargo was told about flags must not make this a dynamic program.
    cargo
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=debuginfo")
        // One unit, as `make static` links it.
        .envs([("CARGO_PROFILE_RELEASE_LTO", "fat"), ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")])
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    let output = cargo.output().context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "cargo could not build the static programs:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let made = target.join(TARGET).join("release");
    let gpuferry = given.unwrap_or_else(|| made.join("gpuferry"));
    ensure!(gpuferry.is_file(), "there is no gpuferry at {}", gpuferry.display());
    Ok(Binaries { gpuferry, agent: made.join("lab-agent") })
}

/// The root of the clone the lab was built from.
pub fn workspace() -> &'static Path {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR"));
    lab.parent().unwrap_or(lab)
}

/// Cargo's target folder; results and logs may be put below it.
pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}
