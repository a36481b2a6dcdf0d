//! What nodes tell each other of their rules of access, so that one can judge for a session that another one served.
//! Always true: rules themselves are never here, only numbers that are equal where they are; a node that came up and has
//! not told its rules has others than everybody.
use super::{nodes::Nodes, serving::NodeHandler};
use crate::ids::NodeId;
use serde::{Deserialize, Serialize};

/// The listener that a session last came by: its rules hold for the session. Nodes of a cluster name theirs alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Door(pub u32);

impl Door {
    /// No rules hold: what the broker's own sessions (bridges) come by.
    pub const INTERNAL: Self = Self(0);
}

/// The rules of one node, by a fingerprint each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeRules {
    /// None, or not known: they are like nobody's.
    #[default]
    Unknown,
    /// The same at every door.
    Same(u64),
    /// Ascending by door.
    Each(Vec<(Door, u64)>),
}

impl NodeRules {
    /// `None`: there is no such door.
    #[must_use]
    pub fn of(&self, door: Door) -> Option<u64> {
        match self {
            Self::Unknown => None,
            Self::Same(fingerprint) => Some(*fingerprint),
            Self::Each(doors) => {
                let place = doors.binary_search_by_key(&door, |(door, _)| *door).ok()?;
                Some(doors[place].1)
            }
        }
    }
}

impl NodeHandler<'_> {
    pub(super) fn node_rules(&mut self, node: NodeId, rules: &NodeRules) {
        if self.nodes().set_rules(node, rules) {
            self.sessions().routing().note_all_changed();
        }
    }
}

impl Nodes {
    /// What the node told last.
    pub(super) fn rules_of(&self, node: NodeId) -> NodeRules {
        self.get(node).map(|record| record.rules.clone()).unwrap_or_default()
    }

    /// As [`super::State::rules_agree`].
    pub(super) fn rules_agree(&self, here: NodeId, door: Door, fingerprint: u64) -> bool {
        let mut others = self.iter().filter(|(node, record)| *node != here && record.standing.is_serving());
        others.all(|(_, record)| {
            record.rules != NodeRules::Unknown && record.rules.of(door).is_none_or(|found| found == fingerprint)
        })
    }
}
