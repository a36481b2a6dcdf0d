//! What happens to the cluster, one line each for whoever reads the log.
//! Always true: a line is written when something changed since the last look, and says what is so now; what was so when
//! this node began to look is no news.
use crate::events::EVENTS;
use crate::{
    ids::{Incarnation, NodeId},
    node::shared::NodeParts,
    raft::{Engine, View},
    state::Standing,
};
use std::{collections::BTreeMap, fmt::Write, sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};
use tracing::info;

const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) async fn run(shared: Arc<NodeParts>, engine: Arc<Engine>) {
    let mut every = interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: Option<Glance> = None;
    loop {
        every.tick().await;
        let view = engine.view();
        if view.stopped.is_some() {
            return;
        }
        let incarnations = {
            let state = shared.state.read();
            state.nodes().map(|(node, record)| (node, (record.standing, record.incarnation))).collect()
        };
        let glance = Glance::of(engine.node(), &view, engine.has_majority(), incarnations);
        if let Some(before) = seen.replace(glance.clone()) {
            glance.since(&before).iter().for_each(|line| info!(target: EVENTS, "{line}"));
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Glance {
    own: u64,
    leader: Option<u64>,
    term: u64,
    majority: bool,
    members: BTreeMap<u64, (String, String, bool)>,
    incarnations: BTreeMap<NodeId, (Standing, Incarnation)>,
}

impl Glance {
    fn of(own: u64, view: &View, majority: bool, incarnations: BTreeMap<NodeId, (Standing, Incarnation)>) -> Self {
        let members = view.members.iter().map(|m| (m.node, (m.name.clone(), m.address.clone(), m.voter)));
        Self { own, leader: view.leader, term: view.term, majority, members: members.collect(), incarnations }
    }

    fn name(&self, node: u64) -> String {
        let name = self.members.get(&node).map_or("", |(name, ..)| name);
        format!("{name} (n{node})")
    }

    fn since(&self, before: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        self.members_since(before, &mut lines);
        if self.leader != before.leader || (self.leader.is_some() && self.term != before.term) {
            lines.push(match self.leader {
                Some(leader) if leader == self.own => format!("this node was elected leader in term {}", self.term),
                Some(leader) => format!("{} leads in term {}", self.name(leader), self.term),
                None => format!("no leader is known in term {}", self.term),
            });
        }
        for (node, (standing, incarnation)) in &self.incarnations {
            let was = before.incarnations.get(node);
            if was.is_some_and(|(was, at)| was.is_serving() == standing.is_serving() && at == incarnation) {
                continue;
            }
            let name = self.name(node.0);
            match standing {
                Standing::Down => lines.push(format!("{name} was declared down (incarnation {})", incarnation.0)),
                Standing::Serving if was.is_some() => {
                    lines.push(format!("{name} is back (incarnation {})", incarnation.0))
                }
                Standing::Serving => lines.push(format!("{name} serves (incarnation {})", incarnation.0)),
                _ => {}
            }
        }
        if self.majority != before.majority {
            lines.push(match self.majority {
                true => format!("there is a majority again, in term {}", self.term),
                false => format!(
                    "there is no majority any more, in term {}: nothing is acknowledged until it is back",
                    self.term
                ),
            });
        }
        lines
    }

    fn members_since(&self, before: &Self, lines: &mut Vec<String>) {
        let voters = self.members.values().filter(|(_, _, voter)| *voter).count();
        for (node, (_, address, voter)) in &self.members {
            let mut line = self.name(*node);
            let _ = match before.members.get(node) {
                None if *voter => write!(line, " at {address} is a voter, {voters} nodes vote"),
                None => write!(line, " at {address} was added and copies the state"),
                Some((_, _, was)) if was != voter => write!(line, " votes now, {voters} nodes vote"),
                Some((_, was, _)) if was != address => write!(line, " moved from {was} to {address}"),
                Some(_) => continue,
            };
            lines.push(line);
        }
        let gone = before.members.keys().filter(|node| !self.members.contains_key(node));
        lines.extend(gone.map(|node| format!("{} was removed, {voters} nodes vote", before.name(*node))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glance() -> Glance {
        let member = |number: u64| (number, (format!("node-{number}"), format!("h{number}:1"), true));
        Glance {
            own: 1,
            leader: Some(1),
            term: 3,
            majority: true,
            members: [member(1), member(2)].into(),
            incarnations: [(NodeId(2), (Standing::Serving, Incarnation(7)))].into(),
        }
    }

    #[test]
    fn each_change_of_the_cluster_is_one_line_and_nothing_else_is() {
        assert_eq!(glance().since(&glance()), Vec::<String>::new());
        let line = |change: fn(&mut Glance)| {
            let mut now = glance();
            change(&mut now);
            let lines = now.since(&glance());
            assert_eq!(lines.len(), 1, "{lines:?}");
            lines.into_iter().next().unwrap()
        };
        assert_eq!(line(|now| now.term = 4), "this node was elected leader in term 4");
        assert_eq!(line(|now| now.leader = Some(2)), "node-2 (n2) leads in term 3");
        assert_eq!(line(|now| now.leader = None), "no leader is known in term 3");
        let learner = ("node-9".to_owned(), "h9:1".to_owned(), false);
        let mut with_learner = glance();
        with_learner.members.insert(9, learner);
        assert_eq!(with_learner.since(&glance()), ["node-9 (n9) at h9:1 was added and copies the state"]);
        assert_eq!(glance().since(&with_learner), ["node-9 (n9) was removed, 2 nodes vote"]);
        let mut voter = with_learner.clone();
        voter.members.get_mut(&9).unwrap().2 = true;
        assert_eq!(voter.since(&with_learner), ["node-9 (n9) votes now, 3 nodes vote"]);
        assert_eq!(line(|now| now.members.get_mut(&2).unwrap().1 = "x:1".into()), "node-2 (n2) moved from h2:1 to x:1");
        let down = line(|now| now.incarnations = [(NodeId(2), (Standing::Down, Incarnation(7)))].into());
        assert_eq!(down, "node-2 (n2) was declared down (incarnation 7)");
        let back = line(|now| now.incarnations = [(NodeId(2), (Standing::Serving, Incarnation(8)))].into());
        assert_eq!(back, "node-2 (n2) is back (incarnation 8)");
        assert!(line(|now| now.majority = false).starts_with("there is no majority any more"));
    }
}
