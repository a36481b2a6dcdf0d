//! Handing over what this node does before it stops or leaves the cluster: leadership, bridges, clients.
//! Always true: once it has begun no client gets in any more, unless it is cancelled; a client that is told to go somewhere
//! else is told of a node that served a moment ago and means to stay; nothing is taken from a client that was not acknowledged to it, since its connection ends as at
//! any other order to go.
use crate::{
    broker::Broker,
    config::{ListenAddress, ListenerProtocol, ListenerSettings, Settings},
    live::{Order, side::Nobody},
};
use arc_swap::ArcSwap;
use mosquorum_cluster::{AdminRequest, ClientListener, Neighbour, Submission, ids::NodeId, state::Command};
use mosquorum_proto::mqtt::Utf8;
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

const PER_SECOND: u32 = 500;
/// So many are sent away at least, however much time there is.
const PER_SECOND_MIN: u32 = 50;
/// Part of the time given within which the last one is told to go.
const TIME_FOR_ALL: f64 = 0.7;
const TRANSFER_PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked where clients can go, and whether all are gone.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const GONE_CHECK: Duration = Duration::from_millis(20);
/// For connections to end once all of them were told.
const LAST_PATIENCE: Duration = Duration::from_secs(3);

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

/// Whether this node hands its clients over, and where to.
#[derive(Default)]
pub struct Drain {
    on: AtomicBool,
    /// How often one was cancelled.
    cancelled: AtomicUsize,
    /// Nodes that leave together with this one.
    leaving: ArcSwap<Vec<NodeId>>,
    others: ArcSwap<Vec<Neighbour>>,
    next: AtomicUsize,
}

impl Drain {
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Whether nobody has cancelled since.
    fn still(&self, turn: usize) -> bool {
        self.cancelled.load(SeqCst) == turn
    }

    /// Where a client of this listener can go: to the other nodes in turn.
    pub fn reference(&self, listener: &ListenerSettings) -> Option<Utf8> {
        let others = self.others.load();
        let places: Vec<&str> = others.iter().filter_map(|other| fitting(&other.listeners, listener)).collect();
        let turn = self.next.fetch_add(1, Relaxed);
        places.get(turn % places.len().max(1)).map(|place| Utf8::from(*place))
    }
}

/// The listener that speaks as this one does: on the same port, or else the first.
fn fitting<'a>(theirs: &'a [ClientListener], ours: &ListenerSettings) -> Option<&'a str> {
    let websockets = ours.protocol == ListenerProtocol::Websockets;
    let alike = || theirs.iter().filter(|other| other.tls == ours.tls.is_some() && other.websockets == websockets);
    let same_port = alike().find(|other| other.port == ours.address.port());
    same_port.or_else(|| alike().next()).map(|other| other.reference.as_str())
}

/// What other nodes may tell their clients about this one.
#[must_use]
pub fn listeners_for_others(settings: &Settings) -> Vec<ClientListener> {
    let Some(reference) = &settings.server_reference else { return Vec::new() };
    let of_this_machine = |host: &str| host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let each = settings.listeners.iter().filter_map(|listener| {
        let ListenAddress::Tcp { port, host, .. } = &listener.address else { return None };
        if host.as_deref().is_some_and(of_this_machine) && !of_this_machine(reference) {
            return None;
        }
        let host = if reference.contains(':') { format!("[{reference}]") } else { reference.clone() };
        Some(ClientListener {
            reference: format!("{host}:{port}"),
            port: *port,
            tls: listener.tls.is_some(),
            websockets: listener.protocol == ListenerProtocol::Websockets,
        })
    });
    each.collect()
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
    broker.close_all(Order::Drained, LAST_PATIENCE).await;
    let since = Instant::now();
    while !broker.registry.is_vacant() {
        if since.elapsed() > LAST_PATIENCE {
            return Err(format!("{} clients do not go", broker.registry.len()));
        }
        sleep(GONE_CHECK).await;
    }
    if broker.drain.is_on() { Ok(()) } else { Err(CANCELLED.into()) }
}

/// The node goes on: clients and bridges may come again. Who was told to go goes all the same.
pub fn cancel(broker: &Arc<Broker>) -> String {
    broker.drain.leaving.store(Arc::default());
    if !broker.drain.on.swap(false, SeqCst) {
        return "this node was not being drained".to_owned();
    }
    broker.drain.cancelled.fetch_add(1, SeqCst);
    propose(broker, Command::NodeStays);
    broker.bridges.apply(broker);
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
        broker.bridges.stop().await;
    }
    if broker.drain.still(turn) {
        return Ok(turn);
    }
    // Those that were stopped behind the cancel's back.
    broker.bridges.apply(broker);
    Err(CANCELLED.into())
}

async fn look_around(broker: &Broker) {
    let mut others = broker.consensus.neighbours().await;
    let leaving = broker.drain.leaving.load();
    others.retain(|other| !leaving.contains(&other.node));
    broker.drain.others.store(Arc::new(others));
}

/// Tells the cluster, so that bridges go elsewhere and nobody sends clients here.
fn announce(broker: &Broker) {
    let origin = broker.consensus.origin();
    if broker.consensus.state().read().takes_bridges(origin.node) {
        propose(broker, Command::NodeDraining);
    }
}

fn propose(broker: &Broker, command: Command) {
    broker.consensus.submit(vec![Submission { command, reply: Arc::new(Nobody), ticket: 0, life: None }]);
}

async fn hand_over_leadership(broker: &Broker) {
    let status = broker.consensus.status();
    let voters = status.members.iter().filter(|member| member.voter).count();
    if status.leader != Some(status.node) || voters < 2 {
        return;
    }
    let transfer = broker.consensus.admin(AdminRequest::TransferLeader { to: None });
    match timeout(TRANSFER_PATIENCE, transfer).await {
        Ok(Ok(_)) => {}
        Ok(Err(reason)) => crate::warning!("Warning: leadership is not handed over: {reason}."),
        Err(_) => crate::warning!("Warning: leadership is not handed over: no node has taken it in time."),
    }
}

/// Tells one client after the other to go, until none is left.
async fn send_away(broker: &Arc<Broker>, pace: Pace, turn: usize) -> Result<usize, String> {
    let interval = pace.interval(broker.registry.len());
    let (mut due, mut looked, mut told) = (Instant::now(), Instant::now(), 0);
    loop {
        let all = broker.registry.undrained();
        if all.is_empty() && broker.registry.is_empty() {
            return Ok(told);
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
            told += usize::from(broker.registry.evict_connection(&client_id, connection, Order::Drained).is_some());
            if looked.elapsed() > LOOK_AGAIN {
                look_around(broker).await;
                // Another life of this node would have to say it again.
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
    use crate::config::Sources;

    fn settings(text: &str) -> Settings {
        let name = format!("mosquorum-drain-{}-{:?}.conf", std::process::id(), std::thread::current().id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, text).expect("a temporary file");
        let sources = Sources { file: Some(file.clone()), ..Sources::default() };
        let settings = Settings::load(&sources).expect("a good configuration");
        let _ = std::fs::remove_file(&file);
        settings
    }

    const CLUSTER: &str = "cluster_listener 7883\ncluster_insecure true\ncluster_advertise node-1.example:7883\n";

    #[test]
    fn others_are_told_of_listeners_that_their_clients_can_reach() {
        let references = |text: &str| -> Vec<String> {
            listeners_for_others(&settings(text)).into_iter().map(|listener| listener.reference).collect()
        };
        let listeners =
            "listener 1883\nlistener 1884 127.0.0.1\nlistener 0 /tmp/x.sock\nlistener 9001\nprotocol websockets\n";
        assert_eq!(references(&format!("{CLUSTER}{listeners}")), ["node-1.example:1883", "node-1.example:9001"]);
        let elsewhere = format!("{CLUSTER}server_reference ::1\n{listeners}");
        assert_eq!(references(&elsewhere), ["[::1]:1883", "[::1]:1884", "[::1]:9001"]);
        assert!(references(&format!("{CLUSTER}server_reference none\n{listeners}")).is_empty());
        assert!(references(listeners).is_empty());
    }

    #[test]
    fn clients_go_to_the_other_nodes_in_turn_and_stay_with_their_kind_of_listener() {
        let listener = |reference: &str, port, websockets| ClientListener {
            reference: reference.to_owned(),
            port,
            tls: false,
            websockets,
        };
        let drain = Drain::default();
        let ours = settings("listener 1883\nlistener 9001\nprotocol websockets\n").listeners;
        assert_eq!(drain.reference(&ours[0]), None);
        let neighbour = |listeners| Neighbour { listeners, ..Neighbour::default() };
        drain.others.store(Arc::new(vec![
            neighbour(vec![listener("b:1884", 1884, false), listener("b:1883", 1883, false)]),
            neighbour(vec![listener("c:9002", 9002, true), listener("c:1885", 1885, false)]),
            neighbour(Vec::new()),
        ]));
        let told: Vec<String> = (0..4).filter_map(|_| drain.reference(&ours[0])).map(|r| r.to_string()).collect();
        assert!(told == ["c:1885", "b:1883", "c:1885", "b:1883"] || told == ["b:1883", "c:1885", "b:1883", "c:1885"]);
        assert_eq!(drain.reference(&ours[1]).as_deref(), Some("c:9002"));
    }

    #[test]
    fn the_pace_is_what_was_said_or_what_the_time_needs() {
        assert_eq!(Pace::PerSecond(100).interval(7), Duration::from_millis(10));
        assert_eq!(Pace::Within(Duration::from_secs(10)).interval(7000), Duration::from_millis(1));
        assert_eq!(Pace::Within(Duration::from_secs(10)).interval(3), Duration::from_millis(20));
    }
}
