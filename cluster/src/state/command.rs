//! What can be asked of the replicated state, and what it answers: the content of log entries.
//! Always true: a command carries everything its effect depends on (limits, choices, identities), so that every node
//! that applies it reaches the same state; time is the entry's, set by the leader.
use super::{Door, Message, NodeRules};
use crate::ids::{ConnectionId, Epoch, Incarnation, Millis, NodeId};
use mosquorum_proto::mqtt::{PacketId, QoS, Subscription, TopicFilter, Utf8, Will};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One log entry: commands of one origin, applied in order, all or none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Batch {
    pub origin: Origin,
    /// 1 for the first batch of an incarnation, then one more each. A batch is applied only if it is the next of its
    /// origin; others are duplicates (or follow a lost one, and come again).
    pub sequence: u64,
    /// The leader's clock when it took the batch into the log.
    pub time: Millis,
    pub commands: Vec<Command>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub node: NodeId,
    pub incarnation: Incarnation,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Command {
    /// A client connected; makes, resumes, replaces or (expiry 0 and no will) ends the session in the state.
    Connect(Box<ConnectCommand>),
    /// The connection of `epoch` ended.
    Disconnect(DisconnectCommand),
    Subscribe {
        client_id: Utf8,
        epoch: Epoch,
        subscriptions: Vec<Subscription>,
        identifier: Option<u32>,
    },
    Unsubscribe {
        client_id: Utf8,
        epoch: Epoch,
        filters: Vec<TopicFilter>,
    },
    /// Queue for matching durable sessions, keep if retained.
    Publish(PublishCommand),
    /// PUBREL from a durable publisher: its packet identifier is free again.
    Release {
        client_id: Utf8,
        epoch: Epoch,
        packet_id: PacketId,
    },
    /// A durable subscriber's PUBACK, PUBREC, PUBCOMP, in the order received, many at once.
    Acknowledge {
        client_id: Utf8,
        epoch: Epoch,
        acks: Vec<(PacketId, AckKind)>,
    },
    /// The origin of this batch serves from now on under its incarnation; sessions owned by its earlier ones become
    /// unowned (unclean end).
    NodeUp {
        name: Utf8,
    },
    /// The majority's leases of this incarnation have run out: its sessions are unowned from here on (unclean end).
    NodeDown {
        node: NodeId,
        incarnation: Incarnation,
    },
    /// The node left the cluster for good: everything kept for it goes.
    NodeRemoved {
        node: NodeId,
    },
    /// Due wills, expired sessions and messages are worked off up to the entry's time.
    Tick,
    /// An operator or the bridge logic ends a session.
    EndSession {
        client_id: Utf8,
    },
    /// The origin of this batch hands its clients over and will stop: bridges go to other nodes.
    NodeDraining,
    /// The origin of this batch does not stop after all.
    NodeStays,
    /// The client of this connection may not publish its will any more.
    WithdrawWill {
        client_id: Utf8,
        epoch: Epoch,
    },
    /// An operator lets a node of this name, or on this host, into the cluster.
    NodeAdded {
        name: Utf8,
        host: Utf8,
    },
    /// An operator took the node of this name out: nobody joins under it until it is added.
    NameRemoved {
        name: Utf8,
    },
    /// The rules of access that hold at the origin of this batch from now on.
    NodeRules {
        rules: NodeRules,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConnectCommand {
    pub client_id: Utf8,
    pub username: Option<Utf8>,
    pub clean_start: bool,
    /// Seconds after the end of the connection; 0 = nothing is kept (the command is then sent only when there is a will
    /// or something to end); `u32::MAX` = for ever.
    pub expiry_seconds: u32,
    /// Mount point already added, already authorised.
    pub will: Option<Will>,
    pub owner: Owner,
    pub limits: QueueLimits,
    pub door: Door,
    /// A session of another user name (none is one of its own) is left alone: [`Outcome::OtherUsers`].
    pub same_user: bool,
}

/// Where a session's connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub connection: ConnectionId,
}

/// Bounds of one session's queue, from the configuration of the node that serves it. 0 = no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueLimits {
    /// Messages beyond those in flight.
    pub messages: u32,
    pub bytes: u64,
    /// In flight at most (max_inflight_messages and the client's Receive Maximum); only used to tell what is beyond.
    pub inflight: u16,
    /// Keep QoS 0 messages too while the client is away (queue_qos0_messages).
    pub queue_qos0: bool,
    /// Deliver with the subscription's QoS even if the message came with a lower one (upgrade_outgoing_qos).
    pub upgrade_qos: bool,
    /// One delivery for all overlapping subscriptions, with the highest QoS and all identifiers. `false` (the default,
    /// allow_duplicate_messages true): one delivery for each, with its own QoS and identifier, as Mosquitto does.
    pub merge_overlapping: bool,
    /// Take the turn in shared groups while the client is away too (shared_offline_members). `false`: only if nobody of the
    /// group is there.
    pub shared_offline: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DisconnectCommand {
    pub client_id: Utf8,
    pub epoch: Epoch,
    /// `true`: normal end, the will is dropped. `false`: the will is published (after its delay).
    pub discard_will: bool,
    /// A DISCONNECT may change the session expiry interval.
    pub expiry_seconds: Option<u32>,
    /// Queue entries before this one have been sent at least once: when sent again they carry DUP.
    pub sent_before: u64,
    /// Sessions that may not read the will that is published now, as in [`Whom::Readers`].
    pub unreadable: Arc<[Epoch]>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PublishCommand {
    pub message: Arc<Message>,
    /// Of a publisher with a record in the state: its connection. If the record is another one's by now, or nobody's, the
    /// message is not taken.
    pub epoch: Option<Epoch>,
    /// QoS 2 of a publisher with a durable session (which has an epoch): recorded in the same entry.
    pub packet_id: Option<PacketId>,
    /// Shared subscription groups `(share name, filter)` for which the origin chose a live clean member: durable members
    /// of these do not get the message. Usually empty.
    pub groups_served: Vec<TopicFilter>,
    pub whom: Whom,
    pub admit: LoopCheck,
    pub live: Live,
}

impl PublishCommand {
    /// For all who subscribed, without anything else to note.
    #[must_use]
    pub fn new(message: Arc<Message>) -> Self {
        Self {
            message,
            epoch: None,
            packet_id: None,
            groups_served: Vec::new(),
            whom: Whom::All,
            admit: LoopCheck::Always,
            live: Live::ByOrigin,
        }
    }

    /// For the durable members of a shared group alone, but for these.
    #[must_use]
    pub fn to_group(message: Arc<Message>, group: TopicFilter, unreadable: Arc<[Epoch]>) -> Self {
        Self { whom: Whom::Group { group, unreadable }, ..Self::new(message) }
    }
}

/// Who of those that subscribed gets a message from the log. Right of access is judged by the node that proposes, since
/// its rules are in its files. A session is named by the epoch of its last connection: one that connected or subscribed
/// since is not meant, so it misses nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whom {
    #[default]
    All,
    /// All but these sessions, which may not read the topic. Ascending.
    Readers { unreadable: Arc<[Epoch]> },
    /// This shared group alone: a redispatch (other subscriptions get nothing). Not to the sessions named.
    Group { group: TopicFilter, unreadable: Arc<[Epoch]> },
}

impl Whom {
    /// All but these, ascending.
    #[must_use]
    pub fn but(unreadable: &Arc<[Epoch]>) -> Self {
        if unreadable.is_empty() { Self::All } else { Self::Readers { unreadable: unreadable.clone() } }
    }

    pub(super) fn unreadable(&self) -> &[Epoch] {
        match self {
            Self::All => &[],
            Self::Readers { unreadable } | Self::Group { unreadable, .. } => unreadable,
        }
    }
}

/// Who gives a message that is in the log to subscribers without a durable session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Live {
    /// The node that took it, on its own account: at once, which a message that its publisher repeats until it is answered
    /// can bear.
    #[default]
    ByOrigin,
    /// Every node to its own, when it applies the entry: whoever dies, and in the log's order. Of each of these shared
    /// groups, for which the origin chose a member without a durable session, the node named gives it to one.
    AtApply { groups: Vec<(TopicFilter, NodeId)> },
}

/// Which messages of one mark are delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoopCheck {
    /// Published here: its mark, if any, is new.
    #[default]
    Always,
    /// It came over a bridge with a mark: only the first one.
    FirstOfMark,
    /// It was published here and came back.
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AckKind {
    PubAck,
    /// PUBREC with a reason below 0x80.
    PubRec,
    PubComp,
    /// PUBREC with an error: the exchange is over.
    PubRecError,
    // For QoS 0 entries (queue_qos0): `(0, PubAck)` says that the earliest one has been sent.
}

/// Answer to one command, the same on every node; the origin hands it to whoever asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Connected {
        epoch: Epoch,
        session_present: bool,
        previous: Option<(Owner, Epoch)>,
    },
    /// One per subscription: whether it existed before (for Retain Handling 1).
    Subscribed {
        existed: Vec<bool>,
    },
    Unsubscribed {
        existed: Vec<bool>,
    },
    /// `matched`: durable subscribers reached; `duplicate`: the packet identifier was in use already, nothing was queued.
    Published {
        matched: u32,
        duplicate: bool,
    },
    /// A message of this mark was here before: nothing was queued.
    KnownMark,
    /// `existed`: whether the packet identifier was known.
    Released {
        existed: bool,
    },
    Done,
    /// The session is another user's, and the connection was to leave such alone: nothing has changed.
    OtherUsers,
    /// The epoch is not (or no longer) the session's: the connection must close without acknowledging.
    Superseded,
}

/// What a node has to do after applying, beyond answering the origin.
#[derive(Debug, Clone)]
pub enum Effect {
    /// The session of this connection has new entries in its queue.
    QueueGrew { owner: Owner },
    /// A QoS 0 delivery to a connected durable session (never queued).
    DeliverNow { owner: Owner, message: Arc<Message>, subscription: DeliveryOptions },
    /// The connection lost its session to another one (or an operator ended it): close it, reason 0x8E (or 0x98).
    /// `epoch` is the one that is over.
    Fence { owner: Owner, client_id: Utf8, epoch: Epoch, administrative: bool },
    /// A will: every node delivers it to its own live subscribers. The shared groups in `served` have durable members, so
    /// one of these was chosen already; of the others the nodes must choose one live member.
    PublishLive { message: Arc<Message>, served: Vec<TopicFilter> },
    /// A message for this node's live subscribers ([`Live::AtApply`]), and for a member of each of these shared groups.
    DeliverLive { message: Arc<Message>, groups: Vec<TopicFilter> },
    /// The session of this shared group's member ended before the message was acknowledged, and no other member has a durable
    /// session: the node that proposed the end gives it to a member without one [MQTT-4.8.2-5]. Told there only.
    ChooseAgain { node: NodeId, message: Arc<Message>, group: TopicFilter },
    /// NodeDown or NodeUp was applied for this node; an earlier incarnation than the one given serves no more.
    NodeChanged { node: NodeId, incarnation: Incarnation, up: bool },
    /// Messages were not queued or were removed; counted by reason on every node, logged by the owner.
    Dropped { client_id: Utf8, reason: DropReason, count: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DropReason {
    QueueFull,
    QueueBytes,
    Expired,
    SessionEnded,
}

/// How a message goes to one subscriber, merged over its matching subscriptions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeliveryOptions {
    pub qos: QoS,
    /// The RETAIN flag of the outgoing PUBLISH.
    pub retain: bool,
    pub identifiers: smallvec::SmallVec<[u32; 2]>,
}
