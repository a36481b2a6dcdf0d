//! What a large session leaves when it ends, cleared in steps.
//! Always true: the session is gone at once, for every command and every reader: its client identifier is free, it gets no
//! message, shared groups have gone on without it, what it drops is counted. Only the room that its subscriptions and
//! entries take is given back later. So nothing that is left is part of the state: it may differ between nodes, and a node
//! that starts has none.
use super::{DropReason, Effect, SessionPlace, State, changes::Gone};

impl State {
    /// Whether what the session has is too much for what this entry may still do.
    pub(super) fn is_large(&self, place: SessionPlace) -> bool {
        let session = &self.sessions[place];
        session.subscriptions.len() + session.queue.len() > self.steps.left().max(self.steps.little())
    }

    /// Ends a session that is large.
    pub(super) fn lay_aside(&mut self, place: SessionPlace, out: &mut Vec<Effect>) {
        let session = &self.sessions[place];
        // Looking at it all is much cheaper than removing it.
        self.steps.take((session.subscriptions.len() + session.queue.len()) / 32);
        if session.shared > 0 {
            let shared = session.subscriptions.keys().filter(|filter| filter.share_name().is_some());
            for filter in shared.cloned().collect::<Vec<_>>() {
                self.remove_subscription(place, &filter);
            }
        }
        let client_id = self.sessions[place].client_id.clone();
        self.replays.forget_all(&client_id);
        let moving = self.sessions[place].queue.remove_where(|entry, _| entry.group().is_some());
        self.give_to_group(place, moving, out);
        let dropped = self.sessions[place].queue.iter_from(0).filter(|entry| entry.held().is_some()).count();
        self.note_dropped(place, DropReason::SessionEnded, dropped as u32, out);
        self.forget_sweep(place);
        self.forget_deadlines(place);
        let session = &mut self.sessions[place];
        if session.written {
            let unwritten = std::mem::take(&mut session.unwritten.filters);
            self.ended.push(Gone {
                client_id,
                whole: true,
                filters: session.subscriptions.keys().cloned().chain(unwritten).collect(),
                entries: std::mem::take(&mut session.queue.removed),
                entries_from: session.queue.written(),
            });
        }
        self.sessions.lay_aside(place);
        self.remains.push_back(place);
        self.route_changes.all_changed();
    }

    /// An entry of the log was applied, and this costs it little.
    pub(super) fn clear_some_remains(&mut self) {
        if !self.remains.is_empty() {
            self.clear_remains(self.steps.little());
        }
    }

    pub(super) fn clear_remains(&mut self, units: usize) {
        for _ in 0..units {
            let Some(place) = self.remains.front().copied() else { return };
            let session = &mut self.sessions[place];
            if let Some((filter, _)) = session.subscriptions.pop_first() {
                self.tree.remove(filter.as_str(), &place);
            } else if let Some(entry) = session.queue.take_first() {
                if let Some(held) = entry.held() {
                    self.messages.release(held);
                }
            } else {
                self.remains.pop_front();
                self.sessions.remove(place);
                // Nothing is found any more where something might have been.
                self.route_changes.all_changed();
            }
        }
    }
}
