//! Log lines as Mosquitto's operators know them: `<time>: text`, to stdout, stderr, a file, syslog or `$SYS` topics.
//! Always true: a connection never waits for a log destination. A line goes through a bounded queue to one writer
//! thread; when the queue is full it is dropped and counted, and the count is logged once there is room. A line holds
//! no control character other than tab, so that a client id cannot forge a second line.
//! Not here: payloads and passwords, which nobody logs; metrics.
mod file;
pub mod lines;
pub mod packets;
mod sink;
mod text;
mod tracing_forward;
mod writer;

use crate::config::{LogSettings, LogTypes};
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

pub use crate::{debug, error, info, notice, warning};
pub use sink::TopicSink;
pub(crate) use text::is_pattern_valid;
pub use tracing_forward::forward_library_events;
use writer::{Job, Writer};

/// Lines that may wait for the writer.
const QUEUE_LINES: usize = 4096;
/// How long the end of the process waits for the writer.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

/// Kind of a line, in Mosquitto's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Info,
    Notice,
    Warning,
    Error,
    Debug,
    Subscribe,
    Unsubscribe,
    Websockets,
    Internal,
}

impl Level {
    /// Its bit in `log_type`.
    #[must_use]
    pub const fn bit(self) -> u32 {
        match self {
            Self::Info => 1,
            Self::Notice => 1 << 1,
            Self::Warning => 1 << 2,
            Self::Error => 1 << 3,
            Self::Debug => 1 << 4,
            Self::Subscribe => 1 << 5,
            Self::Unsubscribe => 1 << 6,
            Self::Websockets => 1 << 7,
            Self::Internal => 1 << 31,
        }
    }

    /// Its name in `log_type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "information",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Debug => "debug",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Websockets => "websockets",
            Self::Internal => "internal",
        }
    }
}

/// What is logged before `start`: Mosquitto's default `log_type`.
const EARLY: u32 = Level::Info.bit() | Level::Notice.bit() | Level::Warning.bit() | Level::Error.bit();

static MASK: AtomicU32 = AtomicU32::new(EARLY);
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// The log file is to be opened again: no queue that is full may swallow that.
static REOPEN: AtomicBool = AtomicBool::new(false);
static QUEUE: OnceLock<SyncSender<Job>> = OnceLock::new();

/// Whether a line of this kind would be written; the macros ask before they format.
#[must_use]
pub fn enabled(level: Level) -> bool {
    MASK.load(Ordering::Relaxed) & level.bit() != 0
}

/// Sets the kinds that are logged before [`start`], from `-q` and `-v`.
pub fn set_types(types: LogTypes) {
    MASK.store(types.0, Ordering::Relaxed);
}

/// Queues one line; use the macros. Before [`start`] it goes to stderr at once.
pub fn write(level: Level, message: fmt::Arguments<'_>) {
    let message = text::printable(message);
    let Some(queue) = QUEUE.get() else {
        let seconds = text::unix_seconds(SystemTime::now());
        eprintln!("{seconds}: {message}");
        return;
    };
    let line = writer::Line { level, time: SystemTime::now(), message };
    if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(Job::Line(line)) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Lines dropped since the start because the writer could not keep up and not yet reported.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Starts the writer thread; call after forking. A second call only applies `settings`.
/// # Errors
/// One line when the log file cannot be opened for writing, or the thread cannot be started.
pub fn start(settings: &LogSettings) -> Result<(), String> {
    if QUEUE.get().is_some() {
        return apply(settings);
    }
    let writer = Writer::new(settings)?;
    let (queue, jobs) = sync_channel(QUEUE_LINES);
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || writer.run(&jobs, &DROPPED, &REOPEN))
        .map_err(|cause| format!("Error: Unable to start the log thread: {cause}."))?;
    set_types(settings.types);
    let _ = QUEUE.set(queue);
    Ok(())
}

/// Applies changed settings, after SIGHUP. On error the old ones stay.
/// # Errors
/// One line when the log file cannot be opened for writing.
pub fn apply(settings: &LogSettings) -> Result<(), String> {
    let Some(queue) = QUEUE.get() else {
        return start(settings);
    };
    let (answer, answered) = sync_channel(1);
    if !put(queue, Job::Apply(settings.clone(), answer), Instant::now() + FLUSH_WAIT) {
        return Err("Error: The log thread does not answer.".to_owned());
    }
    answered.recv_timeout(FLUSH_WAIT).map_err(|_| "Error: The log thread does not answer.".to_owned())??;
    set_types(settings.types);
    Ok(())
}

/// Opens the log file again under its name, after it was rotated (SIGHUP, SIGRTMIN). Does not wait.
pub fn reopen() {
    REOPEN.store(true, Ordering::Release);
    if let Some(queue) = QUEUE.get() {
        // If there is no room, the writer has enough to do to see it soon.
        let _ = queue.try_send(Job::Wake);
    }
}

/// Gives `log_dest topic` its way into the broker. The sink is called by the log thread.
pub fn set_topic_sink(sink: TopicSink) {
    if let Some(queue) = QUEUE.get() {
        let _ = queue.send(Job::Topic(Some(sink)));
    }
}

/// Waits until what was logged so far is written, at most 2 seconds. Call before the process ends.
pub fn flush() {
    let Some(queue) = QUEUE.get() else { return };
    let (answer, answered) = sync_channel(1);
    let deadline = Instant::now() + FLUSH_WAIT;
    if put(queue, Job::Flush(answer), deadline) {
        let _ = answered.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// The queue may be full because a destination blocks: waits for a place in it, but no longer than that.
fn put(queue: &SyncSender<Job>, mut job: Job, deadline: Instant) -> bool {
    loop {
        match queue.try_send(job) {
            Ok(()) => return true,
            Err(TrySendError::Full(back)) if Instant::now() < deadline => {
                job = back;
                #[allow(clippy::disallowed_methods)] // only when the log is full, and for a bounded time
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(_) => return false,
        }
    }
}

/// Logs a panic as an error and flushes, then does what the hook before it did.
pub fn install_panic_hook() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some("log") {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let what = panic.payload_as_str().unwrap_or("of unknown kind");
            write(Level::Error, format_args!("Error: internal failure at {place}: {what}"));
            flush();
        }
        before(panic);
    }));
}

/// Logs one line of a kind, like `format!`: `log_line!(Level::Subscribe, "{client} {qos} {filter}")`.
#[macro_export]
macro_rules! log_line {
    ($level:expr, $($text:tt)+) => {
        if $crate::logging::enabled($level) {
            $crate::logging::write($level, format_args!($($text)+));
        }
    };
}
/// Logs an `error` line, like `format!`.
#[macro_export]
macro_rules! error {
    ($($text:tt)+) => { $crate::log_line!($crate::logging::Level::Error, $($text)+) };
}
/// Logs a `warning` line, like `format!`.
#[macro_export]
macro_rules! warning {
    ($($text:tt)+) => { $crate::log_line!($crate::logging::Level::Warning, $($text)+) };
}
/// Logs a `notice` line, like `format!`.
#[macro_export]
macro_rules! notice {
    ($($text:tt)+) => { $crate::log_line!($crate::logging::Level::Notice, $($text)+) };
}
/// Logs an `information` line, like `format!`.
#[macro_export]
macro_rules! info {
    ($($text:tt)+) => { $crate::log_line!($crate::logging::Level::Info, $($text)+) };
}
/// Logs a `debug` line, like `format!`.
#[macro_export]
macro_rules! debug {
    ($($text:tt)+) => { $crate::log_line!($crate::logging::Level::Debug, $($text)+) };
}
