//! This node's own filters, to tell them to others.
use mosquorum_proto::mqtt::TopicFilter;
use std::collections::{HashMap, hash_map::Entry};

#[derive(Debug, Default)]
pub(crate) struct LocalRoutes {
    /// An ordinary filter counts once; a shared one as often as it was added.
    filters: HashMap<TopicFilter, u32>,
}

impl LocalRoutes {
    /// Takes the changes in and leaves in the lists only what others have to be told.
    pub(crate) fn change(&mut self, added: &mut Vec<TopicFilter>, removed: &mut Vec<TopicFilter>) {
        added.retain(|filter| self.add(filter));
        removed.retain(|filter| self.remove(filter));
    }

    fn add(&mut self, filter: &TopicFilter) -> bool {
        let shared = filter.share_name().is_some();
        match self.filters.entry(filter.clone()) {
            Entry::Occupied(mut known) => {
                *known.get_mut() += u32::from(shared);
                shared
            }
            Entry::Vacant(new) => {
                new.insert(1);
                true
            }
        }
    }

    fn remove(&mut self, filter: &TopicFilter) -> bool {
        let Some(count) = self.filters.get_mut(filter) else { return false };
        *count -= 1;
        if *count == 0 {
            self.filters.remove(filter);
        }
        true
    }

    /// Everything, each shared filter once per member.
    pub(crate) fn all(&self) -> impl Iterator<Item = &TopicFilter> {
        self.filters.iter().flat_map(|(filter, count)| std::iter::repeat_n(filter, *count as usize))
    }
}
