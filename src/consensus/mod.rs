//! One replicated log, kept by raft-rs, and the state machine behind it.
//!
//! ```text
//!   Handle ──inbox (bounded)──► driver (one thread, clock) ──► node::Core (no thread, no clock) ──► storage (redb, snapshot files)
//!   peers  ◄──Transport────────────────┘        └──► StateMachine::apply, publish
//! ```
//!
//! The contract, step by step; `node::ready` is the one function that obeys it:
//!
//! 1. Take in all mail; append all proposals as one batch; tick once if a tick is due. A stall is not charged to the leader.
//! 2. Send what a leader may send before its own fsync.
//! 3. Write snapshot, entries, term and vote in one commit, and sync it if raft says so. A commit index alone may be lost, except that of a
//!    change of the members, which is on disk before it is applied.
//! 4. Send what promises that they are written.
//! 5. Tell raft, which may commit more; apply what is committed, in order.
//! 6. Step down if this leader has just applied its own removal.
//! 7. Publish the state, and only then answer whoever waits for it.
//!
//! What it promises
//! - A proposal answered `Applied` is on the disks of a quorum, was applied exactly once, at that index, on every member.
//! - `Lost`, `NotLeader`, `Busy`, `TooLarge`, `Stopped` mean that it never was and never will be applied; only `Unknown` leaves it open.
//! - A read is confirmed by a quorum after it was asked (Safe ReadIndex, PROTOCOL C3), never by a lease.
//! - Any error of the disk stops the node for good: `Status::failed` says why, the process is to end. Nothing goes on with a doubt.
//! - A directory that is damaged, foreign or of a newer format is refused with a message that names the file and says what to do.
//! - Messages carry the cluster's and the directory's id; a member that comes back with another directory is not listened to (PROTOCOL G1).
//!
//! Left out: connections (a [`Transport`] takes frames, [`Handle::receive`] brings them), the lock on the data directory, the check at the
//! founding that all founders are empty (it needs the connections).

mod config;
mod driver;
#[doc(hidden)]
pub mod fuzz;
mod handle;
mod inbox;
mod members;
mod node;
mod raft_log;
mod status;
mod storage;
mod transport;

use std::path::Path;

pub use config::{Limits, NodeConfig};
pub use driver::{StartError, Stepper, start, start_on};
pub use handle::Handle;
pub use members::{MemberChange, MemberRecord, Membership};
pub use node::{
    Applied, Core, Effects, Failure, Input, ProposeError, ReadAt, ReadError, RequestError, StateMachine, Token, Work, WorkDone,
};
pub use status::{Member, MemberRole, Role, Status};
pub use storage::{Directory, Disk, Identity, StorageError};
pub use transport::{NoPeers, PeerQueues, Queued, Transport};

/// Whose directory `data_dir` is; `None` if no node was founded there yet. Must not be called while the node runs.
pub fn describe(data_dir: &Path) -> Result<Option<Identity>, StorageError> {
    if !data_dir.is_dir() {
        return Ok(None);
    }
    let disk = Directory::open(data_dir).map_err(|error| StorageError::io(data_dir, "open it", error))?;
    storage::describe(&disk, Limits::default().redb_cache_bytes)
}
