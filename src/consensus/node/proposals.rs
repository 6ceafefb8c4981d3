//! Proposals between their append and their fate. An entry's place in the log is known once raft took it; whoever is applied there
//! decides: the same term means it is this entry, another term that it never will be applied.

use std::collections::BTreeMap;

use super::Token;
use crate::model::NodeId;

/// A command that was committed and applied here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied<O> {
    pub index: u64,
    pub term: u64,
    pub outcome: O,
}

/// Why a proposal has no outcome.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Surely not applied.
    #[error("this node does not lead")]
    NotLeader { leader: Option<NodeId> },
    /// Surely not applied; ask again later.
    #[error("too much is waiting")]
    Busy,
    /// Surely not applied: another leader's entry took its place.
    #[error("another leader's entry took its place")]
    Lost,
    /// It may have been applied, or may still be.
    #[error("it may or may not be applied: this node lost track of it")]
    Unknown,
    /// Surely not applied.
    #[error("the command has {bytes} bytes, more than {bytes_max}")]
    TooLarge { bytes: usize, bytes_max: usize },
    /// Surely not applied: the node had stopped before it took the command.
    #[error("the node has stopped")]
    Stopped,
}

struct Pending {
    term: u64,
    token: Token,
    bytes: usize,
    deadline_ms: u64,
}

/// What became of a proposal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Applied(Token),
    Lost(Token),
}

#[derive(Default)]
pub struct Proposals {
    by_index: BTreeMap<u64, Pending>,
    bytes: usize,
}

impl Proposals {
    pub fn len(&self) -> usize {
        self.by_index.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes note of an appended entry. Gives back a proposal whose place it takes: its fate can't be seen any more.
    pub fn insert(&mut self, index: u64, term: u64, token: Token, bytes: usize, deadline_ms: u64) -> Option<Token> {
        self.bytes += bytes;
        let before = self.by_index.insert(index, Pending { term, token, bytes, deadline_ms })?;
        self.bytes -= before.bytes;
        Some(before.token)
    }

    /// The entry at `index` was applied, and is of `term`.
    pub fn settle(&mut self, index: u64, term: u64) -> Option<Fate> {
        let pending = self.by_index.remove(&index)?;
        self.bytes -= pending.bytes;
        Some(if pending.term == term { Fate::Applied(pending.token) } else { Fate::Lost(pending.token) })
    }

    /// A snapshot took the place of everything up to `index`.
    pub fn jump(&mut self, index: u64) -> Vec<Token> {
        let later = self.by_index.split_off(&(index + 1));
        self.drop_all_but(later)
    }

    /// Those that have waited too long.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Token> {
        if self.by_index.first_key_value().is_none_or(|(_, pending)| pending.deadline_ms > now_ms) {
            return Vec::new();
        }
        let (late, rest) = std::mem::take(&mut self.by_index).into_iter().partition(|(_, pending)| pending.deadline_ms <= now_ms);
        self.by_index = late;
        self.drop_all_but(rest)
    }

    /// All of them: the node stops.
    pub fn drain(&mut self) -> Vec<Token> {
        self.drop_all_but(BTreeMap::new())
    }

    fn drop_all_but(&mut self, rest: BTreeMap<u64, Pending>) -> Vec<Token> {
        let dropped = std::mem::replace(&mut self.by_index, rest);
        self.bytes -= dropped.values().map(|pending| pending.bytes).sum::<usize>();
        dropped.into_values().map(|pending| pending.token).collect()
    }
}
