//! The `cluster_` lines.
use super::super::settings::ANY_ADDRESS;
use super::super::values::{self, Values, invalid};
use super::super::{ClusterLinks, ClusterSettings, ClusterTls, ConfigError, HostPort, Note};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// Name of the admin socket in the folder of the data.
const ADMIN_SOCKET: &str = "mosquorum.sock";
/// Bytes of a node name.
const NAME_BYTES_MAX: usize = 255;

pub(super) fn build(values: Values<'_>, persistence_location: &Path) -> Result<ClusterSettings, ConfigError> {
    let links = links(values)?;
    let name = values.last("cluster_name", |text| {
        let name = values::string("cluster_name", text)?;
        if name.len() > NAME_BYTES_MAX || name.contains(char::is_whitespace) {
            return Err(invalid("cluster_name", &name, "at most 255 bytes without blanks"));
        }
        Ok(name)
    })?;
    let timeout = values.value("cluster_commit_timeout", |text| {
        let seconds = values::number("cluster_commit_timeout", text)?;
        u64::try_from(seconds)
            .ok()
            .filter(|seconds| (1..=3600).contains(seconds))
            .ok_or_else(|| invalid("cluster_commit_timeout", &seconds.to_string(), "1 to 3600 seconds"))
    })?;
    let admin_socket = values.path("cluster_admin_socket")?;
    let advertised = links.as_ref().map(|links| links.advertise.host.clone());
    Ok(ClusterSettings {
        name: name.or(advertised).unwrap_or_else(host_name),
        commit_timeout: Duration::from_secs(timeout),
        admin_socket: admin_socket.or_else(|| links.is_some().then(|| persistence_location.join(ADMIN_SOCKET))),
        links,
    })
}

/// What an operator should know of an accepted configuration.
pub(super) fn notes(cluster: &ClusterSettings) -> Vec<Note> {
    let mut notes = Vec::new();
    let Some(links) = &cluster.links else { return notes };
    if links.tls.is_none() {
        notes.push(Note::warning(
            "Warning: cluster_insecure: whoever reaches the cluster_listener can join this cluster, read and change \
             everything in it, and listen to what its nodes say. Use it in closed networks only.",
        ));
    }
    let alone = links.peers.iter().all(|peer| *peer == links.advertise);
    match (alone, links.new) {
        (true, true) => notes.push(Note::notice(format!(
            "cluster_new: with an empty data directory this node forms a cluster of its own, as {}.",
            links.advertise
        ))),
        (true, false) => notes.push(Note::notice(format!(
            "No other cluster_peer is listed: with an empty data directory this node waits for 'mosquorum cluster add {} \
             {}' on a member of a cluster; 'cluster_new true' lets it form one of its own.",
            cluster.name, links.advertise
        ))),
        _ => {}
    }
    notes
}

fn links(values: Values<'_>) -> Result<Option<ClusterLinks>, ConfigError> {
    const LISTENER: &str = "cluster_listener";
    let listener = values.last(LISTENER, |text| {
        let (port, address) = values::port_and_word(LISTENER, text)?;
        let port = u16::try_from(port)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| invalid(LISTENER, &port.to_string(), "a port from 1 to 65535"))?;
        let bind = address
            .filter(|address| *address != ANY_ADDRESS)
            .map(|address| {
                address.parse::<IpAddr>().map_err(|_| invalid(LISTENER, address, "an IP address after the port"))
            })
            .transpose()?;
        Ok((port, bind))
    })?;
    let Some((port, bind)) = listener else {
        for name in [
            "cluster_advertise",
            "cluster_allow",
            "cluster_cafile",
            "cluster_certfile",
            "cluster_crlfile",
            "cluster_keyfile",
            "cluster_new",
            "cluster_peer",
        ] {
            if values.has(name) {
                let error = format!("Error: The '{name}' option requires a cluster_listener.");
                return Err(values.at(name, ConfigError::new(error)));
            }
        }
        return Ok(None);
    };
    let advertise = values.last("cluster_advertise", |text| host_port("cluster_advertise", text))?;
    let mut peers = Vec::new();
    for peer in values.all("cluster_peer", |text| host_port("cluster_peer", text))? {
        if !peers.contains(&peer) {
            peers.push(peer);
        }
    }
    let allow = values.all("cluster_allow", |text| {
        let pattern = values::word("cluster_allow", text)?;
        if pattern.contains(':') || pattern.len() > NAME_BYTES_MAX {
            return Err(invalid("cluster_allow", pattern, "a name without a port, where * stands for any characters"));
        }
        Ok(pattern.to_owned())
    })?;
    Ok(Some(ClusterLinks {
        allow,
        new: values.is_on("cluster_new")?,
        port,
        bind,
        advertise: advertise.unwrap_or_else(|| HostPort { host: host_name(), port }),
        peers,
        tls: tls(values)?,
    }))
}

fn host_port(name: &str, text: &str) -> Result<HostPort, ConfigError> {
    let word = values::word(name, text)?;
    word.parse().map_err(|_| invalid(name, word, "HOST:PORT, with an IPv6 address in brackets"))
}

fn tls(values: Values<'_>) -> Result<Option<ClusterTls>, ConfigError> {
    let insecure = values.is_on("cluster_insecure")?;
    let cafile = values.path("cluster_cafile")?;
    let certfile = values.path("cluster_certfile")?;
    let keyfile = values.path("cluster_keyfile")?;
    let crlfile = values.path("cluster_crlfile")?;
    match (cafile, certfile, keyfile) {
        (Some(cafile), Some(certfile), Some(keyfile)) if !insecure => {
            Ok(Some(ClusterTls { cafile, certfile, keyfile, crlfile }))
        }
        (None, None, None) if insecure && crlfile.is_none() => Ok(None),
        _ if insecure => Err(values.at(
            "cluster_insecure",
            ConfigError::new(
                "Error: cluster_insecure cannot be used with cluster_cafile, cluster_certfile, cluster_keyfile or cluster_crlfile.",
            ),
        )),
        _ => Err(values.at(
            "cluster_listener",
            ConfigError::new(
                "Error: cluster_listener needs cluster_cafile, cluster_certfile and cluster_keyfile, or cluster_insecure true.",
            ),
        )),
    }
}

/// This machine's name; `localhost` if it has none.
pub(super) fn host_name() -> String {
    match rustix::system::uname().nodename().to_str() {
        Ok(name) if !name.is_empty() && name != "(none)" => name.to_owned(),
        _ => "localhost".to_owned(),
    }
}
