//! Messages on their way to the client: what both kinds of sessions share.
//! Always true: QoS 1 and 2 are sent in the order of their queue, within the window (count and bytes; one message always
//! passes); QoS 0 is sent at once or, if the client does not read, dropped and counted.
mod acknowledgements;
mod durable;
mod live_queue;
mod local;
mod send;
mod window;

use super::{Env, SessionOptions, aliases::OutboundAliases};
use crate::live::Delivery;
pub(super) use durable::Acks;
use durable::DurableOutbox;
pub(super) use live_queue::Held;
use live_queue::LiveQueue;
use local::LocalOutbox;
use mosquorum_cluster::state::{DeliveryOptions, Message};
use mosquorum_proto::mqtt::{QoS, TopicFilter};
use send::send;
use std::sync::Arc;

/// One entry of a durable session's queue in the replicated state.
#[derive(Debug, Clone)]
pub struct QueueItem {
    pub seq: u64,
    pub packet_id: u16,
    /// `None` when only PUBREL is left to be sent.
    pub message: Option<Arc<Message>>,
    pub options: DeliveryOptions,
    /// Sent before by an earlier connection.
    pub dup: bool,
}

pub(super) enum Outbox {
    Local(LocalOutbox),
    Durable(DurableOutbox),
}

impl Outbox {
    pub(super) fn new(options: &SessionOptions) -> Self {
        if options.durable { Self::Durable(DurableOutbox::default()) } else { Self::Local(LocalOutbox::default()) }
    }

    fn live(&mut self) -> &mut LiveQueue {
        match self {
            Self::Local(local) => &mut local.live,
            Self::Durable(durable) => &mut durable.live,
        }
    }

    /// Sends a message or lets it wait. One of a replay is never dropped: [`Self::takes_replay`] bounds how many come.
    pub(super) fn on_delivery(
        &mut self,
        delivery: Delivery,
        options: &SessionOptions,
        aliases: &mut OutboundAliases,
        replayed: bool,
        env: &mut impl Env,
    ) {
        if delivery.options.qos != QoS::AtMostOnce
            && let Self::Local(local) = self
        {
            return local.on_delivery(delivery, options, aliases, replayed, env);
        }
        let live = self.live();
        if env.out_congested() || !live.waiting.is_empty() {
            return live.hold(delivery, replayed, env);
        }
        send(&delivery.message, &delivery.options, 0, false, options, aliases, env);
    }

    pub(super) fn pump(
        &mut self,
        queue_grew: bool,
        options: &SessionOptions,
        aliases: &mut OutboundAliases,
        env: &mut impl Env,
    ) {
        let live = self.live();
        while !env.out_congested() {
            let Some(delivery) = live.pop() else { break };
            send(&delivery.message, &delivery.options, 0, false, options, aliases, env);
        }
        match self {
            Self::Local(local) => local.pump(options, aliases, env),
            Self::Durable(durable) => durable.pump(queue_grew, options, aliases, env),
        }
    }

    pub(super) fn has_backlog(&self) -> bool {
        match self {
            Self::Local(local) => local.has_backlog(),
            Self::Durable(durable) => durable.has_backlog(),
        }
    }

    /// Whether more retained messages may be taken from the state: most of what has been taken must have left first.
    pub(super) fn takes_replay(&self) -> bool {
        match self {
            Self::Local(local) => local.live.waiting.is_empty() && local.queue_is_short(),
            Self::Durable(durable) => durable.live.waiting.is_empty(),
        }
    }

    pub(super) fn sent_before(&self) -> u64 {
        match self {
            Self::Local(_) => 0,
            Self::Durable(durable) => durable.sent_before(),
        }
    }

    /// Shared subscriptions' messages that this session has not acknowledged.
    pub(super) fn take_shared(&mut self) -> Vec<(Arc<Message>, TopicFilter)> {
        match self {
            Self::Local(local) => local.take_shared(),
            Self::Durable(_) => Vec::new(),
        }
    }
}
