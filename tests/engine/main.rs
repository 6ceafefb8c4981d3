//! Ledger and engine with virtual time: transcripts (scripts/*, `UPDATE_GOLDENFILES=1` writes them anew: read the difference) and
//! random histories that are compared with the schedules.

#[path = "../support/random.rs"]
mod support;

mod driver;
mod formats;
mod random;
mod ranges;
mod script;
mod sessions;
mod workers;
mod world;
