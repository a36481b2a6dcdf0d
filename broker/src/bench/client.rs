//! One MQTT connection of the load generator.
//! Always true: a read takes everything that came, a write everything that waits; an idle client holds no buffers.
use super::{
    frames::{self, Frame},
    options::Options,
};
use crate::{carrier::tls::client_config, config::HostPort, stream::Stream};
use bytes::BytesMut;
use mosquorum_proto::mqtt::{
    Connect, Decoder, Disconnect, Packet, ProtocolVersion, QoS, ReasonCode, Subscribe, Subscription, TopicFilter, Utf8,
    encode,
};
use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
    time::timeout,
};

const READ_BYTES: usize = 256 << 10;
/// TCP, TLS, CONNACK or SUBACK: each within this time.
const TIMEOUT: Duration = Duration::from_secs(20);

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0} cannot be resolved: {1}")]
    Name(HostPort, io::Error),
    #[error("{0}")]
    Tls(String),
    #[error("{0}")]
    Settings(String),
    #[error("{0}: {1}")]
    Open(SocketAddr, io::Error),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the broker closed the connection")]
    Closed,
    #[error("the broker sent what is no MQTT")]
    Malformed,
    #[error("CONNACK {0:?}")]
    Refused(ReasonCode),
    #[error("the subscription to {0} was refused")]
    NotSubscribed(String),
    #[error("{0} did not come within 20 s")]
    Silent(&'static str),
    #[error("a message was refused with reason code 0x{0:02X}")]
    NotAccepted(u8),
}

pub(super) type Result<T> = std::result::Result<T, Error>;

/// Where brokers are and how they are spoken to; looked up once.
pub(super) struct Target {
    pub version: ProtocolVersion,
    publishers: Vec<Place>,
    subscribers: Vec<Place>,
    tls: Option<tokio_rustls::TlsConnector>,
    user_name: Option<String>,
    password: Option<String>,
}

struct Place {
    address: SocketAddr,
    host: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Publisher,
    Subscriber,
}

/// What the session of a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Clean,
    /// Outlives the connection.
    Durable,
}

impl Target {
    /// # Errors
    /// When a name or a TLS file is no good.
    pub(super) async fn new(options: &Options) -> Result<Self> {
        let tls = match &options.tls {
            None => None,
            Some(settings) => {
                // The option names there are those of bridges.
                let config = client_config(settings).map_err(|text| Error::Tls(text.replace("bridge_", "--")))?;
                Some(tokio_rustls::TlsConnector::from(Arc::new(config)))
            }
        };
        Ok(Self {
            version: options.version,
            publishers: places(&options.addresses).await?,
            subscribers: places(&options.subscriber_addresses).await?,
            tls,
            user_name: options.user_name.clone(),
            password: options.password.clone(),
        })
    }

    fn place(&self, role: Role, index: usize) -> &Place {
        let places = if role == Role::Publisher { &self.publishers } else { &self.subscribers };
        &places[index % places.len()]
    }

    async fn open(&self, place: &Place) -> Result<Stream> {
        let opened = timeout(TIMEOUT, TcpStream::connect(place.address)).await;
        let opened = opened.map_err(|_| Error::Silent("a TCP connection"))?;
        let stream = opened.map_err(|error| Error::Open(place.address, error))?;
        stream.set_nodelay(true)?;
        let Some(connector) = &self.tls else { return Ok(Stream::Tcp(stream)) };
        let name = rustls::pki_types::ServerName::try_from(place.host.clone())
            .map_err(|_| Error::Tls(format!("{} is no name that a certificate can have", place.host)))?;
        let shaken = timeout(TIMEOUT, connector.connect(name, stream)).await;
        let shaken = shaken.map_err(|_| Error::Silent("the TLS handshake"))?;
        Ok(Stream::Other(Box::new(shaken.map_err(|error| Error::Open(place.address, error))?)))
    }

    /// Connects client `index` of a role. The client's second field says whether the broker kept its session.
    /// # Errors
    /// When there is no connection or it is refused.
    pub(super) async fn connect(&self, role: Role, index: usize, name: &str, kind: Kind) -> Result<Client> {
        let stream = self.open(self.place(role, index)).await?;
        let mut connect = Connect::new(self.version, name);
        // Idle clients send no PINGREQ here.
        connect.keep_alive_seconds = 0;
        connect.clean_start = kind == Kind::Clean;
        if self.version == ProtocolVersion::V5 {
            connect.session_expiry_interval = (kind == Kind::Durable).then_some(3600);
            connect.receive_maximum = Some(u16::MAX);
        }
        connect.user_name = self.user_name.as_deref().map(Utf8::from);
        connect.password = self.password.clone().map(Into::into);
        let mut client = Client::new(stream, self.version);
        client.queue(&Packet::Connect(Box::new(connect)));
        let answered = timeout(TIMEOUT, client.connack()).await;
        answered.map_err(|_| Error::Silent("CONNACK"))??;
        Ok(client)
    }

    /// Ends a durable session.
    /// # Errors
    /// Those of [`Self::connect`].
    pub(super) async fn forget(&self, role: Role, index: usize, name: &str) -> Result<()> {
        self.connect(role, index, name, Kind::Clean).await?.disconnect().await
    }
}

async fn places(list: &[HostPort]) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for wanted in list {
        let unknown = |error| Error::Name(wanted.clone(), error);
        let mut found = lookup_host((wanted.host.as_str(), wanted.port)).await.map_err(unknown)?;
        let address = found.next().ok_or_else(|| unknown(io::ErrorKind::NotFound.into()))?;
        places.push(Place { address, host: wanted.host.clone() });
    }
    Ok(places)
}

pub(super) struct Client {
    stream: Stream,
    pub version: ProtocolVersion,
    /// The broker kept the session of an earlier connection.
    pub session_present: bool,
    /// Unacknowledged messages that the broker takes.
    pub receive_maximum: u64,
    /// A frame that has not come whole.
    partial: Vec<u8>,
    pub out: Vec<u8>,
    written: usize,
}

impl Client {
    fn new(stream: Stream, version: ProtocolVersion) -> Self {
        let (partial, out) = (Vec::new(), Vec::new());
        Self { stream, version, session_present: false, receive_maximum: 65_535, partial, out, written: 0 }
    }

    fn queue(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        encode(packet, self.version, &mut bytes);
        self.out.extend_from_slice(&bytes);
    }

    async fn connack(&mut self) -> Result<()> {
        self.flush().await?;
        let mut decoder = Decoder::for_client(self.version, u32::MAX);
        let mut input = BytesMut::new();
        loop {
            use tokio::io::AsyncReadExt;
            if self.stream.read_buf(&mut input).await? == 0 {
                return Err(Error::Closed);
            }
            match decoder.decode(&mut input).map_err(|_| Error::Malformed)? {
                None => {}
                Some(Packet::ConnAck(connack)) if connack.reason.is_error() => {
                    return Err(Error::Refused(connack.reason));
                }
                Some(Packet::ConnAck(connack)) => {
                    self.session_present = connack.session_present;
                    self.receive_maximum = connack.receive_maximum.map_or(65_535, u64::from);
                    self.partial = input.to_vec();
                    return Ok(());
                }
                Some(_) => return Err(Error::Malformed),
            }
        }
    }

    /// Asks for a subscription; the answer is a frame like others.
    pub(super) fn queue_subscribe(&mut self, filter: &str, qos: QoS) -> Result<()> {
        let wrong = |_| Error::NotSubscribed(filter.to_owned());
        let filter = TopicFilter::new(Utf8::from(filter)).map_err(wrong)?;
        self.queue(&Packet::Subscribe(Subscribe::new(1, vec![Subscription::new(filter, qos)])));
        Ok(())
    }

    /// Subscribes and waits for SUBACK; what comes before is ignored.
    /// # Errors
    /// When it is refused or does not come.
    pub(super) async fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<()> {
        self.queue_subscribe(filter, qos)?;
        self.flush().await?;
        let answered = async {
            let mut came = None;
            while came.is_none() {
                let look = |frame: Frame<'_>, _: &mut Vec<u8>| {
                    if let Frame::SubAck(reason) = frame {
                        came = Some(reason);
                    }
                };
                let mut look = look;
                poll_fn(|cx| self.poll_read(cx, &mut look)).await?;
            }
            Ok::<_, Error>(came.unwrap_or(0x80))
        };
        let reason = timeout(TIMEOUT, answered).await.map_err(|_| Error::Silent("SUBACK"))??;
        if reason >= 0x80 { Err(Error::NotSubscribed(filter.to_owned())) } else { Ok(()) }
    }

    /// Reads once and shows every frame that is whole; the second argument takes what is to be answered.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        mut show: impl FnMut(Frame<'_>, &mut Vec<u8>),
    ) -> Poll<Result<()>> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            if self.partial.is_empty() {
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            } else {
                // The beginning is here already: the rest comes behind it, in one piece.
                read.put_slice(&self.partial[..self.partial.len().min(READ_BYTES / 2)]);
                let before = read.filled().len();
                if before < self.partial.len() {
                    return self.poll_read_large(cx, &mut show);
                }
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
                if read.filled().len() == before {
                    return Poll::Ready(Err(Error::Closed));
                }
                self.partial.clear();
            }
            let bytes = read.filled();
            if bytes.is_empty() {
                return Poll::Ready(Err(Error::Closed));
            }
            let used = all_frames(bytes, self.version, &mut self.out, &mut show)?;
            if used < bytes.len() {
                self.partial.extend_from_slice(&bytes[used..]);
            } else {
                self.partial = Vec::new();
            }
            Poll::Ready(Ok(()))
        })
    }

    /// A frame that is larger than the shared buffer.
    fn poll_read_large(
        &mut self,
        cx: &mut Context<'_>,
        show: &mut impl FnMut(Frame<'_>, &mut Vec<u8>),
    ) -> Poll<Result<()>> {
        let before = self.partial.len();
        self.partial.resize(before + READ_BYTES, 0);
        let mut read = ReadBuf::new(&mut self.partial[before..]);
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut read);
        let came = read.filled().len();
        self.partial.truncate(before + came);
        ready!(polled)?;
        if came == 0 {
            return Poll::Ready(Err(Error::Closed));
        }
        let used = all_frames(&self.partial, self.version, &mut self.out, show)?;
        self.partial.drain(..used);
        Poll::Ready(Ok(()))
    }

    /// `Ready` when nothing waits any more.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if self.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.written < self.out.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.written..]))? {
                0 => return Poll::Ready(Err(Error::Closed)),
                n => self.written += n,
            }
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.out.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Bytes that wait for the socket.
    #[must_use]
    pub(super) fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    /// # Errors
    /// When the connection broke.
    pub(super) async fn flush(&mut self) -> Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Gives its buffers back, for one that will be idle.
    pub(super) fn shrink(&mut self) {
        self.out = Vec::new();
        self.partial = Vec::new();
    }

    /// # Errors
    /// When the connection broke before.
    pub(super) async fn disconnect(mut self) -> Result<()> {
        self.queue(&Packet::Disconnect(Disconnect::new(ReasonCode::Success)));
        self.flush().await?;
        self.stream.shut_down().await;
        Ok(())
    }
}

/// Shows every whole frame; how many bytes they were.
fn all_frames(
    bytes: &[u8],
    version: ProtocolVersion,
    out: &mut Vec<u8>,
    show: &mut impl FnMut(Frame<'_>, &mut Vec<u8>),
) -> Result<usize> {
    let mut used = 0;
    while let Some((frame, len)) = frames::next(&bytes[used..], version).map_err(|_| Error::Malformed)? {
        show(frame, out);
        used += len;
    }
    Ok(used)
}
