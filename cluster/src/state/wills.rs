//! Wills: published once after an unclean end, in log order like every other message.
//! Always true: a will is taken from its session before it is published, so it can not be published twice.
//! Durable sessions and the retained messages get it here. Live subscribers get it from [`Effect::PublishLive`] on every
//! node, but for shared groups that have durable members: one of these gets it here.
use super::{
    Effect, Message, Outcome, SessionPlace, State,
    publish::{Barred, Publishing},
};
use crate::ids::Epoch;
use mosquorum_proto::mqtt::{PublishProperties, Utf8, Will};
use std::sync::Arc;

impl State {
    pub(super) fn will_message(&self, place: SessionPlace, will: Will) -> Arc<Message> {
        let session = &self.sessions[place];
        let mut properties = will.properties;
        let expiry_seconds = properties.as_mut().and_then(|properties| properties.message_expiry_interval.take());
        if let Some(properties) = &mut properties {
            properties.topic_alias = None;
            properties.subscription_identifiers.clear();
        }
        Arc::new(Message {
            topic: will.topic,
            payload: will.payload,
            qos: will.qos,
            retain: will.retain,
            properties: properties.filter(|properties| **properties != PublishProperties::default()),
            expiry_seconds,
            received_at: self.time,
            publisher_id: session.client_id.clone(),
            publisher_name: session.username.clone(),
            mark: None,
        })
    }

    pub(super) fn withdraw_will(&mut self, client_id: &Utf8, epoch: Epoch) -> Outcome {
        let Some(place) = self.owned(client_id, epoch) else { return Outcome::Superseded };
        if self.sessions[place].will.take().is_some() {
            self.unwritten(place).core = true;
        }
        Outcome::Done
    }

    /// `unreadable`: sessions that may not read it. Who cannot be asked, since the will is published without its node, is
    /// taken for allowed: the connection that delivers it judges.
    pub(super) fn publish_will(&mut self, message: Arc<Message>, unreadable: &[Epoch], out: &mut Vec<Effect>) {
        let mut served = Vec::new();
        let (sessions, barred) = (&self.sessions, Barred(unreadable));
        self.groups.matches(message.topic.as_str(), |filter, group| {
            if group.members.all().values().any(|member| !barred.has(sessions, member.session)) {
                served.push(filter.clone());
            }
        });
        let matched = self.deliver(&mut Publishing { message: &message, place: None, barred }, &[], out);
        self.steps.take(matched as usize);
        out.push(Effect::PublishLive { message, served });
    }

    /// The will's delay has passed.
    pub(super) fn will_is_due(&mut self, place: SessionPlace, out: &mut Vec<Effect>) {
        let session = &mut self.sessions[place];
        session.will_due = None;
        let Some(will) = session.will.take() else { return };
        let message = self.will_message(place, *will);
        self.unwritten(place).core = true;
        self.publish_will(message, &[], out);
    }
}
