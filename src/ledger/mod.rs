//! The ledger: the state that Raft replicates, and the commands that change it. Pure.
//!
//! It is the authority on *that* a launch was decided, on which worker, and how it ended (DESIGN section 4). `Ledger::apply` is total
//! and depends on nothing but the state and the command, so that equal logs make equal ledgers; where a command needs to know the
//! time, its proposer wrote it in. A command whose premises no longer hold changes nothing and answers so.
//!
//! Invariants, checked by `Ledger::check` in tests:
//! - one fate for each (job, instant): it is in `decided` or `skipped` for as long as anybody could decide it again (PROTOCOL B4);
//! - a job with another `overlap` than `allow` has at most one open run (PROTOCOL B7), pending retries and unreachable ones included;
//! - an open run is assigned to one session under one epoch, or to none;
//! - what has closed stays in `unrecorded` until the store has it.
//!
//! Left out: whose turn it is to act on the state (`engine`), and what a process is doing right now (the worker knows).

mod apply;
mod command;
mod decide;
mod ends;
mod entry;
mod jobs;
mod packed;
mod sessions;
mod snapshot;
mod state;

pub use command::{Closing, Command, Decide, Effect, Fate, Fire, Reply, Skip, Then, WaitingFate};
pub use entry::{EntryError, decode_entry, encode_entry};
pub use snapshot::SnapshotError;
pub use state::{Assignment, Heir, Ledger, OpenRun, Owed, Session, Waiting, WaitingKind};
