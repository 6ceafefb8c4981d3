//! Many jobs of every policy at once: each fire of each job has one fate, and all sources tell it alike.

use serde_json::{Value, json};

use crate::api::{Api, Row, instant, instant_ms};
use crate::audit::{Span, Story, count};
use crate::server::{Place, eventually, now_ms, wait_until_ms};
use crate::witness::Witness;

/// How long the jobs run.
const WORK_MS: i64 = 12_000;

#[test]
fn every_fire_of_a_mixed_workload_has_one_fate_and_history_is_what_the_witness_saw() {
    let place = Place::new();
    let witness = Witness::new(&place);
    let server = place.start();
    let api = server.api();
    // Half a second off, so that no fire lies at an end.
    let from = now_ms() / 1000 * 1000 + 1_500;
    let to = from + WORK_MS;
    let bounded = |name: &str, every_s: i64, rest: &str, more: Value| {
        let mut job = json!({
            "name": name, "schedule": format!("*/{every_s} * * * * *"), "command": witness.command(rest),
            "starts_at": instant(from), "ends_at": instant(to),
        });
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        api.create(job)
    };
    let each = bounded("every second", 1, "w end", json!({}));
    let second = bounded("every other second", 2, "w end", json!({}));
    let skip = bounded("skip", 1, "sleep 1.4; w end", json!({"overlap": "skip"}));
    let queue = bounded("queue one", 1, "sleep 1.4; w end", json!({"overlap": "queue_one"}));
    let replace = bounded("replace", 3, "trap 'w end; exit 0' TERM; sleep 30 & wait", json!({"overlap": "replace"}));
    let flaky = bounded("flaky", 5, "test $CHRONO_FLOW_ATTEMPT = 3", json!({"retry": {"max_attempts": 3, "backoff_s": 1}}));
    let stuck = bounded("stuck", 6, "sleep 30", json!({"timeout_s": 1, "kill_grace_s": 1}));
    let endless = |name: &str| api.create(json!({"name": name, "schedule": "* * * * * *", "command": witness.command("w end")}));
    let (paused, edited, deleted) = (endless("paused"), endless("edited"), endless("deleted"));

    let asked = manual(&api, &witness);
    let mut paused_spans = pause_and_resume(&api, &witness, &paused);
    let edited_spans = edit(&api, &witness, &edited);
    witness.wait_starts(&deleted, 3);
    let before = now_ms();
    api.delete(&deleted);
    let deleted_span = Span { to_at_most_ms: now_ms(), ..Span::new(1, instant_ms(&deleted["created_at"]), before) };
    assert_eq!(api.get(&format!("/jobs/{}", deleted["id"])).status, 404);

    wait_until_ms(to);
    let again = api.patch(&paused, json!({"is_enabled": false}));
    paused_spans.last_mut().unwrap().to_ms = instant_ms(&again["updated_at"]);
    paused_spans.last_mut().unwrap().to_at_most_ms = now_ms();
    // The newest replacement would run on.
    let newest = eventually("the last replacement is alone", || {
        let open: Vec<Row> = api.runs_of(&replace).into_iter().filter(|row| !row.is_final()).collect();
        (open.len() == 1 && open[0].state == "running").then(|| open[0].id.clone())
    });
    witness.wait_word(&newest, "start");
    api.call("POST", &format!("/runs/{newest}/cancel"), &[], None).expect(202);
    let rows = api.wait_settled();
    let lines = witness.lines();
    let story = |job: &Value| Story::of(job, &rows, &lines);

    for (job, every_s) in [(&each, 1), (&second, 2)] {
        let fates = story(job).check(&[Span::new(every_s, from, to)]);
        assert_eq!(count(&fates, "succeeded", ""), fates.len(), "{fates:?}");
        assert_eq!(fates.len() as i64, WORK_MS / 1000 / every_s);
    }
    check_overlaps(&story(&skip), &story(&queue), &story(&replace), from, to);

    let fates = story(&flaky).check(&[Span::new(5, from, to)]);
    assert_eq!(count(&fates, "failed", ""), fates.len(), "the first attempt of each fails: {fates:?}");
    for at_ms in fates.keys() {
        let mut attempts: Vec<&Row> = story(&flaky).rows.into_iter().filter(|row| row.at_ms == *at_ms).collect();
        attempts.sort_by_key(|row| row.attempt);
        let told: Vec<_> = attempts.iter().map(|row| (row.attempt, row.state.as_str(), row.trigger.as_str())).collect();
        assert_eq!(told, [(1, "failed", "schedule"), (2, "failed", "retry"), (3, "succeeded", "retry")]);
        assert!(attempts[1..].iter().all(|row| row.retry_of.is_some()));
    }
    let fates = story(&stuck).check(&[Span::new(6, from, to)]);
    assert_eq!(count(&fates, "timed_out", ""), fates.len(), "{fates:?}");

    story(&paused).check(&paused_spans);
    story(&edited).check(&edited_spans);
    story(&deleted).check(&[deleted_span]);
    story(&asked).check(&[]);
}

/// Run now, twice with one key; then cancel.
fn manual(api: &Api, witness: &Witness) -> Value {
    let job = api.create_manual("asked for", &witness.command("sleep 60; w end"));
    let run = Row::read(&api.run_now(&job, Some("once")));
    let again = api.call("POST", &format!("/jobs/{}/run", job["id"]), &[("idempotency-key", "once")], None);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(Row::read(&again.expect(202)).id, run.id);
    witness.wait_word(&run.id, "start");
    api.call("POST", &format!("/runs/{}/cancel", run.id), &[], None).expect(202);
    let ended = api.wait_ended(&run.id);
    assert_eq!((ended.state.as_str(), ended.reason.as_str(), ended.trigger.as_str()), ("cancelled", "requested", "manual"));
    assert_eq!(witness.starts_of(&job).len(), 1);
    assert!(!witness.lines().iter().any(|line| line.run == run.id && line.word == "end"));
    job
}

/// What the pause and the resumption left of the schedule; the last span is open.
fn pause_and_resume(api: &Api, witness: &Witness, job: &Value) -> Vec<Span> {
    // Right after a fire, so that the next one is far.
    let seen = witness.wait_starts(job, 2);
    let paused = api.patch(job, json!({"is_enabled": false}));
    let first = Span { to_at_most_ms: now_ms(), ..Span::new(1, instant_ms(&job["created_at"]), instant_ms(&paused["updated_at"])) };
    assert_eq!(paused["next_fire_at"], Value::Null);
    wait_until_ms(seen[1].at_ms + 2_500);
    let resumed = api.patch(job, json!({"is_enabled": true}));
    let from = instant_ms(&resumed["updated_at"]);
    let count = witness.starts_of(job).len();
    witness.wait_starts(job, count + 2);
    vec![first, Span::new(1, from, from)]
}

/// From every second to every third second; each fire belongs to the revision of its instant.
fn edit(api: &Api, witness: &Witness, job: &Value) -> Vec<Span> {
    let count = witness.starts_of(job).len();
    witness.wait_starts(job, count + 1);
    let edited = api.patch(job, json!({"schedule": "*/3 * * * * *", "ends_at": instant(now_ms() / 1000 * 1000 + 5_500)}));
    let at = instant_ms(&edited["updated_at"]);
    let first = Span { to_at_most_ms: now_ms(), ..Span::new(1, instant_ms(&job["created_at"]), at) };
    vec![first, Span::new(3, at, instant_ms(&edited["ends_at"]))]
}

fn check_overlaps(skip: &Story, queue: &Story, replace: &Story, from: i64, to: i64) {
    let fates = skip.check(&[Span::new(1, from, to)]);
    skip.check_one_at_a_time();
    let (ran, skipped) = (count(&fates, "succeeded", ""), count(&fates, "skipped", "overlap"));
    assert_eq!(ran + skipped, fates.len(), "{fates:?}");
    assert!(ran >= 2 && skipped >= 2, "{fates:?}");

    let fates = queue.check(&[Span::new(1, from, to)]);
    queue.check_one_at_a_time();
    let (ran, full) = (count(&fates, "succeeded", ""), count(&fates, "skipped", "queue_full"));
    assert_eq!(ran + full, fates.len(), "{fates:?}");
    assert!(ran >= 3 && full >= 1, "{fates:?}");

    let fates = replace.check(&[Span::new(3, from, to)]);
    replace.check_one_at_a_time();
    let (last, earlier) = fates.iter().next_back().map(|last| (last, fates.len() - 1)).expect("fires");
    assert_eq!(last.1.1, "requested", "the last was cancelled: {fates:?}");
    assert_eq!(fates.values().filter(|fate| fate.1 == "replaced").count(), earlier, "{fates:?}");
}
