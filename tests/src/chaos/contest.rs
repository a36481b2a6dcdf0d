//! Two connections of one client identifier: a later one takes the session over at another node while the earlier one
//! goes on publishing and receiving until the broker ends it.
use super::actors::{Stage, send_recorded, subscribe};
use crate::{
    client::{
        ClientError, Result,
        session::{Phase, Recorded},
    },
    history::{Event, MessageId},
    random::Random,
};
use mosquorum_proto::mqtt::{Ack, Packet, PacketId, ProtocolVersion, QoS};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{task::JoinHandle, time::sleep};

/// Publishes under way of a contender at most.
const WINDOW: usize = 10;
const PUBLISH_EVERY: Duration = Duration::from_millis(25);
const PING_EVERY: Duration = Duration::from_secs(5);
/// A contender that neither wins nor is closed ends by itself.
const LIFE_MAX: Duration = Duration::from_secs(8);

/// Takes over from itself until the run drains; the last connection stays to receive what is owed.
pub async fn contest(stage: Stage, name: String, mut random: Random) {
    let identity = stage.identity(&name, ProtocolVersion::V5, true);
    let mut contenders: Vec<JoinHandle<()>> = Vec::new();
    while !stage.is(Phase::Over) {
        let takes_over = stage.is(Phase::Running) || contenders.iter().all(JoinHandle::is_finished);
        if takes_over {
            let node = stage.any_node(&mut random);
            if let Ok(recorded) = identity.connect(node, None, &stage.recorder).await {
                contenders.push(tokio::spawn(contender(stage.clone(), name.clone(), recorded)));
            }
        }
        contenders.retain(|contender| !contender.is_finished());
        sleep(Duration::from_millis(random.between(200, 1200))).await;
    }
    for contender in contenders {
        let _ = contender.await;
    }
}

async fn contender(stage: Stage, name: String, mut recorded: Recorded) {
    let filter: Arc<str> = format!("contest/{name}/#").into();
    let topic: Arc<str> = format!("contest/{name}/x").into();
    // Every connection is a publisher of its own: two that publish at once have no common order.
    let number = stage.next_number();
    let began = Instant::now();
    let ended = async {
        if !recorded.connack.session_present {
            subscribe(&mut recorded, &filter, QoS::AtLeastOnce).await?;
        }
        let mut sequence = 0;
        let mut under_way: HashMap<PacketId, MessageId> = HashMap::new();
        let (mut next_publish, mut next_ping) = (began, began + PING_EVERY);
        loop {
            let publishes = stage.is(Phase::Running) && began.elapsed() < LIFE_MAX;
            if stage.is(Phase::Over) || (stage.is(Phase::Running) && !publishes) {
                return Ok(());
            }
            if publishes && under_way.len() < WINDOW && Instant::now() >= next_publish {
                next_publish = Instant::now() + PUBLISH_EVERY;
                let id = MessageId { publisher: number, sequence };
                sequence += 1;
                under_way.insert(send_recorded(&mut recorded, id, &topic), id);
                recorded.link.flush().await?;
            }
            if Instant::now() >= next_ping {
                next_ping = Instant::now() + PING_EVERY;
                recorded.link.send(&Packet::PingReq).await?;
            }
            if let Some(packet) = recorded.link.recv_within(Duration::from_millis(20)).await? {
                take(&mut recorded, packet, &mut under_way).await?;
            }
        }
    };
    let ended: Result<()> = ended.await;
    match ended {
        Ok(()) => recorded.disconnect().await,
        Err(_) => recorded.lost(),
    }
}

async fn take(recorded: &mut Recorded, packet: Packet, under_way: &mut HashMap<PacketId, MessageId>) -> Result<()> {
    let connection = recorded.number;
    match packet {
        Packet::PubAck(ack) => {
            if let Some(message) = under_way.remove(&ack.packet_id) {
                recorded.record(if ack.reason.is_error() {
                    Event::PublishRefused { connection, message, reason: ack.reason }
                } else {
                    Event::PublishAcknowledged { connection, message }
                });
            }
        }
        Packet::Publish(publish) => {
            let Some(message) = MessageId::from_payload(&publish.payload) else {
                recorded.record(Event::Forbidden { connection, what: "a payload that nobody published".into() });
                return Ok(());
            };
            let topic: Arc<str> = publish.topic.as_ref().map_or("", |topic| topic.as_str()).into();
            recorded.record(Event::Delivered {
                connection,
                message,
                topic,
                qos: publish.qos,
                retain: publish.retain,
                dup: publish.dup,
                repeat: false,
            });
            recorded.record(Event::DeliveryAcknowledged { connection, message });
            recorded.link.send(&Packet::PubAck(Ack::new(publish.packet_id))).await?;
        }
        Packet::Disconnect(_) => return Err(ClientError::Closed),
        _ => {}
    }
    Ok(())
}
