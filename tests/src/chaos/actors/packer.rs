//! A client whose writes are mostly filler that nobody wants, with small messages in between that a durable session keeps:
//! what is kept must not hold the filler in memory with it.
//! Always true: not recorded; no subscription that is recorded matches its topics.
use super::Stage;
use crate::{
    client::{Connection, Result, message, session::Phase},
    random::Random,
};
use mosquorum_proto::mqtt::{Connect, Packet, ProtocolVersion, QoS};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// One write: so many times filler and a message.
const PAIRS: usize = 2;
const FILLER_BYTES: usize = 30_000;
/// Messages without an answer at most.
const WINDOW: usize = 400;
const SESSION: &str = "packed";

/// Writes `rate` times a second until the run drains, 60 KB each.
pub async fn packer(stage: Stage, rate: u32, mut random: Random) {
    let (mut kept, every) = (false, Duration::from_secs(1) / rate.max(1));
    while stage.is(Phase::Running) {
        let node = stage.any_node(&mut random);
        let done: Result<()> = async {
            if !kept {
                keep(&stage, node).await?;
                kept = true;
            }
            pack(&stage, node, every).await
        }
        .await;
        if done.is_err() {
            sleep(Duration::from_millis(random.between(50, 200))).await;
        }
    }
}

/// The session that keeps the messages, for nobody who comes.
async fn keep(stage: &Stage, node: usize) -> Result<()> {
    let mut connect = Connect::new(ProtocolVersion::V5, SESSION);
    (connect.clean_start, connect.session_expiry_interval) = (false, Some(3600));
    let (mut session, _) = Connection::connected(stage.nodes[node], connect).await?;
    session.subscribe_to("packed/#", QoS::AtLeastOnce).await?;
    session.disconnect().await
}

async fn pack(stage: &Stage, node: usize, every: Duration) -> Result<()> {
    // One of 5.0 would have no more under way than its receive maximum.
    let connect = Connect::new(ProtocolVersion::V311, "packer");
    let (mut client, _) = Connection::connected(stage.nodes[node], connect).await?;
    let (mut unanswered, mut next) = (0, Instant::now());
    while stage.is(Phase::Running) {
        while unanswered < WINDOW && Instant::now() >= next {
            next += every;
            for _ in 0..PAIRS {
                client.queue(&Packet::Publish(message("filler", vec![b'f'; FILLER_BYTES], QoS::AtMostOnce)));
                let mut small = message("packed/small", "kept", QoS::AtLeastOnce);
                small.packet_id = client.next_packet_id();
                client.queue(&Packet::Publish(small));
            }
            unanswered += PAIRS;
            client.flush().await?;
        }
        let wait = if unanswered < WINDOW { next.saturating_duration_since(Instant::now()) } else { every };
        if let Some(Packet::PubAck(_)) = client.recv_within(wait.min(Duration::from_millis(200))).await? {
            unanswered -= 1;
        }
    }
    client.disconnect().await
}
