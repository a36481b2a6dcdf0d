//! Destinations other than files: syslog's socket and `$SYS/broker/log`.
use super::{Level, text};
use std::os::unix::net::UnixDatagram;
use std::time::SystemTime;

/// Publishes a log line: topic (`$SYS/broker/log/...`) and text. Called by the log thread; must not block for long.
pub type TopicSink = Box<dyn Fn(&'static str, &str) + Send>;

/// The topic of a line; none for kinds that Mosquitto keeps off `$SYS` (a publish would log the next line).
pub(super) fn topic(level: Level) -> Option<&'static str> {
    Some(match level {
        Level::Subscribe => "$SYS/broker/log/M/subscribe",
        Level::Unsubscribe => "$SYS/broker/log/M/unsubscribe",
        Level::Error => "$SYS/broker/log/E",
        Level::Warning => "$SYS/broker/log/W",
        Level::Notice => "$SYS/broker/log/N",
        Level::Info => "$SYS/broker/log/I",
        Level::Websockets => "$SYS/broker/log/WS",
        Level::Debug | Level::Internal => return None,
    })
}

const SOCKET: &str = "/dev/log";
const FACILITY_DAEMON: u8 = 3;
const FACILITY_LOCAL0: u8 = 16;

/// The local syslog daemon (RFC 3164 datagrams). Lines are lost while it is away, as with syslog(3).
pub(super) struct Syslog {
    facility: u8,
    socket: Option<UnixDatagram>,
}

impl Syslog {
    /// `facility`: 0 to 7 for local0 to local7, `None` for daemon.
    pub(super) fn new(facility: Option<u8>) -> Self {
        Self { facility: facility.map_or(FACILITY_DAEMON, |local| FACILITY_LOCAL0 + local), socket: None }
    }

    pub(super) fn write(&mut self, level: Level, time: SystemTime, line: &str) {
        let datagram = self.datagram(level, time, line);
        for _ in 0..2 {
            if self.socket.is_none() {
                self.socket = connect();
            }
            let Some(socket) = &self.socket else { return };
            if socket.send(datagram.as_bytes()).is_ok() {
                return;
            }
            self.socket = None; // the daemon was restarted: connect again, once
        }
    }

    fn datagram(&self, level: Level, time: SystemTime, line: &str) -> String {
        let severity = match level {
            Level::Error | Level::Internal => 3,
            Level::Warning => 4,
            Level::Notice | Level::Subscribe | Level::Unsubscribe => 5,
            Level::Info => 6,
            Level::Debug | Level::Websockets => 7,
        };
        let priority = u32::from(self.facility) * 8 + severity;
        let (time, pid) = (text::syslog_time(time), std::process::id());
        format!("<{priority}>{time} mosquorum[{pid}]: {line}")
    }
}

fn connect() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect(SOCKET).ok()?;
    Some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syslog_line_carries_facility_and_severity() {
        let line = Syslog::new(Some(2)).datagram(Level::Warning, SystemTime::now(), "text");
        assert!(line.starts_with("<148>") && line.ends_with("]: text"), "{line}"); // local2.warning
        let line = Syslog::new(None).datagram(Level::Notice, SystemTime::now(), "text");
        assert!(line.starts_with("<29>"), "{line}"); // daemon.notice
    }

    #[test]
    fn debug_lines_have_no_topic() {
        assert_eq!(topic(Level::Debug), None);
        assert_eq!(topic(Level::Error), Some("$SYS/broker/log/E"));
    }
}
