//! An engine that decides nothing: it holds the runs, output and troubles that a test gives it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chrono_flow::engine::api::{ClusterInfo, Engine, EngineError, LiveOutput, MemberInfo, Readiness, Triggered};
use chrono_flow::model::{
    ClusterId, Job, JobId, NodeId, OutputPart, Run, RunId, RunState, Stream, Trigger, UnixMs, WorkerId, WorkerInfo, WorkerState,
};
use chrono_flow::store::{RunFilter, Store};
use tokio::sync::Notify;
use uuid::Uuid;

pub const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(7));
pub const NOW: UnixMs = UnixMs::from_secs(1_790_000_000);

#[derive(Default)]
pub struct State {
    /// What the next calls that need the leader answer.
    pub trouble: Option<EngineError>,
    pub is_clock_bad: bool,
    pub readiness: Readiness,
    pub live: BTreeMap<RunId, Run>,
    /// Output of live runs; true where it is complete.
    pub output: BTreeMap<RunId, (Vec<OutputPart>, bool)>,
    pub jobs: Vec<Job>,
    pub feed_position: u64,
    pub is_feed_behind: bool,
    pub pending_revocations: u32,
    /// What was asked of the members, and what it comes to.
    pub member_wishes: Vec<String>,
    pub member_trouble: Option<EngineError>,
    /// Readers of output that wait now.
    pub waiting: usize,
}

pub struct TestEngine {
    state: Mutex<State>,
    store: Arc<dyn Store>,
    printed: Notify,
}

impl TestEngine {
    pub fn new(store: Arc<dyn Store>) -> TestEngine {
        TestEngine { state: Mutex::default(), store, printed: Notify::new() }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The command of a live run prints; with `is_end` it is the last that it prints.
    pub fn print(&self, run: RunId, stream: Stream, text: &str, is_end: bool) {
        {
            let mut state = self.state();
            let (parts, is_complete) = state.output.entry(run).or_default();
            let offset = parts.last().map_or(0, OutputPart::end);
            if !text.is_empty() {
                parts.push(OutputPart { offset, stream, bytes: text.as_bytes().to_vec() });
            }
            *is_complete = is_end;
            if is_end && let Some(run) = state.live.get_mut(&run) {
                (run.state, run.exit_code, run.finished_at) = (RunState::Succeeded, Some(0), Some(NOW + 5));
            }
        }
        self.printed.notify_waiters();
    }

    fn page(&self, run: RunId, from: u64, bytes_max: u32) -> Option<LiveOutput> {
        let state = self.state();
        let live = state.live.get(&run)?;
        let none = (Vec::new(), live.state.is_final());
        let (parts, is_complete) = state.output.get(&run).unwrap_or(&none);
        let mut page = Vec::new();
        let mut room = bytes_max as usize;
        for part in parts.iter().filter(|part| part.end() > from) {
            if room == 0 {
                break;
            }
            room = room.saturating_sub(part.bytes.len());
            page.push(part.clone());
        }
        let next = page.last().map_or(from, OutputPart::end);
        let is_last = parts.last().is_none_or(|last| last.end() <= next);
        Some(LiveOutput { parts: page, next, is_complete: *is_complete && is_last })
    }
}

/// Counts a waiting reader until it has its page or is dropped.
struct Waiting<'a>(&'a TestEngine);

impl Waiting<'_> {
    fn new(engine: &TestEngine) -> Waiting<'_> {
        engine.state().waiting += 1;
        Waiting(engine)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}

/// A run of a job in some state; `number` is also the seconds of its instant after `NOW`.
pub fn run(number: u128, job: i64, state: RunState) -> Run {
    let at = NOW.plus_secs(number as i64);
    let has_started = !matches!(state, RunState::Queued | RunState::Staged | RunState::Skipped);
    Run {
        id: RunId::at(at, number),
        job_id: JobId(job),
        job_name: "job".into(),
        job_revision: 1,
        trigger: Trigger::Schedule,
        retry_of: None,
        scheduled_at: at,
        attempt: 1,
        state,
        reason: None,
        worker_id: has_started.then(|| WorkerId("worker-1".into())),
        started_at: has_started.then_some(at),
        finished_at: state.is_final().then_some(at + 1),
        exit_code: (state == RunState::Succeeded).then_some(0),
        signal: None,
        error: None,
        output_bytes: 0,
        output_truncated: false,
        skipped_from: None,
        skipped_count: None,
    }
}

#[async_trait]
impl Engine for TestEngine {
    fn now(&self) -> Result<UnixMs, EngineError> {
        if self.state().is_clock_bad { Err(EngineError::Unavailable("the clock is off".into())) } else { Ok(NOW) }
    }

    async fn checked_now(&self) -> Result<UnixMs, EngineError> {
        self.now()
    }

    fn feed_position(&self) -> u64 {
        self.state().feed_position
    }

    async fn wait_applied(&self, _change_seq: u64, _patience: Duration) -> bool {
        !self.state().is_feed_behind
    }

    async fn trigger(&self, job: JobId, key: Option<String>) -> Result<Triggered, EngineError> {
        if let Some(trouble) = self.state().trouble.clone() {
            return Err(trouble);
        }
        assert_ne!(key.as_deref(), Some("panic"), "a test asked for it");
        let found = self.store.job(job).await.map_err(|error| EngineError::Unavailable(error.to_string()))?;
        found.ok_or(EngineError::NoSuchJob)?;
        let mut state = self.state();
        let id = match &key {
            Some(key) => RunId::of_key(CLUSTER, job, key),
            None => RunId::at(NOW, state.live.len() as u128),
        };
        let is_new = !state.live.contains_key(&id);
        let fresh = Run { id, trigger: Trigger::Manual, scheduled_at: NOW, ..run(0, job.0, RunState::Queued) };
        let run = state.live.entry(id).or_insert(fresh).clone();
        Ok(Triggered { run, is_new })
    }

    async fn cancel(&self, id: RunId) -> Result<Run, EngineError> {
        if let Some(trouble) = self.state().trouble.clone() {
            return Err(trouble);
        }
        if let Some(run) = self.state().live.get_mut(&id) {
            if !run.state.is_final() {
                run.state = RunState::Cancelled;
            }
            return Ok(run.clone());
        }
        let stored = self.store.run(id).await.map_err(|error| EngineError::Unavailable(error.to_string()))?;
        stored.ok_or(EngineError::NoSuchRun)
    }

    fn live_run(&self, id: RunId) -> Option<Run> {
        self.state().live.get(&id).cloned()
    }

    fn live_runs(&self, filter: &RunFilter) -> Vec<Run> {
        let is_wanted = |run: &&Run| {
            filter.job.is_none_or(|job| run.job_id == job)
                && (filter.states.is_empty() || filter.states.contains(&run.state))
                && filter.since.is_none_or(|since| run.scheduled_at >= since)
                && filter.until.is_none_or(|until| run.scheduled_at < until)
        };
        let mut runs: Vec<Run> = self.state().live.values().filter(is_wanted).cloned().collect();
        runs.sort_by_key(|run| std::cmp::Reverse((run.scheduled_at, run.id)));
        runs
    }

    fn live_last_run(&self, job: JobId) -> Option<Run> {
        let filter = RunFilter { job: Some(job), ..RunFilter::default() };
        self.live_runs(&filter).into_iter().find(|run| run.state != RunState::Skipped)
    }

    fn pending_revocations(&self, _job: JobId) -> u32 {
        self.state().pending_revocations
    }

    async fn live_output(&self, run: RunId, from: u64, bytes_max: u32, wait: Duration) -> Result<Option<LiveOutput>, EngineError> {
        if let Some(trouble) = self.state().trouble.clone() {
            return Err(trouble);
        }
        let printed = self.printed.notified();
        let page = self.page(run, from, bytes_max);
        if page.as_ref().is_none_or(|page| !page.parts.is_empty() || page.is_complete) {
            return Ok(page);
        }
        let _waiting = Waiting::new(self);
        let _ = tokio::time::timeout(wait, printed).await;
        Ok(self.page(run, from, bytes_max))
    }

    fn ledger_job(&self, id: JobId) -> Option<Job> {
        self.state().jobs.iter().find(|job| job.id == id).cloned()
    }

    fn ledger_jobs(&self) -> Vec<Job> {
        self.state().jobs.clone()
    }

    fn workers(&self) -> Vec<WorkerInfo> {
        vec![WorkerInfo {
            id: WorkerId("worker-1".into()),
            address: "127.0.0.1:50051".into(),
            labels: BTreeMap::new(),
            slots: 64,
            running: 1,
            staged: 2,
            state: WorkerState::Ready,
            lease_expires_at: Some(NOW + 15_000),
        }]
    }

    fn cluster(&self) -> ClusterInfo {
        let member = MemberInfo { id: 1, address: "127.0.0.1:12000".into(), role: "leader", reachable: true, applied: Some(9) };
        ClusterInfo { cluster_id: CLUSTER, leader: Some(1), term: 2, commit: 9, applied: 9, members: vec![member] }
    }

    async fn add_member(&self, id: NodeId, address: String) -> Result<(), EngineError> {
        self.state().member_wishes.push(format!("add {id} {address}"));
        self.state().member_trouble.clone().map_or(Ok(()), Err)
    }

    async fn remove_member(&self, id: NodeId) -> Result<(), EngineError> {
        self.state().member_wishes.push(format!("remove {id}"));
        self.state().member_trouble.clone().map_or(Ok(()), Err)
    }

    async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<(), EngineError> {
        self.state().member_wishes.push(format!("transfer {to:?}"));
        self.state().member_trouble.clone().map_or(Ok(()), Err)
    }

    fn readiness(&self) -> Readiness {
        self.state().readiness.clone()
    }
}
