//! From the local session to the remote.
use super::{QUEUED_MAX, Relay, Sent, inbound::passed_on, storm::StormAction};
use mosquorum_proto::mqtt::{Ack, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, encoded_len};

impl Relay {
    /// The identifier towards the remote; the reverse of [`Self::local_id_of`].
    pub(super) fn remote_id(&self, local: PacketId) -> PacketId {
        if self.shift == 0 { local } else { local.checked_add(1).unwrap_or(1) }
    }

    fn local_id_of(&self, remote: PacketId) -> PacketId {
        match remote - self.shift {
            0 => PacketId::MAX,
            local => local,
        }
    }

    /// Sends what may be sent now; to be called when there is room for more.
    pub fn pump_out(&mut self) {
        while !self.finishing
            && self.to_remote.len() < QUEUED_MAX
            && self.asked.len() < usize::from(self.remote.receive_maximum)
            && let Some(next) = self.missed.pop_front()
        {
            self.send_missed(next);
        }
        while !self.finishing
            && self.missed.is_empty()
            && self.asked.is_empty()
            && let Some(next) = self.queued_out.front()
        {
            if next.qos != QoS::AtMostOnce && self.sent.len() >= usize::from(self.remote.receive_maximum) {
                return;
            }
            if let Some(publish) = self.queued_out.pop_front() {
                self.send(publish);
            }
        }
    }

    fn send(&mut self, mut publish: Publish) {
        let (local_id, local_qos) = (publish.packet_id, publish.qos);
        // What still waits of a line that is gone must not cross under a name that nobody chose.
        let mapped = publish.topic.as_ref().and_then(|name| {
            let line = self.settings.topics.line_out(name)?;
            Some((line.to_remote(name)?, self.settings.compares(line)))
        });
        let Some((topic, compares)) = mapped else {
            self.counts.dropped_topic += 1;
            return self.settle(local_id, local_qos);
        };
        if self.may_go_round()
            && let Some(name) = &publish.topic
            && self.storms.goes_out(name.as_str(), &publish.payload, self.now) != StormAction::Pass
        {
            self.counts.dropped_loop += 1;
            return self.settle(local_id, local_qos);
        }
        if let Some(name) = publish.topic.replace(topic)
            && publish.retain
            && compares
        {
            self.sent_retained.note_sent(&name, &publish.payload);
        }
        publish.retain &= self.settings.outgoing_retain && self.remote.retain_available;
        publish.qos = publish.qos.min(self.remote.max_qos);
        publish.packet_id = match publish.qos {
            QoS::AtMostOnce => 0,
            _ => self.remote_id(local_id),
        };
        publish.dup &= publish.qos != QoS::AtMostOnce;
        self.take_properties(&mut publish);
        self.aliases_out.shorten(&mut publish, self.remote.max_packet_size);
        let (qos, dup, remote_id) = (publish.qos, publish.dup, publish.packet_id);
        let packet = Packet::Publish(publish);
        if self.remote.max_packet_size < u32::MAX
            && encoded_len(&packet, self.version) > self.remote.max_packet_size as usize
        {
            self.counts.dropped_too_large += 1;
            return self.settle(local_id, local_qos);
        }
        self.to_remote.push(packet);
        self.counts.sent += 1;
        if qos == QoS::AtMostOnce {
            return self.settle(local_id, local_qos);
        }
        if !dup {
            self.last_id = remote_id;
        }
        let state = match (local_qos, qos) {
            (QoS::ExactlyOnce, QoS::ExactlyOnce) => Sent::Exactly,
            (QoS::ExactlyOnce, _) => Sent::Lowered,
            _ => Sent::Once,
        };
        self.sent.insert(remote_id, state);
    }

    /// A retained message that changed while the remote was away: it comes from no session, so we number it ourselves.
    fn send_missed(&mut self, mut publish: Publish) {
        let Some(local) = publish.topic.take() else { return };
        let Some(line) = self.settings.topics.line_out(&local) else { return };
        publish.qos = publish.qos.min(line.qos).min(self.remote.max_qos).min(QoS::AtLeastOnce);
        publish.retain = self.settings.outgoing_retain && self.remote.retain_available;
        publish.topic = self.settings.topics.to_remote(&local);
        self.take_properties(&mut publish);
        self.sent_retained.note_sent(&local, &publish.payload);
        if !publish.retain && publish.payload.is_empty() {
            return;
        }
        let packet = Packet::Publish(publish);
        let too_large = encoded_len(&packet, self.version) > self.remote.max_packet_size as usize;
        let Packet::Publish(mut publish) = packet else { return };
        if publish.topic.is_none() || too_large {
            let count = if too_large { &mut self.counts.dropped_too_large } else { &mut self.counts.dropped_topic };
            *count += 1;
            return;
        }
        if publish.qos != QoS::AtMostOnce {
            publish.packet_id = self.ask(String::new());
        }
        self.to_remote.push(Packet::Publish(publish));
        self.counts.sent += 1;
    }

    fn take_properties(&self, publish: &mut Publish) {
        if self.version != ProtocolVersion::V5 {
            publish.properties = None;
            return;
        }
        if let Some(properties) = &mut publish.properties {
            properties.topic_alias = None;
            properties.subscription_identifiers.clear();
            if let Some(response) = &properties.response_topic {
                properties.response_topic = Some(self.settings.topics.response_to_remote(response));
            }
        }
    }

    /// Nothing more will come from the remote about it: the local session is done with it.
    fn settle(&mut self, local_id: PacketId, local_qos: QoS) {
        match local_qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.to_local.push(Packet::PubAck(Ack::new(local_id))),
            QoS::ExactlyOnce => {
                self.own_release.insert(local_id);
                self.to_local.push(Packet::PubRec(Ack::new(local_id)));
            }
        }
    }

    pub(super) fn on_puback(&mut self, ack: &Ack) {
        if self.asked.remove(&ack.packet_id).is_some() {
            self.asked_since = self.now;
            return;
        }
        let local_id = self.local_id_of(ack.packet_id);
        match self.sent.get(&ack.packet_id) {
            Some(Sent::Once) => self.settle(local_id, QoS::AtLeastOnce),
            Some(Sent::Lowered) => self.settle(local_id, QoS::ExactlyOnce),
            // Of nothing that we sent: nobody waits for it.
            _ => return,
        }
        self.sent.remove(&ack.packet_id);
        self.note_refused(ack.reason);
    }

    fn note_refused(&mut self, reason: ReasonCode) {
        if reason.is_error() {
            self.counts.dropped_refused += 1;
            if self.counts.dropped_refused == 1 {
                self.note(format!("the remote refused a message with reason {reason:?}"));
            }
        }
    }

    pub(super) fn on_pubrec(&mut self, ack: &Ack) {
        let packet_id = ack.packet_id;
        match self.sent.get(&packet_id) {
            Some(Sent::Exactly) if ack.reason.is_error() => {
                self.sent.remove(&packet_id);
                let local_id = self.local_id_of(packet_id);
                self.to_local.push(Packet::PubRec(Ack::with_reason(local_id, passed_on(ack.reason))));
                self.note_refused(ack.reason);
            }
            Some(Sent::Exactly) => {
                self.sent.insert(packet_id, Sent::Received);
                self.to_local.push(Packet::PubRec(Ack::new(self.local_id_of(packet_id))));
            }
            Some(Sent::Received) => {}
            // Sent again, or of nothing that we know: the remote can then complete the exchange.
            Some(Sent::Released) | None if !ack.reason.is_error() => {
                self.to_remote.push(Packet::PubRel(Ack::new(packet_id)));
            }
            _ => {}
        }
    }

    /// The local session has made PUBREC durable (now or in an earlier connection).
    pub(super) fn on_local_pubrel(&mut self, local_id: PacketId) {
        if self.own_release.remove(&local_id) {
            self.to_local.push(Packet::PubComp(Ack::new(local_id)));
            return;
        }
        let packet_id = self.remote_id(local_id);
        if self.remote.max_qos < QoS::ExactlyOnce {
            // The remote knows no such exchange: the message went, or was dropped, in an earlier one.
            self.to_local.push(Packet::PubComp(Ack::new(local_id)));
            return;
        }
        self.sent.insert(packet_id, Sent::Released);
        self.to_remote.push(Packet::PubRel(Ack::new(packet_id)));
    }

    pub(super) fn on_pubcomp(&mut self, ack: &Ack) {
        if self.sent.get(&ack.packet_id) == Some(&Sent::Released) {
            self.sent.remove(&ack.packet_id);
            self.to_local.push(Packet::PubComp(Ack::new(self.local_id_of(ack.packet_id))));
        }
    }
}
