//! Workers die, stand still, and leave: nothing starts twice, nothing is guessed about.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::api::Row;
use crate::audit::Story;
use crate::cluster::{Cluster, Options};
use crate::wait::{eventually, now_ms, wait_until_ms};
use crate::witness::Line;
use crate::work::Work;

const QUIET_MS: i64 = 4_000;
/// Longer than the lease of a session.
const LAPSE_MS: i64 = 17_000;
/// A run that goes on for longer than a test, and says that it is alive.
const ALIVE: &str = "while :; do w alive; sleep 0.2; done";
/// One that ends after the lease of a session has passed, and says so.
const ALIVE_FOR_25_S: &str = "n=0; while [ $n -lt 125 ]; do w alive; sleep 0.2; n=$((n+1)); done; w end";
/// Runs of a job that are asked for, so that each worker has some.
const RUNS: usize = 4;

/// Runs of a job that go on: (run, worker).
fn ask(cluster: &Cluster, job: &Value) -> Vec<(String, String)> {
    let api = cluster.api();
    let runs: Vec<String> = (0..RUNS).map(|number| Row::read(&api.run_now(job, Some(&format!("key {number}")))).id).collect();
    runs.into_iter().map(|run| (run.clone(), cluster.witness.wait_word(&run, "start").place)).collect()
}

fn on<'a>(runs: &'a [(String, String)], worker: &str) -> Vec<&'a str> {
    let here: Vec<&str> = runs.iter().filter(|(_, place)| place == worker).map(|(run, _)| run.as_str()).collect();
    assert!(!here.is_empty(), "{worker} has none: {runs:?}");
    here
}

fn row(cluster: &Cluster, run: &str) -> Row {
    Row::read(&cluster.api().get(&format!("/runs/{run}")).expect(200))
}

fn lines_of(cluster: &Cluster, run: &str) -> Vec<Line> {
    cluster.witness.lines().into_iter().filter(|line| line.run == run).collect()
}

#[track_caller]
fn cancel(cluster: &Cluster, runs: &[(String, String)]) {
    for (run, _) in runs {
        cluster.api().call("POST", &format!("/runs/{run}/cancel"), &[], None).expect(202);
    }
}

#[test]
fn a_killed_worker_that_is_restarted_starts_nothing_twice_and_only_what_ran_is_lost() {
    let mut cluster = Cluster::start();
    let mut work = Work::start(&cluster);
    wait_until_ms(now_ms() + QUIET_MS);
    let mut deaths = Vec::new();
    for away_ms in [0, 1_500, 4_000] {
        deaths.push(now_ms());
        cluster.worker("worker-1").kill();
        wait_until_ms(now_ms() + away_ms);
        cluster.worker("worker-1").start();
        cluster.wait_ready();
        wait_until_ms(now_ms() + QUIET_MS);
    }
    let verdict = work.finish(&cluster);
    verdict.check_fates(&work, |state, reason| (state, reason) == ("lost", "worker_restarted"));
    for row in verdict.rows.iter().filter(|row| row.state == "lost") {
        assert_eq!(row.worker, "worker-1", "the other one did not die: {row:?}");
        assert!(deaths.iter().any(|death| (death - 6_000..death + 100).contains(&row.at_ms)), "nothing died then: {row:?}");
    }
    // Who was through before it died, well before, was through.
    for line in verdict.lines.iter().filter(|line| line.word == "end") {
        let is_near = deaths.iter().any(|death| (line.clock_ms - 500..line.clock_ms + 1_500).contains(death));
        let row = verdict.rows.iter().find(|row| row.id == line.run).expect("a row");
        assert!(is_near || row.state != "lost", "{row:?} {line:?}");
    }
}

#[test]
fn a_worker_that_stays_away_costs_its_runs_only_after_they_are_surely_dead() {
    let mut cluster = Cluster::start();
    let api = cluster.api();
    let mut work = Work::default();
    work.add(&cluster, "tick", 1, "w end", json!({}));
    let long = |name: &str, more: Value| {
        let mut job = json!({"name": name, "schedule": "0 0 1 1 *", "catch_up": "none", "command": cluster.witness.command(ALIVE)});
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        api.put(job)
    };
    let retried = long("retried", json!({"on_worker_lost": "retry", "kill_grace_s": 1}));
    let waiting = long("waiting", json!({}));
    let given_up = long("given-up", json!({"lost_after_s": 20}));
    let [retried_runs, waiting_runs, given_up_runs] = [&retried, &waiting, &given_up].map(|job| ask(&cluster, job));
    wait_until_ms(now_ms() + QUIET_MS);

    let died_ms = now_ms();
    cluster.worker("worker-1").kill();
    for run in on(&waiting_runs, "worker-1") {
        eventually("it is unreachable", || (row(&cluster, run).state == "unreachable").then_some(()));
    }
    // Another attempt elsewhere, after the last sign of life of the first.
    for run in on(&retried_runs, "worker-1") {
        let second = eventually("a second attempt runs", || {
            let rows = api.runs_of(&retried).into_iter().find(|row| row.retry_of.as_deref() == Some(run));
            rows.filter(|row| row.state == "running")
        });
        assert_eq!((second.attempt, second.worker.as_str(), second.trigger.as_str()), (2, "worker-2", "retry"));
        let first = row(&cluster, run);
        assert_eq!(first.state, "lost", "{first:?}");
        let last_sign = lines_of(&cluster, run).pop().expect("it ran").clock_ms;
        let began = cluster.witness.wait_word(&second.id, "start").clock_ms;
        assert!(last_sign < began, "the first was alive at {last_sign}, and the second began at {began}");
    }
    for run in on(&given_up_runs, "worker-1") {
        let lost = eventually("it is given up", || Some(row(&cluster, run)).filter(|row| row.state == "lost"));
        assert!(now_ms() >= died_ms + 18_500, "too early: {lost:?}");
    }
    for run in on(&waiting_runs, "worker-1") {
        assert_eq!(row(&cluster, run).state, "unreachable", "nobody guesses about it");
        let after = lines_of(&cluster, run).into_iter().filter(|line| line.clock_ms > died_ms + 2_000).count();
        assert_eq!(after, 0, "the guardian ended it");
    }
    for (run, _) in retried_runs.iter().chain(&waiting_runs).filter(|(_, place)| place == "worker-2") {
        assert_eq!(row(&cluster, run).state, "running", "the other worker's runs are nobody's business");
    }

    // It comes back, and tells what became of them.
    cluster.worker("worker-1").start();
    cluster.wait_ready();
    for run in on(&waiting_runs, "worker-1") {
        let ended = api.wait_ended(run);
        assert_eq!((ended.state.as_str(), ended.reason.as_str()), ("lost", "worker_restarted"));
    }
    for job in [&retried, &waiting, &given_up] {
        for row in api.runs_of(job).iter().filter(|row| !row.is_final()) {
            api.call("POST", &format!("/runs/{}/cancel", row.id), &[], None);
        }
    }
    let verdict = work.finish_beside(&cluster, &[&retried, &waiting, &given_up]);
    // What may have started when the worker died waited for it.
    verdict.check_fates(&work, |state, reason| (state, reason) == ("lost", "worker_restarted"));
    for job in [&retried, &waiting, &given_up] {
        let story = Story::of(job, &verdict.rows, &verdict.lines);
        let first_attempts = story.lines.iter().filter(|line| line.word == "start" && line.attempt == 1).count();
        assert_eq!(first_attempts, RUNS, "nothing was started twice");
    }
}

/// What stands still past its lease, and comes back: the worker's process alone, or its guardian too.
fn past_its_lease(is_all: bool) {
    let mut cluster = Cluster::start();
    let api = cluster.api();
    let mut work = Work::default();
    for number in 1..=3 {
        work.add(&cluster, &format!("tick-{number}"), 1, "w end", json!({}));
    }
    let long = |name: &str, more: Value| {
        let command = cluster.witness.command(ALIVE_FOR_25_S);
        let mut job = json!({"name": name, "schedule": "0 0 1 1 *", "catch_up": "none", "command": command, "kill_grace_s": 1});
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        api.put(job)
    };
    let waiting = long("waiting", json!({}));
    let retried = long("retried", json!({"on_worker_lost": "retry"}));
    let [waiting_runs, retried_runs] = [&waiting, &retried].map(|job| ask(&cluster, job));
    let sessions = |cluster: &Cluster| {
        let joined = |line: &&String| line.contains("worker worker-1 has joined");
        cluster.controllers.values().map(|node| node.log().iter().filter(joined).count()).sum::<usize>()
    };
    let sessions_before = sessions(&cluster);

    let froze_ms = now_ms();
    if is_all {
        cluster.worker("worker-1").freeze_all()
    } else {
        cluster.worker("worker-1").freeze()
    }
    for run in on(&waiting_runs, "worker-1") {
        eventually("it is unreachable", || (row(&cluster, run).state == "unreachable").then_some(()));
    }
    wait_until_ms(froze_ms + LAPSE_MS);
    let log_at = cluster.workers["worker-1"].log_end();
    let thawed_ms = now_ms();
    cluster.worker("worker-1").thaw();
    cluster.wait_ready();
    // The other worker is ready all along.
    eventually("it opens a new session", || (sessions(&cluster) > sessions_before).then_some(()));

    // What went on is adopted, and ends as it does.
    for (run, _) in &waiting_runs {
        assert_eq!(api.wait_ended(run).state, "succeeded");
    }
    for run in on(&retried_runs, "worker-1") {
        assert_eq!(api.wait_ended(run).state, "lost", "its lease had run out");
        let second = eventually("another attempt ends", || {
            let rows = api.runs_of(&retried);
            rows.into_iter().find(|row| row.retry_of.as_deref() == Some(run)).filter(|row| row.state == "succeeded")
        });
        let last_sign = lines_of(&cluster, run).pop().expect("it ran").clock_ms;
        let began = cluster.witness.wait_word(&second.id, "start").clock_ms;
        // Where the fence itself stood still, attempts may overlap (PROTOCOL, "Not guaranteed").
        assert!(is_all || last_sign < began, "the first was alive at {last_sign}, and the second began at {began}");
    }
    let verdict = work.finish_beside(&cluster, &[&waiting, &retried]);
    verdict.check_undisturbed(&work);
    // It started nothing that it had not been given anew.
    let log = cluster.workers["worker-1"].log_from(log_at);
    let staged: BTreeSet<&str> = log.iter().filter_map(|line| line.split_once("staged run ")?.1.split(' ').next()).collect();
    let late = verdict.lines.iter().filter(|line| line.word == "start" && line.place == "worker-1" && line.clock_ms > thawed_ms);
    for line in late {
        assert!(staged.contains(line.run.as_str()), "it was taken in before the pause: {line:?}");
    }
}

#[test]
fn a_worker_that_stood_still_past_its_lease_starts_nothing_late_and_adopts_what_runs() {
    past_its_lease(false);
}

#[test]
fn a_machine_that_stood_still_past_its_lease_starts_nothing_late_and_adopts_what_runs() {
    past_its_lease(true);
}

#[test]
fn a_worker_that_is_asked_to_stop_drains() {
    let mut cluster = Cluster::start_with(Options { worker_flags: &["--drain-s", "6"], ..Options::default() });
    let mut work = Work::default();
    for number in 1..=3 {
        work.add(&cluster, &format!("tick-{number}"), 1, "w end", json!({}));
    }
    let api = cluster.api();
    let quick = api.create_manual("quick", &cluster.witness.command("sleep 4; w end"));
    let slow = api.create_manual("slow", &cluster.witness.command(ALIVE));
    let slow_runs = ask(&cluster, &slow);
    let quick_runs = ask(&cluster, &quick);
    cluster.worker("worker-1").signal(Signal::TERM);
    cluster.wait_worker_state("worker-1", "draining");
    let draining_ms = now_ms();
    let ended = cluster.worker("worker-1").wait_exit();
    assert_eq!(ended.code(), Some(0), "{}", cluster.workers["worker-1"].tail());
    let ended_ms = now_ms();
    for (run, _) in &quick_runs {
        assert_eq!(api.wait_ended(run).state, "succeeded");
    }
    for run in on(&slow_runs, "worker-1") {
        let row = api.wait_ended(run);
        assert_eq!((row.state.as_str(), row.reason.as_str()), ("cancelled", "drained"));
    }
    // While it drained and when it was gone, the other one did the work, in time.
    wait_until_ms(ended_ms + QUIET_MS);
    let started = cluster.witness.lines().into_iter().filter(|line| line.word == "start" && line.at_ms > draining_ms + 2_500);
    let places: BTreeSet<String> = started.map(|line| line.place).collect();
    assert_eq!(places, BTreeSet::from(["worker-2".to_owned()]));
    let back_ms = now_ms();
    cluster.worker("worker-1").start();
    cluster.wait_ready();
    cancel(&cluster, &slow_runs.into_iter().filter(|(_, place)| place == "worker-2").collect::<Vec<_>>());
    wait_until_ms(ended_ms + 6_000);
    let verdict = work.finish_beside(&cluster, &[&quick, &slow]);
    verdict.check_undisturbed(&work);
    // What it had been given and did not start went to the other one at once, not when it came back.
    let waited: Vec<_> =
        verdict.rows.iter().filter(|row| row.at_ms < ended_ms && row.worker == "worker-2").map(|row| row.id.clone()).collect();
    let late = |line: &&Line| line.word == "start" && waited.contains(&line.run) && line.at_ms < ended_ms && line.clock_ms >= back_ms;
    assert_eq!(verdict.lines.iter().find(late), None);
    verdict.check_staged_ahead(&cluster, &work, ended_ms + 2_500, ended_ms + 5_500);
}

#[test]
fn a_worker_that_leaves_for_good_takes_no_fire_with_it() {
    let mut cluster = Cluster::start();
    let mut work = Work::default();
    for number in 1..=5 {
        work.add(&cluster, &format!("tick-{number}"), 1, "w end", json!({}));
    }
    cluster.witness.wait_starts(&work.jobs[4].value, 2);
    cluster.worker("worker-1").signal(Signal::TERM);
    let ended = cluster.worker("worker-1").wait_exit();
    assert_eq!(ended.code(), Some(0), "{}", cluster.workers["worker-1"].tail());
    let left_ms = now_ms();
    // Its session is over by its own word, without a wait for the lease.
    cluster.wait_worker_state("worker-1", "unreachable");
    assert!(now_ms() < left_ms + LAPSE_MS - 2_000, "that took as long as the lease");
    wait_until_ms(left_ms + QUIET_MS);
    let verdict = work.finish(&cluster);
    verdict.check_undisturbed(&work);
    let is_its = |line: &&Line| line.place == "worker-1" && line.at_ms > left_ms;
    assert_eq!(verdict.lines.iter().find(is_its), None);
}

#[test]
fn a_second_worker_of_the_same_name_waits_until_the_first_is_surely_gone() {
    let mut cluster = Cluster::start_with(Options { workers: 1, ..Options::default() });
    let mut work = Work::default();
    for number in 1..=3 {
        work.add(&cluster, &format!("tick-{number}"), 1, "w end", json!({"lost_after_s": 16}));
    }
    cluster.witness.wait_starts(&work.jobs[0].value, 2);
    let twin = cluster.prepare_worker(2);
    twin.set_flag("--node-id", "worker-1");
    twin.start();
    let mut twin = cluster.workers.remove("worker-2").expect("just made");
    wait_until_ms(now_ms() + QUIET_MS);
    assert!(!twin.has_exited(), "it waits:\n{}", twin.tail());
    let died_ms = now_ms();
    cluster.worker("worker-1").kill();
    let of_twin = |cluster: &Cluster| cluster.witness.lines().into_iter().find(|line| line.place == "worker-2");
    let first = eventually("the second one gets work", || of_twin(&cluster));
    // The lease is counted from when the last heartbeat was sent.
    assert!(first.clock_ms >= died_ms + 13_000, "too early: {first:?}");
    wait_until_ms(now_ms() + QUIET_MS);
    let verdict = work.finish(&cluster);
    // What the first one held and may have started is lost with its proof; everything else ran, late.
    verdict.check_fates(&work, |state, reason| (state, reason) == ("lost", "worker_lost"));
    for row in verdict.rows.iter().filter(|row| row.state == "lost") {
        assert!((died_ms - 2_000..died_ms + 6_000).contains(&row.at_ms), "the first one can't have started it: {row:?}");
    }
}
