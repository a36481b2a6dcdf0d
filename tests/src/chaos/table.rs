//! A results file as a table for people: what each kind of fault came to in all runs that counted.
//! Always true: lines that are no results, or of a time when they said less, are left out of the sums that they lack.
use super::report::WITHOUT_EFFECT;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

#[derive(Debug, Default)]
struct Row {
    runs: u64,
    faults: u64,
    effective: u64,
    acknowledged: u64,
    /// Milliseconds until anybody, and until each node, served again.
    recoveries: Vec<u64>,
    node_recoveries: Vec<u64>,
}

impl Row {
    fn text(&mut self, kind: &str) -> String {
        let faults = format!("{}/{}", self.effective, self.faults);
        let mut text = format!("{kind:<24} {:>5} {faults:>12} {:>12}", self.runs, self.acknowledged);
        for times in [&mut self.recoveries, &mut self.node_recoveries] {
            times.sort_unstable();
            let time = |milliseconds: Option<&u64>| milliseconds.map_or("-".into(), |time| format!("{time} ms"));
            let median = time(times.get(times.len().saturating_sub(1) / 2));
            let _ = write!(text, " {median:>11} {:>11}", time(times.last()));
        }
        text.push('\n');
        text
    }
}

/// What any node of any run came to at most.
const COSTS: [(&str, &str); 5] = [
    ("idle_percent", "% of a core idle"),
    ("idle_lines", "log lines idle"),
    ("memory_mib", "MiB of memory"),
    ("descriptors", "descriptors"),
    ("log_lines", "log lines in a run"),
];

/// The table of what is in a results file.
#[must_use]
pub fn table(results: &str) -> String {
    let (mut rows, mut total) = (BTreeMap::<String, Row>::new(), Row::default());
    let (mut violated, mut not_counted) = (0, 0);
    let mut costs = BTreeMap::<&str, f64>::new();
    for line in results.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let violations = line["violations"].as_u64().unwrap_or(0);
        if violations == 0 && !line["does_not_count"].is_null() {
            not_counted += 1;
            continue;
        }
        violated += u64::from(violations > 0);
        take(&line, &mut rows, &mut total);
        for (name, _) in COSTS {
            let most = costs.entry(name).or_default();
            *most = most.max(line["costs"][name].as_f64().unwrap_or(0.0));
        }
    }
    let mut text = format!(
        "{:<24} {:>5} {:>12} {:>12} {:>11} {:>11} {:>11} {:>11}\n",
        "fault", "runs", "took effect", "acknowledged", "median", "worst", "node median", "node worst"
    );
    for (kind, row) in &mut rows {
        text.push_str(&row.text(kind));
    }
    text.push_str(&total.text("all"));
    let most: Vec<String> =
        COSTS.iter().map(|(name, unit)| format!("{} {unit}", costs.get(name).unwrap_or(&0.0))).collect();
    let _ = writeln!(text, "most of a node: {}", most.join(", "));
    let _ = writeln!(text, "{} runs, {violated} with violations; {not_counted} more do not count", total.runs);
    text
}

fn take(line: &Value, rows: &mut BTreeMap<String, Row>, total: &mut Row) {
    let acknowledged = line["acknowledged"].as_u64().unwrap_or(0);
    (total.runs, total.acknowledged) = (total.runs + 1, total.acknowledged + acknowledged);
    let mut kinds = BTreeSet::new();
    for fault in line["faults"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let kind = fault.split(' ').next().unwrap_or_default();
        let row = rows.entry(kind.to_owned()).or_default();
        for row in [&mut *row, &mut *total] {
            row.faults += 1;
            row.effective += u64::from(!fault.ends_with(WITHOUT_EFFECT));
        }
        if kinds.insert(kind) {
            (row.runs, row.acknowledged) = (row.runs + 1, row.acknowledged + acknowledged);
        }
    }
    for (kind, time) in times(line, "recoveries") {
        rows.entry(kind).or_default().recoveries.push(time);
        total.recoveries.push(time);
    }
    for (kind, time) in times(line, "node_recoveries") {
        rows.entry(kind).or_default().node_recoveries.push(time);
        total.node_recoveries.push(time);
    }
}

fn times(line: &Value, name: &str) -> Vec<(String, u64)> {
    let pairs = line[name].as_array().into_iter().flatten();
    pairs.filter_map(|pair| Some((pair[0].as_str()?.to_owned(), pair[1].as_u64()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_summed_over_runs_that_count() {
        let results = r#"
            {"acknowledged":100,"faults":["kill-leader [0]","kill-leader [1] without effect"],"recovery_ms":[7],"recoveries":[["kill-leader",7]],"node_recoveries":[["kill-leader",8],["kill-leader",3]],"costs":{"idle_percent":4.5,"memory_mib":90},"violations":0,"does_not_count":null}
            {"acknowledged":50,"faults":["two-at-once pause-leader [0]","two-at-once packet-loss [2]","kill-leader [2]"],"recoveries":[["two-at-once",5],["two-at-once",9],["kill-leader",11]],"costs":{"idle_percent":3.1,"memory_mib":120,"log_lines":7},"violations":1,"does_not_count":null}
            {"acknowledged":1,"faults":["kill-all [0, 1, 2]"],"violations":0,"does_not_count":"only 1 acknowledgements"}
            {"acknowledged":30,"faults":["kill-follower [1]"],"recovery_ms":[3],"violations":0,"does_not_count":null}
            not a result"#;
        let table = table(results);
        let row = |kind: &str| {
            let line = table.lines().find(|line| line.starts_with(kind)).unwrap_or_else(|| panic!("{kind}\n{table}"));
            line[kind.len()..].split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(row("kill-leader"), "2 2/3 150 7 ms 11 ms 3 ms 8 ms");
        assert_eq!(row("two-at-once"), "1 2/2 50 5 ms 9 ms - -");
        assert_eq!(row("kill-follower"), "1 1/1 30 - - - -");
        assert_eq!(row("all"), "3 5/6 180 7 ms 11 ms 3 ms 8 ms");
        let most = "most of a node: 4.5 % of a core idle, 0 log lines idle, 120 MiB of memory, 0 descriptors, 7 log lines in a run\n";
        assert!(table.contains(most), "{table}");
        assert!(table.ends_with("3 runs, 1 with violations; 1 more do not count\n"), "{table}");
    }
}
