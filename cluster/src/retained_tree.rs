//! Retained messages by Topic Name, ordered level by level, searched by Topic Filter.
//! Always true: names are compared as if `/` were smaller than every other character, so that everything below a name
//! follows it at once; a search looks only at branches that can match (it jumps over the others) and can be resumed
//! after any name, whatever was inserted or removed meanwhile.
//! Not here: expiry, who may read.
#[cfg(test)]
mod tests;

use mosquorum_proto::mqtt::TopicName;
use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeMap, btree_map},
    ops::{Bound, ControlFlow},
};

/// From Topic Names to values.
#[derive(Debug, Clone)]
pub struct RetainedTree<V> {
    map: BTreeMap<Key, V>,
}

impl<V> Default for RetainedTree<V> {
    fn default() -> Self {
        Self { map: BTreeMap::new() }
    }
}

impl<V> RetainedTree<V> {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Adds or replaces; returns the value that was there.
    pub fn insert(&mut self, topic: TopicName, value: V) -> Option<V> {
        self.map.insert(Key(topic), value)
    }

    pub fn remove(&mut self, topic: &str) -> Option<V> {
        self.map.remove(&topic as &dyn ByLevel)
    }

    #[must_use]
    pub fn get(&self, topic: &str) -> Option<&V> {
        self.map.get(&topic as &dyn ByLevel)
    }

    pub fn get_mut(&mut self, topic: &str) -> Option<&mut V> {
        self.map.get_mut(&topic as &dyn ByLevel)
    }

    /// Everything, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicName, &V)> {
        self.map.iter().map(|(key, value)| (&key.0, value))
    }

    /// Calls `f` for each name that matches the filter (without `$share/<name>/`), in order, beginning after the name
    /// `after`, until it breaks or `visits` names were looked at, whether they match or not; `visits` is what is left of
    /// them then. To go on, pass the name that is returned; `None`: that was all.
    pub fn matches<'t>(
        &'t self,
        filter: &str,
        after: Option<&str>,
        visits: &mut usize,
        mut f: impl FnMut(&'t TopicName, &'t V) -> ControlFlow<()>,
    ) -> Option<&'t TopicName> {
        let mut target = String::new();
        push_literals(&mut target, filter, false);
        let mut names = match after {
            Some(after) if by_level(after, &target).is_ge() => self.from(Bound::Excluded(after)),
            _ => self.from(Bound::Included(&target)),
        };
        while let Some((Key(topic), value)) = names.next() {
            *visits = visits.saturating_sub(1);
            let flow = match step(filter, topic.as_str(), &mut target) {
                Step::Matches => f(topic, value),
                Step::Finished => break,
                Step::Next => ControlFlow::Continue(()),
                Step::Jump => {
                    names = self.from(Bound::Included(&target));
                    ControlFlow::Continue(())
                }
            };
            if flow.is_break() || *visits == 0 {
                return Some(topic);
            }
        }
        None
    }

    fn from(&self, start: Bound<&str>) -> btree_map::Range<'_, Key, V> {
        let start = match &start {
            Bound::Included(topic) => Bound::Included(topic as &dyn ByLevel),
            Bound::Excluded(topic) => Bound::Excluded(topic as &dyn ByLevel),
            Bound::Unbounded => Bound::Unbounded,
        };
        self.map.range::<dyn ByLevel, _>((start, Bound::Unbounded))
    }
}

enum Step {
    Matches,
    /// Not this name; the next one may.
    Next,
    /// Nothing before `target` matches.
    Jump,
    /// Nothing from here on matches.
    Finished,
}

/// Compares one name with the filter and finds out where the search goes on.
fn step(filter: &str, topic: &str, target: &mut String) -> Step {
    let first_is_wildcard = filter.starts_with(['+', '#']);
    if first_is_wildcard && topic.starts_with('$') {
        // [MQTT-4.7.2-1] Past all names that start with `$`.
        target.clear();
        target.push('%');
        return Step::Jump;
    }
    // Length of the part of `topic` up to and with the last level that a `+` took.
    let mut last_plus = None;
    let mut levels = Levels { text: topic, from: Some(0) };
    for (start, want) in (Levels { text: filter, from: Some(0) }) {
        if want == "#" {
            return Step::Matches;
        }
        let Some((place, level)) = levels.next() else {
            // The name ends early; what the filter wants may be right below it.
            target.clear();
            target.push_str(topic);
            push_literals(target, &filter[start..], true);
            return if target.len() > topic.len() { Step::Jump } else { Step::Next };
        };
        if want == "+" {
            last_plus = Some(place + level.len());
            continue;
        }
        match by_level(level, want) {
            Ordering::Equal => {}
            Ordering::Less => {
                target.clear();
                target.push_str(&topic[..place]);
                push_literals(target, &filter[start..], false);
                return Step::Jump;
            }
            Ordering::Greater => return jump_past(topic, last_plus, target),
        }
    }
    if levels.from.is_some() { jump_past(topic, last_plus, target) } else { Step::Matches }
}

/// To the next name that differs in the level that the last `+` took.
fn jump_past(topic: &str, last_plus: Option<usize>, target: &mut String) -> Step {
    let Some(end) = last_plus else { return Step::Finished };
    target.clear();
    target.push_str(&topic[..end]);
    // `/` is the smallest character here and U+0001 the next: the first text that is not below the branch.
    target.push('\u{1}');
    Step::Jump
}

/// Levels with the places where they begin.
struct Levels<'a> {
    text: &'a str,
    from: Option<usize>,
}
impl<'a> Iterator for Levels<'a> {
    type Item = (usize, &'a str);
    fn next(&mut self) -> Option<(usize, &'a str)> {
        let from = self.from?;
        let rest = &self.text[from..];
        let level = match rest.as_bytes().iter().position(|byte| *byte == b'/') {
            Some(end) => {
                self.from = Some(from + end + 1);
                &rest[..end]
            }
            None => {
                self.from = None;
                rest
            }
        };
        Some((from, level))
    }
}

/// Adds the levels before the first wildcard; `below`: as levels of their own.
fn push_literals(target: &mut String, filter: &str, mut below: bool) {
    for level in filter.split('/').take_while(|level| !matches!(*level, "+" | "#")) {
        if below {
            target.push('/');
        }
        target.push_str(level);
        below = true;
    }
}

/// A name in the order of this tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key(TopicName);

/// Lets the map be searched by `&str` without making a name of it.
trait ByLevel {
    fn text(&self) -> &str;
}
impl ByLevel for Key {
    fn text(&self) -> &str {
        self.0.as_str()
    }
}
impl ByLevel for &str {
    fn text(&self) -> &str {
        self
    }
}
impl<'a> Borrow<dyn ByLevel + 'a> for Key {
    fn borrow(&self) -> &(dyn ByLevel + 'a) {
        self
    }
}
impl Ord for dyn ByLevel + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        by_level(self.text(), other.text())
    }
}
impl PartialOrd for dyn ByLevel + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for dyn ByLevel + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}
impl Eq for dyn ByLevel + '_ {}
impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        by_level(self.0.as_str(), other.0.as_str())
    }
}
impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Byte by byte, `/` first. Names have no U+0000, so no other character can be as small.
pub(crate) fn by_level(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let common = a.len().min(b.len());
    let mut at = 0;
    while at + 8 <= common && a[at..at + 8] == b[at..at + 8] {
        at += 8;
    }
    while at < common && a[at] == b[at] {
        at += 1;
    }
    if at == common {
        return a.len().cmp(&b.len());
    }
    let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
    rank(a[at]).cmp(&rank(b[at]))
}
