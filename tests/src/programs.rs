//! Programs written for common client libraries, in `tests/clients`: where their libraries are, and a talk with one.
use crate::{
    client::{Connection, TIMEOUT, message},
    cluster::{Cluster, folder::workspace},
    skip::skip,
    target::TestResult,
};
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};

/// The folder of the programs.
#[must_use]
pub fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// The folder of the libraries; none, and a word why, if they cannot be had. They are installed if they are not there.
pub async fn libraries() -> Option<PathBuf> {
    let installed = Command::new(here().join("tools")).stdin(Stdio::null()).output().await;
    match installed {
        Ok(output) if output.status.success() => Some(workspace().join("target/tools")),
        Ok(output) => {
            skip(&format!("no client libraries: {}", String::from_utf8_lossy(&output.stderr).trim()));
            None
        }
        Err(error) => {
            skip(&format!("no client libraries: {error}"));
            None
        }
    }
}

/// Asks `mqttjs_answer.js` at the other end; each question comes back, those of one QoS in order, and nothing else.
pub async fn converse(cluster: &Cluster, name: &str, mut program: Child) -> TestResult {
    let connect = |role: &str| Connect::new(ProtocolVersion::V5, format!("{name}-{role}").as_str());
    let (mut asks, _) = Connection::connected(cluster.address(0), connect("asks")).await?;
    let (mut reader, _) = Connection::connected(cluster.address(0), connect("hears")).await?;
    for topic in ["ready", "answer", "lost"] {
        reader.subscribe_to(&format!("{name}/{topic}"), QoS::ExactlyOnce).await?;
    }
    let ready = reader.receive().await?;
    println!("{name}: {}", String::from_utf8_lossy(&ready.payload));
    let levels = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    for number in 0..60 {
        asks.publish(message(&format!("{name}/question"), number.to_string(), levels[number % 3])).await?;
    }
    let mut came: [Vec<usize>; 3] = Default::default();
    while came.iter().map(Vec::len).sum::<usize>() < 60 {
        let answer = reader.receive().await?;
        assert!(answer.topic.as_ref().is_some_and(|topic| topic.as_str().ends_with("/answer")), "{answer:?}");
        let number: usize = String::from_utf8_lossy(&answer.payload).parse()?;
        assert_eq!(answer.qos, levels[number % 3]);
        came[number % 3].push(number);
    }
    for (kind, numbers) in came.iter().enumerate() {
        assert_eq!(*numbers, (0..20).map(|n| 3 * n + kind).collect::<Vec<_>>(), "in order");
    }
    let deadline = Instant::now() + TIMEOUT;
    asks.publish(message(&format!("{name}/end"), "", QoS::AtLeastOnce)).await?;
    let (start, end) = (format!("Client {name}-client ["), "] disconnected.");
    while !cluster.log(0).lines().any(|line| line.contains(&start) && line.ends_with(end)) {
        assert!(Instant::now() < deadline, "{}", cluster.log_tail(0, 20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    reader.expect_nothing().await?;
    let _ = program.start_kill();
    Ok(())
}
