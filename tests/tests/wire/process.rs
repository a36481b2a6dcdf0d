//! The process as operators and service managers meet it: signals, notification, rights.
use mosquorum_proto::mqtt::{Ack, Connect, Packet, ProtocolVersion, QoS};
use mosquorum_tests::{
    client::{Connection, TIMEOUT, message},
    cluster::{Cluster, ClusterOptions, Ended, binary::is_stand_in},
    skip::skip,
    target::{Failure, TestResult},
};
use rustix::process::Signal;
use std::{
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A broker of our own on a free port, whose streams and surroundings the test sets.
struct Process(Child);

impl Process {
    fn start(cluster: &Cluster, set: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(cluster.binary());
        command.arg("-c").arg(cluster.configuration_file(0)).stdout(Stdio::null()).stderr(Stdio::null());
        set(&mut command);
        Self(command.spawn().expect("a process"))
    }

    fn signal(&self, signal: Signal) {
        let process = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(process, signal).expect("it runs");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn connected(cluster: &Cluster, name: &str) -> Result<Connection, Failure> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let mut connect = Connect::new(ProtocolVersion::V5, name);
        connect.session_expiry_interval = Some(if name == "kept" { 60 } else { 0 });
        match Connection::connected(cluster.address(0), connect).await {
            Ok((connection, _)) => return Ok(connection),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test]
async fn sigusr2_prints_subscriptions_and_where_retained_messages_are() -> TestResult {
    let cluster = Cluster::prepare(ClusterOptions::new("usr2", 1))?;
    let mut process = Process::start(&cluster, |command| {
        command.stdout(Stdio::piped());
    });
    let mut kept = connected(&cluster, "kept").await?;
    kept.subscribe_to("one/+/two", QoS::ExactlyOnce).await?;
    let mut clean = connected(&cluster, "clean").await?;
    clean.subscribe_to("$share/group/one", QoS::AtLeastOnce).await?;
    let mut retained = message("one/three", "x", QoS::AtLeastOnce);
    retained.retain = true;
    clean.publish(retained).await?;
    process.signal(Signal::USR2);
    let stdout = process.0.stdout.take().expect("a pipe");
    let lines = tokio::task::spawn_blocking(move || {
        let lines = std::io::BufRead::lines(std::io::BufReader::new(stdout)).map_while(Result::ok);
        let mut seen = Vec::new();
        for line in lines {
            let last = line.contains(" subscriptions, ");
            seen.push(line);
            if last {
                break;
            }
        }
        seen
    });
    let lines = tokio::time::timeout(TIMEOUT, lines).await??;
    for expected in ["        two (kept, 2)", "        one (clean, 1)", "      three [retained]"] {
        assert!(lines.iter().any(|line| line == expected), "{expected:?} in {lines:#?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_service_manager_is_notified_of_start_keep_alive_reload_and_stop() -> TestResult {
    if is_stand_in() {
        return skip_ok("MOSQUORUM_BIN is Eclipse Mosquitto, built without systemd");
    }
    let cluster = Cluster::prepare(ClusterOptions::new("notify", 1))?;
    let path = cluster.folder().join("notify");
    let listening = UnixDatagram::bind(&path)?;
    listening.set_read_timeout(Some(TIMEOUT))?;
    let process = Process::start(&cluster, |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000");
    });
    let listening = tokio::task::spawn_blocking(move || {
        let wait = |wanted: &str| {
            let mut buffer = [0; 256];
            loop {
                let length = listening.recv(&mut buffer).expect("a notification in time");
                if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == wanted) {
                    return;
                }
            }
        };
        wait("READY=1");
        wait("WATCHDOG=1");
        wait("WATCHDOG=1");
        process.signal(Signal::HUP);
        wait("RELOADING=1");
        wait("READY=1");
        process.signal(Signal::TERM);
        wait("STOPPING=1");
    });
    Ok(listening.await?)
}

/// A client answers what it was sent before it learns that the node stops.
#[tokio::test]
async fn acknowledgements_that_cross_the_end_of_a_stopping_node_hold_after_it() -> TestResult {
    let mut cluster = Cluster::start(ClusterOptions::new("crossing-words", 1).persistent()).await?;
    let mut subscriber = connected(&cluster, "kept").await?;
    subscriber.subscribe_to("words", QoS::ExactlyOnce).await?;
    let mut publisher = connected(&cluster, "publisher").await?;
    publisher.publish(message("words", "once", QoS::AtLeastOnce)).await?;
    publisher.publish(message("words", "exactly once", QoS::ExactlyOnce)).await?;
    let (once, exactly_once) = (subscriber.expect_publish().await?, subscriber.expect_publish().await?);
    cluster.signal(0, Signal::TERM);
    let Packet::Disconnect(_) = subscriber.recv().await? else { return Err("no DISCONNECT".into()) };
    subscriber.queue(&Packet::PubAck(Ack::new(once.packet_id)));
    subscriber.queue(&Packet::PubRec(Ack::new(exactly_once.packet_id)));
    subscriber.close_sending().await?;
    assert_eq!(cluster.wait_end(0, TIMEOUT).await?, Ended::Exit(0));
    cluster.start_node(0)?;
    cluster.wait_serving(0, TIMEOUT).await?;
    let mut connect = Connect::new(ProtocolVersion::V5, "kept");
    connect.clean_start = false;
    connect.session_expiry_interval = Some(60);
    let (mut subscriber, connack) = Connection::connected(cluster.address(0), connect).await?;
    assert!(connack.session_present);
    assert_eq!(subscriber.expect_pubrel().await?.packet_id, exactly_once.packet_id);
    Ok(())
}

/// What was read before the signal is in the log before the process ends, though no answer waits for it.
#[tokio::test]
async fn acknowledgements_received_before_a_stop_hold_after_it() -> TestResult {
    const MESSAGES: usize = 500;
    let mut cluster = Cluster::start(ClusterOptions::new("last-words", 1).persistent()).await?;
    let session = || {
        let mut connect = Connect::new(ProtocolVersion::V5, "kept");
        connect.clean_start = false;
        connect.session_expiry_interval = Some(3600);
        connect
    };
    let (mut subscriber, _) = Connection::connected(cluster.address(0), session()).await?;
    subscriber.subscribe_to("words", QoS::AtLeastOnce).await?;
    let mut publisher = connected(&cluster, "publisher").await?;
    publisher
        .publish_many(MESSAGES as u64, 20, |number| message("words", number.to_string(), QoS::AtLeastOnce))
        .await?;
    for _ in 0..MESSAGES {
        subscriber.receive().await?;
    }
    // What stands before an answered PINGREQ was read.
    subscriber.send(&Packet::PingReq).await?;
    while subscriber.recv().await? != Packet::PingResp {}
    assert_eq!(cluster.stop_node(0).await?, Ended::Exit(0));
    cluster.start_node(0)?;
    cluster.wait_serving(0, TIMEOUT).await?;
    let (mut subscriber, connack) = Connection::connected(cluster.address(0), session()).await?;
    assert!(connack.session_present);
    subscriber.expect_nothing().await?;
    Ok(())
}

fn skip_ok(why: &str) -> TestResult {
    skip(why);
    Ok(())
}

#[tokio::test]
async fn root_serves_as_the_user_that_puid_and_pgid_name() -> TestResult {
    if !rustix::process::geteuid().is_root() {
        return skip_ok("giving up rights needs root");
    }
    let cluster = Cluster::prepare(ClusterOptions::new("puid", 1))?;
    let process = Process::start(&cluster, |command| {
        command.env("PUID", "54321").env("PGID", "54322");
    });
    let _client = connected(&cluster, "somebody").await?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id()))?;
    for line in ["Uid:\t54321\t54321\t54321\t54321", "Gid:\t54322\t54322\t54322\t54322"] {
        assert!(status.contains(line), "{status}");
    }
    // Every thread of it, not only the first.
    for task in std::fs::read_dir(format!("/proc/{}/task", process.0.id()))? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        assert!(status.contains("Uid:\t54321\t54321\t54321\t54321"), "{status}");
    }
    Ok(())
}

#[tokio::test]
async fn a_start_with_a_bad_password_file_ends_with_mosquittos_exit_code_and_one_line() -> TestResult {
    let cluster = Cluster::prepare(ClusterOptions::new("exit-codes", 1))?;
    let file = cluster.folder().join("passwords");
    std::fs::write(&file, "user:nonsense\n")?;
    let configuration = std::fs::read_to_string(cluster.configuration_file(0))?;
    for (path, code, expected) in [
        (file.clone(), 3, "Unable to decode line in password file"),
        (file.join("below"), 13, "Error: Unable to open p"),
    ] {
        let text = format!("password_file {}\n{configuration}log_dest none\nlog_dest stderr\n", path.display());
        let changed = cluster.folder().join("bad.conf");
        std::fs::write(&changed, text)?;
        let mut command = tokio::process::Command::new(cluster.binary());
        command.arg("-c").arg(&changed).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(TIMEOUT, command.output()).await??;
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}");
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("rror")).collect();
        assert!(lines.len() == 1 && lines[0].contains(expected), "{text}");
        assert!(!text.contains("Error: Error"), "{text}");
    }
    Ok(())
}
