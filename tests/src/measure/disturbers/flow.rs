//! The traffic that is disturbed: QoS 1 at a fixed rate from node to node, most of it for clean sessions, a part for durable
//! ones and so through the log.
//! Always true: an open loop on a thread of its own: what a message was kept from counts from when it was due, until its
//! publisher has PUBACK and its subscriber has it, whichever is later.
use super::super::durable;
use crate::client::{Connection, Result, message};
use mosquorum_proto::mqtt::{Ack, Connect, Packet, ProtocolVersion, QoS};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::sleep};

/// Messages per second for clean sessions and for durable ones, all nodes together.
pub(super) const LIVE_RATE: u32 = 1000;
const LOG_RATE: u32 = 100;
/// For what is still due when the flow ends.
const LATE_MAX: Duration = Duration::from_secs(8);
const PAYLOAD: usize = 64;

/// When it was due, how long it took, and whether it went through the log.
type Took = (Instant, Duration, bool);

/// The longest pauses of a time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pauses {
    pub(super) live: Duration,
    pub(super) log: Duration,
    pub(super) messages: usize,
}

pub(super) struct Flow {
    ended: Arc<AtomicBool>,
    thread: thread::JoinHandle<std::result::Result<Vec<Took>, String>>,
}

#[derive(Default)]
struct Pair {
    sent: AtomicU64,
    took: Mutex<Vec<Took>>,
}

impl Pair {
    fn took(&self, due: Instant, durable: bool) {
        self.took.lock().unwrap_or_else(PoisonError::into_inner).push((due, due.elapsed(), durable));
    }
}

impl Flow {
    /// From each node to the next one.
    pub(super) fn start(nodes: &[SocketAddr]) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let (nodes, ends) = (nodes.to_vec(), ended.clone());
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
            runtime.block_on(flow(&nodes, &ends)).map_err(|error| format!("the flow beside broke: {error}"))
        });
        Self { ended, thread }
    }

    /// Ends it; the pauses of what was due between the two moments.
    pub(super) fn end(self, from: Instant, to: Instant) -> std::result::Result<Pauses, String> {
        self.ended.store(true, Ordering::Relaxed);
        let took = self.thread.join().map_err(|_| "the flow beside panicked")??;
        let mut pauses = Pauses::default();
        for (_, took, durable) in took.into_iter().filter(|(due, ..)| *due >= from && *due < to) {
            let longest = if durable { &mut pauses.log } else { &mut pauses.live };
            *longest = took.max(*longest);
            pauses.messages += 1;
        }
        Ok(pauses)
    }
}

async fn flow(nodes: &[SocketAddr], ended: &Arc<AtomicBool>) -> Result<Vec<Took>> {
    let origin = Instant::now();
    let (mut tasks, mut pairs) = (JoinSet::new(), Vec::new());
    for (index, from) in nodes.iter().enumerate() {
        let to = nodes[(index + 1) % nodes.len()];
        for (durable_one, rate) in [(false, LIVE_RATE), (true, LOG_RATE)] {
            let name = format!("flow-{}-{index}", if durable_one { "log" } else { "live" });
            let connect = if durable_one {
                durable(&format!("{name}-to"))
            } else {
                Connect::new(ProtocolVersion::V5, format!("{name}-to"))
            };
            let (mut subscriber, _) = Connection::connected(to, connect).await?;
            subscriber.subscribe_to(&name, QoS::AtLeastOnce).await?;
            let (publisher, _) =
                Connection::connected(*from, Connect::new(ProtocolVersion::V311, format!("{name}-from"))).await?;
            let pair = Arc::new(Pair::default());
            pairs.push(pair.clone());
            let every = Duration::from_secs(nodes.len() as u64) / rate;
            tasks.spawn(publish(publisher, name, every, origin, durable_one, pair.clone(), ended.clone()));
            tasks.spawn(subscribe(subscriber, origin, durable_one, pair, ended.clone()));
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap_or(Ok(()))?;
    }
    let taken = |pair: &Arc<Pair>| std::mem::take(&mut *pair.took.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(pairs.iter().flat_map(taken).collect())
}

async fn publish(
    mut publisher: Connection,
    topic: String,
    every: Duration,
    origin: Instant,
    durable: bool,
    pair: Arc<Pair>,
    ended: Arc<AtomicBool>,
) -> Result<()> {
    let (mut due, mut waiting) = (Instant::now() + every, VecDeque::new());
    let mut late_until = None;
    while !waiting.is_empty() || !ended.load(Ordering::Relaxed) {
        if ended.load(Ordering::Relaxed) {
            let until = *late_until.get_or_insert_with(|| Instant::now() + LATE_MAX);
            if Instant::now() > until {
                break;
            }
        }
        while due <= Instant::now() && !ended.load(Ordering::Relaxed) {
            let mut payload = vec![0; PAYLOAD];
            payload[..8].copy_from_slice(&((due - origin).as_nanos() as u64).to_le_bytes());
            let mut publish = message(&topic, payload, QoS::AtLeastOnce);
            publish.packet_id = publisher.next_packet_id();
            publisher.queue(&Packet::Publish(publish));
            pair.sent.fetch_add(1, Ordering::Relaxed);
            waiting.push_back(due);
            due += every;
        }
        publisher.flush().await?;
        let wait = due.saturating_duration_since(Instant::now()).max(Duration::from_micros(200));
        let mut packet = publisher.recv_within(wait).await?;
        while let Some(Packet::PubAck(_)) = packet {
            if let Some(due) = waiting.pop_front() {
                pair.took(due, durable);
            }
            packet = publisher.buffered()?;
        }
    }
    waiting.into_iter().for_each(|due| pair.took(due, durable));
    Ok(())
}

async fn subscribe(
    mut subscriber: Connection,
    origin: Instant,
    durable: bool,
    pair: Arc<Pair>,
    ended: Arc<AtomicBool>,
) -> Result<()> {
    let (mut came, mut late_until) = (0, None);
    loop {
        if ended.load(Ordering::Relaxed) {
            let until = *late_until.get_or_insert_with(|| Instant::now() + LATE_MAX);
            if came >= pair.sent.load(Ordering::Relaxed) || Instant::now() > until {
                // Its publisher may still be in its last round.
                sleep(Duration::from_millis(20)).await;
                return Ok(());
            }
        }
        let mut packet = subscriber.recv_within(Duration::from_millis(100)).await?;
        while let Some(Packet::Publish(publish)) = packet {
            let stamp = publish.payload.get(..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
            pair.took(origin + Duration::from_nanos(stamp), durable);
            came += 1;
            subscriber.queue(&Packet::PubAck(Ack::new(publish.packet_id)));
            packet = subscriber.buffered()?;
        }
        subscriber.flush().await?;
    }
}
