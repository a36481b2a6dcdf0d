//! Whether clients should be sent to this node.
//! Always true: pure; every reason that holds is named, so that an operator sees all of them at once.

/// Committed entries that may be unapplied here: under load some always are.
pub(super) const BEHIND_MAX: u64 = 20_000;

/// What a node knows of itself at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// The state is loaded.
    pub(super) started: bool,
    /// A majority was heard of a moment ago, and the cluster knows this node as serving.
    pub(super) majority: bool,
    /// What keeps this node out of its cluster.
    pub(super) kept_out: Option<String>,
    /// This node votes.
    pub(super) member: bool,
    /// A majority's lease is valid.
    pub(super) leased: bool,
    /// Every serving node's live subscriptions are known here.
    pub(super) routes: bool,
    /// This node's bridges have their subscriptions.
    pub(super) bridges: bool,
    /// Told to hand its clients over, or to stop.
    pub(super) draining: bool,
    /// Committed entries that are not applied here.
    pub(super) behind: u64,
}

/// Why this node is not ready; empty if it is.
#[must_use]
pub(super) fn reasons(facts: &Facts) -> Vec<String> {
    if !facts.started {
        return vec!["starting: the state is not loaded yet".to_owned()];
    }
    let plain = [
        (facts.draining, "draining: clients are handed over to other nodes"),
        (!facts.member, "not a voter of the cluster yet, or not any more"),
        (!facts.majority, "no majority of the cluster answers, or it does not know this node as serving yet"),
        (!facts.leased, "no valid lease of a majority"),
        (!facts.routes, "the subscriptions on other nodes are not known yet"),
        (!facts.bridges, "bridges are not prepared yet"),
    ];
    let mut reasons: Vec<String> =
        plain.iter().filter(|(holds, _)| *holds).map(|(_, text)| (*text).to_owned()).collect();
    // First, since the others follow from it.
    if let Some(why) = &facts.kept_out {
        reasons.insert(0, why.clone());
    }
    if facts.behind > BEHIND_MAX {
        reasons
            .push(format!("{} committed entries are not applied here yet, at most {BEHIND_MAX} may be", facts.behind));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Facts = Facts {
        started: true,
        majority: true,
        kept_out: None,
        member: true,
        leased: true,
        routes: true,
        bridges: true,
        draining: false,
        behind: BEHIND_MAX,
    };

    #[test]
    fn a_node_is_ready_when_nothing_speaks_against_it() {
        assert!(reasons(&READY).is_empty());
    }

    #[test]
    fn what_keeps_a_node_out_of_its_cluster_comes_first() {
        let kept_out = Some("the name is not allowed".to_owned());
        let reasons = reasons(&Facts { kept_out, member: false, ..READY });
        assert!(reasons.len() == 2 && reasons[0] == "the name is not allowed", "{reasons:?}");
    }

    #[test]
    fn each_fact_alone_makes_a_node_not_ready() {
        for (facts, word) in [
            (Facts { started: false, ..READY }, "starting"),
            (Facts { majority: false, ..READY }, "majority"),
            (Facts { member: false, ..READY }, "voter"),
            (Facts { leased: false, ..READY }, "lease"),
            (Facts { routes: false, ..READY }, "subscriptions"),
            (Facts { bridges: false, ..READY }, "bridges"),
            (Facts { draining: true, ..READY }, "draining"),
            (Facts { behind: BEHIND_MAX + 1, ..READY }, "20001 committed entries"),
        ] {
            let reasons = reasons(&facts);
            assert!(reasons.len() == 1 && reasons[0].contains(word), "{facts:?}: {reasons:?}");
        }
    }
}
