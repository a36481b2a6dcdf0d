//! Connections and sessions: who owns a client identifier, and how sessions begin, go on and end.
//! Always true: every connection has an epoch larger than all before it; the one before is told to close (fenced) and
//! none of its later commands has an effect; a session that ends leaves nothing behind but, perhaps, its will.
//!
//! The end of a session concerns all that is kept for it, and its will is published like every message. So
//! [`SessionHandler`] holds the handlers of these concerns and asks them; it reaches no field of theirs.
//!
//! Wills at a new connection: a session that ends (Clean Start, or no interval) publishes its will at once, whatever its
//! delay [MQTT-3.1.2-8]; one that goes on drops it, be it waiting [MQTT-3.1.3-9] or of a connection that is taken over. The
//! latter is Mosquitto's choice where it has no delay (the comment in section 3.1.4 would have it published).
use super::{
    ConnectCommand, DisconnectCommand, Effect, Outcome, Session,
    deliver::DeliveryHandler,
    effects::Effects,
    lives::{LifeHandler, Settled},
    publish::PublishHandler,
    queues::QueueHandler,
    routing::RouteHandler,
    sessions::SessionPlace,
    steps::Steps,
    subscribe::SubscriptionHandler,
};
use crate::ids::Epoch;
use mosquorum_proto::mqtt::Utf8;

/// Begins and ends sessions.
pub(super) struct SessionHandler<'a> {
    publishing: PublishHandler<'a>,
}

/// What it is composed of.
impl<'a> SessionHandler<'a> {
    pub(super) fn new(publishing: PublishHandler<'a>) -> Self {
        Self { publishing }
    }

    pub(super) fn publishing(&mut self) -> &mut PublishHandler<'a> {
        &mut self.publishing
    }

    pub(super) fn subscriptions(&mut self) -> SubscriptionHandler<'_, 'a> {
        self.publishing.subscriptions()
    }

    pub(super) fn delivery(&mut self) -> &mut DeliveryHandler<'a> {
        self.publishing.delivery()
    }

    pub(super) fn routing(&mut self) -> &mut RouteHandler<'a> {
        self.publishing.routing()
    }

    pub(super) fn queues(&mut self) -> &mut QueueHandler<'a> {
        self.publishing.queues()
    }

    pub(super) fn lives(&mut self) -> LifeHandler<'_> {
        self.publishing.queues().lives()
    }

    pub(super) fn steps(&mut self) -> &mut Steps {
        self.publishing.delivery().steps()
    }

    pub(super) fn find(&mut self, client_id: &Utf8) -> Option<SessionPlace> {
        self.queues().sessions().find(client_id)
    }

    pub(super) fn session(&mut self, place: SessionPlace) -> &Session {
        &self.queues().sessions()[place]
    }
}

impl SessionHandler<'_> {
    /// The owner's incarnation must be one that may own sessions.
    pub(super) fn connect(&mut self, command: &ConnectCommand, epoch: Epoch, out: &mut Effects<'_>) -> Outcome {
        self.work_off(&command.client_id, out);
        let (mut previous, mut resumed) = (None, None);
        if let Some(place) = self.find(&command.client_id) {
            let session = self.session(place);
            if command.same_user && session.username() != command.username.as_ref() {
                return Outcome::OtherUsers;
            }
            previous = session.owner().map(|owner| (owner, session.epoch()));
            if let Some((owner, epoch)) = previous.filter(|(owner, _)| *owner != command.owner) {
                let client_id = command.client_id.clone();
                out.add(Effect::Fence { owner, client_id, epoch, administrative: false });
            }
            resumed = self.give_up(place, command.clean_start, out);
        }
        let session_present = resumed.is_some();
        if resumed.is_some() || command.expiry_seconds > 0 || command.will.is_some() {
            let place = resumed.unwrap_or_else(|| self.queues().begin_session(command.client_id.clone()));
            self.routing().attach(place, command, epoch);
        }
        Outcome::Connected { epoch, session_present, previous }
    }

    /// Frees the client identifier for a new connection; returns the session if it goes on.
    fn give_up(&mut self, place: SessionPlace, clean_start: bool, out: &mut Effects<'_>) -> Option<SessionPlace> {
        let session = self.session(place);
        let ends = clean_start || session.expiry_seconds() == 0;
        let connected = session.is_connected();
        let mut lives = self.lives();
        let last_will = lives.take_will(place).filter(|_| ends);
        lives.forget_waits(place);
        if connected {
            self.routing().leave_now(place);
        }
        if ends {
            self.end_session(place, out);
        }
        if let Some(message) = last_will {
            self.publish_will(message, &[], out);
        }
        (!ends).then_some(place)
    }

    /// The connection ended: the will and the session wait from now on, or end.
    pub(super) fn disconnect(&mut self, place: SessionPlace, command: &DisconnectCommand, out: &mut Effects<'_>) {
        let now = self.queues().now().time;
        if let Some(seconds) = command.expiry_seconds {
            self.lives().change_expiry(place, seconds);
        }
        self.routing().leave(place, command.sent_before, now);
        if command.discard_will {
            self.lives().take_will(place);
        }
        self.settle(place, &command.unreadable, out);
    }

    /// What follows from the end of the connection, counted from that time.
    /// `unreadable`: sessions that may not read the will.
    pub(super) fn settle(&mut self, place: SessionPlace, unreadable: &[Epoch], out: &mut Effects<'_>) {
        let Settled { will, ends } = self.lives().settle(place);
        if ends {
            self.end_session(place, out);
        }
        if let Some(message) = will {
            self.publish_will(message, unreadable, out);
        }
    }

    pub(super) fn end_by_operator(&mut self, client_id: &Utf8, out: &mut Effects<'_>) {
        self.work_off(client_id, out);
        let Some(place) = self.find(client_id) else { return };
        let will = self.lives().take_will(place);
        let session = self.session(place);
        if let Some(owner) = session.owner() {
            let (client_id, epoch) = (client_id.clone(), session.epoch());
            out.add(Effect::Fence { owner, client_id, epoch, administrative: true });
            self.routing().leave_now(place);
        }
        self.end_session(place, out);
        if let Some(message) = will {
            self.publish_will(message, &[], out);
        }
    }

    /// Removes subscriptions, queue and QoS 2 state.
    fn strip(&mut self, place: SessionPlace, out: &mut Effects<'_>) {
        self.routing().note_changed_of(place);
        let filters: Vec<_> = self.session(place).subscriptions().keys().cloned().collect();
        for filter in &filters {
            self.subscriptions().remove(place, filter);
        }
        self.queues().forget_inbound(place);
        let removed = self.queues().take_out(place, |_, _| true);
        self.delivery().give_to_group(place, removed, out);
        self.queues().forget_sweep(place);
        self.queues().note_changed(place);
    }

    /// Removes the session, which must not be connected. Its will must have been taken care of.
    pub(super) fn end_session(&mut self, place: SessionPlace, out: &mut Effects<'_>) {
        if self.is_large(place) {
            return self.lay_aside(place, out);
        }
        let session = self.session(place);
        let work = session.subscriptions().len() + session.queue().len();
        self.steps().take(work);
        self.strip(place, out);
        self.lives().forget_waits(place);
        self.queues().remove_session(place);
    }
}
