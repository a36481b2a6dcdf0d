//! The filters of a session that is not durable. Most clients have one, so one takes no room elsewhere.
use mosquorum_proto::mqtt::TopicFilter;
use std::collections::HashSet;

#[derive(Default)]
pub(super) enum Filters {
    #[default]
    None,
    One(TopicFilter),
    Many(HashSet<TopicFilter, foldhash::fast::RandomState>),
}

impl Filters {
    pub(super) fn insert(&mut self, filter: TopicFilter) {
        match self {
            Self::None => *self = Self::One(filter),
            Self::One(one) if *one == filter => {}
            Self::One(one) => *self = Self::Many([one.clone(), filter].into_iter().collect()),
            Self::Many(many) => {
                many.insert(filter);
            }
        }
    }

    pub(super) fn remove(&mut self, filter: &TopicFilter) {
        match self {
            Self::One(one) if one == filter => *self = Self::None,
            Self::None | Self::One(_) => {}
            Self::Many(many) => {
                many.remove(filter);
            }
        }
    }

    /// Takes them all.
    pub(super) fn drain(&mut self) -> Vec<TopicFilter> {
        match std::mem::take(self) {
            Self::None => Vec::new(),
            Self::One(one) => vec![one],
            Self::Many(many) => many.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mosquorum_proto::mqtt::Utf8;

    #[test]
    fn each_filter_is_there_once_until_it_is_removed() {
        let filter = |text: &str| TopicFilter::new(Utf8::from(text)).expect("a filter");
        let mut filters = Filters::default();
        filters.remove(&filter("a"));
        for text in ["a", "a", "b", "c", "b"] {
            filters.insert(filter(text));
        }
        filters.remove(&filter("b"));
        let mut left = filters.drain();
        left.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        assert_eq!(left, [filter("a"), filter("c")]);
        assert!(filters.drain().is_empty());
        filters.insert(filter("a"));
        filters.remove(&filter("x"));
        filters.remove(&filter("a"));
        assert!(filters.drain().is_empty());
    }
}
