//! `mosquorum cluster status`: the cluster as its members describe it, as a table or as JSON.
//! Always true: pure; what is not known is `-` or `null`, never a guess; no member that does not answer is called serving.
use crate::offline::{self, Offline};
use mosquorum_cluster::{MemberSurvey, SelfReport, Survey, state::Standing};
use serde::Serialize;
use std::{fmt::Write as _, time::Duration};

/// How a reason of a node that is drained begins.
const DRAINING: &str = "draining";

/// What a member is for somebody who wants to know where clients can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Condition {
    Ready,
    /// It answers, and says why clients should not go there.
    NotReady,
    Draining,
    /// It does not answer here; the cluster has not given it up yet.
    Unreachable,
    /// It does not answer, and the cluster has declared its sessions down.
    Down,
    /// It is this node, which others know as no member any more.
    Removed,
}

#[derive(Serialize)]
struct MemberJson<'a> {
    id: u64,
    name: &'a str,
    address: &'a str,
    leader: bool,
    voter: bool,
    state: Condition,
    reachable: bool,
    ready: bool,
    serving: bool,
    draining: bool,
    /// Why clients should not be sent there.
    not_ready: &'a [String],
    /// Why it says nothing.
    error: Option<&'a str>,
    /// Seconds; `null`: it has never answered since this node started.
    silent: Option<u64>,
    lag: Option<u64>,
    clients: Option<u64>,
    version: Option<&'a str>,
    /// Seconds.
    uptime: Option<u64>,
}

#[derive(Serialize)]
struct RemovedJson<'a> {
    id: u64,
    name: &'a str,
}

#[derive(Serialize)]
struct StatusJson<'a> {
    node: &'a str,
    id: u64,
    leader: Option<&'a str>,
    majority: bool,
    /// This node was taken out of the cluster.
    removed_here: bool,
    term: u64,
    commit: u64,
    applied: u64,
    snapshot: u64,
    members: Vec<MemberJson<'a>>,
    /// Nodes that left for good.
    removed: Vec<RemovedJson<'a>>,
    /// Where this node looks for a cluster, while it belongs to none.
    looks_for: &'a [String],
    /// How many sessions are offline, and those of them that have most messages.
    offline: usize,
    offline_sessions: &'a [Offline],
}

fn condition(survey: &Survey, member: &MemberSurvey) -> Condition {
    if survey.expelled && member.member.node == survey.status.node {
        return Condition::Removed;
    }
    let Ok(report) = &member.answer else {
        return if member.standing == Some(Standing::Down) { Condition::Down } else { Condition::Unreachable };
    };
    let reasons = &report.clients.not_ready;
    if member.standing == Some(Standing::Draining) || reasons.iter().any(|reason| reason.starts_with(DRAINING)) {
        Condition::Draining
    } else if reasons.is_empty() && report.serving {
        Condition::Ready
    } else {
        Condition::NotReady
    }
}

fn leader(survey: &Survey) -> Option<&str> {
    let id = survey.status.leader?;
    survey.members.iter().find(|other| other.member.node == id).map(|other| other.member.name.as_str())
}

#[must_use]
pub fn json(survey: &Survey, (offline, sessions): &(usize, Vec<Offline>)) -> String {
    let status = &survey.status;
    let json = StatusJson {
        node: &status.name,
        id: status.node.0,
        leader: leader(survey),
        majority: status.majority,
        removed_here: survey.expelled,
        term: status.term,
        commit: status.commit.0,
        applied: status.applied.0,
        snapshot: status.snapshot.0,
        members: survey.members.iter().map(|member| member_json(survey, member)).collect(),
        removed: survey.removed.iter().map(|(node, name)| RemovedJson { id: node.0, name }).collect(),
        looks_for: &survey.looks_for,
        offline: *offline,
        offline_sessions: sessions,
    };
    serde_json::to_string(&json).unwrap_or_default()
}

fn member_json<'a>(survey: &Survey, of: &'a MemberSurvey) -> MemberJson<'a> {
    let state = condition(survey, of);
    let report = of.answer.as_ref().ok();
    MemberJson {
        id: of.member.node.0,
        name: &of.member.name,
        address: &of.member.address,
        leader: survey.status.leader == Some(of.member.node),
        voter: of.member.voter,
        state,
        reachable: report.is_some(),
        ready: state == Condition::Ready,
        serving: report.is_some_and(|report| report.serving),
        draining: state == Condition::Draining,
        not_ready: report.map_or(&[], |report| &report.clients.not_ready),
        error: of.answer.as_ref().err().map(String::as_str),
        silent: of.silent.map(|silent| silent.as_secs()),
        lag: of.lag,
        clients: report.map(|report| report.clients.connected),
        version: report.map(|report| report.version.as_str()),
        uptime: report.map(|report| report.uptime.as_secs()),
    }
}

#[must_use]
pub fn table(survey: &Survey, (offline, sessions): &(usize, Vec<Offline>)) -> String {
    let status = &survey.status;
    let mut text = String::new();
    if status.node.0 == 0 {
        let _ = writeln!(
            text,
            "node {} belongs to no cluster yet; it looks for {}",
            status.name,
            survey.looks_for.join(", ")
        );
        text.truncate(text.trim_end().len());
        return text;
    }
    if survey.expelled {
        let _ = writeln!(
            text,
            "This node was removed from the cluster: `mosquorum cluster add` on a member takes it in again."
        );
    } else if !status.majority {
        let voters = || survey.members.iter().filter(|other| other.member.voter);
        let (all, answer) = (voters().count(), voters().filter(|other| other.answer.is_ok()).count());
        let _ = writeln!(
            text,
            "No majority: {answer} of {all} voters answer, {} are needed. Until then nothing is acknowledged.",
            all / 2 + 1
        );
    }
    let _ = writeln!(
        text,
        "node {} (n{})   leader {}   term {}   commit {}   applied {}   snapshot {}",
        status.name,
        status.node.0,
        leader(survey).unwrap_or("none"),
        status.term,
        status.commit.0,
        status.applied.0,
        status.snapshot.0
    );
    members(&mut text, survey);
    for (node, name) in &survey.removed {
        let _ = writeln!(text, "{name} (n{}) was removed", node.0);
    }
    text.push_str(&offline::table(*offline, sessions));
    text
}

fn members(text: &mut String, survey: &Survey) {
    let row = |cells: [&str; 9]| {
        let [name, id, role, state, behind, clients, version, uptime, address] = cells;
        format!(
            "{name:<20} {id:>8} {role:<8} {state:<27} {behind:>10} {clients:>8} {version:>9} {uptime:>12}  {address}\n"
        )
    };
    text.push_str(&row(["name", "id", "role", "state", "behind", "clients", "version", "uptime", "address"]));
    let unknown = || "-".to_owned();
    for other in &survey.members {
        let report = other.answer.as_ref().ok();
        let shown = |of: fn(&SelfReport) -> String| report.map_or_else(unknown, of);
        let role = match other.member.voter {
            _ if survey.status.leader == Some(other.member.node) => "leader",
            true => "voter",
            false => "learner",
        };
        text.push_str(&row([
            &other.member.name,
            &other.member.node.0.to_string(),
            role,
            &state(condition(survey, other), other.silent),
            &other.lag.map_or_else(unknown, |lag| lag.to_string()),
            &shown(|report| report.clients.connected.to_string()),
            &shown(|report| report.version.clone()),
            &shown(|report| duration(report.uptime)),
            &other.member.address,
        ]));
    }
    for other in &survey.members {
        let name = &other.member.name;
        let _ = match (&other.answer, condition(survey, other)) {
            (Err(why), _) => writeln!(text, "{name} does not answer: {why}"),
            (Ok(report), Condition::NotReady) => {
                writeln!(text, "{name} is not ready: {}", report.clients.not_ready.join("; "))
            }
            _ => Ok(()),
        };
    }
}

fn state(condition: Condition, silent: Option<Duration>) -> String {
    let since = silent.map_or("no answer".to_owned(), |silent| format!("not heard for {} s", silent.as_secs()));
    match condition {
        Condition::Ready => "ready".to_owned(),
        Condition::NotReady => "not ready".to_owned(),
        Condition::Draining => "draining".to_owned(),
        Condition::Removed => "removed".to_owned(),
        Condition::Unreachable => since,
        Condition::Down => format!("down, {since}"),
    }
}

/// The two largest units.
fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// What is worth a line while a change of the cluster is on its way: who hands clients over, who catches up.
#[must_use]
pub fn progress(survey: &Survey) -> Vec<String> {
    let line = |other: &MemberSurvey| {
        let (name, report) = (&other.member.name, other.answer.as_ref().ok());
        match (condition(survey, other), report, other.lag) {
            (Condition::Draining, Some(report), _) => {
                Some(format!("{name} hands its clients over, {} are left", report.clients.connected))
            }
            (_, _, Some(lag)) if !other.member.voter => Some(format!("{name} catches up, {lag} entries are missing")),
            _ => None,
        }
    };
    survey.members.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mosquorum_cluster::{ClientReport, ClusterStatus, MemberStatus, ids::NodeId};

    fn member(node: u64, standing: Standing, answer: Result<&[&str], &str>) -> MemberSurvey {
        let report = |reasons: &[&str]| SelfReport {
            version: "0.1.0".to_owned(),
            uptime: Duration::from_secs(7300),
            serving: reasons.iter().all(|reason| reason.starts_with(DRAINING)),
            clients: ClientReport { connected: 12, not_ready: reasons.iter().map(|&reason| reason.into()).collect() },
        };
        MemberSurvey {
            member: MemberStatus {
                node: NodeId(node),
                name: format!("node-{node}"),
                address: format!("host-{node}:7883"),
                voter: node < 9,
                lag: None,
            },
            standing: Some(standing),
            silent: Some(if answer.is_ok() { Duration::ZERO } else { Duration::from_secs(32) }),
            answer: answer.map(report).map_err(str::to_owned),
            lag: Some(node),
        }
    }

    fn survey(majority: bool, members: Vec<MemberSurvey>) -> Survey {
        let status = ClusterStatus {
            node: NodeId(1),
            name: "node-1".to_owned(),
            leader: majority.then_some(NodeId(2)),
            majority,
            ..ClusterStatus::default()
        };
        Survey { status, members, ..Survey::default() }
    }

    fn row<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
        let line = table.lines().find(|line| line.starts_with(&format!("{name} "))).expect("a row");
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
    }

    const NOBODY: (usize, Vec<Offline>) = (0, Vec::new());

    #[test]
    fn each_member_is_called_what_it_is() {
        let survey = survey(
            true,
            vec![
                member(1, Standing::Serving, Ok(&[])),
                member(2, Standing::Serving, Ok(&["no valid lease of a majority"])),
                member(3, Standing::Serving, Err("connection refused")),
                member(4, Standing::Down, Err("no answer in time")),
                member(5, Standing::Draining, Ok(&[])),
                member(6, Standing::Serving, Ok(&["draining: clients are handed over to other nodes"])),
            ],
        );
        let text = table(&survey, &NOBODY);
        assert_eq!(row(&text, "node-1")[1..].join("|"), "1 voter|ready|1|12|0.1.0|2 h 1 min|host-1:7883");
        assert!(row(&text, "node-2")[1..].join("|").starts_with("2 leader|not ready|2|"), "{text}");
        assert_eq!(row(&text, "node-3")[1..].join("|"), "3 voter|not heard for 32 s|3|-|-|-|host-3:7883");
        assert!(text.contains("down, not heard for 32 s"), "{text}");
        assert!(row(&text, "node-5").contains(&"draining") && row(&text, "node-6").contains(&"draining"), "{text}");
        assert!(text.contains("\nnode-2 is not ready: no valid lease of a majority\n"), "{text}");
        assert!(text.contains("\nnode-3 does not answer: connection refused\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&json(&survey, &NOBODY)).expect("JSON");
        let values = |key: &str| json["members"].as_array().expect("members").iter().map(|m| m[key].clone()).collect();
        let states: Vec<serde_json::Value> = values("state");
        assert_eq!(states, ["ready", "not_ready", "unreachable", "down", "draining", "draining"]);
        let serving: Vec<serde_json::Value> = values("serving");
        assert_eq!(serving, [true, false, false, false, true, true]);
        assert_eq!(json["members"][2]["silent"], 32);
        assert_eq!(json["members"][2]["version"], serde_json::Value::Null);
        assert_eq!(json["majority"], true);
    }

    #[test]
    fn a_lost_majority_and_a_removed_node_are_the_first_line() {
        let gone = || member(2, Standing::Serving, Err("no answer in time"));
        let mut survey = survey(false, vec![member(1, Standing::Serving, Ok(&[])), gone(), gone()]);
        let text = table(&survey, &NOBODY);
        assert!(text.starts_with("No majority: 1 of 3 voters answer, 2 are needed."), "{text}");
        survey.expelled = true;
        let text = table(&survey, &NOBODY);
        assert!(text.starts_with("This node was removed from the cluster"), "{text}");
        assert!(row(&text, "node-1").contains(&"removed"), "{text}");
        survey.removed.push((NodeId(7), "old".to_owned()));
        assert!(table(&survey, &NOBODY).contains("\nold (n7) was removed\n"));
        survey.status.node = NodeId(0);
        survey.looks_for = vec!["a:1".to_owned(), "b:1".to_owned()];
        assert_eq!(table(&survey, &NOBODY), "node node-1 belongs to no cluster yet; it looks for a:1, b:1");
    }

    #[test]
    fn progress_lists_who_hands_over_and_who_catches_up() {
        let members = vec![
            member(1, Standing::Serving, Ok(&[])),
            member(5, Standing::Draining, Ok(&[])),
            member(12, Standing::Known, Ok(&["not a voter of the cluster yet, or not any more"])),
        ];
        let expected = ["node-5 hands its clients over, 12 are left", "node-12 catches up, 12 entries are missing"];
        assert_eq!(progress(&survey(true, members)), expected);
    }

    #[test]
    fn a_time_is_shown_in_its_two_largest_units() {
        let shown = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!([shown(59), shown(3599), shown(3600), shown(90_000)], ["59 s", "59 min", "1 h 0 min", "1 d 1 h"]);
    }
}
