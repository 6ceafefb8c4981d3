//! The agent's handle to its guardian. Calls write their orders into a shared buffer; `connection` sends it and hands out the answers.
//!
//! Invariants:
//! - Orders reach the guardian in the order of the calls. [`Guardian::spawn`] may wait for its turn before it counts as called.
//! - Every spawn that was sent is answered once, or fails with [`SpawnError::Lost`].

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::frames::{self, FRAME_BYTES_MAX, Outbox};
use super::messages::{End, Order, Refusal, SpawnOrder};
use crate::agent::clock::Moment;

/// Spawn orders sent and not yet answered. Each carries two descriptors: they fit into one message, and into the small limits on open
/// files that some machines have.
const SPAWNS_IN_FLIGHT_MAX: usize = frames::BATCH_FDS_MAX / 2;
/// Unsent orders beyond this mean that the guardian has stopped reading; it is given up.
const UNSENT_BYTES_MAX: usize = 64 * 1024 * 1024;
const SHUTDOWN_WAIT: Duration = Duration::from_secs(10);

/// A process to start.
#[derive(Debug)]
pub struct Spawn {
    /// Names the run and its assignment epoch. Never used twice.
    pub token: u64,
    /// For `sh -c`, up to 256 KiB.
    pub command: String,
    /// The whole environment, up to 64 KiB; nothing is inherited.
    pub env: Vec<(String, String)>,
    /// The working directory; the guardian's own (the agent's at its launch) if there is none.
    pub cwd: Option<String>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// It starts no later than this; CLOCK_BOOTTIME in milliseconds.
    pub not_after_boot_ms: u64,
    /// To be ended when the session's lease is over (PROTOCOL C5).
    pub kill_on_lease_end: bool,
    /// From SIGTERM to SIGKILL where it is not the agent who asks: after the lease, and for what the main process leaves behind.
    pub kill_grace_ms: u64,
}

/// A process that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spawned {
    /// The shell's process id, and its group's.
    pub pid: u32,
    /// When it started, in clock ticks since the machine did: with the pid, what [`super::kill_leftover`] asks for.
    pub start_time_ticks: u64,
    pub at: Moment,
}

/// Why nothing was started. In every case but `Lost` it is sure that nothing was.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("its latest instant to start had passed")]
    TooLate,
    #[error("the worker's permit to start runs had ended")]
    PermitOver,
    #[error("it was revoked")]
    Revoked,
    #[error("its token is in use")]
    TokenInUse,
    #[error("its command and environment are longer than {} KiB together", FRAME_BYTES_MAX / 1024)]
    TooLarge,
    /// The operating system's error, and what it was about.
    #[error("{text}")]
    Io { errno: i32, text: String },
    /// The guardian is gone, and with it everything that it had started.
    #[error("the guardian is gone")]
    Lost,
}

/// What happened to a run, in order: `Exited`, then `GroupGone`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The main process (the shell) ended. Others of its group may still run, and hold its pipes; they are being stopped.
    Exited { token: u64, end: End, at: Moment },
    /// Nothing of the run's group is left.
    GroupGone { token: u64 },
    /// The guardian died: its runs may go on without fence or parent. The agent must not go on.
    GuardianLost,
}

/// The agent's handle to its guardian. When the last one is dropped, the link closes, and the guardian ends everything.
#[derive(Clone)]
pub struct Guardian {
    owner: Arc<Owner>,
}

impl Guardian {
    pub(super) fn new(link: UnixStream) -> (Guardian, Arc<Shared>) {
        let shared = Shared::new(link);
        (Guardian { owner: Arc::new(Owner { shared: shared.clone() }) }, shared)
    }

    /// Starts a process, if permit, `not_after` and revocations allow it at the moment of the start (PROTOCOL E3).
    /// If this future is dropped, the run is killed in case it was started.
    pub async fn spawn(&self, spawn: Spawn) -> Result<Spawned, SpawnError> {
        let shared = &self.owner.shared;
        let turn = shared.window.clone().acquire_owned().await.map_err(|_| SpawnError::Lost)?;
        let token = spawn.token;
        let answer = shared.send_spawn(spawn, turn)?;
        let mut unclaimed = Unclaimed { shared, token, is_armed: true };
        let answer = answer.await;
        unclaimed.is_armed = false;
        answer.unwrap_or(Err(SpawnError::Lost))
    }

    /// SIGTERM to the run's group now, SIGKILL after the grace. For a run that has ended it does nothing.
    pub fn stop(&self, token: u64, grace_ms: u64) {
        self.owner.shared.order(&Order::Stop { token, grace_ms });
    }

    /// SIGKILL to the run's group now.
    pub fn kill(&self, token: u64) {
        self.owner.shared.order(&Order::Kill { token });
    }

    /// Nothing starts after the permit, and runs marked for it are stopped after the lease (PROTOCOL C5); CLOCK_BOOTTIME in milliseconds.
    /// The last call counts. Before the first one, nothing starts.
    pub fn set_lease(&self, permit_end_boot_ms: u64, lease_end_boot_ms: u64) {
        self.owner.shared.order(&Order::SetLease { permit_end_boot_ms, lease_end_boot_ms });
    }

    /// True: surely not started, and never will be. False: started (and perhaps ended), or the guardian is gone.
    /// Meant for a token whose spawn is not yet answered: of answered ones, the guardian remembers the last tens of thousands.
    pub async fn revoke(&self, token: u64) -> bool {
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.owner.shared.lock();
            if state.is_closed {
                return false;
            }
            state.revokes.entry(token).or_default().push(answer);
            state.append(&Order::Revoke { token });
            self.owner.shared.send(state);
        }
        answered.await.unwrap_or(false)
    }

    /// Ends the guardian in good order, for when every run has ended; what still runs is killed. Waits for its end, but not without limit.
    pub async fn shutdown(self) {
        let shared = self.owner.shared.clone();
        shared.lock().is_shutting_down = true;
        shared.order(&Order::Shutdown);
        let mut gone = shared.gone.subscribe();
        if tokio::time::timeout(SHUTDOWN_WAIT, gone.wait_for(|gone| *gone)).await.is_err() {
            log::warn!("the guardian did not end within {} s; something that it started does not end", SHUTDOWN_WAIT.as_secs());
        }
    }
}

/// Kills what was started for nobody: armed while the answer to a spawn is awaited.
struct Unclaimed<'a> {
    shared: &'a Shared,
    token: u64,
    is_armed: bool,
}

impl Drop for Unclaimed<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.shared.order(&Order::Kill { token: self.token });
        }
    }
}

/// Dropped with the last handle.
struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// What handles and the connection share.
pub(super) struct Shared {
    pub link: UnixStream,
    state: Mutex<State>,
    /// Orders could not be sent, or the link is to be closed.
    pub wake: Notify,
    window: Arc<Semaphore>,
    /// The guardian's process has ended.
    pub gone: watch::Sender<bool>,
}

#[derive(Default)]
pub(super) struct State {
    out: Outbox,
    spawns: HashMap<u64, PendingSpawn>,
    revokes: HashMap<u64, Vec<oneshot::Sender<bool>>>,
    /// Nothing more is sent; the connection ends.
    is_closed: bool,
    is_shutting_down: bool,
}

struct PendingSpawn {
    answer: oneshot::Sender<Result<Spawned, SpawnError>>,
    _turn: OwnedSemaphorePermit,
}

impl State {
    /// An order to a guardian that is gone, or going, is void: nothing of it will be left.
    fn append(&mut self, order: &Order<'_>) {
        if self.is_closed {
            return;
        }
        let appended = frames::append(&mut self.out.bytes, order);
        if appended.is_err() || self.out.unsent() > UNSENT_BYTES_MAX {
            self.is_closed = true;
        }
    }
}

impl Shared {
    fn new(link: UnixStream) -> Arc<Shared> {
        Arc::new(Shared {
            link,
            state: Mutex::default(),
            wake: Notify::new(),
            window: Arc::new(Semaphore::new(SPAWNS_IN_FLIGHT_MAX)),
            gone: watch::Sender::new(false),
        })
    }

    /// No code panics while it holds the lock; were it so, the state would still be whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, order: &Order<'_>) {
        let mut state = self.lock();
        state.append(order);
        self.send(state);
    }

    /// Sends at once what the link takes: a hop to the task that owns it would cost a short run more than the system call does. What
    /// remains, and every error, is for the task.
    fn send(&self, mut state: MutexGuard<'_, State>) {
        if self.try_send(&mut state.out).is_err() {
            drop(state);
            self.wake.notify_one();
        }
    }

    fn try_send(&self, out: &mut Outbox) -> io::Result<()> {
        self.link.try_io(Interest::WRITABLE, || out.send(self.link.as_fd()))
    }

    /// Sends what waits. `WouldBlock` if some remains.
    pub fn send_waiting(&self) -> io::Result<()> {
        self.try_send(&mut self.lock().out)
    }

    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    fn send_spawn(&self, spawn: Spawn, turn: OwnedSemaphorePermit) -> Result<oneshot::Receiver<Result<Spawned, SpawnError>>, SpawnError> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Spawn(SpawnOrder {
            token: spawn.token,
            command: &spawn.command,
            env: spawn.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            cwd: spawn.cwd.as_deref(),
            not_after_boot_ms: spawn.not_after_boot_ms,
            kill_on_lease_end: spawn.kill_on_lease_end,
            kill_grace_ms: spawn.kill_grace_ms,
        });
        let mut state = self.lock();
        if state.is_closed {
            return Err(SpawnError::Lost);
        }
        if state.spawns.contains_key(&spawn.token) {
            return Err(SpawnError::TokenInUse);
        }
        frames::append(&mut state.out.bytes, &order).map_err(|_| SpawnError::TooLarge)?;
        state.out.fds.extend([spawn.stdout, spawn.stderr]);
        state.spawns.insert(spawn.token, PendingSpawn { answer, _turn: turn });
        self.send(state);
        Ok(answered)
    }

    /// The agent wants no more of the guardian; its end is no loss then.
    fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.is_shutting_down = true;
        drop(state);
        self.wake.notify_one();
    }

    pub fn answer_spawn(&self, token: u64, answer: Result<Spawned, SpawnError>) {
        let pending = self.lock().spawns.remove(&token);
        if let Some(pending) = pending {
            let _ = pending.answer.send(answer); // nobody waits any more: then `Unclaimed` has sent a kill
        }
    }

    pub fn answer_revoke(&self, token: u64, prevented: bool) {
        let answers = self.lock().revokes.remove(&token).unwrap_or_default();
        for answer in answers {
            let _ = answer.send(prevented);
        }
    }

    pub fn is_shutting_down(&self) -> bool {
        self.lock().is_shutting_down
    }

    /// The link is gone, or goes now, and then the fence falls: whoever waits for an answer gets none.
    pub fn forsake(&self) {
        let _ = rustix::net::shutdown(&self.link, rustix::net::Shutdown::Both);
        self.window.close();
        let mut state = self.lock();
        state.is_closed = true;
        state.out = Outbox::default();
        state.spawns.clear();
        state.revokes.clear();
    }
}

impl From<Refusal> for SpawnError {
    fn from(refusal: Refusal) -> SpawnError {
        match refusal {
            Refusal::TooLate => SpawnError::TooLate,
            Refusal::PermitOver => SpawnError::PermitOver,
            Refusal::Revoked => SpawnError::Revoked,
            Refusal::TokenInUse => SpawnError::TokenInUse,
            Refusal::Failed { errno, text } => SpawnError::Io { errno, text },
        }
    }
}
