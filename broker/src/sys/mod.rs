//! `$SYS`: what a node says about itself, and about the others of its cluster.
//! Always true: these topics are in a node's memory; they are updated at multiples of `sys_interval`, a value that has
//! not changed is not published again. A node sends the others what it publishes, so that `$SYS/broker/nodes/<name>/...`
//! can be read at any node; what was sent goes when its node has been silent for long.
//! Not here: topics that bridges announce (they are replicated like all others).
mod cluster;
mod loads;
mod publisher;
mod topics;

use crate::live::{Router, Wakeups};
use bytes::Bytes;
use mosquorum_cluster::{ids::Millis, retained_tree::RetainedTree, state::Message};
use mosquorum_proto::mqtt::{QoS, TopicFilter, TopicName, Utf8};
use parking_lot::{Mutex, RwLock};
pub use publisher::{publish, publish_line};
use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

const OWN: &str = "$SYS/broker/";
const NODES: &str = "$SYS/broker/nodes/";
/// Topics that one node may publish at others.
const REMOTE_TOPICS_MAX: usize = 512;

#[derive(Default)]
pub struct SysTopics {
    retained: RwLock<RetainedTree<Arc<Message>>>,
    /// Other nodes by name.
    others: Mutex<HashMap<String, Other>>,
    connected_max: AtomicUsize,
}

/// What another node has sent.
struct Other {
    received: Instant,
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
    pub fn set(&self, router: &Router, topic: &str, value: String) -> bool {
        let Ok(topic) = TopicName::new(Utf8::from(topic)) else { return false };
        let mut retained = self.retained.write();
        if retained.get(topic.as_str()).is_some_and(|known| known.payload == value.as_bytes()) {
            return false;
        }
        let message = own_message(topic.clone(), value, true);
        retained.insert(topic, message.clone());
        drop(retained);
        publish_here(router, &message);
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

    /// What another node sends; `false` if it is something else.
    pub fn receive(&self, router: &Router, is_member: impl Fn(&str) -> bool, message: &Message) -> bool {
        let topic = message.topic.as_str();
        let Some((name, _)) = topic.strip_prefix(NODES).and_then(|rest| rest.split_once('/')) else { return false };
        let is_new = self.retained.read().get(topic).is_none();
        {
            let mut others = self.others.lock();
            if !others.contains_key(name) && !is_member(name) {
                return true;
            }
            let other = others.entry(name.to_owned()).or_insert(Other { received: Instant::now(), topics: 0 });
            other.received = Instant::now();
            if is_new && other.topics == REMOTE_TOPICS_MAX {
                return true;
            }
            other.topics += usize::from(is_new);
        }
        self.set(router, topic, String::from_utf8_lossy(&message.payload).into_owned());
        true
    }

    /// Removes what silent nodes have sent.
    fn forget_silent(&self, router: &Router, silence: Duration) {
        let now = Instant::now();
        let mut gone = Vec::new();
        self.others.lock().retain(|name, other| {
            let stays = now.duration_since(other.received) < silence;
            if !stays {
                gone.push(name.clone());
            }
            stays
        });
        for name in gone {
            let Ok(filter) = TopicFilter::new(Utf8::from(format!("{NODES}{name}/#"))) else { continue };
            let mut messages = Vec::new();
            self.matches(&filter, &mut messages);
            for message in messages {
                self.retained.write().remove(message.topic.as_str());
                publish_here(router, &own_message(message.topic.clone(), String::new(), true));
            }
        }
    }
}

/// For this node's clients.
fn publish_here(router: &Router, message: &Arc<Message>) {
    let _ = router.publish_here(message, &[], &mut Wakeups::default());
}

fn own_message(topic: TopicName, text: String, retain: bool) -> Arc<Message> {
    Arc::new(Message { retain, ..Message::new(topic, Bytes::from(text), QoS::ExactlyOnce, Millis(0)) })
}
