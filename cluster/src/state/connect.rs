//! Connections and sessions: who owns a client identifier, and how sessions begin, go on and end.
//! Always true: every connection has an epoch larger than all before it; the one before is told to close (fenced) and
//! none of its later commands has an effect; a session that ends leaves nothing behind but, perhaps, its will.
//!
//! Wills at a new connection: a session that ends (Clean Start, or no interval) publishes its will at once, whatever its
//! delay [MQTT-3.1.2-8]; one that goes on drops it, be it waiting [MQTT-3.1.3-9] or of a connection that is taken over. The
//! latter is Mosquitto's choice where it has no delay (the comment in section 3.1.4 would have it published).
use super::{
    ConnectCommand, DisconnectCommand, Effect, Outcome, Owner, SessionPlace, State,
    changes::Gone,
    expiry::Deadline,
    members::Presence,
    session::{NEVER, Session},
};
use crate::ids::{Epoch, Millis};
use mosquorum_proto::mqtt::{QoS, Utf8};

impl State {
    pub(super) fn connect(&mut self, command: &ConnectCommand, epoch: Epoch, out: &mut Vec<Effect>) -> Outcome {
        if !self.nodes.may_own(&command.owner) {
            return Outcome::Superseded;
        }
        self.work_off(&command.client_id, out);
        let (mut previous, mut resumed) = (None, None);
        if let Some(place) = self.sessions.find(&command.client_id) {
            let session = &self.sessions[place];
            if command.same_user && session.username != command.username {
                return Outcome::OtherUsers;
            }
            previous = session.owner.map(|owner| (owner, session.epoch));
            if let Some((owner, epoch)) = previous.filter(|(owner, _)| *owner != command.owner) {
                let client_id = command.client_id.clone();
                self.add_effect(Effect::Fence { owner, client_id, epoch, administrative: false }, out);
            }
            resumed = self.give_up(place, command.clean_start, out);
        }
        let session_present = resumed.is_some();
        if resumed.is_some() || command.expiry_seconds > 0 || command.will.is_some() {
            let place = resumed.unwrap_or_else(|| self.sessions.add(Session::new(command.client_id.clone())));
            self.take_over(place, command, epoch);
            self.routes_changed_of(place);
        }
        Outcome::Connected { epoch, session_present, previous }
    }

    /// Frees the client identifier for a new connection; returns the session if it goes on.
    fn give_up(&mut self, place: SessionPlace, clean_start: bool, out: &mut Vec<Effect>) -> Option<SessionPlace> {
        let session = &mut self.sessions[place];
        let ends = clean_start || session.expiry_seconds == 0;
        let will = session.will.take();
        let connected = session.is_connected();
        self.forget_deadlines(place);
        let last_will = will.filter(|_| ends).map(|will| self.will_message(place, *will));
        if connected {
            let tail = self.sessions[place].queue.tail();
            self.leave(place, tail, self.time);
        }
        if ends {
            self.end_session(place, out);
        }
        if let Some(message) = last_will {
            self.publish_will(message, &[], out);
        }
        (!ends).then_some(place)
    }

    fn take_over(&mut self, place: SessionPlace, command: &ConnectCommand, epoch: Epoch) {
        let session = &mut self.sessions[place];
        session.username = command.username.clone();
        session.epoch = epoch;
        session.owner = Some(command.owner);
        self.owned.insert((command.owner.node, command.owner.incarnation, epoch), place);
        session.expiry_seconds = command.expiry_seconds;
        session.disconnected_at = None;
        session.will = command.will.clone().map(Box::new);
        session.limits = command.limits;
        session.door = command.door;
        session.queue.connect(command.limits.inflight);
        self.connected += 1;
        self.set_presence_in_groups(place);
        self.unwritten(place).core = true;
        self.unwritten(place).header = true;
    }

    pub(super) fn disconnect(&mut self, command: &DisconnectCommand, out: &mut Vec<Effect>) -> Outcome {
        let Some(place) = self.owned(&command.client_id, command.epoch) else { return Outcome::Superseded };
        let session = &mut self.sessions[place];
        if let Some(seconds) = command.expiry_seconds
            && session.expiry_seconds != 0
        {
            session.expiry_seconds = seconds;
        }
        self.close(place, command.sent_before, command.discard_will, &command.unreadable, out);
        Outcome::Done
    }

    /// The connection ended: the will and the session wait from now on, or end.
    fn close(
        &mut self,
        place: SessionPlace,
        sent_before: u64,
        discard_will: bool,
        unreadable: &[Epoch],
        out: &mut Vec<Effect>,
    ) {
        self.leave(place, sent_before, self.time);
        if discard_will {
            self.sessions[place].will = None;
        }
        self.settle(place, unreadable, out);
    }

    /// What follows from the end of the connection, counted from that time.
    /// `unreadable`: sessions that may not read the will.
    pub(super) fn settle(&mut self, place: SessionPlace, unreadable: &[Epoch], out: &mut Vec<Effect>) {
        self.unwritten(place).core = true;
        let session = &mut self.sessions[place];
        let since = session.disconnected_at.unwrap_or(self.time);
        let expiry = session.expiry_seconds;
        // The end of the session is the latest moment [MQTT-3.1.2-8].
        let delay = session.will.as_ref().map(|will| will.delay_interval_seconds.min(expiry));
        let mut last_will = None;
        match delay {
            None => {}
            Some(0) => last_will = session.will.take(),
            Some(delay) => {
                session.will_due = Some(after(since, delay));
                let deadline = Deadline::Will(session.client_id.clone());
                self.deadlines.insert((after(since, delay), deadline));
            }
        }
        let last_will = last_will.map(|will| self.will_message(place, *will));
        match expiry {
            0 => self.end_session(place, out),
            NEVER => {}
            seconds => {
                let session = &mut self.sessions[place];
                session.expires_at = Some(after(since, seconds));
                self.deadlines.insert((after(since, seconds), Deadline::Session(session.client_id.clone())));
            }
        }
        if let Some(message) = last_will {
            self.publish_will(message, unreadable, out);
        }
    }

    /// Messages for the session take another way.
    fn routes_changed_of(&mut self, place: SessionPlace) {
        self.route_changes.changed_each(self.sessions[place].subscriptions.keys());
    }

    /// The session has had no connection since then.
    pub(super) fn leave(&mut self, place: SessionPlace, sent_before: u64, since: Millis) {
        let session = &mut self.sessions[place];
        if let Some(Owner { node, incarnation, .. }) = session.owner.take() {
            self.owned.remove(&(node, incarnation, session.epoch));
        }
        session.disconnected_at = Some(since);
        session.queue.disconnect(sent_before);
        // QoS 0 is not sent twice.
        let sent = session.queue.remove_where(|entry, maybe_sent| maybe_sent && entry.qos() == QoS::AtMostOnce);
        let expiring = session.queue.has_expiring();
        for held in sent.iter().filter_map(|removed| removed.entry.held()) {
            self.messages.release(held);
        }
        self.connected -= 1;
        self.routes_changed_of(place);
        self.set_presence_in_groups(place);
        self.unwritten(place).core = true;
        self.unwritten(place).header = true;
        if expiring {
            self.sweep_by(place, self.time);
        }
    }

    pub(super) fn end_by_operator(&mut self, client_id: &Utf8, out: &mut Vec<Effect>) -> Outcome {
        self.work_off(client_id, out);
        let Some(place) = self.sessions.find(client_id) else { return Outcome::Done };
        let session = &mut self.sessions[place];
        let (owner, epoch, will) = (session.owner, session.epoch, session.will.take());
        if let Some(owner) = owner {
            let client_id = client_id.clone();
            self.add_effect(Effect::Fence { owner, client_id, epoch, administrative: true }, out);
            let tail = self.sessions[place].queue.tail();
            self.leave(place, tail, self.time);
        }
        let message = will.map(|will| self.will_message(place, *will));
        self.end_session(place, out);
        if let Some(message) = message {
            self.publish_will(message, &[], out);
        }
        Outcome::Done
    }

    /// Removes subscriptions, queue and QoS 2 state.
    fn strip(&mut self, place: SessionPlace, out: &mut Vec<Effect>) {
        self.routes_changed_of(place);
        let filters: Vec<_> = self.sessions[place].subscriptions.keys().cloned().collect();
        for filter in &filters {
            self.remove_subscription(place, filter);
        }
        let session = &mut self.sessions[place];
        session.inbound = Vec::new();
        let removed = session.queue.remove_where(|_, _| true);
        self.give_to_group(place, removed, out);
        self.forget_sweep(place);
        self.unwritten(place).inbound = true;
        self.unwritten(place).header = true;
    }

    /// Removes the session, which must not be connected. Its will must have been taken care of.
    pub(super) fn end_session(&mut self, place: SessionPlace, out: &mut Vec<Effect>) {
        if self.is_large(place) {
            return self.lay_aside(place, out);
        }
        self.steps.take(self.sessions[place].subscriptions.len() + self.sessions[place].queue.len());
        self.strip(place, out);
        self.forget_deadlines(place);
        let session = self.sessions.remove(place);
        if session.written {
            self.ended.push(Gone {
                client_id: session.client_id,
                whole: true,
                filters: session.unwritten.filters.into_iter().collect(),
                entries: session.queue.removed,
                entries_from: 0..0,
            });
        }
    }

    fn set_presence_in_groups(&mut self, place: SessionPlace) {
        let session = &self.sessions[place];
        if session.shared > 0 {
            let presence = Presence::of(session);
            for (filter, record) in session.subscriptions.iter().filter(|(filter, _)| filter.share_name().is_some()) {
                self.groups.set_presence(filter, record.since, presence);
            }
        }
    }
}

/// Saturates: an interval can not reach beyond the end of time.
pub(super) fn after(time: Millis, seconds: u32) -> Millis {
    Millis(time.0.saturating_add(u64::from(seconds) * 1000))
}
