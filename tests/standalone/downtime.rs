//! After a time without a server, `catch_up` and `start_deadline_s` rule on what was missed, to the letter.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::api::{instant, instant_ms};
use crate::audit::{Span, Story, fires};
use crate::server::{Place, eventually, now_ms, wait_until_ms};
use crate::witness::Witness;

const EVERY_S: i64 = 3;
const DEADLINE_S: i64 = 1;
/// Fires that lie in the down time.
const DOWN_FIRES: i64 = 4;

#[test]
fn fires_missed_while_the_server_was_down_follow_the_rules_of_their_job() {
    let place = Place::new();
    let witness = Witness::new(&place);
    let mut server = place.start();
    let api = server.api();
    let job = |name: &str, more: Value| {
        let mut job = json!({
            "name": name, "schedule": format!("*/{EVERY_S} * * * * *"), "command": witness.command("w end"), "start_deadline_s": DEADLINE_S,
        });
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        api.create(job)
    };
    let none = job("none", json!({"catch_up": "none"}));
    let last = job("last", json!({"catch_up": "last"}));
    let all = job("all", json!({"catch_up": "all"}));
    let two = job("two at most", json!({"catch_up": "all", "catch_up_max": 2}));
    let patient = job("patient", json!({"catch_up": "none", "start_deadline_s": 60}));
    let jobs = [&none, &last, &all, &two, &patient];
    let seen = jobs.map(|job| witness.wait_starts(job, 1).pop().unwrap().at_ms).into_iter().max().unwrap();
    // The next fire is with the worker already when everything stops.
    let next = instant(seen + EVERY_S * 1000);
    eventually("the next fires are staged", || {
        let is_staged = |job: &Value| api.runs_of(job).iter().any(|row| row.state == "staged" && instant(row.at_ms) == next);
        jobs.iter().all(|job| is_staged(job)).then_some(())
    });
    server.kill();
    let first_down = seen + EVERY_S * 1000;
    let last_down = seen + DOWN_FIRES * EVERY_S * 1000;
    // Late for the last of them, and well before the next.
    wait_until_ms(last_down + DEADLINE_S * 1000 + 300);
    let server = place.start();
    let up_ms = now_ms();
    let api = server.api();
    let next = last_down + EVERY_S * 1000;
    for job in jobs {
        eventually("the next fire runs", || witness.starts_of(job).iter().any(|line| line.at_ms > last_down).then_some(()));
    }
    let spans = jobs.map(|job| {
        let paused = api.patch(job, json!({"is_enabled": false}));
        let span = Span::new(EVERY_S, instant_ms(&job["created_at"]), instant_ms(&paused["updated_at"]));
        Span { to_at_most_ms: now_ms(), ..span }
    });
    let (rows, lines) = (api.wait_settled(), witness.lines());
    let down: Vec<i64> = fires(EVERY_S, first_down - 1, last_down).collect();
    // Who ran of those that were missed; the others must be told as missed.
    let ran = |number: usize| -> Vec<i64> {
        let story = Story::of(jobs[number], &rows, &lines);
        let fates: BTreeMap<i64, (String, String)> = story.check(&[spans[number]]);
        for at_ms in &down {
            let (state, reason) = &fates[at_ms];
            let is_told = state == "succeeded" || (state == "skipped" && reason == "missed");
            assert!(is_told, "{} {state} {reason}", instant(*at_ms));
        }
        assert!(fates.iter().filter(|(at_ms, _)| !down.contains(at_ms)).all(|(_, fate)| fate.0 == "succeeded"), "{fates:?}");
        down.iter().copied().filter(|at_ms| fates[at_ms].0 == "succeeded").collect()
    };
    assert!(ran(0).is_empty(), "none: {:?}", ran(0));
    // Where the start took so long that another fire was in time, that one counts as the last.
    if up_ms < next {
        assert_eq!(ran(1), [last_down], "last\n{}", Story::of(&last, &rows, &lines).told());
        assert_eq!(ran(3), down[down.len() - 2..], "two\n{}", Story::of(&two, &rows, &lines).told());
    }
    assert_eq!(ran(2), down, "all\n{}", Story::of(&all, &rows, &lines).told());
    assert_eq!(ran(4), down, "patient\n{}", Story::of(&patient, &rows, &lines).told());
}
