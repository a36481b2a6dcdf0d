//! What operators see of a broker beside MQTT: probes and metrics on `health_listener`.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS};
use mosquorum_tests::{
    client::{Connection, TIMEOUT, message},
    cluster::{Cluster, ClusterOptions, Wiring, binary::is_stand_in, folder::workspace, why_no_namespaces},
    http,
    metrics::Scrape,
    skip::skip,
    target::TestResult,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

const STAND_IN: &str = "MOSQUORUM_BIN is Eclipse Mosquitto, which has no health listener";

/// Waits until `/readyz` of a node has this status; how long that took, and the reasons given last.
async fn wait_readiness(cluster: &Cluster, node: usize, wanted: u16) -> (Duration, String) {
    let since = Instant::now();
    loop {
        let answer = http::get(cluster.health_address(node), "/readyz").await;
        if let Ok((status, body)) = &answer
            && *status == wanted
        {
            return (since.elapsed(), body.clone());
        }
        assert!(since.elapsed() < 2 * TIMEOUT, "node {node}: {answer:?}, not {wanted}\n{}", cluster.log_tail(node, 30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn health_check(cluster: &Cluster, node: usize, path: &str) -> (bool, String) {
    let url = format!("http://{}{path}", cluster.health_address(node));
    let mut command = tokio::process::Command::new(cluster.binary());
    let output = command.args(["healthcheck", "--url", &url]).kill_on_drop(true).output().await.expect("a program");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

#[tokio::test]
async fn a_node_is_alive_from_its_start_and_ready_when_it_serves() {
    if is_stand_in() {
        return skip(STAND_IN);
    }
    let mut cluster = Cluster::prepare(ClusterOptions::new("readiness", 3)).expect("files");
    let nobody = health_check(&cluster, 0, "/livez").await;
    assert!(!nobody.0 && nobody.1.starts_with("Error: no answer from http://"), "{nobody:?}");
    cluster.start_node(0).expect("a process");
    let (_, reasons) = wait_readiness(&cluster, 0, 503).await;
    assert!(reasons.contains("starting") || reasons.contains("not a voter"), "{reasons}");
    assert_eq!(health_check(&cluster, 0, "/livez").await, (true, "alive".to_owned()));
    let unready = health_check(&cluster, 0, "/readyz").await;
    assert!(!unready.0 && unready.1.contains(" answers 503: "), "{unready:?}");
    for node in [1, 2] {
        cluster.start_node(node).expect("a process");
    }
    for node in 0..3 {
        wait_readiness(&cluster, node, 200).await;
        cluster.wait_serving(node, TIMEOUT).await.expect("a ready node serves");
    }
    assert_eq!(health_check(&cluster, 2, "/readyz").await, (true, "ready".to_owned()));
    // Without --url, where the configuration file says.
    let file = cluster.configuration_file(1).display().to_string();
    let mut command = tokio::process::Command::new(cluster.binary());
    assert!(command.args(["healthcheck", "-c", &file]).status().await.expect("a program").success());
    cluster.kill(0);
    cluster.kill(1);
    let (_, reasons) = wait_readiness(&cluster, 2, 503).await;
    assert!(reasons.contains("majority") || reasons.contains("lease"), "{reasons}");
}

#[tokio::test]
async fn a_health_listener_answers_get_and_head_alone_and_nothing_long() {
    if is_stand_in() {
        return skip(STAND_IN);
    }
    let cluster = Cluster::start(ClusterOptions::new("health-http", 1)).await.expect("a node");
    let address = cluster.health_address(0);
    let status = async |request: &[u8]| {
        let answer = http::exchange(address, request).await.expect("an answer");
        String::from_utf8_lossy(&answer).split(' ').nth(1).map(str::to_owned).unwrap_or_default()
    };
    assert_eq!(status(b"HEAD /livez HTTP/1.1\r\n\r\n").await, "200");
    assert_eq!(status(b"GET /other HTTP/1.1\r\n\r\n").await, "404");
    assert_eq!(status(b"POST /readyz HTTP/1.1\r\nContent-Length: 0\r\n\r\n").await, "405");
    assert_eq!(status(b"\x00\x01\x02\r\n\r\n").await, "400");
    assert_eq!(status(&[b"GET /".as_slice(), &[b'a'; 8 << 10]].concat()[..8 << 10]).await, "431");
    // Many that say nothing do not keep the next one from being answered.
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(tokio::net::TcpStream::connect(address).await.expect("a connection"));
    }
    assert_eq!(http::get(address, "/readyz").await.expect("an answer"), (200, "ready\n".to_owned()));
}

#[tokio::test]
async fn readiness_ends_within_2_s_of_a_partition_and_is_back_within_10_s_of_its_end() {
    if is_stand_in() {
        return skip(STAND_IN);
    }
    if let Some(why) = why_no_namespaces() {
        return skip(&why);
    }
    let mut options = ClusterOptions::new("readiness-cut", 3);
    options.wiring = Wiring::Namespaces;
    let cluster = Cluster::start(options).await.expect("a cluster");
    let (mut lost, mut found) = (Vec::new(), Vec::new());
    // Each node once, so the leader too; a stall of the machine may spoil one round.
    for node in 0..3 {
        for other in 0..3 {
            wait_readiness(&cluster, other, 200).await;
        }
        cluster.partition(&[node]).expect("nft works");
        lost.push(wait_readiness(&cluster, node, 503).await.0);
        for other in (0..3).filter(|other| *other != node) {
            wait_readiness(&cluster, other, 200).await;
        }
        cluster.heal().expect("nft works");
        found.push(wait_readiness(&cluster, node, 200).await.0);
    }
    eprintln!("503 after {lost:?}, 200 after {found:?}");
    lost.sort();
    found.sort();
    assert!(lost[1] < Duration::from_secs(2), "503 after {lost:?}");
    assert!(found[1] < Duration::from_secs(10), "200 after {found:?}");
}

async fn scrape(cluster: &Cluster, node: usize) -> Scrape {
    let (status, text) = http::get(cluster.health_address(node), "/metrics").await.expect("an answer");
    assert_eq!(status, 200);
    Scrape::parse(&text).unwrap_or_else(|wrong| panic!("{wrong}\n{text}"))
}

#[tokio::test]
async fn a_scrape_of_three_nodes_shows_what_clients_raft_and_links_did() -> TestResult {
    if is_stand_in() {
        skip(STAND_IN);
        return Ok(());
    }
    let cluster = Cluster::start(ClusterOptions::new("metrics", 3)).await?;
    let mut durable = Connect::new(ProtocolVersion::V5, "durable");
    durable.session_expiry_interval = Some(3600);
    let (mut subscriber, _) = Connection::connected(cluster.address(1), durable).await?;
    subscriber.subscribe_to("metered/#", QoS::ExactlyOnce).await?;
    let (mut clean, _) =
        Connection::connected(cluster.address(2), Connect::new(ProtocolVersion::V311, "clean")).await?;
    clean.subscribe_to("metered/#", QoS::AtMostOnce).await?;
    let (mut publisher, _) =
        Connection::connected(cluster.address(0), Connect::new(ProtocolVersion::V5, "publisher")).await?;
    for (count, qos) in [(5, QoS::AtLeastOnce), (3, QoS::ExactlyOnce)] {
        for _ in 0..count {
            publisher.publish(message("metered/power", &b"0123456789"[..], qos)).await?;
        }
    }
    for _ in 0..8 {
        subscriber.receive().await?;
        clean.receive().await?;
    }
    let scrapes = [scrape(&cluster, 0).await, scrape(&cluster, 1).await, scrape(&cluster, 2).await];
    let received = |qos: &str| scrapes[0].get("mosquorum_publishes_received_total", &[("qos", qos)]);
    assert_eq!((received("0"), received("1"), received("2")), (Some(0.0), Some(5.0), Some(3.0)));
    assert_eq!(scrapes[0].get("mosquorum_publish_received_bytes_total", &[]), Some(80.0));
    assert_eq!(scrapes[2].get("mosquorum_publishes_sent_total", &[("qos", "0")]), Some(8.0));
    let listener = cluster.address(2).to_string();
    let clients = scrapes[2].get("mosquorum_clients", &[("listener", listener.as_str()), ("protocol", "3.1.1")]);
    assert_eq!(clients, Some(1.0));
    let leaders = scrapes.iter().map(|one| one.get("mosquorum_raft_role", &[("role", "leader")]).unwrap_or(0.0));
    assert_eq!(leaders.sum::<f64>(), 1.0);
    for (node, one) in scrapes.iter().enumerate() {
        assert_eq!(one.get("mosquorum_ready", &[]), Some(1.0), "node {node}");
        assert_eq!(one.sum("mosquorum_peer_up"), 2.0, "node {node}");
        assert_eq!(one.sum("mosquorum_raft_role"), 1.0, "node {node}");
        assert_eq!(one.get("mosquorum_cluster_members", &[("kind", "voter")]), Some(3.0), "node {node}");
        assert_eq!(one.get("mosquorum_sessions", &[("state", "connected")]), Some(1.0), "node {node}");
        for histogram in ["commit", "fsync", "apply"] {
            let count = one.get(&format!("mosquorum_{histogram}_duration_seconds_count"), &[]);
            assert!(count.is_some_and(|count| count > 0.0), "node {node}: {histogram} {count:?}");
        }
        let term = one.get("mosquorum_raft_term", &[]);
        assert!(term >= Some(1.0) && term == scrapes[0].get("mosquorum_raft_term", &[]), "node {node}: {term:?}");
        assert!(one.get("process_resident_memory_bytes", &[]) > Some(1e6), "node {node}");
        assert!(one.get("mosquorum_memory_bytes", &[("owner", "rest")]) > Some(1e6), "node {node}");
        let ends = one.get("mosquorum_certificate_expiry_timestamp_seconds", &[("use", "cluster")]);
        assert!(ends > Some(1.7e9), "node {node}: {ends:?}");
    }
    Ok(())
}

/// Name, type and labels of each row of docs/metrics.md.
fn reference() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let page = std::fs::read_to_string(workspace().join("docs/metrics.md")).expect("the page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let each = rows.map(|(name, rest)| {
        let cells: Vec<&str> = rest.split(" | ").collect();
        let labels = cells[2].split("; ").filter_map(|label| label.strip_prefix('`')?.split_once("`: "));
        (name.to_owned(), (cells[0].to_owned(), labels.map(|(label, _)| label.to_owned()).collect()))
    });
    each.collect()
}

#[tokio::test]
async fn the_reference_of_metrics_has_what_nodes_tell_and_nothing_else() -> TestResult {
    if is_stand_in() {
        skip(STAND_IN);
        return Ok(());
    }
    // With a bridge, whose remote need not be there.
    let mut options = ClusterOptions::new("metrics-reference", 3);
    for line in ["connection away", "address 127.0.0.1:1", "remote_clientid away", "topic # out 1"] {
        options = options.with_listener(line);
    }
    let cluster = Cluster::start(options).await?;
    let mut told = BTreeMap::new();
    // What the leader alone tells is there as soon as one of the three knows itself as leader.
    let deadline = Instant::now() + TIMEOUT;
    while told != reference() && Instant::now() < deadline {
        for node in 0..3 {
            let scrape = scrape(&cluster, node).await;
            for (name, kind) in &scrape.families {
                let labels = scrape.labels(name).into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
                told.insert(name.clone(), (kind.clone(), labels));
            }
        }
    }
    assert_eq!(told, reference());
    Ok(())
}
