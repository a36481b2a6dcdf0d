//! What clients that nobody knows can do to the broker: take little memory and no descriptor that others need, keep nobody's
//! login or probe waiting, and stay outside where the operator says so.
use mosquorum_proto::mqtt::{Connect, Packet, ProtocolVersion, QoS, ReasonCode, encode};
use mosquorum_tests::{
    backlog::eventually,
    client::{Connection, TIMEOUT, message},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in, why_no_namespaces},
    http,
    measure::resident_mib,
    skip::skip,
    target::{Failure, Target, TestResult},
};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// Connections at a time in the tests of memory.
const MANY: usize = 2000;
/// The bound that each of them must keep.
const UNAUTHENTICATED_BYTES_MAX: u64 = 16 << 10;

/// The beginning of a CONNECT of 3.1.1 whose rest has so many bytes.
fn announced(remaining: usize) -> Vec<u8> {
    let mut bytes = vec![0x10];
    let mut rest = remaining;
    loop {
        let (low, high) = ((rest % 128) as u8, rest / 128);
        bytes.push(low | if high > 0 { 0x80 } else { 0 });
        if high == 0 {
            break;
        }
        rest = high;
    }
    bytes.extend([0, 4, b'M', b'Q', b'T', b'T', 4, 0b1100_0010, 0, 60]);
    bytes
}

/// Resident bytes for each of so many connections that send `bytes` and wait.
async fn bytes_each(cluster: &Cluster, bytes: &[u8]) -> Result<u64, Failure> {
    let before = resident_mib(cluster.process_id(0));
    let mut unauthenticated = Vec::with_capacity(MANY);
    for _ in 0..MANY {
        let mut stream = TcpStream::connect(cluster.address(0)).await?;
        stream.write_all(bytes).await?;
        unauthenticated.push(stream);
    }
    // Whoever comes after them is served only when they have been looked at.
    let target = Target::of(cluster);
    target.at_a("last").await?.disconnect().await?;
    Ok((resident_mib(cluster.process_id(0)) - before) * (1 << 20) / MANY as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_costs_less_than_16_kib_until_its_connect_is_whole() -> TestResult {
    let mut large = announced(99_000);
    large.extend([0, 200]);
    large.extend([b'x'; 40_000]);
    let mut small = announced(5_000);
    small.extend([0, 200]);
    small.extend([b'x'; 4_000]);
    let kinds = [
        ("nothing", Vec::new()),
        ("half of a header", vec![0x10]),
        ("most of 5 kB", small),
        ("a part of 99 kB", large),
    ];
    for (number, (kind, bytes)) in kinds.into_iter().enumerate() {
        let cluster = Cluster::start(ClusterOptions::new(&format!("unauthenticated-{number}"), 1)).await?;
        let each = bytes_each(&cluster, &bytes).await?;
        println!("{kind}: {each} bytes for each of {MANY} connections");
        assert!(each < UNAUTHENTICATED_BYTES_MAX, "{kind}: {each} bytes");
    }
    Ok(())
}

#[tokio::test]
async fn a_connect_that_announces_a_megabyte_is_refused_before_it_is_sent() -> TestResult {
    let cluster = Cluster::start(ClusterOptions::new("megabyte", 1)).await?;
    let mut stream = TcpStream::connect(cluster.address(0)).await?;
    stream.write_all(&announced(1_000_000)).await?;
    let mut rest = Vec::new();
    timeout(TIMEOUT, stream.read_to_end(&mut rest)).await?.unwrap_or_default();
    Ok(())
}

/// Large CONNECTs take turns, but all of them get one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_connects_at_once_all_get_in() -> TestResult {
    let cluster = Cluster::start(ClusterOptions::new("large-connects", 1)).await?;
    let target = Target::of(&cluster);
    let mut coming = Vec::new();
    for number in 0..60 {
        let mut connect = target.connect_packet(ProtocolVersion::V5, &format!("large-{number}"));
        connect.user_name = Some("u".into());
        connect.password = Some(vec![b'p'; 60_000].into());
        coming.push(tokio::spawn(Connection::connected(target.a, connect)));
    }
    for client in coming {
        client.await??.0.disconnect().await?;
    }
    Ok(())
}

/// Unauthenticated peers that announce much and send nothing keep nobody out.
#[tokio::test]
async fn a_large_connect_gets_in_beside_strangers_that_only_announce_theirs() -> TestResult {
    let cluster = Cluster::start(ClusterOptions::new("announced-connects", 1)).await?;
    let target = Target::of(&cluster);
    let mut unauthenticated = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(target.a).await?;
        stream.write_all(&announced(1_900_000)).await?;
        unauthenticated.push(stream);
    }
    let mut connect = target.connect_packet(ProtocolVersion::V5, "large");
    connect.user_name = Some("u".into());
    connect.password = Some(vec![b'p'; 60_000].into());
    Connection::connected(target.a, connect).await?.0.disconnect().await?;
    drop(unauthenticated);
    Ok(())
}

/// A node with these lines for its configuration and this file beside it.
fn prepared(name: &str, file: &str, text: &str, line: impl Fn(&str) -> String) -> Result<Cluster, Failure> {
    let cluster = Cluster::prepare(ClusterOptions::new(name, 1))?;
    let path = cluster.folder().join(file);
    std::fs::write(&path, text)?;
    let configuration = cluster.configuration_file(0);
    let lines = std::fs::read_to_string(configuration)?;
    std::fs::write(configuration, format!("{}\n{lines}", line(&path.display().to_string())))?;
    Ok(cluster)
}

/// Each check takes a part of a second; there are only as many at a time as there are cores.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_logins_stops_nobodys_keep_alive() -> TestResult {
    const STORM: usize = 40;
    let hash = "A".repeat(86) + "==";
    let stored = format!("slow:$7$50000$AAAAAAAAAAAAAAAA${hash}\n");
    let mut cluster = prepared("storm", "passwords", &stored, |path| format!("password_file {path}"))?;
    cluster.start_node(0)?;
    cluster.wait_serving(0, TIMEOUT).await?;
    let mut calm = Connect::new(ProtocolVersion::V5, "calm");
    calm.keep_alive_seconds = 1;
    let (mut calm, _) = Connection::connected(cluster.address(0), calm).await?;
    let mut storm = tokio::task::JoinSet::new();
    for number in 0..STORM {
        let mut connect = Connect::new(ProtocolVersion::V5, format!("storm-{number}").as_str());
        // An unknown user costs the same.
        connect.user_name = Some(if number % 2 == 0 { "slow" } else { "unknown" }.into());
        connect.password = Some(bytes::Bytes::from_static(b"wrong"));
        let address = cluster.address(0);
        storm.spawn(async move { Connection::connect_within(address, connect, TIMEOUT * 10).await });
    }
    // If checks kept the threads that serve connections, all of them would be over before these came back.
    for _ in 0..10 {
        calm.send(&Packet::PingReq).await?;
        assert!(matches!(calm.recv().await?, Packet::PingResp));
    }
    let (mut checked, mut early) = (0, 0);
    while let Some(answer) = storm.try_join_next() {
        assert_eq!(answer??.1.reason, ReasonCode::NotAuthorized);
        early += 1;
    }
    assert!(early < STORM / 2, "{early} of {STORM} logins were checked before a ping came back ten times");
    while checked + early < STORM {
        calm.send(&Packet::PingReq).await?;
        assert!(matches!(calm.recv().await?, Packet::PingResp), "the keep-alive of one second did not end");
        // A pause as clients make it.
        if let Ok(Some(answer)) = timeout(Duration::from_millis(300), storm.join_next()).await {
            assert_eq!(answer??.1.reason, ReasonCode::NotAuthorized);
            checked += 1;
        }
    }
    Ok(())
}

async fn answer_to(address: SocketAddr, from: &str) -> Result<Vec<u8>, Failure> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from.parse()?, 0))?;
    let mut stream = socket.connect(address).await?;
    // It may be closed by then.
    let _ = stream.write_all(&[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 1, b'x']).await;
    let mut answer = vec![0; 4];
    let read = timeout(TIMEOUT, stream.read(&mut answer)).await?;
    answer.truncate(read.unwrap_or(0));
    Ok(answer)
}

#[tokio::test]
async fn hosts_deny_keeps_out_whom_it_names_and_a_reload_reads_it_again() -> TestResult {
    if is_stand_in() {
        skip("tcp_wrappers is an option of mosquorum");
        return Ok(());
    }
    if let Some(why) = why_no_namespaces() {
        skip(&why);
        return Ok(());
    }
    let mut cluster = Cluster::prepare(ClusterOptions::new("wrappers", 1).with("tcp_wrappers true"))?;
    // The broker sees an /etc of its own.
    let etc = cluster.folder().join("etc");
    let script = "cp -a /etc \"$0\" && cp \"$0.deny\" \"$0/hosts.deny\" && mount --bind \"$0\" /etc && exec \"$@\"";
    std::fs::write(cluster.folder().join("etc.deny"), "mosquitto: 127.0.0.2\n")?;
    let words = ["unshare", "--mount", "sh", "-c", script, &etc.display().to_string()];
    cluster.start_node_under(0, &words.map(str::to_owned))?;
    cluster.wait_serving(0, TIMEOUT).await?;
    let address = cluster.address(0);
    let accepted = [0x20, 2, 0, 0];
    assert_eq!(answer_to(address, "127.0.0.2").await?, b"");
    cluster.wait_logged(0, "Client connection from 127.0.0.2 denied access by tcpd.", 1).await?;
    assert_eq!(answer_to(address, "127.0.0.3").await?, accepted);
    std::fs::write(etc.join("hosts.deny"), "mosquorum: 127.0.0.0/255.0.0.0 EXCEPT 127.0.0.1, 127.0.0.2\n")?;
    cluster.signal(0, rustix::process::Signal::HUP);
    while answer_to(address, "127.0.0.2").await? != accepted {
        assert!(cluster.runs(0));
    }
    assert_eq!(answer_to(address, "127.0.0.3").await?, b"");
    // What cannot be understood keeps the rules as they are.
    std::fs::write(etc.join("hosts.deny"), "mosquitto: .example.org\n")?;
    cluster.signal(0, rustix::process::Signal::HUP);
    cluster.wait_logged(0, "hosts.deny", 1).await?;
    assert_eq!(answer_to(address, "127.0.0.3").await?, b"");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn above_memory_limit_nothing_is_taken_in_and_who_is_there_stays() -> TestResult {
    if is_stand_in() {
        skip("Debian's Mosquitto counts its heap only when it was built to");
        return Ok(());
    }
    let mut cluster = Cluster::start(ClusterOptions::new("memory-limit", 1).with("max_queued_messages 0")).await?;
    let idle = resident_mib(cluster.process_id(0));
    cluster.stop_node(0).await?;
    let configuration = cluster.configuration_file(0);
    let lines = std::fs::read_to_string(configuration)?;
    std::fs::write(configuration, format!("memory_limit {}\n{lines}", (idle + 40) << 20))?;
    cluster.start_node(0)?;
    cluster.wait_serving(0, TIMEOUT).await?;
    let target = Target::of(&cluster);
    let mut resident = target.at_a("resident").await?;
    let mut writer = target.at_a("writer").await?;
    let mut refused = None;
    for number in 0..20_000 {
        let mut retained = message(&format!("much/{number}"), vec![b'x'; 100_000], QoS::AtLeastOnce);
        retained.retain = true;
        if let Err(error) = writer.publish(retained).await {
            refused = Some((number, error));
            break;
        }
    }
    let (number, error) = refused.expect("a limit");
    println!("after {number} messages of 100 kB: {error}");
    assert!((100..5_000).contains(&number), "{number} messages were taken");
    cluster.wait_logged(0, "memory_limit is", 1).await?;
    resident.send(&Packet::PingReq).await?;
    assert!(matches!(resident.recv().await?, Packet::PingResp));
    let (_, connack) = Connection::connect(target.a, target.connect_packet(ProtocolVersion::V5, "new")).await?;
    assert_eq!(connack.reason, ReasonCode::QuotaExceeded);
    let (_, connack) = Connection::connect(target.a, target.connect_packet(ProtocolVersion::V311, "new")).await?;
    assert_eq!(connack.reason, ReasonCode::ServerUnavailable);
    Ok(())
}

/// The password is "test", and cheap to check.
const KNOWN: &str =
    "real:$6$njERlZMi/7DzNB9E$iiavfuXvUm8iyDZArTy7smTxh07GXXOrOsqxfW6gkOYVXHGk+W+i/8d3xDxrMwEPygEBhoA8A/gjQC0N2M4Lkw==";

/// A node with that user and with `slow`, at whose passwords a core works for about a second.
async fn with_slow_logins(name: &str) -> Result<Cluster, Failure> {
    let stored = format!("{KNOWN}\nslow:$7$1000000$AAAAAAAAAAAAAAAA${}==\n", "A".repeat(86));
    let mut cluster = prepared(name, "passwords", &stored, |path| format!("password_file {path}"))?;
    cluster.start_node(0)?;
    cluster.wait_serving(0, TIMEOUT).await?;
    Ok(cluster)
}

fn login(id: &str, user: &str, password: &'static str) -> Connect {
    let mut connect = Connect::new(ProtocolVersion::V5, id);
    connect.user_name = Some(user.into());
    connect.password = Some(password.into());
    connect
}

/// A connection from this address that has sent these packets.
async fn sent_from(from: &str, address: SocketAddr, packets: &[Packet]) -> Result<TcpStream, Failure> {
    let mut bytes = bytes::BytesMut::new();
    packets.iter().for_each(|packet| encode(packet, ProtocolVersion::V5, &mut bytes));
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from.parse()?, 0))?;
    let mut stream = socket.connect(address).await?;
    stream.write_all(&bytes).await?;
    Ok(stream)
}

/// Together these checks take far longer than the ten seconds that CONNECT has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_that_hang_up_at_once_keep_no_other_login_waiting() -> TestResult {
    let cluster = with_slow_logins("hang-ups").await?;
    for number in 0..800 {
        let connect = login(&format!("gone-{number}"), "slow", "wrong");
        drop(sent_from("127.0.0.1", cluster.address(0), &[Packet::Connect(Box::new(connect))]).await?);
    }
    let (client, _) = Connection::connected(cluster.address(0), login("real", "real", "test")).await?;
    client.disconnect().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_does_not_wait_for_a_storm_from_another_address_and_the_storm_ends_with_its_ten_seconds() -> TestResult
{
    const STORM: usize = 400;
    let cluster = with_slow_logins("storm-elsewhere").await?;
    let address = cluster.address(0);
    let mut storm = tokio::task::JoinSet::new();
    for number in 0..STORM {
        let connect = login(&format!("storm-{number}"), "slow", "wrong");
        let mut stream = sent_from("127.0.0.2", address, &[Packet::Connect(Box::new(connect))]).await?;
        storm.spawn(async move {
            let mut answer = Vec::new();
            let read = timeout(TIMEOUT * 2, stream.read_to_end(&mut answer)).await;
            read.map(|_| answer.get(3).copied())
        });
    }
    let connect = login("real", "real", "test");
    let mut stream = sent_from("127.0.0.3", address, &[Packet::Connect(Box::new(connect))]).await?;
    let mut answer = [0; 4];
    timeout(TIMEOUT, stream.read_exact(&mut answer)).await??;
    assert_eq!(answer[3], 0, "{answer:?}");
    let mut early = 0;
    while storm.try_join_next().is_some() {
        early += 1;
    }
    assert!(early < STORM / 2, "{early} of {STORM} were checked before");
    let (mut wrong, mut busy) = (early, 0);
    while let Some(answer) = storm.join_next().await {
        match answer?? {
            Some(0x87) => wrong += 1,
            Some(0x89) => busy += 1,
            other => return Err(format!("{other:?}").into()),
        }
    }
    println!("{wrong} were checked, {busy} were answered that the server is busy");
    assert!(busy > 0);
    Ok(())
}

/// [MQTT-3.1.4-5]: a client need not wait for CONNACK.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_publishes_and_hangs_up_while_the_password_is_checked_is_delivered() -> TestResult {
    let cluster = with_slow_logins("fire-and-forget").await?;
    let (mut observer, _) = Connection::connected(cluster.address(0), login("observer", "real", "test")).await?;
    observer.subscribe_to("t", QoS::AtMostOnce).await?;
    // Every core has something to check.
    let mut busy = Vec::new();
    for number in 0..16 {
        let connect = login(&format!("busy-{number}"), "slow", "wrong");
        busy.push(sent_from("127.0.0.2", cluster.address(0), &[Packet::Connect(Box::new(connect))]).await?);
    }
    let connect = login("brief", "real", "test");
    let publish = message("t", "heard", QoS::AtMostOnce);
    let packets = [Packet::Connect(Box::new(connect)), Packet::Publish(publish)];
    drop(sent_from("127.0.0.1", cluster.address(0), &packets).await?);
    assert_eq!(observer.receive().await?.payload, "heard");
    Ok(())
}

/// It may be elsewhere already, with a later CONNECT: what this one would begin anew is that one's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_start_that_waited_for_a_leader_ends_no_session_after_its_client_hung_up() -> TestResult {
    let mut cluster = Cluster::start(ClusterOptions::new("gave-up", 3)).await?;
    let durable = |clean_start| {
        let mut connect = Connect::new(ProtocolVersion::V5, "gave-up");
        (connect.clean_start, connect.session_expiry_interval) = (clean_start, Some(3600));
        connect
    };
    let leader = cluster.leader().await.ok_or("nobody leads")?;
    let (stale, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let (mut first, _) = Connection::connected(cluster.address(other), durable(false)).await?;
    first.subscribe_to("t", QoS::AtLeastOnce).await?;
    first.disconnect().await?;
    let (mut publisher, _) =
        Connection::connected(cluster.address(other), Connect::new(ProtocolVersion::V5, "publisher")).await?;
    publisher.publish(message("t", "kept", QoS::AtLeastOnce)).await?;
    assert!(cluster.pause(leader));
    let packets = [Packet::Connect(Box::new(durable(true)))];
    drop(sent_from("127.0.0.1", cluster.address(stale), &packets).await?);
    // Whatever comes of it has come of it then.
    let ended = eventually(2 * TIMEOUT, async || {
        let log = cluster.log(stale);
        log.lines().any(|line| line.contains("gave-up") && line.contains("connection closed by client"))
    });
    assert!(ended.await, "{}", cluster.log_tail(stale, 20));
    assert!(cluster.resume(leader));
    let (mut second, connack) = Connection::connected(cluster.address(other), durable(false)).await?;
    assert!(connack.session_present);
    assert_eq!(second.receive().await?.payload, "kept");
    Ok(())
}

/// As above, when the client was gone before its CONNECT was read: the node was starting, or had no time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_start_that_nobody_read_in_time_ends_no_session_after_its_client_hung_up() -> TestResult {
    if is_stand_in() {
        skip("Mosquitto begins anew for whoever is gone");
        return Ok(());
    }
    let mut cluster = Cluster::start(ClusterOptions::new("unread", 1).persistent()).await?;
    let durable = |clean_start| {
        let mut connect = Connect::new(ProtocolVersion::V5, "unread");
        (connect.clean_start, connect.session_expiry_interval) = (clean_start, Some(3600));
        connect
    };
    let (mut first, _) = Connection::connected(cluster.address(0), durable(false)).await?;
    first.subscribe_to("t", QoS::AtLeastOnce).await?;
    first.disconnect().await?;
    let (mut publisher, _) =
        Connection::connected(cluster.address(0), Connect::new(ProtocolVersion::V5, "publisher")).await?;
    publisher.publish(message("t", "kept", QoS::AtLeastOnce)).await?;
    assert!(cluster.pause(0));
    let packets = [Packet::Connect(Box::new(durable(true)))];
    drop(sent_from("127.0.0.1", cluster.address(0), &packets).await?);
    assert!(cluster.resume(0));
    let ended = eventually(TIMEOUT, async || {
        let log = cluster.log(0);
        log.lines().any(|line| line.contains("unread") && line.contains("connection closed by client"))
    });
    assert!(ended.await, "{}", cluster.log_tail(0, 20));
    let (mut second, connack) = Connection::connected(cluster.address(0), durable(false)).await?;
    assert!(connack.session_present);
    assert_eq!(second.receive().await?.payload, "kept");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_keep_no_probe_waiting() -> TestResult {
    if is_stand_in() {
        skip("the health listener is ours");
        return Ok(());
    }
    let cluster = Cluster::start(ClusterOptions::new("silent-probes", 1)).await?;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(cluster.health_address(0)).await?);
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(http::get(cluster.health_address(0), path).await?.0, 200, "{path}");
    }
    let (_, metrics) = http::get(cluster.health_address(0), "/metrics").await?;
    assert!(metrics.contains("mosquorum_health_connections_dropped_total"), "{metrics}");
    drop(silent);
    Ok(())
}

fn open_descriptors(cluster: &Cluster) -> Result<u64, Failure> {
    let process = cluster.process_id(0).ok_or("it does not run")?;
    Ok(std::fs::read_dir(format!("/proc/{process}/fd"))?.count() as u64)
}

/// Messages that need a new segment of the log, acknowledged.
async fn fill_segments(writer: &mut Connection, megabytes: u64) -> TestResult {
    for number in 0..megabytes {
        let large = message(&format!("filling/{number}"), vec![b'x'; 1_000_000], QoS::AtLeastOnce);
        assert!(!writer.publish(large).await?.is_error());
    }
    Ok(())
}

/// A session in whose queue everything goes to the log.
async fn durable_session(cluster: &Cluster) -> Result<(), Failure> {
    let mut connect = Connect::new(ProtocolVersion::V5, "away");
    connect.session_expiry_interval = Some(3600);
    let (mut away, _) = Connection::connected(cluster.address(0), connect).await?;
    away.subscribe_to("filling/#", QoS::AtLeastOnce).await?;
    away.disconnect().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_strangers_take_no_descriptor_that_the_log_needs() -> TestResult {
    if is_stand_in() {
        skip("Mosquitto keeps no reserve");
        return Ok(());
    }
    const LIMIT: u64 = 512;
    const RESERVE: u64 = LIMIT / 4;
    let options = ClusterOptions::new("idle-strangers", 1).persistent().with("max_queued_messages 0");
    let mut cluster = Cluster::prepare(options)?;
    let words = ["sh", "-c", &format!("ulimit -S -n 256 && ulimit -H -n {LIMIT} && exec \"$0\" \"$@\"")];
    cluster.start_node_under(0, &words.map(str::to_owned))?;
    cluster.wait_serving(0, TIMEOUT).await?;
    cluster
        .wait_logged(0, "Up to 512 file descriptors may be open (ulimit -n, LimitNOFILE); 128 of them are kept", 1)
        .await?;
    durable_session(&cluster).await?;
    let mut writer = Target::of(&cluster).at_a("writer").await?;
    let mut unauthenticated = Vec::new();
    for _ in 0..2 * LIMIT {
        unauthenticated.push(TcpStream::connect(cluster.address(0)).await?);
    }
    cluster.wait_logged(0, "Client connections are refused", 1).await?;
    fill_segments(&mut writer, 80).await?;
    let open = open_descriptors(&cluster)?;
    assert!(open <= LIMIT - RESERVE + RESERVE / 2, "{open} of {LIMIT} descriptors are open");
    assert_eq!(http::get(cluster.health_address(0), "/livez").await?.0, 200);
    let log = cluster.log(0);
    assert!(log.matches("Client connections are refused").count() <= 2, "one line a minute: {log}");
    assert!(!log.contains("Too many open files"), "{log}");
    drop(unauthenticated);
    cluster.wait_serving(0, TIMEOUT).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_waits_for_a_file_descriptor_and_goes_on() -> TestResult {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    if is_stand_in() {
        skip("Mosquitto has no log");
        return Ok(());
    }
    let options = ClusterOptions::new("no-descriptor", 1).persistent().with("max_queued_messages 0");
    let mut cluster = Cluster::start(options).await?;
    durable_session(&cluster).await?;
    let mut writer = Target::of(&cluster).at_a("writer").await?;
    let process = cluster.process_id(0).and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).ok_or("it runs")?;
    let before = prlimit(Some(process), Resource::Nofile, Rlimit { current: Some(1), maximum: Some(20_000) })?;
    let filling =
        tokio::spawn(async move { fill_segments(&mut writer, 100).await.map_err(|error| format!("{error:?}")) });
    cluster.wait_logged(0, "storage waits for a file descriptor to open", 1).await?;
    assert!(cluster.runs(0) && !filling.is_finished(), "nothing is acknowledged that is not on disk");
    prlimit(Some(process), Resource::Nofile, before)?;
    filling.await??;
    cluster.wait_logged(0, "storage has file descriptors again", 1).await?;
    assert_eq!(cluster.log(0).matches("storage waits for a file descriptor").count(), 1);
    Ok(())
}
