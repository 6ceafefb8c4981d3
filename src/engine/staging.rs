//! What each worker session has to be told, and what it has acknowledged. Pure; an index of the ledger's open runs.
//!
//! A stage without an acknowledgement proves nothing (PROTOCOL D1): it is repeated, to the same session only, which takes a repetition
//! for what it is. So nothing here needs to survive a leader: the next one starts with every assigned run unsent.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::ledger::{Assignment, OpenRun};
use crate::model::{Epoch, Reason, RunId, SessionId, UnixMs};

/// Stages in one batch of orders, at most.
pub const STAGES_PER_BATCH_MAX: usize = 1_000;

#[derive(Default)]
pub struct Staging {
    sessions: BTreeMap<SessionId, Told>,
    runs: HashMap<RunId, (Assignment, UnixMs)>,
}

#[derive(Default)]
struct Told {
    outstanding: u32,
    /// Its worker starts nothing more: all that it was given is asked back.
    hands_back: bool,
    to_stage: BTreeSet<(UnixMs, RunId)>,
    to_revoke: BTreeSet<RunId>,
    to_cancel: BTreeMap<RunId, Reason>,
    revoked: BTreeSet<RunId>,
    cancelled: BTreeSet<RunId>,
}

/// What to tell one session now: first the stages, then the rest.
#[derive(Default, Debug, PartialEq)]
pub struct Orders {
    pub stage: Vec<RunId>,
    pub revoke: Vec<(RunId, Epoch)>,
    pub cancel: Vec<(RunId, Epoch, Reason)>,
}

impl Orders {
    pub fn is_empty(&self) -> bool {
        self.stage.is_empty() && self.revoke.is_empty() && self.cancel.is_empty()
    }
}

impl Staging {
    /// A run may have been opened, assigned, marked or ended.
    pub fn look_at(&mut self, id: RunId, run: Option<&OpenRun>) {
        let assigned = run.and_then(|run| run.assigned);
        if self.runs.get(&id).map(|(assigned, _)| *assigned) != assigned {
            self.forget(id);
            if let (Some(run), Some(assigned)) = (run, assigned) {
                self.runs.insert(id, (assigned, run.start_at));
                let told = self.sessions.entry(assigned.session).or_default();
                told.outstanding += 1;
                told.to_stage.insert((run.start_at, id));
            }
        }
        let (Some(run), Some(assigned)) = (run, assigned) else { return };
        let told = self.sessions.entry(assigned.session).or_default();
        if (run.heir.is_some() || told.hands_back) && !told.revoked.contains(&id) {
            told.to_revoke.insert(id);
        }
        if let Some(reason) = run.cancel.filter(|_| !told.cancelled.contains(&id)) {
            told.to_cancel.insert(id, reason);
        }
    }

    fn forget(&mut self, id: RunId) {
        let Some((assigned, start_at)) = self.runs.remove(&id) else { return };
        let Some(told) = self.sessions.get_mut(&assigned.session) else { return };
        told.outstanding -= 1;
        told.to_stage.remove(&(start_at, id));
        told.to_revoke.remove(&id);
        told.to_cancel.remove(&id);
        told.revoked.remove(&id);
        told.cancelled.remove(&id);
        if told.outstanding == 0 {
            self.sessions.remove(&assigned.session);
        }
    }

    /// Open runs that are assigned to a session.
    pub fn outstanding(&self, session: SessionId) -> u32 {
        self.sessions.get(&session).map_or(0, |told| told.outstanding)
    }

    /// Whether something is still to be told to this session, or told again.
    pub fn has_orders(&self, session: SessionId) -> bool {
        let has = |told: &Told| !told.to_stage.is_empty() || !told.to_revoke.is_empty() || !told.to_cancel.is_empty();
        self.sessions.get(&session).is_some_and(has)
    }

    /// Open runs that were assigned to sessions, by session.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.sessions.keys().copied()
    }

    /// The worker of this session drains: what it has not started is asked back, so that others can have it in time. What it has started
    /// it says, and keeps.
    pub fn hand_back(&mut self, session: SessionId) {
        let Some(told) = self.sessions.get_mut(&session).filter(|told| !told.hands_back) else { return };
        told.hands_back = true;
        let its_own = self.runs.iter().filter(|(_, (assigned, _))| assigned.session == session).map(|(id, _)| *id);
        told.to_revoke.extend(its_own.filter(|id| !told.revoked.contains(id)));
    }

    /// What was asked back, was not given back, and has not been heard to run, is asked back again: its start may have come to nothing, and
    /// then it waits again.
    pub fn ask_again(&mut self, has_started: impl Fn(RunId) -> bool) {
        for told in self.sessions.values_mut() {
            told.to_revoke.extend(told.revoked.extract_if(.., |id| !has_started(*id)));
        }
    }

    /// Takes the next orders for a session. The caller says later what became of them: `failed`, or nothing.
    pub fn take_orders(&mut self, session: SessionId) -> Orders {
        let Some(told) = self.sessions.get_mut(&session) else { return Orders::default() };
        let runs = &self.runs;
        let epoch = |id: &RunId| runs.get(id).map(|(assigned, _)| assigned.epoch);
        let mut orders = Orders::default();
        while orders.stage.len() < STAGES_PER_BATCH_MAX
            && let Some((_, id)) = told.to_stage.pop_first()
        {
            orders.stage.push(id);
        }
        if !told.to_stage.is_empty() {
            return orders; // a run is taken back only after it was given
        }
        for id in std::mem::take(&mut told.to_revoke) {
            told.revoked.insert(id);
            orders.revoke.extend(epoch(&id).map(|epoch| (id, epoch)));
        }
        for (id, reason) in std::mem::take(&mut told.to_cancel) {
            told.cancelled.insert(id);
            orders.cancel.extend(epoch(&id).map(|epoch| (id, epoch, reason)));
        }
        orders
    }

    /// These orders were not acknowledged; they are to be repeated, as far as they still hold.
    pub fn failed(&mut self, orders: &Orders) {
        for id in &orders.stage {
            if let Some((assigned, start_at)) = self.runs.get(id)
                && let Some(told) = self.sessions.get_mut(&assigned.session)
            {
                told.to_stage.insert((*start_at, *id));
            }
        }
        for (id, _) in &orders.revoke {
            if let Some(told) = self.runs.get(id).and_then(|(assigned, _)| self.sessions.get_mut(&assigned.session)) {
                told.revoked.remove(id);
                told.to_revoke.insert(*id);
            }
        }
        for (id, _, reason) in &orders.cancel {
            if let Some(told) = self.runs.get(id).and_then(|(assigned, _)| self.sessions.get_mut(&assigned.session)) {
                told.cancelled.remove(id);
                told.to_cancel.insert(*id, *reason);
            }
        }
    }
}
