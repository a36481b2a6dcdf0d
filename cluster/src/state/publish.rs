//! Publishing: which durable sessions get a message, and how.
//! Always true: a message of a connection that lost its session is not taken; matching happens in log order, so a subscription acknowledged before a publish was proposed gets it; a
//! message goes to each ordinary subscription once and to at most one durable member of each shared group; the packet
//! identifier of a QoS 2 publisher and the message's queue entries come from one command.
//! Not here: live subscribers (they are served by the nodes they are connected to).
use super::{
    Effect, Live, LoopCheck, Message, Outcome, PublishCommand, Session, Whom,
    deliver::DeliveryHandler,
    effects::Effects,
    loop_ids::Seen,
    members::Member,
    messages::Place,
    queue::Extra,
    queues::QueueHandler,
    replay::{ReplayHandler, Replays},
    retained::{RetainedHandler, RetainedMessages},
    routing::RouteHandler,
    session::Options,
    sessions::SessionPlace,
    subscribe::SubscriptionHandler,
};
use crate::ids::{Epoch, NodeId};
use mosquorum_proto::mqtt::TopicFilter;
use std::sync::Arc;

/// One delivery that is to be made.
pub(super) struct Match {
    pub(super) session: SessionPlace,
    pub(super) options: Options,
    /// The shared group it comes through, or the identifiers of several merged subscriptions.
    pub(super) extra: Option<Arc<Extra>>,
}

/// The message of one command and its place once something refers to it.
pub(super) struct Publishing<'a> {
    pub(super) message: &'a Arc<Message>,
    pub(super) place: Option<Place>,
    pub(super) barred: Barred<'a>,
}

/// Sessions that may not read a message, by their epochs, ascending.
#[derive(Clone, Copy, Default)]
pub(super) struct Barred<'a>(pub(super) &'a [Epoch]);

impl Barred<'_> {
    pub(super) fn is_nobody(self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(self, session: &Session) -> bool {
        !self.0.is_empty() && self.0.binary_search(&session.epoch()).is_ok()
    }
}

/// Buffers that one publish leaves to the next.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) matches: Vec<Match>,
    pub(super) chosen: Vec<(Member, Arc<Extra>)>,
    publishes: u64,
}

impl Scratch {
    /// A number that no publish had before.
    #[inline]
    pub(super) fn next_publish(&mut self) -> u64 {
        self.publishes += 1;
        self.publishes
    }
}

/// Brings messages to all who get them.
pub(super) struct PublishHandler<'a> {
    delivery: DeliveryHandler<'a>,
    replays: &'a mut Replays,
    topics: &'a mut RetainedMessages,
    seen: &'a mut Seen,
    scratch: &'a mut Scratch,
}

impl<'a> PublishHandler<'a> {
    #[inline]
    pub(super) fn new(
        delivery: DeliveryHandler<'a>,
        replays: &'a mut Replays,
        topics: &'a mut RetainedMessages,
        seen: &'a mut Seen,
        scratch: &'a mut Scratch,
    ) -> Self {
        Self { delivery, replays, topics, seen, scratch }
    }

    pub(super) fn delivery(&mut self) -> &mut DeliveryHandler<'a> {
        &mut self.delivery
    }

    pub(super) fn routing(&mut self) -> &mut RouteHandler<'a> {
        self.delivery.routing()
    }

    pub(super) fn queues(&mut self) -> &mut QueueHandler<'a> {
        self.delivery.queues()
    }

    pub(super) fn retained(&mut self) -> RetainedHandler<'_> {
        self.delivery.queues().retained(self.topics)
    }

    pub(super) fn replay(&mut self) -> ReplayHandler<'_, 'a> {
        ReplayHandler::new(&mut self.delivery, self.replays, self.topics)
    }

    pub(super) fn subscriptions(&mut self) -> SubscriptionHandler<'_, 'a> {
        SubscriptionHandler::new(&mut self.delivery, self.replays, self.topics)
    }
}

impl PublishHandler<'_> {
    pub(super) fn publish(&mut self, command: &PublishCommand, out: &mut Effects<'_>) -> Outcome {
        if let Some(epoch) = command.epoch {
            let publisher_id = &command.message.publisher_id;
            let Some(place) = self.routing().owned(publisher_id, epoch) else { return Outcome::Superseded };
            if let Some(packet_id) = command.packet_id
                && !self.queues().add_inbound(place, packet_id)
            {
                return Outcome::Published { matched: 0, duplicate: true };
            }
        }
        if !self.admits(command) {
            return Outcome::KnownMark;
        }
        let barred = Barred(command.whom.unreadable());
        let mut publishing = Publishing { message: &command.message, place: None, barred };
        let matched = match &command.whom {
            Whom::Group { group, .. } => u32::from(self.delivery.deliver_to_group(&mut publishing, group, out)),
            Whom::All | Whom::Readers { .. } => self.deliver(&mut publishing, &command.groups_served, out),
        };
        if let Live::AtApply { groups } = &command.live {
            let here = |(_, node): &&(TopicFilter, NodeId)| out.are_for(*node);
            let groups = groups.iter().filter(here).map(|(group, _)| group.clone()).collect();
            out.add(Effect::DeliverLive { message: command.message.clone(), groups });
        }
        Outcome::Published { matched, duplicate: false }
    }

    fn admits(&mut self, command: &PublishCommand) -> bool {
        match (command.admit, command.message.mark.as_deref()) {
            (LoopCheck::Never, _) => false,
            (LoopCheck::FirstOfMark, Some(mark)) => self.seen.insert(*mark),
            _ => true,
        }
    }

    /// Delivers to everybody who matches and keeps the message if it is retained. Returns how many deliveries matched.
    pub(super) fn deliver(
        &mut self,
        publishing: &mut Publishing<'_>,
        served: &[TopicFilter],
        out: &mut Effects<'_>,
    ) -> u32 {
        if !self.replays.is_empty() {
            self.replay().before(publishing.message, out);
        }
        let Self { delivery, scratch, .. } = self;
        delivery.routing().find(publishing, served, scratch);
        delivery.pass_over_lost(&mut scratch.chosen, publishing.barred);
        let matched = (scratch.matches.len() + scratch.chosen.len()) as u32;
        for found in scratch.matches.drain(..) {
            delivery.deliver_to(publishing, found, out);
        }
        for (member, mark) in scratch.chosen.drain(..) {
            let found = Match { session: member.session, options: member.options, extra: Some(mark) };
            delivery.deliver_to(publishing, found, out);
        }
        if publishing.message.retain {
            self.retained().retain(publishing);
        }
        matched
    }
}
