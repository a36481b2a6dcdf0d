//! Which filters changed last: who remembers answers about topics forgets only those that may be others now.
//! Always true: [`RecentChanges::version`] grows with each change; what changed since a version is listed in full or not at
//! all; at most [`FILTERS_MAX`] filters of at most [`FILTER_BYTES_MAX`] bytes are held.
use mosquorum_proto::mqtt::TopicFilter;
use std::collections::VecDeque;

pub const FILTERS_MAX: usize = 64;
/// A longer one is not held: its change is listed as one of everything.
pub const FILTER_BYTES_MAX: usize = 512;

#[derive(Debug, Clone)]
pub struct RecentChanges {
    version: u64,
    /// The last changes, the newest behind; `None` where anything may have changed.
    recent: VecDeque<Option<TopicFilter>>,
}

impl Default for RecentChanges {
    fn default() -> Self {
        Self { version: 1, recent: VecDeque::new() }
    }
}

impl RecentChanges {
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Topics that match the filter may have other answers from now on.
    pub fn changed(&mut self, filter: &TopicFilter) {
        self.note((filter.as_str().len() <= FILTER_BYTES_MAX).then(|| filter.detached()));
    }

    /// As [`Self::changed`] for all filters of a session; many would push out what others changed.
    pub fn changed_each<'a>(&mut self, filters: impl ExactSizeIterator<Item = &'a TopicFilter>) {
        if filters.len() > FILTERS_MAX / 4 {
            return self.all_changed();
        }
        filters.for_each(|filter| self.changed(filter));
    }

    /// All topics may.
    pub fn all_changed(&mut self) {
        self.note(None);
    }

    /// Takes the place of other ones: whoever remembers those forgets everything.
    pub fn succeed(&mut self, former: &Self) {
        self.version = former.version.max(self.version);
        self.recent.clear();
        self.all_changed();
    }

    fn note(&mut self, change: Option<TopicFilter>) {
        if self.recent.len() >= FILTERS_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(change);
        self.version += 1;
    }

    /// Adds the filters that changed since this was the version. `false` if anything may have, since it is not known any
    /// more or never was.
    #[must_use]
    pub fn since(&self, version: u64, into: &mut Vec<TopicFilter>) -> bool {
        let Some(count) = self.version.checked_sub(version).and_then(|count| usize::try_from(count).ok()) else {
            return false;
        };
        let Some(first) = self.recent.len().checked_sub(count) else { return false };
        self.recent.range(first..).all(|change| change.as_ref().map(|filter| into.push(filter.clone())).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn since(changes: &RecentChanges, version: u64) -> Option<Vec<String>> {
        let mut filters = Vec::new();
        let complete = changes.since(version, &mut filters);
        complete.then(|| filters.iter().map(|filter| filter.as_str().to_owned()).collect())
    }

    fn change(changes: &mut RecentChanges, filter: &str) {
        changes.changed(&filter.try_into().expect("a filter"));
    }

    #[test]
    fn changes_since_a_version_are_listed_in_full_or_not_at_all() {
        let mut changes = RecentChanges::default();
        let begin = changes.version();
        assert_eq!(since(&changes, begin), Some(vec![]));
        change(&mut changes, "a/#");
        let middle = changes.version();
        change(&mut changes, "$share/g/b");
        assert_eq!(since(&changes, begin), Some(vec!["a/#".into(), "$share/g/b".into()]));
        assert_eq!(since(&changes, middle), Some(vec!["$share/g/b".into()]));
        changes.all_changed();
        let end = changes.version();
        assert_eq!(since(&changes, begin), None);
        assert_eq!(since(&changes, end), Some(vec![]));
        assert_eq!(since(&changes, end + 1), None, "of another start");
        for _ in 0..FILTERS_MAX {
            change(&mut changes, "c");
        }
        assert_eq!(since(&changes, end).map(|filters| filters.len()), Some(FILTERS_MAX));
        change(&mut changes, "c");
        assert_eq!(since(&changes, end), None);
        assert!(changes.recent.len() <= FILTERS_MAX);
        let mut fresh = RecentChanges::default();
        let before = changes.version();
        fresh.succeed(&changes);
        assert_eq!((since(&fresh, before), since(&fresh, end)), (None, None), "of what was there before nothing holds");
        change(&mut changes, &"x".repeat(FILTER_BYTES_MAX + 1));
        assert_eq!(since(&changes, before), None);
    }
}
