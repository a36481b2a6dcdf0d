use super::frames::FrameError;
use super::*;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

const MASK: [u8; 4] = [0x11, 0x82, 0xF3, 0x04];

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ ..=125 => bytes.push(0x80 | length as u8),
        length @ ..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// Everything that `bytes` carry, cut into reads of `step` bytes, and the first violation.
fn decoded(bytes: &[u8], step: usize) -> (Vec<u8>, Demands) {
    let (mut reader, mut demands, mut all) = (FrameReader::default(), Demands::default(), Vec::new());
    for part in bytes.chunks(step) {
        let mut part = part.to_vec();
        let payload = reader.decode(&mut part, &mut demands);
        all.extend_from_slice(&part[..payload]);
    }
    (all, demands)
}

#[test]
fn frames_are_a_byte_stream_wherever_they_and_the_reads_are_cut() {
    let sent: Vec<u8> = (0..70_000_u32).map(|n| (n * 31) as u8).collect();
    let mut bytes = frame(0x02, &sent[..3]); // a message in three frames, with a Ping inside
    bytes.extend(frame(0x00, &sent[3..100]));
    bytes.extend(frame(0x89, b"are you there"));
    bytes.extend(frame(0x80, &sent[100..500]));
    bytes.extend(frame(0x82, b""));
    bytes.extend(frame(0x8A, b"unasked"));
    bytes.extend(frame(0x82, &sent[500..]));
    bytes.extend(frame(0x88, &[0x03, 0xE9]));
    bytes.extend(frame(0x82, b"after Close nothing counts"));
    for step in [1, 2, 3, 7, 64, 1000, bytes.len()] {
        let (all, demands) = decoded(&bytes, step);
        assert!(all == sent, "in reads of {step}");
        let pong = Some(b"are you there".to_vec());
        assert_eq!(demands, Demands { pong, close: Some(Some(1001)), violation: None });
    }
}

#[test]
fn violations_are_found_and_what_stood_before_them_counts() {
    let unmasked = [0x82, 0x01, 0x00];
    let long = [0x82, 0xFF, 0, 0, 0, 0, 0x10, 0, 0, 0, 1, 2, 3, 4];
    let cases: [(Vec<u8>, FrameError, u16); 11] = [
        (frame(0x81, b"text"), FrameError::Text, 1003),
        (unmasked.to_vec(), FrameError::Unmasked, 1002),
        (frame(0xC2, b""), FrameError::ReservedBits, 1002),
        (frame(0x83, b""), FrameError::Opcode(3), 1002),
        (frame(0x8B, b""), FrameError::Opcode(11), 1002),
        (frame(0x09, b"part of a Ping"), FrameError::Control, 1002),
        (frame(0x89, &[0; 126]), FrameError::Control, 1002),
        (frame(0x80, b"goes on"), FrameError::Sequence, 1002),
        ([frame(0x02, b"a"), frame(0x82, b"b")].concat(), FrameError::Sequence, 1002),
        (long.to_vec(), FrameError::TooLong(0x1000_0000), 1009),
        (frame(0x88, b"1"), FrameError::Close, 1002),
    ];
    for (bytes, violation, code) in cases {
        for step in [1, 100_000] {
            let before = frame(0x82, b"before");
            let (all, demands) = decoded(&[before, bytes.clone(), frame(0x82, b"after")].concat(), step);
            assert_eq!(demands.violation, Some(violation));
            assert!(all.starts_with(b"before") && !all.ends_with(b"after"));
            assert_eq!(violation.close_code(), code);
        }
    }
}

fn pair(capacity: usize) -> (DuplexStream, WebSocket<DuplexStream>) {
    let (client, server) = duplex(capacity);
    (client, WebSocket::new(server))
}

#[tokio::test]
async fn one_write_is_one_binary_frame_in_one_piece() {
    let (mut client, mut server) = pair(1 << 20);
    for length in [1, 125, 126, 65_535, 65_536, 200_000] {
        server.write_all(&vec![7; length]).await.unwrap();
        server.flush().await.unwrap();
        let head = Head::binary(length);
        let mut got = vec![0; head.rest().len() + length];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got[..head.rest().len()], head.rest());
        assert!(got[head.rest().len()..].iter().all(|byte| *byte == 7));
    }
}

#[tokio::test]
async fn a_pong_waits_for_the_end_of_the_frame_that_is_being_written() {
    let (mut client, mut server) = pair(64); // much shorter than the frame
    client.write_all(&frame(0x89, b"first")).await.unwrap();
    client.write_all(&frame(0x89, b"second")).await.unwrap();
    let echo = tokio::spawn(async move {
        let first = std::future::poll_fn(|cx| Pin::new(&mut server).poll_write(cx, &[5; 1000])).await.unwrap();
        let mut buffer = [0; 8];
        let read = tokio::time::timeout(Duration::from_millis(50), server.read(&mut buffer)).await;
        assert!(read.is_err(), "control frames are no data");
        server.write_all(&[5; 1000][first..]).await.unwrap();
        server.flush().await.unwrap();
        server.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.unwrap();
    echo.await.unwrap();
    let expected = [vec![0x82, 126, 3, 0xE8], vec![5; 1000], frames::pong(b"second"), frames::close(1000)].concat();
    assert_eq!(got, expected);
}

#[tokio::test]
async fn a_text_frame_ends_the_connection_with_its_status_code() {
    let (mut client, mut server) = pair(1 << 10);
    client.write_all(&[frame(0x82, b"ab"), frame(0x81, b"text")].concat()).await.unwrap();
    let mut buffer = [0; 64];
    assert_eq!(server.read(&mut buffer).await.unwrap(), 2);
    let error = server.read(&mut buffer).await.unwrap_err();
    assert_eq!(error.to_string(), "WebSocket protocol error: a text frame [MQTT-6.0.0-1]");
    assert_eq!(server.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    server.shutdown().await.unwrap();
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, frames::close(1003));
}

/// The other side is an implementation that is not ours.
#[tokio::test]
async fn another_implementation_understands_us_and_we_it() {
    use futures_util::{SinkExt, StreamExt};
    let (client, mut server) = pair(1 << 12);
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let echo = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = server.read(&mut buffer).await.unwrap();
            if length == 0 {
                return server.shutdown().await.unwrap();
            }
            server.write_all(&buffer[..length]).await.unwrap();
            server.flush().await.unwrap();
        }
    });
    let sent: Vec<u8> = (0..50_000_u32).map(|n| n as u8).collect();
    client.send(Message::Ping(b"ping"[..].into())).await.unwrap();
    client.send(Message::Binary(b"small"[..].into())).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong(b"ping"[..].into()));
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary(b"small"[..].into()));
    let (mut sink, mut stream) = client.split();
    let message = Message::Binary(sent.clone().into());
    let writing = tokio::spawn(async move { sink.send(message).await.map(|()| sink).unwrap() });
    let mut got = Vec::new();
    while got.len() < sent.len() {
        got.extend_from_slice(&stream.next().await.unwrap().unwrap().into_data());
    }
    assert!(got == sent);
    let mut client = stream.reunite(writing.await.unwrap()).unwrap();
    client.close(None).await.unwrap();
    while let Some(message) = client.next().await {
        assert!(message.unwrap().is_close());
    }
    echo.await.unwrap();
}
