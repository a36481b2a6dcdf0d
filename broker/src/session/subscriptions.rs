//! SUBSCRIBE and UNSUBSCRIBE.
//! Always true: SUBACK leaves after every serving node routes to the filters (clean sessions) or the subscription is
//! durable (durable ones). Where other nodes exist, a clean session's subscription is made behind a barrier: what was
//! acknowledged before SUBSCRIBE is in this node's retained messages then, and comes from there, not as a live message as
//! well. Retained messages are read after SUBACK.
//! SUBACK and UNSUBACK are never larger than the client takes: a request that would need it ends the connection.
//! Not here: the replay of retained messages (`outgoing`).
use super::{
    ClientKind, Denied, Env, SessionError, SessionOptions,
    filters::Filters,
    outgoing::{Outgoing, Sending},
    requests::{Request, Requests},
};
use crate::ticket;
use bytes::BytesMut;
use mosquorum_cluster::{
    Answer,
    ids::Millis,
    state::{Command, Outcome},
};
use mosquorum_proto::mqtt::{
    Packet, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, Subscription, TopicFilter, Unsubscribe, encode,
};
use std::collections::VecDeque;

/// Filters of one command: a packet with more of them takes several, so that others' commands come in between.
const COMMAND_FILTERS: usize = 1000;

/// A SUBSCRIBE that waits for the cluster.
pub(super) struct PendingSubscribe {
    packet_id: u16,
    reasons: Vec<ReasonCode>,
    /// Accepted subscriptions, and whether they existed.
    accepted: Vec<(Subscription, bool)>,
    /// A durable session's: commands that are not answered yet, and how many of `accepted` are.
    commands: usize,
    answered: usize,
    identifier: Option<u32>,
    /// A clean session's: messages go to it.
    made: bool,
    since: Millis,
}

impl PendingSubscribe {
    pub(super) fn since(&self) -> Millis {
        self.since
    }

    /// A clean session's: messages go to the subscriptions from now on. Returns the filters that are new.
    fn make(&mut self, options: &SessionOptions, live: &mut Filters, env: &mut impl Env) -> Vec<TopicFilter> {
        let mut added = Vec::new();
        let may_merge = !options.is_v5();
        for (subscription, existed) in &mut self.accepted {
            *existed = env.subscribe_live(subscription, self.identifier, may_merge);
            live.insert(subscription.filter.clone());
            if !*existed {
                added.push(subscription.filter.clone());
            }
        }
        self.made = true;
        added
    }
}

/// An UNSUBSCRIBE of a durable session that waits for the cluster.
pub(super) struct PendingUnsubscribe {
    packet_id: u16,
    reasons: Vec<ReasonCode>,
    /// Places in `reasons` that commands answer, in their order, and how many of these are to come.
    waiting: VecDeque<usize>,
    commands: usize,
    since: Millis,
}

impl PendingUnsubscribe {
    pub(super) fn since(&self) -> Millis {
        self.since
    }
}

fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQos1,
        QoS::ExactlyOnce => ReasonCode::GrantedQos2,
    }
}

/// Makes and ends subscriptions. Of what is sent it touches only what [`Outgoing`] lets others do.
pub(super) struct Subscriptions<'a, E> {
    pub(super) options: &'a SessionOptions,
    /// Those of a session that is not durable.
    pub(super) live: &'a mut Filters,
    pub(super) requests: &'a mut Requests,
    pub(super) sending: &'a mut Sending,
    pub(super) env: &'a mut E,
}

impl<E: Env> Subscriptions<'_, E> {
    fn outgoing(&mut self) -> Outgoing<'_, E> {
        Outgoing { options: self.options, sending: self.sending, env: self.env }
    }

    pub(super) fn on_subscribe(&mut self, packet: Subscribe) -> Result<(), SessionError> {
        self.fits_client(packet.subscriptions.len())?;
        let mut pending = self.look_at(packet);
        if pending.accepted.is_empty() {
            self.finish_subscribe(pending);
        } else if self.options.durable {
            self.submit_subscribe(pending);
        } else if self.env.needs_barrier() {
            let number = self.requests.add(Request::Subscribe(pending));
            self.env.barrier(number);
        } else {
            self.take_in_arrived();
            pending.make(self.options, self.live, self.env);
            self.finish_subscribe(pending);
        }
        Ok(())
    }

    /// Which of the subscriptions are accepted, and as what.
    fn look_at(&mut self, packet: Subscribe) -> PendingSubscribe {
        let mut pending = PendingSubscribe {
            packet_id: packet.packet_id,
            reasons: Vec::with_capacity(packet.subscriptions.len()),
            accepted: Vec::with_capacity(packet.subscriptions.len()),
            commands: 0,
            answered: 0,
            identifier: packet.subscription_identifier,
            made: false,
            since: self.env.now(),
        };
        for mut subscription in packet.subscriptions {
            let Some(filter) = self.options.mount_point.filter(subscription.filter) else {
                pending.reasons.push(self.refused(ReasonCode::TopicFilterInvalid));
                continue;
            };
            subscription.filter = filter;
            subscription.qos = subscription.qos.min(self.options.max_qos);
            if self.options.kind == ClientKind::Bridge {
                subscription.no_local = subscription.filter.share_name().is_none();
                subscription.retain_as_published = true;
            }
            if self.env.may_subscribe(&subscription.filter) {
                pending.reasons.push(granted(subscription.qos));
                pending.accepted.push((subscription, false));
            } else {
                self.env.denied(Denied::Subscribe, subscription.filter.as_str());
                pending.reasons.push(self.refused(ReasonCode::NotAuthorized));
            }
        }
        pending
    }

    fn submit_subscribe(&mut self, mut pending: PendingSubscribe) {
        let command = |some: &[(Subscription, bool)]| Command::Subscribe {
            client_id: self.options.client_id.clone(),
            epoch: self.options.epoch.unwrap_or_default(),
            subscriptions: some.iter().map(|(subscription, _)| subscription.clone()).collect(),
            identifier: pending.identifier,
        };
        let commands: Vec<_> = pending.accepted.chunks(COMMAND_FILTERS).map(command).collect();
        pending.commands = commands.len();
        let number = self.requests.add(Request::Subscribe(pending));
        commands.into_iter().for_each(|command| self.env.submit(command, number));
    }

    /// An answer with a reason for each of so many filters must not be larger than the client takes [MQTT-3.1.2-24]; known
    /// before anything takes effect.
    fn fits_client(&self, filters: usize) -> Result<(), SessionError> {
        if self.options.client_maximum_packet_size == u32::MAX || !self.options.is_v5() {
            return Ok(());
        }
        let mut answer = BytesMut::new();
        let reasons = vec![ReasonCode::Success; filters];
        encode(&Packet::SubAck(SubAck::new(1, reasons)), self.options.version, &mut answer);
        if answer.len() <= self.options.client_maximum_packet_size as usize {
            return Ok(());
        }
        Err(SessionError::Peer(
            ReasonCode::PacketTooLarge,
            "the answer for so many filters is above the client's Maximum Packet Size [MQTT-3.1.2-24]",
        ))
    }

    /// Messages that went to this client before what it asks for now are sent before the answer.
    fn take_in_arrived(&mut self) {
        for delivery in self.env.arrived() {
            self.outgoing().on_delivery(delivery);
        }
    }

    /// Before 5.0 there is only one way to say no.
    fn refused(&self, reason: ReasonCode) -> ReasonCode {
        if self.options.is_v5() { reason } else { ReasonCode::UnspecifiedError }
    }

    /// What was acknowledged before this SUBSCRIBE is here. Those before it go first: a later one to the same filter replaces
    /// theirs, whichever barrier passes first.
    pub(super) fn on_barrier_passed(&mut self, number: u64) {
        let newest_first = self.requests.subscribes_up_to(number).rev();
        let waiting: Vec<_> = newest_first.take_while(|(_, pending)| !pending.made).collect();
        for (number, pending) in waiting.into_iter().rev() {
            let added = pending.make(self.options, self.live, self.env);
            // Also when nothing is new: what was told before may still be on its way.
            self.env.change_routes(added, Vec::new(), ticket::new(number, ticket::REQUEST));
        }
    }

    pub(super) fn on_subscribe_answer(&mut self, number: u64, mut pending: PendingSubscribe, answer: Answer) {
        if let Answer::Applied { outcome: Outcome::Subscribed { existed }, .. } = answer {
            let known = pending.accepted.iter_mut().skip(pending.answered).zip(&existed);
            known.for_each(|((_, before), existed)| *before = *existed);
            pending.answered += existed.len();
        }
        pending.commands = pending.commands.saturating_sub(1);
        if pending.commands > 0 {
            self.requests.put_back(number, Request::Subscribe(pending));
        } else {
            self.finish_subscribe(pending);
        }
    }

    fn finish_subscribe(&mut self, pending: PendingSubscribe) {
        self.env.count().subacks_sent += 1;
        let suback = SubAck::new(pending.packet_id, pending.reasons);
        encode(&Packet::SubAck(suback), self.options.version, self.env.out());
        for (subscription, existed) in pending.accepted {
            self.env.note_subscribed(&subscription.filter, subscription.qos);
            let wanted = match subscription.retain_handling {
                RetainHandling::SendAtSubscribe => true,
                RetainHandling::SendIfNew => !existed,
                RetainHandling::DoNotSend => false,
            };
            if wanted && subscription.filter.share_name().is_none() {
                self.outgoing().expect_retained(subscription, pending.identifier);
            }
        }
        self.outgoing().replay();
    }

    pub(super) fn on_unsubscribe(&mut self, packet: Unsubscribe) -> Result<(), SessionError> {
        self.fits_client(packet.filters.len())?;
        if !self.options.durable {
            self.take_in_arrived();
        }
        let mut reasons = vec![ReasonCode::Success; packet.filters.len()];
        let (mut waiting, mut filters, mut removed) = (VecDeque::new(), Vec::new(), Vec::new());
        for (place, filter) in packet.filters.into_iter().enumerate() {
            let Some(filter) = self.options.mount_point.filter(filter) else {
                reasons[place] = ReasonCode::NoSubscriptionExisted;
                continue;
            };
            if !self.env.may_unsubscribe(&filter) {
                self.env.denied(Denied::Unsubscribe, filter.as_str());
                reasons[place] = ReasonCode::NotAuthorized;
                continue;
            }
            self.env.note_unsubscribed(&filter);
            if self.options.durable {
                waiting.push_back(place);
                filters.push(filter);
            } else {
                self.unsubscribe_live(filter, &mut reasons[place], &mut removed);
            }
        }
        if !filters.is_empty() {
            let (packet_id, since) = (packet.packet_id, self.env.now());
            self.submit_unsubscribe(PendingUnsubscribe { packet_id, reasons, waiting, commands: 0, since }, &filters);
            return Ok(());
        }
        if !removed.is_empty() && self.env.needs_barrier() {
            let number = self.requests.add(Request::Ignored);
            self.env.change_routes(Vec::new(), removed, number);
        }
        self.send_unsuback(packet.packet_id, reasons);
        Ok(())
    }

    fn submit_unsubscribe(&mut self, mut pending: PendingUnsubscribe, filters: &[TopicFilter]) {
        let command = |some: &[TopicFilter]| Command::Unsubscribe {
            client_id: self.options.client_id.clone(),
            epoch: self.options.epoch.unwrap_or_default(),
            filters: some.to_vec(),
        };
        let commands: Vec<_> = filters.chunks(COMMAND_FILTERS).map(command).collect();
        pending.commands = commands.len();
        let number = self.requests.add(Request::Unsubscribe(pending));
        commands.into_iter().for_each(|command| self.env.submit(command, number));
    }

    fn unsubscribe_live(&mut self, filter: TopicFilter, reason: &mut ReasonCode, removed: &mut Vec<TopicFilter>) {
        self.live.remove(&filter);
        if self.env.unsubscribe_live(&filter) {
            removed.push(filter);
        } else {
            *reason = ReasonCode::NoSubscriptionExisted;
        }
    }

    pub(super) fn on_unsubscribe_answer(&mut self, number: u64, mut pending: PendingUnsubscribe, answer: Answer) {
        if let Answer::Applied { outcome: Outcome::Unsubscribed { existed }, .. } = answer {
            let answered = existed.into_iter().map_while(|existed| Some((existed, pending.waiting.pop_front()?)));
            for (existed, place) in answered {
                if !existed {
                    pending.reasons[place] = ReasonCode::NoSubscriptionExisted;
                }
            }
        }
        if pending.commands > 1 {
            pending.commands -= 1;
            self.requests.put_back(number, Request::Unsubscribe(pending));
        } else {
            self.send_unsuback(pending.packet_id, pending.reasons);
        }
    }

    fn send_unsuback(&mut self, packet_id: u16, reasons: Vec<ReasonCode>) {
        self.env.count().unsubacks_sent += 1;
        let reasons = if self.options.is_v5() { reasons } else { Vec::new() };
        encode(&Packet::UnsubAck(SubAck::new(packet_id, reasons)), self.options.version, self.env.out());
    }

    /// The connection is over: takes back live subscriptions.
    pub(super) fn end(&mut self) {
        let filters = self.live.drain().into_iter();
        let removed: Vec<TopicFilter> = filters.filter(|filter| self.env.unsubscribe_live(filter)).collect();
        if !removed.is_empty() {
            self.env.change_routes(Vec::new(), removed, self.requests.last_ticket());
        }
    }
}
