//! Chrono-Flow: cron for many machines that keeps its word when machines die.
//!
//! The map. Imports go downwards only; `tests/tidy.rs` enforces it.
//!
//! ```text
//! main → cli · config · standalone · controller · worker · health         wiring of a role
//!      → client                                       the client commands: only the API's words, and schedules
//!      → http · engine::driver · agent · peers · consensus · store · rpc
//!      → ledger · engine::{core, timers, policy, placement} · schedule      pure
//!      → model                                                              pure
//! ```
//!
//! Only `engine::driver` joins store, consensus and rpc; `peers` carries consensus over rpc.

#[macro_use]
pub mod failpoint;

pub mod agent;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod consensus;
pub mod controller;
pub mod engine;
pub mod health;
pub mod http;
pub mod ledger;
pub mod model;
pub mod mutation;
pub mod peers;
pub mod role;
pub mod rpc;
pub mod schedule;
pub mod shutdown;
pub mod standalone;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod worker;
