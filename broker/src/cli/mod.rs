//! The command line: the flags that start a broker (`flags`), and the commands (`commands`).
//! Always true: nothing is read or printed here; the same words always give the same [`Command`]. clap runs for commands
//! only.
mod commands;
mod completions;
mod description;
mod flags;
#[cfg(test)]
mod manual;
pub mod numbers;
mod wrong_words;

use crate::{bench, config::Sources};
pub use commands::{ClusterAction, ClusterCommand, DrainCommand, DrainWish, HealthCheckCommand, RecoverCommand};
use std::{ffi::OsString, num::NonZeroU16, path::PathBuf};

/// What the process was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Run(Run),
    /// Print this to stdout and exit with 0 (`--help`, `--version`, `--options`, completions).
    Print(String),
    Cluster(ClusterCommand),
    Drain(DrainCommand),
    Recover(RecoverCommand),
    HealthCheck(HealthCheckCommand),
    Bench(Box<bench::Options>),
}

/// Serve, or check the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Run {
    /// `-c`
    pub config_file: Option<PathBuf>,
    /// `-d`
    pub daemon: bool,
    /// `-p`, at most 10.
    pub ports: Vec<u16>,
    /// `-q` (which wins) is `Some(false)`, `-v` is `Some(true)`.
    pub log_all: Option<bool>,
    /// `--test-config`: check and exit; without `-c` an error of the caller.
    pub test_config: bool,
    /// `--tls-keylog`
    pub tls_keylog: Option<PathBuf>,
    /// `--local-cluster N`: that many nodes in child processes, for trying out.
    pub local_cluster: Option<NonZeroU16>,
}

impl Run {
    /// Where the settings come from: these flags, the file and the environment of this process.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let sources = Sources {
            file: self.config_file.clone(),
            environment: Vec::new(),
            ports: self.ports.clone(),
            log_all: self.log_all,
        };
        sources.with_process_environment()
    }
}

/// Why the words make no sense; print it to stderr as one line and exit with 3.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CliError(String);

/// Takes the words of the process apart; the first is its own name.
/// # Errors
/// One line for stderr.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, CliError> {
    let mut words = words.into_iter().peekable();
    let program = flags::program(words.next().as_ref());
    if words.peek().is_some_and(commands::is_one) {
        commands::parse(words.collect())
    } else {
        flags::parse(&program, words)
    }
}
