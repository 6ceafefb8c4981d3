//! kill -9, again and again: nothing is lost, and nothing runs twice.

use serde_json::{Value, json};

use crate::api::instant_ms;
use crate::audit::{Span, Story};
use crate::random::{OnPanic, Random, seeds};
use crate::server::{Place, eventually, now_ms, wait_until_ms};
use crate::witness::Witness;

const CRASHES: u64 = 8;

#[test]
fn no_fire_is_lost_and_none_runs_twice_when_the_process_is_killed_again_and_again() {
    let seed = seeds(1).next().expect("a seed");
    let _named = OnPanic(seed);
    eprintln!("CHRONO_FLOW_SEED={seed}");
    let mut random = Random(seed);
    let place = Place::new();
    let witness = Witness::new(&place);
    let mut server = place.start();
    let job = |name: &str, every_s: i64, rest: &str| {
        let schedule = format!("*/{every_s} * * * * *");
        (server.api().create(json!({"name": name, "schedule": schedule, "command": witness.command(rest)})), every_s)
    };
    let jobs = [
        job("short", 1, "w end"),
        job("short too", 1, "w end"),
        job("half a second", 1, "sleep 0.5; w end"),
        job("longer than a life", 2, "sleep 3; w end"),
    ];
    for _ in 0..CRASHES {
        wait_until_ms(now_ms() + 300 + random.below(2_200) as i64);
        server.kill();
        // While it is down, too.
        wait_until_ms(now_ms() + random.below(700) as i64);
        server = place.start();
    }
    // A whole life without a crash, so that everything can end.
    witness.wait_starts(&jobs[0].0, witness.starts_of(&jobs[0].0).len() + 2);
    let api = server.api();
    let paused: Vec<(Value, Span)> = jobs
        .iter()
        .map(|(job, every_s)| {
            let paused = api.patch(job, json!({"is_enabled": false}));
            let span = Span::new(*every_s, instant_ms(&job["created_at"]), instant_ms(&paused["updated_at"]));
            (paused, Span { to_at_most_ms: now_ms(), ..span })
        })
        .collect();
    let rows = api.wait_settled();
    let lines = witness.lines();
    let mut lost = 0;
    for (job, span) in &paused {
        let story = Story::of(job, &rows, &lines);
        let fates = story.check(&[*span]);
        for (state, reason) in fates.values() {
            let is_true = matches!((state.as_str(), reason.as_str()), ("succeeded", "") | ("lost", "worker_restarted"));
            assert!(is_true, "{state} {reason}\n{}", story.told());
            lost += usize::from(state == "lost");
        }
        // Who said that it was through was through, and is not called lost for it.
        for line in lines.iter().filter(|line| line.word == "end") {
            assert!(lines.iter().any(|start| start.word == "start" && start.run == line.run));
        }
    }
    eprintln!("{} runs, {lost} of them were in flight at a crash", rows.len());
}

#[test]
fn a_command_dies_with_a_killed_server_and_its_run_is_told_as_it_was() {
    let place = Place::new();
    let witness = Witness::new(&place);
    let mut server = place.start();
    let pids = place.path("pids");
    let command = format!("sleep 300 & echo $$ $! > '{0}.new'; mv '{0}.new' '{0}'; wait", pids.display());
    let job = server.api().create_manual("long", &witness.command(&command));
    let run = server.api().run_now(&job, None)["id"].as_str().unwrap().to_owned();
    let pids = eventually("the command runs", || std::fs::read_to_string(&pids).ok());
    server.kill();
    for pid in pids.split_whitespace() {
        eventually("the process group is dead", || is_gone(pid).then_some(()));
    }
    let server = place.start();
    let ended = server.api().wait_ended(&run);
    assert_eq!((ended.state.as_str(), ended.reason.as_str()), ("lost", "worker_restarted"));
    assert_eq!(witness.starts_of(&job).len(), 1, "it was not run again");
}

/// Whether a process has ended; who has ended and was not fetched yet counts as gone.
fn is_gone(pid: &str) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => true,
    }
}
