//! Who gets messages of the topics that a connection published last.
//! Always true: at most [`TOPICS_MAX`] topics, [`BYTES_MAX`] bytes of their names and [`RECEIVERS_BYTES_MAX`] of who gets them
//! are remembered (the last topic in any case); at the bound one of them goes, not all, and which one does not follow the
//! order in which topics come: a publisher over a few more topics than fit still finds most of them.
use super::router::Targets;
use mosquorum_proto::mqtt::{TopicFilter, TopicName};
use std::{collections::HashMap, sync::Arc};

pub const TOPICS_MAX: usize = 64;
/// So many changed filters are compared with the topics; after more of them everything is found anew.
const FILTERS_MAX: usize = 32;
/// Of names; an idle connection keeps them.
pub const BYTES_MAX: usize = 16 << 10;
/// Of lists of receivers, which are long where very many subscribe.
pub const RECEIVERS_BYTES_MAX: usize = 256 << 10;

#[derive(Default)]
pub struct TargetCache {
    known: HashMap<TopicName, (Arc<Targets>, usize), foldhash::fast::RandomState>,
    /// The topics, each at the place that `known` names.
    places: Vec<TopicName>,
    bytes: usize,
    receivers_bytes: usize,
    /// Chooses who goes (xorshift).
    turn: u32,
}

impl TargetCache {
    pub fn get(&self, topic: &TopicName) -> Option<&Arc<Targets>> {
        self.known.get(topic).map(|(targets, _)| targets)
    }

    /// What is remembered is not true any more.
    pub fn clear(&mut self) {
        self.known.clear();
        self.places.clear();
        (self.bytes, self.receivers_bytes) = (0, 0);
    }

    /// What is remembered of topics that match one of the filters may not be true any more.
    pub fn forget(&mut self, filters: &[TopicFilter]) {
        if filters.len() > FILTERS_MAX {
            return self.clear();
        }
        for place in (0..self.places.len()).rev() {
            if filters.iter().any(|filter| filter.matches(&self.places[place])) {
                self.remove(place);
            }
        }
    }

    /// A topic that was not there. One that is too long is not remembered.
    pub fn insert(&mut self, topic: &TopicName, targets: Arc<Targets>) {
        let len = topic.as_str().len();
        if len > BYTES_MAX / 4 {
            return;
        }
        let receivers = targets.memory();
        while self.places.len() >= TOPICS_MAX
            || self.bytes + len > BYTES_MAX
            || (self.receivers_bytes + receivers > RECEIVERS_BYTES_MAX && !self.places.is_empty())
        {
            self.replace_one();
        }
        let topic = topic.detached();
        self.bytes += len;
        self.receivers_bytes += receivers;
        self.known.insert(topic.clone(), (targets, self.places.len()));
        self.places.push(topic);
    }

    fn replace_one(&mut self) {
        self.turn ^= (self.turn << 13) | 1;
        self.turn ^= self.turn >> 17;
        self.turn ^= self.turn << 5;
        self.remove(self.turn as usize % self.places.len().max(1));
    }

    fn remove(&mut self, place: usize) {
        let gone = self.places.swap_remove(place);
        if let Some((targets, _)) = self.known.remove(&gone) {
            self.receivers_bytes -= targets.memory();
        }
        self.bytes -= gone.as_str().len();
        if let Some(moved) = self.places.get(place)
            && let Some((_, at)) = self.known.get_mut(moved)
        {
            *at = place;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::router::SharedTarget;

    fn targets() -> Arc<Targets> {
        Arc::new(Targets::nobody())
    }

    fn topic(number: usize, len: usize) -> TopicName {
        TopicName::try_from(format!("{number:0len$}").as_str()).unwrap()
    }

    #[test]
    fn a_publisher_over_a_few_more_topics_than_fit_finds_most_of_them() {
        let (mut cache, mut found) = (TargetCache::default(), 0);
        for round in 0..6500 {
            let topic = topic(round % (TOPICS_MAX + 1), 4);
            match cache.get(&topic) {
                Some(_) => found += 1,
                None => cache.insert(&topic, targets()),
            }
        }
        assert!(found > 6000, "{found}");
    }

    #[test]
    fn long_lists_of_receivers_count_by_their_bytes() {
        let many = || {
            let mut targets = Targets::nobody();
            let filter = TopicFilter::try_from("$share/g/t").unwrap();
            let group = |_| SharedTarget::nobody(filter.clone());
            targets.groups = (0..=RECEIVERS_BYTES_MAX / 4 / size_of::<SharedTarget>()).map(group).collect();
            Arc::new(targets)
        };
        assert!(many().memory() >= RECEIVERS_BYTES_MAX / 4);
        let mut cache = TargetCache::default();
        for number in 0..1000 {
            cache.insert(&topic(number, 4), many());
            assert!(cache.get(&topic(number, 4)).is_some(), "the last one is found");
        }
        assert!(cache.places.len() <= 4);
        cache.clear();
        assert_eq!(cache.receivers_bytes, 0);
    }

    #[test]
    fn long_topics_count_by_their_bytes() {
        let mut cache = TargetCache::default();
        for number in 0..1000 {
            cache.insert(&topic(number, 2000), targets());
            assert!(cache.bytes <= BYTES_MAX && cache.places.len() == cache.known.len());
        }
        assert!(cache.places.len() <= BYTES_MAX / 2000);
        cache.insert(&topic(1, 65_000), targets());
        assert!(cache.get(&topic(1, 65_000)).is_none());
        let last = topic(999, 2000);
        assert!(cache.get(&last).is_some());
        cache.clear();
        assert!(cache.get(&last).is_none() && cache.bytes == 0);
    }

    #[test]
    fn a_changed_filter_forgets_the_topics_that_match_it_and_no_others() {
        let mut cache = TargetCache::default();
        let names = ["a/1", "a/2", "b/1", "c"].map(|name| TopicName::try_from(name).unwrap());
        names.iter().for_each(|name| cache.insert(name, targets()));
        let filters = |texts: &[&str]| -> Vec<TopicFilter> {
            texts.iter().map(|text| TopicFilter::try_from(*text).unwrap()).collect()
        };
        cache.forget(&filters(&["a/+", "$share/g/c", "other/#"]));
        let known: Vec<bool> = names.iter().map(|name| cache.get(name).is_some()).collect();
        assert_eq!((known, cache.bytes, cache.places.len()), (vec![false, false, true, false], 3, 1));
        cache.forget(&filters(&["other"; FILTERS_MAX + 1]));
        assert!(cache.get(&names[2]).is_none());
    }
}
