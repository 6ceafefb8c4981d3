//! Edits, pauses and deletions at any moment: each instant belongs to one revision, and what was taken back never starts.

use serde_json::json;

use crate::cluster::Cluster;
use crate::random::{OnPanic, Random, seeds};
use crate::wait::{eventually, now_ms, wait_until_ms};
use crate::work::{Work, says_revision};

const CHANGES: u64 = 60;

#[test]
fn changes_at_random_moments_lose_no_instant_and_double_none() {
    let seed = seeds(1).next().expect("a seed");
    let _named = OnPanic(seed);
    let mut random = Random(seed);
    let cluster = Cluster::start();
    let mut work = Work::default();
    for number in 1..=4 {
        work.add(&cluster, &format!("edited-{number}"), 1, &says_revision(1), json!({}));
    }
    for number in 1..=2 {
        work.add(&cluster, &format!("paused-{number}"), 1, "w end", json!({}));
    }
    let mut is_paused = [false; 2];
    for change in 0..CHANGES {
        // Whichever controller is asked.
        let api = cluster.api_of(1 + random.below(3));
        match random.below(10) {
            0..6 => work.jobs[random.below(4) as usize].edit(&api, &cluster),
            6..9 => {
                let which = random.below(2) as usize;
                let job = &mut work.jobs[4 + which];
                if is_paused[which] {
                    job.resume(&api)
                } else {
                    job.pause(&api)
                }
                is_paused[which] = !is_paused[which];
            }
            _ => {
                let job = work.add_by(&api, &cluster, &format!("deleted-{change}"), 1, "w end", json!({}));
                wait_until_ms(now_ms() + random.below(4_000) as i64);
                job.delete(&api);
            }
        }
        wait_until_ms(now_ms() + random.below(500) as i64);
    }
    work.finish(&cluster).check_undisturbed(&work);
}

#[test]
fn while_a_worker_cannot_be_asked_the_answer_says_what_may_still_start() {
    let mut cluster = Cluster::start();
    let mut work = Work::default();
    for number in 1..=4 {
        work.add(&cluster, &format!("tick-{number}"), 1, "w end", json!({}));
    }
    cluster.witness.wait_starts(&work.jobs[3].value, 4);
    cluster.worker("worker-1").freeze();
    let api = cluster.api();
    let pending: Vec<u64> = work
        .jobs
        .iter()
        .map(|job| {
            let answer = api.patch(&job.value, json!({"description": "edited while a worker stands still"}));
            answer["pending_revocations"].as_u64().unwrap_or(0)
        })
        .collect();
    assert!(pending.iter().any(|count| *count > 0), "worker-1 had something of them, and could not be asked: {pending:?}");
    cluster.worker("worker-1").thaw();
    for job in &mut work.jobs {
        let path = format!("/jobs/{}", job.id());
        eventually("nothing is pending", || (api.get(&path).expect(200)["pending_revocations"].as_u64().unwrap_or(0) == 0).then_some(()));
        job.value["revision"] = json!(2);
    }
    wait_until_ms(now_ms() + 3_000);
    work.finish(&cluster).check_undisturbed(&work);
}
