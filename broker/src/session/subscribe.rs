//! SUBSCRIBE and UNSUBSCRIBE, and the replay of retained messages that follows a SUBACK.
//! Always true: SUBACK leaves after every serving node routes to the filters (clean sessions) or the subscription is
//! durable (durable ones). Where other nodes exist, a clean session's subscription is made behind a barrier: what was
//! acknowledged before SUBSCRIBE is in this node's retained messages then, and comes from there, not as a live message as
//! well. Retained messages are read after SUBACK; live messages wait until the replay is through.
//! SUBACK and UNSUBACK are never larger than the client takes: a request that would need it ends the connection.
use super::{Denied, Env, Session, SessionError, outbox::Outbox};
use crate::{live::Delivery, ticket};
use bytes::BytesMut;
use mosquorum_cluster::{
    Answer,
    ids::Millis,
    state::{Command, DeliveryOptions, Message, Outcome},
};
use mosquorum_proto::mqtt::{
    Packet, ProtocolVersion, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, Subscription, TopicFilter, TopicName,
    Unsubscribe, encode,
};
use std::{collections::VecDeque, sync::Arc};

/// Retained messages read from the state at once, so that its lock is held briefly.
const REPLAY_CHUNK: usize = 128;
/// Reads of the retained messages in one turn, each of which looks at so many names at most as the state allows.
const REPLAY_READS_MAX: usize = 4;

/// Filters of one command: a packet with more of them takes several, so that others' commands come in between.
const COMMAND_FILTERS: usize = 1000;

/// What a ticket stands for.
pub(super) enum Request {
    Subscribe(PendingSubscribe),
    Unsubscribe {
        packet_id: u16,
        reasons: Vec<ReasonCode>,
        /// Places in `reasons` that commands answer, in their order, and how many of these are to come.
        waiting: VecDeque<usize>,
        commands: usize,
        since: Millis,
    },
    PubRel {
        packet_id: u16,
        since: Millis,
    },
    /// PUBREC of a durable subscriber is durable: PUBREL may be sent.
    Release(Vec<u16>),
    Ignored,
}

pub(super) struct PendingSubscribe {
    packet_id: u16,
    reasons: Vec<ReasonCode>,
    /// Accepted subscriptions, whether they existed, and their place in `reasons`.
    accepted: Vec<(Subscription, bool)>,
    /// A durable session's: commands that are not answered yet, and how many of `accepted` are.
    commands: usize,
    answered: usize,
    identifier: Option<u32>,
    /// A clean session's: messages go to it.
    made: bool,
    since: Millis,
}

impl Request {
    pub(super) fn since(&self) -> Option<Millis> {
        match self {
            Self::Subscribe(pending) => Some(pending.since),
            Self::Unsubscribe { since, .. } | Self::PubRel { since, .. } => Some(*since),
            Self::Release(_) | Self::Ignored => None,
        }
    }
}

/// Retained messages still to be sent for one subscription.
pub(super) struct Replay {
    subscription: Subscription,
    identifier: Option<u32>,
    cursor: Option<TopicName>,
}

fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQos1,
        QoS::ExactlyOnce => ReasonCode::GrantedQos2,
    }
}

impl Session {
    pub(super) fn on_subscribe(&mut self, packet: Subscribe, env: &mut impl Env) -> Result<(), SessionError> {
        self.fits_client(packet.subscriptions.len())?;
        let mut pending = PendingSubscribe {
            packet_id: packet.packet_id,
            reasons: Vec::with_capacity(packet.subscriptions.len()),
            accepted: Vec::with_capacity(packet.subscriptions.len()),
            commands: 0,
            answered: 0,
            identifier: packet.subscription_identifier,
            made: false,
            since: env.now(),
        };
        for mut subscription in packet.subscriptions {
            let Some(filter) = self.options.mount_point.filter(subscription.filter) else {
                pending.reasons.push(self.refused(ReasonCode::TopicFilterInvalid));
                continue;
            };
            subscription.filter = filter;
            subscription.qos = subscription.qos.min(self.options.max_qos);
            if self.options.bridge {
                subscription.no_local = subscription.filter.share_name().is_none();
                subscription.retain_as_published = true;
            }
            if env.may_subscribe(&subscription.filter) {
                pending.reasons.push(granted(subscription.qos));
                pending.accepted.push((subscription, false));
            } else {
                env.denied(Denied::Subscribe, subscription.filter.as_str());
                pending.reasons.push(self.refused(ReasonCode::NotAuthorized));
            }
        }
        if pending.accepted.is_empty() {
            self.finish_subscribe(pending, env);
        } else if self.options.durable {
            let command = |some: &[(Subscription, bool)]| Command::Subscribe {
                client_id: self.options.client_id.clone(),
                epoch: self.options.epoch.unwrap_or_default(),
                subscriptions: some.iter().map(|(subscription, _)| subscription.clone()).collect(),
                identifier: pending.identifier,
            };
            let commands: Vec<_> = pending.accepted.chunks(COMMAND_FILTERS).map(command).collect();
            pending.commands = commands.len();
            let number = self.request(Request::Subscribe(pending));
            commands.into_iter().for_each(|command| env.submit(command, number));
        } else if env.needs_barrier() {
            let number = self.request(Request::Subscribe(pending));
            env.barrier(number);
        } else {
            self.take_in_arrived(env);
            self.subscribe_live(&mut pending, env);
            self.finish_subscribe(pending, env);
        }
        Ok(())
    }

    /// An answer with a reason for each of so many filters must not be larger than the client takes [MQTT-3.1.2-24]; known
    /// before anything takes effect.
    fn fits_client(&self, filters: usize) -> Result<(), SessionError> {
        if self.options.client_maximum_packet_size == u32::MAX || !self.is_v5() {
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
    fn take_in_arrived(&mut self, env: &mut impl Env) {
        for delivery in env.arrived() {
            self.on_delivery(delivery, env);
        }
    }

    /// Before 5.0 there is only one way to say no.
    fn refused(&self, reason: ReasonCode) -> ReasonCode {
        if self.is_v5() { reason } else { ReasonCode::UnspecifiedError }
    }

    /// Messages go to the subscriptions from now on. Returns the filters that are new.
    fn subscribe_live(&mut self, pending: &mut PendingSubscribe, env: &mut impl Env) -> Vec<TopicFilter> {
        let mut added = Vec::new();
        let may_merge = self.options.version != ProtocolVersion::V5;
        for (subscription, existed) in &mut pending.accepted {
            *existed = env.subscribe_live(subscription, pending.identifier, may_merge);
            self.live.insert(subscription.filter.clone());
            if !*existed {
                added.push(subscription.filter.clone());
            }
        }
        pending.made = true;
        added
    }

    /// What was acknowledged before this SUBSCRIBE is here. Those before it go first: a later one to the same filter replaces
    /// theirs, whichever barrier passes first.
    fn on_barrier_passed(&mut self, number: u64, env: &mut impl Env) {
        let mut requests = std::mem::take(&mut self.requests);
        let mut waiting = Vec::new();
        for (number, request) in requests.range_mut(..=number).rev() {
            match request {
                Request::Subscribe(pending) if pending.made => break,
                Request::Subscribe(pending) => waiting.push((*number, pending)),
                _ => {}
            }
        }
        for (number, pending) in waiting.into_iter().rev() {
            let added = self.subscribe_live(pending, env);
            // Also when nothing is new: what was told before may still be on its way.
            env.change_routes(added, Vec::new(), ticket::new(number, ticket::REQUEST));
        }
        self.requests = requests;
    }

    pub(super) fn on_request_answer(
        &mut self,
        number: u64,
        answer: Answer,
        env: &mut impl Env,
    ) -> Result<(), SessionError> {
        if matches!(answer, Answer::Applied { outcome: Outcome::Superseded, .. }) {
            return Err(SessionError::Superseded);
        }
        if matches!(answer, Answer::BarrierPassed) {
            self.on_barrier_passed(number, env);
            return Ok(());
        }
        let Some(request) = self.requests.remove(&number) else { return Ok(()) };
        match (request, answer) {
            (Request::Subscribe(mut pending), answer) => {
                if let Answer::Applied { outcome: Outcome::Subscribed { existed }, .. } = answer {
                    let known = pending.accepted.iter_mut().skip(pending.answered).zip(&existed);
                    known.for_each(|((_, before), existed)| *before = *existed);
                    pending.answered += existed.len();
                }
                pending.commands = pending.commands.saturating_sub(1);
                if pending.commands > 0 {
                    self.requests.insert(number, Request::Subscribe(pending));
                    return Ok(());
                }
                self.subscribing -= 1;
                self.finish_subscribe(pending, env);
            }
            (Request::Unsubscribe { packet_id, mut reasons, mut waiting, commands, since }, answer) => {
                if let Answer::Applied { outcome: Outcome::Unsubscribed { existed }, .. } = answer {
                    for (existed, place) in
                        existed.into_iter().map_while(|existed| Some((existed, waiting.pop_front()?)))
                    {
                        if !existed {
                            reasons[place] = ReasonCode::NoSubscriptionExisted;
                        }
                    }
                }
                if commands > 1 {
                    let rest = Request::Unsubscribe { packet_id, reasons, waiting, commands: commands - 1, since };
                    self.requests.insert(number, rest);
                    return Ok(());
                }
                self.unsubscribing -= 1;
                self.send_unsuback(packet_id, reasons, env);
            }
            (Request::PubRel { packet_id, .. }, Answer::Applied { .. }) => self.complete_release(packet_id, env),
            (Request::Release(packet_ids), _) => {
                if let Outbox::Durable(outbox) = &mut self.outbox {
                    outbox.send_pubrels(&packet_ids, env);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn finish_subscribe(&mut self, pending: PendingSubscribe, env: &mut impl Env) {
        env.count().subacks_sent += 1;
        let suback = SubAck::new(pending.packet_id, pending.reasons);
        encode(&Packet::SubAck(suback), self.options.version, env.out());
        for (subscription, existed) in pending.accepted {
            env.note_subscribed(&subscription.filter, subscription.qos);
            let wanted = match subscription.retain_handling {
                RetainHandling::SendAtSubscribe => true,
                RetainHandling::SendIfNew => !existed,
                RetainHandling::DoNotSend => false,
            };
            if wanted && subscription.filter.share_name().is_none() {
                self.replays.push_back(Replay { subscription, identifier: pending.identifier, cursor: None });
            }
        }
        self.replay(env);
    }

    /// Whether a search for retained messages goes on with nothing else to wait for. Others have their turn first: a filter
    /// that matches little may look at very many names.
    pub fn wants_turn(&self, env: &impl Env) -> bool {
        !self.replays.is_empty() && !env.out_congested() && self.outbox.takes_replay()
    }

    /// Sends retained messages while there is room; called again when `out` has drained, or in the next turn.
    pub(super) fn replay(&mut self, env: &mut impl Env) {
        let mut found = Vec::new();
        let mut reads = 0;
        while reads < REPLAY_READS_MAX && !env.out_congested() && self.outbox.takes_replay() {
            reads += 1;
            let Some(replay) = self.replays.front_mut() else { break };
            let next = env.retained(&replay.subscription.filter, replay.cursor.take(), REPLAY_CHUNK, &mut found);
            let (subscription, identifier) = (replay.subscription.clone(), replay.identifier);
            match next {
                Some(cursor) => replay.cursor = Some(cursor),
                None => {
                    self.replays.pop_front();
                }
            }
            for message in found.drain(..) {
                self.send_retained(&subscription, identifier, message, env);
            }
        }
        if self.replays.is_empty() {
            // An idle session keeps no room for them.
            self.replays = Default::default();
            for delivery in self.held.take() {
                self.outbox.on_delivery(delivery, &self.options, &mut self.aliases_out, false, env);
            }
        }
    }

    fn send_retained(
        &mut self,
        subscription: &Subscription,
        identifier: Option<u32>,
        message: Arc<Message>,
        env: &mut impl Env,
    ) {
        let upgrade = self.options.limits.upgrade_qos;
        let mut qos = if upgrade { subscription.qos } else { subscription.qos.min(message.qos) };
        if self.options.durable && message.is_node_local() {
            qos = QoS::AtMostOnce;
        }
        // The state has queued these for a durable session together with the subscription.
        let queued_already = self.options.durable && qos != QoS::AtMostOnce;
        if queued_already || (subscription.no_local && message.publisher_id == self.options.client_id) {
            return;
        }
        let options = DeliveryOptions { qos, retain: true, identifiers: identifier.into_iter().collect() };
        let delivery = Delivery { message, options, group: None };
        self.outbox.on_delivery(delivery, &self.options, &mut self.aliases_out, true, env);
    }

    pub(super) fn on_unsubscribe(&mut self, packet: Unsubscribe, env: &mut impl Env) -> Result<(), SessionError> {
        self.fits_client(packet.filters.len())?;
        if !self.options.durable {
            self.take_in_arrived(env);
        }
        let mut reasons = vec![ReasonCode::Success; packet.filters.len()];
        let (mut waiting, mut filters, mut removed) = (VecDeque::new(), Vec::new(), Vec::new());
        for (place, filter) in packet.filters.into_iter().enumerate() {
            let Some(filter) = self.options.mount_point.filter(filter) else {
                reasons[place] = ReasonCode::NoSubscriptionExisted;
                continue;
            };
            if !env.may_unsubscribe(&filter) {
                env.denied(Denied::Unsubscribe, filter.as_str());
                reasons[place] = ReasonCode::NotAuthorized;
                continue;
            }
            env.note_unsubscribed(&filter);
            if self.options.durable {
                waiting.push_back(place);
                filters.push(filter);
            } else {
                self.unsubscribe_live(filter, &mut reasons[place], &mut removed, env);
            }
        }
        if !filters.is_empty() {
            let command = |some: &[TopicFilter]| Command::Unsubscribe {
                client_id: self.options.client_id.clone(),
                epoch: self.options.epoch.unwrap_or_default(),
                filters: some.to_vec(),
            };
            let submitted: Vec<_> = filters.chunks(COMMAND_FILTERS).map(command).collect();
            let (packet_id, commands, since) = (packet.packet_id, submitted.len(), env.now());
            let number = self.request(Request::Unsubscribe { packet_id, reasons, waiting, commands, since });
            submitted.into_iter().for_each(|command| env.submit(command, number));
            return Ok(());
        }
        if !removed.is_empty() && env.needs_barrier() {
            let number = self.request(Request::Ignored);
            env.change_routes(Vec::new(), removed, number);
        }
        self.send_unsuback(packet.packet_id, reasons, env);
        Ok(())
    }

    fn unsubscribe_live(
        &mut self,
        filter: TopicFilter,
        reason: &mut ReasonCode,
        removed: &mut Vec<TopicFilter>,
        env: &mut impl Env,
    ) {
        self.live.remove(&filter);
        if env.unsubscribe_live(&filter) {
            removed.push(filter);
        } else {
            *reason = ReasonCode::NoSubscriptionExisted;
        }
    }

    fn send_unsuback(&mut self, packet_id: u16, reasons: Vec<ReasonCode>, env: &mut impl Env) {
        env.count().unsubacks_sent += 1;
        let reasons = if self.options.version == ProtocolVersion::V5 { reasons } else { Vec::new() };
        encode(&Packet::UnsubAck(SubAck::new(packet_id, reasons)), self.options.version, env.out());
    }
}
