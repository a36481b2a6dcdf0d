//! When a bridge begins, ends and says so: `start_type`, `round_robin`, `notifications`, `bridge_reload_type`.
use mosquorum_proto::mqtt::{Ack, ConnAck, Connect, Packet, ProtocolVersion, QoS, ReasonCode};
use mosquorum_tests::{
    client::{Connection, message},
    cluster::{Cluster, ClusterOptions},
    remote::{Remote, grant, next_message},
};
use std::time::Duration;

const MOMENT: Duration = Duration::from_millis(500);

fn options(name: &str, remotes: &[&Remote], lines: &[&str]) -> ClusterOptions {
    let addresses: Vec<String> = remotes.iter().map(|one| one.address().expect("an address").to_string()).collect();
    let options = ClusterOptions::new(name, 1).with_listener("connection link").with_listener("topic a out 1");
    let options = options.with_listener(&format!("address {}", addresses.join(" ")));
    let options = options.with_listener("remote_clientid site").with_listener("restart_timeout 1");
    lines.iter().fold(options, |options, line| options.with_listener(line))
}

async fn client(site: &Cluster, name: &str) -> Connection {
    Connection::connected(site.address(0), Connect::new(ProtocolVersion::V5, name)).await.expect("a client").0
}

fn accepted() -> ConnAck {
    ConnAck::new(false, ReasonCode::Success)
}

async fn nobody_comes(remote: &Remote) {
    assert!(tokio::time::timeout(MOMENT, remote.connect()).await.is_err(), "a bridge that should not be there");
}

#[tokio::test]
async fn a_lazy_bridge_begins_when_enough_waits_and_ends_when_nothing_does() {
    let remote = Remote::start().await.expect("a remote");
    let lines = ["start_type lazy", "threshold 3", "idle_timeout 1", "notifications false"];
    let site = Cluster::start(options("bridge-lazy", &[&remote], &lines)).await.expect("a site");
    let mut writer = client(&site, "writer").await;
    for round in 0..2 {
        for n in 0..2 {
            writer.publish(message("a", n.to_string(), QoS::AtLeastOnce)).await.expect("published");
        }
        nobody_comes(&remote).await;
        writer.publish(message("a", "2", QoS::AtLeastOnce)).await.expect("published");
        let (mut bridge, _) = remote.accept(accepted()).await.expect("a bridge");
        for n in 0..3 {
            let publish = next_message(&mut bridge).await.expect("it crosses");
            assert_eq!(&publish.payload[..], n.to_string().as_bytes(), "round {round}");
            bridge.send(&Packet::PubAck(Ack::new(publish.packet_id))).await.expect("sent");
        }
        let end = next_message(&mut bridge).await.expect_err("it ends");
        assert!(!matches!(end, mosquorum_tests::client::ClientError::Timeout(_)), "{end}");
    }
}

#[tokio::test]
async fn a_bridge_that_starts_once_stays_away_until_it_is_configured_otherwise() {
    let remote = Remote::start().await.expect("a remote");
    let lines = ["start_type once", "notifications false"];
    let mut site = Cluster::start(options("bridge-only-once", &[&remote], &lines)).await.expect("a site");
    drop(remote.accept(accepted()).await.expect("a bridge"));
    site.wait_logged(0, "Bridge link lost", 1).await.expect("it notices");
    tokio::time::timeout(Duration::from_secs(2), remote.connect()).await.expect_err("it stays away");
    let file = site.configuration_file(0).to_path_buf();
    let text = std::fs::read_to_string(&file).expect("a configuration");
    std::fs::write(&file, text.replace("start_type once", "start_type automatic")).expect("written");
    site.signal(0, rustix::process::Signal::HUP);
    remote.accept(accepted()).await.expect("it comes again");
}

#[tokio::test]
async fn with_round_robin_each_address_has_its_turn_and_none_is_gone_back_to() {
    let remotes = [Remote::start().await.expect("one"), Remote::start().await.expect("another")];
    let lines = ["round_robin true", "notifications false"];
    let options = options("bridge-round", &[&remotes[0], &remotes[1]], &lines);
    let _site = Cluster::start(options).await.expect("a site");
    for remote in [&remotes[0], &remotes[1], &remotes[0]] {
        drop(remote.accept(accepted()).await.expect("a bridge"));
    }
}

#[tokio::test]
async fn the_state_is_announced_on_both_sides_or_on_ours_alone() {
    for local_only in [false, true] {
        let remote = Remote::start().await.expect("a remote");
        let line = format!("notifications_local_only {local_only}");
        let lines = [line.as_str(), "notification_topic state/link"];
        let site = Cluster::start(options("bridge-announces", &[&remote], &lines)).await.expect("a site");
        let mut reader = client(&site, "reader").await;
        reader.subscribe_to("state/link", QoS::AtLeastOnce).await.expect("subscribed");
        let (mut bridge, connect) = remote.accept(accepted()).await.expect("a bridge");
        let will = connect.will.map(|will| (will.topic.as_str().to_owned(), will.payload, will.retain));
        let zero = || ("state/link".to_owned(), bytes::Bytes::from_static(b"0"), true);
        assert_eq!(will, (!local_only).then(zero));
        bridge.send(&Packet::PingReq).await.expect("sent");
        let mut announced = None;
        loop {
            match bridge.recv().await.expect("a packet") {
                Packet::PingResp => break,
                Packet::Publish(publish) => {
                    announced =
                        Some((publish.topic.expect("a topic").as_str().to_owned(), publish.payload, publish.retain));
                    bridge.send(&Packet::PubAck(Ack::new(publish.packet_id))).await.expect("sent");
                }
                packet => grant(&mut bridge, packet).await.expect("granted"),
            }
        }
        let one = || ("state/link".to_owned(), bytes::Bytes::from_static(b"1"), true);
        assert_eq!(announced, (!local_only).then(one));
        // Its state before it was connected may come first.
        while reader.receive().await.expect("it is announced here").payload != "1" {}
        drop(bridge);
        while reader.receive().await.expect("its end too").payload != "0" {}
    }
}

#[tokio::test]
async fn changed_settings_hold_at_once_or_from_the_next_connection_as_asked() {
    for kind in ["immediate", "lazy"] {
        let remote = Remote::start().await.expect("a remote");
        let line = format!("bridge_reload_type {kind}");
        let lines = [line.as_str(), "keepalive_interval 30", "notifications false"];
        let mut site = Cluster::start(options("bridge-changed", &[&remote], &lines)).await.expect("a site");
        let (mut bridge, connect) = remote.accept(accepted()).await.expect("a bridge");
        assert_eq!(connect.keep_alive_seconds, 30);
        site.wait_logged(0, "Bridge link connected", 1).await.expect("it stands");
        let file = site.configuration_file(0).to_path_buf();
        let text = std::fs::read_to_string(&file).expect("a configuration");
        std::fs::write(&file, text.replace("keepalive_interval 30", "keepalive_interval 40")).expect("written");
        site.signal(0, rustix::process::Signal::HUP);
        if kind == "lazy" {
            nobody_comes(&remote).await;
            client(&site, "writer").await.publish(message("a", "x", QoS::AtLeastOnce)).await.expect("published");
            next_message(&mut bridge).await.expect("the connection stands");
            drop(bridge);
        }
        let (_bridge, connect) = remote.accept(accepted()).await.expect("it comes again");
        assert_eq!(connect.keep_alive_seconds, 40, "{kind}");
    }
}
