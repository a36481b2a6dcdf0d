//! QoS 1 and 2 towards a durable session: the queue is in the replicated state, packet identifiers included; here is only
//! how far this connection has come in it.
//! Always true: an entry is sent with the packet identifier that the state gave it; PUBREL follows only after the PUBREC
//! is durable; identifiers in flight are distinct, since at most 65,535 consecutive entries are; what this connection
//! knows and the state does not yet (acknowledgements on their way) never makes it send an entry again.
use super::{
    QueueItem,
    live_queue::LiveQueue,
    send::{Sent, send},
    window::{Phase, Window},
};
use crate::session::{Denied, Env, SessionError, SessionOptions, aliases::OutboundAliases};
use mosquorum_cluster::state::AckKind;
use mosquorum_proto::mqtt::QoS;

/// Entries read from the state at once.
const READ_CHUNK: usize = 64;

/// Acknowledgements to be proposed, and the packet identifiers among them whose PUBREL follows their commit.
pub(in crate::session) struct Acks {
    pub(in crate::session) acks: Vec<(u16, AckKind)>,
    pub(in crate::session) released: Vec<u16>,
}

pub(in crate::session) struct DurableOutbox {
    pub(super) live: LiveQueue,
    /// With the place of each in the queue.
    window: Window<u64>,
    /// The next entry to look at.
    next_seq: u64,
    /// The state may have more from `next_seq` on.
    more: bool,
    acks: Vec<(u16, AckKind)>,
    /// Packet identifiers among `acks` whose PUBREL waits for the commit.
    released: Vec<u16>,
    scratch: Vec<QueueItem>,
}

impl Default for DurableOutbox {
    fn default() -> Self {
        Self {
            live: LiveQueue::default(),
            window: Window::default(),
            next_seq: 0,
            more: true,
            acks: Vec::new(),
            released: Vec::new(),
            scratch: Vec::new(),
        }
    }
}

impl DurableOutbox {
    pub(super) fn pump(
        &mut self,
        queue_grew: bool,
        options: &SessionOptions,
        aliases: &mut OutboundAliases,
        env: &mut impl Env,
    ) {
        self.more |= queue_grew;
        while self.more && !env.out_congested() && self.has_room(options) {
            let wanted = self.window.room(options).clamp(1, READ_CHUNK);
            let mut items = std::mem::take(&mut self.scratch);
            items.clear();
            self.more = env.queue(self.next_seq, wanted, &mut items);
            let mut stuck = false;
            for item in items.drain(..) {
                stuck |= env.out_congested() || !self.fits(&item, options);
                if !stuck {
                    self.next_seq = item.seq + 1;
                    self.send(item, options, aliases, env);
                }
            }
            self.scratch = items;
            if stuck {
                self.more = true;
                return;
            }
        }
    }

    fn has_room(&self, options: &SessionOptions) -> bool {
        let span = self.window.front().map_or(0, |front| self.next_seq - front.note);
        self.window.room(options) > 0 && span < u64::from(u16::MAX) - 1
    }

    fn fits(&self, item: &QueueItem, options: &SessionOptions) -> bool {
        self.window.fits(item.message.as_ref().map_or(0, |message| message.payload.len() as u64), options)
    }

    fn send(&mut self, item: QueueItem, options: &SessionOptions, aliases: &mut OutboundAliases, env: &mut impl Env) {
        let Some(message) = &item.message else {
            self.window.push(item.packet_id, Phase::PubComp, 0, item.seq);
            return send_pubrel(item.packet_id, env);
        };
        // What is sent for the first time with RETAIN was queued with nobody asked who may still write.
        let sent = if item.options.retain && !item.dup && !env.source_may_write(message) {
            env.denied(Denied::RetainedSource, message.topic.as_str());
            Sent::Dropped
        } else {
            send(message, &item.options, item.packet_id, item.dup, options, aliases, env)
        };
        let phase = match (sent, item.options.qos) {
            (Sent::Dropped, QoS::ExactlyOnce) => return self.acks.push((item.packet_id, AckKind::PubRecError)),
            (Sent::Dropped, _) | (_, QoS::AtMostOnce) => return self.acks.push((item.packet_id, AckKind::PubAck)),
            (Sent::Yes, QoS::AtLeastOnce) => Phase::PubAck,
            (Sent::Yes, QoS::ExactlyOnce) => Phase::PubRec,
        };
        self.window.push(item.packet_id, phase, message.payload.len() as u64, item.seq);
    }

    pub(super) fn on_puback(&mut self, packet_id: u16) -> Result<(), SessionError> {
        if self.window.step(packet_id, Phase::PubAck, Phase::Done)? {
            self.acks.push((packet_id, AckKind::PubAck));
        }
        Ok(())
    }

    /// `true` if PUBREL is to be sent at once; otherwise it follows the commit, or there is none.
    pub(super) fn on_pubrec(&mut self, packet_id: u16, refused: bool) -> Result<bool, SessionError> {
        if refused {
            if self.window.step(packet_id, Phase::PubRec, Phase::Done)? {
                self.acks.push((packet_id, AckKind::PubRecError));
            }
            return Ok(false);
        }
        match self.window.phase(packet_id) {
            Some(Phase::Releasing) => Ok(false),
            Some(Phase::PubComp) => Ok(true),
            // It may be of an entry that is still to be sent again: then its exchange begins anew.
            None => Ok(!self.more),
            Some(_) => {
                self.window.step(packet_id, Phase::PubRec, Phase::Releasing)?;
                self.acks.push((packet_id, AckKind::PubRec));
                self.released.push(packet_id);
                Ok(false)
            }
        }
    }

    pub(super) fn send_pubrels(&mut self, packet_ids: &[u16], env: &mut impl Env) {
        for packet_id in packet_ids {
            if matches!(self.window.step(*packet_id, Phase::Releasing, Phase::PubComp), Ok(true)) {
                send_pubrel(*packet_id, env);
            }
        }
    }

    pub(super) fn on_pubcomp(&mut self, packet_id: u16) -> Result<(), SessionError> {
        if self.window.step(packet_id, Phase::PubComp, Phase::Done)? {
            self.acks.push((packet_id, AckKind::PubComp));
        }
        Ok(())
    }

    /// What the client acknowledged in this round.
    pub(super) fn take_acks(&mut self) -> Option<Acks> {
        if self.acks.is_empty() {
            return None;
        }
        Some(Acks { acks: std::mem::take(&mut self.acks), released: std::mem::take(&mut self.released) })
    }

    pub(super) fn sent_before(&self) -> u64 {
        self.next_seq
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.live.waiting.is_empty() || self.more
    }
}

pub(super) fn send_pubrel(packet_id: u16, env: &mut impl Env) {
    env.count().pubrels_sent += 1;
    let [high, low] = packet_id.to_be_bytes();
    env.out().extend_from_slice(&[0x62, 2, high, low]);
}
