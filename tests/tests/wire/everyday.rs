//! What operators meet every day: certbot's folders, four kinds of listeners at once, a supervisor that holds the streams,
//! and clients that are set up wrong, each with one clear line in the log.
use mosquorum_proto::mqtt::{Connect, Packet, ProtocolVersion, QoS, ReasonCode};
use mosquorum_tests::{
    client::{Connection, TIMEOUT, message},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in},
    programs::{converse, here, libraries},
    skip::{has_program, skip},
    target::{Failure, TestResult},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::Write,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Command,
    time::timeout,
};

/// A root, an authority below it, and a folder as certbot keeps it: `archive` with every certificate that there ever was,
/// `live` with links to the newest.
struct Certbot {
    folder: PathBuf,
    intermediate: CertifiedIssuer<'static, KeyPair>,
}

fn authority(name: &str) -> Result<(CertificateParams, KeyPair), Failure> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((params, KeyPair::generate()?))
}

impl Certbot {
    fn new(folder: &Path) -> Result<Self, Failure> {
        let (params, key) = authority("root")?;
        let root = CertifiedIssuer::self_signed(params, key)?;
        let (params, key) = authority("intermediate")?;
        let intermediate = CertifiedIssuer::signed_by(params, key, &root)?;
        let certbot = Self { folder: folder.join("letsencrypt"), intermediate };
        for below in ["archive/broker", "live/broker"] {
            std::fs::create_dir_all(certbot.folder.join(below))?;
        }
        std::fs::write(certbot.root(), root.pem())?;
        certbot.renew(1)?;
        Ok(certbot)
    }

    /// What clients trust.
    fn root(&self) -> PathBuf {
        self.folder.join("root.pem")
    }

    fn live(&self, file: &str) -> String {
        self.folder.join("live/broker").join(file).display().to_string()
    }

    /// New files in `archive`, then the links, one after the other.
    fn renew(&self, number: u32) -> Result<(), Failure> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, format!("broker-{number}"));
        let leaf = params.signed_by(&key, &self.intermediate)?.pem();
        let chain = self.intermediate.pem();
        let fullchain = format!("{leaf}{chain}");
        for (name, text) in
            [("cert", leaf), ("chain", chain), ("fullchain", fullchain), ("privkey", key.serialize_pem())]
        {
            let file = format!("{name}{number}.pem");
            std::fs::write(self.folder.join("archive/broker").join(&file), text)?;
            let (link, new) = (self.live(&format!("{name}.pem")), self.live(&format!("{name}.new")));
            symlink(format!("../../archive/broker/{file}"), &new)?;
            std::fs::rename(new, link)?;
        }
        Ok(())
    }
}

/// A node whose plain listener is on 127.0.0.1, so that names in certificates fit, with more lines.
fn prepare(name: &str, lines: impl FnOnce(u16, &Path) -> Result<String, Failure>) -> Result<(Cluster, u16), Failure> {
    let cluster = Cluster::prepare(ClusterOptions::new(name, 1))?;
    let port = free_port();
    let configuration = cluster.configuration_file(0);
    let mut text = std::fs::read_to_string(configuration)?;
    text.push_str(&lines(port, cluster.folder())?);
    std::fs::write(configuration, text)?;
    Ok((cluster, port))
}

/// Four ports from here on are free now.
fn free_port() -> u16 {
    loop {
        let Ok(first) = std::net::TcpListener::bind("127.0.0.1:0") else { continue };
        let Ok(port) = first.local_addr().map(|address| address.port()) else { continue };
        let next: Vec<_> = (1..4).map(|n| std::net::TcpListener::bind(("127.0.0.1", port.saturating_add(n)))).collect();
        if port < 60_000 && next.iter().all(Result::is_ok) {
            return port;
        }
    }
}

async fn started(mut cluster: Cluster) -> Result<Cluster, Failure> {
    cluster.start_node(0)?;
    cluster.wait_serving(0, TIMEOUT).await?;
    Ok(cluster)
}

/// The common name of the certificate that a listener shows, verified with the root alone.
async fn shown(port: u16, root: &Path) -> Result<String, Failure> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-verify_return_error", "-connect", &format!("127.0.0.1:{port}"), "-CAfile"]).arg(root);
    let output = timeout(TIMEOUT, command.stdin(Stdio::null()).kill_on_drop(true).output()).await??;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("Verify return code: 0 (ok)"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let subject = text.lines().find(|line| line.starts_with("subject=")).unwrap_or_default();
    Ok(subject.rsplit(['=', ' ']).next().unwrap_or_default().to_owned())
}

fn missing_tool() -> bool {
    let missing = ["openssl", "mosquitto_pub", "mosquitto_sub"].into_iter().find(|tool| !has_program(tool));
    if let Some(tool) = missing {
        skip(&format!("there is no {tool}"));
    }
    missing.is_some()
}

fn client(program: &str, port: u16, root: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "--cafile"]).arg(root).args(words);
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_certbot_renews_are_taken_up_by_sighup_under_traffic() -> TestResult {
    if missing_tool() {
        return Ok(());
    }
    let mut certbot = None;
    let (cluster, port) = prepare("certbot", |port, folder| {
        let made = certbot.insert(Certbot::new(folder)?);
        let (fullchain, cert, chain) = (made.live("fullchain.pem"), made.live("cert.pem"), made.live("chain.pem"));
        let key = made.live("privkey.pem");
        // Both habits: the whole chain in one file, and the leaf with the chain as cafile.
        Ok(format!(
            "listener {port} 127.0.0.1\ncertfile {fullchain}\nkeyfile {key}\n\
             listener {} 127.0.0.1\ncertfile {cert}\nkeyfile {key}\ncafile {chain}\n",
            port + 1
        ))
    })?;
    let certbot = certbot.expect("made above");
    let mut cluster = started(cluster).await?;
    let root = certbot.root();
    for port in [port, port + 1] {
        assert_eq!(shown(port, &root).await?, "broker-1");
    }
    let mut subscriber = client("mosquitto_sub", port, &root, &["-i", "s", "-c", "-q", "1", "-t", "t", "-C", "300"]);
    let subscriber = subscriber.stdout(Stdio::piped()).spawn()?;
    cluster.wait_logged(0, ": s 1 t", 1).await?;
    let mut publisher = client("mosquitto_pub", port + 1, &root, &["-q", "1", "-t", "t", "-l"]);
    let mut publisher = publisher.stdin(Stdio::piped()).spawn()?;
    let mut lines = publisher.stdin.take().expect("a pipe");
    let sending = tokio::spawn(async move {
        for number in 0..300 {
            lines.write_all(format!("{number}\n").as_bytes()).await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, std::io::Error>(())
    });
    for number in 2..5 {
        certbot.renew(number)?;
        cluster.signal(0, Signal::HUP);
        cluster.wait_logged(0, "Reloading config.", number as usize - 1).await?;
        // It takes effect before the next connection is served, and every connection is served.
        for port in [port, port + 1] {
            assert_eq!(shown(port, &root).await?, format!("broker-{number}"));
        }
    }
    sending.await??;
    assert!(timeout(TIMEOUT, publisher.wait()).await??.success());
    let came = timeout(TIMEOUT, subscriber.wait_with_output()).await??;
    let came: Vec<_> = String::from_utf8_lossy(&came.stdout).lines().map(str::to_owned).collect();
    assert_eq!(came, (0..300).map(|number| number.to_string()).collect::<Vec<_>>(), "on connections from before");
    // A key that does not belong to the certificate: the old ones stay, and the log says so.
    std::fs::write(Path::new(&certbot.live("privkey.pem")), KeyPair::generate()?.serialize_pem())?;
    cluster.signal(0, Signal::HUP);
    cluster.wait_logged(0, "The settings stay as they were.", 1).await?;
    assert_eq!(shown(port, &root).await?, "broker-4");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_tls_websockets_and_both_are_served_at_once() -> TestResult {
    if !has_program("node") {
        skip("there is no Node.js");
        return Ok(());
    }
    let Some(libraries) = libraries().await else { return Ok(()) };
    let mut certbot = None;
    let (cluster, port) = prepare("four", |port, folder| {
        let made = certbot.insert(Certbot::new(folder)?);
        let tls = format!("certfile {}\nkeyfile {}\n", made.live("fullchain.pem"), made.live("privkey.pem"));
        let [plain, secure, sockets, secure_sockets] = [0, 1, 2, 3].map(|n| format!("listener {}\n", port + n));
        Ok(format!("{plain}{secure}{tls}{sockets}protocol websockets\n{secure_sockets}protocol websockets\n{tls}"))
    })?;
    let cluster = started(cluster).await?;
    let mut talks = tokio::task::JoinSet::new();
    let cluster = std::sync::Arc::new(cluster);
    for (scheme, port) in ["mqtt", "mqtts", "ws", "wss"].into_iter().zip(port..) {
        let mut command = Command::new("node");
        command.arg(here().join("mqttjs_answer.js")).arg(libraries.join("mqttjs/node_modules/mqtt"));
        command.args([&format!("{scheme}://127.0.0.1:{port}/mqtt"), scheme, "5"]);
        command.env("NODE_EXTRA_CA_CERTS", certbot.as_ref().expect("made above").root());
        let program = command.kill_on_drop(true).spawn()?;
        let cluster = cluster.clone();
        talks.spawn(async move { converse(&cluster, scheme, program).await });
    }
    while let Some(talk) = talks.join_next().await {
        talk??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_has_the_process_it_started_its_lines_and_its_exit_code() -> TestResult {
    let cluster = Cluster::prepare(ClusterOptions::new("supervised", 1).with("log_dest stdout"))?;
    let mut command = Command::new(cluster.binary());
    command.arg("-c").arg(cluster.configuration_file(0)).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut broker = command.stderr(Stdio::null()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(broker.stdout.take().expect("a pipe")).lines();
    // Line by line, as they come, not when a buffer is full.
    loop {
        let line = timeout(TIMEOUT, lines.next_line()).await??.expect("a line");
        if line.contains("running") {
            break;
        }
    }
    let id = broker.id().expect("it runs in the foreground");
    let (_client, _) = Connection::connected(cluster.address(0), Connect::new(ProtocolVersion::V5, "watched")).await?;
    kill_process(Pid::from_raw(i32::try_from(id)?).expect("a process"), Signal::TERM)?;
    let mut rest = Vec::new();
    while let Some(line) = timeout(TIMEOUT, lines.next_line()).await?? {
        rest.push(line);
    }
    assert!(rest.iter().any(|line| line.contains("New client connected from 127.")), "{rest:#?}");
    assert!(rest.iter().any(|line| line.contains("terminating")), "{rest:#?}");
    assert_eq!(timeout(TIMEOUT, broker.wait()).await??.code(), Some(0));
    Ok(())
}

/// Whoever should read the log does not: lines are dropped and counted, nobody waits for them, and a stop is a stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_pipe_that_nobody_reads_stops_nothing() -> TestResult {
    if is_stand_in() {
        skip("Debian's Mosquitto waits for its log");
        return Ok(());
    }
    let cluster = Cluster::prepare(ClusterOptions::new("full-pipe", 1).with("log_type all"))?;
    let mut command = Command::new(cluster.binary());
    command.arg("-c").arg(cluster.configuration_file(0)).stdin(Stdio::null()).stdout(Stdio::null());
    let mut broker = command.stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut pipe = broker.stderr.take().expect("a pipe");
    let deadline = std::time::Instant::now() + TIMEOUT;
    let mut client = loop {
        match Connection::connected(cluster.address(0), Connect::new(ProtocolVersion::V5, "talks")).await {
            Ok((client, _)) => break client,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // Far more than a pipe and a queue hold.
    let topic = "t".repeat(200);
    for round in 0..200 {
        for _ in 0..200 {
            client.subscribe_to(&topic, QoS::AtMostOnce).await?;
        }
        if round % 50 == 0 {
            client.publish(message("elsewhere", "x", QoS::AtLeastOnce)).await?;
        }
    }
    client.send(&Packet::PingReq).await?;
    drop(client);
    // Read at last: what was dropped is logged.
    let (mut text, mut buffer) = (Vec::new(), vec![0; 65536]);
    while !String::from_utf8_lossy(&text).contains(" log lines were dropped") {
        let read = timeout(TIMEOUT, pipe.read(&mut buffer)).await??;
        assert!(read > 0, "it ended without a word of what was dropped");
        // The words may come in two pieces.
        text.drain(..text.len().saturating_sub(100));
        text.extend_from_slice(&buffer[..read]);
    }
    // Nobody reads any more, and it ends all the same.
    let id = i32::try_from(broker.id().expect("it runs"))?;
    kill_process(Pid::from_raw(id).expect("a process"), Signal::TERM)?;
    assert_eq!(timeout(TIMEOUT, broker.wait()).await??.code(), Some(0));
    Ok(())
}

/// A client that does something wrong, and the end of its connection.
async fn says(address: SocketAddr, bytes: &[u8]) -> TestResult {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    let _ = timeout(TIMEOUT, stream.read_to_end(&mut answer)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mistake_of_a_client_is_one_clear_line() -> TestResult {
    if is_stand_in() || missing_tool() {
        skip("these lines are ours");
        return Ok(());
    }
    let mut certbot = None;
    let (cluster, port) = prepare("mistakes", |port, folder| {
        let made = certbot.insert(Certbot::new(folder)?);
        let root = made.root().display().to_string();
        let passwords = folder.join("passwords");
        let hash = "A".repeat(86) + "==";
        std::fs::write(&passwords, format!("alice:$7$101$AAAAAAAAAAAAAAAA${hash}\n"))?;
        let (fullchain, key) = (made.live("fullchain.pem"), made.live("privkey.pem"));
        Ok(format!(
            "listener {port} 127.0.0.1\ncertfile {fullchain}\nkeyfile {key}\n\
             listener {} 127.0.0.1\ncertfile {fullchain}\nkeyfile {key}\ncafile {root}\nrequire_certificate true\n\
             password_file {}\n",
            port + 1,
            passwords.display()
        ))
    })?;
    let certbot = certbot.expect("made above");
    let cluster = started(cluster).await?;
    let tls = SocketAddr::from(([127, 0, 0, 1], port));
    let lines = |text: &str| cluster.log(0).lines().filter(|line| line.contains(text)).count();

    says(cluster.address(0), &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).await?;
    let text = "appears to be using TLS to connect to a non-TLS listener.";
    cluster.wait_logged(0, text, 1).await?;
    assert_eq!(lines(text), 1);

    says(tls, &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 1, b'x']).await?;
    let text = "appears to be connecting without TLS to a TLS listener.";
    cluster.wait_logged(0, text, 1).await?;
    assert_eq!(lines(text), 1);

    // The client does not know the broker's authority.
    let (params, key) = authority("foreign")?;
    let foreign = CertifiedIssuer::self_signed(params, key)?;
    let other = cluster.folder().join("foreign.pem");
    std::fs::write(&other, foreign.pem())?;
    let refused = client("mosquitto_pub", port, &other, &["-t", "t", "-m", "x"]).output().await?;
    assert!(!refused.status.success());
    let text = "TLS refused by client: UnknownCA.";
    cluster.wait_logged(0, text, 1).await?;
    assert_eq!(lines(text), 1);

    // The broker does not know the client's.
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "client");
    let certificate = params.signed_by(&key, &foreign)?;
    let (file, key_file) = (cluster.folder().join("client.pem"), cluster.folder().join("client.key"));
    std::fs::write(&file, certificate.pem())?;
    std::fs::write(&key_file, key.serialize_pem())?;
    let words = ["--cert", &file.display().to_string(), "--key", &key_file.display().to_string(), "-t", "t", "-m", "x"];
    let refused = client("mosquitto_pub", port + 1, &certbot.root(), &words).output().await?;
    assert!(!refused.status.success());
    let text = "UnknownIssuer";
    cluster.wait_logged(0, text, 1).await?;
    assert_eq!(lines(text), 1);

    let mut wrong = Connect::new(ProtocolVersion::V5, "wrong-password");
    wrong.user_name = Some("alice".into());
    wrong.password = Some(bytes::Bytes::from_static(b"hunter2"));
    let (_, connack) = Connection::connect(cluster.address(0), wrong).await?;
    assert_eq!(connack.reason, ReasonCode::NotAuthorized);
    cluster.wait_logged(0, "Client wrong-password [", 1).await?;
    assert_eq!(lines("disconnected: not authorised."), 1);
    assert!(!cluster.log(0).contains("hunter2"), "secrets are not logged");
    Ok(())
}

#[tokio::test]
async fn an_unknown_option_is_one_line_that_says_where() -> TestResult {
    let cluster = Cluster::prepare(ClusterOptions::new("unknown-option", 1))?;
    let configuration = cluster.configuration_file(0);
    let mut file = std::fs::OpenOptions::new().append(true).open(configuration)?;
    writeln!(file, "allow_anonymus true")?;
    let number = std::fs::read_to_string(configuration)?.lines().count();
    let output = Command::new(cluster.binary()).arg("-c").arg(configuration).output().await?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    let named: Vec<_> = text.lines().filter(|line| line.contains("allow_anonymus")).collect();
    assert_eq!(named.len(), 1, "{text}");
    assert!(text.contains(&format!(":{number}")), "{text}");
    Ok(())
}

/// `mosquitto -v` and a look at what comes by: what operators do first.
#[tokio::test]
async fn the_debug_log_shows_each_packet_in_mosquittos_words() -> TestResult {
    if is_stand_in() {
        skip("what Debian's Mosquitto says is what is copied");
        return Ok(());
    }
    let cluster = Cluster::start(ClusterOptions::new("packets", 1).with("log_type debug")).await?;
    let mut connect = Connect::new(ProtocolVersion::V311, "seen");
    connect.clean_start = true;
    let (mut client, _) = Connection::connected(cluster.address(0), connect).await?;
    client.subscribe_to("a/b", QoS::ExactlyOnce).await?;
    let teller = Connect::new(ProtocolVersion::V5, "teller");
    let (mut teller, _) = Connection::connected(cluster.address(0), teller).await?;
    teller.publish(message("a/b", "12345", QoS::ExactlyOnce)).await?;
    client.receive().await?;
    client.send(&Packet::PingReq).await?;
    assert!(matches!(client.recv().await?, Packet::PingResp));
    client.unsubscribe("a/b").await?;
    client.disconnect().await?;
    cluster.wait_logged(0, "Received DISCONNECT from seen", 1).await?;
    let log = cluster.log(0);
    let said: Vec<&str> = log.lines().filter_map(|line| line.split_once(": ")).map(|(_, text)| text).collect();
    for expected in [
        "Sending CONNACK to seen (0, 0)",
        "Received SUBSCRIBE from seen",
        "\ta/b (QoS 2)",
        "seen 2 a/b",
        "Sending SUBACK to seen",
        "Received PUBLISH from teller (d0, q2, r0, m1, 'a/b', ... (5 bytes))",
        "Sending PUBREC to teller (m1, rc0)",
        "Received PUBREL from teller (Mid: 1)",
        "Sending PUBCOMP to teller (m1)",
        "Sending PUBLISH to seen (d0, q2, r0, m1, 'a/b', ... (5 bytes))",
        "Received PUBREC from seen (Mid: 1)",
        "Sending PUBREL to seen (m1)",
        "Received PUBCOMP from seen (Mid: 1, RC:0)",
        "Received PINGREQ from seen",
        "Sending PINGRESP to seen",
        "Received UNSUBSCRIBE from seen",
        "\ta/b",
        "seen a/b",
        "Sending UNSUBACK to seen",
    ] {
        assert!(said.contains(&expected), "{expected:?} is not in {said:#?}");
    }
    Ok(())
}
