//! The wall clock of one node is set an hour ahead or back.

use serde_json::{Value, json};

use crate::api::Api;
use crate::clock::Clock;
use crate::cluster::{Cluster, Options};
use crate::wait::{eventually, now_ms, wait_until_ms};
use crate::work::Work;

const QUIET_MS: i64 = 2_500;
const HOUR_S: i64 = 3_600;
/// A session is over 15.45 s after its last heartbeat, and they come every second.
const BEFORE_LAPSE_MS: i64 = 14_400;

fn rest(ms: i64) {
    wait_until_ms(now_ms() + ms);
}

/// Waits until a controller says of its clock that it is bad, or good.
#[track_caller]
fn wait_clock(cluster: &Cluster, id: u64, is_good: bool) {
    let api = Api::any_of(&[cluster.http_address(id)]);
    eventually(&format!("controller {id} says whether its clock is good: {is_good}"), || {
        let answer = api.try_call("GET", "/readyz", &[], None).ok()?;
        let reason = if answer.status == 503 { answer.json()["reasons"]["clock"].clone() } else { Value::Null };
        (reason.is_null() == is_good).then_some(())
    });
}

/// All three controllers have clocks that can be set.
fn start() -> Option<(Vec<Clock>, Cluster)> {
    let mut cluster = Cluster::prepare(Options::default());
    let clocks = cluster.controllers.values_mut().map(Clock::give).collect::<Option<Vec<_>>>()?;
    cluster.start_all();
    cluster.wait_ready();
    Some((clocks, cluster))
}

#[track_caller]
fn check_makes_no_job(cluster: &Cluster, id: u64) {
    let refused = cluster.api_of(id).call("POST", "/jobs", &[], Some(&daily_job()));
    assert!(refused.status == 503 && refused.text.contains("clock"), "{} {}", refused.status, refused.text);
}

/// The leader dies, and comes back: meanwhile the third one decides, not the one whose clock is bad.
#[track_caller]
fn loses_leader(cluster: &mut Cluster, work: &Work, leader: u64, bad: u64) {
    cluster.controller(leader).kill();
    eventually("the one whose clock is good leads", || (cluster.leader() == Some(6 - leader - bad)).then_some(()));
    let starts = cluster.witness.starts_of(&work.jobs[0].value).len();
    cluster.witness.wait_starts(&work.jobs[0].value, starts + 4);
    cluster.controller(leader).start();
}

#[track_caller]
fn set_right(cluster: &Cluster, clocks: &[Clock], bad: u64) {
    clocks[bad as usize - 1].set(0);
    wait_clock(cluster, bad, true);
    cluster.wait_ready();
}

/// What it would date into the future, or the past.
fn daily_job() -> String {
    json!({"name": "misdated", "schedule": "@daily", "command": "true"}).to_string()
}

#[test]
fn a_leader_whose_clock_is_set_hands_over_and_decides_nothing_as_a_follower_whose_leader_dies() {
    let Some((clocks, mut cluster)) = start() else { return };
    let mut work = Work::start(&cluster);
    rest(QUIET_MS);
    for ahead_s in [HOUR_S, -HOUR_S] {
        let bad = cluster.wait_leader();
        eprintln!("the clock of controller {bad}, which leads, is set by {ahead_s} s");
        clocks[bad as usize - 1].set(ahead_s);
        // A job that it would date into the future, or the past, is not made there: not even before it has looked at its clock.
        check_makes_no_job(&cluster, bad);
        let leader = cluster.wait_leader_but(Some(bad));
        wait_clock(&cluster, bad, false);
        check_makes_no_job(&cluster, bad);
        rest(QUIET_MS);
        // Of the two that are left, the workers say who is right; if the other one is elected, it hands over.
        loses_leader(&mut cluster, &work, leader, bad);
        set_right(&cluster, &clocks, bad);
    }
    rest(QUIET_MS);
    work.finish(&cluster).check_undisturbed(&work);
}

#[test]
fn a_controller_that_starts_by_a_wrong_clock_makes_no_job_and_decides_nothing() {
    let Some((clocks, mut cluster)) = start() else { return };
    let mut work = Work::start(&cluster);
    rest(QUIET_MS);
    for ahead_s in [HOUR_S, -HOUR_S] {
        let leader = cluster.wait_leader();
        let wrong = leader % 3 + 1;
        eprintln!("controller {wrong} is started again by a clock that is {ahead_s} s ahead");
        cluster.controller(wrong).kill();
        clocks[wrong as usize - 1].set(ahead_s);
        cluster.controller(wrong).start();
        // Not even before it has heard another one.
        let api = Api::any_of(&[cluster.http_address(wrong)]);
        let (mut refusals, until_ms) = (0, now_ms() + 3_000);
        while now_ms() < until_ms {
            if let Ok(answer) = api.try_call("POST", "/jobs", &[], Some(&daily_job())) {
                assert_eq!(answer.status, 503, "{}", answer.text);
                refusals += usize::from(answer.text.contains("clock"));
            }
        }
        assert!(refusals > 0, "it has not said once what is wrong");
        loses_leader(&mut cluster, &work, leader, wrong);
        set_right(&cluster, &clocks, wrong);
    }
    rest(QUIET_MS);
    work.finish(&cluster).check_undisturbed(&work);
}

#[test]
fn a_worker_whose_clock_is_set_gets_no_work_and_starts_what_it_has_in_time() {
    let mut cluster = Cluster::prepare(Options::default());
    let Some(clock) = Clock::give(cluster.worker("worker-1")) else { return };
    cluster.start_all();
    cluster.wait_ready();
    let mut work = Work::start(&cluster);
    rest(QUIET_MS);
    let api = cluster.api();
    let fails_once = cluster.witness.command("sleep 4; w end; [ $CHRONO_FLOW_ATTEMPT = 2 ]");
    let retry = json!({"max_attempts": 2, "backoff_s": 1});
    let retried = api.put(json!({"name": "retried", "schedule": "0 0 1 1 *", "command": fails_once, "catch_up": "none", "retry": retry}));
    for (round, ahead_s) in [HOUR_S, -HOUR_S].into_iter().enumerate() {
        let runs: Vec<String> = (0..4).map(|key| api.run_now(&retried, Some(&format!("{round} {key}")))["id"].to_string()).collect();
        for run in &runs {
            cluster.witness.wait_word(run.trim_matches('"'), "start");
        }
        clock.set(ahead_s);
        eventually("it is not ready for work", || {
            let leader = cluster.leader()?;
            (cluster.worker_state(leader, "worker-1").is_some_and(|state| state != "ready")).then_some(())
        });
        let off_ms = now_ms();
        // Whatever time it says that they failed at, their next attempts are due in a second.
        eventually("second attempts end", || {
            let ended = api.runs_of(&retried).into_iter().filter(|row| row.attempt == 2 && row.state == "succeeded").count();
            (ended == (round + 1) * runs.len()).then_some(())
        });
        clock.set(0);
        let set_back_ms = now_ms();
        cluster.wait_ready();
        rest(QUIET_MS);
        // What was decided when it was known has gone to the other one.
        let lines = cluster.witness.lines();
        let late = lines
            .iter()
            .find(|line| line.word == "start" && line.place == "worker-1" && (off_ms + 3_000..set_back_ms).contains(&line.at_ms));
        assert_eq!(late, None, "it got work");
    }
    let verdict = work.finish_beside(&cluster, &[&retried]);
    verdict.check_undisturbed(&work);
    let places = |from_ms: i64| verdict.lines.iter().filter(move |line| line.at_ms > from_ms).map(|line| line.place.as_str());
    assert!(places(now_ms() - QUIET_MS - 10_000).any(|place| place == "worker-1"), "it has work again");
}

#[test]
fn what_a_silence_proves_is_not_judged_by_a_clock_that_was_set() {
    let Some((clocks, mut cluster)) = start() else { return };
    let api = cluster.api();
    let mut work = Work::default();
    for number in 1..=3 {
        work.add(&cluster, &format!("tick-{number}"), 1, "w end", json!({}));
    }
    let long = api.create_manual("long", &cluster.witness.command("sleep 25; w end"));
    let runs: Vec<String> =
        (0..6).map(|key| api.run_now(&long, Some(&key.to_string()))["id"].as_str().expect("an id").to_owned()).collect();
    for run in &runs {
        cluster.witness.wait_word(run, "start");
    }
    let froze_ms = now_ms();
    cluster.worker("worker-1").freeze();
    // Its lease is about to be over when the leader's clock says that nothing of what it was given was due yet.
    wait_until_ms(froze_ms + BEFORE_LAPSE_MS);
    let bad = cluster.wait_leader();
    clocks[bad as usize - 1].set(-HOUR_S);
    cluster.wait_leader_but(Some(bad));
    clocks[bad as usize - 1].set(0);
    cluster.worker("worker-1").thaw();
    for run in &runs {
        assert_eq!(api.wait_ended(run).state, "succeeded");
    }
    wait_clock(&cluster, bad, true);
    cluster.wait_ready();
    // None of them was started a second time.
    work.finish_beside(&cluster, &[&long]).check_undisturbed(&work);
}
