//! `$SYS`: what a node says about itself, and about the others of its cluster.
//! Always true: these topics live in a node's memory; they are updated at multiples of `sys_interval`, a value that has
//! not changed is not published again. A node tells the others what it publishes, so that `$SYS/broker/nodes/<name>/...`
//! can be read at any node; what was told goes when its node has been silent for long.
//! Not here: topics that bridges announce (they are replicated like all others).
mod cluster;
mod loads;
mod topics;

use crate::{broker::Broker, logging::lines};
use bytes::Bytes;
use loads::Loads;
use mosquorum_cluster::{
    Forward,
    ids::{Millis, NodeId},
    metrics::HistogramValues,
    retained_tree::RetainedTree,
    state::Message,
};
use mosquorum_proto::mqtt::{QoS, TopicFilter, TopicName, Utf8};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use topics::Gauges;

const OWN: &str = "$SYS/broker/";
const NODES: &str = "$SYS/broker/nodes/";
/// Every so many updates the others are told everything, not only what has changed.
const TELL_ALL_EVERY: u32 = 6;
/// A node that has said nothing for so long is no longer shown.
const SILENCE: Duration = Duration::from_secs(60);
/// Topics that one node may tell.
const TOLD_MAX: usize = 512;

#[derive(Default)]
pub struct SysTopics {
    retained: RwLock<RetainedTree<Arc<Message>>>,
    /// Other nodes by name.
    others: Mutex<HashMap<String, Other>>,
    connected_max: AtomicUsize,
}

/// What another node has told.
struct Other {
    heard: Instant,
    topics: usize,
}

impl SysTopics {
    pub fn matches(&self, filter: &TopicFilter, into: &mut Vec<Arc<Message>>) {
        let _ = self.retained.read().matches(filter.matched_part(), None, &mut { usize::MAX }, |_, message| {
            into.push(message.clone());
            ControlFlow::Continue(())
        });
    }

    /// Most clients connected at a time, this number included.
    pub fn note_connected(&self, connected: usize) -> usize {
        self.connected_max.fetch_max(connected, Relaxed).max(connected)
    }

    /// Keeps and publishes a value, if it is new; whether it was.
    pub fn set(&self, broker: &Broker, topic: &str, value: String) -> bool {
        let Ok(topic) = TopicName::new(Utf8::from(topic)) else { return false };
        let mut retained = self.retained.write();
        if retained.get(topic.as_str()).is_some_and(|known| known.payload == value.as_bytes()) {
            return false;
        }
        let message = own_message(topic.clone(), value, true);
        retained.insert(topic, message.clone());
        drop(retained);
        broker.publish_here(message);
        true
    }

    /// The numbers of Mosquitto's `/api/v1/systree`, as they were published last.
    pub fn numbers(&self) -> Vec<(String, u64)> {
        let retained = self.retained.read();
        let read = |name: &str| {
            let topic = format!("{OWN}{name}");
            let text = std::str::from_utf8(&retained.get(&topic)?.payload).ok()?.split(' ').next()?.parse().ok()?;
            Some((topic, text))
        };
        topics::SYSTREE.iter().copied().chain(["uptime"]).filter_map(read).collect()
    }

    /// What another node tells; `false` if it is something else.
    pub fn hear(&self, broker: &Broker, message: &Message) -> bool {
        let topic = message.topic.as_str();
        let Some((name, _)) = topic.strip_prefix(NODES).and_then(|rest| rest.split_once('/')) else { return false };
        let is_new = self.retained.read().get(topic).is_none();
        {
            let mut others = self.others.lock();
            let is_member = || broker.consensus.status().members.iter().any(|member| member.name == name);
            if !others.contains_key(name) && !is_member() {
                return true;
            }
            let other = others.entry(name.to_owned()).or_insert(Other { heard: Instant::now(), topics: 0 });
            other.heard = Instant::now();
            if is_new && other.topics == TOLD_MAX {
                return true;
            }
            other.topics += usize::from(is_new);
        }
        self.set(broker, topic, String::from_utf8_lossy(&message.payload).into_owned());
        true
    }

    /// Takes away what silent nodes have told.
    fn forget_silent(&self, broker: &Broker, silence: Duration) {
        let now = Instant::now();
        let mut gone = Vec::new();
        self.others.lock().retain(|name, other| {
            let stays = now.duration_since(other.heard) < silence;
            if !stays {
                gone.push(name.clone());
            }
            stays
        });
        for name in gone {
            let Ok(filter) = TopicFilter::new(Utf8::from(format!("{NODES}{name}/#"))) else { continue };
            let mut told = Vec::new();
            self.matches(&filter, &mut told);
            for message in told {
                self.retained.write().remove(message.topic.as_str());
                broker.publish_here(own_message(message.topic.clone(), String::new(), true));
            }
        }
    }
}

/// `log_dest topic`: a line goes to whoever has subscribed to `$SYS/broker/log/#` here; nothing is kept.
pub fn publish_line(broker: &Broker, topic: &'static str, line: &str) {
    if let Ok(topic) = TopicName::new(Utf8::from(topic)) {
        broker.publish_here(own_message(topic, line.to_owned(), false));
    }
}

fn own_message(topic: TopicName, text: String, retain: bool) -> Arc<Message> {
    Arc::new(Message { retain, ..Message::new(topic, Bytes::from(text), QoS::ExactlyOnce, Millis(0)) })
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
            let is_new = broker.sys.set(&broker, &format!("{OWN}{name}"), text.clone());
            is_new || self.round == 0
        });
        if broker.clustered {
            tell(&broker, &values);
            broker.sys.forget_silent(&broker, SILENCE + 3 * interval);
        }
        self.round = (self.round + 1) % TELL_ALL_EVERY;
    }
}

/// Publishes this node's values below its own name, here and at the others.
fn tell(broker: &Broker, values: &[(String, String)]) {
    let status = broker.consensus.status();
    let others = status.members.iter().map(|member| member.node).filter(|node| *node != status.node);
    let others: smallvec::SmallVec<[NodeId; 8]> = others.collect();
    for (name, text) in values {
        let topic = format!("{NODES}{}/{name}", status.name);
        broker.sys.set(broker, &topic, text.clone());
        let Ok(topic) = TopicName::new(Utf8::from(topic)) else { continue };
        // What is lost is told again with the next change, or when everything is.
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
    let (waiting, waiting_bytes) = broker.registry.waiting();
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
