//! The claim on a client identifier, and the session's record in the replicated state.
//! Always true: who is admitted is the only one in the cluster who can deliver or acknowledge for this client identifier;
//! the record, if there is one, is durable.
use super::{
    active::queue_limits,
    checks::{Client, Refusal},
    receive::{hung_up, is_gone},
};
use crate::{
    broker::Broker,
    connection::Connection,
    live::{
        Mailbox,
        registry::{NotEntered, Presence},
    },
    logging::lines::Disconnected,
};
use mosquorum_cluster::{
    Answer, Completion, NotClaimed, Submission,
    ids::Epoch,
    state::{Command, ConnectCommand, DisconnectCommand, Outcome, Owner},
};
use mosquorum_proto::mqtt::{ProtocolVersion, ReasonCode, Utf8};
use parking_lot::Mutex;
use std::sync::Arc;

/// QoS 1 and 2 for a clean session are bounded by the session; this bounds what a stalled one may hold unseen.
const MAILBOX_BYTES_MAX: usize = 8 << 20;

/// What the cluster made of it.
pub(super) struct Admission {
    pub(super) owner: Owner,
    pub(super) presence: Presence,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) epoch: Option<Epoch>,
    pub(super) session: SessionKind,
}

/// How long the client's session lasts, and whether it is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionKind {
    /// Ends with the connection.
    Clean,
    /// Durable, and begins with this connection.
    New,
    /// Durable, and goes on.
    Resumed,
}

/// Takes the client identifier and, where something durable is concerned, makes it so. For a client that hung up before it
/// has its turn nothing is done, however late its CONNECT was read: it may be elsewhere already, with a later one.
pub(super) async fn admit(connection: &mut Connection, client: &Client) -> Result<Admission, Refusal> {
    let broker = connection.broker.clone();
    if broker.drain.is_on() {
        let v5 = client.connect.version == ProtocolVersion::V5;
        let answer = if v5 { ReasonCode::UseAnotherServer } else { ReasonCode::ServerUnavailable };
        return Err(Refusal::new(answer, Disconnected::ServerShuttingDown));
    }
    if !broker.consensus.available() || !broker.peers.ready() {
        return Err(Refusal::unavailable());
    }
    still_there(connection).await?;
    let origin = broker.consensus.origin();
    let owner = Owner { node: origin.node, incarnation: origin.incarnation, connection: broker.next_connection() };
    let presence = broker.registry.apply(owner.connection, client.username.clone());
    // Whoever ended the incarnation a moment ago did not see this connection.
    if broker.consensus.origin() != origin {
        broker.registry.leave(&client.id, owner.connection);
        return Err(Refusal::unavailable());
    }
    let wait = broker.settings.load().cluster.commit_timeout;
    let mailbox = Mailbox::new(MAILBOX_BYTES_MAX);
    let joined = tokio::time::timeout(wait, take_over(connection, client, owner, &mailbox)).await;
    match joined.unwrap_or_else(|_| Err(Refusal::unavailable())) {
        Ok(Joined { epoch, session }) => Ok(Admission { owner, presence, mailbox, epoch, session }),
        Err(refusal) => {
            let client_id = client.id.clone();
            // A CONNECT that is still on its way would end what a later one of the client begins.
            mailbox.when_settled(move || {
                broker.registry.leave(&client_id, owner.connection);
                broker.peers.release(&client_id, owner);
                drop(presence);
            });
            Err(refusal)
        }
    }
}

/// What the state made of it; without an epoch it knows nothing of the client.
struct Joined {
    epoch: Option<Epoch>,
    session: SessionKind,
}

async fn take_over(
    connection: &mut Connection,
    client: &Client,
    owner: Owner,
    mailbox: &Arc<Mailbox>,
) -> Result<Joined, Refusal> {
    let broker = connection.broker.clone();
    let claim = broker.peers.claim(client.id.clone(), owner, client.only.clone());
    let claimed = unless_gone(connection, claim).await?;
    claimed.map_err(|why| match why {
        NotClaimed::OtherUser => Refusal::other_users(),
        NotClaimed::Unavailable(_) => Refusal::unavailable(),
    })?;
    let in_state = client.expiry_seconds > 0 || client.connect.will.is_some();
    loop {
        match broker.registry.enter(&client.id, owner, client.only.as_ref(), mailbox.clone(), !in_state) {
            Ok(()) => break,
            Err(NotEntered::Held(gone)) => unless_gone(connection, gone.wait()).await?,
            Err(NotEntered::OtherUsers) => return Err(Refusal::other_users()),
            Err(NotEntered::Fenced) => return Err(Refusal::silent(Disconnected::SessionTakenOver)),
        }
    }
    let full = broker.settings.load().limits.global_max_clients;
    if full.is_some_and(|max| broker.session_count(&client.id) >= max.get()) {
        let answer = (client.connect.version == ProtocolVersion::V5).then_some(ReasonCode::ServerBusy);
        return Err(Refusal { answer, why: Disconnected::ServerBusy });
    }
    if !in_state {
        if broker.clustered {
            let passed = unless_gone(connection, ask(|reply| broker.consensus.barrier(reply, 0))).await?;
            passed.ok_or_else(Refusal::unavailable)?;
        }
        if !broker.consensus.state().read().has_record(&client.id) {
            return Ok(Joined { epoch: None, session: SessionKind::Clean });
        }
    }
    still_there(connection).await?;
    join_state(&broker, client, owner, mailbox).await
}

/// An error if the client is gone by now.
async fn still_there(connection: &mut Connection) -> Result<(), Refusal> {
    is_gone(connection).await.map_or(Ok(()), |why| Err(Refusal::silent(why)))
}

/// What comes of `work`, unless the client hangs up before.
async fn unless_gone<T>(connection: &mut Connection, work: impl Future<Output = T>) -> Result<T, Refusal> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        why = hung_up(connection) => Err(Refusal::silent(why)),
    }
}

async fn join_state(
    broker: &Arc<Broker>,
    client: &Client,
    owner: Owner,
    mailbox: &Arc<Mailbox>,
) -> Result<Joined, Refusal> {
    let command = Command::Connect(Box::new(ConnectCommand {
        client_id: client.id.clone(),
        username: client.username.clone(),
        clean_start: client.connect.clean_start,
        expiry_seconds: client.expiry_seconds,
        will: client.connect.will.clone(),
        owner,
        limits: queue_limits(broker, client),
        door: client.door,
        same_user: client.only.is_some(),
    }));
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let client_id = client.id.clone();
    mailbox.owe();
    let mailbox = mailbox.clone();
    let reply = Arc::new(Joining { broker: broker.clone(), client_id, mailbox, sender: Mutex::new(Some(sender)) });
    broker.consensus.submit(vec![Submission { command, reply, ticket: 0, incarnation: None }]);
    let (epoch, session_present, previous) = match receiver.await {
        Ok(Some(joined)) => joined,
        Ok(None) => return Err(Refusal::other_users()),
        Err(_) => return Err(Refusal::unavailable()),
    };
    if let Some((previous, over)) = previous
        && previous.node != owner.node
    {
        let abandoned = Abandoned { broker, client_id: &client.id, epoch };
        broker.peers.fence(client.id.clone(), previous, over).await.map_err(|_| Refusal::unavailable())?;
        std::mem::forget(abandoned);
    }
    let session = match session_present {
        true => SessionKind::Resumed,
        false if client.expiry_seconds > 0 => SessionKind::New,
        false => SessionKind::Clean,
    };
    let kept = session != SessionKind::Clean || client.connect.will.is_some();
    Ok(Joined { epoch: kept.then_some(epoch), session })
}

/// The connection's epoch, whether there was a session, and whose it was before.
type Connected = (Epoch, bool, Option<(Owner, Epoch)>);

/// Waits for the session's record. If the client has been turned away by the time the record is there, nobody else will
/// end it.
struct Joining {
    broker: Arc<Broker>,
    client_id: Utf8,
    /// Is owed the answer.
    mailbox: Arc<Mailbox>,
    /// `None` is sent if the session is another user's.
    sender: Mutex<Option<tokio::sync::oneshot::Sender<Option<Connected>>>>,
}

impl Completion for Joining {
    fn complete(&self, _ticket: u64, answer: Answer) {
        // One that gets no answer is owed it until the log knows the incarnation as over: it may be on its way to the leader.
        self.mailbox.answered();
        let Answer::Applied { outcome: Outcome::Connected { epoch, session_present, previous }, .. } = answer else {
            let sender = self.sender.lock().take();
            if let (Some(sender), Answer::Applied { outcome: Outcome::OtherUsers, .. }) = (sender, answer) {
                let _ = sender.send(None);
            }
            return;
        };
        let sender = self.sender.lock().take();
        let waits = sender.is_some_and(|sender| sender.send(Some((epoch, session_present, previous))).is_ok());
        if !waits {
            let (broker, client_id) = (self.broker.clone(), self.client_id.clone());
            broker.clone().defer(move || abandon(&broker, &client_id, epoch));
        }
    }
}

/// Drops the session's connection unless it is forgotten: whoever waits may stop to wait at any time.
struct Abandoned<'a> {
    broker: &'a Broker,
    client_id: &'a Utf8,
    epoch: Epoch,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        abandon(self.broker, self.client_id, self.epoch);
    }
}

/// A session whose connection never came to be: as if it had been closed at once, without a will.
fn abandon(broker: &Broker, client_id: &Utf8, epoch: Epoch) {
    let command = Command::Disconnect(DisconnectCommand {
        client_id: client_id.clone(),
        epoch,
        discard_will: true,
        expiry_seconds: None,
        sent_before: 0,
        unreadable: Arc::default(),
    });
    broker.consensus.submit(vec![Submission::without_reply(command, None)]);
}

/// One question to the cluster whose answer is awaited here.
async fn ask(question: impl FnOnce(Arc<dyn Completion>)) -> Option<Answer> {
    struct Once(Mutex<Option<tokio::sync::oneshot::Sender<Answer>>>);
    impl Completion for Once {
        fn complete(&self, _ticket: u64, answer: Answer) {
            if let Some(sender) = self.0.lock().take() {
                let _ = sender.send(answer);
            }
        }
    }
    let (sender, receiver) = tokio::sync::oneshot::channel();
    question(Arc::new(Once(Mutex::new(Some(sender)))));
    receiver.await.ok()
}
