//! SIGTERM and ctrl-C: running commands get their time, what they come to is told truly, and the next start goes on.

use rustix::process::Signal;
use serde_json::json;

use crate::api::{Row, instant_ms};
use crate::audit::{Span, Story, count};
use crate::server::{Place, now_ms};
use crate::witness::Witness;

#[test]
fn a_stop_drains_tells_true_ends_and_the_next_start_goes_on_where_it_was() {
    let place = Place::new();
    let witness = Witness::new(&place);
    let mut server = place.start_with(&["--drain-s", "2"], &[]);
    let api = server.api();
    let ticking = api.create(json!({"name": "ticking", "schedule": "* * * * * *", "command": witness.command("sleep 0.3; w end")}));
    let quick = api.create_manual("quick", &witness.command("sleep 1; w end"));
    let slow = api.create_manual("slow", &witness.command("sleep 300; w end"));
    witness.wait_starts(&ticking, 2);
    let slow_run = Row::read(&api.run_now(&slow, None)).id;
    witness.wait_word(&slow_run, "start");
    let quick_run = Row::read(&api.run_now(&quick, None)).id;
    witness.wait_word(&quick_run, "start");
    server.stop();
    server.wait_log("stopped");
    witness.wait_word(&quick_run, "end");

    let mut server = place.start();
    let api = server.api();
    let told = |id: &str| {
        let row = api.wait_ended(id);
        (row.state, row.reason)
    };
    assert_eq!(told(&quick_run), ("succeeded".into(), String::new()));
    let (state, reason) = told(&slow_run);
    assert!(state == "cancelled" && reason == "drained", "{state} {reason}");
    assert_eq!((witness.starts_of(&quick).len(), witness.starts_of(&slow).len()), (1, 1));

    // Asked for twice, it ends at once.
    let slow_run = Row::read(&api.run_now(&slow, None)).id;
    witness.wait_word(&slow_run, "start");
    witness.wait_starts(&ticking, witness.starts_of(&ticking).len() + 2);
    server.signal(Signal::INT);
    server.wait_log("stopping");
    server.signal(Signal::INT);
    server.wait_log("running commands are ended now");
    assert_eq!(server.wait_exit().code(), Some(0));

    let server = place.start();
    let api = server.api();
    witness.wait_starts(&ticking, witness.starts_of(&ticking).len() + 2);
    let paused = api.patch(&ticking, json!({"is_enabled": false}));
    let span = Span::new(1, instant_ms(&ticking["created_at"]), instant_ms(&paused["updated_at"]));
    let span = Span { to_at_most_ms: now_ms(), ..span };
    let (rows, lines) = (api.wait_settled(), witness.lines());
    let fates = Story::of(&ticking, &rows, &lines).check(&[span]);
    // The drain let the one in flight end by itself; who was in flight when everything had to end at once is told so.
    let is_told = |fate: &(String, String)| {
        matches!((&*fate.0, &*fate.1), ("succeeded", "") | ("cancelled", "drained") | ("lost", "worker_restarted"))
    };
    assert!(fates.values().all(is_told), "{fates:?}");
    assert!(count(&fates, "succeeded", "") + 1 >= fates.len(), "{fates:?}");
    for job in [&quick, &slow] {
        Story::of(job, &rows, &lines).check(&[]);
    }
    let ended = rows.iter().find(|row| row.id == slow_run).expect("it is in the history");
    assert!(is_told(&(ended.state.clone(), ended.reason.clone())) && ended.state != "succeeded", "{ended:?}");
}
