//! The text of one line: time in front, nothing that could forge another line.
use super::Level;
use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, Local, SecondsFormat, Utc};
use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a message; the rest is cut. Client ids and topics may be 65,535 bytes long.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Formats with control characters escaped (tab stays) and the length bounded.
pub(super) fn printable(message: fmt::Arguments<'_>) -> String {
    struct Clean(String);
    impl Write for Clean {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for c in text.chars() {
                if self.0.len() >= MESSAGE_BYTES_MAX {
                    self.0.push_str("...");
                    return Err(fmt::Error); // ends the formatting early; what is there stays
                }
                if c.is_control() && c != '\t' {
                    write!(self.0, "\\x{:02x}", u32::from(c))?;
                } else {
                    self.0.push(c);
                }
            }
            Ok(())
        }
    }
    let mut clean = Clean(String::with_capacity(96));
    let _ = clean.write_fmt(message);
    clean.0
}

/// Seconds since 1970, 0 before.
pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How lines begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stamp {
    None,
    UnixSeconds,
    /// strftime, local time.
    Pattern(String),
}

impl Stamp {
    pub(super) fn new(timestamp: bool, pattern: Option<&str>) -> Self {
        match (timestamp, pattern) {
            (false, _) => Self::None,
            (true, None) => Self::UnixSeconds,
            (true, Some(pattern)) => Self::Pattern(pattern.to_owned()),
        }
    }
}

/// `<time>: message`, or the JSON object of one line. No line end.
pub(super) fn line(stamp: &Stamp, json: bool, level: Level, time: SystemTime, message: &str) -> String {
    if json {
        return json_line(level, time, message);
    }
    match stamp {
        Stamp::None => message.to_owned(),
        Stamp::UnixSeconds => format!("{}: {message}", unix_seconds(time)),
        Stamp::Pattern(pattern) => format!("{}: {message}", strftime(pattern, time)),
    }
}

/// A pattern is usable when every conversion in it is known.
pub(crate) fn is_pattern_valid(pattern: &str) -> bool {
    StrftimeItems::new(pattern).all(|item| !matches!(item, Item::Error))
}

fn strftime(pattern: &str, time: SystemTime) -> String {
    let mut text = String::new();
    let local = DateTime::<Local>::from(time);
    if write!(text, "{}", local.format(pattern)).is_err() {
        return "Time error".to_owned();
    }
    text
}

fn json_line(level: Level, time: SystemTime, message: &str) -> String {
    let time = DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true);
    let mut line = format!("{{\"time\":\"{time}\",\"level\":\"{}\",\"message\":\"", level.name());
    for c in message.chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\t' => line.push_str("\\t"),
            c => line.push(c), // other control characters were escaped before
        }
    }
    line.push_str("\"}");
    line
}

/// `Mmm dd hh:mm:ss`, local time, as syslog wants it (RFC 3164).
pub(super) fn syslog_time(time: SystemTime) -> String {
    strftime("%b %e %H:%M:%S", time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_line_starts_with_unix_seconds_and_a_colon() {
        let text = line(&Stamp::UnixSeconds, false, Level::Notice, at(1_700_000_000), "hello");
        assert_eq!(text, "1700000000: hello");
        assert_eq!(line(&Stamp::None, false, Level::Notice, at(1), "hello"), "hello");
    }

    #[test]
    fn a_pattern_is_written_in_local_time_and_bad_patterns_are_known() {
        let stamp = Stamp::new(true, Some("%Y-%m-%dT%H:%M:%S"));
        let text = line(&stamp, false, Level::Info, at(1_700_000_000), "x");
        assert!(text.starts_with("2023-11-1") && text.ends_with(": x"), "{text}");
        assert!(is_pattern_valid("%FT%T%z"));
        assert!(!is_pattern_valid("%Q!"));
    }

    #[test]
    fn a_client_id_with_a_line_end_stays_in_one_line() {
        assert_eq!(printable(format_args!("a\n1: fake\r\u{1b}[0m\tb")), "a\\x0a1: fake\\x0d\\x1b[0m\tb");
    }

    #[test]
    fn a_long_message_is_cut() {
        let text = printable(format_args!("{}", "x".repeat(100_000)));
        assert!(text.len() < 5000 && text.ends_with("..."));
    }

    #[test]
    fn json_lines_are_escaped() {
        let text = line(&Stamp::None, true, Level::Warning, at(0), "a \"b\" \\ c");
        assert_eq!(text, r#"{"time":"1970-01-01T00:00:00.000Z","level":"warning","message":"a \"b\" \\ c"}"#);
    }
}
