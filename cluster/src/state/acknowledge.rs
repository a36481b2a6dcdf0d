//! A subscriber's PUBACK, PUBREC and PUBCOMP.
//! Always true: an acknowledgement that does not fit its entry changes nothing.
use super::{AckKind, EntryState, Outcome, SessionPlace, State};
use crate::ids::Epoch;
use mosquorum_proto::mqtt::{PacketId, QoS, Utf8};

impl State {
    /// Packet identifier 0 with [`AckKind::PubAck`] stands for the earliest QoS 0 entry: it has been sent.
    pub(super) fn acknowledge(&mut self, client_id: &Utf8, epoch: Epoch, acks: &[(PacketId, AckKind)]) -> Outcome {
        let Some(place) = self.owned(client_id, epoch) else { return Outcome::Superseded };
        for (packet_id, kind) in acks {
            self.acknowledge_one(place, *packet_id, *kind);
        }
        Outcome::Done
    }

    fn acknowledge_one(&mut self, place: SessionPlace, packet_id: PacketId, kind: AckKind) {
        let session = &mut self.sessions[place];
        let Some(entry) = session.queue.find(packet_id) else { return };
        let (seq, qos, state) = (entry.seq(), entry.qos(), entry.state());
        let held = match kind {
            AckKind::PubRec if qos == QoS::ExactlyOnce && state == EntryState::Queued => session.queue.release(seq),
            AckKind::PubAck if qos != QoS::ExactlyOnce => session.queue.remove(seq).and_then(|entry| entry.held()),
            AckKind::PubComp if state == EntryState::Released => session.queue.remove(seq).and_then(|e| e.held()),
            AckKind::PubRecError if qos == QoS::ExactlyOnce => session.queue.remove(seq).and_then(|e| e.held()),
            _ => return,
        };
        if let Some(held) = held {
            self.messages.release(held);
        }
        self.unwritten(place).header = true;
    }
}
