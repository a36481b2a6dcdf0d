//! Subscription tree: which subscriptions match a Topic Name (MQTT 5.0 section 4.7).
//! Always true: a node with neither subscriptions nor children does not exist, so memory follows live subscriptions;
//! a filter that starts with a wildcard never matches a name that starts with `$` [MQTT-4.7.2-1]; subscriptions to one
//! filter are visited in the order they came, filters that match one name in Mosquitto's order (exact levels before
//! `+` before `#`, and `a/#` before `a` for the name `a`).
//! Cost: one hash lookup per visited node, whatever else is subscribed; nothing is allocated for names of up to
//! [`STACK`] / 2 levels; no recursion. About 64 bytes per level of a filter that no other filter shares.
//! Not here: shared subscriptions (their holder is a key like any other), who may subscribe, delivery.
mod entries;
#[cfg(test)]
mod tests;

use entries::Entries;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::{
    fmt,
    hash::{BuildHasher, Hash},
    ops::ControlFlow,
};

/// Steps that wait on the stack before it moves to the heap: at most two per level of the name.
const STACK: usize = 40;

const ROOT: u32 = 0;
/// No such child; the root is nobody's child.
const NONE: u32 = 0;

/// In place of an offset into the name: all its levels are used up.
const AT_END: u32 = u32::MAX;
/// In place of an offset into the name: the node is a `#` that matches whatever is left.
const REST: u32 = u32::MAX - 1;

/// From Topic Filters to values, each held under a key: a filter has at most one value per key.
#[derive(Clone)]
pub struct SubscriptionTree<K, V> {
    /// Freed places are listed in `free` and used again; the first is the root.
    nodes: Vec<Node<K, V>>,
    free: Vec<u32>,
    /// From (parent, level) to the node, for all levels that are not wildcards.
    children: HashTable<Child>,
    hasher: RandomState,
    len: usize,
}

#[derive(Clone)]
struct Node<K, V> {
    parent: u32,
    /// The child for `+`, or `NONE`.
    plus: u32,
    /// The child for `#`, or `NONE`.
    hash: u32,
    /// Children that are not wildcards.
    literals: u32,
    level: SmallVec<[u8; 16]>,
    entries: Entries<K, V>,
}

#[derive(Clone, Copy)]
struct Child {
    /// Kept so that growing the table need not look at the nodes.
    hash: u32,
    node: u32,
}

impl<K, V> Node<K, V> {
    fn new(parent: u32, level: &[u8]) -> Self {
        let level = SmallVec::from_slice(level);
        Self { parent, plus: NONE, hash: NONE, literals: 0, level, entries: Entries::None }
    }
    fn is_unused(&self) -> bool {
        self.plus == NONE && self.hash == NONE && self.literals == 0 && self.entries.is_empty()
    }
}

impl<K, V> Default for SubscriptionTree<K, V> {
    fn default() -> Self {
        Self {
            nodes: vec![Node::new(ROOT, b"")],
            free: Vec::new(),
            children: HashTable::new(),
            hasher: RandomState::default(),
            len: 0,
        }
    }
}

impl<K: Eq + Hash + Clone, V> SubscriptionTree<K, V> {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Subscriptions, not filters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds or replaces (then the place in the order stays) and returns the value that was there. `filter` is the part
    /// that names are matched against, without `$share/<name>/`.
    pub fn insert(&mut self, filter: &str, key: K, value: V) -> Option<V> {
        let mut node = ROOT;
        for level in filter.as_bytes().split(|byte| *byte == b'/') {
            node = match self.child(node, level) {
                Some(child) => child,
                None => self.add_child(node, level),
            };
        }
        let replaced = self.nodes[node as usize].entries.insert(key, value, &self.hasher);
        self.len += usize::from(replaced.is_none());
        replaced
    }

    /// Removes and returns the value, if there was one.
    pub fn remove(&mut self, filter: &str, key: &K) -> Option<V> {
        let node = self.find(filter)?;
        let value = self.nodes[node as usize].entries.remove(key, &self.hasher)?;
        self.len -= 1;
        self.prune(node);
        Some(value)
    }

    #[must_use]
    pub fn get(&self, filter: &str, key: &K) -> Option<&V> {
        self.nodes[self.find(filter)? as usize].entries.get(key, &self.hasher)
    }

    pub fn get_mut(&mut self, filter: &str, key: &K) -> Option<&mut V> {
        let node = self.find(filter)?;
        self.nodes[node as usize].entries.get_mut(key, &self.hasher)
    }

    /// Calls `f` for every subscription whose filter matches the name.
    pub fn matches<'t>(&'t self, topic: &str, mut f: impl FnMut(&'t K, &'t V)) {
        let _ = self.walk(topic, |entries| {
            entries.for_each(&mut f);
            ControlFlow::Continue(())
        });
    }

    /// Whether any filter matches the name.
    #[must_use]
    pub fn has_match(&self, topic: &str) -> bool {
        self.walk(topic, |_| ControlFlow::Break(())).is_break()
    }

    /// All subscriptions, ordered by filter, then by their order in it. Sorts the filters first: not for hot paths.
    pub fn iter(&self) -> impl Iterator<Item = (String, &K, &V)> {
        let mut filters: Vec<(String, &Entries<K, V>)> = (1..self.nodes.len() as u32)
            .map(|node| (node, &self.nodes[node as usize].entries))
            .filter(|(_, entries)| !entries.is_empty())
            .map(|(node, entries)| (self.filter_of(node), entries))
            .collect();
        filters.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        filters.into_iter().flat_map(|(filter, entries)| {
            let mut held = Vec::with_capacity(entries.len());
            entries.for_each(&mut |key, value| held.push((filter.clone(), key, value)));
            held
        })
    }

    /// Visits the subscriptions of every matching filter.
    fn walk<'t>(&'t self, topic: &str, mut visit: impl FnMut(&'t Entries<K, V>) -> ControlFlow<()>) -> ControlFlow<()> {
        let name = topic.as_bytes();
        let is_dollar = name.first() == Some(&b'$');
        let mut stack: SmallVec<[(u32, u32); STACK]> = SmallVec::new();
        stack.push((ROOT, 0));
        while let Some((id, from)) = stack.pop() {
            let node = &self.nodes[id as usize];
            if from == AT_END || from == REST {
                if from == AT_END && node.hash != NONE {
                    visit(&self.nodes[node.hash as usize].entries)?;
                }
                if !node.entries.is_empty() {
                    visit(&node.entries)?;
                }
                continue;
            }
            let rest = &name[from as usize..];
            let (level, next) = match rest.iter().position(|byte| *byte == b'/') {
                Some(end) => (&rest[..end], from + end as u32 + 1),
                None => (rest, AT_END),
            };
            let wildcards = id != ROOT || !is_dollar;
            if wildcards && node.hash != NONE {
                stack.push((node.hash, REST));
            }
            if wildcards && node.plus != NONE {
                stack.push((node.plus, next));
            }
            if let Some(child) = self.literal_child(id, level) {
                stack.push((child, next));
            }
        }
        ControlFlow::Continue(())
    }

    fn find(&self, filter: &str) -> Option<u32> {
        filter.as_bytes().split(|byte| *byte == b'/').try_fold(ROOT, |node, level| self.child(node, level))
    }

    fn child(&self, parent: u32, level: &[u8]) -> Option<u32> {
        let node = &self.nodes[parent as usize];
        match level {
            b"+" => (node.plus != NONE).then_some(node.plus),
            b"#" => (node.hash != NONE).then_some(node.hash),
            _ => self.literal_child(parent, level),
        }
    }

    fn literal_child(&self, parent: u32, level: &[u8]) -> Option<u32> {
        if self.nodes[parent as usize].literals == 0 {
            return None;
        }
        let hash = self.hash_of(parent, level);
        let found = self.children.find(spread(hash), |child| self.is_child(*child, hash, parent, level))?;
        Some(found.node)
    }

    fn is_child(&self, child: Child, hash: u32, parent: u32, level: &[u8]) -> bool {
        child.hash == hash && {
            let node = &self.nodes[child.node as usize];
            node.parent == parent && node.level.as_slice() == level
        }
    }

    fn hash_of(&self, parent: u32, level: &[u8]) -> u32 {
        self.hasher.hash_one((parent, level)) as u32
    }

    fn add_child(&mut self, parent: u32, level: &[u8]) -> u32 {
        let node = Node::new(parent, level);
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id as usize] = node;
                id
            }
            None => {
                self.nodes.push(node);
                // 2^32 nodes need more memory than any machine of today has.
                u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 levels of filters")
            }
        };
        match level {
            b"+" => self.nodes[parent as usize].plus = id,
            b"#" => self.nodes[parent as usize].hash = id,
            _ => {
                let hash = self.hash_of(parent, level);
                self.children.insert_unique(spread(hash), Child { hash, node: id }, |child| spread(child.hash));
                self.nodes[parent as usize].literals += 1;
            }
        }
        id
    }

    /// Removes the node and its ancestors as far as nothing needs them.
    fn prune(&mut self, mut id: u32) {
        while id != ROOT && self.nodes[id as usize].is_unused() {
            let parent = self.nodes[id as usize].parent;
            if self.nodes[parent as usize].plus == id {
                self.nodes[parent as usize].plus = NONE;
            } else if self.nodes[parent as usize].hash == id {
                self.nodes[parent as usize].hash = NONE;
            } else {
                let hash = self.hash_of(parent, &self.nodes[id as usize].level);
                if let Ok(entry) = self.children.find_entry(spread(hash), |child| child.node == id) {
                    entry.remove();
                }
                self.nodes[parent as usize].literals -= 1;
            }
            self.nodes[id as usize] = Node::new(ROOT, b"");
            self.free.push(id);
            id = parent;
        }
        if self.len == 0 {
            // Gives the memory of a large tree back.
            *self = Self { hasher: self.hasher, ..Self::default() };
        }
    }

    fn filter_of(&self, mut id: u32) -> String {
        let mut levels: SmallVec<[u32; 32]> = SmallVec::new();
        while id != ROOT {
            levels.push(id);
            id = self.nodes[id as usize].parent;
        }
        let mut text = Vec::new();
        for (place, id) in levels.iter().rev().enumerate() {
            if place > 0 {
                text.push(b'/');
            }
            text.extend_from_slice(&self.nodes[*id as usize].level);
        }
        String::from_utf8(text).expect("levels were cut from text at slashes")
    }
}

impl<K, V> fmt::Debug for SubscriptionTree<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.nodes.len() - self.free.len();
        f.debug_struct("SubscriptionTree").field("subscriptions", &self.len).field("nodes", &nodes).finish()
    }
}

/// The table takes its place from the low bits and its tag from the high ones.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}
