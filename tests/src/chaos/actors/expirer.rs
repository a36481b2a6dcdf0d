//! A client whose session expires within the run: it leaves in peace, stays away clearly shorter or clearly longer than
//! its session lives, and comes back wherever a node answers.
//! Not here: which of the two it was in the end: the measured times decide (`checker::expiry`).
use super::{Stage, live_a_while, subscribe};
use crate::{client::session::Phase, random::Random};
use mosquorum_proto::mqtt::{ProtocolVersion, QoS};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// `seconds`: how long its session outlives the connection.
pub async fn expirer(stage: Stage, name: String, seconds: u32, mut random: Random) {
    let identity = stage.identity(&name, ProtocolVersion::V5, true);
    let filter: Arc<str> = format!("expiry/{name}").into();
    while stage.is(Phase::Running) {
        let mut packet = identity.connect_packet(None);
        packet.session_expiry_interval = Some(seconds);
        let node = stage.any_node(&mut random);
        let Ok(mut recorded) = identity.connect_with(node, packet, None, CONNECT_TIMEOUT, &stage.recorder).await else {
            sleep(Duration::from_millis(random.between(50, 200))).await;
            continue;
        };
        let fresh = !recorded.connack.session_present;
        if fresh && subscribe(&mut recorded, &filter, QoS::AtLeastOnce).await.is_err() {
            recorded.lost();
            continue;
        }
        if live_a_while(&mut recorded, random.between(20, 400)).await {
            recorded.lost();
            continue;
        }
        recorded.disconnect().await;
        let away = Instant::now() + absence(seconds, &mut random);
        while stage.is(Phase::Running) && Instant::now() < away {
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Clearly shorter than the session lives, or clearly longer: in some cases even if the cluster noticed the end late.
fn absence(seconds: u32, random: &mut Random) -> Duration {
    let asked = u64::from(seconds) * 1000;
    let milliseconds = if random.chance(50) {
        random.between(100, (asked - asked / 100).saturating_sub(2500).max(100))
    } else {
        let late = if random.chance(30) { 11_000 } else { 0 };
        asked + asked / 100 + 2500 + late + random.between(0, 2500)
    };
    Duration::from_millis(milliseconds)
}
