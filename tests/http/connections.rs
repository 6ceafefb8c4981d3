//! Connections: their limits in number and time, and the end of the server.

use std::net::TcpListener;

use chrono_flow::http::{Server, Settings};
use chrono_flow::model::{RunState, Stream};

use crate::client::Connection;
use crate::engine::run;
use crate::server::TestServer;

const ALIVE: &str = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";

#[test]
fn requests_follow_each_other_on_one_connection_and_may_be_sent_at_once() {
    let server = TestServer::start();
    let mut connection = server.connect();
    for _ in 0..3 {
        assert_eq!(connection.send(ALIVE).answer().0, 200);
    }
    connection.send(format!("{ALIVE}GET /nope HTTP/1.1\r\nhost: localhost\r\n\r\n{ALIVE}"));
    let statuses: Vec<u16> = (0..3).map(|_| connection.answer().0).collect();
    assert_eq!(statuses, [200, 404, 200], "in their order");
}

#[test]
fn a_connection_that_says_nothing_or_stops_in_the_middle_is_closed() {
    let server = TestServer::with(Settings { idle_ms: 1_000, ..Settings::default() });
    let beginnings = ["", "G", "PRI * HTTP/2.0\r\n", "GET /healthz HTTP/1.1\r\nhost: loc", ALIVE];
    let mut connections: Vec<Connection> = beginnings.iter().map(|_| server.connect()).collect();
    connections.iter_mut().zip(beginnings).for_each(|(connection, beginning)| {
        connection.send(beginning);
    });
    for (connection, beginning) in connections.iter_mut().zip(beginnings) {
        assert_eq!(connection.rest().starts_with(b"HTTP/1.1 200"), beginning == ALIVE, "{beginning:?}");
    }
}

#[test]
fn an_http2_connection_without_requests_is_closed() {
    let server = TestServer::with(Settings { idle_ms: 1_000, ..Settings::default() });
    let mut connection = server.connect();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    connection.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").send(settings);
    assert!(!connection.rest().is_empty(), "it speaks HTTP/2, and says goodbye");
}

#[test]
fn heads_beyond_the_limits_are_refused() {
    let server = TestServer::start();
    let mut connection = server.connect();
    let many: String = (0..101).map(|number| format!("x-{number}: y\r\n")).collect();
    connection.send(format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"));
    assert_eq!(connection.answer().0, 431);
    let mut connection = server.connect();
    connection.try_send(format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(1024 * 1024)));
    let answer = connection.rest();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    let mut connection = server.connect();
    connection.try_send(format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "y".repeat(1024 * 1024)));
    let answer = connection.rest();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn one_connection_too_many_is_told_so_and_a_place_is_free_again_later() {
    let server = TestServer::with(Settings { connections_max: 2, ..Settings::default() });
    let mut kept: Vec<Connection> = (0..2).map(|_| server.connect()).collect();
    kept.iter_mut().for_each(|connection| assert_eq!(connection.send(ALIVE).answer().0, 200));
    let mut refused = server.connect();
    refused.try_send(ALIVE);
    let (status, headers, body) = refused.answer();
    assert_eq!(status, 503);
    assert!(headers.contains(&("retry-after".into(), "1".into())));
    assert!(String::from_utf8(body).unwrap().contains("too_many_connections"));
    kept.iter_mut().for_each(|connection| assert_eq!(connection.send(ALIVE).answer().0, 200, "the others go on"));
    drop(kept.pop());
    while server.connect().send(ALIVE).answer().0 != 200 {
        std::thread::yield_now();
    }
}

#[test]
fn a_client_that_reads_nothing_is_cut_off() {
    let server = TestServer::with(Settings { write_stall_ms: 100, connections_max: 1, ..Settings::default() });
    let live = run(1, 1, RunState::Running);
    server.engine.state().live.insert(live.id, live.clone());
    server.engine.print(live.id, Stream::Stdout, &"x".repeat(64 * 1024 * 1024), false);
    let mut deaf = server.connect();
    deaf.send(format!("GET /runs/{}/output HTTP/1.1\r\nhost: localhost\r\n\r\n", live.id));
    loop {
        let mut next = server.connect();
        next.try_send(ALIVE);
        if next.answer().0 == 200 {
            break;
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_stopping_server_closes_idle_connections_and_takes_no_new_ones() {
    let mut server = TestServer::with(Settings { drain_ms: 60_000, ..Settings::default() });
    let mut idle = server.connect();
    assert_eq!(idle.send(ALIVE).answer().0, 200);
    let mut silent = server.connect();
    server.stop();
    assert!(idle.rest().is_empty() && silent.rest().is_empty());
    assert!(std::net::TcpStream::connect(server.address).is_err());
}

#[test]
fn a_request_that_never_ends_does_not_hold_up_the_stop() {
    let mut server = TestServer::with(Settings { drain_ms: 100, ..Settings::default() });
    let mut half = server.connect();
    half.send("POST /jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{");
    let mut deaf = server.connect();
    deaf.send("GET /healthz HTTP/1.1\r\nhost:");
    server.stop();
    assert!(half.rest().is_empty());
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(Server::bind(&address, Settings::default())).err().unwrap();
    assert_eq!(error.to_string(), format!("can't listen for HTTP on {address}: the address is in use by another process"));
    assert!(runtime.block_on(Server::bind("nonsense", Settings::default())).is_err());
}
