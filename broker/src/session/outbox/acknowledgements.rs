//! PUBACK, PUBREC and PUBCOMP of the client.
use super::{Outbox, durable::send_pubrel, window::Phase};
use crate::session::{Env, Session, SessionError};
use mosquorum_proto::mqtt::Ack;

impl Session {
    pub(in crate::session) fn on_puback(&mut self, ack: Ack) -> Result<(), SessionError> {
        match &mut self.outbox {
            Outbox::Local(local) => local.window.step(ack.packet_id, Phase::PubAck, Phase::Done).map(|_| ()),
            Outbox::Durable(durable) => durable.on_puback(ack.packet_id),
        }
    }

    pub(in crate::session) fn on_pubrec(&mut self, ack: Ack, env: &mut impl Env) -> Result<(), SessionError> {
        let refused = ack.reason as u8 >= 0x80;
        let answer = match &mut self.outbox {
            Outbox::Durable(durable) => durable.on_pubrec(ack.packet_id, refused)?,
            Outbox::Local(local) if refused => {
                local.window.step(ack.packet_id, Phase::PubRec, Phase::Done)?;
                false
            }
            Outbox::Local(local) => {
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
        match &mut self.outbox {
            Outbox::Local(local) => local.window.step(ack.packet_id, Phase::PubComp, Phase::Done).map(|_| ()),
            Outbox::Durable(durable) => durable.on_pubcomp(ack.packet_id),
        }
    }
}
