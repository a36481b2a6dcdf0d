//! The rows of the option table.
use super::{Extent, OptionSpec, Place, Repeat, Scope, Support};

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
        state: Support::Supported,
        same_as: "",
        harmless: "",
        ours: false,
        values: "",
        meaning: "",
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
    row.state = Support::Accepted("only Mosquitto's own acl-file and password-file plugins are known");
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
    const fn takes(mut self, values: &'static str) -> Self {
        self.values = values;
        self
    }
    const fn means(mut self, meaning: &'static str) -> Self {
        self.meaning = meaning;
        self
    }
    /// For options of a listener or bridge, and for security options.
    const fn defaults(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }
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
        self.state = Support::Accepted(note);
        self
    }
    const fn refused(mut self, reason: &'static str) -> Self {
        self.state = Support::Refused(reason);
        self
    }
    const fn harmless(mut self, value: &'static str) -> Self {
        self.harmless = value;
        self
    }
}

pub(super) const TABLE: &[OptionSpec] = &[
    // Global and security options.
    s("acl_file").line().takes("a path").means(
        "File with the access rules (`user`, `topic` and `pattern` lines), read again at SIGHUP. Without \
         one no rules restrict the clients; a file without rules grants nothing.",
    ),
    s("allow_anonymous").takes("`true` or `false`").means(
        "Whether clients are let in without a check: those without a user name, and all where there is \
         no `password_file`. Default: false, but true on the loopback listeners that exist when no \
         listener is configured.",
    ),
    g("allow_duplicate_messages", "true").takes("`true` or `false`").means(
        "With `false`, a client before MQTT 5.0 gets one copy of a message that several of its \
         subscriptions match, with the highest QoS among them. MQTT 5.0 clients always get one per \
         subscription. Deprecated.",
    ),
    s("allow_zero_length_clientid").defaults("true").takes("`true` or `false`").means(
        "Whether a client may send an empty client identifier and get a generated one. MQTT 3.1 clients \
         never may, MQTT 3.1.1 clients only with a clean session.",
    ),
    s("auto_id_prefix")
        .defaults("auto-")
        .line()
        .once()
        .takes("a text of at most 50 bytes")
        .means("Beginning of generated client identifiers; a UUID follows."),
    g("autosave_interval", "1800")
        .fixed()
        .takes("seconds, or log entries with `autosave_on_changes true`; 0 or less: never by itself")
        .means(
            "How often a changed state is written as a snapshot, on a node alone to `persistence_file`. \
             Acknowledged messages do not depend on it; a growing log, SIGUSR1 and the normal stop of a node \
             alone write a snapshot too. Read at start only.",
        ),
    g("autosave_on_changes", "false").fixed().takes("`true` or `false`").means(
        "With `true`, `autosave_interval` counts entries of the log instead of seconds. Under load one \
         entry holds many changes. Read at start only.",
    ),
    g("check_retain_source", "true").takes("`true` or `false`").means(
        "Before a retained message is delivered, checks that the client that published it may still \
         write to the topic. With `per_listener_settings`, the rules of any one listener suffice.",
    ), // as the manual says; Mosquitto 2.1.2 starts with false
    g("clientid_prefixes", "").line().takes("a text").means(
        "Only client identifiers that begin with this one prefix are let in, generated ones included. \
         Connected clients stay when a reload changes it. Deprecated. Default: none.",
    ),
    g("connection_messages", "true")
        .takes("`true` or `false`")
        .means("Whether connects and disconnects of clients are logged."),
    g("enable_control_api", "false").takes("`true` or `false`").means(
        "Answers `listListeners` and `listPlugins` requests that are published to `$CONTROL/broker/v1`. \
         Whoever may write to that topic may ask.",
    ),
    g("global_max_clients", "-1").takes("a number of sessions; 0 or less: no limit").means(
        "Sessions, connected or kept, beyond which no new client is let in. Durable sessions of the \
         whole cluster and clean ones of this node count.",
    ),
    g("global_max_connections", "-1")
        .takes("a number of connections; 0 or less: no limit")
        .means("Open client connections of this node, over all listeners. Further ones are closed at once."),
    structure("include_dir").line().list().takes("a path of a folder").means(
        "Reads every `*.conf` file of the folder, ordered by name without regard to case. Allowed in the \
         main file only; each file starts without a listener or bridge above it.",
    ),
    g("log_dest", "stderr")
        .log_dest()
        .list()
        .takes("`stdout`, `stderr`, `syslog`, `topic`, `file PATH` (once) or `none`; repeatable")
        .means(
            "Where log lines go. `topic` publishes them below `$SYS/broker/log`, without debug lines; `none` \
             discards the destinations above it. A log file that cannot be opened stops the start.",
        ),
    g("log_facility", "")
        .takes("0 to 7")
        .means("Syslog facility `local0` to `local7` for `log_dest syslog`. Default: daemon."),
    g("log_timestamp", "true")
        .takes("`true` or `false`")
        .means("Whether log lines begin with the time. With `log_format json` they always have one."),
    g("log_timestamp_format", "").line().once().takes("a strftime pattern").means(
        "Format of that time, in local time. It does not apply to `log_format json`. Default: seconds \
         since 1970.",
    ),
    g("log_type", "error warning notice information")
        .list()
        .takes(
            "`error`, `warning`, `notice`, `information`, `debug`, `subscribe`, `unsubscribe`, `websockets`, \
             `internal`, `all` or `none`; repeatable",
        )
        .means(
            "Kinds of lines that are logged; `none` discards the kinds above it, and the flags `-v` and `-q` \
             override the option. `debug` writes a line for each packet; this broker writes none of the \
             kinds `websockets` and `internal`.",
        ),
    g("max_inflight_bytes", "0").takes("a number of bytes; 0 or less: no limit").means(
        "Payload of QoS 1 and 2 messages that may be in flight to one client; a single message always \
         may. Applies from a client's next CONNECT on.",
    ),
    g("max_inflight_messages", "20").takes("a number up to 65535; 0 or less, or 65535: no limit").means(
        "QoS 1 and 2 messages that may be in flight to one client, also announced to MQTT 5.0 clients as \
         Receive Maximum. Applies from a client's next CONNECT on.",
    ),
    g("max_keepalive", "0").takes("0 to 65535 seconds; 0: no limit").means(
        "Longest keep alive. An MQTT 5.0 client that asks for more, or for none, is given this one \
         (Server Keep Alive); an earlier one is refused with return code 2.",
    ),
    g("max_packet_size", "2000000").takes("a number of bytes from 20 to 2147483647").means(
        "Largest packet accepted, announced to MQTT 5.0 clients; a larger one ends the connection. \
         CONNECT is limited to 100,000 bytes in any case. Applies to clients that connect later.",
    ),
    g("max_queued_bytes", "0").takes("a number of bytes; 0 or less: no limit").means(
        "Payload and topics of the messages that may wait for one client behind those in flight; once it \
         is reached, further messages are dropped and counted. Applies from a client's next CONNECT on.",
    ),
    g("max_queued_messages", "1000").takes("a number of messages; 0 or less: no limit").means(
        "Messages that may wait for one client behind those in flight; further ones are dropped and \
         counted. Applies from a client's next CONNECT on, also to bridges.",
    ),
    g("memory_limit", "0").fixed().takes("a number of bytes; 0: no limit").means(
        "While the resident memory of the process, measured every 0.5 s, is above this, new clients are \
         refused and a client that publishes is disconnected. It may be exceeded between two \
         measurements.",
    ),
    g("message_size_limit", "0").takes("0 to 268435455 bytes; 0: no limit").means(
        "Largest payload. A larger message is acknowledged and dropped, with reason 0x95 in MQTT 5.0; a \
         client with a larger will is refused. Prefer `max_packet_size`.",
    ),
    g("packet_buffer_size", "4096").takes("0 to 65535 bytes").means(
        "Largest HTTP request header on `websockets` and `http_api` listeners. Plain MQTT connections do \
         not use it.",
    ),
    s("password_file").line().takes("a path").means(
        "File with `user:hash` lines, as `mosquorum_passwd` and `mosquitto_passwd` write it, read again \
         at SIGHUP. It decides about every client that sends a user name; `allow_anonymous` decides \
         about the others.",
    ),
    g("per_listener_settings", "false").fixed().takes("`true` or `false`").means(
        "With `true`, security options belong to the listener above them. It has to stand before the \
         first of them, and cannot be set back to `false` further down. Deprecated.",
    ),
    g("persistence", "false").fixed().takes("`true` or `false`").means(
        "Keeps durable sessions, their queues and retained messages on disk. What concerns them is \
         acknowledged once it is synced. A node with `cluster_listener` always persists.",
    ),
    g("persistence_file", "mosquitto.db").line().once().fixed().takes("a file name").means(
        "Name, within `persistence_location`, of the file that a node alone writes its snapshots to. Log \
         and state store are beside it in `<persistence_file>.d`. A file in Mosquitto's own format is \
         refused.",
    ),
    g("persistence_location", "").line().once().fixed().takes("a path of a folder").means(
        "Folder of `persistence_file` and of the other data. The environment variable \
         `MOSQUITTO_PERSISTENCE_LOCATION` overrides the file. Default: the current folder.",
    ),
    g("persistent_client_expiration", "")
        .takes("a number above 0 and `s`, `h`, `d`, `w`, `m` (30 days) or `y`, as in `14d`")
        .means(
            "Longest time that a session is kept without its client; it also caps the Session Expiry \
             Interval of MQTT 5.0 clients. Applies from a client's next CONNECT on; bridges are exempt. \
             Default: never.",
        ),
    g("pid_file", "").line().once().fixed().takes("a path").means(
        "File that the process id is written to; removed at a normal stop. The start fails if it cannot \
         be written.",
    ),
    s("psk_file")
        .line()
        .refused(NO_PSK)
        .takes("a path of a file with `IDENTITY:HEX-KEY` lines")
        .means("In Mosquitto: the pre-shared keys of TLS clients."),
    g("queue_qos0_messages", "false").takes("`true` or `false`").means(
        "Whether QoS 0 messages are queued for absent clients with a kept session. Applies from a \
         client's next CONNECT on.",
    ),
    g("retain_available", "true").takes("`true` or `false`").means(
        "Whether retained messages are supported. With `false`, a client that publishes one is \
         disconnected, and one whose will is retained is refused. Applies from a client's next CONNECT \
         on.",
    ),
    g("retain_expiry_interval", "")
        .accepted("expired retained messages are removed when their time is over anyway")
        .takes("1 or more minutes")
        .means("In Mosquitto: the time between two searches for expired retained messages."),
    g("retained_persistence", "")
        .as_("persistence")
        .fixed()
        .takes("`true` or `false`")
        .means("Another name of `persistence`."),
    g("retry_interval", "")
        .line()
        .accepted("it has had no effect since Mosquitto 1.5")
        .takes("anything; it is not read")
        .means("In old versions of Mosquitto: seconds after which an unacknowledged message was sent again."),
    g("set_tcp_nodelay", "false")
        .accepted("TCP_NODELAY is always on: a connection writes once per wake-up")
        .takes("`true` or `false`")
        .means("In Mosquitto: switches off Nagle's algorithm for client connections."),
    g("sys_interval", "10")
        .takes("0 to 65535 seconds; 0: no `$SYS`")
        .means("Interval of the `$SYS` topics. Updates come at multiples of it by the wall clock."),
    g("upgrade_outgoing_qos", "false").takes("`true` or `false`").means(
        "Delivers messages with the QoS of the subscription even if they were published with a lower \
         one. For durable sessions it applies from the client's next CONNECT on.",
    ),
    g("user", "").line().fixed().takes("the name of an account").means(
        "Account that the process changes to when it is started as root; `root` keeps it root. PUID and \
         PGID in the environment take precedence. Default: mosquitto, or nobody if there is no such \
         account.",
    ),
    g("websockets_headers_size", "")
        .as_("packet_buffer_size")
        .takes("0 to 65535 bytes")
        .means("Another name of `packet_buffer_size`."),
    g("websockets_log_level", "")
        .accepted("it has no effect, there is no libwebsockets")
        .takes("anything; it is not read")
        .means("In Mosquitto: log levels of the library libwebsockets."),
    // Plugins.
    plugin("auth_opt_*")
        .line()
        .takes("`auth_opt_acl_file PATH` or `auth_opt_password_file PATH`")
        .means("Another name of `plugin_opt_*`."),
    plugin("auth_plugin")
        .line()
        .takes("a path that ends in `mosquitto_acl_file.so` or `mosquitto_password_file.so`")
        .means("Another name of `plugin`."),
    plugin("auth_plugin_deny_special_chars").takes("`true` or `false`").means(
        "In Mosquitto: access checks by a plugin are refused for user names and client identifiers that \
         contain `+` or `#`. Here it has no effect; `%u` and `%c` in ACL patterns never become \
         wildcards.",
    ),
    plugin("global_plugin")
        .line()
        .takes("a path that ends in `mosquitto_acl_file.so` or `mosquitto_password_file.so`")
        .means("As `plugin`, but for all listeners, also with `per_listener_settings true`."),
    plugin("plugin").line().takes("a path that ends in `mosquitto_acl_file.so` or `mosquitto_password_file.so`").means(
        "Uses the built-in access rules or password check in place of the named library, which is not \
         loaded. With `per_listener_settings true` for the listener above, otherwise for all. Any other \
         library is an error.",
    ),
    plugin("plugin_load")
        .line()
        .takes("`NAME PATH`; the path ends in `mosquitto_acl_file.so` or `mosquitto_password_file.so`")
        .means("As `plugin`, but only for the listeners that name it with `plugin_use`."),
    plugin("plugin_opt_*").line().takes("`plugin_opt_acl_file PATH` or `plugin_opt_password_file PATH`").means(
        "File for the plugin named last, in the format of `acl_file` or `password_file`; any other \
         option is an error. It goes before such an option of the same scope.",
    ),
    plugin("plugin_use")
        .word()
        .takes("the name of a `plugin_load` line")
        .means("Uses that plugin for the `listener` above."),
    // Listeners.
    row("accept_protocol_versions", Scope::Listener(Place::Explicit), "3,4,5", true)
        .words(usize::MAX)
        .takes("`3` (MQTT 3.1), `4` (3.1.1) and `5` (5.0), separated by commas or blanks")
        .means("Protocol versions that the listener accepts; a client with another one is refused."),
    structure("bind_address")
        .word()
        .once()
        .takes("an IP address, a host name, or `*` for all addresses")
        .means("Address of the default listener. Deprecated, use `listener`. Default: all addresses."),
    l("bind_interface").word().once().takes("the name of a network interface").means(
        "Listens on the addresses of this interface only, one for IPv4 and one for IPv6. An address of \
         the listener has to be one of them.",
    ),
    la("cafile").line().reloads().takes("a path").means(
        "PEM file of CA certificates that client certificates are verified against, with \
         `require_certificate true`. They also complete the listener's own chain. Needs `certfile` and \
         `keyfile`.",
    ),
    l("capath")
        .line()
        .reloads()
        .takes("a path of a folder")
        .means("As `cafile`, for a folder of PEM files under the names that `openssl rehash` gives them."),
    l("certfile").line().reloads().takes("a path").means(
        "PEM file of the listener's certificate chain. With `keyfile` it switches TLS on. The files are \
         read again at SIGHUP.",
    ),
    l("ciphers").line().reloads().takes("an OpenSSL cipher list, as in `ECDHE+AESGCM:!aRSA`").means(
        "TLS 1.2 cipher suites, in order of preference, out of the six ECDHE suites of rustls (AES-GCM \
         and ChaCha20-Poly1305). Others are left out with a warning; it is an error if none remains. \
         Default: all six.",
    ),
    l("ciphers_tls1.3").line().reloads().takes("suite names, separated by colons").means(
        "TLS 1.3 cipher suites, in order of preference: `TLS_AES_256_GCM_SHA384`, \
         `TLS_CHACHA20_POLY1305_SHA256`, `TLS_AES_128_GCM_SHA256`. Others are left out with a warning. \
         Default: all three.",
    ),
    l("crlfile").line().reloads().takes("a path").means(
        "PEM file of revocation lists for client certificates, used with `require_certificate true`. A \
         certificate without a current list of its CA is refused.",
    ),
    g("dhparamfile", "")
        .line()
        .accepted("it has no effect, there are no finite-field DH ciphers")
        .takes("anything; it is not read")
        .means("In Mosquitto: Diffie-Hellman parameters for TLS."),
    la("disable_client_cert_date_checks")
        .defaults("false")
        .reloads()
        .takes("`true` or `false`")
        .means("Accepts client certificates that have expired or are not valid yet."),
    la("enable_proxy_protocol").takes("`1` or `2`").means(
        "Every connection has to begin with a PROXY header of this version, whose statement about the \
         client is trusted: let only the load balancer reach the listener. Version 2 excludes \
         `certfile`, `keyfile` and `use_subject_as_username`. Default: none.",
    ),
    la("http_dir").line().once().takes("a path of a folder").means(
        "Folder whose files an `http_api` or `websockets` listener serves. The start fails if it cannot \
         be read.",
    ),
    l("keyfile").line().reloads().takes("a path").means(
        "PEM file of the private key of `certfile`. Encrypted keys and keys on the curve P-521 are not \
         supported.",
    ),
    structure("listener")
        .words(2)
        .list()
        .takes(
            "`PORT [ADDRESS]` with a port from 1 to 65535 and an IP address, host name or `*`; or `0 PATH` \
             for a Unix socket",
        )
        .means(
            "Opens a listener; the options below it belong to it. Without an address it listens on all. \
             Without any listener the broker listens on port 1883 of the loopback addresses.",
        ),
    la("listener_allow_anonymous")
        .reloads()
        .takes("`true` or `false`")
        .means("`allow_anonymous` for this listener alone. Default: the value of `allow_anonymous`."),
    la("listener_auto_id_prefix")
        .line()
        .once()
        .reloads()
        .takes("a text of at most 50 bytes")
        .means("`auto_id_prefix` for this listener alone. Default: the value of `auto_id_prefix`."),
    l("max_connections").reloads().takes("a number of connections; 0 or less: no limit").means(
        "Open connections of this listener, on this node. Further ones are closed at once. Default: no \
         limit.",
    ),
    l("max_qos").defaults("2").reloads().takes("0 to 2").means(
        "Highest QoS with which clients may publish, announced to MQTT 5.0 clients; one that exceeds it \
         is disconnected. Applies from a client's next CONNECT on.",
    ),
    la("max_topic_alias")
        .defaults("10")
        .reloads()
        .takes("0 to 65535")
        .means("Topic aliases that an MQTT 5.0 client may set up. Applies from a client's next CONNECT on."),
    la("max_topic_alias_broker").defaults("10").reloads().takes("0 to 65535").means(
        "Topic aliases that the broker sets up towards an MQTT 5.0 client, if the client allows as many. \
         Applies from a client's next CONNECT on.",
    ),
    l("maximum_qos").as_("max_qos").reloads().takes("0 to 2").means("Another name of `max_qos`."),
    la("mount_point").line().takes("a text without `+` and `#`, and with at most 200 `/`").means(
        "Prefix of all topics of this listener's clients, which they do not see. Response Topics are not \
         changed.",
    ),
    structure("port")
        .defaults("1883")
        .takes("1 to 65535")
        .means("Port of the default listener. Deprecated, use `listener`."),
    l("protocol").defaults("mqtt").takes("`mqtt`, `websockets` or `http_api`").means(
        "What the listener serves: MQTT, MQTT over WebSockets, or the read-only HTTP API below `/api/v1` \
         and the files of `http_dir`.",
    ),
    la("proxy_protocol_v2_require_tls")
        .defaults("false")
        .takes("`true` or `false`")
        .means("With `enable_proxy_protocol 2`, refuses clients that reached the load balancer without TLS."),
    l("psk_hint")
        .line()
        .refused(NO_PSK)
        .takes("a text")
        .means("In Mosquitto: switches on TLS with pre-shared keys; the text is sent to clients."),
    l("require_certificate").defaults("false").reloads().takes("`true` or `false`").means(
        "Every client has to present a certificate that is valid by `cafile` or `capath`; with \
         `enable_proxy_protocol 2`, the header has to say that the load balancer verified one.",
    ),
    l("socket_domain").takes("`ipv4` or `ipv6`").means("Listens on addresses of this family only. Default: both."),
    l("tls_engine")
        .line()
        .refused(NO_ENGINE)
        .takes("the name of an OpenSSL engine")
        .means("In Mosquitto: the engine that holds the key."),
    l("tls_engine_kpass_sha1")
        .line()
        .refused(NO_ENGINE)
        .takes("a SHA-1 hash in hexadecimal")
        .means("In Mosquitto: the hash of the password of the engine's key."),
    l("tls_keyform")
        .word()
        .refused(NO_ENGINE)
        .harmless("pem")
        .takes("`pem` or `engine`; only `pem` is possible")
        .means("Form of `keyfile`. Default: pem."),
    la("tls_version")
        .defaults("tlsv1.2")
        .word()
        .once()
        .takes("`tlsv1.2` or `tlsv1.3`")
        .means("Lowest TLS version that is accepted."),
    l("use_identity_as_username").defaults("false").reloads().takes("`true` or `false`").means(
        "The user name is the common name of the client's certificate, and no password is checked. Needs \
         `require_certificate true`; a client without a common name is refused. Behind \
         `enable_proxy_protocol 2` the name comes from the header, and the usual login rules decide.",
    ),
    l("use_subject_as_username").defaults("false").reloads().takes("`true` or `false`").means(
        "The user name is the whole subject of the client's certificate (RFC 2253). Needs \
         `require_certificate true`; `use_identity_as_username` takes precedence.",
    ),
    l("use_username_as_clientid").defaults("false").reloads().takes("`true` or `false`").means(
        "The user name takes the place of the client identifier; a client without a user name is \
         refused.",
    ),
    la("websockets_origin").list().reloads().takes("one word; repeatable").means(
        "Origin header that WebSocket requests may have; requests without the header are accepted. \
         Default: any.",
    ),
    // Bridges.
    b("address")
        .words(usize::MAX)
        .takes("one or more `HOST[:PORT]`; an IPv6 address needs its port, as in `[::1]:1883`")
        .means(
            "Addresses of the remote; resolved at each attempt. Without `round_robin` the first one is \
             preferred. Required, once. The port defaults to 1883.",
        ),
    b("addresses")
        .words(usize::MAX)
        .as_("address")
        .takes("one or more `HOST[:PORT]`; an IPv6 address needs its port, as in `[::1]:1883`")
        .means("Another name of `address`."),
    b("bridge_alpn").line().once().takes("a text").means("Protocol name that is offered to the remote with ALPN."),
    b("bridge_attempt_unsubscribe").defaults("true").takes("`true` or `false`").means(
        "Sends UNSUBSCRIBE for topics that only go out, at each connection, so that nothing comes in \
         from earlier subscriptions.",
    ),
    b("bridge_bind_address")
        .word()
        .once()
        .takes("an IP address, a host name, or `*` for any")
        .means("Local address that the connection to the remote comes from. Default: the system's choice."),
    b("bridge_cafile")
        .line()
        .once()
        .takes("a path")
        .means("PEM file of CA certificates that the remote's certificate is verified against. Switches TLS on."),
    b("bridge_capath").line().once().takes("a path of a folder").means(
        "As `bridge_cafile`, for a folder of PEM files under the names that `openssl rehash` gives them. \
         Switches TLS on.",
    ),
    b("bridge_certfile").line().once().takes("a path").means(
        "PEM file of the bridge's own certificate chain. Needs `bridge_keyfile`, and `bridge_cafile`, \
         `bridge_capath` or `bridge_tls_use_os_certs`.",
    ),
    b("bridge_ciphers")
        .line()
        .once()
        .takes("an OpenSSL cipher list, as in `ECDHE+AESGCM:!aRSA`")
        .means("TLS 1.2 cipher suites out of those that `ciphers` names; others are left out. Default: all six."),
    b("bridge_ciphers_tls1.3").line().once().takes("suite names, separated by colons").means(
        "TLS 1.3 cipher suites out of those that `ciphers_tls1.3` names; others are left out. Default: \
         all three.",
    ),
    b("bridge_identity")
        .line()
        .once()
        .refused(NO_PSK)
        .takes("a text")
        .means("In Mosquitto: the identity of the bridge for TLS with a pre-shared key."),
    b("bridge_insecure").defaults("false").takes("`true` or `false`").means(
        "Accepts a certificate of the remote that does not name its host. The chain is verified all the \
         same.",
    ),
    b("bridge_keyfile").line().takes("a path").means(
        "PEM file of the private key of `bridge_certfile`. Encrypted keys and keys on the curve P-521 \
         are not supported.",
    ),
    b("bridge_loop_mark").defaults("false").not_mosquittos().takes("`true` or `false`").means(
        "Marks messages, so that each site of a ring or mesh gets each of them once. MQTT 5.0 only; a \
         site accepts marks from the users in its `bridge_loop_mark_user`.",
    ),
    b("bridge_max_packet_size").defaults("0").takes("a number of bytes up to 2147483647; 0 or less: no limit").means(
        "Largest packet sent to the remote, unless its own limit is lower. Larger messages are dropped \
         and counted.",
    ),
    b("bridge_max_topic_alias")
        .defaults("10")
        .takes("0 to 65535")
        .means("Topic aliases in either direction over MQTT 5.0; towards the remote as far as it allows them."),
    b("bridge_outgoing_retain")
        .defaults("true")
        .takes("`true` or `false`")
        .means("With `false`, messages leave without the RETAIN flag."),
    b("bridge_protocol_version").defaults("mqttv311").word().takes("`mqttv31`, `mqttv311` or `mqttv50`").means(
        "Protocol version towards the remote. If the remote refuses MQTT 5.0, the bridge falls back to \
         MQTT 3.1.1.",
    ),
    b("bridge_psk")
        .line()
        .once()
        .refused(NO_PSK)
        .takes("a key in hexadecimal")
        .means("In Mosquitto: the pre-shared key of the bridge for TLS."),
    b("bridge_receive_maximum").takes("1 to 65535").means(
        "Receive Maximum announced to the remote over MQTT 5.0. Default: the value of \
         `max_inflight_messages`.",
    ),
    b("bridge_reload_type")
        .defaults("lazy")
        .takes("`lazy` or `immediate`")
        .means("When settings that a reload changed apply: at the next reconnect, or at once by a reconnect."),
    b("bridge_require_ocsp")
        .defaults("false")
        .refused("stapled OCSP answers are not checked by rustls")
        .harmless("false")
        .takes("`true` or `false`; only `false` is possible")
        .means("In Mosquitto: the remote has to send a stapled OCSP response."),
    b("bridge_session_expiry_interval").defaults("0").takes("0 to 4294967295 seconds; 4294967295: never").means(
        "Session Expiry Interval requested from the remote over MQTT 5.0. With 0 the remote drops its \
         session, and what would wait in it, at every disconnect.",
    ),
    b("bridge_tcp_keepalive")
        .words(3)
        .takes("three numbers above 0: idle time in seconds, interval in seconds, count")
        .means("TCP keepalive probes on the connection to the remote. Default: none are sent."),
    b("bridge_tcp_user_timeout").takes("0 to 2147483647 milliseconds; 0: the system's default").means(
        "How long sent data may stay unacknowledged by the remote's host before the connection counts as \
         broken (TCP_USER_TIMEOUT). Default: the system's.",
    ),
    b("bridge_tls_use_os_certs")
        .defaults("false")
        .takes("`true` or `false`")
        .means("Verifies the remote's certificate against the CA certificates of the system. Switches TLS on."),
    b("bridge_tls_version")
        .defaults("tlsv1.2")
        .word()
        .once()
        .takes("`tlsv1.2` or `tlsv1.3`")
        .means("Lowest TLS version towards the remote."),
    b("cleansession").defaults("false").takes("`true` or `false`").means(
        "Whether the remote starts a new session at each connection. With `false` over MQTT 5.0 it keeps \
         one only with `bridge_session_expiry_interval`.",
    ),
    b("clientid").line().as_("remote_clientid").once().takes("a text").means("Another name of `remote_clientid`."),
    b("connection").list().takes("a name of one word, different for each bridge").means(
        "Begins a bridge; the bridge options below belong to it. In a cluster every node needs the same \
         block, and one node at a time runs the bridge.",
    ),
    b("idle_timeout")
        .defaults("60")
        .takes("a number of seconds up to 2147483647; below 1: 1")
        .means("Time without messages after which a bridge with `start_type lazy` disconnects."),
    b("keepalive_interval").defaults("60").takes("a number of seconds up to 65535; below 5: 5").means(
        "Keep alive towards the remote. The bridge sends a ping whenever the remote has sent nothing for \
         so long.",
    ),
    b("local_cleansession").takes("`true` or `false`").means(
        "With `true`, the local session ends with the connection to the remote, and nothing waits for it \
         meanwhile. A lazy bridge always keeps it. Default: the value of `cleansession`.",
    ),
    b("local_clientid")
        .line()
        .once()
        .takes("a text, different for each bridge")
        .means("Client identifier of the bridge's session in this broker. Default: `local.<remote_clientid>`."),
    b("local_password")
        .line()
        .once()
        .accepted("the local session of a bridge is not asked for a password")
        .takes("a text; it is not read")
        .means("In Mosquitto: the password with which the bridge logs in to the local broker."),
    b("local_username").line().once().takes("a text").means(
        "User name of the bridge's session in this broker. It is not authenticated, and no access rules \
         apply to it. Default: none.",
    ),
    b("notification_topic")
        .line()
        .once()
        .takes("a topic name")
        .means("Topic for the state of the bridge. Default: `$SYS/broker/connection/<remote_clientid>/state`."),
    b("notifications").defaults("true").takes("`true` or `false`").means(
        "Publishes whether the bridge is connected as a retained 1 or 0 on both sides; the 0 is the \
         will.",
    ),
    b("notifications_local_only")
        .defaults("false")
        .takes("`true` or `false`")
        .means("Publishes the state in this broker only."),
    b("password").line().as_("remote_password").once().takes("a text").means("Another name of `remote_password`."),
    b("remote_clientid").line().once().takes("a text").means(
        "Client identifier at the remote. Required in a cluster, and equal on all nodes. Default on a \
         node alone: `<host name>.<connection name>`.",
    ),
    b("remote_password").line().once().takes("a text").means(
        "Password at the remote. Needs `remote_username` before MQTT 5.0, and excludes \
         `remote_password_file`.",
    ),
    b("remote_password_file").line().once().not_mosquittos().takes("a path").means(
        "File with the password at the remote, read at each connection; line ends at its end are \
         ignored. Needs `remote_username` before MQTT 5.0, and excludes `remote_password`.",
    ),
    b("remote_username").line().once().takes("a text").means("User name at the remote."),
    b("restart_timeout")
        .defaults("5 30")
        .words(3)
        .takes(
            "`SECONDS`, or `BASE CAP [STABLE]` in seconds; the first from 1 to 3600, CAP from BASE to 7200, \
             STABLE from 0 on; values outside are adjusted, a CAP below BASE is an error",
        )
        .means(
            "Wait before the next attempt to connect: constant, or random and growing from BASE to CAP. A \
             connection that stood for STABLE seconds, by default twice BASE, starts again at BASE.",
        ),
    b("round_robin").defaults("false").takes("`true` or `false`").means(
        "With `true`, all addresses are equal and tried in turn. With `false`, the first is preferred, \
         and the bridge returns to it once it answers.",
    ),
    b("start_type").defaults("automatic").takes("`automatic`, `lazy` or `once`").means(
        "`automatic` connects at the start and after every loss, `lazy` when `threshold` messages wait, \
         `once` at the start only.",
    ),
    b("threshold")
        .defaults("10")
        .takes("a number of messages; below 1: 1")
        .means("Queued messages at which a bridge with `start_type lazy` connects."),
    b("topic")
        .topic()
        .list()
        .takes(
            "`PATTERN [DIRECTION [QOS [LOCAL-PREFIX [REMOTE-PREFIX]]]]`; DIRECTION is `out`, `in` or `both`, \
             QOS 0 to 2; `\"\"` is an empty word, quotes allow blanks; repeatable",
        )
        .means(
            "Topics that are exchanged; the first line that matches a message decides. Prefixes take no \
             wildcards, and an empty PATTERN needs both. At least one line is required. Default: out, QoS 0, \
             no prefixes.",
        ),
    b("try_private").defaults("true").takes("`true` or `false`").means(
        "Tells a remote before MQTT 5.0 that this is a bridge. Dropped at the next attempt if the remote \
         refuses it.",
    ),
    b("username").line().as_("remote_username").once().takes("a text").means("Another name of `remote_username`."),
    // Ours.
    ours("bridge_loop_mark_user", "")
        .line()
        .list()
        .reloads()
        .takes("a user name, or `*` for all users; repeatable")
        .means("Users whose connections may bring marks of `bridge_loop_mark`. Without it no marks are accepted."),
    ours("bridge_orphan_expiry", "1d")
        .reloads()
        .takes("a number above 0 and `s`, `h`, `d`, `w`, `m` (30 days) or `y`, as in `14d`")
        .means(
            "How long the session of a bridge is kept after its `connection` block was removed, with what \
             waits in it.",
        ),
    ours("cluster_admin_socket", "").line().once().takes("a path").means(
        "Unix socket of `mosquorum cluster` and `mosquorum drain`, with mode 0600. Default: \
         `mosquorum.sock` in `persistence_location` with `cluster_listener`, otherwise none.",
    ),
    ours("cluster_advertise", "").once().takes("`HOST:PORT`; an IPv6 address in brackets").means(
        "Address at which the other nodes reach this one. Needs `cluster_listener`. Default: the host \
         name and the port of `cluster_listener`.",
    ),
    ours("cluster_allow", "")
        .list()
        .takes("a name of at most 255 bytes without a port; `*` stands for any characters; repeatable")
        .means(
            "Names or hosts of nodes that may join, besides the hosts of `cluster_peer`, the members, and \
             nodes named by `cluster add`. Case does not matter. Needs `cluster_listener`.",
        ),
    ours("cluster_cafile", "").line().once().takes("a path").means(
        "PEM file of the CAs that sign the certificates of nodes; use them for nothing else. Required \
         with `cluster_listener` unless `cluster_insecure true`. SIGHUP reads the file again.",
    ),
    ours("cluster_certfile", "").line().once().takes("a path").means(
        "PEM file of this node's certificate chain, valid for servers and clients and for `cluster_name` \
         or the host of `cluster_advertise`. SIGHUP reads the file again.",
    ),
    ours("cluster_commit_timeout", "10").takes("1 to 3600 seconds").means(
        "Time after which a connection that waits for the cluster is closed. Commands that change the \
         cluster wait as long.",
    ),
    ours("cluster_crlfile", "").line().once().takes("a path").means(
        "PEM file of revocation lists for certificates of nodes; SIGHUP reads it again and closes \
         connections that use a revoked one. A list past its next update still revokes.",
    ),
    ours("cluster_insecure", "false").takes("`true` or `false`").means(
        "Switches TLS between nodes off: whoever reaches `cluster_listener` can join, read and change \
         everything. Excludes the TLS options of the cluster.",
    ),
    ours("cluster_keyfile", "")
        .line()
        .once()
        .takes("a path")
        .means("PEM file of the private key of `cluster_certfile`. SIGHUP reads the file again."),
    ours("cluster_listener", "")
        .words(2)
        .once()
        .takes("`PORT [ADDRESS]` with a port from 1 to 65535 and an IP address or `*`")
        .means(
            "Makes this node a member of a cluster, and listens for the other nodes. Without an address, or \
             with `*`, it listens on all IPv4 addresses. Needs the certificates, or `cluster_insecure \
             true`.",
        ),
    ours("cluster_name", "").word().once().takes("a name of at most 255 bytes without blanks").means(
        "Name of this node. Its certificate has to be valid for this name or for the host of \
         `cluster_advertise`. Default: the host of `cluster_advertise`, otherwise the host name.",
    ),
    ours("cluster_new", "false").takes("`true` or `false`").means(
        "With `true`, a node with an empty data directory and no other `cluster_peer` forms a cluster of \
         its own. Otherwise it waits to be added. Needs `cluster_listener`.",
    ),
    ours("cluster_peer", "").list().takes("`HOST:PORT`; an IPv6 address in brackets; repeatable").means(
        "Initial nodes, this one may be among them; for a node that joins later, members to ask. The \
         hosts may join the cluster. Needs `cluster_listener`.",
    ),
    ours("health_listener", "")
        .words(2)
        .once()
        .takes("`PORT [ADDRESS]` with a port from 1 to 65535 and an IP address")
        .means(
            "HTTP without credentials: `/livez`, `/readyz` and `/metrics`. Without an address it listens on \
             127.0.0.1.",
        ),
    ours("log_format", "text")
        .reloads()
        .takes("`text` or `json`")
        .means("Form of log lines; `json` writes one object per line, with `time`, `level` and `message`."),
    ours("server_reference", "")
        .takes("a host name or an IP address without brackets, of at most 255 bytes, or `none`")
        .means(
            "Host to which other nodes send their MQTT 5.0 clients when they drain; the port of the listener \
             is added. Default: the host of `cluster_advertise`.",
        ),
    ours("session_owner", "none").reloads().takes("`user` or `none`").means(
        "With `user`, only the same user name may take over a connected client identifier, or resume or \
         end its session. Others get Not authorized. Bridges are exempt.",
    ),
    ours("shared_offline_members", "false").reloads().takes("`true` or `false`").means(
        "With `true`, absent members of a shared group take their turn, and what comes is queued for \
         them; otherwise only while no member is connected. Applies from a client's next CONNECT on.",
    ),
    ours("shutdown_drain", "0").reloads().takes("0 to 3600 seconds; 0: stop at once").means(
        "Time that SIGTERM and SIGINT give to hand over leadership, bridges and clients before the node \
         stops.",
    ),
    ours("tcp_wrappers", "false").reloads().takes("`true` or `false`").means(
        "Obeys `/etc/hosts.allow` and `/etc/hosts.deny` for the names mosquitto and mosquorum, by \
         address only. SIGHUP reads both again; rules for these names that contain host names are an \
         error.",
    ),
];
