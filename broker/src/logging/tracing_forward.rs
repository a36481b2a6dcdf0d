//! Warnings and errors that libraries and our own crates give to `tracing`, and events of the cluster, as log lines of ours.
//! Always true: a line that repeats is written once and then counted; how often it came is said with it when it is written
//! again, a minute later at first, then every ten. A library's lines are told apart by the place in its code, since its values
//! change each time; our own by their text.
//! Not here: spans; a library's span is entered and forgotten.
use super::{Level, enabled, write};
use crate::planted;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fmt::{self, Write},
    time::{Duration, Instant},
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Target of what happens to the cluster: such an event of level `info` is a notice.
const CLUSTER_EVENTS: &str = "cluster_events";

/// Forwards `warn` and `error` events, and those of the cluster, from now on. Does nothing when a subscriber is already set.
pub fn forward_library_events() {
    let _ = tracing::subscriber::set_global_default(Forward(Mutex::default()));
}

struct Forward(Mutex<Repeats>);

const REPEATED_FIRST: Duration = Duration::from_secs(60);
const REPEATED_LATER: Duration = Duration::from_secs(600);
/// Different lines that are remembered; beyond it all are new again.
const LINES_MAX: usize = 512;

/// Lines that were written, and what came since.
#[derive(Default)]
struct Repeats(HashMap<(&'static str, u32, String), Seen>);

struct Seen {
    written: Instant,
    pause: Duration,
    counted: u64,
}

impl Repeats {
    /// Whether a line is written now, and how often it came since it last was.
    fn pass(&mut self, now: Instant, place: (&'static str, u32), text: &str) -> Option<u64> {
        let key = (place.0, place.1, text.to_owned());
        let Some(seen) = self.0.get_mut(&key) else {
            if self.0.len() >= LINES_MAX {
                self.0.clear();
            }
            self.0.insert(key, Seen { written: now, pause: REPEATED_FIRST, counted: 0 });
            return Some(0);
        };
        if now.saturating_duration_since(seen.written) < seen.pause {
            seen.counted += 1;
            return None;
        }
        (seen.written, seen.pause) = (now, REPEATED_LATER);
        Some(std::mem::take(&mut seen.counted))
    }
}

impl Subscriber for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_wanted = *metadata.level() <= tracing::Level::WARN || metadata.target() == CLUSTER_EVENTS;
        metadata.is_event() && is_wanted && enabled(level(metadata))
    }
    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::INFO)
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let level = level(metadata);
        if !enabled(level) {
            return;
        }
        let mut text = Fields(String::new());
        event.record(&mut text);
        let place = (metadata.file().unwrap_or_default(), metadata.line().unwrap_or_default());
        let of_cluster = metadata.target() == CLUSTER_EVENTS;
        let own = of_cluster || metadata.target().starts_with("mosquorum");
        let source = if of_cluster { "Cluster" } else { metadata.target() };
        let passed = self.0.lock().pass(Instant::now(), place, if own { &text.0 } else { "" });
        match passed.or_else(|| (!planted::counts_repeated_lines()).then_some(0)) {
            None => {}
            Some(0) => write(level, format_args!("{source}: {}", text.0)),
            Some(counted) => {
                write(level, format_args!("{source}: {} (and {counted} times before)", text.0));
            }
        }
    }
}

fn level(metadata: &Metadata<'_>) -> Level {
    match *metadata.level() {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warning,
        tracing::Level::INFO if metadata.target() == CLUSTER_EVENTS => Level::Notice,
        _ => Level::Debug,
    }
}

/// `message key=value ...`
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let gap = if self.0.is_empty() { "" } else { " " };
        let _ = if field.name() == "message" {
            write!(self.0, "{gap}{value:?}")
        } else {
            write!(self.0, "{gap}{}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_repeats_is_written_once_then_counted_and_summed_up() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let library = ("replication.rs", 7);
        assert_eq!(repeats.pass(at(0), library, ""), Some(0));
        assert!((1..=59).all(|second| repeats.pass(at(second), library, "").is_none()));
        assert_eq!(repeats.pass(at(60), library, ""), Some(59));
        assert_eq!(repeats.pass(at(120), library, ""), None, "then every ten minutes");
        assert_eq!(repeats.pass(at(660), library, ""), Some(1));
        let own = ("links.rs", 9);
        assert_eq!(repeats.pass(at(0), own, "peer=n2"), Some(0));
        assert_eq!(repeats.pass(at(0), own, "peer=n3"), Some(0), "another fact is another line");
    }

    #[test]
    fn the_table_of_lines_is_bounded() {
        let mut repeats = Repeats::default();
        for line in 0..10_000 {
            repeats.pass(Instant::now(), ("a.rs", line), "");
        }
        assert!(repeats.0.len() <= LINES_MAX);
    }
}
