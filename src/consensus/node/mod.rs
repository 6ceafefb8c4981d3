//! One member of the group without a thread, a runtime or a clock: time, inputs and the seed of its only randomness come from outside,
//! so that a simulation drives it exactly as the thread in `driver` does.

mod core;
mod election;
pub(super) mod frame;
mod proposals;
mod reads;
mod ready;
mod requests;
mod snapshots;
mod tend;

pub use self::core::Core;
pub use self::proposals::{Applied, ProposeError};
pub use self::reads::{ReadAt, ReadError};
pub use self::snapshots::{Work, WorkDone};
use super::members::MemberChange;
use super::status::Status;
use super::storage::StorageError;
use crate::model::NodeId;

/// What the log drives. The same commands at the same indexes give the same state on every member.
pub trait StateMachine: Send + 'static {
    /// What a command led to, for its proposer.
    type Outcome: Send + 'static;
    /// Carries out a committed command. Total: what makes no sense is an outcome, never a panic. No clock, no randomness.
    fn apply(&mut self, index: u64, term: u64, command: &[u8]) -> Self::Outcome;
    /// Holds the present state in O(1); it is encoded on another thread while this one goes on.
    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send>;
    /// Replaces the state by a snapshot taken behind entry `index`. An error means that the bytes can't be read, and stops the node.
    fn restore(&mut self, index: u64, bytes: &[u8]) -> Result<(), String>;
    /// Called once after every turn that applied something or changed the status: the moment to show readers a new state.
    fn publish(&mut self, status: &Status);
}

/// Names a request until it is answered; chosen by the caller, who keeps them apart.
pub type Token = u64;

/// What a turn works on.
pub enum Input {
    /// A frame from a peer, as it came.
    Frame(Vec<u8>),
    Propose {
        token: Token,
        command: Vec<u8>,
    },
    /// A Safe ReadIndex; `as_leader` is refused unless this node leads when it is asked and confirmed (PROTOCOL C3).
    Read {
        token: Token,
        as_leader: bool,
    },
    Change {
        token: Token,
        changes: Vec<MemberChange>,
    },
    /// Hands leadership to a voter, or with `None` to the one that lags least.
    Transfer {
        token: Token,
        to: Option<NodeId>,
    },
    /// Asks for an election now.
    Campaign,
    /// The last frame to this peer did not go out.
    Unreachable {
        peer: NodeId,
    },
    /// The last snapshot to this peer was handed over, or lost on the way.
    SnapshotSent {
        peer: NodeId,
        arrived: bool,
    },
    /// Work given out by an earlier turn is done.
    Done(WorkDone),
}

/// What a turn does to the world, in the order in which it must happen.
pub trait Effects<O> {
    /// Queues a frame for a peer; may lose it.
    fn send(&mut self, to: NodeId, frame: Vec<u8>, is_snapshot: bool);
    fn proposed(&mut self, token: Token, result: Result<Applied<O>, ProposeError>);
    fn read(&mut self, token: Token, result: Result<ReadAt, ReadError>);
    /// Answers a change of the membership or a transfer.
    fn requested(&mut self, token: Token, result: Result<(), RequestError>);
    /// Has work done off this thread; its result comes back as [`Input::Done`].
    fn work(&mut self, work: Work);
    fn publish(&mut self, status: &Status);
}

/// Why a change of the membership or a transfer of leadership did not happen.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    #[error("this node does not lead")]
    NotLeader { leader: Option<NodeId> },
    #[error("another change is still under way, or too much is waiting; ask again")]
    Busy,
    #[error("{0}")]
    Invalid(String),
    #[error("it did not happen in time")]
    TimedOut,
    #[error("it may or may not have happened: this node lost track of it")]
    Unknown,
    #[error("the node has stopped")]
    Stopped,
}

/// Why a node stopped by itself. Nothing is lost that was acknowledged, and nothing goes on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the state machine refused the snapshot behind entry {index}: {reason}")]
    Machine { index: u64, reason: String },
    #[error("the log holds entry {index} of a kind that this version of chrono-flow doesn't know. Start with the newer version")]
    NewerEntry { index: u64 },
    #[error(
        "node {leader} counts entries up to {commit} as stored here, and the log ends at {last_index}: the data directory was rolled back \
         or replaced. Remove this member from the cluster and add it again with an empty directory"
    )]
    RolledBack { leader: NodeId, commit: u64, last_index: u64 },
    #[error(
        "node {by} knows this node under another data directory: this one was wiped or replaced, and must not vote under the old name. \
         Remove this member from the cluster and add it again, or start with the directory that it had"
    )]
    Refused { by: NodeId },
    #[error("raft: {0}")]
    Raft(String),
}
