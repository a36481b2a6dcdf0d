//! Promise 5: retained messages are one ordered map, last committed wins. With operations as intervals of real time, a
//! reader that subscribes to a topic
//! 1. never gets a value that was not sent yet,
//! 2. never gets a value that was certainly replaced before it subscribed: one acknowledged before another publish was
//!    sent which itself was acknowledged before the SUBSCRIBE,
//! 3. never finds nothing once any value was acknowledged,
//! 4. never goes back: a read that begins after another one ended does not get a value that was certainly replaced by
//!    what that one got,
//! 5. gets what every other reader gets, once publishing has ended and everything is drained.
//!
//! Not here: live messages after the subscription (`live_delivery`, `retained_order`).
use super::{MessageView, Position, View, Violation};
use crate::history::{Event, MessageId};
use std::{collections::BTreeMap, sync::Arc};

pub const NAME: &str = "retained";

/// One answer to "what is retained here?".
#[derive(Debug)]
pub(super) struct Read {
    pub(super) began: Position,
    pub(super) ended: Position,
    pub(super) value: Option<MessageId>,
    pub(super) reader: String,
}

#[must_use]
pub fn check(view: &View) -> Vec<Violation> {
    let mut writes: BTreeMap<Arc<str>, Vec<(MessageId, &MessageView)>> = BTreeMap::new();
    for (id, message) in view.messages.iter().filter(|(_, message)| message.retain) {
        writes.entry(message.topic.clone()).or_default().push((*id, message));
    }
    let mut violations = Vec::new();
    for (topic, reads) in reads(view) {
        let none = Vec::new();
        let writes = writes.get(&topic).unwrap_or(&none);
        for (index, read) in reads.iter().enumerate() {
            let mut report = |what: String| {
                violations.push(Violation {
                    invariant: NAME,
                    detail: format!("{topic}: {} at {:?}: {what}", read.reader, view.at(read.ended)),
                });
            };
            if let Some(what) = judge(view, read, writes) {
                report(what);
            }
            let gone_back = reads[..index]
                .iter()
                .filter(|earlier| earlier.ended < read.began)
                .find(|earlier| certainly_replaced_by(view, read.value, earlier.value));
            let quiet = |read: &Read| view.drained.is_some_and(|drained| read.began > drained);
            if let Some(other) =
                reads[..index].iter().find(|other| quiet(other) && quiet(read) && other.value != read.value)
            {
                report(format!("got {:?} but {} got {:?} when all was quiet", read.value, other.reader, other.value));
            }
            if let Some(earlier) = gone_back {
                report(format!(
                    "got {:?} although {} had got the newer {:?} before",
                    read.value, earlier.reader, earlier.value
                ));
            }
        }
    }
    violations
}

/// All reads of each topic in the order in which they ended.
pub(super) fn reads(view: &View) -> BTreeMap<Arc<str>, Vec<Read>> {
    let mut reads: BTreeMap<Arc<str>, Vec<Read>> = BTreeMap::new();
    for (position, record) in view.records.iter().enumerate() {
        let Event::RetainedRead { connection, topic, value } = &record.event else {
            continue;
        };
        let subscription = view.subscriptions.iter().find(|s| s.connection == *connection && s.filter == *topic);
        if let Some(subscription) = subscription {
            let read = Read {
                began: subscription.invoked,
                ended: position,
                value: *value,
                reader: format!("{} ({connection})", subscription.client),
            };
            reads.entry(topic.clone()).or_default().push(read);
        }
    }
    reads
}

fn judge(view: &View, read: &Read, writes: &[(MessageId, &MessageView)]) -> Option<String> {
    let acknowledged_before = |message: &MessageView| message.acknowledged.is_some_and(|at| at < read.began);
    let Some(value) = read.value else {
        let missed = writes.iter().find(|(_, message)| acknowledged_before(message));
        return missed.map(|(id, _)| format!("got nothing although {id} was acknowledged before"));
    };
    let Some(message) = view.messages.get(&value) else {
        return Some(format!("got {value}, which nobody sent"));
    };
    if message.sends.first().is_none_or(|(sent, _)| *sent > read.ended) {
        return Some(format!("got {value} before it was sent"));
    }
    let newer = writes
        .iter()
        .find(|(id, message)| acknowledged_before(message) && certainly_replaced_by(view, Some(value), Some(*id)));
    newer.map(|(id, _)| format!("got {value} although {id} had replaced it before"))
}

/// Whether `old` was acknowledged before `new` was first sent, and never sent again after that.
fn certainly_replaced_by(view: &View, old: Option<MessageId>, new: Option<MessageId>) -> bool {
    let (Some(old), Some(new)) = (old.and_then(|id| view.messages.get(&id)), new.and_then(|id| view.messages.get(&id)))
    else {
        return false;
    };
    let Some((new_sent, _)) = new.sends.first() else {
        return false;
    };
    old.acknowledged.is_some_and(|at| at < *new_sent) && old.sends.iter().all(|(sent, _)| sent < new_sent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::story::{Story, id};

    fn read(story: &mut Story, client: &str, value: Option<u64>) {
        story.clean(client, 1).subscribed(client, "r", 1);
        finish(story, client, value);
    }

    fn finish(story: &mut Story, client: &str, value: Option<u64>) {
        let connection = story.on(client);
        story.event(Event::RetainedRead { connection, topic: "r".into(), value: value.map(id) });
    }

    #[test]
    fn the_last_acknowledged_value_is_right() {
        let mut story = Story::new(3);
        story.send("p", 1, "r", 1, true).acknowledged("p", 1).send("p", 2, "r", 1, true).acknowledged("p", 2);
        read(&mut story, "a", Some(2));
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn a_replaced_value_is_stale() {
        let mut story = Story::new(3);
        story.send("p", 1, "r", 1, true).acknowledged("p", 1).send("p", 2, "r", 1, true).acknowledged("p", 2);
        read(&mut story, "a", Some(1));
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn concurrent_or_unknown_writes_may_win_or_not() {
        let mut story = Story::new(3);
        story
            .send("p", 1, "r", 1, true)
            .send("q", 2, "r", 1, true)
            .acknowledged("p", 1)
            .acknowledged("q", 2)
            .send("p", 3, "r", 1, true);
        for (client, value) in [("a", 1), ("b", 3)] {
            read(&mut story, client, Some(value));
        }
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn nothing_is_wrong_once_a_value_was_acknowledged() {
        let mut story = Story::new(3);
        read(&mut story, "a", None);
        story.send("p", 1, "r", 1, true);
        read(&mut story, "b", None);
        assert_eq!(check(&story.view()), vec![]);
        story.acknowledged("p", 1);
        read(&mut story, "c", None);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn when_all_is_quiet_every_reader_gets_the_same() {
        let mut story = Story::new(3);
        story.send("p", 1, "r", 1, true).send("q", 2, "r", 1, true).acknowledged("p", 1).acknowledged("q", 2);
        read(&mut story, "a", Some(1));
        story.event(Event::Drained);
        read(&mut story, "b", Some(2));
        assert_eq!(check(&story.view()), vec![]);
        read(&mut story, "c", Some(1));
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn readers_never_go_back() {
        let mut story = Story::new(3);
        story.send("p", 1, "r", 1, true).acknowledged("p", 1).send("p", 2, "r", 1, true);
        read(&mut story, "a", Some(2));
        assert_eq!(check(&story.view()), vec![]);
        read(&mut story, "b", Some(1));
        assert_eq!(check(&story.view()).len(), 1);
    }
}
