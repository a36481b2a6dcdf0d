//! One broker process: its own process group, dying with us, its output in a file.
//! The kernel's parent-death signal follows the thread that started a process, so all are started by one thread that
//! runs as long as this process.
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::{
    fs::OpenOptions,
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, OnceLock, mpsc},
    time::{Duration, Instant},
};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Exit(i32),
    Signal(i32),
}

#[derive(Debug)]
pub(crate) struct BrokerProcess {
    child: Child,
    ended: Option<Ended>,
}

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts a process from the thread that outlives all tests.
fn spawn(command: Command) -> io::Result<Child> {
    static STARTER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (jobs, received) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in received {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let (answer, child) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    starter.lock().map_err(|_| gone())?.send((command, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

impl BrokerProcess {
    /// `words`: the program and its arguments, after wrappers that replace themselves by it.
    pub(crate) fn start(words: &[String], environment: &[(String, String)], log: &Path) -> io::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let mut with_death_signal: Vec<String> = Vec::new();
        if crate::skip::has_program("setpriv") {
            with_death_signal.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(String::from));
        }
        with_death_signal.extend_from_slice(words);
        let mut command = Command::new(&with_death_signal[0]);
        command.args(&with_death_signal[1..]).process_group(0);
        // What steers tests is no configuration of the broker.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("MOSQUORUM_")) {
            command.env_remove(key);
        }
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self { child: spawn(command)?, ended: None })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.id()).ok()?)
    }

    pub(crate) fn signal(&self, signal: Signal) -> bool {
        self.ended.is_none() && self.pid().is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<Ended> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten().map(how);
        }
        self.ended
    }

    /// SIGKILL to the whole group, without waiting.
    pub(crate) fn send_kill(&self) {
        if let (None, Some(pid)) = (self.ended, self.pid()) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    /// True if it ran until now and is gone.
    pub(crate) fn kill_9(&mut self) -> bool {
        if self.ended.is_some() {
            return false;
        }
        self.send_kill();
        self.ended = self.child.wait().ok().map(how);
        self.ended == Some(Ended::Signal(Signal::KILL.as_raw()))
    }

    /// SIGSTOP, and waits until the kernel says that it is stopped.
    pub(crate) fn pause(&mut self) -> bool {
        self.signal(Signal::STOP) && self.wait_state(|state| state == 'T' || state == 't')
    }

    pub(crate) fn resume(&mut self) -> bool {
        self.signal(Signal::CONT) && self.wait_state(|state| state != 'T' && state != 't')
    }

    fn wait_state(&self, wanted: impl Fn(char) -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            if self.state().is_some_and(&wanted) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    /// The state letter of /proc/PID/stat, after the name in parentheses.
    fn state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        self.kill_9();
    }
}

fn how(status: ExitStatus) -> Ended {
    status.code().map_or_else(|| Ended::Signal(status.signal().unwrap_or(0)), Ended::Exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> BrokerProcess {
        BrokerProcess::start(&["sleep".into(), "60".into()], &[], Path::new("/dev/null")).expect("sleep starts")
    }

    #[test]
    fn a_process_is_stopped_resumed_and_killed() {
        let mut process = sleeper();
        assert_eq!(process.ended(), None);
        assert!(process.pause());
        assert!(process.resume());
        assert!(process.kill_9());
        assert_eq!(process.ended(), Some(Ended::Signal(9)));
        assert!(!process.kill_9(), "it does not run any more");
    }

    #[test]
    fn a_process_dies_with_its_handle() {
        let process = sleeper();
        let stat = format!("/proc/{}/stat", process.id());
        drop(process);
        assert!(std::fs::metadata(stat).is_err());
    }
}
