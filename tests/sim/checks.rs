//! What is checked of workers as it happens, and of everything once the faults are over.

use chrono_flow::agent::runs::Ended;
use chrono_flow::model::{Run, RunState};

use crate::sim::Sim;

/// What the faults left behind, of which a rule says how long it may last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Aftermath {
    #[default]
    Nothing,
    /// A clock was off, or had been: it counts as bad for 10 s more (PROTOCOL H2).
    Clocks,
    /// No worker had a session, and nobody knew yet that the ways were whole again: what was asked over them is waited for.
    Sessions,
}

/// What a history came to.
#[derive(Clone, Copy, Debug, Default)]
#[allow(dead_code)] // all of it is printed
pub struct Outcome {
    pub digest: u32,
    pub fires: u64,
    pub starts: u64,
    pub packets: u64,
    pub simulated_ms: u64,
    /// From the end of the faults to a leader.
    pub leader_ms: u64,
    /// From there until the store has caught up.
    pub recorded_ms: u64,
    /// From there until a job that was made then is in the ledger.
    pub taken_ms: u64,
    /// From there on the longest silence of that job, which fires every second.
    pub silence_ms: u64,
    pub aftermath: Aftermath,
}

impl Sim {
    /// A worker has obeyed a leader of this term.
    pub fn obeyed(&mut self, index: usize, term: u64) {
        let highest = self.terms.entry(index).or_insert(0);
        assert!(*highest <= term, "worker {index} obeys a leader of term {term}, and has heard one of {highest}");
        *highest = term;
    }

    /// A session opens beside no other process of its name whose lease is not out by its own clock (PROTOCOL C1).
    pub fn check_rivals(&mut self) {
        for (name, data_dir) in std::mem::take(&mut self.witness.opened) {
            for rival in self.workers.iter().filter(|it| it.name == name && it.data_dir != data_dir && it.agent.is_some()) {
                let is_out = rival.guardian.lease_end_ms() < rival.boot_us(self.now_ms) / 1_000;
                assert!(is_out || rival.has_left(), "worker {name} has a session, and another one of its name has not lost its own");
            }
        }
    }

    /// The store has what a worker lets go of.
    pub fn forgot(&self, ended: &Ended) {
        if ended.spooled_bytes == 0 {
            return;
        }
        let store = self.store.lock().unwrap();
        let is_there = store.rows.contains_key(&ended.run);
        assert!(is_there, "run {}: its worker has let go of its output, and the store doesn't have it", ended.run);
    }

    /// What the ledger has left is in the store, and nothing else.
    pub fn check_history(&self) {
        let store = self.store.lock().unwrap();
        // What could not be fetched is said to be cut off.
        let plain = |run: &Run| Run { output_truncated: false, ..run.clone() };
        for (id, (index, row)) in &self.witness.history.rows {
            match store.rows.get(id) {
                None => panic!("run {id} is not in the store: {row:?}"),
                Some((_, stored)) => assert!(plain(stored) == plain(row), "of index {index} is {row:?}, and the store has {stored:?}"),
            }
        }
        for id in store.rows.keys() {
            assert!(self.witness.history.rows.contains_key(id), "the store has run {id}, which nobody has heard of");
        }
        for run in self.users.asked_for.lock().unwrap().keys() {
            assert!(store.rows.contains_key(run), "run {run} was asked for, the answer was yes, and nothing came of it");
        }
        let is_final = |run: &Run| run.state.is_final();
        assert!(store.rows.values().all(|(_, run)| is_final(run)), "the store has a run that has not ended");
        assert!(!store.rows.values().any(|(_, run)| run.state == RunState::Unreachable));
    }
}
