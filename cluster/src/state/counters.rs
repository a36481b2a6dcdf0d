//! What the state counts, for `$SYS` and metrics. Equal on every node, and kept across restarts.
use super::DropReason;
use serde::{Deserialize, Serialize};

/// Since the cluster was formed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub sessions_expired: u64,
    /// Messages that were not queued, or removed before their delivery, by reason.
    pub dropped_queue_full: u64,
    pub dropped_queue_bytes: u64,
    pub dropped_expired: u64,
    pub dropped_session_ended: u64,
}

impl Counters {
    pub(super) fn add_dropped(&mut self, reason: DropReason, count: u64) {
        *match reason {
            DropReason::QueueFull => &mut self.dropped_queue_full,
            DropReason::QueueBytes => &mut self.dropped_queue_bytes,
            DropReason::Expired => &mut self.dropped_expired,
            DropReason::SessionEnded => &mut self.dropped_session_ended,
        } += count;
    }

    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        match reason {
            DropReason::QueueFull => self.dropped_queue_full,
            DropReason::QueueBytes => self.dropped_queue_bytes,
            DropReason::Expired => self.dropped_expired,
            DropReason::SessionEnded => self.dropped_session_ended,
        }
    }
}

/// How much of everything there is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records of client identifiers; `connected` have a connection, `disconnected` wait for one (those of which only a
    /// will is left included).
    pub sessions: usize,
    pub connected: usize,
    pub disconnected: usize,
    /// Ordinary and shared.
    pub subscriptions: usize,
    pub shared_subscriptions: usize,
    pub retained: usize,
    /// Messages that a queue or a topic refers to, each once, and their payloads.
    pub messages: usize,
    pub message_bytes: u64,
    /// What those of them that are in memory take there, about.
    pub message_memory: u64,
    /// What those that are not in memory would take there, about.
    pub message_memory_saved: u64,
}
