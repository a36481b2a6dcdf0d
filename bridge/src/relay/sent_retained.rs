//! What was sent to the remote of the retained messages whose changes do not wait for it while it is away: those of
//! QoS 0 topics, and all of a bridge whose local session ends with the connection.
//! Always true: what is noted as sent has reached the remote, which is sure only once it has answered something that was
//! sent later; a topic about which that is not sure is sent again. What the remote itself sent counts only as far as it
//! is kept here: a message may be lost or refused on its last steps, and that must not look as if it had been deleted here.
//! Bounded: beyond [`TOPICS_MAX`] nothing is known, and the next connection sends everything.
use mosquorum_proto::mqtt::TopicName;
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    ops::Bound::{Excluded, Unbounded},
};

const TOPICS_MAX: usize = 65_536;

/// Outlives the connections of a bridge on one node. Topics are those of this side.
#[derive(Debug, Default)]
pub struct SentRetained {
    /// Whether all that was sent to the remote is in here.
    known: bool,
    /// `None`: not sure.
    values: BTreeMap<TopicName, Option<u64>>,
    /// Sent since the last PINGREQ.
    unsure: BTreeSet<TopicName>,
    /// Sent before a PINGREQ that has no answer yet.
    unanswered: BTreeSet<TopicName>,
    /// What the remote sent last and of which it is not known whether it is kept here, each with what was noted before.
    received: BTreeMap<TopicName, Received>,
}

#[derive(Debug)]
struct Received {
    value: u64,
    before: Option<Option<u64>>,
}

impl SentRetained {
    /// Whether differences mean something; otherwise everything is sent.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// Everything that is sent is noted from now on.
    pub(super) fn begin(&mut self) {
        if !std::mem::replace(&mut self.known, true) {
            self.values.clear();
            self.received.clear();
        }
    }

    /// Whether a retained message is news to the remote.
    #[must_use]
    pub fn is_news(&self, topic: &TopicName, payload: &[u8]) -> bool {
        self.values.get(topic).is_none_or(|value| *value != Some(hash(payload)))
    }

    /// At most `limit` topics of which the remote has, or may have, a value, beginning after `after`.
    #[must_use]
    pub fn topics(&self, after: Option<&TopicName>, limit: usize) -> Vec<TopicName> {
        page(&self.values, after, limit)
    }

    pub(super) fn note_sent(&mut self, topic: &TopicName, payload: &[u8]) {
        self.received.remove(topic);
        self.put(topic, payload);
        self.unsure.insert(topic.detached());
    }

    /// The remote itself has sent it; [`Self::confirm`] must follow.
    pub(super) fn note_received(&mut self, topic: &TopicName, payload: &[u8]) {
        let before = self.values.get(topic).copied();
        if payload.is_empty() {
            self.values.remove(topic);
        } else {
            self.put(topic, payload);
        }
        let value = hash(payload);
        if let Some(received) = self.received.get_mut(topic) {
            received.value = value;
        } else if self.received.len() < TOPICS_MAX {
            self.received.insert(topic.detached(), Received { value, before });
        } else {
            self.known = false;
        }
    }

    /// At most `limit` topics that the remote has sent something about, beginning after `after`.
    #[must_use]
    pub fn unconfirmed(&self, after: Option<&TopicName>, limit: usize) -> Vec<TopicName> {
        page(&self.received, after, limit)
    }

    /// What is retained here on a topic that the remote has sent something about. With `last`, what is not what it sent
    /// was lost on the way: what was noted before holds again.
    pub fn confirm(&mut self, topic: &TopicName, payload: Option<&[u8]>, last: bool) {
        let kept = self.received.get(topic).is_none_or(|received| received.value == hash(payload.unwrap_or_default()));
        if !(kept || last) {
            return;
        }
        if let Some(received) = self.received.remove(topic)
            && !kept
        {
            match received.before {
                Some(value) => _ = self.values.insert(topic.detached(), value),
                None => _ = self.values.remove(topic),
            }
        }
    }

    fn put(&mut self, topic: &TopicName, payload: &[u8]) {
        // A value that is removed stays noted until that is sure.
        let value = Some(hash(payload));
        if let Some(known) = self.values.get_mut(topic) {
            *known = value;
        } else if self.values.len() < TOPICS_MAX {
            self.values.insert(topic.detached(), value);
        } else {
            self.known = false;
        }
    }

    #[must_use]
    pub(super) fn is_unsure(&self) -> bool {
        !self.unsure.is_empty()
    }

    /// Something is sent that the remote answers.
    pub(super) fn ask(&mut self) {
        self.unanswered.append(&mut self.unsure);
    }

    /// The answer came.
    pub(super) fn answered(&mut self) {
        let removed = hash(&[]);
        for topic in std::mem::take(&mut self.unanswered) {
            if !self.unsure.contains(&topic) && self.values.get(&topic) == Some(&Some(removed)) {
                self.values.remove(&topic);
            }
        }
    }

    /// The connection is over.
    pub fn interrupted(&mut self) {
        self.ask();
        for topic in std::mem::take(&mut self.unanswered) {
            if let Some(value) = self.values.get_mut(&topic) {
                *value = None;
            }
        }
    }
}

fn page<V>(topics: &BTreeMap<TopicName, V>, after: Option<&TopicName>, limit: usize) -> Vec<TopicName> {
    let from = after.map_or(Unbounded, Excluded);
    topics.range::<TopicName, _>((from, Unbounded)).take(limit).map(|(topic, _)| topic.clone()).collect()
}

fn hash(payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    payload.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mosquorum_proto::mqtt::Utf8;

    fn name(text: &str) -> TopicName {
        TopicName::new(Utf8::from(text)).unwrap()
    }

    #[test]
    fn what_was_answered_counts_as_sent_and_the_rest_is_sent_again() {
        let mut sent = SentRetained::default();
        sent.begin();
        sent.note_sent(&name("a"), b"1");
        sent.ask();
        sent.note_sent(&name("b"), b"1");
        sent.answered();
        sent.interrupted();
        assert!(!sent.is_news(&name("a"), b"1") && sent.is_news(&name("a"), b"2"));
        assert!(sent.is_news(&name("b"), b"1") && sent.is_news(&name("c"), b"1"));
        assert_eq!(sent.topics(None, 9), [name("a"), name("b")]);
        assert_eq!(sent.topics(Some(&name("a")), 9), [name("b")]);
    }

    #[test]
    fn a_removed_value_is_forgotten_once_the_remote_knows() {
        let mut sent = SentRetained::default();
        sent.begin();
        sent.note_received(&name("a"), b"1");
        sent.confirm(&name("a"), Some(b"1"), false);
        sent.note_sent(&name("a"), b"");
        assert_eq!(sent.topics(None, 9).len(), 1);
        sent.ask();
        sent.answered();
        assert!(sent.topics(None, 9).is_empty());
    }

    #[test]
    fn what_the_remote_sent_counts_only_if_it_is_kept_here() {
        let mut sent = SentRetained::default();
        sent.begin();
        for topic in ["kept", "late", "lost", "older"] {
            if topic == "older" {
                sent.note_sent(&name(topic), b"0");
            }
            sent.note_received(&name(topic), b"1");
        }
        assert_eq!(sent.unconfirmed(Some(&name("late")), 9), [name("lost"), name("older")]);
        sent.confirm(&name("kept"), Some(b"1"), false);
        sent.confirm(&name("late"), None, false);
        sent.confirm(&name("late"), Some(b"1"), true);
        sent.confirm(&name("lost"), None, true);
        sent.confirm(&name("older"), Some(b"0"), true);
        assert_eq!(sent.topics(None, 9), [name("kept"), name("late"), name("older")]);
        assert!(!sent.is_news(&name("older"), b"0"), "nothing has changed here since it was sent");
        assert!(sent.unconfirmed(None, 9).is_empty());
    }

    #[test]
    fn what_the_remote_removed_is_not_noted_any_more() {
        let mut sent = SentRetained::default();
        sent.begin();
        sent.note_received(&name("a"), b"1");
        sent.confirm(&name("a"), Some(b"1"), false);
        sent.note_received(&name("a"), b"");
        sent.confirm(&name("a"), None, true);
        assert!(sent.topics(None, 9).is_empty());
    }

    #[test]
    fn beyond_the_bound_nothing_is_known() {
        let mut sent = SentRetained::default();
        sent.begin();
        for number in 0..=TOPICS_MAX {
            sent.note_received(&name(&number.to_string()), b"1");
        }
        assert!(!sent.is_known() && sent.values.len() == TOPICS_MAX);
        sent.begin();
        assert!(sent.values.is_empty());
    }
}
