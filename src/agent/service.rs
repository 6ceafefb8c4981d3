//! The worker's tarpc service: passes orders to the driver in the order in which they came over the wire, and its answers back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tarpc::context::Context;
use tarpc::server::{BaseChannel, Channel};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::driver::{AgentStatus, Command, OutputSource, Reply};
use super::output;
use crate::rpc::link::Io;
use crate::rpc::wire::{
    Cancel, FRAME_BYTES_MAX, HeldRun, OUTPUT_PAGE_BYTES_MAX, Order, OutputPage, ReadOutput, Refusal, RevokeAck, RunRef, Stage, StageAck,
    WorkerHealth,
};
use crate::rpc::{Worker, codec};

/// Calls of one connection that are worked on at once, at most.
const CALLS_MAX: usize = 256;
/// The longest that a reader may wait for more output in one call.
const READ_WAIT_MAX: Duration = Duration::from_secs(30);
/// How often those who wait for output look at a run that has not started, or that goes on with its outputs closed.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// One connection's side of the service.
#[derive(Clone)]
pub(super) struct Service {
    pub commands: mpsc::Sender<Command>,
    /// Counts connections in the order in which they were accepted.
    pub connection: u64,
    pub status: watch::Receiver<AgentStatus>,
}

/// Serves one connection until it ends, or the agent does.
pub(super) async fn serve(io: impl Io, service: Service, shutdown: CancellationToken) {
    let channel = BaseChannel::with_defaults(codec::serving(io, FRAME_BYTES_MAX)).max_concurrent_requests(CALLS_MAX);
    let mut calls = std::pin::pin!(channel.execute(service.serve()));
    while let Some(Some(call)) = shutdown.run_until_cancelled(calls.next()).await {
        // Polled once right here: that is what passes the order on, and so orders keep their order.
        let mut call = Box::pin(call);
        if futures::poll!(call.as_mut()).is_pending() {
            let shutdown = shutdown.clone();
            tokio::spawn(async move { shutdown.run_until_cancelled(call).await });
        }
    }
}

impl Service {
    /// Asks the driver; what is not queued at once is refused, as waiting would change the order.
    async fn ask<T>(&self, command: impl FnOnce(Reply<Result<T, Refusal>>) -> Command) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        match self.commands.try_send(command(reply)) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(stopped())),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Refusal::Busy { what: "the worker's queue of orders is full".into() }),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(stopped()),
        }
    }

    /// A page as it is now, and how to learn of more, if that can be known.
    async fn read_once(&self, request: &ReadOutput) -> Result<(OutputPage, Option<watch::Receiver<u64>>), Refusal> {
        let asked = request.clone();
        match self.ask(|reply| Command::ReadOutput { request: asked, reply }).await? {
            OutputSource::Page(page) => Ok((page, None)),
            OutputSource::Growing { page, readable } => Ok((page, Some(readable))),
            OutputSource::NotYet => Ok((OutputPage { parts: Vec::new(), next: request.from, is_complete: false }, None)),
            OutputSource::Spooled { path, has_ended } => {
                let mut page = read_spooled(path, request.clone()).await?;
                page.is_complete &= has_ended;
                Ok((page, None))
            }
        }
    }
}

impl Worker for Service {
    async fn stage(self, _: Context, order: Order<Vec<Stage>>) -> Result<Vec<StageAck>, Refusal> {
        self.ask(|reply| Command::Stage { order, connection: self.connection, reply }).await
    }

    async fn revoke(self, _: Context, order: Order<Vec<RunRef>>) -> Result<Vec<RevokeAck>, Refusal> {
        self.ask(|reply| Command::Revoke { order, connection: self.connection, reply }).await
    }

    async fn cancel(self, _: Context, order: Order<Vec<Cancel>>) -> Result<(), Refusal> {
        self.ask(|reply| Command::Cancel { order, connection: self.connection, reply }).await
    }

    async fn list(self, _: Context, order: Order<()>) -> Result<Vec<HeldRun>, Refusal> {
        self.ask(|reply| Command::List { order, connection: self.connection, reply }).await
    }

    async fn health(self, _: Context) -> WorkerHealth {
        let status = self.status.borrow();
        let trouble = status.trouble.as_deref().map(str::to_owned);
        WorkerHealth { session: status.session, is_draining: status.is_draining, trouble }
    }

    async fn read_output(self, _: Context, mut request: ReadOutput) -> Result<OutputPage, Refusal> {
        request.bytes_max = request.bytes_max.clamp(1, OUTPUT_PAGE_BYTES_MAX);
        let until = Instant::now() + Duration::from_millis(request.wait_ms.into()).min(READ_WAIT_MAX);
        loop {
            let (page, readable) = self.read_once(&request).await?;
            if !page.parts.is_empty() || page.is_complete || Instant::now() >= until {
                return Ok(page);
            }
            // More output, the end of the run, or the end of our patience: each time we look again.
            match readable {
                Some(mut readable) => drop(tokio::time::timeout_at(until, readable.wait_for(|readable| *readable > page.next)).await),
                None => tokio::time::sleep_until(until.min(Instant::now() + LOOK_AGAIN)).await,
            }
        }
    }
}

async fn read_spooled(path: PathBuf, request: ReadOutput) -> Result<OutputPage, Refusal> {
    let ReadOutput { run, from, bytes_max, .. } = request;
    let read = tokio::task::spawn_blocking(move || output::read_spooled(&path, run, from, u64::from(bytes_max))).await;
    match read {
        Ok(Ok(page)) => Ok(page),
        // It was recorded meanwhile, and its file is gone.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Err(Refusal::UnknownRun(run)),
        Ok(Err(error)) => Err(Refusal::Failed(format!("the output of run {run} can't be read: {error}"))),
        Err(_) => Err(stopped()),
    }
}

fn stopped() -> Refusal {
    Refusal::Failed("the worker has stopped".into())
}

/// Numbers connections in the order in which they are accepted.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<std::sync::atomic::AtomicU64>);

impl Connections {
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1
    }
}
