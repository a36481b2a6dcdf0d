//! One `connection` block, from text to what its bridge runs with.
use super::remote_address;
use crate::config::lines::words;
use crate::config::section::{BridgeSection, Section, Text};
use crate::config::settings::ANY_ADDRESS;
use crate::config::values::{Values, invalid, leading_number, note_without_effect, number, word};
use crate::config::{
    BridgeConfig, BridgeTls, ConfigError, Limits, Note, RemoteAddress, Secret, TcpKeepAlive, TlsVersion,
};
use mosquorum_bridge::{BridgeSettings, ReloadType, RestartTimeout, StartType, Topic, Topics};
use mosquorum_proto::mqtt::{ProtocolVersion, TopicName, Utf8};
use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Duration};

/// The longest constant wait, and the longest base of a growing one, in seconds.
const RESTART_BASE_MAX: i32 = 3600;
/// The longest growing wait in seconds.
const RESTART_CAP_MAX: i32 = 7200;

pub(super) fn build_all(
    sections: &[BridgeSection],
    limits: &Limits,
    clustered: bool,
    notes: &mut Vec<Note>,
) -> Result<Vec<Arc<BridgeConfig>>, ConfigError> {
    let mut all: Vec<Arc<BridgeConfig>> = Vec::new();
    for section in sections {
        let bridge = build(section, limits, clustered, notes).map_err(|error| error.at(&section.origin))?;
        let local = &bridge.settings.local_client_id;
        if all.iter().any(|other| other.settings.local_client_id == *local) {
            let text = format!("Error: Two bridges have the local_clientid '{local}', it must differ.");
            return Err(ConfigError::new(text).at(&section.origin));
        }
        all.push(Arc::new(bridge));
    }
    Ok(all)
}

fn build(
    section: &BridgeSection,
    limits: &Limits,
    clustered: bool,
    notes: &mut Vec<Note>,
) -> Result<BridgeConfig, ConfigError> {
    let mut options = Section::new();
    for (name, text, origin) in &section.directives {
        let text = Text { text: text.clone(), origin: Some(origin.clone()) };
        options.entry(name.clone()).or_default().push(text);
    }
    let values = Values(&options);
    refuse_what_rustls_lacks(values)?;
    let version = version(values)?;
    let remote_client_id = match values.string("remote_clientid")? {
        Some(id) => id,
        None if clustered => {
            let why = "Error: A bridge in a cluster needs a remote_clientid, the same on every node.";
            return Err(ConfigError::new(why));
        }
        None => format!("{}.{}", super::cluster::host_name(), section.name),
    };
    let Login { remote_username, password, password_file } = login(values, version)?;
    let clean_session = values.is_on("cleansession")?;
    let start_type = start_type(values, notes)?;
    // Only what is kept while the bridge is away can start it.
    let local_clean_session =
        values.switch("local_cleansession")?.unwrap_or(clean_session) && !matches!(start_type, StartType::Lazy { .. });
    let settings = BridgeSettings {
        name: section.name.clone(),
        topics: topics(values)?,
        version,
        local_client_id: Utf8::from(
            values.string("local_clientid")?.unwrap_or_else(|| format!("local.{remote_client_id}")),
        ),
        local_username: values.string("local_username")?.map(Utf8::from),
        notification_topic: notification_topic(values, &remote_client_id)?,
        remote_client_id: Utf8::from(remote_client_id),
        remote_username: remote_username.map(Utf8::from),
        clean_session,
        local_clean_session,
        notifications_local_only: values.is_on("notifications_local_only")?,
        keep_alive_seconds: raised(values, "keepalive_interval", 5, 65535, notes)?,
        loop_mark: values.is_on("bridge_loop_mark")?,
        try_private: values.is_on("try_private")?,
        attempt_unsubscribe: values.is_on("bridge_attempt_unsubscribe")?,
        outgoing_retain: values.is_on("bridge_outgoing_retain")?,
        max_packet_size: raised(values, "bridge_max_packet_size", 0, i32::MAX, notes)?,
        max_topic_alias: values
            .value("bridge_max_topic_alias", |text| ranged("bridge_max_topic_alias", text, 0, 65535))?,
        receive_maximum: values
            .last("bridge_receive_maximum", |text| ranged("bridge_receive_maximum", text, 1, 65535))?
            .or(limits.max_inflight_messages.map(std::num::NonZeroU16::get)),
        session_expiry_seconds: session_expiry(values)?,
        start_type,
        restart_timeout: restart_timeout(values, notes)?,
        reload_type: choice(
            values,
            "bridge_reload_type",
            &[("lazy", ReloadType::Lazy), ("immediate", ReloadType::Immediate)],
        )?,
        round_robin: values.is_on("round_robin")?,
    };
    Ok(BridgeConfig {
        settings: Arc::new(settings),
        addresses: addresses(values)?,
        bind_address: values.string("bridge_bind_address")?.filter(|address| address != ANY_ADDRESS),
        tcp_keepalive: tcp_keepalive(values)?,
        tcp_user_timeout: values
            .last("bridge_tcp_user_timeout", |text| ranged("bridge_tcp_user_timeout", text, 0, i32::MAX))?
            .map(Duration::from_millis),
        tls: tls(values, notes)?,
        password,
        password_file,
    })
}

/// Who the bridge is at the remote.
struct Login {
    remote_username: Option<String>,
    password: Option<Secret>,
    password_file: Option<PathBuf>,
}

fn login(values: Values<'_>, version: ProtocolVersion) -> Result<Login, ConfigError> {
    let remote_username = values.string("remote_username")?;
    let password = values.string("remote_password")?.map(Secret);
    let password_file = values.path("remote_password_file")?;
    let has_password = password.is_some() || password_file.is_some();
    if has_password && remote_username.is_none() && version != ProtocolVersion::V5 {
        return Err(ConfigError::new("Error: remote_password needs remote_username."));
    }
    if password.is_some() && password_file.is_some() {
        return Err(ConfigError::new("Error: Only one of remote_password and remote_password_file may be given."));
    }
    Ok(Login { remote_username, password, password_file })
}

fn refuse_what_rustls_lacks(values: Values<'_>) -> Result<(), ConfigError> {
    let why = "pre-shared keys need OpenSSL and this broker uses rustls, use certificates";
    for name in ["bridge_psk", "bridge_identity"] {
        if values.has(name) {
            return Err(values.at(name, ConfigError::refused(name, why)));
        }
    }
    if values.is_on("bridge_require_ocsp")? {
        let why = "stapled OCSP answers are not checked by rustls";
        return Err(values.at("bridge_require_ocsp", ConfigError::refused("bridge_require_ocsp", why)));
    }
    Ok(())
}

fn ranged<T: TryFrom<i32>>(name: &str, text: &str, min: i32, max: i32) -> Result<T, ConfigError> {
    let value = number(name, text)?;
    let wrong = || invalid(name, &value.to_string(), &format!("{min} to {max}"));
    if value < min || value > max {
        return Err(wrong());
    }
    T::try_from(value).map_err(|_| wrong())
}

/// As `ranged`, but what is below the range is raised to it.
fn raised<T: TryFrom<i32>>(
    values: Values<'_>,
    name: &str,
    min: i32,
    max: i32,
    notes: &mut Vec<Note>,
) -> Result<T, ConfigError> {
    let written = values.value(name, |text| ranged::<i32>(name, text, i32::MIN, max))?;
    if written < min {
        notes.push(clamped(values, name, written, min));
    }
    T::try_from(written.max(min)).map_err(|_| invalid(name, &written.to_string(), &format!("{min} to {max}")))
}

fn choice<T: Copy>(values: Values<'_>, name: &str, known: &[(&str, T)]) -> Result<T, ConfigError> {
    values.value(name, |text| {
        let written = word(name, text)?;
        let found = known.iter().find(|(word, _)| *word == written);
        let names: Vec<_> = known.iter().map(|(word, _)| *word).collect();
        found.map(|(_, value)| *value).ok_or_else(|| invalid(name, written, &names.join(" or ")))
    })
}

fn version(values: Values<'_>) -> Result<ProtocolVersion, ConfigError> {
    let known =
        [("mqttv31", ProtocolVersion::V31), ("mqttv311", ProtocolVersion::V311), ("mqttv50", ProtocolVersion::V5)];
    choice(values, "bridge_protocol_version", &known)
}

fn start_type(values: Values<'_>, notes: &mut Vec<Note>) -> Result<StartType, ConfigError> {
    let idle: u64 = raised(values, "idle_timeout", 1, i32::MAX, notes)?;
    let lazy = StartType::Lazy {
        threshold: raised(values, "threshold", 1, i32::MAX, notes)?,
        idle_timeout: Duration::from_secs(idle),
    };
    let known = [("automatic", StartType::Automatic), ("lazy", lazy), ("once", StartType::Once)];
    if let Some("manual") = values.texts("start_type").last().map(|text| text.text.as_str()) {
        return Err(values.at("start_type", ConfigError::new("Error: Manual start_type is not supported.")));
    }
    choice(values, "start_type", &known)
}

fn topics(values: Values<'_>) -> Result<Topics, ConfigError> {
    let all =
        values.all("topic", |text| Topic::parse(text).map_err(|error| ConfigError::new(format!("Error: {error}."))))?;
    let mut known = HashSet::with_capacity(all.len());
    Ok(Topics::new(all.into_iter().filter(|topic| known.insert(topic.clone())).collect()))
}

fn notification_topic(values: Values<'_>, client_id: &str) -> Result<Option<TopicName>, ConfigError> {
    let written = values.string("notification_topic")?;
    if !values.is_on("notifications")? {
        return Ok(None);
    }
    let text = written.unwrap_or_else(|| format!("$SYS/broker/connection/{client_id}/state"));
    match TopicName::new(Utf8::from(text.clone())) {
        Ok(topic) => Ok(Some(topic)),
        Err(_) => Err(values.at("notification_topic", invalid("notification_topic", &text, "a topic name"))),
    }
}

fn session_expiry(values: Values<'_>) -> Result<u32, ConfigError> {
    let name = "bridge_session_expiry_interval";
    values.value(name, |text| {
        let value = crate::config::values::long_number(name, text)?;
        u32::try_from(value).map_err(|_| invalid(name, &value.to_string(), "0 to 4294967295"))
    })
}

/// One word is a constant; two or three are base and cap of a wait that grows, and what counts as stable.
fn restart_timeout(values: Values<'_>, notes: &mut Vec<Note>) -> Result<RestartTimeout, ConfigError> {
    let name = "restart_timeout";
    let mut used = Vec::new();
    let written: Vec<i32> = values.value(name, |text| words(text).map(|word| leading_number(name, word)).collect())?;
    let wrong = |expected: &str| {
        let text = values.texts(name).last().map_or("", |text| text.text.as_str());
        values.at(name, invalid(name, text, expected))
    };
    let seconds = |value: i32| Duration::from_secs(u64::try_from(value).unwrap_or(0));
    let base = written.first().map_or(1, |base| (*base).clamp(1, RESTART_BASE_MAX));
    used.push(base);
    let timeout = match written.get(1).copied() {
        None => RestartTimeout::Constant(seconds(base)),
        Some(cap) if cap < base => return Err(wrong("a second number that is not below the first")),
        Some(cap) => {
            let cap = cap.min(RESTART_CAP_MAX);
            used.push(cap);
            let stable = written.get(2).copied().unwrap_or(2 * base);
            if stable < 0 {
                return Err(wrong("a third number that is not below 0"));
            }
            RestartTimeout::Jitter { base: seconds(base), cap: seconds(cap), stable: seconds(stable) }
        }
    };
    for (written, used) in written.iter().zip(used).filter(|(written, used)| *written != used) {
        notes.push(clamped(values, name, *written, used));
    }
    Ok(timeout)
}

/// As Mosquitto does with a few: what is out of range becomes the nearest that is not.
fn clamped(values: Values<'_>, name: &str, written: i32, used: i32) -> Note {
    let origin = values.texts(name).last().and_then(|text| text.origin.as_deref()).unwrap_or_default();
    Note::notice(format!("The value {written} of '{name}' is out of range, {used} is used ({origin})."))
}

fn addresses(values: Values<'_>) -> Result<Vec<RemoteAddress>, ConfigError> {
    let all = values.last("address", |text| words(text).map(remote_address::parse).collect::<Result<Vec<_>, _>>())?;
    all.filter(|all| !all.is_empty()).ok_or_else(|| ConfigError::empty("address"))
}

fn tcp_keepalive(values: Values<'_>) -> Result<Option<TcpKeepAlive>, ConfigError> {
    let name = "bridge_tcp_keepalive";
    values.last(name, |text| {
        let numbers = words(text).map(|word| number(name, word)).collect::<Result<Vec<_>, _>>()?;
        let [idle, interval, count] = numbers[..] else {
            return Err(invalid(name, text, "idle, interval and count"));
        };
        let positive = |value: i32| {
            u32::try_from(value)
                .ok()
                .filter(|value| *value > 0)
                .ok_or_else(|| invalid(name, text, "three numbers above 0"))
        };
        Ok(TcpKeepAlive {
            idle: Duration::from_secs(positive(idle)?.into()),
            interval: Duration::from_secs(positive(interval)?.into()),
            count: positive(count)?,
        })
    })
}

fn tls(values: Values<'_>, notes: &mut Vec<Note>) -> Result<Option<BridgeTls>, ConfigError> {
    let (certfile, keyfile) = (values.path("bridge_certfile")?, values.path("bridge_keyfile")?);
    let known = [("tlsv1.2", TlsVersion::V12), ("tlsv1.3", TlsVersion::V13)];
    let min_version = choice(values, "bridge_tls_version", &known)?;
    let tls = BridgeTls {
        cafile: values.path("bridge_cafile")?,
        capath: values.path("bridge_capath")?,
        os_certs: values.is_on("bridge_tls_use_os_certs")?,
        identity: match (certfile, keyfile) {
            (Some(certfile), Some(keyfile)) => Some((certfile, keyfile)),
            (None, None) => None,
            _ => return Err(ConfigError::new("Error: bridge_certfile and bridge_keyfile must both be given.")),
        },
        insecure: values.is_on("bridge_insecure")?,
        alpn: values.string("bridge_alpn")?,
        min_version,
        ciphers: values.string("bridge_ciphers")?,
        ciphers_tls13: values.string("bridge_ciphers_tls1.3")?,
    };
    let on = tls.cafile.is_some() || tls.capath.is_some() || tls.os_certs;
    if !on && tls.identity.is_some() {
        let why = "Error: bridge_certfile needs bridge_cafile, bridge_capath or bridge_tls_use_os_certs.";
        return Err(ConfigError::new(why));
    }
    if !on {
        let names = ["bridge_insecure", "bridge_alpn", "bridge_ciphers", "bridge_ciphers_tls1.3", "bridge_tls_version"];
        let place = "a bridge without bridge_cafile, bridge_capath or bridge_tls_use_os_certs";
        note_without_effect(values, &names, place, notes);
    }
    Ok(on.then_some(tls))
}
