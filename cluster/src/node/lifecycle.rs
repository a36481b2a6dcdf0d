//! A node in its cluster: it enters, is admitted, serves under one incarnation after the other, leaves.
//! Always true: nothing leaves the node under an incarnation that has ended; a stop or restart changes no membership.
use super::{
    duties,
    open::Opened,
    shared::{Identity, NodeParts},
    timekeeping,
};
use crate::{
    consensus::{IncarnationEvent, Sender},
    events::EVENTS,
    ids::{Incarnation, NodeId},
    membership::{FOUNDER, Pauses, ask_first, changes, events, finish, forget, forming, introductions, own_address},
    raft::{Engine, EngineStart, PeerIdentity},
    state::Command,
    transport::{Purpose, services::raft::membership_client::MembershipClient},
};
use mosquorum_proto::peer::raft as wire;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tonic::Status;
use tracing::{info, warn};

const CALL_TIMEOUT: Duration = Duration::from_secs(15);
const INVITATION_CHECK: Duration = Duration::from_millis(200);
/// Leads the node into its cluster and keeps it serving, as long as the process runs.
pub(crate) async fn run(
    shared: Arc<NodeParts>,
    opened: Option<Opened>,
    events: mpsc::UnboundedReceiver<IncarnationEvent>,
) {
    let opened = match opened {
        Some(opened) => opened,
        None => match enter(&shared).await {
            Ok(opened) => opened,
            Err(reason) => return shared.fail(reason),
        },
    };
    let engine = match start_engine(&shared, opened).await {
        Ok(engine) => engine,
        Err(reason) => return shared.fail(reason),
    };
    let sender = Sender {
        proposer: shared.proposer.clone(),
        engine: engine.clone(),
        transport: shared.transport.clone(),
        clock: shared.clock.clone(),
    };
    tokio::spawn(sender.run());
    let applied = engine.replica.watch_applied();
    tokio::spawn(shared.barriers.clone().run(engine.clone(), shared.transport.clone(), applied));
    tokio::spawn(duties::checkpoints(shared.clone(), engine.clone()));
    tokio::spawn(duties::ticks(shared.clone(), engine.clone()));
    tokio::spawn(timekeeping::run(shared.clone(), engine.clone()));
    tokio::spawn(duties::watch(shared.clone(), engine.clone()));
    tokio::spawn(forget::run(shared.clone(), engine.clone()));
    tokio::spawn(finish::run(shared.clone(), engine.clone()));
    tokio::spawn(introductions::run(shared.clone(), engine.clone()));
    tokio::spawn(events::run(shared.clone(), engine.clone()));
    become_voter(&shared, &engine).await;
    await_founding_majority(&shared, &engine).await;
    if let Err(reason) = first_snapshot(&shared, &engine).await {
        return shared.fail(reason);
    }
    serve(shared, engine, events).await;
}

/// Forms or joins a cluster and binds the empty directory to it.
async fn enter(shared: &Arc<NodeParts>) -> Result<Opened, String> {
    let admitted = forming::obtain(shared).await?;
    let mut disk = shared.disk.lock().await;
    let name = shared.settings.name.clone();
    disk.directory.initialise(admitted.cluster, admitted.node, &name, 1).map_err(|e| e.to_string())?;
    info!(node = admitted.node, "data directory bound to the cluster");
    disk.open_node(shared.state.clone(), shared.hub.clone()).map_err(|e| e.to_string())
}

async fn start_engine(shared: &Arc<NodeParts>, opened: Opened) -> Result<Arc<Engine>, String> {
    let identity =
        Identity { cluster: opened.identity.cluster_id, node: opened.identity.node_id, boots: opened.identity.boots };
    if opened.identity.node_name != shared.settings.name {
        warn!(
            was = opened.identity.node_name,
            now = shared.settings.name,
            "the node's name changed; the old one stays in use in the cluster"
        );
    }
    shared.disk.lock().await.mark_log_used().map_err(|e| e.to_string())?;
    shared.set_log(opened.log.clone());
    timekeeping::begin(shared, &opened.replica, identity.node == FOUNDER);
    let engine = Engine::start(EngineStart {
        log: opened.log,
        replica: opened.replica,
        clock: shared.clock.clone(),
        transport: shared.transport.clone(),
        identity: PeerIdentity { cluster: identity.cluster, node: identity.node },
    })
    .await
    .map_err(|e| e.to_string())?;
    shared.hub.start_reporting(NodeId(identity.node));
    let founder = identity.node == FOUNDER;
    shared.set_identity(identity);
    shared.engine.store(Some(engine.clone()));
    let for_calls = Arc::downgrade(&engine);
    shared.transport.set_guard(move |peer| match for_calls.upgrade() {
        Some(engine) => engine.check_certificate(peer),
        None => Err(Status::unavailable("the node is shutting down")),
    });
    let for_detours = Arc::downgrade(&engine);
    shared.transport.set_neighbours(move || for_detours.upgrade().map(|engine| engine.neighbours()));
    if founder && opened.pristine {
        let advertise = own_address(shared);
        engine.initialize(&shared.settings.name, &advertise).await.map_err(|e| e.to_string())?;
    }
    let view = engine.view();
    if view.voters() == 1 && view.member(engine.node()).is_some_and(|m| m.voter) {
        engine.elect_now().await;
    }
    Ok(engine)
}

/// Asks for admission to the voters until this node is one.
async fn become_voter(shared: &Arc<NodeParts>, engine: &Arc<Engine>) {
    let mut reminded = forming::Reminded::default();
    let mut pauses = Pauses::new();
    if engine.view().members.is_empty() {
        // Whose entries it takes before its log says who the members are.
        introductions::ask(shared, engine).await;
    }
    loop {
        let view = engine.view();
        let own = view.member(engine.node());
        if own.is_some_and(|m| m.voter) {
            if own.is_some_and(|m| m.address != own_address(shared)) {
                tokio::spawn(announce_address(shared.clone(), engine.clone()));
            }
            return shared.set_kept_out(None);
        }
        // A log that has members and not this node is that of a node that was removed: no number is used twice.
        let removed = own.is_none() && !view.members.is_empty() && view.applied > engine.node();
        if removed && !shared.invitation.lock().is_empty() {
            return begin_anew(shared).await;
        }
        let answer = if removed {
            Err("this node was removed from the cluster; `mosquorum cluster add` on a member takes it in again"
                .to_owned())
        } else {
            ask_to_join(shared, engine).await
        };
        if let Err(reason) = answer {
            let line = format!("this node is no voter of its cluster yet: {reason}");
            if reminded.is_due(&reason, Instant::now()) {
                warn!(target: EVENTS, "{line}");
            }
            shared.set_kept_out(Some(line));
        }
        pauses.pause().await;
    }
}

/// Sends one request to join to the leader, or to whoever may know it.
async fn ask_to_join(shared: &Arc<NodeParts>, engine: &Engine) -> Result<(), String> {
    let request = wire::JoinRequest {
        cluster: engine.identity.cluster.to_vec().into(),
        node: engine.node(),
        name: shared.settings.name.clone(),
        address: own_address(shared),
        was_member: engine.view().member(engine.node()).is_some(),
        proven: vec![shared.settings.name.clone()],
        ..Default::default()
    };
    if engine.is_leader() {
        return changes::join(shared, &request).await.map(drop).map_err(|error| error.to_string());
    }
    let mut last = Err("no listed peer answers".to_owned());
    for address in ask_first(shared, &engine.view()) {
        let mut client = MembershipClient::new(shared.transport.channel(&address, Purpose::Control));
        last = match timeout(CALL_TIMEOUT, client.join(request.clone())).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(status)) => Err(forming::why(shared, &address, &status).to_string()),
            Err(_) => Err(format!("{address} does not answer in time")),
        };
    }
    last
}

/// The node came back under another address than the cluster knows.
async fn announce_address(shared: Arc<NodeParts>, engine: Arc<Engine>) {
    for _ in 0..50 {
        let own = own_address(&shared);
        if engine.view().member(engine.node()).is_none_or(|m| m.address == own) {
            return;
        }
        if let Err(reason) = ask_to_join(&shared, &engine).await {
            tracing::debug!(%reason, "address not announced yet");
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// A cluster that is being formed serves nobody before a majority of the listed nodes votes: what it acknowledges is to
/// survive the loss of a disk. A founder that has served was through with it, however often it starts and however small
/// the cluster became since.
async fn await_founding_majority(shared: &NodeParts, engine: &Engine) {
    let wanted = shared.settings.forming_set().len() / 2 + 1;
    let never_served = || shared.state.read().last_incarnation(NodeId(FOUNDER)) == Incarnation(0);
    while engine.node() == FOUNDER && engine.view().voters() < wanted && never_served() {
        sleep(Duration::from_millis(20)).await;
    }
}

/// The file that restores a node alone exists before anything is acknowledged.
async fn first_snapshot(shared: &Arc<NodeParts>, engine: &Arc<Engine>) -> Result<(), String> {
    let exists = engine.replica.current_snapshot().is_some();
    if shared.settings.snapshot_path.is_none() || exists {
        return Ok(());
    }
    let mut applied = engine.replica.watch_applied();
    if applied.wait_for(|applied| *applied > 0).await.is_err() {
        return Ok(());
    }
    duties::make_snapshot(shared, engine).await.map_err(|e| format!("first snapshot: {e}"))
}

/// Serves under one incarnation after the other.
async fn serve(shared: Arc<NodeParts>, engine: Arc<Engine>, mut events: mpsc::UnboundedReceiver<IncarnationEvent>) {
    let mut current = begin_incarnation(&shared);
    let mut member = tokio::time::interval(Duration::from_millis(500));
    let mut reminded = forming::Reminded::default();
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = member.tick() => {
                let view = engine.view();
                let left = !view.members.is_empty() && view.member(engine.node()).is_none();
                let standing = match left {
                    true => forming::Standing::Removed,
                    false if engine.has_majority() => forming::Standing::Unclear,
                    false => forming::ask_standing(&shared, &view).await,
                };
                match standing {
                    forming::Standing::Removed => return removed(&shared, current).await,
                    forming::Standing::Odd(reason) => {
                        let line = format!("this node finds no majority: {reason}");
                        if reminded.is_due(&reason, Instant::now()) {
                            warn!(target: EVENTS, "{line}");
                        }
                        shared.set_kept_out(Some(line));
                    }
                    forming::Standing::Unclear => shared.set_kept_out(None),
                }
                continue;
            }
        };
        match event {
            None => return,
            Some(IncarnationEvent::Up(incarnation)) if Some(incarnation) == current => {
                info!(incarnation = incarnation.0, "serving");
                shared.set_serving(true);
            }
            Some(IncarnationEvent::Ended(incarnation)) if Some(incarnation) >= current => {
                end_incarnation(&shared, current, "its lease is over").await;
                current = begin_incarnation(&shared);
            }
            Some(IncarnationEvent::Replaced) => {
                info!(target: EVENTS, "this node's state was restored from a snapshot of the leader");
                end_incarnation(&shared, current, "a snapshot took the place of the state").await;
                current = begin_incarnation(&shared);
            }
            Some(IncarnationEvent::Up(_) | IncarnationEvent::Ended(_)) => {}
        }
    }
}

fn begin_incarnation(shared: &NodeParts) -> Option<Incarnation> {
    let origin = shared.next_origin()?;
    let name = shared.settings.name.as_str().into();
    shared.proposer.restart(Some(origin), Some(Command::NodeUp { name }));
    Some(origin.incarnation)
}

/// Nothing more may leave this node under the incarnation: its connections close before the next one begins.
async fn end_incarnation(shared: &Arc<NodeParts>, incarnation: Option<Incarnation>, reason: &'static str) {
    shared.set_serving(false);
    shared.proposer.restart(None, None);
    shared.barriers.clear();
    let Some(incarnation) = incarnation else { return };
    warn!(incarnation = incarnation.0, reason, "incarnation ended, connections close");
    let live = shared.live.clone();
    let _ = tokio::task::spawn_blocking(move || live.lease_lost(incarnation)).await;
}

async fn removed(shared: &Arc<NodeParts>, incarnation: Option<Incarnation>) {
    end_incarnation(shared, incarnation, "this node was removed from the cluster").await;
    let line = "this node was removed from the cluster: it serves nobody any more; `mosquorum cluster add` on a member takes \
                it in again";
    warn!(target: EVENTS, "{line}");
    shared.set_kept_out(Some(line.to_owned()));
    while shared.invitation.lock().is_empty() {
        sleep(INVITATION_CHECK).await;
    }
    begin_anew(shared).await;
}

/// An operator added a node that had been removed: its next start joins with an empty directory.
async fn begin_anew(shared: &Arc<NodeParts>) {
    let marked = shared.disk.lock().await.mark_left();
    shared.fail(match marked {
        Ok(()) => "this node was removed and is added again: it stops, and joins under a new number when it is started"
            .to_owned(),
        Err(error) => error.to_string(),
    });
    // The process ends.
    std::future::pending::<()>().await;
}
