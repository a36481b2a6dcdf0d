//! Becoming a daemon, and ending with one's parent.
//! Always true: a daemon is a new process of the same words in a session of its own; the one that was called ends with
//! 0 once the new one exists.
use std::{
    io,
    process::{Command, Stdio},
};

/// Set in the process that serves.
const DETACHED: &str = "MOSQUORUM_DETACHED";
/// Set by a process whose children must not outlive it.
const PARENT: &str = "MOSQUORUM_PARENT";

pub fn is_detached() -> bool {
    let detached = std::env::var_os(DETACHED).is_some();
    if detached {
        // Fails only if we lead a group already, which is as good.
        let _ = rustix::process::setsid();
    }
    detached
}

/// Starts the process that serves.
/// # Errors
/// When it cannot be started.
pub fn detach() -> io::Result<()> {
    Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(DETACHED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(|_| ())
}

/// Nodes of `--local-cluster` stop when the process that started them is gone, however it went.
pub fn end_with_parent() {
    if std::env::var_os(PARENT).is_some() {
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    }
}
