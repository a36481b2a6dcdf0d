//! What callers and the writer share: the queue and the readers' view, under one short lock.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::LogError;
use super::types::{Done, LogEntry, LogId, LogStats};
use super::view::View;

/// Work for the writer.
pub(super) enum Command {
    Append { entries: Vec<LogEntry>, done: Done },
    Truncate { from: u64, last: Option<LogId> },
    Purge(LogId),
    Reset(LogId),
    Vote(Bytes, Done),
    Flush(Done),
}

impl Command {
    pub(super) fn payload_bytes(&self) -> usize {
        match self {
            Command::Append { entries, .. } => entries.iter().map(|entry| entry.payload.len()).sum(),
            _ => 0,
        }
    }

    pub(super) fn into_done(self) -> Option<Done> {
        match self {
            Command::Append { done, .. } | Command::Vote(_, done) | Command::Flush(done) => Some(done),
            _ => None,
        }
    }
}

pub(super) struct LogState {
    pub(super) view: View,
    pub(super) queue: VecDeque<Command>,
    pub(super) queued_bytes: usize,
    pub(super) failed: Option<LogError>,
    pub(super) closed: bool,
}

impl LogState {
    /// The next commands, about `bytes_max` of payload, at least one.
    pub(super) fn take_group(&mut self, bytes_max: usize) -> Vec<Command> {
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.queue.front() {
            bytes += next.payload_bytes();
            if bytes > bytes_max && !group.is_empty() {
                break;
            }
            group.extend(self.queue.pop_front());
        }
        group
    }
}

pub(super) struct SharedLog {
    pub(super) state: Mutex<LogState>,
    pub(super) wake: Condvar,
    pub(super) stats: Mutex<LogStats>,
}

impl SharedLog {
    pub(super) fn new(view: View) -> Self {
        let state = LogState { view, queue: VecDeque::new(), queued_bytes: 0, failed: None, closed: false };
        SharedLog { state: Mutex::new(state), wake: Condvar::new(), stats: Mutex::default() }
    }

    pub(super) fn failure(&self) -> Option<LogError> {
        self.state.lock().failed.clone()
    }

    /// Bytes that wait no longer.
    pub(super) fn release(&self, bytes: usize) {
        self.state.lock().queued_bytes -= bytes;
    }
}
