//! Entries of the log: whatever reads as one is applied, and applying is total.

use std::sync::LazyLock;

use chrono_flow::ledger::{Ledger, decode_entry, encode_entry};

use super::split;

/// A ledger with jobs, sessions, runs in several states, and rows that wait for the store: the one whose bytes are frozen in the tests.
pub static LIVED_IN: LazyLock<Ledger> = LazyLock::new(|| {
    let hex = include_str!("../../tests/engine/snapshot.hex").trim();
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    Ledger::decode(&bytes).expect("a snapshot of this version")
});

/// One entry on an empty ledger, or on one that has been lived in.
pub fn run(bytes: &[u8]) {
    let (kind, rest) = split(bytes);
    let Ok(commands) = decode_entry(rest) else { return };
    assert_eq!(decode_entry(&encode_entry(&commands)).as_ref(), Ok(&commands), "what was read can be written");
    let before = if kind % 2 == 0 { Ledger::default() } else { LIVED_IN.clone() };
    let index = before.applied() + 1;
    let (mut ledger, mut other) = (before.clone(), before);
    let (mut effects, mut other_effects) = (Vec::new(), Vec::new());
    let replies = ledger.apply(index, commands.clone(), &mut effects);
    assert_eq!(replies.len(), commands.len(), "every command has its reply");
    let same = (other.apply(index, commands, &mut other_effects), other_effects);
    assert!(same == (replies, effects) && other == ledger, "equal logs make equal ledgers");
    read_all(&ledger);
    survives_a_snapshot(&ledger);
}

/// What the engine and the API read of a ledger.
pub fn read_all(ledger: &Ledger) {
    for run in ledger.open_runs() {
        assert!(ledger.run(run.id).is_some() && ledger.open_runs_of(run.job.id).any(|other| other.id == run.id));
        let _ = (ledger.is_unreachable(run), ledger.job(run.job.id), ledger.is_blocked(&run.job));
        let _ = ledger.first_decided_between(run.job.id, run.start_at, run.scheduled_at);
        let _ = ledger.is_decided(run.job.id, run.scheduled_at);
    }
    for waiting in ledger.waiting() {
        let _ = (ledger.run(waiting.id), ledger.waiting_of(waiting.job.id).count());
    }
    for (_, run) in ledger.unrecorded() {
        let _ = ledger.closed_at(run.id);
    }
    let _ = (ledger.jobs().count(), ledger.owed().count(), ledger.sessions().count(), ledger.ended_sessions().count());
}

/// A snapshot of a ledger reads back, as one whose own snapshot is the same.
pub fn survives_a_snapshot(ledger: &Ledger) {
    let bytes = ledger.encode();
    let again = Ledger::decode(&bytes).expect("what was written can be read");
    assert!(again.encode() == bytes, "a snapshot of what was read is the one that was read");
}
