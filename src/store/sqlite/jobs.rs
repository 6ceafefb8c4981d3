//! Jobs and the feed of their changes, in SQL. Each function runs inside a transaction that its caller began.

use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params};

use super::{signed, sql, unsigned};
use crate::model::{Job, JobId, JobSpec, Revision, UnixMs};
use crate::store::codec::{decode_spec, encode_spec};
use crate::store::{Change, ChangeKind, JobFilter, JobPage, Result, StoreError, Written};

/// Tombstones that one call forgets, at most.
const TOMBSTONES_BATCH_MAX: u32 = 10_000;

/// A row of `jobs`, with the specification as it is stored; none in a tombstone.
struct JobRow {
    id: JobId,
    revision: Revision,
    change_seq: u64,
    created_at: UnixMs,
    updated_at: UnixMs,
    effective_from: UnixMs,
    spec: Option<String>,
}

impl JobRow {
    fn read(row: &Row<'_>) -> Result<JobRow> {
        Ok(JobRow {
            id: JobId(row.get(0)?),
            revision: unsigned(row.get(1)?)?,
            change_seq: unsigned(row.get(2)?)?,
            created_at: UnixMs(row.get(3)?),
            updated_at: UnixMs(row.get(4)?),
            effective_from: UnixMs(row.get(5)?),
            spec: row.get(6)?,
        })
    }

    fn spec(&self) -> Result<JobSpec> {
        let text = self.spec.as_deref().ok_or(StoreError::NoSuchJob)?;
        decode_spec(self.id, text)
    }

    fn job(self) -> Result<Job> {
        let spec = self.spec()?;
        let JobRow { id, revision, change_seq, created_at, updated_at, effective_from, .. } = self;
        Ok(Job { id, revision, change_seq, created_at, updated_at, effective_from, spec })
    }
}

pub(super) fn create(connection: &Connection, spec: JobSpec, now: UnixMs) -> Result<Written> {
    let text = encode_spec(&spec)?;
    ensure_name_is_free(connection, &spec.name, None)?;
    let change_seq = next_change_seq(connection)?;
    let values = params![spec.name, spec.is_enabled, signed(change_seq)?, now.0, text];
    let id = connection.prepare_cached(sql!("job_insert"))?.query_row(values, |row| row.get(0))?;
    let job = Job { id: JobId(id), revision: 1, change_seq, created_at: now, updated_at: now, effective_from: now, spec };
    Ok(Written { job, is_new: true, is_changed: true })
}

pub(super) fn replace(connection: &Connection, id: JobId, expected: Option<Revision>, spec: JobSpec, now: UnixMs) -> Result<Written> {
    let old = find(connection, id)?.ok_or(StoreError::NoSuchJob)?;
    replace_row(connection, old, expected, spec, now)
}

pub(super) fn put_by_name(connection: &Connection, expected: Option<Revision>, spec: JobSpec, now: UnixMs) -> Result<Written> {
    match (find_by_name(connection, &spec.name)?, expected) {
        (Some(old), _) => replace_row(connection, old, expected, spec, now),
        (None, None) => create(connection, spec, now),
        (None, Some(_)) => Err(StoreError::NoSuchJob),
    }
}

fn replace_row(connection: &Connection, old: JobRow, expected: Option<Revision>, spec: JobSpec, now: UnixMs) -> Result<Written> {
    ensure_current(&old, expected)?;
    // A specification that can't be read any more is mended by writing it anew.
    if old.spec().is_ok_and(|old| old == spec) {
        return Ok(Written { job: old.job()?, is_new: false, is_changed: false });
    }
    let text = encode_spec(&spec)?;
    ensure_name_is_free(connection, &spec.name, Some(old.id))?;
    let change_seq = next_change_seq(connection)?;
    let (id, revision, created_at) = (old.id, old.revision + 1, old.created_at);
    let (updated_at, effective_from) = (now.max(old.updated_at), now.max(old.effective_from)); // PROTOCOL A3
    connection.prepare_cached(sql!("job_replace"))?.execute(params![
        id.0,
        spec.name,
        spec.is_enabled,
        signed(revision)?,
        signed(change_seq)?,
        updated_at.0,
        effective_from.0,
        text
    ])?;
    let job = Job { id, revision, change_seq, created_at, updated_at, effective_from, spec };
    Ok(Written { job, is_new: false, is_changed: true })
}

pub(super) fn delete(connection: &Connection, id: JobId, expected: Option<Revision>, now: UnixMs) -> Result<u64> {
    let old = find(connection, id)?.ok_or(StoreError::NoSuchJob)?;
    ensure_current(&old, expected)?;
    let change_seq = next_change_seq(connection)?;
    let effective_from = now.max(old.effective_from);
    let values = params![id.0, signed(old.revision + 1)?, signed(change_seq)?, now.0, effective_from.0];
    connection.prepare_cached(sql!("job_bury"))?.execute(values)?;
    Ok(change_seq)
}

fn ensure_current(row: &JobRow, expected: Option<Revision>) -> Result<()> {
    match expected {
        Some(expected) if expected != row.revision => Err(StoreError::Stale { current: row.revision }),
        _ => Ok(()),
    }
}

fn ensure_name_is_free(connection: &Connection, name: &str, but_for: Option<JobId>) -> Result<()> {
    let mut query = connection.prepare_cached(sql!("job_id_of_name"))?;
    match query.query_row([name], |row| row.get(0).map(JobId)).optional()? {
        Some(by) if Some(by) != but_for => Err(StoreError::NameTaken { name: name.into(), by }),
        _ => Ok(()),
    }
}

fn next_change_seq(connection: &Connection) -> Result<u64> {
    unsigned(connection.prepare_cached(sql!("meta_next_change_seq"))?.query_row([], |row| row.get(0))?)
}

fn find(connection: &Connection, id: JobId) -> Result<Option<JobRow>> {
    first(connection.prepare_cached(sql!("job_by_id"))?, [id.0])
}

fn find_by_name(connection: &Connection, name: &str) -> Result<Option<JobRow>> {
    first(connection.prepare_cached(sql!("job_by_name"))?, [name])
}

fn first(mut query: CachedStatement<'_>, params: impl rusqlite::Params) -> Result<Option<JobRow>> {
    query.query(params)?.next()?.map(JobRow::read).transpose()
}

pub(super) fn job(connection: &Connection, id: JobId) -> Result<Option<Job>> {
    find(connection, id)?.map(JobRow::job).transpose()
}

pub(super) fn job_by_name(connection: &Connection, name: &str) -> Result<Option<Job>> {
    find_by_name(connection, name)?.map(JobRow::job).transpose()
}

pub(super) fn list(connection: &Connection, filter: &JobFilter, after: Option<JobId>, limit: u32) -> Result<JobPage> {
    let name = filter.name.as_ref().map(|name| name.to_ascii_lowercase());
    let labels = if filter.labels.is_empty() { None } else { Some(serde_json::json!(filter.labels).to_string()) };
    let total = if *filter == JobFilter::default() {
        connection.prepare_cached(sql!("job_count"))?.query_row([], |row| row.get(0))?
    } else {
        connection.prepare_cached(sql!("job_count_matching"))?.query_row(params![name, filter.is_enabled, labels], |row| row.get(0))?
    };
    let mut query = connection.prepare_cached(sql!("job_list"))?;
    let after = after.map_or(0, |after| after.0);
    let mut rows = query.query(params![name, filter.is_enabled, labels, after, i64::from(limit) + 1])?;
    let (mut jobs, mut has_more) = (Vec::new(), false);
    while let Some(row) = rows.next()? {
        has_more = jobs.len() == limit as usize;
        if !has_more {
            jobs.push(JobRow::read(row)?.job()?);
        }
    }
    Ok(JobPage { jobs, total: unsigned(total)?, has_more })
}

pub(super) fn existed(connection: &Connection, id: JobId) -> Result<bool> {
    let newest: Option<i64> = connection.prepare_cached(sql!("job_id_newest"))?.query_row([], |row| row.get(0)).optional()?;
    Ok(id.0 >= 1 && newest.is_some_and(|newest| id.0 <= newest))
}

pub(super) fn changes(connection: &Connection, after: u64, limit: u32) -> Result<Vec<Change>> {
    let Ok(after) = signed(after) else { return Ok(Vec::new()) };
    let mut query = connection.prepare_cached(sql!("job_changes"))?;
    let mut rows = query.query(params![after, limit])?;
    let mut changes = Vec::new();
    while let Some(row) = rows.next()? {
        let row = JobRow::read(row)?;
        let seq = row.change_seq;
        let kind = match row.spec {
            Some(_) => ChangeKind::Put(Box::new(row.job()?)),
            None => ChangeKind::Drop { id: row.id, revision: row.revision, effective_from: row.effective_from },
        };
        changes.push(Change { seq, kind });
    }
    Ok(changes)
}

pub(super) fn change_seq(connection: &Connection) -> Result<u64> {
    unsigned(connection.prepare_cached(sql!("meta_change_seq"))?.query_row([], |row| row.get(0))?)
}

pub(super) fn prune_tombstones(connection: &Connection, up_to: u64, older_than: UnixMs) -> Result<u64> {
    let up_to = i64::try_from(up_to).unwrap_or(i64::MAX);
    let gone = connection.prepare_cached(sql!("job_prune_tombstones"))?.execute(params![older_than.0, up_to, TOMBSTONES_BATCH_MAX])?;
    Ok(gone as u64)
}
