//! What a run came to: one JSON line in a results file, one row in a table.
use super::{ChaosOptions, nemesis::Fault};
use crate::checker::{View, Violation, availability, costs};
use std::{
    collections::{BTreeSet, HashSet},
    fmt::Write,
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

/// What the text of a fault that changed nothing ends with.
pub(super) const WITHOUT_EFFECT: &str = " without effect";

#[derive(Debug, Clone)]
pub struct Outcome {
    pub seed: u64,
    /// Everything but the seed that decides a run; runs of one key and seed are not repeated.
    pub key: String,
    pub acknowledged: u64,
    pub delivered: u64,
    pub durable_sessions: usize,
    /// Different durable subscribers that each node served.
    pub sessions_by_node: Vec<usize>,
    pub faults: Vec<Fault>,
    /// From loss of service (or return of the majority) to the next acknowledgement, in milliseconds.
    pub recovery_ms: Vec<u64>,
    /// The same with the kind of the fault that it was.
    pub recoveries: Vec<(String, u64)>,
    /// Of every fault and every node: until that node acknowledged again what it had to.
    pub node_recoveries: Vec<(String, u64)>,
    /// The most that any node came to.
    pub costs: costs::Worst,
    pub violations: Vec<Violation>,
    pub why_it_does_not_count: Option<String>,
    pub took: Duration,
}

impl Outcome {
    #[must_use]
    pub fn new(
        options: &ChaosOptions,
        view: &View,
        faults: &[Fault],
        violations: Vec<Violation>,
        took: Duration,
    ) -> Self {
        let durable: HashSet<_> = view
            .subscriptions
            .iter()
            .filter(|s| s.durable && s.acknowledged.is_some())
            .map(|s| s.client.clone())
            .collect();
        let on = |node: usize| {
            let served: HashSet<_> = view
                .connections
                .values()
                .filter(|c| c.node == node && c.connected.is_some() && durable.contains(&c.client))
                .map(|c| c.client.clone())
                .collect();
            served.len()
        };
        let kind = |number: u32| {
            let fault = faults.iter().find(|fault| fault.number == number);
            fault.map_or("unknown", |fault| fault.kind().name()).to_owned()
        };
        let recoveries: Vec<(String, u64)> = availability::recoveries(view)
            .into_iter()
            .map(|(fault, _, _, time)| (kind(fault), time.as_millis() as u64))
            .collect();
        let node_recoveries = availability::node_recoveries(view);
        Self {
            seed: options.seed,
            key: key(options),
            acknowledged: view.messages.values().filter(|message| message.acknowledged.is_some()).count() as u64,
            delivered: view.deliveries.len() as u64,
            durable_sessions: durable.len(),
            sessions_by_node: (0..view.nodes).map(on).collect(),
            faults: faults.to_vec(),
            recovery_ms: recoveries.iter().map(|(_, time)| *time).collect(),
            recoveries,
            node_recoveries: node_recoveries.iter().map(|r| (kind(r.fault), r.took.as_millis() as u64)).collect(),
            costs: costs::worst(view),
            violations,
            why_it_does_not_count: None,
            took,
        }
    }

    /// One line of JSON.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::json!({
            "seed": self.seed,
            "key": self.key,
            "acknowledged": self.acknowledged,
            "delivered": self.delivered,
            "durable_sessions": self.durable_sessions,
            "sessions_by_node": self.sessions_by_node,
            "faults": self.faults.iter().map(fault_text).collect::<Vec<_>>(),
            "recovery_ms": self.recovery_ms,
            "recoveries": self.recoveries,
            "node_recoveries": self.node_recoveries,
            "costs": {
                "idle_percent": self.costs.idle_percent,
                "idle_lines": self.costs.idle_lines,
                "log_lines": self.costs.log_lines,
                "memory_mib": self.costs.memory_mib,
                "descriptors": self.costs.descriptors,
            },
            "violations": self.violations.len(),
            "first_violations": self.violations.iter().take(5).map(ToString::to_string).collect::<Vec<_>>(),
            "does_not_count": self.why_it_does_not_count,
            "took_ms": self.took.as_millis() as u64,
        })
        .to_string()
    }

    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let effective = self.faults.iter().filter(|fault| fault.took_effect).count();
        let mut line = format!(
            "seed {:<6} {:>6} acknowledged {:>7} delivered {:>4} sessions {:?}  {effective}/{} faults  slowest recovery {:>6} ms  idle {:.1} % {} lines  {} MiB {} fds {} lines  {:>4.0} s  ",
            self.seed,
            self.acknowledged,
            self.delivered,
            self.durable_sessions,
            self.sessions_by_node,
            self.faults.len(),
            self.recovery_ms.iter().max().copied().unwrap_or(0),
            self.costs.idle_percent,
            self.costs.idle_lines,
            self.costs.memory_mib,
            self.costs.descriptors,
            self.costs.log_lines,
            self.took.as_secs_f64()
        );
        let _ = match (&self.why_it_does_not_count, self.violations.len()) {
            (None, 0) => write!(line, "ok"),
            (Some(why), 0) => write!(line, "does not count: {why}"),
            (_, violations) => write!(line, "{violations} VIOLATIONS"),
        };
        line
    }
}

/// Begins with the fault's kind, which tables count by (`table`).
fn fault_text(fault: &Fault) -> String {
    let what = if fault.one_of_two { format!("{} {}", fault.kind(), fault.nemesis) } else { fault.nemesis.to_string() };
    let remark = match (fault.took_effect, fault.leader_known) {
        (false, _) => WITHOUT_EFFECT,
        (true, false) => " (leader unknown)",
        (true, true) => "",
    };
    format!("{what} {:?}{remark}", fault.nodes)
}

/// Everything but the seed that decides a run.
#[must_use]
pub fn key(options: &ChaosOptions) -> String {
    let nemeses: Vec<String> = options.nemeses.iter().map(ToString::to_string).collect();
    format!(
        "nodes={} seconds={} power_cut={} plant={} rate={} nemesis={}",
        options.nodes,
        options.seconds,
        options.power_cut,
        options.plant.as_deref().unwrap_or("-"),
        options.rates.ordinary,
        nemeses.join(",")
    )
}

/// Appends one line; made durable, so that a long series survives whatever ends it.
/// # Errors
/// Those of the file.
pub fn append(path: &Path, outcome: &Outcome) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{}", outcome.json())?;
    file.sync_data()
}

/// Seeds of this key in the file whose runs counted.
#[must_use]
pub fn seeds_done(path: &Path, key: &str) -> BTreeSet<u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|value| value["key"] == key && (value["does_not_count"].is_null() || value["violations"] != 0))
        .filter_map(|value| value["seed"].as_u64())
        .collect()
}

/// The sum of a series.
#[must_use]
pub fn summary(outcomes: &[Outcome]) -> String {
    let counted: Vec<&Outcome> =
        outcomes.iter().filter(|o| o.why_it_does_not_count.is_none() || !o.violations.is_empty()).collect();
    let mut recoveries: Vec<u64> = counted.iter().flat_map(|o| o.recovery_ms.iter().copied()).collect();
    recoveries.sort_unstable();
    let at = |percent: usize| {
        recoveries.get((recoveries.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0)
    };
    let mut text = format!(
        "{} runs, {} counted, {} with violations; {} acknowledged, {} delivered, {} faults; recovery median {} ms, p99 {} ms, worst {} ms\n",
        outcomes.len(),
        counted.len(),
        outcomes.iter().filter(|o| !o.violations.is_empty()).count(),
        counted.iter().map(|o| o.acknowledged).sum::<u64>(),
        counted.iter().map(|o| o.delivered).sum::<u64>(),
        counted.iter().map(|o| o.faults.iter().filter(|f| f.took_effect).count()).sum::<usize>(),
        at(50),
        at(99),
        recoveries.last().copied().unwrap_or(0)
    );
    for outcome in outcomes.iter().filter(|o| !o.violations.is_empty()) {
        let _ = writeln!(text, "seed {}:", outcome.seed);
        for violation in outcome.violations.iter().take(10) {
            let _ = writeln!(text, "  {violation}");
        }
    }
    text
}
