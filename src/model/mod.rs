//! The words that every part shares: job, run, worker, identifiers and instants. Pure: no clock, no IO, no randomness.

pub mod ids;
pub mod time;

pub use ids::{ClusterId, Epoch, JobId, NodeId, Revision, RunId, SessionId, WorkerId};
pub use time::UnixMs;
