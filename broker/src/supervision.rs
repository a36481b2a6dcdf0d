//! What a service manager is notified of: ready, alive, reloading, stopping (systemd's notification protocol: one datagram to
//! the socket that NOTIFY_SOCKET names).
//! Always true: "ready" means that clients are served, so a restart that waits for it may be followed by that of the next
//! node; a node that waits for its majority is not taken for one that hangs; without that socket nothing is sent; a manager
//! that does not listen never holds anything up.
use std::{
    ffi::OsString,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

const READY_CHECK: Duration = Duration::from_millis(20);
/// How much longer a start may take each time that is said, and how often it is: a restart brings no majority back.
const EXTEND_BY: Duration = Duration::from_secs(30);
const EXTEND_EVERY: Duration = Duration::from_secs(10);

/// The way to the service manager, if there is one.
pub struct Manager {
    way: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants a keep-alive notification.
    every: Option<Duration>,
    /// It was notified that clients are served.
    served: AtomicBool,
}

impl Manager {
    #[must_use]
    pub fn of_this_process() -> Self {
        let text = |name: &str| std::env::var(name).ok();
        let every = watchdog(text("WATCHDOG_USEC").as_deref(), text("WATCHDOG_PID").as_deref(), std::process::id());
        let way = std::env::var_os("NOTIFY_SOCKET").and_then(|path| open(&path).ok());
        Self { way, every, served: AtomicBool::new(false) }
    }

    /// Says "ready" once nothing speaks against it any more, and until then that the start goes on and why. Returns then.
    pub async fn announce(&self, why_not_ready: impl Fn() -> Vec<String>) {
        let (began, mut waiting) = (Instant::now(), Waiting::default());
        loop {
            let reasons = why_not_ready();
            if reasons.is_empty() {
                self.served.store(true, Relaxed);
                // It must arrive: without it the start fails in the end.
                while !self.notify("READY=1\nSTATUS=") {
                    tokio::time::sleep(READY_CHECK).await;
                }
                return;
            }
            if let Some(text) = waiting.word(began.elapsed(), reasons) {
                self.notify(&text);
            }
            tokio::time::sleep(READY_CHECK).await;
        }
    }

    /// Reading the configuration again; [`Self::reloaded`] ends it. Nothing is said before the first "ready".
    pub fn reloading(&self) {
        if !self.served.load(Relaxed) {
            return;
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let microseconds = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.notify(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    pub fn reloaded(&self) {
        if self.served.load(Relaxed) {
            self.notify("READY=1");
        }
    }

    /// On its way out.
    pub fn stopping(&self) {
        self.notify("STOPPING=1");
    }

    /// Sends keep-alive notifications, twice as often as wanted, as long as this task is served.
    pub async fn stay_alive(self: Arc<Self>) {
        let Some(every) = self.every else { return };
        loop {
            self.notify("WATCHDOG=1");
            tokio::time::sleep(every / 2).await;
        }
    }

    /// `false`: the manager has as much to read as it takes.
    fn notify(&self, what: &str) -> bool {
        let sent = self.way.as_ref().map(|(socket, to)| socket.send_to_addr(what.as_bytes(), to));
        !matches!(sent, Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// What was said last of a start that is not over, and when.
#[derive(Default)]
struct Waiting(Option<(Duration, Vec<String>)>);

impl Waiting {
    /// What is to be said now, if anything; `now` is the time since the wait began.
    fn word(&mut self, now: Duration, reasons: Vec<String>) -> Option<String> {
        if self.0.as_ref().is_some_and(|(at, known)| now < *at + EXTEND_EVERY && *known == reasons) {
            return None;
        }
        let text = reasons.join("; ").replace('\n', " ");
        self.0 = Some((now, reasons));
        Some(format!("EXTEND_TIMEOUT_USEC={}\nSTATUS=Not ready: {text}", EXTEND_BY.as_micros()))
    }
}

fn open(path: &OsString) -> io::Result<(UnixDatagram, SocketAddr)> {
    let to = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, to))
}

/// The interval, if it is meant for this process.
fn watchdog(microseconds: Option<&str>, process: Option<&str>, own: u32) -> Option<Duration> {
    if process.is_some_and(|process| process.parse() != Ok(own)) {
        return None;
    }
    let microseconds: u64 = microseconds?.parse().ok().filter(|microseconds| *microseconds > 0)?;
    Some(Duration::from_micros(microseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_the_watchdog_is_for_sends_keep_alives() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog(Some("1000000"), None, 7), second);
        assert_eq!(watchdog(Some("1000000"), Some("7"), 7), second);
        assert_eq!(watchdog(Some("1000000"), Some("8"), 7), None);
        assert_eq!(watchdog(Some("0"), None, 7), None);
        assert_eq!(watchdog(None, Some("7"), 7), None);
    }

    /// A manager behind an abstract name, and the way to it.
    fn listening(name: &str) -> (UnixDatagram, Manager) {
        let name = format!("mosquorum-notify-{name}-{}", std::process::id());
        let listening = SocketAddr::from_abstract_name(&name).and_then(|at| UnixDatagram::bind_addr(&at));
        let listening = listening.expect("a socket");
        listening.set_nonblocking(true).expect("a socket");
        let way = open(&OsString::from(format!("@{name}"))).expect("an address");
        (listening, Manager { way: Some(way), every: None, served: AtomicBool::new(false) })
    }

    fn received(listening: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 256];
        let next = || listening.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into());
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_start_that_waits_is_extended_in_time_and_says_why_it_waits() {
        let mut waiting = Waiting::default();
        let mut word = |seconds, reasons: &[&str]| {
            waiting.word(Duration::from_secs(seconds), reasons.iter().map(|&reason| reason.to_owned()).collect())
        };
        let expected = |why: &str| Some(format!("EXTEND_TIMEOUT_USEC=30000000\nSTATUS=Not ready: {why}"));
        assert_eq!(word(0, &["no majority", "no\nlease"]), expected("no majority; no lease"));
        assert_eq!(word(9, &["no majority", "no\nlease"]), None);
        assert_eq!(word(10, &["no majority", "no\nlease"]), expected("no majority; no lease"));
        assert_eq!(word(11, &["no lease"]), expected("no lease"));
    }

    #[tokio::test]
    async fn a_manager_is_notified_ready_only_when_clients_are_served_and_until_then_why_not() {
        let (listening, manager) = listening("ready");
        let left = std::cell::RefCell::new(vec![Vec::new(), vec!["no lease".to_owned()], vec!["no lease".to_owned()]]);
        manager.announce(|| left.borrow_mut().pop().unwrap_or_default()).await;
        assert!(left.borrow().is_empty());
        assert_eq!(
            received(&listening),
            ["EXTEND_TIMEOUT_USEC=30000000\nSTATUS=Not ready: no lease", "READY=1\nSTATUS="]
        );
    }

    #[tokio::test]
    async fn a_reload_before_the_node_serves_does_not_make_it_ready() {
        let (listening, manager) = listening("reload");
        let reload = || {
            manager.reloading();
            manager.reloaded();
            received(&listening)
        };
        assert!(reload().is_empty());
        manager.announce(Vec::new).await;
        assert_eq!(received(&listening), ["READY=1\nSTATUS="]);
        let received = reload();
        assert!(received.len() == 2 && received[0].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{received:?}");
        assert_eq!(received[1], "READY=1");
    }
}
