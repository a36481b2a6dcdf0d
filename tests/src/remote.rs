//! A remote broker that a test controls, for bridges: it answers what a bridge asks at the beginning, and
//! nothing else by itself.
use crate::client::{ClientError, Connection, Result, TIMEOUT};
use mosquorum_proto::mqtt::{Ack, ConnAck, Connect, Packet, ProtocolVersion, Publish, ReasonCode, SubAck};
use std::net::SocketAddr;
use tokio::{net::TcpListener, time::timeout};

/// Listens on a port of its own.
#[derive(Debug)]
pub struct Remote {
    listener: TcpListener,
}

impl Remote {
    /// # Errors
    /// When no port can be bound.
    pub async fn start() -> Result<Self> {
        Ok(Self { listener: TcpListener::bind("127.0.0.1:0").await? })
    }

    /// # Errors
    /// Those of the socket.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// The next connection, up to its CONNECT.
    /// # Errors
    /// When none comes in time.
    pub async fn connect(&self) -> Result<(Connection, Connect)> {
        let accepted = timeout(TIMEOUT, self.listener.accept()).await;
        Connection::serve(accepted.map_err(|_| ClientError::Timeout("a connection"))??.0).await
    }

    /// The next connection, accepted with `connack`.
    /// # Errors
    /// When a packet does not come in time.
    pub async fn accept(&self, connack: ConnAck) -> Result<(Connection, Connect)> {
        let (mut bridge, connect) = self.connect().await?;
        bridge.send(&Packet::ConnAck(Box::new(connack))).await?;
        Ok((bridge, connect))
    }
}

/// The next message of a bridge; what it asks before is granted.
/// # Errors
/// When none comes in time.
pub async fn next_message(bridge: &mut Connection) -> Result<Publish> {
    loop {
        match bridge.recv().await? {
            Packet::Publish(publish) => return Ok(publish),
            packet => grant(bridge, packet).await?,
        }
    }
}

/// Answers what needs no thought.
/// # Errors
/// When it is something else.
pub async fn grant(bridge: &mut Connection, packet: Packet) -> Result<()> {
    match packet {
        Packet::Subscribe(subscribe) => {
            let granted = subscribe.subscriptions.iter().map(|one| ReasonCode::granted(one.qos)).collect();
            bridge.send(&Packet::SubAck(SubAck::new(subscribe.packet_id, granted))).await
        }
        Packet::Unsubscribe(unsubscribe) => {
            let reasons = match bridge.version() {
                ProtocolVersion::V5 => vec![ReasonCode::Success; unsubscribe.filters.len()],
                _ => Vec::new(),
            };
            bridge.send(&Packet::UnsubAck(SubAck::new(unsubscribe.packet_id, reasons))).await
        }
        Packet::PubRel(ack) => bridge.send(&Packet::PubComp(Ack::new(ack.packet_id))).await,
        Packet::PingReq => bridge.send(&Packet::PingResp).await,
        got => Err(ClientError::Unexpected { wanted: "a question", got: Box::new(got) }),
    }
}
