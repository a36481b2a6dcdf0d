//! What the broker sees of the cluster, and what the cluster needs of the broker.
//! Always true: no call here waits (but for a read of the store); answers come through [`Completion`] or a future. Alone in memory, alone on disk and
//! many nodes look the same from here.
use crate::{
    admin_error::AdminError,
    ids::{ConnectionId, Epoch, Incarnation, LogIndex, Millis, NodeId},
    metrics::{ConsensusMetrics, PeerMetrics},
    state::{Command, Effect, Message, MessageId, Origin, Outcome, Owner, Standing, State},
};
use mosquorum_proto::mqtt::{TopicFilter, Utf8};
use parking_lot::RwLock;
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where answers go: a connection's mailbox. Called from the apply thread or a link's task; must not block.
pub trait Completion: Send + Sync {
    fn complete(&self, ticket: u64, answer: Answer);
}

/// What became of something submitted. There is no "failed": without a majority nothing is answered until there is one
/// again (the connection gives up by its own timeout and closes without acknowledging).
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The command is durable on a majority and applied here.
    Applied { outcome: Outcome, index: LogIndex },
    /// Everything acknowledged anywhere before the barrier was asked for is applied here.
    BarrierPassed,
    /// Every living node that the publish was forwarded to has it.
    Forwarded,
    /// Every serving node routes to the filters that were added.
    RoutesKnown,
}

pub struct Submission {
    pub command: Command,
    pub reply: Arc<dyn Completion>,
    pub ticket: u64,
    /// The incarnation of this node that it belongs to: once that is over it is dropped without an answer (a DISCONNECT that takes
    /// the will back still counts). `None`: of the node itself.
    pub incarnation: Option<Incarnation>,
}

impl Submission {
    /// Of a command whose outcome nobody waits for; `incarnation` as in [`Submission::incarnation`].
    #[must_use]
    pub fn without_reply(command: Command, incarnation: Option<Incarnation>) -> Self {
        Self { command, reply: Arc::new(NoReply), ticket: 0, incarnation }
    }
}

struct NoReply;

impl Completion for NoReply {
    fn complete(&self, _ticket: u64, _answer: Answer) {}
}

/// How much is on its way into the log: from `High` on, who has a part in it is to add no more, at `Full` nobody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    Low,
    High,
    Full,
}

/// The replicated state and the way into it.
pub trait Consensus: Send + Sync {
    /// Proposes commands; those of one call, and calls of one thread, are applied in order. Answers arrive by ticket in
    /// the same order.
    fn submit(&self, submissions: Vec<Submission>);

    /// Asks for a read barrier (read index): batched with others.
    fn barrier(&self, reply: Arc<dyn Completion>, ticket: u64);

    /// The applied state. Hold the read lock briefly: applying waits for it.
    fn state(&self) -> &RwLock<State>;

    /// Messages of queues that are in the durable form only ([`crate::state::Body::Stored`]); `None` for one that is gone
    /// since. The one call that may wait, for a disk: never make it with the state's lock held.
    fn stored_messages(&self, ids: &[MessageId]) -> Vec<Option<Arc<Message>>> {
        vec![None; ids.len()]
    }

    /// This node and the incarnation it serves under; changes when a lease was lost.
    fn origin(&self) -> Origin;

    /// The cluster's time as this node knows it (its own clock, never behind the log's time).
    fn now(&self) -> Millis;

    /// How much is proposed and not yet answered.
    fn pressure(&self) -> Pressure;

    /// Whether a majority can be reached as far as this node knows: new CONNECTs are refused with 0x88 without it.
    fn available(&self) -> bool;

    /// Writes the state out now (SIGUSR1). Resolves when the file is complete.
    fn checkpoint(&self) -> BoxFuture<'static, Result<(), String>>;

    /// The cluster that this node belongs to; `None` for a node that keeps nothing, and before it belongs to one.
    fn cluster_id(&self) -> Option<[u8; 16]> {
        None
    }

    /// Reads the certificates between nodes again, for connections made from now on.
    /// # Errors
    /// Why the ones in use stay.
    fn reload_certificates(&self) -> Result<(), String> {
        Ok(())
    }

    /// Status for `mosquorum cluster status`, the `$SYS` tree and logs.
    fn status(&self) -> ClusterStatus;

    /// The members as they answer just now, for `mosquorum cluster status`: each has a second for it.
    fn survey(&self) -> BoxFuture<'static, Survey> {
        Box::pin(std::future::ready(Survey::of_a_node_alone(self.status())))
    }

    /// Figures for operators.
    fn metrics(&self) -> ConsensusMetrics {
        ConsensusMetrics::default()
    }

    /// Other nodes that serve clients and keep theirs, asked just now.
    fn neighbours(&self) -> BoxFuture<'static, Vec<Neighbour>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    /// Membership change asked for over the admin socket; the text is for the operator.
    fn admin(&self, request: AdminRequest) -> BoxFuture<'static, Result<String, AdminError>>;

    /// Flushes and stops; no answer comes after it.
    fn shutdown(&self) -> BoxFuture<'static, ()>;
}

#[derive(Debug, Clone, Default)]
pub struct ClusterStatus {
    pub node: NodeId,
    pub name: String,
    pub leader: Option<NodeId>,
    pub term: u64,
    pub commit: LogIndex,
    pub applied: LogIndex,
    pub snapshot: LogIndex,
    /// The last entry in this node's log.
    pub last: LogIndex,
    /// This node's log starts behind it.
    pub purged: LogIndex,
    /// Committed entries, as the leader last said, that are not applied here yet.
    pub behind: u64,
    /// A leader with a majority was known a moment ago.
    pub majority: bool,
    /// What keeps this node out of its cluster: what those it asks answered last.
    pub kept_out: Option<String>,
    pub members: Vec<MemberStatus>,
}

#[derive(Debug, Clone, Default)]
pub struct MemberStatus {
    pub node: NodeId,
    pub name: String,
    pub address: String,
    pub voter: bool,
    /// Entries behind the leader; known to the leader only.
    pub lag: Option<u64>,
}

/// The cluster as its members describe it themselves.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    pub status: ClusterStatus,
    /// Those of `status`, in its order.
    pub members: Vec<MemberSurvey>,
    /// Other members, which know more of the log, say that this node is none any more.
    pub expelled: bool,
    /// Who left and did not come back under the same name, at most [`REMOVED_MAX`], the last ones first.
    pub removed: Vec<(NodeId, String)>,
    /// Where a node that belongs to no cluster yet looks for one.
    pub looks_for: Vec<String>,
}

/// Nodes that left and are listed.
pub const REMOVED_MAX: usize = 20;

#[derive(Debug, Clone)]
pub struct MemberSurvey {
    pub member: MemberStatus,
    /// As the replicated state has it; `None`: it never served.
    pub standing: Option<Standing>,
    /// What it says of itself, or why it says nothing.
    pub answer: Result<SelfReport, String>,
    /// How long this node has had no message of it; `None`: never since this node started.
    pub silent: Option<Duration>,
    /// Entries that the cluster has committed and this member has not applied (or, if it does not answer, does not have).
    pub lag: Option<u64>,
}

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SelfReport {
    /// Of the program.
    pub version: String,
    /// Since its process began.
    pub uptime: Duration,
    /// It serves clients.
    pub serving: bool,
    pub clients: ClientReport,
}

/// What a node knows of its clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientReport {
    /// Connected here.
    pub connected: u64,
    /// Why clients should not be sent here; empty: they may be.
    pub not_ready: Vec<String>,
}

impl Survey {
    /// Of a node without others.
    #[must_use]
    pub fn of_a_node_alone(status: ClusterStatus) -> Self {
        let report = || SelfReport { serving: true, version: VERSION.to_owned(), ..SelfReport::default() };
        let members = status.members.iter().map(|member| MemberSurvey {
            member: member.clone(),
            standing: Some(Standing::Serving),
            answer: Ok(report()),
            silent: Some(Duration::ZERO),
            lag: Some(status.behind),
        });
        let members = members.collect();
        Self { status, members, ..Self::default() }
    }
}

/// Of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Another node, for clients of this one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Neighbour {
    pub node: NodeId,
    pub name: String,
    pub listeners: Vec<ClientListener>,
}

/// Where clients reach a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientListener {
    /// `host:port`, as MQTT 5.0 has it in Server Reference.
    pub reference: String,
    pub port: u16,
    pub tls: bool,
    pub websockets: bool,
}

#[derive(Debug, Clone)]
pub enum AdminRequest {
    Status,
    /// Has a running node that belongs to no cluster yet join; `address` is its `host:port` between nodes.
    Add {
        name: String,
        address: String,
    },
    /// Takes a node out for good; its clients go elsewhere before that, within `hand_over`.
    Remove {
        name: String,
        hand_over: Duration,
    },
    TransferLeader {
        to: Option<String>,
    },
    Resize {
        voters: usize,
        hand_over: Duration,
    },
    /// The leader's wall clock is right: time goes on with it, after an outage of all nodes of which nothing else shows how
    /// long it was.
    AcceptTime,
}

/// The other nodes' live side: who serves which clean client, which node wants which live messages.
pub trait Peers: Send + Sync {
    /// Takes a client identifier for a connection of this node. Resolves when no other connection in the cluster can
    /// deliver or acknowledge for it any more (the old one confirmed its end, or its node's lease ran out). From before
    /// this call on, [`LiveSide::fence`] must find the connection by its number; one that is fenced while it waits
    /// gets [`Unavailable`]. Every claim that was won is released in the end.
    /// `only`: a connection of another user is left in peace, and the claim is refused.
    fn claim(
        &self,
        client_id: Utf8,
        owner: Owner,
        only: Option<OnlyUser>,
    ) -> BoxFuture<'static, Result<Claim, NotClaimed>>;

    /// The connection of `owner` is gone; forget the claim unless somebody else holds it by now.
    fn release(&self, client_id: &Utf8, owner: Owner);

    /// Another node owned the durable session until now: resolves when that connection is closed or its node is down.
    fn fence(&self, client_id: Utf8, previous: Owner, epoch: Epoch) -> BoxFuture<'static, Result<(), Unavailable>>;

    /// Live subscriptions of this node began or ended: each filter once per subscription. [`Answer::RoutesKnown`] comes
    /// when every serving node has them, and all that began before; for ends alone it may come at once.
    fn change_routes(
        &self,
        added: Vec<TopicFilter>,
        removed: Vec<TopicFilter>,
        reply: Arc<dyn Completion>,
        ticket: u64,
    );

    /// Nodes (other than this one) with live subscribers for the topic: bit set or short list, and shared groups there.
    fn routes(&self, topic: &str, into: &mut RemoteRoutes);

    /// Changes whenever `routes` may answer differently: caches compare it.
    fn routes_version(&self) -> u64;

    /// Adds the filters of which that is so since a version; `false`: of any topic.
    fn routes_since(&self, version: u64, into: &mut Vec<TopicFilter>) -> bool;

    /// Sends a message to other nodes' live subscribers. QoS 1 and 2: answered with [`Answer::Forwarded`] when every
    /// named node that is not down has placed it; QoS 0: never answered, dropped when a link is full (counted).
    fn forward(&self, forward: Forward, reply: Option<(Arc<dyn Completion>, u64)>);

    /// Whether this node may deliver and acknowledge at this instant (a majority's lease is valid). Checked before each
    /// flush to a socket.
    fn may_serve(&self) -> bool;

    /// As [`Peers::may_serve`], for connections of this incarnation of the node.
    fn may_serve_as(&self, incarnation: Incarnation) -> bool {
        let _ = incarnation;
        self.may_serve()
    }

    /// Whether links to other nodes hold so much that publishers of QoS 1 and 2 should not be read any further.
    fn congested(&self) -> bool {
        false
    }

    /// Figures for operators.
    fn metrics(&self) -> PeerMetrics {
        PeerMetrics::default()
    }

    /// Whether this node knows every serving node's routes, and may thus admit connections. [`Peers::may_serve`] is
    /// false before.
    fn ready(&self) -> bool {
        true
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub epoch: Epoch,
}

/// No majority within the time allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no majority of the cluster can be reached")]
pub struct Unavailable;

#[derive(Debug, Default)]
pub struct RemoteRoutes {
    pub nodes: smallvec::SmallVec<[NodeId; 8]>,
    /// Shared groups with live members: the `$share/...` filter, the node, its number of members.
    pub groups: Vec<(TopicFilter, NodeId, u32)>,
}

#[derive(Debug, Clone)]
pub struct Forward {
    pub message: Arc<Message>,
    /// Nodes whose ordinary (not shared) live subscribers get it.
    pub nodes: smallvec::SmallVec<[NodeId; 8]>,
    /// Shared groups for which the named node chooses one live member.
    pub groups: Vec<(TopicFilter, NodeId)>,
    /// It goes through the log, so durable sessions get it from there.
    pub logged: bool,
    /// Handled when this entry is applied: what its publisher sent before comes to live subscribers from there. 0: at once.
    pub after: LogIndex,
    /// The entry `after` itself has the named nodes give it to members of `groups` ([`crate::state::Live::AtApply`]): this
    /// only asks when that is done, and has another member chosen should a node be gone before.
    pub at_apply: bool,
    /// The incarnation of this node that it belongs to: of an earlier one it is not sent any more, nor answered. `None`: of the node
    /// itself.
    pub incarnation: Option<Incarnation>,
}

impl Forward {
    /// To nobody yet, of the node itself.
    #[must_use]
    pub fn new(message: Arc<Message>) -> Self {
        Self {
            message,
            nodes: smallvec::SmallVec::new(),
            groups: Vec::new(),
            logged: false,
            after: LogIndex(0),
            at_apply: false,
            incarnation: None,
        }
    }
}

/// From whom a client identifier may be taken: the user of this name, or (`None`) clients without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnlyUser(pub Option<Utf8>);

/// Why a client identifier could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotClaimed {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("the client identifier is another user's")]
    OtherUser,
}

/// Which live subscribers that share with nobody get a forwarded message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrdinaryReceivers {
    /// None: it is for members of shared groups.
    Nobody,
    /// Those of clean sessions: durable ones get it from the log.
    CleanSessions,
    Everybody,
}

/// What the cluster needs of the broker it is part of; `broker` implements it.
pub trait LiveSide: Send + Sync {
    /// Effects of applied entries, in log order; called by the apply thread with no lock held.
    fn on_effects(&self, effects: Vec<Effect>);

    /// A message of another node's publisher for this node's live subscribers. Returns when it is placed in their
    /// queues. `groups`: one live member of each gets it; those without one are returned for another choice.
    fn deliver(&self, message: Arc<Message>, ordinary: OrdinaryReceivers, groups: &[TopicFilter]) -> Vec<TopicFilter>;

    /// A group that a message was forwarded for has no live member left on any other node, and none here: the message
    /// may still go to a durable member. Called on the node that forwarded it.
    fn group_unserved(&self, message: Arc<Message>, group: TopicFilter) {
        let _ = (message, group);
    }

    /// Closes the connection that serves this client under an epoch below the one given (or that exact owner), with
    /// reason 0x8E; resolves when it can send nothing more. At once if there is none.
    fn fence(&self, client_id: Utf8, connection: ConnectionId, reason: FenceReason) -> BoxFuture<'static, ()>;

    /// Whether this connection, if there is one, is a client of this user.
    fn is_users(&self, client_id: &Utf8, connection: ConnectionId, only: &OnlyUser) -> bool {
        let _ = (client_id, connection, only);
        true
    }

    /// The lease ran out: close every connection before returning (nothing more may leave this node).
    fn lease_lost(&self, incarnation: Incarnation);

    /// This node is about to be taken out of the cluster, together with the other nodes named: hands its clients over
    /// within that time and closes who is still here then. Resolves when nobody is left; an error says why this node
    /// stays as it is.
    fn hand_over(&self, leaving: Vec<NodeId>, within: Duration) -> BoxFuture<'static, Result<(), String>> {
        let _ = (leaving, within);
        Box::pin(std::future::ready(Ok(())))
    }

    /// For operators, on this node and on others.
    fn report(&self) -> ClientReport {
        ClientReport::default()
    }

    /// Clean clients connected here, for a new leader's memory: client id and owner.
    fn clean_clients(&self) -> Vec<(Utf8, Owner)>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceReason {
    TakenOver,
    Administrative,
}
