//! The Ready loop: the order of the contract in `consensus`, step by step.

use protobuf::Message as _;
use raft::Ready;
use raft::eraftpb::{ConfChangeV2, Entry, EntryType, Message, MessageType};
use uuid::Uuid;

use super::core::{Core, READY_ROUNDS_MAX, Settled, TAG_BIND, TAG_COMMAND, restore};
use super::proposals::{Applied, Fate, ProposeError};
use super::{Effects, Failure, RequestError, StateMachine, frame};
use crate::consensus::members::MemberChange;
use crate::consensus::storage::{Disk, Image, Mark};
use crate::model::NodeId;

impl<S: StateMachine, D: Disk> Core<S, D> {
    pub(super) fn ready_rounds(&mut self, fx: &mut dyn Effects<S::Outcome>) -> Result<(), Failure> {
        for _ in 0..READY_ROUNDS_MAX {
            self.fault()?;
            if !self.raw.has_ready() {
                break;
            }
            let mut ready = self.raw.ready();
            // 1. A leader's messages may go before its own fsync (Raft thesis, section 10.2.1).
            self.send(ready.take_messages(), fx);
            // 2. Reads that a quorum confirmed.
            for state in ready.take_read_states() {
                self.reads.confirm(&state.request_ctx, state.index);
            }
            // 3. Snapshot, entries, term and vote: on disk when this returns.
            self.persist(&ready, fx)?;
            // 4. What promises that they are.
            self.send(ready.take_persisted_messages(), fx);
            // 5. raft learns that they are, and may commit more.
            let mut committed = ready.take_committed_entries();
            let mut light = self.raw.advance_append(ready);
            if let Some(commit) = light.commit_index() {
                self.raw.mut_store().note_commit(commit);
            }
            self.send(light.take_messages(), fx);
            committed.extend(light.take_committed_entries());
            // 6. The state machine follows. Its outcomes are given out after it was published.
            for entry in committed {
                self.apply(entry, fx)?;
            }
            self.raw.advance_apply();
            // 7. A leader that has applied its own removal doesn't notice by itself, and would panic on the next entry.
            if self.is_leader() && !self.raw.raft.promotable() {
                let term = self.raw.raft.term;
                self.raw.raft.become_follower(term, 0);
            }
            self.election.steady(&mut self.raw.raft);
        }
        self.fault()
    }

    fn fault(&self) -> Result<(), Failure> {
        self.store().take_fault().map_or(Ok(()), |error| Err(Failure::Storage(error)))
    }

    fn send(&mut self, messages: Vec<Message>, fx: &mut dyn Effects<S::Outcome>) {
        let identity = *self.identity();
        for message in messages {
            let is_snapshot = message.msg_type == MessageType::MsgSnapshot;
            if is_snapshot {
                self.snapshots.sent_ms.insert(message.to, self.now_ms);
            }
            fx.send(message.to, frame::encode_raft(&identity, &message), is_snapshot);
        }
    }

    fn persist(&mut self, ready: &Ready, fx: &mut dyn Effects<S::Outcome>) -> Result<(), Failure> {
        if !ready.snapshot().is_empty() {
            let image = Image::decode(self.config.cluster_id, ready.snapshot().data.clone())
                .map_err(|error| Failure::Raft(format!("a snapshot that was checked on arrival can't be read: {error}")))?;
            self.raw.mut_store().install(&image, ready.hs())?;
            restore(&mut self.machine, &image)?;
            self.applied = image.mark;
            self.membership = image.membership.clone();
            for token in self.proposals.jump(image.mark.index) {
                fx.proposed(token, Err(ProposeError::Unknown));
            }
            if let Some(change) = self.change.take_if(|change| change.index <= image.mark.index) {
                fx.requested(change.token, Err(RequestError::Unknown));
            }
            log::info!("caught up by the snapshot behind entry {} (term {})", image.mark.index, image.mark.term);
        }
        failpoint!("before-log-write", !ready.entries().is_empty());
        self.raw.mut_store().persist(ready.entries(), ready.hs(), ready.must_sync())?;
        failpoint!("after-log-commit", !ready.entries().is_empty());
        Ok(())
    }

    fn apply(&mut self, entry: Entry, fx: &mut dyn Effects<S::Outcome>) -> Result<(), Failure> {
        let (index, term) = (entry.index, entry.term);
        self.snapshots.applied(entry.data.len());
        let fate = self.proposals.settle(index, term);
        match entry.get_entry_type() {
            EntryType::EntryNormal if entry.context.as_ref() == TAG_COMMAND => {
                let outcome = self.machine.apply(index, term, &entry.data);
                if let Some(Fate::Applied(token)) = fate {
                    self.settled.push(Settled::Proposal(token, Ok(Applied { index, term, outcome })));
                }
            }
            EntryType::EntryNormal if entry.context.as_ref() == TAG_BIND => self.apply_binding(index, &entry.data)?,
            EntryType::EntryNormal if entry.context.is_empty() && entry.data.is_empty() => {}
            EntryType::EntryNormal => return Err(Failure::NewerEntry { index }),
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.apply_change(&entry)?,
        }
        if let Some(Fate::Lost(token)) = fate {
            self.settled.push(Settled::Proposal(token, Err(ProposeError::Lost)));
        }
        // A change that another leader's entry replaced.
        if let Some(change) = self.change.take_if(|change| change.index == index) {
            fx.requested(change.token, Err(RequestError::NotLeader { leader: self.leader() }));
        }
        self.applied = Mark { index, term };
        failpoint!("after-apply");
        Ok(())
    }

    fn apply_binding(&mut self, index: u64, data: &[u8]) -> Result<(), Failure> {
        let (id, store): (NodeId, Uuid) = postcard::from_bytes(data).map_err(|_| Failure::NewerEntry { index })?;
        self.membership.bind(id, store);
        Ok(())
    }

    /// An entry without data is raft's own: it leaves the joint configuration.
    fn apply_change(&mut self, entry: &Entry) -> Result<(), Failure> {
        let newer = |_| Failure::NewerEntry { index: entry.index };
        let change = ConfChangeV2::parse_from_carllerche_bytes(&entry.data).map_err(|_| Failure::NewerEntry { index: entry.index })?;
        let changes: Vec<MemberChange> =
            if change.context.is_empty() { Vec::new() } else { postcard::from_bytes(&change.context).map_err(newer)? };
        // A commit index alone isn't synced; but after a crash nobody may need the vote of a member that was removed and is gone.
        self.raw.mut_store().persist_commit(entry.index)?;
        let result = match self.raw.apply_conf_change(&change) {
            Ok(conf) => {
                self.membership.changed(&conf, &changes);
                log::info!("the members are now {}", self.membership);
                Ok(())
            }
            // The same on every member, for all apply it to the same configuration.
            Err(error) => Err(RequestError::Invalid(error.to_string())),
        };
        let removed = |id: &NodeId| !self.membership.contains(*id);
        self.stores.retain(|id, _| *id == self.config.node_id || !removed(id));
        self.heard_ms.retain(|id, _| !removed(id));
        if let Some(pending) = self.change.take_if(|pending| (pending.index, pending.term) == (entry.index, entry.term)) {
            self.settled.push(Settled::Change(pending.token, result));
        }
        Ok(())
    }
}
