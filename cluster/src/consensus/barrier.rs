//! Read barriers: everything acknowledged anywhere before one was asked for is applied here when it is passed.
//! Always true: the index that a round of barriers waits for is asked for after all of them arrived; a round that gets
//! no index (leader change, lost message) is asked again, never passed.
use crate::{
    facade::{Answer, Completion},
    raft::Engine,
    transport::{Purpose, Transport, services::raft::proposals_client::ProposalsClient},
};
use mosquorum_proto::peer::raft as wire;
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{sleep, timeout},
};

/// Rounds on their way at the same time.
const ROUNDS_MAX: usize = 4;
const ANSWER_TIMEOUT: Duration = Duration::from_millis(600);
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(20);

type Waiter = (Arc<dyn Completion>, u64);

#[derive(Default)]
pub(crate) struct Barriers {
    waiting: Mutex<Vec<Waiter>>,
    wake: Notify,
}

impl Barriers {
    pub(crate) fn ask(&self, reply: Arc<dyn Completion>, ticket: u64) {
        #[cfg(feature = "test-faults")]
        if crate::faults::planted("stale-route") {
            return reply.complete(ticket, Answer::BarrierPassed);
        }
        self.waiting.lock().push((reply, ticket));
        self.wake.notify_one();
    }

    /// Forgets whoever waits, without an answer.
    pub(crate) fn clear(&self) {
        let dropped = std::mem::take(&mut *self.waiting.lock());
        drop(dropped);
    }

    /// Runs as long as the group does.
    pub(crate) async fn run(
        self: Arc<Self>,
        engine: Arc<Engine>,
        transport: Arc<Transport>,
        applied: watch::Receiver<u64>,
    ) {
        let rounds = Arc::new(Semaphore::new(ROUNDS_MAX));
        loop {
            let Ok(slot) = rounds.clone().acquire_owned().await else { return };
            while self.waiting.lock().is_empty() {
                self.wake.notified().await;
            }
            let round = std::mem::take(&mut *self.waiting.lock());
            let (engine, transport, mut applied) = (engine.clone(), transport.clone(), applied.clone());
            tokio::spawn(async move {
                let index = obtain_index(&engine, &transport).await;
                if applied.wait_for(|applied| *applied >= index).await.is_ok() {
                    for (reply, ticket) in round {
                        reply.complete(ticket, Answer::BarrierPassed);
                    }
                }
                drop(slot);
            });
        }
    }
}

/// Asks until the leader of the moment has answered.
async fn obtain_index(engine: &Engine, transport: &Transport) -> u64 {
    let mut leadership = engine.leadership();
    loop {
        let now = *leadership.borrow_and_update();
        let asked = async {
            if now.is_self {
                return engine.read_index().await.ok();
            }
            let leader = now.leader?;
            let address = engine.view().member(leader)?.address.clone();
            let mut client = ProposalsClient::new(transport.channel(&address, Purpose::Control));
            let request = wire::ReadIndexRequest { envelope: Some(engine.identity.envelope(leader)) };
            client.read_index(request).await.ok().map(|reply| reply.into_inner().index)
        };
        tokio::select! {
            asked = timeout(ANSWER_TIMEOUT, asked) => {
                if let Ok(Some(index)) = asked {
                    return index;
                }
                tokio::select! {
                    () = sleep(PAUSE_AFTER_REFUSAL) => {}
                    _ = leadership.changed() => {}
                }
            }
            changed = leadership.changed() => {
                if changed.is_err() {
                    // The group has stopped: nothing is passed any more.
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}
