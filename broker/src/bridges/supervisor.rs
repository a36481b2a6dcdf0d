//! One bridge on this node: wait for its turn, connect, carry, wait, again.
//! Always true: TCP and TLS stand before the local session is taken, and the local session is ours before CONNECT goes to
//! the remote; a failure is logged when it is news and never ends the bridge, except with `start_type once`.
use super::{
    dial::dial,
    local::{self, LocalWire},
    placement,
    relay_loop::{Ended, relay_packets},
    report,
    state::{Progress, Wanted},
    status::Status,
    wire::Wire,
};
use crate::{broker::Broker, config::BridgeConfig, listener::Listener, stream::Stream};
use bytes::Bytes;
use mosquorum_bridge::{
    Addresses, Backoff, Beginning, BridgeSettings, Limits, Relay, ReloadType, Remote, SentRetained, StartType, Topics,
};
use mosquorum_proto::mqtt::{ConnAck, PacketId, ProtocolVersion, ReasonCode, TopicFilter};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{io::AsyncReadExt, sync::watch, time::sleep};

const PLACEMENT_CHECK: Duration = Duration::from_millis(100);
const PRIMARY_CHECK: Duration = Duration::from_secs(5);
const CONNACK_TIMEOUT: Duration = Duration::from_secs(20);
/// After the local session was lost or could not be taken: the cluster sorts itself.
const LOCAL_PAUSE: Duration = Duration::from_millis(500);
const PARTIAL_BYTES_MAX: usize = 256 * 1024;
const ANNOUNCED_CHECK: Duration = Duration::from_millis(5);

/// A remote that has accepted.
type Accepted = (Wire<Stream>, ConnAck);

struct Supervisor {
    broker: Arc<Broker>,
    listener: Arc<Listener>,
    config: Arc<BridgeConfig>,
    wanted: watch::Receiver<Wanted>,
    addresses: Addresses,
    backoff: Backoff,
    limits: Limits,
    last_id: PacketId,
    /// What was sent of retained messages to the remote with this number among the addresses.
    sent_retained: (usize, SentRetained),
    /// Filters whose retained messages were never sent to the remote, see [`Beginning`].
    unsent: BTreeSet<TopicFilter>,
    /// What the remote may still send by lines that are gone.
    gone: BTreeSet<TopicFilter>,
    status: Arc<Status>,
    prepared: bool,
    /// Never goes back.
    progress: watch::Sender<Progress>,
}

enum Next {
    /// At once.
    Again,
    Wait(Duration),
    /// The primary has accepted.
    Switch(Box<Accepted>),
    End,
}

pub(super) async fn run(
    broker: Arc<Broker>,
    listener: Arc<Listener>,
    mut wanted: watch::Receiver<Wanted>,
    progress: watch::Sender<Progress>,
    status: Arc<Status>,
) {
    let Wanted::Run(config) = wanted.borrow_and_update().clone() else { return };
    warn_of_short_sessions(&config.settings);
    let mut bridge = Supervisor {
        addresses: Addresses::new(config.addresses.len(), config.settings.round_robin),
        backoff: Backoff::new(config.settings.restart_timeout.clone()),
        limits: Limits::new(&config.settings),
        last_id: 0,
        sent_retained: Default::default(),
        unsent: BTreeSet::new(),
        gone: BTreeSet::new(),
        prepared: false,
        progress,
        broker,
        listener,
        config,
        wanted,
        status,
    };
    bridge.run().await;
}

impl Supervisor {
    fn settings(&self) -> &Arc<BridgeSettings> {
        &self.config.settings
    }

    async fn run(&mut self) {
        let mut publish_status = Instant::now();
        let mut primary = None;
        loop {
            if !self.take_config().await {
                return;
            }
            if publish_status.elapsed() >= PRIMARY_CHECK {
                publish_status = Instant::now();
                self.publish_status();
            }
            let next = match self.is_due() {
                true => self.attempt(primary.take()).await,
                false => Next::Wait(PLACEMENT_CHECK),
            };
            match next {
                Next::Again => {}
                Next::Switch(accepted) => primary = Some(*accepted),
                Next::Wait(pause) => {
                    let changed = tokio::time::timeout(pause, self.wanted.changed()).await;
                    if matches!(changed, Ok(Err(_))) {
                        return;
                    }
                }
                Next::End => {
                    // Until it is configured otherwise, or the node stops.
                    if self.wanted.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn publish_status(&self) {
        if placement::is_here(&self.broker, &self.settings().name) && self.broker.settings.load().sys_interval.is_some()
        {
            report::publish(&self.broker, self.settings(), &self.status);
        }
    }

    /// Takes the newest settings; `false`: the bridge is over.
    async fn take_config(&mut self) -> bool {
        let wanted = self.wanted.borrow_and_update().clone();
        match wanted {
            Wanted::Stop => false,
            Wanted::Removed => {
                if placement::is_here(&self.broker, &self.settings().name) {
                    let expiry = self.broker.settings.load().bridge_orphan_expiry;
                    let client_id = &self.settings().local_client_id;
                    local::orphan(&self.broker, &self.listener, client_id, expiry).await;
                }
                false
            }
            Wanted::Run(config) => {
                if !Arc::ptr_eq(&config, &self.config) {
                    self.change(config).await;
                }
                true
            }
        }
    }

    async fn change(&mut self, config: Arc<BridgeConfig>) {
        let old = std::mem::replace(&mut self.config, config);
        warn_of_short_sessions(&self.config.settings);
        let settings = self.config.settings.clone();
        if old.settings.local_client_id != settings.local_client_id && placement::is_here(&self.broker, &settings.name)
        {
            let expiry = self.broker.settings.load().bridge_orphan_expiry;
            local::orphan(&self.broker, &self.listener, &old.settings.local_client_id, expiry).await;
        }
        self.compare_lines(&old.settings.topics);
        self.addresses = Addresses::new(self.config.addresses.len(), settings.round_robin);
        self.backoff = Backoff::new(settings.restart_timeout.clone());
        self.limits = Limits::new(&settings);
        self.last_id = 0;
        self.sent_retained = Default::default();
        self.prepared = false;
    }

    /// What other lines mean for sessions that go on.
    fn compare_lines(&mut self, old: &Topics) {
        let settings = self.settings().clone();
        let known: BTreeSet<_> = old.outgoing().map(|line| (&line.local, &line.remote)).collect();
        let waiting = settings.topics.outgoing().filter(|line| settings.queues(line));
        let unsent = waiting.filter(|line| !known.contains(&(&line.local, &line.remote)));
        self.unsent.extend(unsent.map(|line| line.local.clone()));
        self.gone.extend(old.incoming().map(|line| line.remote.clone()));
        settings.topics.lines().iter().for_each(|line| _ = self.gone.remove(&line.remote));
    }

    /// Whether this node should try now.
    fn is_due(&mut self) -> bool {
        if !placement::is_here(&self.broker, &self.settings().name) {
            // Whoever has it meanwhile may change the session, and sends the remote more.
            self.prepared = false;
            self.sent_retained = Default::default();
            self.unsent.clear();
            self.gone.clear();
            return false;
        }
        match self.settings().start_type {
            StartType::Lazy { threshold, .. } if self.prepared => {
                local::queued(&self.broker, self.settings()) >= threshold
            }
            _ => true,
        }
    }

    /// From dialling to the end of the connection.
    async fn attempt(&mut self, primary: Option<Accepted>) -> Next {
        let settings = self.settings().clone();
        if !self.prepared {
            if !settings.local_clean_session {
                match local::prepare(&self.broker, &self.listener, &settings).await {
                    Ok(new) => self.unsent.extend(new),
                    Err(error) => return self.failed(&error, Some(LOCAL_PAUSE)),
                }
            }
            self.has_come_to(Progress::Prepared(Instant::now()));
            self.prepared = true;
            if matches!(settings.start_type, StartType::Lazy { .. }) {
                self.has_come_to(Progress::Tried);
                return Next::Again;
            }
        }
        let (mut wanted, config) = (self.wanted.clone(), self.config.clone());
        let result = tokio::select! {
            result = self.open(primary) => result,
            () = stopped(&mut wanted, &config) => return Next::Again,
        };
        match result {
            Ok((local, connack, accepted)) => self.run_connection(local, connack, accepted).await,
            Err((error, pause)) => self.failed(&error, pause),
        }
    }

    fn has_come_to(&self, progress: Progress) {
        self.progress.send_if_modified(|known| {
            let further = progress.is_beyond(*known);
            if further {
                *known = progress;
            }
            further
        });
    }

    fn failed(&mut self, error: &str, pause: Option<Duration>) -> Next {
        self.has_come_to(Progress::Tried);
        if self.status.ended(error) {
            crate::warning!("Bridge {}: {error}.", self.settings().name);
        }
        self.publish_status();
        match pause {
            Some(pause) => Next::Wait(pause),
            None if self.settings().start_type == StartType::Once => Next::End,
            None => {
                self.addresses.failed();
                Next::Wait(self.backoff.next(crate::random::number()))
            }
        }
    }

    /// Both sides connected. An error says how long to wait if it is not the remote's doing.
    async fn open(
        &mut self,
        primary: Option<Accepted>,
    ) -> Result<(LocalWire, ConnAck, Accepted), (String, Option<Duration>)> {
        let settings = self.settings().clone();
        let ours = |error: String| (error, Some(LOCAL_PAUSE));
        if let Some(accepted) = primary {
            let (local, connack) = local::connect(&self.broker, &self.listener, &settings).await.map_err(ours)?;
            return Ok((local, connack, accepted));
        }
        let address = self.config.addresses[self.addresses.current()].clone();
        crate::debug!("Connecting bridge {} ({address})", settings.name);
        let stream = dial(&self.config, &address).await.map_err(|error| (error, None))?;
        let (mut local, connack) = local::connect(&self.broker, &self.listener, &settings).await.map_err(ours)?;
        if settings.local_clean_session {
            local::subscribe(&mut local, &settings).await.map_err(ours)?;
        }
        let accepted = tokio::select! {
            accepted = greet(&self.config, &self.limits, stream, receive_window(&self.broker)) => accepted,
            () = fill(&mut local) => return Err(ours("the local session was taken over".to_owned())),
        };
        match accepted {
            Ok(accepted) => Ok((local, connack, accepted)),
            Err((error, reason)) => match reason.and_then(|reason| self.limits.lower(reason)) {
                Some(given_up) => {
                    let error = format!("{address} refused {given_up}, trying without it");
                    Err((error, Some(Duration::from_millis(100))))
                }
                None => Err((format!("{address}: {error}"), None)),
            },
        }
    }

    /// The first attempt is over when whoever asks here can read that the bridge is connected. Never resolves.
    async fn note_when_announced(&self, settings: &BridgeSettings) {
        let announces = settings.notification_topic.as_ref().filter(|_| self.broker.settings.load().retain.available);
        let is_announced = |topic| {
            let state = self.broker.consensus.state().read();
            state.retained(topic, state.time()).is_some_and(|message| &message.payload[..] == b"1")
        };
        while let Some(topic) = announces
            && *self.progress.borrow() != Progress::Tried
            && !is_announced(topic)
        {
            sleep(ANNOUNCED_CHECK).await;
        }
        self.has_come_to(Progress::Tried);
        std::future::pending().await
    }

    async fn run_connection(&mut self, local: LocalWire, connack: ConnAck, (remote, answer): Accepted) -> Next {
        let settings = self.settings().clone();
        let name = settings.name.clone();
        let (place, sent_retained) = std::mem::take(&mut self.sent_retained);
        let mut sent_retained = if place == self.addresses.current() { sent_retained } else { SentRetained::default() };
        local::confirm(&self.broker, &mut sent_retained, true).await;
        let beginning = Beginning {
            stale: local::received(&self.broker, &settings),
            in_flight: local::in_flight(&self.broker, &settings),
            last_id: self.last_id,
            missed: local::missed(&self.broker, &settings, &mut sent_retained).await,
            sent_retained,
            unsent: self.unsent.clone(),
            gone: self.gone.clone(),
        };
        let mut limits = self.limits.clone();
        limits.local_max_packet_size = connack.maximum_packet_size.unwrap_or(u32::MAX);
        limits.local_retain_available = connack.retain_available.unwrap_or(true);
        let started = Instant::now();
        let described = Remote::new(&answer, &settings, &limits);
        let mut relay = Relay::new(settings.clone(), described, limits, beginning, Duration::ZERO);
        self.status.connected();
        self.publish_status();
        crate::notice!("Bridge {name} connected to {}.", self.config.addresses[self.addresses.current()]);
        let ping_local = connack.server_keep_alive.map(|seconds| Duration::from_secs(u64::from(seconds.max(2)) / 2));
        let mut wanted = self.wanted.clone();
        let (broker, config) = (self.broker.clone(), self.config.clone());
        let stop = async {
            tokio::select! {
                () = stopped(&mut wanted, &config) => {}
                () = moved(&broker, &name) => {}
                () = keep_status(&broker, &settings, &self.status) => {}
                () = self.note_when_announced(&settings) => {}
            }
        };
        let primary = primary_answers(self.addresses.wants_primary(), &broker, &config, &self.limits);
        let how = (settings.start_type, &*self.status, ping_local);
        let ended = relay_packets(&mut relay, local, remote, how, stop, primary, started).await;
        self.status.counted(relay.counts);
        self.last_id = relay.last_id();
        let mut sent_retained = relay.take_sent_retained();
        local::confirm(&self.broker, &mut sent_retained, false).await;
        self.sent_retained = (self.addresses.current(), sent_retained);
        if relay.is_subscribed() {
            self.unsent.clear();
            self.gone.clear();
        }
        self.backoff.connected_for(started.elapsed());
        match ended {
            Ended::Interrupted(accepted) => {
                self.addresses.primary_answers();
                self.status.ended("");
                Next::Switch(Box::new(accepted))
            }
            Ended::Stopped | Ended::Idle => {
                self.status.ended("");
                self.publish_status();
                Next::Again
            }
            Ended::Lost(why) => {
                self.status.ended(&why);
                crate::warning!("Bridge {name} lost its connection: {why}.");
                self.publish_status();
                self.addresses.lost();
                match settings.start_type {
                    StartType::Once => Next::End,
                    _ => Next::Wait(self.backoff.next(crate::random::number())),
                }
            }
        }
    }
}

/// Mosquitto's defaults have the remote forget the session whenever the link breaks.
fn warn_of_short_sessions(settings: &BridgeSettings) {
    let kept = settings.session_expiry_seconds > 0 || settings.version != ProtocolVersion::V5;
    if !settings.clean_session && !kept {
        crate::warning!(
            "Bridge {}: with cleansession false and MQTT 5 the remote keeps the session only with \
             bridge_session_expiry_interval; without it, what comes while the link is down is lost.",
            settings.name
        );
    }
}

/// What a session of the local broker may have on its way, as far as that is bounded.
fn receive_window(broker: &Broker) -> Option<u16> {
    broker.settings.load().limits.max_inflight_messages.map(std::num::NonZeroU16::get)
}

/// CONNECT and its answer.
async fn greet(
    config: &BridgeConfig,
    limits: &Limits,
    stream: Stream,
    window: Option<u16>,
) -> Result<Accepted, (String, Option<ReasonCode>)> {
    let password = password(config).await.map_err(|error| (error, None))?;
    let connect = Relay::remote_connect(&config.settings, limits, window, password);
    let mut wire = Wire::new(stream, limits.version, u32::MAX);
    let connack = tokio::time::timeout(CONNACK_TIMEOUT, wire.connect(connect)).await;
    let connack = connack.map_err(|_| ("the remote does not answer CONNECT".to_owned(), None))?;
    let connack = connack.map_err(|error| (format!("the remote did not accept the connection: {error}"), None))?;
    match connack.reason {
        ReasonCode::Success => Ok((wire, connack)),
        reason => Err((format!("the remote refused the connection: {reason:?}"), Some(reason))),
    }
}

async fn password(config: &BridgeConfig) -> Result<Option<Bytes>, String> {
    let Some(path) = &config.password_file else {
        return Ok(config.password.as_ref().map(|password| Bytes::from(password.0.clone())));
    };
    let read = tokio::fs::read_to_string(path).await;
    let text = read.map_err(|error| format!("remote_password_file \"{}\": {error}", path.display()))?;
    Ok(Some(Bytes::from(text.trim_end_matches(['\r', '\n']).to_owned())))
}

/// Resolves when the local session is closed; what it sends meanwhile is kept.
async fn fill(local: &mut LocalWire) {
    loop {
        if local.partial.len() >= PARTIAL_BYTES_MAX {
            std::future::pending::<()>().await;
        }
        match local.stream.read_buf(&mut local.partial).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Resolves when the bridge must not go on as it is.
async fn stopped(wanted: &mut watch::Receiver<Wanted>, current: &Arc<BridgeConfig>) {
    loop {
        let over = match &*wanted.borrow_and_update() {
            Wanted::Stop | Wanted::Removed => true,
            Wanted::Run(config) => {
                !Arc::ptr_eq(config, current) && config.settings.reload_type == ReloadType::Immediate
            }
        };
        if over || wanted.changed().await.is_err() {
            return;
        }
    }
}

/// Resolves when another node should have the bridge.
async fn moved(broker: &Broker, name: &str) {
    while !placement::is_elsewhere(broker, name) {
        sleep(PLACEMENT_CHECK).await;
    }
}

async fn keep_status(broker: &Broker, settings: &BridgeSettings, status: &Status) {
    loop {
        let interval = broker.settings.load().sys_interval;
        sleep(interval.unwrap_or(Duration::from_secs(10))).await;
        if interval.is_some() {
            report::publish(broker, settings, status);
        }
    }
}

/// While connected to another address, looks for the first one; resolves when that has accepted.
async fn primary_answers(wanted: bool, broker: &Broker, config: &BridgeConfig, limits: &Limits) -> Accepted {
    loop {
        if !wanted {
            std::future::pending::<()>().await;
        }
        sleep(PRIMARY_CHECK).await;
        let Ok(stream) = dial(config, &config.addresses[0]).await else { continue };
        if let Ok(accepted) = greet(config, limits, stream, receive_window(broker)).await {
            return accepted;
        }
    }
}
