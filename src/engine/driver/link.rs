//! The leader's connection to one worker session: a task that carries orders there, one batch at a time, and says what came of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::clock;
use crate::engine::clock::Reading;
use crate::engine::staging::Orders;
use crate::ledger::{Ledger, OpenRun, Session};
use crate::model::{ClusterId, OnWorkerLost, RunId, SessionId};
use crate::rpc::codec::transport;
use crate::rpc::link::Dial;
use crate::rpc::wire::{
    Cancel, Order, RevokeAck, RunRef, STAGE_BATCH_BYTES_MAX, STAGE_BATCH_RUNS_MAX, Stage, StageAck, Task, WorkerClient,
};

/// A call that takes longer has failed, and its connection with it.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const BACKOFF_MS_MIN: u64 = 20;
const BACKOFF_MS_MAX: u64 = 500;

/// The driver's end.
pub struct Link {
    batches: mpsc::Sender<Batch>,
    /// No batch is on its way.
    pub is_idle: bool,
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

struct Batch {
    term: u64,
    /// The clocks as they were judged to be good.
    reading: Reading,
    stages: Vec<Stage>,
    orders: Orders,
}

impl Link {
    /// Ends when dropped.
    pub fn start(session: Arc<Session>, cluster: ClusterId, skew_ms: i64, workers: Arc<dyn Dial>, events: mpsc::Sender<LinkEvent>) -> Link {
        let (batches, inbox) = mpsc::channel(1);
        let carrier = Carrier { session, cluster, skew_ms, workers, client: None, backoff_ms: BACKOFF_MS_MIN };
        tokio::spawn(carrier.run(inbox, events));
        Link { batches, is_idle: true }
    }

    /// Hands over a batch; gives the orders back if the link can't take one now.
    pub fn send(&mut self, term: u64, reading: Reading, orders: Orders, ledger: &Ledger) -> Result<(), Orders> {
        let stages = orders.stage.iter().filter_map(|id| ledger.open_run(*id)).map(|run| stage(run)).collect();
        // The channel has room for one. It is full if the event of an earlier link to this session was taken for this one's.
        self.is_idle = false;
        self.batches.try_send(Batch { term, reading, stages, orders }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(batch) | mpsc::error::TrySendError::Closed(batch) => batch.orders,
        })
    }
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
            ends_with_lease: spec.on_worker_lost == OnWorkerLost::Retry,
        },
    }
}

struct Carrier {
    session: Arc<Session>,
    cluster: ClusterId,
    skew_ms: i64,
    workers: Arc<dyn Dial>,
    client: Option<WorkerClient>,
    backoff_ms: u64,
}

/// A call did not come to an answer, or the worker refused.
struct Failed;

impl Carrier {
    async fn run(mut self, mut inbox: mpsc::Receiver<Batch>, events: mpsc::Sender<LinkEvent>) {
        while let Some(batch) = inbox.recv().await {
            let event = self.carry(batch).await;
            let has_failed = !event.failed.is_empty();
            if events.send(event).await.is_err() {
                return;
            }
            if has_failed {
                self.client = None;
                tokio::time::sleep(Duration::from_millis(self.backoff_ms)).await;
                self.backoff_ms = (self.backoff_ms * 2).min(BACKOFF_MS_MAX);
            } else {
                self.backoff_ms = BACKOFF_MS_MIN;
            }
        }
    }

    async fn carry(&mut self, batch: Batch) -> LinkEvent {
        let Batch { term, reading, stages, orders } = batch;
        let mut event = LinkEvent { session: self.session.id, ..LinkEvent::default() };
        let mut rest = stages.into_iter().peekable();
        while rest.peek().is_some() {
            let chunk = next_chunk(&mut rest);
            let ids: Vec<RunId> = chunk.iter().map(|stage| stage.run).collect();
            match self.stage(term, reading, chunk).await {
                Ok(acks) => {
                    failpoint!("after-stage");
                    event.staged.extend(acks);
                }
                Err(Failed) => {
                    let unsent = rest.map(|stage| stage.run);
                    event.failed = Orders { stage: ids.into_iter().chain(unsent).collect(), ..orders };
                    return event;
                }
            }
        }
        let revoke: Vec<RunRef> = orders.revoke.iter().map(|(run, epoch)| RunRef { run: *run, epoch: *epoch }).collect();
        if !revoke.is_empty() {
            match self.revoke(term, revoke).await {
                Ok(acks) => event.revoked = acks,
                Err(Failed) => event.failed.revoke = orders.revoke,
            }
        }
        let cancel: Vec<Cancel> =
            orders.cancel.iter().map(|(run, epoch, reason)| Cancel { run: *run, epoch: *epoch, reason: *reason }).collect();
        if !cancel.is_empty() && self.cancel(term, cancel).await.is_err() {
            event.failed.cancel = orders.cancel;
        }
        event
    }

    fn order<T>(&self, term: u64, body: T) -> Order<T> {
        Order { cluster: self.cluster, term, session: self.session.id, body }
    }

    async fn stage(&mut self, term: u64, reading: Reading, mut stages: Vec<Stage>) -> Result<Vec<StageAck>, Failed> {
        let client = self.client().await?;
        // The wall may have been set since it was judged, and the worker believes this more than its own (PROTOCOL C6).
        let now = reading.wall + (clock::boottime_ms() as i64 - reading.boot_ms);
        for stage in &mut stages {
            stage.in_ms = stage.start_at.since(now);
            stage.max_skew_ms = self.skew_ms;
        }
        self.done("stage", client.stage(context(), self.order(term, stages)).await)
    }

    async fn revoke(&mut self, term: u64, runs: Vec<RunRef>) -> Result<Vec<RevokeAck>, Failed> {
        let client = self.client().await?;
        self.done("revoke", client.revoke(context(), self.order(term, runs)).await)
    }

    async fn cancel(&mut self, term: u64, runs: Vec<Cancel>) -> Result<(), Failed> {
        let client = self.client().await?;
        self.done("cancel", client.cancel(context(), self.order(term, runs)).await)
    }

    fn done<T>(&self, what: &str, result: Result<Result<T, crate::rpc::wire::Refusal>, tarpc::client::RpcError>) -> Result<T, Failed> {
        let worker = &self.session.worker;
        match result {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(refusal)) => {
                log::debug!("worker {worker} refused to {what}: {refusal}");
                Err(Failed)
            }
            Err(error) => {
                log::warn!("worker {worker} can't be told to {what}: {error}");
                Err(Failed)
            }
        }
    }

    async fn client(&mut self) -> Result<WorkerClient, Failed> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = connect(&*self.workers, &self.session.address).await.map_err(|error| {
            log::debug!("worker {} at {} can't be reached: {error}", self.session.worker, self.session.address);
            Failed
        })?;
        Ok(self.client.insert(client).clone())
    }
}

/// Connects to a worker. The client's dispatch ends with the last clone of the client, or with the connection.
pub async fn connect(workers: &dyn Dial, address: &str) -> std::io::Result<WorkerClient> {
    let connection = tokio::time::timeout(CALL_TIMEOUT, workers.dial(address)).await??;
    Ok(WorkerClient::new(tarpc::client::Config::default(), transport(connection)).spawn())
}

pub fn context() -> tarpc::context::Context {
    let mut context = tarpc::context::current();
    context.deadline = Instant::now() + CALL_TIMEOUT;
    context
}

/// As many stages as fit into one call.
fn next_chunk(stages: &mut std::iter::Peekable<impl Iterator<Item = Stage>>) -> Vec<Stage> {
    let mut chunk = Vec::new();
    let mut bytes = 0;
    while let Some(stage) = stages.peek() {
        bytes += 500 + stage.task.command.len() + stage.task.env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if !chunk.is_empty() && (bytes > STAGE_BATCH_BYTES_MAX || chunk.len() >= STAGE_BATCH_RUNS_MAX) {
            break;
        }
        chunk.extend(stages.next());
    }
    chunk
}
