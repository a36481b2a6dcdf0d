//! One node from start to end: storage and peers, listeners, signals, stop.
//! Always true: nothing is accepted before the state is loaded and (in a cluster) this node serves; a stop notifies every
//! client, hands over what is durable and then ends with exit code 0.
use crate::{
    accept::{self, ListenError},
    admin,
    auth::{AuthFileError, SecuritySet},
    bridges,
    broker::Broker,
    carrier::{TlsFileError, TlsSet, tls::check_curves},
    config::Settings,
    descriptors,
    drain::{self, Pace},
    health::{self, Health},
    listener::Listener,
    live::Order,
    live_hub::LiveHub,
    logging::{self, lines},
    private_file,
    supervision::Manager,
    sys,
    tcp_wrappers::TcpWrappers,
    telemetry::Telemetry,
    topic_report,
};
use mosquorum_cluster::{Alone, Consensus, LiveSide, Peers, memory::MemoryConsensus};
use std::{sync::Arc, time::Duration};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

/// How long clients have to take their last bytes at a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
const READY_CHECK: Duration = Duration::from_millis(20);
const TICK: Duration = Duration::from_millis(100);

/// Why a node could not start (or go on).
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Security(#[from] AuthFileError),
    #[error("Error: {0}")]
    Tls(#[from] TlsFileError),
    #[error("{0}")]
    Storage(String),
    #[error("Error: {0}")]
    Io(#[from] std::io::Error),
}

impl NodeError {
    /// What the process exits with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Security(error) => error.exit_code(),
            _ => 1,
        }
    }
}

/// Runs until a signal ends it.
pub async fn run(settings: Settings) -> Result<(), NodeError> {
    descriptors::claim();
    let health = settings.health_listener.map(Health::open).transpose()?;
    let hub = Arc::new(LiveHub::default());
    let mut tasks = JoinSet::new();
    let (consensus, peers) = join(&settings, hub.clone(), &mut tasks).await?;
    let clustered = settings.cluster.links.is_some();
    let broker = Broker::new(settings, consensus, peers, clustered);
    hub.attach(broker.clone());
    broker.tcp_wrappers.store(tcp_wrappers(&broker.settings.load()).map_err(NodeError::Storage)?);
    let opened = open_listeners(&broker)?;
    if let Some(path) = broker.settings.load().cluster.admin_socket.clone() {
        tasks.spawn(admin::serve(broker.clone(), admin::open(&path)?));
    }
    if let Some(path) = broker.settings.load().process.pid_file.clone() {
        private_file::write_readable(&path, format!("{}\n", std::process::id()).as_bytes()).map_err(|error| {
            NodeError::Storage(format!("Error: unable to write pid file {}: {error}", path.display()))
        })?;
    }
    if let Some(health) = &health {
        health.attach(broker.clone());
        tasks.spawn(health.beat());
    }
    for (listener, open) in opened {
        tasks.spawn(accept_when_ready(broker.clone(), listener, open));
    }
    if let Some(limit) = broker.settings.load().limits.memory_limit_bytes {
        let watched = broker.clone();
        tasks.spawn(async move { watched.memory.watch(limit).await });
    }
    tasks.spawn(sys::publish(broker.clone()));
    let publisher = Arc::downgrade(&broker);
    logging::set_topic_sink(Box::new(move |topic, line| {
        if let Some(broker) = publisher.upgrade() {
            sys::publish_line(&broker, topic, line);
        }
    }));
    let bridges = broker.clone();
    tasks.spawn(async move { bridges::begin(&bridges).await });
    let telemetry = Telemetry::start(&broker);
    let manager = Arc::new(Manager::of_this_process());
    tasks.spawn(manager.clone().stay_alive());
    tasks.spawn(run_when_ready(broker.clone(), manager.clone()));
    let result = attend_signals(&broker, &manager).await;
    manager.stopping();
    drain_before_stop(&broker, &manager).await;
    tasks.shutdown().await;
    bridges::stop(&broker).await;
    broker.close_all(Order::ShuttingDown, STOP_TIMEOUT).await;
    telemetry.stop().await;
    broker.consensus.shutdown().await;
    if let Some(path) = &broker.settings.load().process.pid_file {
        let _ = std::fs::remove_file(path);
    }
    lines::terminating();
    result
}

/// "Running" is said, here and to the service manager, when clients are served.
async fn run_when_ready(broker: Arc<Broker>, manager: Arc<Manager>) {
    manager.announce(|| health::why_not_ready(Some(&broker))).await;
    lines::running();
}

/// Connections wait in the socket's backlog until this node serves; if that takes long they are answered so instead.
async fn accept_when_ready(broker: Arc<Broker>, listener: Arc<Listener>, open: accept::Open) {
    let timeout = broker.settings.load().cluster.commit_timeout;
    let _ = tokio::time::timeout(timeout, async {
        while !(broker.consensus.available()
            && broker.peers.ready()
            && broker.peers.may_serve()
            && bridges::are_prepared(&broker)
            && broker.rules_are_known())
        {
            tokio::time::sleep(READY_CHECK).await;
        }
    })
    .await;
    accept::accept(broker, listener, open).await;
}

/// The replicated state and the peers, as the configuration wants them.
async fn join(
    settings: &Settings,
    hub: Arc<LiveHub>,
    tasks: &mut JoinSet<()>,
) -> Result<(Arc<dyn Consensus>, Arc<dyn Peers>), NodeError> {
    let live: Arc<dyn LiveSide> = hub;
    if settings.cluster.links.is_some() || settings.persistence.enabled {
        return crate::persistent::join(settings, live).await.map_err(NodeError::Storage);
    }
    let consensus = MemoryConsensus::new(&settings.cluster.name, live);
    let ticking = consensus.clone();
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(TICK).await;
            while ticking.tick() {
                tokio::task::yield_now().await;
            }
        }
    });
    Ok((consensus, Arc::new(Alone::new())))
}

fn open_listeners(broker: &Arc<Broker>) -> Result<Vec<(Arc<Listener>, accept::Open)>, NodeError> {
    let settings = broker.settings.load_full();
    let (mut listeners, mut opened) = (Vec::new(), Vec::new());
    let security = SecuritySet::load(&settings)?;
    let tls = TlsSet::load(&settings)?;
    for ((listener_settings, rules), tls) in settings.listeners.iter().zip(security.iter()).zip(tls.iter()) {
        let listener = Arc::new(Listener::new(listener_settings.clone(), rules.clone(), tls.clone()));
        for open in accept::open(&listener)? {
            opened.push((listener.clone(), open));
        }
        listeners.push(listener);
    }
    broker.listeners.store(Arc::new(listeners));
    broker.obey_rules();
    Ok(opened)
}

async fn attend_signals(broker: &Arc<Broker>, manager: &Manager) -> Result<(), NodeError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    broker.reloading.listen()?;
    let mut user1 = signal(SignalKind::user_defined1())?;
    let mut user2 = signal(SignalKind::user_defined2())?;
    let mut reopen = signal(SignalKind::from_raw(SIGRTMIN))?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            () = broker.reloading.wanted() => {
                manager.reloading();
                broker.reloading.begin();
                reload(broker);
                broker.reloading.end();
                manager.reloaded();
            }
            _ = user1.recv() => checkpoint(broker),
            _ = user2.recv() => topic_report::print(broker),
            _ = reopen.recv() => logging::reopen(),
        }
    }
}

/// SIGTERM with `shutdown_drain`: clients are handed over first. Another signal ends that.
async fn drain_before_stop(broker: &Arc<Broker>, manager: &Manager) {
    let timeout = broker.settings.load().shutdown_drain;
    if timeout.is_zero() {
        return;
    }
    tokio::select! {
        _ = tokio::time::timeout(timeout, drain::run(broker, Pace::Within(timeout))) => {}
        _ = attend_signals(broker, manager) => {}
    }
}

/// The first real-time signal that the C library leaves to programs.
const SIGRTMIN: i32 = 34;

/// SIGUSR1: traffic goes on meanwhile.
fn checkpoint(broker: &Arc<Broker>) {
    let written = broker.consensus.checkpoint();
    let path = broker.settings.load().persistence.path();
    lines::saving_database(&path);
    tokio::spawn(async move {
        match written.await {
            Ok(()) => lines::saved_database(&path),
            Err(error) => crate::error!("Error saving the state: {error}"),
        }
    });
}

fn tcp_wrappers(settings: &Settings) -> Result<Option<Arc<TcpWrappers>>, String> {
    settings.tcp_wrappers.then(|| TcpWrappers::load().map(Arc::new)).transpose()
}

/// SIGHUP: everything is read and checked first; on any error the old settings stay.
fn reload(broker: &Arc<Broker>) {
    lines::reloading();
    if let Err(error) = broker.consensus.reload_certificates() {
        crate::error!("Error: the certificates between nodes stay as they were: {error}.");
    }
    logging::reopen();
    let old = broker.settings.load_full();
    let (new, report) = match old.reload() {
        Ok(loaded) => loaded,
        Err(error) => return crate::error!("{error}. The settings stay as they were."),
    };
    if let Err(error) = check_curves(&new) {
        return crate::error!("{error} The settings stay as they were.");
    }
    let security = match SecuritySet::load(&new) {
        Ok(security) => security,
        Err(error) => return crate::error!("{error}. The settings stay as they were."),
    };
    let tls = match TlsSet::load(&new) {
        Ok(tls) => tls,
        Err(error) => return crate::error!("Error: {error} The settings stay as they were."),
    };
    let wrappers = match tcp_wrappers(&new) {
        Ok(wrappers) => wrappers,
        Err(error) => return crate::error!("{error} The settings stay as they were."),
    };
    broker.tcp_wrappers.store(wrappers);
    report.changed.iter().for_each(|name| crate::info!("Reloaded option {name}."));
    report
        .needs_restart
        .iter()
        .for_each(|name| crate::warning!("The change of {name} takes effect at the next start."));
    if let Err(error) = logging::apply(&new.log) {
        crate::error!("{error}");
    }
    broker.router.configure(&new.delivery);
    let fresh = new.listeners.iter().zip(security.iter()).zip(tls.iter());
    for (listener, ((settings, security), tls)) in broker.listeners.load().iter().zip(fresh) {
        listener.replace(settings.clone(), security.clone(), tls.clone());
    }
    broker.obey_rules();
    broker.settings.store(Arc::new(new));
    bridges::apply(broker);
    broker.registry.order_all(Order::Reloaded);
}
