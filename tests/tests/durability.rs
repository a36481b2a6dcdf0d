//! Promise 1 as the kernel sees it: no PUBACK leaves before the fdatasync that covers it, on a majority of the nodes.
//! Each publish goes out only when the one before it is acknowledged, so between its PUBLISH and its PUBACK a majority
//! of the nodes must have begun and finished an fdatasync.
use mosquorum_proto::mqtt::{Packet, ProtocolVersion, QoS};
use mosquorum_tests::{
    client::{Connection, TIMEOUT, message},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in},
    skip::{has_program, skip},
    target::{Target, TestResult},
};
use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

const PUBLISHES: u16 = 40;

/// When something happened, in seconds since 1970, as strace and we both count.
type Moment = f64;

#[derive(Debug, Clone, Copy)]
struct Sync {
    began: Moment,
    ended: Moment,
}

#[derive(Debug, Default)]
struct Trace {
    syncs: Vec<Sync>,
    /// Packet identifiers of PUBACKs and when their write began.
    pubacks: Vec<(u16, Moment)>,
}

fn now() -> Moment {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Reads what `strace -ff -ttt -T -xx` wrote: one file per thread, so no call is torn apart.
fn read_traces(folder: &Path, prefix: &str) -> std::io::Result<Trace> {
    let mut trace = Trace::default();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            for line in String::from_utf8_lossy(&std::fs::read(entry.path())?).lines() {
                read_line(line, &mut trace);
            }
        }
    }
    Ok(trace)
}

fn read_line(line: &str, trace: &mut Trace) {
    let Some((began, call)) = line.split_once(' ').and_then(|(time, call)| Some((time.parse::<Moment>().ok()?, call)))
    else {
        return;
    };
    if call.starts_with("fdatasync(") || call.starts_with("fsync(") {
        let took = call.rsplit_once('<').and_then(|(_, time)| time.trim_end_matches('>').parse::<f64>().ok());
        if let (true, Some(took)) = (call.contains(" = 0"), took) {
            trace.syncs.push(Sync { began, ended: began + took });
        }
        return;
    }
    for bytes in call.split('"').skip(1).step_by(2) {
        trace.pubacks.extend(pubacks(&unescape(bytes)).into_iter().map(|packet_id| (packet_id, began)));
    }
}

/// `\x40\x02...`, as -xx writes every byte.
fn unescape(text: &str) -> Vec<u8> {
    text.split("\\x").filter_map(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok()).collect()
}

/// Packet identifiers of the PUBACKs in bytes that hold nothing but MQTT 3.1.1 acknowledgements.
fn pubacks(bytes: &[u8]) -> Vec<u16> {
    if !bytes.len().is_multiple_of(4) || !bytes.chunks(4).all(|packet| packet[..2] == [0x40, 2]) {
        return Vec::new();
    }
    bytes.chunks(4).map(|packet| u16::from_be_bytes([packet[2], packet[3]])).collect()
}

#[test]
fn traces_are_understood() {
    let mut trace = Trace::default();
    read_line(
        r#"1700000000.100000 writev(9, [{iov_base="\x40\x02\x00\x07", iov_len=4}], 1) = 4 <0.000010>"#,
        &mut trace,
    );
    read_line(
        r#"1700000000.200000 sendto(9, "\x40\x02\x01\x00\x40\x02\x01\x01", 8, MSG_NOSIGNAL, NULL, 0) = 8 <0.000010>"#,
        &mut trace,
    );
    read_line("1700000000.050000 fdatasync(12) = 0 <0.002000>", &mut trace);
    read_line("1700000000.060000 fdatasync(12) = -1 EIO (Input/output error) <0.002000>", &mut trace);
    let ids: Vec<u16> = trace.pubacks.iter().map(|(packet_id, _)| *packet_id).collect();
    assert_eq!(ids, [7, 256, 257]);
    assert_eq!(trace.syncs.len(), 1);
    assert!((trace.syncs[0].ended - 1_700_000_000.052).abs() < 1e-4);
}

async fn traced(nodes: usize) -> TestResult {
    if is_stand_in() {
        skip("MOSQUORUM_BIN is Eclipse Mosquitto, which does not sync");
        return Ok(());
    }
    if !has_program("strace") {
        skip("no strace");
        return Ok(());
    }
    let mut cluster = Cluster::prepare(ClusterOptions::new("strace", nodes).persistent())?;
    for node in 0..nodes {
        let output = cluster.folder().join(format!("trace-{node}"));
        let calls = "trace=fdatasync,fsync,write,writev,sendto,sendmsg";
        let output = output.display().to_string();
        let words = ["strace", "-ff", "-ttt", "-T", "-xx", "-s", "64", "-e", calls, "-o", &output, "--"];
        cluster.start_node_under(node, &words.map(String::from))?;
    }
    cluster.wait_all_serving(TIMEOUT * 3).await?;
    let target = Target::of(&cluster);
    // A durable subscriber that is away: every publish concerns the replicated state.
    let (mut subscriber, _) =
        Connection::connected(target.b, target.durable_packet(ProtocolVersion::V311, "away")).await?;
    subscriber.subscribe_to("kept", QoS::AtLeastOnce).await?;
    subscriber.disconnect().await?;
    let (mut publisher, _) = Connection::connected(target.a, target.connect_packet(ProtocolVersion::V311, "p")).await?;
    let mut sent = Vec::new();
    for packet_id in 1..=PUBLISHES {
        let mut publish = message("kept", "x", QoS::AtLeastOnce);
        publish.packet_id = packet_id;
        sent.push(now());
        publisher.send(&Packet::Publish(publish)).await?;
        assert_eq!(publisher.expect_puback().await?.packet_id, packet_id);
    }
    let traces = (0..nodes)
        .map(|node| read_traces(cluster.folder(), &format!("trace-{node}.")))
        .collect::<Result<Vec<_>, _>>()?;
    for (index, sent) in sent.into_iter().enumerate() {
        let packet_id = index as u16 + 1;
        let (_, left) =
            traces[0].pubacks.iter().find(|(id, at)| *id == packet_id && *at >= sent).ok_or("a PUBACK in the trace")?;
        let covered = traces
            .iter()
            .filter(|trace| trace.syncs.iter().any(|sync| sync.began >= sent && sync.ended <= *left))
            .count();
        assert!(
            covered * 2 > nodes,
            "PUBACK {packet_id} left after {:.3} ms with an fdatasync on {covered} of {nodes} nodes",
            (left - sent) * 1e3
        );
    }
    Ok(())
}

#[tokio::test]
async fn no_puback_leaves_one_node_before_its_fdatasync() -> TestResult {
    traced(1).await
}

#[tokio::test]
async fn no_puback_leaves_three_nodes_before_the_fdatasync_of_a_majority() -> TestResult {
    traced(3).await
}
