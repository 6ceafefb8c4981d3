//! The words of the run table: what it is told, what it asks for, and what the journal keeps of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{ClusterId, Epoch, JobId, Outcome, OutputPart, Reason, RunId, RunState, SessionId, UnixMs};
use crate::rpc::wire::Task;

/// One instant as both clocks of this machine show it, in microseconds: BOOTTIME to measure, the wall to tell people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    pub boot_us: i64,
    pub wall_us: i64,
}

impl Now {
    /// The wall clock, in milliseconds.
    pub fn wall(self) -> UnixMs {
        UnixMs(self.wall_us.div_euclid(1000))
    }
}

/// Names one spawn at the guardian: never used twice in one life of the agent.
pub type Token = u64;

/// Everything that is needed to start a run.
#[derive(Clone, PartialEq, Debug)]
pub struct Launch {
    pub run: RunId,
    pub job: JobId,
    pub job_name: Arc<str>,
    pub attempt: u32,
    pub scheduled_at: UnixMs,
    pub task: Task,
}

/// How a main process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

/// Why a spawn did not come to a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SpawnFailure {
    /// Permit or deadline were over when the guardian looked: nothing was started.
    TooLate,
    /// The system refused; the text is for people.
    Failed(String),
}

/// What is left of a run's output when both of its pipes are closed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Captured {
    /// Bytes that the command wrote.
    pub bytes: u64,
    /// Not all of them were kept.
    pub is_truncated: bool,
    /// All that was kept, if it is small; else it is in the run's spool file.
    pub inline: Option<Vec<OutputPart>>,
    /// Bytes of the spool file.
    pub spooled_bytes: u64,
    /// Why output was lost, if it was by more than its limit.
    pub error: Option<String>,
}

/// An end that was asked for while the command ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    TimedOut,
    Cancelled(Reason),
    /// The lease ran out, and the run may not outlive it: a new attempt may have begun elsewhere (PROTOCOL D2).
    LeaseOver,
}

impl Ending {
    pub(super) fn state_and_reason(self) -> (RunState, Option<Reason>) {
        match self {
            Ending::TimedOut => (RunState::TimedOut, None),
            Ending::Cancelled(reason) => (RunState::Cancelled, Some(reason)),
            Ending::LeaseOver => (RunState::Lost, Some(Reason::WorkerLost)),
        }
    }
}

/// A run that has ended: what its report says, and what stays here until the store has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ended {
    pub run: RunId,
    pub epoch: Epoch,
    pub job: JobId,
    pub job_name: Arc<str>,
    pub outcome: Outcome,
    /// All of the output that was kept, if it is small; else none: it is in the spool.
    pub output: Option<Vec<OutputPart>>,
    /// Bytes of the spool file, 0 if there is none.
    pub spooled_bytes: u64,
}

impl Ended {
    /// Whether its output has been told in full with its report, as there was none.
    pub fn is_without_output(&self) -> bool {
        self.output.as_ref().is_some_and(Vec::is_empty)
    }

    /// Bytes of output that are held in memory and in the journal.
    pub fn inline_bytes(&self) -> u64 {
        self.output.iter().flatten().map(|part| part.bytes.len() as u64).sum()
    }
}

/// One line of the journal. The order of the variants is part of the format.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Record {
    /// A session was opened: proofs about what earlier ones did not start have been delivered. Repeated at the head of each file.
    Session { cluster: ClusterId, session: SessionId },
    /// A stage was taken.
    Accepted { run: RunId, epoch: Epoch, job: JobId, job_name: Arc<str> },
    /// Written before the spawn: from here on the run may have started (PROTOCOL E1).
    Starting { run: RunId },
    /// Its process lives. The start time in clock ticks tells it from a later process with the same number.
    Started { run: RunId, pid: u32, start_time_ticks: u64, at: UnixMs },
    /// The guardian refused to spawn: the run waits again.
    NotStarted { run: RunId },
    /// It has ended; also all that is known of it.
    Ended(Arc<Ended>),
    /// It did not start under this epoch and will not; written before that is acknowledged (PROTOCOL E1).
    Revoked { run: RunId, epoch: Epoch },
    /// The leader has its end, applied at this ledger index; 0: nothing of it needs to be kept here any more.
    Acknowledged { run: RunId, closed_at: u64 },
    /// The store has every run that was closed at or below this ledger index.
    RecordedUpTo { index: u64 },
    /// The machine was started anew, and records from before that may be missing (PROTOCOL E1): so it is until the next session, however
    /// often the process is started until then.
    NotWhole,
}

/// What the table asks of its driver, in this order: all journal records first, written, then the others.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    Journal(Record),
    Spawn {
        token: Token,
        launch: Arc<Launch>,
        /// The guardian refuses at this BOOTTIME or later.
        not_after_us: i64,
        /// How long after its instant the start is asked for.
        late_us: i64,
    },
    /// SIGTERM, the grace, SIGKILL.
    Stop {
        token: Token,
        grace_ms: u64,
        why: Ending,
    },
    /// The spawn came to nothing and its output is of no interest.
    DiscardOutput {
        token: Token,
    },
    /// The processes are gone and something else holds the pipes: stop reading, what was read is the output.
    CloseOutput {
        token: Token,
    },
    ReportStarted {
        run: RunId,
        epoch: Epoch,
        at: UnixMs,
    },
    ReportEnded(Arc<Ended>),
    /// It ended in an earlier life.
    ReportAgain(Arc<Ended>),
    /// The store has it: its spool file may go.
    Forget(Arc<Ended>),
    /// The guardian's fence moves.
    SetLease {
        permit_end_us: i64,
        lease_end_us: i64,
    },
    /// The session is over; a new one must be opened.
    SessionOver,
}
