//! What goes to the client: live messages, those of its queue, and the replay of retained ones that follows a SUBACK.
//! Always true: live messages wait until the replay is through, so that no older value comes behind a newer one; retained
//! messages are read from the state only while there is room for them.
//! Not here: how one message is sent or waits (`outbox`), who asked for retained ones (`subscriptions`).
use super::{
    Env, SessionError, SessionOptions,
    aliases::OutboundAliases,
    outbox::{Acks, Held, Outbox},
};
use crate::live::Delivery;
use mosquorum_cluster::state::{DeliveryOptions, Message};
use mosquorum_proto::mqtt::{Ack, QoS, Subscription, TopicFilter, TopicName};
use std::{collections::VecDeque, sync::Arc};

/// Retained messages read from the state at once, so that its lock is held briefly.
const REPLAY_CHUNK: usize = 128;
/// Reads of the retained messages in one turn, each of which looks at so many names at most as the state allows.
const REPLAY_READS_MAX: usize = 4;

/// Retained messages still to be sent for one subscription.
struct Replay {
    subscription: Subscription,
    identifier: Option<u32>,
    cursor: Option<TopicName>,
}

pub(super) struct Sending {
    outbox: Outbox,
    aliases: OutboundAliases,
    replays: VecDeque<Replay>,
    held: Held,
}

impl Sending {
    pub(super) fn new(options: &SessionOptions) -> Self {
        Self {
            outbox: Outbox::new(options),
            aliases: OutboundAliases::new(options.topic_alias_maximum_out),
            replays: VecDeque::new(),
            held: Held::default(),
        }
    }

    /// What the client acknowledged in this round and the cluster must hear.
    #[inline]
    pub(super) fn take_acks(&mut self) -> Option<Acks> {
        self.outbox.take_acks()
    }

    /// Whether [`Outgoing::pump`] would go on once `out` has drained.
    pub(super) fn has_backlog(&self) -> bool {
        !self.replays.is_empty() || self.outbox.has_backlog()
    }

    /// Whether a search for retained messages goes on with nothing else to wait for.
    pub(super) fn wants_turn(&self, env: &impl Env) -> bool {
        !self.replays.is_empty() && !env.out_congested() && self.outbox.takes_replay()
    }

    pub(super) fn sent_before(&self) -> u64 {
        self.outbox.sent_before()
    }

    /// Shared subscriptions' messages that this session has not acknowledged.
    pub(super) fn take_shared(&mut self) -> impl Iterator<Item = (Arc<Message>, TopicFilter)> {
        let held = self.held.take().into_iter().filter_map(|delivery| Some((delivery.message, delivery.group?)));
        self.outbox.take_shared().into_iter().chain(held)
    }
}

/// Sends to the client. It touches nothing but [`Sending`].
pub(super) struct Outgoing<'a, E> {
    pub(super) options: &'a SessionOptions,
    pub(super) sending: &'a mut Sending,
    pub(super) env: &'a mut E,
}

impl<E: Env> Outgoing<'_, E> {
    /// A message for a live subscription of this client.
    #[inline]
    pub(super) fn on_delivery(&mut self, delivery: Delivery) {
        let Sending { outbox, aliases, replays, held } = &mut *self.sending;
        if replays.is_empty() {
            outbox.on_delivery(delivery, self.options, aliases, false, self.env);
        } else {
            held.hold(delivery, self.options, self.env);
        }
    }

    #[inline]
    pub(super) fn on_puback(&mut self, ack: Ack) -> Result<(), SessionError> {
        self.sending.outbox.on_puback(ack)
    }

    pub(super) fn on_pubrec(&mut self, ack: Ack) -> Result<(), SessionError> {
        self.sending.outbox.on_pubrec(ack, self.env)
    }

    pub(super) fn on_pubcomp(&mut self, ack: Ack) -> Result<(), SessionError> {
        self.sending.outbox.on_pubcomp(ack)
    }

    /// The PUBRECs of these packet identifiers are durable.
    pub(super) fn send_pubrels(&mut self, packet_ids: &[u16]) {
        self.sending.outbox.send_pubrels(packet_ids, self.env);
    }

    /// Sends what may be sent now.
    #[inline]
    pub(super) fn pump(&mut self, queue_grew: bool) {
        let Sending { outbox, aliases, .. } = &mut *self.sending;
        outbox.pump(queue_grew, self.options, aliases, self.env);
        self.replay();
    }

    /// [`Self::replay`] sends what is retained for it.
    pub(super) fn expect_retained(&mut self, subscription: Subscription, identifier: Option<u32>) {
        self.sending.replays.push_back(Replay { subscription, identifier, cursor: None });
    }

    /// Sends retained messages while there is room; called again when `out` has drained, or in the next turn.
    pub(super) fn replay(&mut self) {
        let mut found = Vec::new();
        let mut reads = 0;
        while reads < REPLAY_READS_MAX && !self.env.out_congested() && self.sending.outbox.takes_replay() {
            reads += 1;
            let Some(replay) = self.sending.replays.front_mut() else { break };
            let next = self.env.retained(&replay.subscription.filter, replay.cursor.take(), REPLAY_CHUNK, &mut found);
            let (subscription, identifier) = (replay.subscription.clone(), replay.identifier);
            match next {
                Some(cursor) => replay.cursor = Some(cursor),
                None => {
                    self.sending.replays.pop_front();
                }
            }
            for message in found.drain(..) {
                self.send_retained(&subscription, identifier, message);
            }
        }
        let Sending { outbox, aliases, replays, held } = &mut *self.sending;
        if replays.is_empty() {
            // An idle session keeps no room for them.
            *replays = Default::default();
            for delivery in held.take() {
                outbox.on_delivery(delivery, self.options, aliases, false, self.env);
            }
        }
    }

    fn send_retained(&mut self, subscription: &Subscription, identifier: Option<u32>, message: Arc<Message>) {
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
        let Sending { outbox, aliases, .. } = &mut *self.sending;
        outbox.on_delivery(delivery, self.options, aliases, true, self.env);
    }
}
