//! Jobs: created, read, written, deleted, listed.

use chrono_flow::model::{JobId, RunState};
use chrono_flow::store::Store;
use serde_json::{Value, json};

use crate::engine::run;
use crate::server::{JSON, TestServer};

const NEXT_HOUR: &str = "2026-09-21T15:00:00Z";

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap()).collect()
}

#[test]
fn the_readmes_first_example_answers_201_with_the_whole_job() {
    let server = TestServer::start();
    let body = r#"{"name": "Date Printer", "schedule": "*/10 * * * * *", "command": "echo \"The current date is $(date)\""}"#;
    let answer = server.send("POST", "/jobs", &["Content-Type: application/json"], body);
    assert_eq!((answer.status, answer.header("location"), answer.header("etag")), (201, Some("/jobs/1"), Some("\"1\"")));
    let expected = json!({
        "id": 1, "name": "Date Printer", "schedule": "*/10 * * * * *", "time_zone": "UTC", "kind": "shell",
        "command": "echo \"The current date is $(date)\"", "is_enabled": true, "description": null, "labels": {}, "env": {},
        "working_dir": null, "timeout_s": null, "kill_grace_s": 10,
        "retry": {"max_attempts": 1, "backoff_s": 5, "max_backoff_s": 3600}, "overlap": "allow", "catch_up": "last",
        "catch_up_window_s": 86400, "catch_up_max": 100, "start_deadline_s": 30,
        "worker_selector": {}, "on_worker_lost": "wait", "lost_after_s": 3600, "starts_at": null, "ends_at": null,
        "max_output_bytes": 1048576, "created_at": "2026-09-21T14:13:20Z", "updated_at": "2026-09-21T14:13:20Z", "revision": 1,
        "next_fire_at": "2026-09-21T14:13:30Z", "last_run": null,
    });
    assert_eq!(answer.json(), expected);
    assert_eq!(server.get("/jobs").json(), json!([expected]));
    assert_eq!(server.get("/jobs/1").json(), expected);
}

#[test]
fn a_job_that_cannot_be_is_refused_and_not_stored() {
    let server = TestServer::start();
    let good = json!({"name": "n", "schedule": "@daily", "command": "true"});
    let refused = |extra: Value| {
        let mut job = good.clone();
        job.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        server.send_json("POST", "/jobs", &job).problem()
    };
    let expect = |code: &str, field: &str| (422, code.to_owned(), field.to_owned());
    assert_eq!(refused(json!({"tiemout_s": 1})), expect("unknown_field", "tiemout_s"));
    assert_eq!(refused(json!({"jitter_s": 1})), expect("not_supported", "jitter_s"));
    assert_eq!(refused(json!({"timeout_s": 0})), expect("invalid_value", "timeout_s"));
    assert_eq!(refused(json!({"revision": 1})), expect("read_only", "revision"));
    assert_eq!(refused(json!({"schedule": "0 25 * * *"})), expect("invalid_schedule", "schedule"));
    assert_eq!(server.send("POST", "/jobs", &[JSON], r#"{"name":"a","name":"b"}"#).problem().1, "malformed");
    assert_eq!(server.send("POST", "/jobs", &[JSON], "{\"name\": ").problem().1, "malformed");
    assert_eq!(server.get("/jobs").json(), json!([]));
}

#[test]
fn a_schedule_error_carries_its_column() {
    let server = TestServer::start();
    let answer = server.send_json("POST", "/jobs", &json!({"name": "n", "schedule": "0 25 * * *", "command": "true"}));
    let problem = answer.json();
    assert_eq!((&problem["column"], &problem["length"], &problem["part"]), (&json!(3), &json!(2), &json!("hour")));
}

#[test]
fn a_taken_name_is_a_conflict_that_names_the_other_job() {
    let server = TestServer::start();
    server.create("twin", json!({}));
    let answer = server.send_json("POST", "/jobs", &json!({"name": "twin", "schedule": "@daily", "command": "true"}));
    assert_eq!(answer.status, 409);
    let problem = answer.json();
    assert_eq!((&problem["code"], &problem["field"], &problem["job_id"]), (&json!("name_taken"), &json!("name"), &json!(1)));
}

#[test]
fn a_job_that_was_read_can_be_put_back_and_edited() {
    let server = TestServer::start();
    let mut job = server.create("n", json!({"labels": {"team": "a"}, "timeout_s": 5}));
    let unchanged = server.send_json("PUT", "/jobs/1", &job);
    assert_eq!((unchanged.status, unchanged.header("etag")), (200, Some("\"1\"")), "nothing was written");
    job["command"] = json!("false");
    let edited = server.send_json("PUT", "/jobs/1", &job);
    assert_eq!((edited.status, edited.header("etag")), (200, Some("\"2\"")));
    let edited = edited.json();
    assert_eq!((&edited["command"], &edited["revision"], &edited["timeout_s"]), (&json!("false"), &json!(2), &json!(5)));
    let late = server.send_json("PUT", "/jobs/1", &job);
    assert_eq!(late.problem(), (422, "read_only".into(), "revision".into()), "it was read before the last edit");
    let fresh = json!({"name": "n", "schedule": "@daily", "command": "true"});
    let replaced = server.send_json("PUT", "/jobs/1", &fresh).json();
    assert_eq!((&replaced["labels"], &replaced["timeout_s"]), (&json!({}), &Value::Null), "what a PUT leaves out takes its default");
}

#[test]
fn a_patch_changes_what_it_names() {
    let server = TestServer::start();
    server.create("n", json!({"labels": {"team": "a"}, "timeout_s": 5}));
    let patch = r#"{"is_enabled": false, "timeout_s": null, "labels": {"zone": "eu"}}"#;
    for kind in ["application/merge-patch+json", "application/json"] {
        let answer = server.send("PATCH", "/jobs/1", &[&format!("content-type: {kind}")], patch);
        assert_eq!((answer.status, answer.header("etag")), (200, Some("\"2\"")));
        let job = answer.json();
        assert_eq!((&job["is_enabled"], &job["timeout_s"], &job["next_fire_at"]), (&json!(false), &Value::Null, &Value::Null));
        assert_eq!(job["labels"], json!({"team": "a", "zone": "eu"}));
    }
    assert_eq!(server.send_json("PATCH", "/jobs/1", &json!({"overlap": "queue_all"})).problem().1, "not_supported");
    assert_eq!(server.send_json("PATCH", "/jobs/9", &json!({})).problem().0, 404);
}

#[test]
fn if_match_guards_against_lost_updates() {
    let server = TestServer::start();
    server.create("n", json!({}));
    let body = json!({"name": "n", "schedule": "@daily", "command": "false"}).to_string();
    let write = |method: &str, tag: &str, body: &str| server.send(method, "/jobs/1", &[JSON, &format!("if-match: {tag}")], body).status;
    for stale in ["\"2\"", "W/\"1\"", "\"x\""] {
        assert_eq!((write("PUT", stale, &body), write("PATCH", stale, "{}"), write("DELETE", stale, "")), (412, 412, 412), "{stale}");
    }
    assert_eq!(write("PUT", "1", &body), 400, "a tag has quotes");
    assert_eq!(write("PUT", "\"7\", \"1\"", &body), 200);
    assert_eq!(write("PUT", "\"1\"", &body), 412, "even though it would change nothing");
    assert_eq!(write("PATCH", "*", "{\"command\": \"true\"}"), 200);
    assert_eq!(write("DELETE", "\"3\"", ""), 204);
    assert_eq!(write("DELETE", "*", ""), 404);
}

#[test]
fn put_by_name_creates_and_then_replaces() {
    let server = TestServer::start();
    let body = json!({"schedule": "@daily", "command": "true"});
    let target = "/jobs/by-name/caf%C3%A9%2F1";
    let created = server.send_json("PUT", target, &body);
    assert_eq!((created.status, created.header("location")), (201, Some("/jobs/1")));
    let created = created.json();
    assert_eq!(created["name"], "café/1");
    let again = server.send_json("PUT", target, &body);
    assert_eq!((again.status, again.header("location")), (200, None));
    assert_eq!(again.json(), created, "idempotent");
    let replaced = server.send_json("PUT", target, &json!({"name": "café/1", "schedule": "@hourly", "command": "true"}));
    assert_eq!((replaced.status, replaced.json()["revision"].clone()), (200, json!(2)));
    let renamed = server.send_json("PUT", target, &json!({"name": "other", "schedule": "@hourly", "command": "true"}));
    assert_eq!(renamed.problem(), (422, "invalid_value".into(), "name".into()));
    let only_new = |target: &str| server.send("PUT", target, &[JSON, "if-none-match: *"], &body.to_string()).status;
    assert_eq!((only_new(target), only_new("/jobs/by-name/new")), (412, 201));
    let only_old = |target: &str| server.send("PUT", target, &[JSON, "if-match: *"], &body.to_string()).status;
    assert_eq!((only_old(target), only_old("/jobs/by-name/none")), (200, 412));
    let read = server.get(target);
    assert_eq!((read.status, read.header("etag")), (200, Some("\"3\"")));
    assert_eq!(read.json(), server.get("/jobs/1").json());
    assert_eq!(server.get("/jobs/by-name/caf").problem().1, "no_such_job", "a part of a name is no name");
}

#[test]
fn a_deleted_job_is_gone_its_name_free_and_its_history_readable() {
    let server = TestServer::start();
    server.create("n", json!({}));
    server.record(&[run(1, 1, RunState::Succeeded)]);
    let answer = server.send("DELETE", "/jobs/1", &[], "");
    assert_eq!((answer.status, answer.text().as_str()), (204, ""));
    for target in ["/jobs/1", "/jobs/1/next"] {
        assert_eq!(server.get(target).problem().0, 404);
    }
    assert_eq!(server.send("DELETE", "/jobs/1", &[], "").problem().1, "no_such_job");
    assert_eq!(server.get("/jobs/1/runs").json().as_array().unwrap().len(), 1);
    assert_eq!(server.create("n", json!({}))["id"], 2, "ids are never used twice");
}

#[test]
fn what_is_no_job_is_not_found() {
    let server = TestServer::start();
    for id in ["1", "0", "-1", "x", "9999999999999999999", "1.0", "%31%00"] {
        assert_eq!(server.get(&format!("/jobs/{id}")).problem(), (404, "no_such_job".into(), String::new()), "{id}");
    }
}

#[test]
fn the_list_is_filtered_and_paged() {
    let server = TestServer::start();
    for number in 1..=5 {
        server.create(&format!("Backup {number}"), json!({"labels": {"n": number.to_string()}, "is_enabled": number != 3}));
    }
    server.create("other", json!({"labels": {"n": "1", "team": "a"}}));
    let list = |query: &str| {
        let answer = server.get(&format!("/jobs?{query}"));
        let total = answer.header("x-total-count").unwrap().to_owned();
        (names(&answer.json()).join(","), total)
    };
    assert_eq!(list("name=backup&enabled=false"), ("Backup 3".into(), "1".into()));
    assert_eq!(list("label=n%3D1"), ("Backup 1,other".into(), "2".into()));
    assert_eq!(list("label=n&label=team=a"), ("other".into(), "1".into()));

    let mut target = "/jobs?limit=2&name=backup".to_owned();
    let mut seen = Vec::new();
    loop {
        let answer = server.get(&target);
        let next = answer.header("link").map(|link| link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned());
        seen.push(names(&answer.json()).join(","));
        match next {
            Some(next) => target = next,
            None => break,
        }
    }
    assert_eq!(seen, ["Backup 1,Backup 2", "Backup 3,Backup 4", "Backup 5"]);
}

#[test]
fn bad_parameters_are_refused_by_name() {
    let server = TestServer::start();
    for (query, code) in [
        ("limit=0", "invalid_parameter"),
        ("limit=10001", "invalid_parameter"),
        ("cursor=x", "invalid_parameter"),
        ("enabled=1", "invalid_parameter"),
        ("label=", "invalid_parameter"),
        ("lmit=1", "unknown_parameter"),
        ("limit=1&limit=2", "invalid_parameter"),
        ("name=%zz", "malformed"),
    ] {
        let (status, found, _) = server.get(&format!("/jobs?{query}")).problem();
        assert_eq!((status, found.as_str()), (400, code), "{query}");
    }
    assert_eq!(server.get("/jobs/1?x=1").problem().1, "unknown_parameter");
}

#[test]
fn the_last_run_is_the_newest_of_ledger_and_store() {
    let server = TestServer::start();
    server.create("n", json!({}));
    let last = || {
        let job = server.get("/jobs/1").json();
        (job["last_run"]["state"].clone(), job["last_run"]["scheduled_at"].clone())
    };
    server.record(&[run(1, 1, RunState::Succeeded), run(2, 1, RunState::Failed), run(9, 1, RunState::Skipped)]);
    assert_eq!(last(), (json!("failed"), json!("2026-09-21T14:13:22Z")), "a skipped fire is no launch");
    let older = run(1, 1, RunState::Running);
    server.engine.state().live.insert(older.id, older);
    assert_eq!(last().0, "failed", "the ledger's is older");
    let same = run(2, 1, RunState::Succeeded);
    server.engine.state().live.insert(same.id, same);
    assert_eq!(last().0, "succeeded", "of the same run the ledger knows better");
    let newer = run(3, 1, RunState::Running);
    server.engine.state().live.insert(newer.id, newer);
    assert_eq!(server.get("/jobs").json()[0]["last_run"]["state"], "running");
    assert_eq!(
        server.get("/jobs/1").json()["last_run"],
        json!({
            "id": run(3, 1, RunState::Running).id.to_string(), "state": "running", "scheduled_at": "2026-09-21T14:13:23Z",
            "started_at": "2026-09-21T14:13:23Z", "finished_at": null, "exit_code": null,
        })
    );
}

#[test]
fn a_store_that_went_back_takes_no_writes() {
    let server = TestServer::start();
    server.create("n", json!({}));
    server.engine.state().feed_position = 2;
    let job = json!({"name": "m", "schedule": "@daily", "command": "true"});
    for (method, path) in [("POST", "/jobs"), ("PUT", "/jobs/1"), ("PATCH", "/jobs/1"), ("PUT", "/jobs/by-name/m")] {
        assert_eq!(server.send_json(method, path, &job).problem().0, 503, "{method} {path}");
    }
    assert_eq!(server.send("DELETE", "/jobs/1", &[], "").problem().0, 503);
    assert_eq!(server.get("/jobs/1").json()["name"], "n");
    server.engine.state().feed_position = 1;
    assert_eq!(server.send_json("PATCH", "/jobs/1", &json!({"command": "false"})).status, 200);
}

#[test]
fn a_write_that_the_ledger_does_not_have_yet_says_so() {
    let server = TestServer::start();
    server.create("n", json!({}));
    {
        let mut state = server.engine.state();
        (state.is_feed_behind, state.pending_revocations) = (true, 3);
    }
    let job = server.send_json("PATCH", "/jobs/1", &json!({"command": "false"})).json();
    assert_eq!((&job["applied"], &job["pending_revocations"]), (&json!(false), &json!(3)));
    assert_eq!(server.send_json("PUT", "/jobs/1", &job).status, 200, "and can be put back as it is");
}

#[test]
fn coming_fires_are_listed() {
    let server = TestServer::start();
    server.create("n", json!({"ends_at": "2026-09-21T17:00:00Z"}));
    assert_eq!(server.get("/jobs/1/next?count=1").json(), json!({"next": [NEXT_HOUR]}));
    assert_eq!(server.get("/jobs/1/next").json(), json!({"next": [NEXT_HOUR, "2026-09-21T16:00:00Z"]}));
    server.send_json("PATCH", "/jobs/1", &json!({"is_enabled": false}));
    assert_eq!(server.get("/jobs/1/next").json(), json!({"next": []}));
    assert_eq!(server.get("/jobs/1/next?count=1001").problem().1, "invalid_parameter");
}

#[test]
fn a_preview_shows_fires_and_points_at_mistakes() {
    let server = TestServer::start();
    let body = json!({"schedule": "0 12 * * *", "time_zone": "Europe/Berlin", "from": "2026-10-24T10:00:00Z", "count": 2});
    assert_eq!(
        server.send_json("POST", "/schedules/preview", &body).json(),
        json!({"next": ["2026-10-25T11:00:00Z", "2026-10-26T11:00:00Z"]})
    );
    assert_eq!(server.send_json("POST", "/schedules/preview", &json!({"schedule": "* *"})).problem().1, "invalid_schedule");
}

#[test]
fn while_the_store_is_away_jobs_are_read_from_the_ledger_and_not_written() {
    let server = TestServer::start();
    let job = server.create("n", json!({}));
    let stored = server.runtime.block_on(server.store.job(JobId(1))).unwrap().unwrap();
    server.engine.state().jobs = vec![stored];
    server.store.set_away(true);
    for target in ["/jobs", "/jobs/1", "/jobs/1/next", "/jobs/by-name/n"] {
        let answer = server.get(target);
        assert_eq!((answer.status, answer.header("x-chrono-flow-source")), (200, Some("ledger")), "{target}");
    }
    assert_eq!(server.get("/jobs").json(), json!([job]));
    assert_eq!(server.get("/jobs/2").problem().1, "store_unavailable", "whether it exists is not known");
    let body = json!({"name": "n", "schedule": "@daily", "command": "true"}).to_string();
    for (method, target, body) in [
        ("POST", "/jobs", &*body),
        ("PUT", "/jobs/1", &body),
        ("PATCH", "/jobs/1", "{}"),
        ("DELETE", "/jobs/1", ""),
        ("PUT", "/jobs/by-name/n", &body),
    ] {
        let answer = server.send(method, target, &[JSON], body);
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{method}");
        assert_eq!(answer.problem().1, "store_unavailable");
    }
    server.store.set_away(false);
    assert_eq!(server.get("/jobs/1").header("x-chrono-flow-source"), None);
}

#[test]
fn a_clock_that_may_not_be_trusted_stops_writes_and_not_reads() {
    let server = TestServer::start();
    server.create("n", json!({}));
    server.engine.state().is_clock_bad = true;
    assert_eq!(server.get("/jobs/1").status, 200);
    let answer = server.send_json("PATCH", "/jobs/1", &json!({"command": "false"}));
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(answer.problem().1, "unavailable");
}
