//! The chart's pods in a Kubernetes of processes, under load: one short round of everything that happens to a release.
//! `cargo run --release -p mosquorum-tests --bin pods` does it as often as you like. `MOSQUORUM_SEED` gives a run back.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, ReasonCode};
use mosquorum_tests::{
    client::{Connection, TIMEOUT},
    cluster::binary::is_stand_in,
    pods::{
        Simulator,
        rounds::{Round, run},
        tools, why_no_containers,
    },
    skip::skip,
};
use std::{
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// Messages per second, so that a debug build on two cores has room for everything else.
const RATE: u32 = 120;
/// The promise is 3 s; machines that run tests are slow.
const WITHOUT_A_NODE_MAX: Duration = Duration::from_secs(15);

/// Two names and passwords as `mosquitto_passwd` writes them: meter, first; reader, second.
const METER: &str = "meter:$7$1000$dHdlbHZlIGJ5dGVz$pN9zLO+yS8QbTh+zifbhYO5iKMSuFJXX7sieYIQLdXHLvL262QSwoxrVciROmrIvCH/HhfkFwikiLgUu6T9jmg==\n";
const READER: &str = "reader:$7$1000$b3RoZXIgMTJieXRl$lxDJgSTDS1U/MiZ5TYbpNREZHP1AfX0fEqfvYieJwPHxtxFIJX4SrfG/InLvW35SkA+cmdcCZ+pqRw5OhiUDZg==\n";

fn why_not() -> Option<String> {
    if is_stand_in() {
        return Some("MOSQUORUM_BIN is Eclipse Mosquitto".into());
    }
    why_no_containers().or_else(|| tools::install().err())
}

async fn answer(address: SocketAddr, name: &str, password: &str) -> Option<ReasonCode> {
    let mut connect = Connect::new(ProtocolVersion::V5, format!("client-of-{name}"));
    connect.user_name = Some(name.into());
    connect.password = Some(password.as_bytes().to_vec().into());
    let (_, connack) = Connection::connect_within(address, connect, Duration::from_secs(2)).await.ok()?;
    Some(connack.reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_helm_test_passes_and_a_secret_that_changes_needs_no_restart() {
    if let Some(why) = why_not() {
        return skip(&why);
    }
    let settings = [
        "auth.existingSecret=mqtt-users",
        "tests.credentialsSecret=mqtt-test",
        "minReadySeconds=1",
        "probes.readiness.periodSeconds=1",
        "probes.startup.periodSeconds=1",
        "reloader.intervalSeconds=1",
        "drain.seconds=1",
    ]
    .map(String::from);
    let credentials: &[(&str, &str)] = &[("username", "meter"), ("password", "first")];
    let secrets: &[(&str, &[(&str, &str)])] = &[("mqtt-users", &[("passwords", METER)]), ("mqtt-test", credentials)];
    let mut simulator = Simulator::install(&settings, secrets, TIMEOUT * 4).await.expect("pods are ready");
    let said = simulator.test(TIMEOUT * 2).await.expect("helm test passes");
    assert!(said.contains("published hello, got hello"), "{said}");

    assert_eq!(answer(simulator.address, "reader", "second").await, Some(ReasonCode::NotAuthorized));
    let both = format!("{METER}{READER}");
    simulator.change_secret("mqtt-users", &[("passwords", &both)]).expect("written");
    let deadline = Instant::now() + TIMEOUT;
    // Each pod gets the signal by itself: all of them, in turn, have to know.
    let mut known = 0;
    while known < 6 {
        let good = answer(simulator.address, "reader", "second").await == Some(ReasonCode::Success);
        known = if good { known + 1 } else { 0 };
        if Instant::now() > deadline {
            panic!("the new name is not known\n{}", simulator.describe().await);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(simulator.tally.restarts.load(Ordering::Relaxed), 0);
    assert_eq!(simulator.tally.pods.load(Ordering::Relaxed), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_rolled_scaled_and_damaged_and_nothing_acknowledged_is_lost() {
    if let Some(why) = why_not() {
        return skip(&why);
    }
    let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |time| time.as_secs());
    let seed = std::env::var("MOSQUORUM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(clock);
    println!("MOSQUORUM_SEED={seed}");
    let report = run(seed, &Round::ALL, RATE).await.expect("pods become what the chart says");
    println!("{}", report.line());
    let violations: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "seed {seed}:\n{}", violations.join("\n"));
    assert!(report.acknowledged > 1000, "only {} acknowledgements", report.acknowledged);
    assert_eq!((report.restarts, report.killed, report.pre_stop_failures), (0, 0, 0), "{}", report.line());
    assert!(report.longest_without.0 < WITHOUT_A_NODE_MAX, "{}", report.line());
}
