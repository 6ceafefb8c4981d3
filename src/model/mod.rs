//! The words that every part shares: job, run, worker, output, identifiers and instants. Pure: no clock, no IO, no randomness.

pub mod ids;
pub mod job;
pub mod limits;
pub mod output;
pub mod run;
pub mod time;
pub mod worker;

pub use ids::{ClusterId, Epoch, JobId, NodeId, Revision, RunId, SessionId, WorkerId};
pub use job::{CatchUp, Job, JobSpec, Kind, OnWorkerLost, Overlap, Retry};
pub use output::{OutputPart, Stream};
pub use run::{Outcome, Reason, Run, RunState, Trigger};
pub use time::UnixMs;
pub use worker::{WorkerInfo, WorkerState};
