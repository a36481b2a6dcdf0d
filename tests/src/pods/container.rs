//! One container as processes: the root of an image, volumes mounted where they belong, the user, the environment and
//! nothing of ours, in a network, process and mount namespace.
//! Always true: its process is number 1 of its namespace, as in an engine, so it gets no signal that it does not handle
//! itself; what it starts dies with it; the root is read-only.
//! Not here: which containers there are, and when they stop (`kubelet`, Compose).
use super::image::Image;
use crate::cluster::{Ended, process::BrokerProcess};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::Command;

/// A folder or file of this machine that a container sees.
#[derive(Debug, Clone)]
pub struct Mount {
    pub from: PathBuf,
    pub to: String,
    pub read_only: bool,
}

/// What is run.
#[derive(Debug, Clone)]
pub struct Container {
    pub image: Image,
    pub host_name: String,
    /// A name that `ip netns` knows; none: this machine's own network.
    pub network: Option<String>,
    pub mounts: Vec<Mount>,
    pub environment: Vec<(String, String)>,
    pub command: Vec<String>,
    pub user: String,
    pub working_folder: String,
    /// Where its output and the script that starts it are kept.
    pub folder: PathBuf,
}

impl Container {
    /// As the image says.
    #[must_use]
    pub fn of(image: &Image, host_name: &str, folder: &Path) -> Self {
        let words = image.entry_point.iter().chain(&image.command);
        Self {
            image: image.clone(),
            host_name: host_name.to_owned(),
            network: None,
            mounts: Vec::new(),
            environment: image.environment.clone().into_iter().collect(),
            command: words.cloned().collect(),
            user: image.user.clone(),
            working_folder: image.working_folder.clone(),
            folder: folder.to_path_buf(),
        }
    }

    #[must_use]
    pub fn mount(mut self, from: &Path, to: &str, read_only: bool) -> Self {
        self.mounts.push(Mount { from: from.to_path_buf(), to: to.to_owned(), read_only });
        self
    }

    /// Sets a variable; a later one goes before an earlier one.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.host_name))
    }

    fn script(&self) -> String {
        let mut text = format!("set -e\nmount --make-rprivate /\n{}", self.image.mounts());
        for mount in &self.mounts {
            let (from, to) = (mount.from.display(), &mount.to);
            let make = if mount.from.is_dir() { "mkdir -p" } else { "touch" };
            let _ = writeln!(text, "{make} \"$root{to}\"\nmount --bind '{from}' \"$root{to}\"");
            if mount.read_only {
                let _ = writeln!(text, "mount -o remount,bind,ro \"$root{to}\"");
            }
        }
        let _ = writeln!(text, "mount -o remount,bind,ro \"$root\"\nhostname '{}'", self.host_name);
        let _ = writeln!(text, "exec chroot \"$root\" {}", quoted(&self.inside(&self.command)));
        text
    }

    /// The words that run `command` inside: as the container's user, without rights, with its environment alone.
    fn inside(&self, command: &[String]) -> Vec<String> {
        let (uid, gid) = self.user.split_once(':').unwrap_or((&self.user, &self.user));
        let groups = format!("--regid={gid}");
        let mut words: Vec<String> =
            ["/usr/bin/setpriv", &format!("--reuid={uid}"), &groups, "--clear-groups", "--no-new-privs"]
                .map(String::from)
                .to_vec();
        if uid != "0" {
            words.extend(["--inh-caps=-all", "--bounding-set=-all"].map(String::from));
        }
        words.extend(["/usr/bin/env", "-i"].map(String::from));
        words.push(format!("--chdir={}", if self.working_folder.is_empty() { "/" } else { &self.working_folder }));
        words.extend(self.environment.iter().map(|(name, value)| format!("{name}={value}")));
        words.extend_from_slice(command);
        words
    }

    /// Starts it; does not wait for anything it does.
    /// # Errors
    /// When a process cannot be started.
    pub fn start(self) -> io::Result<Running> {
        fs::create_dir_all(&self.folder)?;
        let script = self.folder.join(format!("{}.sh", self.host_name));
        fs::write(&script, self.script())?;
        let mut words: Vec<String> = Vec::new();
        if let Some(network) = &self.network {
            words.extend(["ip", "netns", "exec", network].map(String::from));
        }
        words.extend(["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "/bin/sh"].map(String::from));
        words.push(script.display().to_string());
        let process = BrokerProcess::start(&words, &[], &self.log_file())?;
        Ok(Running { container: self, process, first: None })
    }

    /// Runs it to its end.
    /// # Errors
    /// When it cannot be started, ends with an error or takes too long; with what it printed.
    pub async fn run(self, timeout: Duration) -> io::Result<String> {
        let log = self.log_file();
        let mut running = self.start()?;
        let deadline = Instant::now() + timeout;
        let ended = loop {
            match running.ended() {
                Some(ended) => break Some(ended),
                None if Instant::now() > deadline => break None,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let text = fs::read_to_string(log).unwrap_or_default();
        if ended == Some(Ended::Exit(0)) { Ok(text) } else { Err(io::Error::other(format!("{ended:?}\n{text}"))) }
    }
}

/// A container that was started.
#[derive(Debug)]
pub struct Running {
    container: Container,
    process: BrokerProcess,
    /// The outer number of the process that is 1 inside.
    first: Option<i32>,
}

impl Running {
    pub fn ended(&mut self) -> Option<Ended> {
        self.process.ended()
    }

    #[must_use]
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// The outer number of process 1; known soon after the start.
    pub fn first_process(&mut self) -> Option<i32> {
        if self.first.is_none() {
            let outer = self.process.id();
            let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
            self.first = children.split_whitespace().next()?.parse().ok();
        }
        self.first
    }

    /// A signal to process 1; false if there is none.
    pub fn signal(&mut self, signal: Signal) -> bool {
        let pid = self.first_process().and_then(Pid::from_raw);
        self.process.ended().is_none() && pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    /// SIGKILL to everything in it.
    pub fn kill(&mut self) {
        if let Some(pid) = self.first_process().and_then(Pid::from_raw)
            && self.process.ended().is_none()
        {
            let _ = kill_process(pid, Signal::KILL);
        }
        self.process.kill_9();
    }

    /// The command of an `exec` into it: same namespaces, user and environment.
    /// # Errors
    /// When it does not run.
    pub fn exec(&mut self, command: &[String]) -> io::Result<Command> {
        let pid = self.first_process().ok_or_else(|| io::Error::other("the container does not run"))?;
        // Before it has entered its root, that of the machine would be entered.
        if fs::read_link(format!("/proc/{pid}/root"))? == Path::new("/") {
            return Err(io::Error::other("the container is being started"));
        }
        let mut exec = Command::new("nsenter");
        exec.args(["--target", &pid.to_string(), "--mount", "--uts", "--net", "--pid", "--root", "--"]);
        exec.args(self.container.inside(command)).kill_on_drop(true).stdin(Stdio::null());
        Ok(exec)
    }

    /// What it printed so far, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.container.log_file()).unwrap_or_default()).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One shell word each.
fn quoted(words: &[String]) -> String {
    words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect::<Vec<_>>().join(" ")
}

/// Why this machine cannot run containers this way; `None` if it can.
#[must_use]
pub fn why_no_containers() -> Option<String> {
    if let Some(why) = crate::cluster::why_no_namespaces() {
        return Some(why);
    }
    let missing = ["unshare", "nsenter", "setpriv", "chroot"].into_iter().find(|name| !crate::skip::has_program(name));
    if let Some(missing) = missing {
        return Some(format!("containers need the program {missing}"));
    }
    if !Path::new("/bin").is_symlink() {
        return Some("containers need a system whose /bin is /usr/bin".into());
    }
    let probe = std::process::Command::new("unshare").args(["--mount", "--uts", "--pid", "--fork", "true"]).status();
    match probe {
        Ok(status) if status.success() => None,
        other => Some(format!("mount and process namespaces cannot be made here: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_borders() {
        assert_eq!(quoted(&["a b".into(), "it's".into()]), "'a b' 'it'\\''s'");
    }
}
