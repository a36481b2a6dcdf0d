//! What clients that nobody knows can do to the broker: take little memory, wait for nobody's login but their own, and
//! stay outside where the operator says so.
use mosquorum_proto::mqtt::{Connect, Packet, ProtocolVersion, QoS, ReasonCode};
use mosquorum_tests::{
    client::{Connection, PATIENCE, message},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in, why_no_namespaces},
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
const STRANGER_BYTES_MAX: u64 = 16 << 10;

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
    let mut strangers = Vec::with_capacity(MANY);
    for _ in 0..MANY {
        let mut stream = TcpStream::connect(cluster.address(0)).await?;
        stream.write_all(bytes).await?;
        strangers.push(stream);
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
        let cluster = Cluster::start(ClusterOptions::new(&format!("strangers-{number}"), 1)).await?;
        let each = bytes_each(&cluster, &bytes).await?;
        println!("{kind}: {each} bytes for each of {MANY} connections");
        assert!(each < STRANGER_BYTES_MAX, "{kind}: {each} bytes");
    }
    Ok(())
}

#[tokio::test]
async fn a_connect_that_announces_a_megabyte_is_refused_before_it_is_sent() -> TestResult {
    let cluster = Cluster::start(ClusterOptions::new("megabyte", 1)).await?;
    let mut stream = TcpStream::connect(cluster.address(0)).await?;
    stream.write_all(&announced(1_000_000)).await?;
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await?.unwrap_or_default();
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

/// Strangers that announce much and send nothing keep nobody out.
#[tokio::test]
async fn a_large_connect_gets_in_beside_strangers_that_only_announce_theirs() -> TestResult {
    let cluster = Cluster::start(ClusterOptions::new("announced-connects", 1)).await?;
    let target = Target::of(&cluster);
    let mut strangers = Vec::new();
    for _ in 0..20 {
        let mut stranger = TcpStream::connect(target.a).await?;
        stranger.write_all(&announced(1_900_000)).await?;
        strangers.push(stranger);
    }
    let mut connect = target.connect_packet(ProtocolVersion::V5, "large");
    connect.user_name = Some("u".into());
    connect.password = Some(vec![b'p'; 60_000].into());
    Connection::connected(target.a, connect).await?.0.disconnect().await?;
    drop(strangers);
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

/// Each check takes a large part of a second; there are only as many at a time as there are cores.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_logins_stops_nobodys_keep_alive() -> TestResult {
    const STORM: usize = 40;
    let hash = "A".repeat(86) + "==";
    let stored = format!("slow:$7$200000$AAAAAAAAAAAAAAAA${hash}\n");
    let mut cluster = prepared("storm", "passwords", &stored, |path| format!("password_file {path}"))?;
    cluster.start_node(0)?;
    cluster.wait_serving(0, PATIENCE).await?;
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
        storm.spawn(async move { Connection::connect_within(address, connect, PATIENCE * 10).await });
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
    let read = timeout(PATIENCE, stream.read(&mut answer)).await?;
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
    cluster.wait_serving(0, PATIENCE).await?;
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
    cluster.wait_serving(0, PATIENCE).await?;
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
