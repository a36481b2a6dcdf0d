//! The other nodes' filters: from a topic to nodes.
//! Always true: `tree` holds exactly what `by_node` lists.
use crate::{facade::RemoteRoutes, ids::NodeId, subscription_tree::SubscriptionTree};
use mosquorum_proto::mqtt::TopicFilter;
use std::collections::{HashMap, HashSet};

/// Who: the node, and the `$share/...` filter for a shared group.
type Key = (NodeId, Option<TopicFilter>);

#[derive(Default)]
pub(crate) struct RemoteTable {
    tree: SubscriptionTree<Key, u32>,
    by_node: HashMap<NodeId, HashSet<TopicFilter>>,
}

impl RemoteTable {
    pub(crate) fn add(&mut self, node: NodeId, filter: TopicFilter) {
        let key = key(node, &filter);
        match self.tree.get_mut(filter.matched_part(), &key) {
            Some(members) => *members += u32::from(key.1.is_some()),
            None => {
                self.tree.insert(filter.matched_part(), key, 1);
                self.by_node.entry(node).or_default().insert(filter);
            }
        }
    }

    pub(crate) fn remove(&mut self, node: NodeId, filter: &TopicFilter) {
        let key = key(node, filter);
        match self.tree.get_mut(filter.matched_part(), &key) {
            Some(members) if *members > 1 => *members -= 1,
            Some(_) => {
                self.tree.remove(filter.matched_part(), &key);
                if let Some(filters) = self.by_node.get_mut(&node) {
                    filters.remove(filter);
                }
            }
            None => {}
        }
    }

    /// Forgets what the node announced. Whether there was anything.
    pub(crate) fn forget(&mut self, node: NodeId) -> bool {
        let filters = self.by_node.remove(&node).unwrap_or_default();
        for filter in &filters {
            self.tree.remove(filter.matched_part(), &key(node, filter));
        }
        !filters.is_empty()
    }

    /// Adds the nodes and groups that want a message of this topic.
    pub(crate) fn matches(&self, topic: &str, into: &mut RemoteRoutes) {
        self.tree.matches(topic, |(node, group), members| match group {
            None if into.nodes.contains(node) => {}
            None => into.nodes.push(*node),
            Some(filter) => into.groups.push((filter.clone(), *node, *members)),
        });
    }

    /// Nodes with live members of the group.
    pub(crate) fn group_members(&self, filter: &TopicFilter) -> Vec<NodeId> {
        let mut nodes: Vec<_> =
            self.by_node.iter().filter(|(_, all)| all.contains(filter)).map(|(node, _)| *node).collect();
        nodes.sort_unstable();
        nodes
    }

    pub(crate) fn len(&self) -> usize {
        self.tree.len()
    }
}

fn key(node: NodeId, filter: &TopicFilter) -> Key {
    (node, filter.share_name().is_some().then(|| filter.clone()))
}

#[cfg(test)]
mod tests {
    use super::super::LocalRoutes;
    use super::*;
    use crate::live::testing::Random;

    fn filter(text: &str) -> TopicFilter {
        text.try_into().expect("a filter")
    }

    fn routes(table: &RemoteTable, topic: &str) -> RemoteRoutes {
        let mut routes = RemoteRoutes::default();
        table.matches(topic, &mut routes);
        routes.nodes.sort_unstable();
        routes.groups.sort();
        routes
    }

    #[test]
    fn a_node_is_named_once_and_groups_with_their_members() {
        let mut table = RemoteTable::default();
        for (node, text) in
            [(2, "a/+"), (2, "a/b"), (3, "#"), (3, "$share/g/a/#"), (3, "$share/g/a/#"), (2, "$share/g/a/#")]
        {
            table.add(NodeId(node), filter(text));
        }
        let found = routes(&table, "a/b");
        assert_eq!(found.nodes.as_slice(), [NodeId(2), NodeId(3)]);
        let group = filter("$share/g/a/#");
        assert_eq!(found.groups, [(group.clone(), NodeId(2), 1), (group.clone(), NodeId(3), 2)]);
        assert_eq!(table.group_members(&group), [NodeId(2), NodeId(3)]);
        table.remove(NodeId(3), &group);
        table.remove(NodeId(2), &group);
        assert_eq!(routes(&table, "a/b").groups, [(group, NodeId(3), 1)]);
        assert!(table.forget(NodeId(3)));
        assert!(!table.forget(NodeId(3)));
        assert_eq!(routes(&table, "x").nodes.len(), 0);
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn changes_announced_one_by_one_and_all_at_once_lead_to_the_same_table() {
        let texts = ["a", "a/+", "#", "$share/g/a", "$share/h/+", "$share/g/#"];
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let (mut local, mut one_by_one) = (LocalRoutes::default(), RemoteTable::default());
            let mut held: HashMap<&str, u32> = HashMap::new();
            for _ in 0..200 {
                let text = texts[random.below(6) as usize];
                let count = held.entry(text).or_default();
                let (mut added, mut removed) = (vec![], vec![]);
                if random.percent(50) {
                    *count += 1;
                    added.push(filter(text));
                } else if *count > 0 {
                    *count -= 1;
                    removed.push(filter(text));
                }
                local.change(&mut added, &mut removed);
                added.into_iter().for_each(|filter| one_by_one.add(NodeId(2), filter));
                removed.iter().for_each(|filter| one_by_one.remove(NodeId(2), filter));
            }
            let mut at_once = RemoteTable::default();
            local.all().for_each(|filter| at_once.add(NodeId(2), filter.clone()));
            for topic in ["a", "a/b", "c"] {
                let (one, other) = (routes(&one_by_one, topic), routes(&at_once, topic));
                assert_eq!((one.nodes, one.groups), (other.nodes, other.groups), "seed {seed}");
            }
            assert_eq!(one_by_one.len(), at_once.len());
        }
    }
}
