//! A store in memory that can be down, cut off, slow or failing. What it has answered stays; what it was asked and has not answered may
//! have been done or not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chrono_flow::model::{ClusterId, Job, JobId, JobSpec, NodeId, Revision, Run, RunId, RunState, UnixMs};
use chrono_flow::mutation::{self, Mutation};
use chrono_flow::store::{
    Change, ChangeKind, JobFilter, JobPage, OutputRecord, RecordBatch, Result, Retention, RunCursor, RunFilter, SetAside, Store,
    StoreError, StoredOutput, Written,
};
use tokio::sync::watch;

use crate::random::Random;

/// A call that nobody answers is given up after so long.
const PATIENCE_MS: u64 = 5_000;

pub struct State {
    random: Random,
    pub is_down: bool,
    /// Cut off from it: their calls are not answered.
    pub cut_off: BTreeSet<NodeId>,
    pub latency_ms_max: u64,
    pub fail_percent: u64,
    /// One node's next write of a row that may be written again later takes so long on its way.
    pub stalls: Option<(NodeId, u64)>,
    pub change_seq: u64,
    next_job: i64,
    pub jobs: BTreeMap<JobId, Job>,
    dropped: BTreeMap<JobId, (u64, Revision, UnixMs)>,
    pub rows: BTreeMap<RunId, (u64, Run)>,
    pub outputs: BTreeSet<RunId>,
    signal: watch::Sender<u64>,
}

/// One controller's way to it.
#[derive(Clone)]
pub struct Client {
    pub state: Arc<Mutex<State>>,
    pub node: NodeId,
}

impl State {
    pub fn new(seed: u64) -> State {
        State {
            random: Random(seed),
            is_down: false,
            cut_off: BTreeSet::new(),
            latency_ms_max: 4,
            fail_percent: 0,
            stalls: None,
            change_seq: 0,
            next_job: 0,
            jobs: BTreeMap::new(),
            dropped: BTreeMap::new(),
            rows: BTreeMap::new(),
            outputs: BTreeSet::new(),
            signal: watch::Sender::new(0),
        }
    }

    /// Whether it would take a write of this controller's API now.
    pub fn takes_writes_of(&self, node: NodeId) -> bool {
        !self.is_down && !self.cut_off.contains(&node)
    }

    pub fn heal(&mut self) {
        self.is_down = false;
        self.cut_off.clear();
        (self.latency_ms_max, self.fail_percent) = (4, 0);
    }

    fn next_seq(&mut self) -> u64 {
        self.change_seq += 1;
        // A notification may get lost.
        if self.random.chance(80) {
            self.signal.send_replace(self.change_seq);
        }
        self.change_seq
    }

    pub fn create(&mut self, spec: JobSpec, now: UnixMs) -> JobId {
        self.next_job += 1;
        let (id, change_seq) = (JobId(self.next_job), self.next_seq());
        self.jobs.insert(id, Job { id, revision: 1, change_seq, created_at: now, updated_at: now, effective_from: now, spec });
        id
    }

    pub fn replace(&mut self, id: JobId, spec: JobSpec, now: UnixMs) {
        let change_seq = self.next_seq();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.revision += 1;
        job.change_seq = change_seq;
        job.updated_at = now;
        job.effective_from = job.effective_from.max(now);
        job.spec = spec;
    }

    pub fn delete(&mut self, id: JobId, now: UnixMs) {
        let change_seq = self.next_seq();
        let Some(job) = self.jobs.remove(&id) else { return };
        self.dropped.insert(id, (change_seq, job.revision + 1, job.effective_from.max(now)));
    }

    fn changes(&self, after: u64, limit: usize) -> Vec<Change> {
        let puts = self.jobs.values().map(|job| Change { seq: job.change_seq, kind: ChangeKind::Put(Box::new(job.clone())) });
        let drop = |(id, (seq, revision, effective_from)): (&JobId, &(u64, Revision, UnixMs))| Change {
            seq: *seq,
            kind: ChangeKind::Drop { id: *id, revision: *revision, effective_from: *effective_from },
        };
        let mut changes: Vec<Change> = puts.chain(self.dropped.iter().map(drop)).filter(|change| change.seq > after).collect();
        changes.sort_unstable_by_key(|change| change.seq);
        changes.truncate(limit);
        changes
    }

    fn record(&mut self, batch: RecordBatch) {
        for record in batch.runs {
            let place = self.rows.get(&record.run.id).map(|(index, _)| *index);
            if place.is_none_or(|index| index < record.ledger_index) || mutation::is(Mutation::UnguardedRow) {
                self.rows.insert(record.run.id, (record.ledger_index, record.run));
            }
        }
        self.outputs.extend(batch.output.iter().map(|OutputRecord { run, .. }| *run));
    }
}

impl Client {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The way there, the work, the way back.
    async fn call<T>(&self, work: impl FnOnce(&mut State) -> T + Send) -> Result<T> {
        let (there_ms, back_ms, fails, fails_after) = {
            let mut state = self.lock();
            let (latency_ms, percent) = (state.latency_ms_max, state.fail_percent);
            let random = &mut state.random;
            (random.below(latency_ms + 1), random.below(latency_ms + 1), random.chance(percent), random.chance(percent))
        };
        tokio::time::sleep(Duration::from_millis(there_ms)).await;
        let (is_down, is_cut) = {
            let state = self.lock();
            (state.is_down, state.cut_off.contains(&self.node))
        };
        if is_cut {
            tokio::time::sleep(Duration::from_millis(PATIENCE_MS)).await;
            return Err(StoreError::Unavailable("no answer".into()));
        }
        if is_down || fails {
            return Err(StoreError::Unavailable("it is down".into()));
        }
        let answer = work(&mut self.lock());
        tokio::time::sleep(Duration::from_millis(back_ms)).await;
        if fails_after || self.lock().cut_off.contains(&self.node) {
            return Err(StoreError::Unavailable("the connection broke".into()));
        }
        Ok(answer)
    }
}

fn not_here<T>() -> Result<T> {
    Err(StoreError::Refused("not part of the simulation".into()))
}

#[async_trait]
impl Store for Client {
    async fn bind_cluster(&self, _: ClusterId) -> Result<()> {
        not_here()
    }
    async fn cluster(&self) -> Result<Option<ClusterId>> {
        not_here()
    }
    async fn found_cluster(&self, _: ClusterId) -> Result<ClusterId> {
        not_here()
    }
    async fn create_job(&self, _: JobSpec, _: UnixMs) -> Result<Written> {
        not_here()
    }
    async fn replace_job(&self, _: JobId, _: Option<Revision>, _: JobSpec, _: UnixMs) -> Result<Written> {
        not_here()
    }
    async fn put_job_by_name(&self, _: Option<Revision>, _: JobSpec, _: UnixMs) -> Result<Written> {
        not_here()
    }
    async fn delete_job(&self, _: JobId, _: Option<Revision>, _: UnixMs) -> Result<u64> {
        not_here()
    }
    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        self.call(|state| state.jobs.get(&id).cloned()).await
    }
    async fn job_by_name(&self, _: &str) -> Result<Option<Job>> {
        not_here()
    }
    async fn jobs(&self, _: &JobFilter, _: Option<JobId>, _: u32) -> Result<JobPage> {
        not_here()
    }
    async fn job_existed(&self, _: JobId) -> Result<bool> {
        not_here()
    }
    async fn changes(&self, after: u64, limit: u32) -> Result<Vec<Change>> {
        self.call(|state| state.changes(after, limit as usize)).await
    }
    async fn change_seq(&self) -> Result<u64> {
        self.call(|state| state.change_seq).await
    }
    fn change_signal(&self) -> watch::Receiver<u64> {
        self.lock().signal.subscribe()
    }
    async fn prune_tombstones(&self, _: u64, _: UnixMs) -> Result<u64> {
        self.call(|_| 0).await
    }
    async fn record(&self, batch: RecordBatch) -> Result<Vec<SetAside>> {
        let may_change = batch.runs.iter().any(|record| matches!(record.run.state, RunState::Skipped | RunState::Lost));
        let stalls = self.lock().stalls.take_if(|(node, _)| may_change && *node == self.node);
        if let Some((_, ms)) = stalls {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        self.call(|state| state.record(batch)).await.map(|()| Vec::new())
    }
    async fn run(&self, id: RunId) -> Result<Option<Run>> {
        self.call(|state| state.rows.get(&id).map(|(_, run)| run.clone())).await
    }
    async fn runs(&self, _: &RunFilter, _: Option<RunCursor>, _: u32) -> Result<Vec<Run>> {
        not_here()
    }
    async fn last_runs(&self, _: &[JobId]) -> Result<Vec<Run>> {
        not_here()
    }
    async fn output(&self, _: RunId, _: u64, _: u32) -> Result<StoredOutput> {
        not_here()
    }
    async fn prune_runs(&self, _: Retention) -> Result<u64> {
        self.call(|_| 0).await
    }
    async fn check(&self) -> Result<()> {
        not_here()
    }
}
