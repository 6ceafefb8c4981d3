//! Rows of history, in SQL: batches written in one transaction, lists read from indexes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use deadpool_postgres::Transaction;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::connect::Session;
use super::days::{self, Table, UNDATED};
use super::error::{Fault, Outcome};
use super::output::{self, Page};
use super::text::{escape, unescape};
use super::{execute, query, sql, unsigned};
use crate::model::{JobId, Reason, Run, RunId, RunState, Trigger, UnixMs, WorkerId};
use crate::store::codec::encode_page;
use crate::store::{OutputRecord, RecordBatch, RunCursor, RunFilter, RunRecord, SetAside, StoreError};

/// Rows that are kept set aside, the newest; each was logged when it came.
const SET_ASIDE_ROWS_MAX: i64 = 10_000;
/// A set aside run is kept as JSON up to this size; beyond, the reason alone.
const SET_ASIDE_RUN_BYTES_MAX: usize = 64 * 1024;
/// How often a batch is begun anew because a day had no partition, or lost it meanwhile.
const DAYS_TRIES_MAX: u32 = 4;

/// A row on its way into the table.
struct RunRow<'a> {
    day: i32,
    output_day: i32,
    ledger_index: i64,
    run: &'a Run,
}

/// A row that can't be written, as it will be kept.
struct Aside<'a> {
    id: RunId,
    what: String,
    error: String,
    run: Option<&'a Run>,
}

/// A batch as the tables take it: each row once, in one order, so that two writers don't wait for each other in a circle.
#[derive(Default)]
struct Work<'a> {
    runs: Vec<RunRow<'a>>,
    pages: Vec<Page>,
    runs_aside: Vec<Aside<'a>>,
    pages_aside: Vec<Aside<'a>>,
}

impl<'a> Work<'a> {
    fn of(batch: &'a RecordBatch) -> Work<'a> {
        let mut work = Work::default();
        for record in &batch.runs {
            match RunRow::of(record) {
                Ok(row) => work.runs.push(row),
                Err(error) => work.runs_aside.push(Aside { id: record.run.id, what: "run".into(), error, run: Some(&record.run) }),
            }
        }
        // Of several rows of one run the greatest index stays, of equal ones the first (PROTOCOL F1).
        work.runs.sort_by_key(|row| (row.day, row.run.id, std::cmp::Reverse(row.ledger_index)));
        work.runs.dedup_by_key(|row| (row.day, row.run.id));
        for record in &batch.output {
            match page_of(record) {
                Ok(page) => work.pages.push(page),
                Err(error) => work.pages_aside.push(Aside { id: record.run, what: output_at(record.offset), error, run: None }),
            }
        }
        // Of several pages of one name the last stays.
        work.pages.reverse();
        work.pages.sort_by_key(|page| (page.day, page.run, page.offset));
        work.pages.dedup_by_key(|page| (page.day, page.run, page.offset));
        work
    }

    fn run_days(&self) -> Vec<i32> {
        self.runs.iter().map(|row| row.day).collect::<BTreeSet<i32>>().into_iter().collect()
    }

    fn output_days(&self) -> Vec<i32> {
        self.pages.iter().map(|page| page.day).collect::<BTreeSet<i32>>().into_iter().filter(|day| *day != UNDATED).collect()
    }
}

fn output_at(offset: impl std::fmt::Display) -> String {
    format!("output at {offset}")
}

fn fits(value: u64, what: &str) -> Result<i64, String> {
    i64::try_from(value).map_err(|_| format!("{what} {value} is beyond what a column holds"))
}

impl<'a> RunRow<'a> {
    fn of(record: &'a RunRecord) -> Result<RunRow<'a>, String> {
        let run = &record.run;
        fits(run.job_revision, "job_revision")?;
        fits(run.output_bytes, "output_bytes")?;
        fits(run.skipped_count.unwrap_or(0), "skipped_count")?;
        let day = days::of(run.scheduled_at).ok_or_else(|| format!("scheduled_at {} is outside of the calendar", run.scheduled_at.0))?;
        Ok(RunRow { day, output_day: days::of_output(run.id), ledger_index: fits(record.ledger_index, "ledger_index")?, run })
    }
}

fn page_of(record: &OutputRecord) -> Result<Page, String> {
    let offset = fits(record.offset, "offset")?;
    Ok(Page { day: days::of_output(record.run), run: record.run, offset, parts: encode_page(record)? })
}

/// Writes a batch: at once if it can be, else with a search for the rows that spoil it.
pub(super) async fn record(session: &mut Session, batch: &RecordBatch) -> Outcome<Vec<SetAside>> {
    let work = Work::of(batch);
    let mut is_careful = false;
    for _ in 0..DAYS_TRIES_MAX {
        match attempt(session, &work, is_careful).await {
            Err(Fault::NoPartition) => {
                Table::Runs.create(session, &work.run_days()).await?;
                Table::Output.create(session, &work.output_days()).await?;
            }
            Err(Fault::Row(_)) if !is_careful => is_careful = true,
            done => return done,
        }
    }
    Err(Fault::NoPartition)
}

async fn attempt(session: &mut Session, work: &Work<'_>, is_careful: bool) -> Outcome<Vec<SetAside>> {
    let transaction = session.transaction().await?;
    Table::Runs.lock(&transaction, &work.run_days()).await?;
    Table::Output.lock(&transaction, &work.output_days()).await?;
    let mut found = Vec::new();
    let mut added = BTreeMap::new();
    if is_careful {
        write_carefully(&transaction, work, &mut added, &mut found).await?;
    } else {
        add_counts(&mut added, write_runs(&transaction, &work.runs).await?);
        if !work.pages.is_empty() {
            output::write(&transaction, &work.pages).await?;
        }
    }
    if !added.is_empty() {
        let (days, counts): (Vec<i32>, Vec<i64>) = added.into_iter().unzip();
        execute(&transaction, sql!("days_add_to_counts"), &[&days, &counts]).await?;
    }
    let (of_runs, of_pages): (Vec<_>, Vec<_>) = found.into_iter().partition(|aside| aside.run.is_some());
    let all = work.runs_aside.iter().chain(&of_runs).chain(&work.pages_aside).chain(&of_pages);
    let mut aside = Vec::new();
    for row in all {
        aside.push(set_aside(&transaction, row).await?);
    }
    transaction.commit().await?;
    for row in &aside {
        log::error!("run {}: a row can't be written to the history and is set aside: {}", row.run, row.error);
    }
    Ok(aside)
}

fn add_counts(counts: &mut BTreeMap<i32, i64>, days: Vec<i32>) {
    for day in days {
        *counts.entry(day).or_default() += 1;
    }
}

/// A part of a batch.
enum Part<'w, 'a> {
    Runs(&'w [RunRow<'a>]),
    Pages(&'w [Page]),
}

/// Halves what can't be written until the rows that spoil it are found, and leaves these out (PROTOCOL F4).
async fn write_carefully<'a>(
    transaction: &Transaction<'_>,
    work: &Work<'a>,
    added: &mut BTreeMap<i32, i64>,
    found: &mut Vec<Aside<'a>>,
) -> Outcome<()> {
    let mut parts = vec![Part::Pages(&work.pages), Part::Runs(&work.runs)];
    while let Some(part) = parts.pop() {
        transaction.batch_execute("SAVEPOINT part").await?;
        let written = match part {
            Part::Runs(runs) => write_runs(transaction, runs).await,
            Part::Pages([]) => Ok(Vec::new()),
            Part::Pages(pages) => output::write(transaction, pages).await.map(|()| Vec::new()),
        };
        let error = match written {
            Ok(days) => {
                transaction.batch_execute("RELEASE SAVEPOINT part").await?;
                add_counts(added, days);
                continue;
            }
            Err(Fault::Row(error)) => error,
            Err(other) => return Err(other),
        };
        transaction.batch_execute("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part").await?;
        match part {
            Part::Runs([row]) => found.push(Aside { id: row.run.id, what: "run".into(), error, run: Some(row.run) }),
            Part::Pages([page]) => found.push(Aside { id: page.run, what: output_at(page.offset), error, run: None }),
            Part::Runs(runs) => {
                let (front, back) = runs.split_at(runs.len() / 2);
                parts.extend([Part::Runs(back), Part::Runs(front)]);
            }
            Part::Pages(pages) => {
                let (front, back) = pages.split_at(pages.len() / 2);
                parts.extend([Part::Pages(back), Part::Pages(front)]);
            }
        }
    }
    Ok(())
}

async fn set_aside(transaction: &Transaction<'_>, row: &Aside<'_>) -> Outcome<SetAside> {
    let run = row.run.and_then(|run| serde_json::to_string(run).ok()).filter(|text| text.len() <= SET_ASIDE_RUN_BYTES_MAX);
    execute(transaction, sql!("set_aside_put"), &[&row.id.0, &row.what, &escape(&row.error), &run]).await?;
    execute(transaction, sql!("set_aside_trim"), &[&SET_ASIDE_ROWS_MAX]).await?;
    Ok(SetAside { run: row.id, error: row.error.clone() })
}

/// Writes rows, which differ in their ids; answers the day of each that is new.
async fn write_runs(transaction: &Transaction<'_>, rows: &[RunRow<'_>]) -> Outcome<Vec<i32>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let all: Vec<&RunRow<'_>> = rows.iter().collect();
    let inserted = query(transaction, sql!("run_insert"), &Columns::of(&all).parameters()).await?;
    let mut new = HashSet::with_capacity(inserted.len());
    for row in &inserted {
        new.insert((row.try_get::<_, Uuid>(0)?, row.try_get::<_, i32>(1)?));
    }
    let old: Vec<&RunRow<'_>> = rows.iter().filter(|row| !new.contains(&(row.run.id.0, row.day))).collect();
    if !old.is_empty() {
        execute(transaction, sql!("run_update"), &Columns::of(&old).parameters()).await?;
    }
    Ok(new.into_iter().map(|(_, day)| day).collect())
}

/// Rows turned into columns, for `unnest`.
#[derive(Default)]
struct Columns<'a> {
    day: Vec<i32>,
    id: Vec<Uuid>,
    output_day: Vec<i32>,
    job_id: Vec<i64>,
    job_name: Vec<Cow<'a, str>>,
    job_revision: Vec<i64>,
    trigger: Vec<&'static str>,
    retry_of: Vec<Option<Uuid>>,
    scheduled_at: Vec<i64>,
    attempt: Vec<i64>,
    state: Vec<&'static str>,
    reason: Vec<Option<&'static str>>,
    worker_id: Vec<Option<Cow<'a, str>>>,
    started_at: Vec<Option<i64>>,
    finished_at: Vec<Option<i64>>,
    exit_code: Vec<Option<i32>>,
    signal: Vec<Option<i32>>,
    error: Vec<Option<Cow<'a, str>>>,
    output_bytes: Vec<i64>,
    output_truncated: Vec<bool>,
    skipped_from: Vec<Option<i64>>,
    skipped_count: Vec<Option<i64>>,
    ledger_index: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn of(rows: &[&RunRow<'a>]) -> Columns<'a> {
        let mut columns = Columns::default();
        for row in rows {
            columns.push(row);
        }
        columns
    }

    /// `RunRow::of` has seen that the numbers fit.
    fn push(&mut self, row: &RunRow<'a>) {
        let run = row.run;
        self.day.push(row.day);
        self.id.push(run.id.0);
        self.output_day.push(row.output_day);
        self.job_id.push(run.job_id.0);
        self.job_name.push(escape(&run.job_name));
        self.job_revision.push(run.job_revision as i64);
        self.trigger.push(run.trigger.name());
        self.retry_of.push(run.retry_of.map(|id| id.0));
        self.scheduled_at.push(run.scheduled_at.0);
        self.attempt.push(i64::from(run.attempt));
        self.state.push(run.state.name());
        self.reason.push(run.reason.map(Reason::name));
        self.worker_id.push(run.worker_id.as_ref().map(|id| escape(&id.0)));
        self.started_at.push(run.started_at.map(|at| at.0));
        self.finished_at.push(run.finished_at.map(|at| at.0));
        self.exit_code.push(run.exit_code);
        self.signal.push(run.signal);
        self.error.push(run.error.as_deref().map(escape));
        self.output_bytes.push(run.output_bytes as i64);
        self.output_truncated.push(run.output_truncated);
        self.skipped_from.push(run.skipped_from.map(|at| at.0));
        self.skipped_count.push(run.skipped_count.map(|count| count as i64));
        self.ledger_index.push(row.ledger_index);
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 23] {
        [
            &self.day,
            &self.id,
            &self.output_day,
            &self.job_id,
            &self.job_name,
            &self.job_revision,
            &self.trigger,
            &self.retry_of,
            &self.scheduled_at,
            &self.attempt,
            &self.state,
            &self.reason,
            &self.worker_id,
            &self.started_at,
            &self.finished_at,
            &self.exit_code,
            &self.signal,
            &self.error,
            &self.output_bytes,
            &self.output_truncated,
            &self.skipped_from,
            &self.skipped_count,
            &self.ledger_index,
        ]
    }
}

/// Looks into the day that the id tells, and into all others only if it is not there.
pub(super) async fn run(session: &Session, id: RunId) -> Outcome<Option<Run>> {
    let day = days::of_output(id);
    if day != UNDATED {
        let rows = query(&**session, sql!("run_by_id_and_day"), &[&id.0, &day]).await?;
        if let Some(row) = rows.first() {
            return read(row).map(Some);
        }
    }
    query(&**session, sql!("run_by_id"), &[&id.0]).await?.first().map(read).transpose()
}

pub(super) async fn list(session: &Session, filter: &RunFilter, after: Option<RunCursor>, limit: u32) -> Outcome<Vec<Run>> {
    let states = names(if filter.states.is_empty() { &RunState::ALL } else { &filter.states });
    let (below_at, below_id) = upper_bound(filter.until, after);
    let since = filter.since.unwrap_or(UnixMs(i64::MIN));
    let (newest, oldest, limit) = (days::bound(below_at), days::bound(since), i64::from(limit));
    let rows = match filter.job {
        Some(job) => {
            let values: [&(dyn ToSql + Sync); 8] = [&states, &below_at.0, &below_id, &since.0, &limit, &newest, &oldest, &job.0];
            query(&**session, sql!("run_list_of_job"), &values).await?
        }
        None => query(&**session, sql!("run_list"), &[&states, &below_at.0, &below_id, &since.0, &limit, &newest, &oldest]).await?,
    };
    rows.iter().map(read).collect()
}

/// The states' names, each once.
fn names(states: &[RunState]) -> Vec<&'static str> {
    RunState::ALL.iter().filter(|state| states.contains(state)).map(|state| state.name()).collect()
}

/// The place in the order of the list below which rows are wanted.
fn upper_bound(until: Option<UnixMs>, after: Option<RunCursor>) -> (UnixMs, Uuid) {
    let until = until.map(|until| (until, Uuid::nil())); // before all ids of that instant
    let after = after.map(|after| (after.scheduled_at, after.id.0));
    [until, after].into_iter().flatten().min().unwrap_or((UnixMs(i64::MAX), Uuid::max()))
}

pub(super) async fn last_of_each(session: &Session, jobs: &[JobId]) -> Outcome<Vec<Run>> {
    let jobs: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    let launched: Vec<RunState> = RunState::ALL.into_iter().filter(|state| *state != RunState::Skipped).collect();
    query(&**session, sql!("run_last_of_each"), &[&jobs, &names(&launched)]).await?.iter().map(read).collect()
}

/// Reads the columns in the order that all queries of runs name them in.
fn read(row: &Row) -> Outcome<Run> {
    let id = RunId(row.try_get(0)?);
    let bad = |what: &str| StoreError::Internal(format!("run {id}: its {what} can't be read"));
    let reason: Option<&str> = row.try_get(9)?;
    let attempt: i64 = row.try_get(7)?;
    Ok(Run {
        id,
        job_id: JobId(row.try_get(1)?),
        job_name: unescape(row.try_get(2)?),
        job_revision: unsigned(row.try_get(3)?)?,
        trigger: Trigger::from_name(row.try_get(4)?).ok_or_else(|| bad("trigger"))?,
        retry_of: row.try_get::<_, Option<Uuid>>(5)?.map(RunId),
        scheduled_at: UnixMs(row.try_get(6)?),
        attempt: u32::try_from(attempt).map_err(|_| bad("attempt"))?,
        state: RunState::from_name(row.try_get(8)?).ok_or_else(|| bad("state"))?,
        reason: reason.map(|name| Reason::from_name(name).ok_or_else(|| bad("reason"))).transpose()?,
        worker_id: row.try_get::<_, Option<String>>(10)?.map(|id| WorkerId(unescape(id))),
        started_at: row.try_get::<_, Option<i64>>(11)?.map(UnixMs),
        finished_at: row.try_get::<_, Option<i64>>(12)?.map(UnixMs),
        exit_code: row.try_get(13)?,
        signal: row.try_get(14)?,
        error: row.try_get::<_, Option<String>>(15)?.map(unescape),
        output_bytes: unsigned(row.try_get(16)?)?,
        output_truncated: row.try_get(17)?,
        skipped_from: row.try_get::<_, Option<i64>>(18)?.map(UnixMs),
        skipped_count: row.try_get::<_, Option<i64>>(19)?.map(unsigned).transpose()?,
    })
}
