//! Messages that wait for a client that is away: what tests of storage put in before they break something, and what
//! must come out after.
//! Always true: only acknowledged messages count; they come out in order, each at least once.
use crate::{
    client::{ClientError, Connection, Result, message},
    history::MessageId,
};
use mosquorum_proto::mqtt::{Ack, Connect, Packet, ProtocolVersion, QoS};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// A durable session and what is queued for it.
#[derive(Debug)]
pub struct Backlog {
    name: String,
    pub acknowledged: Vec<MessageId>,
    next: u64,
    filler: usize,
}

impl Backlog {
    /// Makes the session: connects, subscribes, leaves.
    /// # Errors
    /// When the broker does not do its part.
    pub async fn create(address: SocketAddr, name: &str, filler: usize) -> Result<Self> {
        let (mut client, _) = Connection::connected(address, session(name)).await?;
        client.subscribe_to(&format!("backlog/{name}"), QoS::AtLeastOnce).await?;
        client.disconnect().await?;
        Ok(Self { name: name.to_owned(), acknowledged: Vec::new(), next: 0, filler })
    }

    /// Publishes `count` messages, one after the other; ends early at the first that is not acknowledged.
    /// # Errors
    /// When one is not acknowledged; those before it count.
    pub async fn publish(&mut self, address: SocketAddr, count: u64) -> Result<()> {
        self.publish_within(address, count, Duration::from_secs(20)).await
    }

    /// As [`Self::publish`], waiting at most `timeout` for each acknowledgement.
    /// # Errors
    /// When one is not acknowledged.
    pub async fn publish_within(&mut self, address: SocketAddr, count: u64, timeout: Duration) -> Result<()> {
        let connect = Connect::new(ProtocolVersion::V5, format!("{}-publisher", self.name));
        let (mut publisher, _) = Connection::connected(address, connect).await?;
        publisher.timeout = timeout;
        for _ in 0..count {
            let id = MessageId { publisher: 1, sequence: self.next };
            self.next += 1;
            let publish = message(&format!("backlog/{}", self.name), id.payload(self.filler), QoS::AtLeastOnce);
            let reason = publisher.publish(publish).await?;
            if reason.is_error() {
                return Err(ClientError::Refused(reason));
            }
            self.acknowledged.push(id);
        }
        publisher.disconnect().await
    }

    /// Fetches everything that was acknowledged, in order, and finds nothing that was never sent.
    /// # Errors
    /// When the session is gone, a message is missing or comes out of order.
    pub async fn fetch(&self, address: SocketAddr) -> std::result::Result<(), Box<dyn std::error::Error>> {
        let (mut client, connack) = Connection::connected(address, session(&self.name)).await?;
        if !connack.session_present {
            return Err("the session is gone".into());
        }
        for wanted in &self.acknowledged {
            loop {
                let publish = client.receive().await.map_err(|error| format!("waiting for {wanted}: {error}"))?;
                let came = MessageId::from_payload(&publish.payload).ok_or("a payload that nobody published")?;
                if came == *wanted {
                    break;
                }
                // Messages whose acknowledgement was lost may come too.
                if came > *wanted || self.acknowledged.contains(&came) {
                    return Err(format!("{came} came where {wanted} was due").into());
                }
            }
        }
        client.send(&Packet::PingReq).await?;
        while let Packet::Publish(publish) = client.recv().await? {
            client.send(&Packet::PubAck(Ack::new(publish.packet_id))).await?;
        }
        Ok(client.disconnect().await?)
    }
}

fn session(name: &str) -> Connect {
    let mut connect = Connect::new(ProtocolVersion::V5, name);
    (connect.clean_start, connect.session_expiry_interval) = (false, Some(3600));
    connect
}

/// Waits for a condition that no event announces; false after `timeout`.
pub async fn eventually(timeout: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    while !condition().await {
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(50)).await;
    }
    true
}
