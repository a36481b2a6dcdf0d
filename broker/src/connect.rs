//! From an accepted socket to a session in service: CONNECT, its checks, the claim on the client identifier, CONNACK.
//! Always true: CONNACK leaves only when no other connection in the cluster can deliver or acknowledge for this client
//! identifier any more, and after the session's record (if it has one) is durable.
use crate::{
    broker::{Broker, Listener, Peer},
    carrier::{CertificateIdentity, Negotiated, Prepared, TLS_HANDSHAKE},
    connection::{Connection, Service},
    live::{
        Mailbox, add,
        registry::{NotEntered, Presence},
        side::{MAILBOX_BYTES_MAX, Nobody, Side, rescue},
    },
    logging::lines::{self, ConnectedClient, Disconnected},
    session::{MountPoint, Session, SessionOptions},
    stream::Stream,
};
use bytes::BytesMut;
use mosquorum_bridge::MARKS;
use mosquorum_cluster::{
    Answer, Completion, Submission,
    ids::Epoch,
    state::{Command, ConnectCommand, DisconnectCommand, Outcome, Owner, QueueLimits},
};
use mosquorum_proto::mqtt::{
    ConnAck, Connect, Decoder, Packet, ProtocolVersion, QoS, ReasonCode, TopicName, Utf8, encode,
};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
};

/// A connection that has not sent a whole CONNECT by then is closed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const EXPIRES_NEVER: u32 = u32::MAX;
/// Bytes of a CONNECT that any connection may hold before it is whole; what is larger takes turns.
const SMALL_CONNECT_BYTES: usize = 6 << 10;
/// Larger ones that come in at the same time; the others wait, and so does what they send.
static LARGE_CONNECTS: Semaphore = Semaphore::const_new(256);

/// Why there is no session; `answer` is sent in a CONNACK if there is one.
struct Refusal {
    answer: Option<ReasonCode>,
    why: Disconnected,
}

impl Refusal {
    fn new(answer: ReasonCode, why: Disconnected) -> Self {
        Self { answer: Some(answer), why }
    }
    fn silent(why: Disconnected) -> Self {
        Self { answer: None, why }
    }
    /// Without a majority: a client tries again later.
    fn unavailable() -> Self {
        Self::new(ReasonCode::ServerUnavailable, Disconnected::ServerUnavailable)
    }
}

/// Who the client is, after all checks that need nobody else.
struct Client {
    id: Utf8,
    assigned: bool,
    username: Option<Utf8>,
    connect: Connect,
    keep_alive_seconds: u16,
    server_keep_alive: Option<u16>,
    expiry_seconds: u32,
}

/// What the cluster made of it.
struct Admission {
    owner: Owner,
    presence: Presence,
    mailbox: Arc<Mailbox>,
    epoch: Option<Epoch>,
    session_present: bool,
    durable: bool,
}

/// Where a connection comes from and what its handshakes have shown.
struct Origin {
    peer: Peer,
    identity: Option<CertificateIdentity>,
    tls: Option<Negotiated>,
}

/// Serves one connection from its first byte to its last.
pub async fn serve(broker: Arc<Broker>, listener: Arc<Listener>, prepared: Prepared, peer: Peer) {
    if let Some(attended) = Box::pin(begin(broker, listener, prepared, peer)).await {
        attended.serve().await;
    }
}

/// From the first byte to CONNACK; `None` if it did not come to that. What this needs is large and soon over: callers
/// keep it on the heap, so that a connection in service does not carry room for it.
pub async fn begin(
    broker: Arc<Broker>,
    listener: Arc<Listener>,
    prepared: Prepared,
    peer: Peer,
) -> Option<Box<Attended>> {
    let counters = broker.counters.clone();
    add(&counters.sockets_opened, 1);
    let attended = begin_with(broker, listener, prepared, peer).await;
    if attended.is_none() {
        add(&counters.sockets_closed, 1);
    }
    attended
}

async fn begin_with(
    broker: Arc<Broker>,
    listener: Arc<Listener>,
    prepared: Prepared,
    peer: Peer,
) -> Option<Box<Attended>> {
    let Prepared { stream, identity, tls } = prepared;
    let limit = broker.settings.load().limits.max_packet_size_bytes;
    let mut connection = Connection {
        stream,
        decoder: Decoder::for_server(limit),
        partial: BytesMut::new(),
        keep_alive: None,
        commit_timeout: broker.settings.load().cluster.commit_timeout,
        broker: broker.clone(),
        listener: listener.clone(),
    };
    let read = tokio::time::timeout(CONNECT_TIMEOUT, read_connect(&mut connection, &peer)).await;
    match read {
        Ok(Ok(connect)) => return attend(connection, connect, Origin { peer, identity, tls }).await,
        Ok(Err(why)) => {
            broker.log_end(&peer.address, &peer, &why);
            connection.stream.shut_down().await;
        }
        Err(_) => broker.log_end(&peer.address, &peer, &Disconnected::ExceededTimeout),
    }
    None
}

async fn read_connect(connection: &mut Connection, peer: &Peer) -> Result<Connect, Disconnected> {
    let mut chunk = [0; 2048];
    let mut turn = None;
    loop {
        if connection.partial.first() == Some(&TLS_HANDSHAKE) {
            lines::tls_on_plain(&peer.address, peer.port);
            return Err(Disconnected::ProtocolError);
        }
        match connection.decoder.decode(&mut connection.partial) {
            Ok(Some(Packet::Connect(connect))) => return Ok(*connect),
            Ok(Some(_)) => return Err(Disconnected::ProtocolError),
            Ok(None) => {}
            Err(error) => {
                if let Some((version, reason)) = error.connack() {
                    let connack = ConnAck::new(false, reason);
                    send_connack(&mut connection.stream, version, &connack, usize::MAX).await;
                }
                return Err(crate::connection::describe_reason(error.reason_code()));
            }
        }
        if connection.partial.len() >= SMALL_CONNECT_BYTES && turn.is_none() {
            turn = LARGE_CONNECTS.acquire().await.ok();
        }
        match connection.stream.read(&mut chunk).await {
            Ok(0) => return Err(Disconnected::ClosedByClient),
            Ok(n) => {
                add(&connection.broker.counters.bytes_received, n as u64);
                connection.partial.extend_from_slice(&chunk[..n]);
            }
            Err(error) => return Err(Disconnected::Io(error.to_string())),
        }
    }
}

/// Sends it, unless it is larger than what the client takes [MQTT-3.1.2-24].
async fn send_connack(stream: &mut Stream, version: ProtocolVersion, connack: &ConnAck, size_max: usize) {
    let out = encoded(connack, version);
    if out.len() > size_max {
        return;
    }
    let write = async {
        let _ = stream.write_all(&out).await;
        let _ = stream.flush().await;
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), write).await;
}

fn encoded(connack: &ConnAck, version: ProtocolVersion) -> BytesMut {
    let mut out = BytesMut::new();
    encode(&Packet::ConnAck(Box::new(connack.clone())), version, &mut out);
    out
}

/// Largest packet in bytes that the client takes.
fn packet_size_max(connect: &Connect) -> usize {
    connect.maximum_packet_size.map_or(usize::MAX, |size| size as usize)
}

async fn attend(mut connection: Connection, connect: Connect, origin: Origin) -> Option<Box<Attended>> {
    let Origin { peer, identity, tls } = origin;
    let (broker, listener) = (connection.broker.clone(), connection.listener.clone());
    let counters = &broker.counters;
    add(&counters.connects_received, 1);
    add(&counters.messages_received, 1);
    let (version, size_max) = (connect.version, packet_size_max(&connect));
    let name = if connect.client_id.is_empty() { peer.address.clone() } else { connect.client_id.to_string() };
    let admitted = match identify(&broker, &listener, connect, identity, tls.is_some()).await {
        Ok(client) => admit(&broker, &client).await.map(|admission| (client, admission)),
        Err(refusal) => Err(refusal),
    };
    match admitted {
        Ok((client, admission)) => {
            if let Some(Negotiated { version, cipher }) = tls {
                lines::tls_negotiated(&client.id, version, cipher);
            }
            Some(Box::new(Attended::new(connection, client, admission, peer)))
        }
        Err(refusal) => {
            add(&counters.clients_refused, 1);
            if let Some(reason) = refusal.answer {
                add(&counters.connacks_sent, 1);
                let mut connack = ConnAck::new(false, reason);
                if reason == ReasonCode::UseAnotherServer {
                    connack.server_reference = broker.drain.reference(&listener.settings());
                }
                connack.maximum_qos = (listener.max_qos() != QoS::ExactlyOnce).then(|| listener.max_qos());
                send_connack(&mut connection.stream, version, &connack, size_max).await;
            }
            broker.log_end(&name, &peer, &refusal.why);
            connection.stream.shut_down().await;
            None
        }
    }
}

/// Everything that can be said without asking the cluster.
async fn identify(
    broker: &Broker,
    listener: &Listener,
    mut connect: Connect,
    identity: Option<CertificateIdentity>,
    by_tls: bool,
) -> Result<Client, Refusal> {
    broker.reloading.over().await;
    if broker.memory.is_exceeded() {
        let v5 = connect.version == ProtocolVersion::V5;
        let answer = if v5 { ReasonCode::QuotaExceeded } else { ReasonCode::ServerUnavailable };
        return Err(Refusal::new(answer, Disconnected::OutOfMemory));
    }
    let settings = broker.settings.load();
    let versions = &listener.settings().versions;
    let accepted = match connect.version {
        ProtocolVersion::V31 => versions.v3,
        ProtocolVersion::V311 => versions.v4,
        ProtocolVersion::V5 => versions.v5,
    };
    if !accepted {
        return Err(Refusal::new(ReasonCode::UnsupportedProtocolVersion, Disconnected::ProtocolError));
    }
    check_will(broker, listener, &connect)?;
    if let Some(will) = &mut connect.will {
        let mounted = mount_point(listener).name(will.topic.clone());
        will.topic = mounted.ok_or_else(|| Refusal::silent(Disconnected::MalformedPacket))?;
    }
    if connect.authentication_method.is_some() {
        return Err(Refusal::new(ReasonCode::BadAuthenticationMethod, Disconnected::BadAuthenticationMethod));
    }
    // What a balancer says of the certificate names the user; whether that user is let in is asked as always.
    let is_known_by_certificate = identity.is_some() && by_tls;
    if let Some(CertificateIdentity(name)) = identity {
        let refusal = || Refusal::new(ReasonCode::BadUserNameOrPassword, Disconnected::NotAuthorised);
        connect.user_name = Some(name.ok_or_else(refusal)?);
        connect.password = None;
    }
    let (mut id, mut assigned) = (connect.client_id.detached(), false);
    let listener_settings = listener.settings();
    if listener_settings.use_username_as_clientid {
        match &connect.user_name {
            Some(user) => id = user.detached(),
            None => return Err(Refusal::new(ReasonCode::NotAuthorized, Disconnected::NotAuthorised)),
        }
    } else if id.is_empty() {
        id = make_up_id(listener, &connect)?;
        assigned = true;
    }
    if (!assigned && !listener.security.load().accepts_client_id(&id))
        || !(is_known_by_certificate || listener.lets_in(broker, &connect).await)
    {
        return Err(Refusal::new(ReasonCode::NotAuthorized, Disconnected::NotAuthorised));
    }
    let username = connect.user_name.as_ref().map(Utf8::detached);
    let rights = listener.access(&id, username.as_ref());
    if let Some(will) = connect.will.take_if(|will| !rights.may_write(&will.topic)) {
        crate::debug!("Denied will of {id} ('{}')", will.topic.as_str());
    }
    let (keep_alive_seconds, server_keep_alive) = keep_alive(&settings, &connect)?;
    let expiry_seconds = session_expiry(&settings, &connect);
    connect.password = None;
    let client = Client { id, assigned, username, connect, keep_alive_seconds, server_keep_alive, expiry_seconds };
    let answer = encoded(&connack(broker, listener, &client, false), client.connect.version);
    if answer.len() > packet_size_max(&client.connect) {
        return Err(Refusal::silent(Disconnected::OversizePacket));
    }
    Ok(client)
}

fn check_will(broker: &Broker, listener: &Listener, connect: &Connect) -> Result<(), Refusal> {
    let Some(will) = &connect.will else { return Ok(()) };
    // Requests to the broker itself are not made by the dead.
    if will.topic.as_str().starts_with("$CONTROL/") {
        return Err(Refusal::silent(Disconnected::NotAuthorised));
    }
    let v5 = connect.version == ProtocolVersion::V5;
    let answer = |reason| if v5 { Some(reason) } else { None };
    let settings = broker.settings.load();
    if will.retain && !settings.retain.available {
        let answer = answer(ReasonCode::RetainNotSupported);
        return Err(Refusal { answer, why: Disconnected::DisallowedFeature });
    }
    if will.qos > listener.max_qos() {
        return Err(Refusal { answer: answer(ReasonCode::QosNotSupported), why: Disconnected::DisallowedFeature });
    }
    let limit = settings.limits.message_size_limit_bytes.map_or(usize::MAX, |limit| limit.get() as usize);
    if will.payload.len() > limit {
        let reason = if v5 { ReasonCode::PacketTooLarge } else { ReasonCode::NotAuthorized };
        return Err(Refusal::new(reason, Disconnected::OversizePayload));
    }
    Ok(())
}

fn make_up_id(listener: &Listener, connect: &Connect) -> Result<Utf8, Refusal> {
    let security = &listener.settings().security;
    let refused = match connect.version {
        ProtocolVersion::V31 => Some(ReasonCode::ClientIdentifierNotValid),
        ProtocolVersion::V311 if !connect.clean_start || !security.allow_zero_length_clientid => {
            Some(ReasonCode::ClientIdentifierNotValid)
        }
        ProtocolVersion::V5 if !security.allow_zero_length_clientid => Some(ReasonCode::UnspecifiedError),
        _ => None,
    };
    match refused {
        Some(reason) => Err(Refusal::new(reason, Disconnected::ProtocolError)),
        None => Ok(Utf8::from(format!("{}{}", security.auto_id_prefix, crate::random::uuid()))),
    }
}

fn keep_alive(settings: &crate::config::Settings, connect: &Connect) -> Result<(u16, Option<u16>), Refusal> {
    let wanted = connect.keep_alive_seconds;
    match settings.limits.max_keepalive_seconds.map(std::num::NonZeroU16::get) {
        Some(max) if wanted == 0 || wanted > max => {
            if connect.version != ProtocolVersion::V5 {
                return Err(Refusal::new(ReasonCode::ClientIdentifierNotValid, Disconnected::ProtocolError));
            }
            Ok((max, Some(max)))
        }
        _ => Ok((wanted, None)),
    }
}

/// Seconds that the session outlives its connection; before 5.0 for ever, unless the operator sets a bound.
fn session_expiry(settings: &crate::config::Settings, connect: &Connect) -> u32 {
    let kept = settings.delivery.persistent_client_expiration;
    let bound = kept.map_or(EXPIRES_NEVER, |d| u32::try_from(d.as_secs()).unwrap_or(EXPIRES_NEVER));
    match connect.version {
        ProtocolVersion::V5 => match connect.session_expiry_interval.unwrap_or(0) {
            EXPIRES_NEVER => bound,
            seconds => seconds,
        },
        _ if connect.clean_start => 0,
        _ => bound,
    }
}

/// Takes the client identifier and, where something durable is concerned, makes it so.
async fn admit(broker: &Arc<Broker>, client: &Client) -> Result<Admission, Refusal> {
    if broker.drain.is_on() {
        let v5 = client.connect.version == ProtocolVersion::V5;
        let answer = if v5 { ReasonCode::UseAnotherServer } else { ReasonCode::ServerUnavailable };
        return Err(Refusal::new(answer, Disconnected::ServerShuttingDown));
    }
    if !broker.consensus.available() || !broker.peers.ready() {
        return Err(Refusal::unavailable());
    }
    let origin = broker.consensus.origin();
    let owner = Owner { node: origin.node, incarnation: origin.incarnation, connection: broker.next_connection() };
    let presence = broker.registry.apply(owner.connection);
    let wait = broker.settings.load().cluster.commit_timeout;
    let admitted = tokio::time::timeout(wait, take_over(broker, client, owner, presence)).await;
    let admitted = admitted.unwrap_or_else(|_| Err(Refusal::unavailable()));
    if admitted.is_err() {
        broker.registry.leave(&client.id, owner.connection);
        broker.peers.release(&client.id, owner);
    }
    admitted
}

async fn take_over(
    broker: &Arc<Broker>,
    client: &Client,
    owner: Owner,
    presence: Presence,
) -> Result<Admission, Refusal> {
    broker.peers.claim(client.id.clone(), owner).await.map_err(|_| Refusal::unavailable())?;
    let mailbox = Mailbox::new(MAILBOX_BYTES_MAX);
    let in_state = client.expiry_seconds > 0 || client.connect.will.is_some();
    loop {
        match broker.registry.enter(&client.id, owner, mailbox.clone(), !in_state) {
            Ok(()) => break,
            Err(NotEntered::Held(gone)) => gone.wait().await,
            Err(NotEntered::Fenced) => return Err(Refusal::silent(Disconnected::SessionTakenOver)),
        }
    }
    let full = broker.settings.load().limits.global_max_clients;
    if full.is_some_and(|max| broker.session_count(&client.id) >= max.get()) {
        let answer = (client.connect.version == ProtocolVersion::V5).then_some(ReasonCode::ServerBusy);
        return Err(Refusal { answer, why: Disconnected::ServerBusy });
    }
    let mut admission = Admission { owner, presence, mailbox, epoch: None, session_present: false, durable: false };
    join_state(broker, client, &mut admission, in_state).await?;
    Ok(admission)
}

async fn join_state(
    broker: &Arc<Broker>,
    client: &Client,
    admission: &mut Admission,
    in_state: bool,
) -> Result<(), Refusal> {
    if !in_state {
        if broker.clustered {
            ask(|reply| broker.consensus.barrier(reply, 0)).await.ok_or_else(Refusal::unavailable)?;
        }
        if !broker.consensus.state().read().has_record(&client.id) {
            return Ok(());
        }
    }
    let owner = admission.owner;
    let command = Command::Connect(Box::new(ConnectCommand {
        client_id: client.id.clone(),
        username: client.username.clone(),
        clean_start: client.connect.clean_start,
        expiry_seconds: client.expiry_seconds,
        will: client.connect.will.clone(),
        owner,
        limits: queue_limits(broker, client),
    }));
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let client_id = client.id.clone();
    let reply = Arc::new(Joining { broker: broker.clone(), client_id, sender: Mutex::new(Some(sender)) });
    broker.consensus.submit(vec![Submission { command, reply, ticket: 0 }]);
    let (epoch, session_present, previous) = receiver.await.map_err(|_| Refusal::unavailable())?;
    if let Some((previous, over)) = previous
        && previous.node != owner.node
        && broker.peers.fence(client.id.clone(), previous, over).await.is_err()
    {
        abandon(broker, &client.id, epoch);
        return Err(Refusal::unavailable());
    }
    admission.session_present = session_present;
    admission.durable = client.expiry_seconds > 0 || session_present;
    let kept = admission.durable || client.connect.will.is_some();
    admission.epoch = kept.then_some(epoch);
    Ok(())
}

type Joined = (Epoch, bool, Option<(Owner, Epoch)>);

/// Waits for the session's record. If the client has been turned away by the time the record is there, nobody else will
/// end it.
struct Joining {
    broker: Arc<Broker>,
    client_id: Utf8,
    sender: Mutex<Option<tokio::sync::oneshot::Sender<Joined>>>,
}

impl Completion for Joining {
    fn complete(&self, _ticket: u64, answer: Answer) {
        let Answer::Applied { outcome: Outcome::Connected { epoch, session_present, previous }, .. } = answer else {
            self.sender.lock().take();
            return;
        };
        let sender = self.sender.lock().take();
        let waits = sender.is_some_and(|sender| sender.send((epoch, session_present, previous)).is_ok());
        if !waits {
            let (broker, client_id) = (self.broker.clone(), self.client_id.clone());
            broker.clone().defer(move || abandon(&broker, &client_id, epoch));
        }
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
    });
    broker.consensus.submit(vec![Submission { command, reply: Arc::new(Nobody), ticket: 0 }]);
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

fn mount_point(listener: &Listener) -> MountPoint {
    MountPoint::new(listener.settings().mount_point.as_deref())
}

fn send_window(broker: &Broker, client: &Client) -> u16 {
    let ours = broker.settings.load().limits.max_inflight_messages.map_or(u16::MAX, std::num::NonZeroU16::get);
    client.connect.receive_maximum.unwrap_or(u16::MAX).min(ours)
}

fn queue_limits(broker: &Broker, client: &Client) -> QueueLimits {
    let settings = broker.settings.load();
    QueueLimits {
        messages: settings.limits.max_queued_messages.map_or(0, |n| u32::try_from(n.get()).unwrap_or(0)),
        bytes: settings.limits.max_queued_bytes.map_or(0, |n| n.get() as u64),
        inflight: send_window(broker, client),
        queue_qos0: settings.delivery.queue_qos0_messages,
        upgrade_qos: settings.delivery.upgrade_outgoing_qos,
        merge_overlapping: !settings.delivery.allow_duplicate_messages,
    }
}

fn session_options(broker: &Broker, listener: &Listener, client: &Client, admission: &Admission) -> SessionOptions {
    let settings = broker.settings.load();
    let v5 = client.connect.version == ProtocolVersion::V5;
    let alias_out = client.connect.topic_alias_maximum.unwrap_or(0);
    SessionOptions {
        client_id: client.id.clone(),
        username: client.username.clone(),
        version: client.connect.version,
        bridge: client.connect.bridge,
        marks: understands_marks(&client.connect),
        epoch: admission.epoch,
        durable: admission.durable,
        session_expiry_seconds: client.expiry_seconds,
        request_problem_information: client.connect.request_problem_information.unwrap_or(true),
        client_maximum_packet_size: client.connect.maximum_packet_size.unwrap_or(u32::MAX),
        send_window: send_window(broker, client),
        send_window_bytes: settings.limits.max_inflight_bytes.map_or(0, |n| n.get() as u64),
        receive_maximum: receive_maximum(broker, listener).map_or(0, std::num::NonZeroU16::get),
        topic_alias_maximum_in: if v5 { listener.settings().max_topic_alias } else { 0 },
        topic_alias_maximum_out: if v5 { alias_out.min(listener.settings().max_topic_alias_broker) } else { 0 },
        max_qos: listener.max_qos(),
        retain_available: settings.retain.available,
        mount_point: mount_point(listener),
        message_size_limit: settings.limits.message_size_limit_bytes.map_or(0, std::num::NonZeroU32::get),
        limits: queue_limits(broker, client),
    }
}

/// QoS 1 and 2 messages that a client may have on their way to us; a bridge as many as its remote sends.
fn receive_maximum(broker: &Broker, listener: &Listener) -> Option<std::num::NonZeroU16> {
    broker.settings.load().limits.max_inflight_messages.filter(|_| !listener.is_internal)
}

fn understands_marks(connect: &Connect) -> bool {
    connect.user_properties.iter().any(|(name, _)| name.as_str() == MARKS)
}

fn connack(broker: &Broker, listener: &Listener, client: &Client, session_present: bool) -> ConnAck {
    let settings = broker.settings.load();
    let mut connack = ConnAck::new(session_present, ReasonCode::Success);
    if client.connect.version != ProtocolVersion::V5 {
        return connack;
    }
    connack.server_keep_alive = client.server_keep_alive;
    let aliases = listener.settings().max_topic_alias;
    connack.topic_alias_maximum = (aliases > 0).then_some(aliases);
    connack.assigned_client_identifier = client.assigned.then(|| client.id.clone());
    connack.retain_available = (!settings.retain.available).then_some(false);
    connack.maximum_packet_size = Some(settings.limits.max_packet_size_bytes);
    connack.receive_maximum = receive_maximum(broker, listener).map(std::num::NonZeroU16::get);
    connack.maximum_qos = (listener.max_qos() != QoS::ExactlyOnce).then(|| listener.max_qos());
    connack
}

/// A client that was let in, until it has left.
pub struct Attended {
    service: Service,
    owner: Owner,
    durable: bool,
    peer: Peer,
    /// Where its will goes; the rights to it may change.
    will_topic: Option<TopicName>,
    /// Dropped last: who waits for this connection's end goes on then.
    _presence: Presence,
}

impl Attended {
    fn new(mut connection: Connection, client: Client, admission: Admission, peer: Peer) -> Self {
        let (broker, listener) = (connection.broker.clone(), connection.listener.clone());
        let options = session_options(&broker, &listener, &client, &admission);
        let Admission { owner, presence, mailbox, session_present, durable, .. } = admission;
        if durable {
            broker.router.attach_durable(owner.connection, mailbox.clone());
        }
        log_connected(&broker, &client, &peer);
        add(&broker.counters.connacks_sent, 1);
        add(&broker.counters.clients_total, 1);
        connection.keep_alive =
            (client.keep_alive_seconds > 0).then(|| Duration::from_millis(u64::from(client.keep_alive_seconds) * 1500));
        let access = listener.access(&client.id, client.username.as_ref());
        let answer = connack(&broker, &listener, &client, session_present);
        let will_topic = client.connect.will.as_ref().map(|will| will.topic.detached());
        if connection.partial.is_empty() {
            // CONNECT's bytes: nobody needs them any more.
            connection.partial = BytesMut::new();
        }
        let mut side = Side::new(broker.clone(), mailbox, owner.connection, client.id, client.username, access);
        encode(&Packet::ConnAck(Box::new(answer)), client.connect.version, &mut side.out);
        if options.marks {
            broker.marks.want();
        }
        let service = Service::new(connection, Session::new(options), side);
        Self { service, owner, durable, peer, will_topic, _presence: presence }
    }

    /// Until the client has left.
    pub async fn serve(mut self: Box<Self>) {
        let listener = self.service.listener().clone();
        let _in_service = listener.clients.enter(self.service.version());
        let end = self.service.run().await;
        let Self { service, owner, durable, peer, will_topic, _presence } = *self;
        let (broker, session, side) = service.into_parts();
        let client_id = side.client_id.clone();
        let discard_will = end.discards_will() || will_topic.is_some_and(|topic| !side.access.may_write(&topic));
        leave(&broker, &client_id, owner, durable, discard_will, end.is_superseded(), session, side);
        broker.log_end(&client_id, &peer, &end.describe());
        add(&broker.counters.sockets_closed, 1);
    }
}

fn leave(
    broker: &Broker,
    client_id: &Utf8,
    owner: Owner,
    durable: bool,
    discard_will: bool,
    superseded: bool,
    mut session: Session,
    mut side: Side,
) {
    if durable {
        broker.router.detach_durable(owner.connection);
    }
    if let Some(command) = session.end(discard_will, superseded, &mut side) {
        side.submit_for_nobody(command);
    }
    side.finish_round();
    rescue(broker, side.mailbox.close());
    broker.registry.leave(client_id, owner.connection);
    broker.peers.release(client_id, owner);
}

fn log_connected(broker: &Broker, client: &Client, peer: &Peer) {
    if broker.settings.load().delivery.connection_messages {
        lines::client_connected(&ConnectedClient {
            client_id: &client.id,
            address: &peer.address,
            remote_port: peer.port,
            version: client.connect.version.level(),
            clean_start: client.connect.clean_start,
            keep_alive_seconds: client.keep_alive_seconds,
            username: client.username.as_deref(),
            is_bridge: client.connect.bridge,
        });
    }
    match &client.connect.will {
        Some(will) => lines::will_specified(will.payload.len(), will.retain, will.qos as u8, will.topic.as_str()),
        None => lines::no_will(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A million of them are a million times this. Raise it knowingly.
    #[test]
    fn a_connection_in_service_is_small() {
        assert!(size_of::<Attended>() <= 1500, "{}", size_of::<Attended>());
    }
}
