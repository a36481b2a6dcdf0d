//! Listeners other than plain MQTT: behind a balancer and over HTTP; requests to the broker itself.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS};
use mosquorum_tests::{
    client::{Connection, TIMEOUT, message},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in},
    skip::skip,
    target::{Failure, TestResult},
};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// CONNECT of a 3.1.1 client named `x`.
const CONNECT: &[u8] = &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 1, b'x'];
const ACCEPTED: &[u8] = &[0x20, 2, 0, 0];

/// One node whose ordinary listener is followed by others: each on the next port, with the lines given.
async fn with_listeners(name: &str, listeners: &[&str]) -> Result<(Cluster, Vec<SocketAddr>), Failure> {
    let mut cluster = Cluster::prepare(ClusterOptions::new(name, 1))?;
    let first = cluster.address(0);
    let mut text = std::fs::read_to_string(cluster.configuration_file(0))?;
    let mut addresses = Vec::new();
    for (port, lines) in (first.port() + 100..).zip(listeners) {
        text.push_str(&format!("listener {port} {}\n{lines}\n", first.ip()));
        addresses.push(SocketAddr::new(first.ip(), port));
    }
    std::fs::write(cluster.configuration_file(0), text)?;
    cluster.start_node(0)?;
    cluster.wait_serving(0, TIMEOUT).await?;
    Ok((cluster, addresses))
}

/// The first bytes of the answer; none if the connection ends.
async fn answered(address: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes).await?;
    let mut answer = vec![0; 4];
    let read = timeout(TIMEOUT, stream.read(&mut answer)).await?;
    answer.truncate(read.unwrap_or(0));
    Ok(answer)
}

async fn asked(address: SocketAddr, request: &str) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(TIMEOUT, stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}

#[tokio::test]
async fn a_websocket_is_opened_over_the_http_1_0_of_a_proxy() -> TestResult {
    let (_cluster, listeners) = with_listeners("http-1-0", &["protocol websockets"]).await?;
    // As nginx sends it that has no proxy_http_version.
    let request = "GET /mqtt HTTP/1.0\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                   Sec-WebSocket-Key: 1JaITHdgDZVd/4OE2AzTTA==\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    let mut stream = TcpStream::connect(listeners[0]).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(TIMEOUT, stream.read_u8()).await??);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    // One binary frame whose mask changes nothing.
    stream.write_all(&[&[0x82, 0x80 | 15, 0, 0, 0, 0], CONNECT].concat()).await?;
    let mut frame = [0; 6];
    timeout(TIMEOUT, stream.read_exact(&mut frame)).await??;
    assert_eq!(frame, [0x82, 4, 0x20, 2, 0, 0]);
    Ok(())
}

#[tokio::test]
async fn a_client_behind_a_balancer_is_known_by_its_own_address() -> TestResult {
    let (cluster, listeners) = with_listeners(
        "proxy",
        &["enable_proxy_protocol 1", "enable_proxy_protocol 2\nproxy_protocol_v2_require_tls true"],
    )
    .await?;
    let [first, second] = listeners[..] else { panic!("two listeners") };
    let header = b"PROXY TCP4 192.0.2.5 127.0.0.1 6275 1234\r\n";
    assert_eq!(answered(first, &[header, CONNECT].concat()).await?, ACCEPTED);
    cluster.wait_logged(0, "New client connected from 192.0.2.5:6275 as x (p4, c1, k60).", 1).await?;
    assert_eq!(answered(first, b"PROXY TCP4 192.0.2.5 127.0.0.1 6275\r\n").await?, b"");
    assert_eq!(answered(first, CONNECT).await?, b"", "a header is needed");
    let v2 = |fields: &[u8]| {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x21".to_vec();
        bytes.extend((36 + fields.len() as u16).to_be_bytes());
        bytes.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
        bytes.extend([0; 16]);
        bytes.extend([0x18, 0x84, 0, 1]);
        [&bytes, fields, CONNECT].concat()
    };
    let tls = [0x20, 0, 5, 1, 0, 0, 0, 0];
    assert_eq!(answered(second, &v2(&tls)).await?, ACCEPTED);
    cluster.wait_logged(0, "New client connected from 2001:db8::5:6276 as x (p4, c1, k60).", 1).await?;
    assert_eq!(answered(second, &v2(&[])).await?, b"");
    cluster.wait_logged(0, "Connection from 2001:db8::5:6276 rejected, client did not connect using TLS.", 1).await?;
    Ok(())
}

#[tokio::test]
async fn the_broker_shows_itself_and_files_over_http() -> TestResult {
    if is_stand_in() {
        return {
            skip("Debian's Mosquitto has no http_api");
            Ok(())
        };
    }
    let public = std::env::temp_dir().join(format!("mosquorum-public-{}", std::process::id()));
    std::fs::create_dir_all(&public)?;
    std::fs::write(public.join("index.html"), "<html></html>")?;
    let folder = format!("http_dir {}", public.display());
    let api = format!("protocol http_api\n{folder}");
    let sockets = format!("protocol websockets\n{folder}");
    let (_cluster, listeners) = with_listeners("http-api", &[&api, &sockets]).await?;
    let [api, sockets] = listeners[..] else { panic!("two listeners") };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let version = asked(api, &get("/api/v1/version")).await?;
    assert!(version.starts_with("HTTP/1.1 200 OK\r\n") && version.ends_with("\r\n\r\n2.1.2"), "{version}");
    let listeners = asked(api, &get("/api/v1/listeners")).await?;
    let body = listeners.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    let listeners: serde_json::Value = serde_json::from_str(body)?;
    let protocols: Vec<_> = listeners["listeners"].as_array().expect("a list").iter().map(|l| &l["protocol"]).collect();
    assert_eq!(protocols, ["mqtt", "httpapi", "websockets"]);
    let tree = asked(api, &get("/api/v1/systree")).await?;
    assert!(tree.contains("\"$SYS/broker/clients/connected\": "), "{tree}");
    for listener in [api, sockets] {
        assert!(asked(listener, &get("/")).await?.ends_with("\r\n\r\n<html></html>"));
        assert!(asked(listener, &get("/%2e%2e/secret")).await?.starts_with("HTTP/1.1 404 "));
    }
    assert!(asked(api, &get("/api/v1/other")).await?.starts_with("HTTP/1.1 404 "));
    assert!(asked(api, "POST /api/v1/version HTTP/1.1\r\n\r\n").await?.starts_with("HTTP/1.1 405 "));
    std::fs::remove_dir_all(&public)?;
    Ok(())
}

#[tokio::test]
async fn requests_to_the_broker_itself_are_answered_and_go_to_nobody_else() -> TestResult {
    if is_stand_in() {
        skip("Debian's Mosquitto has no $CONTROL/broker");
        return Ok(());
    }
    let cluster = Cluster::start(ClusterOptions::new("control", 1).with("enable_control_api true")).await?;
    let (mut client, _) =
        Connection::connected(cluster.address(0), Connect::new(ProtocolVersion::V5, "operator")).await?;
    client.subscribe_to("$CONTROL/#", QoS::AtMostOnce).await?;
    let request = r#"{"commands":[{"command":"listListeners","correlationData":"1"}]}"#;
    client.publish(message("$CONTROL/broker/v1", request, QoS::AtLeastOnce)).await?;
    let answer = client.receive().await?;
    assert_eq!(answer.topic.as_ref().map(|topic| topic.as_str()), Some("$CONTROL/broker/v1/response"));
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload)?;
    let response = &answer["responses"][0];
    assert_eq!(response["correlationData"], "1");
    assert_eq!(response["data"]["listeners"][0]["port"], cluster.address(0).port());
    client.publish(message("$CONTROL/other/v1", "{}", QoS::AtMostOnce)).await?;
    let answer = client.receive().await?;
    assert_eq!(answer.payload.as_ref(), br#"{"error": "endpoint not available"}"#);
    Ok(())
}
