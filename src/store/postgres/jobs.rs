//! Jobs and the feed of their changes, in SQL. A write locks the row of the counters first; from there on it is alone, and what it reads
//! stays true until it commits.

use deadpool_postgres::{GenericClient, Transaction};
use tokio_postgres::Row;

use super::connect::Session;
use super::error::Outcome;
use super::text::escape;
use super::{execute, one, query, signed, sql, unsigned};
use crate::model::{Job, JobId, JobSpec, Revision, UnixMs};
use crate::store::codec::{decode_spec, encode_spec};
use crate::store::{Change, ChangeKind, JobFilter, JobPage, StoreError, Written};

/// Tombstones that one call forgets, at most.
const TOMBSTONES_BATCH_MAX: i64 = 10_000;

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
    /// Reads the columns in the order that all queries of jobs name them in, from the column `first` on.
    fn read(row: &Row, first: usize) -> Outcome<JobRow> {
        Ok(JobRow {
            id: JobId(row.try_get(first)?),
            revision: unsigned(row.try_get(first + 1)?)?,
            change_seq: unsigned(row.try_get(first + 2)?)?,
            created_at: UnixMs(row.try_get(first + 3)?),
            updated_at: UnixMs(row.try_get(first + 4)?),
            effective_from: UnixMs(row.try_get(first + 5)?),
            spec: row.try_get(first + 6)?,
        })
    }

    fn spec(&self) -> Outcome<JobSpec> {
        let text = self.spec.as_deref().ok_or(StoreError::NoSuchJob)?;
        Ok(decode_spec(self.id, text)?)
    }

    fn job(self) -> Outcome<Job> {
        let spec = self.spec()?;
        let JobRow { id, revision, change_seq, created_at, updated_at, effective_from, .. } = self;
        Ok(Job { id, revision, change_seq, created_at, updated_at, effective_from, spec })
    }
}

/// The row of the counters, locked (PROTOCOL A1).
struct Counters {
    change_seq: i64,
    job_id: i64,
}

impl Counters {
    async fn lock(transaction: &Transaction<'_>) -> Outcome<Counters> {
        let row = one(transaction, sql!("meta_lock"), &[]).await?;
        Ok(Counters { change_seq: row.try_get(0)?, job_id: row.try_get(1)? })
    }

    /// Writes the counters back, and tells who listens.
    async fn store(&self, transaction: &Transaction<'_>) -> Outcome<()> {
        query(transaction, sql!("meta_advance"), &[&self.change_seq, &self.job_id]).await.map(drop)
    }
}

pub(super) async fn create(session: &mut Session, spec: &JobSpec, now: UnixMs) -> Outcome<Written> {
    let transaction = session.transaction().await?;
    let counters = Counters::lock(&transaction).await?;
    let written = insert(&transaction, counters, spec, now).await?;
    transaction.commit().await?;
    Ok(written)
}

pub(super) async fn replace(session: &mut Session, id: JobId, expected: Option<Revision>, spec: &JobSpec, now: UnixMs) -> Outcome<Written> {
    let transaction = session.transaction().await?;
    let counters = Counters::lock(&transaction).await?;
    let old = find(&transaction, id).await?.ok_or(StoreError::NoSuchJob)?;
    let written = replace_row(&transaction, counters, old, expected, spec, now).await?;
    transaction.commit().await?;
    Ok(written)
}

pub(super) async fn put_by_name(session: &mut Session, expected: Option<Revision>, spec: &JobSpec, now: UnixMs) -> Outcome<Written> {
    let transaction = session.transaction().await?;
    let counters = Counters::lock(&transaction).await?;
    let written = match (find_by_name(&transaction, &spec.name).await?, expected) {
        (Some(old), _) => replace_row(&transaction, counters, old, expected, spec, now).await?,
        (None, None) => insert(&transaction, counters, spec, now).await?,
        (None, Some(_)) => return Err(StoreError::NoSuchJob.into()),
    };
    transaction.commit().await?;
    Ok(written)
}

async fn insert(transaction: &Transaction<'_>, mut counters: Counters, spec: &JobSpec, now: UnixMs) -> Outcome<Written> {
    let text = encode_spec(spec)?;
    ensure_name_is_free(transaction, &spec.name, None).await?;
    counters.change_seq += 1;
    counters.job_id += 1;
    let (id, seq) = (counters.job_id, counters.change_seq);
    let (name, labels) = (escape(&spec.name), labels(spec));
    execute(transaction, sql!("job_insert"), &[&id, &name, &spec.is_enabled, &labels, &seq, &now.0, &text]).await?;
    counters.store(transaction).await?;
    let (id, change_seq) = (JobId(id), unsigned(seq)?);
    let job = Job { id, revision: 1, change_seq, created_at: now, updated_at: now, effective_from: now, spec: spec.clone() };
    Ok(Written { job, is_new: true, is_changed: true })
}

async fn replace_row(
    transaction: &Transaction<'_>,
    mut counters: Counters,
    old: JobRow,
    expected: Option<Revision>,
    spec: &JobSpec,
    now: UnixMs,
) -> Outcome<Written> {
    ensure_current(&old, expected)?;
    // A specification that can't be read any more is mended by writing it anew.
    if old.spec().is_ok_and(|old| old == *spec) {
        return Ok(Written { job: old.job()?, is_new: false, is_changed: false });
    }
    let text = encode_spec(spec)?;
    ensure_name_is_free(transaction, &spec.name, Some(old.id)).await?;
    counters.change_seq += 1;
    let seq = counters.change_seq;
    let (id, revision, created_at) = (old.id, old.revision + 1, old.created_at);
    let (updated_at, effective_from) = (now.max(old.updated_at), now.max(old.effective_from)); // PROTOCOL A3
    let (name, labels) = (escape(&spec.name), labels(spec));
    execute(
        transaction,
        sql!("job_replace"),
        &[&id.0, &name, &spec.is_enabled, &labels, &signed(revision)?, &seq, &updated_at.0, &effective_from.0, &text],
    )
    .await?;
    counters.store(transaction).await?;
    let job = Job { id, revision, change_seq: unsigned(seq)?, created_at, updated_at, effective_from, spec: spec.clone() };
    Ok(Written { job, is_new: false, is_changed: true })
}

pub(super) async fn delete(session: &mut Session, id: JobId, expected: Option<Revision>, now: UnixMs) -> Outcome<u64> {
    let transaction = session.transaction().await?;
    let mut counters = Counters::lock(&transaction).await?;
    let old = find(&transaction, id).await?.ok_or(StoreError::NoSuchJob)?;
    ensure_current(&old, expected)?;
    counters.change_seq += 1;
    let (revision, effective_from) = (signed(old.revision + 1)?, now.max(old.effective_from));
    execute(&transaction, sql!("job_bury"), &[&id.0, &revision, &counters.change_seq, &now.0, &effective_from.0]).await?;
    counters.store(&transaction).await?;
    transaction.commit().await?;
    Ok(unsigned(counters.change_seq)?)
}

fn ensure_current(row: &JobRow, expected: Option<Revision>) -> Outcome<()> {
    match expected {
        Some(expected) if expected != row.revision => Err(StoreError::Stale { current: row.revision }.into()),
        _ => Ok(()),
    }
}

async fn ensure_name_is_free(transaction: &Transaction<'_>, name: &str, but_for: Option<JobId>) -> Outcome<()> {
    let rows = query(transaction, sql!("job_id_of_name"), &[&escape(name)]).await?;
    match rows.first().map(|row| row.try_get(0).map(JobId)).transpose()? {
        Some(by) if Some(by) != but_for => Err(StoreError::NameTaken { name: name.into(), by }.into()),
        _ => Ok(()),
    }
}

/// What the column `labels` holds. As JSON, so that no two labels look the same, and none holds a NUL.
fn labels(spec: &JobSpec) -> Vec<String> {
    spec.labels.iter().flat_map(|(name, value)| [label(name, None), label(name, Some(value))]).collect()
}

fn label(name: &str, value: Option<&str>) -> String {
    match value {
        None => serde_json::json!([name]).to_string(),
        Some(value) => serde_json::json!([name, value]).to_string(),
    }
}

async fn find(client: &impl GenericClient, id: JobId) -> Outcome<Option<JobRow>> {
    let rows = query(client, sql!("job_by_id"), &[&id.0]).await?;
    rows.first().map(|row| JobRow::read(row, 0)).transpose()
}

async fn find_by_name(client: &impl GenericClient, name: &str) -> Outcome<Option<JobRow>> {
    let rows = query(client, sql!("job_by_name"), &[&escape(name)]).await?;
    rows.first().map(|row| JobRow::read(row, 0)).transpose()
}

pub(super) async fn job(session: &Session, id: JobId) -> Outcome<Option<Job>> {
    find(&**session, id).await?.map(JobRow::job).transpose()
}

pub(super) async fn job_by_name(session: &Session, name: &str) -> Outcome<Option<Job>> {
    find_by_name(&**session, name).await?.map(JobRow::job).transpose()
}

pub(super) async fn list(session: &Session, filter: &JobFilter, after: Option<JobId>, limit: u32) -> Outcome<JobPage> {
    let name = filter.name.as_ref().map(|name| escape(&name.to_ascii_lowercase()).into_owned());
    let wanted: Vec<String> = filter.labels.iter().map(|(name, value)| label(name, value.as_deref())).collect();
    let wanted = (!wanted.is_empty()).then_some(wanted);
    let after = after.map_or(0, |after| after.0);
    let rows = query(&**session, sql!("job_list"), &[&name, &filter.is_enabled, &wanted, &after, &(i64::from(limit) + 1)]).await?;
    let total = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
    let mut jobs = Vec::new();
    for row in &rows {
        if row.try_get::<_, Option<i64>>(1)?.is_some() && jobs.len() < limit as usize {
            jobs.push(JobRow::read(row, 1)?.job()?);
        }
    }
    Ok(JobPage { jobs, total: unsigned(total)?, has_more: rows.len() > limit as usize && rows[0].try_get::<_, Option<i64>>(1)?.is_some() })
}

pub(super) async fn existed(session: &Session, id: JobId) -> Outcome<bool> {
    let newest: i64 = one(&**session, sql!("meta_numbers"), &[]).await?.try_get(1)?;
    Ok(id.0 >= 1 && id.0 <= newest)
}

pub(super) async fn changes(session: &Session, after: u64, limit: u32) -> Outcome<Vec<Change>> {
    let Ok(after) = signed(after) else { return Ok(Vec::new()) };
    let rows = query(&**session, sql!("job_changes"), &[&after, &i64::from(limit)]).await?;
    let change = |row: &Row| -> Outcome<Change> {
        let row = JobRow::read(row, 0)?;
        let seq = row.change_seq;
        let kind = match row.spec {
            Some(_) => ChangeKind::Put(Box::new(row.job()?)),
            None => ChangeKind::Drop { id: row.id, revision: row.revision, effective_from: row.effective_from },
        };
        Ok(Change { seq, kind })
    };
    rows.iter().map(change).collect()
}

pub(super) async fn change_seq(session: &Session) -> Outcome<u64> {
    Ok(unsigned(one(&**session, sql!("meta_numbers"), &[]).await?.try_get(0)?)?)
}

pub(super) async fn prune_tombstones(session: &Session, up_to: u64, older_than: UnixMs) -> Outcome<u64> {
    let up_to = i64::try_from(up_to).unwrap_or(i64::MAX);
    execute(&**session, sql!("job_prune_tombstones"), &[&older_than.0, &up_to, &TOMBSTONES_BATCH_MAX]).await
}
