//! Applying one entry of the log.
//! Always true: the time of the state never goes back; an entry's commands are applied all or none; each command is
//! stamped with the entry's index and its place, which makes epochs and orders of subscription.
use super::State;
use crate::{
    ids::{Epoch, LogIndex},
    state::{Batch, Command, DisconnectCommand, Effect, Outcome, Word, effects::Effects, sessions::SessionPlace},
};
use mosquorum_proto::mqtt::Utf8;

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
        if index <= self.now.index {
            return;
        }
        self.now.index = index;
        if !self.nodes.accept(batch) {
            return;
        }
        out.accepted = true;
        self.now.time = self.now.time.max(batch.time);
        self.steps.begin_entry();
        let mut effects = Effects::new(&mut out.effects, self.effects_for, batch.origin.node);
        for (place, command) in batch.commands.iter().enumerate() {
            let place = place.min(BATCH_COMMANDS_MAX - 1) as u64;
            let outcome = self.apply_command(index.0 << STAMP_BITS | place, batch, command, &mut effects);
            out.outcomes.push(outcome);
        }
        if self.sessions.has_aside() {
            self.session_handler().clear_some_remains();
        }
        if self.in_memory {
            self.forget_changes();
        }
    }

    /// Notes an entry that has no batch (membership, a new leader's blank).
    pub fn advance(&mut self, index: LogIndex) {
        self.now.index = self.now.index.max(index);
    }

    fn apply_command(&mut self, stamp: u64, batch: &Batch, command: &Command, out: &mut Effects<'_>) -> Outcome {
        match command {
            Command::Publish(publish) => return self.publish_handler().publish(publish, out),
            Command::Acknowledge { client_id, epoch, .. }
            | Command::Release { client_id, epoch, .. }
            | Command::Subscribe { client_id, epoch, .. }
            | Command::Unsubscribe { client_id, epoch, .. }
            | Command::WithdrawWill { client_id, epoch }
            | Command::Disconnect(DisconnectCommand { client_id, epoch, .. }) => {
                let Some(place) = self.owned(client_id, *epoch) else { return Outcome::Superseded };
                return self.apply_of_connection(place, stamp, command, out);
            }
            Command::Connect(connect) => {
                if !self.nodes.may_own(&connect.owner) {
                    return Outcome::Superseded;
                }
                return self.session_handler().connect(connect, Epoch(stamp), out);
            }
            Command::NodeUp { name } => self.node_handler().node_up(batch.origin, name, out),
            Command::NodeDraining => self.nodes.set_draining(batch.origin.node, true),
            Command::NodeStays => self.nodes.set_draining(batch.origin.node, false),
            Command::NodeDown { node, incarnation } => self.node_handler().node_down(*node, *incarnation, out),
            Command::NodeRemoved { node } => self.node_handler().node_removed(*node, out),
            Command::NodeRules { rules } => self.node_handler().node_rules(batch.origin.node, rules),
            Command::Tick => self.session_handler().tick(out),
            Command::EndSession { client_id } => self.session_handler().end_by_operator(client_id, out),
            Command::NodeAdded { name, host } => {
                self.admissions.say(name, Word::Added { host: host.clone() }, stamp);
            }
            Command::NameRemoved { name } => self.admissions.say(name, Word::Removed, stamp),
        }
        Outcome::Done
    }

    /// The session, if the connection of `epoch` still has it.
    fn owned(&self, client_id: &Utf8, epoch: Epoch) -> Option<SessionPlace> {
        let place = self.sessions.find(client_id)?;
        self.connections.is_owned(&self.sessions[place], epoch).then_some(place)
    }

    /// A command of the connection that has the session.
    fn apply_of_connection(
        &mut self,
        place: SessionPlace,
        stamp: u64,
        command: &Command,
        out: &mut Effects<'_>,
    ) -> Outcome {
        match command {
            Command::Acknowledge { acks, .. } => self.queue_handler().acknowledge(place, acks),
            Command::Release { packet_id, .. } => {
                let existed = self.queue_handler().remove_inbound(place, *packet_id);
                return Outcome::Released { existed };
            }
            Command::Subscribe { subscriptions, identifier, .. } => {
                let mut publishing = self.publish_handler();
                let existed = publishing.subscriptions().subscribe(place, subscriptions, *identifier, stamp, out);
                return Outcome::Subscribed { existed };
            }
            Command::Unsubscribe { filters, .. } => {
                let existed = self.publish_handler().subscriptions().unsubscribe(place, filters, out);
                return Outcome::Unsubscribed { existed };
            }
            Command::WithdrawWill { .. } => self.queue_handler().lives().withdraw_will(place),
            Command::Disconnect(disconnect) => self.session_handler().disconnect(place, disconnect, out),
            // Others are nobody's connection's.
            _ => {}
        }
        Outcome::Done
    }
}
