//! What commands printed: as text, and followed live.

use chrono_flow::engine::api::EngineError;
use chrono_flow::http::Settings;
use chrono_flow::model::{OutputPart, Run, RunState, Stream};
use serde_json::Value;

use crate::client::Answer;
use crate::engine::run;
use crate::server::TestServer;

/// Bytes that don't fit into one page.
const LARGE: usize = 3 * 1024 * 1024;

fn part(offset: u64, stream: Stream, text: &str) -> OutputPart {
    OutputPart { offset, stream, bytes: text.as_bytes().to_vec() }
}

fn live(server: &TestServer, state: RunState) -> Run {
    let run = run(1, 1, state);
    server.engine.state().live.insert(run.id, run.clone());
    run
}

/// The next event, as (id, kind, data); comments and `retry` are passed over.
fn event(lines: &mut impl Iterator<Item = String>) -> Option<(u64, String, String)> {
    let (mut id, mut kind, mut data) = (None, String::new(), Vec::new());
    for line in lines {
        match line.split_once(": ") {
            Some(("id", value)) => id = value.parse().ok(),
            Some(("event", value)) => kind = value.to_owned(),
            Some(("data", value)) => data.push(value.to_owned()),
            _ if line.is_empty() && id.is_some() => return Some((id?, kind, data.join("\n"))),
            _ => {}
        }
    }
    None
}

fn follow(server: &TestServer, run: &Run, query: &str, headers: &[&str]) -> Answer {
    let answer = server.send("GET", &format!("/runs/{}/output?follow=true{query}", run.id), headers, "");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
    answer
}

#[test]
fn text_has_both_streams_in_order_or_one_and_names_what_was_dropped() {
    let server = TestServer::start();
    let run = run(1, 1, RunState::Succeeded);
    server.record(std::slice::from_ref(&run));
    let parts = vec![part(0, Stream::Stdout, "out\n"), part(4, Stream::Stderr, "err\n"), part(18, Stream::Stdout, "end\n")];
    server.record_output(run.id, parts);
    let text = |query: &str| {
        let answer = server.get(&format!("/runs/{}/output{query}", run.id));
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain; charset=utf-8")));
        answer.text()
    };
    let marker = "[chrono-flow: 10 bytes of output dropped here]\n";
    assert_eq!(text(""), format!("out\nerr\n{marker}end\n"));
    assert_eq!(text("?stream=stdout"), format!("out\n{marker}end\n"));
    assert_eq!(text("?stream=stderr"), format!("err\n{marker}"));
    assert_eq!(text("?from=6"), format!("r\n{marker}end\n"));
    assert_eq!(text("?from=22"), "");
    for query in ["stream=both", "follow=yes", "from=-1", "from=x"] {
        assert_eq!(server.get(&format!("/runs/{}/output?{query}", run.id)).problem().1, "invalid_parameter", "{query}");
    }
    assert_eq!(server.get("/runs/00000000-0000-0000-0000-000000000000/output").problem().1, "no_such_run");
}

#[test]
fn output_of_many_pages_comes_whole_from_ledger_and_store() {
    let server = TestServer::start();
    let lines: String = (0..LARGE / 10).map(|number| format!("{number:>9}\n")).collect();
    let parts: Vec<OutputPart> = lines
        .as_bytes()
        .chunks(64 * 1024)
        .scan(0, |offset, bytes| {
            let part = OutputPart { offset: *offset, stream: Stream::Stdout, bytes: bytes.to_vec() };
            *offset = part.end();
            Some(part)
        })
        .collect();
    let live = live(&server, RunState::Running);
    server.engine.state().output.insert(live.id, (parts.clone(), false));
    let recorded = run(2, 1, RunState::Succeeded);
    server.record(std::slice::from_ref(&recorded));
    parts.chunks(16).for_each(|page| server.record_output(recorded.id, page.to_vec()));
    for run in [live, recorded] {
        assert!(server.get(&format!("/runs/{}/output", run.id)).text() == lines, "{}", run.state.name());
    }
}

#[test]
fn bytes_that_are_no_utf8_come_as_they_are() {
    let server = TestServer::start();
    let run = run(1, 1, RunState::Succeeded);
    server.record(std::slice::from_ref(&run));
    server.record_output(run.id, vec![OutputPart { offset: 0, stream: Stream::Stdout, bytes: b"\xff\x00\xfe".to_vec() }]);
    assert_eq!(server.get(&format!("/runs/{}/output", run.id)).bytes(), b"\xff\x00\xfe");
}

#[test]
fn a_follower_sees_output_as_it_comes_and_then_the_end() {
    let server = TestServer::start();
    let run = live(&server, RunState::Running);
    server.engine.print(run.id, Stream::Stdout, "one\n", false);
    let mut lines = follow(&server, &run, "", &[]).lines();
    assert_eq!(event(&mut lines), Some((4, "stdout".into(), "one\n".into())));
    server.engine.print(run.id, Stream::Stderr, "two", false);
    assert_eq!(event(&mut lines), Some((7, "stderr".into(), "two".into())));
    server.engine.print(run.id, Stream::Stdout, "three", true);
    assert_eq!(event(&mut lines), Some((12, "stdout".into(), "three".into())));
    let (id, kind, data) = event(&mut lines).unwrap();
    let shown: Value = serde_json::from_str(&data).unwrap();
    assert_eq!((id, kind.as_str(), &shown["state"]), (12, "end", &Value::from("succeeded")));
    assert_eq!(event(&mut lines), None);
}

#[test]
fn a_follower_may_come_before_the_run_starts() {
    let server = TestServer::start();
    let run = live(&server, RunState::Queued);
    let mut lines = follow(&server, &run, "", &[]).lines();
    server.engine.state().live.get_mut(&run.id).unwrap().state = RunState::Running;
    server.engine.print(run.id, Stream::Stdout, "here", true);
    assert_eq!(event(&mut lines), Some((4, "stdout".into(), "here".into())));
    assert_eq!(event(&mut lines).unwrap().1, "end");
}

#[test]
fn a_follower_goes_on_where_it_left_off() {
    let server = TestServer::start();
    let run = live(&server, RunState::Running);
    server.engine.print(run.id, Stream::Stdout, "one two three", true);
    let first = |query: &str, headers: &[&str]| event(&mut follow(&server, &run, query, headers).lines()).unwrap().2;
    assert_eq!(first("&from=4", &[]), "two three");
    assert_eq!(first("", &["Last-Event-ID: 8"]), "three");
    assert_eq!(first("&from=4", &["Last-Event-ID: 8"]), "three", "a client that comes back sends its first query again");
    assert_eq!(event(&mut follow(&server, &run, "&from=13", &[]).lines()).unwrap().1, "end");
    let target = format!("/runs/{}/output?follow=true", run.id);
    assert_eq!(server.send("GET", &target, &["Last-Event-ID: end"], "").problem().1, "malformed");
}

#[test]
fn a_recorded_run_is_followed_to_its_end_at_once() {
    let server = TestServer::start();
    let run = run(1, 1, RunState::Failed);
    server.record(std::slice::from_ref(&run));
    server.record_output(run.id, vec![part(0, Stream::Stdout, "a"), part(1, Stream::Stderr, "b")]);
    let mut lines = follow(&server, &run, "&stream=stderr", &[]).lines();
    assert_eq!(event(&mut lines), Some((2, "stderr".into(), "b".into())));
    let (_, kind, data) = event(&mut lines).unwrap();
    assert_eq!((kind.as_str(), serde_json::from_str::<Value>(&data).unwrap()["state"].as_str()), ("end", Some("failed")));
}

#[test]
fn a_silent_run_keeps_its_followers_connection_alive() {
    let server = TestServer::with(Settings { follow_comment_ms: 1, ..Settings::default() });
    let run = live(&server, RunState::Running);
    let mut lines = follow(&server, &run, "", &[]).lines();
    for _ in 0..3 {
        assert!(lines.any(|line| line.starts_with(':')), "comments come");
    }
    server.engine.print(run.id, Stream::Stdout, "at last", true);
    assert_eq!(event(&mut lines).unwrap().2, "at last");
}

#[test]
fn a_follower_that_goes_away_is_not_waited_for() {
    let server = TestServer::start();
    let run = live(&server, RunState::Running);
    let wait_for = |readers: usize| {
        while server.engine.state().waiting != readers {
            std::thread::yield_now();
        }
    };
    let answer = follow(&server, &run, "", &[]);
    wait_for(1);
    drop(answer);
    wait_for(0);
}

#[test]
fn a_worker_that_cannot_be_asked_is_503_for_text_and_waited_for_by_followers() {
    let server = TestServer::start();
    let run = live(&server, RunState::Running);
    server.engine.state().trouble = Some(EngineError::Unavailable("the worker is away".into()));
    assert_eq!(server.get(&format!("/runs/{}/output", run.id)).problem().1, "unavailable");
    let mut lines = follow(&server, &run, "", &[]).lines();
    server.engine.state().trouble = None;
    server.engine.print(run.id, Stream::Stdout, "back", true);
    assert_eq!(event(&mut lines).unwrap().2, "back");
}

#[test]
fn followers_do_not_hold_up_a_stopping_server() {
    let mut server = TestServer::with(Settings { drain_ms: 60_000, ..Settings::default() });
    let run = live(&server, RunState::Running);
    let mut lines = follow(&server, &run, "", &[]).lines();
    server.engine.print(run.id, Stream::Stdout, "x", false);
    assert!(event(&mut lines).is_some());
    server.stop();
    assert_eq!(event(&mut lines), None);
}
