//! Rows of history, in SQL. Each function runs inside a transaction that its caller began.
//!
//! A list of runs is the merge of one list for each state asked for (all, if none is): each comes out of an index in the right order,
//! and SQLite merges them (`UNION ALL … ORDER BY`) row by row, so that a page costs its own length, whatever the filter and however
//! long the history.

use rusqlite::{CachedStatement, Connection, Row, params};
use uuid::Uuid;

use super::error::is_of_the_row;
use super::{output, sql, unsigned};
use crate::model::{JobId, Reason, Run, RunId, RunState, Trigger, UnixMs, WorkerId};
use crate::store::{RecordBatch, Result, Retention, RunCursor, RunFilter, RunRecord, SetAside, StoreError};

/// Rows that are kept set aside, the newest; each was logged when it came.
const SET_ASIDE_ROWS_MAX: u32 = 10_000;
/// A set aside run is kept as JSON up to this size; beyond, the reason alone.
const SET_ASIDE_RUN_BYTES_MAX: usize = 64 * 1024;
/// Pages of output without a run that one call of `prune` removes, at most.
const ORPHANS_BATCH_MAX: u32 = 1_000;
/// Behind every id.
const ID_END: [u8; 17] = [0xff; 17];

/// Why a row was not written.
pub(super) enum RowError {
    /// It can't be, ever.
    Row(String),
    Store(StoreError),
}

impl From<rusqlite::Error> for RowError {
    fn from(error: rusqlite::Error) -> RowError {
        if is_of_the_row(&error) { RowError::Row(error.to_string()) } else { RowError::Store(error.into()) }
    }
}

/// A failed statement undoes itself alone, so that a bad row needs no search for it: the others stay and go on.
pub(super) fn record(connection: &Connection, batch: &RecordBatch) -> Result<Vec<SetAside>> {
    let mut aside = Vec::new();
    let mut runs_added = 0i64;
    let mut insert = connection.prepare_cached(sql!("run_insert"))?;
    let mut update = connection.prepare_cached(sql!("run_update"))?;
    for record in &batch.runs {
        match write_run(&mut insert, &mut update, record) {
            Ok(is_new) => runs_added += i64::from(is_new),
            Err(RowError::Row(error)) => {
                let run = serde_json::to_string(&record.run).ok().filter(|text| text.len() <= SET_ASIDE_RUN_BYTES_MAX);
                aside.push(set_aside(connection, record.run.id, "run", error, run)?);
            }
            Err(RowError::Store(error)) => return Err(error),
        }
    }
    for page in &batch.output {
        match output::write(connection, page) {
            Ok(()) => {}
            Err(RowError::Row(error)) => aside.push(set_aside(connection, page.run, &format!("output at {}", page.offset), error, None)?),
            Err(RowError::Store(error)) => return Err(error),
        }
    }
    if runs_added != 0 {
        connection.prepare_cached(sql!("meta_add_to_run_count"))?.execute([runs_added])?;
    }
    Ok(aside)
}

fn set_aside(connection: &Connection, id: RunId, what: &str, error: String, run: Option<String>) -> Result<SetAside> {
    log::error!("run {id}: its {what} can't be written to the history and is set aside: {error}");
    connection.prepare_cached(sql!("set_aside_put"))?.execute(params![id.0.as_bytes(), what, error, run])?;
    connection.prepare_cached(sql!("set_aside_trim"))?.execute([SET_ASIDE_ROWS_MAX])?;
    Ok(SetAside { run: id, error })
}

/// True: there was no row of this run before.
fn write_run(
    insert: &mut CachedStatement<'_>,
    update: &mut CachedStatement<'_>,
    record: &RunRecord,
) -> std::result::Result<bool, RowError> {
    let run = &record.run;
    let fits =
        |value: u64, what: &str| i64::try_from(value).map_err(|_| RowError::Row(format!("{what} {value} is beyond what a column holds")));
    let values = params![
        run.id.0.as_bytes(),
        run.job_id.0,
        run.job_name,
        fits(run.job_revision, "job_revision")?,
        run.trigger.name(),
        run.retry_of.as_ref().map(|id| id.0.as_bytes()),
        run.scheduled_at.0,
        run.attempt,
        run.state.name(),
        run.reason.map(Reason::name),
        run.worker_id.as_ref().map(|id| &id.0),
        run.started_at.map(|at| at.0),
        run.finished_at.map(|at| at.0),
        run.exit_code,
        run.signal,
        run.error,
        fits(run.output_bytes, "output_bytes")?,
        run.output_truncated,
        run.skipped_from.map(|at| at.0),
        run.skipped_count.map(|count| fits(count, "skipped_count")).transpose()?,
        fits(record.ledger_index, "ledger_index")?,
    ];
    if insert.execute(values)? == 1 {
        return Ok(true);
    }
    update.execute(values)?;
    Ok(false)
}

pub(super) fn run(connection: &Connection, id: RunId) -> Result<Option<Run>> {
    connection.prepare_cached(sql!("run_by_id"))?.query([id.0.as_bytes()])?.next()?.map(read).transpose()
}

pub(super) fn list(connection: &Connection, filter: &RunFilter, after: Option<RunCursor>, limit: u32) -> Result<Vec<Run>> {
    let part = if filter.job.is_some() { sql!("run_list_of_job_and_state") } else { sql!("run_list_of_state") };
    let text = merged(part, &filter.states, "scheduled_at DESC, id DESC", 4);
    let (below_at, below_id) = upper_bound(filter.until, after);
    let since = filter.since.map_or(i64::MIN, |since| since.0);
    let mut query = connection.prepare_cached(&text)?;
    let mut rows = match filter.job {
        Some(job) => query.query(params![below_at.0, below_id, since, limit, job.0])?,
        None => query.query(params![below_at.0, below_id, since, limit])?,
    };
    let mut runs = Vec::new();
    while let Some(row) = rows.next()? {
        runs.push(read(row)?);
    }
    Ok(runs)
}

/// The place in the order of the list below which rows are wanted.
fn upper_bound(until: Option<UnixMs>, after: Option<RunCursor>) -> (UnixMs, Vec<u8>) {
    let until = until.map(|until| (until, Vec::new())); // before all ids of that instant
    let after = after.map(|after| (after.scheduled_at, after.id.0.as_bytes().to_vec()));
    [until, after].into_iter().flatten().min().unwrap_or_else(|| (UnixMs(i64::MAX), ID_END.to_vec()))
}

/// The parts of a list, one for each of `states` (all, if none is named), merged in `order`; the limit is parameter number `limit`.
fn merged(part: &str, states: &[RunState], order: &str, limit: usize) -> String {
    let states = if states.is_empty() { &RunState::ALL[..] } else { states };
    // In a fixed order and each once, so that few different statements come of it.
    let asked = RunState::ALL.iter().filter(|state| states.contains(state));
    let parts: Vec<String> = asked.map(|state| part.replace("@state", &format!("'{}'", state.name()))).collect();
    format!("{} ORDER BY {order} LIMIT ?{limit}", parts.join(" UNION ALL "))
}

pub(super) fn last_of_each(connection: &Connection, jobs: &[JobId]) -> Result<Vec<Run>> {
    let launched: Vec<RunState> = RunState::ALL.into_iter().filter(|state| *state != RunState::Skipped).collect();
    let mut filter = RunFilter { job: None, states: launched, since: None, until: None };
    let mut last = Vec::new();
    for job in jobs {
        filter.job = Some(*job);
        last.extend(list(connection, &filter, None, 1)?);
    }
    Ok(last)
}

pub(super) fn prune(connection: &Connection, retention: Retention) -> Result<u64> {
    let batch = retention.batch_max.max(1);
    let count: i64 = connection.prepare_cached(sql!("meta_run_count"))?.query_row([], |row| row.get(0))?;
    let excess = retention.runs_max.map_or(0, |max| unsigned(count).unwrap_or(0).saturating_sub(max));
    let mut gone = Vec::new();
    {
        let text = merged(sql!("run_oldest_of_state"), &[], "scheduled_at, id", 1);
        let mut query = connection.prepare_cached(&text)?;
        let mut rows = query.query([batch])?;
        while let Some(row) = rows.next()? {
            let (id, scheduled_at) = (row.get::<_, Vec<u8>>(0)?, UnixMs(row.get(1)?));
            if (gone.len() as u64) < excess || retention.older_than.is_some_and(|limit| scheduled_at < limit) {
                gone.push(id);
            } else {
                break;
            }
        }
    }
    for id in &gone {
        connection.prepare_cached(sql!("run_delete"))?.execute([id])?;
        connection.prepare_cached(sql!("output_delete"))?.execute([id])?;
    }
    if !gone.is_empty() {
        connection.prepare_cached(sql!("meta_add_to_run_count"))?.execute([-(gone.len() as i64)])?;
    }
    if let (Some(limit), true) = (retention.older_than, gone.len() < batch as usize) {
        let lowest = RunId::at(limit, 0);
        connection.prepare_cached(sql!("output_delete_orphans"))?.execute(params![lowest.0.as_bytes(), ORPHANS_BATCH_MAX])?;
    }
    Ok(gone.len() as u64)
}

/// Reads the columns in the order that all queries of runs name them in.
fn read(row: &Row<'_>) -> Result<Run> {
    let id = RunId(uuid(&row.get::<_, Vec<u8>>(0)?)?);
    let bad = |what: &str| StoreError::Internal(format!("run {id}: its {what} can't be read"));
    let trigger: String = row.get(4)?;
    let state: String = row.get(8)?;
    let reason: Option<String> = row.get(9)?;
    let retry_of: Option<Vec<u8>> = row.get(5)?;
    let skipped_count: Option<i64> = row.get(19)?;
    Ok(Run {
        id,
        job_id: JobId(row.get(1)?),
        job_name: row.get(2)?,
        job_revision: unsigned(row.get(3)?)?,
        trigger: Trigger::from_name(&trigger).ok_or_else(|| bad("trigger"))?,
        retry_of: retry_of.map(|id| uuid(&id).map(RunId)).transpose()?,
        scheduled_at: UnixMs(row.get(6)?),
        attempt: row.get(7)?,
        state: RunState::from_name(&state).ok_or_else(|| bad("state"))?,
        reason: reason.map(|name| Reason::from_name(&name).ok_or_else(|| bad("reason"))).transpose()?,
        worker_id: row.get::<_, Option<String>>(10)?.map(WorkerId),
        started_at: row.get::<_, Option<i64>>(11)?.map(UnixMs),
        finished_at: row.get::<_, Option<i64>>(12)?.map(UnixMs),
        exit_code: row.get(13)?,
        signal: row.get(14)?,
        error: row.get(15)?,
        output_bytes: unsigned(row.get(16)?)?,
        output_truncated: row.get(17)?,
        skipped_from: row.get::<_, Option<i64>>(18)?.map(UnixMs),
        skipped_count: skipped_count.map(unsigned).transpose()?,
    })
}

fn uuid(bytes: &[u8]) -> Result<Uuid> {
    Uuid::from_slice(bytes).map_err(|error| StoreError::Internal(format!("an id of a run can't be read: {error}")))
}
