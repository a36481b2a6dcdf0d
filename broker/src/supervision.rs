//! What a service manager is told: ready, alive, reloading, stopping (systemd's notification protocol: one datagram to
//! the socket that NOTIFY_SOCKET names).
//! Always true: without that socket nothing happens; a manager that does not listen never holds anything up.
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
    time::Duration,
};

/// The way to the service manager, if there is one.
pub struct Manager {
    way: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants a sign of life.
    every: Option<Duration>,
}

impl Manager {
    #[must_use]
    pub fn of_this_process() -> Self {
        let text = |name: &str| std::env::var(name).ok();
        let every = watchdog(text("WATCHDOG_USEC").as_deref(), text("WATCHDOG_PID").as_deref(), std::process::id());
        let way = std::env::var_os("NOTIFY_SOCKET").and_then(|path| open(&path).ok());
        Self { way, every }
    }

    /// Serving.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// Reading the configuration again; [`Self::ready`] ends it.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let microseconds = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// On its way out.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Gives signs of life, twice as often as wanted, as long as this task is served.
    pub async fn stay_alive(self: std::sync::Arc<Self>) {
        let Some(every) = self.every else { return };
        loop {
            self.tell("WATCHDOG=1");
            tokio::time::sleep(every / 2).await;
        }
    }

    fn tell(&self, what: &str) {
        if let Some((socket, to)) = &self.way {
            let _ = socket.send_to_addr(what.as_bytes(), to);
        }
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
    fn only_the_process_that_the_watchdog_is_for_gives_signs_of_life() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog(Some("1000000"), None, 7), second);
        assert_eq!(watchdog(Some("1000000"), Some("7"), 7), second);
        assert_eq!(watchdog(Some("1000000"), Some("8"), 7), None);
        assert_eq!(watchdog(Some("0"), None, 7), None);
        assert_eq!(watchdog(None, Some("7"), 7), None);
    }

    #[test]
    fn a_manager_behind_an_abstract_name_is_told() {
        let name = format!("mosquorum-notify-{}", std::process::id());
        let listening = SocketAddr::from_abstract_name(&name).and_then(|at| UnixDatagram::bind_addr(&at));
        let listening = listening.expect("a socket");
        let way = open(&OsString::from(format!("@{name}"))).expect("an address");
        Manager { way: Some(way), every: None }.ready();
        let mut buffer = [0; 64];
        let length = listening.recv(&mut buffer).expect("a datagram");
        assert_eq!(&buffer[..length], b"READY=1");
    }
}
