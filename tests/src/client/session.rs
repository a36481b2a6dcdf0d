//! What publishers and subscribers of recorded runs have in common: connecting to one of many nodes, again and again,
//! and leaving a trace in the history.
//! Always true: a connection that was opened is closed in the history exactly once.
use super::{ClientError, Connection, Result};
use crate::{
    history::{Client, CloseKind, ConnectionNumber, Event, Recorder, WillPlan},
    random::Random,
};
use mosquorum_proto::mqtt::{ConnAck, Connect, Disconnect, Packet, ProtocolVersion, ReasonCode, Will};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{sync::watch, time::sleep};

/// How far a run is; actors look at it between their steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// Nothing new is published; what is owed is still received.
    Draining,
    /// Everybody disconnects.
    Over,
}

/// The way actors see the phase.
pub type PhaseWatch = watch::Receiver<Phase>;

/// A silent connection is given up after this time, as a keep-alive would.
pub const STALL: Duration = Duration::from_secs(4);

/// Who connects, and how.
#[derive(Debug, Clone)]
pub struct Identity {
    pub client: Client,
    pub version: ProtocolVersion,
    /// The session survives its connections.
    pub durable: bool,
    /// All nodes, by number.
    pub nodes: Vec<SocketAddr>,
}

/// An open, recorded connection.
#[derive(Debug)]
pub struct Recorded {
    pub link: Connection,
    pub number: ConnectionNumber,
    pub connack: ConnAck,
    pub node: usize,
    recorder: Recorder,
    closed: bool,
}

impl Identity {
    /// CONNECT as this identity sends it.
    #[must_use]
    pub fn connect_packet(&self, will: Option<&WillPlan>) -> Connect {
        let mut connect = Connect::new(self.version, &*self.client);
        connect.clean_start = !self.durable;
        connect.keep_alive_seconds = 20;
        if self.durable && self.version.is_v5() {
            connect.session_expiry_interval = Some(3600);
        }
        connect.will = will.map(|plan| Will {
            topic: super::topic_name(&plan.topic),
            payload: plan.message.payload(16).into(),
            qos: plan.qos,
            retain: false,
            delay_interval_seconds: plan.delay_seconds,
            properties: None,
        });
        connect
    }

    /// Connects to one node.
    /// # Errors
    /// When no CONNACK with success comes.
    pub async fn connect(&self, node: usize, will: Option<WillPlan>, recorder: &Recorder) -> Result<Recorded> {
        let packet = self.connect_packet(will.as_ref());
        self.connect_with(node, packet, will, 2 * STALL, recorder).await
    }

    /// As [`Self::connect`] with a CONNECT that the caller changed, and another timeout for its answer.
    /// # Errors
    /// When no CONNACK with success comes.
    pub async fn connect_with(
        &self,
        node: usize,
        packet: Connect,
        will: Option<WillPlan>,
        timeout: Duration,
        recorder: &Recorder,
    ) -> Result<Recorded> {
        let expiry = if self.version.is_v5() { packet.session_expiry_interval.unwrap_or(0) } else { u32::MAX };
        let expiry = if self.durable { expiry } else { 0 };
        let number = recorder.connect(&self.client, node, packet.clean_start, self.durable, expiry, will);
        // Of the whole attempt: a node that is stopped takes a connection and answers nothing.
        let attempt = tokio::time::timeout(timeout, Connection::connect_within(self.nodes[node], packet, STALL)).await;
        let attempt = attempt.unwrap_or(Err(ClientError::Timeout("CONNACK")));
        let answer = attempt.and_then(|(link, connack)| match connack.reason {
            ReasonCode::Success => Ok((link, connack)),
            reason => Err(ClientError::Refused(reason)),
        });
        match answer {
            Ok((link, connack)) => {
                recorder.record(Event::Connected { connection: number, session_present: connack.session_present });
                Ok(Recorded { link, number, connack, node, recorder: recorder.clone(), closed: false })
            }
            Err(error) => {
                recorder.record(Event::NotConnected { connection: number });
                Err(error)
            }
        }
    }

    /// Connects to any node, beginning with `first`; tries until one answers or the run is over.
    pub async fn connect_somewhere(
        &self,
        first: usize,
        will: Option<&WillPlan>,
        recorder: &Recorder,
        phase: &PhaseWatch,
        random: &mut Random,
    ) -> Option<Recorded> {
        let mut node = first % self.nodes.len();
        loop {
            if *phase.borrow() == Phase::Over {
                return None;
            }
            if let Ok(recorded) = self.connect(node, will.cloned(), recorder).await {
                return Some(recorded);
            }
            sleep(Duration::from_millis(random.between(20, 120))).await;
            node = random.below(self.nodes.len() as u64) as usize;
        }
    }
}

impl Recorded {
    pub fn record(&self, event: Event) {
        self.recorder.record(event);
    }

    /// DISCONNECT with reason 0, then the end. Waits a moment for the broker's own end, so that the next CONNECT does
    /// not meet this connection.
    pub async fn disconnect(mut self) {
        self.record(Event::DisconnectInvoked { connection: self.number });
        let sent = self.link.send(&Packet::Disconnect(Disconnect::new(ReasonCode::Success))).await;
        if sent.is_ok() && self.ended_in_answer().await {
            self.close(CloseKind::Normal);
        } else {
            self.close(CloseKind::Unclear);
        }
    }

    /// Whether the broker ends the connection as one does that has read DISCONNECT. After a DISCONNECT of its own, or with a
    /// reset (bytes of ours were not read), it may not have.
    async fn ended_in_answer(&mut self) -> bool {
        let deadline = Instant::now() + STALL;
        loop {
            match self.link.recv_within(deadline.saturating_duration_since(Instant::now())).await {
                Ok(Some(Packet::Disconnect(_)) | None) => return false,
                Ok(Some(_)) => {}
                Err(error) => return matches!(error, ClientError::Closed),
            }
        }
    }

    /// Closes without a word.
    pub fn abandon(mut self) {
        self.close(CloseKind::Dropped);
    }

    /// The broker or the network ended it.
    pub fn lost(mut self) {
        self.close(CloseKind::Lost);
    }

    fn close(&mut self, how: CloseKind) {
        if !std::mem::replace(&mut self.closed, true) {
            self.recorder.record(Event::Closed { connection: self.number, how });
        }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.close(CloseKind::Dropped);
    }
}
