//! The broker under test: given by the environment, or built once per process.
//! `MOSQUORUM_BIN` names the plain one (Debian's `mosquitto` works for tests of one node), `MOSQUORUM_FAULTS_BIN` the
//! one built with `test-faults`.
use super::folder::workspace;
use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// What users run.
    Plain,
    /// With the feature `test-faults`: power cuts and planted bugs, chosen by environment variables.
    Faults,
}

static BUILT: Mutex<[Option<PathBuf>; 2]> = Mutex::new([None, None]);

/// The path of the broker.
/// # Errors
/// When it cannot be built.
pub fn path(build: Build) -> io::Result<PathBuf> {
    let variable = if build == Build::Plain { "MOSQUORUM_BIN" } else { "MOSQUORUM_FAULTS_BIN" };
    if let Some(path) = std::env::var_os(variable) {
        return Ok(PathBuf::from(path));
    }
    let mut built = BUILT.lock().map_err(|_| io::Error::other("an earlier build of the broker panicked"))?;
    let slot = &mut built[build as usize];
    if slot.is_none() {
        *slot = Some(cargo_build(build)?);
    }
    slot.clone().ok_or_else(|| io::Error::other("no broker was built"))
}

/// Whether the broker is Eclipse Mosquitto: it knows no cluster options.
#[must_use]
pub fn is_mosquitto(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "mosquitto")
}

/// Whether tests run against a stand-in that is one node and promises nothing.
#[must_use]
pub fn is_stand_in() -> bool {
    std::env::var_os("MOSQUORUM_BIN").is_some_and(|path| is_mosquitto(Path::new(&path)))
}

fn cargo_build(build: Build) -> io::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // The whole workspace, so that dependencies have the features that the tests were built with.
    command.current_dir(workspace()).args(["build", "--workspace", "--message-format=json-render-diagnostics"]);
    // What cargo sets for a test about its own package would have dependencies built again that look at it.
    let about_us = |name: &str| {
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"].iter().any(|p| name.starts_with(p))
    };
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(about_us) {
            command.env_remove(name);
        }
    }
    if std::env::var("MOSQUORUM_PROFILE").as_deref() == Ok("release") {
        command.arg("--release");
    }
    let name = if build == Build::Faults {
        command.args(["--bin", "mosquorum-faults", "--features", "mosquorum/test-faults"]);
        "mosquorum-faults"
    } else {
        // Packages hold mosquorum_passwd too.
        command.args(["--bin", "mosquorum", "--bin", "mosquorum_passwd"]);
        "mosquorum"
    };
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(io::Error::other("the broker cannot be built"));
    }
    let executable = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
        .find(|path| path.file_name().is_some_and(|file| file == name));
    executable.ok_or_else(|| io::Error::other("cargo named no executable"))
}
