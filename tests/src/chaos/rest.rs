//! The end of a run, when nobody publishes any more: one burst that fills the log's queue, then idle times with a member
//! missing and with all of them back, in which costs are looked at.
//! Always true: whom the burst congests, and who idles, is watched by the witnesses of the run; nothing else is recorded.
use super::witness::Witnesses;
use crate::{
    client::{Connection, Result, message},
    cluster::Cluster,
    history::{Event, Recorder},
    random::Random,
};
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS};
use std::{net::SocketAddr, time::Duration};
use tokio::{task::JoinSet, time::sleep};

/// Publishers of the burst, messages of each and bytes of each: one message of each is more than a node takes before it
/// stops reading everybody.
const BURST_CLIENTS: usize = 100;
const BURST_MESSAGES: u64 = 1;
const BURST_BYTES: usize = 400_000;
const BURST_TIMEOUT: Duration = Duration::from_secs(12);
/// After a change, until the node is idle.
const SETTLE: Duration = Duration::from_millis(1500);
const SERVE_AGAIN_MAX: Duration = Duration::from_secs(30);

/// What a run ends with; a time of 0 leaves that part out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    pub burst: bool,
    /// How long is looked at nodes that miss a member, which a node alone does not.
    pub absent: Duration,
    /// How long is looked at all of them.
    pub whole: Duration,
}

impl Default for Rest {
    fn default() -> Self {
        Self { burst: true, absent: Duration::from_secs(3), whole: Duration::from_secs(2) }
    }
}

impl Rest {
    /// A run that is judged by something else.
    pub const NONE: Self = Self { burst: false, absent: Duration::ZERO, whole: Duration::ZERO };
}

/// Every node serves when it begins; one that does not is another checker's business.
pub(super) async fn rest(
    cluster: &mut Cluster,
    rest: Rest,
    recorder: &Recorder,
    random: &mut Random,
    witnesses: &Witnesses,
) {
    let all = cluster.len();
    let leader = if all > 1 { cluster.leader().await.unwrap_or(0) } else { 0 };
    if rest.burst {
        witnesses.be_watchful(true);
        // Longer than between two questions.
        sleep(Duration::from_millis(100)).await;
        recorder.record(Event::Burst);
        burst(cluster.address(leader)).await;
        witnesses.be_watchful(false);
    }
    if all > 2 && !rest.absent.is_zero() {
        let follower = (leader + 1 + random.below(all as u64 - 1) as usize) % all;
        cluster.kill(follower);
        idle(rest.absent, vec![follower], recorder).await;
        let back = match cluster.start_node(follower) {
            Ok(()) => cluster.wait_serving(follower, SERVE_AGAIN_MAX).await,
            Err(error) => Err(error),
        };
        if let Err(error) = back {
            eprintln!("{error}");
            recorder.record(Event::NodeNotServing { node: follower, waited: SERVE_AGAIN_MAX });
            return;
        }
    }
    if !rest.whole.is_zero() {
        idle(rest.whole, Vec::new(), recorder).await;
    }
}

async fn idle(time: Duration, absent: Vec<usize>, recorder: &Recorder) {
    sleep(SETTLE).await;
    recorder.record(Event::IdleBegan { absent });
    sleep(time).await;
    recorder.record(Event::IdleEnded);
}

/// Retained messages: all of them go through the log, and few stay.
async fn burst(address: SocketAddr) {
    let mut clients = JoinSet::new();
    for number in 0..BURST_CLIENTS {
        clients.spawn(async move {
            let client = Connect::new(ProtocolVersion::V311, format!("burst-{number}"));
            let (mut client, _) = Connection::connected(address, client).await?;
            client.timeout = BURST_TIMEOUT;
            let make = |_| {
                let mut publish = message(&format!("burst/{number}"), vec![b'x'; BURST_BYTES], QoS::AtLeastOnce);
                publish.retain = true;
                publish
            };
            client.publish_many(BURST_MESSAGES, BURST_MESSAGES, make).await?;
            client.disconnect().await
        });
    }
    while let Some(done) = clients.join_next().await {
        let done: Result<()> = done.unwrap_or(Ok(()));
        if let Err(error) = done {
            eprintln!("a publisher of the burst: {error}");
        }
    }
}
