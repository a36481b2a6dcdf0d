//! What a listener's handshakes have made of a connection.
use super::tls::{CertificateIdentity, Negotiated};
use crate::stream::Stream;
use std::time::Instant;

/// First byte of a TLS handshake; as MQTT it would be a CONNECT with flags that do not exist.
pub const TLS_HANDSHAKE: u8 = 0x16;

/// A stream that carries MQTT, and what its making has shown.
pub struct Prepared {
    pub stream: Stream,
    /// Only on listeners that take the user name from the client's certificate.
    pub identity: Option<CertificateIdentity>,
    pub tls: Option<Negotiated>,
    /// When the connection was accepted: its handshakes and CONNECT share one limit.
    pub since: Instant,
}

impl Prepared {
    /// Nothing but a stream, as of now.
    #[must_use]
    pub fn plain(stream: Stream) -> Self {
        Self { stream, identity: None, tls: None, since: Instant::now() }
    }
}

/// What a connection has become.
pub enum Carried {
    /// MQTT or requests of the HTTP API come next.
    Ready(Prepared),
    /// A client of WebSockets asks for a file of `http_dir`, by this request.
    File { stream: Stream, head: Vec<u8> },
}
