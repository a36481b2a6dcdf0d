//! From the remote to the local broker.
use super::{Relay, RelayEnd, storm::StormAction};
use mosquorum_proto::mqtt::{Ack, Packet, ProtocolVersion, Publish, QoS, ReasonCode, TopicName, encoded_len};

impl Relay {
    pub(super) fn on_remote_publish(&mut self, mut publish: Publish) -> Result<(), RelayEnd> {
        let alias = publish.properties.as_mut().and_then(|properties| properties.topic_alias.take());
        let name = match (alias, publish.topic.take()) {
            (None, Some(name)) => name,
            (Some(alias), Some(name)) => {
                if alias == 0 || alias > self.settings.max_topic_alias {
                    return Err(RelayEnd::Remote("a topic alias above the maximum"));
                }
                self.aliases_in.insert(alias, name.detached());
                name
            }
            (Some(alias), None) => {
                self.aliases_in.get(&alias).cloned().ok_or(RelayEnd::Remote("an unknown topic alias"))?
            }
            (None, None) => return Err(RelayEnd::Remote("PUBLISH without a topic")),
        };
        self.counts.received += 1;
        let Some(name) = self.settings.topics.to_local(&name) else {
            self.counts.dropped_topic += 1;
            self.refuse(&publish);
            return Ok(());
        };
        if self.goes_round(&name, &publish.payload) {
            self.refuse(&publish);
            return Ok(());
        }
        publish.topic = Some(name);
        publish.retain &= self.limits.local_retain_available;
        if let Some(properties) = &mut publish.properties {
            properties.subscription_identifiers.clear();
            if let Some(response) = &properties.response_topic {
                properties.response_topic = Some(self.settings.topics.response_to_local(response));
            }
        }
        let qos = publish.qos;
        let packet = Packet::Publish(publish);
        let too_large = encoded_len(&packet, ProtocolVersion::V5) > self.limits.local_max_packet_size as usize;
        let Packet::Publish(publish) = packet else { return Ok(()) };
        if too_large {
            self.counts.dropped_too_large += 1;
            self.note(format!("a message of QoS {} is larger than max_packet_size and dropped", qos as u8));
            self.refuse(&publish);
        } else {
            if let Some(name) = &publish.topic
                && publish.retain
                && self.settings.compares_topic(name)
            {
                self.sent_retained.note_received(name, &publish.payload);
            }
            if qos != QoS::AtMostOnce {
                self.release_stale(&publish);
                self.taken.insert(publish.packet_id, true);
            }
            self.to_local.push(Packet::Publish(publish));
        }
        Ok(())
    }

    /// MQTT 3.1 does not say whether the remote has forgotten an exchange: a new message under its identifier does.
    fn release_stale(&mut self, publish: &Publish) {
        let packet_id = publish.packet_id;
        if publish.qos == QoS::ExactlyOnce && self.stale.remove(&packet_id) && !publish.dup {
            self.own_complete.insert(packet_id);
            self.to_local.push(Packet::PubRel(Ack::new(packet_id)));
        }
    }

    /// Loop ids show what has been here; without them it is guessed.
    pub(super) fn may_go_round(&self) -> bool {
        !(self.settings.loop_mark && self.version == ProtocolVersion::V5)
    }

    fn goes_round(&mut self, name: &TopicName, payload: &[u8]) -> bool {
        if !self.may_go_round() {
            return false;
        }
        let verdict = self.storms.comes_in(name.as_str(), payload, self.now);
        if verdict == StormAction::Storm {
            self.note(format!(
                "the same message on topic '{}' goes round between the brokers and is cut here; use other prefixes, or \
                 bridge_protocol_version mqttv50 with bridge_loop_mark true on all sides",
                name.as_str()
            ));
        }
        self.counts.dropped_loop += u64::from(verdict != StormAction::Pass);
        verdict != StormAction::Pass
    }

    /// What can never be taken is answered, or it would come again for ever.
    fn refuse(&mut self, publish: &Publish) {
        match publish.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.to_remote.push(Packet::PubAck(Ack::new(publish.packet_id))),
            QoS::ExactlyOnce => self.to_remote.push(Packet::PubRec(Ack::new(publish.packet_id))),
        }
    }

    /// The local broker has answered: its promise holds, so the acknowledgement may be passed on to the remote.
    pub(super) fn on_local_answer(&mut self, make: fn(Ack) -> Packet, ack: &Ack) {
        let packet_id = ack.packet_id;
        match make(Ack::new(packet_id)) {
            Packet::PubRec(_) if !ack.reason.is_error() => {
                if let Some(owed) = self.taken.get_mut(&packet_id) {
                    *owed = false;
                }
            }
            packet => {
                self.taken.remove(&packet_id);
                if matches!(packet, Packet::PubComp(_)) && self.own_complete.remove(&packet_id) {
                    return;
                }
            }
        }
        // "Nobody subscribed" is no news for the remote.
        let answer = match ack.reason.is_error() {
            true => Ack::with_reason(packet_id, passed_on(ack.reason)),
            false => Ack::new(packet_id),
        };
        if ack.reason.is_error() {
            self.note(format!("the local broker refused a message with reason {:?}", ack.reason));
        }
        self.to_remote.push(make(answer));
    }
}

/// A broker's reason for a refusal as its client may give it: "too large" is a broker's alone.
pub(super) fn passed_on(reason: ReasonCode) -> ReasonCode {
    if reason == ReasonCode::PacketTooLarge { ReasonCode::QuotaExceeded } else { reason }
}
