//! A client in service: its CONNACK, its session, and its end.
use super::{
    admission::{Admission, SessionKind},
    checks::{Client, session_expiry_max},
};
use crate::{
    broker::Broker,
    connection::{Connection, Service},
    listener::{Listener, Peer},
    live::{add, registry::Presence},
    logging::{
        lines::{self, ConnectedClient},
        packets,
    },
    session::{ClientKind, Ending, Marks, MountPoint, Session, SessionOptions},
    session_env::SessionEnv,
};
use bytes::BytesMut;
use mosquorum_bridge::LOOP_IDS_PROPERTY;
use mosquorum_cluster::state::{Command, QueueLimits};
use mosquorum_proto::mqtt::{ConnAck, Connect, Packet, ProtocolVersion, QoS, ReasonCode, encode};
use std::{sync::Arc, time::Duration};

pub(super) fn mount_point(listener: &Listener) -> MountPoint {
    MountPoint::new(listener.settings().mount_point.as_deref())
}

fn send_window(broker: &Broker, client: &Client) -> u16 {
    let ours = broker.settings.load().limits.max_inflight_messages.map_or(u16::MAX, std::num::NonZeroU16::get);
    client.connect.receive_maximum.unwrap_or(u16::MAX).min(ours)
}

pub(super) fn queue_limits(broker: &Broker, client: &Client) -> QueueLimits {
    let settings = broker.settings.load();
    QueueLimits {
        messages: settings.limits.max_queued_messages.map_or(0, |n| u32::try_from(n.get()).unwrap_or(0)),
        bytes: settings.limits.max_queued_bytes.map_or(0, |n| n.get() as u64),
        inflight: send_window(broker, client),
        queue_qos0: settings.delivery.queue_qos0_messages,
        upgrade_qos: settings.delivery.upgrade_outgoing_qos,
        // As Mosquitto: MQTT 5 distinguishes overlapping subscriptions by their identifiers.
        merge_overlapping: !settings.delivery.allow_duplicate_messages && client.connect.version != ProtocolVersion::V5,
        shared_offline: settings.delivery.shared_offline_members,
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
        kind: if client.connect.bridge { ClientKind::Bridge } else { ClientKind::Ordinary },
        marks: loop_id_exchange(broker, listener, client),
        epoch: admission.epoch,
        durable: admission.session != SessionKind::Clean,
        session_expiry_seconds: client.expiry_seconds,
        session_expiry_max: session_expiry_max(&settings, listener),
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

fn loop_id_exchange(broker: &Broker, listener: &Listener, client: &Client) -> Marks {
    let exchanged =
        understands_loop_ids(&client.connect) && may_send_loop_ids(broker, listener, client.username.as_deref());
    if exchanged { Marks::Exchanged } else { Marks::Ignored }
}

/// Whether its loop ids are believed: whoever sends them decides which messages are repetitions.
fn may_send_loop_ids(broker: &Broker, listener: &Listener, username: Option<&str>) -> bool {
    let settings = broker.settings.load();
    let named = |user: &String| user == "*" || Some(user.as_str()) == username;
    listener.is_internal || settings.bridge_loop_mark_users.iter().any(named)
}

fn understands_loop_ids(connect: &Connect) -> bool {
    connect.user_properties.iter().any(|(name, _)| name.as_str() == LOOP_IDS_PROPERTY)
}

pub(super) fn connack(broker: &Broker, listener: &Listener, client: &Client, session_present: bool) -> ConnAck {
    let settings = broker.settings.load();
    let mut connack = ConnAck::new(session_present, ReasonCode::Success);
    if client.connect.version != ProtocolVersion::V5 {
        return connack;
    }
    connack.server_keep_alive = client.server_keep_alive;
    // Told when it is not what was asked for (section 3.2.2.3.2).
    let expiry = client.expiry_seconds;
    connack.session_expiry_interval = (client.connect.session_expiry_interval.unwrap_or(0) != expiry).then_some(expiry);
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
pub struct ActiveConnection {
    service: Service,
    durable: bool,
    peer: Peer,
    /// Dropped last: who waits for this connection's end goes on then.
    presence: Presence,
}

impl ActiveConnection {
    pub(super) fn new(mut connection: Connection, client: Client, admission: Admission, peer: Peer) -> Self {
        let (broker, listener) = (connection.broker.clone(), connection.listener.clone());
        let options = session_options(&broker, &listener, &client, &admission);
        let Admission { owner, presence, mailbox, session, .. } = admission;
        let durable = session != SessionKind::Clean;
        if durable {
            broker.router.attach_durable(&client.id, owner.connection, mailbox.clone());
        }
        log_connected(&broker, &client, &peer);
        add(&broker.counters.connacks_sent, 1);
        add(&broker.counters.clients_total, 1);
        connection.keep_alive =
            (client.keep_alive_seconds > 0).then(|| Duration::from_millis(u64::from(client.keep_alive_seconds) * 1500));
        let access = listener.access(&client.id, client.username.as_ref());
        let answer = connack(&broker, &listener, &client, session == SessionKind::Resumed);
        let will_topic = client.connect.will.as_ref().map(|will| Box::new(will.topic.detached()));
        let (login, door) = (client.login, client.door);
        if connection.partial.is_empty() {
            // CONNECT's bytes: nobody needs them any more.
            connection.partial = BytesMut::new();
        }
        let mut side = SessionEnv::new(broker.clone(), mailbox, owner, client.id, client.username, access, door);
        side.will_topic = will_topic;
        encode(&Packet::ConnAck(Box::new(answer)), client.connect.version, side.out.buffer());
        if packets::are_wanted() {
            packets::sending(&side.client_id, options.version, side.out.next());
        }
        if options.marks == Marks::Exchanged {
            broker.loop_ids.want();
        }
        let service = Service::new(connection, Session::new(options), side, login);
        Self { service, durable, peer, presence }
    }

    /// Until the client has left.
    pub async fn serve(mut self: Box<Self>) {
        let listener = self.service.listener().clone();
        let _in_service = listener.clients.enter(self.service.version());
        let end = self.service.run().await;
        let Self { service, durable, peer, presence } = *self;
        let (broker, session, mut side) = service.into_parts();
        let client_id = side.client_id.clone();
        let discards_will = end.discards_will() || !side.may_publish_will();
        let ending = match (end.is_superseded(), discards_will) {
            (true, _) => Ending::Superseded,
            (false, true) => Ending::WithoutWill,
            (false, false) => Ending::WithWill,
        };
        leave(&broker, durable, ending, session, side, presence);
        broker.log_end(&client_id, &peer, &end.describe());
        add(&broker.counters.sockets_closed, 1);
    }
}

/// The connection is over. Its client identifier is free only when what it wrote has been taken in, or cannot be any more:
/// nothing of it comes behind its successor's CONNACK.
fn leave(
    broker: &Arc<Broker>,
    durable: bool,
    ending: Ending,
    mut session: Session,
    mut side: SessionEnv,
    presence: Presence,
) {
    let owner = side.owner;
    if durable {
        broker.router.detach_durable(&side.client_id, owner.connection);
    }
    if let Some(mut command) = session.end(ending, &mut side) {
        if let (Command::Disconnect(end), Some(will_topic)) = (&mut command, &side.will_topic)
            && !end.discard_will
        {
            end.unreadable = broker.router.unreadable(will_topic.as_str());
        }
        side.submit_for_nobody(command);
    }
    side.finish_round();
    broker.redispatch_all(side.mailbox.close());
    broker.registry.depart(&side.client_id, owner.connection);
    let (broker, client_id) = (broker.clone(), side.client_id.clone());
    side.mailbox.when_settled(move || {
        broker.registry.leave(&client_id, owner.connection);
        broker.peers.release(&client_id, owner);
        drop(presence);
    });
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
