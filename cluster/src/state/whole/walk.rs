//! Walks over all sessions, for reports: in steps, so that nobody waits long for the state.
//! Always true: a step looks at no more than [`WALK_VISITS`] places and subscriptions; a session that is there all the
//! time is visited once; one that comes or goes meanwhile, or comes back, may be.
use super::State;
use crate::state::{Session, SubscriptionRecord};
use mosquorum_proto::mqtt::{TopicFilter, Utf8};
use std::ops::Bound;

/// What one step of a walk looks at.
pub const WALK_VISITS: usize = 1000;

/// Where a walk over sessions goes on.
#[derive(Debug, Default)]
pub struct SessionWalk {
    next: usize,
}

/// Where a walk over subscriptions goes on.
#[derive(Debug, Default)]
pub struct SubscriptionWalk {
    next: usize,
    /// The last one, if its session has more.
    last: Option<(Utf8, TopicFilter)>,
}

impl State {
    /// Calls `f` for the next sessions, in no particular order. `false`: that was all.
    pub fn walk_sessions<'a>(&'a self, at: &mut SessionWalk, mut f: impl FnMut(&'a Session)) -> bool {
        let until = self.sessions.places().min(at.next + WALK_VISITS);
        while at.next < until {
            if let Some(session) = self.sessions.at(at.next) {
                f(session);
            }
            at.next += 1;
        }
        at.next < self.sessions.places()
    }

    /// Calls `f` for the next durable subscriptions, those of one session in their order. `false`: that was all.
    pub fn walk_subscriptions<'a>(
        &'a self,
        at: &mut SubscriptionWalk,
        mut f: impl FnMut(&'a Session, &'a TopicFilter, &'a SubscriptionRecord),
    ) -> bool {
        let mut visits = WALK_VISITS;
        while visits > 0 && at.next < self.sessions.places() {
            visits -= 1;
            let last = at.last.take();
            if let Some(session) = self.sessions.at(at.next) {
                let last = last.filter(|(client_id, _)| client_id == session.client_id());
                let after = last.as_ref().map_or(Bound::Unbounded, |(_, filter)| Bound::Excluded(filter));
                for (filter, record) in session.subscriptions().range::<TopicFilter, _>((after, Bound::Unbounded)) {
                    f(session, filter, record);
                    visits = visits.saturating_sub(1);
                    if visits == 0 {
                        at.last = Some((session.client_id().clone(), filter.clone()));
                        return true;
                    }
                }
            }
            at.next += 1;
        }
        at.next < self.sessions.places()
    }
}
