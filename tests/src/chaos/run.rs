//! One chaos run from start to verdict.
use super::{
    Nemesis, Outcome,
    actors::{Stage, read_retained},
    nemesis::{Fault, Rhythm, torment},
    rest::{Rest, rest},
    witness::Witnesses,
    workload::{self, Rates},
};
use crate::{
    checker::{self, view::SERVE_AGAIN_DEFAULT},
    client::session::Phase,
    cluster::{Cluster, ClusterOptions, Wiring},
    history::{Event, History, Recorder},
    random::Random,
};
use std::{
    io,
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinSet, time::sleep};

/// Longest wait for everything that is owed, counted from the last progress.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The same where a planted bug makes it vain.
const DRAIN_TIMEOUT_PLANTED: Duration = Duration::from_secs(6);

/// Messages per second of a soak.
const SOAK_RATE: u32 = 80;

/// Load after the last of a given number of faults.
const AFTERMATH: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
pub struct ChaosOptions {
    pub seed: u64,
    /// Length of the load, without start and drain.
    pub seconds: u64,
    pub nodes: usize,
    pub nemeses: Vec<Nemesis>,
    /// Unsynced bytes die with the process.
    pub power_cut: bool,
    /// A planted bug of the test build.
    pub plant: Option<String>,
    pub rates: Rates,
    pub rhythm: Rhythm,
    /// What a run must reach to count.
    pub acknowledged_min: u64,
    pub faults_min: usize,
    /// How long a node that reaches a majority may take to serve again.
    pub serve_again_max: Duration,
    /// What comes after the load, for the costs' sake.
    pub rest: Rest,
    /// Keeps files and history of the run whatever its outcome.
    pub keep: bool,
}

impl ChaosOptions {
    #[must_use]
    pub fn new(seed: u64, nodes: usize) -> Self {
        Self {
            seed,
            seconds: 30,
            nodes,
            nemeses: if nodes == 1 {
                vec![Nemesis::KillAll]
            } else {
                vec![
                    Nemesis::KillLeader,
                    Nemesis::KillFollower,
                    Nemesis::KillMajority,
                    Nemesis::KillAll,
                    Nemesis::PauseLeader,
                ]
            },
            power_cut: false,
            plant: None,
            rates: Rates::default(),
            rhythm: Rhythm::default(),
            acknowledged_min: 5000,
            faults_min: 3,
            serve_again_max: SERVE_AGAIN_DEFAULT,
            rest: Rest::default(),
            keep: false,
        }
    }

    /// One long run with two faults at a time. A small load: all that happened is judged at once, in memory.
    #[must_use]
    pub fn soak(seed: u64, minutes: u64) -> Self {
        let mut options = Self::new(seed, 3);
        (options.seconds, options.rates.ordinary) = (minutes * 60, SOAK_RATE);
        options.nemeses = vec![Nemesis::TwoAtOnce];
        // Half of the load may meet no service; a pair of faults takes 20 s or so until every node serves.
        options.acknowledged_min = options.seconds * u64::from(SOAK_RATE) / 2;
        options.faults_min = minutes as usize;
        options
    }

    fn cluster_options(&self) -> ClusterOptions {
        let mut options = ClusterOptions::new(&format!("chaos-{}", self.seed), self.nodes)
            .persistent()
            .with("max_queued_messages 0")
            .with("max_queued_bytes 0");
        if self.power_cut {
            options = options.power_cut();
        }
        if let Some(bug) = &self.plant {
            options = options.planted(bug);
        }
        if self.nemeses.iter().any(|nemesis| nemesis.needs_namespaces()) {
            options.wiring = Wiring::Namespaces;
        }
        if self.nemeses.iter().any(|nemesis| nemesis.needs_clocks()) {
            options = options.clocks();
        }
        options
    }
}

/// Runs and judges.
/// # Errors
/// When the cluster cannot be started at all.
pub async fn run(options: &ChaosOptions) -> io::Result<Outcome> {
    let began = Instant::now();
    let mut cluster = Cluster::start(options.cluster_options()).await?;
    let mut random = Random::new(options.seed);
    let recorder = Recorder::new(options.nodes);
    let (phase, watch) = watch::channel(Phase::Running);
    let stage = Stage::new(cluster.addresses(), recorder.clone(), watch.clone());
    let mut actors = JoinSet::new();
    workload::subscribers(&stage, &random.branch(1), &mut actors);
    wait_subscribed(&recorder, &actors).await;
    let witnesses = Witnesses::start(&stage.nodes, cluster.watches(), &recorder);
    workload::publishers(&stage, &random.branch(2), options.rates, &mut actors);
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let faults = torment(&mut cluster, &options.nemeses, options.rhythm, until, &recorder, &mut random, &watch).await;
    if options.rhythm.faults_max == usize::MAX {
        sleep(until.saturating_duration_since(Instant::now())).await;
    } else {
        // What the last fault did to publishers is seen while there is a load.
        sleep(AFTERMATH).await;
    }
    let _ = phase.send(Phase::Draining);
    drain(&recorder, if options.plant.is_some() { DRAIN_TIMEOUT_PLANTED } else { DRAIN_TIMEOUT }).await;
    recorder.record(Event::Drained);
    final_reads(&stage).await;
    let _ = phase.send(Phase::Over);
    while actors.join_next().await.is_some() {}
    rest(&mut cluster, options.rest, &recorder, &mut random, &witnesses).await;
    witnesses.end().await;
    let history = recorder.snapshot();
    let outcome = judge(options, &history, &faults, began.elapsed());
    if options.keep || !outcome.violations.is_empty() {
        keep(&mut cluster, &history, &outcome)?;
    }
    Ok(outcome)
}

/// Waits until every subscriber has its SUBACK.
pub(crate) async fn wait_subscribed(recorder: &Recorder, actors: &JoinSet<()>) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        let history = recorder.snapshot();
        let subscribed: std::collections::HashSet<_> =
            history
                .records
                .iter()
                .filter_map(|record| {
                    if let Event::Subscribed { connection, .. } = &record.event { Some(*connection) } else { None }
                })
                .collect();
        if subscribed.len() >= actors.len() {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until nothing is owed any more and every publish is answered, or nothing moves for a long time.
pub(crate) async fn drain(recorder: &Recorder, timeout: Duration) {
    let mut last = usize::MAX;
    let mut last_progress = Instant::now();
    loop {
        let history = recorder.snapshot();
        let owed = tokio::task::spawn_blocking(move || checker::outstanding(&history))
            .await
            .unwrap_or_else(|error| vec![error.to_string()]);
        if owed.is_empty() {
            return;
        }
        if owed.len() < last {
            (last, last_progress) = (owed.len(), Instant::now());
        }
        if last_progress.elapsed() > timeout {
            println!("  {} owed when the drain was given up:", owed.len());
            owed.iter().take(5).for_each(|text| println!("    {text}"));
            return;
        }
        sleep(Duration::from_millis(300)).await;
    }
}

/// When all is quiet, every node must answer the same.
pub(crate) async fn final_reads(stage: &Stage) {
    for node in 0..stage.nodes.len() {
        for topic in workload::retained_topics() {
            for _attempt in 0..3 {
                if read_retained(stage, &format!("final-{node}"), node, &topic).await.is_ok() {
                    break;
                }
            }
        }
    }
}

fn judge(options: &ChaosOptions, history: &History, faults: &[Fault], took: Duration) -> Outcome {
    let view = checker::View::new(history);
    let violations = checker::check_all_within(history, options.serve_again_max);
    let effective = faults.iter().filter(|fault| fault.took_effect).count();
    let mut outcome = Outcome::new(options, &view, faults, violations, took);
    outcome.why_it_does_not_count = if outcome.acknowledged < options.acknowledged_min {
        Some(format!("only {} acknowledgements", outcome.acknowledged))
    } else if effective < options.faults_min {
        Some(format!("only {effective} faults took effect"))
    } else if outcome.sessions_by_node.contains(&0) || outcome.durable_sessions < 10 {
        Some(format!("{} durable sessions, by node {:?}", outcome.durable_sessions, outcome.sessions_by_node))
    } else {
        None
    };
    outcome
}

/// Leaves logs, data, history and verdict for whoever looks for the cause.
fn keep(cluster: &mut Cluster, history: &History, outcome: &Outcome) -> io::Result<()> {
    use std::io::Write;
    cluster.keep_folder();
    let mut file = io::BufWriter::new(std::fs::File::create(cluster.folder().join("history.txt"))?);
    for (position, record) in history.records.iter().enumerate() {
        writeln!(file, "{position} {:.4} {:?}", record.at.as_secs_f64(), record.event)?;
    }
    let text: Vec<String> = outcome.violations.iter().map(ToString::to_string).collect();
    std::fs::write(cluster.folder().join("violations.txt"), text.join("\n"))
}
