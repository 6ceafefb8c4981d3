//! Output that the store does not have yet: in memory if it came with its run's report, else with the worker that holds it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::engine::api::{EngineError, LiveOutput};
use crate::ledger::Session;
use crate::model::{ClusterId, RunId, SessionId};
use crate::rpc::link::Dial;
use crate::rpc::wire::{OutputPage, ReadOutput, Refusal, WorkerClient};

use super::link::connect;
use super::machine::Shared;
use super::soft::Soft;

/// Added to the wait that a reader asks for.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Outputs {
    spools: Arc<dyn Spools>,
    shared: Arc<Shared>,
    soft: Arc<Soft>,
    cluster: ClusterId,
}

impl Outputs {
    pub fn new(spools: Arc<dyn Spools>, shared: Arc<Shared>, soft: Arc<Soft>, cluster: ClusterId) -> Outputs {
        Outputs { spools, shared, soft, cluster }
    }

    /// A page of the output of a run that is live; none if it is not.
    pub async fn live(&self, run: RunId, from: u64, bytes_max: u32, wait: Duration) -> Result<Option<LiveOutput>, EngineError> {
        let ledger = self.shared.ledger();
        if let Some(open) = ledger.open_run(run) {
            let session = open.assigned.and_then(|assigned| ledger.session(assigned.session));
            let Some(session) = session else {
                tokio::time::sleep(wait).await;
                return Ok(Some(LiveOutput { parts: Vec::new(), next: from, is_complete: false }));
            };
            return match self.read(session, run, from, bytes_max, wait).await {
                Ok(page) => Ok(Some(page)),
                // Staged here, but the worker has not heard of it yet.
                Err(Refusal::UnknownRun(_)) => {
                    tokio::time::sleep(wait.min(Duration::from_millis(100))).await;
                    Ok(Some(LiveOutput { parts: Vec::new(), next: from, is_complete: false }))
                }
                Err(refusal) => Err(EngineError::Unavailable(refusal.to_string())),
            };
        }
        let Some(row) = ledger.run(run) else { return Ok(None) };
        if !row.state.is_final() {
            tokio::time::sleep(wait).await;
            return Ok(Some(LiveOutput { parts: Vec::new(), next: from, is_complete: false }));
        }
        if row.output_bytes == 0 {
            return Ok(Some(LiveOutput { parts: Vec::new(), next: from, is_complete: true }));
        }
        if let Some(parts) = self.soft.output(run) {
            return Ok(Some(from_memory(parts, from)));
        }
        let session = ledger.sessions().find(|session| Some(&session.worker) == row.worker_id.as_ref()).cloned();
        match session {
            Some(session) => match self.read(&session, run, from, bytes_max, Duration::ZERO).await {
                Ok(page) => Ok(Some(page)),
                Err(refusal) => Err(EngineError::Unavailable(refusal.to_string())),
            },
            None => Err(EngineError::Unavailable("the worker that holds the output is not here".into())),
        }
    }

    async fn read(&self, session: &Session, run: RunId, from: u64, bytes_max: u32, wait: Duration) -> Result<LiveOutput, Refusal> {
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let request = ReadOutput { cluster: self.cluster, run, from, bytes_max, wait_ms };
        let OutputPage { parts, next, is_complete } = self.spools.read(session, request, wait + READ_TIMEOUT).await?;
        Ok(LiveOutput { parts, next, is_complete })
    }
}

/// The way to what workers hold.
#[async_trait]
pub trait Spools: Send + Sync + 'static {
    async fn read(&self, session: &Session, request: ReadOutput, patience: Duration) -> Result<OutputPage, Refusal>;
}

/// Connections to the workers that have been asked, kept for the next question.
pub struct Connections {
    workers: Arc<dyn Dial>,
    shared: Arc<Shared>,
    clients: Mutex<HashMap<SessionId, WorkerClient>>,
}

impl Connections {
    pub fn new(workers: Arc<dyn Dial>, shared: Arc<Shared>) -> Connections {
        Connections { workers, shared, clients: Mutex::default() }
    }
}

#[async_trait]
impl Spools for Connections {
    async fn read(&self, session: &Session, request: ReadOutput, patience: Duration) -> Result<OutputPage, Refusal> {
        let away = |error: &dyn std::fmt::Display| Refusal::Failed(format!("worker {} can't be asked: {error}", session.worker));
        let known = self.clients.lock().unwrap_or_else(PoisonError::into_inner).get(&session.id).cloned();
        let client = match known {
            Some(client) => client,
            None => connect(&*self.workers, &session.address).await.map_err(|error| away(&error))?,
        };
        let mut context = tarpc::context::current();
        context.deadline = Instant::now() + patience;
        let answer = client.read_output(context, request).await;
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(answer) => {
                let ledger = self.shared.ledger();
                clients.retain(|id, _| ledger.session(*id).is_some());
                clients.insert(session.id, client);
                answer
            }
            Err(error) => {
                clients.remove(&session.id);
                Err(away(&error))
            }
        }
    }
}

fn from_memory(mut parts: Vec<crate::model::OutputPart>, from: u64) -> LiveOutput {
    let end = parts.last().map_or(0, |part| part.end());
    parts.retain(|part| part.end() > from);
    if let Some(first) = parts.first_mut().filter(|first| first.offset < from) {
        first.bytes.drain(..(from - first.offset) as usize);
        first.offset = from;
    }
    LiveOutput { parts, next: end.max(from), is_complete: true }
}
