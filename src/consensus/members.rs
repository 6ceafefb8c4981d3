//! Who belongs to the group: replicated state, changed by entries of the log only, and kept in every snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use raft::eraftpb::ConfState;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::status::MemberRole;
use crate::model::NodeId;

/// One change of the membership.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MemberChange {
    /// A member with a vote: a new one, or a learner that is promoted.
    Voter {
        id: NodeId,
        address: String,
    },
    /// A member that follows without a vote.
    Learner {
        id: NodeId,
        address: String,
    },
    Remove {
        id: NodeId,
    },
}

impl MemberChange {
    pub fn id(&self) -> NodeId {
        match self {
            MemberChange::Voter { id, .. } | MemberChange::Learner { id, .. } | MemberChange::Remove { id } => *id,
        }
    }
}

/// What the group knows of one member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberRecord {
    /// `name:port` at which its peers reach it.
    pub address: String,
    /// The directory it was first heard from: another one under the same id is a wiped disk (PROTOCOL G1).
    pub store: Option<Uuid>,
}

/// The membership at one index of the log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Membership {
    voters: Vec<NodeId>,
    learners: Vec<NodeId>,
    voters_outgoing: Vec<NodeId>,
    learners_next: Vec<NodeId>,
    auto_leave: bool,
    records: BTreeMap<NodeId, MemberRecord>,
}

impl Membership {
    /// The members that found a group.
    pub fn founding(seed: &BTreeMap<NodeId, String>) -> Membership {
        let records = seed.iter().map(|(id, address)| (*id, MemberRecord { address: address.clone(), store: None })).collect();
        Membership { voters: seed.keys().copied().collect(), records, ..Membership::default() }
    }

    pub fn records(&self) -> &BTreeMap<NodeId, MemberRecord> {
        &self.records
    }

    /// Whether the group consists of `id` alone.
    pub fn is_only(&self, id: NodeId) -> bool {
        self.voters == [id] && self.voters_outgoing.is_empty()
    }

    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id)
    }

    pub fn contains(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id) || self.voters_outgoing.contains(&id)
    }

    pub fn role(&self, id: NodeId) -> MemberRole {
        if self.is_voter(id) { MemberRole::Voter } else { MemberRole::Learner }
    }

    /// Whether a change of several members at once is half way (joint consensus).
    pub fn is_changing(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Says what is wrong with a change, before it is proposed.
    pub fn check(&self, changes: &[MemberChange]) -> Result<(), String> {
        if changes.is_empty() {
            return Err("the change names no member".to_owned());
        }
        let mut voters: BTreeSet<NodeId> = self.voters.iter().copied().collect();
        let mut seen = BTreeSet::new();
        for change in changes {
            let id = change.id();
            if id == 0 {
                return Err("a member's id starts at 1".to_owned());
            }
            if !seen.insert(id) {
                return Err(format!("node {id} is named twice"));
            }
            match change {
                MemberChange::Voter { .. } => voters.insert(id),
                MemberChange::Remove { .. } if !self.contains(id) => return Err(format!("node {id} is no member of this cluster")),
                MemberChange::Learner { .. } | MemberChange::Remove { .. } => voters.remove(&id),
            };
        }
        if voters.is_empty() { Err("the cluster would be left without a voter".to_owned()) } else { Ok(()) }
    }

    pub fn conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            voters_outgoing: self.voters_outgoing.clone(),
            learners_next: self.learners_next.clone(),
            auto_leave: self.auto_leave,
            ..ConfState::default()
        }
    }

    /// Takes over what raft made of an applied change, and the addresses that came with it.
    pub fn changed(&mut self, conf: &ConfState, changes: &[MemberChange]) {
        self.voters = sorted(&conf.voters);
        self.learners = sorted(&conf.learners);
        self.voters_outgoing = sorted(&conf.voters_outgoing);
        self.learners_next = sorted(&conf.learners_next);
        self.auto_leave = conf.auto_leave;
        for change in changes {
            if let MemberChange::Voter { id, address } | MemberChange::Learner { id, address } = change {
                let store = self.records.get(id).and_then(|record| record.store);
                self.records.insert(*id, MemberRecord { address: address.clone(), store });
            }
        }
        let (voters, learners, outgoing) = (&self.voters, &self.learners, &self.voters_outgoing);
        self.records.retain(|id, _| voters.contains(id) || learners.contains(id) || outgoing.contains(id));
    }

    /// Binds a member to the directory it was first heard from; what is bound stays until the member is removed.
    pub fn bind(&mut self, id: NodeId, store: Uuid) {
        if let Some(record) = self.records.get_mut(&id) {
            record.store.get_or_insert(store);
        }
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "voters {:?}", self.voters)?;
        if self.is_changing() {
            write!(f, " (and until the change is complete {:?})", self.voters_outgoing)?;
        }
        if self.learners.is_empty() { Ok(()) } else { write!(f, ", learners {:?}", self.learners) }
    }
}

fn sorted(ids: &[NodeId]) -> Vec<NodeId> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}
