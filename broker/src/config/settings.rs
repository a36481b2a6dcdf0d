//! The settings of the broker, as validated types. Each field names its mosquitto.conf option and unit; defaults stand in the option table.
//! Always true: a value of these types has passed every check that needs no other file and no network; nothing below
//! `main` reads the configuration file or the environment.
//! Not here: how text becomes these types (`build`), what a password or ACL file contains (`auth`).
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::raw::{Raw, Sources};
use super::{BridgeConfig, Level, Note};

/// All settings of the broker, from defaults, file, environment and flags.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `-c`: the main file, if any.
    pub config_file: Option<PathBuf>,
    /// No `listener`, `port` or `bind_address` was given: the listeners are the loopback ones.
    pub local_only: bool,
    /// Every socket to open, in the order of the file; never empty.
    pub listeners: Vec<ListenerSettings>,
    /// `clientid_prefixes`: only client ids that start with this may connect. Default none.
    pub clientid_prefixes: Option<String>,
    pub limits: Limits,
    pub delivery: Delivery,
    pub retain: RetainSettings,
    /// `tcp_wrappers` (ours): /etc/hosts.allow and /etc/hosts.deny are obeyed.
    pub tcp_wrappers: bool,
    /// `enable_control_api`: requests on `$CONTROL/broker/v1` are answered.
    pub control_api: bool,
    pub persistence: PersistenceSettings,
    pub log: LogSettings,
    pub process: ProcessSettings,
    pub cluster: ClusterSettings,
    /// `health_listener PORT [ADDRESS]` (ours): HTTP for probes and metrics, without credentials; loopback unless an
    /// address is given. Default none.
    pub health_listener: Option<SocketAddr>,
    /// `shutdown_drain SECONDS` (ours): SIGTERM and SIGINT hand the clients over within this time before the node stops. Default 0:
    /// it stops at once.
    pub shutdown_drain: Duration,
    /// `server_reference HOST|none` (ours): where clients of other nodes are sent when those hand them over; the
    /// listener's port is added. Default: the host of `cluster_advertise`. `None`: nowhere.
    pub server_reference: Option<String>,
    /// `sys_interval`: seconds between `$SYS` updates. `None` (written 0) turns them off. Default 10.
    pub sys_interval: Option<Duration>,
    /// `packet_buffer_size` = `websockets_headers_size`: bytes read ahead of a packet's length, and the most a
    /// WebSocket request header may have. Default 4096.
    pub packet_buffer_size_bytes: u16,
    /// `bridge_loop_mark_user NAME|*` (ours), repeated: users whose connections are bridges that may bring marks of messages
    /// ([`mosquorum_bridge::LOOP_IDS_PROPERTY`]); `*`: everybody's. Default nobody's.
    pub bridge_loop_mark_users: Vec<String>,
    /// `bridge_orphan_expiry`: so long what waits for a removed bridge is kept. Default 1d.
    pub bridge_orphan_expiry: Duration,
    /// The `connection` blocks, in the order of the file.
    pub bridges: Vec<Arc<BridgeConfig>>,
    /// What the operator should read in the log about this configuration, in the order found.
    pub notes: Vec<Note>,
    pub(super) raw: Raw,
    pub(super) sources: Sources,
}

/// How much of everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `max_inflight_messages`: QoS 1 and 2 messages on their way to one client, also announced as Receive Maximum.
    /// `None` (written 0 or 65535) means no limit. Default 20.
    pub max_inflight_messages: Option<NonZeroU16>,
    /// `max_inflight_bytes`: their bytes; one message always passes. `None` (written 0) means no limit. Default none.
    pub max_inflight_bytes: Option<NonZeroUsize>,
    /// `max_queued_messages`: waiting for one client beyond those in flight. `None` (written 0) means no limit.
    /// Default 1000.
    pub max_queued_messages: Option<NonZeroUsize>,
    /// `max_queued_bytes`: their bytes. `None` (written 0) means no limit. Default none.
    pub max_queued_bytes: Option<NonZeroUsize>,
    /// `max_packet_size`: bytes of the largest packet accepted, 20 or more. Default 2,000,000.
    pub max_packet_size_bytes: u32,
    /// `message_size_limit`: bytes of the largest payload; larger ones are acknowledged and dropped. `None` (written 0)
    /// leaves the protocol's limit. Default none.
    pub message_size_limit_bytes: Option<NonZeroU32>,
    /// `max_keepalive`: seconds. `None` (written 0) means no limit. Default none.
    pub max_keepalive_seconds: Option<NonZeroU16>,
    /// `global_max_clients`: clean sessions of this node and recorded ones of the cluster, connected or kept. `None` (0 or less) means no limit. Default none.
    pub global_max_clients: Option<NonZeroUsize>,
    /// `global_max_connections`: open connections of this node. `None` (0 or less) means no limit. Default none.
    pub global_max_connections: Option<NonZeroUsize>,
    /// `memory_limit`: bytes of heap. `None` (written 0) means no limit. Default none.
    pub memory_limit_bytes: Option<NonZeroUsize>,
}

/// What is delivered to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// `allow_duplicate_messages`: once per overlapping subscription (true) or once per client.
    pub allow_duplicate_messages: bool,
    /// `session_owner user|none` (ours): a client identifier that is connected or has a session is
    /// its user's; who comes under another user name, or none, is turned away.
    pub sessions_are_users: bool,
    /// `shared_offline_members` (ours): members of shared groups that are away take their turn all the same, and keep what
    /// came until they are back; for each from its next CONNECT on. Default false: while a member is connected it gets everything.
    pub shared_offline_members: bool,
    /// `queue_qos0_messages`: keep QoS 0 messages for absent clients with a kept session. Default false.
    pub queue_qos0_messages: bool,
    /// `upgrade_outgoing_qos`: deliver with the subscription's QoS even if the message has a lower one. Default false.
    pub upgrade_outgoing_qos: bool,
    /// `persistent_client_expiration`: kept sessions end after this, if not before. Default never.
    pub persistent_client_expiration: Option<Duration>,
    /// `connection_messages`: log connects and disconnects. Default true.
    pub connection_messages: bool,
}

/// Retained messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainSettings {
    /// `retain_available`: publishing one when false disconnects the client.
    pub available: bool,
    /// `check_retain_source`: recheck the publisher's rights at delivery.
    pub check_source: bool,
}

/// What is kept on disk, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersistenceSettings {
    /// `persistence`; always true in a cluster.
    pub enabled: bool,
    /// `persistence_location`: folder. Default: the current one (an empty path).
    pub location: PathBuf,
    /// `persistence_file`: name inside `location`. Default `mosquitto.db`.
    pub file: String,
    /// `autosave_interval`: when to checkpoint by itself. Default every 1800 s.
    pub autosave: Autosave,
}

impl PersistenceSettings {
    /// `persistence_location`/`persistence_file`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.location.join(&self.file)
    }
}

/// `autosave_interval` and `autosave_on_changes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Autosave {
    /// Only at exit and on SIGUSR1 (written 0).
    Never,
    Every(Duration),
    /// After this many changes.
    AfterChanges(NonZeroU32),
}

/// Kinds of log lines, as a set of bits (Mosquitto's values).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogTypes(pub u32);

/// Where and how to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// `log_type`, or all with `-v`, or none with `-q`. Default error, warning, notice, information.
    pub types: LogTypes,
    pub destinations: LogDestinations,
    /// `log_timestamp`.
    pub timestamp: bool,
    /// `log_timestamp_format`: strftime pattern, local time. Default none: seconds since 1970.
    pub timestamp_format: Option<String>,
    /// `log_facility`: 0 to 7 for local0 to local7. Default none: daemon.
    pub facility: Option<u8>,
    /// `log_format` (ours): `text` or `json`.
    pub json: bool,
}

/// `log_dest`, repeated; `none` removes what stands before it. Default stderr.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogDestinations {
    pub stdout: bool,
    pub stderr: bool,
    pub syslog: bool,
    /// `$SYS/broker/log/...`
    pub topic: bool,
    pub file: Option<PathBuf>,
}

/// The process itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSettings {
    /// `user`: account to become when started as root. Default `mosquitto`.
    pub user: String,
    /// `user` was written; otherwise a missing account falls back to `nobody`.
    pub user_is_explicit: bool,
    /// `pid_file`. Default none.
    pub pid_file: Option<PathBuf>,
}

/// One `listener`, with the options below it and the security that holds for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    pub address: ListenAddress,
    /// `protocol`.
    pub protocol: ListenerProtocol,
    /// `accept_protocol_versions`.
    pub versions: ProtocolVersions,
    /// `max_connections`: open at once. `None` (0 or less) means no limit. Default none.
    pub max_connections: Option<NonZeroUsize>,
    /// `max_qos`: 0 to 2. Default 2.
    pub max_qos: u8,
    /// `max_topic_alias`: aliases that a client may set up. Default 10.
    pub max_topic_alias: u16,
    /// `max_topic_alias_broker`: aliases that the broker sets up towards a client. Default 10.
    pub max_topic_alias_broker: u16,
    /// `mount_point`: put before the topics of this listener's clients. Default none.
    pub mount_point: Option<String>,
    /// `use_username_as_clientid`.
    pub use_username_as_clientid: bool,
    /// `websockets_origin`: allowed Origin headers; empty allows any.
    pub websockets_origins: Vec<String>,
    /// `http_dir`: files that websockets and http_api listeners serve. Default none.
    pub http_dir: Option<PathBuf>,
    /// `enable_proxy_protocol` and what belongs to it. Default none: connections begin with MQTT, TLS or HTTP.
    pub proxy: Option<ProxyRules>,
    /// `certfile` and the options around it. `None`: no TLS.
    pub tls: Option<TlsSettings>,
    pub security: SecuritySettings,
}

/// Written for an address, all of the machine's.
pub(super) const ANY_ADDRESS: &str = "*";

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    Tcp {
        /// 1 to 65535.
        port: u16,
        /// Address or host name; `None` listens on all.
        host: Option<String>,
        /// `bind_interface`: network device.
        interface: Option<String>,
        /// `socket_domain`: `None` is both.
        domain: Option<SocketDomain>,
    },
    /// `listener 0 PATH`
    Unix(PathBuf),
}

impl ListenAddress {
    /// The port, 0 for a unix socket (as in Mosquitto's log lines).
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp { port, .. } => *port,
            Self::Unix(_) => 0,
        }
    }
}

/// As operators know it: the port, with the host if there is one, or the path.
impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { port, host: Some(host), .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { port, host: Some(host), .. } => write!(f, "{host}:{port}"),
            Self::Tcp { port, host: None, .. } => write!(f, "{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketDomain {
    Ipv4,
    Ipv6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerProtocol {
    Mqtt,
    Websockets,
    /// Not MQTT: what the broker shows of itself.
    HttpApi,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    V1,
    V2,
}

/// What the PROXY header of each connection must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyRules {
    pub version: ProxyVersion,
    /// `proxy_protocol_v2_require_tls`.
    pub require_tls: bool,
    /// `require_certificate`: the header must say that the client's certificate was verified.
    pub require_certificate: bool,
    /// `use_identity_as_username`: user name is the certificate's common name, as the header says.
    pub use_identity_as_username: bool,
}

/// MQTT 3.1, 3.1.1 and 5 as Mosquitto counts them: 3, 4 and 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolVersions {
    pub v3: bool,
    pub v4: bool,
    pub v5: bool,
}

/// TLS of one listener. The files are read by the TLS loader, not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// `certfile`: PEM chain.
    pub certfile: PathBuf,
    /// `keyfile`: PEM key.
    pub keyfile: PathBuf,
    /// `cafile`: PEM CAs for client certificates.
    pub cafile: Option<PathBuf>,
    /// `capath`: folder of such CAs.
    pub capath: Option<PathBuf>,
    /// `crlfile`: PEM revocation list.
    pub crlfile: Option<PathBuf>,
    /// `require_certificate`.
    pub require_certificate: bool,
    /// `tls_version`: lowest version. Default 1.2.
    pub min_version: TlsVersion,
    /// `ciphers`: TLS 1.2 suites in OpenSSL's names, separated by colons. Default: all that rustls has.
    pub ciphers: Option<String>,
    /// `ciphers_tls1.3`
    pub ciphers_tls13: Option<String>,
    /// `use_identity_as_username`: user name is the certificate's common name.
    pub use_identity_as_username: bool,
    /// `use_subject_as_username`: user name is its subject (RFC 2253).
    pub use_subject_as_username: bool,
    /// `disable_client_cert_date_checks`.
    pub disable_client_cert_date_checks: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V12,
    V13,
}

/// Who may do what on one listener; `per_listener_settings` and inheritance are already applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecuritySettings {
    /// `allow_anonymous` or `listener_allow_anonymous`. Default false, but true in the local-only mode.
    pub allow_anonymous: bool,
    /// `allow_zero_length_clientid`.
    pub allow_zero_length_clientid: bool,
    /// `listener_auto_id_prefix`, else `auto_id_prefix`: at most 50 bytes. Default `auto-`.
    pub auto_id_prefix: String,
    /// `password_file`, or the one given to mosquitto_password_file.so. Default none.
    pub password_file: Option<PathBuf>,
    /// `acl_file`, or the one given to mosquitto_acl_file.so. Default none: everything is allowed.
    pub acl_file: Option<PathBuf>,
}

/// This node's part in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSettings {
    /// `cluster_name`: this node's name. Default: host part of `cluster_advertise`, else the host name.
    pub name: String,
    /// `cluster_commit_timeout`: without a majority for this long, connections are closed. Default 10 s.
    pub commit_timeout: Duration,
    /// `cluster_admin_socket`: unix socket of `mosquorum cluster ...`. Default: `mosquorum.sock` in
    /// `persistence_location` when there is a `cluster_listener`, else none.
    pub admin_socket: Option<PathBuf>,
    /// `cluster_listener` and what belongs to it. `None`: a node alone.
    pub links: Option<ClusterLinks>,
}

/// How nodes reach each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterLinks {
    /// `cluster_listener PORT [ADDRESS]`; without an address all are listened on.
    pub port: u16,
    pub bind: Option<IpAddr>,
    /// `cluster_advertise`: how others reach this node. Default `<host name>:<port>`.
    pub advertise: HostPort,
    /// `cluster_peer`, repeated, in the order of the file, without duplicates; may contain this node itself.
    pub peers: Vec<HostPort>,
    /// `cluster_allow`, repeated: names and hosts of nodes that may join besides peers and members; `*` stands for any
    /// characters.
    pub allow: Vec<String>,
    /// `cluster_new`: without another peer the node forms a cluster of its own. Default false: it waits to be added.
    pub new: bool,
    /// `cluster_cafile`, `cluster_certfile`, `cluster_keyfile`. `None` only with `cluster_insecure true`.
    pub tls: Option<ClusterTls>,
}

/// Mutual TLS between nodes. The files are read by the TLS loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterTls {
    pub cafile: PathBuf,
    pub certfile: PathBuf,
    pub keyfile: PathBuf,
    /// `cluster_crlfile`: PEM revocation lists.
    pub crlfile: Option<PathBuf>,
}

/// `HOST:PORT`; an IPv6 address stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// Without brackets.
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl LogTypes {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(u32::MAX);

    #[must_use]
    pub fn contains(self, level: Level) -> bool {
        self.0 & level.bit() != 0
    }
}
