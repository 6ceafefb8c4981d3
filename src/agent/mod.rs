//! The worker's inside: takes runs from the leader, starts them at their instants, captures their output, and tells how they ended.
//!
//! ```text
//!  controllers ◄── links · session · reports          tokio, the surrounding runtime
//!       └────────► service ─┐
//!                           ▼ commands            ▲ status, outbox
//!                        driver ── one thread, a runtime of its own
//!        runs ◇ · journal · spool/output · capture · timer · joblog
//!                           │ spawn, stop, lease
//!                           ▼
//!                        guardian ── a process of its own
//! ```
//!
//! Promises (PROTOCOL C, D1, E): a run starts at most once under one epoch, and only with session, term and permit in order; what was
//! revoked never starts; every run that was accepted is reported in the end, by this life or by a later one; its output stays until the
//! store has it. Working directory of commands without one of their own: the agent's.
//!
//! When the guardian dies or the journal can't be written, the agent can't keep its promises: it ends, says why (`Agent::fatal`), and with
//! it ends everything it has started (that of which a dead guardian had not told the start is ended by nobody).

pub use crate::clock;

#[doc(hidden)]
pub mod fuzz;
pub mod guardian;
pub mod recover;
pub mod runs;

mod capture;
mod datadir;
mod driver;
mod environment;
mod joblog;
mod journal;
mod links;
mod output;
mod readiness;
mod reports;
mod service;
mod session;
mod spool;
mod timer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::model::WorkerId;
use crate::model::limits::WORKER_SLOTS_MAX;
use crate::rpc::link::{Dial, Io};
use crate::rpc::wire::INLINE_OUTPUT_BYTES_MAX;

use datadir::DataDir;
use driver::{Command, Driver, Parts};
use guardian::Guardian;
use joblog::JobLog;
use journal::{Journal, Owner};
use links::Links;
use recover::Past;
use reports::Outbox;
use runs::{Limits, Runs};
use service::{Connections, Service};
use session::Shared;
use spool::Spool;

pub use driver::AgentStatus;
pub use joblog::OUTPUT_TARGET;

/// Bytes of output that wait for the store, by default.
pub const SPOOL_BYTES_MAX_DEFAULT: u64 = 1024 * 1024 * 1024;
/// Runs held in any phase, those included that ended and are not recorded, at most.
pub const HELD_RUNS_MAX: usize = 100_000;
/// How long runs may go on when the worker is told to stop, by default.
pub const DRAIN_MS_DEFAULT: u64 = 30_000;
/// Bytes of small outputs that are held in memory; further ones go to files.
const INLINE_HELD_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The longest grace that a drain gives a run that it stops.
const DRAIN_GRACE_MS_MAX: u64 = 10_000;
/// What a drain waits beyond that for processes to go, and then for reports to be acknowledged.
const DRAIN_MARGIN_MS: u64 = 3_000;
const DRAIN_REPORTS_MS: u64 = 5_000;
/// How long a stop waits for the driver, whose guardian kills what still runs.
const STOP_WAIT: Duration = Duration::from_secs(15);

/// Heartbeats, and news of starts.
const TASKS_PER_LINK: usize = 2;

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    pub worker: WorkerId,
    /// Locked by this agent; made if it doesn't exist.
    pub data_dir: PathBuf,
    /// Where controllers reach this worker.
    pub address: String,
    pub labels: BTreeMap<String, String>,
    /// Commands that run at once, at most.
    pub slots: u32,
    /// The `chrono-flow` executable, for the guardian.
    pub guardian_exe: PathBuf,
    /// How long runs may go on after `drain` was called.
    pub drain_ms: u64,
    /// Bytes of output that wait for the store, at most.
    pub spool_bytes_max: u64,
}

/// A running agent. Dropped without `stop`, it ends as if killed: what it started is killed.
pub struct Agent {
    shared: Arc<Shared>,
    drain_ms: u64,
    connections: Connections,
    shutdown: CancellationToken,
    fatal: watch::Receiver<Option<String>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Agent {
    /// Opens the data directory, waits for what an earlier life left to end, and begins to serve. `controllers` are addresses for `dial`.
    /// Call it in a runtime.
    ///
    /// Errors: the directory is in use, can't be written, or is damaged; the guardian does not start; a setting is out of range.
    pub async fn start(config: AgentConfig, controllers: Vec<String>, dial: Arc<dyn Dial>) -> Result<Agent> {
        ensure!(!controllers.is_empty(), "a worker needs at least one controller");
        ensure!((1..=WORKER_SLOTS_MAX).contains(&config.slots), "slots: from 1 to {WORKER_SLOTS_MAX}, not {}", config.slots);
        let data_dir = DataDir::open(&config.data_dir)?;
        let (commands, waiting_commands) = mpsc::channel(driver::COMMANDS_QUEUED_MAX);
        let (status_sender, status) = watch::channel(AgentStatus::default());
        let (fatal_sender, fatal) = watch::channel(None);
        let outbox = Arc::new(Outbox::default());
        let data_dir_id = data_dir.id;
        let (ready, is_ready) = oneshot::channel();
        let life = Life { config: config.clone(), data_dir, commands: waiting_commands, outbox: outbox.clone(), status: status_sender };
        let thread = std::thread::Builder::new()
            .name("agent".into())
            .spawn(move || {
                if let Err(error) = life.run(ready) {
                    log::error!("the worker can't go on: {error:#}");
                    fatal_sender.send_replace(Some(format!("{error:#}")));
                }
            })
            .context("can't start the agent's thread")?;
        is_ready.await.map_err(|_| anyhow!("the agent's thread has ended"))??;

        let shutdown = CancellationToken::new();
        let links = Links::start(controllers, dial, &shutdown);
        let shared = Arc::new(Shared {
            worker: config.worker,
            data_dir: data_dir_id,
            address: config.address,
            labels: config.labels,
            slots: config.slots,
            commands,
            status,
            links,
            has_left: false.into(),
        });
        let until_shutdown = |task: futures::future::BoxFuture<'static, ()>| {
            let shutdown = shutdown.clone();
            tokio::spawn(async move { shutdown.run_until_cancelled(task).await });
        };
        until_shutdown(Box::pin(session::run(shared.clone())));
        until_shutdown(Box::pin(reports::run(shared.clone(), outbox.clone())));
        until_shutdown(Box::pin(attend_links(shared.clone(), outbox)));
        let thread = Some(thread);
        Ok(Agent { shared, drain_ms: config.drain_ms, connections: Connections::default(), shutdown, fatal, thread })
    }

    /// Serves the worker's tarpc service on a connection that a controller has opened, until it ends. Orders over a connection count only
    /// until the leader uses a newer one. Call it in a runtime.
    ///
    /// The task goes on whether or not somebody waits for it.
    pub fn serve(&self, io: impl Io) -> JoinHandle<()> {
        let service =
            Service { commands: self.shared.commands.clone(), connection: self.connections.next(), status: self.shared.status.clone() };
        tokio::spawn(service::serve(io, service, self.shutdown.clone()))
    }

    /// What the agent does now.
    pub fn status(&self) -> AgentStatus {
        self.shared.status.borrow().clone()
    }

    /// What the agent does, as it changes.
    pub fn watch_status(&self) -> watch::Receiver<AgentStatus> {
        self.shared.status.clone()
    }

    /// Says why the agent can't go on, when it can't. A closed channel without a reason means that it was stopped.
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.fatal.clone()
    }

    /// Starts nothing more, lets runs end, stops those that have not after `drain_ms`, and waits until all of that is reported; all within
    /// limits. Then the session is closed, so that others get what was not started; where no leader takes that, the journal keeps it as
    /// proof for the next life.
    pub async fn drain(&self) {
        let in_us = i64::try_from(self.drain_ms).unwrap_or(i64::MAX).saturating_mul(1000);
        if self.shared.commands.send(Command::Drain { in_us, grace_max_ms: DRAIN_GRACE_MS_MAX }).await.is_err() {
            return;
        }
        let mut status = self.shared.status.clone();
        let runs_ms = self.drain_ms.saturating_add(DRAIN_GRACE_MS_MAX + DRAIN_MARGIN_MS);
        let runs_end = status.wait_for(|status| status.is_draining && status.counts.live == 0);
        if tokio::time::timeout(Duration::from_millis(runs_ms), runs_end).await.is_err() {
            log::warn!("{} runs do not end: they are killed", self.status().counts.live);
            return;
        }
        let reports = status.wait_for(|status| status.counts.unreported == 0);
        if tokio::time::timeout(Duration::from_millis(DRAIN_REPORTS_MS), reports).await.is_err() {
            log::warn!(
                "the ends of {} runs are not acknowledged: they will be reported at the next start",
                self.status().counts.unreported
            );
            return;
        }
        session::leave(&self.shared).await;
    }

    /// Ends the agent; what still runs is killed, and reported as lost by the next life. Bounded.
    pub async fn stop(mut self) {
        let Some(thread) = self.thread.take() else { return };
        // If the queue of commands stays full, the drop of its senders does the same a little later.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.shared.commands.send(Command::Stop)).await;
        let mut fatal = self.fatal.clone();
        let ended = async { while fatal.changed().await.is_ok() {} };
        let has_ended = tokio::time::timeout(STOP_WAIT, ended).await.is_ok();
        self.shutdown.cancel();
        if !has_ended {
            log::warn!("the agent's thread does not end");
        } else if tokio::task::spawn_blocking(move || thread.join()).await.is_err() {
            log::warn!("the agent's thread could not be joined");
        }
    }
}

/// Heartbeats and news for each controller, and for each that turns up later.
async fn attend_links(shared: Arc<Shared>, outbox: Arc<Outbox>) {
    let mut tasks = JoinSet::new();
    let mut count = shared.links.count();
    loop {
        let known = *count.borrow_and_update();
        for index in tasks.len() / TASKS_PER_LINK..known {
            tasks.spawn(session::heartbeats(shared.clone(), index));
            tasks.spawn(reports::tell_starts(shared.clone(), outbox.clone(), index));
        }
        if count.changed().await.is_err() {
            return;
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.shared.commands.try_send(Command::Stop);
        self.shutdown.cancel();
    }
}

/// What the agent's thread is started with.
struct Life {
    config: AgentConfig,
    data_dir: DataDir,
    commands: mpsc::Receiver<Command>,
    outbox: Arc<Outbox>,
    status: watch::Sender<AgentStatus>,
}

impl Life {
    /// The agent's thread. `ready` is told once everything is in place, or why it is not.
    fn run(self, ready: oneshot::Sender<Result<()>>) -> Result<()> {
        let (log, log_thread) = JobLog::start().context("can't start the log's thread")?;
        // Held to the end: nobody else may use the directory while the driver does.
        let (lock, prepared) = self.prepare(log);
        let (runtime, driver) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                let _ = ready.send(Err(error));
                return Ok(());
            }
        };
        let _ = ready.send(Ok(()));
        let result = runtime.block_on(driver.run());
        drop(runtime);
        drop(lock);
        let _ = log_thread.join();
        result
    }

    fn prepare(self, log: JobLog) -> (DataDir, Result<(tokio::runtime::Runtime, Driver)>) {
        let Life { config, data_dir, commands, outbox, status } = self;
        let prepare = || -> Result<_> {
            let owner = Owner { data_dir: data_dir.id, boot: journal::boot_id()? };
            let launch = guardian::Launch { exe: config.guardian_exe.clone(), data_dir: data_dir.path.clone() };
            // When it is ready, nothing of an earlier life runs any more.
            let launched = Guardian::launch(&launch)?;
            let mut replay = journal::replay(&data_dir.path, owner)?;
            let mut journal = Journal::begin(&data_dir.path, owner, &replay)?;
            let mut spool = Spool::open(data_dir.path.join("spool"), config.spool_bytes_max, INLINE_HELD_BYTES_MAX)?;
            let past = Past::of(std::mem::take(&mut replay.records));
            if let Some(session) = past.session_record() {
                journal.append(&session)?;
            }
            let limits = Limits { slots: config.slots, held_max: HELD_RUNS_MAX };
            let mut runs = Runs::new(limits, past.cluster, past.session);
            recover::recover(past, replay.is_of_other_boot, &mut runs, &mut spool, timer::now())?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("can't start a runtime")?;
            let driver = {
                let _entered = runtime.enter();
                let (guardian, notices) = launched.attach().context("can't talk to the guardian")?;
                Driver::new(Parts { runs, journal, replay, spool, guardian, notices, commands, outbox, status, log })?
            };
            Ok((runtime, driver))
        };
        let prepared = prepare();
        (data_dir, prepared)
    }
}

/// Half of what a frame holds is room enough for a report's outputs.
const _: () = assert!(INLINE_OUTPUT_BYTES_MAX * 64 <= crate::rpc::wire::FRAME_BYTES_MAX);
