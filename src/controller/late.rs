//! The engine as the API sees it while the controller is being founded, or waits for what it needs to be: there is none yet, and the
//! reason is said. Afterwards it is the real one.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::engine::api::{ClusterInfo, Engine, EngineError, LiveOutput, MemberInfo, Readiness, Triggered};
use crate::engine::driver::EngineHandle;
use crate::model::{ClusterId, Job, JobId, NodeId, Run, RunId, UnixMs, WorkerInfo};
use crate::store::RunFilter;

/// How often a request that waits looks whether the engine has come.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Default)]
pub struct LateEngine {
    engine: OnceLock<EngineHandle>,
    waits_for: Mutex<String>,
    members: Vec<MemberInfo>,
}

impl LateEngine {
    /// `members`: as they are configured, for `/cluster` until the ledger says.
    pub fn new(members: impl IntoIterator<Item = (NodeId, String)>) -> LateEngine {
        let member = |(id, address)| MemberInfo { id, address, role: "follower", reachable: false, applied: None };
        LateEngine { members: members.into_iter().map(member).collect(), ..LateEngine::default() }
    }

    pub fn waits_for(&self, what: String) {
        *self.waits_for.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// It is there. The first one counts.
    pub fn came(&self, engine: EngineHandle) {
        let _ = self.engine.set(engine);
    }

    /// None: it has not come yet.
    pub fn engine(&self) -> Option<&EngineHandle> {
        self.engine.get()
    }

    fn reason(&self) -> String {
        self.waits_for.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn get(&self) -> Result<&EngineHandle, EngineError> {
        self.engine.get().ok_or_else(|| EngineError::NoLeader(format!("this controller is starting: {}", self.reason())))
    }
}

#[async_trait]
impl Engine for LateEngine {
    fn now(&self) -> Result<UnixMs, EngineError> {
        self.get()?.now()
    }
    async fn checked_now(&self) -> Result<UnixMs, EngineError> {
        self.get()?.checked_now().await
    }
    fn feed_position(&self) -> u64 {
        self.engine().map_or(0, Engine::feed_position)
    }
    async fn wait_applied(&self, change_seq: u64, patience: Duration) -> bool {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            match self.engine() {
                Some(engine) => return engine.wait_applied(change_seq, left).await,
                None if left.is_zero() => return false,
                None => tokio::time::sleep(LOOK_AGAIN.min(left)).await,
            }
        }
    }
    async fn trigger(&self, job: JobId, key: Option<String>) -> Result<Triggered, EngineError> {
        self.get()?.trigger(job, key).await
    }
    async fn cancel(&self, run: RunId) -> Result<Run, EngineError> {
        self.get()?.cancel(run).await
    }
    fn live_run(&self, id: RunId) -> Option<Run> {
        self.engine()?.live_run(id)
    }
    fn live_runs(&self, filter: &RunFilter) -> Vec<Run> {
        self.engine().map(|engine| engine.live_runs(filter)).unwrap_or_default()
    }
    fn live_last_run(&self, job: JobId) -> Option<Run> {
        self.engine()?.live_last_run(job)
    }
    fn pending_revocations(&self, job: JobId) -> u32 {
        self.engine().map_or(0, |engine| engine.pending_revocations(job))
    }
    async fn live_output(&self, run: RunId, from: u64, bytes_max: u32, wait: Duration) -> Result<Option<LiveOutput>, EngineError> {
        self.get()?.live_output(run, from, bytes_max, wait).await
    }
    fn ledger_job(&self, id: JobId) -> Option<Job> {
        self.engine()?.ledger_job(id)
    }
    fn ledger_jobs(&self) -> Vec<Job> {
        self.engine().map(Engine::ledger_jobs).unwrap_or_default()
    }
    fn workers(&self) -> Vec<WorkerInfo> {
        self.engine().map(Engine::workers).unwrap_or_default()
    }
    fn cluster(&self) -> ClusterInfo {
        let nobody = || ClusterInfo {
            cluster_id: ClusterId(Uuid::nil()),
            leader: None,
            term: 0,
            commit: 0,
            applied: 0,
            members: self.members.clone(),
        };
        self.engine().map_or_else(nobody, Engine::cluster)
    }
    async fn add_member(&self, id: NodeId, address: String) -> Result<(), EngineError> {
        self.get()?.add_member(id, address).await
    }
    async fn remove_member(&self, id: NodeId) -> Result<(), EngineError> {
        self.get()?.remove_member(id).await
    }
    async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<(), EngineError> {
        self.get()?.transfer_leadership(to).await
    }
    fn readiness(&self) -> Readiness {
        let starting = || Readiness { leader: Some(format!("starting: {}", self.reason())), ..Readiness::default() };
        self.engine().map_or_else(starting, Engine::readiness)
    }
}
