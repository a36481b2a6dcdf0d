//! A short sample of what the `chaos` runner does for hours, and the proof that it finds what it is there to find.
//! Seeds: `MOSQUORUM_SEED` gives one back.
use mosquorum_tests::{
    chaos::{ChaosOptions, Nemesis, Outcome, nemesis::Rhythm, rest::Rest, run},
    cluster::{binary::is_stand_in, why_no_namespaces},
    skip::skip,
};
use std::time::Duration;
use tokio::sync::Semaphore;

/// More chaos runs at once on two cores would only measure each other.
static TWO_AT_A_TIME: Semaphore = Semaphore::const_new(2);

/// How often a node alone is killed, or loses power, in one test.
const CYCLES: usize = 50;

fn seed() -> u64 {
    let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |time| time.as_secs());
    std::env::var("MOSQUORUM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(clock)
}

fn stand_in() -> bool {
    if is_stand_in() {
        skip("MOSQUORUM_BIN is Eclipse Mosquitto, which promises nothing of this");
    }
    is_stand_in()
}

fn short(nodes: usize) -> ChaosOptions {
    let mut options = ChaosOptions::new(seed(), nodes);
    (options.seconds, options.acknowledged_min, options.faults_min) = (15, 500, 1);
    options
}

/// One of the runs that, with the kills of a node alone and the planted bugs, make a sample of some minutes.
fn sample() -> ChaosOptions {
    let mut options = short(3);
    (options.seconds, options.acknowledged_min, options.faults_min) = (35, 2000, 2);
    options.rest = SHORT_REST;
    options
}

/// Of runs that look at something else above all; the first two of the sample rest as all runs of the runner do.
const SHORT_REST: Rest = Rest { whole: Duration::from_secs(2), ..Rest::NONE };

/// Says why, if it is not so and has to be.
fn links_can_be_cut(nemeses: &[Nemesis]) -> bool {
    let why = if nemeses.iter().any(|nemesis| nemesis.needs_namespaces()) { why_no_namespaces() } else { None };
    if let Some(why) = &why {
        skip(why);
    }
    why.is_none()
}

async fn outcome(options: &ChaosOptions) -> Outcome {
    println!("MOSQUORUM_SEED={}", options.seed);
    let outcome = run(options).await.expect("the cluster starts");
    println!("{}", outcome.line());
    outcome
}

async fn must_hold(options: ChaosOptions) {
    let _turn = TWO_AT_A_TIME.acquire().await.expect("it is never closed");
    let outcome = outcome(&options).await;
    let violations: Vec<String> = outcome.violations.iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "seed {}:\n{}", options.seed, violations.join("\n"));
    assert_eq!(outcome.why_it_does_not_count, None, "seed {}", options.seed);
}

/// Without long pauses.
const RHYTHM: Rhythm =
    Rhythm { peace: (800, 1800), down: (100, 1200), cut: (4000, 5000), links: (4000, 5000), faults_max: usize::MAX };

async fn must_be_caught(bug: &str, nemeses: &[Nemesis], power_cut: bool, by: &[&str]) {
    let mut options = short(3);
    options.nemeses = nemeses.to_vec();
    (options.power_cut, options.rest, options.rhythm) = (power_cut, Rest::NONE, RHYTHM);
    must_be_caught_by(bug, options, by).await;
}

/// A planted bug shows itself in some interleavings only: a few seeds, of which one must find it.
/// `by`: the invariants that may notice it; empty: any.
async fn must_be_caught_by(bug: &str, mut options: ChaosOptions, by: &[&str]) {
    if stand_in() || !links_can_be_cut(&options.nemeses) {
        return;
    }
    let _turn = TWO_AT_A_TIME.acquire().await.expect("it is never closed");
    options.plant = Some(bug.into());
    for _attempt in 0..10 {
        let violations = outcome(&options).await.violations;
        if violations.iter().any(|violation| by.is_empty() || by.contains(&violation.invariant)) {
            return;
        }
        options.seed += 1;
    }
    panic!("{bug} was not caught");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_keep_their_promises_under_kills_and_pauses() {
    if !stand_in() {
        let mut options = sample();
        (options.seconds, options.acknowledged_min, options.rest) = (26, 1500, Rest::default());
        must_hold(options).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_keep_their_promises_under_power_cuts() {
    if !stand_in() {
        let mut options = sample();
        (options.seconds, options.acknowledged_min, options.rest) = (26, 1500, Rest::default());
        options.power_cut = true;
        options.nemeses = vec![Nemesis::KillAll, Nemesis::KillLeader, Nemesis::KillFollower];
        must_hold(options).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_keep_their_promises_when_the_leader_is_cut_off() {
    let mut options = sample();
    options.nemeses = vec![Nemesis::PartitionLeader];
    if !stand_in() && links_can_be_cut(&options.nemeses) {
        must_hold(options).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_keep_their_promises_when_single_links_are_cut() {
    let mut options = sample();
    options.nemeses = vec![Nemesis::CutPairLeader, Nemesis::CutOneWayToLeader, Nemesis::FlappingPair];
    if !stand_in() && links_can_be_cut(&options.nemeses) {
        must_hold(options).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_keep_their_promises_whatever_their_clocks_say() {
    let mut options = sample();
    (options.seconds, options.acknowledged_min) = (20, 1200);
    options.nemeses = vec![Nemesis::ClockJumpLeader, Nemesis::ClockJumpFollower, Nemesis::ClockSkew];
    // Without waiting for anything, the clocks of a run are set three times or so.
    options.rhythm = Rhythm { peace: (800, 1800), cut: (2000, 4000), ..Rhythm::default() };
    if !stand_in() {
        must_hold(options).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_keep_their_promises_under_two_faults_at_once() {
    let mut options = sample();
    // One pair at least; a pair may leave no service for some seconds.
    (options.seconds, options.acknowledged_min) = (25, 1000);
    options.nemeses = vec![Nemesis::TwoAtOnce];
    if !stand_in() && links_can_be_cut(&options.nemeses) {
        must_hold(options).await;
    }
}

fn single(power_cut: bool) -> ChaosOptions {
    let mut options = short(1);
    (options.power_cut, options.rest) = (power_cut, SHORT_REST);
    options.rhythm = Rhythm { peace: (50, 700), down: (0, 100), cut: (0, 0), links: (0, 0), faults_max: CYCLES };
    (options.seconds, options.faults_min) = (300, CYCLES);
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_with_persistence_keeps_its_promises_under_kills() {
    if !stand_in() {
        must_hold(single(false)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_with_persistence_keeps_its_promises_under_power_cuts() {
    if !stand_in() {
        must_hold(single(true)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledging_before_fdatasync_is_caught() {
    must_be_caught("ack-before-fsync", &[Nemesis::KillAll], true, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledging_on_the_leader_alone_is_caught() {
    let nemeses = [Nemesis::KillLeader, Nemesis::KillMajority, Nemesis::PauseLeader];
    must_be_caught("leader-only", &nemeses, false, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_from_a_stale_table_is_caught() {
    must_be_caught("stale-route", &[Nemesis::KillFollower, Nemesis::PauseLeader], false, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposing_for_a_connection_that_is_superseded_is_caught() {
    let mut options = short(3);
    options.nemeses = vec![Nemesis::CutPairLeader, Nemesis::CutOneWayToLeader];
    options.rest = Rest::NONE;
    // Without a way round the link the stale proposals wait until it is mended, as they did when this was found: before the
    // node that has them lags so far behind that it ends its incarnation, and they with it.
    options.rhythm = Rhythm { cut: (1600, 2600), links: (1600, 2600), ..RHYTHM };
    must_be_caught_by("no-proposal-fence,no-relay", options, &["superseded writes", "order", "retained order"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measuring_time_by_the_wall_clock_is_caught() {
    must_be_caught("wall-clock", &[Nemesis::ClockJumpLeader], false, &["expiry", "wills", "session kept"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_delivery_by_the_proposing_node_alone_is_caught() {
    let mut options = short(3);
    (options.nemeses, options.rest) = (vec![Nemesis::KillLeader, Nemesis::KillFollower], Rest::NONE);
    options.rhythm = Rhythm { peace: (500, 1000), down: (100, 500), ..Rhythm::default() };
    // What dies between its commit and its delivery is little: there must be much.
    options.rates.live = 400;
    must_be_caught_by("origin-delivers", options, &["live delivery"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_delivery_out_of_the_logs_order_is_caught() {
    must_be_caught("origin-delivers", &[Nemesis::PauseFollower], false, &["retained order"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_reaches_the_leader_by_its_own_link_only_is_caught() {
    let mut options = short(3);
    (options.nemeses, options.rest) = (vec![Nemesis::CutPairLeader], Rest::NONE);
    // A node that serves later found no way around the link, which is broken for longer.
    options.rhythm = Rhythm { links: (10_000, 11_000), ..Rhythm::default() };
    options.serve_again_max = Duration::from_secs(7);
    must_be_caught_by("no-relay", options, &["availability"]).await;
}

/// Nothing breaks but by the bug, and only what shows it is done.
fn peaceful(seconds: u64, rest: Rest) -> ChaosOptions {
    let mut options = short(3);
    (options.seconds, options.nemeses, options.faults_min, options.rest) = (seconds, Vec::new(), 0, rest);
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_calls_a_dead_member_without_a_pause_is_caught() {
    let rest = Rest { absent: Duration::from_secs(3), ..Rest::NONE };
    must_be_caught_by("reconnect-spin", peaceful(2, rest), &["costs"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_not_woken_when_congestion_ends_is_caught() {
    let rest = Rest { burst: true, ..Rest::NONE };
    must_be_caught_by("congestion-sleeps", peaceful(2, rest), &["costs"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_message_that_keeps_all_that_was_read_with_it_is_caught() {
    let mut options = peaceful(16, Rest::NONE);
    options.rates.packed = 700;
    must_be_caught_by("pinned-buffers", options, &["costs"]).await;
}

/// The runner finds what Eclipse Mosquitto loses: a checker that never fails proves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_saves_at_exit_only_is_caught() {
    if !is_stand_in() {
        // Runs where MOSQUORUM_BIN=/usr/sbin/mosquitto; the planted bugs above are the proof everywhere else.
        return;
    }
    assert!(!outcome(&single(false)).await.violations.is_empty());
}
