//! The state as a whole: its parts, and what concerns all of them.
//! Always true: what a command changes, it changes through a handler, which borrows the parts of its concern and is made
//! here; a cut, loading and reading ask each part for what is its own.
//! Not here: what parts are made of, and the rules of MQTT (parts and handlers, beside this module).
mod apply;
mod changes;
mod load;
mod paging;
mod read;
#[cfg(test)]
mod tests;
mod walk;

pub use apply::{Applied, BATCH_COMMANDS_MAX};
pub use changes::Changes;
pub use paging::{Body, Evicted};
pub use read::{DurableMatch, SubscriptionOptions};
pub use walk::{SessionWalk, SubscriptionWalk, WALK_VISITS};

use super::{
    Counters, Moment, admissions::Admissions, connect::SessionHandler, connections::Connections, deadlines::Deadlines,
    deliver::DeliveryHandler, loop_ids::Seen, messages::MessageStore, nodes::Nodes, publish::PublishHandler,
    publish::Scratch, queues::QueueHandler, replay::Replays, retained::RetainedMessages, routes::Routes,
    routing::RouteHandler, serving::NodeHandler, sessions::Sessions, steps::Steps,
};
use crate::ids::NodeId;
use std::fmt;

/// The state itself; see the description of [`crate::state`].
#[derive(Default)]
pub struct State {
    now: Moment,
    nodes: Nodes,
    sessions: Sessions,
    connections: Connections,
    retained: RetainedMessages,
    replays: Replays,
    messages: MessageStore,
    counters: Counters,
    seen: Seen,
    admissions: Admissions,

    // Derived from the above.
    routes: Routes,
    deadlines: Deadlines,

    // Settings and buffers of this node.
    in_memory: bool,
    effects_for: Option<NodeId>,
    steps: Steps,
    scratch: Scratch,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let applied = &self.now.index;
        f.debug_struct("State").field("applied", applied).field("totals", &self.totals()).finish_non_exhaustive()
    }
}

/// Who borrows what.
impl State {
    #[inline]
    fn queue_handler(&mut self) -> QueueHandler<'_> {
        let Self { sessions, messages, deadlines, counters, now, .. } = self;
        QueueHandler::new(sessions, messages, deadlines, counters, *now)
    }

    /// What nearly all others are made of, and the nodes, which stand beside all that it borrows.
    #[inline]
    fn publish_handler_beside_nodes(&mut self) -> (PublishHandler<'_>, &mut Nodes) {
        let Self { sessions, messages, deadlines, counters, now, connections, routes, steps, .. } = self;
        let queues = QueueHandler::new(sessions, messages, deadlines, counters, *now);
        let delivery = DeliveryHandler::new(RouteHandler::new(queues, connections, routes), steps);
        let publishing =
            PublishHandler::new(delivery, &mut self.replays, &mut self.retained, &mut self.seen, &mut self.scratch);
        (publishing, &mut self.nodes)
    }

    #[inline]
    fn publish_handler(&mut self) -> PublishHandler<'_> {
        self.publish_handler_beside_nodes().0
    }

    fn session_handler(&mut self) -> SessionHandler<'_> {
        SessionHandler::new(self.publish_handler())
    }

    fn node_handler(&mut self) -> NodeHandler<'_> {
        let (publishing, nodes) = self.publish_handler_beside_nodes();
        NodeHandler::new(nodes, SessionHandler::new(publishing))
    }
}
