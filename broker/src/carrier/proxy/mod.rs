//! The PROXY header that a load balancer puts in front of a connection (versions 1 and 2).
//! Always true: not a byte beyond the header is read; no more than [`v1::LINE_MAX`] or [`v2::BODY_MAX`] bytes are kept;
//! what the header says about the client is believed, so such a listener must be reachable by the balancer alone.
mod v1;
mod v2;

use crate::{
    config::{ProxyRules, ProxyVersion},
    listener::Peer,
    logging::lines::{self, Disconnected},
};
use mosquorum_proto::mqtt::Utf8;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What a header says of the client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// Address and port; `None` for `UNKNOWN`: those of the connection itself.
    pub client: Option<(String, u16)>,
    pub tls: Option<TlsFacts>,
}

/// How the client reached the balancer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFacts {
    pub version: Option<String>,
    pub cipher: Option<String>,
    /// From the client's certificate.
    pub common_name: Option<String>,
    /// The client showed a certificate in this session and the balancer found it good.
    pub has_certificate: bool,
}

/// The header is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupt;

/// Reads the header, checks it, and makes `peer` the client. The user name from the certificate is returned on listeners
/// that want it: `Some(None)` if there is none.
/// # Errors
/// Why the connection ends; what the operator should read is in the log already, if it says so.
pub async fn receive<S: AsyncRead + Unpin>(
    stream: &mut S,
    rules: ProxyRules,
    peer: &mut Peer,
) -> Result<Option<Option<Utf8>>, Disconnected> {
    let header = match rules.version {
        ProxyVersion::V1 => read_v1(stream).await?,
        ProxyVersion::V2 => read_v2(stream, peer).await?,
    };
    if let Some((address, port)) = header.client {
        *peer = Peer { address, port };
    }
    if rules.version == ProxyVersion::V1 {
        return Ok(None);
    }
    let rejected = |why: &str| {
        lines::proxy_rejected(&peer.address, peer.port, why);
        Disconnected::AlreadyReported
    };
    if rules.require_tls && header.tls.is_none() {
        return Err(rejected("client did not connect using TLS"));
    }
    if rules.require_certificate && !header.tls.as_ref().is_some_and(|tls| tls.has_certificate) {
        return Err(rejected("client did not provide a certificate"));
    }
    let tls = header.tls.unwrap_or_default();
    if let (Some(version), Some(cipher)) = (&tls.version, &tls.cipher) {
        lines::proxy_negotiated(&peer.address, peer.port, version, cipher);
    }
    let name = || tls.common_name.filter(|name| !name.is_empty() && !name.chars().any(char::is_control));
    Ok((rules.use_identity_as_username && rules.require_certificate).then(|| name().map(Utf8::from)))
}

async fn read_v1<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Header, Disconnected> {
    let mut bytes = Vec::with_capacity(v1::LINE_MAX);
    // Byte by byte, since what follows belongs to MQTT; it is a line per connection.
    while !bytes.ends_with(b"\r\n") && bytes.len() < v1::LINE_MAX && v1::may_become_one(&bytes) {
        bytes.push(stream.read_u8().await.map_err(|_| Disconnected::ClosedByClient)?);
    }
    v1::line(&bytes).map_err(|Corrupt| {
        lines::proxy_corrupt();
        Disconnected::AlreadyReported
    })
}

async fn read_v2<S: AsyncRead + Unpin>(stream: &mut S, peer: &mut Peer) -> Result<Header, Disconnected> {
    let mut start = [0; v2::START];
    stream.read_exact(&mut start).await.map_err(|_| Disconnected::ClosedByClient)?;
    let start = v2::Start::parse(&start).map_err(|Corrupt| Disconnected::Io("corrupt PROXY header".to_owned()))?;
    let mut body = vec![0; start.body_bytes()];
    stream.read_exact(&mut body).await.map_err(|_| Disconnected::ClosedByClient)?;
    if start.is_local() {
        // The balancer looks whether we are there.
        return Err(Disconnected::AlreadyReported);
    }
    v2::body(start, &body).map_err(|client| {
        if let Some((address, port)) = client {
            *peer = Peer { address, port };
        }
        lines::proxy_rejected(&peer.address, peer.port, "corrupt PROXY header");
        Disconnected::AlreadyReported
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn received(bytes: &[u8], rules: ProxyRules) -> (Result<Option<Option<Utf8>>, Disconnected>, Peer, Vec<u8>) {
        let mut peer = Peer { address: "10.0.0.1".to_owned(), port: 9 };
        let mut stream = bytes;
        let result = receive(&mut stream, rules, &mut peer).await;
        (result, peer, stream.to_vec())
    }

    fn rules(version: ProxyVersion) -> ProxyRules {
        ProxyRules { version, require_tls: false, require_certificate: false, use_identity_as_username: false }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    const FROM: &[u8] = &[192, 0, 2, 5, 0, 0, 0, 0, 0x18, 0x83, 0, 0];

    #[tokio::test]
    async fn what_follows_the_header_is_left_for_mqtt() {
        let (result, peer, rest) =
            received(b"PROXY TCP4 192.0.2.5 127.0.0.1 6275 1234\r\n\x10", rules(ProxyVersion::V1)).await;
        assert_eq!((result, peer.address.as_str(), peer.port), (Ok(None), "192.0.2.5", 6275));
        assert_eq!(rest, b"\x10");
        let (result, peer, rest) = received(b"PROXY UNKNOWN anything\r\nx", rules(ProxyVersion::V1)).await;
        assert_eq!((result, peer.address.as_str(), rest.as_slice()), (Ok(None), "10.0.0.1", b"x".as_slice()));
        let (result, peer, rest) =
            received(&[&v2(1, 0x11, FROM), b"x".as_slice()].concat(), rules(ProxyVersion::V2)).await;
        assert_eq!((result, peer.address.as_str(), peer.port), (Ok(None), "192.0.2.5", 6275));
        assert_eq!(rest, b"x");
    }

    #[tokio::test]
    async fn a_certificate_that_the_balancer_saw_names_the_user() {
        let rules = ProxyRules {
            version: ProxyVersion::V2,
            require_tls: true,
            require_certificate: true,
            use_identity_as_username: true,
        };
        let tls = |flags: u8, name: &[u8]| {
            let mut tlv = vec![flags, 0, 0, 0, 0];
            if !name.is_empty() {
                tlv.extend([0x22, 0, name.len() as u8]);
                tlv.extend(name);
            }
            [FROM, &[0x20, 0, tlv.len() as u8], &tlv].concat()
        };
        let name = |bytes: Vec<u8>| async move { received(&v2(1, 0x11, &bytes), rules).await.0 };
        assert_eq!(name(tls(5, b"somebody")).await, Ok(Some(Some(Utf8::from("somebody")))));
        assert_eq!(name(tls(5, b"")).await, Ok(Some(None)));
        assert_eq!(name(tls(1, b"somebody")).await, Err(Disconnected::AlreadyReported));
        assert_eq!(name(FROM.to_vec()).await, Err(Disconnected::AlreadyReported));
    }

    #[tokio::test]
    async fn a_look_from_the_balancer_ends_without_a_word() {
        let (result, ..) = received(&v2(0, 0, b""), rules(ProxyVersion::V2)).await;
        assert_eq!(result, Err(Disconnected::AlreadyReported));
    }
}
