//! The store of standalone: one SQLite file, with jobs and history.
//!
//! - Durable: write-ahead log with `synchronous = FULL`, so that a commit has been synced when a call answers (PROTOCOL F2).
//! - One thread writes, a few read; each has a connection of its own (`lane`). Writes that wait together share a transaction.
//! - Small: page caches of 2 MiB together, a WAL of about 32 MiB. The file does not shrink; what pruning frees is used again.
//! - SQL lies in `sql/sqlite`: numbered migrations, and one file a query.
//! - Left out: locking the file against a second instance. The data directory around it is locked by whoever opens it.

mod error;
mod jobs;
mod lane;
mod open;
mod output;
mod runs;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use self::lane::Lane;
use super::{
    Change, JobFilter, JobPage, RecordBatch, Result, Retention, RunCursor, RunFilter, SetAside, Store, StoreError, StoredOutput, Written,
};
use crate::model::{ClusterId, Job, JobId, JobSpec, Revision, Run, RunId, UnixMs};

/// Threads that read, each with a connection.
const READERS: usize = 2;
/// How long `close` waits for what is queued and for the WAL to be emptied.
const CLOSE_WAIT_MS_MAX: u64 = 30_000;
/// How many rows a change of a job writes, about.
const JOB_ROWS: usize = 2;
/// Bytes of output that count as one row.
const OUTPUT_BYTES_PER_ROW: usize = 1_024;

/// The text of a query, by the name of its file.
macro_rules! sql {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/sqlite/queries/", $name, ".sql"))
    };
}
use sql;

/// An open store. `close` ends it in order; dropping it ends its threads too, after what is queued, but waits for nothing.
pub struct SqliteStore {
    path: PathBuf,
    writer: Lane,
    readers: Lane,
    signal: watch::Receiver<u64>,
}

impl SqliteStore {
    /// Opens the store in the file `path`, which is made if there is none. Blocks, for some tens of milliseconds at most; a new schema
    /// takes longer.
    ///
    /// # Errors
    /// `Refused`: the file is not a store of Chrono-Flow, is damaged, or is a newer version's. `Unavailable`: it can't be opened or
    /// written. The message names the file and says what to do.
    pub fn open(path: &Path) -> Result<SqliteStore> {
        let connection = open::writer(path)?;
        let readers = (0..READERS).map(|_| open::reader(path)).collect::<Result<Vec<Connection>>>()?;
        let (sender, signal) = watch::channel(jobs::change_seq(&connection)?);
        let committed = move |connection: &Connection| {
            // Only a wake-up: a reader that misses it polls.
            if let Ok(seq) = jobs::change_seq(connection) {
                sender.send_if_modified(|known| std::mem::replace(known, seq) != seq);
            }
        };
        let writer = Lane::writer(connection, committed)?;
        Ok(SqliteStore { path: path.to_path_buf(), writer, readers: Lane::readers(readers)?, signal })
    }

    /// Ends the store: what is queued is done, then the WAL is emptied into the file and all is closed. Calls that come later answer
    /// `Unavailable`. May be called more than once.
    ///
    /// # Errors
    /// `Unavailable`, if that takes too long; what was acknowledged is safe all the same.
    pub async fn close(&self) -> Result<()> {
        let stop = async {
            self.readers.stop().await; // first, because the last to leave empties the WAL
            self.writer.stop().await;
        };
        let stopped = timeout(Duration::from_millis(CLOSE_WAIT_MS_MAX), stop).await;
        stopped.map_err(|_| StoreError::Unavailable(format!("it was not closed within {CLOSE_WAIT_MS_MAX} ms")))
    }

    async fn read<T: Send + 'static>(&self, work: impl FnOnce(&Connection) -> Result<T> + Send + 'static) -> Result<T> {
        self.readers.call(0, work).await
    }

    async fn write<T: Send + 'static>(&self, rows: usize, work: impl FnOnce(&Connection) -> Result<T> + Send + 'static) -> Result<T> {
        self.writer.call(rows, work).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn bind_cluster(&self, cluster: ClusterId) -> Result<()> {
        let path = self.path.clone();
        self.write(1, move |connection| bind_cluster(connection, cluster, &path)).await
    }

    async fn cluster(&self) -> Result<Option<ClusterId>> {
        self.read(cluster_of).await
    }

    async fn found_cluster(&self, candidate: ClusterId) -> Result<ClusterId> {
        self.write(1, move |connection| found_cluster(connection, candidate)).await
    }

    async fn create_job(&self, spec: JobSpec, now: UnixMs) -> Result<Written> {
        self.write(JOB_ROWS, move |connection| jobs::create(connection, spec, now)).await
    }

    async fn replace_job(&self, id: JobId, expected: Option<Revision>, spec: JobSpec, now: UnixMs) -> Result<Written> {
        self.write(JOB_ROWS, move |connection| jobs::replace(connection, id, expected, spec, now)).await
    }

    async fn put_job_by_name(&self, expected: Option<Revision>, spec: JobSpec, now: UnixMs) -> Result<Written> {
        self.write(JOB_ROWS, move |connection| jobs::put_by_name(connection, expected, spec, now)).await
    }

    async fn delete_job(&self, id: JobId, expected: Option<Revision>, now: UnixMs) -> Result<u64> {
        self.write(JOB_ROWS, move |connection| jobs::delete(connection, id, expected, now)).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        self.read(move |connection| jobs::job(connection, id)).await
    }

    async fn job_by_name(&self, name: &str) -> Result<Option<Job>> {
        let name = name.to_owned();
        self.read(move |connection| jobs::job_by_name(connection, &name)).await
    }

    async fn jobs(&self, filter: &JobFilter, after: Option<JobId>, limit: u32) -> Result<JobPage> {
        let filter = filter.clone();
        self.read(move |connection| jobs::list(connection, &filter, after, limit)).await
    }

    async fn job_existed(&self, id: JobId) -> Result<bool> {
        self.read(move |connection| jobs::existed(connection, id)).await
    }

    async fn changes(&self, after: u64, limit: u32) -> Result<Vec<Change>> {
        self.read(move |connection| jobs::changes(connection, after, limit)).await
    }

    async fn change_seq(&self) -> Result<u64> {
        self.read(jobs::change_seq).await
    }

    fn change_signal(&self) -> watch::Receiver<u64> {
        self.signal.clone()
    }

    async fn prune_tombstones(&self, up_to: u64, older_than: UnixMs) -> Result<u64> {
        self.write(1, move |connection| jobs::prune_tombstones(connection, up_to, older_than)).await
    }

    async fn record(&self, batch: RecordBatch) -> Result<Vec<SetAside>> {
        let output: usize = batch.output.iter().flat_map(|page| &page.parts).map(|part| part.bytes.len()).sum();
        let rows = batch.runs.len() + batch.output.len() + output / OUTPUT_BYTES_PER_ROW;
        self.write(rows, move |connection| runs::record(connection, &batch)).await
    }

    async fn run(&self, id: RunId) -> Result<Option<Run>> {
        self.read(move |connection| runs::run(connection, id)).await
    }

    async fn runs(&self, filter: &RunFilter, after: Option<RunCursor>, limit: u32) -> Result<Vec<Run>> {
        let filter = filter.clone();
        self.read(move |connection| runs::list(connection, &filter, after, limit)).await
    }

    async fn last_runs(&self, jobs: &[JobId]) -> Result<Vec<Run>> {
        let jobs = jobs.to_vec();
        self.read(move |connection| runs::last_of_each(connection, &jobs)).await
    }

    async fn output(&self, run: RunId, offset: u64, bytes_max: u32) -> Result<StoredOutput> {
        self.read(move |connection| output::read(connection, run, offset, bytes_max)).await
    }

    async fn prune_runs(&self, retention: Retention) -> Result<u64> {
        self.write(retention.batch_max as usize, move |connection| runs::prune(connection, retention)).await
    }

    async fn check(&self) -> Result<()> {
        self.write(1, |connection| Ok(connection.prepare_cached(sql!("meta_check"))?.execute([]).map(drop)?)).await
    }
}

fn cluster_of(connection: &Connection) -> Result<Option<ClusterId>> {
    let id: Option<Vec<u8>> = connection.prepare_cached(sql!("meta_cluster"))?.query_row([], |row| row.get(0)).optional()?.flatten();
    let id = id.map(|bytes| Uuid::from_slice(&bytes).map(ClusterId)).transpose();
    id.map_err(|error| StoreError::Internal(format!("its cluster id can't be read: {error}")))
}

fn found_cluster(connection: &Connection, candidate: ClusterId) -> Result<ClusterId> {
    connection.prepare_cached(sql!("meta_bind_cluster"))?.execute(params![candidate.0.as_bytes()])?;
    Ok(cluster_of(connection)?.unwrap_or(candidate))
}

fn bind_cluster(connection: &Connection, cluster: ClusterId, path: &Path) -> Result<()> {
    match found_cluster(connection, cluster)? {
        bound if bound == cluster => Ok(()),
        bound => Err(StoreError::Refused(format!(
            "the store {} belongs to cluster {bound}, not to {cluster}; put back the data that it was made with, or move it away",
            path.display()
        ))),
    }
}

/// A number as SQLite holds it.
fn signed(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| StoreError::Internal(format!("the number {number} is beyond what a column holds")))
}

fn unsigned(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| StoreError::Internal(format!("a column holds {number}, which can't be")))
}
