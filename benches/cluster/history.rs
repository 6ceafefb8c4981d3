//! Rows of history a second, beside a bare loop of the same inserts.

use std::time::Instant;

use anyhow::{Result, ensure};
use chrono_flow::model::{JobId, Run, RunId, RunState, Trigger, UnixMs, WorkerId};
use chrono_flow::store::postgres::{PostgresConfig, PostgresStore};
use chrono_flow::store::{RecordBatch, RunRecord, Store};
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::database::{self, Database};
use crate::support::figures::median;
use crate::support::{Effort, bare, now};

const ROWS_PER_BATCH: usize = 1_000;
const ROWS_PER_MS: i64 = 100;
/// A table like the store's, in one piece.
const TABLE: &str = "CREATE TABLE bare_runs (day INTEGER NOT NULL, id UUID PRIMARY KEY, job_id BIGINT NOT NULL, job_name TEXT NOT NULL,
    job_revision BIGINT NOT NULL, trigger TEXT NOT NULL, scheduled_at BIGINT NOT NULL, attempt BIGINT NOT NULL, state TEXT NOT NULL,
    worker_id TEXT, started_at BIGINT, finished_at BIGINT, exit_code INTEGER, output_bytes BIGINT NOT NULL,
    output_truncated BOOLEAN NOT NULL, ledger_index BIGINT NOT NULL)";
const LISTS: [&str; 2] = [
    "CREATE INDEX bare_job_state ON bare_runs (job_id, state, day DESC, scheduled_at DESC, id DESC)",
    "CREATE INDEX bare_state ON bare_runs (state, day DESC, scheduled_at DESC, id DESC)",
];
const INSERT: &str =
    "INSERT INTO bare_runs SELECT day, id, job_id, job_name, 1, 'schedule', at, 1, 'succeeded', 'worker-1', at, at, 0, 0, false, 1
    FROM unnest($1::integer[], $2::uuid[], $3::bigint[], $4::text[], $5::bigint[]) AS new (day, id, job_id, job_name, at)";

pub fn run(effort: Effort) -> Result<()> {
    let (batches, rounds) = (effort.pick(100, 40), effort.rounds());
    println!("\n## History: rows/s into PostgreSQL, in {batches} batches of {ROWS_PER_BATCH}, one after the other\n");
    let postgres = database::server();
    let runtime = bare::runtime()?;
    let store = runtime.block_on(async { PostgresStore::open(&PostgresConfig::new(&postgres.url())) })?;
    let database = Database::open(&postgres.url())?;
    database.execute(TABLE, &[])?;
    let insert = database.prepare(INSERT)?;
    let mut rows = Rows { next: now() };
    // The first batch makes the schema and the day's partition.
    runtime.block_on(store.record(rows.batch()))?;
    let (mut ours, mut keyed, mut indexed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(rate(batches, || {
            let aside = runtime.block_on(store.record(rows.batch()))?;
            ensure!(aside.is_empty(), "{} rows were set aside", aside.len());
            Ok(())
        })?);
        database.execute("TRUNCATE bare_runs", &[])?;
        keyed.push(rate(batches, || rows.insert_bare(&database, &insert))?);
        LISTS.iter().try_for_each(|index| database.execute(index, &[]).map(drop))?;
        database.execute("TRUNCATE bare_runs", &[])?;
        indexed.push(rate(batches, || rows.insert_bare(&database, &insert))?);
        database.execute("DROP INDEX bare_job_state, bare_state", &[])?;
    }
    println!("|                                         |  rows/s | ours by this |");
    println!("|-----------------------------------------|--------:|-------------:|");
    println!("| PostgresStore::record                   | {:>7.0} | {:>12} |", median(ours.clone()), "");
    for (name, bares) in [("bare unnest, its key the only index", keyed), ("bare unnest, with the indexes for lists", indexed)] {
        let ratio = median(ours.iter().zip(&bares).map(|(ours, bare)| ours / bare).collect());
        println!("| {name:<39} | {:>7.0} | {:>10.0} % |", median(bares), ratio * 100.0);
    }
    println!("\naim: 50 % or more");
    store.close();
    Ok(())
}

fn rate(batches: usize, mut batch: impl FnMut() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    for _ in 0..batches {
        batch()?;
    }
    Ok((batches * ROWS_PER_BATCH) as f64 / started.elapsed().as_secs_f64())
}

/// Makes rows, a hundred of each millisecond of made-up time.
struct Rows {
    next: UnixMs,
}

impl Rows {
    fn ids(&mut self) -> impl Iterator<Item = (UnixMs, Uuid)> {
        let from = self.next;
        self.next = from + ROWS_PER_BATCH as i64 / ROWS_PER_MS;
        (0..ROWS_PER_BATCH).map(move |n| from + n as i64 / ROWS_PER_MS).map(|at| (at, RunId::at(at, Uuid::new_v4().as_u128()).0))
    }

    fn batch(&mut self) -> RecordBatch {
        let record = |(n, (at, id)): (usize, (UnixMs, Uuid))| RunRecord { ledger_index: 1, run: row(n, at, RunId(id)) };
        RecordBatch { runs: self.ids().enumerate().map(record).collect(), output: Vec::new() }
    }

    fn insert_bare(&mut self, database: &Database, insert: &Statement) -> Result<()> {
        let (at, ids): (Vec<i64>, Vec<Uuid>) = self.ids().map(|(at, id)| (at.0, id)).unzip();
        let days: Vec<i32> = at.iter().map(|at| (at / 86_400_000) as i32).collect();
        let jobs: Vec<i64> = (0..ROWS_PER_BATCH as i64).collect();
        let names: Vec<String> = jobs.iter().map(|job| format!("job number {job}")).collect();
        let values: [&(dyn ToSql + Sync); 5] = [&days, &ids, &jobs, &names, &at];
        database.execute_prepared(insert, &values)?;
        Ok(())
    }
}

fn row(n: usize, at: UnixMs, id: RunId) -> Run {
    Run {
        id,
        job_id: JobId(n as i64),
        job_name: format!("job number {n}"),
        job_revision: 1,
        trigger: Trigger::Schedule,
        retry_of: None,
        scheduled_at: at,
        attempt: 1,
        state: RunState::Succeeded,
        reason: None,
        worker_id: Some(WorkerId("worker-1".into())),
        started_at: Some(at),
        finished_at: Some(at),
        exit_code: Some(0),
        signal: None,
        error: None,
        output_bytes: 0,
        output_truncated: false,
        skipped_from: None,
        skipped_count: None,
    }
}
