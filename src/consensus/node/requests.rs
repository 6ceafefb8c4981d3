//! Requests as they come in: proposals, reads, changes of the membership, hand-overs of leadership.

use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, Message, MessageType};

use super::core::{Core, PendingChange, PendingTransfer, TAG_COMMAND};
use super::proposals::ProposeError;
use super::reads::{ReadError, ReadRequest};
use super::{Effects, RequestError, StateMachine, Token};
use crate::consensus::config::HEARTBEAT_TICKS;
use crate::consensus::members::MemberChange;
use crate::consensus::storage::Disk;
use crate::model::NodeId;

impl<S: StateMachine, D: Disk> Core<S, D> {
    /// Appends what may be appended, as one batch.
    pub(super) fn propose(&mut self, commands: Vec<(Token, Vec<u8>)>, fx: &mut dyn Effects<S::Outcome>) {
        if commands.is_empty() {
            return;
        }
        if !self.is_leader() {
            let leader = self.leader();
            commands.into_iter().for_each(|(token, _)| fx.proposed(token, Err(ProposeError::NotLeader { leader })));
            return;
        }
        let limits = self.limits();
        let (mut count, mut bytes) = (self.proposals.len(), self.proposals.bytes());
        let (mut entries, mut taken) = (Vec::with_capacity(commands.len()), Vec::with_capacity(commands.len()));
        for (token, command) in commands {
            if command.len() > limits.command_bytes_max {
                let error = ProposeError::TooLarge { bytes: command.len(), bytes_max: limits.command_bytes_max };
                fx.proposed(token, Err(error));
            } else if count >= limits.pending_proposals_max || bytes + command.len() > limits.pending_bytes_max {
                fx.proposed(token, Err(ProposeError::Busy));
            } else {
                (count, bytes) = (count + 1, bytes + command.len());
                taken.push((token, command.len()));
                entries.push(normal_entry(TAG_COMMAND, command));
            }
        }
        match self.append(entries) {
            None => taken.into_iter().for_each(|(token, _)| fx.proposed(token, Err(ProposeError::Busy))),
            Some(first_index) => {
                let (term, deadline_ms) = (self.raw.raft.term, self.now_ms + self.config.limits.proposal_timeout_ms);
                for (index, (token, bytes)) in (first_index..).zip(taken) {
                    if let Some(before) = self.proposals.insert(index, term, token, bytes, deadline_ms) {
                        fx.proposed(before, Err(ProposeError::Unknown));
                    }
                }
            }
        }
    }

    /// Appends entries as leader; gives the first one's index, or `None` if raft refuses (a hand-over, or too much uncommitted).
    pub(super) fn append(&mut self, entries: Vec<Entry>) -> Option<u64> {
        let count = entries.len() as u64;
        if count == 0 || !self.is_leader() {
            return None;
        }
        let mut message = Message { from: self.config.node_id, entries: entries.into(), ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        self.raw.step(message).ok()?;
        Some(self.raw.raft.raft_log.last_index() + 1 - count)
    }

    pub(super) fn take_read(&mut self, token: Token, as_leader: bool, fx: &mut dyn Effects<S::Outcome>) {
        if as_leader && !self.is_leader() {
            return fx.read(token, Err(ReadError::NotLeader { leader: self.leader() }));
        }
        if self.reads.len() >= self.limits().pending_reads_max {
            return fx.read(token, Err(ReadError::Busy));
        }
        self.reads.push(ReadRequest { token, as_leader, deadline_ms: self.now_ms + self.limits().read_timeout_ms });
    }

    /// Asks raft for one confirmation of all reads that wait, if it can give one now.
    pub(super) fn issue_reads(&mut self) {
        let reissue_ms = 2 * HEARTBEAT_TICKS as u64 * self.config.tick_ms();
        let leader_term = self.is_leader().then_some(self.raw.raft.term);
        self.reads.reissue(self.now_ms.saturating_sub(reissue_ms), leader_term);
        let can_answer = match leader_term {
            Some(_) => self.raw.raft.commit_to_current_term(),
            None => self.leader().is_some(),
        };
        if let Some(context) = can_answer.then(|| self.reads.issue(self.now_ms, leader_term)).flatten() {
            self.raw.read_index(context);
        }
    }

    pub(super) fn take_change(&mut self, token: Token, changes: Vec<MemberChange>, fx: &mut dyn Effects<S::Outcome>) {
        match self.propose_change(&changes) {
            Err(error) => fx.requested(token, Err(error)),
            Ok((index, term)) => {
                let deadline_ms = self.now_ms + self.limits().proposal_timeout_ms;
                self.change = Some(PendingChange { token, index, term, deadline_ms });
            }
        }
    }

    fn propose_change(&mut self, changes: &[MemberChange]) -> Result<(u64, u64), RequestError> {
        if !self.is_leader() {
            return Err(RequestError::NotLeader { leader: self.leader() });
        }
        // raft would turn a change into an empty entry without a word while another is pending.
        if self.change.is_some() || self.raw.raft.has_pending_conf() || self.membership.is_changing() {
            return Err(RequestError::Busy);
        }
        self.membership.check(changes).map_err(RequestError::Invalid)?;
        let mut change = ConfChangeV2::default();
        change.set_changes(changes.iter().map(single_change).collect::<Vec<_>>().into());
        change.context = postcard::to_stdvec(changes).expect("names and numbers always encode").into();
        self.raw.propose_conf_change(Vec::new(), change).map_err(|_| RequestError::Busy)?;
        Ok((self.raw.raft.raft_log.last_index(), self.raw.raft.term))
    }

    pub(super) fn take_transfer(&mut self, token: Token, to: Option<NodeId>, fx: &mut dyn Effects<S::Outcome>) {
        let target = match to.or_else(|| self.best_successor()) {
            _ if !self.is_leader() => Err(RequestError::NotLeader { leader: self.leader() }),
            _ if self.transfer.is_some() => Err(RequestError::Busy),
            None => Err(RequestError::Invalid("there is no other voter".to_owned())),
            Some(to) if to == self.config.node_id => Err(RequestError::Invalid(format!("node {to} leads already"))),
            Some(to) if !self.membership.is_voter(to) => Err(RequestError::Invalid(format!("node {to} is no voter of this cluster"))),
            Some(to) => Ok(to),
        };
        match target {
            Err(error) => fx.requested(token, Err(error)),
            Ok(to) => {
                self.raw.transfer_leader(to);
                self.transfer = Some(PendingTransfer { token, deadline_ms: self.now_ms + 2 * self.config.election_timeout_ms });
            }
        }
    }

    /// The voter that lags least among those heard from lately.
    fn best_successor(&self) -> Option<NodeId> {
        let progress = self.raw.raft.prs();
        let voters = self.membership.records().keys().copied().filter(|id| *id != self.config.node_id && self.membership.is_voter(*id));
        voters.max_by_key(|id| (self.is_reachable(*id), progress.get(*id).map_or(0, |peer| peer.matched), std::cmp::Reverse(*id)))
    }
}

pub(super) fn normal_entry(tag: &'static [u8], data: Vec<u8>) -> Entry {
    Entry { context: tag.into(), data: data.into(), ..Entry::default() }
}

fn single_change(change: &MemberChange) -> ConfChangeSingle {
    let mut single = ConfChangeSingle { node_id: change.id(), ..ConfChangeSingle::default() };
    single.set_change_type(match change {
        MemberChange::Voter { .. } => ConfChangeType::AddNode,
        MemberChange::Learner { .. } => ConfChangeType::AddLearnerNode,
        MemberChange::Remove { .. } => ConfChangeType::RemoveNode,
    });
    single
}
