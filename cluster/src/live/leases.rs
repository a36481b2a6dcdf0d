//! Leases in operation: pings to every member, grants to them, the watch over this node's own lease, and as leader over
//! everybody's.
//! Always true: `valid_until` is the end of the lease of the present incarnation if this node may serve, and zero if not.
use super::{
    context::{ClusterContext, ClusterView},
    lease::{
        Action, Grantor, LAG_MAX, Lag, LeaseHolder, LeaseTimes, Question, RefusalStore, Standing, Suspicions, Watched,
    },
};
use crate::{
    facade::LiveSide,
    ids::{Incarnation, Millis, NodeId},
    machine_clock as clock,
    node::walls::Clocks,
    state::Origin,
    transport::{Purpose, services::live::peer_client::PeerClient},
};
use mosquorum_proto::peer::live::{Address, PingRequest, SuspectRequest};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::Status;
use tracing::{debug, error, info, warn};

const WATCH_INTERVAL: Duration = Duration::from_millis(20);
const SUSPECT_TIMEOUT: Duration = Duration::from_millis(400);
/// Pings to one node on their way at most.
const PINGS_MAX: usize = 4;
/// What a ping takes at most, as far as the lag of a node is concerned.
const PING_TRIP: Duration = Duration::from_millis(300);
/// How long an incarnation goes on that some voter refuses while a majority still grants.
const REFUSED_GRACE: Duration = Duration::from_secs(2);

pub(crate) struct Leases {
    context: Arc<dyn ClusterContext>,
    live: Arc<dyn LiveSide>,
    times: LeaseTimes,
    store: Arc<dyn RefusalStore>,
    valid_until: AtomicU64,
    /// The incarnation that this is about; written before `valid_until`, read after it.
    incarnation: AtomicU64,
    /// Routes of every serving node are known.
    ready: AtomicBool,
    inner: Mutex<LeaseState>,
    suspicions: Mutex<Suspicions>,
}

struct LeaseState {
    me: Origin,
    holder: LeaseHolder,
    /// The incarnation whose end was reported.
    ended: Incarnation,
    refused_since: Option<Duration>,
    lag: Lag,
    /// `None` until this node knows who it is and what it refused before.
    grantor: Option<Grantor>,
}

impl Leases {
    pub(crate) fn new(
        context: Arc<dyn ClusterContext>,
        live: Arc<dyn LiveSide>,
        times: LeaseTimes,
        store: Arc<dyn RefusalStore>,
    ) -> Arc<Self> {
        let me = Origin { node: NodeId(0), incarnation: Incarnation(0) };
        let inner = LeaseState {
            me,
            holder: LeaseHolder::new(me.node, times),
            ended: Incarnation(0),
            refused_since: None,
            lag: Lag::default(),
            grantor: None,
        };
        Arc::new(Self {
            context,
            live,
            times,
            store,
            valid_until: AtomicU64::new(0),
            incarnation: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            inner: Mutex::new(inner),
            suspicions: Mutex::default(),
        })
    }

    pub(crate) fn may_serve(&self) -> bool {
        clock::now_nanos() < self.valid_until.load(Ordering::Acquire)
    }

    /// A connection of an earlier incarnation may not do what the present one may.
    pub(crate) fn may_serve_as(&self, incarnation: Incarnation) -> bool {
        self.may_serve() && self.incarnation.load(Ordering::Acquire) == incarnation.0
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The routes of every serving node are known to this incarnation.
    pub(crate) fn set_ready(&self, incarnation: Incarnation) {
        let mut inner = self.inner.lock();
        if inner.me.incarnation == incarnation {
            self.ready.store(true, Ordering::Release);
            // What it lacked before it served anybody was to be expected.
            inner.lag = Lag::default();
            self.publish(&mut inner);
        }
    }

    fn publish(&self, inner: &mut LeaseState) {
        let until = match inner.holder.standing(clock::now()) {
            Standing::Valid { until } if self.is_ready() && inner.me.incarnation > inner.ended => clock::nanos(until),
            _ => 0,
        };
        self.incarnation.store(inner.me.incarnation.0, Ordering::Release);
        self.valid_until.store(until, Ordering::Release);
    }

    /// Takes over what the view says of incarnations and voters.
    pub(crate) fn follow(&self, view: &ClusterView) {
        let now = clock::now();
        let mut inner = self.inner.lock();
        if inner.me != view.me {
            self.ready.store(false, Ordering::Release);
            inner.me = view.me;
            inner.refused_since = None;
            inner.lag = Lag::default();
            inner.holder = LeaseHolder::new(view.me.node, self.times);
            if inner.grantor.is_none() && view.me.node != NodeId(0) {
                inner.grantor = self.load_grantor(now, view.me);
            }
        }
        if view.me.incarnation != Incarnation(0) {
            inner.holder.set_voters(now, view.voters.clone());
        }
        if let Some(grantor) = &mut inner.grantor {
            grantor.set_incarnation(view.me.incarnation);
            grantor.set_voters(now, view.voters.index);
            view.incarnations.iter().for_each(|(node, known)| grantor.ended(*node, known.ended));
        }
        self.publish(&mut inner);
    }

    fn load_grantor(&self, now: Duration, me: Origin) -> Option<Grantor> {
        match self.store.load() {
            Ok(refused) => Some(Grantor::new(now, me.node, me.incarnation, self.times, refused)),
            Err(error) => {
                error!(%error, "what this node refused before cannot be read: it grants no leases");
                None
            }
        }
    }

    /// Whether a ping is granted, and the newest set of voters known here.
    #[allow(clippy::result_large_err)] // tonic's own type
    pub(crate) fn grant(&self, node: NodeId, incarnation: Incarnation) -> Result<(bool, u64), Status> {
        let mut inner = self.inner.lock();
        let grantor = inner.grantor.as_mut().ok_or_else(|| Status::unavailable("this node grants nothing yet"))?;
        Ok((grantor.ping(clock::now(), node, incarnation), grantor.voters_index()))
    }

    /// Answers a leader. A refusal is on disk before it is sent.
    pub(crate) async fn answer(self: &Arc<Self>, question: Question, refuse: bool) -> bool {
        let refusals = {
            let mut inner = self.inner.lock();
            let Some(grantor) = inner.grantor.as_mut() else { return false };
            if !refuse {
                return grantor.would_refuse(clock::now(), question);
            }
            if !grantor.refuse(clock::now(), question) {
                return false;
            }
            grantor.refusals()
        };
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.store(&refusals)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                error!(%error, "refusal not written");
                false
            }
            Err(_) => false,
        }
    }

    /// Pings every member, for ever.
    pub(crate) async fn ping_all(this: Weak<Self>) {
        let Some(times) = this.upgrade().map(|this| this.times) else { return };
        let mut every = interval(times.interval);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut on_the_way: Vec<(NodeId, Arc<AtomicUsize>)> = Vec::new();
        loop {
            every.tick().await;
            let Some(this) = this.upgrade() else { return };
            let view = this.context.view().borrow().clone();
            let me = this.inner.lock().me;
            if me.incarnation == Incarnation(0) {
                continue;
            }
            on_the_way.retain(|(node, _)| view.members.contains(node));
            for node in view.members.iter().filter(|node| **node != me.node) {
                let at = on_the_way.iter().position(|(known, _)| known == node).unwrap_or_else(|| {
                    on_the_way.push((*node, Arc::default()));
                    on_the_way.len() - 1
                });
                let count = on_the_way[at].1.clone();
                if count.load(Ordering::Relaxed) < PINGS_MAX {
                    count.fetch_add(1, Ordering::Relaxed);
                    let (this, node) = (this.clone(), *node);
                    tokio::spawn(async move {
                        this.ping(me, node).await;
                        count.fetch_sub(1, Ordering::Relaxed);
                    });
                }
            }
        }
    }

    async fn ping(&self, me: Origin, node: NodeId) {
        let Some(channel) = self.context.channel(node, Purpose::Control) else { return };
        let request = PingRequest { address: Some(self.address(me, node)), incarnation: me.incarnation.0 };
        let sent = clock::now();
        let reply = timeout(self.times.length, PeerClient::new(channel).ping(request)).await;
        let reply = match reply {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return debug!(peer = %node, reason = status.message(), "ping not answered"),
            Err(_) => return,
        };
        if let Some(clocks) = reply.clocks {
            let said = Clocks { time: Millis(clocks.time), wall: Millis(clocks.wall), sure: clocks.sure };
            self.context.observe_clocks(node, said, clock::now().saturating_sub(sent));
        }
        let mut inner = self.inner.lock();
        if inner.me != me {
            return;
        }
        inner.lag.observe(
            sent.max(clock::now().saturating_sub(PING_TRIP)),
            reply.applied,
            self.context.applied_index(),
        );
        if reply.granted {
            inner.holder.granted(clock::now(), node, sent, reply.voters_index);
        } else {
            inner.holder.refused(node);
        }
        self.publish(&mut inner);
    }

    fn address(&self, me: Origin, to: NodeId) -> Address {
        Address { cluster: self.context.cluster().into(), from: me.node.0, to: to.0 }
    }

    /// Ends this node's incarnation when its lease has run out, and does a leader's duty; for ever.
    pub(crate) async fn watch(this: Weak<Self>) {
        let mut every = interval(WATCH_INTERVAL);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let Some(this) = this.upgrade() else { return };
            if let Some(incarnation) = this.incarnation_to_end() {
                let live = this.live.clone();
                // The broker's own code closes every connection: it may take its time, but not on this runtime.
                let _ = tokio::task::spawn_blocking(move || live.lease_lost(incarnation)).await;
                this.context.incarnation_over(incarnation);
            }
            this.lead();
        }
    }

    /// The present incarnation, if it must end now.
    fn incarnation_to_end(&self) -> Option<Incarnation> {
        let now = clock::now();
        let mut inner = self.inner.lock();
        let incarnation = inner.me.incarnation;
        if incarnation <= inner.ended {
            return None;
        }
        let standing = inner.holder.standing(now);
        inner.refused_since = match inner.refused_since {
            _ if !inner.holder.is_refused() => None,
            None => Some(now),
            since => since,
        };
        let refused = inner.refused_since.is_some_and(|since| now >= since + REFUSED_GRACE);
        match standing {
            Standing::Lapsed => warn!(incarnation = incarnation.0, "lease lost: no majority for too long"),
            Standing::Valid { .. } | Standing::Starting if refused => {
                info!(incarnation = incarnation.0, "some voters refuse this incarnation, another one begins");
            }
            Standing::Valid { .. } if self.is_ready() && inner.lag.is_too_long(now, self.context.applied_index()) => {
                warn!(
                    incarnation = incarnation.0,
                    "entries that other nodes applied {} s ago do not arrive here: another incarnation begins",
                    LAG_MAX.as_secs()
                )
            }
            _ => return None,
        }
        inner.ended = incarnation;
        self.publish(&mut inner);
        Some(incarnation)
    }

    fn lead(self: &Arc<Self>) {
        let view = self.context.view().borrow().clone();
        let now = clock::now();
        self.suspicions.lock().see(now, view.others_serving());
        let Some(term) = view.leading else { return self.suspicions.lock().stop() };
        let watched: Vec<_> = {
            let inner = self.inner.lock();
            let Some(grantor) = &inner.grantor else { return };
            let serving = view.others_serving();
            serving
                .map(|(node, incarnation)| {
                    let question = Question { node, incarnation, voters_index: view.voters.index };
                    Watched { node, incarnation, silent: grantor.would_refuse(now, question) }
                })
                .collect()
        };
        let asks = self.suspicions.lock().tick(now, self.times.quiet(), term, &view.voters, &watched);
        asks.into_iter().for_each(|ask| self.act(&view, term, ask));
    }

    fn act(self: &Arc<Self>, view: &ClusterView, term: u64, ask: Action) {
        match ask {
            Action::Voters { of, node, incarnation, voters_index, refuse } => {
                let question = Question { node, incarnation, voters_index };
                for voter in of {
                    tokio::spawn(self.clone().ask(view.me, term, voter, question, refuse));
                }
            }
            Action::Propose { node, incarnation } => {
                warn!(%node, incarnation = incarnation.0, "node is silent and refused by a majority: it is declared down");
                self.context.propose_down(term, node, incarnation);
            }
        }
    }

    async fn ask(self: Arc<Self>, me: Origin, term: u64, voter: NodeId, question: Question, refuse: bool) {
        let yes = if voter == me.node {
            self.answer(question, refuse).await
        } else {
            self.ask_other(me, voter, question, refuse).await
        };
        if !yes {
            return;
        }
        let ask = self.suspicions.lock().yes(clock::now(), me.node, term, voter, question, refuse);
        if let Some(ask) = ask {
            let view = self.context.view().borrow().clone();
            self.act(&view, term, ask);
        }
    }

    async fn ask_other(&self, me: Origin, voter: NodeId, question: Question, refuse: bool) -> bool {
        let Some(channel) = self.context.channel(voter, Purpose::Control) else { return false };
        let request = SuspectRequest {
            address: Some(self.address(me, voter)),
            node: question.node.0,
            incarnation: question.incarnation.0,
            voters_index: question.voters_index,
            refuse,
        };
        let reply = timeout(SUSPECT_TIMEOUT, PeerClient::new(channel).suspect(request)).await;
        matches!(reply, Ok(Ok(reply)) if reply.get_ref().yes)
    }
}
