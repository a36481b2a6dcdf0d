//! One run: sides, traffic, faults, and the end, when everything has had its time to arrive.
use super::{
    link::{Link, Proxy},
    traffic::{Published, Publisher, Reader},
    verdict::verdict,
};
use crate::{
    cluster::{Cluster, ClusterOptions},
    history::MessageId,
    measure::{Measured, resident_mib},
    random::Random,
};
use mosquorum_proto::mqtt::{ProtocolVersion, QoS};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinHandle, time::sleep};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubKind {
    /// One node of ours, killed -9.
    Ours,
    /// Debian's mosquitto, stopped by SIGTERM.
    Mosquitto,
}

#[derive(Debug, Clone)]
pub struct BridgedOptions {
    pub hub: HubKind,
    /// `bridge_protocol_version`.
    pub version: String,
    /// Towards the site instead of towards the hub.
    pub inwards: bool,
    pub nodes: usize,
    pub qos1: u64,
    pub qos2: u64,
    pub cuts: usize,
    pub kills: usize,
    pub restarts: usize,
    pub seed: u64,
}

impl Default for BridgedOptions {
    fn default() -> Self {
        Self {
            hub: HubKind::Ours,
            version: "mqttv311".to_owned(),
            inwards: false,
            nodes: 3,
            qos1: 100_000,
            qos2: 20_000,
            cuts: 20,
            kills: 5,
            restarts: 3,
            seed: 1,
        }
    }
}

const PUBLISHERS_QOS1: u32 = 4;
const PUBLISHERS_QOS2: u32 = 2;
/// Without any arrival, nothing more is waited for.
const SILENCE: Duration = Duration::from_secs(45);
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
enum Fault {
    Cut,
    KillBridge,
    RestartHub,
}

struct Sides {
    site: Cluster,
    hub: Cluster,
    proxy: Proxy,
    random: Random,
    kind: HubKind,
    /// Faults that took effect.
    done: usize,
}

/// # Errors
/// When a broker does not start or does not come back.
pub async fn run(options: &BridgedOptions) -> Measured {
    println!("seed {}", options.seed);
    let mut sides = Sides::start(options).await?;
    let (from, to) = match options.inwards {
        true => (sides.hub.addresses(), sides.site.addresses()),
        false => (sides.site.addresses(), sides.hub.addresses()),
    };
    let reader = Reader { name: "reader".to_owned(), filter: "x/#".to_owned(), addresses: to };
    reader.create().await?;
    sides.bridging(TIMEOUT).await?;
    let (arrived, mut arrivals) = watch::channel(0);
    let (stop, stopped) = watch::channel(false);
    let reader = tokio::spawn(reader.run(arrived, stopped));
    let (allowances, publishers) = publishers(options, &from);
    let began = Instant::now();
    sides.disturb(options, &allowances).await?;
    drop(allowances);
    let mut published = BTreeMap::new();
    for (number, task) in publishers {
        published.insert(number, task.await?);
    }
    let expected = published.values().map(|known| known.acknowledged.len()).sum::<usize>();
    println!("all published after {:?}, {expected} acknowledged", began.elapsed());
    while let Ok(Ok(())) = tokio::time::timeout(SILENCE, arrivals.changed()).await {
        if *arrivals.borrow_and_update() >= expected {
            // Whatever comes twice comes soon.
            sleep(Duration::from_secs(3)).await;
            break;
        }
    }
    stop.send_replace(true);
    let received = reader.await??;
    let verdict = verdict(&published, &received);
    let wire = sides.proxy.recorder().judge();
    let ours = |ids: &[MessageId], theirs: &BTreeSet<MessageId>| ids.iter().filter(|id| !theirs.contains(id)).count();
    let (unordered, repeated) = (&verdict.out_of_order[..], &verdict.repeated_qos_2[..]);
    if verdict.lost + repeated.len() + unordered.len() + verdict.foreign > 0 {
        sides.site.keep_folder();
        sides.hub.keep_folder();
        println!("kept: {} {}", sides.site.folder().display(), sides.hub.folder().display());
    }
    Ok(json!({
        "hub": format!("{:?}", options.hub), "version": options.version, "inwards": options.inwards,
        "seed": options.seed, "seconds": began.elapsed().as_secs(), "faults": sides.done,
        "acknowledged": verdict.acknowledged, "arrived": verdict.arrived, "lost": verdict.lost,
        "lost_examples": verdict.lost_examples, "repeated_qos_2": repeated.len(),
        "repeated_qos_1": verdict.repeated_qos_1, "out_of_order": unordered.len(), "foreign": verdict.foreign,
        "wire_connections": wire.connections, "wire_sessions_forgotten": wire.sessions_forgotten,
        "wire_most_unanswered": wire.most_unanswered, "wire_sent_out_of_order": wire.sent_out_of_order.len(),
        "wire_sent_again_after_release": wire.sent_again_after_release.len(),
        "wire_reused_identifiers": wire.identifiers_reused,
        "wire_answered_out_of_order": wire.answered_out_of_order,
        "out_of_order_not_on_wire": ours(unordered, &wire.sent_out_of_order),
        "repeated_qos_2_not_on_wire": ours(repeated, &wire.sent_again_after_release),
    }))
}

type Publishers = Vec<(u32, JoinHandle<Published>)>;

fn publishers(
    options: &BridgedOptions,
    addresses: &[std::net::SocketAddr],
) -> (Vec<(watch::Sender<u64>, u64)>, Publishers) {
    (0..PUBLISHERS_QOS1 + PUBLISHERS_QOS2)
        .map(|number| {
            let (qos, share) = match number < PUBLISHERS_QOS1 {
                true => (QoS::AtLeastOnce, options.qos1 / u64::from(PUBLISHERS_QOS1)),
                false => (QoS::ExactlyOnce, options.qos2 / u64::from(PUBLISHERS_QOS2)),
            };
            let topic = format!("x/{number}");
            let publisher = Publisher { number, topic, qos, addresses: addresses.to_vec(), window: 50, filler: 172 };
            let (allowance, allowed) = watch::channel(0);
            ((allowance, share), (number, tokio::spawn(publisher.run(allowed))))
        })
        .unzip()
}

impl Sides {
    async fn start(options: &BridgedOptions) -> io::Result<Self> {
        let unbounded = |options: ClusterOptions| options.persistent().with("max_queued_messages 0");
        let mut hub = unbounded(ClusterOptions::new("bridged-hub", 1)).with("max_inflight_messages 100");
        if options.hub == HubKind::Mosquitto {
            hub.binary = Some(PathBuf::from("/usr/sbin/mosquitto"));
            hub = hub.with("log_type all");
        }
        let hub = Cluster::start(hub).await?;
        let version = match options.version.as_str() {
            "mqttv50" => ProtocolVersion::V5,
            _ => ProtocolVersion::V311,
        };
        let proxy = Proxy::start(hub.address(0), version).await?;
        let direction = if options.inwards { "in" } else { "out" };
        let site = unbounded(ClusterOptions::new("bridged-site", options.nodes))
            .with_listener("connection link")
            .with_listener(&format!("address {}", proxy.address))
            .with_listener("remote_clientid site")
            .with_listener(&format!("bridge_protocol_version {}", options.version))
            .with_listener("keepalive_interval 5")
            .with_listener("restart_timeout 1")
            .with_listener("cleansession false")
            .with_listener("bridge_session_expiry_interval 86400")
            .with_listener(&format!("topic x/# {direction} 2"));
        let site = Cluster::start(site).await?;
        Ok(Self { site, hub, proxy, random: Random::new(options.seed), kind: options.hub, done: 0 })
    }

    /// The node that has the bridge now, and is connected.
    async fn bridging(&mut self, timeout: Duration) -> io::Result<usize> {
        let deadline = Instant::now() + timeout;
        loop {
            for node in 0..self.site.len() {
                let log = self.site.log(node);
                let (up, down) = (log.rfind("Bridge link connected"), log.rfind("Bridge link lost"));
                if up.is_some() && up > down && self.site.runs(node) && up > log.rfind(" starting") {
                    return Ok(node);
                }
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("no node has the bridge\n{}", self.site.log_tail(0, 30))));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A burst of messages for every fault.
    async fn disturb(&mut self, options: &BridgedOptions, allowances: &[(watch::Sender<u64>, u64)]) -> io::Result<()> {
        let mut faults = vec![Fault::Cut; options.cuts];
        faults.extend(vec![Fault::KillBridge; options.kills]);
        faults.extend(vec![Fault::RestartHub; options.restarts]);
        for i in (1..faults.len()).rev() {
            faults.swap(i, self.random.below(i as u64 + 1) as usize);
        }
        let steps = faults.len() as u64 + 1;
        let allow = |step: u64| {
            allowances.iter().for_each(|(sender, all)| {
                sender.send_replace(all * step / steps);
            })
        };
        for (step, fault) in faults.into_iter().enumerate() {
            allow(step as u64 + 1);
            sleep(Duration::from_millis(self.random.between(20, 600))).await;
            self.inflict(fault).await?;
            sleep(Duration::from_millis(self.random.between(100, 2500))).await;
        }
        allow(steps);
        for node in 0..self.site.len() {
            self.site.wait_serving(node, TIMEOUT).await?;
        }
        self.hub.wait_serving(0, TIMEOUT).await?;
        self.bridging(TIMEOUT).await.map(|_| ())
    }

    async fn inflict(&mut self, fault: Fault) -> io::Result<()> {
        match fault {
            Fault::Cut => {
                let cut = *self.random.choose(&[Link::BlackHole, Link::Reset, Link::HalfOpen]);
                println!("link: {cut:?}");
                let before = self.proxy.passed();
                self.proxy.set(cut);
                sleep(Duration::from_millis(self.random.between(50, 4000))).await;
                self.proxy.set(Link::Open);
                self.done += usize::from(before > 0);
            }
            Fault::KillBridge => {
                let node = self.bridging(TIMEOUT).await?;
                println!("kill -9 of node {node}, which has the bridge");
                self.done += usize::from(self.site.kill(node));
                sleep(Duration::from_millis(self.random.between(100, 4000))).await;
                self.site.start_node(node)?;
                self.site.wait_serving(node, TIMEOUT).await?;
            }
            Fault::RestartHub => {
                println!("restart of the hub");
                match self.kind {
                    HubKind::Ours => self.done += usize::from(self.hub.kill(0)),
                    HubKind::Mosquitto => {
                        self.hub.stop_node(0).await?;
                        self.done += 1;
                    }
                }
                sleep(Duration::from_millis(self.random.between(100, 1500))).await;
                self.hub.start_node(0)?;
                self.hub.wait_serving(0, TIMEOUT).await?;
            }
        }
        Ok(())
    }
}

/// Messages of 200 bytes that wait for a hub that is away, then all leave.
#[derive(Debug, Clone)]
pub struct OutageOptions {
    pub nodes: usize,
    pub messages: u64,
}

/// # Errors
/// When a broker does not start.
pub async fn outage(options: &OutageOptions) -> Measured {
    let bridged = BridgedOptions { nodes: options.nodes, qos1: options.messages, qos2: 0, ..BridgedOptions::default() };
    let mut sides = Sides::start(&bridged).await?;
    let addresses = sides.hub.addresses();
    let reader = Reader { name: "reader".to_owned(), filter: "x/#".to_owned(), addresses };
    reader.create().await?;
    sides.bridging(TIMEOUT).await?;
    sides.proxy.set(Link::Reset);
    let (allowances, publishers) = publishers(&bridged, &sides.site.addresses());
    let began = Instant::now();
    allowances.iter().for_each(|(sender, all)| {
        sender.send_replace(*all);
    });
    drop(allowances);
    let mut published = BTreeMap::new();
    for (number, task) in publishers {
        published.insert(number, task.await?);
    }
    let queued_after = began.elapsed();
    let resident = |sides: &Sides| (0..options.nodes).map(|node| resident_mib(sides.site.process_id(node))).max();
    let queued_mib = resident(&sides).unwrap_or(0);
    let (arrived, mut arrivals) = watch::channel(0);
    let (stop, stopped) = watch::channel(false);
    let reader = tokio::spawn(reader.run(arrived, stopped));
    sides.proxy.set(Link::Open);
    let (began, mut peak_mib) = (Instant::now(), queued_mib);
    let expected = published.values().map(|known| known.acknowledged.len()).sum::<usize>();
    while let Ok(Ok(())) = tokio::time::timeout(SILENCE, arrivals.changed()).await {
        if *arrivals.borrow_and_update() >= expected {
            break;
        }
        peak_mib = peak_mib.max(resident(&sides).unwrap_or(0));
        sleep(Duration::from_millis(100)).await;
    }
    let drained_after = began.elapsed();
    stop.send_replace(true);
    let verdict = verdict(&published, &reader.await??);
    Ok(json!({
        "nodes": options.nodes, "messages": options.messages, "acknowledged": verdict.acknowledged,
        "lost": verdict.lost, "out_of_order": verdict.out_of_order.len(), "repeated": verdict.repeated_qos_1,
        "queued_seconds": queued_after.as_secs_f64(), "drained_seconds": drained_after.as_secs_f64(),
        "resident_mib_queued": queued_mib, "resident_mib_peak": peak_mib,
    }))
}
