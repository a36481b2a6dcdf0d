//! The broker as the cluster sees it.
//! Always true: nothing here proposes anything while the cluster applies; that is put off until the call has returned.
use crate::{
    broker::Broker,
    drain, health,
    live::{Delivery, Mailbox, Order, Wakeups, add},
};
use mosquorum_cluster::{
    BoxFuture, ClientReport, FenceReason, LiveSide, OnlyUser, OrdinaryReceivers, Submission,
    ids::{ConnectionId, Incarnation, NodeId},
    state::{Command, DropReason, Effect, Message, Owner, PublishCommand},
};
use mosquorum_proto::mqtt::{QoS, TopicFilter, Utf8};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

/// Made before the broker; what comes until it is attached concerns nobody yet.
#[derive(Default)]
pub struct LiveHub {
    broker: OnceLock<Arc<Broker>>,
}

impl LiveHub {
    pub fn attach(&self, broker: Arc<Broker>) {
        let _ = self.broker.set(broker);
    }

    fn mailbox(broker: &Broker, owner: Owner) -> Option<Arc<Mailbox>> {
        let origin = broker.consensus.origin();
        if owner.node != origin.node || owner.incarnation != origin.incarnation {
            return None;
        }
        broker.router.durable_mailbox(owner.connection)
    }

    fn on_effect(broker: &Arc<Broker>, effect: Effect, wakeups: &mut Wakeups) {
        match effect {
            Effect::QueueGrew { owner } => {
                if let Some(mailbox) = Self::mailbox(broker, owner) {
                    mailbox.queue_grew();
                }
            }
            Effect::DeliverNow { owner, message, subscription } => {
                if let Some(mailbox) = Self::mailbox(broker, owner) {
                    let delivery = Delivery { message, options: subscription, group: None };
                    if !mailbox.deliver(delivery, wakeups) {
                        add(&broker.counters.dropped_slow_reader, 1);
                    }
                }
            }
            Effect::Fence { owner, client_id, administrative, .. } => {
                let origin = broker.consensus.origin();
                if owner.node == origin.node && owner.incarnation == origin.incarnation {
                    let order = if administrative { Order::Administrative } else { Order::TakenOver };
                    broker.registry.evict_connection(&client_id, owner.connection, order);
                }
            }
            Effect::PublishLive { message, served } => {
                if let Some(forward) = broker.router.publish_here(&message, &served, wakeups) {
                    // Into the log, perhaps, if nobody is to be found there: not from here.
                    let broker = broker.clone();
                    broker.clone().defer(move || broker.peers.forward(forward, None));
                }
            }
            Effect::DeliverLive { message, groups } => {
                for group in broker.router.deliver_applied(&message, &groups, wakeups) {
                    // Into the log again, perhaps: not from here.
                    let (broker, message) = (broker.clone(), message.clone());
                    broker.clone().defer(move || broker.redispatch(message, &group, &mut Wakeups::default()));
                }
            }
            Effect::ChooseAgain { message, group, .. } => {
                // Into the log again, perhaps: not from here.
                let broker = broker.clone();
                broker.clone().defer(move || broker.redispatch(message, &group, &mut Wakeups::default()));
            }
            Effect::Dropped { client_id, reason, count } => {
                broker.bridges.count_dropped(&client_id, reason, count);
                let counter = match reason {
                    DropReason::QueueFull => &broker.counters.dropped_queue_full,
                    DropReason::QueueBytes => &broker.counters.dropped_queue_bytes,
                    DropReason::Expired => &broker.counters.dropped_expired,
                    DropReason::SessionEnded => &broker.counters.dropped_session_ended,
                };
                add(counter, count.into());
                // Every node keeps the queue, so every node says it.
                if matches!(reason, DropReason::QueueFull | DropReason::QueueBytes) {
                    broker.dropping.note(&client_id);
                }
            }
            Effect::NodeChanged { node, incarnation, up } if node == broker.consensus.origin().node => {
                let broker = broker.clone();
                let over = if up { Incarnation(incarnation.0.saturating_sub(1)) } else { incarnation };
                broker.clone().defer(move || {
                    broker.registry.incarnation_over(over);
                    if up {
                        broker.obey_rules();
                    }
                });
            }
            Effect::NodeChanged { .. } => {}
        }
    }
}

impl LiveSide for LiveHub {
    fn on_effects(&self, effects: Vec<Effect>) {
        let Some(broker) = self.broker.get() else { return };
        let mut wakeups = Wakeups::default();
        for effect in effects {
            Self::on_effect(broker, effect, &mut wakeups);
        }
    }

    fn deliver(&self, message: Arc<Message>, ordinary: OrdinaryReceivers, groups: &[TopicFilter]) -> Vec<TopicFilter> {
        let Some(broker) = self.broker.get() else { return Vec::new() };
        if message.is_node_local() && take_sys_value(broker, &message) {
            return Vec::new();
        }
        broker.router.deliver_forwarded(&message, ordinary, groups)
    }

    fn group_unserved(&self, message: Arc<Message>, group: TopicFilter) {
        let Some(broker) = self.broker.get() else { return };
        let (durable, _) = broker.consensus.state().read().group_members(&group);
        if durable == 0 || message.qos == QoS::AtMostOnce {
            return add(&broker.counters.dropped_no_member, 1);
        }
        let unreadable = broker.router.unreadable(message.topic.as_str());
        let command = Command::Publish(PublishCommand::to_group(message, group, unreadable));
        broker.consensus.submit(vec![Submission::without_reply(command, None)]);
    }

    fn fence(&self, client_id: Utf8, connection: ConnectionId, reason: FenceReason) -> BoxFuture<'static, ()> {
        let order = match reason {
            FenceReason::TakenOver => Order::TakenOver,
            FenceReason::Administrative => Order::Administrative,
        };
        let gone = self.broker.get().and_then(|broker| broker.registry.evict_connection(&client_id, connection, order));
        Box::pin(async move {
            if let Some(gone) = gone {
                gone.wait().await;
            }
        })
    }

    fn is_users(&self, client_id: &Utf8, connection: ConnectionId, only: &OnlyUser) -> bool {
        self.broker.get().is_none_or(|broker| broker.registry.is_users(client_id, connection, only))
    }

    fn lease_lost(&self, _incarnation: Incarnation) {
        if let Some(broker) = self.broker.get() {
            broker.registry.order_all(Order::LeaseLost);
        }
    }

    fn report(&self) -> ClientReport {
        let broker = self.broker.get().map(Arc::as_ref);
        ClientReport {
            connected: broker.map_or(0, |broker| broker.registry.len() as u64),
            not_ready: health::why_not_ready(broker),
        }
    }

    fn hand_over(&self, leaving: Vec<NodeId>, within: Duration) -> BoxFuture<'static, Result<(), String>> {
        let broker = self.broker.get().cloned();
        Box::pin(async move {
            match broker {
                // Its connections run on the threads of the broker.
                Some(broker) => {
                    let left = broker.clone();
                    let leaves = broker.spawn(async move { drain::leave(&left, leaving, within).await });
                    leaves.await.unwrap_or_else(|error| Err(error.to_string()))
                }
                None => Ok(()),
            }
        })
    }

    fn clean_clients(&self) -> Vec<(Utf8, Owner)> {
        self.broker.get().map(|broker| broker.registry.clean_clients()).unwrap_or_default()
    }
}

/// Takes a value of another node's `$SYS`; `false` if it is none.
fn take_sys_value(broker: &Broker, message: &Message) -> bool {
    let is_member = |name: &str| broker.consensus.status().members.iter().any(|member| member.name == name);
    broker.sys.receive(&broker.router, is_member, message)
}
