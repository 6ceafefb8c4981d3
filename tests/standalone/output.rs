//! What commands print: live while they run, and bounded.

use std::fs;

use serde_json::json;

use crate::api::Row;
use crate::server::Place;

#[derive(Default, Debug)]
struct Event {
    id: String,
    kind: String,
    data: Vec<String>,
}

/// The next event of a stream.
fn next_event(lines: &mut impl Iterator<Item = String>) -> Option<Event> {
    let mut event = Event::default();
    for line in lines {
        match line.split_once(": ").unwrap_or((&line, "")) {
            ("id", id) => event.id = id.to_owned(),
            ("event", kind) => event.kind = kind.to_owned(),
            ("data", data) => event.data.push(data.to_owned()),
            ("data:", _) => event.data.push(String::new()),
            _ if line.is_empty() && !event.kind.is_empty() => return Some(event),
            _ => {}
        }
    }
    None
}

#[test]
fn output_is_followed_live_and_a_reader_goes_on_after_the_last_event_it_had() {
    let place = Place::new();
    let server = place.start();
    let api = server.api();
    // It can't print the next line before the reader of the one before allows it.
    let gate = place.path("go");
    let command = format!("for i in 1 2 3 4 5; do echo line $i; until [ -e '{}'$i ]; do sleep 0.02; done; done", gate.display());
    let job = api.create_manual("stepwise", &command);
    let run = Row::read(&api.run_now(&job, None)).id;
    let path = format!("/runs/{run}/output?follow=true");
    let allow = |line: u32| fs::write(place.path(&format!("go{line}")), "").unwrap();

    let mut last_id = String::new();
    let mut lines = api.follow(&path, &[]);
    for line in 1..=3 {
        let event = next_event(&mut lines).expect("an event");
        assert_eq!((event.kind.as_str(), event.data.join("\n")), ("stdout", format!("line {line}\n")));
        last_id = event.id;
        if line < 3 {
            allow(line);
        }
    }
    drop(lines);
    let mut lines = api.follow(&path, &[("last-event-id", &last_id)]);
    allow(3);
    for line in 4..=5 {
        let event = next_event(&mut lines).expect("an event");
        assert_eq!((event.kind.as_str(), event.data.join("\n")), ("stdout", format!("line {line}\n")));
        allow(line);
    }
    let end = next_event(&mut lines).expect("the end");
    assert_eq!(end.kind, "end");
    let told = Row::read(&serde_json::from_str(&end.data.join("\n")).expect("the run"));
    assert_eq!((told.id.as_str(), told.state.as_str()), (run.as_str(), "succeeded"));
    assert!(next_event(&mut lines).is_none(), "the stream ends there");
    assert_eq!(api.output(&run), "line 1\nline 2\nline 3\nline 4\nline 5\n");
}

#[test]
fn great_output_keeps_its_head_and_tail_and_says_what_is_missing() {
    let place = Place::new();
    let server = place.start();
    let api = server.api();
    let limit = 1024 * 1024;
    let job = api.create(json!({
        "name": "great", "schedule": "0 0 1 1 *", "command": "seq -f %09g 1 500000", "max_output_bytes": limit,
    }));
    let run = Row::read(&api.run_now(&job, None)).id;
    assert_eq!(api.wait_ended(&run).state, "succeeded");
    let told = api.get(&format!("/runs/{run}")).expect(200);
    assert_eq!((&told["output_bytes"], &told["output_truncated"]), (&json!(5_000_000), &json!(true)));

    let output = api.output(&run);
    let (marker_at, marker) = output.lines().enumerate().find(|(_, line)| line.starts_with('[')).expect("a marker");
    let dropped: usize = marker.split(' ').nth(1).and_then(|count| count.parse().ok()).expect("a count");
    let kept = output.len() - marker.len() - 1;
    // Where the cut lies inside a line, the marker begins on a new one.
    assert!((5_000_000..=5_000_001).contains(&(kept + dropped)), "{kept} + {dropped}");
    assert!(kept <= limit + 1 && kept > limit / 2, "{kept}");
    let lines: Vec<&str> = output.lines().collect();
    let head = &lines[..marker_at - 1];
    let tail = &lines[marker_at + 2..];
    assert!(head.len() > 10_000 && tail.len() > 10_000, "{} {}", head.len(), tail.len());
    assert!(head.iter().enumerate().all(|(number, line)| **line == format!("{:09}", number + 1)));
    assert!(tail.iter().rev().enumerate().all(|(number, line)| **line == format!("{:09}", 500_000 - number)));
}
