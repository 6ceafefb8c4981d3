//! Promises about what is on disk, and about many callers at once.

use std::any::type_name;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use chrono_flow::model::{ClusterId, JobId, RunState};
use chrono_flow::store::{JobFilter, RecordBatch, RunFilter, RunRecord, Store, StoreError};
use uuid::Uuid;

use super::{Harness, NOON, open_fresh, record, reopen, run, run_id, spec};

/// Tells a child process which harness is meant and where the store is.
const LOCATION_VARIABLE: &str = "CHRONO_FLOW_TEST_STORE";
/// Writes that a child does at most, should nobody kill it.
const CHILD_WRITES_MAX: u64 = 5_000;
/// Acknowledgements after which the child is killed.
const ACKNOWLEDGED_MIN: usize = 200;

/// The child: eight tasks that write, each printing a line for what was acknowledged.
pub fn child<H: Harness>() {
    let Ok(wanted) = std::env::var(LOCATION_VARIABLE) else { return };
    let Some(location) = wanted.strip_prefix(type_name::<H>()) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = H::at(location.trim_start()).open().await;
        let tasks: Vec<_> = (0..8).map(|task| tokio::spawn(write_and_tell(store.clone(), task))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

async fn write_and_tell(store: std::sync::Arc<impl Store>, task: u64) {
    for number in (task..CHILD_WRITES_MAX).step_by(8) {
        let line = if number.is_multiple_of(2) {
            let job = store.create_job(spec(&format!("job {number}")), NOON).await.unwrap().job;
            format!("\nacknowledged job {} {}\n", job.id, job.change_seq)
        } else {
            record(&*store, 1, &[run(number, JobId(1), NOON, RunState::Succeeded)]).await;
            format!("\nacknowledged run {number}\n")
        };
        std::io::stdout().write_all(line.as_bytes()).unwrap(); // one write a line, so that a kill cuts none in half
    }
}

pub async fn what_was_acknowledged_survives_kill_9<H: Harness>() {
    let harness = H::fresh();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child_that_writes_until_it_is_killed", "--ignored", "--nocapture"])
        .env(LOCATION_VARIABLE, format!("{} {}", type_name::<H>(), harness.location()))
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        acknowledged.extend(line.unwrap().strip_prefix("acknowledged ").map(str::to_owned));
        if acknowledged.len() == ACKNOWLEDGED_MIN {
            child.kill().unwrap(); // SIGKILL; what it printed before is still read
        }
    }
    child.wait().unwrap();
    assert!((ACKNOWLEDGED_MIN..CHILD_WRITES_MAX as usize).contains(&acknowledged.len()), "{} lines", acknowledged.len());

    let store = harness.open().await;
    for line in &acknowledged {
        let words: Vec<&str> = line.split(' ').collect();
        let number: u64 = words[1].parse().unwrap();
        if words[0] == "job" {
            let job = store.job(JobId(number as i64)).await.unwrap().unwrap_or_else(|| panic!("lost: {line}"));
            assert_eq!(job.change_seq.to_string(), words[2]);
        } else {
            assert!(store.run(run_id(number)).await.unwrap().is_some(), "lost: {line}");
        }
    }
    let jobs = store.jobs(&JobFilter::default(), None, 10_000).await.unwrap();
    assert_eq!(store.change_seq().await, Ok(jobs.total), "what was not acknowledged is there whole, or not at all");
    assert_eq!(store.create_job(spec("next"), NOON).await.unwrap().job.id, JobId(jobs.total as i64 + 1));
}

pub async fn a_store_belongs_to_one_cluster<H: Harness>() {
    let (harness, store) = open_fresh::<H>().await;
    let (ours, theirs) = (ClusterId(Uuid::from_u128(7)), ClusterId(Uuid::from_u128(8)));
    assert_eq!(store.cluster().await, Ok(None));
    assert_eq!(store.bind_cluster(ours).await, Ok(()));
    let store = reopen(&harness, store).await;
    assert_eq!(store.bind_cluster(ours).await, Ok(()));
    let Err(StoreError::Refused(why)) = store.bind_cluster(theirs).await else { panic!("must be refused") };
    assert!(why.contains(&ours.to_string()) && why.contains(&theirs.to_string()), "{why}");
    assert_eq!(store.cluster().await, Ok(Some(ours)));
}

pub async fn a_check_changes_nothing<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    store.create_job(spec("job"), NOON).await.unwrap();
    let before = store.jobs(&JobFilter::default(), None, 10).await.unwrap();
    for _ in 0..3 {
        assert_eq!(store.check().await, Ok(()));
    }
    assert_eq!(store.jobs(&JobFilter::default(), None, 10).await.unwrap(), before);
    assert_eq!(store.change_seq().await, Ok(1));
}

/// What a reader sees is always whole: a batch is there with all its rows or with none.
pub async fn readers_and_writers_run_side_by_side<H: Harness>() {
    const BATCH_ROWS: usize = 25;
    let (_harness, store) = open_fresh::<H>().await;
    let writers: Vec<_> = (0..4u64)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for batch in 0..10u64 {
                    let number = |index: usize| (writer * 10 + batch) * BATCH_ROWS as u64 + index as u64;
                    let runs = (0..BATCH_ROWS).map(|index| run(number(index), JobId(writer as i64), NOON, RunState::Succeeded));
                    let runs = runs.map(|run| RunRecord { ledger_index: 1, run }).collect();
                    assert_eq!(store.record(RecordBatch { runs, output: Vec::new() }).await, Ok(Vec::new()));
                    store.create_job(spec(&format!("job {writer} {batch}")), NOON).await.unwrap();
                }
            })
        })
        .collect();
    while !writers.iter().all(|writer| writer.is_finished()) {
        let seen = store.runs(&RunFilter::default(), None, 10_000).await.unwrap().len();
        assert_eq!(seen % BATCH_ROWS, 0);
        let jobs = store.jobs(&JobFilter::default(), None, 10_000).await.unwrap();
        assert_eq!(jobs.total as usize, jobs.jobs.len());
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(store.runs(&RunFilter::default(), None, 10_000).await.unwrap().len(), 4 * 10 * BATCH_ROWS);
    assert_eq!(store.change_seq().await, Ok(40));
}
