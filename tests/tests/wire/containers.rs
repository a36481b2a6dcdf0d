//! The image of `deploy/docker` and the services of `deploy/compose`, run as an engine would, without one.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS, ReasonCode};
use mosquorum_tests::{
    client::{Connection, TIMEOUT, message},
    cluster::{
        Build, Ended, Namespaces, TestFolder,
        binary::{self, is_stand_in},
        folder::workspace,
    },
    pods::{Container, Image, Running, tools, why_no_containers},
    skip::skip,
};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::time::sleep;

fn why_not() -> Option<String> {
    if is_stand_in() { Some("MOSQUORUM_BIN is Eclipse Mosquitto".into()) } else { why_no_containers() }
}

fn image(folder: &Path) -> Image {
    let binary = binary::path(Build::Plain).expect("a broker");
    let dockerfile = workspace().join("deploy/docker/Dockerfile");
    Image::build(&dockerfile, &folder.join("image"), &binary).expect("every step of the Dockerfile can be done")
}

/// A folder below `folder` that belongs to the image's user, as a new volume does.
fn volume(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(&path).expect("a volume");
    chown(&path, Some(1883), Some(1883)).expect("its owner");
    path
}

async fn serving(running: &mut Running, address: SocketAddr) {
    let deadline = Instant::now() + TIMEOUT * 2;
    loop {
        let connect = Connect::new(ProtocolVersion::V5, "ready");
        if let Ok((connection, connack)) = Connection::connect_within(address, connect, Duration::from_secs(1)).await
            && connack.reason == ReasonCode::Success
        {
            return drop(connection.disconnect().await);
        }
        let ended = running.ended();
        assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}\n{}", running.log());
        sleep(Duration::from_millis(20)).await;
    }
}

async fn ended(running: &mut Running) -> Ended {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(ended) = running.ended() {
            return ended;
        }
        assert!(Instant::now() < deadline, "it does not end\n{}", running.log());
        sleep(Duration::from_millis(10)).await;
    }
}

async fn exec(running: &mut Running, words: &[&str]) -> (bool, String) {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let output = running.exec(&words).expect("it runs").output().await.expect("it ends");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

#[tokio::test]
async fn the_image_serves_as_nobody_with_a_read_only_root_and_stops_with_its_state_saved() {
    if let Some(why) = why_not() {
        return skip(&why);
    }
    let folder = TestFolder::new("image").expect("a folder");
    let namespaces = Namespaces::create(1).expect("a namespace");
    let image = image(folder.path());
    assert_eq!(image.user, "1883:1883");
    assert_eq!(image.volumes, ["/mosquitto/data", "/mosquitto/log"]);
    assert!(image.ports.contains(&1883) && image.entry_point.is_empty() && image.stop_signal == "SIGTERM");
    // Scripts for Mosquitto's image name the program, and another file.
    let mut container = Container::of(&image, "broker", folder.path())
        .mount(&volume(folder.path(), "data"), "/mosquitto/data", false)
        .mount(&volume(folder.path(), "log"), "/mosquitto/log", false);
    container.network = Some(namespaces.name(0).to_owned());
    container.command = ["mosquitto", "-c", "/mosquitto-no-auth.conf"].map(String::from).to_vec();
    let mut running = container.start().expect("it starts");
    let address = SocketAddr::new(namespaces.address(0).into(), 1883);
    serving(&mut running, address).await;

    let (_, identity) = exec(&mut running, &["id", "-u"]).await;
    assert_eq!(identity, "1883");
    let (written, why) = exec(&mut running, &["/bin/sh", "-c", "echo x >/mosquitto/config/x"]).await;
    assert!(!written && why.contains("Read-only"), "{why}");
    let words = ["mosquitto_passwd", "-c", "-b", "/mosquitto/data/passwords", "somebody", "something"];
    let (written, why) = exec(&mut running, &words).await;
    assert!(written, "{why}");
    let check: Vec<&str> = image.health_check.iter().map(String::as_str).collect();
    let (healthy, why) = exec(&mut running, &check).await;
    assert!(healthy, "{why}");

    let (mut client, _) =
        Connection::connect(address, Connect::new(ProtocolVersion::V5, "p")).await.expect("a connection");
    let mut kept = message("kept", "1".to_owned(), QoS::AtLeastOnce);
    kept.retain = true;
    client.publish(kept).await.expect("acknowledged");
    assert!(running.signal(Signal::TERM));
    assert_eq!(ended(&mut running).await, Ended::Exit(0), "{}", running.log());
    let file = folder.path().join("data/mosquitto.db");
    assert_eq!(std::fs::metadata(&file).expect("the state").uid(), 1883);
}

#[tokio::test]
async fn the_image_as_it_is_starts_and_lets_nobody_in() {
    if let Some(why) = why_not() {
        return skip(&why);
    }
    let folder = TestFolder::new("image-default").expect("a folder");
    let namespaces = Namespaces::create(1).expect("a namespace");
    let mut container = Container::of(&image(folder.path()), "broker", folder.path()).mount(
        &volume(folder.path(), "data"),
        "/mosquitto/data",
        false,
    );
    container.network = Some(namespaces.name(0).to_owned());
    let mut running = container.start().expect("it starts");
    let address = SocketAddr::new(namespaces.address(0).into(), 1883);
    let deadline = Instant::now() + TIMEOUT;
    let refused = loop {
        let connect = Connect::new(ProtocolVersion::V5, "anybody");
        match Connection::connect_within(address, connect, Duration::from_secs(1)).await {
            Ok((_, connack)) => break connack.reason,
            Err(_) => assert!(Instant::now() < deadline && running.ended().is_none(), "{}", running.log()),
        }
        sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(refused, ReasonCode::NotAuthorized);
}

/// The services of the Compose file, as far as they are ours.
struct Compose {
    file: Value,
    image: Image,
    folder: PathBuf,
    namespaces: Namespaces,
}

impl Compose {
    fn read(folder: &Path) -> Self {
        let text = std::fs::read_to_string(workspace().join("deploy/compose/compose.yaml")).expect("the file");
        let file = tools::yaml(&text).expect("YAML").remove(0);
        let image = image(folder);
        let namespaces = Namespaces::create(3).expect("namespaces");
        // An engine's name server, as a file.
        let mut hosts = std::fs::File::create(folder.join("hosts")).expect("a file");
        for node in 0..3 {
            writeln!(hosts, "{} node-{}", namespaces.address(node), node + 1).expect("written");
        }
        Self { file, image, folder: folder.to_path_buf(), namespaces }
    }

    fn list(&self, service: &str, key: &str) -> Vec<String> {
        let list = self.file["services"][service][key].as_array();
        list.into_iter().flatten().map(|word| word.as_str().expect("a word").to_owned()).collect()
    }

    fn container(&self, service: &str) -> Container {
        let entry = &self.file["services"][service];
        let folder = self.folder.join(service);
        let mut container = Container::of(&self.image, service, &folder);
        for (name, value) in entry["environment"].as_object().into_iter().flatten() {
            container = container.variable(name, value.as_str().expect("text"));
        }
        for volume in self.list(service, "volumes") {
            let words: Vec<&str> = volume.split(':').collect();
            let from = if words[0].starts_with('.') {
                workspace().join("deploy/compose").join(words[0])
            } else {
                assert!(self.file["volumes"].get(words[0]).is_some(), "the volume {} is not declared", words[0]);
                self.folder.join(format!("volume-{}", words[0]))
            };
            if !from.exists() {
                // A new volume belongs to whom the image's folder belongs to.
                std::fs::create_dir_all(&from).expect("a volume");
                let owner = (words[1] == "/mosquitto/data").then_some(1883);
                chown(&from, owner, owner).expect("its owner");
            }
            container = container.mount(&from, words[1], words.get(2) == Some(&"ro"));
        }
        container.mount(&self.folder.join("hosts"), "/etc/hosts", true)
    }
}

#[tokio::test]
async fn the_three_services_of_the_compose_file_become_one_broker() {
    if let Some(why) = why_not().or_else(|| tools::install().err()) {
        return skip(&why);
    }
    let folder = TestFolder::new("compose").expect("a folder");
    let compose = Compose::read(folder.path());
    let mut certificates = compose.container("certificates");
    certificates.command =
        [compose.list("certificates", "entrypoint"), compose.list("certificates", "command")].concat();
    certificates.user = "0:0".into();
    certificates.run(TIMEOUT).await.expect("certificates are made");
    let mut nodes = Vec::new();
    for node in 0..3 {
        let mut container = compose.container(&format!("node-{}", node + 1));
        container.network = Some(compose.namespaces.name(node).to_owned());
        nodes.push(container.start().expect("it starts"));
    }
    let address = |node: usize| SocketAddr::new(compose.namespaces.address(node).into(), 1883);
    for (number, node) in nodes.iter_mut().enumerate() {
        serving(node, address(number)).await;
    }
    let connect = |id: &str| Connect::new(ProtocolVersion::V5, id);
    let (mut subscriber, _) = Connection::connect(address(2), connect("s")).await.expect("a connection");
    subscriber.subscribe_to("power/#", QoS::AtLeastOnce).await.expect("subscribed");
    let (mut publisher, _) = Connection::connect(address(0), connect("p")).await.expect("a connection");
    publisher.publish(message("power/kitchen", "230".to_owned(), QoS::AtLeastOnce)).await.expect("acknowledged");
    assert_eq!(&subscriber.receive().await.expect("it crosses nodes").payload[..], b"230");
    let check = compose.file["services"]["node-1"]["healthcheck"]["test"].as_array().expect("a check");
    let check: Vec<&str> = check.iter().skip(1).map(|word| word.as_str().expect("a word")).collect();
    for node in &mut nodes {
        let (ready, why) = exec(node, &check).await;
        assert!(ready, "{why}");
    }
    for node in &mut nodes {
        assert!(node.signal(Signal::TERM));
    }
    for node in &mut nodes {
        assert_eq!(ended(node).await, Ended::Exit(0), "{}", node.log());
    }
}
