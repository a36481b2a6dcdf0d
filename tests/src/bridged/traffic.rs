//! Publishers on one side and readers on the other, which outlive whatever happens to their brokers.
use crate::{
    client::{ClientError, Connection, Result, message},
    history::MessageId,
};
use mosquorum_proto::mqtt::{Ack, Connect, Packet, PacketId, ProtocolVersion, QoS};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::SocketAddr,
    time::Duration,
};
use tokio::{sync::watch, time::sleep};

const PAUSE: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is known of a publisher's messages, by their sequence.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) acknowledged: BTreeSet<u64>,
    pub(super) sent: u64,
}

pub(super) struct Publisher {
    pub(super) number: u32,
    pub(super) topic: String,
    pub(super) qos: QoS,
    /// Those that it goes to in turn.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) window: usize,
    pub(super) filler: usize,
}

impl Publisher {
    /// Publishes as many messages as `allowed` says, until its sender is gone.
    pub(super) async fn run(self, mut allowed: watch::Receiver<u64>) -> Published {
        let mut published = Published::default();
        let mut turn = self.number as usize;
        loop {
            let limit = *allowed.borrow_and_update();
            if published.sent < limit {
                let address = self.addresses[turn % self.addresses.len()];
                turn += 1;
                // What was on its way when the connection broke is unknown, and not sent again.
                if self.publish(address, limit, &mut published).await.is_err() {
                    sleep(PAUSE).await;
                }
                continue;
            }
            if allowed.changed().await.is_err() {
                return published;
            }
        }
    }

    async fn publish(&self, address: SocketAddr, limit: u64, published: &mut Published) -> Result<()> {
        let connect = Connect::new(ProtocolVersion::V5, format!("publisher-{}", self.number));
        let (mut connection, connack) = Connection::connected(address, connect).await?;
        connection.timeout = TIMEOUT;
        let window = self.window.min(connack.receive_maximum.map_or(usize::MAX, usize::from));
        let mut under_way: BTreeMap<PacketId, u64> = BTreeMap::new();
        while published.sent < limit || !under_way.is_empty() {
            while published.sent < limit && under_way.len() < window {
                let id = MessageId { publisher: self.number, sequence: published.sent };
                let mut publish = message(&self.topic, id.payload(self.filler), self.qos);
                publish.packet_id = connection.next_packet_id();
                under_way.insert(publish.packet_id, published.sent);
                connection.queue(&Packet::Publish(publish));
                published.sent += 1;
            }
            connection.flush().await?;
            let mut packet = Some(connection.recv().await?);
            while let Some(came) = packet {
                match came {
                    Packet::PubAck(ack) | Packet::PubComp(ack) => {
                        if let Some(sequence) = under_way.remove(&ack.packet_id)
                            && !ack.reason.is_error()
                        {
                            published.acknowledged.insert(sequence);
                        }
                    }
                    Packet::PubRec(ack) => connection.queue(&Packet::PubRel(Ack::new(ack.packet_id))),
                    _ => {}
                }
                packet = connection.buffered()?;
            }
        }
        connection.flush().await?;
        connection.disconnect().await
    }
}

/// What came, in its order: message, and whether its QoS was 2.
pub(super) type Received = Vec<(MessageId, QoS)>;

/// A durable session that reads everything.
pub(super) struct Reader {
    pub(super) name: String,
    pub(super) filter: String,
    pub(super) addresses: Vec<SocketAddr>,
}

impl Reader {
    /// Makes the session.
    /// # Errors
    /// When the broker does not do its part.
    pub(super) async fn create(&self) -> Result<()> {
        let (mut connection, _) = Connection::connected(self.addresses[0], self.session()).await?;
        connection.subscribe_to(&self.filter, QoS::ExactlyOnce).await?;
        connection.disconnect().await
    }

    fn session(&self) -> Connect {
        let mut connect = Connect::new(ProtocolVersion::V5, self.name.clone());
        (connect.clean_start, connect.session_expiry_interval) = (false, Some(7200));
        (connect.keep_alive_seconds, connect.receive_maximum) = (2, Some(100));
        connect
    }

    /// Reads until `stop` says so; `count` is called with how many different ones came.
    /// # Errors
    /// When the session is gone.
    pub(super) async fn run(self, count: watch::Sender<usize>, mut stop: watch::Receiver<bool>) -> Result<Received> {
        let (mut received, mut begun, mut turn) = (Taken::default(), BTreeSet::new(), 0);
        while !*stop.borrow_and_update() {
            let address = self.addresses[turn % self.addresses.len()];
            turn += 1;
            match Connection::connected(address, self.session()).await {
                Ok((_, connack)) if !connack.session_present => {
                    return Err(ClientError::Timeout("the session is gone"));
                }
                Ok((mut connection, _)) => {
                    let _ = read(&mut connection, &mut received, &mut begun, &count, &mut stop).await;
                }
                Err(_) => {}
            }
            sleep(PAUSE).await;
        }
        Ok(received.all)
    }
}

#[derive(Default)]
struct Taken {
    all: Received,
    different: HashSet<MessageId>,
}

impl Taken {
    fn push(&mut self, id: MessageId, qos: QoS) {
        self.all.push((id, qos));
        self.different.insert(id);
    }
}

/// Until the connection breaks or `stop` says so. `begun`: identifiers of QoS 2 messages that were taken and not released.
async fn read(
    connection: &mut Connection,
    received: &mut Taken,
    begun: &mut BTreeSet<PacketId>,
    count: &watch::Sender<usize>,
    stop: &mut watch::Receiver<bool>,
) -> Result<()> {
    while !*stop.borrow_and_update() {
        let packet = match connection.recv_within(Duration::from_secs(1)).await? {
            Some(packet) => packet,
            None => {
                connection.send(&Packet::PingReq).await?;
                connection.recv().await?
            }
        };
        match packet {
            Packet::Publish(publish) => {
                let Some(id) = MessageId::from_payload(&publish.payload) else { continue };
                match publish.qos {
                    QoS::ExactlyOnce => {
                        if begun.insert(publish.packet_id) {
                            received.push(id, publish.qos);
                        }
                        connection.queue(&Packet::PubRec(Ack::new(publish.packet_id)));
                    }
                    qos => {
                        received.push(id, qos);
                        connection.queue(&Packet::PubAck(Ack::new(publish.packet_id)));
                    }
                }
                count.send_replace(received.different.len());
            }
            Packet::PubRel(ack) => {
                begun.remove(&ack.packet_id);
                connection.queue(&Packet::PubComp(Ack::new(ack.packet_id)));
            }
            _ => {}
        }
        connection.flush().await?;
    }
    Ok(())
}
