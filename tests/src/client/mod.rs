//! An MQTT client that a test controls to the byte: any packet or bytes out, the next packet in.
//! Always true: every wait has an end; waiting for a packet can be given up without losing bytes.
//! Not here: sessions over many connections (`publisher`, `subscriber`).
use bytes::BytesMut;
use mosquorum_proto::mqtt::{
    Ack, ConnAck, Connect, DecodeError, Decoder, Disconnect, Packet, PacketId, ProtocolVersion, Publish, QoS,
    ReasonCode, Sender, SubAck, Subscribe, Subscription, TopicFilter, TopicName, Unsubscribe, encode,
};
use std::{collections::VecDeque, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub mod publisher;
pub mod session;
pub mod subscriber;

/// How long a test waits for something that must come. Long, since machines that run tests are slow; nothing waits that
/// long when all is well.
pub const TIMEOUT: Duration = Duration::from_secs(20);

const PACKET_SIZE_MAX: u32 = 268_435_460;

#[derive(Debug)]
pub enum ClientError {
    Io(std::io::Error),
    Decode(DecodeError),
    /// The broker closed the connection.
    Closed,
    /// Nothing came in time; what was waited for.
    Timeout(&'static str),
    /// CONNACK with an error.
    Refused(ReasonCode),
    Unexpected {
        wanted: &'static str,
        got: Box<Packet>,
    },
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Decode(error) => write!(f, "the broker sent a malformed packet: {error}"),
            Self::Closed => f.write_str("the broker closed the connection"),
            Self::Timeout(what) => write!(f, "{what} did not come"),
            Self::Refused(reason) => write!(f, "CONNACK {reason:?}"),
            Self::Unexpected { wanted, got } => write!(f, "{wanted} expected, got {got:?}"),
        }
    }
}
impl std::error::Error for ClientError {}
impl From<std::io::Error> for ClientError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

pub type Result<T> = std::result::Result<T, ClientError>;

/// One network connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    version: ProtocolVersion,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
    waiting: VecDeque<Packet>,
    packet_id: PacketId,
    /// Longest wait for a packet, and for room to write.
    pub timeout: Duration,
}

impl Connection {
    /// A TCP connection without any packet yet.
    /// # Errors
    /// When it cannot be made within the timeout given.
    pub async fn open(address: SocketAddr, version: ProtocolVersion, timeout: Duration) -> Result<Self> {
        let stream = tokio::time::timeout(timeout, TcpStream::connect(address))
            .await
            .map_err(|_| ClientError::Timeout("a TCP connection"))??;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream, version, Decoder::for_client(version, PACKET_SIZE_MAX), timeout))
    }

    /// The server's end of a connection that was accepted: CONNECT is read, its answer is the test's.
    /// # Errors
    /// When no CONNECT comes.
    pub async fn serve(stream: TcpStream) -> Result<(Self, Connect)> {
        stream.set_nodelay(true)?;
        // A test may have its client send PINGREQ.
        let decoder = Decoder { sender: Sender::Any, ..Decoder::for_server(PACKET_SIZE_MAX) };
        let mut connection = Self::over(stream, ProtocolVersion::V5, decoder, TIMEOUT);
        match connection.recv().await? {
            Packet::Connect(connect) => {
                connection.version = connect.version;
                Ok((connection, *connect))
            }
            got => Err(unexpected("CONNECT", got)),
        }
    }

    fn over(stream: TcpStream, version: ProtocolVersion, decoder: Decoder, timeout: Duration) -> Self {
        Self {
            stream,
            version,
            decoder,
            input: BytesMut::with_capacity(16 * 1024),
            output: BytesMut::new(),
            waiting: VecDeque::new(),
            packet_id: 0,
            timeout,
        }
    }

    /// Connects and sends CONNECT; returns whatever CONNACK comes, good or bad.
    /// # Errors
    /// When no CONNACK comes.
    pub async fn connect(address: SocketAddr, connect: Connect) -> Result<(Self, ConnAck)> {
        Self::connect_within(address, connect, TIMEOUT).await
    }

    /// As [`Self::connect`], with another timeout for this connection.
    /// # Errors
    /// When no CONNACK comes.
    pub async fn connect_within(address: SocketAddr, connect: Connect, timeout: Duration) -> Result<(Self, ConnAck)> {
        let mut connection = Self::open(address, connect.version, timeout).await?;
        connection.send(&Packet::Connect(Box::new(connect))).await?;
        match connection.recv().await? {
            Packet::ConnAck(connack) => Ok((connection, *connack)),
            got => Err(unexpected("CONNACK", got)),
        }
    }

    /// As [`Self::connect`], for tests that need success: other answers are errors.
    /// # Errors
    /// [`ClientError::Refused`] and those of [`Self::connect`].
    pub async fn connected(address: SocketAddr, connect: Connect) -> Result<(Self, ConnAck)> {
        let (connection, connack) = Self::connect(address, connect).await?;
        if connack.reason == ReasonCode::Success {
            Ok((connection, connack))
        } else {
            Err(ClientError::Refused(connack.reason))
        }
    }

    #[must_use]
    pub fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// The address that this end has.
    /// # Errors
    /// Those of the socket.
    pub fn local_address(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// The next free Packet Identifier; tests never have 65,535 under way.
    pub fn next_packet_id(&mut self) -> PacketId {
        self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
        self.packet_id
    }

    /// Sends one packet.
    /// # Errors
    /// When the connection broke or does not take bytes any more.
    pub async fn send(&mut self, packet: &Packet) -> Result<()> {
        self.queue(packet);
        self.flush().await
    }

    /// Keeps a packet for the next [`Self::flush`].
    pub fn queue(&mut self, packet: &Packet) {
        encode(packet, self.version, &mut self.output);
    }

    /// Sends what was queued, in one write where possible.
    /// # Errors
    /// When the connection broke or does not take bytes any more.
    pub async fn flush(&mut self) -> Result<()> {
        let bytes = self.output.split();
        if bytes.is_empty() { Ok(()) } else { self.send_raw(&bytes).await }
    }

    /// Sends bytes as they are.
    /// # Errors
    /// When the connection broke or does not take bytes any more.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        timeout(self.timeout, self.stream.write_all(bytes))
            .await
            .map_err(|_| ClientError::Timeout("room to write"))??;
        Ok(())
    }

    /// Sends what was queued and nothing any more; packets may still come.
    /// # Errors
    /// When the connection broke or does not take bytes any more.
    pub async fn close_sending(&mut self) -> Result<()> {
        self.flush().await?;
        Ok(self.stream.shutdown().await?)
    }

    /// The next packet.
    /// # Errors
    /// When the connection ends, nothing comes in time or it is malformed.
    pub async fn recv(&mut self) -> Result<Packet> {
        timeout(self.timeout, self.recv_forever()).await.unwrap_or(Err(ClientError::Timeout("a packet")))
    }

    /// The next packet if one comes within `wait`.
    /// # Errors
    /// When the connection ends or a packet is malformed.
    pub async fn recv_within(&mut self, wait: Duration) -> Result<Option<Packet>> {
        timeout(wait, self.recv_forever()).await.map_or(Ok(None), |packet| packet.map(Some))
    }

    /// The next packet, whenever it comes. May be dropped while it waits.
    /// # Errors
    /// When the connection ends or a packet is malformed.
    pub async fn recv_forever(&mut self) -> Result<Packet> {
        loop {
            if let Some(packet) = self.buffered()? {
                return Ok(packet);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(ClientError::Closed);
            }
        }
    }

    /// The next packet that has come already.
    /// # Errors
    /// When it is malformed.
    pub fn buffered(&mut self) -> Result<Option<Packet>> {
        match self.waiting.pop_front() {
            Some(packet) => Ok(Some(packet)),
            None => self.decoder.decode(&mut self.input).map_err(ClientError::Decode),
        }
    }

    /// Puts a packet back: the next receive returns it.
    pub fn put_back(&mut self, packet: Packet) {
        self.waiting.push_front(packet);
    }

    /// Raw bytes that came and make no whole packet, and what comes until the end; for tests below the codec.
    /// # Errors
    /// When the broker does not close in time.
    pub async fn recv_until_closed(&mut self) -> Result<BytesMut> {
        let all = async {
            loop {
                match self.stream.read_buf(&mut self.input).await {
                    Ok(0) => return,
                    Ok(_) => {}
                    // A reset is an end too: the broker closed with bytes of ours unread.
                    Err(_) => return,
                }
            }
        };
        timeout(self.timeout, all).await.map_err(|_| ClientError::Timeout("the end of the connection"))?;
        Ok(self.input.split())
    }

    /// The broker closes; before 5.0 without a word, in 5.0 after DISCONNECT, whose reason is returned.
    /// # Errors
    /// When another packet comes, or nothing in time.
    pub async fn expect_closed(&mut self) -> Result<Option<ReasonCode>> {
        let mut reason = None;
        loop {
            match self.recv().await {
                Ok(Packet::Disconnect(disconnect)) if reason.is_none() => reason = Some(disconnect.reason),
                Ok(got) => return Err(unexpected("the end of the connection", got)),
                Err(ClientError::Closed | ClientError::Io(_)) => return Ok(reason),
                Err(error) => return Err(error),
            }
        }
    }

    /// # Errors
    /// When something else comes, or nothing in time.
    pub async fn expect_publish(&mut self) -> Result<Publish> {
        match self.recv().await? {
            Packet::Publish(publish) => Ok(publish),
            got => Err(unexpected("PUBLISH", got)),
        }
    }

    /// # Errors
    /// When something else comes, or nothing in time.
    pub async fn expect_puback(&mut self) -> Result<Ack> {
        match self.recv().await? {
            Packet::PubAck(ack) => Ok(ack),
            got => Err(unexpected("PUBACK", got)),
        }
    }

    /// # Errors
    /// When something else comes, or nothing in time.
    pub async fn expect_pubrec(&mut self) -> Result<Ack> {
        match self.recv().await? {
            Packet::PubRec(ack) => Ok(ack),
            got => Err(unexpected("PUBREC", got)),
        }
    }

    /// # Errors
    /// When something else comes, or nothing in time.
    pub async fn expect_pubrel(&mut self) -> Result<Ack> {
        match self.recv().await? {
            Packet::PubRel(ack) => Ok(ack),
            got => Err(unexpected("PUBREL", got)),
        }
    }

    /// # Errors
    /// When something else comes, or nothing in time.
    pub async fn expect_pubcomp(&mut self) -> Result<Ack> {
        match self.recv().await? {
            Packet::PubComp(ack) => Ok(ack),
            got => Err(unexpected("PUBCOMP", got)),
        }
    }

    /// Sends PINGREQ and requires that nothing but PINGRESP comes: whatever the broker had for this connection on the
    /// same node came before.
    /// # Errors
    /// When anything else comes.
    pub async fn expect_nothing(&mut self) -> Result<()> {
        self.send(&Packet::PingReq).await?;
        match self.recv().await? {
            Packet::PingResp => Ok(()),
            got => Err(unexpected("nothing before PINGRESP", got)),
        }
    }

    /// SUBSCRIBE, and waits for its SUBACK. PUBLISH packets that come before it are kept for later.
    /// # Errors
    /// When no SUBACK comes.
    pub async fn subscribe(&mut self, subscriptions: Vec<Subscription>) -> Result<SubAck> {
        let mut subscribe = Subscribe::new(self.next_packet_id(), subscriptions);
        subscribe.packet_id = self.packet_id;
        self.subscribe_with(subscribe).await
    }

    /// As [`Self::subscribe`] with a packet made by the test.
    /// # Errors
    /// When no SUBACK comes.
    pub async fn subscribe_with(&mut self, subscribe: Subscribe) -> Result<SubAck> {
        let packet_id = subscribe.packet_id;
        self.send(&Packet::Subscribe(subscribe)).await?;
        let mut early = Vec::new();
        loop {
            match self.recv().await? {
                Packet::SubAck(suback) if suback.packet_id == packet_id => {
                    early.into_iter().rev().for_each(|packet| self.put_back(packet));
                    return Ok(suback);
                }
                packet @ Packet::Publish(_) => early.push(packet),
                got => return Err(unexpected("SUBACK", got)),
            }
        }
    }

    /// One filter.
    /// # Errors
    /// When no SUBACK comes or it is not the grant of that QoS.
    pub async fn subscribe_to(&mut self, filter: &str, qos: QoS) -> Result<()> {
        let suback = self.subscribe(vec![Subscription::new(topic_filter(filter), qos)]).await?;
        if suback.reasons == [ReasonCode::granted(qos)] {
            Ok(())
        } else {
            Err(unexpected("the QoS asked for", Packet::SubAck(suback)))
        }
    }

    /// UNSUBSCRIBE, and waits for its UNSUBACK.
    /// # Errors
    /// When no UNSUBACK comes.
    pub async fn unsubscribe(&mut self, filter: &str) -> Result<SubAck> {
        let packet_id = self.next_packet_id();
        self.send(&Packet::Unsubscribe(Unsubscribe::new(packet_id, vec![topic_filter(filter)]))).await?;
        match self.recv().await? {
            Packet::UnsubAck(unsuback) if unsuback.packet_id == packet_id => Ok(unsuback),
            got => Err(unexpected("UNSUBACK", got)),
        }
    }

    /// Publishes and goes through the whole handshake of its QoS; returns the reason of PUBACK or PUBREC.
    /// # Errors
    /// When an acknowledgement does not come.
    pub async fn publish(&mut self, mut publish: Publish) -> Result<ReasonCode> {
        let qos = publish.qos;
        if qos > QoS::AtMostOnce && publish.packet_id == 0 {
            publish.packet_id = self.next_packet_id();
        }
        let packet_id = publish.packet_id;
        self.send(&Packet::Publish(publish)).await?;
        match qos {
            QoS::AtMostOnce => Ok(ReasonCode::Success),
            QoS::AtLeastOnce => Ok(self.expect_puback().await?.reason),
            QoS::ExactlyOnce => {
                let pubrec = self.expect_pubrec().await?;
                if !pubrec.reason.is_error() {
                    self.send(&Packet::PubRel(Ack::new(packet_id))).await?;
                    self.expect_pubcomp().await?;
                }
                Ok(pubrec.reason)
            }
        }
    }

    /// Publishes `count` messages with QoS 1, at most `window` of them unacknowledged at a time; `make` gives the n-th.
    /// # Errors
    /// When an acknowledgement does not come.
    pub async fn publish_many(&mut self, count: u64, window: u64, mut make: impl FnMut(u64) -> Publish) -> Result<()> {
        let (mut sent, mut acknowledged) = (0, 0);
        while acknowledged < count {
            while sent < count && sent - acknowledged < window {
                let mut publish = make(sent);
                publish.packet_id = self.next_packet_id();
                self.queue(&Packet::Publish(publish));
                sent += 1;
            }
            self.flush().await?;
            self.expect_puback().await?;
            acknowledged += 1;
            while let Some(Packet::PubAck(_)) = self.buffered()? {
                acknowledged += 1;
            }
        }
        Ok(())
    }

    /// Receives a PUBLISH and goes through the handshake of its QoS; other PUBLISH packets that come meanwhile are kept.
    /// # Errors
    /// When it does not come, or its PUBREL does not.
    pub async fn receive(&mut self) -> Result<Publish> {
        let publish = self.expect_publish().await?;
        let ack = Ack::new(publish.packet_id);
        match publish.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.send(&Packet::PubAck(ack)).await?,
            QoS::ExactlyOnce => {
                self.send(&Packet::PubRec(ack.clone())).await?;
                self.keep_publishes_until_pubrel(publish.packet_id).await?;
                self.send(&Packet::PubComp(ack)).await?;
            }
        }
        Ok(publish)
    }

    async fn keep_publishes_until_pubrel(&mut self, packet_id: PacketId) -> Result<()> {
        let mut early = Vec::new();
        loop {
            match self.recv().await? {
                Packet::PubRel(ack) if ack.packet_id == packet_id => break,
                packet @ Packet::Publish(_) => early.push(packet),
                got => return Err(unexpected("PUBREL", got)),
            }
        }
        early.into_iter().rev().for_each(|packet| self.put_back(packet));
        Ok(())
    }

    /// DISCONNECT with reason 0, and waits until the broker has closed: what follows finds the session without owner.
    /// # Errors
    /// When the broker does not close.
    pub async fn disconnect(mut self) -> Result<()> {
        self.send(&Packet::Disconnect(Disconnect::new(ReasonCode::Success))).await?;
        self.recv_until_closed().await.map(|_| ())
    }
}

fn unexpected(wanted: &'static str, got: Packet) -> ClientError {
    ClientError::Unexpected { wanted, got: Box::new(got) }
}

/// # Panics
/// When `text` is no topic name: a mistake in the test.
#[must_use]
pub fn topic_name(text: &str) -> TopicName {
    TopicName::try_from(text).expect("the test gives a valid topic name")
}

/// # Panics
/// When `text` is no topic filter: a mistake in the test.
#[must_use]
pub fn topic_filter(text: &str) -> TopicFilter {
    TopicFilter::try_from(text).expect("the test gives a valid topic filter")
}

/// A PUBLISH with a QoS; its packet identifier is given by [`Connection::publish`].
#[must_use]
pub fn message(topic: &str, payload: impl Into<bytes::Bytes>, qos: QoS) -> Publish {
    Publish { qos, ..Publish::new(topic_name(topic), payload) }
}
