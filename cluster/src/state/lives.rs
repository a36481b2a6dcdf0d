//! What waits for a session's time: its will and its end.
//! Always true: a will is taken from its session before it is published, so it can not be published twice; a deadline is
//! listed exactly as long as the session notes it.
//! Not here: what follows when the will or the end is due (`wills`, `expiry`).
use super::{
    Counters, Message, Moment,
    deadlines::{Deadline, Deadlines},
    session::NEVER,
    sessions::{SessionPlace, Sessions},
    wills::will_message,
};
use crate::ids::Millis;
use std::sync::Arc;

/// Changes what waits for a session's time.
pub(super) struct LifeHandler<'a> {
    sessions: &'a mut Sessions,
    deadlines: &'a mut Deadlines,
    counters: &'a mut Counters,
    now: Moment,
}

/// What the end of a connection brings at once.
pub(super) struct Settled {
    pub(super) will: Option<Arc<Message>>,
    pub(super) ends: bool,
}

impl<'a> LifeHandler<'a> {
    pub(super) fn new(
        sessions: &'a mut Sessions,
        deadlines: &'a mut Deadlines,
        counters: &'a mut Counters,
        now: Moment,
    ) -> Self {
        Self { sessions, deadlines, counters, now }
    }

    /// The will as a message; the session has none any more.
    pub(super) fn take_will(&mut self, place: SessionPlace) -> Option<Arc<Message>> {
        let session = &mut self.sessions[place];
        let will = session.take_will()?;
        Some(will_message(session, *will, self.now.time))
    }

    /// The client takes its will back.
    pub(super) fn withdraw_will(&mut self, place: SessionPlace) {
        if self.sessions[place].take_will().is_some() {
            self.sessions.unwritten(place).core = true;
        }
    }

    /// The client changes how long its session waits for it.
    pub(super) fn change_expiry(&mut self, place: SessionPlace, seconds: u32) {
        self.sessions[place].change_expiry(seconds);
    }

    /// The connection has ended: the will and the session wait from then on, or the time has come.
    pub(super) fn settle(&mut self, place: SessionPlace) -> Settled {
        self.sessions.unwritten(place).core = true;
        let session = &mut self.sessions[place];
        let since = session.disconnected_at().unwrap_or(self.now.time);
        let expiry = session.expiry_seconds();
        // The end of the session is the latest moment [MQTT-3.1.2-8].
        let delay = session.will().map(|will| will.delay_interval_seconds.min(expiry));
        if let Some(delay) = delay.filter(|delay| *delay > 0) {
            session.set_will_due(Some(after(since, delay)));
            self.deadlines.insert(after(since, delay), Deadline::Will(session.client_id().clone()));
        }
        if expiry != 0 && expiry != NEVER {
            session.set_expires_at(Some(after(since, expiry)));
            self.deadlines.insert(after(since, expiry), Deadline::Session(session.client_id().clone()));
        }
        let will = if delay == Some(0) { self.take_will(place) } else { None };
        Settled { will, ends: expiry == 0 }
    }

    /// The will's delay has passed.
    pub(super) fn take_due_will(&mut self, place: SessionPlace) -> Option<Arc<Message>> {
        self.sessions[place].set_will_due(None);
        let message = self.take_will(place)?;
        self.sessions.unwritten(place).core = true;
        Some(message)
    }

    /// The session's interval has passed. Its will, if it has one left.
    pub(super) fn expire(&mut self, place: SessionPlace) -> Option<Arc<Message>> {
        self.counters.sessions_expired += 1;
        self.sessions[place].set_expires_at(None);
        self.take_will(place)
    }

    /// Neither the will nor the session's end waits any longer.
    pub(super) fn forget_waits(&mut self, place: SessionPlace) {
        let session = &mut self.sessions[place];
        if let Some(at) = session.set_will_due(None) {
            self.deadlines.forget(at, Deadline::Will(session.client_id().clone()));
        }
        if let Some(at) = session.set_expires_at(None) {
            self.deadlines.forget(at, Deadline::Session(session.client_id().clone()));
        }
    }

    /// Whether the will is due, and the session's end; they are not listed any more.
    pub(super) fn take_due(&mut self, place: SessionPlace) -> (bool, bool) {
        let session = &self.sessions[place];
        let is_due = |at: Option<Millis>| at.filter(|at| *at <= self.now.time);
        let (will, end) = (is_due(session.will_due()), is_due(session.expires_at()));
        if let Some(at) = will {
            self.deadlines.forget(at, Deadline::Will(session.client_id().clone()));
        }
        if let Some(at) = end {
            self.deadlines.forget(at, Deadline::Session(session.client_id().clone()));
        }
        (will.is_some(), end.is_some())
    }

    /// What was due first, of everything.
    pub(super) fn pop_due(&mut self) -> Option<Deadline> {
        self.deadlines.pop_due(self.now.time)
    }
}

/// Saturates: an interval can not reach beyond the end of time.
fn after(time: Millis, seconds: u32) -> Millis {
    Millis(time.0.saturating_add(u64::from(seconds) * 1000))
}
