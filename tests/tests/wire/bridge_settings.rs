//! What a `connection` block asks for, and what is logged when it cannot be had.
use mosquorum_proto::mqtt::{Ack, ConnAck, Connect, Packet, ProtocolVersion, PublishProperties, QoS, ReasonCode, Utf8};
use mosquorum_tests::{
    backlog::eventually,
    client::{Connection, TIMEOUT, message},
    cluster::{Cluster, ClusterOptions},
    http,
    metrics::Scrape,
    remote::{Remote, grant, next_message},
};

fn options(name: &str, address: &str, lines: &[&str]) -> ClusterOptions {
    let options = ClusterOptions::new(name, 1).with_listener("connection link");
    let options = options.with_listener(&format!("address {address}")).with_listener("remote_clientid site");
    let options = options.with_listener("restart_timeout 1").with_listener("notifications false");
    lines.iter().fold(options, |options, line| options.with_listener(line))
}

async fn writer(site: &Cluster) -> Connection {
    let connect = Connect::new(ProtocolVersion::V5, "writer");
    Connection::connected(site.address(0), connect).await.expect("a writer").0
}

fn accepted() -> ConnAck {
    ConnAck::new(false, ReasonCode::Success)
}

#[tokio::test]
async fn the_password_file_is_read_at_each_connect_and_a_refused_login_is_logged_once() {
    let remote = Remote::start().await.expect("a remote");
    let folder = mosquorum_tests::cluster::TestFolder::new("bridge-password").expect("a folder");
    let file = folder.path().join("password");
    std::fs::write(&file, "first\n").expect("written");
    let line = format!("remote_password_file {}", file.display());
    let lines = ["topic a out 1", "remote_username site", &line];
    let address = remote.address().expect("an address").to_string();
    let site = Cluster::start(options("bridge-password", &address, &lines)).await.expect("a site");
    for _ in 0..3 {
        let (mut bridge, connect) = remote.connect().await.expect("a bridge");
        assert_eq!(connect.password.as_deref(), Some(&b"first"[..]));
        let refused = ConnAck::new(false, ReasonCode::NotAuthorized);
        bridge.send(&Packet::ConnAck(Box::new(refused))).await.expect("sent");
    }
    std::fs::write(&file, "second\r\n").expect("written");
    let (_bridge, connect) = remote.accept(accepted()).await.expect("a bridge");
    assert_eq!(connect.password.as_deref(), Some(&b"second"[..]));
    site.wait_logged(0, "Bridge link connected", 1).await.expect("it is logged");
    let log = site.log(0);
    assert_eq!(log.matches("refused the connection: NotAuthorized").count(), 1, "{log}");
    assert!(!log.contains("first") && !log.contains("second"), "secrets stay out of the log");
}

/// Whoever listens at an address that a comment names is neither called nor sent the password.
#[tokio::test]
async fn nobody_named_in_a_comment_behind_an_address_is_called() {
    let (remote, unconfigured) =
        (Remote::start().await.expect("a remote"), Remote::start().await.expect("another remote"));
    let commented = format!(
        "{} # was {} before",
        remote.address().expect("an address"),
        unconfigured.address().expect("an address")
    );
    let lines = ["topic a out 1 # all", "remote_username site", "remote_password secret", "round_robin true"];
    let site = Cluster::start(options("bridge-comment", &commented, &lines)).await.expect("a site");
    // A refusal makes it go on to the next address.
    for _ in 0..3 {
        let (mut bridge, connect) = tokio::select! {
            called = remote.connect() => called.expect("the remote is called"),
            called = unconfigured.connect() => panic!("the other remote is called: {:?}", called.map(|(_, connect)| connect)),
        };
        assert_eq!(connect.password.as_deref(), Some(&b"secret"[..]));
        let refused = ConnAck::new(false, ReasonCode::NotAuthorized);
        bridge.send(&Packet::ConnAck(Box::new(refused))).await.expect("sent");
    }
    assert!(!site.log(0).contains("secret"));
}

#[tokio::test]
async fn a_secondary_is_left_only_after_the_primary_has_answered_connect() {
    let (primary, secondary) = (Remote::start().await.expect("one"), Remote::start().await.expect("another"));
    let addresses = format!("{} {}", primary.address().expect("one"), secondary.address().expect("another"));
    let site = Cluster::start(options("bridge-failover", &addresses, &["topic a out 1"])).await.expect("a site");
    let mut writer = writer(&site).await;
    drop(primary.connect().await.expect("it is tried first"));
    let (mut second, _) = secondary.accept(accepted()).await.expect("the other one is tried then");
    // It is looked for while the secondary is in use, and says nothing at first.
    let looking = primary.connect();
    let carrying = async {
        for n in 0..3 {
            writer.publish(message("a", n.to_string(), QoS::AtLeastOnce)).await.expect("published");
            let publish = next_message(&mut second).await.expect("it crosses");
            second.send(&Packet::PubAck(Ack::new(publish.packet_id))).await.expect("sent");
        }
    };
    let (looking, ()) = tokio::join!(looking, carrying);
    let (mut first, _) = looking.expect("it is looked for");
    writer.publish(message("a", "3", QoS::AtLeastOnce)).await.expect("published");
    let publish = next_message(&mut second).await.expect("still through the secondary");
    second.send(&Packet::PubAck(Ack::new(publish.packet_id))).await.expect("sent");
    first.send(&Packet::ConnAck(Box::new(accepted()))).await.expect("sent");
    while second.recv().await.is_ok() {}
    writer.publish(message("a", "4", QoS::AtLeastOnce)).await.expect("published");
    loop {
        let publish = next_message(&mut first).await.expect("it crosses to the primary");
        first.send(&Packet::PubAck(Ack::new(publish.packet_id))).await.expect("sent");
        if publish.payload == "4" {
            break;
        }
    }
}

/// One line each while nothing changes, however often it is tried; the broker runs on.
#[tokio::test]
async fn what_is_wrong_is_logged_once_and_not_at_each_attempt() {
    let remote = Remote::start().await.expect("a remote");
    let address = remote.address().expect("an address");
    let tls = ["topic a out 1", "bridge_cafile /nowhere/ca.pem"];
    let cases: [(&str, String, &[&str], &str); 4] = [
        ("name", "nowhere.invalid:1883".into(), &["topic a out 1"], "the name nowhere.invalid cannot be resolved"),
        ("refused", "127.0.0.1:1".into(), &["topic a out 1"], "cannot connect to 127.0.0.1:1"),
        ("ca", address.to_string(), &tls, "/nowhere/ca.pem"),
        (
            "bind",
            address.to_string(),
            &["topic a out 1", "bridge_bind_address 192.0.2.1"],
            "cannot connect to 127.0.0.1",
        ),
    ];
    for (name, address, lines, logged) in cases {
        // Attempts are logged at this level alone.
        let options = options(&format!("bridge-wrong-{name}"), &address, lines).with("log_type debug");
        let site = Cluster::start(options).await.expect("it runs");
        site.wait_logged(0, "Connecting bridge link", 2).await.expect("it is tried again and again");
        let log = site.log(0);
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("Bridge link: ")).collect();
        assert!(lines.len() == 1 && lines[0].contains(logged), "{name}: {lines:?}");
        writer(&site).await.publish(message("b", "x", QoS::AtLeastOnce)).await.expect("it serves");
    }
}

#[tokio::test]
async fn every_property_crosses_the_response_topic_follows_the_prefixes_and_the_expiry_counts_down() {
    let remote = Remote::start().await.expect("a remote");
    let lines = ["bridge_protocol_version mqttv50", "topic ask/# out 1 \"\" site/", "topic answer/# in 1 \"\" site/"];
    let address = remote.address().expect("an address").to_string();
    let site = Cluster::start(options("bridge-properties", &address, &lines)).await.expect("a site");
    let mut writer = writer(&site).await;
    let properties = PublishProperties {
        payload_format_indicator: Some(true),
        message_expiry_interval: Some(100),
        content_type: Some(Utf8::from("text/plain")),
        response_topic: Some(Utf8::from("answer/7")),
        correlation_data: Some(bytes::Bytes::from_static(b"seven")),
        user_properties: vec![(Utf8::from("a"), Utf8::from("1")), (Utf8::from("a"), Utf8::from("2"))],
        ..PublishProperties::default()
    };
    let mut ask = message("ask/7", "?", QoS::AtLeastOnce);
    ask.properties = Some(Box::new(properties.clone()));
    writer.publish(ask).await.expect("published");
    // It waits in the session until an attempt succeeds, and a second passes between attempts.
    drop(remote.connect().await.expect("a bridge"));
    drop(remote.connect().await.expect("a bridge"));
    let (mut bridge, _) = remote.accept(accepted()).await.expect("a bridge");
    let came = next_message(&mut bridge).await.expect("it crosses");
    assert_eq!(came.topic.expect("a topic").as_str(), "site/ask/7");
    let came = *came.properties.expect("properties");
    let left = came.message_expiry_interval.expect("it still expires");
    assert!((1..100).contains(&left), "{left}");
    let expected = PublishProperties {
        response_topic: Some(Utf8::from("site/answer/7")),
        message_expiry_interval: Some(left),
        ..properties
    };
    assert_eq!(came, expected);
}

#[tokio::test]
async fn what_does_not_fit_into_the_queue_is_counted_with_its_reason() {
    let options = options("bridge-drops", "127.0.0.1:1", &["topic a out 1"]).with("max_queued_messages 5");
    let site = Cluster::start(options.with("max_inflight_messages 1").with("sys_interval 1")).await.expect("a site");
    let mut writer = writer(&site).await;
    for n in 0..10 {
        writer.publish(message("a", n.to_string(), QoS::AtLeastOnce)).await.expect("published");
    }
    let labels = [("bridge", "link"), ("reason", "queue_full")];
    let found = eventually(TIMEOUT, async || {
        let text = http::get(site.health_address(0), "/metrics").await.expect("an answer").1;
        let dropped = Scrape::parse(&text).expect("metrics").get("mosquorum_bridge_dropped_total", &labels);
        dropped.is_some_and(|dropped| (4.0..=5.0).contains(&dropped))
    });
    assert!(found.await, "{}", http::get(site.health_address(0), "/metrics").await.expect("an answer").1);
    writer.subscribe_to("$SYS/broker/bridges/link/drops/queue_full", QoS::AtMostOnce).await.expect("subscribed");
    // Told from time to time, at first from before.
    while !matches!(&writer.receive().await.expect("it is logged").payload[..], b"4" | b"5") {}
}

/// Nothing of a bridge's beginning is asked twice: a remote that grants everything gets each question once.
#[tokio::test]
async fn a_remote_is_asked_once_per_connection() {
    let remote = Remote::start().await.expect("a remote");
    let lines = ["topic a out 1", "topic b in 1", "topic c both 2"];
    let address = remote.address().expect("an address").to_string();
    let _site = Cluster::start(options("bridge-questions", &address, &lines)).await.expect("a site");
    let (mut bridge, _) = remote.accept(accepted()).await.expect("a bridge");
    let mut asked = Vec::new();
    bridge.send(&Packet::PingReq).await.expect("sent");
    loop {
        match bridge.recv().await.expect("a packet") {
            Packet::PingResp => break,
            packet => {
                asked.extend(match &packet {
                    Packet::Subscribe(subscribe) => {
                        subscribe.subscriptions.iter().map(|one| one.filter.clone()).collect()
                    }
                    Packet::Unsubscribe(unsubscribe) => unsubscribe.filters.clone(),
                    _ => Vec::new(),
                });
                grant(&mut bridge, packet).await.expect("granted");
            }
        }
    }
    let asked: Vec<&str> = asked.iter().map(|filter| filter.as_str()).collect();
    assert_eq!(asked, ["a", "b", "c"]);
}

/// The remote learns why, by a reason code that a client may use, and the connection stays.
#[tokio::test]
async fn a_message_of_the_remote_above_message_size_limit_is_refused_and_the_bridge_goes_on() {
    let remote = Remote::start().await.expect("a remote");
    let address = remote.address().expect("an address").to_string();
    let lines = ["topic a in 2", "bridge_protocol_version mqttv50"];
    let options = options("bridge-too-large", &address, &lines).with("message_size_limit 10");
    let site = Cluster::start(options).await.expect("a site");
    let mut reader = writer(&site).await;
    reader.subscribe_to("a", QoS::AtMostOnce).await.expect("subscribed");
    let (mut bridge, _) = remote.accept(accepted()).await.expect("a bridge");
    let asked = bridge.recv().await.expect("it subscribes");
    grant(&mut bridge, asked).await.expect("granted");
    assert_eq!(
        bridge.publish(message("a", "x".repeat(11), QoS::AtLeastOnce)).await.unwrap(),
        ReasonCode::QuotaExceeded
    );
    assert_eq!(
        bridge.publish(message("a", "x".repeat(11), QoS::ExactlyOnce)).await.unwrap(),
        ReasonCode::QuotaExceeded
    );
    assert_eq!(bridge.publish(message("a", "small", QoS::AtLeastOnce)).await.unwrap(), ReasonCode::Success);
    assert_eq!(&reader.receive().await.expect("it came").payload[..], b"small");
}
