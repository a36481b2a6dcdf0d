//! Sessions whose connection's node is gone. All connections of an incarnation end with one entry of the log; what follows
//! from that for each session is seen to in steps.
//! Always true: from that entry on such a session counts as without a connection, whoever looks at it; intervals count
//! from that entry's time; wills are published in the order in which the connections were made. A session that a message
//! reaches before its turn leaves its connection then, so that what its queue notes is what it would have noted at once;
//! its will and its end wait for its turn (`unsettled`): they may reach others, who would bring up theirs in between.
//! A connection of the same client, and an operator's word about it, see to it first.
//! Not here: which connections are over (`connections`), leaving one (`routing`).
use super::{connect::SessionHandler, effects::Effects, sessions::SessionPlace};
use crate::ids::{Incarnation, NodeId};

impl SessionHandler<'_> {
    /// The node's incarnations up to this one are over.
    pub(super) fn lose(&mut self, node: NodeId, upto: Incarnation, out: &mut Effects<'_>) {
        self.routing().lose(node, upto);
        self.go_on_with_lost(out);
    }

    /// One step of seeing to lost sessions.
    pub(super) fn go_on_with_lost(&mut self, out: &mut Effects<'_>) {
        while self.steps().left() > 0
            && let Some(place) = self.routing().next_lost()
        {
            // What its queue is to it is found out anew.
            let work = 1 + self.session(place).queue().len() / 64;
            self.steps().take(work);
            self.see_to_lost(place, out);
        }
    }

    /// The session is seen to now, if it has lost its connection with its node. It may end.
    pub(super) fn see_to_lost(&mut self, place: SessionPlace, out: &mut Effects<'_>) {
        self.routing().detach_lost(place);
        if self.routing().take_unsettled(place) {
            self.settle(place, &[], out);
        }
    }
}
