//! The lines that operators, scripts and Mosquitto's tests search for, each at its level.
//! Always true: the searched part stands as Mosquitto 2.1.2 writes it.
use super::{debug, error, info, notice, warning};
use std::fmt::Display;
use std::path::Path;

/// The version of Mosquitto whose behaviour this broker follows; part of the start lines.
pub const MOSQUITTO_VERSION: &str = "2.1.2";
/// Our own version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub fn starting() {
    info!("mosquorum {VERSION} as mosquitto version {MOSQUITTO_VERSION} starting");
}
pub fn running() {
    info!("mosquorum {VERSION} as mosquitto version {MOSQUITTO_VERSION} running");
}
pub fn terminating() {
    info!("mosquorum {VERSION} as mosquitto version {MOSQUITTO_VERSION} terminating");
}
/// After `starting`; `None` without `-c`.
pub fn config_loaded(file: Option<&Path>) {
    match file {
        Some(file) => info!("Config loaded from {}.", file.display()),
        None => info!("Using default config."),
    }
}
pub fn config_ok() {
    info!("Configuration file is OK.");
}
pub fn config_missing_for_test() {
    error!("Please provide a configuration file to test.");
}
pub fn reloading() {
    info!("Reloading config.");
}
pub fn local_only() {
    warning!("Starting in local only mode. Connections will only be possible from clients running on this machine.");
    warning!("Create a configuration file which defines a listener to allow remote access.");
}
/// `family` is 4 or 6.
pub fn opening_listener(family: u8, port: u16) {
    info!("Opening ipv{family} listen socket on port {port}.");
}
pub fn opening_websockets_listener(port: u16) {
    info!("Opening websockets listen socket on port {port}.");
}
pub fn opening_unix_listener(path: &Path) {
    info!("Opening unix listen socket on path {}.", path.display());
}
pub fn opening_http_api_listener(port: u16) {
    info!("Opening HTTP API listen socket on port {port}.");
}
/// `address` without its port. Only with `connection_messages`.
pub fn new_connection(address: impl Display, remote_port: u16, listener_port: u16) {
    notice!("New connection from {address}:{remote_port} on port {listener_port}.");
}
pub fn connection_denied_too_many(address: impl Display) {
    notice!("Client connection from {address} denied: max_connections exceeded.");
}
pub fn connection_denied_by_wrappers(address: impl Display) {
    notice!("Client connection from {address} denied access by tcpd.");
}

/// What a connected client is known by.
#[derive(Debug, Clone, Copy)]
pub struct ConnectedClient<'a> {
    pub client_id: &'a str,
    /// Without the port; empty for a unix socket.
    pub address: &'a str,
    pub remote_port: u16,
    /// Protocol level as in CONNECT: 3, 4 or 5.
    pub version: u8,
    pub clean_start: bool,
    pub keep_alive_seconds: u16,
    pub username: Option<&'a str>,
    pub is_bridge: bool,
}

/// Only with `connection_messages`.
pub fn client_connected(client: &ConnectedClient<'_>) {
    let ConnectedClient { client_id, address, remote_port, version, keep_alive_seconds, .. } = *client;
    let kind = if client.is_bridge { "bridge" } else { "client" };
    let clean = u8::from(client.clean_start);
    match client.username {
        Some(user) => notice!(
            "New {kind} connected from {address}:{remote_port} as {client_id} (p{version}, c{clean}, k{keep_alive_seconds}, u'{user}')."
        ),
        None => notice!(
            "New {kind} connected from {address}:{remote_port} as {client_id} (p{version}, c{clean}, k{keep_alive_seconds})."
        ),
    }
}

pub fn will_specified(payload_bytes: usize, retain: bool, qos: u8, topic: &str) {
    debug!("Will message specified ({payload_bytes} bytes) (r{}, q{qos}).", u8::from(retain));
    debug!("\t{topic}");
}
pub fn no_will() {
    debug!("No will message specified.");
}

/// Why a connection ended, in Mosquitto's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disconnected {
    /// After DISCONNECT.
    Normally,
    MalformedPacket,
    ProtocolError,
    ClosedByClient,
    NotAuthorised,
    /// Its client identifier is connected, or has a session, under another user name (`session_owner`).
    OtherUsersIdentifier,
    ExceededTimeout,
    OversizePacket,
    OversizePayload,
    OutOfMemory,
    DisallowedFeature,
    AdministrativeAction,
    ReceiveMaximumExceeded,
    ImplementationSpecific,
    ClientIdentifierNotValid,
    BadUsernameOrPassword,
    ServerUnavailable,
    ServerBusy,
    ServerShuttingDown,
    Banned,
    BadAuthenticationMethod,
    QuotaExceeded,
    ConnectionRateExceeded,
    SessionTakenOver,
    TopicAliasInvalid,
    BadOrigin,
    /// The log has said why, or nobody wants to know.
    AlreadyReported,
    /// An error of the socket.
    Io(String),
}

impl Disconnected {
    fn reason(&self) -> &str {
        match self {
            Self::Normally | Self::AlreadyReported => "",
            Self::MalformedPacket => "malformed packet",
            Self::ProtocolError => "protocol error",
            Self::ClosedByClient => "connection closed by client",
            Self::NotAuthorised => "not authorised",
            Self::OtherUsersIdentifier => "not authorised, the client identifier is another user's",
            Self::ExceededTimeout => "exceeded timeout",
            Self::OversizePacket => "oversize packet",
            Self::OversizePayload => "oversize payload",
            Self::OutOfMemory => "out of memory",
            Self::DisallowedFeature => {
                "used disallowed feature (QoS too high, retain not supported, or bad AUTH method)"
            }
            Self::AdministrativeAction => "administrative action",
            Self::ReceiveMaximumExceeded => "receive maximum exceeded",
            Self::ImplementationSpecific => "implementation specific error",
            Self::ClientIdentifierNotValid => "client identifier not valid",
            Self::BadUsernameOrPassword => "bad username or password",
            Self::ServerUnavailable => "server unavailable",
            Self::ServerBusy => "server busy",
            Self::ServerShuttingDown => "server shutting down",
            Self::Banned => "client banned",
            Self::BadAuthenticationMethod => "bad authentication method",
            Self::QuotaExceeded => "quota exceeded",
            Self::ConnectionRateExceeded => "connection rate exceeded",
            Self::SessionTakenOver => "session taken over",
            Self::TopicAliasInvalid => "topic alias invalid",
            Self::BadOrigin => "non-matching http origin",
            Self::Io(text) => text,
        }
    }
}

/// `name` is the client id, or the address before CONNECT. Only with `connection_messages`.
pub fn client_disconnected(name: &str, address: &str, remote_port: u16, why: &Disconnected) {
    if *why == Disconnected::AlreadyReported {
        return;
    }
    match why.reason() {
        "" => notice!("Client {name} [{address}:{remote_port}] disconnected."),
        reason => notice!("Client {name} [{address}:{remote_port}] disconnected: {reason}."),
    }
}

/// A broken rule of MQTT; `what` ends without a full stop. Only with `connection_messages` before CONNECT.
pub fn protocol_error(name: &str, what: impl Display) {
    info!("Protocol error from {name}: {what}.");
}
pub fn acl_dangerous_name(kind: &str, name: &str) {
    notice!("ACL denying access to client with dangerous {kind} \"{name}\"");
}
pub fn outgoing_dropped(client_id: &str) {
    notice!("Outgoing messages are being dropped for client {client_id}.");
}
/// From now on a copy of the file restores everything up to the request.
pub fn saved_database(path: &Path) {
    info!("Saved the state to {}.", path.display());
}

pub fn saving_database(path: &Path) {
    info!("Saving in-memory database to {}.", path.display());
}
pub fn tls_negotiated(client_id: &str, version: &str, cipher: &str) {
    notice!("Client {client_id} negotiated {version} cipher {cipher}");
}
/// A TLS handshake where there is no TLS.
pub fn tls_on_plain(address: &str, remote_port: u16) {
    notice!("Client from {address}:{remote_port} appears to be using TLS to connect to a non-TLS listener.");
}
/// Anything else where there is TLS.
pub fn plain_on_tls(address: &str, remote_port: u16) {
    notice!("Client from {address}:{remote_port} appears to be connecting without TLS to a TLS listener.");
}
/// What X-Forwarded-For says about a connection; only for people to read, for anybody can say it.
pub fn forwarded(address: &str, remote_port: u16, client: impl Display) {
    notice!("Connection from {address}:{remote_port} says it is forwarded for {client}.");
}
/// A PROXY header of version 1 that is none.
pub fn proxy_corrupt() {
    notice!("Connection rejected, corrupt PROXY header.");
}
pub fn proxy_rejected(address: &str, remote_port: u16, why: &str) {
    notice!("Connection from {address}:{remote_port} rejected, {why}.");
}
/// What client and balancer agreed on, as the PROXY header says.
pub fn proxy_negotiated(address: &str, remote_port: u16, version: &str, cipher: &str) {
    notice!("Connection from {address}:{remote_port} negotiated {version} cipher {cipher}");
}
pub fn running_as_root() {
    warning!("Warning: the broker should not be run as root.");
}
/// A subscription was granted (`log_type subscribe`).
pub fn subscribed(client_id: &str, qos: u8, filter: &str) {
    crate::log_line!(super::Level::Subscribe, "{client_id} {qos} {filter}");
}
/// A subscription ended (`log_type unsubscribe`).
pub fn unsubscribed(client_id: &str, filter: &str) {
    crate::log_line!(super::Level::Unsubscribe, "{client_id} {filter}");
}
