//! Which part of a session gets which input.
//! Always true: a packet is handled when what came before it has taken effect as far as it depends on that, and in its turn.
//! Not here: what the parts do with it (`inbound`, `subscriptions`, `outgoing`).
use super::{
    Ending, Env, SessionError, SessionOptions,
    filters::Filters,
    inbound::{Inbound, Receiving},
    outbox::Acks,
    outgoing::{Outgoing, Sending},
    requests::{Request, Requests},
    subscriptions::Subscriptions,
};
use crate::{live::Delivery, ticket};
use mosquorum_cluster::{
    Answer,
    ids::Millis,
    state::{Command, DisconnectCommand, Outcome},
};
use mosquorum_proto::mqtt::{Disconnect, Packet, ReasonCode};
use std::{collections::VecDeque, sync::Arc};

/// One connected client's session.
pub struct Session {
    pub options: SessionOptions,
    receiving: Receiving,
    sending: Sending,
    /// Live subscriptions (of sessions that are not durable).
    live: Filters,
    requests: Requests,
    /// Packets that wait until what came before them has taken effect.
    deferred: VecDeque<Packet>,
}

impl Session {
    pub fn new(options: SessionOptions) -> Self {
        Self {
            receiving: Receiving::new(&options),
            sending: Sending::new(&options),
            live: Filters::default(),
            requests: Requests::default(),
            deferred: VecDeque::new(),
            options,
        }
    }

    #[inline]
    fn inbound<'a, E: Env>(&'a mut self, env: &'a mut E) -> Inbound<'a, E> {
        Inbound { options: &self.options, receiving: &mut self.receiving, requests: &mut self.requests, env }
    }

    #[inline]
    fn subscriptions<'a, E: Env>(&'a mut self, env: &'a mut E) -> Subscriptions<'a, E> {
        Subscriptions {
            options: &self.options,
            live: &mut self.live,
            requests: &mut self.requests,
            sending: &mut self.sending,
            env,
        }
    }

    #[inline]
    fn outgoing<'a, E: Env>(&'a mut self, env: &'a mut E) -> Outgoing<'a, E> {
        Outgoing { options: &self.options, sending: &mut self.sending, env }
    }

    /// A packet of the client, checked by the decoder.
    pub fn on_packet(&mut self, packet: Packet, env: &mut impl Env) -> Result<(), SessionError> {
        if !self.deferred.is_empty() || self.must_wait(&packet) {
            self.deferred.push_back(packet);
            return Ok(());
        }
        self.handle(packet, env)
    }

    /// The client said DISCONNECT behind something that waits: it counts although that will not be answered any more.
    pub fn deferred_disconnect(&mut self, env: &mut impl Env) -> Option<SessionError> {
        if !matches!(self.deferred.back(), Some(Packet::Disconnect(_))) {
            return None;
        }
        let Some(Packet::Disconnect(disconnect)) = self.deferred.pop_back() else { return None };
        self.on_disconnect(&disconnect, env).err()
    }

    /// Messages are looked at behind the client's subscriptions before them, and subscriptions are made or ended behind the
    /// messages before them. Several of one kind go together.
    fn must_wait(&self, packet: &Packet) -> bool {
        match packet {
            Packet::Publish(_) => self.requests.is_subscribing() || self.requests.is_unsubscribing(),
            Packet::Subscribe(_) => self.requests.is_unsubscribing() || self.receiving.pipeline().has_unrouted(),
            Packet::Unsubscribe(_) => self.requests.is_subscribing() || self.receiving.pipeline().has_unrouted(),
            _ => false,
        }
    }

    /// Call when answers and deliveries have been taken in: handles the packets that waited for them.
    /// # Errors
    /// Why the connection ends; the packets behind that one are forgotten.
    pub fn go_on(&mut self, env: &mut impl Env) -> Result<(), SessionError> {
        while self.deferred.front().is_some_and(|packet| !self.must_wait(packet)) {
            if let Some(packet) = self.deferred.pop_front() {
                self.handle(packet, env).inspect_err(|_| self.deferred.clear())?;
            }
        }
        Ok(())
    }

    /// Whether something that the client published has not reached everybody it must reach.
    pub fn has_unrouted(&self) -> bool {
        self.receiving.pipeline().has_unrouted()
            || self.deferred.iter().any(|packet| matches!(packet, Packet::Publish(_)))
    }

    fn handle(&mut self, packet: Packet, env: &mut impl Env) -> Result<(), SessionError> {
        match packet {
            Packet::Publish(publish) => self.inbound(env).on_publish(publish),
            Packet::PubAck(ack) => {
                env.count().pubacks_received += 1;
                self.outgoing(env).on_puback(ack)
            }
            Packet::PubRec(ack) => {
                env.count().pubrecs_received += 1;
                self.outgoing(env).on_pubrec(ack)
            }
            Packet::PubRel(ack) => {
                env.count().pubrels_received += 1;
                self.inbound(env).exactly_once().on_pubrel(ack);
                Ok(())
            }
            Packet::PubComp(ack) => {
                env.count().pubcomps_received += 1;
                self.outgoing(env).on_pubcomp(ack)
            }
            Packet::Subscribe(subscribe) => {
                env.count().subscribes_received += 1;
                self.subscriptions(env).on_subscribe(subscribe)
            }
            Packet::Unsubscribe(unsubscribe) => {
                env.count().unsubscribes_received += 1;
                self.subscriptions(env).on_unsubscribe(unsubscribe)
            }
            Packet::PingReq => {
                env.count().pings_received += 1;
                env.count().pings_sent += 1;
                env.out().extend_from_slice(&[0xD0, 0]);
                Ok(())
            }
            Packet::Disconnect(disconnect) => self.on_disconnect(&disconnect, env),
            Packet::Auth(_) => {
                env.count().auths_received += 1;
                Err(SessionError::Peer(ReasonCode::ProtocolError, "AUTH without an authentication method"))
            }
            _ => Err(SessionError::Peer(ReasonCode::ProtocolError, "packet not allowed from a client")),
        }
    }

    fn on_disconnect(&mut self, disconnect: &Disconnect, env: &mut impl Env) -> Result<(), SessionError> {
        env.count().disconnects_received += 1;
        if let Some(expiry) = disconnect.session_expiry_interval {
            if self.options.session_expiry_seconds == 0 && expiry != 0 {
                return Err(SessionError::Peer(
                    ReasonCode::ProtocolError,
                    "session expiry raised from 0 [MQTT-3.14.2.2.2]",
                ));
            }
            self.options.session_expiry_seconds = expiry.min(self.options.session_expiry_max);
        }
        // [MQTT-3.14.4-3]
        Err(SessionError::Disconnected { with_will: disconnect.reason != ReasonCode::Success })
    }

    /// An answer of the cluster to one of our tickets.
    pub fn on_answer(&mut self, number: u64, answer: Answer, env: &mut impl Env) -> Result<(), SessionError> {
        match number & 3 {
            ticket::REQUEST => self.on_request_answer(number >> 2, answer, env),
            kind => self.inbound(env).on_answer(number >> 2, kind, answer),
        }
    }

    fn on_request_answer(&mut self, number: u64, answer: Answer, env: &mut impl Env) -> Result<(), SessionError> {
        if matches!(answer, Answer::Applied { outcome: Outcome::Superseded, .. }) {
            return Err(SessionError::Superseded);
        }
        if matches!(answer, Answer::BarrierPassed) {
            self.subscriptions(env).on_barrier_passed(number);
            return Ok(());
        }
        match (self.requests.take(number), answer) {
            (Some(Request::Subscribe(pending)), answer) => {
                self.subscriptions(env).on_subscribe_answer(number, pending, answer);
            }
            (Some(Request::Unsubscribe(pending)), answer) => {
                self.subscriptions(env).on_unsubscribe_answer(number, pending, answer);
            }
            (Some(Request::PubRel { packet_id, .. }), Answer::Applied { .. }) => {
                self.inbound(env).exactly_once().complete_release(packet_id);
            }
            (Some(Request::Release(packet_ids)), _) => self.outgoing(env).send_pubrels(&packet_ids),
            (Some(Request::PubRel { .. } | Request::Ignored) | None, _) => {}
        }
        Ok(())
    }

    /// Messages for live subscriptions of this client.
    #[inline]
    pub fn on_delivery(&mut self, delivery: Delivery, env: &mut impl Env) {
        self.outgoing(env).on_delivery(delivery);
    }

    /// Called after inputs were handled, and when `out` has drained: sends what may be sent now and hands the
    /// acknowledgements of this round to the cluster.
    pub fn pump(&mut self, queue_grew: bool, env: &mut impl Env) {
        self.outgoing(env).pump(queue_grew);
        self.hand_over_acks(env);
    }

    /// Hands the client's acknowledgements since the last time to the cluster.
    pub fn hand_over_acks(&mut self, env: &mut impl Env) {
        let Some(Acks { acks, released }) = self.sending.take_acks() else { return };
        let command = Command::Acknowledge {
            client_id: self.options.client_id.clone(),
            epoch: self.options.epoch.unwrap_or_default(),
            acks,
        };
        let request = if released.is_empty() { Request::Ignored } else { Request::Release(released) };
        env.submit(command, self.requests.add(request));
    }

    /// Whether more may be read from the client.
    pub fn wants_input(&self) -> bool {
        self.deferred.is_empty() && !self.receiving.pipeline().is_full() && !self.requests.is_full()
    }

    /// Whether something that the client sent is not answered yet.
    pub fn has_under_way(&self) -> bool {
        !self.receiving.pipeline().is_empty() || !self.requests.is_empty()
    }

    /// Of its publishes.
    pub fn bytes_under_way(&self) -> usize {
        self.receiving.pipeline().bytes()
    }

    /// Since when the oldest packet of the client waits for the cluster.
    pub fn waiting_since(&self) -> Option<Millis> {
        self.receiving.pipeline().waiting_since().into_iter().chain(self.requests.waiting_since()).min()
    }

    /// Whether `pump` would go on once `out` has drained.
    pub fn has_backlog(&self) -> bool {
        self.sending.has_backlog()
    }

    /// Whether a search for retained messages goes on with nothing else to wait for. Others have their turn first: a filter
    /// that matches little may look at very many names.
    pub fn wants_turn(&self, env: &impl Env) -> bool {
        self.sending.wants_turn(env)
    }

    /// The connection is over: takes back live subscriptions and returns what the state must hear, if anything.
    pub fn end(&mut self, ending: Ending, env: &mut impl Env) -> Option<Command> {
        self.subscriptions(env).end();
        for (message, group) in self.sending.take_shared() {
            env.choose_again(message, &group);
        }
        let epoch = self.options.epoch.filter(|_| ending != Ending::Superseded)?;
        Some(Command::Disconnect(DisconnectCommand {
            client_id: self.options.client_id.clone(),
            epoch,
            discard_will: ending == Ending::WithoutWill,
            expiry_seconds: Some(self.options.session_expiry_seconds),
            sent_before: self.sending.sent_before(),
            unreadable: Arc::default(),
        }))
    }
}
