//! One connection of a bridge, from the remote's CONNACK to its end: packets of either side in, packets for either out.
//! Always true: the remote gets an acknowledgement only after the local broker gave one for the same packet, and the local
//! session one only after the remote gave it; at most the remote's Receive Maximum is on its way to the remote, and
//! what comes from it goes on at once, whose bound are its packet identifiers; messages go out only after what was asked at the beginning has been answered, so that
//! no packet identifier stands for two things.
//! Not here: the sockets, CONNECT's answers before this connection was accepted (`broker::bridges`).
mod aliases;
mod inbound;
mod limits;
mod outbound;
mod sent_retained;
mod storm;
#[cfg(test)]
mod tests;

use aliases::Aliases;
pub use limits::{Limits, Remote};
pub use sent_retained::SentRetained;
use storm::Storms;

use crate::{BridgeSettings, LOOP_IDS_PROPERTY, Topic};
use mosquorum_proto::mqtt::{
    Connect, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, RetainHandling, Subscribe, Subscription,
    TopicFilter, TopicName, Unsubscribe, Utf8, Will,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Packets of one side that wait for the other; beyond it that side is not read.
const QUEUED_MAX: usize = 256;
/// While a PUBREL is awaited that side is read on, and QoS 0 is dropped beyond this.
const QUEUED_LAST: usize = 16 * QUEUED_MAX;
/// Lines for the log that one connection may give; what they would say is also counted.
const NOTICES_MAX: usize = 20;
/// So long the remote may take to answer what is asked at the beginning.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Seconds that the local session outlives its connections, for as long as the bridge is configured: longer than any
/// clock runs. No client's session has exactly this, and hardly any asks for it.
pub const KEPT: u32 = u32::MAX - 0xB41D6E;
/// Packet identifiers of requests to the local broker; it keeps them apart from those of messages.
const LOCAL_REQUEST: PacketId = u16::MAX;

/// What went through, since the connection began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub sent: u64,
    pub received: u64,
    /// Larger than the remote takes.
    pub dropped_too_large: u64,
    /// The remote answered with an error.
    pub dropped_refused: u64,
    /// The mapped topic is no topic name, or an alias stands for nothing.
    pub dropped_topic: u64,
    /// Copies of a message that went round.
    pub dropped_loop: u64,
    /// QoS 0, too many waited behind the window.
    pub dropped_full: u64,
}

/// Why the connection must end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayEnd {
    /// The remote does what the protocol does not allow.
    Remote(&'static str),
    RemoteDisconnected(ReasonCode),
    /// No answer to PINGREQ.
    KeepAlive,
    Local(&'static str),
}

impl std::fmt::Display for RelayEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Remote(why) => write!(f, "protocol error of the remote: {why}"),
            Self::RemoteDisconnected(reason) => write!(f, "the remote disconnected with reason {reason:?}"),
            Self::KeepAlive => write!(f, "the remote did not answer within the keep alive"),
            Self::Local(why) => write!(f, "the local session ended: {why}"),
        }
    }
}

/// A message on its way to the remote, by the remote's packet identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// QoS 1, and it is QoS 1 here.
    Once,
    /// QoS 2 on both sides, PUBREC awaited.
    Exactly,
    /// PUBREC came and went to the local session.
    Received,
    /// PUBREL went out.
    Released,
    /// QoS 2 here, QoS 1 there.
    Lowered,
}

pub struct Relay {
    settings: Arc<BridgeSettings>,
    version: ProtocolVersion,
    remote: Remote,
    limits: Limits,
    shift: PacketId,
    last_id: PacketId,
    pub to_remote: Vec<Packet>,
    pub to_local: Vec<Packet>,
    /// One line each for the log.
    pub notices: Vec<String>,
    noted: usize,
    pub counts: Counts,
    asked: HashMap<PacketId, String>,
    asked_since: Duration,
    /// SUBSCRIBEs of the beginning that the remote has not answered.
    subscribing: BTreeSet<PacketId>,
    /// This side has been notified that the bridge is connected.
    announced: bool,
    /// The remote may know these from an earlier connection.
    reserved: BTreeSet<PacketId>,
    queued_out: VecDeque<Publish>,
    sent: HashMap<PacketId, Sent>,
    /// Exchanges that we finish with the local session ourselves.
    own_release: BTreeSet<PacketId>,
    /// What this connection gave to the local broker and it has not finished, by the remote's identifiers. What an earlier
    /// one left there counts once the remote comes back to it. Each with whether the remote waits for an answer.
    taken: BTreeMap<PacketId, bool>,
    /// PUBRELs of ours to the local session for what a former session of the remote had begun.
    own_complete: BTreeSet<PacketId>,
    /// QoS 2 identifiers of which it is not known whether the remote still means the same messages (MQTT 3.1).
    stale: BTreeSet<PacketId>,
    sent_retained: SentRetained,
    /// Retained messages that changed while the remote was away and did not wait in the session.
    missed: VecDeque<Publish>,
    last_ping: Duration,
    /// The remote's.
    aliases_in: HashMap<u16, TopicName>,
    aliases_out: Aliases,
    finishing: bool,
    subscribed: bool,
    storms: Storms,
    now: Duration,
    last_out: Duration,
    last_in: Duration,
    ping_since: Option<Duration>,
}

/// What earlier connections left.
#[derive(Debug, Default)]
pub struct Beginning {
    /// QoS 2 identifiers of the remote that the local session holds.
    pub stale: Vec<PacketId>,
    /// Identifiers of the local session that an earlier connection may have used.
    pub in_flight: Vec<PacketId>,
    /// The highest identifier used towards the remote so far, see [`Relay::last_id`].
    pub last_id: PacketId,
    pub sent_retained: SentRetained,
    /// Retained messages that are news after `sent_retained`; an empty one where there is none any more.
    pub missed: VecDeque<Publish>,
    /// Local filters of lines that wait, whose retained messages were never sent to the remote.
    pub unsent: BTreeSet<TopicFilter>,
    /// Filters of lines that are gone; the remote's session may still have them.
    pub gone: BTreeSet<TopicFilter>,
}

impl Relay {
    /// The remote has accepted.
    #[must_use]
    pub fn new(
        settings: Arc<BridgeSettings>,
        remote: Remote,
        limits: Limits,
        beginning: Beginning,
        now: Duration,
    ) -> Self {
        let mut relay = Self {
            version: remote.version,
            shift: PacketId::from(settings.asks_remote()),
            settings,
            limits,
            last_id: beginning.last_id,
            sent_retained: beginning.sent_retained,
            missed: beginning.missed,
            last_ping: now,
            to_remote: Vec::new(),
            to_local: Vec::new(),
            notices: Vec::new(),
            noted: 0,
            counts: Counts::default(),
            asked: HashMap::new(),
            asked_since: now,
            subscribing: BTreeSet::new(),
            announced: false,
            reserved: BTreeSet::new(),
            queued_out: VecDeque::new(),
            sent: HashMap::new(),
            own_release: BTreeSet::new(),
            taken: BTreeMap::new(),
            own_complete: BTreeSet::new(),
            stale: BTreeSet::new(),
            aliases_in: HashMap::new(),
            aliases_out: Aliases::new(remote.topic_alias_maximum),
            finishing: false,
            subscribed: false,
            storms: Storms::default(),
            now,
            last_out: now,
            last_in: now,
            ping_since: None,
            remote,
        };
        relay.reserved = beginning.in_flight.iter().map(|local| relay.remote_id(*local)).collect();
        relay.open(&beginning.stale, &beginning.unsent, &beginning.gone);
        relay
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// What the next connection begins to count from.
    #[must_use]
    pub fn last_id(&self) -> PacketId {
        self.last_id
    }

    /// Whether the local session has its subscriptions, and what they replay.
    #[must_use]
    pub fn is_subscribed(&self) -> bool {
        self.subscribed
    }

    /// The connection is over: what the next one goes on with.
    #[must_use]
    pub fn take_sent_retained(&mut self) -> SentRetained {
        self.sent_retained.interrupted();
        std::mem::take(&mut self.sent_retained)
    }

    /// CONNECT for the local broker.
    #[must_use]
    pub fn local_connect(settings: &BridgeSettings, window: u16, retain: bool) -> Connect {
        let mut connect = Connect::new(ProtocolVersion::V5, settings.local_client_id.clone());
        connect.clean_start = settings.local_clean_session;
        connect.keep_alive_seconds = 0;
        connect.user_name.clone_from(&settings.local_username);
        connect.session_expiry_interval = (!settings.local_clean_session).then_some(KEPT);
        connect.receive_maximum = Some(window.max(1));
        announce_loop_ids(settings, &mut connect);
        connect.will = settings.notification_topic.clone().map(|topic| state_will(topic, QoS::AtLeastOnce, retain));
        connect
    }

    /// CONNECT for the remote. `window`: messages that the local broker takes at once.
    #[must_use]
    pub fn remote_connect(
        settings: &BridgeSettings,
        attempt: &Limits,
        window: Option<u16>,
        password: Option<bytes::Bytes>,
    ) -> Connect {
        let version = attempt.version;
        let mut connect = Connect::new(version, settings.remote_client_id.clone());
        connect.bridge = attempt.try_private && version != ProtocolVersion::V5;
        connect.clean_start = settings.clean_session;
        connect.keep_alive_seconds = settings.keep_alive_seconds;
        connect.user_name.clone_from(&settings.remote_username);
        connect.password = password;
        if version == ProtocolVersion::V5 {
            connect.receive_maximum = settings.receive_maximum.or(window);
            connect.topic_alias_maximum = (settings.max_topic_alias > 0).then_some(settings.max_topic_alias);
            connect.session_expiry_interval =
                (settings.session_expiry_seconds > 0).then_some(settings.session_expiry_seconds);
            announce_loop_ids(settings, &mut connect);
        }
        if !settings.notifications_local_only {
            let qos = attempt.max_qos.min(QoS::AtLeastOnce);
            connect.will =
                settings.notification_topic.clone().map(|topic| state_will(topic, qos, attempt.retain_available));
        }
        connect
    }

    /// SUBSCRIBE packets for the local session. `replay`: retained messages too.
    #[must_use]
    pub fn local_subscribes(settings: &BridgeSettings, replay: impl Fn(&Topic) -> bool) -> Vec<Subscribe> {
        let subscriptions: Vec<Subscription> = settings
            .topics
            .outgoing()
            .map(|topic| Subscription {
                filter: topic.local.clone(),
                qos: topic.qos,
                no_local: topic.local.share_name().is_none(),
                retain_as_published: true,
                retain_handling: match replay(topic) {
                    true => RetainHandling::SendAtSubscribe,
                    false => RetainHandling::DoNotSend,
                },
            })
            .collect();
        if subscriptions.is_empty() { Vec::new() } else { vec![Subscribe::new(LOCAL_REQUEST, subscriptions)] }
    }

    /// What is asked and announced at the beginning.
    fn open(&mut self, stale: &[PacketId], unsent: &BTreeSet<TopicFilter>, gone: &BTreeSet<TopicFilter>) {
        let settings = self.settings.clone();
        if self.version == ProtocolVersion::V31 && !settings.clean_session {
            self.stale.extend(stale);
        } else if !self.remote.session_present {
            for packet_id in stale {
                // The remote has forgotten these exchanges; a new one may use the same identifier.
                self.own_complete.insert(*packet_id);
                self.to_local.push(Packet::PubRel(mosquorum_proto::mqtt::Ack::new(*packet_id)));
            }
        }
        if let Some(topic) = &settings.notification_topic {
            self.announce_there(topic);
        }
        for topic in settings.topics.lines() {
            let remote = topic.remote.clone();
            if topic.direction.is_in() {
                let packet_id = self.ask(format!("SUBSCRIBE to {}", remote.as_str()));
                self.subscribing.insert(packet_id);
                let mut subscription = Subscription::new(remote, topic.qos.min(self.remote.max_qos));
                if self.version == ProtocolVersion::V5 {
                    subscription.no_local = subscription.filter.share_name().is_none();
                    subscription.retain_as_published = true;
                }
                self.to_remote.push(Packet::Subscribe(Subscribe::new(packet_id, vec![subscription])));
            } else if settings.attempt_unsubscribe {
                let packet_id = self.ask(String::new());
                self.to_remote.push(Packet::Unsubscribe(Unsubscribe::new(packet_id, vec![remote])));
            }
        }
        for filter in gone {
            let packet_id = self.ask(String::new());
            self.to_remote.push(Packet::Unsubscribe(Unsubscribe::new(packet_id, vec![filter.clone()])));
        }
        self.announce_here();
        let fresh = !self.remote.session_present;
        if fresh && settings.asks_for_session(self.version) {
            // It has lost its state, and perhaps its retained messages.
            self.sent_retained = SentRetained::default();
            self.missed.clear();
        }
        let all = !self.sent_retained.is_known();
        self.sent_retained.begin();
        // What waits here while the remote is away is in the queue already, unless the remote never had it.
        let missed = |line: &Topic| match settings.queues(line) {
            true => fresh || unsent.contains(&line.local),
            false => all || !settings.compares(line),
        };
        for subscribe in Self::local_subscribes(&settings, missed) {
            self.to_local.push(Packet::Subscribe(subscribe));
        }
        self.pump_out();
    }

    /// This side is notified that the bridge is connected once the remote has the subscriptions: what is published there from
    /// then on comes over.
    fn announce_here(&mut self) {
        if !self.subscribing.is_empty() || std::mem::replace(&mut self.announced, true) {
            return;
        }
        if let Some(topic) = &self.settings.notification_topic {
            let mut publish = Publish::new(topic.clone(), &b"1"[..]);
            publish.retain = self.limits.local_retain_available;
            self.to_local.push(Packet::Publish(publish));
        }
    }

    fn announce_there(&mut self, topic: &TopicName) {
        if self.settings.notifications_local_only {
            return;
        }
        let mut publish = Publish::new(topic.clone(), &b"1"[..]);
        publish.retain = self.remote.retain_available;
        publish.qos = self.remote.max_qos.min(QoS::AtLeastOnce);
        if self.reserved.len() >= usize::from(self.remote.receive_maximum) {
            // Exchanges that the remote has not finished fill its window, and it would refuse more.
            publish.qos = QoS::AtMostOnce;
        }
        if publish.qos != QoS::AtMostOnce {
            publish.packet_id = self.ask(String::new());
        }
        self.to_remote.push(Packet::Publish(publish));
    }

    /// A packet identifier for something whose answer is awaited; `what` is named if it is refused.
    fn ask(&mut self, what: String) -> PacketId {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let taken = self.asked.contains_key(&self.last_id) || self.sent.contains_key(&self.last_id);
            if !taken && !self.reserved.contains(&self.last_id) {
                self.asked.insert(self.last_id, what);
                return self.last_id;
            }
        }
    }

    /// Whether a packet of the local session may be given to us.
    #[must_use]
    pub fn wants_local(&self) -> bool {
        // Behind what waits may stand the PUBREL that the remote's window waits for.
        self.queued_out.len() < QUEUED_MAX || self.sent.values().any(|sent| *sent == Sent::Received)
    }

    /// Nothing new goes out any more; what is on its way may end.
    pub fn finish(&mut self) {
        self.finishing = true;
    }

    /// Nothing is on its way.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.sent.is_empty() && self.taken.is_empty()
    }

    /// Whether the remote waits for answers that the local broker has not given. Without them it sends everything again.
    #[must_use]
    pub fn owes_remote(&self) -> bool {
        self.taken.values().any(|owed| *owed)
    }

    /// Nothing is on its way or waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let waiting = !(self.asked.is_empty() && self.queued_out.is_empty() && self.missed.is_empty());
        !waiting && self.is_finished()
    }

    /// # Errors
    /// The connection must end.
    pub fn on_remote(&mut self, packet: Packet) -> Result<(), RelayEnd> {
        match packet {
            Packet::Publish(publish) => self.on_remote_publish(publish)?,
            Packet::PubAck(ack) => self.on_puback(&ack),
            Packet::PubRec(ack) => self.on_pubrec(&ack),
            Packet::PubRel(ack) => {
                self.stale.remove(&ack.packet_id);
                if let Some(owed) = self.taken.get_mut(&ack.packet_id) {
                    *owed = true;
                }
                self.to_local.push(Packet::PubRel(mosquorum_proto::mqtt::Ack::new(ack.packet_id)));
            }
            Packet::PubComp(ack) => self.on_pubcomp(&ack),
            Packet::SubAck(suback) => {
                let what = self.asked.remove(&suback.packet_id).unwrap_or_default();
                self.subscribing.remove(&suback.packet_id);
                self.announce_here();
                if let Some(reason) = suback.reasons.iter().find(|reason| reason.is_error()) {
                    self.note(format!("the remote refused {what} with reason {reason:?}"));
                }
            }
            Packet::UnsubAck(unsuback) => {
                self.asked.remove(&unsuback.packet_id);
            }
            Packet::PingResp => {
                self.ping_since = None;
                self.sent_retained.answered();
            }
            Packet::PingReq => self.to_remote.push(Packet::PingResp),
            Packet::Disconnect(disconnect) => return Err(RelayEnd::RemoteDisconnected(disconnect.reason)),
            _ => return Err(RelayEnd::Remote("a packet that a server does not send")),
        }
        self.pump_out();
        Ok(())
    }

    /// # Errors
    /// The connection must end.
    pub fn on_local(&mut self, packet: Packet) -> Result<(), RelayEnd> {
        match packet {
            Packet::Publish(publish) => {
                if publish.qos == QoS::AtMostOnce && self.queued_out.len() >= QUEUED_LAST {
                    self.counts.dropped_full += 1;
                } else {
                    self.queued_out.push_back(publish);
                }
            }
            Packet::PubRel(ack) => self.on_local_pubrel(ack.packet_id),
            Packet::PubAck(ack) => self.on_local_answer(Packet::PubAck, &ack),
            Packet::PubRec(ack) => self.on_local_answer(Packet::PubRec, &ack),
            Packet::PubComp(ack) => self.on_local_answer(Packet::PubComp, &ack),
            Packet::SubAck(suback) => {
                self.subscribed = true;
                if let Some(reason) = suback.reasons.iter().find(|reason| reason.is_error()) {
                    self.note(format!("the local broker refused a subscription with reason {reason:?}"));
                }
            }
            Packet::UnsubAck(_) | Packet::PingResp => {}
            Packet::Disconnect(_) => return Err(RelayEnd::Local("the broker closed it")),
            _ => return Err(RelayEnd::Local("an unexpected packet")),
        }
        self.pump_out();
        Ok(())
    }

    /// For the log, as long as that is not too much.
    fn note(&mut self, text: String) {
        self.noted += 1;
        if self.noted <= NOTICES_MAX {
            self.notices.push(text);
        }
    }

    /// Time passes; `now` counts from any fixed point. Returns when to call again.
    /// # Errors
    /// The remote is silent.
    pub fn on_time(&mut self, now: Duration) -> Result<Duration, RelayEnd> {
        self.now = now;
        if !self.asked.is_empty() && now >= self.asked_since + ANSWER_TIMEOUT {
            return Err(RelayEnd::Remote("no answer to what was asked at the beginning"));
        }
        let keep_alive = Duration::from_secs(self.remote.keep_alive_seconds.into());
        if keep_alive.is_zero() {
            return Ok(now + Duration::from_secs(3600));
        }
        if let Some(since) = self.ping_since {
            let deadline = since + keep_alive;
            return if now >= deadline { Err(RelayEnd::KeepAlive) } else { Ok(deadline) };
        }
        // However much goes out: a remote that says nothing is asked, and so is one that may not have got what was sent to it.
        let asked = if self.sent_retained.is_unsure() { self.last_ping } else { self.last_out };
        let due = self.last_out.min(self.last_in).min(asked) + keep_alive;
        if now < due {
            return Ok(due);
        }
        self.to_remote.push(Packet::PingReq);
        self.sent_retained.ask();
        (self.ping_since, self.last_ping) = (Some(now), now);
        Ok(now + keep_alive)
    }

    /// Something was written to the remote.
    pub fn wrote_remote(&mut self, now: Duration) {
        self.last_out = now;
    }

    /// Something was read from it: it is alive.
    pub fn read_remote(&mut self, now: Duration) {
        self.last_in = now;
        if let Some(since) = &mut self.ping_since {
            *since = now;
        }
    }
}

fn announce_loop_ids(settings: &BridgeSettings, connect: &mut Connect) {
    if settings.loop_mark {
        connect.user_properties.push((Utf8::from_static(LOOP_IDS_PROPERTY), Utf8::from_static("1")));
    }
}

fn state_will(topic: TopicName, qos: QoS, retain: bool) -> Will {
    Will { topic, payload: bytes::Bytes::from_static(b"0"), qos, retain, delay_interval_seconds: 0, properties: None }
}
