//! A steady load of QoS 1 for durable sessions while a node is lost: how long each side had to wait, what was lost.
//! Always true: a publisher that lost its connection sends again what was not acknowledged, in order, on the next node;
//! a subscriber goes on with its session there.
use super::{
    client::{Client, Error, Kind, Result, Role, Target},
    frames::{Frame, Template},
    lane::{Lane, Pacer, Schedule},
    meter::Meter,
    options::Options,
    progress::Progress,
    publisher::packet_id,
    report::Report,
    stamp::{Clock, Stamp},
    subscriber::{Seen, Subscriber},
};
use mosquorum_proto::mqtt::PacketType;
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// A node that does not answer CONNECT in time is left for the next.
const ATTEMPT: Duration = Duration::from_secs(2);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);
/// How long everything that is under way may take at the end.
const END_TIMEOUT: Duration = Duration::from_secs(60);

fn subscriber_name(index: usize) -> String {
    format!("bench-failover-subscriber-{index}")
}

fn topic(index: usize) -> String {
    format!("bench/failover/{index}")
}

/// The longest time between two events of one client, nanoseconds; while it is measured.
#[derive(Debug, Default)]
struct Pause {
    last: u64,
    longest: u64,
}

impl Pause {
    fn event(&mut self, now: u64, measured: bool) {
        if measured && self.last > 0 {
            self.longest = self.longest.max(now - self.last);
        }
        self.last = now;
    }
}

#[derive(Default)]
struct Observed {
    measured: std::sync::atomic::AtomicBool,
    longest_to_acknowledge: AtomicU64,
    longest_to_deliver: AtomicU64,
    sessions_lost: AtomicU64,
}

/// # Errors
/// When the first connections are refused or the kill fails; later losses are what is measured.
pub(super) async fn run(options: &Options) -> Result<Report> {
    let target = Arc::new(Target::new(options).await?);
    let meter = Arc::new(Meter::new(Clock::start()));
    let shared = Arc::new(Observed::default());
    let count = options.publishers as usize;
    let seen: Vec<_> = (0..count).map(|_| Arc::new(Mutex::new(Seen::new(false)))).collect();
    let (mut receiving, mut sending) = (JoinSet::new(), JoinSet::new());
    for (index, seen) in seen.iter().enumerate() {
        target.forget(Role::Subscriber, index, &subscriber_name(index)).await?;
        let mut client = target.connect(Role::Subscriber, index, &subscriber_name(index), Kind::Durable).await?;
        client.subscribe(&topic(index), options.qos).await?;
        let work = Subscriber::new(index, seen.clone(), Arc::new([]), meter.clone());
        receiving.spawn(receive(client, target.clone(), work, shared.clone(), options.clone()));
    }
    let lanes: Vec<Arc<Lane>> = (0..count).map(|_| Arc::default()).collect();
    let rate = f64::from(options.rate.unwrap_or(1000));
    let schedule = Schedule { begin: meter.clock.now(), rate, lanes: count as u64 };
    for (index, lane) in lanes.iter().enumerate() {
        let publisher = Sender::new(index, options, lane.clone(), schedule, &target, &meter, &shared);
        sending.spawn(publisher.run());
    }
    let pacer = Pacer::start(schedule, meter.clock, lanes.clone());
    let progress = Progress::start(&meter, options.quiet);
    sleep(options.warm_up).await;
    shared.measured.store(true, Relaxed);
    meter.begin_measuring();
    if let Some(pid) = options.kill_pid {
        kill(pid)?;
    }
    sleep(options.duration).await;
    meter.end_measuring();
    meter.stopped.store(true, Relaxed);
    drop(pacer);
    lanes.iter().for_each(|lane| lane.wake());
    let _ = timeout(END_TIMEOUT, async { while sending.join_next().await.is_some() {} }).await;
    let acknowledged = meter.counts().acknowledged;
    let came = || seen.iter().enumerate().map(|(index, seen)| distinct(&seen.lock(), index)).sum::<u64>();
    let end = Instant::now();
    while came() < acknowledged && end.elapsed() < END_TIMEOUT {
        sleep(Duration::from_millis(20)).await;
    }
    receiving.shutdown().await;
    drop(progress);
    let came = came();
    let mut report = Report::default();
    let milliseconds = |nanoseconds: &AtomicU64| nanoseconds.load(Relaxed) as f64 / 1e6;
    report.add("longest_wait_for_acknowledgement_ms", milliseconds(&shared.longest_to_acknowledge), "ms");
    report.add("longest_wait_for_delivery_ms", milliseconds(&shared.longest_to_deliver), "ms");
    report.latencies(&meter.latencies());
    report.count("reconnects", meter.reconnects.load(Relaxed));
    report.count("sessions_lost", shared.sessions_lost.load(Relaxed));
    report.count("acknowledged", acknowledged);
    report.count("delivered", came);
    report.count("lost", acknowledged.saturating_sub(came));
    let (mut duplicates, mut out_of_order) = (0, 0);
    for seen in &seen {
        let seen = seen.lock();
        out_of_order += seen.out_of_order();
        if let Seen::All(order) = &*seen {
            duplicates += order.duplicates;
        }
    }
    report.count("duplicates", duplicates);
    report.count("out_of_order", out_of_order);
    Ok(report)
}

fn distinct(seen: &Seen, stream: usize) -> u64 {
    match seen {
        Seen::All(order) => order.distinct(stream as u32),
        Seen::Share(_) => 0,
    }
}

fn kill(pid: u32) -> Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let none = || Error::Io(std::io::ErrorKind::NotFound.into());
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(none)?;
    kill_process(pid, Signal::KILL).map_err(|error| Error::Io(error.into()))
}

/// Tries one node after the other until one takes the client.
async fn reconnect(target: &Target, role: Role, index: usize, attempts: &mut usize, name: &str, kind: Kind) -> Client {
    loop {
        *attempts += 1;
        match timeout(ATTEMPT, target.connect(role, index + *attempts, name, kind)).await {
            Ok(Ok(client)) => return client,
            _ => sleep(BETWEEN_ATTEMPTS).await,
        }
    }
}

async fn receive(
    mut client: Client,
    target: Arc<Target>,
    mut work: Subscriber,
    shared: Arc<Observed>,
    options: Options,
) {
    let (index, mut attempts, mut pause) = (work.index, 0, Pause::default());
    loop {
        while poll_fn(|cx| work.poll(&mut client, cx)).await.is_ok() {
            pause.event(work.meter.clock.now(), shared.measured.load(Relaxed));
            shared.longest_to_deliver.fetch_max(pause.longest, Relaxed);
        }
        client =
            reconnect(&target, Role::Subscriber, index, &mut attempts, &subscriber_name(index), Kind::Durable).await;
        work.meter.reconnects.fetch_add(1, Relaxed);
        if !client.session_present {
            shared.sessions_lost.fetch_add(1, Relaxed);
            // If this fails the connection is lost too.
            let _ = client.subscribe(&topic(index), options.qos).await;
        }
    }
}

/// One publisher with what it still owes.
struct Sender {
    index: usize,
    template: Template,
    window: u64,
    lane: Arc<Lane>,
    schedule: Schedule,
    target: Arc<Target>,
    meter: Arc<Meter>,
    shared: Arc<Observed>,
    /// Sequence numbers that are not acknowledged, oldest first.
    under_way: VecDeque<u64>,
    next: u64,
    pause: Pause,
}

impl Sender {
    fn new(
        index: usize,
        options: &Options,
        lane: Arc<Lane>,
        schedule: Schedule,
        target: &Arc<Target>,
        meter: &Arc<Meter>,
        shared: &Arc<Observed>,
    ) -> Self {
        Self {
            index,
            template: Template::new(&topic(index), options.version, options.qos, false, options.payload),
            window: options.window,
            lane,
            schedule,
            target: target.clone(),
            meter: meter.clone(),
            shared: shared.clone(),
            under_way: VecDeque::new(),
            next: 0,
            pause: Pause::default(),
        }
    }

    /// Until it is stopped and everything is acknowledged.
    async fn run(mut self) {
        let name = format!("bench-failover-publisher-{}", self.index);
        for attempt in 0.. {
            let connected = self.target.connect(Role::Publisher, self.index + attempt, &name, Kind::Clean);
            let Ok(Ok(mut client)) = timeout(ATTEMPT, connected).await else {
                sleep(BETWEEN_ATTEMPTS).await;
                continue;
            };
            self.meter.reconnects.fetch_add(u64::from(attempt > 0), Relaxed);
            for index in 0..self.under_way.len() {
                self.write(self.under_way[index], &mut client);
            }
            if poll_fn(|cx| self.poll(&mut client, cx)).await.is_ok() {
                let _ = client.disconnect().await;
                return;
            }
        }
    }

    fn write(&self, sequence: u64, client: &mut Client) {
        let due = self.schedule.due(self.index as u64, sequence);
        let stamp = Stamp { stream: self.index as u32, sequence: sequence as u32, due };
        self.template.write(packet_id(sequence), stamp, &mut client.out);
    }

    fn poll(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            let read = self.read(client, cx)?;
            let stopped = self.meter.stopped.load(Relaxed);
            let window = self.window.min(client.receive_maximum);
            while !stopped && self.next < self.lane.due() && (self.under_way.len() as u64) < window {
                self.write(self.next, client);
                self.under_way.push_back(self.next);
                self.next += 1;
                self.meter.published.fetch_add(1, Relaxed);
            }
            let flushed = client.poll_flush(cx)?.is_ready();
            if stopped && self.under_way.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if !read {
                self.lane.register(cx.waker());
                let room = !self.meter.stopped.load(Relaxed) && (self.under_way.len() as u64) < window;
                if !flushed || !room || self.next >= self.lane.due() {
                    return Poll::Pending;
                }
            }
        }
    }

    fn read(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Result<bool> {
        let (under_way, mut done) = (&mut self.under_way, 0);
        let polled = client.poll_read(cx, |frame, _| {
            if let Frame::Ack(PacketType::PubAck, id, reason) = frame
                && reason < 0x80
                && let Some(at) = under_way.iter().position(|sequence| packet_id(*sequence) == id)
            {
                under_way.remove(at);
                done += 1;
            }
        });
        if done > 0 {
            self.meter.acknowledged.fetch_add(done, Relaxed);
            self.pause.event(self.meter.clock.now(), self.shared.measured.load(Relaxed));
            self.shared.longest_to_acknowledge.fetch_max(self.pause.longest, Relaxed);
        }
        match polled {
            Poll::Ready(result) => result.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }
}
