//! From layered text to validated types, for the whole broker.
//! Always true: every value of every option is checked here, once; what depends on several options is decided here.
mod bridge;
mod cluster;
mod listener;
mod remote_address;

use super::raw::{Raw, Sources};
use super::values::{self, Values, expiration, invalid, word};
use super::{
    Autosave, ClusterSettings, ConfigError, Delivery, Level, Limits, LogDestinations, LogSettings, LogTypes, Note,
    PersistenceSettings, ProcessSettings, RetainSettings, Settings,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::time::Duration;

/// Makes settings of text.
pub(super) fn build(raw: Raw, sources: &Sources) -> Result<Settings, ConfigError> {
    let values = Values(&raw.globals);
    let mut notes = raw.notes.clone();
    let per_listener_settings = values.is_on("per_listener_settings")?;
    let mut persistence = persistence(values)?;
    let cluster = cluster::build(values, &persistence.location)?;
    if cluster.links.is_some() && !persistence.enabled {
        persistence.enabled = true;
        notes.push(Note::info("A node of a cluster is persistent: 'persistence true' is assumed."));
    }
    notes.extend(cluster::notes(&cluster));
    let server_reference = server_reference(values, &cluster)?;
    let limits = limits(values)?;
    let bridges = bridge::build_all(&raw.bridges, &limits, cluster.links.is_some(), &mut notes)?;
    // Only checked: it is always on.
    values.switch("set_tcp_nodelay")?;
    let listeners = listener::build_all(&raw, sources, per_listener_settings, &mut notes)?;
    Ok(Settings {
        config_file: sources.file.clone(),
        local_only: listener::is_local_only(&raw),
        listeners,
        clientid_prefixes: values.string("clientid_prefixes")?,
        limits,
        delivery: delivery(values)?,
        retain: retain(values, &mut notes)?,
        tcp_wrappers: values.is_on("tcp_wrappers")?,
        control_api: values.is_on("enable_control_api")?,
        persistence,
        log: log(values)?,
        process: process(values)?,
        cluster,
        health_listener: health_listener(values)?,
        shutdown_drain: shutdown_drain(values)?,
        server_reference,
        sys_interval: sys_interval(values)?,
        packet_buffer_size_bytes: values.bounded("packet_buffer_size", |_| {
            "Error: Packet buffer size must be between 0 and 65535 inclusive.".to_owned()
        })?,
        bridge_loop_mark_users: values.all("bridge_loop_mark_user", |text| Ok(text.to_owned()))?,
        bridge_orphan_expiry: values.value("bridge_orphan_expiry", |text| expiration("bridge_orphan_expiry", text))?,
        bridges,
        notes,
        raw,
        sources: sources.clone(),
    })
}

fn limits(values: Values<'_>) -> Result<Limits, ConfigError> {
    let inflight =
        values.value("max_inflight_messages", |text| match values::number("max_inflight_messages", text)? {
            value if value <= 0 || value == i32::from(u16::MAX) => Ok(0),
            value => {
                u16::try_from(value).map_err(|_| ConfigError::new("Error: 'max_inflight_messages' must be <= 65535."))
            }
        })?;
    let packet = values.value("max_packet_size", |text| {
        let value = values::number("max_packet_size", text)?;
        match u32::try_from(value) {
            Ok(value) if value >= 20 => Ok(value),
            _ => Err(ConfigError::new("Error: 'max_packet_size' must be >= 20.")),
        }
    })?;
    let payload = values.value("message_size_limit", |text| {
        let value = values::number("message_size_limit", text)?;
        match u32::try_from(value) {
            Ok(value) if value <= PAYLOAD_BYTES_MAX => Ok(value),
            _ => Err(invalid("message_size_limit", &value.to_string(), "0 to 268435455")),
        }
    })?;
    let memory = values.value("memory_limit", |text| {
        let value = values::long_number("memory_limit", text)?;
        usize::try_from(value).map_err(|_| invalid("memory_limit", &value.to_string(), "a number of bytes, or 0"))
    })?;
    let keepalive: u16 = values.bounded("max_keepalive", |value| {
        format!("Error: Invalid 'max_keepalive' value ({value}). Expected 0 to 65535.")
    })?;
    Ok(Limits {
        max_inflight_messages: NonZeroU16::new(inflight),
        max_inflight_bytes: values.limit("max_inflight_bytes")?,
        max_queued_messages: values.limit("max_queued_messages")?,
        max_queued_bytes: values.limit("max_queued_bytes")?,
        max_packet_size_bytes: packet,
        message_size_limit_bytes: NonZeroU32::new(payload),
        max_keepalive_seconds: NonZeroU16::new(keepalive),
        global_max_clients: values.limit("global_max_clients")?,
        global_max_connections: values.limit("global_max_connections")?,
        memory_limit_bytes: NonZeroUsize::new(memory),
    })
}

/// The longest payload that fits a packet (MQTT 5.0 section 1.5.5).
const PAYLOAD_BYTES_MAX: u32 = 268_435_455;

fn delivery(values: Values<'_>) -> Result<Delivery, ConfigError> {
    let name = "persistent_client_expiration";
    Ok(Delivery {
        allow_duplicate_messages: values.is_on("allow_duplicate_messages")?,
        sessions_are_users: values.value("session_owner", session_owner)?,
        shared_offline_members: values.is_on("shared_offline_members")?,
        queue_qos0_messages: values.is_on("queue_qos0_messages")?,
        upgrade_outgoing_qos: values.is_on("upgrade_outgoing_qos")?,
        persistent_client_expiration: values.last(name, |text| expiration(name, text))?,
        connection_messages: values.is_on("connection_messages")?,
    })
}

fn session_owner(text: &str) -> Result<bool, ConfigError> {
    match text {
        "user" => Ok(true),
        "none" => Ok(false),
        other => Err(invalid("session_owner", other, "user or none")),
    }
}

fn retain(values: Values<'_>, notes: &mut Vec<Note>) -> Result<RetainSettings, ConfigError> {
    const MINUTES_MAX: u32 = 10_000_000;
    // Only checked: nothing waits for a sweep here.
    let minutes = values.last("retain_expiry_interval", |text| {
        match u32::try_from(values::number("retain_expiry_interval", text)?) {
            Ok(minutes) if minutes >= 1 => Ok(minutes),
            _ => Err(ConfigError::new("Error: retain_expiry_interval must be >= 1.")),
        }
    })?;
    if minutes > Some(MINUTES_MAX) {
        notes.push(Note::warning("Warning: retain_expiry_interval being capped at 19 years."));
    }
    Ok(RetainSettings {
        available: values.is_on("retain_available")?,
        check_source: values.is_on("check_retain_source")?,
    })
}

fn persistence(values: Values<'_>) -> Result<PersistenceSettings, ConfigError> {
    let on_changes = values.is_on("autosave_on_changes")?;
    let interval = values.value("autosave_interval", |text| values::number("autosave_interval", text))?;
    let interval = u32::try_from(interval).ok().and_then(NonZeroU32::new);
    Ok(PersistenceSettings {
        enabled: values.is_on("persistence")?,
        location: values.path("persistence_location")?.unwrap_or_default(),
        file: values.value("persistence_file", |text| values::string("persistence_file", text))?,
        autosave: match interval {
            None => Autosave::Never,
            Some(changes) if on_changes => Autosave::AfterChanges(changes),
            Some(seconds) => Autosave::Every(Duration::from_secs(seconds.get().into())),
        },
    })
}

fn process(values: Values<'_>) -> Result<ProcessSettings, ConfigError> {
    let user = values.string("user")?;
    Ok(ProcessSettings {
        user_is_explicit: user.is_some(),
        user: user.unwrap_or_else(|| "mosquitto".to_owned()),
        pid_file: values.path("pid_file")?,
    })
}

/// Seconds that a stop may take for handing clients over.
const SHUTDOWN_DRAIN_MAX: i32 = 3600;

fn shutdown_drain(values: Values<'_>) -> Result<Duration, ConfigError> {
    let seconds = values.value("shutdown_drain", |text| match values::number("shutdown_drain", text)? {
        seconds @ 0..=SHUTDOWN_DRAIN_MAX => Ok(seconds.unsigned_abs()),
        seconds => Err(invalid("shutdown_drain", &seconds.to_string(), "0 to 3600 seconds")),
    })?;
    Ok(Duration::from_secs(seconds.into()))
}

fn server_reference(values: Values<'_>, cluster: &ClusterSettings) -> Result<Option<String>, ConfigError> {
    let name = "server_reference";
    let written = values.last(name, |text| {
        let host = word(name, text)?;
        let is_host = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:_".contains(&byte));
        if host.len() <= 255 && is_host { Ok(host.to_owned()) } else { Err(invalid(name, host, "a host name or none")) }
    })?;
    Ok(match written.as_deref() {
        Some("none") => None,
        Some(_) => written,
        None => cluster.links.as_ref().map(|links| links.advertise.host.clone()),
    })
}

fn health_listener(values: Values<'_>) -> Result<Option<SocketAddr>, ConfigError> {
    const NAME: &str = "health_listener";
    values.last(NAME, |text| {
        let (port, address) = values::port_and_word(NAME, text)?;
        let port = u16::try_from(port)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| invalid(NAME, &port.to_string(), "a port from 1 to 65535"))?;
        let address = match address {
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Some(word) => word.parse().map_err(|_| invalid(NAME, word, "an IP address after the port"))?,
        };
        Ok(SocketAddr::new(address, port))
    })
}

fn sys_interval(values: Values<'_>) -> Result<Option<Duration>, ConfigError> {
    let seconds: u16 = values.bounded("sys_interval", |value| {
        format!("Error: Invalid 'sys_interval' value ({value}). Expected 0 to 65535.")
    })?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
}

fn log(values: Values<'_>) -> Result<LogSettings, ConfigError> {
    let facility = values.last("log_facility", |text| {
        let value = values::number("log_facility", text)?;
        u8::try_from(value)
            .ok()
            .filter(|local| *local <= 7)
            .ok_or_else(|| invalid("log_facility", &value.to_string(), "0 to 7"))
    })?;
    let name = "log_timestamp_format";
    let timestamp_format = values.last(name, |text| {
        let pattern = values::string(name, text)?;
        if crate::logging::is_pattern_valid(&pattern) {
            Ok(pattern)
        } else {
            Err(invalid(name, &pattern, "a strftime pattern"))
        }
    })?;
    let json = values.value("log_format", |text| match word("log_format", text)? {
        "text" => Ok(false),
        "json" => Ok(true),
        other => Err(invalid("log_format", other, "text or json")),
    })?;
    Ok(LogSettings {
        types: log_types(values)?,
        destinations: log_destinations(values)?,
        timestamp: values.is_on("log_timestamp")?,
        timestamp_format,
        facility,
        json,
    })
}

fn log_types(values: Values<'_>) -> Result<LogTypes, ConfigError> {
    const KNOWN: [Level; 9] = [
        Level::Error,
        Level::Warning,
        Level::Notice,
        Level::Info,
        Level::Debug,
        Level::Subscribe,
        Level::Unsubscribe,
        Level::Websockets,
        Level::Internal,
    ];
    let mut types = LogTypes::NONE;
    for text in values.all("log_type", |text| word("log_type", text).map(str::to_owned))? {
        match text.as_str() {
            "none" => types = LogTypes::NONE,
            "all" => types = LogTypes::ALL,
            name => match KNOWN.iter().find(|level| level.name() == name) {
                Some(level) => types.0 |= level.bit(),
                None => {
                    let names = KNOWN.map(Level::name).join(", ");
                    let expected = format!("{names}, all or none");
                    return Err(values.at("log_type", invalid("log_type", name, &expected)));
                }
            },
        }
    }
    Ok(types)
}

fn log_destinations(values: Values<'_>) -> Result<LogDestinations, ConfigError> {
    const NAMES: &str = "stdout, stderr, syslog, topic, file PATH or none";
    let mut to = LogDestinations::default();
    let mut files = 0;
    let mut written = values.all("log_dest", |text| {
        let name = word("log_dest", text)?;
        if !["none", "stdout", "stderr", "syslog", "topic", "file"].contains(&name) {
            return Err(invalid("log_dest", name, NAMES));
        }
        let path = text.trim_start_matches(' ').strip_prefix("file").unwrap_or_default().trim();
        if name == "file" && path.is_empty() {
            return Err(ConfigError::new("Error: Empty \"log_dest file\" value in configuration."));
        }
        Ok((name.to_owned(), path.to_owned()))
    })?;
    for (name, path) in written.drain(..) {
        match name.as_str() {
            "none" => to = LogDestinations::default(),
            "stdout" => to.stdout = true,
            "stderr" => to.stderr = true,
            "syslog" => to.syslog = true,
            "topic" => to.topic = true,
            _ => {
                files += 1;
                to.file = Some(path.into());
            }
        }
    }
    if files > 1 {
        let error = ConfigError::new("Error: Duplicate \"log_dest file\" value.");
        return Err(values.at("log_dest", error));
    }
    Ok(to)
}
