//! One connection, plain or TLS, direct or through a neighbour, and who is at its other end.
use super::{Transport, certificates, host_of};
use rustls::{client::verify_server_name, pki_types::CertificateDer, pki_types::ServerName, server::ParsedCertificate};
use std::{
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
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
    watch: Option<Watch>,
}

/// What is noted of a TLS connection while it lasts.
struct Watch {
    transport: Weak<Transport>,
    /// Where we connected to; `None`: they connected to us.
    address: Option<String>,
    /// Something was read: each end has accepted the other.
    answered: bool,
    /// Of the revocation lists by which the other end was judged.
    judged: u64,
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
#[derive(Debug, Clone, Default)]
pub(crate) struct PeerIdentity {
    /// `None`: the cluster runs without TLS.
    certificate: Option<Arc<CertificateDer<'static>>>,
}

impl PeerIdentity {
    /// Whether the certificate is valid for the member of this name or address. Always, without TLS.
    pub(crate) fn speaks_for(&self, name: &str, address: &str) -> bool {
        !self.proven([name, host_of(address)]).is_empty()
    }

    /// Those of the names for which the certificate is valid. All, without TLS.
    pub(crate) fn proven<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let names = names.into_iter().filter(|name| !name.is_empty());
        let Some(certificate) = &self.certificate else { return names.collect() };
        let Ok(parsed) = ParsedCertificate::try_from(certificate.as_ref()) else { return Vec::new() };
        let is_valid =
            |name: &&str| ServerName::try_from(*name).is_ok_and(|wanted| verify_server_name(&parsed, &wanted).is_ok());
        names.filter(is_valid).collect()
    }

    /// Who it is, for a log line.
    pub(crate) fn label(&self) -> String {
        match &self.certificate {
            Some(certificate) => format!("a certificate for {}", certificates::names(certificate)),
            None => "no certificate".into(),
        }
    }
}

impl Connection {
    pub(crate) fn plain(stream: Road) -> Self {
        Self { stream: Stream::Plain(stream), identity: PeerIdentity::default(), watch: None }
    }

    pub(super) fn client(stream: tokio_rustls::client::TlsStream<Road>, transport: &Transport, address: &str) -> Self {
        Self::tls(TlsStream::Client(stream), transport, Some(address.to_owned()))
    }

    pub(super) fn server(stream: tokio_rustls::server::TlsStream<Road>, transport: &Transport) -> Self {
        Self::tls(TlsStream::Server(stream), transport, None)
    }

    fn tls(stream: TlsStream<Road>, transport: &Transport, address: Option<String>) -> Self {
        let (_, session) = stream.get_ref();
        let certificate =
            session.peer_certificates().and_then(|all| all.first()).map(|first| Arc::new(first.clone().into_owned()));
        let identity = PeerIdentity { certificate };
        let judged = transport.lists_version();
        let watch = Watch { transport: transport.this.clone(), address, answered: false, judged };
        Self { stream: Stream::Tls(Box::new(stream)), identity, watch: Some(watch) }
    }
}

impl Watch {
    /// Whether the other end's certificate was revoked meanwhile.
    fn judge(&mut self, identity: &PeerIdentity) -> io::Result<()> {
        let (Some(transport), Some(certificate)) = (self.transport.upgrade(), &identity.certificate) else {
            return Ok(());
        };
        let version = transport.lists_version();
        if self.judged != version {
            self.judged = version;
            if transport.is_revoked(certificate) {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the certificate was revoked"));
            }
        }
        Ok(())
    }

    /// A server says only after its handshake that it does not want our certificate.
    fn note(&mut self, result: &io::Result<()>, bytes: usize) {
        if self.answered {
            return;
        }
        let (Some(transport), Some(address)) = (self.transport.upgrade(), &self.address) else { return };
        match result {
            Ok(()) if bytes > 0 => {
                self.answered = true;
                transport.troubles.works(address);
            }
            Ok(()) => transport.refused(address, "it closes the connection without a word"),
            Err(error) => transport.refused(address, &format!("it refuses this node's certificate ({error})")),
        }
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
        let this = self.get_mut();
        let stream = match &mut this.stream {
            Stream::Plain(stream) => return Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => stream,
        };
        let before = buf.filled().len();
        let result = ready!(Pin::new(stream).poll_read(cx, buf));
        if let Some(watch) = &mut this.watch {
            watch.note(&result, buf.filled().len() - before);
            watch.judge(&this.identity)?;
        }
        Poll::Ready(result)
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
