//! One connection, plain or TLS, direct or through a neighbour, and who is at its other end.
use super::host_of;
use rustls::{client::verify_server_name, pki_types::CertificateDer, pki_types::ServerName, server::ParsedCertificate};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;
use tonic::transport::server::Connected;

pub(crate) struct Connection {
    stream: Stream,
    identity: PeerIdentity,
}

enum Stream {
    Plain(Road),
    Tls(Box<TlsStream<Road>>),
}

/// The way that the bytes of a connection take.
pub(crate) enum Road {
    Direct(TcpStream),
    /// Through a neighbour ([`super::detour`]).
    Tunnel(DuplexStream),
}

/// The other end of an accepted connection.
#[derive(Debug, Clone)]
pub(crate) struct PeerIdentity {
    /// `None`: the cluster runs without TLS.
    certificate: Option<Arc<CertificateDer<'static>>>,
}

impl PeerIdentity {
    /// Whether the certificate is valid for the member of this name or address. Always, without TLS.
    pub(crate) fn speaks_for(&self, name: &str, address: &str) -> bool {
        let Some(certificate) = &self.certificate else { return true };
        let Ok(parsed) = ParsedCertificate::try_from(certificate.as_ref()) else { return false };
        [name, host_of(address)]
            .into_iter()
            .filter_map(|wanted| ServerName::try_from(wanted).ok())
            .any(|wanted| verify_server_name(&parsed, &wanted).is_ok())
    }
}

impl Connection {
    pub(crate) fn plain(stream: Road) -> Self {
        Self { stream: Stream::Plain(stream), identity: PeerIdentity { certificate: None } }
    }

    pub(crate) fn client(stream: tokio_rustls::client::TlsStream<Road>) -> Self {
        Self::tls(TlsStream::Client(stream))
    }

    pub(crate) fn server(stream: tokio_rustls::server::TlsStream<Road>) -> Self {
        Self::tls(TlsStream::Server(stream))
    }

    fn tls(stream: TlsStream<Road>) -> Self {
        let (_, session) = stream.get_ref();
        let certificate =
            session.peer_certificates().and_then(|all| all.first()).map(|first| Arc::new(first.clone().into_owned()));
        let identity = PeerIdentity { certificate };
        Self { stream: Stream::Tls(Box::new(stream)), identity }
    }
}

impl Connected for Connection {
    type ConnectInfo = PeerIdentity;

    fn connect_info(&self) -> PeerIdentity {
        self.identity.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Hands a call on to whichever stream there is.
macro_rules! on_road {
    ($road:expr, $stream:ident => $call:expr) => {
        match $road.get_mut() {
            Road::Direct($stream) => $call,
            Road::Tunnel($stream) => $call,
        }
    };
}

impl AsyncRead for Road {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_road!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Road {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on_road!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_road!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Road::Direct(stream) => stream.is_write_vectored(),
            Road::Tunnel(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_road!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_road!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
