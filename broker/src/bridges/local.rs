//! The local side: a connection like any other, over memory instead of a socket, that is not asked who it is.
use super::wire::Wire;
use crate::{
    broker::Broker,
    carrier::Prepared,
    connect,
    listener::{Listener, Peer},
    live::loop_ids,
    stream::Stream,
};
use mosquorum_bridge::{BridgeSettings, KEPT, Relay, SentRetained};
use mosquorum_cluster::state::{Message, Session, SessionWalk};
use mosquorum_proto::mqtt::{
    ConnAck, Connect, Disconnect, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, TopicFilter,
    Unsubscribe, Utf8,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::io::DuplexStream;

/// Bytes in memory between the bridge and its session, each way.
const PIPE_BYTES: usize = 64 * 1024;
/// Messages that the local session may have on its way through a bridge.
const WINDOW_MAX: u16 = 200;
/// More than ever are: QoS 0 between them has no identifier, released ones are counted too.
const IN_FLIGHT_MAX: u16 = 4 * WINDOW_MAX;

/// How often the session of a removed bridge is tried to be released.
const ORPHAN_TRIES: u32 = 120;
const ORPHAN_PAUSE: Duration = Duration::from_millis(500);
/// Differences of retained messages that are kept in memory; beyond it everything is sent.
const MISSED_MAX: usize = 65_536;
/// Retained messages that are looked at in one go.
const CHUNK: usize = 1000;

pub(super) type LocalWire = Wire<DuplexStream>;

/// Connects the bridge's session. When this returns no other node has it.
/// # Errors
/// Why not.
pub(super) async fn connect(
    broker: &Arc<Broker>,
    listener: &Arc<Listener>,
    bridge: &BridgeSettings,
) -> Result<(LocalWire, ConnAck), String> {
    let mut wire = open(broker, listener, &bridge.name);
    let settings = broker.settings.load_full();
    let window = settings.limits.max_inflight_messages.map_or(WINDOW_MAX, |max| max.get().min(WINDOW_MAX));
    let connect = Relay::local_connect(bridge, window, settings.retain.available);
    let timeout = settings.cluster.commit_timeout + Duration::from_secs(5);
    let connack = take(&mut wire, connect, timeout).await?;
    Ok((wire, connack))
}

/// Makes the session of `connect` this connection's.
async fn take(wire: &mut LocalWire, connect: Connect, timeout: Duration) -> Result<ConnAck, String> {
    let connack = tokio::time::timeout(timeout, wire.connect(connect)).await;
    let connack = connack.map_err(|_| "the local session cannot be taken now".to_owned())?;
    let connack = connack.map_err(|error| format!("the local session cannot be taken: {error}"))?;
    match connack.reason {
        ReasonCode::Success => Ok(connack),
        reason => Err(format!("the local broker refused the session of the bridge: {reason:?}")),
    }
}

/// QoS 2 identifiers that the session has received and not released.
pub(super) fn received(broker: &Broker, bridge: &BridgeSettings) -> Vec<PacketId> {
    let state = broker.consensus.state().read();
    state.session(&bridge.local_client_id).map(|session| session.inbound().to_vec()).unwrap_or_default()
}

/// Identifiers of the messages that may be on their way to the remote.
pub(super) fn in_flight(broker: &Broker, bridge: &BridgeSettings) -> Vec<PacketId> {
    let state = broker.consensus.state().read();
    let session = state.session(&bridge.local_client_id);
    let entries = session.into_iter().flat_map(|session| session.queue().iter_from(0));
    entries.map(|entry| entry.packet_id()).filter(|id| *id != 0).take(usize::from(IN_FLIGHT_MAX)).collect()
}

/// Retained messages that are news to a remote to which `sent` was sent, and an empty one for each that is gone; none, and
/// `sent` knows nothing any more, when they are very many: then everything is sent.
pub(super) async fn missed(broker: &Broker, bridge: &BridgeSettings, sent: &mut SentRetained) -> VecDeque<Publish> {
    let mut news = BTreeMap::new();
    if !sent.is_known() {
        return VecDeque::new();
    }
    for line in bridge.topics.outgoing().filter(|line| bridge.compares(line)) {
        let mut cursor = None;
        loop {
            let mut found = Vec::new();
            cursor = broker.consensus.state().read().retained_matches(&line.local, cursor.as_ref(), CHUNK, &mut found);
            for message in found.iter().filter(|message| is_news(bridge, sent, message)) {
                news.insert(message.topic.clone(), retained(broker, bridge, message));
            }
            if cursor.is_none() {
                break;
            }
            if news.len() > MISSED_MAX {
                *sent = SentRetained::default();
                return VecDeque::new();
            }
            tokio::task::yield_now().await;
        }
    }
    let mut known = sent.topics(None, CHUNK);
    while let Some(last) = known.last().cloned() {
        {
            let state = broker.consensus.state().read();
            let now = state.time();
            known.retain(|topic| state.retained(topic, now).is_none() && sent.is_news(topic, &[]));
        }
        news.extend(known.into_iter().map(|topic| (topic.clone(), Publish::new(topic, &b""[..]))));
        known = sent.topics(Some(&last), CHUNK);
        tokio::task::yield_now().await;
    }
    news.into_values().collect()
}

/// What came over the bridge itself is no news to the remote, and it may have newer; another line may decide.
fn is_news(bridge: &BridgeSettings, sent: &SentRetained, message: &Message) -> bool {
    message.publisher_id != bridge.local_client_id
        && bridge.compares_topic(&message.topic)
        && sent.is_news(&message.topic, &message.payload)
}

/// Looks which of the retained messages that the remote has sent are kept here. With `last` no more of them can come.
pub(super) async fn confirm(broker: &Broker, sent: &mut SentRetained, last: bool) {
    let mut topics = sent.unconfirmed(None, CHUNK);
    while let Some(end) = topics.last().cloned() {
        {
            let state = broker.consensus.state().read();
            let now = state.time();
            for topic in &topics {
                sent.confirm(topic, state.retained(topic, now).map(|message| &message.payload[..]), last);
            }
        }
        topics = sent.unconfirmed(Some(&end), CHUNK);
        tokio::task::yield_now().await;
    }
}

fn retained(broker: &Broker, bridge: &BridgeSettings, message: &Message) -> Publish {
    let mut publish = Publish::new(message.topic.clone(), message.payload.clone());
    publish.qos = message.qos;
    publish.properties.clone_from(&message.properties);
    if bridge.loop_mark {
        let origin = broker.loop_ids.origin(broker.consensus.cluster_id());
        publish.properties = Some(Box::new(loop_ids::with_loop_id(message, origin)));
    }
    if message.expiry_seconds.is_some() {
        let left = message.remaining_seconds(broker.consensus.now());
        publish.properties.get_or_insert_default().message_expiry_interval = left;
    }
    publish
}

/// Messages that wait in the session's queue.
pub(super) fn queued(broker: &Broker, bridge: &BridgeSettings) -> usize {
    let state = broker.consensus.state().read();
    state.session(&bridge.local_client_id).map_or(0, |session| session.queue().len())
}

/// Makes the subscriptions of the session those of the configuration, so that messages wait from now on, and says that
/// the bridge is not connected. Returns the filters that are new among those of lines that wait.
/// # Errors
/// Why not.
pub(super) async fn prepare(
    broker: &Arc<Broker>,
    listener: &Arc<Listener>,
    bridge: &BridgeSettings,
) -> Result<BTreeSet<TopicFilter>, String> {
    let (mut wire, _) = connect(broker, listener, bridge).await?;
    let known: BTreeSet<TopicFilter> = {
        let state = broker.consensus.state().read();
        let known = state.session(&bridge.local_client_id).map(|session| session.subscriptions());
        known.into_iter().flat_map(|known| known.keys()).cloned().collect()
    };
    let wanted: BTreeSet<&TopicFilter> = bridge.topics.outgoing().map(|topic| &topic.local).collect();
    let left: Vec<TopicFilter> = known.iter().filter(|known| !wanted.contains(known)).cloned().collect();
    let waiting = bridge.topics.outgoing().filter(|line| bridge.queues(line)).map(|line| &line.local);
    let new = waiting.filter(|filter| !known.contains(filter)).cloned().collect();
    let mut answers = 0;
    if !left.is_empty() {
        wire.send(&Packet::Unsubscribe(Unsubscribe::new(1, left))).await?;
        answers += 1;
    }
    while answers > 0 {
        if matches!(wire.receive().await?, Packet::UnsubAck(_)) {
            answers -= 1;
        }
    }
    subscribe(&mut wire, bridge).await?;
    leave(wire, Disconnect::new(ReasonCode::DisconnectWithWill)).await;
    Ok(new)
}

/// What is published after this comes to the session. What it sends meanwhile is redelivered or, of QoS 0, lost.
pub(super) async fn subscribe(wire: &mut LocalWire, bridge: &BridgeSettings) -> Result<(), String> {
    for subscribe in Relay::local_subscribes(bridge, |_| false) {
        wire.send(&Packet::Subscribe(subscribe)).await?;
        while !matches!(wire.receive().await?, Packet::SubAck(_)) {}
    }
    Ok(())
}

/// The state of bridges, ours and others', is true only as long as the node runs: a node alone that starts does not
/// repeat what was true before.
pub(super) async fn forget_announcements(broker: &Arc<Broker>, listener: &Arc<Listener>) {
    let Ok(filter) = TopicFilter::new(Utf8::from_static("$SYS/#")) else { return };
    let mut known = Vec::new();
    let mut cursor = None;
    loop {
        cursor = broker.consensus.state().read().retained_matches(&filter, cursor.as_ref(), 1000, &mut known);
        if cursor.is_none() {
            break;
        }
    }
    if known.is_empty() {
        return;
    }
    let mut connect = Connect::new(ProtocolVersion::V5, format!("mosquorum-{}", crate::random::uuid()));
    connect.keep_alive_seconds = 0;
    let mut wire = open(broker, listener, "start");
    let forget = async {
        wire.connect(connect).await?;
        for message in &known {
            let mut publish = Publish::new(message.topic.clone(), &b""[..]);
            (publish.retain, publish.qos, publish.packet_id) = (true, QoS::AtLeastOnce, 1);
            wire.send(&Packet::Publish(publish)).await?;
            wire.receive().await?;
        }
        wire.send(&Packet::Disconnect(Disconnect::new(ReasonCode::Success))).await
    };
    if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(10), forget).await {
        crate::warning!("Old states of bridges stay: {error}.");
    }
}

/// A connection of our own to this broker.
fn open(broker: &Arc<Broker>, listener: &Arc<Listener>, name: &str) -> LocalWire {
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let prepared = Prepared::plain(Stream::Other(Box::new(theirs)));
    let peer = Peer { address: format!("bridge {name}"), port: 0 };
    tokio::spawn(connect::serve(broker.clone(), listener.clone(), prepared, peer));
    Wire::new(ours, ProtocolVersion::V5, u32::MAX)
}

/// Client identifiers of sessions that bridges have left which are not configured (any more).
pub(super) fn left_behind(broker: &Broker) -> Vec<Utf8> {
    let settings = broker.settings.load();
    let configured: BTreeSet<&Utf8> = settings.bridges.iter().map(|bridge| &bridge.settings.local_client_id).collect();
    let (mut left, mut walk) = (BTreeSet::new(), SessionWalk::default());
    loop {
        let state = broker.consensus.state().read();
        let more = state.walk_sessions(&mut walk, |session| {
            let away = state.connection_of(session).is_none();
            if away && session.expiry_seconds() == KEPT && !configured.contains(session.client_id()) {
                left.insert(session.client_id().clone());
            }
        });
        if !more {
            return left.into_iter().collect();
        }
    }
}

/// The bridge is no longer configured: its session and what waits in it end after `expiry`. Tried again for a minute.
pub(super) async fn orphan(broker: &Arc<Broker>, listener: &Arc<Listener>, client_id: &Utf8, expiry: Duration) {
    let mut failure = String::new();
    for _ in 0..ORPHAN_TRIES {
        match set_orphan_expiry(broker, listener, client_id, expiry).await {
            Ok(()) => return,
            Err(error) => failure = error,
        }
        tokio::time::sleep(ORPHAN_PAUSE).await;
    }
    crate::warning!("The session {client_id} of a removed bridge is kept: {failure}; restart a node to end it.");
}

async fn set_orphan_expiry(
    broker: &Arc<Broker>,
    listener: &Arc<Listener>,
    client_id: &Utf8,
    expiry: Duration,
) -> Result<(), String> {
    let is_kept = |session: &Session| session.expiry_seconds() == KEPT;
    if !broker.consensus.state().read().session(client_id).is_some_and(is_kept) {
        return Ok(());
    }
    let mut wire = open(broker, listener, client_id);
    let mut connect = Connect::new(ProtocolVersion::V5, client_id.clone());
    connect.clean_start = false;
    connect.keep_alive_seconds = 0;
    connect.session_expiry_interval = Some(KEPT);
    let timeout = broker.settings.load().cluster.commit_timeout;
    take(&mut wire, connect, timeout).await?;
    let mut disconnect = Disconnect::new(ReasonCode::DisconnectWithWill);
    disconnect.session_expiry_interval = Some(u32::try_from(expiry.as_secs()).unwrap_or(KEPT - 1));
    leave(wire, disconnect).await;
    Ok(())
}

async fn leave(mut wire: LocalWire, disconnect: Disconnect) {
    let _ = wire.send(&Packet::Disconnect(disconnect)).await;
    // Until the broker has closed it; what it still sends is repeated later.
    while wire.receive().await.is_ok() {}
}
