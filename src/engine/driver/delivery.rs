//! One batch of orders on its way to a worker: which call comes next, and what the answers come to. The calls themselves are the link's.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::engine::clock::Reading;
use crate::engine::staging::Orders;
use crate::ledger::{Ledger, OpenRun, Session};
use crate::model::{OnWorkerLost, RunId, SessionId, UnixMs};
use crate::mutation::{self, Mutation};
use crate::rpc::wire::{Cancel, RevokeAck, RunRef, STAGE_BATCH_BYTES_MAX, STAGE_BATCH_RUNS_MAX, Stage, StageAck, Task};

/// Orders for one session, as the ledger and the leader's term have them.
pub struct Batch {
    pub session: Arc<Session>,
    pub term: u64,
    /// The clocks as they were judged to be good.
    pub reading: Reading,
    pub stages: Vec<Stage>,
    pub orders: Orders,
}

impl Batch {
    pub fn new(session: Arc<Session>, term: u64, reading: Reading, orders: Orders, ledger: &Ledger) -> Batch {
        let stages = orders.stage.iter().filter_map(|id| ledger.open_run(*id)).map(|run| stage(run)).collect();
        Batch { session, term, reading, stages, orders }
    }
}

/// What a batch came to.
#[derive(Default)]
pub struct LinkEvent {
    pub session: SessionId,
    pub staged: Vec<StageAck>,
    pub revoked: Vec<RevokeAck>,
    /// What was not acknowledged.
    pub failed: Orders,
}

/// What a worker needs to know of a run. `in_ms` is entered when it is sent.
fn stage(run: &OpenRun) -> Stage {
    let spec = &run.job.spec;
    Stage {
        run: run.id,
        epoch: run.epoch,
        job: run.job.id,
        job_name: spec.name.to_string(),
        attempt: run.attempt,
        scheduled_at: run.scheduled_at,
        start_at: run.start_at,
        in_ms: 0,
        max_skew_ms: 0,
        not_after_in_ms: None,
        task: Task {
            command: spec.command.to_string(),
            env: spec.env.clone(),
            working_dir: spec.working_dir.as_ref().map(|dir| dir.to_string()),
            timeout_ms: spec.timeout_s.map(|s| u64::from(s) * 1000),
            kill_grace_ms: u64::from(spec.kill_grace_s) * 1000,
            max_output_bytes: u64::from(spec.max_output_bytes),
            ends_with_lease: spec.on_worker_lost == OnWorkerLost::Retry && !mutation::is(Mutation::RunsOutliveLease),
        },
    }
}

/// A call to a worker.
pub enum Call {
    Stage(Vec<Stage>),
    Revoke(Vec<RunRef>),
    Cancel(Vec<Cancel>),
}

/// What it came to.
pub enum Answer {
    Staged(Vec<StageAck>),
    Revoked(Vec<RevokeAck>),
    Cancelled,
    /// It did not come to an answer, or the worker refused.
    Failed,
}

/// First all stages, in calls of a size to send, then revocations, then cancellations: a run is taken back only after it was given.
pub struct Delivery {
    rest: VecDeque<Stage>,
    /// Those of the stage call on its way.
    staging: Vec<RunId>,
    /// What has not been acknowledged.
    orders: Orders,
    event: LinkEvent,
    has_asked: Asked,
}

#[derive(PartialEq, Eq)]
enum Asked {
    Stage,
    Revoke,
    Cancel,
}

impl Delivery {
    pub fn new(session: SessionId, stages: Vec<Stage>, orders: Orders) -> Delivery {
        let event = LinkEvent { session, ..LinkEvent::default() };
        Delivery { rest: stages.into(), staging: Vec::new(), orders, event, has_asked: Asked::Stage }
    }

    /// Whether a call is left to make.
    pub fn is_done(&self) -> bool {
        let may_revoke = self.has_asked == Asked::Stage && !self.orders.revoke.is_empty();
        let may_cancel = self.has_asked != Asked::Cancel && !self.orders.cancel.is_empty();
        self.rest.is_empty() && !may_revoke && !may_cancel
    }

    /// The next call; none: all is done.
    pub fn next(&mut self, now: UnixMs, skew_ms: i64) -> Option<Call> {
        if !self.rest.is_empty() {
            let mut chunk = self.next_chunk();
            self.staging = chunk.iter().map(|stage| stage.run).collect();
            for stage in &mut chunk {
                stage.in_ms = stage.start_at.since(now);
                stage.max_skew_ms = skew_ms;
            }
            return Some(Call::Stage(chunk));
        }
        if self.has_asked == Asked::Stage {
            self.has_asked = Asked::Revoke;
            if !self.orders.revoke.is_empty() {
                return Some(Call::Revoke(self.orders.revoke.iter().map(|(run, epoch)| RunRef { run: *run, epoch: *epoch }).collect()));
            }
        }
        if self.has_asked == Asked::Revoke {
            self.has_asked = Asked::Cancel;
            if !self.orders.cancel.is_empty() {
                let cancel = |(run, epoch, reason): &(RunId, _, _)| Cancel { run: *run, epoch: *epoch, reason: *reason };
                return Some(Call::Cancel(self.orders.cancel.iter().map(cancel).collect()));
            }
        }
        None
    }

    pub fn answered(&mut self, answer: Answer) {
        match (answer, &self.has_asked) {
            (Answer::Staged(acks), _) => self.event.staged.extend(acks),
            (Answer::Revoked(acks), _) => self.event.revoked = acks,
            (Answer::Cancelled, _) => {}
            (Answer::Failed, Asked::Stage) => {
                // Nothing that comes behind it was said.
                let unsent = std::mem::take(&mut self.rest).into_iter().map(|stage| stage.run);
                let stage = std::mem::take(&mut self.staging).into_iter().chain(unsent).collect();
                self.event.failed = Orders { stage, ..std::mem::take(&mut self.orders) };
            }
            (Answer::Failed, Asked::Revoke) => self.event.failed.revoke = std::mem::take(&mut self.orders.revoke),
            (Answer::Failed, Asked::Cancel) => self.event.failed.cancel = std::mem::take(&mut self.orders.cancel),
        }
    }

    pub fn finish(self) -> LinkEvent {
        self.event
    }

    /// As many stages as fit into one call.
    fn next_chunk(&mut self) -> Vec<Stage> {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while let Some(stage) = self.rest.front() {
            bytes += 500 + stage.task.command.len() + stage.task.env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            if !chunk.is_empty() && (bytes > STAGE_BATCH_BYTES_MAX || chunk.len() >= STAGE_BATCH_RUNS_MAX) {
                break;
            }
            chunk.extend(self.rest.pop_front());
        }
        chunk
    }
}
