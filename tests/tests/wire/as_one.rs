//! Three nodes behind one port, started with Mosquitto's words, cannot be distinguished from one broker.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS};
use mosquorum_tests::{
    client::{Connection, TIMEOUT, message},
    cluster::{
        TestFolder,
        binary::{self, Build, is_stand_in},
    },
    skip::skip,
    target::{Failure, TestResult},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::Read,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};
use tokio::time::sleep;

struct Broker {
    process: Child,
    address: SocketAddr,
}

impl Broker {
    fn spawn(folder: &Path, words: &[&str]) -> std::io::Result<Child> {
        Command::new(env!("CARGO_BIN_EXE_as-one"))
            .args(words)
            .current_dir(folder)
            .env("MOSQUORUM_BIN", binary::path(Build::Plain)?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    }

    fn start(folder: &Path, port: u16) -> std::io::Result<Self> {
        let process = Self::spawn(folder, &["-v", "-c", "mosquitto.conf"])?;
        Ok(Self { process, address: (Ipv4Addr::LOCALHOST, port).into() })
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("it runs");
    }

    async fn connected(&self, connect: Connect) -> Result<(Connection, bool), Failure> {
        let deadline = Instant::now() + TIMEOUT * 2;
        loop {
            match Connection::connected(self.address, connect.clone()).await {
                Ok((connection, connack)) => return Ok((connection, connack.session_present)),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// How it ended, and what it said on stderr.
    async fn end(mut self) -> Result<(ExitStatus, String), Failure> {
        self.signal(Signal::TERM);
        let mut stderr = self.process.stderr.take().expect("a pipe");
        let text = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let text = tokio::time::timeout(TIMEOUT * 2, text).await??;
        Ok((self.process.wait()?, text))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn durable(name: &str) -> Connect {
    let mut connect = Connect::new(ProtocolVersion::V5, name);
    connect.clean_start = false;
    connect.session_expiry_interval = Some(3600);
    connect
}

/// Three connections, so three nodes: one has a session, one publishes, one sees what is retained. Then the session is
/// found at the next node, and everything after a restart.
#[tokio::test]
async fn sessions_messages_and_retained_ones_are_the_same_at_every_connection() -> TestResult {
    if is_stand_in() {
        skip("Mosquitto has no cluster");
        return Ok(());
    }
    let folder = TestFolder::new("as-one")?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let text =
        format!("listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\nlog_dest stderr\n");
    std::fs::write(folder.path().join("mosquitto.conf"), text)?;
    let broker = Broker::start(folder.path(), port)?;
    let (mut session, present) = broker.connected(durable("session")).await?;
    assert!(!present);
    session.subscribe_to("a/#", QoS::AtLeastOnce).await?;
    let (mut publisher, _) = broker.connected(Connect::new(ProtocolVersion::V311, "publisher")).await?;
    let mut retained = message("a/b", "one", QoS::AtLeastOnce);
    retained.retain = true;
    publisher.publish(retained).await?;
    assert_eq!(session.receive().await?.payload, "one");
    let (mut late, _) = broker.connected(Connect::new(ProtocolVersion::V5, "late")).await?;
    late.subscribe_to("a/+", QoS::AtMostOnce).await?;
    assert!(late.expect_publish().await?.retain);
    drop(session);
    publisher.publish(message("a/c", "two", QoS::AtLeastOnce)).await?;
    let (mut session, present) = broker.connected(durable("session")).await?;
    assert!(present);
    assert_eq!(session.receive().await?.payload, "two");
    drop(session);
    publisher.publish(message("a/d", "three", QoS::AtLeastOnce)).await?;
    let (status, log) = broker.end().await?;
    assert_eq!((status.code(), log.contains("from 127.0.0.1:")), (Some(0), true), "{log}");
    assert_eq!(log.matches(" running").count(), 1, "one broker says once that it runs: {log}");

    let broker = Broker::start(folder.path(), port)?;
    let (mut session, present) = broker.connected(durable("session")).await?;
    assert!(present);
    assert_eq!(session.receive().await?.payload, "three");
    broker.end().await?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_line_ends_it_as_it_ends_one_broker() -> TestResult {
    if is_stand_in() {
        skip("Mosquitto has no cluster");
        return Ok(());
    }
    let folder = TestFolder::new("as-one-wrong")?;
    std::fs::write(folder.path().join("wrong.conf"), "max_keepalive 10\nnonsense true\n")?;
    let output = Broker::spawn(folder.path(), &["-c", "wrong.conf"])?.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert_eq!(text.matches("wrong.conf:2").count(), 1, "{text}");
    Ok(())
}
