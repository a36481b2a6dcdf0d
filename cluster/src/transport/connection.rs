//! One connection, plain or TLS, direct or through a neighbour, and who is at its other end.
use super::{Transport, peer_certificate::PeerCertificate, peer_stream::PeerStream};
use std::{
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;
use tonic::transport::server::Connected;

pub(crate) struct Connection {
    stream: Stream,
    identity: PeerCertificate,
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
    Plain(PeerStream),
    Tls(Box<TlsStream<PeerStream>>),
}

impl Connection {
    pub(crate) fn plain(stream: PeerStream) -> Self {
        Self { stream: Stream::Plain(stream), identity: PeerCertificate::default(), watch: None }
    }

    pub(super) fn client(
        stream: tokio_rustls::client::TlsStream<PeerStream>,
        transport: &Transport,
        address: &str,
    ) -> Self {
        Self::tls(TlsStream::Client(stream), transport, Some(address.to_owned()))
    }

    pub(super) fn server(stream: tokio_rustls::server::TlsStream<PeerStream>, transport: &Transport) -> Self {
        Self::tls(TlsStream::Server(stream), transport, None)
    }

    fn tls(stream: TlsStream<PeerStream>, transport: &Transport, address: Option<String>) -> Self {
        let (_, session) = stream.get_ref();
        let certificate =
            session.peer_certificates().and_then(|all| all.first()).map(|first| Arc::new(first.clone().into_owned()));
        let identity = PeerCertificate { certificate };
        let judged = transport.lists_version();
        let watch = Watch { transport: transport.this.clone(), address, answered: false, judged };
        Self { stream: Stream::Tls(Box::new(stream)), identity, watch: Some(watch) }
    }
}

impl Watch {
    /// Whether the other end's certificate was revoked meanwhile.
    fn judge(&mut self, identity: &PeerCertificate) -> io::Result<()> {
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
    type ConnectInfo = PeerCertificate;

    fn connect_info(&self) -> PeerCertificate {
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
