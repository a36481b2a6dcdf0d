//! Applying one entry of the log.
//! Always true: the time of the state never goes back; an entry's commands are applied all or none; each command is
//! stamped with the entry's index and its place, which makes epochs and orders of subscription.
use super::{Batch, Command, Effect, Outcome, SessionPlace, State};
use crate::ids::{Epoch, LogIndex};
use mosquorum_proto::mqtt::{PacketId, Utf8};

/// Most commands of one batch: their places are part of epochs.
pub const BATCH_COMMANDS_MAX: usize = 1 << STAMP_BITS;
const STAMP_BITS: u32 = 16;

/// What came of one entry. Pass the same value again to use its buffers again.
#[derive(Debug, Default)]
pub struct Applied {
    /// One per command; empty if the batch was not accepted.
    pub outcomes: Vec<Outcome>,
    /// `false`: the batch was not the next of its origin, or its origin's incarnation is down; nothing changed.
    pub accepted: bool,
    pub effects: Vec<Effect>,
}

impl State {
    /// Applies an entry of the log. Entries up to the applied index are ignored. `out` is cleared first.
    pub fn apply(&mut self, index: LogIndex, batch: &Batch, out: &mut Applied) {
        out.outcomes.clear();
        out.effects.clear();
        out.accepted = false;
        if index <= self.applied {
            return;
        }
        self.applied = index;
        if !self.nodes.accept(batch) {
            return;
        }
        out.accepted = true;
        self.time = self.time.max(batch.time);
        self.origin = batch.origin.node;
        self.steps.begin_entry();
        for (place, command) in batch.commands.iter().enumerate() {
            let place = place.min(BATCH_COMMANDS_MAX - 1) as u64;
            let outcome = self.apply_command(index.0 << STAMP_BITS | place, batch, command, &mut out.effects);
            out.outcomes.push(outcome);
        }
        self.clear_some_remains();
        if self.in_memory {
            self.forget_changes();
        }
    }

    /// Notes an entry that has no batch (membership, a new leader's blank).
    pub fn advance(&mut self, index: LogIndex) {
        self.applied = self.applied.max(index);
    }

    fn apply_command(&mut self, stamp: u64, batch: &Batch, command: &Command, out: &mut Vec<Effect>) -> Outcome {
        match command {
            Command::Publish(publish) => self.publish(publish, out),
            Command::Acknowledge { client_id, epoch, acks } => self.acknowledge(client_id, *epoch, acks),
            Command::Release { client_id, epoch, packet_id } => self.release(client_id, *epoch, *packet_id),
            Command::Connect(connect) => self.connect(connect, Epoch(stamp), out),
            Command::Disconnect(disconnect) => self.disconnect(disconnect, out),
            Command::Subscribe { client_id, epoch, subscriptions, identifier } => {
                self.subscribe(client_id, *epoch, subscriptions, *identifier, stamp, out)
            }
            Command::Unsubscribe { client_id, epoch, filters } => self.unsubscribe(client_id, *epoch, filters, out),
            Command::NodeUp { name } => self.node_up(batch.origin, name, out),
            Command::NodeDraining => self.node_draining(batch.origin.node),
            Command::NodeStays => self.node_stays(batch.origin.node),
            Command::NodeDown { node, incarnation } => self.node_down(*node, *incarnation, out),
            Command::NodeRemoved { node } => self.node_removed(*node, out),
            Command::Tick => self.tick(out),
            Command::EndSession { client_id } => self.end_by_operator(client_id, out),
            Command::WithdrawWill { client_id, epoch } => self.withdraw_will(client_id, *epoch),
            Command::NodeAdded { name, host } => self.node_added(name, host, stamp),
            Command::NameRemoved { name } => self.name_removed(name, stamp),
            Command::NodeRules { rules } => self.node_rules(batch.origin.node, rules),
        }
    }

    /// The session, if the connection of `epoch` still has it.
    pub(super) fn owned(&self, client_id: &Utf8, epoch: Epoch) -> Option<SessionPlace> {
        let place = self.sessions.find(client_id)?;
        let session = &self.sessions[place];
        (session.epoch == epoch && self.connection_of(session).is_some()).then_some(place)
    }

    fn release(&mut self, client_id: &Utf8, epoch: Epoch, packet_id: PacketId) -> Outcome {
        let Some(place) = self.owned(client_id, epoch) else { return Outcome::Superseded };
        let existed = self.sessions[place].remove_inbound(packet_id);
        if existed {
            self.unwritten(place).inbound = true;
        }
        Outcome::Released { existed }
    }

    /// Adds an effect unless it concerns another node only.
    pub(super) fn add_effect(&self, effect: Effect, out: &mut Vec<Effect>) {
        let wanted = match (&effect, self.effects_for) {
            (Effect::QueueGrew { owner } | Effect::DeliverNow { owner, .. }, Some(node)) => owner.node == node,
            (Effect::ChooseAgain { node: told, .. }, Some(node)) => *told == node,
            _ => true,
        };
        if wanted {
            out.push(effect);
        }
    }
}
