//! What a large session leaves when it ends, cleared in steps.
//! Always true: the session is gone at once, for every command and every reader: its client identifier is free, it gets no
//! message, shared groups have gone on without it, what it drops is counted. Only the room that its subscriptions and
//! entries take is given back later. So nothing that is left is part of the state: it may differ between nodes, and a node
//! that starts has none.
use super::{DropReason, connect::SessionHandler, effects::Effects, sessions::SessionPlace};

impl SessionHandler<'_> {
    /// Whether what the session has is too much for what this entry may still do.
    pub(super) fn is_large(&mut self, place: SessionPlace) -> bool {
        let session = self.session(place);
        let size = session.subscriptions().len() + session.queue().len();
        size > self.steps().left().max(self.steps().little())
    }

    /// Ends a session that is large.
    pub(super) fn lay_aside(&mut self, place: SessionPlace, out: &mut Effects<'_>) {
        let session = self.session(place);
        let size = session.subscriptions().len() + session.queue().len();
        if session.shared() > 0 {
            let shared = session.subscriptions().keys().filter(|filter| filter.share_name().is_some());
            for filter in shared.cloned().collect::<Vec<_>>() {
                self.subscriptions().remove(place, &filter);
            }
        }
        // Looking at it all is much cheaper than removing it.
        self.steps().take(size / 32);
        self.subscriptions().forget_replays(place);
        let moving = self.queues().take_out(place, |entry, _| entry.group().is_some());
        self.delivery().give_to_group(place, moving, out);
        let queue = self.session(place).queue();
        let dropped = queue.iter_from(0).filter(|entry| entry.held().is_some()).count();
        self.queues().note_dropped(place, DropReason::SessionEnded, dropped as u32, out);
        self.queues().forget_sweep(place);
        self.lives().forget_waits(place);
        self.queues().lay_session_aside(place);
        self.routing().note_all_changed();
    }

    /// An entry of the log was applied, and this costs it little.
    pub(super) fn clear_some_remains(&mut self) {
        let little = self.steps().little();
        self.clear_remains(little);
    }

    pub(super) fn clear_remains(&mut self, units: usize) {
        for _ in 0..units {
            if !self.queues().sessions().has_aside() {
                return;
            }
            if !self.routing().clear_one_aside() && !self.queues().clear_one_aside() {
                self.queues().remove_aside();
                // Nothing is found any more where something might have been.
                self.routing().note_all_changed();
            }
        }
    }
}
