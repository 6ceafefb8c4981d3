//! What the driver is asked, and what it answers.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use crate::agent::runs::{Claims, Counts};
use crate::model::{ClusterId, RunId, SessionId};
use crate::rpc::wire::{Cancel, HeldRun, Order, OutputPage, ReadOutput, Refusal, RevokeAck, RunRef, Stage, StageAck};

/// An answer to come.
pub type Reply<T> = oneshot::Sender<T>;

/// What the driver is asked.
pub enum Command {
    Stage {
        order: Order<Vec<Stage>>,
        connection: u64,
        reply: Reply<Result<Vec<StageAck>, Refusal>>,
    },
    Revoke {
        order: Order<Vec<RunRef>>,
        connection: u64,
        reply: Reply<Result<Vec<RevokeAck>, Refusal>>,
    },
    Cancel {
        order: Order<Vec<Cancel>>,
        connection: u64,
        reply: Reply<Result<(), Refusal>>,
    },
    List {
        order: Order<()>,
        connection: u64,
        reply: Reply<Result<Vec<HeldRun>, Refusal>>,
    },
    ReadOutput {
        request: ReadOutput,
        reply: Reply<Result<OutputSource, Refusal>>,
    },
    /// Ends the session here, if one is open, and says what the next one is to be told.
    Claims {
        newest: Option<SessionId>,
        reply: Reply<Claims>,
    },
    Opened {
        cluster: ClusterId,
        session: SessionId,
        term: u64,
        granted: Granted,
        reply: Reply<()>,
    },
    Granted {
        session: SessionId,
        term: u64,
        granted: Granted,
    },
    /// The leader says that this session is over.
    SessionOver {
        session: SessionId,
    },
    /// These ends are applied, at these indexes.
    Acknowledged(Vec<(RunId, u64)>),
    Drain {
        in_us: i64,
        grace_max_ms: u64,
    },
    Stop,
}

/// A grant, in this machine's BOOTTIME.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    pub permit_end_us: i64,
    pub lease_end_us: i64,
    pub recorded_up_to: u64,
}

/// Where the reader of an output gets it.
pub enum OutputSource {
    Page(OutputPage),
    /// Nothing behind `page` yet; the number is how much can be read, and it grows until the run has ended.
    Growing {
        page: OutputPage,
        readable: watch::Receiver<u64>,
    },
    /// The run waits for its instant.
    NotYet,
    /// In this file; nothing is added to it.
    Spooled {
        path: PathBuf,
        has_ended: bool,
    },
}

/// What the agent as a whole does.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct AgentStatus {
    pub cluster: Option<ClusterId>,
    pub session: Option<SessionId>,
    pub counts: Counts,
    pub is_draining: bool,
    /// Why no new work is taken, if it can't be.
    pub trouble: Option<Arc<str>>,
}
