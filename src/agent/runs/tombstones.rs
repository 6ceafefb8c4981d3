//! What is remembered of runs that are no longer held, so that a late order about them is answered truthfully (PROTOCOL E4).
//!
//! Bounded: the oldest go when they are older than `TOMBSTONE_KEPT_US` or more than `TOMBSTONES_MAX`. A stage that comes even later was
//! sent by a leader that had learned the run's end minutes before, or over a connection that has been replaced since; orders over such a
//! connection are refused altogether (`Runs::check`).

use std::collections::{BTreeMap, VecDeque};

use crate::model::{Epoch, RunId};

/// Tombstones, at most (about 30 MB).
const TOMBSTONES_MAX: usize = 262_144;
/// How long a tombstone is kept: many times a session's lease.
const TOMBSTONE_KEPT_US: i64 = 600_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Grave {
    /// It did not start under this or an earlier epoch.
    Revoked,
    /// It ended here, and the store has it.
    Finished,
}

struct Tombstone {
    epoch: Epoch,
    grave: Grave,
    since_us: i64,
}

#[derive(Default)]
pub(super) struct Tombstones {
    by_run: BTreeMap<RunId, Tombstone>,
    by_age: VecDeque<(i64, RunId)>,
}

impl Tombstones {
    pub(super) fn get(&self, run: RunId) -> Option<(Epoch, Grave)> {
        self.by_run.get(&run).map(|tombstone| (tombstone.epoch, tombstone.grave))
    }

    pub(super) fn insert(&mut self, now_us: i64, run: RunId, epoch: Epoch, grave: Grave) {
        let old = self.by_run.get(&run).map_or(0, |tombstone| tombstone.epoch);
        self.by_run.insert(run, Tombstone { epoch: epoch.max(old), grave, since_us: now_us });
        self.by_age.push_back((now_us, run));
    }

    /// A later epoch of the run was accepted.
    pub(super) fn remove(&mut self, run: RunId) {
        self.by_run.remove(&run);
    }

    /// Drops what is too old or too much. Call it only while a session is open: until then the proofs have not been told.
    pub(super) fn prune(&mut self, now_us: i64) {
        while let Some((since_us, run)) = self.by_age.front().copied() {
            if self.by_age.len() <= TOMBSTONES_MAX && now_us - since_us < TOMBSTONE_KEPT_US {
                break;
            }
            self.by_age.pop_front();
            if self.by_run.get(&run).is_some_and(|tombstone| tombstone.since_us == since_us) {
                self.by_run.remove(&run);
            }
        }
    }

    /// A session was opened, and the proofs of the earlier ones were told with it.
    pub(super) fn forget_revoked(&mut self) {
        self.by_run.retain(|_, tombstone| tombstone.grave == Grave::Finished);
        let by_run = &self.by_run;
        self.by_age.retain(|(_, run)| by_run.contains_key(run));
    }

    pub(super) fn revoked(&self) -> impl Iterator<Item = (RunId, Epoch)> + '_ {
        self.by_run.iter().filter(|(_, tombstone)| tombstone.grave == Grave::Revoked).map(|(run, tombstone)| (*run, tombstone.epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_tombstone_is_kept_for_its_time_and_one_set_anew_for_longer() {
        let (old, renewed) = (RunId(Uuid::from_u128(1)), RunId(Uuid::from_u128(2)));
        let mut tombstones = Tombstones::default();
        tombstones.insert(0, old, 1, Grave::Revoked);
        tombstones.insert(0, renewed, 2, Grave::Revoked);
        tombstones.insert(1, renewed, 1, Grave::Finished);
        tombstones.prune(TOMBSTONE_KEPT_US - 1);
        assert_eq!(tombstones.get(old), Some((1, Grave::Revoked)));
        tombstones.prune(TOMBSTONE_KEPT_US);
        assert_eq!((tombstones.get(old), tombstones.get(renewed)), (None, Some((2, Grave::Finished))), "the highest epoch counts");
    }

    #[test]
    fn tombstones_are_bounded() {
        let mut tombstones = Tombstones::default();
        for n in 0..TOMBSTONES_MAX as u128 + 10 {
            tombstones.insert(0, RunId(Uuid::from_u128(n)), 1, Grave::Finished);
        }
        tombstones.prune(0);
        assert_eq!(tombstones.by_run.len(), TOMBSTONES_MAX);
        assert_eq!(tombstones.get(RunId(Uuid::from_u128(9))), None);
    }
}
