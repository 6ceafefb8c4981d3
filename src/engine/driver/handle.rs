//! The engine as the HTTP side sees it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::clock::Clock;
use crate::consensus::{Handle, MemberRole};
use crate::engine::api::{ClusterInfo, Engine, EngineError, LiveOutput, MemberInfo, Readiness, Triggered};
use crate::ledger::{Command, Ledger, Reply};
use crate::model::{ClusterId, Job, JobId, NodeId, Reason, Run, RunId, RunState, UnixMs, WorkerInfo};
use crate::rpc::peer::MembersWish;
use crate::store::{RunFilter, Store, StoreError};

use super::machine::Shared;
use super::members::Members;
use super::outputs::Outputs;
use super::peers::{Peers, Pulses};
use super::queue::Proposer;
use super::run_loop::reading;
use super::soft::Soft;

/// How long a request waits for what the leader has applied, and how often it looks.
const CATCH_UP_WAIT: Duration = Duration::from_secs(1);
const CATCH_UP_LOOK: Duration = Duration::from_millis(2);
/// How long a request waits for a clock that is not proved yet, or has just been set, and how often it looks.
const CLOCK_WAIT: Duration = Duration::from_secs(2);
const CLOCK_LOOK: Duration = Duration::from_millis(10);
/// How long a request waits for a job that the store has and the ledger does not yet.
const JOB_WAIT: Duration = Duration::from_secs(2);

/// What the parts of the driver share.
pub struct Inner {
    pub cluster: ClusterId,
    pub store: Arc<dyn Store>,
    pub consensus: Handle<Vec<Reply>>,
    pub shared: Arc<Shared>,
    pub soft: Arc<Soft>,
    pub proposer: Proposer,
    pub outputs: Outputs,
    pub members: Members,
    pub peers: Arc<dyn Peers>,
    pub pulses: Pulses,
    pub clock: Clock,
}

impl Inner {
    /// PROTOCOL B1.
    pub fn is_licensed(&self) -> bool {
        self.shared.status().first_own_applied
    }

    /// Everything that closed at or below this index is in the store.
    pub fn recorded_up_to(&self) -> u64 {
        let ledger = self.shared.ledger();
        ledger.unrecorded().next().map_or(ledger.applied(), |(index, _)| index - 1)
    }
}

/// The engine of this node. Clones are the same engine.
#[derive(Clone)]
pub struct EngineHandle {
    pub(super) inner: Arc<Inner>,
}

impl EngineHandle {
    /// Runs that have ended and wait for the store.
    pub fn unrecorded(&self) -> u64 {
        self.inner.shared.ledger().unrecorded_len()
    }

    fn overlay(&self, ledger: &Ledger, run: Run) -> Run {
        if run.state.is_final() {
            return run;
        }
        let session = ledger.open_run(run.id).and_then(|open| open.assigned).map(|assigned| assigned.session);
        self.inner.soft.overlay(run, session, self.inner.clock.boot_ms())
    }

    fn all_live<'a>(&'a self, ledger: &'a Ledger, job: Option<JobId>) -> Box<dyn Iterator<Item = Run> + 'a> {
        let unrecorded = ledger.unrecorded().map(|(_, run)| &**run).filter(move |run| job.is_none_or(|job| run.job_id == job)).cloned();
        match job {
            Some(job) => {
                let open = ledger.open_runs_of(job).map(|run| run.to_run(ledger));
                Box::new(open.chain(ledger.waiting_of(job).map(|fire| fire.to_run())).chain(unrecorded))
            }
            None => {
                let open = ledger.open_runs().map(|run| run.to_run(ledger));
                Box::new(open.chain(ledger.waiting().map(|fire| fire.to_run())).chain(unrecorded))
            }
        }
    }

    /// Manual runs with a key are looked up beyond the day for which the ledger remembers them (PROTOCOL B12).
    async fn by_key(&self, id: RunId) -> Result<Option<Run>, EngineError> {
        if let Some(run) = self.live_run(id) {
            return Ok(Some(run));
        }
        self.inner.store.run(id).await.map_err(|error| EngineError::Unavailable(error.to_string()))
    }

    /// A job that the ledger doesn't have is looked for in the store before it is said not to exist (PROTOCOL B12).
    async fn has_job(&self, id: JobId) -> Result<(), EngineError> {
        if self.inner.shared.ledger().has_job(id) {
            return Ok(());
        }
        match self.inner.store.job(id).await {
            Ok(Some(job)) if self.wait_applied(job.change_seq, JOB_WAIT).await => Ok(()),
            Ok(Some(_)) => Err(EngineError::NoLeader("the job has not come into the ledger yet".into())),
            Ok(None) => Err(EngineError::NoSuchJob),
            Err(error) => Err(EngineError::Unavailable(error.to_string())),
        }
    }
}

#[async_trait]
impl Engine for EngineHandle {
    fn now(&self) -> Result<UnixMs, EngineError> {
        let reading = reading(&self.inner.clock);
        match self.inner.soft.clock_trouble() {
            None if self.inner.soft.has_clock_jumped(reading) => Err(EngineError::Unavailable("the wall clock was set just now".into())),
            None => Ok(reading.wall),
            Some(trouble) => Err(EngineError::Unavailable(trouble)),
        }
    }

    async fn checked_now(&self) -> Result<UnixMs, EngineError> {
        let settled = async {
            while self.now().is_err() && !self.inner.soft.is_clock_outvoted() {
                tokio::time::sleep(CLOCK_LOOK).await;
            }
        };
        let _ = tokio::time::timeout(CLOCK_WAIT, settled).await;
        self.now()
    }

    fn feed_position(&self) -> u64 {
        self.inner.shared.ledger().feed()
    }

    async fn wait_applied(&self, change_seq: u64, patience: Duration) -> bool {
        let mut feed = self.inner.shared.feed();
        tokio::time::timeout(patience, feed.wait_for(|position| *position >= change_seq)).await.is_ok_and(|waited| waited.is_ok())
    }

    async fn trigger(&self, job: JobId, key: Option<String>) -> Result<Triggered, EngineError> {
        let at = self.checked_now().await?;
        let id = match &key {
            Some(key) => RunId::of_key(self.inner.cluster, job, key),
            None => RunId::at(at, Uuid::new_v4().as_u128()),
        };
        if key.is_some()
            && let Some(run) = self.by_key(id).await?
        {
            return Ok(Triggered { run, is_new: false });
        }
        self.has_job(job).await?;
        let command = Command::Trigger { at, job, run: id, has_key: key.is_some(), session: None };
        let applied = self.inner.propose(vec![command]).await?;
        match applied.replies.first() {
            Some(Reply::Triggered { is_new }) => {
                let run = self.by_key(id).await?.ok_or(EngineError::NoSuchRun)?;
                Ok(Triggered { run, is_new: *is_new })
            }
            _ => Err(EngineError::NoSuchJob),
        }
    }

    async fn cancel(&self, run: RunId) -> Result<Run, EngineError> {
        if self.live_run(run).is_none() {
            self.catch_up().await;
        }
        if self.inner.shared.ledger().run(run).is_some_and(|run| !run.state.is_final()) {
            let command = Command::Cancel { at: self.inner.clock.wall(), run, reason: Reason::Requested };
            self.inner.propose(vec![command]).await?;
        }
        self.by_key(run).await?.ok_or(EngineError::NoSuchRun)
    }

    async fn catch_up(&self) {
        let status = self.inner.shared.status();
        let Some(leader) = status.leader.filter(|leader| *leader != status.node_id) else { return };
        let caught_up = async {
            let Ok(pulse) = self.inner.peers.pulse(leader).await else { return };
            while self.inner.shared.status().applied < pulse.applied {
                tokio::time::sleep(CATCH_UP_LOOK).await;
            }
        };
        let _ = tokio::time::timeout(CATCH_UP_WAIT, caught_up).await;
    }

    fn live_run(&self, id: RunId) -> Option<Run> {
        let ledger = self.inner.shared.ledger();
        ledger.run(id).map(|run| self.overlay(&ledger, run))
    }

    fn live_runs(&self, filter: &RunFilter) -> Vec<Run> {
        let ledger = self.inner.shared.ledger();
        let mut runs: Vec<Run> = self
            .all_live(&ledger, filter.job)
            .map(|run| self.overlay(&ledger, run))
            .filter(|run| filter.states.is_empty() || filter.states.contains(&run.state))
            .filter(|run| filter.since.is_none_or(|since| run.scheduled_at >= since))
            .filter(|run| filter.until.is_none_or(|until| run.scheduled_at < until))
            .collect();
        runs.sort_unstable_by_key(|run| std::cmp::Reverse((run.scheduled_at, run.id)));
        runs
    }

    fn live_last_run(&self, job: JobId) -> Option<Run> {
        let ledger = self.inner.shared.ledger();
        let now = self.inner.clock.wall();
        let is_coming = |run: &Run| matches!(run.state, RunState::Queued | RunState::Staged) && run.scheduled_at > now;
        let launched = self.all_live(&ledger, Some(job)).filter(|run| run.state != RunState::Skipped && !is_coming(run));
        launched.max_by_key(|run| (run.scheduled_at, run.id)).map(|run| self.overlay(&ledger, run))
    }

    fn pending_revocations(&self, job: JobId) -> u32 {
        self.inner.shared.ledger().open_runs_of(job).filter(|run| run.heir.is_some() && run.assigned.is_some()).count() as u32
    }

    async fn live_output(&self, run: RunId, from: u64, bytes_max: u32, wait: Duration) -> Result<Option<LiveOutput>, EngineError> {
        self.inner.outputs.live(run, from, bytes_max, wait).await
    }

    fn ledger_job(&self, id: JobId) -> Option<Job> {
        self.inner.shared.ledger().job(id).map(Arc::unwrap_or_clone)
    }

    fn ledger_jobs(&self) -> Vec<Job> {
        self.inner.shared.ledger().jobs().collect()
    }

    fn workers(&self) -> Vec<WorkerInfo> {
        self.inner.soft.workers(&self.inner.shared.ledger(), self.inner.clock.boot_ms())
    }

    fn cluster(&self) -> ClusterInfo {
        let status = self.inner.shared.status();
        let now_boot_ms = self.inner.clock.boot_ms();
        let member = |member: &crate::consensus::Member| MemberInfo {
            id: member.id,
            address: member.address.clone(),
            role: match member.role {
                MemberRole::Learner => "learner",
                MemberRole::Voter if status.leader == Some(member.id) => "leader",
                MemberRole::Voter => "follower",
            },
            reachable: member.id == status.node_id || self.inner.pulses.of(member.id, now_boot_ms).is_some(),
            applied: match self.inner.pulses.of(member.id, now_boot_ms) {
                _ if member.id == status.node_id => Some(status.applied),
                heard => heard.map(|heard| heard.applied),
            },
        };
        ClusterInfo {
            cluster_id: self.inner.cluster,
            leader: status.leader,
            term: status.term,
            commit: status.commit,
            applied: status.applied,
            members: status.members.iter().map(member).collect(),
        }
    }

    async fn add_member(&self, id: NodeId, address: String) -> Result<(), EngineError> {
        self.inner.wish(MembersWish::Add { id, address }).await
    }

    async fn remove_member(&self, id: NodeId) -> Result<(), EngineError> {
        self.inner.wish(MembersWish::Remove { id }).await
    }

    async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<(), EngineError> {
        self.inner.wish(MembersWish::Transfer { to }).await
    }

    fn readiness(&self) -> Readiness {
        let status = self.inner.shared.status();
        let troubles = self.inner.soft.troubles();
        Readiness {
            leader: status.leader.is_none().then(|| "no leader is known".to_owned()),
            store: troubles.store.or(troubles.feed),
            worker: self.inner.soft.worker_trouble(&self.inner.shared.ledger(), self.inner.clock.boot_ms()),
            clock: troubles.clock,
            deciding: troubles.is_full.then(|| "too many runs wait to be recorded".to_owned()),
        }
    }
}

/// A store's word for an engine's error.
impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> EngineError {
        EngineError::Unavailable(error.to_string())
    }
}
