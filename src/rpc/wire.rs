//! The two services. Orders go from the leader to a worker; heartbeats and reports go from a worker to the controllers.
//!
//! Instants of civil time (`UnixMs`) mean nothing on another machine unless a reading of the sender's clock stands beside them;
//! everything that must hold in spite of a clock being set is a duration, counted on CLOCK_BOOTTIME by its receiver.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{ClusterId, Epoch, JobId, NodeId, Outcome, OutputPart, RunId, SessionId, UnixMs, WorkerId};

/// Version of these words; a peer with another one is refused at the handshake.
pub const PROTOCOL_VERSION: u32 = 1;
/// Bytes of one frame, at most: a full stage batch or a page of output with room to spare.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of output in one answer, at most.
pub const OUTPUT_PAGE_BYTES_MAX: u32 = 1024 * 1024;
/// Bytes of a run's output that travel in its report; more is fetched by `read_output`.
pub const INLINE_OUTPUT_BYTES_MAX: usize = 16 * 1024;
/// Bytes of specifications (commands, environments) in one stage call, at most; and runs in it.
pub const STAGE_BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
pub const STAGE_BATCH_RUNS_MAX: usize = 1_000;
/// Runs in one report, at most.
pub const REPORT_BATCH_RUNS_MAX: usize = 1_000;

/// An order to a worker names who gives it and whom it is for; a worker refuses what is lower or other than it knows (PROTOCOL C2).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order<T> {
    pub cluster: ClusterId,
    pub term: u64,
    pub session: SessionId,
    pub body: T,
}

/// Why a peer does not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("this is cluster {ours}, not {theirs}")]
    OtherCluster { ours: ClusterId, theirs: ClusterId },
    #[error("term {seen} has been seen; {given} is over")]
    OldTerm { seen: u64, given: u64 },
    #[error("session {given} is not open here (ours: {ours:?})")]
    OtherSession { ours: Option<SessionId>, given: SessionId },
    /// `address`: where the leader is, for who doesn't know it.
    #[error("not the leader ({})", known_leader(leader, address))]
    NotLeader { leader: Option<NodeId>, address: Option<String> },
    /// May be repeated soon. Also a worker's answer to an order for a session that is being opened: the leader has applied it, and its
    /// answer has not arrived there yet.
    #[error("too busy: {what}")]
    Busy { what: String },
    #[error("unknown run {0}")]
    UnknownRun(RunId),
    #[error("{0}")]
    Failed(String),
    /// It can't be done as things are.
    #[error("{0}")]
    Conflict(String),
    /// Of a session that is to be opened: this data directory has had one since the one that is to be followed. Perhaps its answer was
    /// lost, and it is to be followed now.
    #[error("session {newest} has been opened since")]
    NewerSession { newest: SessionId },
}

fn known_leader(leader: &Option<NodeId>, address: &Option<String>) -> String {
    match (leader, address) {
        (None, _) => "none is known".into(),
        (Some(leader), None) => format!("node {leader} leads"),
        (Some(leader), Some(address)) => format!("node {leader} at {address} leads"),
    }
}

/// The service of a worker.
#[tarpc::service]
pub trait Worker {
    /// Takes runs to start at their instants. Repeating a stage with the same epoch changes nothing.
    async fn stage(order: Order<Vec<Stage>>) -> Result<Vec<StageAck>, Refusal>;
    /// Takes runs back, if they have not started.
    async fn revoke(order: Order<Vec<RunRef>>) -> Result<Vec<RevokeAck>, Refusal>;
    /// Ends runs: one that has not started never will, one that runs is stopped.
    async fn cancel(order: Order<Vec<Cancel>>) -> Result<(), Refusal>;
    /// All that this session holds.
    async fn list(order: Order<()>) -> Result<Vec<HeldRun>, Refusal>;
    /// A page of a run's output, running or in the spool. Waits up to `wait_ms` for more while the run goes on.
    async fn read_output(request: ReadOutput) -> Result<OutputPage, Refusal>;
    /// How it is; for whoever looks after the process.
    async fn health() -> WorkerHealth;
}

/// What a worker says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkerHealth {
    /// None: no controller has taken it yet, or its lease is over.
    pub session: Option<SessionId>,
    pub is_draining: bool,
    /// Why it takes no work, if it can't.
    pub trouble: Option<String>,
}

/// One run to start.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Stage {
    pub run: RunId,
    pub epoch: Epoch,
    pub job: JobId,
    pub job_name: String,
    pub attempt: u32,
    /// The fire's instant, for the command's environment.
    pub scheduled_at: UnixMs,
    /// When to start by the wall clock, and the same as a duration from when this message was sent (negative: overdue). The worker
    /// converts once to BOOTTIME and starts no earlier than receipt + `in_ms` − `max_skew_ms` (PROTOCOL C6).
    pub start_at: UnixMs,
    pub in_ms: i64,
    pub max_skew_ms: i64,
    /// Not to be started later than so many milliseconds after receipt; none: whenever the permit allows.
    pub not_after_in_ms: Option<i64>,
    pub task: Task,
}

/// What to execute, and within which limits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// For `sh -c`.
    pub command: String,
    /// Added to the clean base environment; never logged.
    pub env: BTreeMap<String, String>,
    pub working_dir: Option<String>,
    pub timeout_ms: Option<u64>,
    pub kill_grace_ms: u64,
    pub max_output_bytes: u64,
    /// Stopped by the guardian when the session's lease is over: another worker gets a new attempt then (PROTOCOL C5, D2).
    pub ends_with_lease: bool,
}

impl fmt::Debug for Task {
    /// Without the values of the environment, which are in no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Task { command, env, working_dir, timeout_ms, kill_grace_ms, max_output_bytes, ends_with_lease } = self;
        f.debug_struct("Task")
            .field("command", command)
            .field("env", &env.keys().collect::<Vec<_>>())
            .field("working_dir", working_dir)
            .field("timeout_ms", timeout_ms)
            .field("kill_grace_ms", kill_grace_ms)
            .field("max_output_bytes", max_output_bytes)
            .field("ends_with_lease", ends_with_lease)
            .finish()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RunRef {
    pub run: RunId,
    pub epoch: Epoch,
}

/// The answer to one staged run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StageAck {
    pub run: RunId,
    pub epoch: Epoch,
    pub result: StageResult,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StageResult {
    /// It is in the journal and will start at its instant; also the answer to a repetition, whatever became of the run since.
    Accepted,
    /// This (run, epoch) or a later one was revoked here, or lies below the floor: it did not and will not start.
    Revoked,
    /// Drain, full spool or journal error: it did not start under this epoch, and will not. Nothing is kept of that: orders come in their
    /// order, so that this one has no copy that could come later.
    Declined(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RevokeAck {
    pub run: RunId,
    pub epoch: Epoch,
    /// True proves that the run did not start under this epoch and never will in this session (PROTOCOL D1, E1); false: it may have
    /// started.
    pub not_started: bool,
}

/// An end that somebody asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cancel {
    pub run: RunId,
    pub epoch: Epoch,
    pub reason: crate::model::Reason,
}

/// What a session holds of one run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldRun {
    pub run: RunId,
    pub epoch: Epoch,
    pub phase: HeldPhase,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HeldPhase {
    /// Accepted, not started.
    Waiting,
    Running {
        started_at: UnixMs,
    },
    /// Ended; its report is not acknowledged, or its record not confirmed.
    Ended,
    /// A tombstone.
    Revoked,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadOutput {
    pub cluster: ClusterId,
    pub run: RunId,
    /// Offset of the first byte wanted (see `model::output`).
    pub from: u64,
    /// At most OUTPUT_PAGE_BYTES_MAX are sent, whatever is asked.
    pub bytes_max: u32,
    pub wait_ms: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OutputPage {
    pub parts: Vec<OutputPart>,
    /// Offset from which to go on.
    pub next: u64,
    /// The run has ended and nothing comes after `next`.
    pub is_complete: bool,
}

/// The service of a controller.
#[tarpc::service]
pub trait Controller {
    /// Begins a life of a worker; answered when `OpenSession` is applied (PROTOCOL C1). Only the leader can.
    async fn open_session(request: OpenSession) -> Result<SessionOpened, Refusal>;
    /// Says that a session lives. Every controller takes it; only the leader grants.
    async fn heartbeat(heartbeat: Heartbeat) -> Result<Grant, Refusal>;
    /// Brings what has happened to runs. Only the leader takes it (PROTOCOL E5); answered when the ends are applied.
    async fn report(report: Report) -> Result<ReportAck, Refusal>;
    /// Ends a session for good: its worker stops, nothing of it runs, all ends are acknowledged, and it starts nothing more. Only the
    /// leader takes it; a session that is not known is over already.
    async fn close_session(request: CloseSession) -> Result<(), Refusal>;
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OpenSession {
    /// None: a worker that has never belonged to a cluster; it joins the one that answers.
    pub cluster: Option<ClusterId>,
    pub protocol_version: u32,
    pub worker: WorkerId,
    /// The UUID of the worker's data directory.
    pub data_dir: Uuid,
    /// Where the leader reaches it.
    pub address: String,
    pub labels: BTreeMap<String, String>,
    pub slots: u32,
    /// The worker's wall clock when it sent this.
    pub now: UnixMs,
    /// The last session of this data directory that the worker has heard of; it is over. The new one is opened only if no other has been
    /// opened since.
    pub previous: Option<SessionId>,
    /// What the journal proves of earlier lives (PROTOCOL D1, E2): every run that was accepted and not started.
    pub not_started: Vec<RunRef>,
    /// Runs whose process lives on under this agent (its lease lapsed, the process did not end): adopted.
    pub adopted: Vec<RunRef>,
    /// Runs that have ended or may have started in an earlier life come by `report`; listed so that the leader expects them.
    pub to_report: Vec<RunRef>,
    /// False after another boot of the machine: the journal may lack its last records, so that a run that it doesn't mention may have
    /// been accepted and started (PROTOCOL E1).
    pub journal_is_whole: bool,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SessionOpened {
    pub cluster: ClusterId,
    pub session: SessionId,
    pub term: u64,
    /// As in `Grant`, counted from when the request was sent.
    pub grant: Grant,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CloseSession {
    pub cluster: ClusterId,
    pub worker: WorkerId,
    pub session: SessionId,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    pub cluster: ClusterId,
    pub worker: WorkerId,
    pub session: SessionId,
    /// The worker's wall clock when it sent this.
    pub now: UnixMs,
    pub slots: u32,
    pub running: u32,
    /// Runs held and not started.
    pub waiting: u32,
    pub is_draining: bool,
    /// Why the worker takes no work, if it can't (full spool, …).
    pub trouble: Option<String>,
}

/// A lease, counted by the worker from when it sent the request that this answers (PROTOCOL C3, C5).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Grant {
    pub term: u64,
    /// The controller's wall clock when it answered.
    pub now: UnixMs,
    /// Runs may be started until so many milliseconds after the heartbeat was sent.
    pub permit_ms: u64,
    /// The session ends so many milliseconds after the heartbeat was sent.
    pub lease_ms: u64,
    /// Every run whose end was applied at or below this ledger index is in the store: its spool may go (PROTOCOL E4).
    pub recorded_up_to: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    pub cluster: ClusterId,
    pub worker: WorkerId,
    pub session: SessionId,
    pub runs: Vec<RunReport>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RunReport {
    pub run: RunId,
    pub epoch: Epoch,
    pub event: RunEvent,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum RunEvent {
    /// The command runs. Told once, as news; not repeated until acknowledged.
    Started { at: UnixMs },
    /// It has ended, and its process group is gone. Repeated until acknowledged.
    Ended {
        outcome: Outcome,
        /// All of the output if it is small (INLINE_OUTPUT_BYTES_MAX), else none: it is in the spool.
        output: Option<Vec<OutputPart>>,
    },
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReportAck {
    pub term: u64,
    /// For each `Ended` of the report, in its order: the ledger index at which the run's end was applied, 0 if the run is known to be
    /// recorded already, none if it is to be reported again.
    pub closed_at: Vec<Option<u64>>,
}
