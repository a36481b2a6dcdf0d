//! From an address to a byte stream: name, TCP, TLS. Each attempt resolves the name anew and reads the files anew.
use crate::{
    carrier::tls::client_config,
    config::{BridgeConfig, RemoteAddress},
    stream::Stream,
};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::{TcpSocket, TcpStream, lookup_host};

/// Name, TCP and TLS together.
const TIMEOUT: Duration = Duration::from_secs(20);
/// TCP to one of several addresses of a name: the others get their turn.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// # Errors
/// Why not, for the operator.
pub(super) async fn dial(config: &BridgeConfig, address: &RemoteAddress) -> Result<Stream, String> {
    match tokio::time::timeout(TIMEOUT, connect(config, address)).await {
        Ok(result) => result,
        Err(_) => Err(format!("{address} does not answer")),
    }
}

async fn connect(config: &BridgeConfig, address: &RemoteAddress) -> Result<Stream, String> {
    let found = lookup_host((address.host.as_str(), address.port)).await;
    let found = found.map_err(|error| format!("the name {} cannot be resolved: {error}", address.host))?;
    let mut failed = format!("the name {} has no address", address.host);
    let mut found = found.peekable();
    while let Some(place) = found.next() {
        let timeout = if found.peek().is_some() { ADDRESS_TIMEOUT } else { TIMEOUT };
        let opened = tokio::time::timeout(timeout, open(config, place)).await;
        match opened.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
            Ok(stream) => return secure(config, address, stream).await,
            Err(error) => failed = format!("cannot connect to {address}: {error}"),
        }
    }
    Err(failed)
}

async fn open(config: &BridgeConfig, place: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if place.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(host) = &config.bind_address {
        let mut own = lookup_host((host.as_str(), 0)).await?;
        let usable = own.find(|own| own.is_ipv4() == place.is_ipv4());
        let none = || std::io::Error::other(format!("bridge_bind_address {host} has no address of this kind"));
        socket.bind(usable.ok_or_else(none)?)?;
    }
    let options = SockRef::from(&socket);
    if let Some(keepalive) = config.tcp_keepalive {
        let probes = TcpKeepalive::new().with_time(keepalive.idle).with_interval(keepalive.interval);
        options.set_tcp_keepalive(&probes.with_retries(keepalive.count))?;
    }
    if let Some(timeout) = config.tcp_user_timeout {
        options.set_tcp_user_timeout(Some(timeout))?;
    }
    socket.set_nodelay(true)?;
    socket.connect(place).await
}

async fn secure(config: &BridgeConfig, address: &RemoteAddress, stream: TcpStream) -> Result<Stream, String> {
    let Some(tls) = &config.tls else { return Ok(Stream::Tcp(stream)) };
    let name = ServerName::try_from(address.host.clone())
        .map_err(|_| format!("{} is no name that a certificate can have", address.host))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(tls)?));
    let secured = connector.connect(name, stream).await;
    let secured = secured.map_err(|error| format!("TLS with {address} failed: {error}"))?;
    Ok(Stream::Other(Box::new(secured)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TcpKeepAlive;
    use mosquorum_bridge::{BridgeSettings, ReloadType, RestartTimeout, StartType, Topics};
    use mosquorum_proto::mqtt::{ProtocolVersion, Utf8};

    fn config() -> BridgeConfig {
        let settings = BridgeSettings {
            name: "b".into(),
            topics: Topics::default(),
            version: ProtocolVersion::V311,
            remote_client_id: Utf8::from("b"),
            remote_username: None,
            local_client_id: Utf8::from("local.b"),
            local_username: None,
            clean_session: false,
            local_clean_session: false,
            notification_topic: None,
            notifications_local_only: false,
            keep_alive_seconds: 60,
            try_private: true,
            loop_mark: false,
            attempt_unsubscribe: true,
            outgoing_retain: true,
            max_packet_size: 0,
            max_topic_alias: 10,
            receive_maximum: None,
            session_expiry_seconds: 0,
            start_type: StartType::Automatic,
            restart_timeout: RestartTimeout::Constant(Duration::from_secs(5)),
            reload_type: ReloadType::Lazy,
            round_robin: false,
        };
        BridgeConfig {
            settings: Arc::new(settings),
            addresses: Vec::new(),
            bind_address: Some("127.0.0.9".into()),
            tcp_keepalive: Some(TcpKeepAlive {
                idle: Duration::from_secs(7),
                interval: Duration::from_secs(3),
                count: 4,
            }),
            tcp_user_timeout: Some(Duration::from_millis(2500)),
            tls: None,
            password: None,
            password_file: None,
        }
    }

    #[tokio::test]
    async fn the_socket_has_the_address_and_the_probes_that_were_asked_for() {
        let remote = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = open(&config(), remote.local_addr().unwrap()).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip().to_string(), "127.0.0.9");
        let options = SockRef::from(&stream);
        assert!(options.keepalive().unwrap() && stream.nodelay().unwrap());
        assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        assert_eq!(options.tcp_keepalive_interval().unwrap(), Duration::from_secs(3));
        assert_eq!(options.tcp_keepalive_retries().unwrap(), 4);
        assert_eq!(options.tcp_user_timeout().unwrap(), Some(Duration::from_millis(2500)));
        let mut config = config();
        config.bind_address = Some("::1".into());
        let error = open(&config, remote.local_addr().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("bridge_bind_address ::1"), "{error}");
    }
}
