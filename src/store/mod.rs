//! Jobs, as their users wrote them, and history, for reading. One trait; SQLite behind it in standalone, PostgreSQL in a cluster.
//!
//! What any store must do, beyond keeping what it was given (`tests/store` holds each to it):
//! - Writes of jobs are serial: each takes the next `change_seq` from one counter in its own transaction, so that the order of the
//!   numbers is the order of the commits (PROTOCOL A1). A number or an id is never used twice, a crash in between or not.
//! - `effective_from` never decreases from one revision of a job to the next (PROTOCOL A3).
//! - A row of history names the ledger index that it comes from and gives way only to a greater one (PROTOCOL F1).
//! - What a call has answered is on disk, fsync included (PROTOCOL F2).
//! - Time is passed in; no store reads a clock.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::model::{ClusterId, Job, JobId, JobSpec, OutputPart, Revision, Run, RunId, RunState, UnixMs};

mod codec;
pub mod postgres;
pub mod sqlite;

/// Why a store did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no such job")]
    NoSuchJob,
    #[error("the name `{name}` is taken by job {by}")]
    NameTaken { name: String, by: JobId },
    /// The caller's revision is not the current one.
    #[error("the job is at revision {current}")]
    Stale { current: Revision },
    /// The store can't be reached or can't write now; trying again later may help. Whether a write was done may be unknown.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store belongs to another cluster, or was made by a newer version; nothing was changed.
    #[error("{0}")]
    Refused(String),
    #[error("the store failed: {0}")]
    Internal(String),
}

pub type Result<T> = std::result::Result<T, StoreError>;

/// What a write of a job did.
#[derive(Clone, PartialEq, Debug)]
pub struct Written {
    pub job: Job,
    /// The job did not exist before.
    pub is_new: bool,
    /// False: the job was already as asked; nothing was written and its revision stays.
    pub is_changed: bool,
}

/// One entry of the change feed, in the order of `seq`. A job's change is its latest state: what came in between is not kept
/// (PROTOCOL A4).
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    pub seq: u64,
    pub kind: ChangeKind,
}

#[derive(Clone, PartialEq, Debug)]
pub enum ChangeKind {
    Put(Box<Job>),
    Drop { id: JobId, revision: Revision, effective_from: UnixMs },
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct JobFilter {
    /// Text that the name contains, whatever the case of ASCII letters.
    pub name: Option<String>,
    pub is_enabled: Option<bool>,
    /// Each pair must be among the job's labels; a value of none asks for the label alone.
    pub labels: Vec<(String, Option<String>)>,
}

/// Jobs in the order of their ids.
#[derive(Clone, PartialEq, Debug)]
pub struct JobPage {
    pub jobs: Vec<Job>,
    /// Jobs that match the filter on all pages together.
    pub total: u64,
    pub has_more: bool,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct RunFilter {
    pub job: Option<JobId>,
    /// Empty: all.
    pub states: Vec<RunState>,
    /// Scheduled at or after.
    pub since: Option<UnixMs>,
    /// Scheduled before.
    pub until: Option<UnixMs>,
}

/// A place in the history, which runs newest first: by `scheduled_at`, then by id, both descending.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct RunCursor {
    pub scheduled_at: UnixMs,
    pub id: RunId,
}

/// A row of history to be written. Of a run that has a row already, a greater `ledger_index` replaces all of it, any other is passed over.
#[derive(Clone, PartialEq, Debug)]
pub struct RunRecord {
    /// The ledger index that it comes from (PROTOCOL F1).
    pub ledger_index: u64,
    pub run: Run,
}

/// A page of a run's output to be written: consecutive parts, at most about a MiB. Pages of one run are named by the offset of their
/// first byte; writing one again replaces it. It may come before its run's row.
#[derive(Clone, PartialEq, Debug)]
pub struct OutputRecord {
    pub run: RunId,
    pub offset: u64,
    pub parts: Vec<OutputPart>,
}

/// What is written in one transaction.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RecordBatch {
    pub runs: Vec<RunRecord>,
    pub output: Vec<OutputRecord>,
}

/// A row that can't be written, however often it is tried; it is kept aside, with the reason, and does not stop the rest (PROTOCOL F4).
#[derive(Clone, PartialEq, Debug)]
pub struct SetAside {
    pub run: RunId,
    pub error: String,
}

/// Output read back: pages' parts from an offset on.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StoredOutput {
    pub parts: Vec<OutputPart>,
    /// Whether more comes behind the last of `parts`.
    pub has_more: bool,
}

/// How much history is kept; `None` means no limit.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Retention {
    /// Runs scheduled before this instant go.
    pub older_than: Option<UnixMs>,
    /// Beyond so many runs, the oldest go.
    pub runs_max: Option<u64>,
    /// Runs that one call removes at most, so that it doesn't hold up the others.
    pub batch_max: u32,
}

#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Ties the store to a cluster at the first call; later calls with another one are `Refused`.
    async fn bind_cluster(&self, cluster: ClusterId) -> Result<()>;
    async fn cluster(&self) -> Result<Option<ClusterId>>;
    /// Ties the store to the cluster `candidate`, unless it is tied already; answers the one that it is tied to. So of several founders
    /// of one cluster all learn the same id.
    async fn found_cluster(&self, candidate: ClusterId) -> Result<ClusterId>;

    async fn create_job(&self, spec: JobSpec, now: UnixMs) -> Result<Written>;
    /// Replaces a job's specification, if `expected` (none: whatever it is) is its current revision. The same specification again
    /// changes nothing. A deleted job is `NoSuchJob`, here and below.
    async fn replace_job(&self, id: JobId, expected: Option<Revision>, spec: JobSpec, now: UnixMs) -> Result<Written>;
    /// Creates the job of the specification's name, or replaces it. With a revision `expected` and no job: `NoSuchJob`.
    async fn put_job_by_name(&self, expected: Option<Revision>, spec: JobSpec, now: UnixMs) -> Result<Written>;
    /// Leaves a tombstone for the feed, frees the name, and keeps the history. Answers the tombstone's `change_seq`.
    async fn delete_job(&self, id: JobId, expected: Option<Revision>, now: UnixMs) -> Result<u64>;
    async fn job(&self, id: JobId) -> Result<Option<Job>>;
    async fn job_by_name(&self, name: &str) -> Result<Option<Job>>;
    /// Jobs behind `after` (an id) that match.
    async fn jobs(&self, filter: &JobFilter, after: Option<JobId>, limit: u32) -> Result<JobPage>;
    /// Whether a job of this id ever existed, deleted or not.
    async fn job_existed(&self, id: JobId) -> Result<bool>;

    /// Changes behind `after`, oldest first.
    async fn changes(&self, after: u64, limit: u32) -> Result<Vec<Change>>;
    /// The newest `change_seq`.
    async fn change_seq(&self) -> Result<u64>;
    /// Turns with each new `change_seq`; only wakes, may lag, and may be silent for long (PROTOCOL A2).
    fn change_signal(&self) -> watch::Receiver<u64>;
    /// Forgets tombstones that the feed has passed: `change_seq` at most `up_to` and deleted before `older_than`. Answers how many; a store
    /// may leave some for the next call.
    async fn prune_tombstones(&self, up_to: u64, older_than: UnixMs) -> Result<u64>;

    /// Writes history. Rows that can't be written are set aside; any other failure is of the batch as a whole, which may then be
    /// written again.
    async fn record(&self, batch: RecordBatch) -> Result<Vec<SetAside>>;
    async fn run(&self, id: RunId) -> Result<Option<Run>>;
    /// Runs behind `after`, newest first, that match; at most `limit`.
    async fn runs(&self, filter: &RunFilter, after: Option<RunCursor>, limit: u32) -> Result<Vec<Run>>;
    /// The newest run of each of these jobs that was launched (is not `skipped`), if there is one.
    async fn last_runs(&self, jobs: &[JobId]) -> Result<Vec<Run>>;
    /// A run's output from `offset` on, `bytes_max` bytes (at least 1) of it at most: parts are cut to start and end there.
    async fn output(&self, run: RunId, offset: u64, bytes_max: u32) -> Result<StoredOutput>;
    /// Removes history beyond `retention`, oldest first; answers how many runs went. Fewer than `batch_max`: nothing is left to remove.
    async fn prune_runs(&self, retention: Retention) -> Result<u64>;
    /// A write and its fsync that change nothing: whether the store works.
    async fn check(&self) -> Result<()>;
}
