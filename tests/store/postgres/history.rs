//! History in days, and texts that PostgreSQL can't hold.

use chrono_flow::model::{JobId, JobSpec, Run, RunId, RunState, Stream, UnixMs, WorkerId};
use chrono_flow::store::{OutputRecord, RecordBatch, Retention, RunFilter, RunRecord, Store};

use super::OnPostgres;
use crate::suite::{NOON, open_fresh, part, record, record_page, reopen, run, run_id, spec};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

async fn partitions(harness: &OnPostgres) -> Vec<String> {
    let text = "SELECT inhrelid::regclass::text FROM pg_inherits
        WHERE inhparent IN ('runs'::regclass, 'run_output'::regclass) AND inhrelid <> 'run_output_undated'::regclass ORDER BY 1";
    harness.raw().await.query(text, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// A run whose id tells its instant, as those of schedules do.
fn dated(number: u64, at: UnixMs) -> Run {
    Run { id: RunId::at(at, u128::from(number)), ..run(number, JobId(1), at, RunState::Succeeded) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_day_has_its_partition_and_goes_whole() {
    let (harness, store) = open_fresh::<OnPostgres>().await;
    let runs: Vec<Run> = (0..9).map(|number| dated(number, NOON + (number as i64 / 3) * DAY_MS)).collect();
    record(&*store, 1, &runs).await;
    for run in &runs {
        record_page(&*store, run.id, vec![part(0, Stream::Stdout, b"said")]).await;
        assert_eq!(store.run(run.id).await.unwrap().as_ref(), Some(run));
    }
    let expected = ["run_output_2026_09_21", "run_output_2026_09_22", "run_output_2026_09_23", "runs_2026_09_21", "runs_2026_09_22"];
    assert_eq!(partitions(&harness).await[..5], expected);
    let listed = store.runs(&RunFilter::default(), None, 100).await.unwrap();
    let mut newest_first = runs.clone();
    newest_first.sort_by_key(|run| std::cmp::Reverse((run.scheduled_at, run.id)));
    assert_eq!(listed, newest_first);

    // The first day whole, and of the second what lies before its noon: nothing yet.
    let retention = Retention { older_than: Some(NOON + DAY_MS), runs_max: None, batch_max: 100 };
    assert_eq!(store.prune_runs(retention).await, Ok(3));
    assert_eq!(partitions(&harness).await, ["run_output_2026_09_22", "run_output_2026_09_23", "runs_2026_09_22", "runs_2026_09_23"]);
    assert_eq!(store.output(runs[0].id, 0, 10).await.unwrap().parts, []);
    assert_eq!(store.output(runs[3].id, 0, 10).await.unwrap().parts.len(), 1);
    // Whole days count as what they hold: a call that reaches its batch says that more may follow.
    let retention = Retention { older_than: None, runs_max: Some(1), batch_max: 2 };
    assert_eq!(store.prune_runs(retention).await, Ok(3));
    assert_eq!(store.prune_runs(retention).await, Ok(2));
    assert_eq!(store.prune_runs(retention).await, Ok(0));
    assert_eq!(partitions(&harness).await, ["run_output_2026_09_23", "runs_2026_09_23"]);
    // A row that comes late finds its day again.
    record(&*store, 1, &runs[..1]).await;
    assert_eq!(store.run(runs[0].id).await.unwrap().as_ref(), Some(&runs[0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_stays_with_a_run_whose_id_tells_another_day() {
    let (harness, store) = open_fresh::<OnPostgres>().await;
    let early = dated(1, NOON);
    let drifted = Run { id: RunId::at(NOON, 2), ..run(2, JobId(1), NOON + DAY_MS, RunState::Failed) };
    record(&*store, 1, &[early.clone(), drifted.clone()]).await;
    for run in [&early, &drifted] {
        record_page(&*store, run.id, vec![part(0, Stream::Stdout, b"said")]).await;
    }
    assert_eq!(store.run(drifted.id).await.unwrap().as_ref(), Some(&drifted), "it is found, although not where its id says");
    let older_than = |instant| Retention { older_than: Some(instant), runs_max: None, batch_max: 100 };
    assert_eq!(store.prune_runs(older_than(NOON + DAY_MS)).await, Ok(1));
    assert_eq!(store.output(drifted.id, 0, 10).await.unwrap().parts.len(), 1);
    assert_eq!(store.prune_runs(older_than(NOON + 2 * DAY_MS)).await, Ok(1));
    assert_eq!(store.output(drifted.id, 0, 10).await.unwrap().parts, []);
    assert_eq!(partitions(&harness).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nul_is_kept_wherever_it_comes() {
    let (harness, store) = open_fresh::<OnPostgres>().await;
    let spec = JobSpec { env: [("A".into(), "\0".into())].into(), ..JobSpec::new("a\0b", "* * * * *", "printf '\0\u{1A}'") };
    let job = store.create_job(spec.clone(), NOON).await.unwrap().job;
    let full = Run {
        job_name: "a\0b".into(),
        error: Some("\0\u{1A}\0 at the end\0".into()),
        worker_id: Some(WorkerId("w\0".into())),
        ..run(1, job.id, NOON, RunState::Failed)
    };
    record(&*store, 1, std::slice::from_ref(&full)).await;
    let store = reopen(&harness, store).await;
    assert_eq!(store.job(job.id).await.unwrap().unwrap().spec, spec);
    assert_eq!(store.job_by_name("a\0b").await.unwrap().unwrap().id, job.id);
    assert_eq!(store.run(full.id).await.unwrap(), Some(full));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_the_database_refuses_are_set_aside_with_their_content() {
    let (harness, store) = open_fresh::<OnPostgres>().await;
    store.check().await.unwrap();
    let raw = harness.raw().await;
    raw.batch_execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF new.job_id IN (13, 14, 27) THEN RAISE 'not this one'; END IF; RETURN new; END $$;
         CREATE TRIGGER no BEFORE INSERT ON runs FOR EACH ROW EXECUTE FUNCTION no();
         CREATE FUNCTION nor() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF new.\"offset\" = 5 THEN RAISE 'nor this one'; END IF; RETURN new; END $$;
         CREATE TRIGGER nor BEFORE INSERT ON run_output FOR EACH ROW EXECUTE FUNCTION nor();",
    )
    .await
    .unwrap();
    let runs = (0..30).map(|number| RunRecord { ledger_index: 1, run: run(number, JobId(number as i64), NOON, RunState::Failed) });
    let page = |number, offset| OutputRecord { run: run_id(number), offset, parts: vec![part(offset, Stream::Stdout, b"x")] };
    let batch = RecordBatch { runs: runs.collect(), output: vec![page(1, 0), page(2, 5), page(3, 0)] };
    let aside = store.record(batch).await.unwrap();
    assert_eq!(aside.len(), 4, "{aside:?}");
    assert!(aside[..3].iter().all(|row| row.error.contains("not this one")) && aside[3].error.contains("nor this one"), "{aside:?}");
    for number in 0..30 {
        assert_eq!(store.run(run_id(number)).await.unwrap().is_some(), ![13, 14, 27].contains(&number));
    }
    assert_eq!(store.output(run_id(3), 0, 10).await.unwrap().parts.len(), 1);
    let kept = raw.query("SELECT run::text FROM set_aside WHERE error LIKE '%not this one%'", &[]).await.unwrap();
    assert_eq!(kept.len(), 3);
    assert!(kept.iter().all(|row| serde_json::from_str::<Run>(row.get(0)).unwrap().state == RunState::Failed));
    let retention = Retention { older_than: None, runs_max: Some(26), batch_max: 100 };
    assert_eq!(store.prune_runs(retention).await, Ok(1), "what was set aside is not counted");
}

/// How PostgreSQL goes about the lists of runs: out of the indexes, one day after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_list_of_runs_is_scanned_for_or_sorted() {
    let (harness, store) = open_fresh::<OnPostgres>().await;
    let runs: Vec<Run> = (0..3_000)
        .map(|number| Run { state: RunState::ALL[number as usize % 10], ..dated(number, NOON + number as i64 % 3 * DAY_MS) })
        .collect();
    record(&*store, 1, &runs).await;
    store.create_job(spec("job"), NOON).await.unwrap();
    let raw = harness.raw().await;
    raw.batch_execute("ANALYZE; SET plan_cache_mode = force_generic_plan").await.unwrap();
    for (text, values) in [
        (
            include_str!("../../../sql/postgres/queries/run_list.sql"),
            "'{failed}', 9e15, 'ffffffff-ffff-ffff-ffff-ffffffffffff', 0, 10, 99999, 0",
        ),
        (
            include_str!("../../../sql/postgres/queries/run_list_of_job.sql"),
            "'{failed,lost}', 9e15, 'ffffffff-ffff-ffff-ffff-ffffffffffff', 0, 10, 99999, 0, 1",
        ),
        (include_str!("../../../sql/postgres/queries/run_last_of_each.sql"), "'{1,2}', '{failed,lost}'"),
    ] {
        raw.batch_execute("DEALLOCATE ALL").await.unwrap();
        raw.batch_execute(&format!("PREPARE list AS {text}")).await.unwrap();
        let rows = raw.query(&format!("EXPLAIN (ANALYZE, COSTS off, TIMING off) EXECUTE list({values})"), &[]).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let shown = plan.join("\n");
        assert!(!shown.contains("Seq Scan on runs") && !shown.contains("Merge Append"), "{shown}");
        assert!(shown.contains("Index Scan"), "{shown}");
    }
}
