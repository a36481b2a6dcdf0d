//! QoS 1 and 2 towards a clean session: queue and window in this process's memory.
//! Always true: packet identifiers in flight are distinct; the queue beyond the window is bounded by the session's limits
//! (the new message is dropped and counted, as Mosquitto does); nothing is sent twice, since the session ends with its
//! connection.
use super::{
    live_queue::LiveQueue,
    send::{Sent, send},
    window::{Phase, Window},
};
use crate::{
    live::Delivery,
    session::{Env, SessionOptions, aliases::OutboundAliases},
};
use mosquorum_cluster::state::Message;
use mosquorum_proto::mqtt::{QoS, TopicFilter};
use std::{collections::VecDeque, sync::Arc};

/// Kept only for QoS 1 of shared subscriptions: the message goes to somebody else if this session ends first. One of QoS 2
/// may not, once it was sent [MQTT-4.8.2-5].
type Shared = Option<(Arc<Message>, TopicFilter)>;

#[derive(Default)]
pub(in crate::session) struct LocalOutbox {
    pub(super) live: LiveQueue,
    queue: VecDeque<Delivery>,
    queue_bytes: u64,
    pub(super) window: Window<Shared>,
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
        self.window.room(options) > 0
            && self.window.span() < usize::from(u16::MAX) - 1
            && self.window.fits(size, options)
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
        let qos1 = delivery.options.qos == QoS::AtLeastOnce;
        let phase = if qos1 { Phase::PubAck } else { Phase::PubRec };
        let shared = delivery.group.filter(|_| qos1).map(|group| (delivery.message, group));
        self.window.push(packet_id, phase, bytes, shared);
    }

    /// The next one that is not in flight: they are used in turn, so only very old ones can collide.
    fn next_packet_id(&self) -> u16 {
        let mut id = self.last_packet_id;
        loop {
            id = id.checked_add(1).unwrap_or(1);
            let distance = self.window.front().map_or(0, |front| id.wrapping_sub(front.packet_id));
            let may_collide = usize::from(distance) < self.window.span() + 1 || self.window.span() > 32_000;
            if !may_collide || !self.window.has(id) {
                return id;
            }
        }
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.live.waiting.is_empty() || !self.queue.is_empty()
    }

    /// Retained messages wait in the state, not here.
    pub(super) fn queue_is_short(&self) -> bool {
        self.queue.len() < 256
    }

    pub(super) fn take_shared(&mut self) -> Vec<(Arc<Message>, TopicFilter)> {
        let in_flight = self.window.drain().flatten();
        let queued = self.queue.drain(..).filter_map(|delivery| Some((delivery.message, delivery.group?)));
        in_flight.chain(queued).collect()
    }
}
