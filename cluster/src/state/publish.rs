//! Publishing: which durable sessions get a message, and how.
//! Always true: a message of a connection that lost its session is not taken; matching happens in log order, so a subscription acknowledged before a publish was proposed gets it; a
//! message goes to each ordinary subscription once and to at most one durable member of each shared group; the packet
//! identifier of a QoS 2 publisher and the message's queue entries come from one command.
//! Not here: live subscribers (they are served by the nodes they are connected to).
use super::{
    DropReason, Effect, Live, LoopCheck, Message, Outcome, PublishCommand, SessionPlace, State, Whom,
    messages::{Held, Place},
    queue::{Extra, NewBody, NewEntry, expiry_of},
    session::{Options, Sessions},
};
use crate::ids::{Epoch, NodeId};
use mosquorum_proto::mqtt::{QoS, TopicFilter};
use std::{collections::BTreeSet, num::NonZeroU32, sync::Arc};

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

    pub(super) fn has(self, sessions: &Sessions, place: SessionPlace) -> bool {
        !self.0.is_empty() && self.0.binary_search(&sessions[place].epoch).is_ok()
    }
}

impl State {
    pub(super) fn publish(&mut self, command: &PublishCommand, out: &mut Vec<Effect>) -> Outcome {
        if let Some(epoch) = command.epoch {
            let Some(place) = self.owned(&command.message.publisher_id, epoch) else { return Outcome::Superseded };
            if let Some(packet_id) = command.packet_id {
                if !self.sessions[place].add_inbound(packet_id) {
                    return Outcome::Published { matched: 0, duplicate: true };
                }
                self.unwritten(place).inbound = true;
            }
        }
        if !self.admits(command) {
            return Outcome::KnownMark;
        }
        let barred = Barred(command.whom.unreadable());
        let mut publishing = Publishing { message: &command.message, place: None, barred };
        let matched = match &command.whom {
            Whom::Group { group, .. } => u32::from(self.deliver_to_group(&mut publishing, group, out)),
            Whom::All | Whom::Readers { .. } => self.deliver(&mut publishing, &command.groups_served, out),
        };
        if let Live::AtApply { groups } = &command.live {
            let here = |node: &NodeId| self.effects_for.is_none_or(|this| this == *node);
            let groups = groups.iter().filter(|(_, node)| here(node)).map(|(group, _)| group.clone()).collect();
            out.push(Effect::DeliverLive { message: command.message.clone(), groups });
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
        out: &mut Vec<Effect>,
    ) -> u32 {
        self.replay_before(publishing.message, out);
        let mut matches = std::mem::take(&mut self.matches);
        self.find_matches(publishing, served, &mut matches);
        let matched = matches.len() as u32;
        for found in matches.drain(..) {
            self.deliver_to(publishing, found, out);
        }
        self.matches = matches;
        if publishing.message.retain {
            self.retain(publishing);
        }
        matched
    }

    fn find_matches(&mut self, publishing: &Publishing<'_>, served: &[TopicFilter], matches: &mut Vec<Match>) {
        let Publishing { message, barred, .. } = *publishing;
        self.publishes += 1;
        let (publish, topic) = (self.publishes, message.topic.as_str());
        let Self { tree, sessions, groups, chosen, remains, .. } = self;
        let none_ended = remains.is_empty();
        tree.matches(topic, |place, options| {
            if !none_ended && sessions[*place].ended {
                return;
            }
            if options.no_local && sessions[*place].client_id == message.publisher_id {
                return;
            }
            if barred.has(sessions, *place) {
                return;
            }
            if sessions[*place].limits.merge_overlapping {
                let session = &mut sessions[*place];
                if session.matched.0 == publish {
                    merge(&mut matches[session.matched.1], options);
                    return;
                }
                session.matched = (publish, matches.len());
            }
            matches.push(Match { session: *place, options: *options, extra: None });
        });
        groups.choose(topic, served, (barred, sessions), chosen);
        self.pass_over_lost(barred);
        let shared = |(member, extra): (super::members::Member, _)| Match {
            session: member.session,
            options: member.options,
            extra: Some(extra),
        };
        matches.extend(self.chosen.drain(..).map(shared));
    }

    /// `false` if the group has no durable member that may read it.
    pub(super) fn deliver_to_group(
        &mut self,
        publishing: &mut Publishing<'_>,
        group: &TopicFilter,
        out: &mut Vec<Effect>,
    ) -> bool {
        let barred = publishing.barred;
        let chosen = self.groups.choose_of(group, (barred, &self.sessions));
        let Some((member, mark)) = chosen else { return false };
        let member = self.member_here(member, group, barred, &mut BTreeSet::new());
        let found = Match { session: member.session, options: member.options, extra: Some(mark) };
        self.deliver_to(publishing, found, out);
        true
    }

    fn deliver_to(&mut self, publishing: &mut Publishing<'_>, found: Match, out: &mut Vec<Effect>) {
        let message = publishing.message;
        let Match { session: place, options, extra } = found;
        self.detach_lost(place);
        let session = &self.sessions[place];
        let qos = if session.limits.upgrade_qos { options.qos } else { options.qos.min(message.qos) };
        let retain = options.retain_as_published && message.retain;
        let identifier = options.identifier.map_or(0, NonZeroU32::get);
        if qos == QoS::AtMostOnce {
            match session.owner {
                Some(owner) => {
                    if self.effects_for.is_none_or(|node| node == owner.node) {
                        let subscription = delivery_options(qos, retain, identifier, extra.as_deref());
                        out.push(Effect::DeliverNow { owner, message: message.clone(), subscription });
                    }
                    return;
                }
                None if !session.limits.queue_qos0 => return,
                None => {}
            }
        }
        if let Some(reason) = session.queue.refuses(&session.limits) {
            self.note_dropped(place, reason, 1, out);
            return;
        }
        self.enqueue(publishing, place, (qos, retain, identifier, extra), out);
    }

    /// Adds to the queue without looking at its limits.
    pub(super) fn enqueue(
        &mut self,
        publishing: &mut Publishing<'_>,
        session: SessionPlace,
        (qos, retain, identifier, extra): (QoS, bool, u32, Option<Arc<Extra>>),
        out: &mut Vec<Effect>,
    ) {
        let message = publishing.message;
        let place = *publishing.place.get_or_insert_with(|| self.messages.add(message));
        self.messages.refer(Held { place, here: true });
        let body = NewBody::Here(message.clone());
        self.sessions[session].queue.push(NewEntry { body, place, qos, retain, identifier, extra });
        self.unwritten(session).header = true;
        if let Some(at) = expiry_of(publishing.message) {
            self.sweep_by(session, at);
        }
        let (applied, session) = (self.applied, &mut self.sessions[session]);
        if let Some(owner) = session.owner
            && std::mem::replace(&mut session.grew_at, applied) != applied
        {
            self.add_effect(Effect::QueueGrew { owner }, out);
        }
    }

    /// Counts messages that were not queued or removed, and tells the owner's node.
    pub(super) fn note_dropped(&mut self, place: SessionPlace, reason: DropReason, count: u32, out: &mut Vec<Effect>) {
        if count > 0 {
            self.counters.add_dropped(reason, u64::from(count));
            let client_id = self.sessions[place].client_id.clone();
            out.push(Effect::Dropped { client_id, reason, count });
        }
    }
}

/// Adds another of the session's subscriptions to a delivery [MQTT-3.3.4-2, MQTT-3.3.4-4].
fn merge(found: &mut Match, options: &Options) {
    let before = found.options;
    found.options.qos = before.qos.max(options.qos);
    found.options.retain_as_published |= options.retain_as_published;
    let Some(identifier) = options.identifier else { return };
    match (before.identifier, &mut found.extra) {
        (None, _) => found.options.identifier = Some(identifier),
        (Some(_), Some(extra)) => Arc::make_mut(extra).identifiers.push(identifier.get()),
        (Some(first), extra @ None) => {
            let identifiers = [first.get(), identifier.get()].into_iter().collect();
            *extra = Some(Arc::new(Extra { group: None, identifiers }));
        }
    }
}

fn delivery_options(qos: QoS, retain: bool, identifier: u32, extra: Option<&Extra>) -> super::DeliveryOptions {
    let identifiers = match extra {
        Some(extra) if !extra.identifiers.is_empty() => extra.identifiers.clone(),
        _ => (identifier != 0).then_some(identifier).into_iter().collect(),
    };
    super::DeliveryOptions { qos, retain, identifiers }
}
