//! Runs: asked for, cancelled, read, listed from ledger and store as one history.

use chrono_flow::engine::api::EngineError;
use chrono_flow::model::{Run, RunState};
use serde_json::{Value, json};

use crate::engine::run;
use crate::server::{JSON, TestServer};

fn states(list: &Value) -> String {
    let states: Vec<&str> = list.as_array().unwrap().iter().map(|run| run["state"].as_str().unwrap()).collect();
    states.join(",")
}

fn with_history(live: &[Run], recorded: &[Run]) -> TestServer {
    let server = TestServer::start();
    server.create("n", json!({}));
    server.record(recorded);
    server.engine.state().live.extend(live.iter().map(|run| (run.id, run.clone())));
    server
}

#[test]
fn run_now_answers_202_with_the_run_and_where_it_is() {
    let server = with_history(&[], &[]);
    for (headers, body) in [(&[][..], ""), (&[JSON], "{}")] {
        let answer = server.send("POST", "/jobs/1/run", headers, body);
        assert_eq!(answer.status, 202);
        let location = answer.header("location").unwrap().to_owned();
        let run = answer.json();
        assert_eq!((run["trigger"].as_str(), run["state"].as_str(), run["job_id"].as_i64()), (Some("manual"), Some("queued"), Some(1)));
        assert_eq!(location, format!("/runs/{}", run["id"].as_str().unwrap()));
        assert_eq!(server.get(&location).json(), run, "readable as soon as the 202 was sent");
    }
    assert_eq!(server.send("POST", "/jobs/2/run", &[], "").problem().1, "no_such_job");
    assert_eq!(server.send("POST", "/jobs/1/run", &[JSON], "{\"env\": {}}").problem().1, "unknown_field");
    assert_eq!(server.send("POST", "/jobs/1/run", &["content-type: text/plain"], "now").problem().0, 415);
}

#[test]
fn an_idempotency_key_names_one_run() {
    let server = with_history(&[], &[]);
    let ask = |key: &str| server.send("POST", "/jobs/1/run", &[&format!("Idempotency-Key: {key}")], "");
    let first = ask("deploy-42");
    assert_eq!(first.header("idempotency-replayed"), None);
    let again = ask("deploy-42");
    assert_eq!((again.status, again.header("idempotency-replayed")), (202, Some("true")));
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(ask("deploy-43").header("idempotency-replayed"), None);
    assert_eq!(ask(&"k".repeat(256)).problem().0, 400);
}

#[test]
fn cancelling_answers_202_with_the_run_as_it_is_then() {
    let (open, done, recorded) = (run(1, 1, RunState::Running), run(2, 1, RunState::Succeeded), run(3, 1, RunState::Failed));
    let server = with_history(&[open.clone(), done.clone()], std::slice::from_ref(&recorded));
    for (run, state) in [(open, "cancelled"), (done, "succeeded"), (recorded, "failed")] {
        let answer = server.send("POST", &format!("/runs/{}/cancel", run.id), &[], "");
        assert_eq!((answer.status, answer.json()["state"].as_str()), (202, Some(state)));
    }
    assert_eq!(server.send("POST", "/runs/00000000-0000-0000-0000-000000000000/cancel", &[], "").problem().1, "no_such_run");
    server.engine.state().trouble = Some(EngineError::NoLeader("electing".into()));
    let answer = server.send("POST", "/runs/00000000-0000-0000-0000-000000000000/cancel", &[], "");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(answer.problem().1, "no_leader");
}

#[test]
fn a_run_is_read_from_ledger_or_store() {
    let (live, recorded) = (run(1, 1, RunState::Running), run(2, 1, RunState::Failed));
    let server = with_history(std::slice::from_ref(&live), std::slice::from_ref(&recorded));
    for run in [&live, &recorded] {
        assert_eq!(server.get(&format!("/runs/{}", run.id)).json(), serde_json::to_value(run).unwrap());
    }
    let fields = [
        "id",
        "job_id",
        "job_name",
        "job_revision",
        "trigger",
        "retry_of",
        "scheduled_at",
        "attempt",
        "state",
        "reason",
        "worker_id",
        "started_at",
        "finished_at",
        "exit_code",
        "signal",
        "error",
        "output_bytes",
        "output_truncated",
    ];
    let shown = server.get(&format!("/runs/{}", live.id)).json();
    assert!(fields.iter().all(|field| shown.get(field).is_some()), "{shown}");
    for id in ["x", "00000000-0000-0000-0000-000000000000", "1"] {
        assert_eq!(server.get(&format!("/runs/{id}")).problem().1, "no_such_run");
    }
}

#[test]
fn the_history_is_one_list_newest_first_and_its_pages_add_up() {
    let recorded: Vec<Run> = (1..=6).map(|number| run(number, 1, RunState::Lost)).collect();
    let live = [run(8, 1, RunState::Running), run(5, 1, RunState::Succeeded), run(2, 1, RunState::Failed)];
    let server = with_history(&live, &recorded);
    let whole = "running,lost,succeeded,lost,lost,failed,lost";
    assert_eq!(states(&server.get("/runs").json()), whole);
    assert_eq!(states(&server.get("/jobs/1/runs").json()), whole);
    for limit in 1..=8 {
        let mut target = format!("/jobs/1/runs?limit={limit}");
        let mut pages = Vec::new();
        loop {
            let answer = server.get(&target);
            let next =
                answer.header("link").map(|link| link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned());
            let page = states(&answer.json());
            if !page.is_empty() {
                pages.push(page);
            }
            let Some(next) = next else { break };
            target = next;
        }
        assert_eq!(pages.join(","), whole, "limit {limit}");
    }
}

#[test]
fn the_history_is_filtered_by_state_and_time() {
    let recorded: Vec<Run> = (1..=4).map(|number| run(number, 1, RunState::Lost)).collect();
    let server = with_history(&[run(5, 1, RunState::Running), run(4, 1, RunState::Succeeded)], &recorded);
    let list = |query: &str| states(&server.get(&format!("/runs?{query}")).json());
    assert_eq!(list("state=running,succeeded"), "running,succeeded");
    assert_eq!(list("state=lost"), "lost,lost,lost", "the fourth turned out to have succeeded");
    assert_eq!(list("state=lost&state=running&since=2026-09-21T14:13:22Z&until=2026-09-21T16:13:24%2B02:00"), "lost,lost");
    assert_eq!(list("since=2027-01-01T00:00:00Z"), "");
    for query in ["state=done", "since=now", "until=1", "cursor=j1", "limit=0"] {
        assert_eq!(server.get(&format!("/runs?{query}")).problem().1, "invalid_parameter", "{query}");
    }
    assert_eq!(server.get("/runs?job=1").problem().1, "unknown_parameter");
}

#[test]
fn a_job_without_runs_has_an_empty_history_and_no_job_has_none() {
    let server = with_history(&[], &[]);
    assert_eq!(server.get("/jobs/1/runs").json(), json!([]));
    assert_eq!(server.get("/jobs/2/runs").problem().1, "no_such_job");
}

#[test]
fn while_the_store_is_away_recent_runs_are_still_read() {
    let live = run(2, 1, RunState::Running);
    let server = with_history(std::slice::from_ref(&live), &[run(1, 1, RunState::Lost)]);
    server.store.set_away(true);
    let answer = server.get("/runs");
    assert_eq!((answer.status, answer.header("x-chrono-flow-source")), (200, Some("ledger")));
    assert_eq!(states(&answer.json()), "running");
    assert_eq!(server.get(&format!("/runs/{}", live.id)).status, 200);
    let answer = server.get(&format!("/runs/{}", run(1, 1, RunState::Lost).id));
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
}
