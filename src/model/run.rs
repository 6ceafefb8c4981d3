//! A run: one attempt at one launch, from its decision to its end. Also fires that were never launched, as `skipped`.

use serde::{Deserialize, Serialize};

use super::{JobId, Revision, RunId, UnixMs, WorkerId};

/// Where a run stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Decided, but no worker has it yet: it waits for an open run, its back-off, or a worker.
    Queued,
    /// Assigned to a worker, which starts it at its instant.
    Staged,
    Running,
    /// Exited with code 0.
    Succeeded,
    /// Exited with another code, died by a signal, or could not be started.
    Failed,
    /// Stopped because `timeout_s` was over.
    TimedOut,
    Cancelled,
    /// Never launched; `reason` says why.
    Skipped,
    /// Its worker is silent; the outcome is not known yet.
    Unreachable,
    /// The outcome will not be known.
    Lost,
}

impl RunState {
    pub const ALL: [RunState; 10] = [
        RunState::Queued,
        RunState::Staged,
        RunState::Running,
        RunState::Succeeded,
        RunState::Failed,
        RunState::TimedOut,
        RunState::Cancelled,
        RunState::Skipped,
        RunState::Unreachable,
        RunState::Lost,
    ];

    /// Whether the run has ended. Only `lost` may still be corrected, by its true outcome (PROTOCOL F3).
    pub fn is_final(self) -> bool {
        !matches!(self, RunState::Queued | RunState::Staged | RunState::Running | RunState::Unreachable)
    }

    /// Whether a run in this state may be seen in `next` afterwards.
    pub fn may_become(self, next: RunState) -> bool {
        use RunState::*;
        match self {
            Queued => matches!(next, Staged | Skipped | Cancelled | Failed),
            Staged => matches!(next, Queued | Running | Succeeded | Failed | TimedOut | Cancelled | Skipped | Unreachable | Lost),
            Running => matches!(next, Succeeded | Failed | TimedOut | Cancelled | Unreachable | Lost),
            Unreachable => matches!(next, Queued | Staged | Running | Succeeded | Failed | TimedOut | Cancelled | Skipped | Lost),
            Lost => matches!(next, Succeeded | Failed | TimedOut | Cancelled),
            Succeeded | Failed | TimedOut | Cancelled | Skipped => false,
        }
    }

    /// The name in JSON, SQL and logs.
    pub fn name(self) -> &'static str {
        match self {
            RunState::Queued => "queued",
            RunState::Staged => "staged",
            RunState::Running => "running",
            RunState::Succeeded => "succeeded",
            RunState::Failed => "failed",
            RunState::TimedOut => "timed_out",
            RunState::Cancelled => "cancelled",
            RunState::Skipped => "skipped",
            RunState::Unreachable => "unreachable",
            RunState::Lost => "lost",
        }
    }

    pub fn from_name(name: &str) -> Option<RunState> {
        RunState::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// What asked for a run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    Schedule,
    Manual,
    Retry,
    CatchUp,
}

impl Trigger {
    pub const ALL: [Trigger; 4] = [Trigger::Schedule, Trigger::Manual, Trigger::Retry, Trigger::CatchUp];

    pub fn name(self) -> &'static str {
        match self {
            Trigger::Schedule => "schedule",
            Trigger::Manual => "manual",
            Trigger::Retry => "retry",
            Trigger::CatchUp => "catch_up",
        }
    }

    pub fn from_name(name: &str) -> Option<Trigger> {
        Trigger::ALL.into_iter().find(|trigger| trigger.name() == name)
    }
}

/// Why a fire was not launched, or why a run ended other than by itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Another run of the job was open (`overlap`).
    Overlap,
    /// Could not start within `start_deadline_s`, and `catch_up` did not ask for it.
    Missed,
    /// The job was edited, or a newer fire took its place.
    Superseded,
    /// The job was paused or deleted before the run started.
    Revoked,
    /// A fire was already waiting (`overlap: queue_one`).
    QueueFull,
    /// A newer fire of the job took its place while it ran (`overlap: replace`).
    Replaced,
    /// Somebody cancelled it.
    Requested,
    /// The worker was told to stop and ended its runs.
    Drained,
    /// The worker process ended while the command may have been running.
    WorkerRestarted,
    /// No worker came back with an outcome in time.
    WorkerLost,
}

impl Reason {
    pub const ALL: [Reason; 10] = [
        Reason::Overlap,
        Reason::Missed,
        Reason::Superseded,
        Reason::Revoked,
        Reason::QueueFull,
        Reason::Replaced,
        Reason::Requested,
        Reason::Drained,
        Reason::WorkerRestarted,
        Reason::WorkerLost,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Reason::Overlap => "overlap",
            Reason::Missed => "missed",
            Reason::Superseded => "superseded",
            Reason::Revoked => "revoked",
            Reason::QueueFull => "queue_full",
            Reason::Replaced => "replaced",
            Reason::Requested => "requested",
            Reason::Drained => "drained",
            Reason::WorkerRestarted => "worker_restarted",
            Reason::WorkerLost => "worker_lost",
        }
    }

    pub fn from_name(name: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

/// How an attempt ended, as its worker (or, for what never reached one, the ledger) says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// A final state.
    pub state: RunState,
    pub reason: Option<Reason>,
    pub started_at: Option<UnixMs>,
    pub finished_at: UnixMs,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// What went wrong, for people, where exit code and signal don't say it.
    pub error: Option<String>,
    /// Bytes that the command wrote, kept or not.
    pub output_bytes: u64,
    pub output_truncated: bool,
}

impl Outcome {
    /// The end of what never started.
    pub fn unstarted(state: RunState, reason: Option<Reason>, at: UnixMs) -> Outcome {
        Outcome {
            state,
            reason,
            started_at: None,
            finished_at: at,
            exit_code: None,
            signal: None,
            error: None,
            output_bytes: 0,
            output_truncated: false,
        }
    }
}

/// A run as users read it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Run {
    pub id: RunId,
    pub job_id: JobId,
    pub job_name: String,
    pub job_revision: Revision,
    pub trigger: Trigger,
    pub retry_of: Option<RunId>,
    /// The fire's instant; of a row that stands for several skipped fires, the last one's.
    pub scheduled_at: UnixMs,
    pub attempt: u32,
    pub state: RunState,
    pub reason: Option<Reason>,
    pub worker_id: Option<WorkerId>,
    pub started_at: Option<UnixMs>,
    pub finished_at: Option<UnixMs>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub error: Option<String>,
    pub output_bytes: u64,
    pub output_truncated: bool,
    /// Of a row that stands for several skipped fires (PROTOCOL B9): the first one's instant, and how many they are.
    pub skipped_from: Option<UnixMs>,
    pub skipped_count: Option<u64>,
}

impl Run {
    /// Enters an outcome.
    pub fn close(&mut self, outcome: &Outcome) {
        self.state = outcome.state;
        self.reason = outcome.reason;
        self.started_at = outcome.started_at;
        self.finished_at = Some(outcome.finished_at);
        self.exit_code = outcome.exit_code;
        self.signal = outcome.signal;
        self.error = outcome.error.clone();
        self.output_bytes = outcome.output_bytes;
        self.output_truncated = outcome.output_truncated;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_json_names_and_read_back() {
        for state in RunState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
            assert_eq!(RunState::from_name(state.name()), Some(state));
        }
        for trigger in Trigger::ALL {
            assert_eq!(serde_json::to_value(trigger).unwrap(), trigger.name());
            assert_eq!(Trigger::from_name(trigger.name()), Some(trigger));
        }
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
            assert_eq!(Reason::from_name(reason.name()), Some(reason));
        }
    }

    #[test]
    fn a_final_state_stays_except_that_a_lost_run_may_turn_out() {
        for state in RunState::ALL {
            for next in RunState::ALL {
                if state.is_final() && state != RunState::Lost {
                    assert!(!state.may_become(next), "{state:?} -> {next:?}");
                }
                assert!(!(state == next && state.may_become(next)));
            }
        }
        assert!(RunState::Lost.may_become(RunState::Succeeded));
        assert!(!RunState::Lost.may_become(RunState::Running));
    }
}
