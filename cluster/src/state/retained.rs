//! Retained messages: one per Topic Name, the last committed wins.
//! Always true: an empty payload is never kept [MQTT-3.3.1-6, MQTT-3.3.1-7]; expired messages are skipped on reading and
//! removed at the next tick.
use super::{
    Message, State,
    expiry::Deadline,
    messages::{Held, Place},
    publish::Publishing,
    queue::expiry_of,
};
use crate::ids::Millis;
use mosquorum_proto::mqtt::{TopicFilter, TopicName};
use std::{ops::ControlFlow, sync::Arc};

/// Names that one search looks at while it holds the state.
const RETAINED_VISITS_MAX: usize = 1000;

#[derive(Debug, Clone)]
pub(super) struct Retained {
    pub(super) message: Arc<Message>,
    pub(super) place: Place,
}

impl State {
    pub(super) fn retain(&mut self, publishing: &mut Publishing<'_>) {
        let message = publishing.message;
        if message.payload.is_empty() {
            self.remove_retained(&message.topic);
            return;
        }
        let place = *publishing.place.get_or_insert_with(|| self.messages.add(message));
        self.keep_retained(message.clone(), place);
        self.note_retained_changed(&message.topic);
    }

    pub(super) fn keep_retained(&mut self, message: Arc<Message>, place: Place) {
        self.messages.refer(Held { place, here: true });
        let topic = message.topic.clone();
        if let Some(at) = expiry_of(&message) {
            self.deadlines.insert((at, Deadline::Retained(topic.clone())));
        }
        let retained = Retained { message, place };
        let old = match self.retained.get_mut(topic.as_str()) {
            Some(kept) => Some(std::mem::replace(kept, retained)),
            None => self.retained.insert(topic.clone(), retained),
        };
        if let Some(old) = old {
            self.forget_retained(old);
        }
    }

    pub(super) fn remove_retained(&mut self, topic: &TopicName) {
        if let Some(old) = self.retained.remove(topic.as_str()) {
            self.forget_retained(old);
            self.note_retained_changed(topic);
        }
    }

    fn forget_retained(&mut self, old: Retained) {
        self.messages.release(Held { place: old.place, here: true });
        let topic = old.message.topic.clone();
        if let Some(at) = expiry_of(&old.message)
            && self.retained.get(topic.as_str()).is_none_or(|kept| expiry_of(&kept.message) != Some(at))
        {
            self.deadlines.remove(&(at, Deadline::Retained(topic)));
        }
    }

    fn note_retained_changed(&mut self, topic: &TopicName) {
        if !self.retained_unwritten.contains(topic) {
            self.retained_unwritten.insert(topic.clone());
        }
    }

    /// The retained message of one topic.
    #[must_use]
    pub fn retained(&self, topic: &TopicName, now: Millis) -> Option<&Arc<Message>> {
        self.retained.get(topic.as_str()).map(|kept| &kept.message).filter(|message| !message.is_expired(now))
    }

    /// Adds at most `limit` retained messages that match, in order of topics, beginning after `after`, and looks at no more
    /// than 1000 names for it; returns where to go on (there may be none yet), `None` at the end. Nothing for a shared subscription (MQTT 5.0 section 4.8.2). Expired ones are left out,
    /// as far as the time of the log tells.
    pub fn retained_matches(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        limit: usize,
        into: &mut Vec<Arc<Message>>,
    ) -> Option<TopicName> {
        if filter.share_name().is_some() {
            return None;
        }
        let (mut found, mut visits) = (0, RETAINED_VISITS_MAX);
        let after = after.map(TopicName::as_str);
        let next = self.retained.matches(filter.as_str(), after, &mut visits, |_, kept| {
            if kept.message.is_expired(self.time) {
                return ControlFlow::Continue(());
            }
            into.push(kept.message.clone());
            found += 1;
            if found < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        next.cloned()
    }
}
