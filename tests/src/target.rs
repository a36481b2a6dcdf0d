//! Brokers that many tests share: one node in memory, and three nodes. A test written against two addresses runs on
//! both, since a cluster cannot be distinguished from one broker.
//! Always true: tests that share a broker use topics and client identifiers of their own ([`Target::unique`]).
use crate::{
    client::{Connection, Result, message},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in},
    skip::skip,
};
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS};
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};
use tokio::sync::OnceCell;

/// Where a test's clients connect. With one node all three are the same.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub a: SocketAddr,
    pub b: SocketAddr,
    pub c: SocketAddr,
    pub nodes: usize,
    number: u64,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Target {
    /// The nodes of a cluster that the test started itself.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        let at = |node: usize| cluster.address(node % cluster.len());
        Self { a: at(0), b: at(1), c: at(2), nodes: cluster.len(), number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// A name that no other test uses.
    #[must_use]
    pub fn unique(&self, name: &str) -> String {
        format!("t{}-{name}", self.number)
    }

    /// CONNECT of a clean session; `name` is made unique.
    #[must_use]
    pub fn connect_packet(&self, version: ProtocolVersion, name: &str) -> Connect {
        Connect::new(version, self.unique(name))
    }

    /// CONNECT of a session that outlives its connection by an hour (3.1.1: for ever).
    #[must_use]
    pub fn durable_packet(&self, version: ProtocolVersion, name: &str) -> Connect {
        let mut connect = self.connect_packet(version, name);
        connect.clean_start = false;
        if version.is_v5() {
            connect.session_expiry_interval = Some(3600);
        }
        connect
    }

    /// A clean MQTT 5 client at node `a`.
    /// # Errors
    /// When it cannot connect.
    pub async fn at_a(&self, name: &str) -> Result<Connection> {
        Ok(Connection::connected(self.a, self.connect_packet(ProtocolVersion::V5, name)).await?.0)
    }

    /// A clean MQTT 5 client at node `b`.
    /// # Errors
    /// When it cannot connect.
    pub async fn at_b(&self, name: &str) -> Result<Connection> {
        Ok(Connection::connected(self.b, self.connect_packet(ProtocolVersion::V5, name)).await?.0)
    }

    /// Publishes with QoS 1 through node `a` and a client of its own.
    /// # Errors
    /// When it is not acknowledged.
    pub async fn publish(&self, topic: &str, payload: &str, retain: bool) -> Result<()> {
        let mut publisher = self.at_a(&format!("one-shot-{}", NEXT.fetch_add(1, Ordering::Relaxed))).await?;
        let mut publish = message(topic, payload.to_owned(), QoS::AtLeastOnce);
        publish.retain = retain;
        publisher.publish(publish).await?;
        publisher.disconnect().await
    }
}

/// One node in memory, shared by all tests of this process.
/// # Panics
/// When it cannot be started.
pub async fn one_node() -> Target {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    let start = || async { Cluster::start(ClusterOptions::new("shared-one", 1)).await.expect("one node starts") };
    Target::of(SHARED.get_or_init(start).await)
}

/// Three nodes, shared by all tests of this process; `None` (and a word why) with a stand-in that cannot be three.
/// # Panics
/// When they cannot be started.
pub async fn three_nodes() -> Option<Target> {
    if is_stand_in() {
        skip("MOSQUORUM_BIN is Eclipse Mosquitto, which is one node");
        return None;
    }
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    let start = || async { Cluster::start(ClusterOptions::new("shared-three", 3)).await.expect("three nodes start") };
    Some(Target::of(SHARED.get_or_init(start).await))
}

/// An error in a test. It never comes into being: `?` panics where it stands, so the line is printed and brokers under test
/// print their logs.
#[derive(Debug)]
pub struct Failure;

impl<E: std::fmt::Display> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Self {
        panic!("{error}")
    }
}

/// What tests return.
pub type TestResult = std::result::Result<(), Failure>;

/// Runs each named `async fn(Target) -> TestResult` against one node.
#[macro_export]
macro_rules! on_one_node {
    ($($name:ident),+ $(,)?) => {
        mod one_node {
            $(#[tokio::test]
            async fn $name() {
                let _ = super::$name($crate::target::one_node().await).await;
            })+
        }
    };
}

/// Runs each named `async fn(Target) -> TestResult` against three nodes.
#[macro_export]
macro_rules! on_three_nodes {
    ($($name:ident),+ $(,)?) => {
        mod three_nodes {
            $(#[tokio::test]
            async fn $name() {
                let Some(target) = $crate::target::three_nodes().await else { return };
                let _ = super::$name(target).await;
            })+
        }
    };
}

/// Runs each named test against one node and against three.
#[macro_export]
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        $crate::on_one_node!($($name),+);
        $crate::on_three_nodes!($($name),+);
    };
}
