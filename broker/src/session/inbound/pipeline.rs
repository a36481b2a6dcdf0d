//! Messages between arrival and acknowledgement, and the three orders in which they are proposed, delivered and
//! acknowledged.
//! Always true: all three are the order in which the messages came.
//! Not here: what the client gets as an acknowledgement (`inbound`).
use crate::{
    live::router::{Choice, Targets},
    planted,
    session::{Env, SessionError, SessionOptions},
    ticket,
};
use mosquorum_cluster::{
    Answer,
    ids::{LogIndex, Millis, NodeId},
    state::{Command, Live, LoopCheck, Message, Outcome, PublishCommand, Whom},
};
use mosquorum_proto::mqtt::{QoS, TopicFilter, TopicName};
use std::{collections::VecDeque, sync::Arc};

/// Messages of one client between arrival and acknowledgement; beyond it nothing more is read from it.
const PENDING_MAX: usize = 2048;
const PENDING_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Stage {
    /// Not looked at yet, or waiting for the barrier that covers it.
    Fresh,
    BarrierPassed,
    /// Proposed.
    Commit,
    Committed,
}

/// Who serves a message's receivers.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Way {
    /// This node: there are only live subscribers.
    Direct,
    /// The log serves durable sessions, this node live subscribers ([`Live::ByOrigin`]).
    Logged,
    /// The log serves live subscribers as well ([`Live::AtApply`]).
    AtApply,
}

/// Whom a message came to.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Reach {
    /// Nobody subscribed to it, as far as is known: reason 0x10.
    Nobody,
    /// Somebody subscribed to it (a publisher with No Local counts).
    Somebody,
    /// QoS 2 packet or mark that was seen before: acknowledged, not delivered.
    SeenBefore,
}

struct Pending {
    packet_id: u16,
    message: Arc<Message>,
    stage: Stage,
    targets: Arc<Targets>,
    choices: Option<Vec<Choice>>,
    way: Way,
    /// Where it stands in the log.
    index: LogIndex,
    forwarding: bool,
    reach: Reach,
    admit: LoopCheck,
    since: Millis,
}

/// A message that is to be acknowledged.
pub(super) struct Done {
    pub(super) packet_id: u16,
    pub(super) qos: QoS,
    /// Somebody subscribed to it, or it was seen before.
    pub(super) known: bool,
}

#[derive(Default)]
pub(in crate::session) struct Pipeline {
    items: VecDeque<Pending>,
    /// Number of the first item.
    first: u64,
    /// Items before this one are proposed (or need not be); before `routed`: delivered to live subscribers.
    proposed: u64,
    routed: u64,
    /// What went last to live subscribers through the log: later messages do not overtake it on other nodes.
    applied_last: LogIndex,
    /// A barrier is under way that covers the items before this one; later ones share the next.
    barrier: Option<u64>,
    bytes: usize,
}

impl Pipeline {
    pub(in crate::session) fn is_full(&self) -> bool {
        self.items.len() >= PENDING_MAX || self.bytes >= PENDING_BYTES_MAX
    }

    pub(in crate::session) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(in crate::session) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(in crate::session) fn waiting_since(&self) -> Option<Millis> {
        self.items.front().map(|item| item.since)
    }

    /// Whether a message has not reached everybody it must reach.
    pub(in crate::session) fn has_unrouted(&self) -> bool {
        self.routed < self.first + self.items.len() as u64
    }

    fn get(&mut self, number: u64) -> Option<&mut Pending> {
        self.items.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Asks for a barrier that covers everything that waits, unless one is under way.
    fn ask_barrier(&mut self, env: &mut impl Env) {
        if self.barrier.is_none() {
            let end = self.first + self.items.len() as u64;
            self.barrier = Some(end);
            env.barrier(ticket::new(end, ticket::BARRIER));
        }
    }

    pub(super) fn barrier_passed(&mut self, end: u64) {
        self.barrier = None;
        let covered = usize::try_from(end.saturating_sub(self.first)).unwrap_or(usize::MAX);
        for item in self.items.iter_mut().take(covered).filter(|item| item.stage == Stage::Fresh) {
            item.stage = Stage::BarrierPassed;
        }
    }

    /// Whether a message of this topic before this one is still on its way to live subscribers, so that one from the log
    /// could overtake it.
    fn may_overtake(&self, number: u64, topic: &TopicName) -> bool {
        let before = usize::try_from(number - self.first).unwrap_or(0);
        let on_its_way = |(place, item): (usize, &Pending)| {
            let routed = self.first + (place as u64) < self.routed;
            item.message.qos != QoS::AtMostOnce
                && item.way != Way::AtApply
                && (!routed || item.forwarding)
                && item.message.topic == *topic
        };
        self.items.iter().take(before).enumerate().any(on_its_way)
    }

    pub(super) fn holds(&self, packet_id: u16) -> bool {
        self.items.iter().any(|item| item.packet_id == packet_id && item.message.qos == QoS::ExactlyOnce)
    }

    pub(super) fn unacknowledged(&self) -> usize {
        self.items.iter().filter(|item| item.message.qos != QoS::AtMostOnce).count()
    }

    /// A message that came.
    pub(super) fn push(
        &mut self,
        packet_id: u16,
        message: Arc<Message>,
        targets: Arc<Targets>,
        admit: LoopCheck,
        since: Millis,
    ) {
        self.bytes += message.size_bytes();
        self.items.push_back(Pending {
            packet_id,
            message,
            stage: Stage::Fresh,
            targets,
            choices: None,
            way: Way::Direct,
            index: LogIndex(0),
            forwarding: false,
            reach: Reach::Nobody,
            admit,
            since,
        });
    }

    /// The log has decided about a message. Returns a QoS 2 packet that it has seen before.
    pub(super) fn on_commit(
        &mut self,
        number: u64,
        answer: Answer,
        env: &mut impl Env,
    ) -> Result<Option<(u16, &Message)>, SessionError> {
        let Some(item) = self.get(number) else { return Ok(None) };
        if item.message.properties.is_some() {
            env.trace_committed(&item.message, item.since);
        }
        let Answer::Applied { outcome, index } = answer else { return Ok(None) };
        match outcome {
            Outcome::Published { matched, duplicate } => {
                item.stage = Stage::Committed;
                item.index = index;
                if duplicate {
                    item.reach = Reach::SeenBefore;
                    return Ok(Some((item.packet_id, &*item.message)));
                }
                if matched > 0 || item.targets.durable {
                    item.reach = Reach::Somebody;
                }
            }
            Outcome::KnownMark => (item.stage, item.reach) = (Stage::Committed, Reach::SeenBefore),
            Outcome::Superseded => return Err(SessionError::Superseded),
            _ => item.stage = Stage::Committed,
        }
        Ok(None)
    }

    /// Every living node has placed what was forwarded of a message.
    pub(super) fn on_forwarded(&mut self, number: u64) {
        if let Some(item) = self.get(number) {
            item.forwarding = false;
        }
    }

    /// Takes every item as far as it may go: proposes and delivers, each in order.
    pub(super) fn go_on(&mut self, options: &SessionOptions, env: &mut impl Env) {
        loop {
            let mut moved = false;
            while self.propose_next(options, env) {
                moved = true;
            }
            while self.route_next(options, env) {
                moved = true;
            }
            if !moved {
                break;
            }
        }
    }

    /// The next message to be acknowledged, if all is done that this promises.
    pub(super) fn pop_done(&mut self) -> Option<Done> {
        let front = self.items.front()?;
        if front.stage != Stage::Committed || front.forwarding || self.routed == self.first {
            return None;
        }
        let item = self.items.pop_front()?;
        self.first += 1;
        self.bytes -= item.message.size_bytes();
        Some(Done { packet_id: item.packet_id, qos: item.message.qos, known: item.reach != Reach::Nobody })
    }

    fn propose_next(&mut self, options: &SessionOptions, env: &mut impl Env) -> bool {
        let number = self.proposed;
        let (durable_publisher, epoch) = (options.durable, options.epoch);
        let Some(item) = self.get(number) else { return false };
        let exactly_once = durable_publisher && item.message.qos == QoS::ExactlyOnce;
        let decided_by_log = item.message.retain || item.admit != LoopCheck::Always || exactly_once;
        if decided_by_log {
            let topic = item.message.topic.clone();
            if self.may_overtake(number, &topic) {
                return false;
            }
        }
        let Some(item) = self.get(number) else { return false };
        if item.stage == Stage::BarrierPassed {
            item.targets = env.targets(&item.message.topic);
        }
        let qos0 = item.message.qos == QoS::AtMostOnce;
        let durable = if qos0 { item.targets.queues_qos0 } else { item.targets.durable };
        let through_log = decided_by_log || durable;
        if item.stage == Stage::Fresh && !through_log && !qos0 && env.needs_barrier() {
            self.ask_barrier(env);
            return false;
        }
        let choices = env.choose(&item.targets, &item.message, through_log);
        if through_log {
            let groups = item.targets.groups.iter().zip(&choices);
            let groups_served = groups
                .filter(|(group, choice)| group.durable > 0 && !matches!(choice, Choice::Durable | Choice::Nobody))
                .map(|(group, _)| group.filter.clone())
                .collect();
            item.stage = Stage::Commit;
            let (way, live) = if decided_by_log && planted::log_delivers() {
                (Way::AtApply, Live::AtApply { groups: chosen_nodes(&choices, env.node()) })
            } else {
                (Way::Logged, Live::ByOrigin)
            };
            item.way = way;
            let publish = PublishCommand {
                message: item.message.clone(),
                epoch,
                packet_id: exactly_once.then_some(item.packet_id),
                groups_served,
                whom: Whom::but(&item.targets.unreadable),
                admit: item.admit,
                live,
            };
            item.choices = Some(choices);
            env.submit(Command::Publish(publish), ticket::new(number, ticket::COMMIT));
        } else {
            item.stage = Stage::Committed;
            item.choices = Some(choices);
        }
        self.proposed += 1;
        true
    }

    fn route_next(&mut self, options: &SessionOptions, env: &mut impl Env) -> bool {
        let number = self.routed;
        if number >= self.proposed {
            return false;
        }
        let durable_publisher = options.durable;
        let applied_last = self.applied_last;
        let Some(item) = self.get(number) else { return false };
        // A repeated QoS 2 message, or one of a known mark, is recognised only by its commit.
        let waits = item.message.retain
            || item.admit != LoopCheck::Always
            || (durable_publisher && item.message.qos == QoS::ExactlyOnce);
        if item.stage != Stage::Committed && waits {
            return false;
        }
        if item.reach != Reach::SeenBefore {
            if item.message.retain {
                // Subscriptions may have come since; a retained message reaches them by one way or the other.
                item.targets = env.targets(&item.message.topic);
            }
            let choices = item.choices.take().unwrap_or_default();
            let answered = (item.message.qos != QoS::AtMostOnce).then(|| ticket::new(number, ticket::FORWARD));
            if !item.targets.live.sessions.is_empty()
                || !item.targets.groups.is_empty()
                || !item.targets.remote.nodes.is_empty()
            {
                item.reach = Reach::Somebody;
            }
            if item.way == Way::AtApply {
                let mut elsewhere = chosen_nodes(&choices, env.node());
                elsewhere.retain(|(_, node)| *node != env.node());
                item.forwarding =
                    !elsewhere.is_empty() && env.watch_groups(&item.message, elsewhere, item.index, answered);
                let index = item.index;
                self.applied_last = index;
            } else {
                let logged = item.way != Way::Direct;
                item.forwarding = env.deliver(&item.message, &item.targets, choices, logged, applied_last, answered);
            }
        }
        self.routed += 1;
        true
    }
}

/// The nodes that give a message to a member without a durable session, group by group.
fn chosen_nodes(choices: &[Choice], here: NodeId) -> Vec<(TopicFilter, NodeId)> {
    let node = |choice: &Choice| match choice {
        Choice::Here(_, filter) => Some((filter.clone(), here)),
        Choice::Elsewhere(filter, node) => Some((filter.clone(), *node)),
        Choice::DurableHere(..) | Choice::Durable | Choice::Nobody => None,
    };
    choices.iter().filter_map(node).collect()
}
