//! The one table of options: all 141 of Mosquitto 2.1 and ours.
//! Always true: each name stands here once, with what becomes of it; parser, defaults, environment, reload and
//! `--options` read this table and nothing else.
use std::fmt::Write;

/// Where an option may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Anywhere, for the whole broker.
    Global,
    /// As `Global`, but with `per_listener_settings true` for the listener above it.
    Security,
    /// For the listener above it.
    Listener(Place),
    /// For the bridge (`connection`) above it.
    Bridge,
    /// A plugin line.
    Plugin,
    /// Gives the file its structure: `listener`, `port`, `bind_address`, `connection`, `include_dir`.
    Structure,
}

/// Which listener a listener option needs above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Any; without one a default listener is made.
    OrDefault,
    /// Any, a default listener made by an earlier option included.
    Any,
    /// One that a `listener` line made.
    Explicit,
}

/// What a second line with the same option does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    LastWins,
    Error,
    Adds,
}

/// How far a value reaches in its line. Blanks are spaces and tabs; a comment is a word that begins with `#`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// So many words; what follows them is not read, except to warn of it. A comment may follow.
    Words(usize),
    /// One word that nothing but a comment may follow.
    Word,
    /// To the end of the line: blanks, quotes and `#` are a part of the value.
    Line,
    /// A topic filter, which may begin with `#` or stand between quotes, then up to four words. A comment may follow.
    Topic,
    /// One word, after which a comment may follow; but `file` and all that follows it.
    LogDest,
}

/// What becomes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Supported,
    /// Accepted; the note says what is different.
    Accepted(&'static str),
    /// An error that gives the reason, except for the one `harmless` value.
    Refused(&'static str),
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// As written; a trailing `*` stands for any ending.
    pub name: &'static str,
    pub scope: Scope,
    /// As it would be written, words of a list separated by blanks; empty: none.
    pub default: &'static str,
    pub repeat: Repeat,
    pub extent: Extent,
    /// Whether SIGHUP applies a changed value.
    pub reload: bool,
    pub state: State,
    /// The option that this is another name of; empty: none.
    pub same_as: &'static str,
    /// The one value that a refused option may have, since it changes nothing.
    pub harmless: &'static str,
    /// Not an option of Mosquitto.
    pub ours: bool,
}

const NO_PSK: &str = "pre-shared keys need OpenSSL and this broker uses rustls, use certificates";
const NO_ENGINE: &str = "engines need OpenSSL and this broker uses rustls, use PEM files";

const fn row(name: &'static str, scope: Scope, default: &'static str, reload: bool) -> OptionSpec {
    OptionSpec {
        name,
        scope,
        default,
        repeat: Repeat::LastWins,
        extent: Extent::Words(1),
        reload,
        state: State::Supported,
        same_as: "",
        harmless: "",
        ours: false,
    }
}
/// Global, reloadable.
const fn g(name: &'static str, default: &'static str) -> OptionSpec {
    row(name, Scope::Global, default, true)
}
/// Global or of a listener, reloadable.
const fn s(name: &'static str) -> OptionSpec {
    row(name, Scope::Security, "", true)
}
/// Of a listener, made on demand.
const fn l(name: &'static str) -> OptionSpec {
    row(name, Scope::Listener(Place::OrDefault), "", false)
}
/// Of a listener that stands above.
const fn la(name: &'static str) -> OptionSpec {
    row(name, Scope::Listener(Place::Any), "", false)
}
/// Of a bridge.
const fn b(name: &'static str) -> OptionSpec {
    row(name, Scope::Bridge, "", true)
}
const fn plugin(name: &'static str) -> OptionSpec {
    let mut row = row(name, Scope::Plugin, "", false);
    row.state = State::Accepted("only Mosquitto's own acl-file and password-file plugins are known");
    row
}
const fn structure(name: &'static str) -> OptionSpec {
    row(name, Scope::Structure, "", false)
}
/// Ours, global, fixed at start.
const fn ours(name: &'static str, default: &'static str) -> OptionSpec {
    let mut row = row(name, Scope::Global, default, false);
    row.ours = true;
    row
}

impl OptionSpec {
    const fn once(mut self) -> Self {
        self.repeat = Repeat::Error;
        self
    }
    const fn not_mosquittos(mut self) -> Self {
        self.ours = true;
        self
    }
    const fn list(mut self) -> Self {
        self.repeat = Repeat::Adds;
        self
    }
    const fn words(mut self, most: usize) -> Self {
        self.extent = Extent::Words(most);
        self
    }
    const fn word(mut self) -> Self {
        self.extent = Extent::Word;
        self
    }
    const fn line(mut self) -> Self {
        self.extent = Extent::Line;
        self
    }
    const fn topic(mut self) -> Self {
        self.extent = Extent::Topic;
        self
    }
    const fn log_dest(mut self) -> Self {
        self.extent = Extent::LogDest;
        self
    }
    const fn fixed(mut self) -> Self {
        self.reload = false;
        self
    }
    const fn reloads(mut self) -> Self {
        self.reload = true;
        self
    }
    const fn as_(mut self, other: &'static str) -> Self {
        self.same_as = other;
        self
    }
    const fn accepted(mut self, note: &'static str) -> Self {
        self.state = State::Accepted(note);
        self
    }
    const fn refused(mut self, reason: &'static str) -> Self {
        self.state = State::Refused(reason);
        self
    }
    const fn harmless(mut self, value: &'static str) -> Self {
        self.harmless = value;
        self
    }

    /// The name under which values are kept.
    #[must_use]
    pub fn canonical(&self) -> &'static str {
        if self.same_as.is_empty() { self.name } else { self.same_as }
    }
    /// May be set without a listener, so also by the environment.
    #[must_use]
    pub fn is_global(&self) -> bool {
        matches!(self.scope, Scope::Global | Scope::Security)
    }
    #[must_use]
    pub fn is_security(&self) -> bool {
        self.scope == Scope::Security
    }
    #[must_use]
    pub fn is_list(&self) -> bool {
        self.repeat == Repeat::Adds
    }
    /// Why a line with this option and value cannot be accepted.
    #[must_use]
    pub fn refusal(&self, value: &str) -> Option<&'static str> {
        match self.state {
            State::Refused(reason) if self.harmless.is_empty() || value != self.harmless => Some(reason),
            _ => None,
        }
    }
}

const TABLE: &[OptionSpec] = &[
    // Global and security options.
    s("acl_file").line(),
    s("allow_anonymous"),
    g("allow_duplicate_messages", "true"),
    s("allow_zero_length_clientid"),
    s("auto_id_prefix").line().once(),
    g("autosave_interval", "1800"),
    g("autosave_on_changes", "false"),
    g("check_retain_source", "true"), // as the manual says; Mosquitto 2.1.2 starts with false
    g("clientid_prefixes", "").line(),
    g("connection_messages", "true"),
    g("enable_control_api", "false"),
    g("global_max_clients", "-1"),
    g("global_max_connections", "-1"),
    structure("include_dir").line().list(),
    g("log_dest", "stderr").log_dest().list(),
    g("log_facility", ""),
    g("log_timestamp", "true"),
    g("log_timestamp_format", "").line().once(),
    g("log_type", "error warning notice information").list(),
    g("max_inflight_bytes", "0"),
    g("max_inflight_messages", "20"),
    g("max_keepalive", "0"),
    g("max_packet_size", "2000000"),
    g("max_queued_bytes", "0"),
    g("max_queued_messages", "1000"),
    g("memory_limit", "0").fixed(),
    g("message_size_limit", "0"),
    g("packet_buffer_size", "4096"),
    s("password_file").line(),
    g("per_listener_settings", "false").fixed(),
    g("persistence", "false").fixed(),
    g("persistence_file", "mosquitto.db").line().once().fixed(),
    g("persistence_location", "").line().once().fixed(),
    g("persistent_client_expiration", ""),
    g("pid_file", "").line().once().fixed(),
    s("psk_file").line().refused(NO_PSK),
    g("queue_qos0_messages", "false"),
    g("retain_available", "true"),
    g("retain_expiry_interval", "").accepted("expired retained messages are removed when their time is over anyway"),
    g("retained_persistence", "").as_("persistence").fixed(),
    g("retry_interval", "").line().accepted("it has had no effect since Mosquitto 1.5"),
    g("set_tcp_nodelay", "false").accepted("TCP_NODELAY is always on: a connection writes once per wake-up"),
    g("sys_interval", "10"),
    g("upgrade_outgoing_qos", "false"),
    g("user", "").line().fixed(),
    g("websockets_headers_size", "").as_("packet_buffer_size"),
    g("websockets_log_level", "").accepted("it has no effect, there is no libwebsockets"),
    // Plugins.
    plugin("auth_opt_*").line(),
    plugin("auth_plugin").line(),
    plugin("auth_plugin_deny_special_chars"),
    plugin("global_plugin").line(),
    plugin("plugin").line(),
    plugin("plugin_load").line(),
    plugin("plugin_opt_*").line(),
    plugin("plugin_use").word(),
    // Listeners.
    row("accept_protocol_versions", Scope::Listener(Place::Explicit), "", true).words(usize::MAX),
    structure("bind_address").word().once(),
    l("bind_interface").word().once(),
    la("cafile").line().reloads(),
    l("capath").line().reloads(),
    l("certfile").line().reloads(),
    l("ciphers").line().reloads(),
    l("ciphers_tls1.3").line().reloads(),
    l("crlfile").line().reloads(),
    g("dhparamfile", "").line().accepted("it has no effect, there are no finite-field DH ciphers"),
    la("disable_client_cert_date_checks").reloads(),
    la("enable_proxy_protocol"),
    la("http_dir").line().once(),
    l("keyfile").line().reloads(),
    structure("listener").words(2).list(),
    la("listener_allow_anonymous").reloads(),
    la("listener_auto_id_prefix").line().once().reloads(),
    l("max_connections").reloads(),
    l("max_qos").reloads(),
    la("max_topic_alias").reloads(),
    la("max_topic_alias_broker").reloads(),
    l("maximum_qos").as_("max_qos").reloads(),
    la("mount_point").line(),
    structure("port"),
    l("protocol"),
    la("proxy_protocol_v2_require_tls"),
    l("psk_hint").line().refused(NO_PSK),
    l("require_certificate").reloads(),
    l("socket_domain"),
    l("tls_engine").line().refused(NO_ENGINE),
    l("tls_engine_kpass_sha1").line().refused(NO_ENGINE),
    l("tls_keyform").word().refused(NO_ENGINE).harmless("pem"),
    la("tls_version").word().once(),
    l("use_identity_as_username").reloads(),
    l("use_subject_as_username").reloads(),
    l("use_username_as_clientid").reloads(),
    la("websockets_origin").list().reloads(),
    // Bridges.
    b("address").words(usize::MAX),
    b("addresses").words(usize::MAX).as_("address"),
    b("bridge_alpn").line().once(),
    b("bridge_attempt_unsubscribe"),
    b("bridge_bind_address").word().once(),
    b("bridge_cafile").line().once(),
    b("bridge_capath").line().once(),
    b("bridge_certfile").line().once(),
    b("bridge_ciphers").line().once(),
    b("bridge_ciphers_tls1.3").line().once(),
    b("bridge_identity").line().once().refused(NO_PSK),
    b("bridge_insecure"),
    b("bridge_keyfile").line(),
    b("bridge_loop_mark").not_mosquittos(),
    b("bridge_max_packet_size"),
    b("bridge_max_topic_alias"),
    b("bridge_outgoing_retain"),
    b("bridge_protocol_version").word(),
    b("bridge_psk").line().once().refused(NO_PSK),
    b("bridge_receive_maximum"),
    b("bridge_reload_type"),
    b("bridge_require_ocsp").refused("stapled OCSP answers are not checked by rustls").harmless("false"),
    b("bridge_session_expiry_interval"),
    b("bridge_tcp_keepalive").words(3),
    b("bridge_tcp_user_timeout"),
    b("bridge_tls_use_os_certs"),
    b("bridge_tls_version").word().once(),
    b("cleansession"),
    b("clientid").line().as_("remote_clientid").once(),
    b("connection").list(),
    b("idle_timeout"),
    b("keepalive_interval"),
    b("local_cleansession"),
    b("local_clientid").line().once(),
    b("local_password").line().once().accepted("the local session of a bridge is not asked for a password"),
    b("local_username").line().once(),
    b("notification_topic").line().once(),
    b("notifications"),
    b("notifications_local_only"),
    b("password").line().as_("remote_password").once(),
    b("remote_clientid").line().once(),
    b("remote_password").line().once(),
    b("remote_password_file").line().once().not_mosquittos(),
    b("remote_username").line().once(),
    b("restart_timeout").words(3),
    b("round_robin"),
    b("start_type"),
    b("threshold"),
    b("topic").topic().list(),
    b("try_private"),
    b("username").line().as_("remote_username").once(),
    // Ours.
    ours("bridge_loop_mark_user", "").line().list().reloads(),
    ours("bridge_orphan_expiry", "1d").reloads(),
    ours("cluster_admin_socket", "").line().once(),
    ours("cluster_advertise", "").once(),
    ours("cluster_allow", "").list(),
    ours("cluster_cafile", "").line().once(),
    ours("cluster_certfile", "").line().once(),
    ours("cluster_commit_timeout", "10"),
    ours("cluster_crlfile", "").line().once(),
    ours("cluster_insecure", "false"),
    ours("cluster_keyfile", "").line().once(),
    ours("cluster_listener", "").words(2).once(),
    ours("cluster_name", "").word().once(),
    ours("cluster_new", ""),
    ours("cluster_peer", "").list(),
    ours("health_listener", "").words(2).once(),
    ours("log_format", "text").reloads(),
    ours("server_reference", ""),
    ours("session_owner", "none").reloads(),
    ours("shared_offline_members", "false").reloads(),
    ours("shutdown_drain", "0").reloads(),
    ours("tcp_wrappers", "false").reloads(),
];

/// Every row, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static OptionSpec> {
    TABLE.iter()
}

/// The row of an option as written in a file.
#[must_use]
pub fn find(name: &str) -> Option<&'static OptionSpec> {
    TABLE.iter().find(|spec| match spec.name.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => spec.name == name,
    })
}

/// The text of `--options`: tab-separated name, scope, default, whether SIGHUP applies it, state, note.
#[must_use]
pub fn print() -> String {
    let mut text = String::from("#option\tscope\tdefault\treload\tstate\tnote\n");
    for spec in all() {
        let scope = match spec.scope {
            _ if spec.ours => "global (not in Mosquitto)",
            Scope::Global => "global",
            Scope::Security => "global/listener",
            Scope::Listener(_) => "listener",
            Scope::Bridge => "bridge",
            Scope::Plugin => "plugin",
            Scope::Structure => "file",
        };
        let (state, note) = match spec.state {
            State::Supported => ("supported", ""),
            State::Accepted(note) => ("accepted", note),
            State::Refused(reason) => ("refused", reason),
        };
        let reload = if spec.reload { "yes" } else { "no" };
        let default = if spec.default.is_empty() { "-" } else { spec.default };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}\t{scope}\t{default}\t{reload}\t{state}\t{note}", spec.name);
    }
    text
}
