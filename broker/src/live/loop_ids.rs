//! Loop ids for messages that are published on this node.
//! Always true: no two messages get the same loop id, but for one chance in 2^64, and none can be guessed; a loop id names this cluster, so that a message that comes back is known
//! without having been remembered.
use crate::random;
use mosquorum_bridge::LOOP_ID_PROPERTY;
use mosquorum_cluster::{
    fnv::fnv1a,
    ids::Millis,
    state::{LoopId, Message},
};
use mosquorum_proto::mqtt::{PublishProperties, Utf8};
use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

pub struct LoopIds {
    /// Some bridge needs them; stays so until the end of the process.
    wanted: AtomicBool,
    next: AtomicU64,
    /// Makes numbers that nobody can predict from those that were seen, and that differ between nodes and incarnations.
    key: RandomState,
    stand_in: OnceLock<[u8; 16]>,
}

impl Default for LoopIds {
    fn default() -> Self {
        Self {
            wanted: AtomicBool::new(false),
            next: AtomicU64::new(0),
            key: RandomState::new(),
            stand_in: OnceLock::new(),
        }
    }
}

impl LoopIds {
    /// From now on messages are marked.
    pub fn want(&self) {
        self.wanted.store(true, Relaxed);
    }

    /// Who this cluster is; one that keeps nothing is another with each start.
    pub fn origin(&self, cluster_id: Option<[u8; 16]>) -> [u8; 16] {
        cluster_id.unwrap_or_else(|| {
            *self
                .stand_in
                .get_or_init(|| (u128::from(random::number()) << 64 | u128::from(random::number())).to_be_bytes())
        })
    }

    pub fn next(&self, cluster_id: impl FnOnce() -> Option<[u8; 16]>) -> Option<LoopId> {
        self.wanted.load(Relaxed).then(|| LoopId { origin: self.origin(cluster_id()), number: self.number() })
    }

    /// Whoever could guess the numbers to come could have the messages that get them taken for repetitions.
    fn number(&self) -> u64 {
        self.key.hash_one(self.next.fetch_add(1, Relaxed))
    }
}

/// The properties of a message as a bridge gets them.
#[must_use]
pub fn with_loop_id(message: &Message, origin: [u8; 16]) -> PublishProperties {
    let loop_id = message.mark.as_deref().copied().unwrap_or_else(|| late(message, origin));
    let mut properties = message.properties.as_deref().cloned().unwrap_or_default();
    properties.user_properties.push((Utf8::from_static(LOOP_ID_PROPERTY), Utf8::from(loop_id.to_string())));
    properties
}

/// For a message that got no loop id when it came (a will, or one from before loop ids were wanted): the same on every node
/// and for every bridge.
fn late(message: &Message, origin: [u8; 16]) -> LoopId {
    let Millis(received) = message.received_at;
    let parts: [&[u8]; 4] =
        [&received.to_be_bytes(), message.publisher_id.as_bytes(), message.topic.as_str().as_bytes(), &message.payload];
    let number = fnv1a(parts.into_iter().flat_map(|part| part.iter().copied().chain([0xff])));
    LoopId { origin, number }
}
