//! Wills: published once after an unclean end, in log order like every other message.
//! Durable sessions and the retained messages get it here. Live subscribers get it from [`Effect::PublishLive`] on every
//! node, but for shared groups that have durable members: one of these gets it here.
//! Not here: when a will is due (`lives`).
use super::{
    Effect, Message, Session,
    connect::SessionHandler,
    effects::Effects,
    publish::{Barred, Publishing},
    sessions::SessionPlace,
};
use crate::ids::{Epoch, Millis};
use mosquorum_proto::mqtt::{PublishProperties, Will};
use std::sync::Arc;

/// The session's will as a message that is published now.
pub(super) fn will_message(session: &Session, will: Will, now: Millis) -> Arc<Message> {
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
        received_at: now,
        publisher_id: session.client_id().clone(),
        publisher_name: session.username().cloned(),
        mark: None,
    })
}

impl SessionHandler<'_> {
    /// `unreadable`: sessions that may not read it. Who cannot be asked, since the will is published without its node, is
    /// taken for allowed: the connection that delivers it judges.
    pub(super) fn publish_will(&mut self, message: Arc<Message>, unreadable: &[Epoch], out: &mut Effects<'_>) {
        let mut served = Vec::new();
        let (routing, barred) = (&*self.routing(), Barred(unreadable));
        routing.routes().groups().matches(message.topic.as_str(), |filter, group| {
            if group.members().all().values().any(|member| !barred.has(routing.session(member.session))) {
                served.push(filter.clone());
            }
        });
        let mut publishing = Publishing { message: &message, place: None, barred };
        let matched = self.publishing().deliver(&mut publishing, &[], out);
        self.steps().take(matched as usize);
        out.add(Effect::PublishLive { message, served });
    }

    /// The will's delay has passed.
    pub(super) fn will_is_due(&mut self, place: SessionPlace, out: &mut Effects<'_>) {
        if let Some(message) = self.lives().take_due_will(place) {
            self.publish_will(message, &[], out);
        }
    }
}
