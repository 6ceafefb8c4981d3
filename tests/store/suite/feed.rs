//! Promises about the feed of changes to jobs (PROTOCOL A1 to A4).

use std::collections::BTreeMap;

use chrono_flow::model::{JobId, JobSpec};
use chrono_flow::store::{Change, ChangeKind, JobFilter, Store};

use super::{Dice, Harness, NOON, open_fresh, reopen, spec};

/// A change in short: `+` or `-`, job and revision.
fn short(change: &Change) -> String {
    match &change.kind {
        ChangeKind::Put(job) => {
            assert_eq!(job.change_seq, change.seq);
            format!("+{}r{}", job.id, job.revision)
        }
        ChangeKind::Drop { id, revision, .. } => format!("-{id}r{revision}"),
    }
}

async fn all_changes(store: &impl Store, after: u64) -> Vec<String> {
    store.changes(after, 1_000).await.unwrap().iter().map(short).collect()
}

/// Makes random changes to jobs of eight names; answers the numbers that they got.
async fn churn(store: &impl Store, seed: u64, edits: u32) -> Vec<u64> {
    let mut dice = Dice(seed);
    let mut seqs = Vec::new();
    for edit in 0..edits {
        let name = format!("job {}", dice.below(8));
        if dice.below(4) > 0 {
            let spec = JobSpec::new(&name, "* * * * *", &format!("echo {seed} {edit}"));
            let written = store.put_job_by_name(None, spec, NOON).await.unwrap();
            assert!(written.is_changed);
            seqs.push(written.job.change_seq);
        } else if let Some(job) = store.job_by_name(&name).await.unwrap() {
            seqs.extend(store.delete_job(job.id, None, NOON).await.ok()); // another may have deleted it
        }
    }
    seqs
}

pub async fn the_feed_is_dense_and_in_the_order_of_commits<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    let writers: Vec<_> = (1..=8)
        .map(|seed| {
            let store = store.clone();
            tokio::spawn(async move { churn(&*store, seed, 25).await })
        })
        .collect();
    let mut seqs = Vec::new();
    for writer in writers {
        let of_one = writer.await.unwrap();
        assert!(of_one.is_sorted(), "one writer's numbers grow: each was committed before the next began");
        seqs.extend(of_one);
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "each number once, and none left out");
    assert_eq!(store.change_seq().await, Ok(seqs.len() as u64));
    let feed = store.changes(0, 1_000).await.unwrap();
    assert!(feed.is_sorted_by(|one, next| one.seq < next.seq));
}

/// A number that became visible after a greater one would be passed over by a follower: it goes on from the greatest that it has seen.
pub async fn who_follows_the_feed_misses_nothing<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    let writers: Vec<_> = (1..=8)
        .map(|seed| {
            let store = store.clone();
            tokio::spawn(async move { churn(&*store, seed, 25).await })
        })
        .collect();
    let (mut followed, mut position) = (BTreeMap::new(), 0);
    loop {
        let is_last = writers.iter().all(|writer| writer.is_finished());
        loop {
            let changes = store.changes(position, 7).await.unwrap();
            let Some(newest) = changes.last() else { break };
            position = newest.seq;
            for change in changes {
                match change.kind {
                    ChangeKind::Put(job) => followed.insert(job.id, *job),
                    ChangeKind::Drop { id, .. } => followed.remove(&id),
                };
            }
        }
        if is_last {
            break;
        }
    }
    let jobs = store.jobs(&JobFilter::default(), None, 1_000).await.unwrap().jobs;
    assert_eq!(followed.into_values().collect::<Vec<_>>(), jobs);
    for writer in writers {
        writer.await.unwrap();
    }
}

pub async fn the_feed_keeps_only_the_latest_change_of_a_job<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    for name in ["one", "two", "three"] {
        store.create_job(spec(name), NOON).await.unwrap();
    }
    assert_eq!(all_changes(&*store, 0).await, ["+1r1", "+2r1", "+3r1"]);
    store.replace_job(JobId(1), None, JobSpec { is_enabled: false, ..spec("one") }, NOON).await.unwrap();
    assert_eq!(all_changes(&*store, 0).await, ["+2r1", "+3r1", "+1r2"]);
    store.delete_job(JobId(2), None, NOON).await.unwrap();
    assert_eq!(all_changes(&*store, 0).await, ["+3r1", "+1r2", "-2r2"]);
    assert_eq!(all_changes(&*store, 4).await, ["-2r2"]);
    assert_eq!(all_changes(&*store, 5).await, [""; 0]);
    assert_eq!(all_changes(&*store, u64::MAX).await, [""; 0]);
    assert_eq!(store.changes(0, 2).await.unwrap().iter().map(short).collect::<Vec<_>>(), ["+3r1", "+1r2"]);
}

pub async fn tombstones_stay_until_the_feed_has_passed_them<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    for (number, name) in ["one", "two", "three", "four"].into_iter().enumerate() {
        let id = store.create_job(spec(name), NOON).await.unwrap().job.id;
        if number < 3 {
            store.delete_job(id, None, NOON + number as i64).await.unwrap(); // numbers 2, 4 and 6
        }
    }
    assert_eq!(store.prune_tombstones(1, NOON + 100).await, Ok(0), "the feed is not there yet");
    assert_eq!(store.prune_tombstones(4, NOON).await, Ok(0), "not old enough");
    assert_eq!(store.prune_tombstones(4, NOON + 100).await, Ok(2));
    assert_eq!(all_changes(&*store, 0).await, ["-3r2", "+4r1"]);
    assert_eq!(store.prune_tombstones(u64::MAX, NOON + 100).await, Ok(1));
    assert_eq!(all_changes(&*store, 0).await, ["+4r1"], "what is no tombstone stays");
}

pub async fn the_signal_turns_with_each_change<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    let mut signal = store.change_signal();
    assert_eq!(*signal.borrow_and_update(), 0);
    let id = store.create_job(spec("job"), NOON).await.unwrap().job.id;
    assert_eq!(*signal.wait_for(|seq| *seq >= 1).await.unwrap(), 1);
    store.delete_job(id, None, NOON).await.unwrap();
    assert_eq!(*signal.wait_for(|seq| *seq >= 2).await.unwrap(), 2);
}

pub async fn the_feed_goes_on_after_a_restart<H: Harness>() {
    let (harness, store) = open_fresh::<H>().await;
    let id = store.create_job(spec("job"), NOON).await.unwrap().job.id;
    let seq = store.delete_job(id, None, NOON).await.unwrap();
    store.prune_tombstones(seq, NOON + 1).await.unwrap();
    let store = reopen(&harness, store).await;
    assert_eq!(store.change_seq().await, Ok(2));
    assert_eq!(*store.change_signal().borrow(), 2);
    assert_eq!(store.create_job(spec("job"), NOON).await.unwrap().job.change_seq, 3);
}
