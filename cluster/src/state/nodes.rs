//! Which nodes serve, under which incarnation, and which batches of theirs were applied.
//! Always true: an incarnation only grows; of one incarnation, batches are applied in sequence, each once; after an
//! incarnation was declared down nothing of it is applied any more; a removed node never comes back.
use super::{Batch, NodeRules, Origin, Owner};
use crate::ids::{Incarnation, NodeId};
use mosquorum_proto::mqtt::Utf8;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub name: Utf8,
    pub incarnation: Incarnation,
    /// Of the last batch that was applied.
    pub sequence: u64,
    pub standing: Standing,
    /// Of this incarnation.
    pub rules: NodeRules,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It has sent batches but not yet said that it serves.
    #[default]
    Known,
    Serving,
    /// Its incarnation was declared down: it needs a larger one.
    Down,
    /// It left for good.
    Removed,
    /// It serves those that it has, and hands them over.
    Draining,
}

impl Standing {
    pub(crate) fn is_serving(self) -> bool {
        matches!(self, Self::Serving | Self::Draining)
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Nodes {
    records: BTreeMap<NodeId, NodeRecord>,
    unwritten: BTreeSet<NodeId>,
}

impl Nodes {
    /// Whether the batch is the next of its origin; notes it if so.
    pub(super) fn accept(&mut self, batch: &Batch) -> bool {
        let Origin { node, incarnation } = batch.origin;
        let record = self.records.get(&node);
        let accepted = match record {
            Some(NodeRecord { standing: Standing::Removed, .. }) => false,
            Some(record) if incarnation == record.incarnation => {
                record.standing != Standing::Down && batch.sequence == record.sequence + 1
            }
            Some(record) if incarnation < record.incarnation => false,
            _ => batch.sequence == 1,
        };
        if accepted {
            let record = self.change(node);
            if record.incarnation != incarnation {
                record.standing = Standing::Known;
                record.rules = NodeRules::Unknown;
            }
            record.incarnation = incarnation;
            record.sequence = batch.sequence;
        }
        accepted
    }

    /// Whether connections of this incarnation may own sessions.
    pub(super) fn may_own(&self, owner: &Owner) -> bool {
        self.records.get(&owner.node).is_some_and(|record| {
            record.incarnation == owner.incarnation && !matches!(record.standing, Standing::Down | Standing::Removed)
        })
    }

    /// `false` if that was known already.
    pub(super) fn set_down(&mut self, node: NodeId, incarnation: Incarnation) -> bool {
        if let Some(record) = self.records.get(&node)
            && (record.standing == Standing::Removed
                || record.incarnation > incarnation
                || (record.incarnation == incarnation && record.standing == Standing::Down))
        {
            return false;
        }
        let record = self.change(node);
        if record.incarnation != incarnation {
            record.sequence = 0;
        }
        record.incarnation = incarnation;
        record.standing = Standing::Down;
        true
    }

    pub(super) fn set_serving(&mut self, node: NodeId, name: &Utf8) {
        let record = self.change(node);
        record.name = name.clone();
        record.standing = Standing::Serving;
    }

    /// Only a serving node drains, until it says that it stays or its incarnation ends.
    pub(super) fn set_draining(&mut self, node: NodeId, draining: bool) {
        let (from, to) = match draining {
            true => (Standing::Serving, Standing::Draining),
            false => (Standing::Draining, Standing::Serving),
        };
        if self.get(node).is_some_and(|record| record.standing == from) {
            self.change(node).standing = to;
        }
    }

    /// What remains is the fact that the node is gone, since its identifier is never used again, and its name for operators.
    /// Its last incarnation, and whether that served.
    pub(super) fn set_removed(&mut self, node: NodeId) -> (Incarnation, bool) {
        let record = self.change(node);
        let (incarnation, was_serving) = (record.incarnation, record.standing.is_serving());
        let name = std::mem::take(&mut record.name);
        *record = NodeRecord { name, incarnation, standing: Standing::Removed, ..NodeRecord::default() };
        (incarnation, was_serving)
    }

    /// `false` if they are the same.
    pub(super) fn set_rules(&mut self, node: NodeId, rules: &NodeRules) -> bool {
        if self.get(node).is_some_and(|record| record.rules == *rules) {
            return false;
        }
        self.change(node).rules = rules.clone();
        true
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&NodeRecord> {
        self.records.get(&node)
    }

    /// All that were ever there, by identifier.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (NodeId, &NodeRecord)> {
        self.records.iter().map(|(node, record)| (*node, record))
    }

    pub(super) fn restore(&mut self, node: NodeId, record: NodeRecord) {
        self.records.insert(node, record);
    }

    /// What must be written again.
    pub(super) fn take_unwritten(&mut self) -> impl Iterator<Item = (NodeId, &NodeRecord)> {
        let records = &self.records;
        let unwritten = std::mem::take(&mut self.unwritten).into_iter();
        unwritten.filter_map(|node| records.get(&node).map(|record| (node, record)))
    }

    pub(super) fn forget_unwritten(&mut self) {
        self.unwritten.clear();
    }

    fn change(&mut self, node: NodeId) -> &mut NodeRecord {
        if !self.unwritten.contains(&node) {
            self.unwritten.insert(node);
        }
        self.records.entry(node).or_default()
    }
}
