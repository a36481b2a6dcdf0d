//! What the operator's rules say of clients: who connects, under which name and for how long, and who may stay when the
//! rules change (SIGHUP); and of other users of the machine: what the broker leaves to them, and what it keeps of root.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS, ReasonCode, Utf8, Will};
use mosquorum_tests::{
    backlog::eventually,
    client::{Connection, Result, TIMEOUT, message, topic_name},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in},
    skip::{has_program, skip},
    target::{Failure, TestResult},
};

/// The password is "test".
const HASH: &str =
    "$6$njERlZMi/7DzNB9E$iiavfuXvUm8iyDZArTy7smTxh07GXXOrOsqxfW6gkOYVXHGk+W+i/8d3xDxrMwEPygEBhoA8A/gjQC0N2M4Lkw==";

/// A node with a file that its configuration names as `option`.
async fn started(name: &str, option: &str, text: &str) -> std::result::Result<Cluster, Failure> {
    let mut cluster = Cluster::prepare(ClusterOptions::new(name, 1))?;
    std::fs::write(file(&cluster), text)?;
    let configuration = cluster.configuration_file(0);
    let lines = std::fs::read_to_string(configuration)?;
    std::fs::write(configuration, format!("{option} {}\n{lines}", file(&cluster).display()))?;
    cluster.start_node(0)?;
    cluster.wait_serving(0, TIMEOUT).await?;
    Ok(cluster)
}

fn file(cluster: &Cluster) -> std::path::PathBuf {
    cluster.folder().join("rules")
}

fn reload(cluster: &mut Cluster, text: &str) -> TestResult {
    std::fs::write(file(cluster), text)?;
    assert!(cluster.signal(0, rustix::process::Signal::HUP));
    Ok(())
}

fn user(id: &str, name: &str) -> Connect {
    let mut connect = Connect::new(ProtocolVersion::V5, id);
    connect.user_name = Some(Utf8::from(name));
    connect.password = Some("test".into());
    connect
}

fn with_will(mut connect: Connect, topic: &str) -> Connect {
    connect.will = Some(Will {
        topic: topic_name(topic),
        payload: "will".into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_interval_seconds: 0,
        properties: None,
    });
    connect
}

async fn joined(cluster: &Cluster, connect: Connect) -> Result<Connection> {
    Ok(Connection::connected(cluster.address(0), connect).await?.0)
}

async fn expect_only_fence(writer: &mut Connection, observer: &mut Connection, topic: &str) -> TestResult {
    writer.publish(message(topic, "fence", QoS::AtLeastOnce)).await?;
    assert_eq!(observer.receive().await?.payload, "fence");
    Ok(())
}

/// As Mosquitto: without a DISCONNECT and without the will.
#[tokio::test]
async fn who_would_not_be_let_in_any_more_is_disconnected_at_a_reload_and_nobody_else() -> TestResult {
    let both = format!("gone:{HASH}\nstays:{HASH}\n");
    let mut cluster = started("reload-users", "password_file", &both).await?;
    let mut gone = joined(&cluster, with_will(user("gone", "gone"), "w")).await?;
    let mut stays = joined(&cluster, user("stays", "stays")).await?;
    let mut nameless = joined(&cluster, with_will(Connect::new(ProtocolVersion::V311, "nameless"), "w")).await?;
    let mut observer = joined(&cluster, user("observer", "stays")).await?;
    observer.subscribe_to("w", QoS::AtLeastOnce).await?;
    reload(&mut cluster, &format!("stays:{HASH}\n"))?;
    assert_eq!(gone.expect_closed().await?, None);
    nameless.publish(message("elsewhere", "x", QoS::AtLeastOnce)).await?;
    let configuration = cluster.configuration_file(0).to_owned();
    let text = std::fs::read_to_string(&configuration)?;
    std::fs::write(&configuration, text.replace("allow_anonymous true", "allow_anonymous false"))?;
    reload(&mut cluster, &format!("stays:{HASH}\n"))?;
    assert_eq!(nameless.expect_closed().await?, None);
    let changed = HASH.replace("iiav", "jiav");
    expect_only_fence(&mut stays, &mut observer, "w").await?;
    reload(&mut cluster, &format!("stays:{changed}\n"))?;
    assert_eq!(stays.expect_closed().await?, None);
    Ok(())
}

#[tokio::test]
async fn a_will_whose_client_lost_the_right_to_its_topic_is_not_published_at_a_takeover() -> TestResult {
    let writer_only = "user writer\ntopic readwrite #\n";
    let mut cluster = started("reload-will", "acl_file", &format!("topic readwrite #\n{writer_only}")).await?;
    let mortal = || Connect::new(ProtocolVersion::V5, "mortal");
    let mut first = joined(&cluster, with_will(mortal(), "w")).await?;
    let mut writer = joined(&cluster, user("writer", "writer")).await?;
    let mut observer = joined(&cluster, user("observer", "writer")).await?;
    observer.subscribe_to("w", QoS::AtLeastOnce).await?;
    reload(&mut cluster, &format!("topic readwrite other\n{writer_only}"))?;
    let applied = eventually(TIMEOUT, async || {
        let reason = first.publish(message("denied", "x", QoS::AtLeastOnce)).await;
        reason.expect("an answer") == ReasonCode::NotAuthorized
    });
    assert!(applied.await, "the connection has the new rules");
    let _second = joined(&cluster, mortal()).await?;
    assert_eq!(first.expect_closed().await?, Some(ReasonCode::SessionTakenOver));
    expect_only_fence(&mut writer, &mut observer, "w").await
}

#[tokio::test]
async fn persistent_client_expiration_bounds_every_session_and_5_0_clients_get_the_bound() -> TestResult {
    let options = ClusterOptions::new("expiry-bound", 1).with("persistent_client_expiration 1h");
    let cluster = Cluster::start(options).await?;
    for (asked, granted) in [(7200, Some(3600)), (u32::MAX, Some(3600)), (60, None), (0, None)] {
        let mut connect = Connect::new(ProtocolVersion::V5, "client");
        connect.session_expiry_interval = Some(asked);
        let (_connection, connack) = Connection::connected(cluster.address(0), connect).await?;
        assert_eq!(connack.session_expiry_interval, granted, "{asked}");
    }
    Ok(())
}

/// [MQTT-3.2.2-16] [3.1.1:MQTT-3.1.3-8]
#[tokio::test]
async fn an_empty_client_identifier_follows_the_rules_although_the_user_name_replaces_it() -> TestResult {
    let options = ClusterOptions::new("username-as-id", 1).with_listener("use_username_as_clientid true");
    let mut cluster = Cluster::prepare(options)?;
    cluster.start_node(0)?;
    // It lets in nobody without a user name, so it cannot be asked in the usual way.
    let serves = eventually(TIMEOUT, async || tokio::net::TcpStream::connect(cluster.address(0)).await.is_ok());
    assert!(serves.await);
    for (version, clean_start, refused) in [
        (ProtocolVersion::V31, true, true),
        (ProtocolVersion::V311, false, true),
        (ProtocolVersion::V311, true, false),
        (ProtocolVersion::V5, false, false),
    ] {
        let mut connect = user("", "alice");
        (connect.version, connect.clean_start) = (version, clean_start);
        let (_connection, connack) = Connection::connect(cluster.address(0), connect).await?;
        let expected = if refused { ReasonCode::ClientIdentifierNotValid } else { ReasonCode::Success };
        assert_eq!(connack.reason, expected, "{version} {clean_start}");
        let assigned = connack.assigned_client_identifier.as_ref().map(|id| id.as_str());
        assert_eq!(assigned, (version == ProtocolVersion::V5).then_some("alice"));
    }
    Ok(())
}

/// As Mosquitto: it is what the client would be called that is looked at, before a user name takes its place.
#[tokio::test]
async fn clientid_prefixes_hold_for_identifiers_that_the_broker_makes_up_too() -> TestResult {
    for (prefix, expected) in [("auto-", ReasonCode::NotAuthorized), ("ready-", ReasonCode::Success)] {
        // As who asks whether it serves is called.
        let options = ClusterOptions::new("id-prefixes", 1).with("clientid_prefixes ready-");
        let cluster = Cluster::start(options.with(&format!("auto_id_prefix {prefix}"))).await?;
        let connect = Connect::new(ProtocolVersion::V5, "");
        let (_connection, connack) = Connection::connect(cluster.address(0), connect).await?;
        assert_eq!(connack.reason, expected, "{prefix}");
    }
    Ok(())
}

/// `session_owner user`; no name counts as one of its own.
#[tokio::test]
async fn a_client_identifier_is_its_users_while_it_is_connected_or_has_a_session() -> TestResult {
    if is_stand_in() {
        skip("Mosquitto lets any user take over");
        return Ok(());
    }
    const LINE: &str = "not authorised, the client identifier is another user's";
    for nodes in [1, 3] {
        let cluster = Cluster::start(ClusterOptions::new("session-owner", nodes).with("session_owner user")).await?;
        let at = |node: usize| cluster.address(node % nodes);
        let named = |id: &str, name: &str, durable: bool| {
            let mut connect = user(id, name);
            connect.user_name = connect.user_name.filter(|name| !name.is_empty());
            connect.password = connect.password.filter(|_| connect.user_name.is_some());
            connect.clean_start = false;
            connect.session_expiry_interval = durable.then_some(3600);
            connect
        };
        let mut refused = 0;
        let mut turned_away = async |id: &str, name: &str, node: usize| -> TestResult {
            for (version, durable, clean_start) in [
                (ProtocolVersion::V5, true, false),
                (ProtocolVersion::V5, false, true),
                (ProtocolVersion::V311, false, false),
                (ProtocolVersion::V311, false, true),
            ] {
                let connect = Connect { version, clean_start, ..named(id, name, durable) };
                let (_connection, connack) = Connection::connect(at(node), connect).await?;
                assert_eq!(connack.reason, ReasonCode::NotAuthorized, "{nodes} {id} {name} {version} {clean_start}");
                refused += 1;
            }
            Ok(())
        };
        let mut clean = Connection::connected(at(0), named("clean", "alice", false)).await?.0;
        let mut kept = Connection::connected(at(0), named("kept", "alice", true)).await?.0;
        let mut nameless = Connection::connected(at(1), named("nameless", "", true)).await?.0;
        for node in 0..nodes {
            for (id, name) in [("clean", "bob"), ("clean", ""), ("kept", "bob"), ("kept", ""), ("nameless", "bob")] {
                turned_away(id, name, node).await?;
            }
        }
        for connection in [&mut clean, &mut kept, &mut nameless] {
            connection.expect_nothing().await?;
        }
        kept.disconnect().await?;
        nameless.disconnect().await?;
        turned_away("kept", "bob", 1).await?;
        turned_away("nameless", "alice", 2).await?;
        let (mut kept, connack) = Connection::connected(at(2), named("kept", "alice", true)).await?;
        assert!(connack.session_present);
        let (_again, connack) = Connection::connected(at(1), named("kept", "alice", true)).await?;
        assert!(connack.session_present);
        assert_eq!(kept.expect_closed().await?, Some(ReasonCode::SessionTakenOver), "its own user takes over");
        assert!(Connection::connected(at(1), named("nameless", "", true)).await?.1.session_present);
        // What is over is nobody's.
        clean.disconnect().await?;
        Connection::connected(at(1), named("clean", "bob", false)).await?;
        let lines: usize = (0..nodes).map(|node| cluster.log(node).matches(LINE).count()).sum();
        assert_eq!(lines, refused, "one line each");
    }
    Ok(())
}

/// Everything below a folder, with its mode.
fn modes(folder: &std::path::Path, found: &mut Vec<(std::path::PathBuf, u32)>) -> TestResult {
    use std::os::unix::fs::PermissionsExt;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        found.push((entry.path(), metadata.permissions().mode() & 0o777));
        if metadata.is_dir() {
            modes(&entry.path(), found)?;
        }
    }
    Ok(())
}

/// As Mosquitto, whose pid file is the one that others may read, too.
#[tokio::test]
async fn what_a_node_creates_is_for_its_owner_alone_whatever_the_umask_is() -> TestResult {
    if is_stand_in() {
        skip("Mosquitto has one file");
        return Ok(());
    }
    let mut cluster = Cluster::prepare(ClusterOptions::new("modes", 1).persistent())?;
    let data = cluster.data_folder(0).to_owned();
    let configuration = cluster.configuration_file(0).to_owned();
    let lines = std::fs::read_to_string(&configuration)?;
    let folder = data.display();
    std::fs::write(&configuration, format!("pid_file {folder}/pid\nlog_dest file {folder}/node.log\n{lines}"))?;
    let words = ["sh", "-c", "umask 022 && exec \"$0\" \"$@\""];
    cluster.start_node_under(0, &words.map(str::to_owned))?;
    cluster.wait_serving(0, TIMEOUT).await?;
    let mut connect = Connect::new(ProtocolVersion::V5, "kept");
    connect.session_expiry_interval = Some(3600);
    let mut kept = joined(&cluster, connect).await?;
    kept.subscribe_to("t", QoS::AtLeastOnce).await?;
    assert!(cluster.signal(0, rustix::process::Signal::USR1));
    cluster.wait_logged(0, "Saved the state", 1).await?;
    let mut found = Vec::new();
    modes(&data, &mut found)?;
    let named = |name: &str| found.iter().find(|(path, _)| path.ends_with(name)).map(|(_, mode)| *mode);
    assert_eq!([named("pid"), named("node.log"), named("mosquitto.db")], [Some(0o644), Some(0o600), Some(0o600)]);
    for (path, mode) in found.iter().filter(|(path, _)| !path.ends_with("pid")) {
        let most = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode & !most, 0, "{} has the mode {mode:o}", path.display());
    }
    Ok(())
}

#[tokio::test]
async fn puid_without_pgid_keeps_no_group_of_root() -> TestResult {
    if !rustix::process::geteuid().is_root() || !has_program("setpriv") {
        skip("giving up rights needs root, and setpriv to have groups to give up");
        return Ok(());
    }
    if is_stand_in() {
        skip("Mosquitto keeps them");
        return Ok(());
    }
    let mut options = ClusterOptions::new("puid-alone", 1);
    options.environment.push(("PUID".into(), "54321".into()));
    let mut cluster = Cluster::prepare(options)?;
    let words = ["setpriv", "--groups", "0,4,20", "--"];
    cluster.start_node_under(0, &words.map(str::to_owned))?;
    cluster.wait_serving(0, TIMEOUT).await?;
    let process = cluster.process_id(0).ok_or("it does not run")?;
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("not there");
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(field("Uid:"), "54321 54321 54321 54321");
    assert_eq!(field("Gid:"), "54321 54321 54321 54321");
    assert_eq!(field("Groups:"), "");
    Ok(())
}
