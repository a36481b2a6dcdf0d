//! Promise 10: slow readers, floods and too many connections are refused, delayed or dropped with a count; memory stays
//! within bounds and everybody else goes on.
use mosquorum_proto::mqtt::{Packet, ProtocolVersion, QoS, ReasonCode, Will};
use mosquorum_tests::{
    client::{Connection, message, topic_name},
    cluster::{Cluster, ClusterOptions},
    measure::resident_mib,
    target::{Target, TestResult},
};
use std::time::{Duration, Instant};

/// Publishes QoS 0 as fast as the broker takes it, until so many bytes are out or the broker stops taking them.
async fn flood(publisher: &mut Connection, topic: &str, payload: usize, bytes_max: usize) {
    publisher.timeout = Duration::from_secs(3);
    let packet = Packet::Publish(message(topic, vec![b'x'; payload], QoS::AtMostOnce));
    let mut sent = 0;
    while sent < bytes_max {
        for _ in 0..50 {
            publisher.queue(&packet);
            sent += payload;
        }
        if publisher.flush().await.is_err() {
            return;
        }
    }
}

/// Round trips of another client, which must go on whatever the flood does.
async fn slowest_round_trip(
    target: Target,
    until: Instant,
) -> Result<Duration, Box<dyn std::error::Error + Send + Sync>> {
    let topic = target.unique("bystander");
    let mut client = target.at_a("bystander").await?;
    client.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    let mut slowest = Duration::ZERO;
    while Instant::now() < until {
        let began = Instant::now();
        client.publish(message(&target.unique("elsewhere"), "x", QoS::AtLeastOnce)).await?;
        slowest = slowest.max(began.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(slowest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_costs_bounded_memory() -> TestResult {
    let cluster = Cluster::start(ClusterOptions::new("slow", 1)).await?;
    let target = Target::of(&cluster);
    let topic = target.unique("flood");
    let (mut deaf, _) = Connection::connected(target.a, target.connect_packet(ProtocolVersion::V311, "deaf")).await?;
    deaf.subscribe_to(&topic, QoS::AtMostOnce).await?;
    let before = resident_mib(cluster.process_id(0));
    let bystander = tokio::spawn(slowest_round_trip(target, Instant::now() + Duration::from_secs(4)));
    let mut publisher = target.at_a("flooder").await?;
    flood(&mut publisher, &topic, 10_000, 200 << 20).await;
    let after = resident_mib(cluster.process_id(0));
    println!("resident before {before} MiB, after {after} MiB");
    assert!(after < before + 100, "200 MiB for a reader that does not read took {} MiB", after - before);
    let slowest = bystander.await?.map_err(|error| error.to_string())?;
    assert!(slowest < Duration::from_secs(3), "another client waited {slowest:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_for_a_client_that_is_away_ends_at_its_limit() -> TestResult {
    let cluster = Cluster::start(ClusterOptions::new("queue", 1).with("max_queued_messages 100")).await?;
    let target = Target::of(&cluster);
    let topic = target.unique("queue");
    let connect = target.durable_packet(ProtocolVersion::V5, "away");
    let (mut away, _) = Connection::connected(target.a, connect.clone()).await?;
    away.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    away.disconnect().await?;
    let mut publisher = target.at_a("p").await?;
    for number in 0..300 {
        publisher.publish(message(&topic, number.to_string(), QoS::AtLeastOnce)).await?;
    }
    let (mut away, _) = Connection::connected(target.a, connect).await?;
    let mut came = 0;
    while let Some(packet) = away.recv_within(Duration::from_millis(500)).await? {
        away.put_back(packet);
        assert_eq!(away.receive().await?.payload, came.to_string(), "the oldest stay, in order");
        came += 1;
    }
    // Up to max_inflight_messages (20) are not counted as queued.
    assert!((100..=120).contains(&came), "{came} of a limit of 100");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_to_nobody_costs_nothing() -> TestResult {
    let cluster = Cluster::start(ClusterOptions::new("flood", 1)).await?;
    let target = Target::of(&cluster);
    let before = resident_mib(cluster.process_id(0));
    let mut publisher = target.at_a("flooder").await?;
    flood(&mut publisher, &target.unique("nobody"), 1000, 100 << 20).await;
    publisher.expect_nothing().await?;
    let after = resident_mib(cluster.process_id(0));
    assert!(after < before + 50, "{before} MiB became {after} MiB");
    Ok(())
}

#[tokio::test]
async fn more_connections_than_allowed_are_refused_and_the_others_stay() -> TestResult {
    let cluster = Cluster::start(ClusterOptions::new("many", 1).with_listener("max_connections 5")).await?;
    let target = Target::of(&cluster);
    let mut inside = Vec::new();
    for number in 0..5 {
        // The harness's own probe may still be leaving.
        let packet = target.connect_packet(ProtocolVersion::V5, &format!("c{number}"));
        let mut connected = Connection::connected(target.a, packet.clone()).await;
        while connected.is_err() {
            connected = Connection::connected(target.a, packet.clone()).await;
        }
        inside.push(connected?.0);
    }
    let refused = Connection::connect(target.a, target.connect_packet(ProtocolVersion::V5, "one-too-many")).await;
    let reasons = [
        ReasonCode::ServerBusy,
        ReasonCode::QuotaExceeded,
        ReasonCode::ConnectionRateExceeded,
        ReasonCode::ServerUnavailable,
    ];
    assert!(refused.is_err() || refused.is_ok_and(|(_, connack)| reasons.contains(&connack.reason)));
    for client in &mut inside {
        client.expect_nothing().await?;
    }
    Ok(())
}

/// Half-open connections that never send CONNECT must not stay for ever, nor disturb anybody.
#[tokio::test]
async fn connections_that_say_nothing_disturb_nobody() -> TestResult {
    let cluster = Cluster::start(ClusterOptions::new("mute", 1)).await?;
    let target = Target::of(&cluster);
    let mut mute = Vec::new();
    for _ in 0..200 {
        mute.push(Connection::open(target.a, ProtocolVersion::V311, Duration::from_secs(5)).await?);
    }
    let topic = target.unique("t");
    let mut client = target.at_a("c").await?;
    client.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    target.publish(&topic, "x", false).await?;
    assert_eq!(client.receive().await?.payload, "x");
    Ok(())
}

/// [MQTT-3.1.2-22]: it is not read while so much waits for it, but nor does it take anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_any_more_is_given_up_when_its_keep_alive_has_passed() -> TestResult {
    let cluster = Cluster::start(ClusterOptions::new("deaf", 1)).await?;
    let target = Target::of(&cluster);
    let (topic, last_words) = (target.unique("flood"), target.unique("will"));
    let mut observer = target.at_a("observer").await?;
    observer.subscribe_to(&last_words, QoS::AtLeastOnce).await?;
    let mut connect = target.connect_packet(ProtocolVersion::V5, "deaf");
    connect.keep_alive_seconds = 1;
    connect.will = Some(Will {
        topic: topic_name(&last_words),
        payload: "will".into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_interval_seconds: 0,
        properties: None,
    });
    let (mut deaf, _) = Connection::connected(target.a, connect).await?;
    deaf.subscribe_to(&topic, QoS::AtMostOnce).await?;
    let mut publisher = target.at_a("publisher").await?;
    for _ in 0..10 {
        publisher.publish(message(&topic, vec![b'x'; 1_900_000], QoS::AtLeastOnce)).await?;
    }
    assert_eq!(observer.receive().await?.payload, "will");
    Ok(())
}
