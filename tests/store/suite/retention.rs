//! Promises about what is removed from history, and what is not.

use chrono_flow::model::{JobId, RunId, RunState, Stream};
use chrono_flow::store::{Retention, RunFilter, Store};

use super::{Harness, NOON, open_fresh, part, record, record_page, reopen, run, run_id};

const KEEP_ALL: Retention = Retention { older_than: None, runs_max: None, batch_max: 100 };

/// Runs 0 to `count`, one a millisecond, of all states in turn, each with output.
async fn fill(store: &impl Store, count: u64) {
    let state = |number: u64| RunState::ALL[number as usize % 10];
    let runs: Vec<_> = (0..count).map(|number| run(number, JobId(1), NOON + number as i64, state(number))).collect();
    record(store, 1, &runs).await;
    for number in 0..count {
        record_page(store, run_id(number), vec![part(0, Stream::Stdout, b"a")]).await;
        record_page(store, run_id(number), vec![part(1, Stream::Stdout, b"b")]).await;
    }
}

/// The runs that are left, oldest first, of the first `of`; their output must be there, and that of the others must not.
async fn left(store: &impl Store, of: u64) -> Vec<u64> {
    let rows = store.runs(&RunFilter::default(), None, 1_000).await.unwrap();
    let mut left = Vec::new();
    for number in 0..of {
        let is_left = rows.iter().any(|run| run.id == run_id(number));
        assert_eq!(store.run(run_id(number)).await.unwrap().is_some(), is_left);
        assert_eq!(!store.output(run_id(number), 0, 10).await.unwrap().parts.is_empty(), is_left, "output of run {number}");
        left.extend(is_left.then_some(number));
    }
    assert_eq!(left.len(), rows.len());
    left
}

pub async fn runs_beyond_their_age_go_with_their_output<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    fill(&*store, 20).await;
    assert_eq!(store.prune_runs(KEEP_ALL).await, Ok(0));
    assert_eq!(store.prune_runs(Retention { older_than: Some(NOON), ..KEEP_ALL }).await, Ok(0), "the limit itself stays");
    assert_eq!(store.prune_runs(Retention { older_than: Some(NOON + 12), ..KEEP_ALL }).await, Ok(12));
    assert_eq!(left(&*store, 20).await, (12..20).collect::<Vec<_>>());
    // Output that comes after its run was removed does not stay for ever; that of runs to come does.
    let (late, coming) = (RunId::at(NOON + 1, 7), RunId::at(NOON + 30, 7));
    for run in [late, coming] {
        record_page(&*store, run, vec![part(0, Stream::Stdout, b"a")]).await;
    }
    assert_eq!(store.prune_runs(Retention { older_than: Some(NOON + 12), ..KEEP_ALL }).await, Ok(0));
    assert_eq!(store.output(late, 0, 10).await.unwrap().parts, []);
    assert_eq!(store.output(coming, 0, 10).await.unwrap().parts.len(), 1);
}

pub async fn beyond_the_number_the_oldest_go<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    fill(&*store, 20).await;
    assert_eq!(store.prune_runs(Retention { runs_max: Some(20), ..KEEP_ALL }).await, Ok(0));
    assert_eq!(store.prune_runs(Retention { runs_max: Some(13), ..KEEP_ALL }).await, Ok(7));
    assert_eq!(left(&*store, 20).await, (7..20).collect::<Vec<_>>());
    let both = Retention { runs_max: Some(5), older_than: Some(NOON + 9), ..KEEP_ALL };
    assert_eq!(store.prune_runs(both).await, Ok(8), "whichever asks for more");
    assert_eq!(store.prune_runs(Retention { runs_max: Some(0), ..KEEP_ALL }).await, Ok(5));
    assert_eq!(left(&*store, 20).await, [0; 0]);
}

pub async fn pruning_goes_in_batches_until_nothing_is_left<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    fill(&*store, 20).await;
    let retention = Retention { older_than: Some(NOON + 15), runs_max: None, batch_max: 6 };
    for (gone, oldest_left) in [(6, 6), (6, 12), (3, 15), (0, 15)] {
        assert_eq!(store.prune_runs(retention).await, Ok(gone));
        assert_eq!(left(&*store, 20).await, (oldest_left..20).collect::<Vec<_>>());
    }
}

pub async fn the_number_of_runs_stays_exact<H: Harness>() {
    let (harness, store) = open_fresh::<H>().await;
    fill(&*store, 10).await;
    // Rows that are written again, with another index or the same, are not new ones.
    for index in [1, 2, 2, 1] {
        record(&*store, index, &(0..10).map(|number| run(number, JobId(1), NOON + number as i64, RunState::Lost)).collect::<Vec<_>>())
            .await;
    }
    let mut bad = run(50, JobId(1), NOON, RunState::Failed);
    bad.output_bytes = u64::MAX;
    let batch =
        chrono_flow::store::RecordBatch { runs: vec![chrono_flow::store::RunRecord { ledger_index: 1, run: bad }], output: Vec::new() };
    assert_eq!(store.record(batch).await.unwrap().len(), 1, "set aside, so not counted");
    let store = reopen(&harness, store).await;
    assert_eq!(store.prune_runs(Retention { runs_max: Some(10), ..KEEP_ALL }).await, Ok(0));
    assert_eq!(store.prune_runs(Retention { runs_max: Some(9), ..KEEP_ALL }).await, Ok(1));
    assert_eq!(store.prune_runs(Retention { runs_max: Some(9), ..KEEP_ALL }).await, Ok(0));
    assert_eq!(left(&*store, 10).await, (1..10).collect::<Vec<_>>());
}
