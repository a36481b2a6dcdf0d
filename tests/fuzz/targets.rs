//! What is fuzzed: everything that takes bytes from unauthenticated peers or text from operators. Each function takes any bytes and
//! must return; what must hold beyond "no panic" is asserted here.
//! Used twice: by the fuzzers beside this file, and by `broker/tests/corpus.rs` on the saved corpus.
use bytes::{Bytes, BytesMut};
use mosquorum::{
    auth::{PasswordFile, parse_acl},
    carrier::{
        proxy,
        websocket::{UpgradeRules, WebSocket, upgrade},
    },
    config::{LogTypes, ProxyRules, ProxyVersion, Settings, Sources},
    listener::Peer,
};
use mosquorum_proto::mqtt::{Decoder, ProtocolVersion, TopicFilter, TopicName, Utf8, encode};
use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A name, which is also that of its corpus, and what takes the bytes.
pub(crate) type Target = (&'static str, fn(&[u8]));

pub(crate) const TARGETS: [Target; 10] = [
    ("packet_v3", packet_v3),
    ("packet_v5", packet_v5),
    ("properties", properties),
    ("topic", topic),
    ("configuration", configuration),
    ("acl_file", acl_file),
    ("password_file", password_file),
    ("websocket", websocket),
    ("websocket_request", websocket_request),
    ("proxy", proxy_header),
];

/// Refusals are logged, and there are millions of them.
pub(crate) fn quiet() {
    mosquorum::logging::set_types(LogTypes::NONE);
}

/// Largest packet that the decoder is set to take.
const PACKET_BYTES_MAX: u32 = 1 << 16;

/// Decodes a stream of packets as a server does; what is decoded can be encoded, and decodes to the same again.
fn packets(prefix: &[u8], bytes: &[u8]) {
    let mut decoder = Decoder::for_server(PACKET_BYTES_MAX);
    let mut input = BytesMut::from(prefix);
    input.extend_from_slice(bytes);
    while let Ok(Some(packet)) = decoder.decode(&mut input) {
        // The first CONNECT says it; that there is a second one is for the session to refuse.
        let version = decoder.version.unwrap_or(ProtocolVersion::V311);
        let mut once = BytesMut::new();
        encode(&packet, version, &mut once);
        assert!(once.len() >= 2);
    }
}

const CONNECT_V3: &[u8] = &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 1, b'x'];
const CONNECT_V5: &[u8] = &[0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0, 0, 1, b'x'];

pub(crate) fn packet_v3(bytes: &[u8]) {
    packets(&[], bytes);
    packets(CONNECT_V3, bytes);
}

pub(crate) fn packet_v5(bytes: &[u8]) {
    packets(CONNECT_V5, bytes);
}

/// The bytes as properties of a CONNECT, of a will and of a PUBLISH.
pub(crate) fn properties(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(127)];
    let length = bytes.len() as u8;
    let mut connect = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, length];
    connect.extend(bytes);
    connect.extend([0, 1, b'x']);
    let mut will = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 6, 0, 60, 0, 0, 1, b'x', length];
    will.extend(bytes);
    will.extend([0, 1, b't', 0, 1, b'p']);
    let mut publish = vec![0, 1, b't', length];
    publish.extend(bytes);
    for (kind, body, prefix) in [(0x10, connect, &[][..]), (0x10, will, &[]), (0x30, publish, CONNECT_V5)] {
        let mut packet = vec![kind];
        match body.len() {
            short @ 0..=127 => packet.push(short as u8),
            long => packet.extend([(long % 128) as u8 | 0x80, (long / 128) as u8]),
        }
        packet.extend(body);
        packets(prefix, &packet);
    }
}

/// The first line as a filter, the second as a name.
pub(crate) fn topic(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (filter, name) = text.split_once('\n').unwrap_or((&text, &text));
    let name = TopicName::new(Utf8::from(name));
    let filter = TopicFilter::new(Utf8::from(filter));
    if let (Ok(filter), Ok(name)) = (&filter, &name) {
        let matched = filter.matches(name);
        if filter.as_str() == "#" {
            assert_eq!(matched, !name.as_str().starts_with('$'));
        }
        if filter.as_str() == name.as_str() {
            assert!(matched || filter.share_name().is_some());
        }
    }
    if let Ok(name) = name {
        assert!(!name.as_str().contains(['+', '#']) && name.as_str().split('/').count() <= 201);
    }
}

pub(crate) fn configuration(bytes: &[u8]) {
    // Other files of the machine are not part of the input.
    if bytes.windows(11).any(|window| window == b"include_dir") {
        return;
    }
    let file = std::env::temp_dir().join(format!("mosquorum-fuzz-{}.conf", std::process::id()));
    if std::fs::write(&file, bytes).is_ok() {
        let loaded = Settings::load(&Sources { file: Some(file.clone()), ..Sources::default() });
        if let Err(error) = loaded {
            let text = error.to_string();
            assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
        }
    }
    let _ = std::fs::remove_file(&file);
}

pub(crate) fn acl_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(acl) = parse_acl(text, "fuzz") else { return };
    for (client, user) in [("client", None), ("+", Some("user")), ("#", Some("#")), ("a/b", Some("+"))] {
        let client = acl.for_client(client, user);
        for name in ["a/b", "a/client", "a/user/b", "$SYS/x"] {
            if let Ok(name) = TopicName::new(Utf8::from(name)) {
                let _ = (client.may_read(&name), client.may_write(&name));
            }
        }
        if let Ok(filter) = TopicFilter::new(Utf8::from("$share/g/a/#")) {
            let _ = client.may_subscribe(&filter);
        }
    }
}

pub(crate) fn password_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(file) = PasswordFile::parse(text, "fuzz") {
        let _ = (file.len(), file.entry("user"));
    }
}

/// Gives the bytes in pieces and takes everything that is written.
struct Script<'a> {
    input: &'a [u8],
    piece: usize,
    written: Vec<u8>,
}

impl AsyncRead for Script<'_> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let script = self.get_mut();
        let (now, later) = script.input.split_at(script.input.len().min(script.piece).min(buffer.remaining()));
        buffer.put_slice(now);
        script.input = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The first byte says in how large pieces the others come.
fn script(bytes: &[u8]) -> Script<'_> {
    let (piece, input) = bytes.split_first().map_or((1, bytes), |(first, rest)| (usize::from(*first).max(1), rest));
    Script { input, piece, written: Vec::new() }
}

/// Reads until the end; what comes out is never more than what went in.
pub(crate) fn websocket(bytes: &[u8]) {
    let whole = bytes.len();
    let mut socket = pin!(WebSocket::new(script(bytes)));
    let mut cx = Context::from_waker(Waker::noop());
    let (mut space, mut got) = ([0; 256], 0);
    // Each read makes progress or ends it.
    for _ in 0..=whole + 1 {
        let mut buffer = ReadBuf::new(&mut space);
        match socket.as_mut().poll_read(&mut cx, &mut buffer) {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => got += buffer.filled().len(),
            _ => break,
        }
    }
    assert!(got <= whole);
    let _ = socket.as_mut().poll_shutdown(&mut cx);
}

fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits for something, but a script always answers"),
    }
}

pub(crate) fn websocket_request(bytes: &[u8]) {
    let origins = ["example.org".to_owned()];
    for (origins, files) in [(&[][..], false), (&origins[..], true)] {
        let mut stream = script(bytes);
        let _ = now(upgrade(&mut stream, UpgradeRules { request_bytes_max: 512, origins, files }));
        assert!(stream.written.len() < 512);
    }
}

/// What follows a header is left alone.
pub(crate) fn proxy_header(bytes: &[u8]) {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let rules =
            ProxyRules { version, require_tls: false, require_certificate: false, use_identity_as_username: true };
        let mut peer = Peer { address: "192.0.2.1".to_owned(), port: 1 };
        let input = Bytes::copy_from_slice(bytes);
        let mut stream = script(&input);
        let _ = now(proxy::receive(&mut stream, rules, &mut peer));
        assert!(input.len() - stream.input.len() <= 1 + 16 + 500, "no more than the longest header is read");
    }
}
