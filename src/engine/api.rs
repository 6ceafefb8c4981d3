//! What the rest of a controller may ask of its engine. Any controller answers all of it; what only the leader can do is passed on.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use crate::model::{ClusterId, Job, JobId, NodeId, OutputPart, Run, RunId, UnixMs, WorkerInfo};
use crate::store::RunFilter;

/// Why the engine does not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EngineError {
    #[error("there is no such job")]
    NoSuchJob,
    #[error("there is no such run")]
    NoSuchRun,
    /// Nobody leads, or the request was lost in a change of leader; it may be repeated.
    #[error("no leader: {0}")]
    NoLeader(String),
    /// A named limit is reached; it may be repeated later.
    #[error("too busy: {0}")]
    Busy(String),
    /// What is needed for a sure answer is away (the database, a worker).
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It can't be done as things are, and repeating it does not help.
    #[error("{0}")]
    Conflict(String),
}

/// What came of a request for a run.
#[derive(Clone, PartialEq, Debug)]
pub struct Triggered {
    pub run: Run,
    /// False: this Idempotency-Key has named this run before.
    pub is_new: bool,
}

/// A page of the output of a run that the store does not have yet.
#[derive(Clone, PartialEq, Debug)]
pub struct LiveOutput {
    pub parts: Vec<OutputPart>,
    /// Offset from which to go on.
    pub next: u64,
    /// The run has ended and nothing comes after `next`.
    pub is_complete: bool,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ClusterInfo {
    pub cluster_id: ClusterId,
    pub leader: Option<NodeId>,
    pub term: u64,
    pub commit: u64,
    pub applied: u64,
    pub members: Vec<MemberInfo>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct MemberInfo {
    pub id: NodeId,
    pub address: String,
    /// `leader`, `follower` or `learner`.
    pub role: &'static str,
    pub reachable: bool,
    pub applied: Option<u64>,
}

/// Whether this node does its part; each `Some` is a reason why not, for people.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Readiness {
    pub leader: Option<String>,
    pub store: Option<String>,
    pub worker: Option<String>,
    pub clock: Option<String>,
    /// Deciding stands still: a limit is reached (PROTOCOL B10).
    pub deciding: Option<String>,
}

impl Readiness {
    pub fn is_ready(&self) -> bool {
        *self == Readiness::default()
    }
}

#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// The checked clock (PROTOCOL A3, H); an error if it may not be trusted now.
    fn now(&self) -> Result<UnixMs, EngineError>;
    /// The same, for what it decides: waits, not for long, for a clock of which it is not known yet whether it may be trusted.
    async fn checked_now(&self) -> Result<UnixMs, EngineError>;
    /// The newest `change_seq` of a job that the ledger has.
    fn feed_position(&self) -> u64;
    /// Waits until the ledger has the change `change_seq` of a job (PROTOCOL A4); false if it takes longer than `patience`.
    async fn wait_applied(&self, change_seq: u64, patience: Duration) -> bool;

    /// Asks for a run now. Answers once the request is applied; the run is then open (or, by overlap, waiting or skipped).
    async fn trigger(&self, job: JobId, key: Option<String>) -> Result<Triggered, EngineError>;
    /// Asks for an end of a run. Answers once the request is applied, with the run as it is then; a run that has ended stays as it is.
    async fn cancel(&self, run: RunId) -> Result<Run, EngineError>;

    /// Waits until this node's ledger has what the leader's has now; not for long. Before it is said that there is no such thing.
    async fn catch_up(&self) {}

    /// A run that is open or not recorded yet.
    fn live_run(&self, id: RunId) -> Option<Run>;
    /// Open and unrecorded runs that match, newest first (by `scheduled_at`, then id). They go before the store's rows of the same id.
    fn live_runs(&self, filter: &RunFilter) -> Vec<Run>;
    /// The newest open or unrecorded run of a job that was launched (not `skipped`) and whose instant has come.
    fn live_last_run(&self, job: JobId) -> Option<Run>;
    /// Unstarted runs of older revisions of a job whose revocation is not proved yet (PROTOCOL, "Not guaranteed").
    fn pending_revocations(&self, job: JobId) -> u32;
    /// Output of a run that is live, from `from` on; waits up to `wait` for more while it goes on. None: the run is not live, the store has
    /// it.
    async fn live_output(&self, run: RunId, from: u64, bytes_max: u32, wait: Duration) -> Result<Option<LiveOutput>, EngineError>;

    /// A job as the ledger has it: for reads while the store is away.
    fn ledger_job(&self, id: JobId) -> Option<Job>;
    /// All jobs of the ledger, by id: for reads while the store is away.
    fn ledger_jobs(&self) -> Vec<Job>;

    fn workers(&self) -> Vec<WorkerInfo>;
    fn cluster(&self) -> ClusterInfo;
    /// Makes a controller a member: a learner first, and a voter once it has caught up. Answers when it is one of both; a member with this
    /// address stays as it is.
    async fn add_member(&self, id: NodeId, address: String) -> Result<(), EngineError>;
    /// Answers when the members have agreed to go on without it.
    async fn remove_member(&self, id: NodeId) -> Result<(), EngineError>;
    /// Hands leadership to `to`, or to the voter that lags least; answers when this has happened.
    async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<(), EngineError>;
    fn readiness(&self) -> Readiness;
}
