//! The task of one connected client: moves bytes between socket and session.
//! Always true: one task per connection; every packet that a read brought is handled before the flush; one write per
//! wake-up; nothing is written without a valid lease; nothing is read while the session or the socket has enough to do.
use crate::{
    auth::Login,
    broker::Broker,
    listener::Listener,
    live::{Inbox, Order, add, congestion::Listed},
    logging::{lines::Disconnected, packets},
    planted,
    reading::decode,
    session::{
        Session, SessionError,
        env::{Cluster, Output},
    },
    session_env::SessionEnv,
    stream::Stream,
};
use bytes::BytesMut;
use mosquorum_cluster::{ids::Millis, state::Command};
use mosquorum_proto::mqtt::{DecodeError, Decoder, Disconnect, Packet, ProtocolVersion, ReasonCode, encode};
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

const READ_BYTES: usize = 64 << 10;
/// Rounds before other tasks get their turn.
const ROUNDS_MAX: usize = 16;
/// For the client to end a connection that we have closed.
const DRAIN_INPUT: Duration = Duration::from_millis(250);
/// How often waiting for the cluster is looked at.
const TIMEOUT_CHECK: Duration = Duration::from_millis(500);

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
    /// For packets between read and handling: a connection that has none keeps no room for them.
    static SPARE_PACKETS: Cell<Vec<Packet>> = const { Cell::new(Vec::new()) };
}

/// Why a connection ended.
#[derive(Debug)]
pub enum End {
    /// The client closed it, or the network did.
    Closed,
    Io(std::io::Error),
    Decode(DecodeError),
    Session(SessionError),
    KeepAlive,
    /// The cluster did not answer within `cluster_commit_timeout`.
    NoMajority,
    /// The rules have changed: it would not be let in any more.
    NotAuthorized,
    Order(Order),
}

pub struct Connection {
    pub stream: Stream,
    pub broker: Arc<Broker>,
    pub listener: Arc<Listener>,
    pub decoder: Decoder,
    /// Bytes of a packet that has not arrived whole.
    pub partial: BytesMut,
    pub keep_alive: Option<Duration>,
    pub commit_timeout: Duration,
}

/// The connection in service.
pub struct Service {
    io: Connection,
    session: Session,
    side: SessionEnv,
    login: Login,
    inbox: Inbox,
    /// TLS holds bytes that the socket did not take yet.
    unflushed: bool,
    sleep: Pin<Box<Sleep>>,
    last_input: Instant,
    packets: Vec<Packet>,
    /// Found behind packets that are handled first.
    malformed: Option<DecodeError>,
    /// Bytes that came together with CONNECT are looked at before the first read.
    first: bool,
    /// The socket took something since it was last asked.
    wrote: bool,
    /// It is not read for what others send, and is woken when that is over.
    listed: [Option<Listed>; 2],
    /// Of its messages, as the broker counts them for all connections.
    bytes_under_way: u32,
}

impl Service {
    pub fn new(io: Connection, session: Session, side: SessionEnv, login: Login) -> Self {
        let now = Instant::now();
        let first = now + io.keep_alive.unwrap_or(Duration::from_secs(3600));
        Self {
            sleep: Box::pin(tokio::time::sleep_until(first)),
            io,
            session,
            side,
            login,
            inbox: Inbox::default(),
            unflushed: false,
            last_input: now,
            packets: Vec::new(),
            malformed: None,
            first: true,
            wrote: false,
            listed: [None; 2],
            bytes_under_way: 0,
        }
    }

    /// Runs until the connection ends; then sends DISCONNECT where the protocol has it.
    pub async fn run(&mut self) -> End {
        // What an earlier connection has sent goes out again before the client's packets are looked at.
        self.side.begin_round();
        // The rules may be others than those that it was let in by.
        let begun = self.obey_rules();
        self.session.pump(true, &mut self.side);
        self.side.finish_round();
        let mut end = match begun {
            Ok(()) => poll_fn(|cx| self.poll_rounds(cx)).await,
            Err(end) => end,
        };
        self.note_under_way(0);
        // On the heap, since a connection in service needs no room for it.
        Box::pin(async {
            self.send_disconnect(&end).await;
            let said = match end {
                End::Order(Order::Drained | Order::ShuttingDown) => self.drain_input().await,
                // What was read counts, though the connection broke before it was its turn.
                End::Closed | End::Io(_) | End::KeepAlive | End::NoMajority => {
                    self.session.deferred_disconnect(&mut self.side)
                }
                _ => None,
            };
            self.hand_over_acks();
            self.finish_routing(&end).await;
            if let Some(said) = said {
                end = End::Session(said);
            }
        })
        .await;
        self.io.broker.redispatch_all(std::mem::take(&mut self.inbox.deliveries));
        end
    }

    pub fn listener(&self) -> &Arc<Listener> {
        &self.io.listener
    }

    pub fn version(&self) -> ProtocolVersion {
        self.session.options.version
    }

    pub fn into_parts(self) -> (Arc<Broker>, Session, SessionEnv) {
        (self.io.broker, self.session, self.side)
    }

    /// What the client acknowledged before it left is not sent again.
    fn hand_over_acks(&mut self) {
        self.side.begin_round();
        self.session.hand_over_acks(&mut self.side);
        self.side.finish_round();
    }

    /// What the client published before it left goes its way: a message that is committed must reach live subscribers
    /// too, and a QoS 2 message that is sent again on the next connection would be taken for delivered.
    async fn finish_routing(&mut self, end: &End) {
        let may_not =
            matches!(end, End::NoMajority | End::Order(Order::LeaseLost) | End::Session(SessionError::Superseded));
        if may_not || !self.session.has_unrouted() {
            return;
        }
        let timeout = self.io.commit_timeout;
        let _ = tokio::time::timeout(timeout, poll_fn(|cx| self.poll_routing(cx))).await;
    }

    fn poll_routing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.side.begin_round();
            let mut answers = self.inbox.answers.drain(..);
            let mut result =
                answers.try_for_each(|(ticket, answer)| self.session.on_answer(ticket, answer, &mut self.side));
            drop(answers);
            result = result.and_then(|()| self.session.go_on(&mut self.side));
            self.side.finish_round();
            self.side.out.clear();
            if result.is_err() || self.inbox.order == Some(Order::LeaseLost) || !self.session.has_unrouted() {
                return Poll::Ready(());
            }
            self.io.broker.redispatch_all(std::mem::take(&mut self.inbox.deliveries));
            if !self.side.mailbox.poll(cx) {
                return Poll::Pending;
            }
            self.side.mailbox.clone().take(&mut self.inbox);
        }
    }

    fn poll_rounds(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..ROUNDS_MAX {
            match self.round(cx) {
                Ok(true) => {}
                Ok(false) => {
                    if !self.side.mailbox.poll(cx) {
                        return Poll::Pending;
                    }
                }
                Err(end) => {
                    self.side.finish_round();
                    return Poll::Ready(end);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Everything that can be done now; `false` when the next round must be woken for.
    fn round(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        self.side.borrow_buffer();
        let position = self.side.out.end();
        let held_back = self.too_much_unsent();
        let read = self.read(cx)?;
        let mailed = self.side.mailbox.clone().take(&mut self.inbox);
        // Behind the mail: what an answer says has happened is seen.
        self.side.begin_round();
        let mut grew = false;
        let order = self.take_order()?;
        if mailed {
            grew = self.open_mail()?;
        }
        if read {
            self.handle_packets()?;
        }
        if let Some(order) = order {
            // What the client sent before counts, a DISCONNECT above all.
            if !read && self.read(cx)? {
                // What others changed since is known before the packets that came then.
                self.side.begin_round();
                self.handle_packets()?;
            }
            return Err(End::Order(order));
        }
        self.session.pump(grew, &mut self.side);
        self.side.finish_round();
        if packets::are_wanted() {
            packets::sending(&self.side.client_id, self.version(), &self.side.out.since(position));
        }
        self.note_under_way(self.session.bytes_under_way());
        let drained = self.flush(cx)?;
        self.check_time(cx)?;
        // Who was not read for what waited is read again: nothing else would wake for its packets.
        let released = held_back && !self.too_much_unsent();
        let goes_on = read || mailed || released || (drained && self.session.has_backlog());
        if !goes_on && self.session.wants_turn(&self.side) {
            cx.waker().wake_by_ref();
        }
        Ok(goes_on)
    }

    fn note_under_way(&mut self, bytes: usize) {
        // Far less than that is read before something is answered.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.bytes_under_way != bytes {
            let before = std::mem::replace(&mut self.bytes_under_way, bytes);
            self.io.broker.note_under_way(before as usize, bytes as usize);
        }
    }

    /// A client that does not take what it is sent is not read either.
    fn too_much_unsent(&self) -> bool {
        self.side.out.unsent() > 4 * READ_BYTES
    }

    /// The order to go, if there is one.
    fn take_order(&mut self) -> Result<Option<Order>, End> {
        match self.inbox.order.take() {
            Some(Order::Reloaded) => {
                self.side.access = self.io.listener.access(&self.side.client_id, self.side.username.as_ref());
                self.obey_rules().map(|()| None)
            }
            Some(Order::LeaseLost) => Err(End::Order(Order::LeaseLost)),
            order => Ok(order),
        }
    }

    /// Who would not be let in any more goes; a will on a topic that may not be written any more is taken back, since not
    /// only this connection can publish it.
    fn obey_rules(&mut self) -> Result<(), End> {
        let Self { io, session, side, login, .. } = self;
        if !io.listener.security.load().still_lets_in(login, side.username.as_deref()) {
            return Err(End::NotAuthorized);
        }
        let denied = side.will_topic.take_if(|topic| !side.access.may_write(topic));
        if let (Some(_), Some(epoch)) = (denied, session.options.epoch) {
            side.submit_for_nobody(Command::WithdrawWill { client_id: side.client_id.clone(), epoch });
        }
        Ok(())
    }

    fn open_mail(&mut self) -> Result<bool, End> {
        for (ticket, answer) in self.inbox.answers.drain(..) {
            self.session.on_answer(ticket, answer, &mut self.side).map_err(End::Session)?;
        }
        for delivery in self.inbox.deliveries.drain(..) {
            self.session.on_delivery(delivery, &mut self.side);
        }
        self.session.go_on(&mut self.side).map_err(End::Session)?;
        Ok(std::mem::take(&mut self.inbox.queue_grew))
    }

    /// Reads once and decodes; `true` if packets came (or bytes of one).
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let under_way = self.session.has_under_way();
        let congested = self.io.broker.holds_up(under_way);
        let held_up = congested || !self.session.wants_input();
        if held_up || self.too_much_unsent() {
            // It is we who do not read: what the client says meanwhile counts when we do. One that takes nothing of what
            // waits for it says nothing [MQTT-3.1.2-22].
            let now = Instant::now();
            if std::mem::take(&mut self.wrote) || held_up {
                self.last_input = now;
            }
            if congested && planted::congestion_wakes() {
                self.io.broker.wait_for_congestion(under_way, &mut self.listed, cx.waker());
            }
            return Ok(false);
        }
        let (stream, partial, decoder) = (&mut self.io.stream, &mut self.io.partial, &mut self.io.decoder);
        if self.packets.capacity() == 0 {
            self.packets = SPARE_PACKETS.take();
        }
        let packets = &mut self.packets;
        if std::mem::take(&mut self.first) && !partial.is_empty() {
            self.malformed = decode(&[], partial, decoder, packets).err();
            return Ok(true);
        }
        let poll = READ_BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(stream).poll_read(cx, &mut read)).map_err(End::Io)?;
            let bytes = read.filled();
            if bytes.is_empty() {
                return Poll::Ready(Err(End::Closed));
            }
            Poll::Ready(Ok((bytes.len(), decode(bytes, partial, decoder, packets))))
        });
        match poll {
            Poll::Pending => {
                self.return_packets();
                Ok(false)
            }
            Poll::Ready(result) => {
                let (bytes, decoded) = result?;
                self.malformed = decoded.err();
                self.side.count().bytes_received += bytes as u64;
                self.last_input = Instant::now();
                Ok(true)
            }
        }
    }

    /// Gives the room for packets back if there are none.
    fn return_packets(&mut self) {
        if self.packets.is_empty() {
            SPARE_PACKETS.set(std::mem::take(&mut self.packets));
        }
    }

    fn handle_packets(&mut self) -> Result<(), End> {
        let mut packets = std::mem::take(&mut self.packets);
        if packets::are_wanted() {
            packets.iter().for_each(|packet| packets::received(&self.side.client_id, packet));
        }
        self.side.count().messages_received += packets.len() as u64;
        let result = packets.drain(..).try_for_each(|packet| self.session.on_packet(packet, &mut self.side));
        self.packets = packets;
        self.return_packets();
        result.map_err(End::Session)?;
        self.malformed.take().map_or(Ok(()), |error| Err(End::Decode(error)))
    }

    /// Whether the incarnation of the node that this connection belongs to holds its lease.
    fn may_write(&self) -> bool {
        self.io.broker.peers.may_serve_as(self.side.owner.incarnation)
    }

    /// Writes what waits; `true` if something was written and nothing is left.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.side.out.is_empty() && !self.unflushed {
            self.side.return_buffer();
            return Ok(false);
        }
        if !self.may_write() {
            return Err(End::Order(Order::LeaseLost));
        }
        while !self.side.out.is_empty() {
            match Pin::new(&mut self.io.stream).poll_write(cx, self.side.out.next()) {
                Poll::Ready(Ok(0)) => return Err(End::Closed),
                Poll::Ready(Ok(n)) => {
                    self.side.out.wrote(n);
                    self.wrote = true;
                    add(&self.io.broker.counters.bytes_sent, n as u64);
                }
                Poll::Ready(Err(error)) => return Err(End::Io(error)),
                Poll::Pending => {
                    self.side.out.compact();
                    return Ok(false);
                }
            }
        }
        self.side.return_buffer();
        match Pin::new(&mut self.io.stream).poll_flush(cx) {
            Poll::Ready(Ok(())) => self.unflushed = false,
            Poll::Ready(Err(error)) => return Err(End::Io(error)),
            Poll::Pending => self.unflushed = true,
        }
        Ok(!self.unflushed)
    }

    fn check_time(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let waiting = self.session.waiting_since();
        if waiting.is_some() && self.sleep.deadline() > Instant::now() + TIMEOUT_CHECK {
            self.sleep.as_mut().reset(Instant::now() + TIMEOUT_CHECK);
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let mut next = now + Duration::from_secs(3600);
            if let Some(keep_alive) = self.io.keep_alive {
                let deadline = self.last_input + keep_alive;
                if deadline <= now {
                    return Err(End::KeepAlive);
                }
                next = next.min(deadline);
            }
            if let Some(Millis(since)) = waiting {
                let waited = self.side.now().0.saturating_sub(since);
                if u128::from(waited) > self.io.commit_timeout.as_millis() {
                    return Err(End::NoMajority);
                }
                next = next.min(now + TIMEOUT_CHECK);
            }
            self.sleep.as_mut().reset(next);
        }
        Ok(())
    }

    /// What crossed our end on its way counts as far as it needs no answer: a DISCONNECT, and acknowledgements of what the
    /// client was sent.
    async fn drain_input(&mut self) -> Option<SessionError> {
        let deferred = self.session.deferred_disconnect(&mut self.side);
        if deferred.is_some() {
            return deferred;
        }
        tokio::time::timeout(DRAIN_INPUT, poll_fn(|cx| self.poll_drain_input(cx))).await.ok().flatten()
    }

    fn poll_drain_input(&mut self, cx: &mut Context<'_>) -> Poll<Option<SessionError>> {
        let mut packets = Vec::new();
        loop {
            let (stream, partial, decoder) = (&mut self.io.stream, &mut self.io.partial, &mut self.io.decoder);
            let read = READ_BUFFER.with_borrow_mut(|buffer| {
                let mut read = ReadBuf::new(buffer);
                let open = ready!(Pin::new(stream).poll_read(cx, &mut read)).is_ok() && !read.filled().is_empty();
                Poll::Ready(open && decode(read.filled(), partial, decoder, &mut packets).is_ok())
            });
            let goes_on = ready!(read);
            for packet in packets.drain(..) {
                let taken = match packet {
                    Packet::Disconnect(_) => {
                        let said = self.session.on_packet(packet, &mut self.side).err();
                        return Poll::Ready(said.or_else(|| self.session.deferred_disconnect(&mut self.side)));
                    }
                    Packet::PubAck(_) | Packet::PubRec(_) | Packet::PubComp(_) => {
                        self.session.on_packet(packet, &mut self.side)
                    }
                    // Not acknowledged, so the client sends it again elsewhere.
                    _ => Ok(()),
                };
                if taken.is_err() {
                    return Poll::Ready(None);
                }
            }
            if !goes_on {
                return Poll::Ready(None);
            }
        }
    }

    /// DISCONNECT with its reason towards 5.0 clients; whatever else waits for the socket goes with it, if it can.
    async fn send_disconnect(&mut self, end: &End) {
        let reason = match end {
            // As Mosquitto.
            End::NotAuthorized => None,
            End::Closed
            | End::Io(_)
            | End::NoMajority
            | End::Order(Order::LeaseLost | Order::Unreadable | Order::Reloaded) => None,
            End::Decode(error) => error.disconnect(),
            End::Session(SessionError::Peer(reason, _)) => Some(*reason),
            End::Session(SessionError::Disconnected { .. }) => None,
            End::Session(SessionError::Superseded) | End::Order(Order::TakenOver) => Some(ReasonCode::SessionTakenOver),
            End::Order(Order::Administrative) => Some(ReasonCode::AdministrativeAction),
            End::Order(Order::ShuttingDown) => Some(ReasonCode::ServerShuttingDown),
            End::Order(Order::Drained) => Some(ReasonCode::UseAnotherServer),
            End::KeepAlive => Some(ReasonCode::KeepAliveTimeout),
        };
        if let Some(reason) = reason
            && self.session.options.version == ProtocolVersion::V5
        {
            self.side.count().disconnects_sent += 1;
            crate::debug!("Sending DISCONNECT to {} (rc{})", self.side.client_id, reason as u8);
            let mut disconnect = Disconnect::new(reason);
            if reason == ReasonCode::UseAnotherServer {
                disconnect.server_reference = self.io.broker.drain.reference(&self.io.listener.settings());
            }
            encode(&Packet::Disconnect(disconnect), ProtocolVersion::V5, self.side.out());
        }
        let silent = matches!(end, End::Closed | End::Io(_) | End::NotAuthorized | End::Order(Order::LeaseLost));
        if !silent && !self.side.out.is_empty() && self.may_write() {
            let (broker, incarnation) = (self.io.broker.clone(), self.side.owner.incarnation);
            let (stream, out) = (&mut self.io.stream, &mut self.side.out);
            let write = std::future::poll_fn(|cx| {
                // Each time anew: the process may have stood still while the socket was full.
                while !out.is_empty() && broker.peers.may_serve_as(incarnation) {
                    match ready!(Pin::new(&mut *stream).poll_write(cx, out.next())) {
                        Ok(written @ 1..) => out.wrote(written),
                        _ => break,
                    }
                }
                Pin::new(&mut *stream).poll_flush(cx).map(drop)
            });
            let _ = tokio::time::timeout(Duration::from_millis(200), write).await;
        }
        self.io.stream.shut_down().await;
    }
}

impl End {
    /// In Mosquitto's words, for the log.
    pub fn describe(&self) -> Disconnected {
        match self {
            Self::Closed => Disconnected::ClosedByClient,
            Self::Io(error) => Disconnected::Io(error.to_string()),
            Self::Decode(error) => describe_reason(error.reason_code()),
            Self::Session(SessionError::Disconnected { .. }) => Disconnected::Normally,
            Self::Session(SessionError::Peer(reason, _)) => describe_reason(*reason),
            Self::Session(SessionError::Superseded) | Self::Order(Order::TakenOver) => Disconnected::SessionTakenOver,
            Self::KeepAlive => Disconnected::ExceededTimeout,
            Self::NotAuthorized => Disconnected::NotAuthorised,
            Self::NoMajority | Self::Order(Order::LeaseLost | Order::Unreadable) => Disconnected::ServerUnavailable,
            Self::Order(Order::Administrative) => Disconnected::AdministrativeAction,
            Self::Order(_) => Disconnected::ServerShuttingDown,
        }
    }

    /// Whether the will is dropped: after a DISCONNECT that does not ask for it, and of who may not be here any more.
    pub fn discards_will(&self) -> bool {
        matches!(self, Self::NotAuthorized | Self::Session(SessionError::Disconnected { with_will: false }))
    }

    /// Another connection has the session by now: it is not ours to end.
    pub fn is_superseded(&self) -> bool {
        matches!(self, Self::Session(SessionError::Superseded) | Self::Order(Order::TakenOver | Order::LeaseLost))
    }
}

pub fn describe_reason(reason: ReasonCode) -> Disconnected {
    match reason {
        ReasonCode::MalformedPacket => Disconnected::MalformedPacket,
        ReasonCode::PacketTooLarge => Disconnected::OversizePacket,
        ReasonCode::QosNotSupported | ReasonCode::RetainNotSupported => Disconnected::DisallowedFeature,
        ReasonCode::ReceiveMaximumExceeded => Disconnected::ReceiveMaximumExceeded,
        ReasonCode::TopicAliasInvalid => Disconnected::TopicAliasInvalid,
        ReasonCode::NotAuthorized => Disconnected::NotAuthorised,
        ReasonCode::QuotaExceeded => Disconnected::OutOfMemory,
        _ => Disconnected::ProtocolError,
    }
}
