//! Retained messages: one per Topic Name, the last committed wins.
//! Always true: an empty payload is never kept [MQTT-3.3.1-6, MQTT-3.3.1-7]; expired messages are skipped on reading and
//! removed at the next tick.
use super::{
    Message,
    deadlines::{Deadline, Deadlines},
    messages::{Held, MessageStore, Place},
    publish::Publishing,
    queue::expiry_of,
};
use crate::{ids::Millis, retained_tree::RetainedTree};
use mosquorum_proto::mqtt::{TopicFilter, TopicName};
use std::{collections::BTreeSet, ops::ControlFlow, sync::Arc};

/// Names that one search looks at while it holds the state.
const RETAINED_VISITS_MAX: usize = 1000;

#[derive(Debug, Clone)]
pub(super) struct Retained {
    pub(super) message: Arc<Message>,
    pub(super) place: Place,
}

/// What each topic keeps.
#[derive(Default)]
pub(super) struct RetainedMessages {
    kept: RetainedTree<Retained>,
    /// Topics that must be written again.
    unwritten: BTreeSet<TopicName>,
}

impl RetainedMessages {
    pub(super) fn get(&self, topic: &str) -> Option<&Retained> {
        self.kept.get(topic)
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&TopicName, &Retained)> {
        self.kept.iter()
    }

    /// As [`RetainedTree::matches`].
    pub(super) fn matches<'t>(
        &'t self,
        filter: &str,
        after: Option<&str>,
        visits: &mut usize,
        f: impl FnMut(&'t TopicName, &'t Retained) -> ControlFlow<()>,
    ) -> Option<&'t TopicName> {
        self.kept.matches(filter, after, visits, f)
    }

    /// The message of one topic.
    pub(super) fn message(&self, topic: &TopicName, now: Millis) -> Option<&Arc<Message>> {
        self.get(topic.as_str()).map(|kept| &kept.message).filter(|message| !message.is_expired(now))
    }

    /// As [`super::State::retained_matches`], leaving out what has expired by `now`.
    pub(super) fn find(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        limit: usize,
        now: Millis,
        into: &mut Vec<Arc<Message>>,
    ) -> Option<TopicName> {
        if filter.share_name().is_some() {
            return None;
        }
        let (mut found, mut visits) = (0, RETAINED_VISITS_MAX);
        let after = after.map(TopicName::as_str);
        let next = self.matches(filter.as_str(), after, &mut visits, |_, kept| {
            if kept.message.is_expired(now) {
                return ControlFlow::Continue(());
            }
            into.push(kept.message.clone());
            found += 1;
            if found < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        next.cloned()
    }

    pub(super) fn unwritten_count(&self) -> usize {
        self.unwritten.len()
    }

    /// What must be written again; `None`: the topic keeps nothing any more.
    pub(super) fn take_unwritten(&mut self) -> impl Iterator<Item = (TopicName, Option<&Retained>)> {
        let kept = &self.kept;
        std::mem::take(&mut self.unwritten).into_iter().map(|topic| {
            let found = kept.get(topic.as_str());
            (topic, found)
        })
    }

    pub(super) fn forget_unwritten(&mut self) {
        self.unwritten.clear();
    }

    fn note_changed(&mut self, topic: &TopicName) {
        if !self.unwritten.contains(topic) {
            self.unwritten.insert(topic.clone());
        }
    }
}

/// Changes what topics keep.
pub(super) struct RetainedHandler<'a> {
    topics: &'a mut RetainedMessages,
    messages: &'a mut MessageStore,
    deadlines: &'a mut Deadlines,
}

impl<'a> RetainedHandler<'a> {
    #[inline]
    pub(super) fn new(
        topics: &'a mut RetainedMessages,
        messages: &'a mut MessageStore,
        deadlines: &'a mut Deadlines,
    ) -> Self {
        Self { topics, messages, deadlines }
    }

    pub(super) fn retain(&mut self, publishing: &mut Publishing<'_>) {
        let message = publishing.message;
        if message.payload.is_empty() {
            self.remove(&message.topic);
            return;
        }
        let place = *publishing.place.get_or_insert_with(|| self.messages.add(message));
        self.keep(message.clone(), place);
        self.topics.note_changed(&message.topic);
    }

    /// It is not noted as changed.
    pub(super) fn keep(&mut self, message: Arc<Message>, place: Place) {
        self.messages.refer(Held { place, here: true });
        let topic = message.topic.clone();
        if let Some(at) = expiry_of(&message) {
            self.deadlines.insert(at, Deadline::Retained(topic.clone()));
        }
        let retained = Retained { message, place };
        let old = match self.topics.kept.get_mut(topic.as_str()) {
            Some(kept) => Some(std::mem::replace(kept, retained)),
            None => self.topics.kept.insert(topic.clone(), retained),
        };
        if let Some(old) = old {
            self.forget(old);
        }
    }

    pub(super) fn remove(&mut self, topic: &TopicName) {
        if let Some(old) = self.topics.kept.remove(topic.as_str()) {
            self.forget(old);
            self.topics.note_changed(topic);
        }
    }

    fn forget(&mut self, old: Retained) {
        self.messages.release(Held { place: old.place, here: true });
        let topic = old.message.topic.clone();
        if let Some(at) = expiry_of(&old.message)
            && self.topics.get(topic.as_str()).is_none_or(|kept| expiry_of(&kept.message) != Some(at))
        {
            self.deadlines.forget(at, Deadline::Retained(topic));
        }
    }
}
