//! One listener: its address, its own options, and the security that holds for it.
use super::super::plugins;
use super::super::raw::{Raw, Sources};
use super::super::section::Section;
use super::super::settings::ANY_ADDRESS;
use super::super::values::{self, Values, invalid, word};
use super::super::{
    ConfigError, ListenAddress, ListenerProtocol, ListenerSettings, Note, ProtocolVersions, ProxyRules, ProxyVersion,
    SecuritySettings, SocketDomain, TlsSettings, TlsVersion, lines,
};

/// `auto_id_prefix` bytes.
const PREFIX_BYTES_MAX: usize = 50;

/// Nothing in the file says where to listen.
pub(super) fn is_local_only(raw: &Raw) -> bool {
    !raw.listeners
        .iter()
        .any(|section| ["listener", "port", "bind_address"].iter().any(|name| section.contains_key(*name)))
}

pub(super) fn build_all(
    raw: &Raw,
    sources: &Sources,
    per_listener: bool,
    notes: &mut Vec<Note>,
) -> Result<Vec<ListenerSettings>, ConfigError> {
    let context = Context { globals: Values(&raw.globals), per_listener };
    if !is_local_only(raw) {
        if !sources.ports.is_empty() {
            notes.push(Note::warning("Warning: -p is ignored, the configuration file has listeners."));
        }
        return raw
            .listeners
            .iter()
            .map(|section| {
                let values = Values(section);
                context.listener(values, address(values)?, false, notes)
            })
            .collect();
    }
    // Only loopback. Options that made a default listener, such as max_connections, hold for these.
    let none = Section::new();
    let values = Values(raw.listeners.first().unwrap_or(&none));
    let ports = if sources.ports.is_empty() { &vec![default_listeners_port(values)?] } else { &sources.ports };
    let mut listeners = Vec::with_capacity(2 * ports.len());
    for port in ports {
        for host in ["127.0.0.1", "::1"] {
            let address = ListenAddress::Tcp {
                port: *port,
                host: Some(host.to_owned()),
                interface: values.string("bind_interface")?,
                domain: domain(values)?,
            };
            let is_first = listeners.is_empty();
            let mut ignored = Vec::new();
            let notes = if is_first { &mut *notes } else { &mut ignored };
            listeners.push(context.listener(values, address, true, notes)?);
        }
    }
    Ok(listeners)
}

/// What holds for every listener.
struct Context<'a> {
    globals: Values<'a>,
    per_listener: bool,
}

impl Context<'_> {
    fn listener(
        &self,
        values: Values<'_>,
        address: ListenAddress,
        local_only: bool,
        notes: &mut Vec<Note>,
    ) -> Result<ListenerSettings, ConfigError> {
        let max_qos = values.value("max_qos", |text| {
            u8::try_from(values::number("max_qos", text)?)
                .ok()
                .filter(|qos| *qos <= 2)
                .ok_or_else(|| ConfigError::new("Error: 'max_qos' must be between 0 and 2 inclusive."))
        })?;
        let protocol = protocol(values)?;
        if protocol == ListenerProtocol::Mqtt {
            let names = ["websockets_origin", "http_dir"];
            values::note_without_effect(values, &names, "a listener with protocol mqtt", notes);
        }
        Ok(ListenerSettings {
            address,
            protocol,
            versions: versions(values)?,
            max_connections: values.limit("max_connections")?,
            max_qos,
            max_topic_alias: topic_alias(values, "max_topic_alias")?,
            max_topic_alias_broker: topic_alias(values, "max_topic_alias_broker")?,
            mount_point: mount_point(values)?,
            use_username_as_clientid: values.is_on("use_username_as_clientid")?,
            websockets_origins: values.all("websockets_origin", |text| values::string("websockets_origin", text))?,
            http_dir: values.path("http_dir")?,
            proxy: proxy(values)?,
            tls: tls(values, notes)?,
            security: self.security(values, local_only, notes)?,
        })
    }

    fn security(
        &self,
        values: Values<'_>,
        local_only: bool,
        notes: &mut Vec<Note>,
    ) -> Result<SecuritySettings, ConfigError> {
        let shared = if self.per_listener { values } else { self.globals };
        let anonymous = values.switch("listener_allow_anonymous")?;
        let name = "listener_auto_id_prefix";
        let own = values.last(name, |text| prefix(name, text, "'listener_auto_id_prefix' length"))?;
        let common =
            self.globals.value("auto_id_prefix", |text| prefix("auto_id_prefix", text, "auto_id_prefix length"))?;
        Ok(SecuritySettings {
            allow_anonymous: match anonymous {
                Some(allowed) => allowed,
                None => shared.switch("allow_anonymous")?.unwrap_or(local_only),
            },
            allow_zero_length_clientid: shared.is_on("allow_zero_length_clientid")?,
            auto_id_prefix: own.unwrap_or(common),
            password_file: self.file(values, plugins::PASSWORD_FILE, "password_file", notes)?,
            acl_file: self.file(values, plugins::ACL_FILE, "acl_file", notes)?,
        })
    }

    /// The first file that would be asked: global plugin, global option, plugin, option.
    fn file(
        &self,
        values: Values<'_>,
        plugin: &str,
        option: &str,
        notes: &mut Vec<Note>,
    ) -> Result<Option<std::path::PathBuf>, ConfigError> {
        let mut found: Option<String> = None;
        for (values, name) in [(self.globals, plugin), (self.globals, option), (values, plugin), (values, option)] {
            let mut texts = values.all(name, |text| values::string(option, text))?;
            if name == option {
                texts = texts.pop().into_iter().collect(); // a second line replaces the first
            }
            for text in texts {
                match &found {
                    None => found = Some(text),
                    Some(first) if *first != text => notes.push(Note::warning(format!(
                        "Warning: {option} '{text}' is never asked, '{first}' answers first."
                    ))),
                    Some(_) => {}
                }
            }
        }
        Ok(found.map(Into::into))
    }
}

fn address(values: Values<'_>) -> Result<ListenAddress, ConfigError> {
    let interface = values.string("bind_interface")?;
    let domain = domain(values)?;
    let written = values.last("listener", |text| {
        let (port, place) = values::port_and_word("listener port", text)?;
        let port = u16::try_from(port).map_err(|_| invalid("port", &port.to_string(), "0 to 65535"))?;
        if port == 0 && place.is_none() {
            return Err(ConfigError::new("Error: A listener with port 0 must provide a Unix socket path."));
        }
        Ok((port, place.filter(|place| *place != ANY_ADDRESS).map(str::to_owned)))
    })?;
    Ok(match written {
        Some((0, path)) => ListenAddress::Unix(path.unwrap_or_default().into()),
        Some((port, host)) => ListenAddress::Tcp { port, host, interface, domain },
        None => {
            let port = default_listeners_port(values)?;
            let host = values.string("bind_address")?.filter(|host| host != ANY_ADDRESS);
            ListenAddress::Tcp { port, host, interface, domain }
        }
    })
}

fn default_listeners_port(values: Values<'_>) -> Result<u16, ConfigError> {
    values.value("port", |text| {
        let value = values::number("port", text)?;
        let port = u16::try_from(value).ok().filter(|port| *port > 0);
        port.ok_or_else(|| invalid("port", &value.to_string(), "1 to 65535"))
    })
}

fn domain(values: Values<'_>) -> Result<Option<SocketDomain>, ConfigError> {
    values.last("socket_domain", |text| match word("socket_domain", text)? {
        "ipv4" => Ok(SocketDomain::Ipv4),
        "ipv6" => Ok(SocketDomain::Ipv6),
        other => Err(ConfigError::new(format!(
            "Error: Invalid 'socket_domain' value '{other}' in configuration. Expected ipv4 or ipv6."
        ))),
    })
}

fn protocol(values: Values<'_>) -> Result<ListenerProtocol, ConfigError> {
    values.value("protocol", |text| match word("protocol", text)? {
        "mqtt" => Ok(ListenerProtocol::Mqtt),
        "websockets" => Ok(ListenerProtocol::Websockets),
        "http_api" => Ok(ListenerProtocol::HttpApi),
        other => Err(invalid("protocol", other, "mqtt, websockets or http_api")),
    })
}

fn proxy(values: Values<'_>) -> Result<Option<ProxyRules>, ConfigError> {
    const NAME: &str = "enable_proxy_protocol";
    let version = values.last(NAME, |text| match values::number(NAME, text)? {
        1 => Ok(ProxyVersion::V1),
        2 => Ok(ProxyVersion::V2),
        _ => Err(ConfigError::new("Error: enable_proxy_protocol must be 1 or 2.")),
    })?;
    let switch = |name| values.is_on(name);
    let require_tls = switch("proxy_protocol_v2_require_tls")?;
    let Some(version) = version else { return Ok(None) };
    if version == ProxyVersion::V2 {
        // What the client and the balancer agreed on is known from the header alone.
        for (name, is_set) in [
            ("use_subject_as_username", switch("use_subject_as_username")?),
            ("certfile and keyfile", values.has("certfile") || values.has("keyfile")),
        ] {
            if is_set {
                let text = format!("Error: {name} cannot be used with `enable_proxy_protocol 2`.");
                return Err(values.at(NAME, ConfigError::new(text)));
            }
        }
    }
    Ok(Some(ProxyRules {
        version,
        require_tls,
        require_certificate: switch("require_certificate")?,
        use_identity_as_username: switch("use_identity_as_username")?,
    }))
}

fn versions(values: Values<'_>) -> Result<ProtocolVersions, ConfigError> {
    const NAME: &str = "accept_protocol_versions";
    values.value(NAME, |text| {
        let mut accepted = ProtocolVersions { v3: false, v4: false, v5: false };
        for word in lines::words(text).flat_map(|word| word.split(',')).filter(|word| !word.is_empty()) {
            match word {
                "3" => accepted.v3 = true,
                "4" => accepted.v4 = true,
                "5" => accepted.v5 = true,
                other => return Err(invalid(NAME, other, "3, 4 and 5, separated by commas")),
            }
        }
        match accepted {
            ProtocolVersions { v3: false, v4: false, v5: false } => Err(ConfigError::empty(NAME)),
            accepted => Ok(accepted),
        }
    })
}

fn topic_alias(values: Values<'_>, name: &str) -> Result<u16, ConfigError> {
    values.bounded(name, |_| format!("Error: Invalid '{name}' value in configuration. Expected 0 to 65535."))
}

fn mount_point(values: Values<'_>) -> Result<Option<String>, ConfigError> {
    const NAME: &str = "mount_point";
    values.last(NAME, |text| {
        let text = values::string(NAME, text)?;
        let levels = text.matches('/').count();
        if text.contains(['+', '#']) || levels >= mosquorum_proto::mqtt::TOPIC_LEVELS_MAX {
            return Err(ConfigError::new(format!(
                "Error: Invalid 'mount_point' value ({text}). Does it contain a wildcard character?"
            )));
        }
        Ok(text)
    })
}

fn prefix(name: &str, text: &str, named: &str) -> Result<String, ConfigError> {
    let text = values::string(name, text)?;
    if text.len() > PREFIX_BYTES_MAX {
        return Err(ConfigError::new(format!("Error: {named} must be <= {PREFIX_BYTES_MAX}.")));
    }
    Ok(text)
}

fn tls(values: Values<'_>, notes: &mut Vec<Note>) -> Result<Option<TlsSettings>, ConfigError> {
    let min_version = values.value("tls_version", |text| match text {
        "tlsv1.3" => Ok(TlsVersion::V13),
        "tlsv1.2" => Ok(TlsVersion::V12),
        other => {
            Err(ConfigError::new(format!("Error: Unsupported tls_version \"{other}\". Expected tlsv1.2 or tlsv1.3."))
                .at_start())
        }
    })?;
    let require_certificate = values.is_on("require_certificate")?;
    let use_identity_as_username = values.is_on("use_identity_as_username")?;
    let use_subject_as_username = values.is_on("use_subject_as_username")?;
    let no_date_checks = values.is_on("disable_client_cert_date_checks")?;
    let (cafile, capath) = (values.path("cafile")?, values.path("capath")?);
    let (certfile, keyfile) = match (values.path("certfile")?, values.path("keyfile")?) {
        (Some(certfile), Some(keyfile)) => (certfile, keyfile),
        (None, None) => {
            for (name, is_set) in [("cafile", cafile.is_some()), ("capath", capath.is_some())] {
                if is_set {
                    return Err(values
                        .at(name, ConfigError::new(format!("Error: {name} specified without certfile and keyfile."))));
                }
            }
            let names = ["crlfile", "ciphers", "ciphers_tls1.3", "tls_version", "disable_client_cert_date_checks"];
            values::note_without_effect(values, &names, "a listener without certfile and keyfile", notes);
            let is_proxied = values.has("enable_proxy_protocol");
            if !is_proxied && (require_certificate || use_identity_as_username || use_subject_as_username) {
                notes.push(Note::warning(
                    "Warning: options for client certificates have no effect on a listener without certfile and keyfile.",
                ));
            }
            return Ok(None);
        }
        (certfile, _) => {
            let name = if certfile.is_some() { "certfile" } else { "keyfile" };
            let error = "Error: Both certfile and keyfile must be provided to enable a TLS listener.";
            return Err(values.at(name, ConfigError::new(error)));
        }
    };
    if !require_certificate && (use_identity_as_username || use_subject_as_username) {
        notes.push(Note::warning(
            "Warning: use_identity_as_username and use_subject_as_username need require_certificate true: without it no client \
             is asked for a certificate, and none gets in.",
        ));
    }
    Ok(Some(TlsSettings {
        certfile,
        keyfile,
        cafile,
        capath,
        crlfile: values.path("crlfile")?,
        require_certificate,
        min_version,
        ciphers: values.string("ciphers")?,
        ciphers_tls13: values.string("ciphers_tls1.3")?,
        use_identity_as_username,
        use_subject_as_username,
        disable_client_cert_date_checks: no_date_checks,
    }))
}
