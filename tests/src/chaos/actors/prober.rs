//! One client per node that asks, all the time, whether that node serves: a QoS 1 message at a time through the log, and a
//! new connection to the same node as soon as the last one broke.
//! Always true: a message without an answer is never sent again; the next one has a new number.
use super::{Stage, send_recorded};
use crate::{
    checker::pauses::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, prober as client_identifier},
    client::{
        ClientError, Result,
        session::{Phase, Recorded},
    },
    history::{Event, MessageId},
    random::Random,
};
use mosquorum_proto::mqtt::{Packet, ProtocolVersion};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// Between an answer and the next message.
const INTERVAL: Duration = Duration::from_millis(120);

/// Asks until the run drains.
pub async fn prober(stage: Stage, node: usize, mut random: Random) {
    let identity = stage.identity(&client_identifier(node), ProtocolVersion::V5, true);
    let topic: Arc<str> = format!("probe/{node}").into();
    let (publisher, mut sequence) = (stage.next_number(), 0);
    while stage.is(Phase::Running) {
        let packet = identity.connect_packet(None);
        let recorded = identity.connect_with(node, packet, None, CONNECT_TIMEOUT, &stage.recorder).await;
        let Ok(mut recorded) = recorded else {
            // A node that is down refuses at once: this is no load, and much finer than what is measured.
            sleep(Duration::from_millis(random.between(80, 120))).await;
            continue;
        };
        let ended = async {
            while stage.is(Phase::Running) {
                let message = MessageId { publisher, sequence };
                sequence += 1;
                probe(&mut recorded, message, &topic).await?;
            }
            Ok(())
        };
        let ended: Result<()> = ended.await;
        match ended {
            Ok(()) => recorded.disconnect().await,
            Err(ClientError::Timeout(_)) => recorded.abandon(),
            Err(_) => recorded.lost(),
        }
    }
}

/// One message, its answer, and a moment.
async fn probe(recorded: &mut Recorded, message: MessageId, topic: &Arc<str>) -> Result<()> {
    let connection = recorded.number;
    let packet_id = send_recorded(recorded, message, topic);
    recorded.link.flush().await?;
    let mut until = Instant::now() + ANSWER_TIMEOUT;
    let mut answered = false;
    loop {
        match recorded.link.recv_within(until.saturating_duration_since(Instant::now())).await? {
            Some(Packet::PubAck(ack)) if ack.packet_id == packet_id => {
                recorded.record(if ack.reason.is_error() {
                    Event::PublishRefused { connection, message, reason: ack.reason }
                } else {
                    Event::PublishAcknowledged { connection, message }
                });
                (answered, until) = (true, Instant::now() + INTERVAL);
            }
            Some(Packet::Disconnect(_)) => return Err(ClientError::Closed),
            Some(_) => {}
            None if answered => return Ok(()),
            None => return Err(ClientError::Timeout("PUBACK")),
        }
    }
}
