//! The leader's connection to one worker session: a task that carries orders there, one batch at a time, and says what came of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::engine::staging::Orders;
use crate::ledger::Session;
use crate::model::ClusterId;
use crate::rpc::codec::transport;
use crate::rpc::link::Dial;
use crate::rpc::wire::{Order, Refusal, WorkerClient};

use super::delivery::{Answer, Batch, Call, Delivery, LinkEvent};

/// A call that takes longer has failed, and its connection with it.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
const BACKOFF_MS_MIN: u64 = 20;
const BACKOFF_MS_MAX: u64 = 500;

/// The driver's end.
pub struct Link {
    batches: mpsc::Sender<Batch>,
}

/// What every link of a driver needs to know.
#[derive(Clone)]
pub struct LinkConfig {
    pub cluster: ClusterId,
    pub skew_ms: i64,
    pub workers: Arc<dyn Dial>,
    pub events: mpsc::Sender<LinkEvent>,
    pub clock: Clock,
}

impl Link {
    /// Ends when dropped.
    pub fn start(session: Arc<Session>, config: LinkConfig) -> Link {
        let (batches, inbox) = mpsc::channel(1);
        let carrier = Carrier { session, config, client: None, backoff_ms: BACKOFF_MS_MIN };
        tokio::spawn(carrier.run(inbox));
        Link { batches }
    }

    /// Hands over a batch; gives the orders back if the link can't take one now: the channel has room for one. It is full if the event of
    /// an earlier link to this session was taken for this one's.
    pub fn send(&self, batch: Batch) -> Result<(), Orders> {
        self.batches.try_send(batch).map_err(|error| match error {
            mpsc::error::TrySendError::Full(batch) | mpsc::error::TrySendError::Closed(batch) => batch.orders,
        })
    }
}

struct Carrier {
    session: Arc<Session>,
    config: LinkConfig,
    client: Option<WorkerClient>,
    backoff_ms: u64,
}

/// A call did not come to an answer, or the worker refused.
struct Failed;

impl Carrier {
    async fn run(mut self, mut inbox: mpsc::Receiver<Batch>) {
        while let Some(batch) = inbox.recv().await {
            let event = self.carry(batch).await;
            let has_failed = !event.failed.is_empty();
            if self.config.events.send(event).await.is_err() {
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
        let mut delivery = Delivery::new(self.session.id, batch.stages, batch.orders);
        while !delivery.is_done() {
            // First the connection: how long a run has to wait is said as of when it is sent.
            let client = self.client().await;
            // The wall may have been set since it was judged, and the worker believes this more than its own (PROTOCOL C6).
            let now = batch.reading.wall + (self.config.clock.boot_ms() - batch.reading.boot_ms);
            let Some(call) = delivery.next(now, self.config.skew_ms) else { break };
            let answer = match client {
                Ok(client) => self.call(client, batch.term, call).await.unwrap_or(Answer::Failed),
                Err(Failed) => Answer::Failed,
            };
            delivery.answered(answer);
        }
        delivery.finish()
    }

    async fn call(&self, client: WorkerClient, term: u64, call: Call) -> Result<Answer, Failed> {
        Ok(match call {
            Call::Stage(stages) => {
                let acks = self.done("stage", client.stage(context(), self.order(term, stages)).await)?;
                failpoint!("after-stage");
                Answer::Staged(acks)
            }
            Call::Revoke(runs) => Answer::Revoked(self.done("revoke", client.revoke(context(), self.order(term, runs)).await)?),
            Call::Cancel(runs) => {
                self.done("cancel", client.cancel(context(), self.order(term, runs)).await)?;
                Answer::Cancelled
            }
        })
    }

    fn order<T>(&self, term: u64, body: T) -> Order<T> {
        Order { cluster: self.config.cluster, term, session: self.session.id, body }
    }

    fn done<T>(&self, what: &str, result: Result<Result<T, Refusal>, tarpc::client::RpcError>) -> Result<T, Failed> {
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
        let client = connect(&*self.config.workers, &self.session.address).await.map_err(|error| {
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
