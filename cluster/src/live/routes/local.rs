//! This node's own filters, to announce them to others.
//! Always true: what is announced follows from how many subscriptions began and ended, in whatever order this is reported: an
//! ordinary filter is announced once while anybody holds it, a shared one as often as it has members.
use mosquorum_proto::mqtt::TopicFilter;
use std::collections::HashMap;

#[derive(Debug, Default)]
pub(crate) struct LocalRoutes {
    /// Subscriptions by filter. Below zero while ends were reported before beginnings.
    filters: HashMap<TopicFilter, i64>,
}

impl LocalRoutes {
    /// Takes the changes in and leaves in the lists only what has to be announced to others.
    pub(crate) fn change(&mut self, added: &mut Vec<TopicFilter>, removed: &mut Vec<TopicFilter>) {
        added.retain(|filter| self.count(filter, 1));
        removed.retain(|filter| self.count(filter, -1));
    }

    /// Whether it has to be announced to others.
    fn count(&mut self, filter: &TopicFilter, by: i64) -> bool {
        let count = self.filters.entry(filter.clone()).or_default();
        let before = times_announced(filter, *count);
        *count += by;
        let after = times_announced(filter, *count);
        if *count == 0 {
            self.filters.remove(filter);
        }
        before != after
    }

    /// Everything, each shared filter once per member.
    pub(crate) fn all(&self) -> impl Iterator<Item = &TopicFilter> {
        self.filters.iter().flat_map(|(filter, count)| std::iter::repeat_n(filter, times_announced(filter, *count)))
    }
}

/// How often others know a filter that so many subscriptions hold.
fn times_announced(filter: &TopicFilter, count: i64) -> usize {
    let held = usize::try_from(count).unwrap_or(0);
    if filter.share_name().is_some() { held } else { held.min(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        text.try_into().expect("a filter")
    }

    /// Takes in one change; what has to be announced to others.
    fn change(routes: &mut LocalRoutes, added: &[&str], removed: &[&str]) -> (usize, usize) {
        let all = |texts: &[&str]| texts.iter().map(|text| filter(text)).collect::<Vec<_>>();
        let (mut added, mut removed) = (all(added), all(removed));
        routes.change(&mut added, &mut removed);
        (added.len(), removed.len())
    }

    #[test]
    fn a_filter_stays_announced_as_long_as_somebody_holds_it() {
        let mut routes = LocalRoutes::default();
        assert_eq!(change(&mut routes, &["f"], &[]), (1, 0));
        assert_eq!(change(&mut routes, &["f"], &[]), (0, 0));
        assert_eq!(change(&mut routes, &[], &["f"]), (0, 0), "another one still holds it");
        assert_eq!(routes.all().collect::<Vec<_>>(), [&filter("f")]);
        assert_eq!(change(&mut routes, &[], &["f"]), (0, 1));
        assert_eq!(routes.all().count(), 0);
    }

    #[test]
    fn a_removal_may_come_before_what_it_removes() {
        let mut routes = LocalRoutes::default();
        assert_eq!(change(&mut routes, &[], &["f", "$share/g/f"]), (0, 0));
        assert_eq!(routes.all().count(), 0);
        assert_eq!(change(&mut routes, &["f", "$share/g/f"], &[]), (0, 0));
        assert_eq!(routes.all().count(), 0);
        assert_eq!(change(&mut routes, &["f", "$share/g/f"], &[]), (2, 0));
    }

    #[test]
    fn members_of_a_group_are_announced_one_by_one() {
        let mut routes = LocalRoutes::default();
        assert_eq!(change(&mut routes, &["$share/g/f"], &[]), (1, 0));
        assert_eq!(change(&mut routes, &["$share/g/f"], &[]), (1, 0));
        assert_eq!(routes.all().count(), 2);
        assert_eq!(change(&mut routes, &[], &["$share/g/f"]), (0, 1));
        assert_eq!(routes.all().count(), 1);
    }
}
