//! What a node knows of itself and its group, for everyone who asks.

use uuid::Uuid;

use crate::model::NodeId;

/// This node's part in the current term.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Role {
    Leader,
    #[default]
    Follower,
    /// Asks whether it could win before it disturbs anyone (Raft thesis, section 9.6).
    PreCandidate,
    Candidate,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberRole {
    Voter,
    Learner,
}

/// One member as this node sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub id: NodeId,
    pub address: String,
    pub role: MemberRole,
    /// The directory that it is bound to; none until a leader has heard from it (PROTOCOL G1).
    pub store: Option<Uuid>,
    /// Heard from within the last two election time-outs; always true for the node itself. A follower hears from its leader only.
    pub reachable: bool,
    /// The entries it is known to have on disk, as the leader counts them; on others 0, except for the node itself, which says what it
    /// applied.
    pub applied: u64,
}

/// A node's state after a turn.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Status {
    pub node_id: NodeId,
    pub term: u64,
    pub role: Role,
    /// Who leads this term, if this node knows.
    pub leader: Option<NodeId>,
    pub commit: u64,
    pub applied: u64,
    /// It leads, and has applied an entry of its own term: what it reads in the state machine is up to date with every earlier leader's
    /// promises. The ground of the licence (PROTOCOL B1).
    pub first_own_applied: bool,
    pub members: Vec<Member>,
    /// Why the node has stopped, if it did so by itself. The process is to end then, non-zero.
    pub failed: Option<String>,
}

impl Status {
    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }
}
