//! What can be said of a client without asking the cluster: its version, its will, its name and its rights.
//! Always true: nobody passes who is not let in; the password goes no further than this.
use super::active::{connack, mount_point};
use crate::{
    auth::{Authentication, Login, Source},
    broker::Broker,
    carrier::CertificateIdentity,
    config::Settings,
    listener::Listener,
    logging::lines::Disconnected,
    session::is_expiry,
};
use bytes::BytesMut;
use mosquorum_cluster::{OnlyUser, state::Door};
use mosquorum_proto::mqtt::{ConnAck, Connect, Packet, ProtocolVersion, ReasonCode, Utf8, encode};

const EXPIRES_NEVER: u32 = u32::MAX;

/// Why there is no session; `answer` is sent in a CONNACK if there is one.
pub(super) struct Refusal {
    pub(super) answer: Option<ReasonCode>,
    pub(super) why: Disconnected,
}

impl Refusal {
    pub(super) fn new(answer: ReasonCode, why: Disconnected) -> Self {
        Self { answer: Some(answer), why }
    }
    pub(super) fn silent(why: Disconnected) -> Self {
        Self { answer: None, why }
    }
    /// More want in than can be looked at; a client tries again later.
    pub(super) fn busy(version: ProtocolVersion, why: Disconnected) -> Self {
        let v5 = version == ProtocolVersion::V5;
        Self::new(if v5 { ReasonCode::ServerBusy } else { ReasonCode::ServerUnavailable }, why)
    }
    /// The client identifier is another user's.
    pub(super) fn other_users() -> Self {
        Self::new(ReasonCode::NotAuthorized, Disconnected::OtherUsersIdentifier)
    }
    /// Without a majority: a client tries again later.
    pub(super) fn unavailable() -> Self {
        Self::new(ReasonCode::ServerUnavailable, Disconnected::ServerUnavailable)
    }
}

/// Who the client is, after all checks that need nobody else.
pub(super) struct Client {
    pub(super) id: Utf8,
    pub(super) assigned: bool,
    pub(super) username: Option<Utf8>,
    pub(super) connect: Connect,
    pub(super) keep_alive_seconds: u16,
    pub(super) server_keep_alive: Option<u16>,
    pub(super) expiry_seconds: u32,
    pub(super) login: Login,
    pub(super) door: Door,
    /// From whom it may take its client identifier. `None`: anybody.
    pub(super) only: Option<OnlyUser>,
}

/// Everything that can be said without asking the cluster. `source`: whose turn at the password check it takes.
pub(super) async fn identify(
    broker: &Broker,
    listener: &Listener,
    mut connect: Connect,
    identity: Option<CertificateIdentity>,
    by_tls: bool,
    source: Source,
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
        if let Some(properties) = &mut will.properties {
            properties.message_expiry_interval = properties.message_expiry_interval.filter(|it| is_expiry(*it));
        }
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
    // An empty name is none, as for Mosquitto.
    connect.user_name = connect.user_name.take().filter(|name| !name.is_empty());
    let (id, assigned) = client_id(listener, &connect)?;
    let login = match is_known_by_certificate {
        true => Login::Certificate,
        false => match listener.lets_in(&broker.verifier, &connect, source).await {
            Ok(login) => login,
            Err(Authentication::Busy) => return Err(Refusal::busy(connect.version, Disconnected::ServerBusy)),
            Err(_) => return Err(not_authorized()),
        },
    };
    let username = connect.user_name.as_ref().map(Utf8::detached);
    let rights = listener.access(&id, username.as_ref());
    if let Some(will) = connect.will.take_if(|will| !rights.may_write(&will.topic)) {
        crate::debug!("Denied will of {id} ('{}')", will.topic.as_str());
    }
    let (keep_alive_seconds, server_keep_alive) = keep_alive(&settings, &connect)?;
    let mut expiry_seconds = session_expiry(&connect).min(session_expiry_max(&settings, listener));
    if expiry_seconds == mosquorum_bridge::KEPT && !listener.is_internal {
        // By this number sessions of bridges are known; a second in 136 years.
        expiry_seconds -= 1;
    }
    connect.password = None;
    // What bridges' sessions are called is the operator's choice.
    let only = settings.delivery.sessions_are_users && !listener.is_internal;
    let client = Client {
        id,
        assigned,
        only: only.then(|| OnlyUser(username.clone())),
        username,
        connect,
        keep_alive_seconds,
        server_keep_alive,
        expiry_seconds,
        login,
        door: listener.door(),
    };
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

fn not_authorized() -> Refusal {
    Refusal::new(ReasonCode::NotAuthorized, Disconnected::NotAuthorised)
}

/// What the client is called, and whether that has to be sent to it. As in Mosquitto the rules are about what it calls itself,
/// or is called for want of that, even where its user name takes the place.
fn client_id(listener: &Listener, connect: &Connect) -> Result<(Utf8, bool), Refusal> {
    let assigned = connect.client_id.is_empty();
    let id = if assigned { make_up_id(listener, connect)? } else { connect.client_id.detached() };
    if !listener.security.load().accepts_client_id(&id) {
        return Err(not_authorized());
    }
    if !listener.settings().use_username_as_clientid {
        return Ok((id, assigned));
    }
    let user = connect.user_name.as_ref().ok_or_else(not_authorized)?;
    Ok((user.detached(), assigned))
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

fn keep_alive(settings: &Settings, connect: &Connect) -> Result<(u16, Option<u16>), Refusal> {
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

/// Seconds that a session is kept at most, whatever its client asks for. Bridges' are ended by their own rules.
pub(super) fn session_expiry_max(settings: &Settings, listener: &Listener) -> u32 {
    let bound = settings.delivery.persistent_client_expiration.filter(|_| !listener.is_internal);
    bound.map_or(EXPIRES_NEVER, |bound| u32::try_from(bound.as_secs()).unwrap_or(EXPIRES_NEVER))
}

/// Seconds that the client wants its session to outlive the connection; before 5.0 for ever or not at all.
fn session_expiry(connect: &Connect) -> u32 {
    match connect.version {
        ProtocolVersion::V5 => connect.session_expiry_interval.unwrap_or(0),
        _ if connect.clean_start => 0,
        _ => EXPIRES_NEVER,
    }
}

pub(super) fn encoded(connack: &ConnAck, version: ProtocolVersion) -> BytesMut {
    let mut out = BytesMut::new();
    encode(&Packet::ConnAck(Box::new(connack.clone())), version, &mut out);
    out
}

/// Largest packet in bytes that the client takes.
pub(super) fn packet_size_max(connect: &Connect) -> usize {
    connect.maximum_packet_size.map_or(usize::MAX, |size| size as usize)
}
