//! Requests that are wrong, hostile or unusual: each has its answer, and the server goes on.

use chrono_flow::http::Settings;
use serde_json::json;

use crate::client::send;
use crate::server::{JSON, TestServer};

#[test]
fn unknown_paths_and_methods_have_their_answers() {
    let server = TestServer::start();
    for target in ["/nope", "/jobs/", "/jobs/1/nope", "//jobs", "/Jobs", "/jobs/../jobs"] {
        assert_eq!(server.get(target).problem().1, "no_such_path", "{target}");
    }
    let answer = server.send("DELETE", "/jobs", &[], "");
    assert_eq!(answer.header("allow"), Some("GET, POST, HEAD, OPTIONS"));
    assert_eq!(answer.problem().1, "method_not_allowed");
    assert_eq!(server.send("BREW", "/jobs", &[], "").problem().0, 405);
    let options = server.send("OPTIONS", "/jobs/1/run", &[], "");
    assert_eq!((options.status, options.header("allow")), (204, Some("POST, OPTIONS")));
    assert_eq!(server.send("OPTIONS", "*", &[], "").problem().0, 404);
}

#[test]
fn head_is_get_without_a_body() {
    let server = TestServer::start();
    server.create("n", json!({}));
    let get = server.get("/jobs/1");
    let head = server.send("HEAD", "/jobs/1", &[], "");
    assert_eq!((head.status, head.header("etag"), head.header("content-length")), (200, get.header("etag"), get.header("content-length")));
    assert_eq!(head.text(), "");
}

#[test]
fn connect_and_targets_that_are_no_paths_do_not_hurt() {
    let server = TestServer::start();
    for request in [
        "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n",
        "CONNECT / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "GET jobs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        "GET /jobs?\0 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        "GET /\u{ff} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        "GET /jobs HTTP/1.1\r\nhost: a b\r\nconnection: close\r\n\r\n",
        "GET /jobs HTTP/1.1\r\nx: a\0b\r\nconnection: close\r\n\r\n",
        "GET /jobs HTTP/9.9\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "GET /jobs HTTP/1.1\r\ncontent-length: -1\r\nconnection: close\r\n\r\n",
        "POST /jobs HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n",
    ] {
        let mut connection = server.connect();
        connection.send(request);
        connection.finish();
        let answer = String::from_utf8_lossy(&connection.rest()).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{request:?}: {answer}");
        assert_eq!(server.get("/healthz").status, 200, "after {request:?}");
    }
    assert_eq!(send(server.address, "GET", &format!("http://{}/jobs", server.address), &[], b"").status, 200, "an absolute target is one");
}

#[test]
fn a_name_and_a_query_that_are_no_utf8_are_malformed() {
    let server = TestServer::start();
    assert_eq!(server.send_json("PUT", "/jobs/by-name/%ff", &json!({})).problem().1, "malformed");
    assert_eq!(server.get("/jobs?name=%ff").problem().1, "malformed");
    let nul = server.send_json("PUT", "/jobs/by-name/a%00b", &json!({"schedule": "@daily", "command": "true"}));
    assert_eq!(nul.problem(), (422, "invalid_value".into(), "name".into()));
    let latin1 = send(server.address, "POST", "/jobs", &[JSON], b"{\"name\":\"\xe9\",\"schedule\":\"@daily\",\"command\":\"true\"}");
    assert_eq!(latin1.problem().1, "malformed");
}

#[test]
fn only_json_is_taken() {
    let server = TestServer::start();
    let body = json!({"name": "n", "schedule": "@daily", "command": "true"}).to_string();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        assert_eq!(server.send("POST", "/jobs", &[&format!("content-type: {kind}")], &body).problem().1, "unsupported_type", "{kind}");
    }
    assert_eq!(server.send("POST", "/jobs", &[], &body).problem().0, 415);
    assert_eq!(server.send("POST", "/jobs", &["content-type: application/json; charset=utf-8"], &body).status, 201);
}

#[test]
fn a_body_beyond_the_limit_is_413_whether_its_length_is_known_or_not() {
    let server = TestServer::start();
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(1024 * 1024));
    assert_eq!(server.send("POST", "/jobs", &[JSON], &large).problem().1, "body_too_large");
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let chunked = format!("{}0\r\n\r\n", chunk.repeat(17));
    assert_eq!(server.send("POST", "/jobs", &[JSON, "transfer-encoding: chunked"], &chunked).problem().0, 413);
    let waiting = "POST /jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 9999999\r\n\r\n";
    assert_eq!(server.connect().send(waiting).answer().0, 413, "before anything of it was sent");
}

#[test]
fn a_chunked_body_is_read_like_any_other() {
    let server = TestServer::start();
    let body = json!({"name": "n", "schedule": "@daily", "command": "true"}).to_string();
    let (left, right) = body.split_at(7);
    let chunked = format!("{:x}\r\n{left}\r\n{:x};x=y\r\n{right}\r\n0\r\ntrailer: x\r\n\r\n", left.len(), right.len());
    assert_eq!(server.send("POST", "/jobs", &[JSON, "transfer-encoding: chunked"], &chunked).status, 201);
    let broken = server.send("POST", "/jobs", &[JSON, "transfer-encoding: chunked"], "zz\r\n{}\r\n0\r\n\r\n");
    assert_eq!(broken.problem().1, "malformed");
}

#[test]
fn a_body_that_breaks_off_or_never_comes_is_given_up() {
    let server = TestServer::with(Settings { body_ms: 1, ..Settings::default() });
    let mut connection = server.connect();
    connection.send("POST /jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{");
    assert_eq!(connection.answer().0, 408);
}

#[test]
fn other_sites_pages_can_change_nothing() {
    let server = TestServer::start();
    server.create("n", json!({}));
    let own = format!("origin: http://{}", server.address);
    for (method, target) in [("POST", "/jobs/1/run"), ("DELETE", "/jobs/1"), ("POST", "/jobs"), ("PATCH", "/jobs/1")] {
        for origin in ["origin: http://evil.example", "origin: null", "origin: http://127.0.0.1:1"] {
            assert_eq!(server.send(method, target, &[origin], "").problem().1, "cross_origin", "{method} {target} {origin}");
        }
    }
    assert_eq!(server.send("POST", "/jobs/1/run", &[&own], "").status, 202);
    assert_eq!(server.send("GET", "/jobs", &["origin: http://evil.example"], "").status, 200);
    assert_eq!(server.get("/jobs/1").status, 200);
}

#[test]
fn a_server_on_loopback_answers_to_no_foreign_name() {
    let server = TestServer::with(Settings { allowed_hosts: vec!["build.example".into()], ..Settings::default() });
    for host in ["host: evil.example", "host: evil.example:8080", "host: localhost.evil.example"] {
        assert_eq!(server.send("GET", "/jobs", &[host], "").problem().1, "unknown_host", "{host}");
    }
    for host in ["host: localhost:8080", "host: [::1]:1", "host: build.example:8080"] {
        assert_eq!(server.send("GET", "/jobs", &[host], "").status, 200, "{host}");
    }
}

#[test]
fn a_handler_that_panics_answers_500_and_the_connection_goes_on() {
    let server = TestServer::start();
    server.create("n", json!({}));
    let mut connection = server.connect();
    connection.send("POST /jobs/1/run HTTP/1.1\r\nhost: localhost\r\nidempotency-key: panic\r\n\r\n");
    let (status, _, body) = connection.answer();
    assert_eq!(status, 500);
    assert!(String::from_utf8(body).unwrap().contains("\"code\":\"internal\""));
    connection.send("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(connection.answer().0, 200);
}
