//! The example of `deploy/examples/power-usage`, with its own configuration files: three sites share with one hub.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS};
use mosquorum_tests::{
    client::Connection,
    cluster::{Cluster, ClusterOptions},
    power,
};
use std::{collections::BTreeMap, path::Path};

const SECONDS: u64 = 10;
const HOUSEHOLDS: u32 = 2;

/// The lines of the site's bridge, with the hub where it is in this test.
fn bridge_lines(site: u32, hub: &Cluster) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/power-usage");
    let text = std::fs::read_to_string(folder.join(format!("site-{site}.conf"))).expect("the example is there");
    let bridge = text.lines().skip_while(|line| !line.starts_with("connection ")).map(str::trim);
    let lines: Vec<String> = bridge.map(|line| line.replace("127.0.0.1:1883", &hub.address(0).to_string())).collect();
    assert!(lines.iter().any(|line| line.ends_with(&hub.address(0).to_string())), "{lines:?}");
    lines
}

async fn client(cluster: &Cluster, id: &str) -> Connection {
    let connect = Connect::new(ProtocolVersion::V5, id);
    Connection::connect(cluster.address(0), connect).await.expect("a connection").0
}

#[tokio::test]
async fn what_three_sites_share_comes_together_at_the_hub_and_nothing_else_does() {
    let hub = Cluster::start(ClusterOptions::new("power-hub", 1)).await.expect("a hub");
    let mut everything = client(&hub, "everything").await;
    everything.subscribe_to("#", QoS::AtLeastOnce).await.expect("subscribed");
    let mut sites = Vec::new();
    for site in 1..=3 {
        let mut options = ClusterOptions::new("power-site", 1).with("max_queued_messages 0");
        for line in bridge_lines(site, &hub) {
            options = options.with_listener(&line);
        }
        sites.push(Cluster::start(options).await.expect("a site"));
    }
    let mut expected = BTreeMap::new();
    for (site, broker) in (1_u32..).zip(&sites) {
        let mut meter = client(broker, "meter").await;
        for second in 0..SECONDS {
            for household in site * 10..site * 10 + HOUSEHOLDS {
                let reading = power::reading(household, second);
                let topic = format!("site-{site}/{}", reading.topic.as_ref().expect("a topic").as_str());
                expected.entry(topic).or_insert_with(Vec::new).push(reading.payload.clone());
                meter.publish(reading).await.expect("published");
                meter.publish(power::private(household, second)).await.expect("published");
            }
        }
    }
    let mut seen: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for _ in 0..expected.values().map(Vec::len).sum() {
        let publish = everything.receive().await.expect("a reading");
        seen.entry(publish.topic.expect("a topic").as_str().to_owned()).or_default().push(publish.payload);
    }
    assert_eq!(seen, expected);
    everything.expect_nothing().await.expect("nothing private");
    let mut late = client(&hub, "late").await;
    late.subscribe_to("+/power/#", QoS::AtLeastOnce).await.expect("subscribed");
    for _ in 0..expected.len() {
        let publish = late.receive().await.expect("the last reading is retained");
        let topic = publish.topic.expect("a topic").as_str().to_owned();
        assert_eq!(Some(&publish.payload), expected[&topic].last(), "{topic}");
    }
}
