//! What a node keeps on disk, and how it comes back from it.
//!
//! ```text
//! identity                      whose directory this is; written last when it is founded
//! log.redb                      entries, term, vote, commit, where the log begins, which snapshot it builds on
//! snapshot-<term>-<index>       the state machine and the membership after an entry
//! ```
//!
//! Invariants
//! - The log names the snapshot that it builds on. A snapshot's file is durable before the log names it, and the one before is removed
//!   only after that: at every instant one of the two is whole. Files that the log doesn't name are left-overs.
//! - The log begins at or before the entry behind the snapshot: no gap.
//! - `persist` returns after the fsync; what raft is told to be stable is stable.
//! - A directory that breaks one of these is refused. Nothing is repaired by guessing, with one exception that loses nothing: a snapshot
//!   that is damaged while the log still begins at the founding is dropped, for the log alone gives the same state.
//!
//! Left out: locking the directory (the wiring's business; redb's own lock only guards the log's file).

mod cache;
mod disk;
mod error;
mod identity;
mod log;
mod recovery;
mod snapshot;

use std::cell::{Cell, RefCell};

pub use disk::{Directory, Disk};
pub(crate) use error::ADVICE_DAMAGED;
pub use error::StorageError;
pub use identity::Identity;
use raft::eraftpb::{ConfState, Entry, HardState};
use raft::{GetEntriesContext, RaftState};
pub(crate) use recovery::{Recovered, describe, open};
pub(crate) use snapshot::{Image, Mark};

use self::cache::EntryCache;
use self::log::{Log, LogState};
use super::config::Limits;
use crate::model::NodeId;

/// A follower needs a snapshot that raft could not be given at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    pub request_index: u64,
    pub to: NodeId,
}

/// The log and its surroundings, as raft reads them. Written by the Ready loop only.
pub(crate) struct Store<D: Disk> {
    disk: D,
    identity: Identity,
    log: Log,
    state: LogState,
    /// The last entry, or the base if there is none.
    last: Mark,
    /// The commit index on disk; the one in `state` may be ahead.
    durable_commit: u64,
    cache: EntryCache,
    /// The configuration at the applied entry when the node started.
    conf_state: ConfState,
    /// A snapshot held in memory while it is being sent.
    outgoing: Option<Image>,
    wanted: Cell<Option<Wanted>>,
    /// The first error inside one of raft's reads, which raft itself can only panic about.
    fault: RefCell<Option<StorageError>>,
}

impl<D: Disk> Store<D> {
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Makes one batch of the Ready loop durable; without `must_sync` it only takes note (a commit index alone may be lost).
    pub fn persist(&mut self, entries: &[Entry], hard_state: Option<&HardState>, must_sync: bool) -> Result<(), StorageError> {
        if let Some(hard_state) = hard_state {
            self.state.term = hard_state.term;
            self.state.vote = hard_state.vote;
            self.state.commit = self.state.commit.max(hard_state.commit);
        }
        if !must_sync && entries.is_empty() {
            return Ok(());
        }
        self.log.append(entries, self.last.index, &self.state)?;
        self.durable_commit = self.state.commit;
        self.cache.append(entries);
        if let Some(last) = entries.last() {
            self.last = Mark { index: last.index, term: last.term };
        }
        Ok(())
    }

    /// Takes note of a commit index; it becomes durable with the next batch.
    pub fn note_commit(&mut self, commit: u64) {
        self.state.commit = self.state.commit.max(commit);
    }

    /// Makes it durable that `index` is committed, unless it is already.
    pub fn persist_commit(&mut self, index: u64) -> Result<(), StorageError> {
        self.note_commit(index);
        if self.durable_commit < index {
            self.log.append(&[], self.last.index, &self.state)?;
            self.durable_commit = self.state.commit;
        }
        Ok(())
    }

    /// Replaces log and snapshot by a snapshot from the leader, durably.
    pub fn install(&mut self, image: &Image, hard_state: Option<&HardState>) -> Result<(), StorageError> {
        Image::store(&self.disk, image.mark, image.bytes())?;
        if let Some(hard_state) = hard_state {
            self.state.term = hard_state.term;
            self.state.vote = hard_state.vote;
            self.state.commit = self.state.commit.max(hard_state.commit);
        }
        let before = self.state.snapshot();
        self.state.commit = self.state.commit.max(image.mark.index);
        (self.state.base_index, self.state.base_term) = (image.mark.index, image.mark.term);
        self.state.snapshot = Some((image.mark.index, image.mark.term));
        self.log.remove(0..u64::MAX, &self.state)?;
        self.durable_commit = self.state.commit;
        self.cache.clear();
        self.last = image.mark;
        self.outgoing = None;
        self.remove_snapshot(before.filter(|mark| *mark != image.mark))
    }

    /// Lets the log build on a snapshot of its own whose file is durable, and drops the entries behind it that nobody needs.
    pub fn compact(&mut self, mark: Mark, limits: &Limits) -> Result<(), StorageError> {
        let before = self.state.snapshot();
        if before.is_some_and(|newer| newer.index >= mark.index) {
            // A snapshot from the leader overtook it.
            return self.remove_snapshot(Some(mark).filter(|mark| before != Some(*mark)));
        }
        let cached_from = self.cache.first_index().unwrap_or(mark.index);
        let keep_from = cached_from.max((mark.index + 1).saturating_sub(limits.log_keep_entries));
        let base_index = keep_from.saturating_sub(1).clamp(self.state.base_index, mark.index);
        let base_term = self.read_term(base_index)?;
        (self.state.base_index, self.state.base_term) = (base_index, base_term);
        self.state.snapshot = Some((mark.index, mark.term));
        self.log.remove(0..base_index + 1, &self.state)?;
        self.durable_commit = self.state.commit;
        self.cache.forget_before(base_index + 1);
        self.remove_snapshot(before)
    }

    fn remove_snapshot(&self, mark: Option<Mark>) -> Result<(), StorageError> {
        let Some(name) = mark.map(Mark::file_name) else { return Ok(()) };
        match self.disk.remove(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StorageError::io(&self.disk.path(&name), "remove it", error)),
            _ => Ok(()),
        }
    }

    /// What a follower needs and `snapshot` had not at hand, since the last call.
    pub fn take_wanted(&self) -> Option<Wanted> {
        self.wanted.take()
    }

    pub fn outgoing(&self) -> Option<&Image> {
        self.outgoing.as_ref()
    }

    /// Holds a snapshot ready for raft to send, or lets go of it.
    pub fn set_outgoing(&mut self, image: Option<Image>) {
        self.outgoing = image;
    }

    pub fn take_fault(&self) -> Option<StorageError> {
        self.fault.take()
    }

    pub fn close(&mut self) -> Result<(), StorageError> {
        self.log.close()
    }

    fn read_term(&self, index: u64) -> Result<u64, StorageError> {
        if index == self.state.base_index {
            return Ok(self.state.base_term);
        }
        if index == self.last.index {
            return Ok(self.last.term);
        }
        if let Some(entry) = self.cache.get(index) {
            return Ok(entry.term);
        }
        let entries = self.log.read(index..index + 1, 0)?;
        entries.first().map(|entry| entry.term).ok_or_else(|| StorageError::damaged(self.log.path(), format!("entry {index} is missing")))
    }

    /// Keeps an error for the Ready loop, and gives raft something to hold.
    fn fail(&self, error: StorageError) -> raft::Error {
        ::log::error!("{error}");
        let text = error.to_string();
        self.fault.borrow_mut().get_or_insert(error);
        raft::Error::Store(raft::StorageError::Other(text.into()))
    }
}

impl<D: Disk> raft::Storage for Store<D> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.state.hard_state(), self.conf_state.clone()))
    }

    fn entries(&self, low: u64, high: u64, max_size: impl Into<Option<u64>>, _: GetEntriesContext) -> raft::Result<Vec<Entry>> {
        if low <= self.state.base_index {
            return Err(raft::Error::Store(raft::StorageError::Compacted));
        }
        if high > self.last.index + 1 {
            return Err(raft::Error::Store(raft::StorageError::Unavailable));
        }
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        match self.cache.range(low..high, bytes_max) {
            Some(entries) => Ok(entries),
            None => self.log.read(low..high, bytes_max).map_err(|error| self.fail(error)),
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.state.base_index {
            return Err(raft::Error::Store(raft::StorageError::Compacted));
        }
        if index > self.last.index {
            return Err(raft::Error::Store(raft::StorageError::Unavailable));
        }
        self.read_term(index).map_err(|error| self.fail(error))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.state.base_index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.index)
    }

    /// The snapshot at hand, if it serves: new enough, not behind the log's beginning, and one that knows the receiver as a member
    /// (a node ignores a snapshot that doesn't). Otherwise raft asks again while one is fetched.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<raft::eraftpb::Snapshot> {
        let serves = |image: &&Image| image.mark.index >= request_index.max(self.state.base_index) && image.membership.contains(to);
        match self.outgoing.as_ref().filter(serves) {
            Some(image) => Ok(image.to_raft()),
            None => {
                self.wanted.set(Some(Wanted { request_index, to }));
                Err(raft::Error::Store(raft::StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}
