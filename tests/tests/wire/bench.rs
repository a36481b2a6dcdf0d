//! `mosquorum bench` against one node: each scenario ends, and finds that nothing is missing, repeated or out of order.
use mosquorum_tests::{
    cluster::{Cluster, ClusterOptions},
    target::TestResult,
};
use serde_json::Value;
use std::process::Stdio;
use tokio::process::Command;

async fn bench(cluster: &Cluster, words: &str) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
    let address = cluster.address(0).to_string();
    let pid = cluster.process_id(0).unwrap_or_default().to_string();
    let mut command = Command::new(cluster.binary());
    command.arg("bench").args(words.split(' ')).args([
        "--json",
        "--quiet",
        "--address",
        &address,
        "--broker-pid",
        &pid,
    ]);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let error = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("bench {words}: {} {error}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn all_is_well(result: &Value, words: &str) {
    for key in ["missing", "duplicates", "out_of_order"] {
        assert_eq!(result.get(key).and_then(Value::as_f64).unwrap_or(0.0), 0.0, "{words}: {key} in {result}");
    }
}

fn number(result: &Value, key: &str) -> f64 {
    result[key].as_f64().unwrap_or_else(|| panic!("{key} is not in {result}"))
}

const ONE_NODE: [&str; 3] = ["max_queued_messages 0", "max_queued_bytes 0", "max_inflight_messages 0"];

async fn one_node(name: &str) -> std::io::Result<Cluster> {
    let options = ONE_NODE.iter().fold(ClusterOptions::new(name, 1), |options, line| options.with(line));
    Cluster::start(options).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pattern_of_traffic_runs_in_every_qos_and_version() -> TestResult {
    let cluster = one_node("bench-traffic").await?;
    for words in [
        "p2p --pairs 3 --qos 0 --protocol 3.1.1",
        "p2p --pairs 3 --qos 1 --protocol 5 --window 10",
        "p2p --pairs 3 --qos 2 --protocol 3.1 --payload 3000",
        "p2p --pairs 2 --qos 2 --protocol 5 --durable",
        "p2p --pairs 2 --qos 1 --payload 400000 --window 3",
        "p2p --pairs 2 --qos 1 --rate 500",
        "fanout --subscribers 20 --qos 1",
        "fanin --publishers 10 --subscribers 2 --qos 1",
        "shared --publishers 10 --subscribers 3 --qos 1",
    ] {
        let result = bench(&cluster, &format!("{words} --warm-up 0.1 --seconds 0.4")).await?;
        all_is_well(&result, words);
        assert!(number(&result, "delivered") > 0.0 && number(&result, "latency_p99_ms") > 0.0, "{words}: {result}");
        assert!(number(&result, "rss_mib") > 1.0, "{words}: {result}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_retained_messages_and_offline_queues_are_counted_to_the_last() -> TestResult {
    let cluster = one_node("bench-counted").await?;
    let result = bench(&cluster, "connect --connections 100 --warm-up 0.1 --seconds 0.1").await?;
    assert_eq!(number(&result, "connections"), 100.0);
    for qos in ["0", "1"] {
        let words = format!("retained --messages 3000 --warm-up 0 --qos {qos}");
        let result = bench(&cluster, &words).await?;
        all_is_well(&result, &words);
        assert_eq!(number(&result, "replayed"), 3000.0);
    }
    for words in ["durable --pairs 3 --messages 2000", "durable --pairs 2 --messages 500 --qos 2 --protocol 5"] {
        let result = bench(&cluster, words).await?;
        all_is_well(&result, words);
        assert_eq!(number(&result, "delivered"), number(&result, "acknowledged"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_is_left_and_nothing_acknowledged_is_lost() -> TestResult {
    let cluster = Cluster::start(ClusterOptions::new("bench-failover", 3).with("max_inflight_messages 0")).await?;
    let mut words = "failover --pairs 3 --rate 300 --warm-up 0.5 --seconds 4".to_owned();
    for node in 1..3 {
        words += &format!(" --address {}", cluster.address(node));
    }
    // The address that the helper adds comes last; the node behind it dies.
    words += &format!(" --kill-pid {}", cluster.process_id(0).unwrap_or_default());
    let result = bench(&cluster, &words).await?;
    // What was sent again may come twice.
    for key in ["lost", "out_of_order", "sessions_lost"] {
        assert_eq!(number(&result, key), 0.0, "{key} in {result}");
    }
    assert!(number(&result, "acknowledged") > 0.0 && number(&result, "reconnects") >= 2.0, "{result}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_not_there_is_one_line_and_exit_code_1() -> TestResult {
    let cluster = one_node("bench-nobody").await?;
    let mut command = Command::new(cluster.binary());
    let output = command.args(["bench", "p2p", "--address", "127.0.0.1:1", "--quiet"]).output().await?;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr)?;
    assert!(text.starts_with("Error: bench p2p: 127.0.0.1:1: ") && text.lines().count() == 1, "{text}");
    Ok(())
}
