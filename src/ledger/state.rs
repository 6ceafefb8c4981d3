//! The ledger's state. Every map shares its structure with its clones, so that a clone is a snapshot and costs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{ClusterId, Epoch, Job, JobId, Reason, Revision, Run, RunId, RunState, SessionId, Trigger, UnixMs, WorkerId};
use crate::mutation::{self, Mutation};

use super::packed::PackedJob;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    pub(super) cluster: Option<ClusterId>,
    /// Index of the last entry applied.
    pub(super) applied: u64,
    /// `change_seq` of the last change that the feed brought.
    pub(super) feed: u64,
    /// Every fire of every job up to here has its fate, except what is owed.
    pub(super) watermark: UnixMs,
    /// Index of the last decision that was applied.
    pub(super) last_decision: u64,
    pub(super) jobs: OrdMap<JobId, PackedJob>,
    pub(super) owed: OrdMap<(JobId, Revision), Arc<Owed>>,
    /// Instants that have their fate, for as long as anybody could decide them again (PROTOCOL B4).
    pub(super) decided: OrdSet<(JobId, UnixMs)>,
    /// The same for spans of skipped fires: (job, last) → first.
    pub(super) skipped: OrdMap<(JobId, UnixMs), UnixMs>,
    pub(super) open: OrdMap<RunId, Arc<OpenRun>>,
    pub(super) open_of_job: OrdSet<(JobId, RunId)>,
    pub(super) waiting: OrdMap<(JobId, UnixMs, RunId), Arc<Waiting>>,
    pub(super) waiting_runs: OrdMap<RunId, (JobId, UnixMs)>,
    /// Closed and skipped runs that the store does not have yet, by (index, place in the entry).
    pub(super) unrecorded: OrdMap<(u64, u32), Arc<Run>>,
    pub(super) unrecorded_runs: OrdMap<RunId, (u64, u32)>,
    pub(super) sessions: OrdMap<SessionId, Arc<Session>>,
    /// Manual runs by Idempotency-Key, with the instant at which they were asked for (PROTOCOL B12).
    pub(super) keys: OrdMap<RunId, UnixMs>,
    pub(super) keys_by_age: OrdSet<(UnixMs, RunId)>,
}

/// Fires of one revision that the watermark's rule leaves out: a revision that came late (PROTOCOL B3), or one that was replaced
/// before the watermark had passed its end. Its fires in (from, to] are decided next.
#[derive(Clone, Debug, PartialEq)]
pub struct Owed {
    pub job: Arc<Job>,
    pub from: UnixMs,
    pub to: UnixMs,
    /// The job is gone: its fires are skipped as `revoked`.
    pub is_dropped: bool,
}

/// A run that was decided and has not ended. Its job is the revision that it runs by (PROTOCOL B6).
#[derive(Clone, Debug, PartialEq)]
pub struct OpenRun {
    pub id: RunId,
    pub job: Arc<Job>,
    pub trigger: Trigger,
    pub retry_of: Option<RunId>,
    pub scheduled_at: UnixMs,
    /// Not before: the instant, or the end of a retry's back-off.
    pub start_at: UnixMs,
    pub attempt: u32,
    /// Attempts before this one that were lost with their workers; they are no failures of the command.
    pub losses: u32,
    pub assigned: Option<Assignment>,
    /// The last epoch that was given out, 0 for none.
    pub epoch: Epoch,
    /// Somebody wants it to end.
    pub cancel: Option<Reason>,
    /// Its instant belongs to somebody else by now, who asks for it back unless it has started (PROTOCOL B5).
    pub heir: Option<Heir>,
}

/// To whom an instant belongs after an edit.
#[derive(Clone, Debug, PartialEq)]
pub enum Heir {
    /// The revision that was in effect at the instant; it may be a paused one, or one that doesn't fire then.
    Revision(Arc<Job>),
    /// The job is deleted.
    Nobody,
}

impl Heir {
    pub fn revision(&self) -> Option<Revision> {
        match self {
            Heir::Revision(job) => Some(job.revision),
            Heir::Nobody => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Assignment {
    pub session: SessionId,
    pub epoch: Epoch,
}

/// A fire that waits for an open run of its job.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    pub id: RunId,
    pub job: Arc<Job>,
    pub trigger: Trigger,
    pub scheduled_at: UnixMs,
    pub kind: WaitingKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum WaitingKind {
    /// Its fate is decided at its instant.
    Deferred,
    /// Launches when the open run has ended.
    Queued,
    /// Likewise; the open run was asked to end.
    Replacing,
}

/// One life of a worker. One that is over is kept while a run refers to it: only its worker knows what became of that run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Session {
    pub id: SessionId,
    pub worker: WorkerId,
    pub data_dir: Uuid,
    pub address: String,
    pub labels: BTreeMap<String, String>,
    pub slots: u32,
    pub opened_at: UnixMs,
    /// When it was entered that its lease is surely out.
    pub ended_at: Option<UnixMs>,
}

/// How long after its instant a fire may still be decided; what is older is missed (PROTOCOL B3).
pub(super) fn horizon_ms(job: &Job) -> i64 {
    const MARGIN_MS: i64 = 60_000;
    i64::from(job.spec.start_deadline_s) * 1000 + MARGIN_MS
}

impl Ledger {
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }
    pub fn applied(&self) -> u64 {
        self.applied
    }
    pub fn feed(&self) -> u64 {
        self.feed
    }
    pub fn watermark(&self) -> UnixMs {
        self.watermark
    }
    /// Index of the last decision that was applied; 0: none was.
    pub fn last_decision(&self) -> u64 {
        self.last_decision
    }
    pub fn jobs(&self) -> impl Iterator<Item = Job> {
        self.jobs.values().map(PackedJob::unpack)
    }
    pub fn has_job(&self, id: JobId) -> bool {
        self.jobs.contains_key(&id)
    }
    /// A job's current revision. It is unpacked for this call, unless a run or a fire of it has it already.
    pub fn job(&self, id: JobId) -> Option<Arc<Job>> {
        let packed = self.jobs.get(&id)?;
        let is_current = |job: &&Arc<Job>| packed.key() == (job.id, job.revision);
        let open = self.open_runs_of(id).next_back().map(|run| &run.job).filter(is_current);
        let shared = open.or_else(|| self.waiting_of(id).next_back().map(|fire| &fire.job).filter(is_current));
        Some(shared.cloned().unwrap_or_else(|| Arc::new(packed.unpack())))
    }
    pub fn owed(&self) -> impl Iterator<Item = &Arc<Owed>> {
        self.owed.values()
    }
    pub fn open_runs(&self) -> impl Iterator<Item = &Arc<OpenRun>> {
        self.open.values()
    }
    pub fn open_run(&self, id: RunId) -> Option<&Arc<OpenRun>> {
        self.open.get(&id)
    }
    /// Open runs of one job.
    pub fn open_runs_of(&self, job: JobId) -> impl DoubleEndedIterator<Item = &Arc<OpenRun>> {
        self.open_of_job.range((job, RunId(Uuid::nil()))..=(job, RunId(Uuid::max()))).filter_map(|(_, run)| self.open.get(run))
    }
    /// Fires of all jobs that wait.
    pub fn waiting(&self) -> impl Iterator<Item = &Arc<Waiting>> {
        self.waiting.values()
    }
    /// Fires of one job that wait, earliest instant first.
    pub fn waiting_of(&self, job: JobId) -> impl DoubleEndedIterator<Item = &Arc<Waiting>> {
        self.waiting
            .range((job, UnixMs(i64::MIN), RunId(Uuid::nil()))..=(job, UnixMs(i64::MAX), RunId(Uuid::max())))
            .map(|(_, waiting)| waiting)
    }
    /// Sessions that are not over.
    pub fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions.values().filter(|session| session.ended_at.is_none())
    }
    /// A session that is not over.
    pub fn session(&self, id: SessionId) -> Option<&Arc<Session>> {
        self.sessions.get(&id).filter(|session| session.ended_at.is_none())
    }
    /// Sessions that are over and not forgotten.
    pub fn ended_sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions.values().filter(|session| session.ended_at.is_some())
    }
    /// A session, over or not.
    pub fn any_session(&self, id: SessionId) -> Option<&Arc<Session>> {
        self.sessions.get(&id)
    }
    /// The session that was opened last in this data directory, over or not; none if it is forgotten.
    pub fn newest_session(&self, data_dir: Uuid) -> Option<SessionId> {
        self.sessions.values().filter(|session| session.data_dir == data_dir).map(|session| session.id).max()
    }
    /// Whether only a worker that may never come back knows what became of this run.
    pub fn is_unreachable(&self, run: &OpenRun) -> bool {
        run.assigned.is_some_and(|assigned| self.session(assigned.session).is_none())
    }
    /// What the store has to write, oldest first: (index, run).
    pub fn unrecorded(&self) -> impl DoubleEndedIterator<Item = (u64, &Arc<Run>)> {
        self.unrecorded.iter().map(|((index, _), run)| (*index, run))
    }
    pub fn unrecorded_len(&self) -> u64 {
        self.unrecorded.len() as u64
    }
    /// Whether a manual run of this id was asked for within the last day.
    pub fn remembers_key(&self, run: RunId) -> bool {
        self.keys.contains_key(&run)
    }

    /// Whether this instant of a job has its fate. Ranges of skips of several revisions may lie within one another.
    pub fn is_decided(&self, job: JobId, at: UnixMs) -> bool {
        if mutation::is(Mutation::DecidesAgain) {
            return false;
        }
        self.decided.contains(&(job, at)) || self.skipped.range((job, at)..=(job, UnixMs(i64::MAX))).any(|(_, first)| *first <= at)
    }

    /// The first instant of a job in (after, to] that has its fate, as far as the ledger remembers.
    pub fn first_decided_between(&self, job: JobId, after: UnixMs, to: UnixMs) -> Option<UnixMs> {
        let decided = self.decided.range((job, after + 1)..=(job, to)).next().map(|(_, at)| *at);
        let skipped = self.skipped.range((job, after + 1)..=(job, UnixMs(i64::MAX))).map(|(_, first)| *first).min();
        [decided, skipped.filter(|first| *first <= to)].into_iter().flatten().min()
    }

    /// A run that is open, waiting or not yet recorded, as users read it: by the ledger alone, without what its worker knows.
    pub fn run(&self, id: RunId) -> Option<Run> {
        if let Some(run) = self.open.get(&id) {
            return Some(run.to_run(self));
        }
        if let Some(place) = self.unrecorded_runs.get(&id) {
            return self.unrecorded.get(place).map(|run| Run::clone(run));
        }
        let (job, at) = self.waiting_runs.get(&id)?;
        self.waiting.get(&(*job, *at, id)).map(|waiting| waiting.to_run())
    }

    /// The index at which a run that is not recorded yet closed.
    pub fn closed_at(&self, id: RunId) -> Option<u64> {
        self.unrecorded_runs.get(&id).map(|(index, _)| *index)
    }
}

impl OpenRun {
    pub fn to_run(&self, ledger: &Ledger) -> Run {
        let worker_id = self.assigned.and_then(|assigned| ledger.any_session(assigned.session)).map(|session| session.worker.clone());
        let state = match self.assigned {
            None => RunState::Queued,
            Some(_) if ledger.is_unreachable(self) => RunState::Unreachable,
            Some(_) => RunState::Staged,
        };
        Run {
            retry_of: self.retry_of,
            worker_id,
            attempt: self.attempt,
            ..blank(self.id, &self.job, self.trigger, self.scheduled_at, state)
        }
    }
}

impl Waiting {
    pub fn to_run(&self) -> Run {
        blank(self.id, &self.job, self.trigger, self.scheduled_at, RunState::Queued)
    }
}

/// A run of which nothing is known but its decision.
pub(super) fn blank(id: RunId, job: &Job, trigger: Trigger, scheduled_at: UnixMs, state: RunState) -> Run {
    Run {
        id,
        job_id: job.id,
        job_name: job.spec.name.to_string(),
        job_revision: job.revision,
        trigger,
        retry_of: None,
        scheduled_at,
        attempt: 1,
        state,
        reason: None,
        worker_id: None,
        started_at: None,
        finished_at: None,
        exit_code: None,
        signal: None,
        error: None,
        output_bytes: 0,
        output_truncated: false,
        skipped_from: None,
        skipped_count: None,
    }
}
