//! What happened in a run, as its clients saw it: the input of every checker.
//! Always true: an event that asks for something is recorded before the bytes leave, one that reports something after
//! the bytes came; so an operation lies within its two events, and the order of records is an order of real time.
//! Not here: what ought to have happened (`checker`).
use crate::costs::Costs;
use mosquorum_proto::mqtt::{QoS, ReasonCode};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A client identifier.
pub type Client = Arc<str>;

/// A message's place in a run: which publisher made it and as its how many-th. Its payload names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    pub publisher: u32,
    pub sequence: u64,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}/{}", self.publisher, self.sequence)
    }
}

impl MessageId {
    /// The payload that stands for this message: its name, a filler of `filler` bytes, and a checksum over both.
    #[must_use]
    pub fn payload(self, filler: usize) -> Vec<u8> {
        let mut text = format!("p{}/{} ", self.publisher, self.sequence);
        text.extend((0..filler).map(|i| char::from(b'a' + ((i as u64 + self.sequence) % 26) as u8)));
        let sum = checksum(text.as_bytes());
        text.push_str(&format!(" {sum:016x}"));
        text.into_bytes()
    }

    /// The message that a payload names; `None` when a byte of it is not as it was published.
    #[must_use]
    pub fn from_payload(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok()?;
        let (content, sum) = text.rsplit_once(' ')?;
        if u64::from_str_radix(sum, 16).ok()? != checksum(content.as_bytes()) {
            return None;
        }
        let (publisher, sequence) = content.split(' ').next()?.strip_prefix('p')?.split_once('/')?;
        Some(Self { publisher: publisher.parse().ok()?, sequence: sequence.parse().ok()? })
    }
}

/// FNV-1a: enough to notice a payload that was mixed up or cut.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A connection's number, unique in a history, in the order of their CONNECTs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionNumber(pub u64);

impl fmt::Display for ConnectionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseKind {
    /// We sent DISCONNECT with reason 0 and closed.
    Normal,
    /// We sent DISCONNECT with reason 0, and whether the broker read it is unknown.
    Unclear,
    /// We closed without a word.
    Dropped,
    /// The broker or the network ended it, or it stalled and we gave up.
    Lost,
}

/// What a client asks to be published when it ends uncleanly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WillPlan {
    pub message: MessageId,
    pub topic: Arc<str>,
    pub qos: QoS,
    pub delay_seconds: u32,
}

/// What a subscriber wants of its subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Live messages and retained ones; the retain flag distinguishes them.
    Everything,
    /// Live messages with the retain flag of their publisher, and no retained ones: whatever comes is live.
    AsPublished,
    /// What is retained. Live messages that come meanwhile are not recorded.
    Retained,
}

/// What was done to the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// kill -9: what was written to files stays.
    Kill,
    /// kill -9 of the build whose unsynced bytes die with the process.
    PowerCut,
    /// SIGSTOP.
    Pause,
    /// The nodes' links to all others are cut; clients reach them.
    Partition,
    /// The link between the two nodes is cut, both ways or one way; each still reaches all others.
    PartialCut,
    /// A part of the packets between the nodes and all others is lost.
    Loss,
    /// The nodes' clocks jump or run at another speed.
    Clock,
    /// kill -9, and the nodes start again with empty folders, as new ones.
    Wipe,
    /// The nodes are taken out of the group alive and come back with empty folders, as new ones.
    Remove,
}

impl FaultKind {
    /// Whether the nodes named are down while the fault lasts, or out of the group: they help nobody to a majority. (Of
    /// what it did not hand over, a node out of the group may serve clients until its lease is over.)
    #[must_use]
    pub fn stops_nodes(self) -> bool {
        matches!(self, Self::Kill | Self::PowerCut | Self::Pause | Self::Wipe | Self::Remove)
    }

    /// Whether the nodes named reach no other node while the fault lasts.
    #[must_use]
    pub fn isolates_nodes(self) -> bool {
        self == Self::Partition
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::PowerCut => "power-cut",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::PartialCut => "partial-cut",
            Self::Loss => "loss",
            Self::Clock => "clock",
            Self::Wipe => "wipe",
            Self::Remove => "remove",
        })
    }
}

#[derive(Debug, Clone)]
pub enum Event {
    /// CONNECT is about to be sent to a node.
    ConnectInvoked {
        connection: ConnectionNumber,
        client: Client,
        node: usize,
        clean_start: bool,
        durable: bool,
        /// How long the session outlives the connection.
        expiry_seconds: u32,
        will: Option<WillPlan>,
    },
    /// CONNACK with success came.
    Connected {
        connection: ConnectionNumber,
        session_present: bool,
    },
    /// No CONNACK with success came: whether the session was touched is unknown.
    NotConnected {
        connection: ConnectionNumber,
    },
    /// DISCONNECT is about to be sent.
    DisconnectInvoked {
        connection: ConnectionNumber,
    },
    Closed {
        connection: ConnectionNumber,
        how: CloseKind,
    },
    SubscribeInvoked {
        connection: ConnectionNumber,
        filter: Arc<str>,
        qos: QoS,
        interest: Interest,
    },
    /// SUBACK came with the QoS granted.
    Subscribed {
        connection: ConnectionNumber,
        filter: Arc<str>,
        granted: QoS,
    },
    UnsubscribeInvoked {
        connection: ConnectionNumber,
        filter: Arc<str>,
    },
    /// A PUBLISH is about to be sent; a second record of the same message is a repetition.
    PublishSent {
        connection: ConnectionNumber,
        message: MessageId,
        topic: Arc<str>,
        qos: QoS,
        retain: bool,
    },
    /// PUBACK or PUBREC with success came.
    PublishAcknowledged {
        connection: ConnectionNumber,
        message: MessageId,
    },
    /// PUBACK or PUBREC with an error came: the message must never be delivered on account of this publish.
    PublishRefused {
        connection: ConnectionNumber,
        message: MessageId,
        reason: ReasonCode,
    },
    /// PUBLISH came. `repeat`: QoS 2 and its packet identifier is still held, so it is not handed on again.
    Delivered {
        connection: ConnectionNumber,
        message: MessageId,
        topic: Arc<str>,
        qos: QoS,
        retain: bool,
        dup: bool,
        repeat: bool,
    },
    /// PUBACK or PUBREC for a delivery is about to be sent: the client has dealt with the message.
    DeliveryAcknowledged {
        connection: ConnectionNumber,
        message: MessageId,
    },
    /// A reader that subscribed with this connection has its answer to "what is retained here?".
    RetainedRead {
        connection: ConnectionNumber,
        topic: Arc<str>,
        value: Option<MessageId>,
    },
    /// A client saw what the standard forbids whatever else happened (a payload that nobody published, a packet
    /// identifier used twice).
    Forbidden {
        connection: ConnectionNumber,
        what: String,
    },
    /// The fault is in effect on these nodes (0-based).
    FaultBegan {
        fault: u32,
        kind: FaultKind,
        nodes: Vec<usize>,
    },
    /// The fault is about to be taken back.
    FaultEnded {
        fault: u32,
    },
    /// Every node serves again after the fault.
    Healed {
        fault: u32,
    },
    /// A node did not serve within the time given, though nothing holds it back.
    NodeNotServing {
        node: usize,
        waited: Duration,
    },
    /// Publishing has ended and what was owed was waited for.
    Drained,
    /// What a node's process costs.
    NodeCosts {
        node: usize,
        costs: Costs,
    },
    /// More is published at once than the log takes.
    Burst,
    /// From here on nothing is asked of the cluster but whether it is there; `absent` do not run.
    IdleBegan {
        absent: Vec<usize>,
    },
    IdleEnded,
    /// A connection to a node has no answer to `asked` for so long, though another one that came later was answered.
    Unanswered {
        node: usize,
        asked: &'static str,
        waited: Duration,
    },
}

/// An event and when it was recorded, counted from the start of the run.
#[derive(Debug, Clone)]
pub struct Record {
    pub at: Duration,
    pub event: Event,
}

/// A whole run: how many nodes there were, and all records in order.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub nodes: usize,
    pub records: Vec<Record>,
}

/// Takes events from all actors of a run. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Recorder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    nodes: usize,
    start: Instant,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    connections: u64,
    acknowledged: u64,
    records: Vec<Record>,
}

impl Recorder {
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self(Arc::new(Shared { nodes, start: Instant::now(), log: Mutex::default() }))
    }

    /// Time since the start of the run.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.start.elapsed()
    }

    pub fn record(&self, event: Event) {
        let mut log = self.log();
        log.acknowledged += u64::from(matches!(event, Event::PublishAcknowledged { .. }));
        // Read inside the lock: times then never go back from record to record.
        let at = self.0.start.elapsed();
        log.records.push(Record { at, event });
    }

    /// Takes the next connection number and records its CONNECT.
    #[must_use]
    pub fn connect(
        &self,
        client: &Client,
        node: usize,
        clean_start: bool,
        durable: bool,
        expiry_seconds: u32,
        will: Option<WillPlan>,
    ) -> ConnectionNumber {
        let mut log = self.log();
        log.connections += 1;
        let connection = ConnectionNumber(log.connections);
        let at = self.0.start.elapsed();
        let client = client.clone();
        let event = Event::ConnectInvoked { connection, client, node, clean_start, durable, expiry_seconds, will };
        log.records.push(Record { at, event });
        connection
    }

    /// Publishes acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.log().acknowledged
    }

    /// What was recorded until now.
    #[must_use]
    pub fn snapshot(&self) -> History {
        History { nodes: self.0.nodes, records: self.log().records.clone() }
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        // A panic elsewhere leaves whole records behind, since each is one push.
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_names_its_message_and_shows_damage() {
        let message = MessageId { publisher: 3, sequence: 41 };
        let mut payload = message.payload(20);
        assert_eq!(MessageId::from_payload(&payload), Some(message));
        payload[8] ^= 1;
        assert_eq!(MessageId::from_payload(&payload), None);
        assert_eq!(MessageId::from_payload(b"hello"), None);
    }

    #[test]
    fn records_keep_order_and_connections_get_numbers() {
        let recorder = Recorder::new(3);
        let client: Client = "a".into();
        let first = recorder.connect(&client, 0, true, false, 0, None);
        let second = recorder.connect(&client, 1, true, false, 0, None);
        assert!(first < second);
        let history = recorder.snapshot();
        assert_eq!(history.records.len(), 2);
        assert!(history.records[0].at <= history.records[1].at);
    }
}
