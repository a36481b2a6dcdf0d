//! The promises as functions of a history, one file per invariant.
//! Always true: pure; an operation without an answer may or may not have happened, and no checker holds either against
//! the broker.
use crate::history::History;
use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

pub mod availability;
pub mod costs;
pub mod delivered_as_published;
pub mod exactly_once;
pub mod expiry;
pub mod live_delivery;
pub mod no_acknowledged_message_lost;
pub mod one_owner;
pub mod order;
pub mod pauses;
pub mod reach;
pub mod retained;
pub mod retained_order;
pub mod session_kept;
#[cfg(test)]
mod story;
pub mod superseded_writes;
pub mod view;
pub mod wills;

pub use view::{ConnectionView, Delivery, FaultView, MessageView, Position, SubscriptionView, View};

/// A promise that the history shows to be broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The checker's name.
    pub invariant: &'static str,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

type Check = fn(&View) -> Vec<Violation>;

/// Every checker with its name.
pub const CHECKS: [(&str, Check); 14] = [
    (no_acknowledged_message_lost::NAME, no_acknowledged_message_lost::check),
    (session_kept::NAME, session_kept::check),
    (delivered_as_published::NAME, delivered_as_published::check),
    (exactly_once::NAME, exactly_once::check),
    (order::NAME, order::check),
    (retained::NAME, retained::check),
    (retained_order::NAME, retained_order::check),
    (live_delivery::NAME, live_delivery::check),
    (one_owner::NAME, one_owner::check),
    (superseded_writes::NAME, superseded_writes::check),
    (wills::NAME, wills::check),
    (expiry::NAME, expiry::check),
    (availability::NAME, availability::check),
    (costs::NAME, costs::check),
];

/// Runs every checker.
#[must_use]
pub fn check_all(history: &History) -> Vec<Violation> {
    check_all_within(history, view::SERVE_AGAIN_DEFAULT)
}

/// Runs every checker; `serve_again_max`: how long a node may take to serve again after a fault began or ended.
#[must_use]
pub fn check_all_within(history: &History, serve_again_max: Duration) -> Vec<Violation> {
    let mut view = View::new(history);
    view.serve_again_max = serve_again_max;
    CHECKS.iter().flat_map(|(_, check)| check(&view)).collect()
}

/// What is still to come before the run can be judged: messages, wills and live messages that are owed and not here, and
/// publishes without an answer on open connections. A runner waits until nothing is left.
#[must_use]
pub fn outstanding(history: &History) -> Vec<String> {
    let view = View::new(history);
    let mut owed = no_acknowledged_message_lost::check(&view);
    owed.extend(wills::missing(&view));
    owed.extend(live_delivery::check(&view));
    let mut texts: Vec<String> = owed.iter().map(ToString::to_string).collect();
    texts.extend(unanswered(&view));
    texts.extend(last_retained_unanswered(&view));
    texts
}

/// A publisher of retained messages ends with one that has its answer: what is retained is then known. One without an
/// answer as its last is still at it, even between two connections.
fn last_retained_unanswered(view: &View) -> Vec<String> {
    let mut last: HashMap<(u32, &Arc<str>), (&MessageView, Position)> = HashMap::new();
    for (id, message) in view.messages.iter().filter(|(_, message)| message.retain && !message.will) {
        let Some((sent, _)) = message.sends.first() else { continue };
        let entry = last.entry((id.publisher, &message.topic)).or_insert((message, *sent));
        if *sent > entry.1 {
            *entry = (message, *sent);
        }
    }
    let waits = |message: &MessageView| message.acknowledged.is_none() && message.refused.is_none();
    let waiting = last.into_iter().filter(|(_, (message, _))| waits(message));
    waiting.map(|((publisher, topic), _)| format!("the last of p{publisher} on {topic} has no answer")).collect()
}

fn unanswered(view: &View) -> Vec<String> {
    let open =
        |number| view.connections.get(&number).is_some_and(|connection: &ConnectionView| connection.closed.is_none());
    let waits = |message: &MessageView| {
        !message.will
            && message.acknowledged.is_none()
            && message.refused.is_none()
            && message.sends.last().is_some_and(|(_, number)| open(*number))
    };
    let unanswered = view.messages.iter().filter(|(_, message)| waits(message));
    unanswered.map(|(id, message)| format!("{id} on {} has no answer", message.topic)).collect()
}
