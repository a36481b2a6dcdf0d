//! What happens because time passed: due wills, expired sessions, expired messages. Time is that of log entries.
//! Always true: `deadlines` lists each waiting will, session, retained message with an interval and queue to be searched
//! exactly once; what is due is worked off in order of time, before anything that depends on it (a new connection of the
//! same client looks first).
//! Bound: one tick works off no more than [`super::STEP_WORK`]; the next deadline then lies in the past.
use super::{DropReason, Effect, Outcome, SessionPlace, State};
use crate::ids::Millis;
use mosquorum_proto::mqtt::{TopicName, Utf8};

/// Queues are searched for expired messages at multiples of this: it costs time in proportion to a queue's length.
const SWEEP_INTERVAL_MILLIS: u64 = 5_000;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deadline {
    /// Before the end of the session, which may be due at the same time.
    Will(Utf8),
    Session(Utf8),
    Sweep(Utf8),
    Retained(TopicName),
}

impl State {
    /// When the next [`super::Command::Tick`] has something to do; 0: at once.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        if self.has_work() {
            return Some(Millis(0));
        }
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Whether the last tick left something that was due.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.next_deadline().is_some_and(|due| due <= self.time)
    }

    pub(super) fn tick(&mut self, out: &mut Vec<Effect>) -> Outcome {
        self.steps.begin();
        while self.steps.left() > 0 && self.deadlines.first().is_some_and(|(at, _)| *at <= self.time) {
            let Some((_, due)) = self.deadlines.pop_first() else { break };
            self.steps.take(1);
            match due {
                Deadline::Will(client_id) => self.at_session(&client_id, |s, place| s.will_is_due(place, out)),
                Deadline::Session(client_id) => self.at_session(&client_id, |s, place| s.expire_session(place, out)),
                Deadline::Sweep(client_id) => self.at_session(&client_id, |s, place| s.sweep(place, out)),
                Deadline::Retained(topic) => self.remove_retained(&topic),
            }
        }
        self.go_on(out);
        Outcome::Done
    }

    fn at_session(&mut self, client_id: &Utf8, f: impl FnOnce(&mut Self, SessionPlace)) {
        if let Some(place) = self.sessions.find(client_id) {
            f(self, place);
        }
    }

    /// Does now what is due for one client.
    pub(super) fn work_off(&mut self, client_id: &Utf8, out: &mut Vec<Effect>) {
        self.at_session(client_id, |state, place| state.see_to_lost(place, out));
        let Some(place) = self.sessions.find(client_id) else { return };
        let is_due = |at: Option<Millis>| at.filter(|at| *at <= self.time);
        let (will, session) = (is_due(self.sessions[place].will_due), is_due(self.sessions[place].expires_at));
        if let Some(at) = will {
            self.deadlines.remove(&(at, Deadline::Will(client_id.clone())));
            self.will_is_due(place, out);
        }
        if let Some(at) = session {
            self.deadlines.remove(&(at, Deadline::Session(client_id.clone())));
            self.expire_session(place, out);
        }
    }

    fn expire_session(&mut self, place: SessionPlace, out: &mut Vec<Effect>) {
        self.counters.sessions_expired += 1;
        self.sessions[place].expires_at = None;
        let will = self.sessions[place].will.take();
        let message = will.map(|will| self.will_message(place, *will));
        self.end_session(place, out);
        if let Some(message) = message {
            self.publish_will(message, &[], out);
        }
    }

    fn sweep(&mut self, place: SessionPlace, out: &mut Vec<Effect>) {
        let now = self.time;
        self.detach_lost(place);
        let session = &mut self.sessions[place];
        session.sweep_at = None;
        let (removed, next) = session.queue.sweep(now);
        for held in removed.iter().filter_map(|removed| removed.entry.held()) {
            self.messages.release(held);
        }
        self.note_dropped(place, DropReason::Expired, removed.len() as u32, out);
        self.unwritten(place).header = true;
        if let Some(next) = next {
            self.sweep_by(place, next);
        }
    }

    /// The queue is to be searched soon after `at`, or before.
    pub(super) fn sweep_by(&mut self, place: SessionPlace, at: Millis) {
        let at = Millis((at.0 / SWEEP_INTERVAL_MILLIS).saturating_add(1).saturating_mul(SWEEP_INTERVAL_MILLIS));
        let session = &mut self.sessions[place];
        if session.sweep_at.is_some_and(|earlier| earlier <= at) {
            return;
        }
        if let Some(later) = session.sweep_at.replace(at) {
            self.deadlines.remove(&(later, Deadline::Sweep(session.client_id.clone())));
        }
        self.deadlines.insert((at, Deadline::Sweep(session.client_id.clone())));
        self.unwritten(place).header = true;
    }

    pub(super) fn forget_sweep(&mut self, place: SessionPlace) {
        let session = &mut self.sessions[place];
        if let Some(at) = session.sweep_at.take() {
            self.deadlines.remove(&(at, Deadline::Sweep(session.client_id.clone())));
        }
    }

    /// Neither the will nor the session's end waits any longer.
    pub(super) fn forget_deadlines(&mut self, place: SessionPlace) {
        let session = &mut self.sessions[place];
        if let Some(at) = session.will_due.take() {
            self.deadlines.remove(&(at, Deadline::Will(session.client_id.clone())));
        }
        if let Some(at) = session.expires_at.take() {
            self.deadlines.remove(&(at, Deadline::Session(session.client_id.clone())));
        }
    }
}
