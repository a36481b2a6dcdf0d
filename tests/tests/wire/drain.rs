//! A node that is to be stopped hands over what it does: `mosquorum drain`, and SIGTERM with `shutdown_drain`.
use mosquorum_proto::mqtt::{Ack, Connect, Packet, ProtocolVersion, Publish, QoS, ReasonCode};
use mosquorum_tests::{
    client::{ClientError, Connection, TIMEOUT, message},
    cluster::{Cluster, ClusterOptions, Ended, binary::is_stand_in},
    http,
    skip::skip,
    target::TestResult,
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

const STAND_IN: &str = "MOSQUORUM_BIN is Eclipse Mosquitto, which cannot hand clients over";

fn durable(name: &str) -> Connect {
    let mut connect = Connect::new(ProtocolVersion::V5, name);
    connect.clean_start = false;
    connect.session_expiry_interval = Some(3600);
    connect
}

/// How the node ended a connection.
#[derive(Debug, PartialEq, Eq)]
enum DrainEnd {
    Reference(SocketAddr),
    Silent,
}

/// Reads up to DISCONNECT or the end; publishes are acknowledged and kept.
async fn until_end(connection: &mut Connection, received: &mut Vec<String>) -> DrainEnd {
    loop {
        match connection.recv_forever().await {
            Ok(Packet::Publish(publish)) => received.extend(acknowledged(connection, &publish).await),
            Ok(Packet::Disconnect(disconnect)) => {
                assert_eq!(disconnect.reason, ReasonCode::UseAnotherServer);
                let reference = disconnect.server_reference.expect("two other nodes run");
                return DrainEnd::Reference(reference.parse().expect("an address"));
            }
            Ok(_) => {}
            Err(_) => return DrainEnd::Silent,
        }
    }
}

async fn acknowledged(connection: &mut Connection, publish: &Publish) -> Option<String> {
    connection.send(&Packet::PubAck(Ack::new(publish.packet_id))).await.ok()?;
    Some(String::from_utf8_lossy(&publish.payload).into_owned())
}

/// Publishes one message after the other with QoS 1, follows references, and says at the end what was acknowledged.
async fn publish_until(mut at: SocketAddr, stop: Arc<AtomicBool>) -> (BTreeSet<String>, SocketAddr) {
    let (mut done, mut number) = (BTreeSet::new(), 0);
    'connect: while !stop.load(Relaxed) {
        let Ok((mut connection, connack)) = Connection::connect(at, Connect::new(ProtocolVersion::V5, "mover")).await
        else {
            continue;
        };
        if connack.reason != ReasonCode::Success {
            if let Some(reference) = connack.server_reference {
                at = reference.parse().expect("an address");
            }
            continue;
        }
        while !stop.load(Relaxed) {
            let text = format!("message {number}");
            match connection.publish(message("drained/a", text.clone(), QoS::AtLeastOnce)).await {
                Ok(_) => {
                    done.insert(text);
                    number += 1;
                }
                Err(ClientError::Unexpected { got, .. }) => {
                    if let Packet::Disconnect(disconnect) = *got
                        && let Some(reference) = disconnect.server_reference
                    {
                        at = reference.parse().expect("an address");
                    }
                    continue 'connect;
                }
                Err(_) => continue 'connect,
            }
        }
    }
    (done, at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_hands_over_its_clients_and_leadership_and_nothing_acknowledged_is_lost() -> TestResult {
    if is_stand_in() {
        skip(STAND_IN);
        return Ok(());
    }
    let mut cluster = Cluster::start(ClusterOptions::new("drain", 3)).await?;
    cluster.operate(0, "transfer-leader node-0").await?.ok();
    let (mut meter, _) = Connection::connected(cluster.address(0), durable("meter")).await?;
    meter.subscribe_to("drained/#", QoS::AtLeastOnce).await?;
    let mut plain = Connect::new(ProtocolVersion::V311, "plain");
    plain.keep_alive_seconds = 0;
    let (mut plain, _) = Connection::connected(cluster.address(0), plain).await?;
    let mut crowd = Vec::new();
    for number in 0..40 {
        let connect = Connect::new(ProtocolVersion::V5, format!("crowd-{number}"));
        crowd.push(Connection::connected(cluster.address(0), connect).await?.0);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = tokio::spawn(publish_until(cluster.address(0), stop.clone()));
    let mut received = Vec::new();
    let Some(Packet::Publish(first)) = meter.recv_within(TIMEOUT).await? else { panic!("a message") };
    received.extend(acknowledged(&mut meter, &first).await);
    // The meter goes on reading while the node is drained.
    let reader = tokio::spawn(async move {
        let end = until_end(&mut meter, &mut received).await;
        (end, received)
    });
    let answer = cluster.command(0, "drain --rate 100").await?;
    assert!(answer.as_ref().is_ok_and(|text| text.contains("clients handed over")), "{answer:?}");
    let (end, mut received) = reader.await.expect("the meter reads");
    let DrainEnd::Reference(elsewhere) = end else { panic!("{end:?}") };
    assert!([cluster.address(1), cluster.address(2)].contains(&elsewhere));
    assert_eq!(until_end(&mut plain, &mut Vec::new()).await, DrainEnd::Silent);
    let mut places = BTreeSet::new();
    for mut one in crowd {
        match until_end(&mut one, &mut Vec::new()).await {
            DrainEnd::Reference(place) => drop(places.insert(place)),
            DrainEnd::Silent => panic!("5.0 clients are sent to another node"),
        }
    }
    assert_eq!(places, BTreeSet::from([cluster.address(1), cluster.address(2)]));
    let (_, refused) = Connection::connect(cluster.address(0), durable("late")).await?;
    assert_eq!(refused.reason, ReasonCode::UseAnotherServer);
    assert!(refused.server_reference.is_some());
    let (_, refused) = Connection::connect(cluster.address(0), Connect::new(ProtocolVersion::V311, "old")).await?;
    assert_eq!(refused.reason, ReasonCode::ServerUnavailable);
    let leader = cluster.leader().await;
    assert!(leader.is_some_and(|leader| leader != 0), "{leader:?}");
    let (status, body) = http::get(cluster.health_address(0), "/readyz").await?;
    assert!(status == 503 && body.contains("draining"), "{status} {body}");
    // Where it was sent, the session goes on with everything that was acknowledged to the publisher.
    let (mut meter, connack) = Connection::connected(elsewhere, durable("meter")).await?;
    assert!(connack.session_present);
    stop.store(true, Relaxed);
    let (acknowledged_to_publisher, publisher_at) = publisher.await.expect("the publisher ends");
    assert_ne!(publisher_at, cluster.address(0), "the publisher moved");
    let missing = |received: &[String]| {
        acknowledged_to_publisher.iter().filter(|text| !received.contains(text)).cloned().collect::<Vec<_>>()
    };
    while !missing(&received).is_empty() {
        match meter.recv().await {
            Ok(Packet::Publish(publish)) => received.extend(acknowledged(&mut meter, &publish).await),
            Ok(_) => {}
            Err(error) => panic!("{error}; {:?} are lost", missing(&received)),
        }
    }
    eprintln!("{} messages acknowledged, none lost", acknowledged_to_publisher.len());
    assert_eq!(cluster.stop_node(0).await?, Ended::Exit(0));
    Ok(())
}

#[tokio::test]
async fn sigterm_with_shutdown_drain_hands_clients_over_before_the_node_stops() -> TestResult {
    if is_stand_in() {
        skip(STAND_IN);
        return Ok(());
    }
    let mut cluster = Cluster::start(ClusterOptions::new("drain-stop", 3).with("shutdown_drain 10")).await?;
    let mut clients = Vec::new();
    for number in 0..20 {
        clients.push(Connection::connected(cluster.address(1), durable(&format!("leaving-{number}"))).await?.0);
    }
    assert!(cluster.signal(1, rustix::process::Signal::TERM));
    for mut client in clients {
        match until_end(&mut client, &mut Vec::new()).await {
            DrainEnd::Reference(place) => assert_ne!(place, cluster.address(1)),
            DrainEnd::Silent => panic!("5.0 clients are sent to another node"),
        }
    }
    assert_eq!(cluster.wait_end(1, TIMEOUT).await?, Ended::Exit(0));
    for node in [0, 2] {
        cluster.wait_serving(node, Duration::from_secs(10)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_drain_lets_clients_in_again() -> TestResult {
    if is_stand_in() {
        skip(STAND_IN);
        return Ok(());
    }
    let cluster = Cluster::start(ClusterOptions::new("drain-cancel", 3)).await?;
    assert!(cluster.command(0, "drain --cancel").await?.is_ok_and(|text| text.contains("not being drained")));
    let mut clients = Vec::new();
    for number in 0..6 {
        clients.push(Connection::connected(cluster.address(0), durable(&format!("slow-{number}"))).await?.0);
    }
    // One client per second: most are here when it is cancelled.
    let draining = cluster.command(0, "drain --rate 1");
    let cancelling = async {
        let mut ended = tokio::task::JoinSet::new();
        for mut client in clients {
            ended.spawn(async move { until_end(&mut client, &mut Vec::new()).await });
        }
        ended.join_next().await;
        cluster.command(0, "drain --cancel").await
    };
    let (drained, cancelled) = tokio::join!(draining, cancelling);
    assert!(drained?.is_err_and(|text| text.contains("cancelled")));
    assert!(cancelled?.is_ok_and(|text| text.contains("takes clients again")));
    let (mut late, _) = Connection::connected(cluster.address(0), durable("late")).await?;
    late.publish(message("a", "b", QoS::AtLeastOnce)).await?;
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    while http::get(cluster.health_address(0), "/readyz").await?.0 != 200 {
        assert!(tokio::time::Instant::now() < deadline, "not ready again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
