//! The chart's pods in a Kubernetes of processes, under load: one short round of everything that happens to a release.
//! `cargo run --release -p mosquorum-tests --bin pods` does it as often as you like. `MOSQUORUM_SEED` gives a run back.
use mosquorum_tests::{
    cluster::binary::is_stand_in,
    pods::{
        rounds::{Round, run},
        tools, why_no_containers,
    },
    skip::skip,
};
use std::time::Duration;

/// Messages per second, so that a debug build on two cores has room for everything else.
const RATE: u32 = 120;
/// The promise is 3 s; machines that run tests are slow.
const WITHOUT_A_NODE_MAX: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_rolled_scaled_and_damaged_and_nothing_acknowledged_is_lost() {
    if is_stand_in() {
        return skip("MOSQUORUM_BIN is Eclipse Mosquitto");
    }
    if let Some(why) = why_no_containers().or_else(|| tools::install().err()) {
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
