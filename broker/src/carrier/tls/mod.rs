//! TLS of listeners, and towards the remotes of bridges (`client`): loading, the handshake, what it shows of the client.
//! Always true: a reload replaces the whole configuration of a listener or nothing; it touches new connections only.
//!
//! Not possible with rustls: the curve P-521 (`curves`), pre-shared keys, TLS 1.1 and older, encrypted key files, OpenSSL engines.
mod ciphers;
mod client;
mod curves;
mod expiry;
mod identity;
mod keylog;
mod load;
mod verify;

pub use client::{client_config, os_authorities};
pub use curves::check as check_curves;
pub(crate) use expiry::expiry;
pub use identity::CertificateIdentity;
pub use keylog::log_keys_to;
pub use load::TlsFileError;

use super::prepared::Prepared;
use crate::{
    config::{Settings, TlsSettings},
    logging::lines::Disconnected,
    stream::Stream,
};
use arc_swap::ArcSwapOption;
use rustls::{ProtocolVersion, ServerConfig, server::ServerConnection};
use std::{io, sync::Arc};

/// What a listener accepts TLS connections with.
pub struct Acceptor {
    config: Arc<ServerConfig>,
    settings: TlsSettings,
    /// When the first certificate of the chain ends, in seconds since 1970.
    expires: Option<u64>,
}

/// The acceptors of all listeners, in the order of `Settings::listeners`; `None` where there is no TLS.
pub struct TlsSet(Vec<Option<Arc<Acceptor>>>);

/// The acceptor that new connections of one listener meet.
#[derive(Default)]
pub struct TlsAcceptorSlot(ArcSwapOption<Acceptor>);

/// What was agreed on, in OpenSSL's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    pub version: &'static str,
    pub cipher: &'static str,
}

/// A handshake that failed.
#[derive(Debug)]
pub(super) struct HandshakeError {
    pub why: Disconnected,
    /// What came first was not TLS.
    pub is_plain: bool,
}

impl TlsSet {
    /// Reads and checks the files of every listener.
    /// # Errors
    /// The first file that cannot be used. At a reload: keep the old set.
    pub fn load(settings: &Settings) -> Result<Self, TlsFileError> {
        let acceptors = settings.listeners.iter().map(|listener| {
            let tls = listener.tls.as_ref().map(Acceptor::load).transpose()?;
            Ok(tls.map(Arc::new))
        });
        Ok(Self(acceptors.collect::<Result<_, TlsFileError>>()?))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Option<Arc<Acceptor>>> {
        self.0.iter()
    }
}

impl TlsAcceptorSlot {
    pub fn new(acceptor: Option<Arc<Acceptor>>) -> Self {
        Self(ArcSwapOption::new(acceptor))
    }

    pub fn replace(&self, acceptor: Option<Arc<Acceptor>>) {
        self.0.store(acceptor);
    }

    /// When the certificate in use ends, in seconds since 1970.
    pub fn expires(&self) -> Option<u64> {
        self.0.load().as_ref()?.expires
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.load().is_none()
    }

    pub(super) fn acceptor(&self) -> Option<Arc<Acceptor>> {
        self.0.load_full()
    }
}

impl Acceptor {
    fn load(settings: &TlsSettings) -> Result<Self, TlsFileError> {
        let config = Arc::new(load::server_config(settings)?);
        Ok(Self { config, settings: settings.clone(), expires: expiry(&settings.certfile) })
    }

    pub(super) async fn accept(&self, stream: Stream) -> Result<Prepared, HandshakeError> {
        let acceptor = tokio_rustls::TlsAcceptor::from(self.config.clone());
        let stream = acceptor.accept(stream).await.map_err(|error| describe(&error))?;
        let (_, connection) = stream.get_ref();
        let identity = CertificateIdentity::of(&self.settings, connection.peer_certificates());
        let tls = Some(negotiated(connection));
        Ok(Prepared { identity, tls, ..Prepared::plain(Stream::Other(Box::new(stream))) })
    }
}

fn negotiated(connection: &ServerConnection) -> Negotiated {
    Negotiated {
        version: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        },
        cipher: connection.negotiated_cipher_suite().map_or("unknown", |suite| ciphers::openssl_name(suite.suite())),
    }
}

/// Says "certificate verify failed", as OpenSSL does, where that is the reason.
fn describe(error: &io::Error) -> HandshakeError {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let is_plain = matches!(cause, Some(rustls::Error::InvalidMessage(_)));
    let why = match cause {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(why))) => {
            Disconnected::Io(format!("TLS certificate verify failed: {why}"))
        }
        Some(rustls::Error::InvalidCertificate(why)) => {
            Disconnected::Io(format!("TLS certificate verify failed: {why}"))
        }
        Some(rustls::Error::NoCertificatesPresented) => {
            Disconnected::Io("TLS peer did not return a certificate".to_owned())
        }
        Some(rustls::Error::AlertReceived(alert)) => Disconnected::Io(format!("TLS refused by client: {alert:?}")),
        Some(cause) => Disconnected::Io(format!("TLS handshake failed: {cause}")),
        None if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            Disconnected::ClosedByClient
        }
        None => Disconnected::Io(error.to_string()),
    };
    HandshakeError { why, is_plain }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
