//! Bridges between real brokers: nothing lost, exactly once, once per cluster.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS};
use mosquorum_tests::{
    backlog::eventually,
    client::{Connection, Result, TIMEOUT, message},
    cluster::{Cluster, ClusterOptions},
    http,
    metrics::Scrape,
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio::time::sleep;

fn bridge_lines(options: ClusterOptions, hub: &Cluster, version: &str, lines: &[&str]) -> ClusterOptions {
    let options = options
        .with_listener("connection link")
        .with_listener(&format!(
            "address {}",
            hub.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        ))
        .with_listener("remote_clientid site-1")
        .with_listener(&format!("bridge_protocol_version {version}"))
        .with_listener("restart_timeout 1");
    lines.iter().fold(options, |options, line| options.with_listener(line))
}

/// A session that stays when its connection goes.
async fn durable(cluster: &Cluster, node: usize, id: &str, filter: &str) -> Result<Connection> {
    let mut connect = Connect::new(ProtocolVersion::V5, id);
    connect.clean_start = false;
    connect.session_expiry_interval = Some(3600);
    let (mut connection, connack) = Connection::connect(cluster.address(node), connect).await?;
    if !connack.session_present {
        connection.subscribe_to(filter, QoS::ExactlyOnce).await?;
    }
    Ok(connection)
}

async fn publisher(cluster: &Cluster, node: usize, id: &str) -> Result<Connection> {
    let (connection, _) = Connection::connect(cluster.address(node), Connect::new(ProtocolVersion::V5, id)).await?;
    Ok(connection)
}

/// The node whose log says last that it connected the bridge.
async fn bridging_node(cluster: &Cluster, except: Option<usize>) -> usize {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let holder = (0..cluster.len()).filter(|node| Some(*node) != except).find(|node| {
            let log = cluster.log(*node);
            let (up, down) = (log.rfind("Bridge link connected"), log.rfind("Bridge link lost"));
            up.is_some() && up > down
        });
        if let Some(node) = holder {
            return node;
        }
        assert!(Instant::now() < deadline, "no node has the bridge");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Receives until every payload of `0..count` came; how often each did.
async fn receive_all(connection: &mut Connection, count: u32) -> BTreeMap<u32, u32> {
    let mut seen = BTreeMap::new();
    while seen.len() < count as usize {
        let publish = connection.receive().await.unwrap_or_else(|error| {
            let missing: Vec<_> = (0..count).filter(|n| !seen.contains_key(n)).take(10).collect();
            panic!("{error}: {} of {count} came, missing {missing:?}...", seen.len())
        });
        let number = std::str::from_utf8(&publish.payload).expect("text").parse().expect("a number");
        *seen.entry(number).or_insert(0) += 1;
    }
    seen
}

#[tokio::test]
async fn messages_cross_in_both_directions_under_their_prefixes_in_every_version_and_qos() {
    for version in ["mqttv31", "mqttv311", "mqttv50"] {
        let hub = Cluster::start(ClusterOptions::new("bridge-hub", 1)).await.expect("a hub");
        let lines = ["topic out/# out 2 \"\" site/", "topic in/# in 2 \"\" site/"];
        let site = Cluster::start(bridge_lines(ClusterOptions::new("bridge-site", 1), &hub, version, &lines));
        let site = site.await.expect("a site");
        bridging_node(&site, None).await;
        let mut at_hub = durable(&hub, 0, "hub-reader", "site/out/#").await.expect("a reader");
        let mut at_site = durable(&site, 0, "site-reader", "in/#").await.expect("a reader");
        let mut from_site = publisher(&site, 0, "site-writer").await.expect("a writer");
        let mut from_hub = publisher(&hub, 0, "hub-writer").await.expect("a writer");
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            from_site.publish(message("out/a", "x", qos)).await.expect("published");
            let publish = at_hub.receive().await.expect("it crosses");
            assert_eq!((publish.topic.unwrap().as_str(), publish.qos), ("site/out/a", qos));
            from_hub.publish(message("site/in/a", "y", qos)).await.expect("published");
            let publish = at_site.receive().await.expect("it crosses");
            assert_eq!((publish.topic.unwrap().as_str(), publish.qos), ("in/a", qos));
        }
        at_hub.expect_nothing().await.expect("nothing comes back");
    }
}

#[tokio::test]
async fn what_is_published_while_the_hub_is_away_arrives_once_and_in_order() {
    let mut hub = Cluster::start(ClusterOptions::new("bridge-away-hub", 1).persistent()).await.expect("a hub");
    let lines = ["topic q/# out 2"];
    let options = ClusterOptions::new("bridge-away-site", 1).persistent().with("max_queued_messages 0");
    let mut site = Cluster::start(bridge_lines(options, &hub, "mqttv50", &lines)).await.expect("a site");
    bridging_node(&site, None).await;
    drop(durable(&hub, 0, "reader", "q/#").await.expect("a reader"));
    hub.kill(0);
    let mut writer = publisher(&site, 0, "writer").await.expect("a writer");
    for n in 0..100 {
        writer.publish(message("q/a", n.to_string(), QoS::ExactlyOnce)).await.expect("published");
    }
    site.kill(0);
    site.start_node(0).expect("it starts");
    site.wait_serving(0, TIMEOUT).await.expect("it serves");
    hub.start_node(0).expect("it starts");
    hub.wait_serving(0, TIMEOUT).await.expect("it serves");
    let mut reader = durable(&hub, 0, "reader", "q/#").await.expect("a reader");
    for n in 0..100 {
        let publish = reader.receive().await.expect("it arrives");
        assert_eq!(&publish.payload[..], n.to_string().as_bytes());
    }
    reader.expect_nothing().await.expect("each once");
}

#[tokio::test]
async fn one_node_of_a_cluster_has_the_bridge_and_another_goes_on_when_it_dies() {
    let hub = Cluster::start(ClusterOptions::new("bridge-once-hub", 1).persistent()).await.expect("a hub");
    let lines = ["topic up/# out 2", "topic down/# in 2"];
    let options = ClusterOptions::new("bridge-once-site", 3).with("max_queued_messages 0");
    let mut site = Cluster::start(bridge_lines(options, &hub, "mqttv311", &lines)).await.expect("a site");
    let holder = bridging_node(&site, None).await;
    let others: Vec<usize> = (0..3).filter(|node| *node != holder).collect();
    let mut at_hub = durable(&hub, 0, "hub-reader", "up/#").await.expect("a reader");
    let mut at_site = durable(&site, others[0], "site-reader", "down/#").await.expect("a reader");
    let mut up = publisher(&site, others[1], "site-writer").await.expect("a writer");
    let mut down = publisher(&hub, 0, "hub-writer").await.expect("a writer");
    const COUNT: u32 = 120;
    let died = async {
        sleep(Duration::from_millis(300)).await;
        site.kill(holder);
        Instant::now()
    };
    let publish_up = async {
        for n in 0..COUNT {
            up.publish(message("up/a", n.to_string(), QoS::ExactlyOnce)).await.expect("published");
        }
    };
    let publish_down = async {
        for n in 0..COUNT {
            down.publish(message("down/a", n.to_string(), QoS::ExactlyOnce)).await.expect("published");
        }
    };
    let (died, (), (), hub_saw, site_saw) =
        tokio::join!(died, publish_up, publish_down, receive_all(&mut at_hub, COUNT), receive_all(&mut at_site, COUNT));
    println!("all across {:?} after the death", died.elapsed());
    assert!(hub_saw.values().chain(site_saw.values()).all(|times| *times == 1), "{hub_saw:?} {site_saw:?}");
    at_hub.expect_nothing().await.expect("each once");
    at_site.expect_nothing().await.expect("each once");
    let heir = bridging_node(&site, Some(holder)).await;
    let sessions = hub.log(0).matches("as site-1 ").count();
    assert_eq!(sessions, 2, "the hub saw one session per holder, the last on node {heir}");
}

#[tokio::test]
async fn a_node_that_stops_hands_its_bridge_over() {
    let hub = Cluster::start(ClusterOptions::new("bridge-drain-hub", 1)).await.expect("a hub");
    let options = ClusterOptions::new("bridge-drain-site", 3);
    let lines = ["topic up/# out 2"];
    let mut site = Cluster::start(bridge_lines(options, &hub, "mqttv50", &lines)).await.expect("a site");
    let mut at_hub = durable(&hub, 0, "hub-reader", "up/#").await.expect("a reader");
    let holder = bridging_node(&site, None).await;
    let mut writer = publisher(&site, (holder + 1) % 3, "writer").await.expect("a writer");
    writer.publish(message("up/a", "0", QoS::ExactlyOnce)).await.expect("published");
    let stopped = Instant::now();
    site.stop_node(holder).await.expect("it stops");
    println!("stopped after {:?}", stopped.elapsed());
    for n in 1..50 {
        writer.publish(message("up/a", n.to_string(), QoS::ExactlyOnce)).await.expect("published");
    }
    let heir = bridging_node(&site, Some(holder)).await;
    println!("node {heir} has the bridge {:?} after the stop of node {holder} began", stopped.elapsed());
    let seen = receive_all(&mut at_hub, 50).await;
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    at_hub.expect_nothing().await.expect("each once");
}

#[tokio::test]
async fn a_drained_node_hands_its_bridge_over_and_runs_none_until_that_is_cancelled() {
    let hub = Cluster::start(ClusterOptions::new("bridge-drain-hub", 1)).await.expect("a hub");
    let mut at_hub = durable(&hub, 0, "reader", "up/#").await.expect("a reader");
    let options = ClusterOptions::new("bridge-drain-site", 3);
    let lines = ["topic up/# out 2"];
    let site = Cluster::start(bridge_lines(options, &hub, "mqttv50", &lines)).await.expect("a site");
    let holder = bridging_node(&site, None).await;
    let mut writer = publisher(&site, (holder + 1) % 3, "writer").await.expect("a writer");
    let publishing = async {
        for n in 0..200 {
            writer.publish(message("up/a", n.to_string(), QoS::ExactlyOnce)).await.expect("published");
        }
    };
    let draining = async { site.command(holder, "drain").await.expect("it runs").expect("it is drained") };
    tokio::join!(publishing, draining);
    let heir = bridging_node(&site, Some(holder)).await;
    let seen = receive_all(&mut at_hub, 200).await;
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    let before = site.log(holder).matches("Bridge link connected").count();
    site.command(holder, "drain --cancel").await.expect("it runs").expect("it is cancelled");
    // Bridges are placed by the nodes that serve, so it comes back.
    let deadline = Instant::now() + TIMEOUT;
    while site.log(holder).matches("Bridge link connected").count() == before {
        assert!(Instant::now() < deadline, "the bridge stays at node {heir}");
        sleep(Duration::from_millis(50)).await;
    }
    writer.publish(message("up/a", "200", QoS::ExactlyOnce)).await.expect("published");
    assert_eq!(at_hub.receive().await.expect("it crosses").payload, "200");
    at_hub.expect_nothing().await.expect("each once");
}

#[tokio::test]
async fn a_dead_nodes_bridge_is_taken_over() {
    let hub = Cluster::start(ClusterOptions::new("bridge-death-hub", 1)).await.expect("a hub");
    let lines = ["topic up/# out 1"];
    let options = ClusterOptions::new("bridge-death-site", 3);
    let mut site = Cluster::start(bridge_lines(options, &hub, "mqttv50", &lines)).await.expect("a site");
    let holder = bridging_node(&site, None).await;
    let killed = Instant::now();
    site.kill(holder);
    let heir = bridging_node(&site, Some(holder)).await;
    println!("node {heir} has the bridge {:?} after the death of node {holder}", killed.elapsed());
}

#[tokio::test]
async fn a_reload_adds_and_removes_a_bridge_and_leaves_the_others_alone() {
    let hub = Cluster::start(ClusterOptions::new("bridge-reload-hub", 1)).await.expect("a hub");
    let lines = ["topic first/# out 1"];
    let options = ClusterOptions::new("bridge-reload-site", 1);
    let mut site = Cluster::start(bridge_lines(options, &hub, "mqttv50", &lines)).await.expect("a site");
    bridging_node(&site, None).await;
    let before = std::fs::read_to_string(site.configuration_file(0)).expect("a configuration");
    let second = format!(
        "{before}connection second\naddress {}\nremote_clientid site-2\ntopic second/# out 1\nrestart_timeout 1\n",
        hub.address(0)
    );
    let mut at_hub = durable(&hub, 0, "reader", "#").await.expect("a reader");
    let mut writer = publisher(&site, 0, "writer").await.expect("a writer");
    std::fs::write(site.configuration_file(0), &second).expect("written");
    site.signal(0, rustix::process::Signal::HUP);
    site.wait_logged(0, "Bridge second connected", 1).await.expect("it connects");
    writer.publish(message("second/a", "1", QoS::AtLeastOnce)).await.expect("published");
    assert_eq!(at_hub.receive().await.expect("it crosses").topic.expect("a topic").as_str(), "second/a");
    std::fs::write(site.configuration_file(0), &before).expect("written");
    site.signal(0, rustix::process::Signal::HUP);
    hub.wait_logged(0, "Client site-2 [", 1).await.expect("it goes");
    writer.publish(message("second/a", "2", QoS::AtLeastOnce)).await.expect("published");
    writer.publish(message("first/a", "3", QoS::AtLeastOnce)).await.expect("published");
    assert_eq!(at_hub.receive().await.expect("it crosses").topic.expect("a topic").as_str(), "first/a");
    at_hub.expect_nothing().await.expect("the removed bridge carries nothing");
    assert_eq!(site.log(0).matches("Bridge link connected").count(), 1, "the first bridge stayed connected");
}

#[tokio::test]
async fn what_a_removed_bridge_leaves_is_listed_and_expires() {
    removed("bridge-orphan", false).await;
}

#[tokio::test]
async fn what_a_bridge_leaves_that_is_gone_at_a_restart_is_listed_and_expires() {
    removed("bridge-orphan-start", true).await;
}

/// A bridge with five messages is removed from the configuration, which each node reads at a restart or at a signal.
async fn removed(name: &str, restart: bool) {
    let hub = Cluster::start(ClusterOptions::new(&format!("{name}-hub"), 1)).await.expect("a hub");
    let options = ClusterOptions::new(name, 3).with("bridge_orphan_expiry 1h");
    let mut site = Cluster::start(bridge_lines(options, &hub, "mqttv50", &["topic up/# out 1"])).await.expect("a site");
    bridging_node(&site, None).await;
    drop(hub);
    let mut writer = publisher(&site, 0, "writer").await.expect("a writer");
    for n in 0..5 {
        writer.publish(message("up/a", n.to_string(), QoS::AtLeastOnce)).await.expect("published");
    }
    for node in 0..3 {
        let text = std::fs::read_to_string(site.configuration_file(node)).expect("a configuration");
        let without = text.split("connection link").next().expect("the lines before").to_owned();
        std::fs::write(site.configuration_file(node), without).expect("written");
        if restart {
            site.stop_node(node).await.expect("it stops");
            site.start_node(node).expect("it starts");
            site.wait_serving(node, TIMEOUT).await.expect("it serves");
        } else {
            site.signal(node, rustix::process::Signal::HUP);
        }
    }
    let deadline = Instant::now() + TIMEOUT;
    for node in (0..3).cycle() {
        // Whoever ended it knows what it was.
        let status = site.status(node).await.expect("a status");
        let listed = status["offline_sessions"].as_array().expect("a list");
        let is_orphan = |offline: &&serde_json::Value| {
            offline["expires_in"].as_u64().is_some_and(|s| s <= 3600) && offline["removed_bridge"] == true
        };
        if let Some(orphan) = listed.iter().find(is_orphan) {
            assert_eq!((orphan["client_id"].as_str(), orphan["messages"].as_u64()), (Some("local.site-1"), Some(5)));
            assert_eq!(status["offline"].as_u64(), Some(1));
            return;
        }
        assert!(Instant::now() < deadline, "{status}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Brokers that know each other's addresses before they start: each a node alone.
async fn sites(count: usize, links: &[(usize, usize)], version: &str, lines: &[&str]) -> Vec<Cluster> {
    let prepared: Vec<Cluster> = (0..count)
        .map(|site| Cluster::prepare(ClusterOptions::new(&format!("bridge-site-{site}"), 1)).expect("files"))
        .collect();
    for site in &prepared {
        let file = site.configuration_file(0);
        let text = std::fs::read_to_string(file).expect("a configuration");
        std::fs::write(file, format!("bridge_loop_mark_user *\n{text}")).expect("written");
    }
    for (from, to) in links {
        let file = prepared[*from].configuration_file(0);
        let mut text = std::fs::read_to_string(file).expect("a configuration");
        let address = prepared[*to].address(0);
        text += &format!("connection to-{to}\naddress {address}\nremote_clientid {from}-to-{to}\nrestart_timeout 1\n");
        text += &format!("bridge_protocol_version {version}\ntopic # both 1\n");
        lines.iter().for_each(|line| text += &format!("{line}\n"));
        std::fs::write(file, text).expect("written");
    }
    let mut sites = prepared;
    for site in &mut sites {
        site.start_node(0).expect("it starts");
    }
    for (site, cluster) in sites.iter_mut().enumerate() {
        cluster.wait_serving(0, TIMEOUT).await.expect("it serves");
        let bridges = links.iter().filter(|(from, _)| *from == site).count();
        cluster.wait_logged(0, " connected to ", bridges).await.expect("all connect");
    }
    // Each link has a subscription at either end. One that begins later would bring what others are still to bring.
    for (site, cluster) in sites.iter().enumerate() {
        let wanted = links.iter().flat_map(|(from, to)| [from, to]).filter(|end| **end == site).count();
        let subscribed = async || subscriptions(cluster).await.is_some_and(|count| count >= wanted as f64);
        assert!(eventually(TIMEOUT, subscribed).await, "{:?} of {wanted} subscriptions", subscriptions(cluster).await);
    }
    sites
}

async fn subscriptions(site: &Cluster) -> Option<f64> {
    let (_, text) = http::get(site.health_address(0), "/metrics").await.ok()?;
    Scrape::parse(&text).ok()?.get("mosquorum_subscriptions", &[("kind", "ordinary")])
}

/// Every site publishes, and every site's reader gets each message once, in the order of its publisher.
async fn each_site_gets_each_message_once(sites: &[Cluster]) {
    const COUNT: u32 = 50;
    let mut readers = Vec::new();
    for site in sites {
        readers.push(durable(site, 0, "reader", "news/#").await.expect("a reader"));
    }
    for (number, site) in sites.iter().enumerate() {
        let mut writer = publisher(site, 0, "writer").await.expect("a writer");
        for n in 0..COUNT {
            let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce][n as usize % 2];
            // The same words again and again are different messages all the same.
            writer.publish(message(&format!("news/{number}"), (n / 4).to_string(), qos)).await.expect("published");
        }
    }
    let wanted: Vec<u32> = (0..COUNT).map(|n| n / 4).collect();
    for (at, reader) in readers.iter_mut().enumerate() {
        let mut seen: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for _ in 0..COUNT * sites.len() as u32 {
            let publish = reader.receive().await.unwrap_or_else(|error| panic!("{error} at site {at}: {seen:?}"));
            assert!(
                publish.properties.is_none_or(|properties| properties.user_properties.is_empty()),
                "marks are ours"
            );
            let topic = publish.topic.expect("a topic").as_str().to_owned();
            let number = std::str::from_utf8(&publish.payload).expect("text").parse().expect("a number");
            seen.entry(topic).or_default().push(number);
        }
        assert!(seen.values().all(|numbers| *numbers == wanted), "at site {at}: {seen:?}");
        reader.expect_nothing().await.expect("each once");
    }
}

#[tokio::test]
async fn in_a_ring_of_three_with_marks_each_site_gets_each_message_once() {
    let sites = sites(3, &[(0, 1), (1, 2), (2, 0)], "mqttv50", &["bridge_loop_mark true"]).await;
    each_site_gets_each_message_once(&sites).await;
}

#[tokio::test]
async fn in_a_full_mesh_of_four_with_marks_each_site_gets_each_message_once() {
    let links = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
    let sites = sites(4, &links, "mqttv50", &["bridge_loop_mark true"]).await;
    each_site_gets_each_message_once(&sites).await;
}

#[tokio::test]
async fn in_a_ring_of_mqtt_3_what_goes_round_is_cut_and_named() {
    let sites = sites(3, &[(0, 1), (1, 2), (2, 0)], "mqttv311", &[]).await;
    let mut writer = publisher(&sites[0], 0, "writer").await.expect("a writer");
    writer.publish(message("news/a", "round", QoS::AtLeastOnce)).await.expect("published");
    let deadline = Instant::now() + TIMEOUT;
    while !sites.iter().any(|site| site.log(0).contains("goes round between the brokers")) {
        assert!(Instant::now() < deadline, "nobody noticed:\n{}", sites[0].log_tail(0, 20));
        sleep(Duration::from_millis(50)).await;
    }
    // All is calm then: a reader who comes now gets what is published now, and nothing else.
    let mut reader = durable(&sites[1], 0, "reader", "news/#").await.expect("a reader");
    let deadline = Instant::now() + TIMEOUT;
    while let Some(packet) = reader.recv_within(Duration::from_secs(1)).await.expect("a connection") {
        assert!(Instant::now() < deadline, "it goes on");
        reader.put_back(packet);
        reader.receive().await.expect("a message");
    }
    writer.publish(message("news/b", "calm", QoS::AtLeastOnce)).await.expect("published");
    assert_eq!(reader.receive().await.expect("it crosses").payload, "calm");
}
