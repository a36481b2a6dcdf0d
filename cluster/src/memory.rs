//! A node alone without persistence: commands are applied where they are submitted, nothing is kept.
//! Always true: the answer to a submission is given before `submit` returns; everything else is as with a log.
use crate::{
    admin_error::AdminError,
    facade::{
        AdminRequest, Answer, BoxFuture, ClusterStatus, Completion, Consensus, LiveSide, MemberStatus, Pressure,
        Submission,
    },
    ids::{Incarnation, LogIndex, Millis, NodeId},
    machine_clock,
    replica::clock::ClusterClock,
    state::{Applied, Batch, Command, Origin, State},
};
use mosquorum_proto::mqtt::Utf8;
use parking_lot::{Mutex, RwLock};
use std::{sync::Arc, time::Duration};

const ORIGIN: Origin = Origin { node: NodeId(1), incarnation: Incarnation(1) };

pub struct MemoryConsensus {
    state: RwLock<State>,
    /// Index of the last entry that a log would have; held while applying, so that effects leave in order.
    last: Mutex<u64>,
    live: Arc<dyn LiveSide>,
    clock: ClusterClock,
    ticked: Mutex<Duration>,
    name: String,
}

impl MemoryConsensus {
    pub fn new(name: &str, live: Arc<dyn LiveSide>) -> Arc<Self> {
        let consensus = Arc::new(Self {
            state: RwLock::new(State::in_memory()),
            last: Mutex::new(0),
            live,
            clock: ClusterClock::default(),
            ticked: Mutex::new(machine_clock::now()),
            name: name.to_owned(),
        });
        consensus.apply(vec![Command::NodeUp { name: Utf8::from(name) }]);
        consensus
    }

    /// Works off some of what is due; call it a few times a second, and again soon (let others run before) if there is
    /// more: `true`.
    pub fn tick(&self) -> bool {
        let machine = machine_clock::now();
        let passed = machine.saturating_sub(std::mem::replace(&mut *self.ticked.lock(), machine));
        self.clock.slew(machine_clock::wall(), passed);
        let now = self.now();
        let due = {
            let state = self.state.read();
            state.is_behind() || state.next_deadline().is_some_and(|due| due <= now)
        };
        if due {
            self.apply(vec![Command::Tick]);
        }
        self.state.read().is_behind()
    }

    fn apply(&self, commands: Vec<Command>) -> (Applied, LogIndex) {
        let mut last = self.last.lock();
        *last += 1;
        let index = LogIndex(*last);
        let batch = Batch { origin: ORIGIN, sequence: *last, time: self.clock.stamp(), commands };
        let mut applied = Applied::default();
        self.state.write().apply(index, &batch, &mut applied);
        let effects = std::mem::take(&mut applied.effects);
        if !effects.is_empty() {
            self.live.on_effects(effects);
        }
        (applied, index)
    }
}

impl Consensus for MemoryConsensus {
    fn submit(&self, submissions: Vec<Submission>) {
        let (commands, replies): (Vec<_>, Vec<_>) = submissions
            .into_iter()
            .map(|submission| (submission.command, (submission.reply, submission.ticket)))
            .unzip();
        let (applied, index) = self.apply(commands);
        for ((reply, ticket), outcome) in replies.into_iter().zip(applied.outcomes) {
            reply.complete(ticket, Answer::Applied { outcome, index });
        }
    }

    fn barrier(&self, reply: Arc<dyn Completion>, ticket: u64) {
        reply.complete(ticket, Answer::BarrierPassed);
    }

    fn state(&self) -> &RwLock<State> {
        &self.state
    }

    fn origin(&self) -> Origin {
        ORIGIN
    }

    fn now(&self) -> Millis {
        self.clock.now()
    }

    fn pressure(&self) -> Pressure {
        Pressure::Low
    }

    fn available(&self) -> bool {
        true
    }

    fn checkpoint(&self) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn status(&self) -> ClusterStatus {
        let index = LogIndex(*self.last.lock());
        ClusterStatus {
            node: ORIGIN.node,
            name: self.name.clone(),
            leader: Some(ORIGIN.node),
            term: 1,
            commit: index,
            applied: index,
            last: index,
            majority: true,
            members: vec![MemberStatus {
                node: ORIGIN.node,
                name: self.name.clone(),
                voter: true,
                ..MemberStatus::default()
            }],
            ..ClusterStatus::default()
        }
    }

    fn admin(&self, request: AdminRequest) -> BoxFuture<'static, Result<String, AdminError>> {
        let answer = match request {
            AdminRequest::Status => Ok("a node alone, without persistence".to_owned()),
            _ => Err(AdminError::Refused(
                "this node is alone and has no persistence: there is no cluster to change".into(),
            )),
        };
        Box::pin(async { answer })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}
