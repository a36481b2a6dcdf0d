//! What clients get that keep to HTTP and to the limits, and those that do not.
use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMITS: Limits = Limits {
    head_bytes_max: 8 << 10,
    headers_max: 64,
    head_timeout: Duration::from_secs(1),
    write_timeout: Duration::from_secs(10),
};

fn echo(request: &Request) -> Answer {
    text(StatusCode::OK, "text/plain", format!("{} {}", request.method(), request.uri().path()))
}

/// Everything that is answered to bytes that come in pieces of this size, nothing after them.
async fn answer_to(bytes: &[u8], limits: Limits, piece: usize) -> String {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let serving = serve(server, Bytes::new(), limits, async |request| echo(&request));
    let asking = async {
        for piece in bytes.chunks(piece) {
            if client.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let _ = client.shutdown().await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    tokio::join!(serving, asking).1
}

async fn status(bytes: &[u8]) -> String {
    answer_to(bytes, LIMITS, usize::MAX).await.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_request_is_understood_whole_and_in_any_pieces() {
    let request = b"GET /readyz?verbose=1 HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n";
    for piece in [1, 2, 3, 7, request.len()] {
        let answer = answer_to(request, LIMITS, piece).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nGET /readyz"), "{answer}");
        for header in ["Content-Type: text/plain", "Content-Length: 11", "Connection: close"] {
            assert!(answer.contains(&format!("\r\n{header}\r\n")), "{header}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_target_that_begins_with_a_dot_is_a_path_from_the_root() {
    let answer = answer_to(b"GET ../../etc/passwd HTTP/1.1\r\n\r\n", LIMITS, usize::MAX).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("GET /../../etc/passwd"), "{answer}");
}

#[tokio::test]
async fn a_head_is_answered_without_the_body_and_http_1_0_as_such() {
    let head = answer_to(b"HEAD /livez HTTP/1.1\r\n\r\n", LIMITS, usize::MAX).await;
    assert!(head.contains("\r\nContent-Length: 11\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let old = answer_to(b"GET /livez HTTP/1.0\r\n\r\n", LIMITS, usize::MAX).await;
    assert!(old.starts_with("HTTP/1.0 200 OK\r\n") && old.ends_with("\r\n\r\nGET /livez"), "{old}");
}

#[tokio::test]
async fn a_second_request_and_a_body_are_not_read() {
    let twice = b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
    assert_eq!(answer_to(twice, LIMITS, usize::MAX).await.matches("HTTP/1.1").count(), 1);
    for length in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let request = format!("POST /a HTTP/1.1\r\n{length}\r\nExpect: 100-continue\r\n\r\nbody");
        let answer = answer_to(request.as_bytes(), LIMITS, usize::MAX).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("POST /a"), "{answer}");
    }
}

#[tokio::test]
async fn what_is_too_long_or_no_http_is_told_apart() {
    assert_eq!(status(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00").await, "400");
    assert_eq!(status(b"\x16\x03\x01\x00\xa5\x01\r\n\r\n").await, "400");
    assert_eq!(status(&[b"GET /".as_slice(), &[b'a'; 8 << 10]].concat()).await, "431");
    let headers = |number: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(number));
    assert_eq!(status(headers(64).as_bytes()).await, "200");
    assert_eq!(status(headers(65).as_bytes()).await, "431");
    for cut in ["", "GET / HTTP/1.1\r\n"] {
        assert_eq!(status(cut.as_bytes()).await, "", "{cut:?}");
    }
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let exact = Limits { head_bytes_max: request.len(), ..LIMITS };
    assert!(answer_to(request, exact, usize::MAX).await.starts_with("HTTP/1.1 200 "));
    let shorter = Limits { head_bytes_max: request.len() - 1, ..LIMITS };
    assert!(answer_to(request, shorter, usize::MAX).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn what_was_read_before_comes_first() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    client.write_all(b"/x HTTP/1.1\r\n\r\n").await.unwrap();
    serve(server, Bytes::from_static(b"GET "), LIMITS, async |request| echo(&request)).await;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nGET /x"), "{answer}");
}

#[tokio::test]
async fn a_client_has_so_long_for_its_headers_however_busy_it_is() {
    let limits = Limits { head_timeout: Duration::from_millis(200), ..LIMITS };
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let serving = serve(server, Bytes::new(), limits, async |request| echo(&request));
    let asking = async {
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        // Fewer than would be too many.
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if client.write_all(b"a: b\r\n").await.is_err() {
                return true;
            }
        }
        false
    };
    assert!(tokio::join!(serving, asking).1, "it was never let go");
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_is_let_go_and_who_takes_it_slowly_is_not() {
    let limits = Limits { write_timeout: Duration::from_secs(2), ..LIMITS };
    let answer = || text(StatusCode::OK, "text/plain", vec![b'x'; 4_000]);
    let (mut client, server) = tokio::io::duplex(500);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let since = std::time::Instant::now();
    serve(server, Bytes::new(), limits, async |_| answer()).await;
    assert!(since.elapsed() >= limits.write_timeout);
    let (mut client, server) = tokio::io::duplex(500);
    let taking = async {
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut taken = Vec::new();
        while client.read_buf(&mut taken).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        taken
    };
    let since = std::time::Instant::now();
    let taken = tokio::join!(serve(server, Bytes::new(), limits, async |_| answer()), taking).1;
    assert!(taken.ends_with(&[b'x'; 4_000]) && since.elapsed() > limits.write_timeout);
}

#[tokio::test]
async fn a_file_is_sent_whole_and_one_that_became_shorter_ends_the_connection() {
    let path = std::env::temp_dir().join(format!("mosquorum-answer-{}", std::process::id()));
    let content: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
    std::fs::write(&path, &content).unwrap();
    for said in [100_000, 100, 0, 100_001] {
        let opened = tokio::fs::File::open(&path).await.unwrap();
        let opened = std::sync::Mutex::new(Some(opened));
        let (mut client, server) = tokio::io::duplex(1_000);
        let serving = serve(server, Bytes::new(), LIMITS, async |_| {
            file(opened.lock().unwrap().take().unwrap(), said, "application/octet-stream")
        });
        let taking = async {
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let mut taken = Vec::new();
            client.read_to_end(&mut taken).await.unwrap();
            taken
        };
        let taken = tokio::join!(serving, taking).1;
        let end = taken.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let body = &taken[end..];
        assert!(content.starts_with(body), "{said}");
        // What is missing shows by the length.
        assert!(body.len() == said as usize || said > 100_000, "{said}");
        let length = format!("Content-Length: {said}\r\n");
        assert!(String::from_utf8_lossy(&taken[..end]).contains(&length), "{said}");
    }
    std::fs::remove_file(&path).unwrap();
}

/// Xorshift, so that a failure can be repeated.
fn below(state: &mut u64, limit: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 33) as usize % limit
}

#[tokio::test]
async fn no_bytes_make_it_panic() {
    let seeds: [&[u8]; 3] = [
        b"GET /a%20b?c#d HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nbody!",
        b"POST http://x:1/y HTTP/1.0\r\nConnection: upgrade, keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nCONNECT x:1 HTTP/1.1\r\n\r\n",
    ];
    let mut state = 0x2545_F491_4F6C_DD1D;
    for _ in 0..2_000 {
        let mut bytes = seeds[below(&mut state, seeds.len())].to_vec();
        for _ in 0..=below(&mut state, 5) {
            let at = below(&mut state, bytes.len());
            match below(&mut state, 3) {
                0 => bytes[at] = below(&mut state, 256) as u8,
                1 => bytes.insert(at, b"\r\n :/%\0\xff"[below(&mut state, 8)]),
                _ => drop(bytes.remove(at)),
            }
        }
        answer_to(&bytes, LIMITS, 1 + below(&mut state, 40)).await;
    }
}
