//! The database away, here behind another process's lock: schedules go on, writes are refused loudly, and nothing is missing afterwards.

use rusqlite::Connection;
use serde_json::json;

use crate::api::instant_ms;
use crate::audit::{Span, Story};
use crate::server::{Place, eventually, now_ms};
use crate::witness::Witness;

#[test]
fn while_the_database_is_away_schedules_go_on_writes_answer_503_and_history_is_whole_afterwards() {
    let place = Place::new();
    let witness = Witness::new(&place);
    let server = place.start();
    let api = server.api();
    let ticking = api.create(json!({"name": "ticking", "schedule": "* * * * * *", "command": witness.command("echo tick; w end")}));
    witness.wait_starts(&ticking, 1);

    let other = Connection::open(place.path("data/chrono-flow.sqlite")).expect("the database");
    other.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").expect("a lock");
    let locked_ms = now_ms();
    let refused = api.call("POST", "/jobs", &[], Some(r#"{"name": "x", "schedule": "@daily", "command": "true"}"#));
    assert!(refused.header("retry-after").is_some_and(|wait| wait.parse::<u32>().is_ok()), "{}", refused.text);
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    assert_eq!(refused.expect(503)["status"], 503);
    eventually("fires go on", || (witness.starts_of(&ticking).iter().filter(|line| line.at_ms > locked_ms).count() >= 5).then_some(()));
    // Reads go on, of what ran meanwhile too.
    let newest = witness.starts_of(&ticking).pop().unwrap().run;
    assert_eq!(api.wait_ended(&newest).state, "succeeded");
    assert_eq!(api.output(&newest), "tick\n");
    assert_eq!(api.get("/jobs").expect(200)[0]["name"], "ticking");
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);

    let paused = eventually("writes work again", || {
        let answer = api.call("PATCH", "/jobs/1", &[], Some(r#"{"is_enabled": false}"#));
        (answer.status == 200).then(|| answer.json())
    });
    let span = Span::new(1, instant_ms(&ticking["created_at"]), instant_ms(&paused["updated_at"]));
    let (rows, lines) = (api.wait_settled(), witness.lines());
    let fates = Story::of(&ticking, &rows, &lines).check(&[Span { to_at_most_ms: now_ms(), ..span }]);
    assert!(fates.values().all(|(state, _)| state == "succeeded"), "{fates:?}");
    // What the database itself holds is the same story.
    let store = Connection::open(place.path("data/chrono-flow.sqlite")).unwrap();
    let count = || store.query_row("SELECT count(*) FROM runs WHERE state = 'succeeded'", [], |row| row.get::<_, i64>(0)).unwrap();
    eventually("the database has it all", || (count() == fates.len() as i64).then_some(()));
    for row in rows.iter().filter(|row| !row.is_skipped()) {
        assert_eq!(api.output(&row.id), "tick\n");
    }
}
