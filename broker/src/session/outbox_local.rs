//! QoS 1 and 2 towards a clean session: queue and window in this process's memory.
//! Always true: packet identifiers in flight are distinct; the queue beyond the window is bounded by the session's limits
//! (the new message is dropped and counted, as Mosquitto does); nothing is sent twice, since the session ends with its
//! connection.
use super::{
    Env, Session, SessionError, SessionOptions, WRONG_ACKNOWLEDGEMENT,
    aliases::OutboundAliases,
    outbox::{LiveQueue, Outbox, Sent, send},
};
use crate::live::Delivery;
use mosquorum_cluster::state::Message;
use mosquorum_proto::mqtt::{Ack, QoS, TopicFilter};
use std::{collections::VecDeque, sync::Arc};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    PubAck,
    PubRec,
    PubComp,
    Done,
}

struct InFlight {
    packet_id: u16,
    phase: Phase,
    bytes: u64,
    /// Kept only for QoS 1 of shared subscriptions: the message goes to somebody else if this session ends first.
    /// One of QoS 2 may not, once it was sent [MQTT-4.8.2-5].
    shared: Option<(Arc<Message>, TopicFilter)>,
}

#[derive(Default)]
pub(super) struct LocalOutbox {
    pub(super) live: LiveQueue,
    queue: VecDeque<Delivery>,
    queue_bytes: u64,
    in_flight: VecDeque<InFlight>,
    /// Without those that are done but not at the front.
    in_flight_count: usize,
    in_flight_bytes: u64,
    last_packet_id: u16,
}

impl LocalOutbox {
    pub(super) fn on_delivery(
        &mut self,
        delivery: Delivery,
        options: &SessionOptions,
        aliases: &mut OutboundAliases,
        replayed: bool,
        env: &mut impl Env,
    ) {
        let size = delivery.message.payload.len() as u64;
        if self.queue.is_empty() && self.has_room(size, options) && !env.out_congested() {
            return self.send(delivery, options, aliases, env);
        }
        let limits = &options.limits;
        if !replayed && limits.messages != 0 && self.queue.len() >= limits.messages as usize {
            env.count().dropped_queue_full += 1;
            return;
        }
        if !replayed && limits.bytes != 0 && self.queue_bytes + size > limits.bytes {
            env.count().dropped_queue_bytes += 1;
            return;
        }
        self.queue_bytes += size;
        self.queue.push_back(delivery);
    }

    fn has_room(&self, size: u64, options: &SessionOptions) -> bool {
        self.in_flight_count < usize::from(options.send_window)
            && self.in_flight.len() < usize::from(u16::MAX) - 1
            && (options.send_window_bytes == 0
                || self.in_flight_count == 0
                || self.in_flight_bytes + size <= options.send_window_bytes)
    }

    pub(super) fn pump(&mut self, options: &SessionOptions, aliases: &mut OutboundAliases, env: &mut impl Env) {
        while !env.out_congested() {
            let Some(next) = self.queue.front() else { return };
            let size = next.message.payload.len() as u64;
            if !self.has_room(size, options) {
                return;
            }
            if let Some(delivery) = self.queue.pop_front() {
                self.queue_bytes -= size;
                self.send(delivery, options, aliases, env);
            }
        }
    }

    fn send(
        &mut self,
        delivery: Delivery,
        options: &SessionOptions,
        aliases: &mut OutboundAliases,
        env: &mut impl Env,
    ) {
        let packet_id = self.next_packet_id();
        let sent = send(&delivery.message, &delivery.options, packet_id, false, options, aliases, env);
        if sent == Sent::Dropped {
            return;
        }
        self.last_packet_id = packet_id;
        let bytes = delivery.message.payload.len() as u64;
        self.in_flight_count += 1;
        self.in_flight_bytes += bytes;
        let qos1 = delivery.options.qos == QoS::AtLeastOnce;
        let phase = if qos1 { Phase::PubAck } else { Phase::PubRec };
        let shared = delivery.group.filter(|_| qos1).map(|group| (delivery.message, group));
        self.in_flight.push_back(InFlight { packet_id, phase, bytes, shared });
    }

    /// The next one that is not in flight: they are used in turn, so only very old ones can collide.
    fn next_packet_id(&self) -> u16 {
        let mut id = self.last_packet_id;
        loop {
            id = id.checked_add(1).unwrap_or(1);
            let span = self.in_flight.front().map_or(0, |front| id.wrapping_sub(front.packet_id));
            let may_collide = usize::from(span) < self.in_flight.len() + 1 || self.in_flight.len() > 32_000;
            if !may_collide || !self.in_flight.iter().any(|entry| entry.packet_id == id) {
                return id;
            }
        }
    }

    fn phase(&self, packet_id: u16) -> Option<Phase> {
        let found = self.in_flight.iter().find(|entry| entry.packet_id == packet_id && entry.phase != Phase::Done);
        found.map(|entry| entry.phase)
    }

    /// Moves the exchange on; `false` if there is none of this identifier.
    /// # Errors
    /// It waits for another packet.
    fn step(&mut self, packet_id: u16, from: Phase, to: Phase) -> Result<bool, SessionError> {
        let open = |entry: &&mut InFlight| entry.packet_id == packet_id && entry.phase != Phase::Done;
        let Some(entry) = self.in_flight.iter_mut().find(open) else { return Ok(false) };
        if entry.phase != from {
            return Err(WRONG_ACKNOWLEDGEMENT);
        }
        entry.phase = to;
        entry.shared = None;
        if to == Phase::Done {
            self.in_flight_count -= 1;
            self.in_flight_bytes -= entry.bytes;
            while self.in_flight.front().is_some_and(|entry| entry.phase == Phase::Done) {
                self.in_flight.pop_front();
            }
        }
        Ok(true)
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.live.waiting.is_empty() || !self.queue.is_empty()
    }

    /// Retained messages wait in the state, not here.
    pub(super) fn queue_is_short(&self) -> bool {
        self.queue.len() < 256
    }

    pub(super) fn take_shared(&mut self) -> Vec<(Arc<Message>, TopicFilter)> {
        let in_flight = self.in_flight.drain(..).filter_map(|entry| entry.shared);
        let queued = self.queue.drain(..).filter_map(|delivery| Some((delivery.message, delivery.group?)));
        in_flight.chain(queued).collect()
    }
}

impl Session {
    pub(super) fn on_puback(&mut self, ack: Ack) -> Result<(), SessionError> {
        match &mut self.outbox {
            Outbox::Local(local) => local.step(ack.packet_id, Phase::PubAck, Phase::Done).map(|_| ()),
            Outbox::Durable(durable) => durable.on_puback(ack.packet_id),
        }
    }

    pub(super) fn on_pubrec(&mut self, ack: Ack, env: &mut impl Env) -> Result<(), SessionError> {
        let refused = ack.reason as u8 >= 0x80;
        let answer = match &mut self.outbox {
            Outbox::Durable(durable) => durable.on_pubrec(ack.packet_id, refused)?,
            Outbox::Local(local) if refused => {
                local.step(ack.packet_id, Phase::PubRec, Phase::Done)?;
                false
            }
            Outbox::Local(local) => {
                if local.phase(ack.packet_id) != Some(Phase::PubComp) {
                    local.step(ack.packet_id, Phase::PubRec, Phase::PubComp)?;
                }
                true
            }
        };
        if answer {
            // A PUBREC for nothing that we sent too: the client can then complete the exchange.
            env.count().pubrels_sent += 1;
            let [high, low] = ack.packet_id.to_be_bytes();
            env.out().extend_from_slice(&[0x62, 2, high, low]);
        }
        Ok(())
    }

    pub(super) fn on_pubcomp(&mut self, ack: Ack) -> Result<(), SessionError> {
        match &mut self.outbox {
            Outbox::Local(local) => local.step(ack.packet_id, Phase::PubComp, Phase::Done).map(|_| ()),
            Outbox::Durable(durable) => durable.on_pubcomp(ack.packet_id),
        }
    }
}
