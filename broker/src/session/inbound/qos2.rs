//! QoS 2 from the client: packet identifiers from PUBLISH until PUBREL.
//! Always true: those of a durable session are in the replicated state, and PUBREL is answered behind the command that
//! releases them; those of other sessions, and of messages to the broker itself, are here.
use super::send_ack;
use crate::session::{
    Env, SessionError, SessionOptions,
    requests::{Request, Requests},
};
use bytes::Bytes;
use mosquorum_cluster::state::Command;
use mosquorum_proto::mqtt::{Ack, Packet, ReasonCode, TopicName};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

#[derive(Default)]
pub(super) struct Received {
    /// Packet identifiers received from a client without a durable session, until PUBREL.
    open: BTreeSet<u16>,
    /// Those that came again on this connection, each with a hash of what came.
    repeated: BTreeMap<u16, u64>,
}

impl Received {
    pub(super) fn has(&self, packet_id: u16) -> bool {
        self.open.contains(&packet_id)
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Packets are sent again after a reconnect only [MQTT-4.4.0-1]; once is let pass, for older clients with timers.
    pub(super) fn note_repeated(
        &mut self,
        packet_id: u16,
        topic: &TopicName,
        payload: &Bytes,
    ) -> Result<(), SessionError> {
        let mut content = DefaultHasher::new();
        (topic, payload).hash(&mut content);
        let content = content.finish();
        if self.repeated.insert(packet_id, content) != Some(content) {
            return Ok(());
        }
        Err(SessionError::Peer(ReasonCode::ProtocolError, "QoS 2 packet sent again and again [MQTT-4.4.0-1]"))
    }
}

/// Takes and releases packet identifiers. It touches nothing of the messages under way.
pub(in crate::session) struct ExactlyOnce<'a, E> {
    pub(super) options: &'a SessionOptions,
    pub(super) received: &'a mut Received,
    pub(super) requests: &'a mut Requests,
    pub(super) env: &'a mut E,
}

impl<E: Env> ExactlyOnce<'_, E> {
    /// A packet that was acknowledged before is acknowledged again.
    pub(super) fn is_repeated(
        &mut self,
        packet_id: u16,
        topic: &TopicName,
        payload: &Bytes,
    ) -> Result<bool, SessionError> {
        if self.options.durable || !self.received.has(packet_id) {
            return Ok(false);
        }
        self.received.note_repeated(packet_id, topic, payload)?;
        self.send_pubrec(packet_id, ReasonCode::Success);
        Ok(true)
    }

    /// Of a message to the broker itself.
    pub(super) fn take_here(&mut self, packet_id: u16) {
        self.received.open.insert(packet_id);
    }

    /// The message is where it must be.
    pub(super) fn acknowledge(&mut self, packet_id: u16) {
        if !self.options.durable {
            self.received.open.insert(packet_id);
        }
        // As Mosquitto, which looks for subscribers at PUBREL only: never "no matching subscribers".
        self.send_pubrec(packet_id, ReasonCode::Success);
    }

    /// The message goes nowhere.
    pub(super) fn refuse(&mut self, packet_id: u16, reason: ReasonCode) {
        self.forget_refused(packet_id);
        self.send_pubrec(packet_id, reason);
    }

    /// The client uses the packet identifier again, after PUBREL before MQTT 5. A durable session may have it from a packet
    /// that was taken on an earlier connection and comes again: the next one must not be taken for that.
    fn forget_refused(&mut self, packet_id: u16) {
        match (self.options.durable, self.options.is_v5()) {
            (true, true) => self.submit_release(packet_id, Request::Ignored),
            // Its PUBREL goes the same way.
            (true, false) | (false, true) => {}
            (false, false) => {
                self.received.open.insert(packet_id);
            }
        }
    }

    fn submit_release(&mut self, packet_id: u16, request: Request) {
        let command = Command::Release {
            client_id: self.options.client_id.clone(),
            epoch: self.options.epoch.unwrap_or_default(),
            packet_id,
        };
        self.env.submit(command, self.requests.add(request));
    }

    pub(in crate::session) fn on_pubrel(&mut self, ack: Ack) {
        let packet_id = ack.packet_id;
        if self.options.durable && !self.received.has(packet_id) {
            let since = self.env.now();
            self.submit_release(packet_id, Request::PubRel { packet_id, since });
            return;
        }
        self.received.open.remove(&packet_id);
        self.complete_release(packet_id);
    }

    /// PUBCOMP: the packet identifier is free again. One that was not known may be a PUBREL repeated after a reconnect,
    /// so it is answered in the same way (as Mosquitto does).
    pub(in crate::session) fn complete_release(&mut self, packet_id: u16) {
        self.received.repeated.remove(&packet_id);
        self.env.count().pubcomps_sent += 1;
        send_ack(Packet::PubComp, packet_id, ReasonCode::Success, self.options, self.env);
    }

    fn send_pubrec(&mut self, packet_id: u16, reason: ReasonCode) {
        self.env.count().pubrecs_sent += 1;
        send_ack(Packet::PubRec, packet_id, reason, self.options, self.env);
    }
}
