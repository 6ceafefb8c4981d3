//! Promises about history (PROTOCOL F).

use chrono_flow::model::{JobId, Reason, Run, RunId, RunState, Stream, Trigger, UnixMs};
use chrono_flow::store::{OutputRecord, RecordBatch, RunCursor, RunFilter, RunRecord, Store};
use uuid::Uuid;

use super::{Dice, Harness, NOON, open_fresh, part, record, reopen, run, run_id, spec};

pub async fn a_run_reads_back_as_it_was_recorded<H: Harness>() {
    let (harness, store) = open_fresh::<H>().await;
    let full = Run {
        job_name: "'; -- \u{1F552}\"\\".into(),
        job_revision: 7,
        trigger: Trigger::CatchUp,
        retry_of: Some(run_id(99)),
        attempt: u32::MAX,
        reason: Some(Reason::WorkerRestarted),
        exit_code: Some(-1),
        signal: Some(9),
        error: Some("it\nfailed".into()),
        output_bytes: u64::from(u32::MAX) * 2,
        output_truncated: true,
        skipped_from: Some(NOON + -5),
        skipped_count: Some(u64::from(u32::MAX) * 3),
        ..run(1, JobId(i64::MAX), UnixMs(-1), RunState::Lost)
    };
    let bare = Run { worker_id: None, started_at: None, finished_at: None, exit_code: None, ..run(2, JobId(1), NOON, RunState::Queued) };
    let mut runs = vec![full, bare, Run { id: RunId(Uuid::nil()), ..run(3, JobId(1), NOON, RunState::Running) }];
    runs.extend(RunState::ALL.into_iter().zip(10..).map(|(state, number)| run(number, JobId(2), NOON, state)));
    runs.extend(Reason::ALL.into_iter().zip(30..).map(|(reason, number)| Run {
        reason: Some(reason),
        trigger: Trigger::ALL[number as usize % Trigger::ALL.len()],
        ..run(number, JobId(2), NOON, RunState::Skipped)
    }));
    record(&*store, 5, &runs).await;
    let store = reopen(&harness, store).await;
    for run in runs {
        assert_eq!(store.run(run.id).await.unwrap(), Some(run));
    }
    assert_eq!(store.run(run_id(1_000)).await, Ok(None));
}

pub async fn a_row_gives_way_only_to_a_greater_ledger_index<H: Harness>() {
    let (harness, store) = open_fresh::<H>().await;
    let at = |state| run(1, JobId(1), NOON, state);
    record(&*store, 10, &[at(RunState::Lost)]).await;
    for older in [0, 9, 10] {
        record(&*store, older, &[at(RunState::Running)]).await;
        assert_eq!(store.run(run_id(1)).await.unwrap(), Some(at(RunState::Lost)), "index {older}");
    }
    let store = reopen(&harness, store).await;
    record(&*store, 9, &[at(RunState::Running)]).await;
    assert_eq!(store.run(run_id(1)).await.unwrap(), Some(at(RunState::Lost)));
    let corrected = Run { job_id: JobId(2), scheduled_at: NOON + 1, error: Some("late".into()), ..at(RunState::Failed) };
    record(&*store, 11, std::slice::from_ref(&corrected)).await;
    assert_eq!(store.run(run_id(1)).await.unwrap(), Some(corrected.clone()), "all of the row is replaced");
    for (state, rows) in [(RunState::Lost, vec![]), (RunState::Failed, vec![corrected])] {
        let filter = RunFilter { states: vec![state], ..RunFilter::default() };
        assert_eq!(store.runs(&filter, None, 10).await.unwrap(), rows, "lists follow");
    }
    let both = [(12, RunState::Succeeded), (11, RunState::Failed)].map(|(ledger_index, state)| RunRecord { ledger_index, run: at(state) });
    store.record(RecordBatch { runs: both.to_vec(), output: Vec::new() }).await.unwrap();
    assert_eq!(store.run(run_id(1)).await.unwrap(), Some(at(RunState::Succeeded)), "within one batch too");
}

pub async fn recording_again_changes_nothing<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    let runs: Vec<Run> = (0..20).map(|number| run(number, JobId(1), NOON + number as i64, RunState::Succeeded)).collect();
    let output = vec![OutputRecord { run: run_id(3), offset: 0, parts: vec![part(0, Stream::Stdout, b"hello")] }];
    let batch = RecordBatch { runs: runs.iter().map(|run| RunRecord { ledger_index: 4, run: run.clone() }).collect(), output };
    for _ in 0..3 {
        assert_eq!(store.record(batch.clone()).await, Ok(Vec::new()));
        let newest_first: Vec<Run> = runs.iter().rev().cloned().collect();
        assert_eq!(store.runs(&RunFilter::default(), None, 100).await.unwrap(), newest_first);
        assert_eq!(store.output(run_id(3), 0, 100).await.unwrap().parts, batch.output[0].parts);
    }
    assert_eq!(store.record(RecordBatch::default()).await, Ok(Vec::new()));
}

pub async fn pages_of_history_neither_overlap_nor_leave_gaps<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    // Three instants only, so that most rows share theirs with others.
    let states = [RunState::Succeeded, RunState::Skipped, RunState::Failed];
    let mut runs: Vec<Run> =
        (0..60).map(|number| run(number, JobId(1 + number as i64 % 2), NOON + number as i64 % 3, states[number as usize % 3])).collect();
    record(&*store, 1, &runs).await;
    runs.sort_by_key(|run| std::cmp::Reverse((run.scheduled_at, run.id)));
    for page_rows in [1, 7, 20, 60, 100] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = store.runs(&RunFilter::default(), after, page_rows).await.unwrap();
            assert!(page.len() <= page_rows as usize);
            let Some(last) = page.last() else { break };
            after = Some(RunCursor { scheduled_at: last.scheduled_at, id: last.id });
            seen.extend(page);
        }
        assert_eq!(seen, runs, "in pages of {page_rows}");
    }
}

pub async fn lists_of_runs_agree_with_a_naive_search<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    let mut dice = Dice(20_261_123);
    let mut runs: Vec<Run> = (0..300)
        .map(|number| {
            let state = RunState::ALL[dice.below(10) as usize];
            run(number, JobId(dice.below(4) as i64), NOON + dice.below(40) as i64, state)
        })
        .collect();
    record(&*store, 1, &runs).await;
    runs.sort_by_key(|run| std::cmp::Reverse((run.scheduled_at, run.id)));
    for case in 0..300 {
        let states = (0..dice.below(4)).map(|_| RunState::ALL[dice.below(10) as usize]).collect();
        let mut maybe = |wanted: u64| (dice.below(3) < wanted).then(|| dice.below(40) as i64);
        let filter = RunFilter {
            states,
            job: maybe(2).map(|job| JobId(job % 5)),
            since: maybe(1).map(|ms| NOON + ms),
            until: maybe(1).map(|ms| NOON + ms),
        };
        let after = maybe(1).map(|index| &runs[index as usize]).map(|run| RunCursor { scheduled_at: run.scheduled_at, id: run.id });
        let limit = 1 + dice.below(50) as usize;
        let is_wanted = |run: &&Run| {
            filter.job.is_none_or(|job| run.job_id == job)
                && (filter.states.is_empty() || filter.states.contains(&run.state))
                && filter.since.is_none_or(|since| run.scheduled_at >= since)
                && filter.until.is_none_or(|until| run.scheduled_at < until)
                && after.is_none_or(|after| (run.scheduled_at, run.id) < (after.scheduled_at, after.id))
        };
        let expected: Vec<Run> = runs.iter().filter(is_wanted).take(limit).cloned().collect();
        let found = store.runs(&filter, after, limit as u32).await.unwrap();
        assert_eq!(found, expected, "case {case}: {filter:?} after {after:?}, {limit} rows");
    }
}

pub async fn last_runs_are_the_newest_launched<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    let newest_of_1 = run(3, JobId(1), NOON + 2, RunState::Running);
    let newest_of_3 = run(7, JobId(3), NOON, RunState::Failed);
    let mut runs = vec![
        run(1, JobId(1), NOON, RunState::Succeeded),
        run(2, JobId(1), NOON + 1, RunState::Failed),
        newest_of_1.clone(),
        run(4, JobId(1), NOON + 3, RunState::Skipped),
        run(5, JobId(2), NOON, RunState::Skipped),
        newest_of_3.clone(),
        run(8, JobId(4), NOON, RunState::Succeeded),
    ];
    runs.extend((100..200).map(|number| run(number, JobId(3), NOON + number as i64, RunState::Skipped)));
    record(&*store, 1, &runs).await;
    let mut last = store.last_runs(&[JobId(3), JobId(2), JobId(1), JobId(9)]).await.unwrap();
    last.sort_by_key(|run| run.job_id);
    assert_eq!(last, [newest_of_1, newest_of_3]);
    assert_eq!(store.last_runs(&[]).await, Ok(Vec::new()));
}

pub async fn history_outlives_its_job<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    let id = store.create_job(spec("job"), NOON).await.unwrap().job.id;
    let before = run(1, id, NOON, RunState::Succeeded);
    record(&*store, 1, std::slice::from_ref(&before)).await;
    let seq = store.delete_job(id, None, NOON).await.unwrap();
    store.prune_tombstones(seq, NOON + 1).await.unwrap();
    let after = run(2, id, NOON + 1, RunState::Cancelled);
    record(&*store, 2, std::slice::from_ref(&after)).await;
    let filter = RunFilter { job: Some(id), ..RunFilter::default() };
    assert_eq!(store.runs(&filter, None, 10).await.unwrap(), [after, before]);
}

/// Stores count in signed 64 bits at most: a greater number can't be written by any.
pub async fn a_bad_row_is_set_aside_and_stops_nothing_else<H: Harness>() {
    let (harness, store) = open_fresh::<H>().await;
    let mut runs: Vec<Run> = (0..50).map(|number| run(number, JobId(1), NOON, RunState::Succeeded)).collect();
    runs[17].output_bytes = u64::MAX;
    runs[31].skipped_count = Some(u64::MAX);
    let page = |number, offset| OutputRecord { run: run_id(number), offset, parts: vec![part(offset, Stream::Stdout, b"x")] };
    let batch = RecordBatch {
        runs: runs.iter().map(|run| RunRecord { ledger_index: 3, run: run.clone() }).collect(),
        output: vec![page(1, 0), page(2, u64::MAX - 1), page(3, 0)],
    };
    for _ in 0..2 {
        let aside = store.record(batch.clone()).await.unwrap();
        assert_eq!(aside.iter().map(|row| row.run).collect::<Vec<_>>(), [run_id(17), run_id(31), run_id(2)]);
        assert!(aside.iter().all(|row| !row.error.is_empty()));
    }
    let store = reopen(&harness, store).await;
    for run in &runs {
        let expected = ![17, 31].map(run_id).contains(&run.id);
        assert_eq!(store.run(run.id).await.unwrap().is_some(), expected, "{}", run.id);
    }
    for (number, parts) in [(1, 1), (2, 0), (3, 1)] {
        assert_eq!(store.output(run_id(number), 0, 10).await.unwrap().parts.len(), parts);
    }
}
