//! What a turn looks after once the Ready loop has come to rest: snapshots, bindings, answers that are due, and the status.

use raft::{ProgressState, SnapshotStatus, StateRole};

use super::core::{Core, Settled, TAG_BIND};
use super::proposals::ProposeError;
use super::reads::ReadError;
use super::requests::normal_entry;
use super::snapshots::{Work, WorkDone};
use super::{Effects, Failure, RequestError, StateMachine};
use crate::consensus::members::MemberRecord;
use crate::consensus::status::{Member, Role, Status};
use crate::consensus::storage::Disk;
use crate::model::NodeId;
use crate::mutation::{self, Mutation};

impl<S: StateMachine, D: Disk> Core<S, D> {
    pub(super) fn tend(&mut self, fx: &mut dyn Effects<S::Outcome>) -> Result<(), Failure> {
        self.take_snapshot(fx);
        self.watch_outgoing();
        self.bind_members();
        self.publish(fx);
        self.give_out_settled(fx);
        self.answer_reads(fx);
        self.answer_late(fx);
        Ok(())
    }

    /// Starts a snapshot if enough was applied since the last one, or a follower needs one.
    fn take_snapshot(&mut self, fx: &mut dyn Effects<S::Outcome>) {
        let wanted = self.store().take_wanted();
        let limits = self.limits();
        let is_due = self.snapshots.entries >= limits.snapshot_entries || self.snapshots.bytes >= limits.snapshot_bytes;
        if self.snapshots.is_writing || self.applied.index == 0 || !(is_due || wanted.is_some()) {
            return;
        }
        if let Some(wanted) = wanted {
            log::debug!("node {} needs a snapshot of at least entry {}", wanted.to, wanted.request_index);
        }
        self.snapshots.begin();
        let (disk, encode) = (self.store().disk().clone(), self.machine.snapshot());
        let (cluster, membership) = (self.config.cluster_id, self.membership.clone());
        fx.work(Work::write_snapshot(disk, cluster, self.applied, membership, wanted.is_some(), encode));
    }

    pub(super) fn snapshot_written(&mut self, done: WorkDone) -> Result<(), Failure> {
        self.snapshots.is_writing = false;
        let image = done.image?;
        let limits = self.config.limits.clone();
        self.raw.mut_store().compact(done.mark, &limits)?;
        log::debug!("took a snapshot behind entry {} (term {})", done.mark.index, done.mark.term);
        if image.is_some() {
            self.snapshots.outgoing_ms = self.now_ms;
            self.raw.mut_store().set_outgoing(image);
        }
        Ok(())
    }

    /// The transport knows what became of a snapshot that it was given.
    pub(super) fn snapshot_sent(&mut self, peer: NodeId, arrived: bool) {
        self.snapshots.sent_ms.remove(&peer);
        self.raw.report_snapshot(peer, if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
    }

    /// A follower whose snapshot got lost without a report would be stuck for ever; and an image that nobody needs is let go of.
    fn watch_outgoing(&mut self) {
        let (now_ms, timeout_ms) = (self.now_ms, self.limits().snapshot_send_timeout_ms);
        let progress = self.raw.raft.prs();
        let is_receiving = |id: NodeId| progress.get(id).is_some_and(|peer| peer.state == ProgressState::Snapshot);
        self.snapshots.sent_ms.retain(|id, _| is_receiving(*id));
        let late: Vec<NodeId> =
            self.snapshots.sent_ms.iter().filter(|(_, sent_ms)| now_ms >= *sent_ms + timeout_ms).map(|(id, _)| *id).collect();
        for peer in late {
            self.snapshot_sent(peer, false);
        }
        let is_idle = self.snapshots.sent_ms.is_empty() && now_ms >= self.snapshots.outgoing_ms + timeout_ms;
        if is_idle && self.store().outgoing().is_some() {
            self.raw.mut_store().set_outgoing(None);
        }
    }

    /// Records the directory of each member when it is first heard from (PROTOCOL G1).
    fn bind_members(&mut self) {
        let term = self.raw.raft.term;
        if !self.has_own_applied() || self.raw.raft.lead_transferee.is_some() {
            return;
        }
        if self.bound.0 != term {
            self.bound = (term, Default::default());
        }
        let unbound = self.membership.records().iter().filter(|(id, record)| record.store.is_none() && !self.bound.1.contains(id));
        let heard: Vec<_> = unbound.filter_map(|(id, _)| Some((*id, *self.stores.get(id)?))).collect();
        for (id, store) in heard {
            let data = postcard::to_stdvec(&(id, store)).expect("a number and a UUID always encode");
            if self.append(vec![normal_entry(TAG_BIND, data)]).is_some() {
                self.bound.1.insert(id);
            }
        }
    }

    pub(super) fn give_out_settled(&mut self, fx: &mut dyn Effects<S::Outcome>) {
        for settled in self.settled.drain(..) {
            match settled {
                Settled::Proposal(token, result) => fx.proposed(token, result),
                Settled::Change(token, result) => fx.requested(token, result),
            }
        }
    }

    fn answer_reads(&mut self, fx: &mut dyn Effects<S::Outcome>) {
        for (at, request) in self.reads.ripe(self.applied.index) {
            match at.leader_term {
                None if request.as_leader => fx.read(request.token, Err(ReadError::NotLeader { leader: self.leader() })),
                _ => fx.read(request.token, Ok(at)),
            }
        }
        let (now_ms, is_leader, leader) = (self.now_ms, self.is_leader(), self.leader());
        for request in self.reads.take_unconfirmed(|request| request.as_leader && !is_leader) {
            fx.read(request.token, Err(ReadError::NotLeader { leader }));
        }
        for request in self.reads.take_unconfirmed(|request| request.deadline_ms <= now_ms) {
            fx.read(request.token, Err(ReadError::TimedOut));
        }
    }

    fn answer_late(&mut self, fx: &mut dyn Effects<S::Outcome>) {
        for token in self.proposals.expire(self.now_ms) {
            fx.proposed(token, Err(ProposeError::Unknown));
        }
        let now_ms = self.now_ms;
        if let Some(change) = self.change.take_if(|change| change.deadline_ms <= now_ms) {
            fx.requested(change.token, Err(RequestError::Unknown));
        }
        let (is_leader, is_given_up) = (self.is_leader(), self.raw.raft.lead_transferee.is_none());
        if let Some(transfer) = self.transfer.take_if(|transfer| !is_leader || is_given_up || transfer.deadline_ms <= now_ms) {
            fx.requested(transfer.token, if is_leader { Err(RequestError::TimedOut) } else { Ok(()) });
        }
    }

    /// Shows the state machine and everyone else where the node stands, if that has changed.
    fn publish(&mut self, fx: &mut dyn Effects<S::Outcome>) {
        let status = self.current_status();
        if status == self.status {
            return;
        }
        self.log_change(&status);
        self.status = status;
        self.machine.publish(&self.status);
        fx.publish(&self.status);
    }

    fn log_change(&self, now: &Status) {
        let id = self.config.node_id;
        let was = &self.status;
        if now.is_leader() && (!was.is_leader() || was.term != now.term) {
            log::info!("This node became the LEADER (node {id}, term {})", now.term);
        } else if was.is_leader() && !now.is_leader() {
            let leader = now.leader.map_or("not known yet".to_owned(), |leader| leader.to_string());
            log::info!("This node is now a FOLLOWER (node {id}, term {}, leader {leader})", now.term);
        } else if now.leader != was.leader
            && let Some(leader) = now.leader
        {
            log::info!("node {leader} leads (term {}); this is node {id}", now.term);
        }
    }

    pub(super) fn current_status(&self) -> Status {
        let raft = &self.raw.raft;
        Status {
            node_id: self.config.node_id,
            term: raft.term,
            role: match raft.state {
                StateRole::Leader => Role::Leader,
                StateRole::Follower => Role::Follower,
                StateRole::Candidate => Role::Candidate,
                StateRole::PreCandidate => Role::PreCandidate,
            },
            leader: self.leader(),
            commit: raft.raft_log.committed,
            applied: self.applied.index,
            first_own_applied: self.has_own_applied(),
            members: self.membership.records().iter().map(|(id, record)| self.member(*id, record)).collect(),
            failed: None,
        }
    }

    fn member(&self, id: NodeId, record: &MemberRecord) -> Member {
        let is_self = id == self.config.node_id;
        let matched = if self.is_leader() { self.raw.raft.prs().get(id).map_or(0, |peer| peer.matched) } else { 0 };
        Member {
            id,
            // What this node was told at its start says where a peer is now; what was replicated, where it was once.
            address: self.config.seed_members.get(&id).unwrap_or(&record.address).clone(),
            role: self.membership.role(id),
            store: record.store,
            reachable: is_self || self.is_reachable(id),
            applied: if is_self { self.applied.index } else { matched },
        }
    }

    pub(super) fn is_reachable(&self, id: NodeId) -> bool {
        self.heard_ms.get(&id).is_some_and(|heard_ms| self.now_ms < heard_ms + 2 * self.config.election_timeout_ms)
    }

    fn has_own_applied(&self) -> bool {
        self.is_leader() && (self.applied.term == self.raw.raft.term || mutation::is(Mutation::LicenceAtElection))
    }
}
