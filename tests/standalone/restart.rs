//! What a restart finds again.

use serde_json::json;

use crate::api::Row;
use crate::server::Place;
use crate::witness::Witness;

#[test]
fn a_restart_finds_jobs_history_output_cursors_and_keys_again_and_uses_no_id_twice() {
    let place = Place::new();
    let witness = Witness::new(&place);
    let mut server = place.start();
    let api = server.api();
    let full = json!({
        "name": "full", "schedule": "0 0 1 1 *", "time_zone": "Europe/Berlin", "command": witness.command("echo out; echo err >&2; w end"),
        "description": "all of it", "labels": {"team": "a"}, "env": {"A": "b"}, "timeout_s": 30, "kill_grace_s": 3,
        "retry": {"max_attempts": 2, "backoff_s": 7, "max_backoff_s": 70}, "overlap": "queue_one", "catch_up": "none",
        "start_deadline_s": 5, "max_output_bytes": 5000,
    });
    let job = api.create(full);
    // One after the other: more than one would not wait in a queue of one.
    let ask = |number: u32| {
        let run = Row::read(&api.run_now(&job, Some(&format!("key {number}")))).id;
        assert_eq!(api.wait_ended(&run).state, "succeeded");
        run
    };
    let runs: Vec<String> = (0..5).map(ask).collect();
    let doomed = api.create_manual("doomed", "true");
    let doomed_run = Row::read(&api.run_now(&doomed, Some("k"))).id;
    api.wait_ended(&doomed_run);
    api.delete(&doomed);
    let job_before = api.get("/jobs/1").expect(200);
    let history_before = api.runs();
    let page = api.get("/runs?limit=3");
    let next_page = page.header("link").and_then(|link| Some(link.strip_prefix('<')?.split_once('>')?.0.to_owned())).expect("a next page");
    let rest_before = api.get(&next_page).expect(200);
    let output_before = api.output(&runs[0]);
    assert_eq!(output_before, "out\nerr\n");

    for is_kill in [false, true] {
        if is_kill {
            server.kill()
        } else {
            server.stop()
        }
        server = place.start();
        let api = server.api();
        assert_eq!(api.get("/jobs/1").expect(200), job_before);
        assert_eq!(api.get("/jobs").expect(200).as_array().unwrap().len(), 1);
        assert_eq!(api.runs(), history_before);
        assert_eq!(api.get(&next_page).expect(200), rest_before, "a cursor goes on where it was");
        assert_eq!(api.output(&runs[0]), output_before);
        assert_eq!(api.get("/runs?limit=3").expect(200), page.json());
        for (number, run) in runs.iter().enumerate() {
            let headers = [("idempotency-key", &*format!("key {number}"))];
            let again = api.call("POST", "/jobs/1/run", &headers, None);
            assert_eq!(again.header("idempotency-replayed"), Some("true"));
            assert_eq!(Row::read(&again.expect(202)).id, *run);
        }
        assert_eq!(api.get(&format!("/jobs/{}", doomed["id"])).status, 404);
        assert_eq!(api.runs_of(&doomed).len(), 1, "history outlives its job");
    }
    assert_eq!(witness.starts_of(&job).len(), runs.len(), "no key ran twice");
    let api = server.api();
    let heir = api.create_manual("doomed", "true");
    assert_eq!(heir["id"].as_i64(), doomed["id"].as_i64().map(|id| id + 1), "an id is never used again");
    assert!(api.runs_of(&heir).is_empty());
}
