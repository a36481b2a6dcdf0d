//! Hand-made histories for the checkers' own tests: clients by name, one publisher named `p` with number 1.
use super::View;
use crate::history::{CloseKind, ConnectionNumber, Event, FaultKind, History, Interest, MessageId, Record, WillPlan};
use StoryConnect::{Clean, Fresh, Resumed};
use mosquorum_proto::mqtt::QoS;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// How a CONNECT of a story ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoryConnect {
    /// With a session that ends with the connection.
    Clean,
    /// With a durable session, which is new.
    Fresh,
    /// With a durable session, which goes on.
    Resumed,
    /// Of a durable session, without an answer.
    Unanswered,
}

/// Why a story's message is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoryDelivery {
    Live,
    Retained,
    Repeated,
}

pub(super) struct Story {
    history: History,
    now: Duration,
    connections: u64,
    current: HashMap<String, ConnectionNumber>,
    published: HashMap<u64, (Arc<str>, QoS, bool)>,
    expiry_seconds: u32,
}

fn qos(level: u8) -> QoS {
    QoS::try_from(level).expect("0, 1 or 2")
}

pub(super) fn id(sequence: u64) -> MessageId {
    MessageId { publisher: 1, sequence }
}

impl Story {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            history: History { nodes, records: Vec::new() },
            now: Duration::ZERO,
            connections: 0,
            current: HashMap::new(),
            published: HashMap::new(),
            expiry_seconds: 3600,
        }
    }

    pub(super) fn view(&self) -> View<'_> {
        View::new(&self.history)
    }

    pub(super) fn event(&mut self, event: Event) -> &mut Self {
        self.now += Duration::from_millis(10);
        self.history.records.push(Record { at: self.now, event });
        self
    }

    pub(super) fn wait(&mut self, seconds: u64) -> &mut Self {
        self.wait_ms(seconds * 1000)
    }

    pub(super) fn wait_ms(&mut self, milliseconds: u64) -> &mut Self {
        self.now += Duration::from_millis(milliseconds);
        self
    }

    /// The connection that a client uses now; a publisher connects by itself.
    pub(super) fn on(&mut self, client: &str) -> ConnectionNumber {
        if !self.current.contains_key(client) {
            self.connect(client, 0, Fresh, None);
        }
        self.current[client]
    }

    pub(super) fn connect(
        &mut self,
        client: &str,
        node: usize,
        outcome: StoryConnect,
        will: Option<WillPlan>,
    ) -> &mut Self {
        let durable = outcome != StoryConnect::Clean;
        self.connections += 1;
        let connection = ConnectionNumber(self.connections);
        self.current.insert(client.to_owned(), connection);
        self.event(Event::ConnectInvoked {
            connection,
            client: client.into(),
            node,
            clean_start: !durable,
            durable,
            expiry_seconds: if durable { self.expiry_seconds } else { 0 },
            will,
        });
        self.event(match outcome {
            StoryConnect::Unanswered => Event::NotConnected { connection },
            _ => Event::Connected { connection, session_present: outcome == StoryConnect::Resumed },
        })
    }

    pub(super) fn durable(&mut self, client: &str, node: usize) -> &mut Self {
        let present = self.current.contains_key(client);
        self.connect(client, node, if present { Resumed } else { Fresh }, None)
    }

    pub(super) fn clean(&mut self, client: &str, node: usize) -> &mut Self {
        self.connect(client, node, Clean, None)
    }

    /// Sessions of later CONNECTs outlive their connections so long.
    pub(super) fn expiring_after(&mut self, seconds: u32) -> &mut Self {
        self.expiry_seconds = seconds;
        self
    }

    pub(super) fn subscribed(&mut self, client: &str, filter: &str, level: u8) -> &mut Self {
        self.interested(client, filter, level, Interest::Everything)
    }

    pub(super) fn interested(&mut self, client: &str, filter: &str, level: u8, interest: Interest) -> &mut Self {
        let (connection, qos) = (self.on(client), qos(level));
        self.event(Event::SubscribeInvoked { connection, filter: filter.into(), qos, interest });
        self.event(Event::Subscribed { connection, filter: filter.into(), granted: qos })
    }

    pub(super) fn unsubscribe(&mut self, client: &str, filter: &str) -> &mut Self {
        let connection = self.on(client);
        self.event(Event::UnsubscribeInvoked { connection, filter: filter.into() })
    }

    pub(super) fn publish(&mut self, client: &str, sequence: u64, topic: &str, level: u8) -> &mut Self {
        self.send(client, sequence, topic, level, false)
    }

    pub(super) fn send(&mut self, client: &str, sequence: u64, topic: &str, level: u8, retain: bool) -> &mut Self {
        let connection = self.on(client);
        let topic: Arc<str> = topic.into();
        self.published.insert(sequence, (topic.clone(), qos(level), retain));
        self.event(Event::PublishSent { connection, message: id(sequence), topic, qos: qos(level), retain })
    }

    pub(super) fn acknowledged(&mut self, client: &str, sequence: u64) -> &mut Self {
        let connection = self.on(client);
        self.event(Event::PublishAcknowledged { connection, message: id(sequence) })
    }

    pub(super) fn delivered(&mut self, client: &str, sequence: u64) -> &mut Self {
        self.delivered_as(client, sequence, StoryDelivery::Live)
    }

    pub(super) fn delivered_as(&mut self, client: &str, sequence: u64, how: StoryDelivery) -> &mut Self {
        let (retain, repeat) = (how == StoryDelivery::Retained, how == StoryDelivery::Repeated);
        let connection = self.on(client);
        let (topic, qos, _) = self.published.get(&sequence).cloned().unwrap_or(("w".into(), QoS::ExactlyOnce, false));
        self.event(Event::Delivered { connection, message: id(sequence), topic, qos, retain, dup: false, repeat })
    }

    /// Sent again, as the standard marks it.
    pub(super) fn redelivered(&mut self, client: &str, sequence: u64) -> &mut Self {
        self.delivered(client, sequence);
        if let Some(Record { event: Event::Delivered { dup, .. }, .. }) = self.history.records.last_mut() {
            *dup = true;
        }
        self
    }

    pub(super) fn dealt_with(&mut self, client: &str, sequence: u64) -> &mut Self {
        let connection = self.on(client);
        self.event(Event::DeliveryAcknowledged { connection, message: id(sequence) })
    }

    /// DISCONNECT, and the broker's end of the connection.
    pub(super) fn leave(&mut self, client: &str) -> &mut Self {
        let connection = self.on(client);
        self.event(Event::DisconnectInvoked { connection }).close(client, CloseKind::Normal)
    }

    pub(super) fn close(&mut self, client: &str, how: CloseKind) -> &mut Self {
        let connection = self.on(client);
        self.event(Event::Closed { connection, how })
    }

    pub(super) fn lost(&mut self, client: &str) -> &mut Self {
        self.close(client, CloseKind::Lost)
    }

    pub(super) fn fault(&mut self, fault: u32, kind: FaultKind, nodes: &[usize]) -> &mut Self {
        self.event(Event::FaultBegan { fault, kind, nodes: nodes.to_vec() })
    }

    pub(super) fn will(sequence: u64, delay_seconds: u32) -> Option<WillPlan> {
        Some(WillPlan { message: id(sequence), topic: "w".into(), qos: QoS::ExactlyOnce, delay_seconds })
    }
}
