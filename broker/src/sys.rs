//! `$SYS`: what a node says about itself.
//! Always true: these topics are the node's own and live in its memory; they are updated every `sys_interval`, a value
//! that has not changed is not published again.
use crate::{broker::Broker, live::counters::CounterValues, logging::lines};
use bytes::Bytes;
use mosquorum_cluster::{ids::Millis, retained_tree::RetainedTree, state::Message};
use mosquorum_proto::mqtt::{QoS, TopicFilter, TopicName, Utf8};
use parking_lot::RwLock;
use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

#[derive(Default)]
pub struct SysTopics {
    retained: RwLock<RetainedTree<Arc<Message>>>,
    connected_max: AtomicUsize,
}

impl SysTopics {
    pub fn matches(&self, filter: &TopicFilter, into: &mut Vec<Arc<Message>>) {
        let _ = self.retained.read().matches(filter.matched_part(), None, |_, message| {
            into.push(message.clone());
            ControlFlow::Continue(())
        });
    }

    /// Most clients connected at a time, this number included.
    pub fn note_connected(&self, connected: usize) -> usize {
        self.connected_max.fetch_max(connected, Relaxed).max(connected)
    }

    /// Keeps and publishes a value, if it is new.
    pub fn set(&self, broker: &Broker, topic: &str, value: String) {
        let Ok(topic) = TopicName::new(Utf8::from(topic)) else { return };
        let mut retained = self.retained.write();
        if retained.get(topic.as_str()).is_some_and(|known| known.payload == value.as_bytes()) {
            return;
        }
        let message = own_message(topic.clone(), value, true);
        retained.insert(topic, message.clone());
        drop(retained);
        broker.publish_here(message);
    }
}

/// `log_dest topic`: a line goes to whoever has subscribed to `$SYS/broker/log/#` here; nothing is kept.
pub fn publish_line(broker: &Broker, topic: &'static str, line: &str) {
    if let Ok(topic) = TopicName::new(Utf8::from(topic)) {
        broker.publish_here(own_message(topic, line.to_owned(), false));
    }
}

fn own_message(topic: TopicName, text: String, retain: bool) -> Arc<Message> {
    Arc::new(Message {
        topic,
        payload: Bytes::from(text),
        qos: QoS::ExactlyOnce,
        retain,
        properties: None,
        expiry_seconds: None,
        received_at: Millis(0),
        publisher_id: Utf8::default(),
        publisher_name: None,
        mark: None,
    })
}

/// Rates over 1, 5 and 15 minutes, as an exponentially weighted mean per minute.
struct Load {
    name: &'static str,
    read: fn(&CounterValues) -> u64,
    last: u64,
    rates: [f64; 3],
}

const LOAD_MINUTES: [(f64, &str); 3] = [(1.0, "1min"), (5.0, "5min"), (15.0, "15min")];

fn loads() -> Vec<Load> {
    let load = |name, read| Load { name, read, last: 0, rates: [0.0; 3] };
    vec![
        load("messages/received", |c| c.messages_received),
        load("messages/sent", messages_sent),
        load("publish/dropped", |c| c.publish_dropped + dropped(c)),
        load("publish/received", |c| c.publish_received),
        load("publish/sent", |c| c.publish_sent),
        load("bytes/received", |c| c.bytes_received),
        load("bytes/sent", |c| c.bytes_sent),
        load("sockets", |c| c.sockets_opened),
        load("connections", |c| c.connects_received),
    ]
}

fn dropped(c: &CounterValues) -> u64 {
    c.dropped_queue_full + c.dropped_queue_bytes + c.dropped_expired + c.dropped_slow_reader + c.dropped_too_large
}

fn messages_sent(c: &CounterValues) -> u64 {
    c.publish_sent
        + c.connacks_sent
        + c.subacks_sent
        + c.unsubacks_sent
        + c.pubacks_sent
        + c.pubrecs_sent
        + c.pubrels_sent
        + c.pubcomps_sent
        + c.pings_sent
        + c.disconnects_sent
}

/// Publishes `$SYS` until the task is dropped.
pub async fn publish(broker: Arc<Broker>) {
    let started = Instant::now();
    let mut loads = loads();
    let version = format!("mosquorum version {} (mosquitto version {})", lines::VERSION, lines::MOSQUITTO_VERSION);
    broker.sys.set(&broker, "$SYS/broker/version", version);
    loop {
        let Some(interval) = broker.settings.load().sys_interval else {
            tokio::time::sleep(Duration::from_secs(10)).await;
            continue;
        };
        let counts = broker.counters.read();
        publish_counts(&broker, &counts, started);
        for load in &mut loads {
            publish_load(&broker, load, &counts, interval);
        }
        tokio::time::sleep(interval).await;
    }
}

fn publish_load(broker: &Broker, load: &mut Load, counts: &CounterValues, interval: Duration) {
    let total = (load.read)(counts);
    let per_minute = (total - load.last) as f64 * 60.0 / interval.as_secs_f64();
    load.last = total;
    for ((minutes, label), rate) in LOAD_MINUTES.iter().zip(&mut load.rates) {
        let keep = (-interval.as_secs_f64() / (minutes * 60.0)).exp();
        *rate = per_minute + keep * (*rate - per_minute);
        broker.sys.set(broker, &format!("$SYS/broker/load/{}/{label}", load.name), format!("{rate:.2}"));
    }
}

fn publish_counts(broker: &Broker, c: &CounterValues, started: Instant) {
    let connected = broker.registry.len();
    let maximum = broker.sys.note_connected(connected);
    let (live, shared) = broker.router.subscription_counts();
    let state = broker.consensus.state().read();
    let totals = state.totals();
    let expired = state.counters().sessions_expired;
    drop(state);
    let disconnected = totals.disconnected as u64;
    let values: [(&str, u64); 30] = [
        ("clients/total", connected as u64 + disconnected),
        ("clients/connected", connected as u64),
        ("clients/disconnected", disconnected),
        ("clients/inactive", disconnected),
        ("clients/active", connected as u64),
        ("clients/maximum", maximum as u64),
        ("clients/expired", expired),
        ("connections/socket/count", c.sockets_opened - c.sockets_closed),
        ("messages/received", c.messages_received),
        ("messages/sent", messages_sent(c)),
        ("messages/stored", totals.messages as u64),
        ("store/messages/count", totals.messages as u64),
        ("store/messages/bytes", totals.message_bytes),
        ("retained messages/count", totals.retained as u64),
        ("subscriptions/count", (totals.subscriptions + live) as u64),
        ("shared_subscriptions/count", (totals.shared_subscriptions + shared) as u64),
        ("publish/messages/received", c.publish_received),
        ("publish/messages/sent", c.publish_sent),
        ("publish/messages/dropped", c.publish_dropped + dropped(c)),
        ("publish/bytes/received", c.publish_bytes_received),
        ("publish/bytes/sent", c.publish_bytes_sent),
        ("bytes/received", c.bytes_received),
        ("bytes/sent", c.bytes_sent),
        ("drops/queue_full", c.dropped_queue_full),
        ("drops/queue_bytes", c.dropped_queue_bytes),
        ("drops/expired", c.dropped_expired),
        ("drops/session_ended", c.dropped_session_ended),
        ("drops/not_authorized", c.dropped_not_authorized),
        ("drops/too_large", c.dropped_too_large),
        ("drops/slow_reader", c.dropped_slow_reader),
    ];
    for (name, value) in values {
        broker.sys.set(broker, &format!("$SYS/broker/{name}"), value.to_string());
    }
    broker.sys.set(broker, "$SYS/broker/uptime", format!("{} seconds", started.elapsed().as_secs()));
}
