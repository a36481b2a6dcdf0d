//! Two clients per node beside a run: one sends PINGREQ, one publishes QoS 1 messages one at a time, and both must always
//! be answered; and whoever looks at what each node costs.
//! Always true: they leave nothing in the history but what the costs' checker judges. A connection counts as forgotten only
//! when a later one to the same node has its answer and the earlier one still has none, so a slow machine forgets nobody.
use crate::{
    checker::costs::ANSWER_MAX,
    client::{ClientError, Connection, Result, message},
    costs::NodeWatch,
    history::{Event, Recorder},
};
use mosquorum_proto::mqtt::{Connect, Packet, ProtocolVersion, QoS, ReasonCode};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// Between an answer and the next question, while nothing special happens.
const EVERYDAY: Duration = Duration::from_millis(400);
/// The same where a moment must not be missed.
const WATCHFUL: Duration = Duration::from_millis(10);
/// Between two looks at costs.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// For a connection to be made, and for the answer to one that came later.
const LATER_MAX: Duration = Duration::from_secs(2);
/// For the earlier one, when the later one has its answer.
const GRACE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
enum Question {
    Ping,
    Publish,
}

impl Question {
    fn name(self) -> &'static str {
        match self {
            Self::Ping => "PINGREQ",
            Self::Publish => "PUBLISH",
        }
    }
}

/// All of a run; `None` ends them.
pub(super) struct Witnesses {
    pace: watch::Sender<Option<Duration>>,
    tasks: JoinSet<()>,
}

impl Witnesses {
    pub(super) fn start(nodes: &[SocketAddr], watches: Vec<NodeWatch>, recorder: &Recorder) -> Self {
        let (pace, follow) = watch::channel(Some(EVERYDAY));
        let mut tasks = JoinSet::new();
        for (node, address) in nodes.iter().enumerate() {
            for question in [Question::Ping, Question::Publish] {
                let witness = Witness { node, address: *address, question, recorder: recorder.clone() };
                tasks.spawn(witness.run(follow.clone()));
            }
        }
        tasks.spawn(look(watches, recorder.clone(), follow));
        Self { pace, tasks }
    }

    pub(super) fn be_watchful(&self, watchful: bool) {
        self.pace.send_replace(Some(if watchful { WATCHFUL } else { EVERYDAY }));
    }

    /// Waits for answers that are due.
    pub(super) async fn end(mut self) {
        self.pace.send_replace(None);
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn look(mut watches: Vec<NodeWatch>, recorder: Recorder, pace: watch::Receiver<Option<Duration>>) {
    while pace.borrow().is_some() {
        for (node, watch) in watches.iter_mut().enumerate() {
            if let Some(costs) = watch.look() {
                recorder.record(Event::NodeCosts { node, costs });
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

struct Witness {
    node: usize,
    address: SocketAddr,
    question: Question,
    recorder: Recorder,
}

impl Witness {
    async fn run(self, mut pace: watch::Receiver<Option<Duration>>) {
        while pace.borrow().is_some() {
            match self.open("").await {
                // Whatever ends a connection is an answer.
                Ok(connection) => drop(self.ask_on(connection, &mut pace).await),
                // It may be down.
                Err(_) => sleep(LATER_MAX / 10).await,
            }
        }
    }

    async fn open(&self, which: &str) -> Result<Connection> {
        let name = format!("witness-{}-{}{which}", self.question.name(), self.node);
        let mut connect = Connect::new(ProtocolVersion::V5, name);
        // No timer of its connection is to run out between two questions.
        connect.keep_alive_seconds = 600;
        let attempt = timeout(LATER_MAX, Connection::connect_within(self.address, connect, LATER_MAX)).await;
        match attempt.map_err(|_| ClientError::Timeout("CONNACK"))?? {
            (connection, connack) if connack.reason == ReasonCode::Success => Ok(connection),
            (_, connack) => Err(ClientError::Refused(connack.reason)),
        }
    }

    /// Asks until the end, or until the connection ended or was forgotten.
    async fn ask_on(&self, mut connection: Connection, pace: &mut watch::Receiver<Option<Duration>>) -> Result<()> {
        loop {
            let Some(every) = *pace.borrow_and_update() else { return Ok(()) };
            let asked = Instant::now();
            self.ask(&mut connection).await?;
            let mut wait = ANSWER_MAX;
            while !answered(&mut connection, wait).await? {
                if self.later_is_answered().await && !answered(&mut connection, GRACE).await? {
                    let waited = asked.elapsed();
                    self.recorder.record(Event::Unanswered { node: self.node, asked: self.question.name(), waited });
                    return Ok(());
                }
                wait = GRACE;
            }
            tokio::select! {
                () = sleep(every) => {}
                _ = pace.changed() => {}
            }
        }
    }

    async fn ask(&self, connection: &mut Connection) -> Result<()> {
        let packet = match self.question {
            Question::Ping => Packet::PingReq,
            Question::Publish => {
                let mut publish = message(&format!("witness/{}", self.node), "x", QoS::AtLeastOnce);
                publish.packet_id = connection.next_packet_id();
                Packet::Publish(publish)
            }
        };
        connection.send(&packet).await
    }

    async fn later_is_answered(&self) -> bool {
        let attempt = async {
            let mut later = self.open("-later").await?;
            self.ask(&mut later).await?;
            answered(&mut later, LATER_MAX).await
        };
        attempt.await.unwrap_or(false)
    }
}

/// Whether an answer comes in time.
async fn answered(connection: &mut Connection, within: Duration) -> Result<bool> {
    let until = Instant::now() + within;
    loop {
        match connection.recv_within(until.saturating_duration_since(Instant::now())).await? {
            Some(Packet::PingResp | Packet::PubAck(_)) => return Ok(true),
            Some(Packet::Disconnect(_)) => return Err(ClientError::Closed),
            Some(_) => {}
            None => return Ok(false),
        }
    }
}
