//! The node's thread: the clock, the inbox and the way out around [`Core`]. A thread, because an fsync blocks; one, because the order of
//! what it does is the protocol.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;

use super::config::NodeConfig;
use super::handle::Handle;
use super::inbox::{Mail, ProposeReply, ReadReply, Receiver, RequestReply, Sender, inbox};
use super::node::{
    Applied, Core, Effects, Failure, Input, ProposeError, ReadAt, ReadError, RequestError, StateMachine, Token, Work, WorkDone,
};
use super::status::{Member, Status};
use super::storage::{Directory, Disk, StorageError};
use super::transport::{Queued, Transport};
use crate::model::NodeId;

/// Why a node can't be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the consensus configuration is wrong: {0}")]
    Config(String),
    #[error(transparent)]
    Node(#[from] Failure),
    #[error("{}: reading it ended in a panic ({problem}), so it is damaged. {}", path.display(), super::storage::ADVICE_DAMAGED)]
    Panicked { path: PathBuf, problem: String },
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// Starts a node on the directory that `config` names. Returns when the directory is opened and checked and the snapshot is restored; what
/// the log holds beyond that is applied on the node's own thread.
pub fn start<S: StateMachine>(config: NodeConfig, machine: S, transport: impl Transport) -> Result<Handle<S::Outcome>, StartError> {
    config.validate().map_err(StartError::Config)?;
    let open_directory = |error| StorageError::io(&config.data_dir, "open it", error);
    let disk = Directory::open(&config.data_dir).map_err(open_directory).map_err(Failure::from)?;
    start_on(disk, config, machine, transport)
}

/// The same on any disk.
pub fn start_on<S: StateMachine, D: Disk>(
    disk: D,
    config: NodeConfig,
    machine: S,
    transport: impl Transport,
) -> Result<Handle<S::Outcome>, StartError> {
    config.validate().map_err(StartError::Config)?;
    let path = config.data_dir.clone();
    let (seed, store) = (Uuid::new_v4().as_u64_pair().0, Uuid::new_v4());
    // A file that was tampered with can make a library panic; that is no reason to end in a stack trace.
    let opened = catch_unwind(AssertUnwindSafe(|| Stepper::open(disk, config, machine, transport, seed, store, 0)));
    let (stepper, handle) = opened.map_err(|panic| StartError::Panicked { path, problem: panic_text(&*panic) })??;
    let stopped = stepper.stopped.clone();
    let worker = Worker::start(handle.inbox.clone()).map_err(StartError::Thread)?;
    let driver = Driver { stepper, work: worker.sender.clone(), started: Instant::now() };
    let run = move || {
        driver.run();
        worker.join();
        stopped.send_replace(true);
    };
    std::thread::Builder::new().name("consensus".to_owned()).spawn(run).map_err(StartError::Thread)?;
    Ok(handle)
}

/// The thread that encodes and writes snapshots.
struct Worker {
    sender: SyncSender<Work>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn start<O: Send + 'static>(inbox: Sender<O>) -> std::io::Result<Worker> {
        // The node gives out one piece of work at a time.
        let (sender, receiver) = sync_channel::<Work>(1);
        let run = move || {
            for work in receiver {
                let _ = inbox.post(Mail::Own(Input::Done(work.run())));
            }
        };
        let thread = std::thread::Builder::new().name("snapshots".to_owned()).spawn(run)?;
        Ok(Worker { sender, thread })
    }

    /// Waits for a write that is under way: the next start of the same directory must not meet it.
    fn join(self) {
        drop(self.sender);
        let _ = self.thread.join();
    }
}

/// A node without a thread: whoever holds it lets it take its turns. [`start`] gives it a thread, a simulation its own time.
pub struct Stepper<S: StateMachine, D: Disk, T: Transport> {
    core: Core<S, D>,
    inbox: Receiver<S::Outcome>,
    outbox: Outbox<S::Outcome, T>,
    turn_inputs_max: usize,
    inputs: Vec<Input>,
    stopped: watch::Sender<bool>,
}

/// A node, and what the rest of the program holds of it.
type Opened<S, D, T> = (Stepper<S, D, T>, Handle<<S as StateMachine>::Outcome>);

impl<S: StateMachine, D: Disk, T: Transport> Stepper<S, D, T> {
    /// As [`Core::open`].
    pub fn open(
        disk: D,
        config: NodeConfig,
        machine: S,
        transport: T,
        seed: u64,
        store: Uuid,
        now_ms: u64,
    ) -> Result<Opened<S, D, T>, Failure> {
        let (limits, node_id) = (config.limits.clone(), config.node_id);
        let core = Core::open(disk, config, machine, seed, store, now_ms)?;
        let (sender, receiver) = inbox(&limits);
        let (status_sender, status) = watch::channel(Status { node_id, ..Status::default() });
        let (stopped_sender, stopped) = watch::channel(false);
        let identity = *core.identity();
        let stepper = Stepper {
            core,
            inbox: receiver,
            outbox: Outbox::new(transport, status_sender),
            turn_inputs_max: limits.turn_inputs_max,
            inputs: Vec::new(),
            stopped: stopped_sender,
        };
        Ok((stepper, Handle { inbox: sender, status, stopped, identity, limits }))
    }

    pub fn core(&self) -> &Core<S, D> {
        &self.core
    }

    /// Takes the mail that is there. Says whether to stop.
    pub fn take_mail(&mut self) -> bool {
        while self.inputs.len() < self.turn_inputs_max
            && let Ok(piece) = self.inbox.receiver.try_recv()
        {
            if self.take_piece(piece) {
                return true;
            }
        }
        false
    }

    fn take_piece(&mut self, piece: Mail<S::Outcome>) -> bool {
        self.inbox.taken(&piece);
        match self.outbox.open(piece) {
            None => true,
            Some(input) => {
                self.inputs.push(input);
                false
            }
        }
    }

    /// When the next turn is due.
    pub fn next_turn_ms(&self, now_ms: u64) -> u64 {
        if self.inputs.is_empty() { self.core.next_turn_ms() } else { now_ms }
    }

    /// A turn on what was taken in.
    pub fn turn(&mut self, now_ms: u64) -> Result<(), Failure> {
        self.core.turn(now_ms, self.inputs.drain(..), &mut self.outbox)?;
        self.inputs.append(&mut self.outbox.backlog);
        Ok(())
    }

    /// Work that the last turn gave out; its result is to come back by [`Stepper::done`].
    pub fn take_work(&mut self) -> Option<Work> {
        self.outbox.work.take()
    }

    pub fn done(&mut self, done: WorkDone) {
        self.inputs.push(Input::Done(done));
    }

    fn close(&mut self) -> Result<(), Failure> {
        self.core.close(&mut self.outbox)
    }
}

struct Driver<S: StateMachine, D: Disk, T: Transport> {
    stepper: Stepper<S, D, T>,
    work: SyncSender<Work>,
    started: Instant,
}

impl<S: StateMachine, D: Disk, T: Transport> Driver<S, D, T> {
    fn run(mut self) {
        let served = catch_unwind(AssertUnwindSafe(|| self.serve()));
        let failure = match served {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure.to_string()),
            Err(panic) => Some(format!("the consensus thread panicked: {}", panic_text(&*panic))),
        };
        let panicked_or_failed = failure.is_some();
        if let Some(failure) = failure {
            log::error!("the node has stopped: {failure}");
            self.stepper.outbox.status.send_modify(|status| status.failed = Some(failure));
        }
        let closed = catch_unwind(AssertUnwindSafe(|| self.stepper.close()));
        if let (Ok(Err(error)), false) = (closed, panicked_or_failed) {
            log::warn!("{error}");
        }
        let inbox = &self.stepper.inbox;
        while let Ok(mail) = inbox.receiver.try_recv() {
            inbox.taken(&mail);
            refuse(mail);
        }
    }

    fn serve(&mut self) -> Result<(), Failure> {
        loop {
            self.stepper.turn(self.now_ms())?;
            if let Some(work) = self.stepper.take_work() {
                // One piece at a time fits in; the worker only ends after this thread.
                let _ = self.work.try_send(work);
            }
            if self.fill() {
                return Ok(());
            }
        }
    }

    /// Waits for mail or the next tick, then takes what is there. Says whether to stop.
    fn fill(&mut self) -> bool {
        let now_ms = self.now_ms();
        let wait_ms = self.stepper.next_turn_ms(now_ms).saturating_sub(now_ms);
        match self.stepper.inbox.receiver.recv_timeout(Duration::from_millis(wait_ms)) {
            Ok(piece) => self.stepper.take_piece(piece) || self.stepper.take_mail(),
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Where a turn's effects go: answers to those who wait, frames to the transport, work to the worker.
struct Outbox<O, T> {
    transport: T,
    status: watch::Sender<Status>,
    /// The node gives out one piece at a time.
    work: Option<Work>,
    next_token: Token,
    proposals: HashMap<Token, ProposeReply<O>>,
    reads: HashMap<Token, ReadReply>,
    requests: HashMap<Token, RequestReply>,
    /// What the transport lost: input of the next turn.
    backlog: Vec<Input>,
    members: Vec<(NodeId, String)>,
}

impl<O, T: Transport> Outbox<O, T> {
    fn new(transport: T, status: watch::Sender<Status>) -> Outbox<O, T> {
        Outbox {
            transport,
            status,
            work: None,
            next_token: 0,
            proposals: HashMap::new(),
            reads: HashMap::new(),
            requests: HashMap::new(),
            backlog: Vec::new(),
            members: Vec::new(),
        }
    }

    /// Turns mail into an input, and remembers who waits for its answer; `None` is the word to stop.
    fn open(&mut self, mail: Mail<O>) -> Option<Input> {
        self.next_token += 1;
        let token = self.next_token;
        Some(match mail {
            Mail::Stop => return None,
            Mail::Own(input) | Mail::Peer(input) => input,
            Mail::Propose(command, reply) => {
                self.proposals.insert(token, reply);
                Input::Propose { token, command }
            }
            Mail::Read { as_leader, reply } => {
                self.reads.insert(token, reply);
                Input::Read { token, as_leader }
            }
            Mail::Change(changes, reply) => {
                self.requests.insert(token, reply);
                Input::Change { token, changes }
            }
            Mail::Transfer(to, reply) => {
                self.requests.insert(token, reply);
                Input::Transfer { token, to }
            }
        })
    }

    fn follow_members(&mut self, members: &[Member]) {
        let is_same = self.members.len() == members.len()
            && self.members.iter().zip(members).all(|((id, address), member)| (*id, address) == (member.id, &member.address));
        if !is_same {
            self.members = members.iter().map(|member| (member.id, member.address.clone())).collect();
            self.transport.members(members);
        }
    }
}

impl<O, T: Transport> Effects<O> for Outbox<O, T> {
    fn send(&mut self, to: NodeId, frame: Vec<u8>, is_snapshot: bool) {
        if let Queued::Dropped { snapshot } = self.transport.send(to, frame, is_snapshot) {
            let lost_snapshot = snapshot.then_some(Input::SnapshotSent { peer: to, arrived: false });
            self.backlog.push(lost_snapshot.unwrap_or(Input::Unreachable { peer: to }));
        }
    }

    fn proposed(&mut self, token: Token, result: Result<Applied<O>, ProposeError>) {
        if let Some(reply) = self.proposals.remove(&token) {
            let _ = reply.send(result);
        }
    }

    fn read(&mut self, token: Token, result: Result<ReadAt, ReadError>) {
        if let Some(reply) = self.reads.remove(&token) {
            let _ = reply.send(result);
        }
    }

    fn requested(&mut self, token: Token, result: Result<(), RequestError>) {
        if let Some(reply) = self.requests.remove(&token) {
            let _ = reply.send(result);
        }
    }

    fn work(&mut self, work: Work) {
        self.work = Some(work);
    }

    fn publish(&mut self, status: &Status) {
        self.follow_members(&status.members);
        self.status.send_replace(status.clone());
    }
}

/// Answers mail that the node never saw.
fn refuse<O>(mail: Mail<O>) {
    match mail {
        Mail::Propose(_, reply) => drop(reply.send(Err(ProposeError::Stopped))),
        Mail::Read { reply, .. } => drop(reply.send(Err(ReadError::Stopped))),
        Mail::Change(_, reply) | Mail::Transfer(_, reply) => drop(reply.send(Err(RequestError::Stopped))),
        Mail::Peer(_) | Mail::Own(_) | Mail::Stop => {}
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
