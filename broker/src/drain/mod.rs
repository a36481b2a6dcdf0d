//! Handing over what this node does before it stops or leaves the cluster: leadership, bridges, clients.
//! Always true: once it has begun no client gets in any more, unless it is cancelled; a client that is sent somewhere
//! else is sent to a node that served a moment ago and means to stay; nothing is taken from a client that was not acknowledged to it, since its connection ends as at
//! any other order to go.
pub mod state;

use crate::{bridges, broker::Broker, live::Order};
use mosquorum_cluster::{AdminRequest, Submission, ids::NodeId, state::Command};
use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

const PER_SECOND: u32 = 500;
/// So many are sent away at least, however much time there is.
const PER_SECOND_MIN: u32 = 50;
/// Part of the time given within which the last one is sent away.
const TIME_FOR_ALL: f64 = 0.7;
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it is looked where clients can go, and whether all are gone.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const GONE_CHECK: Duration = Duration::from_millis(20);
/// For connections to end once all clients were sent away.
const LAST_TIMEOUT: Duration = Duration::from_secs(3);

/// How fast clients go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    PerSecond(u32),
    /// All of them in that time.
    Within(Duration),
}

impl Default for Pace {
    fn default() -> Self {
        Self::PerSecond(PER_SECOND)
    }
}

impl Pace {
    /// Between one client and the next.
    fn interval(self, clients: usize) -> Duration {
        let per_second = match self {
            Self::PerSecond(rate) => f64::from(rate.max(1)),
            Self::Within(time) => (clients as f64 / (time.as_secs_f64() * TIME_FOR_ALL)).max(f64::from(PER_SECOND_MIN)),
        };
        Duration::from_secs_f64(1.0 / per_second)
    }
}

const CANCELLED: &str = "the drain was cancelled, the node takes clients again";

/// Hands everything over; returns when no client is left. Dropping the future leaves the node as it is then: it goes on
/// refusing new clients.
/// # Errors
/// When it was cancelled meanwhile.
pub async fn run(broker: &Arc<Broker>, pace: Pace) -> Result<String, String> {
    let turn = begin(broker).await?;
    let clients = broker.registry.len();
    let others = broker.drain.others.load();
    let names: Vec<&str> = others.iter().map(|other| other.name.as_str()).collect();
    let to = if names.is_empty() { "no other node answers".to_owned() } else { names.join(", ") };
    crate::notice!("Draining: {clients} clients are handed over; nodes that take them: {to}.");
    let gone = send_away(broker, pace, turn).await?;
    crate::notice!("Drained: {gone} clients are gone; this node can be stopped.");
    Ok(format!("{gone} clients handed over; this node takes no new ones and can be stopped"))
}

/// This node is about to be taken out of the cluster, together with others; returns when nobody is left on it.
/// # Errors
/// When somebody cancelled it, or connections do not end.
pub async fn leave(broker: &Arc<Broker>, leaving: Vec<NodeId>, within: Duration) -> Result<(), String> {
    broker.drain.leaving.store(Arc::new(leaving));
    match timeout(within, run(broker, Pace::Within(within))).await {
        Ok(Err(reason)) => return Err(reason),
        Ok(Ok(_)) => {}
        // The time is over, or there was none.
        Err(_) => drop(begin(broker).await?),
    }
    broker.close_all(Order::Drained, LAST_TIMEOUT).await;
    let since = Instant::now();
    while !broker.registry.is_vacant() {
        if since.elapsed() > LAST_TIMEOUT {
            return Err(format!("{} clients do not go", broker.registry.len()));
        }
        sleep(GONE_CHECK).await;
    }
    if broker.drain.is_on() { Ok(()) } else { Err(CANCELLED.into()) }
}

/// The node goes on: clients and bridges may come again. Who was sent away goes all the same.
pub fn cancel(broker: &Arc<Broker>) -> String {
    broker.drain.leaving.store(Arc::default());
    if !broker.drain.on.swap(false, SeqCst) {
        return "this node was not being drained".to_owned();
    }
    broker.drain.cancelled.fetch_add(1, SeqCst);
    propose(broker, Command::NodeStays);
    bridges::apply(broker);
    crate::notice!("The drain was cancelled: clients are taken again.");
    "this node takes clients again".to_owned()
}

/// No new client from here on; leadership and bridges go. Returns the number by which a cancel is noticed.
async fn begin(broker: &Arc<Broker>) -> Result<usize, String> {
    let turn = broker.drain.cancelled.load(SeqCst);
    broker.drain.on.store(true, SeqCst);
    look_around(broker).await;
    if broker.drain.still(turn) {
        announce(broker);
        hand_over_leadership(broker).await;
    }
    if broker.drain.still(turn) {
        bridges::stop(broker).await;
    }
    if broker.drain.still(turn) {
        return Ok(turn);
    }
    // Those that were stopped behind the cancel's back.
    bridges::apply(broker);
    Err(CANCELLED.into())
}

async fn look_around(broker: &Broker) {
    let mut others = broker.consensus.neighbours().await;
    let leaving = broker.drain.leaving.load();
    others.retain(|other| !leaving.contains(&other.node));
    broker.drain.others.store(Arc::new(others));
}

/// Announces it to the cluster, so that bridges go elsewhere and nobody sends clients here.
fn announce(broker: &Broker) {
    let origin = broker.consensus.origin();
    if broker.consensus.state().read().takes_bridges(origin.node) {
        propose(broker, Command::NodeDraining);
    }
}

fn propose(broker: &Broker, command: Command) {
    broker.consensus.submit(vec![Submission::without_reply(command, None)]);
}

async fn hand_over_leadership(broker: &Broker) {
    let status = broker.consensus.status();
    let voters = status.members.iter().filter(|member| member.voter).count();
    if status.leader != Some(status.node) || voters < 2 {
        return;
    }
    let transfer = broker.consensus.admin(AdminRequest::TransferLeader { to: None });
    match timeout(TRANSFER_TIMEOUT, transfer).await {
        Ok(Ok(_)) => {}
        Ok(Err(reason)) => crate::warning!("Warning: leadership is not handed over: {reason}."),
        Err(_) => crate::warning!("Warning: leadership is not handed over: no node has taken it in time."),
    }
}

/// Sends away one client after the other, until none is left.
async fn send_away(broker: &Arc<Broker>, pace: Pace, turn: usize) -> Result<usize, String> {
    let interval = pace.interval(broker.registry.len());
    let (mut due, mut looked, mut sent) = (Instant::now(), Instant::now(), 0);
    loop {
        let all = broker.registry.undrained();
        if all.is_empty() && broker.registry.is_empty() {
            return Ok(sent);
        }
        if !broker.drain.still(turn) {
            return Err(CANCELLED.into());
        }
        for (client_id, connection) in all {
            if due > Instant::now() + Duration::from_millis(5) {
                sleep_until(due).await;
            }
            if !broker.drain.still(turn) {
                return Err(CANCELLED.into());
            }
            // Time that was lost is not made up for all at once.
            due = due.max(Instant::now()) + interval;
            sent += usize::from(broker.registry.evict_connection(&client_id, connection, Order::Drained).is_some());
            if looked.elapsed() > LOOK_AGAIN {
                look_around(broker).await;
                // Another incarnation of this node would have to say it again.
                announce(broker);
                looked = Instant::now();
            }
        }
        sleep(GONE_CHECK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_what_was_said_or_what_the_time_needs() {
        assert_eq!(Pace::PerSecond(100).interval(7), Duration::from_millis(10));
        assert_eq!(Pace::Within(Duration::from_secs(10)).interval(7000), Duration::from_millis(1));
        assert_eq!(Pace::Within(Duration::from_secs(10)).interval(3), Duration::from_millis(20));
    }
}
