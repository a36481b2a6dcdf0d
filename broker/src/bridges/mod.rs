//! Bridges: `connection` blocks as tasks. The logic is in the crate `mosquorum_bridge`; here are sockets and time.
//! Always true: each block has one task per node, and at most one of the cluster has the bridge's local session, without
//! which nothing is said to the remote; nothing of a bridge runs on a connection's or listener's task.
mod dial;
mod internal_listener;
mod local;
mod placement;
mod relay_loop;
mod report;
pub mod state;
mod status;
mod supervisor;
mod wire;

use crate::{broker::Broker, metrics::model::Reading};
use state::{Progress, Running, Wanted};
use status::Status;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::sync::watch;

/// How long bridges have to end at a stop.
const READY_CHECK: Duration = Duration::from_millis(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts the bridges of the settings, once the state can be written.
pub async fn begin(broker: &Arc<Broker>) {
    while !(broker.consensus.available() && broker.peers.ready() && broker.peers.may_serve()) {
        tokio::time::sleep(READY_CHECK).await;
    }
    if !broker.clustered {
        local::forget_announcements(broker, &broker.bridges.listener).await;
    }
    broker.bridges.begun.store(true, Ordering::Release);
    apply(broker);
    // Bridges that were in the configuration before the start.
    for client_id in local::left_behind(broker) {
        broker.bridges.note_orphan(&client_id);
        let expiry = broker.settings.load().bridge_orphan_expiry;
        local::orphan(broker, &broker.bridges.listener, &client_id, expiry).await;
    }
}

/// Whether each bridge of this node has its subscriptions, so that what is published from now on waits for it, and has
/// tried to connect, if that ends soon.
pub fn are_prepared(broker: &Broker) -> bool {
    broker.bridges.begun.load(Ordering::Acquire)
        && broker
            .bridges
            .running
            .lock()
            .iter()
            .all(|(name, bridge)| bridge.progress.borrow().is_enough() || !placement::is_here(broker, name))
}

/// Makes the running bridges those of the settings; what did not change is not touched.
pub fn apply(broker: &Arc<Broker>) {
    if !broker.bridges.begun.load(Ordering::Acquire) {
        return;
    }
    let settings = broker.settings.load_full();
    if settings.bridges.iter().any(|bridge| bridge.settings.loop_mark) {
        broker.loop_ids.want();
    }
    let mut running = broker.bridges.running.lock();
    running.retain(|name, bridge| {
        let kept = settings.bridges.iter().any(|config| config.settings.name == *name);
        if !kept {
            broker.bridges.note_orphan(&bridge.config.settings.local_client_id);
            let _ = bridge.wanted.send(Wanted::Removed);
        }
        kept
    });
    for config in &settings.bridges {
        match running.get_mut(&config.settings.name) {
            Some(bridge) if *bridge.config == **config => {}
            Some(bridge) => {
                let former = &bridge.config.settings.local_client_id;
                if *former != config.settings.local_client_id {
                    broker.bridges.note_orphan(former);
                }
                bridge.config = config.clone();
                let _ = bridge.wanted.send(Wanted::Run(config.clone()));
            }
            None => {
                let (wanted, receiver) = watch::channel(Wanted::Run(config.clone()));
                let (sender, progress) = watch::channel(Progress::Begun);
                let (broker, listener) = (broker.clone(), broker.bridges.listener.clone());
                let status = Arc::new(Status::default());
                let task = tokio::spawn(supervisor::run(broker, listener, receiver, sender, status.clone()));
                let name = config.settings.name.clone();
                running.insert(name, Running { config: config.clone(), status, progress, wanted, task });
            }
        }
    }
    let status = |bridge: &Running| (bridge.config.settings.local_client_id.clone(), bridge.status.clone());
    broker.bridges.statuses.store(Arc::new(running.values().map(status).collect()));
}

/// What each bridge of the configuration has done on this node.
pub fn read_metrics(broker: &Broker, reading: &mut Reading) {
    let all: Vec<_> =
        broker.bridges.running.lock().values().map(|bridge| (bridge.config.clone(), bridge.status.clone())).collect();
    report::read_metrics(broker, &all, reading);
}

/// Ends all of them, so that other nodes can take them over.
pub async fn stop(broker: &Broker) {
    let all = std::mem::take(&mut *broker.bridges.running.lock());
    for bridge in all.values() {
        let _ = bridge.wanted.send(Wanted::Stop);
    }
    let _ = tokio::time::timeout(STOP_TIMEOUT, async {
        for (_, bridge) in all {
            let _ = bridge.task.await;
        }
    })
    .await;
}
