//! The worst clients: slow, half-open, endless, nonsensical, and many of them at once. Each loses its connection in bounded time and costs
//! little; everybody else is answered meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono_flow::http::Settings;

use crate::client::Connection;
use crate::server::{JSON, TestServer};

const ALIVE: &str = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
const POST: &str = "POST /jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What all the clients of one test together may make the server hold; they send many times as much.
const GROWTH_BYTES_MAX: u64 = 96 * 1024 * 1024;

/// What this process, server and clients, has in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Has `others` done while one client is served again and again on a connection of its own, and on new ones.
fn while_others_are_served(server: &TestServer, others: impl FnOnce() + Send) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            others();
            is_over.store(true, Ordering::Relaxed);
        });
        let mut kept = server.connect();
        while !is_over.load(Ordering::Relaxed) && !done.is_finished() {
            assert_eq!(kept.send(ALIVE).answer().0, 200);
            assert_eq!(server.get("/healthz").status, 200);
            std::thread::sleep(Duration::from_millis(5));
        }
        done.join().unwrap();
    });
}

/// Sends bytes one at a time until the server closes; how long that took.
fn dribble(mut connection: Connection, start: &str, bytes: impl Iterator<Item = u8>) -> Duration {
    let since = Instant::now();
    connection.send(start);
    for byte in bytes {
        if !connection.try_send([byte]) || connection.is_answered_or_closed() {
            return since.elapsed();
        }
        std::thread::sleep(Duration::from_millis(20));
        assert!(since.elapsed() < Duration::from_secs(20), "a byte now and then keeps a connection for ever");
    }
    panic!("the server reads on and on");
}

#[test]
fn a_head_that_comes_byte_by_byte_is_given_up_in_time() {
    let server = TestServer::with(Settings { idle_ms: 300, ..Settings::default() });
    while_others_are_served(&server, || {
        std::thread::scope(|scope| {
            for start in ["G", "GET / HTTP/1.1\r\nhost: localhost\r\nx: ", "PRI * HTTP/2.0\r\n"] {
                let connection = server.connect();
                scope.spawn(move || dribble(connection, start, std::iter::repeat_n(b'x', 2_000)));
            }
        });
    });
}

#[test]
fn a_body_that_comes_byte_by_byte_is_given_up_in_time() {
    let server = TestServer::with(Settings { body_ms: 300, ..Settings::default() });
    while_others_are_served(&server, || {
        std::thread::scope(|scope| {
            for framing in ["content-length: 100000\r\n\r\n", "transfer-encoding: chunked\r\n\r\nffff\r\n"] {
                let mut connection = server.connect();
                scope.spawn(move || {
                    let since = Instant::now();
                    connection.send(format!("{POST}{framing}"));
                    while !connection.is_answered_or_closed() {
                        connection.try_send(b" ");
                        std::thread::sleep(Duration::from_millis(20));
                        assert!(since.elapsed() < Duration::from_secs(20), "a byte now and then keeps a connection for ever");
                    }
                    let answer = connection.rest();
                    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
                });
            }
        });
    });
}

#[test]
fn a_body_without_end_is_refused_before_it_fills_anything() {
    let server = TestServer::with(Settings { body_ms: 1_000, ..Settings::default() });
    let before = resident();
    while_others_are_served(&server, || {
        std::thread::scope(|scope| {
            // Chunks, chunks of one byte, an extension and a trailer that go on and on.
            let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x1_0000));
            let endless = ["", "1;x=", "0\r\nx: "];
            for (start, piece) in
                endless.into_iter().zip([chunk, "y".repeat(4096), "y".repeat(4096)]).chain([("", "1\r\n \r\n".repeat(512))])
            {
                let mut connection = server.connect();
                scope.spawn(move || {
                    connection.send(format!("{POST}transfer-encoding: chunked\r\n\r\n{start}"));
                    let mut sent = 0usize;
                    while connection.try_send(&piece) {
                        sent += piece.len();
                        assert!(sent < 256 * 1024 * 1024, "{start:?} is read for ever");
                    }
                });
            }
        });
    });
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
}

#[test]
fn more_half_open_connections_than_there_is_room_for_end_by_themselves() {
    let server = TestServer::with(Settings { idle_ms: 400, connections_max: 100, ..Settings::default() });
    let mut kept = server.connect();
    assert_eq!(kept.send(ALIVE).answer().0, 200);
    let mut half: Vec<Connection> = Vec::new();
    for number in 0..300 {
        let mut connection = server.connect();
        connection.try_send(&ALIVE[..number % ALIVE.len()]);
        half.push(connection);
        if number % 50 == 0 {
            assert_eq!(kept.send(ALIVE).answer().0, 200, "who is connected is served");
        }
    }
    for connection in &mut half {
        let rest = connection.rest();
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 503") || rest.starts_with(b"HTTP/1.1 408"), "{rest:?}");
    }
    assert_eq!(server.get("/healthz").status, 200, "and there is room again");
}

#[test]
fn heads_that_go_on_and_on_cost_their_limit_and_no_more() {
    let server = TestServer::start();
    let before = resident();
    while_others_are_served(&server, || {
        std::thread::scope(|scope| {
            for start in ["GET /", "GET / HTTP/1.1\r\nx: ", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nx: y\r\n ", "\r\n"] {
                let server = &server;
                scope.spawn(move || {
                    let piece = if start.ends_with('\n') && start.len() > 2 { "x: y\r\n" } else { "yyyyyyyy" }.repeat(1024);
                    let piece = if start == "\r\n" { "\r\n".repeat(4096) } else { piece };
                    for _ in 0..20 {
                        let mut connection = server.connect();
                        connection.try_send(start);
                        let mut sent = 0;
                        while sent < 16 * 1024 * 1024 && connection.try_send(&piece) {
                            sent += piece.len();
                        }
                        assert!(sent < 16 * 1024 * 1024, "{start:?} is read for ever");
                    }
                });
            }
        });
    });
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
}

#[test]
fn nonsense_behind_a_request_is_answered_once_and_ends_the_connection() {
    let server = TestServer::start();
    for nonsense in [
        "\0\0\0\0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nhost\r\n\r\n",
        "GET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked, gzip\r\n\r\n",
        "GET / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        "\u{ff}\u{fe}",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut connection = server.connect();
        connection.send(format!("{ALIVE}{nonsense}"));
        connection.finish();
        assert_eq!(connection.answer().0, 200, "the request before {nonsense:?}");
        let rest = connection.rest();
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 4"), "{nonsense:?}: {}", String::from_utf8_lossy(&rest));
        assert_eq!(server.get("/healthz").status, 200, "after {nonsense:?}");
    }
}

#[test]
fn paths_of_any_bytes_have_their_answers() {
    let server = TestServer::start();
    for path in [
        "/jobs/%00",
        "/jobs/by-name/%00",
        "/jobs/by-name/%",
        "/jobs/by-name/%2",
        "/jobs/by-name/%zz",
        "/jobs/by-name/%c3%28",
        "/jobs/%2e%2e",
        "/jobs/by-name/..%2f..",
        "/runs/%00",
        "/runs/00000000-0000-0000-0000-00000000000%00",
        "/jobs/9223372036854775808",
        "/jobs/-1",
        "/jobs/+1",
        "/jobs/1%20",
        "/jobs?%00=1",
        "/jobs?name=%00",
        "/jobs?label=%00",
        "/jobs?cursor=j%00",
        "/runs?since=%00",
        "/%",
        "/%00",
        "/jobs//",
        "/jobs/1/runs/",
        "/runs/x/output?from=-1",
    ] {
        let answer = server.get(path);
        assert!((400..500).contains(&answer.status) || answer.status == 200 && path.starts_with("/jobs?"), "{path}: {}", answer.status);
    }
}

#[test]
fn requests_without_end_whose_answers_nobody_reads_are_cut_off() {
    let server = TestServer::with(Settings { write_stall_ms: 300, ..Settings::default() });
    let before = resident();
    while_others_are_served(&server, || {
        let mut deaf = server.connect();
        let requests = ALIVE.repeat(1_000);
        let mut sent = 0;
        while deaf.try_send(&requests) {
            sent += requests.len();
            assert!(sent < 1024 * 1024 * 1024, "they are taken for ever");
        }
    });
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
}

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

#[test]
fn http2_that_breaks_its_rules_ends_its_connection() {
    const HEADERS: u8 = 1;
    const RESET: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const CONTINUATION: u8 = 9;
    const END_HEADERS: u8 = 4;
    let server = TestServer::with(Settings { idle_ms: 1_000, write_stall_ms: 300, ..Settings::default() });
    // GET / by the static table.
    let request = |stream: u32| frame(HEADERS, END_HEADERS | 1, stream, &[0x82, 0x84, 0x86, 0x41, 1, b'x']);
    let resets: Vec<u8> = (0..2_000u32).flat_map(|n| [request(2 * n + 1), frame(RESET, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()).collect();
    let before = resident();
    while_others_are_served(&server, || {
        std::thread::scope(|scope| {
            // What comes again and again, after what comes once.
            let floods: [(Vec<u8>, Vec<u8>); 7] = [
                (Vec::new(), vec![0xFF; 8192]),
                (vec![0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 1], vec![0; 8192]),
                (frame(HEADERS, 0, 1, &[0x82]), frame(CONTINUATION, 0, 1, &[0; 8192])),
                (frame(HEADERS, 0, 1, &[0x82]), frame(CONTINUATION, 0, 1, &[]).repeat(512)),
                (Vec::new(), frame(PING, 0, 0, &[7; 8]).repeat(512)),
                (Vec::new(), frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]).repeat(512)),
                (Vec::new(), resets),
            ];
            for (number, (once, again)) in floods.into_iter().enumerate() {
                let server = &server;
                scope.spawn(move || {
                    let mut connection = server.connect();
                    connection.send(PREFACE).send(frame(SETTINGS, 0, 0, &[]));
                    connection.try_send(&once);
                    let mut sent = 0;
                    while connection.try_send(&again) {
                        sent += again.len();
                        assert!(sent < 512 * 1024 * 1024, "flood {number} is taken for ever");
                    }
                });
            }
        });
    });
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
    assert_eq!(server.send("POST", "/jobs", &[JSON], r#"{"name":"n","schedule":"@daily","command":"true"}"#).status, 201);
}
