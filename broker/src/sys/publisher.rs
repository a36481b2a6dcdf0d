//! The task that publishes `$SYS`.
use super::{
    NODES, OWN, cluster,
    loads::Loads,
    own_message, publish_here,
    topics::{self, Gauges},
};
use crate::{broker::Broker, logging::lines};
use mosquorum_cluster::{Forward, ids::NodeId, metrics::HistogramValues, state::Message};
use mosquorum_proto::mqtt::{QoS, TopicName, Utf8};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Every so many updates the others are sent everything, not only what has changed.
const PUBLISH_ALL_EVERY: u32 = 6;
/// A node that has said nothing for so long is no longer shown.
const SILENCE: Duration = Duration::from_secs(60);

/// `log_dest topic`: a line goes to whoever has subscribed to `$SYS/broker/log/#` here; nothing is kept.
pub fn publish_line(broker: &Broker, topic: &'static str, line: &str) {
    if let Ok(topic) = TopicName::new(Utf8::from(topic)) {
        publish_here(&broker.router, &own_message(topic, line.to_owned(), false));
    }
}

/// What the task that publishes remembers.
struct Publisher {
    broker: Arc<Broker>,
    started: Instant,
    updated: Option<Instant>,
    loads: Loads,
    commits: CommitLatency,
    round: u32,
}

/// How soon a changed `sys_interval` is noticed.
const INTERVAL_CHECK: Duration = Duration::from_secs(1);

/// Publishes `$SYS` until the task is dropped.
pub async fn publish(broker: Arc<Broker>) {
    let mut publisher = Publisher {
        broker: broker.clone(),
        started: Instant::now(),
        updated: None,
        loads: Loads::default(),
        commits: CommitLatency::default(),
        round: 0,
    };
    loop {
        let Some(interval) = broker.settings.load().sys_interval else {
            tokio::time::sleep(INTERVAL_CHECK).await;
            continue;
        };
        publisher.update(interval);
        let due = Instant::now() + until_multiple(SystemTime::now(), interval);
        // A reload may have changed it.
        while broker.settings.load().sys_interval == Some(interval)
            && let Some(left) = due.checked_duration_since(Instant::now())
        {
            tokio::time::sleep(left.min(INTERVAL_CHECK)).await;
        }
    }
}

/// From `now` to the next multiple of `interval` since 1970.
fn until_multiple(now: SystemTime, interval: Duration) -> Duration {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let past = Duration::from_nanos((now.as_nanos() % interval.as_nanos().max(1)) as u64);
    interval - past
}

impl Publisher {
    fn update(&mut self, interval: Duration) {
        let broker = self.broker.clone();
        let now = Instant::now();
        let seconds = self.updated.replace(now).map_or(0.0, |last| now.duration_since(last).as_secs_f64());
        let counts = broker.counters.read();
        let gauges = gauges(&broker);
        let version = format!("mosquorum version {} (mosquitto version {})", lines::VERSION, lines::MOSQUITTO_VERSION);
        let mut values = vec![
            ("version".to_owned(), version),
            ("uptime".to_owned(), format!("{} seconds", self.started.elapsed().as_secs())),
        ];
        let numbers = topics::numbers(&counts, &gauges);
        values.extend(numbers.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())));
        let loads = self.loads.update(&counts, seconds);
        values.extend(loads.into_iter().map(|(name, text)| (format!("load/{name}"), text)));
        if broker.clustered {
            let status = broker.consensus.status();
            let commit = self.commits.update(broker.consensus.metrics().commit);
            let drops = broker.consensus.state().read().counters().clone();
            let texts = cluster::texts(&status, broker.consensus.available(), commit, &drops);
            values.extend(texts.into_iter().map(|(name, text)| (format!("cluster/{name}"), text)));
        }
        values.retain(|(name, text)| {
            let is_new = broker.sys.set(&broker.router, &format!("{OWN}{name}"), text.clone());
            is_new || self.round == 0
        });
        if broker.clustered {
            publish_to_nodes(&broker, &values);
            broker.sys.forget_silent(&broker.router, SILENCE + 3 * interval);
        }
        self.round = (self.round + 1) % PUBLISH_ALL_EVERY;
    }
}

/// Publishes this node's values below its own name, here and at the others.
fn publish_to_nodes(broker: &Broker, values: &[(String, String)]) {
    let status = broker.consensus.status();
    let others = status.members.iter().map(|member| member.node).filter(|node| *node != status.node);
    let others: smallvec::SmallVec<[NodeId; 8]> = others.collect();
    for (name, text) in values {
        let topic = format!("{NODES}{}/{name}", status.name);
        broker.sys.set(&broker.router, &topic, text.clone());
        let Ok(topic) = TopicName::new(Utf8::from(topic)) else { continue };
        // What is lost is sent again with the next change, or when everything is.
        let message = Arc::new(Message { qos: QoS::AtMostOnce, ..(*own_message(topic, text.clone(), true)).clone() });
        broker.peers.forward(Forward { nodes: others.clone(), ..Forward::new(message) }, None);
    }
}

/// What commits took lately, on average: from what is proposed here to its apply here.
#[derive(Default)]
struct CommitLatency {
    seen: HistogramValues,
    latest: Option<Duration>,
}

impl CommitLatency {
    /// Of the commits since the last call; if there were none, as it was.
    fn update(&mut self, now: HistogramValues) -> Option<Duration> {
        let count = |values: &HistogramValues| values.counts.iter().sum::<u64>();
        let commits = count(&now).saturating_sub(count(&self.seen));
        let micros = now.sum_micros.saturating_sub(self.seen.sum_micros);
        self.seen = now;
        if let Some(mean) = micros.checked_div(commits) {
            self.latest = Some(Duration::from_micros(mean));
        }
        self.latest
    }
}

fn gauges(broker: &Broker) -> Gauges {
    let connected = broker.registry.len();
    let maximum = broker.sys.note_connected(connected) as u64;
    let (live, shared) = broker.router.subscription_counts();
    let (waiting, waiting_bytes) = broker.registry.queued();
    let (memory, memory_maximum) = crate::memory::resident();
    let state = broker.consensus.state().read();
    let totals = state.totals();
    Gauges {
        connected: connected as u64,
        disconnected: totals.disconnected as u64,
        maximum,
        expired: state.counters().sessions_expired,
        messages: totals.messages as u64,
        message_bytes: totals.message_bytes,
        subscriptions: (totals.subscriptions + live) as u64,
        shared_subscriptions: (totals.shared_subscriptions + shared) as u64,
        retained: totals.retained as u64,
        memory,
        memory_maximum,
        waiting: waiting as u64,
        waiting_bytes: waiting_bytes as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latency_is_that_of_the_latest_commits() {
        let mut latency = CommitLatency::default();
        let mut values = HistogramValues::default();
        assert_eq!(latency.update(values), None);
        values.observe(Duration::from_micros(900));
        assert_eq!(latency.update(values), Some(Duration::from_micros(900)));
        values.observe(Duration::from_micros(100));
        values.observe(Duration::from_micros(300));
        assert_eq!(latency.update(values), Some(Duration::from_micros(200)));
        assert_eq!(latency.update(values), Some(Duration::from_micros(200)), "nothing was committed since");
    }

    #[test]
    fn updates_come_at_multiples_of_the_interval() {
        let at = |milliseconds| UNIX_EPOCH + Duration::from_millis(milliseconds);
        let ten = Duration::from_secs(10);
        assert_eq!(until_multiple(at(1_000_003_500), ten), Duration::from_millis(6_500));
        assert_eq!(until_multiple(at(1_000_010_000), ten), ten);
    }
}
