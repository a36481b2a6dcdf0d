//! What the disturbers do to a node. Each begins when it is called and goes on in tasks of its own until they are dropped.
use super::{super::offline_session, Disturbed, Disturber, Failed};
use crate::{
    client::{Connection, Result, message, topic_filter},
    random::Random,
};
use bytes::BytesMut;
use mosquorum_proto::mqtt::{Connect, Packet, ProtocolVersion, QoS, Subscription, encode};
use rustix::process::Signal;
use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

const BROADCASTS: usize = 5;
const UNAUTHENTICATED: usize = 1200;
const FILTERS: usize = 60;
const WRONG_LOGINS: usize = 2000;
const HEAVY_PUBLISHERS: usize = 30;
const HEAVY_BYTES: usize = 100_000;
const HEAVY_WINDOW: u64 = 10;
/// Each of them.
const HEAVY_MESSAGES: u64 = 100;
const FLOOD_BYTES: usize = 10_000;
const FLOOD_PAUSE: Duration = Duration::from_millis(1);
const DRAINED: usize = 500;
const STATE_BYTES: usize = 5000;
const STATE_MESSAGES: u64 = 20_000;
/// Clients that come at the same time.
const AT_ONCE: usize = 300;
/// For all of them.
const STORM_TIMEOUT: Duration = Duration::from_secs(300);

fn client(name: String) -> Connect {
    Connect::new(ProtocolVersion::V311, name)
}

/// Before the flow begins: what the disturber needs to be one.
pub(super) async fn prepare(disturbed: &mut Disturbed) -> std::result::Result<(), Failed> {
    let target = disturbed.cluster.address(0);
    match disturbed.disturber {
        Disturber::DeadPeer => {
            disturbed.cluster.kill(disturbed.victim);
            // Its lease is over, its sessions are free, and a leader is there.
            sleep(Duration::from_secs(5)).await;
        }
        Disturber::UnresolvablePeer => {
            for node in 0..disturbed.cluster.len() {
                let file = disturbed.cluster.configuration_file(node);
                let text = format!("cluster_peer nowhere.invalid:7883\n{}", std::fs::read_to_string(file)?);
                std::fs::write(file, text)?;
            }
            for node in 0..disturbed.cluster.len() {
                disturbed.cluster.stop_node(node).await?;
                disturbed.cluster.start_node(node)?;
                disturbed.cluster.wait_serving(node, Duration::from_secs(30)).await?;
            }
            sleep(Duration::from_secs(3)).await;
        }
        Disturber::WildcardScanner => {
            fill(target, disturbed.retained, |n| format!("scan/{}/{}", n % 500, n / 500), 8).await?
        }
        Disturber::TopicReport => {
            fill(target, disturbed.retained, |n| format!("scan/{}/{}", n % 500, n / 500), 8).await?;
            let (mut reader, _) = Connection::connected(target, client("reporter".into())).await?;
            for part in 0..20 {
                let filter = |n| Subscription::new(topic_filter(&format!("report/{part}/{n}")), QoS::AtMostOnce);
                reader.subscribe((0..100).map(filter).collect()).await?;
            }
            disturbed.connections.push(reader);
        }
        Disturber::Checkpoint => {
            fill(target, STATE_MESSAGES, |n| format!("state/{}/{n}", n % 100), STATE_BYTES).await?
        }
        Disturber::HeavyPublishers => offline_session(target, "heavy", "heavy/#").await?,
        Disturber::Drain => {
            let address = disturbed.cluster.address(disturbed.victim);
            disturbed.connections = connect_all(&[address], DRAINED, &disturbed.handle()).await?;
        }
        Disturber::Reconnects => {
            let count = disturbed.reconnects;
            disturbed.connections = connect_all(&disturbed.cluster.addresses(), count, &disturbed.handle()).await?;
        }
        Disturber::Broadcast => {
            let nodes = disturbed.cluster.addresses();
            let sleeper = move |number: usize| {
                let (target, name) = (nodes[number % nodes.len()], format!("sleeper-{number}"));
                async move { offline_session(target, &name, "broadcast").await }
            };
            many(disturbed.sleepers, &tokio::runtime::Handle::current(), sleeper).await?;
        }
        Disturber::Nobody
        | Disturber::NobodyOfTwo
        | Disturber::IdleUnauthenticated
        | Disturber::LoginStorm
        | Disturber::SlowReader => {}
    }
    Ok(())
}

/// Begins; returns when what has an end is over.
pub(super) async fn disturb(
    disturbed: &mut Disturbed,
    tasks: &mut JoinSet<Result<()>>,
) -> std::result::Result<(), Failed> {
    let (target, handle) = (disturbed.cluster.address(0), disturbed.handle());
    match disturbed.disturber {
        Disturber::Nobody | Disturber::NobodyOfTwo | Disturber::DeadPeer | Disturber::UnresolvablePeer => {}
        Disturber::IdleUnauthenticated => {
            for _ in 0..UNAUTHENTICATED {
                disturbed.unauthenticated.push(TcpStream::connect(target).await?);
            }
        }
        Disturber::WildcardScanner => drop(tasks.spawn_on(scan(target), &handle)),
        Disturber::LoginStorm => {
            let storm = many(WRONG_LOGINS, &handle, move |number| wrong_login(target, number));
            storm.await?;
        }
        Disturber::HeavyPublishers => {
            for number in 0..HEAVY_PUBLISHERS {
                tasks.spawn_on(heavy(target, number), &handle);
            }
        }
        Disturber::SlowReader => {
            let (mut reader, _) = Connection::connected(target, client("slow".into())).await?;
            reader.subscribe_to("slow/#", QoS::AtLeastOnce).await?;
            disturbed.connections.push(reader);
            tasks.spawn_on(flood(target, QoS::AtMostOnce), &handle);
            tasks.spawn_on(flood(target, QoS::AtLeastOnce), &handle);
        }
        Disturber::TopicReport => {
            for _ in 0..3 {
                disturbed.cluster.signal(0, Signal::USR2);
                sleep(Duration::from_secs(1)).await;
            }
        }
        Disturber::Checkpoint => {
            disturbed.cluster.signal(0, Signal::USR1);
        }
        Disturber::Drain => {
            disturbed.cluster.command(disturbed.victim, "drain").await??;
        }
        Disturber::Broadcast => {
            let (mut publisher, _) = Connection::connected(target, client("broadcaster".into())).await?;
            publisher.timeout = STORM_TIMEOUT;
            for _ in 0..BROADCASTS {
                publisher.publish(message("broadcast", vec![b'b'; 64], QoS::AtLeastOnce)).await?;
                sleep(Duration::from_secs(1)).await;
            }
            publisher.disconnect().await?;
        }
        Disturber::Reconnects => {
            let (nodes, count) = (disturbed.cluster.addresses(), disturbed.reconnects);
            drop(std::mem::take(&mut disturbed.connections));
            disturbed.connections = connect_all(&nodes, count, &handle).await?;
        }
    }
    Ok(())
}

/// Retained messages, in a few connections.
async fn fill(target: SocketAddr, count: u64, topic: fn(u64) -> String, bytes: usize) -> Result<()> {
    const PARTS: u64 = 4;
    let mut parts = JoinSet::new();
    for part in 0..PARTS {
        parts.spawn(async move {
            let (mut filler, _) = Connection::connected(target, client(format!("filler-{part}"))).await?;
            let make = |number: u64| {
                let number = number * PARTS + part;
                let mut publish = message(&topic(number), vec![b'r'; bytes], QoS::AtLeastOnce);
                publish.retain = true;
                publish
            };
            filler.publish_many(count / PARTS, 500, make).await?;
            filler.disconnect().await
        });
    }
    while let Some(done) = parts.join_next().await {
        done.unwrap_or(Ok(()))?;
    }
    Ok(())
}

/// Sixty filters that match nothing of what is retained but have to look for it, again and again.
async fn scan(target: SocketAddr) -> Result<()> {
    let (mut scanner, _) = Connection::connected(target, client("scanner".into())).await?;
    scanner.timeout = STORM_TIMEOUT;
    for round in 0.. {
        let filter = |number| Subscription::new(topic_filter(&format!("+/+/zz{round}-{number}")), QoS::AtMostOnce);
        scanner.subscribe((0..FILTERS).map(filter).collect()).await?;
    }
    Ok(())
}

/// A name that exists, a password that is wrong, and nobody who waits for the answer.
async fn wrong_login(target: SocketAddr, number: usize) -> Result<()> {
    let mut connect = client(format!("wrong-{number}"));
    connect.user_name = Some("somebody".into());
    connect.password = Some(format!("wrong-{number}").into());
    let mut bytes = BytesMut::new();
    encode(&Packet::Connect(Box::new(connect)), ProtocolVersion::V311, &mut bytes);
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(&bytes).await?;
    Ok(())
}

async fn heavy(target: SocketAddr, number: usize) -> Result<()> {
    let (mut publisher, _) = Connection::connected(target, client(format!("heavy-{number}"))).await?;
    publisher.timeout = STORM_TIMEOUT;
    let make = |_| message(&format!("heavy/{number}"), vec![b'h'; HEAVY_BYTES], QoS::AtLeastOnce);
    publisher.publish_many(HEAVY_MESSAGES, HEAVY_WINDOW, make).await?;
    publisher.disconnect().await
}

/// For the reader that does not read.
async fn flood(target: SocketAddr, qos: QoS) -> Result<()> {
    let (mut publisher, _) = Connection::connected(target, client(format!("flood-{}", qos as u8))).await?;
    publisher.timeout = STORM_TIMEOUT;
    loop {
        publisher.publish(message("slow/flood", vec![b's'; FLOOD_BYTES], qos)).await?;
        sleep(FLOOD_PAUSE).await;
    }
}

/// Calls `make` so often, [`AT_ONCE`] at a time; what fails is tried no more.
async fn many<F, T>(
    count: usize,
    handle: &tokio::runtime::Handle,
    make: impl Fn(usize) -> F,
) -> std::result::Result<Vec<T>, Failed>
where
    F: Future<Output = Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let (turns, mut tasks, mut done) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new(), Vec::new());
    for number in 0..count {
        let (turns, one) = (turns.clone(), make(number));
        let one = async move {
            let _turn = turns.acquire().await;
            one.await
        };
        tasks.spawn_on(one, handle);
    }
    let until = Instant::now() + STORM_TIMEOUT;
    let mut failed = 0;
    while let Ok(Some(one)) = timeout(until - Instant::now(), tasks.join_next()).await {
        match one {
            Ok(Ok(one)) => done.push(one),
            _ => failed += 1,
        }
    }
    if failed > 0 || !tasks.is_empty() {
        eprintln!("  {failed} of {count} failed, {} have no answer", tasks.len());
    }
    Ok(done)
}

/// Clean clients that stay, spread over the nodes, each with a subscription of its own; who is refused tries again.
async fn connect_all(
    nodes: &[SocketAddr],
    count: usize,
    handle: &tokio::runtime::Handle,
) -> std::result::Result<Vec<Connection>, Failed> {
    let nodes = nodes.to_vec();
    let found = many(count, handle, move |number| {
        let target = nodes[number % nodes.len()];
        async move {
            let mut random = Random::new(number as u64);
            loop {
                let mut connect = client(format!("crowd-{number}"));
                connect.keep_alive_seconds = 300;
                if let Ok((mut connection, _)) = Connection::connected(target, connect).await {
                    connection.subscribe_to(&format!("crowd/{number}"), QoS::AtMostOnce).await?;
                    return Ok(connection);
                }
                sleep(Duration::from_millis(random.between(20, 100))).await;
            }
        }
    });
    found.await
}
