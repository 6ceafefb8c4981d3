//! The engine's driver: one loop that joins ledger, core, workers and store. Each arm of its select calls one synchronous handler.
//!
//! Everything that changes the ledger goes through this loop, as commands in one proposal at a time: whoever wants something
//! (HTTP, the feed, the recorder, a worker's report) hands in commands and waits for their replies; the core adds what is due. So a
//! decision never meets a change of jobs that it doesn't know (PROTOCOL B2), and nothing is planned twice.
//!
//! Only a licensed leader proposes (PROTOCOL B1), and orders go out only for what is committed and applied in its own term.

mod delivery;
mod feed;
mod forward;
mod handle;
mod link;
mod machine;
mod members;
mod outputs;
mod peers;
mod queue;
mod recorder;
mod run_loop;
mod service;
mod soft;
mod turns;

pub use delivery::{Answer, Batch, Call, Delivery, LinkEvent};
pub use handle::EngineHandle;
pub use machine::{Machine, Shared, Update};
pub use outputs::Spools;
pub use peers::{NobodyElse, Peers};
pub use queue::Request;
pub use run_loop::{EngineConfig, Parts, Surroundings, assemble, reading, start};
pub use turns::{Todo, Turns};
