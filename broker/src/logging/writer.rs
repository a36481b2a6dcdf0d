//! The one thread that writes log lines.
//! Always true: it flushes before it waits, so a line is never held back while nothing happens.
use super::file::LogFile;
use super::sink::{self, Syslog, TopicSink};
use super::text::{self, Stamp};
use super::{Level, warning};
use crate::config::LogSettings;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::SystemTime;

pub(super) struct Line {
    pub(super) level: Level,
    pub(super) time: SystemTime,
    pub(super) message: String,
}

pub(super) enum Job {
    Line(Line),
    Apply(LogSettings, SyncSender<Result<(), String>>),
    Topic(Option<TopicSink>),
    /// Something else than a line is to be done.
    Wake,
    Flush(SyncSender<()>),
}

/// What the lines of one configuration go to.
struct Destinations {
    stamp: Stamp,
    json: bool,
    stdout: bool,
    stderr: bool,
    topic: bool,
    file: Option<LogFile>,
    syslog: Option<Syslog>,
}

impl Destinations {
    fn open(settings: &LogSettings) -> Result<Self, String> {
        let to = &settings.destinations;
        let file = match &to.file {
            None => None,
            Some(path) => Some(LogFile::open(path).map_err(|cause| {
                let path = path.display();
                format!("Error: Unable to open log file {path} for writing: {cause}.")
            })?),
        };
        Ok(Self {
            stamp: Stamp::new(settings.timestamp, settings.timestamp_format.as_deref()),
            json: settings.json,
            stdout: to.stdout,
            stderr: to.stderr,
            topic: to.topic,
            file,
            syslog: to.syslog.then(|| Syslog::new(settings.facility)),
        })
    }
}

/// Bytes of lines for stdout and stderr that are written at once.
const CONSOLE_BYTES: usize = 32 * 1024;

pub(super) struct Writer {
    to: Destinations,
    /// Lines for stdout and stderr, not written yet: a write for each would be the bottleneck.
    console: Vec<u8>,
    topic_sink: Option<TopicSink>,
}

impl Writer {
    /// # Errors
    /// One line when the log file cannot be opened.
    pub(super) fn new(settings: &LogSettings) -> Result<Self, String> {
        Ok(Self { to: Destinations::open(settings)?, console: Vec::new(), topic_sink: None })
    }

    /// Serves the queue until every sender is gone. `reopen`: the log file is to be opened again under its name.
    pub(super) fn run(mut self, jobs: &Receiver<Job>, dropped: &AtomicU64, reopen: &AtomicBool) {
        while let Ok(first) = jobs.recv() {
            let mut next = Ok(first);
            while let Ok(job) = next {
                if reopen.swap(false, Ordering::Acquire)
                    && let Some(Err(cause)) = self.to.file.as_mut().map(LogFile::reopen)
                {
                    warning!("Warning: Unable to open the log file again: {cause}.");
                }
                self.serve(job);
                next = jobs.try_recv();
            }
            let lost = dropped.swap(0, Ordering::Relaxed);
            if lost > 0 {
                self.line(&Line {
                    level: Level::Warning,
                    time: SystemTime::now(),
                    message: format!("Warning: {lost} log lines were dropped, the log is too slow."),
                });
            }
            self.flush();
            if next.is_err_and(|cause| cause == TryRecvError::Disconnected) {
                return;
            }
        }
    }

    fn serve(&mut self, job: Job) {
        match job {
            Job::Line(line) => self.line(&line),
            Job::Apply(settings, answer) => {
                self.flush();
                let opened = Destinations::open(&settings).map(|to| self.to = to);
                let _ = answer.send(opened);
            }
            Job::Topic(sink) => self.topic_sink = sink,
            Job::Wake => {}
            Job::Flush(answer) => {
                self.flush();
                let _ = answer.send(());
            }
        }
    }

    fn line(&mut self, line: &Line) {
        let to = &mut self.to;
        let text = text::line(&to.stamp, to.json, line.level, line.time, &line.message);
        if to.stdout || to.stderr {
            self.console.extend_from_slice(text.as_bytes());
            self.console.push(b'\n');
        }
        if let Some(file) = &mut to.file {
            file.write(&text);
        }
        if let Some(syslog) = &mut to.syslog {
            syslog.write(line.level, line.time, &text);
        }
        if to.topic
            && let Some(sink) = &self.topic_sink
            && let Some(topic) = sink::topic(line.level)
        {
            sink(topic, &text);
        }
        if self.console.len() >= CONSOLE_BYTES {
            self.flush_console();
        }
    }

    fn flush_console(&mut self) {
        // A closed terminal or pipe must not stop the broker.
        if self.to.stdout {
            let mut stdout = std::io::stdout().lock();
            let _ = stdout.write_all(&self.console).and_then(|()| stdout.flush());
        }
        if self.to.stderr {
            let _ = std::io::stderr().lock().write_all(&self.console);
        }
        self.console.clear();
    }

    fn flush(&mut self) {
        if !self.console.is_empty() {
            self.flush_console();
        }
        if let Some(file) = &mut self.to.file {
            file.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LogDestinations, LogTypes};
    use std::sync::mpsc::sync_channel;

    fn settings(path: &std::path::Path) -> LogSettings {
        LogSettings {
            types: LogTypes::ALL,
            destinations: LogDestinations { topic: true, file: Some(path.to_owned()), ..LogDestinations::default() },
            timestamp: false,
            timestamp_format: None,
            facility: None,
            json: false,
        }
    }

    fn line(level: Level, message: &str) -> Job {
        Job::Line(Line { level, time: SystemTime::now(), message: message.to_owned() })
    }

    #[test]
    fn lines_reach_file_and_topic_and_the_file_is_opened_again_after_a_rotation() {
        let dir = std::env::temp_dir().join(format!("mosquorum-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (path, moved) = (dir.join("log"), dir.join("log.1"));
        let writer = Writer::new(&settings(&path)).unwrap();
        let (queue, jobs) = sync_channel(16);
        let (published, topics) = sync_channel(16);
        let dropped = AtomicU64::new(3);
        let sink: TopicSink = Box::new(move |topic, text| {
            published.send(format!("{topic} {text}")).unwrap();
        });
        queue.send(Job::Topic(Some(sink))).unwrap();
        queue.send(line(Level::Notice, "one")).unwrap();
        queue.send(line(Level::Debug, "two")).unwrap();
        let (lost, again) = (&dropped, &AtomicBool::new(false));
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || writer.run(&{ jobs }, lost, again));
            let (answer, answered) = sync_channel(1);
            queue.send(Job::Flush(answer)).unwrap();
            answered.recv().unwrap();
            std::fs::rename(&path, &moved).unwrap();
            again.store(true, Ordering::Release);
            queue.send(Job::Wake).unwrap();
            queue.send(line(Level::Error, "three")).unwrap();
            drop(queue);
            thread.join().unwrap();
        });
        let (old, new) = (std::fs::read_to_string(&moved).unwrap(), std::fs::read_to_string(&path).unwrap());
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(old.starts_with("one\ntwo\n"), "{old}");
        assert!(new.contains("three\n"), "{new}");
        assert!(format!("{old}{new}").contains("3 log lines were dropped"), "{old}{new}");
        assert_eq!(topics.recv().unwrap(), "$SYS/broker/log/N one");
        assert!(topics.iter().all(|text| !text.contains("two")));
    }

    #[test]
    fn a_log_file_that_cannot_be_opened_is_one_clear_line() {
        let error = Writer::new(&settings(std::path::Path::new("/nonexistent/log"))).err().unwrap();
        assert!(error.starts_with("Error: Unable to open log file /nonexistent/log for writing"));
    }
}
