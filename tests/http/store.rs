//! The real store behind a switch that takes it away.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use chrono_flow::model::{ClusterId, Job, JobId, JobSpec, Revision, Run, RunId, UnixMs};
use chrono_flow::store::sqlite::SqliteStore;
use chrono_flow::store::{
    Change, JobFilter, JobPage, RecordBatch, Result, Retention, RunCursor, RunFilter, SetAside, Store, StoreError, StoredOutput, Written,
};
use tokio::sync::watch;

pub struct SwitchedStore {
    store: SqliteStore,
    is_away: AtomicBool,
}

impl SwitchedStore {
    pub fn new(store: SqliteStore) -> SwitchedStore {
        SwitchedStore { store, is_away: AtomicBool::new(false) }
    }

    pub fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    fn reach(&self) -> Result<&SqliteStore> {
        if self.is_away.load(Ordering::SeqCst) { Err(StoreError::Unavailable("switched off".into())) } else { Ok(&self.store) }
    }
}

#[async_trait]
impl Store for SwitchedStore {
    async fn bind_cluster(&self, cluster: ClusterId) -> Result<()> {
        self.reach()?.bind_cluster(cluster).await
    }
    async fn cluster(&self) -> Result<Option<ClusterId>> {
        self.reach()?.cluster().await
    }
    async fn found_cluster(&self, candidate: ClusterId) -> Result<ClusterId> {
        self.reach()?.found_cluster(candidate).await
    }
    async fn create_job(&self, spec: JobSpec, now: UnixMs) -> Result<Written> {
        self.reach()?.create_job(spec, now).await
    }
    async fn replace_job(&self, id: JobId, expected: Option<Revision>, spec: JobSpec, now: UnixMs) -> Result<Written> {
        self.reach()?.replace_job(id, expected, spec, now).await
    }
    async fn put_job_by_name(&self, expected: Option<Revision>, spec: JobSpec, now: UnixMs) -> Result<Written> {
        self.reach()?.put_job_by_name(expected, spec, now).await
    }
    async fn delete_job(&self, id: JobId, expected: Option<Revision>, now: UnixMs) -> Result<u64> {
        self.reach()?.delete_job(id, expected, now).await
    }
    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        self.reach()?.job(id).await
    }
    async fn job_by_name(&self, name: &str) -> Result<Option<Job>> {
        self.reach()?.job_by_name(name).await
    }
    async fn jobs(&self, filter: &JobFilter, after: Option<JobId>, limit: u32) -> Result<JobPage> {
        self.reach()?.jobs(filter, after, limit).await
    }
    async fn job_existed(&self, id: JobId) -> Result<bool> {
        self.reach()?.job_existed(id).await
    }
    async fn changes(&self, after: u64, limit: u32) -> Result<Vec<Change>> {
        self.reach()?.changes(after, limit).await
    }
    async fn change_seq(&self) -> Result<u64> {
        self.reach()?.change_seq().await
    }
    fn change_signal(&self) -> watch::Receiver<u64> {
        self.store.change_signal()
    }
    async fn prune_tombstones(&self, up_to: u64, older_than: UnixMs) -> Result<u64> {
        self.reach()?.prune_tombstones(up_to, older_than).await
    }
    async fn record(&self, batch: RecordBatch) -> Result<Vec<SetAside>> {
        self.reach()?.record(batch).await
    }
    async fn run(&self, id: RunId) -> Result<Option<Run>> {
        self.reach()?.run(id).await
    }
    async fn runs(&self, filter: &RunFilter, after: Option<RunCursor>, limit: u32) -> Result<Vec<Run>> {
        self.reach()?.runs(filter, after, limit).await
    }
    async fn last_runs(&self, jobs: &[JobId]) -> Result<Vec<Run>> {
        self.reach()?.last_runs(jobs).await
    }
    async fn output(&self, run: RunId, offset: u64, bytes_max: u32) -> Result<StoredOutput> {
        self.reach()?.output(run, offset, bytes_max).await
    }
    async fn prune_runs(&self, retention: Retention) -> Result<u64> {
        self.reach()?.prune_runs(retention).await
    }
    async fn check(&self) -> Result<()> {
        self.reach()?.check().await
    }
}
