//! What controllers say to each other.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use uuid::Uuid;

use super::wire::Refusal;
use crate::model::{ClusterId, NodeId, UnixMs};

/// Bytes of one chunk of a snapshot, at most.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one frame with a snapshot, all its chunks together, at most.
pub const SNAPSHOT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Bytes of one call or answer between controllers, at most: the largest command, with room to spare.
pub const PEER_CALL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of raft frames in one call, roughly, at most (a single larger frame goes alone).
pub const FRAMES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The service of a controller for its peers.
#[tarpc::service]
pub trait Peer {
    /// Raft messages, oldest first. The answer says that they were taken in, not what came of them.
    async fn frames(frames: Vec<ByteBuf>);
    /// A piece of a frame that holds a snapshot; pieces come in order, on a connection of their own.
    async fn snapshot(chunk: SnapshotChunk) -> Result<(), Refusal>;
    /// What this controller is, for one that has not been founded yet (PROTOCOL G1).
    async fn standing(asker: NodeId) -> Standing;
    /// Commands (`ledger::encode_entry`) that only the leader can bring into the ledger; `replies` are its answers, encoded alike.
    async fn propose(commands: ByteBuf) -> Result<Proposed, Refusal>;
    async fn change_members(change: MembersWish) -> Result<(), Refusal>;
    async fn pulse() -> Pulse;
}

/// A sign of life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pulse {
    /// The wall clock (PROTOCOL H2).
    pub now: UnixMs,
    /// The last entry applied.
    pub applied: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotChunk {
    /// Tells this transfer from others by the same sender.
    pub transfer: Uuid,
    pub offset: u64,
    pub bytes_total: u64,
    pub bytes: ByteBuf,
}

/// What a controller is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Standing {
    /// Its data directory is empty, and it waits to be founded.
    Empty,
    /// It belongs to a cluster.
    Founded { cluster: ClusterId, asker: AskerStanding },
}

/// What a founded controller knows of the one that asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AskerStanding {
    /// A founder that was never heard from.
    Founder,
    /// Not a member, or one that was added and never heard from: it starts empty, and waits for the leader.
    Newcomer,
    /// A member that was heard from with this data directory.
    Known { store: Uuid },
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Proposed {
    pub index: u64,
    pub term: u64,
    pub replies: ByteBuf,
}

/// A change of the membership, or of who leads.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MembersWish {
    /// As a learner first; as a voter once it has caught up.
    Add {
        id: NodeId,
        address: String,
    },
    Remove {
        id: NodeId,
    },
    /// None: to the voter that lags least.
    Transfer {
        to: Option<NodeId>,
    },
}
