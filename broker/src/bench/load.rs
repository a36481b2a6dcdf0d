//! p2p, fanout, fanin, shared: everybody is connected first, then publishers run for a time.
use super::{
    client::{Client, Error, Kind, Result, Role, Target},
    frames::Template,
    lane::{Lane, Pacer, Schedule},
    meter::Meter,
    options::{Options, Scenario},
    process,
    progress::Progress,
    publisher::Publisher,
    report::Report,
    stamp::Clock,
    subscriber::{Seen, Subscriber},
};
use parking_lot::Mutex;
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

/// Deliveries that stand still so long are given up: the broker has dropped them, and the window must go on.
const GIVEN_UP: Duration = Duration::from_secs(2);
/// Connections that are being made at the same time.
const CONNECTING: usize = 64;

/// A run of many clients.
pub(super) struct Load<'a> {
    pub options: &'a Options,
    pub target: Arc<Target>,
    pub meter: Arc<Meter>,
    pub lanes: Arc<[Arc<Lane>]>,
    pub seen: Vec<Arc<Mutex<Seen>>>,
}

impl<'a> Load<'a> {
    /// # Errors
    /// When an address or a TLS file is no good.
    pub(super) async fn new(options: &'a Options) -> Result<Self> {
        let shared = options.scenario == Scenario::Shared;
        Ok(Self {
            options,
            target: Arc::new(Target::new(options).await?),
            meter: Arc::new(Meter::new(Clock::start())),
            lanes: (0..options.publishers).map(|_| Arc::default()).collect(),
            seen: (0..options.subscribers).map(|_| Arc::new(Mutex::new(Seen::new(shared)))).collect(),
        })
    }

    /// Deliveries of each message.
    fn copies(&self) -> u64 {
        match self.options.scenario {
            Scenario::Fanout | Scenario::Fanin => u64::from(self.options.subscribers),
            _ => 1,
        }
    }

    fn topic(&self, publisher: u32) -> String {
        match self.options.scenario {
            Scenario::Fanout => "bench/fanout".to_owned(),
            scenario => format!("bench/{}/{publisher}", scenario.name()),
        }
    }

    fn filter(&self, subscriber: u32) -> String {
        match self.options.scenario {
            Scenario::Fanin => "bench/fanin/+".to_owned(),
            Scenario::Shared => "$share/bench/bench/shared/+".to_owned(),
            _ => self.topic(subscriber),
        }
    }

    #[must_use]
    pub(super) fn subscriber_name(&self, subscriber: usize) -> String {
        format!("bench-{}-subscriber-{subscriber}", self.options.scenario.name())
    }

    /// Connects and subscribes all subscribers.
    async fn subscribers(&self) -> Result<Vec<Client>> {
        let kind = if self.options.durable { Kind::Durable } else { Kind::Clean };
        if self.options.durable {
            self.forget().await?;
        }
        let (names, qos) = (|index| self.subscriber_name(index), self.options.qos);
        let mut clients = many(&self.target, Role::Subscriber, self.options.subscribers as usize, kind, names).await?;
        // In turn, so that each has its SUBACK before the first message; a few bytes each way.
        for (index, client) in clients.iter_mut().enumerate() {
            client.subscribe(&self.filter(index as u32), qos).await?;
            client.shrink();
        }
        Ok(clients)
    }

    async fn forget(&self) -> Result<()> {
        for index in 0..self.seen.len() {
            self.target.forget(Role::Subscriber, index, &self.subscriber_name(index)).await?;
        }
        Ok(())
    }

    /// Connects all publishers; the work of each, not yet begun.
    async fn publishers(&self) -> Result<Vec<Publisher>> {
        let options = self.options;
        let name = |index| format!("bench-{}-publisher-{index}", options.scenario.name());
        let clients = many(&self.target, Role::Publisher, options.publishers as usize, Kind::Clean, name).await?;
        let schedule = self.schedule();
        let publisher = |(index, client): (usize, Client)| {
            let topic = self.topic(index as u32);
            let template = Template::new(&topic, options.version, options.qos, false, options.payload);
            Publisher {
                client,
                write: Box::new(move |id, stamp, out| template.write(id, stamp, out)),
                lane: self.lanes[index].clone(),
                meter: self.meter.clone(),
                stream: index as u32,
                qos: options.qos,
                window: options.window,
                copies: self.copies(),
                schedule,
                limit: None,
                sent: 0,
                acknowledged: 0,
            }
        };
        Ok(clients.into_iter().enumerate().map(publisher).collect())
    }

    fn schedule(&self) -> Option<Schedule> {
        let rate = f64::from(self.options.rate?);
        Some(Schedule { begin: self.meter.clock.now(), rate, lanes: self.lanes.len() as u64 })
    }

    /// # Errors
    /// When a client is refused or loses its connection.
    pub(super) async fn run(self) -> Result<Report> {
        let subscribers = self.subscribers().await?;
        let publishers = self.publishers().await?;
        let (mut receiving, mut sending) = (JoinSet::new(), JoinSet::new());
        for (index, client) in subscribers.into_iter().enumerate() {
            let work = Subscriber::new(index, self.seen[index].clone(), self.lanes.clone(), self.meter.clone());
            receiving.spawn(work.run(client));
        }
        let pacer = publishers.first().and_then(|first| first.schedule);
        let pacer = pacer.map(|schedule| Pacer::start(schedule, self.meter.clock, self.lanes.to_vec()));
        for publisher in publishers {
            sending.spawn(publisher.run());
        }
        let progress = Progress::start(&self.meter, self.options.quiet);
        self.watch(&mut sending, &mut receiving, self.options.warm_up).await?;
        let before = (self.meter.counts(), process::cpu_seconds(&self.options.broker_pids), Instant::now());
        self.meter.begin_measuring();
        self.watch(&mut sending, &mut receiving, self.options.duration).await?;
        self.meter.end_measuring();
        let after = (self.meter.counts(), process::cpu_seconds(&self.options.broker_pids), Instant::now());
        let resident = process::resident_bytes(&self.options.broker_pids);
        drop((pacer, progress));
        let sent = self.finish(&mut sending).await?;
        receiving.shutdown().await;
        if self.options.durable {
            self.forget().await?;
        }
        let mut report = Report::default();
        let seconds = (after.2 - before.2).as_secs_f64();
        let delivered = after.0.delivered - before.0.delivered;
        report.add("published_per_second", (after.0.published - before.0.published) as f64 / seconds, "/s");
        report.add("delivered_per_second", delivered as f64 / seconds, "/s");
        report.cpu(self.options, after.1 - before.1, delivered);
        if !self.options.broker_pids.is_empty() {
            report.add("rss_mib", resident as f64 / f64::from(1 << 20), "MiB");
        }
        report.latencies(&self.meter.latencies());
        self.verdict(sent, &mut report);
        Ok(report)
    }

    /// Waits; a client that ends meanwhile is an error. Windows that wait for dropped messages are opened again.
    async fn watch(
        &self,
        sending: &mut JoinSet<Result<(u64, Client)>>,
        receiving: &mut JoinSet<Result<()>>,
        time: Duration,
    ) -> Result<()> {
        let end = Instant::now() + time;
        let mut before: Vec<u64> = Vec::new();
        let mut look = Instant::now() + GIVEN_UP;
        loop {
            tokio::select! {
                () = sleep_until(end) => return Ok(()),
                Some(ended) = sending.join_next() => return Err(why(ended)),
                Some(ended) = receiving.join_next() => return Err(why(ended)),
                () = sleep_until(look), if self.options.rate.is_none() => {
                    look += GIVEN_UP;
                    let now: Vec<u64> = self.lanes.iter().map(|lane| lane.delivered()).collect();
                    for (index, lane) in self.lanes.iter().enumerate() {
                        if before.get(index) == now.get(index) {
                            lane.give_up(self.copies());
                        }
                    }
                    before = now;
                }
            }
        }
    }

    /// Lets everything that is under way arrive; how much was sent.
    async fn finish(&self, sending: &mut JoinSet<Result<(u64, Client)>>) -> Result<u64> {
        self.meter.stopped.store(true, Relaxed);
        self.lanes.iter().for_each(|lane| lane.wake());
        let mut clients = Vec::new();
        let mut sent = 0;
        while let Some(ended) = sending.join_next().await {
            let (count, client) = ended.map_err(|_| Error::Closed)??;
            sent += count;
            clients.push(client);
        }
        let (wanted, mut before, mut still) = (sent * self.copies(), 0, Instant::now());
        while self.meter.counts().delivered < wanted && still.elapsed() < GIVEN_UP {
            let now = self.meter.counts().delivered;
            if now != before {
                (before, still) = (now, Instant::now());
            }
            sleep(Duration::from_millis(10)).await;
        }
        for client in clients {
            client.disconnect().await?;
        }
        Ok(sent)
    }

    fn verdict(&self, sent: u64, report: &mut Report) {
        let delivered = self.meter.counts().delivered;
        let wanted = sent * self.copies();
        let (mut duplicates, mut out_of_order) = (0, 0);
        for seen in &self.seen {
            let seen = seen.lock();
            out_of_order += seen.out_of_order();
            if let Seen::All(order) = &*seen {
                duplicates += order.duplicates;
            }
        }
        if self.options.scenario == Scenario::Shared {
            duplicates = delivered.saturating_sub(wanted);
        }
        report.count("published", sent);
        report.count("delivered", delivered);
        report.count("missing", (wanted + duplicates).saturating_sub(delivered));
        report.count("duplicates", duplicates);
        report.count("out_of_order", out_of_order);
    }
}

/// How a client ended that should not have.
fn why<T>(ended: std::result::Result<Result<T>, tokio::task::JoinError>) -> Error {
    ended.ok().and_then(Result::err).unwrap_or(Error::Closed)
}

/// Connects clients `0..count` of a role, many at a time; in the order of their index.
/// # Errors
/// That of the first that fails.
pub(super) async fn many(
    target: &Arc<Target>,
    role: Role,
    count: usize,
    kind: Kind,
    name: impl Fn(usize) -> String,
) -> Result<Vec<Client>> {
    let mut clients: Vec<Option<Client>> = (0..count).map(|_| None).collect();
    let (mut under_way, mut next) = (JoinSet::new(), 0);
    while next < count || !under_way.is_empty() {
        if next < count && under_way.len() < CONNECTING {
            let (target, name, index) = (target.clone(), name(next), next);
            under_way.spawn(async move { (index, target.connect(role, index, &name, kind).await) });
            next += 1;
            continue;
        }
        if let Some(Ok((index, connected))) = under_way.join_next().await {
            clients[index] = Some(connected?);
        }
    }
    Ok(clients.into_iter().flatten().collect())
}
