//! PUBACK, PUBREC and PUBCOMP of the client.
use super::{Acks, Outbox, durable::send_pubrel, window::Phase};
use crate::session::{Env, SessionError};
use mosquorum_proto::mqtt::Ack;

impl Outbox {
    pub(in crate::session) fn on_puback(&mut self, ack: Ack) -> Result<(), SessionError> {
        match self {
            Self::Local(local) => local.window.step(ack.packet_id, Phase::PubAck, Phase::Done).map(|_| ()),
            Self::Durable(durable) => durable.on_puback(ack.packet_id),
        }
    }

    pub(in crate::session) fn on_pubrec(&mut self, ack: Ack, env: &mut impl Env) -> Result<(), SessionError> {
        let refused = ack.reason as u8 >= 0x80;
        let answer = match self {
            Self::Durable(durable) => durable.on_pubrec(ack.packet_id, refused)?,
            Self::Local(local) if refused => {
                local.window.step(ack.packet_id, Phase::PubRec, Phase::Done)?;
                false
            }
            Self::Local(local) => {
                if local.window.phase(ack.packet_id) != Some(Phase::PubComp) {
                    local.window.step(ack.packet_id, Phase::PubRec, Phase::PubComp)?;
                }
                true
            }
        };
        if answer {
            // A PUBREC for nothing that we sent too: the client can then complete the exchange.
            send_pubrel(ack.packet_id, env);
        }
        Ok(())
    }

    pub(in crate::session) fn on_pubcomp(&mut self, ack: Ack) -> Result<(), SessionError> {
        match self {
            Self::Local(local) => local.window.step(ack.packet_id, Phase::PubComp, Phase::Done).map(|_| ()),
            Self::Durable(durable) => durable.on_pubcomp(ack.packet_id),
        }
    }

    /// What the client acknowledged in this round, if the state must hear of it.
    pub(in crate::session) fn take_acks(&mut self) -> Option<Acks> {
        match self {
            Self::Local(_) => None,
            Self::Durable(durable) => durable.take_acks(),
        }
    }

    /// The PUBRECs of these packet identifiers are durable.
    pub(in crate::session) fn send_pubrels(&mut self, packet_ids: &[u16], env: &mut impl Env) {
        if let Self::Durable(durable) = self {
            durable.send_pubrels(packet_ids, env);
        }
    }
}
