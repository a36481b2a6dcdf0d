//! One message on its way to one session: into its queue, to its connection, or to a member of a shared group.
//! Always true: a delivery finds the session as it would be if all lost connections had been seen to; a message goes to at
//! most one durable member of each shared group.
//! Not here: who gets it (`routing`), what the topic keeps (`retained`).
use super::{
    DropReason, Effect,
    effects::Effects,
    members::Member,
    publish::{Barred, Match, Publishing},
    queue::{Extra, Removed},
    queues::QueueHandler,
    routing::RouteHandler,
    sessions::SessionPlace,
    steps::Steps,
};
use mosquorum_proto::mqtt::{QoS, TopicFilter};
use std::{collections::BTreeSet, num::NonZeroU32, sync::Arc};

/// Brings messages to sessions.
pub(super) struct DeliveryHandler<'a> {
    routing: RouteHandler<'a>,
    steps: &'a mut Steps,
}

impl<'a> DeliveryHandler<'a> {
    #[inline]
    pub(super) fn new(routing: RouteHandler<'a>, steps: &'a mut Steps) -> Self {
        Self { routing, steps }
    }

    #[inline]
    pub(super) fn routing(&mut self) -> &mut RouteHandler<'a> {
        &mut self.routing
    }

    #[inline]
    pub(super) fn queues(&mut self) -> &mut QueueHandler<'a> {
        self.routing.queues()
    }

    pub(super) fn steps(&mut self) -> &mut Steps {
        self.steps
    }

    /// To one session, as its subscription wants it.
    pub(super) fn deliver_to(&mut self, publishing: &mut Publishing<'_>, found: Match, out: &mut Effects<'_>) {
        let message = publishing.message;
        let Match { session: place, options, extra } = found;
        self.routing.detach_lost(place);
        let session = self.routing.session(place);
        let limits = session.limits();
        let qos = if limits.upgrade_qos { options.qos } else { options.qos.min(message.qos) };
        let retain = options.retain_as_published && message.retain;
        let identifier = options.identifier.map_or(0, NonZeroU32::get);
        if qos == QoS::AtMostOnce {
            match session.owner() {
                Some(owner) => {
                    if out.are_for(owner.node) {
                        let subscription = delivery_options(qos, retain, identifier, extra.as_deref());
                        out.add(Effect::DeliverNow { owner, message: message.clone(), subscription });
                    }
                    return;
                }
                None if !limits.queue_qos0 => return,
                None => {}
            }
        }
        if let Some(reason) = session.queue().refuses(limits) {
            self.queues().note_dropped(place, reason, 1, out);
            return;
        }
        self.queues().enqueue(publishing, place, (qos, retain, identifier, extra), out);
    }
}

/// Shared groups.
impl DeliveryHandler<'_> {
    /// `false` if the group has no durable member that may read it.
    pub(super) fn deliver_to_group(
        &mut self,
        publishing: &mut Publishing<'_>,
        group: &TopicFilter,
        out: &mut Effects<'_>,
    ) -> bool {
        let barred = publishing.barred;
        let Some((member, mark)) = self.routing.choose_of(group, barred) else { return false };
        let member = self.member_here(member, group, barred, &mut BTreeSet::new());
        let found = Match { session: member.session, options: member.options, extra: Some(mark) };
        self.deliver_to(publishing, found, out);
        true
    }

    /// Of shared groups, members that were chosen are replaced while their node is gone and others are there.
    pub(super) fn pass_over_lost(&mut self, chosen: &mut [(Member, Arc<Extra>)], barred: Barred<'_>) {
        if !self.routing.any_lost() {
            return;
        }
        // One may have been chosen by several groups: whoever comes first has it leave its connection.
        let mut left = BTreeSet::new();
        for (member, extra) in chosen {
            if let Some(group) = extra.group.clone() {
                *member = self.member_here(*member, &group, barred, &mut left);
            }
        }
    }

    /// As [`DeliveryHandler::pass_over_lost`], for one group and at most [`Steps::little`] members. Notes who has `left`.
    fn member_here(
        &mut self,
        mut member: Member,
        group: &TopicFilter,
        barred: Barred<'_>,
        left: &mut BTreeSet<SessionPlace>,
    ) -> Member {
        for _ in 0..self.steps.little().max(1) {
            if self.routing.detach_lost(member.session) {
                left.insert(member.session);
            }
            if !left.contains(&member.session) || self.routing.session(member.session).takes_turns() {
                break;
            }
            self.steps.take(1);
            let Some((next, _)) = self.routing.choose_of(group, barred) else { break };
            member = next;
        }
        member
    }

    /// Hands entries that left a session's queue to other members of their groups, where the standard allows it
    /// [MQTT-4.8.2-5], and counts the others as dropped. Durable members come first: their queues survive every failure.
    pub(super) fn give_to_group(&mut self, place: SessionPlace, removed: Vec<Removed>, out: &mut Effects<'_>) {
        if !removed.is_empty() {
            self.queues().note_changed(place);
        }
        let mut dropped = 0;
        for Removed { entry, maybe_sent } in removed {
            let Some(held) = entry.held() else { continue };
            let may_move = entry.qos() == QoS::AtLeastOnce || (entry.qos() == QoS::ExactlyOnce && !maybe_sent);
            match (entry.group().filter(|_| may_move), entry.message()) {
                (Some(group), Some(message)) => {
                    let mut publishing = Publishing { message, place: Some(held.place), barred: Barred::default() };
                    if !self.deliver_to_group(&mut publishing, group, out) {
                        out.choose_again(message, group);
                    }
                }
                _ => dropped += 1,
            }
            self.queues().release(held);
        }
        self.queues().note_dropped(place, DropReason::SessionEnded, dropped, out);
    }
}

fn delivery_options(qos: QoS, retain: bool, identifier: u32, extra: Option<&Extra>) -> super::DeliveryOptions {
    let identifiers = match extra {
        Some(extra) if !extra.identifiers.is_empty() => extra.identifiers.clone(),
        _ => (identifier != 0).then_some(identifier).into_iter().collect(),
    };
    super::DeliveryOptions { qos, retain, identifiers }
}
